"""One HTML page about latency: what was measured on which device, against what, how far from the limit.

    write(results.read([Path("runs/results")]), Path("latency.html"))

Everything on it is made of result JSONs. It is one file without scripts that loads nothing, readable on a phone, like
the pages on captions and on finetuning, whose look it has. Figures of hosts and browsers are labelled as what they are;
what others published stands in a column of its own.
"""

import statistics
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import mobileclip
from benchmarks import report_plots as plots
from benchmarks.protocol import added_memory
from benchmarks.published import MODEL_BENCH, PUBLISHED, published
from benchmarks.results import delegates_of
from mobileclip.captions.report.html import Markup, Part, el, page, section, size, table
from mobileclip.data.arrays import placing
from mobileclip.errors import MobileClipError

Result = Mapping[str, Any]
_DEVICES = {"host": "computer", "android": "Android phone", "iphone": "iPhone", "browser": "browser"}
FLOATS = 1e-7
"""Least distance of a cosine from 1 that is drawn; floats are nearer."""
_WORKS = 24
"""Rows of operators and blocks that are shown of an artifact."""


def write(found: Sequence[Result], out: Path) -> Path:
    """Write the page about results to `out`.

    Raises:
        MobileClipError: no result of a latency.
    """
    if not found:
        raise MobileClipError("there is no latency among these results: measure with `mobileclip bench` first.")
    content = page("Latency", _body(found), plots.STYLE).encode("utf-8", "replace")
    with placing(out) as file:
        file.write(content)
    return out


def _body(found: Sequence[Result]) -> list[Part]:
    every = {
        "notes": section("Notes", _notices(found), id_="notes"),
        "comparisons": section("Compared in one run", *_comparisons(found), id_="comparisons"),
        "latency": section("Latency", *_latencies(found), id_="latency"),
        "trade-offs": section("Size, latency, accuracy", *_pareto(found), id_="trade-offs"),
        "limits": section("How far from the limit", *_limits(found), id_="limits"),
        "operators": section("Where the time goes", *_operators(found), id_="operators"),
        "delegates": section("Delegates and loose operators", *_delegates(found), id_="delegates"),
        "heat": section("Heat", *_heat(found), id_="heat"),
        "published": section("Published by others", *_published(), id_="published"),
        "runs": section("Runs", *_runs(found), id_="runs"),
    }
    links = [el("a", name, href=f"#{name}") for name, part in every.items() if part]
    when = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    sides = sum(len(result["sides"]) for result in found)
    return [
        el("h1", "Latency"),
        el("p", f"{sides:,} artifacts timed in {len(found):,} runs; made {when}.", class_="soft"),
        el("nav", links, aria_label="Sections"),
        el("main", _tiles(found), list(every.values())),
        el("footer", f"mobileclip {mobileclip.__version__}. Every figure is in a result JSON."),
    ]


def _tiles(found: Sequence[Result]) -> Markup:
    devices = {result["device"]["name"]: result["device"]["kind"] for result in found}
    timed = [(side, result) for result, side in _sides(found) if side["ms"]]
    tiles: list[tuple[str, str, str]] = [("devices", f"{len(devices)}", ", ".join(sorted(set(devices.values()))))]
    if timed:
        side, result = min(timed, key=lambda pair: pair[0]["ms"]["p50"])
        tiles.append(("fastest p50", ms(side["ms"]["p50"]), f"{side['name']}, {result['device']['name']}"))
    ratios = [(ratio, result) for result in found for ratio in result["ratios"]]
    if ratios:
        ratio, result = max(ratios, key=lambda pair: float(pair[0]["value"]))
        told = f"{result['sides'][ratio['a']]['name']} against {result['sides'][ratio['b']]['name']}"
        tiles.append(("largest ratio", f"{ratio['value']:.2f}×", f"{told} ({ratio['low']:.2f}–{ratio['high']:.2f})"))
    wrong = sum(result["state"] != "complete" for result in found)
    tiles.append(("not complete", f"{wrong}", "wrong answers and cut runs" if wrong else "every run came to its end"))
    parts = [el("div", el("dt", name), el("dd", value, el("span", sub, class_="sub"))) for name, value, sub in tiles]
    return el("dl", parts, class_="tiles")


def _notices(found: Sequence[Result]) -> Markup:
    said: list[tuple[str, str, str]] = []
    for result in found:
        if result["state"] != "complete":
            names = " and ".join(side["name"] for side in result["sides"])
            word = "wrong" if result["state"] == "wrong" else "cut short"
            said.append(("warning", word, f"{names} on {result['device']['name']}: {result['problem']}"))
    kinds = {result["device"]["kind"] for result in found}
    if kinds & {"host", "browser"}:
        which = " and ".join(sorted(_DEVICES[kind] for kind in kinds & {"host", "browser"}))
        said.append(("note", "no phone", f"Figures of a {which} say how files compare there. They predict no phone."))
    short = sum(not result["protocol"].get("whole", True) for result in found)
    if short:
        told = f"{short} of {len(found)} runs asked for fewer than 200 runs and 10 s of each side."
        said.append(("note", "short", told))
    items = [el("li", el("b", word), text, class_=kind) for kind, word, text in said]
    return el("ul", items, class_="notices") if items else Markup("")


