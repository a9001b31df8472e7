"""What a step's answer comes to, in one line: for the terminal, the log and the page.

    told(step, json.loads(stdout))               # "mIoU 0.109 on unseen pictures"

Imports nothing heavy.
"""

from collections.abc import Callable, Mapping
from typing import Any

from mobileclip.journey.steps import Step

Answer = Mapping[str, Any]


def told(step: Step, answer: Any) -> str:
    """One line about what came out; "done" where an answer has not the form that is known here."""
    if step.args[0] == "report":
        return step.arguments[step.arguments.index("--html") + 1]
    say = _VERBS.get(step.args[0])
    if say is None:
        return "done"
    try:
        return say(answer) or "done"
    except (KeyError, IndexError, TypeError, ValueError, AttributeError):
        return "done"


def _pack(answer: Answer) -> str:
    if "shards" in answer:
        return f"{answer['samples']:,} samples in {answer['shards']:,} shards"
    return f"{answer['count']:,} scenes of {answer['size']} px, and {answer['val_count']:,} that nothing is trained on"


def _captions(answer: Answer) -> str:
    if "page" in answer:
        return str(answer["page"])
    last = answer["stages"][-1]
    counts = ", ".join(f"{count:,} {name}" for name, count in last["counts"].items())
    return f"{last['rows']:,} rows through {len(answer['stages'])} stages: {counts}"


def _train(answer: Answer) -> str:
    seen = answer["step"] * answer["recipe"]["batch"]
    return f"{answer['recipe']['model']}: {answer['step']:,} steps, {seen:,} samples seen"


def _evaluate(answer: Answer) -> str:
    first = [figures(row) for row in answer["results"] if row["encoder"] == answer["results"][0]["encoder"]]
    others = [
        f"{row['encoder']} {row['top1']:.1%}" for row in answer["results"][len(first) :] if row["task"] == "zero-shot"
    ]
    return "; ".join([*first, *others])


def figures(row: Answer) -> str:
    """A row of `mobileclip evaluate --json` in words."""
    if row["task"] == "zero-shot":
        low, high = row["top1_interval"]
        return f"top-1 {row['top1']:.1%} ({low:.1%}–{high:.1%}; chance {row['chance']:.1%})"
    ways = [f"{row[way]['R@1']:.1%} {way.replace('_', ' ')}" for way in ("image_to_text", "text_to_image")]
    return f"R@1 {', '.join(ways)}"


def _finetune(answer: Answer) -> str:
    metric = answer["metric"]
    value = answer.get(metric)
    unit = " m" if metric == "rmse" else ""
    return f"{metric} {value:.3f}{unit} on pictures that nothing was trained on" if value is not None else metric


def _export(answer: Answer) -> str:
    files = answer["artifacts"]
    return f"{len(files)} artifacts, {sum(entry['bytes'] for entry in files) / 1e6:.1f} MB"


def _verify(answer: Answer) -> str:
    judged = [row for row in answer["artifacts"] if row["passed"] is not None]
    least = min(row["cosine"] for row in judged)
    return f"{sum(row['passed'] for row in judged)} of {len(judged)} outputs right, least cosine {least:.6f}"


def _bench(answer: Any) -> str:
    first = answer[0]
    ratios = [f"{ratio['value']:.2f}× as fast as {first['sides'][1]['name']}" for ratio in first["ratios"][:1]]
    time = f"{first['sides'][0]['name']} {first['sides'][0]['ms']['p50']:.2f} ms"
    others = [f"{len(answer) - 1} more artifacts"] if len(answer) > 1 else []
    return ", ".join([time, *ratios, *others])


def _apps(answer: Answer) -> str:
    return f"{', '.join(answer['artifacts'])}; {answer['bytes'] / 1e6:.1f} MB"


_VERBS: Mapping[str, Callable[[Any], str]] = {
    "pack": _pack,
    "captions": _captions,
    "train": _train,
    "evaluate": _evaluate,
    "finetune": _finetune,
    "export": _export,
    "verify": _verify,
    "bench": _bench,
    "apps": _apps,
}
