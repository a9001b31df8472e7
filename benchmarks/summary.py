"""What was reached and what falls short, in one screen each: rows of the front page and of the page of limits.

python -m benchmarks report --into README.md

Unusual: a row is computed from the kept results and says which command made them; a study without a result has no row,
so that a figure cannot outlive its measurement.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

Found = Sequence[Mapping[str, Any]]
"""Kept results, of studies and of latency."""
Row = tuple[str, str, str]
"""What, the figure, the command that measures it."""


def table(found: Found) -> str:
    """Markdown: what was reached."""
    makers = (
        _journey,
        _segmenters,
        _integers,
        _compressed,
        _step,
        _loop,
        _loader,
        _coca,
        _text,
        _judge,
        _selected,
        _runner,
    )
    return _markdown(("what", "figure", "measured by"), (row for make in makers for row in make(found)))


def limits(found: Found) -> str:
    """Markdown: what was measured to be slow, large or inexact."""
    makers = (_large, _browser, _floors, _slow_text, _ray, _crops, _missed, _rounded, _tight)
    return _markdown(("what", "figure", "measured by"), (row for make in makers for row in make(found)))


def _markdown(columns: Row, rows: Iterable[Row]) -> str:
    lines = [columns, ("---",) * 3, *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _of(found: Found, study: str, **wanted: object) -> Iterator[Mapping[str, Any]]:
    for result in found:
        if result.get("study") == study and all(result.get(key) == value for key, value in wanted.items()):
            yield result


def _times(ratio: Mapping[str, float], digits: int = 1) -> str:
    return f"**{ratio['value']:.{digits}f} ×** ({ratio['low']:.{digits}f}–{ratio['high']:.{digits}f})"


def _spread(values: Sequence[float], form: str) -> str:
    return f"{np.mean(values):{form}} ({min(values):{form}}–{max(values):{form}})"


# Reached


def _journey(found: Found) -> Iterator[Row]:
    for result in _of(found, "journey"):
        recipe, kills = result["settings"]["recipe"], len(result["killed"]["moments"])
        if not result["settings"]["set"]:
            yield (
                f"`mobileclip build {recipe}` from nothing but the install: time, peak memory",
                f"**{result['seconds'] / 60:.1f} min**, {result['peak_bytes'] / 1e9:.1f} GB",
                "`python -m benchmarks journey`",
            )
        if kills:
            short = ", shortened" if result["settings"]["set"] else ""
            yield (
                f"artifacts that are the same after {kills} kills at random moments, `{recipe}`{short}",
                f"**{result['artifacts'] - len(result['differing'])} of {result['artifacts']}**",
                "`python -m benchmarks journey`",
            )


def _segmenters(found: Found) -> Iterator[Row]:
    for result in _of(found, "dense_host"):
        if result["a"]["name"] == "mci2+semfpn@512":
            other = result["b"]["name"].replace("swin_l_384+uper@", "Swin-L + UPerNet at ")
            yield (
                f"MCi2 + Semantic FPN at 512 px against {other} px, whole segmenters on this host",
                f"{_times(result['ratio'])} as fast",
                "`python -m benchmarks dense_host`",
            )


def _integers(found: Found) -> Iterator[Row]:
    for result in _of(found, "quantised", target="executorch-xnnpack", threads=2):
        size = result["integers"]["bytes"] / result["floats"]["bytes"]
        yield (
            f"{result['precision']} on XNNPACK against floats: time, size, cosine of embeddings",
            f"**{result['ratio']['value']:.2f}**, **{size:.3f}**, {result['cosine']['mean']:.4f}",
            "`python -m benchmarks quantised`",
        )


def _compressed(found: Found) -> Iterator[Row]:
    for result in _of(found, "compressed", model="mci2_scenes"):
        whole = next(row["bytes"] for row in result["rows"] if row["form"] == "fp16")
        for row in result["rows"]:
            if row["form"] in ("w8", "w6p"):
                yield (
                    f"{row['form']} on Core ML against fp16: size, cosine of embeddings",
                    f"**{row['bytes'] / whole:.2f}**, {row['cosine']['mean']:.5f}",
                    "`python -m benchmarks compressed`",
                )


def _step(found: Found) -> Iterator[Row]:
    for result in _of(found, "step"):
        yield (
            f"training step on {result['device'].upper()} against open_clip's, same weights and batch",
            f"{_times(result['ratio'], 2)} as fast",
            "`python -m benchmarks step`",
        )


def _loop(found: Found) -> Iterator[Row]:
    for result in _of(found, "loop"):
        yield (
            f"training from tars, {result['settings']['model']} on {result['device'].upper()}, against open_clip's "
            "trainer",
            f"{_times(result['ratio'], 2)} as fast",
            "`python -m benchmarks loop`",
        )


def _loader(found: Found) -> Iterator[Row]:
    for result in _of(found, "loader"):
        ratios = [case["host"]["ratio"]["value"] for case in result["cases"]]
        yield (
            "samples a second and core against open_clip's pipeline, over kinds of shards",
            f"**{min(ratios):.1f}–{max(ratios):.1f} ×**",
            "`python -m benchmarks loader`",
        )


def _coca(found: Found) -> Iterator[Row]:
    for result in _of(found, "captions_coca"):
        case = result["cases"][-1]
        yield (
            f"{result['sampling']['captions']} captions a picture by {case['case']['name']} against open_clip's "
            "`generate`",
            f"{_times(case['ratio'])} as fast",
            "`python -m benchmarks captions_coca`",
        )


def _text(found: Found) -> Iterator[Row]:
    for result in _of(found, "captions_text"):
        rates = _rates(result)
        yield (
            "captions cleaned and scored a second and core, over kinds of texts",
            f"**{min(rates.values()):,.0f}–{max(rates.values()):,.0f}**",
            "`python -m benchmarks captions_text`",
        )


def _rates(result: Mapping[str, Any]) -> dict[str, float]:
    """Captions a second of CPU time by kind of text."""
    return {case["name"]: 1e6 / float(np.median(case["ours"])) for case in result["cases"]}


def _judge(found: Found) -> Iterator[Row]:
    for result in _of(found, "captions_study"):
        told = [row["judge"]["auroc"] for row in result["rows"] if row["arm"] == "all"]
        q, clip = ([auroc[name] for auroc in told] for name in ("q", "clip"))
        yield (
            "AUROC of true against wrong web texts: `q`, and CLIPScore alone",
            f"**{_spread(q, '.3f')}**, {_spread(clip, '.3f')}",
            "`python -m benchmarks captions_study`",
        )


def _selected(found: Found) -> Iterator[Row]:
    for result in _of(found, "captions_study"):
        arms = {
            arm: [row["image to text R@1"] for row in result["rows"] if row["arm"] == arm]
            for arm in ("selected", "all", "random")
        }
        yield (
            "image to text R@1 after as many steps on selected captions, on all, on as many at random",
            f"**{_spread(arms['selected'], '.1%')}**, {_spread(arms['all'], '.1%')}, {_spread(arms['random'], '.1%')}",
            "`python -m benchmarks captions_study`",
        )


def _runner(found: Found) -> Iterator[Row]:
    for result in _of(found, "runner_overhead"):
        yield (
            "what the C++ runner for phones adds to a call",
            f"**{result['call_overhead']:+.2%}**",
            "`python -m benchmarks runner_overhead`",
        )


# Short of it


def _large(found: Found) -> Iterator[Row]:
    for result in _of(found, "quantised", target="onnx", threads=2):
        size = result["integers"]["bytes"] / result["floats"]["bytes"]
        yield (
            f"size of {result['precision']} in onnxruntime: gates, head and large depthwise kernels stay in floats",
            f"{size:.3f} of floats, {result['ratio']['value']:.2f} of the time",
            "`python -m benchmarks quantised`",
        )


def _browser(found: Found) -> Iterator[Row]:
    for result in found:
        device = result.get("device", {})
        if isinstance(device, Mapping) and device.get("kind") == "browser":
            side = result["sides"][0]
            yield (
                f"{side['name']} in WebAssembly, {device['name']}, {result['protocol']['threads']} threads",
                f"{side['ms']['p50']:.0f} ms",
                "`mobileclip bench --device browser`",
            )


def _floors(found: Found) -> Iterator[Row]:
    floors = [
        side["ms"]["p50"] / side["limits"]["gemm_ms"]
        for result in found
        if "study" not in result
        for side in result["sides"]
        if side["precision"] == "fp32" and side.get("limits", {}).get("gemm_ms") and side["view"] == "image"
        if side["name"].startswith("mobileclip_s2 image executorch-xnnpack") and "naive" not in side["name"]
    ]
    if floors:
        yield (
            "MobileCLIP-S2's image encoder on XNNPACK over its matrix products alone: what is left to gain",
            f"{min(floors):.2f}–{max(floors):.2f} ×",
            "`mobileclip bench`",
        )


def _slow_text(found: Found) -> Iterator[Row]:
    for result in _of(found, "captions_text"):
        for name, rate in _rates(result).items():
            if rate < result["target"]:
                yield (
                    f"captions a second and core, {name}, of {result['target']:,} asked for",
                    f"{rate:,.0f}",
                    "`python -m benchmarks captions_text`",
                )


def _ray(found: Found) -> Iterator[Row]:
    for result in _of(found, "captions_engine", part="overhead"):
        runs = result["runs"]
        for name, told in (("waves_s", "without its start"), ("wall_s", "with its start")):
            more = min(run[name] for run in runs["ray"]) / min(run[name] for run in runs["local"]) - 1
            mix = {"wait": "stages that wait", "work": "stages that compute"}[result["settings"]["mix"]]
            yield (
                f"Ray on one machine against processes, {mix}, {told}",
                f"{more:+.1%}",
                "`python -m benchmarks captions_engine`",
            )


def _crops(found: Found) -> Iterator[Row]:
    for result in _of(found, "captions_images"):
        copies = result["copies"]
        for name in ("1 % cut off", "3 % cut off"):
            yield (
                f"copies of a picture that the hash finds after {name}, "
                f"{copies['radii'][0]} and {copies['radii'][-1]} bits apart",
                f"{copies['found'][name][0]:.0%}, {copies['found'][name][-1]:.0%}",
                "`python -m benchmarks captions_images`",
            )


def _missed(found: Found) -> Iterator[Row]:
    for result in _of(found, "quantised_dense"):
        for row in result["rows"]:
            if not row["passed"]:
                yield (
                    f"{row['task']} in {result['precision']} on {row['target']} missed its gate: mean IoU with the "
                    "labels of floats, share of equal pixels",
                    f"{row['numbers']['labels']:.3f}, {row['numbers']['labels_equal']:.2%}",
                    "`python -m benchmarks quantised_dense`",
                )


def _rounded(found: Found) -> Iterator[Row]:
    for result in _of(found, "int8_ablation"):
        rows = {row["step"]: row["mean"] for row in result["rows"] if row["form"] == "rewritten"}
        if "+ bias correction" in rows and "+ equalised channels" in rows:
            yield (
                "cosine of w8a8 without and with equalised channels, which are therefore off",
                f"{rows['+ bias correction']:.4f}, {rows['+ equalised channels']:.4f}",
                "`python -m benchmarks int8_ablation`",
            )


def _tight(found: Found) -> Iterator[Row]:
    for result in _of(found, "calibration_count"):
        means: dict[int, list[float]] = {}
        for row in result["rows"]:
            means.setdefault(row["pictures"], []).append(row["mean"])
        if 1 in means and 8 in means:
            yield (
                "cosine of w8a8 calibrated on one picture and on eight, worst draw",
                f"{min(means[1]):.4f}, {min(means[8]):.4f}",
                "`python -m benchmarks calibration_count`",
            )