def _comparisons(found: Sequence[Result]) -> list[Part]:
    compared = [result for result in found if result["ratios"]]
    if not compared:
        return []
    top = max(float(ratio["high"]) for result in compared for ratio in result["ratios"])
    parts: list[Part] = [
        el(
            "p",
            "Both were loaded in one process and timed in turns A B B A, so that drift hits both alike. The ratio is "
            "that of the medians; its interval is bootstrapped.",
            class_="soft",
        )
    ]
    for where in dict.fromkeys(_where(result) for result in compared):
        rows = [
            _compared(ratio, result, top)
            for result in compared
            if _where(result) == where
            for ratio in result["ratios"]
        ]
        parts.append(table(_COMPARED, rows, "tnnntnpn", where))
    return parts


_COMPARED = ("artifact", "times as fast", "95 %", "p50, ms", "as", "its p50, ms", "", "delegates of both")


def _compared(ratio: Mapping[str, Any], result: Result, top: float) -> list[Part]:
    a, b = result["sides"][ratio["a"]], result["sides"][ratio["b"]]
    between = f"{ratio['low']:.2f}–{ratio['high']:.2f}"
    return [
        a["name"],
        el("b", f"{ratio['value']:.2f}×"),
        between,
        ms(a["ms"]["p50"]),
        b["name"],
        ms(b["ms"]["p50"]),
        plots.interval(ratio, top, f"{ratio['value']:.2f} times as fast ({between})"),
        f"{delegates_of(a)} / {delegates_of(b)}",
    ]


def _latencies(found: Sequence[Result]) -> list[Part]:
    parts: list[Part] = []
    for device in dict.fromkeys(result["device"]["name"] for result in found):
        there = [result for result in found if result["device"]["name"] == device]
        sides = _best(there)
        about = there[0]["device"]
        facts = [about["model"], about["soc"], about["os"], about["cores"] and f"{about['cores']} cores"]
        parts += [
            el("h3", f"{device} ({_DEVICES[about['kind']]})"),
            el("p", ", ".join(str(fact) for fact in facts if fact), class_="soft small"),
            plots.strips([(side["name"], side["ms"]) for side, _ in sides if side["ms"]]),
            table(_HEAD, [_latency(side, result) for side, result in sides], "tnnnnnnnnnnnnnttt", "ms"),
        ]
    return parts


_HEAD = (
    "artifact",
    "p50",
    "p90",
    "p99",
    "least",
    "load",
    "first",
    "end to end",
    "sustained",
    "ModelBench",
    "published",
    "MB",
    "memory MB",
    "threads",
    "delegates",
    "run by",
    "known answer",
)


def _latency(side: Mapping[str, Any], result: Result) -> list[Part]:
    told = published(side.get("model", ""), side.get("view", ""))
    whole, sustained = side["end_to_end"]["ms"], side.get("sustained_ms") or []
    bench, peak, runtime = side.get("model_bench") or {}, added_memory(side), side["runtime"]
    threads = runtime.get("threads") or result["protocol"]["threads"]
    return [
        side["name"],
        *(ms(side["ms"].get(key)) for key in ("p50", "p90", "p99", "min")),
        ms(side["load_ms"]),
        ms(side["first_ms"]),
        ms(statistics.median(whole)) if whole else "–",
        ms(statistics.median(sustained)) if sustained else "–",
        ms(bench.get("mean_ms")) + ("" if bench.get("reloaded") or bench.get("mean_ms") is None else "*"),
        "–" if told is None else f"{told.ms:g}",
        f"{side['bytes'] / 1e6:.1f}",
        f"{peak / 1e6:.0f}" if peak else "–",
        str(threads) if threads else "–",
        delegates_of(side),
        " ".join(str(part) for part in (runtime["name"], runtime["version"], runtime["provider"]) if part),
        _answer(side["known_answer"]),
    ]


def _answer(known: Mapping[str, Any]) -> Part:
    if known["right"] is None:
        return "none to hold it against"
    figure = f"{known['db']:.0f} dB" if "db" in known else ""
    return el("span", "right" if known["right"] else "WRONG", f" {figure}", class_=None if known["right"] else "bad")


