"""Artifacts in 8 bits against those in floats, of one model on one runtime: size, nearness, latency.

    python -m benchmarks quantised --calibration photos/calibration --heldout photos/heldout
    python -m benchmarks quantised --checkpoint runs/mine/best --calibration A --heldout B --targets onnx --threads 1

Both are exported by our rules, loaded into one process and timed A B B A; the ratio of medians has a bootstrap
interval. Nearness is the cosine of embeddings on pictures that set no ranges. Figures of a host do not predict a phone.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

import mobileclip
from benchmarks import results
from benchmarks.sides import CACHE, RUNNABLE
from benchmarks.timing import interleave, ratio_of_medians
from export import export
from export.manifest import Bundle
from export.parity import compare
from export.runtimes import open_artifact, tool_versions
from export.views import make_views
from mobileclip.images import load_images, read_image
from mobileclip.preprocessing import preprocess


def main(argv: Sequence[str] | None = None) -> int:
    """Export what is missing, measure, print a table, write one result for each runtime and number of threads."""
    parser = argparse.ArgumentParser(prog="benchmarks quantised", description=__doc__.partition("\n")[0])
    parser.add_argument("--checkpoint", default="seeded:mci2", help="model: weights of a seed say nothing of nearness")
    parser.add_argument("--calibration", type=Path, required=True, help="folder of pictures that set the ranges")
    parser.add_argument("--heldout", type=Path, required=True, help="folder of other pictures")
    parser.add_argument("--limit", type=int, default=64, help="pictures of --heldout, at most")
    parser.add_argument("--precision", default="w8a8")
    parser.add_argument("--targets", nargs="+", default=list(RUNNABLE), choices=RUNNABLE)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--runs", type=int, default=20, help="timed runs of each side")
    parser.add_argument("--cache", type=Path, default=CACHE / "quantised", help="folder of the bundles")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "quantise", help="folder")
    args = parser.parse_args(argv)
    found = []
    for target in args.targets:
        bundles = [_bundle(args, target, precision) for precision in (None, args.precision)]
        near = _nearness(args, target, bundles[1])
        for threads in args.threads:
            result = results.stamp() | {
                "study": "quantised",
                "model": Path(args.checkpoint).name,
                "target": target,
                "precision": args.precision,
                "threads": threads,
                "tools": dict(tool_versions()),
                "cosine": near,
                **_measured(bundles, target, threads, args.runs),
            }
            name = Path(args.checkpoint.replace(":", "-")).name
            results.write(args.out, f"{name}-{target}-{args.precision}-{threads}-threads", result)
            found.append(result)
    print(table(found))
    return 0


def _bundle(args: argparse.Namespace, target: str, precision: str | None) -> Bundle:
    name = args.checkpoint.replace(":", "-").replace("/", "_")
    out: Path = args.cache / f"{name}-{target}-{precision or 'floats'}"
    if not out.exists():
        args.cache.mkdir(parents=True, exist_ok=True)
        pictures = args.calibration if precision else None
        export(args.checkpoint, [target], out, views=["image"], precision=precision, calibration=pictures, accept=True)
    return Bundle.open(out)


def _nearness(args: argparse.Namespace, target: str, bundle: Bundle) -> dict[str, float]:
    """Cosines of the artifact's embeddings with the model's in floats, on held-out pictures."""
    model = mobileclip.load(args.checkpoint)
    view, fit = make_views(model)["image"], preprocess(model)
    (entry,) = bundle.manifest["artifacts"]
    session = open_artifact(bundle.file(entry["file"]), target)
    cosines = []
    for path in load_images(args.heldout)[: args.limit]:
        x = fit(read_image(path)).unsqueeze(0)
        cosines.append(compare(session.run([x.numpy()])[0], view.answer(x)[0]).cosine)
    return {
        "mean": float(np.mean(cosines)),
        "p1": float(np.percentile(cosines, 1)),
        "min": min(cosines),
        "pictures": len(cosines),
    }


def _measured(bundles: Sequence[Bundle], target: str, threads: int, runs: int) -> dict[str, Any]:
    entries = [bundle.manifest["artifacts"][0] for bundle in bundles]
    files = [bundle.file(entry["file"]) for bundle, entry in zip(bundles, entries, strict=True)]
    floats, integers = (open_artifact(file, target, threads) for file in files)
    feed = make_views(mobileclip.load(bundles[0].manifest["model"]["checkpoint"]["source"]))["image"].example.numpy()
    times = interleave(lambda: floats.run([feed]), lambda: integers.run([feed]), runs=runs)
    sides = [
        {
            "bytes": entry["bytes"],
            "delegates": entry["delegates"],
            "p50_ms": float(np.median(side)),
            "p90_ms": float(np.percentile(side, 90)),
            "min_ms": min(side),
            "steady_ms": side,
        }
        for entry, side in zip(entries, times, strict=True)
    ]
    ratio = ratio_of_medians(tuple(times[0]), tuple(times[1]))
    return {"floats": sides[0], "integers": sides[1], "ratio": asdict(ratio)}


_COLUMNS = (
    "model",
    "runtime",
    "precision",
    "cosine mean / p1 / min",
    "MB",
    "of floats",
    "delegates",
    "threads",
    "p50 ms",
    "floats p50 ms",
    "ratio",
    "95 % interval",
)


def table(found: Sequence[Mapping[str, Any]]) -> str:
    """One row a runtime and number of threads; a ratio below one is faster than floats."""
    return "\n".join(["| " + " | ".join(_COLUMNS) + " |", "|" + "---|" * len(_COLUMNS), *map(_row, found)])


def _row(result: Mapping[str, Any]) -> str:
    floats, integers, cosine, ratio = (result[key] for key in ("floats", "integers", "cosine", "ratio"))
    cells = (
        Path(result["model"]).name,
        result["target"],
        result["precision"],
        f"{cosine['mean']:.4f} / {cosine['p1']:.4f} / {cosine['min']:.4f}",
        f"{integers['bytes'] / 1e6:.2f}",
        f"{integers['bytes'] / floats['bytes']:.3f}",
        "–" if integers["delegates"] is None else str(integers["delegates"]),
        str(result["threads"]),
        f"{integers['p50_ms']:.1f}",
        f"{floats['p50_ms']:.1f}",
        f"**{ratio['value']:.2f}**",
        f"{ratio['low']:.2f}–{ratio['high']:.2f}",
    )
    return "| " + " | ".join(cells) + " |"