def _pareto(found: Sequence[Result]) -> list[Part]:
    parts: list[Part] = []
    for device in dict.fromkeys(result["device"]["name"] for result in found):
        sides = [side for side, _ in _best([r for r in found if r["device"]["name"] == device]) if side["ms"]]
        sized = [(side["name"], side["ms"]["p50"], side["bytes"] / 1e6) for side in sides]
        near = [(side["name"], side["ms"]["p50"], value) for side in sides if (value := _nearness(side)) is not None]
        if max((value for _, _, value in near), default=0.0) <= FLOATS:
            near = []  # nothing but floats: all stand on one line
        drawn = [
            plots.scatter(sized, "p50, ms", "MB", f"size against latency, {device}"),
            plots.scatter(near, "p50, ms", "1 − cosine", f"distance from floats against latency, {device}"),
        ]
        shown = [one for one in drawn if one]
        if shown:
            parts.append(el("div", shown, class_="charts"))
    return parts


def _nearness(side: Mapping[str, Any]) -> float | None:
    told = side.get("accuracy") or {}
    value = told.get("cosine_mean", told.get("cosine"))
    return None if value is None else max(1 - float(value), FLOATS)


def _limits(found: Sequence[Result]) -> list[Part]:
    rows: list[Sequence[Part]] = []
    blocks: list[Part] = []
    for result, side in _sides(found):
        limits, roof = side.get("limits"), result.get("roofline")
        if not limits or not roof or not side["ms"]:
            continue
        p50 = side["ms"]["p50"]
        rows.append(
            [
                f"{side['name']}, {roof['threads']} threads",
                f"{limits['macs'] / 1e9:.2f}",
                f"{limits['bytes'] / 1e6:.0f}",
                f"{limits['macs'] / limits['bytes']:.1f}",
                f"{roof['gemm_gmacs_s']:.0f}",
                f"{roof['copy_gbytes_s']:.1f}",
                ms(limits["roofline_ms"]),
                ms(limits["gemm_ms"]),
                ms(p50),
                f"{p50 / limits['roofline_ms']:.2f}",
                f"{p50 / limits['gemm_ms']:.2f}",
            ]
        )
        blocks.append(_block_table(side))
    head = (
        "artifact",
        "GMAC",
        "MB moved",
        "MAC a byte",
        "GMAC/s",
        "GB/s",
        "roofline",
        "products",
        "p50",
        "× roof",
        "× products",
    )
    intro = el(
        "p",
        "Roofline: each block takes at least as long as its multiply-accumulates at the speed of a large matrix "
        "product, or its bytes at the speed of a copy, whichever is longer; both ceilings were measured in the same "
        "run. Products: the network's own matrix products alone, one by one. Integers may beat a ceiling of floats.",
        class_="soft",
    )
    return [intro, table(head, rows, "tnnnnnnnnnn", "on this host"), *blocks] if rows else []


def _block_table(side: Mapping[str, Any]) -> Markup:
    measured: dict[str, float] = {}
    for item in side.get("operators", ()):
        if item["block"] is not None:
            measured[item["block"]] = measured.get(item["block"], 0.0) + item["ms"]
    rows = [
        [
            item["block"],
            f"{item['macs'] / 1e6:,.1f}",
            f"{item['bytes'] / 1e6:,.2f}",
            f"{item['macs_per_byte']:.1f}",
            item["bound"],
            ms(item["limit_ms"]),
            ms(measured.get(item["block"])),
        ]
        for item in side["blocks"]
    ]
    head = ("block", "MMAC", "MB", "MAC a byte", "bound by", "limit", "measured")
    return el("details", el("summary", f"{side['name']}, by block"), table(head, rows, "tnnntnn"))


def _operators(found: Sequence[Result]) -> list[Part]:
    parts: list[Part] = []
    for result, side in _sides(found):
        rows = side.get("operators")
        if not rows:
            continue
        total = sum(row["ms"] for row in rows)
        kinds: dict[str, tuple[int, float]] = {}
        stages: dict[str, float] = {}
        for row in rows:
            count, before = kinds.get(row["operator"], (0, 0.0))
            kinds[row["operator"]] = (count + row["count"], before + row["ms"])
            stage = "not told" if row["block"] is None else ".".join(row["block"].split(".")[:2])
            stages[stage] = stages.get(stage, 0.0) + row["ms"]
        ranked = sorted(kinds.items(), key=lambda item: -item[1][1])[:_WORKS]
        table_rows: list[Sequence[Part]] = [
            [name, plots.bar(time / total, f"{name}: {time:.2f} ms"), ms(time), f"{100 * time / total:.1f}", str(count)]
            for name, (count, time) in ranked
        ]
        staged: list[Sequence[Part]] = [
            [name, plots.bar(time / total, f"{name}: {time:.2f} ms"), ms(time), f"{100 * time / total:.1f}"]
            for name, time in stages.items()
        ]
        where = f"{side['name']} on {_where(result)}"
        parts += [
            el("h3", where),
            el("p", f"Sum {ms(total)} ms of a profiled run; plain p50 {ms(side['ms'].get('p50'))} ms.", class_="soft"),
            table(("operator", "", "ms", "%", "times"), table_rows, "tpnnn", "by operator"),
            table(("block", "", "ms", "%"), staged, "tpnn", "by block of the network"),
        ]
    return parts


def _delegates(found: Sequence[Result]) -> list[Part]:
    rows: list[Sequence[Part]] = []
    seen: set[str] = set()
    for _, side in _sides(found):
        if side.get("delegates") is None or side["sha256"] in seen:
            continue
        seen.add(side["sha256"])
        loose = [
            f"{item['count']} × {item['operator']} ({item['reason']})" for item in side["loose"] if item["compute"]
        ]
        rows.append([side["name"], str(side["delegates"]), "; ".join(loose) or "none"])
    return [table(("artifact", "delegates", "loose operators that compute, and why"), rows, "tnt")] if rows else []


def _heat(found: Sequence[Result]) -> list[Part]:
    rows: list[Sequence[Part]] = []
    for result in found:
        readings = result["thermal"]
        if not readings:
            continue
        shown: list[Part] = [" / ".join(side["name"] for side in result["sides"]), _where(result)]
        for when in ("before", "during", "after"):
            shown.append(_reading([item for item in readings if item["when"] == when]))
        rows.append([*shown, "yes" if any(item["when"] == "cooling" for item in readings) else "no"])
    return [table(("run", "device", "before", "during", "after", "waited to cool"), rows, "tttttt")] if rows else []


def _reading(readings: Sequence[Mapping[str, Any]]) -> str:
    if not readings:
        return "–"
    words = [item["status"] for item in readings if item["status"]]
    told = [words[-1]] if words else []
    for key, unit in (("celsius", "°C"), ("headroom", "of throttling"), ("mhz", "MHz")):
        values = [item[key] for item in readings if item.get(key) is not None]
        if values:
            told.append(f"{max(values):,.{2 if key == 'headroom' else 0}f} {unit}")
    return ", ".join(told) or "–"


def _published() -> list[Part]:
    rows = [[model, view, f"{item.ms:g}", item.device, item.source] for (model, view), item in PUBLISHED.items()]
    told = (
        f"Not measured here. {MODEL_BENCH}; the mean of what is left after the lowest and highest fifths of each round."
    )
    return [
        el("p", told, " ModelBench marked * above: that statistic of our own steady runs, without its reloads."),
        table(("model", "view", "ms", "device", "source"), rows, "ttntt"),
    ]


def _runs(found: Sequence[Result]) -> list[Part]:
    parts: list[Part] = []
    for result in found:
        facts = {
            "state": result["state"] + (f": {result['problem']}" if result["problem"] else ""),
            "date": result["date"],
            "commit": result.get("commit"),
            "device": ", ".join(f"{key} {value}" for key, value in result["device"].items() if value not in (None, {})),
            "protocol": ", ".join(f"{key} {value}" for key, value in result["protocol"].items() if value is not None),
            "tools": ", ".join(f"{key} {value}" for key, value in result.get("tools", {}).items()),
            **{side["name"]: f"{size(side['bytes'])}, sha256 {side['sha256']}" for side in result["sides"]},
        }
        rows = [(el("dt", key), el("dd", str(value))) for key, value in facts.items() if value]
        name = " / ".join(side["name"] for side in result["sides"])
        parts.append(el("details", el("summary", f"{name} on {_where(result)}"), el("dl", rows, class_="facts")))
    return parts


def _sides(found: Sequence[Result]) -> list[tuple[Result, Mapping[str, Any]]]:
    return [(result, side) for result in found for side in result["sides"]]


def _best(found: Sequence[Result]) -> list[tuple[Mapping[str, Any], Result]]:
    """Each artifact once for each number of threads and provider, from the run with most samples; fastest first."""
    kept: dict[Any, tuple[Mapping[str, Any], Result]] = {}
    for result, side in _sides(found):
        key = (side["sha256"], side["runtime"]["provider"], result["protocol"]["threads"])
        if key not in kept or len(side["steady_ms"]) > len(kept[key][0]["steady_ms"]):
            kept[key] = (side, result)
    return sorted(kept.values(), key=lambda pair: pair[0]["ms"].get("p50", float("inf")))


def _where(result: Result) -> str:
    threads = result["protocol"]["threads"]
    return f"{result['device']['name']}" + (f", {threads} thread{'s' * (threads != 1)}" if threads else "")


def ms(value: float | None) -> str:
    """A time: three digits, a dash where nothing is known."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
