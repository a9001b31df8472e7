"""The page of `python -m benchmarks study`: tables, statements that follow from intervals, and drawings.

Every figure is computed from the rows of a result; nothing here knows what came out.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks.results import markdown
from benchmarks.study_figures import Comparison, Mean, Saving, compared, mean_of, saving, told
from benchmarks.study_plots import curves, dots
from mobileclip.dense.config import TASKS

FIGURES: Mapping[str, str] = {"segmentation": "mIoU", "detection": "box AP", "depth": "RMSE, m"}
"""Task -> its figure and unit, as the page says it."""
LOWER = ("depth", "RMSE, m")
"""Task and figure of which less is better."""
WORDS: Mapping[str, str] = {
    "shape": "shape, top-1",
    "colour and shape": "colour and shape, top-1",
    "image to text": "image to text, R@1",
    "text to image": "text to image, R@1",
}
"""Zero-shot classification of the main object in 19 and in 209 classes, and retrieval -> as the page says it."""
SHOWN = ("colour and shape", "image to text", "text to image")
"""Of these, what tables of arms show."""
STARTS = ("alt", "filtered", "short", "quality", "supervised", "scratch")
CURVES = ("quality", "alt", "supervised", "scratch")
TOWERS = {"quality": "MCi", "swin": "Swin", "vit": "ViT"}
POLICIES = ("alt", "pick", "ratio", "adaptive", "both", "multi")

Rows = Sequence[Mapping[str, Any]]


def by_seed(rows: Rows, arm: str, figure: str, share: float = 1.0) -> dict[int, float]:
    """Seed -> a figure of an arm: a task's, or one of `WORDS`."""
    if figure in TASKS:
        mine = (row for row in rows if row["kind"] == "finetuned" and row["task"] == figure and row["share"] == share)
        return {row["seed"]: row["figure"] for row in mine if row["arm"] == arm}
    mine = (row for row in rows if row["kind"] == "pretrained" and row["arm"] == arm)
    return {row["seed"]: row["figures"][figure] for row in mine}


def screen(result: Mapping[str, Any]) -> str:
    """The outcome of one result in one screen."""
    rows = result["rows"]
    parts = [_starts(rows), _pair(rows, TASKS), _savings(rows), _said(result)]
    return "\n\n".join(part for part in parts if part)


def page(result: Mapping[str, Any]) -> str:
    """All tables of one result."""
    rows = result["rows"]
    tables = [_starts(rows), _pair(rows, (*TASKS, *WORDS)), _curve(rows), _savings(rows), _towers(rows)]
    return "\n\n".join(part for part in (*tables, _policies(rows), _said(result)) if part)


def drawings(result: Mapping[str, Any]) -> dict[str, str]:
    """Name of a file -> SVG."""
    rows, found = result["rows"], {}
    lines = {}
    for arm in CURVES:
        line = {pictures: list(by_seed(rows, arm, "segmentation", share).values()) for share, pictures in _shares(rows)}
        lines[arm] = {pictures: values for pictures, values in line.items() if values}
    lines = {arm: line for arm, line in lines.items() if len(line) > 1}
    if lines:
        found["labels.svg"] = curves("segmentation: mIoU", lines)
    figures = {**{task: f"{task}: {figure}" for task, figure in FIGURES.items()}, "image to text": "image to text: R@1"}
    sets = {"captions": {arm: arm for arm in STARTS}, "towers": TOWERS, "policies": {arm: arm for arm in POLICIES}}
    for name, arms in sets.items():
        panels = {}
        for figure, title in figures.items():
            panel = {said: list(by_seed(rows, arm, figure).values()) for arm, said in arms.items()}
            panel = {said: values for said, values in panel.items() if values}
            if len(panel) > 1 and (name != "policies" or figure in ("segmentation", "image to text")):
                panels[title] = panel
        if panels:
            found[f"{name}.svg"] = dots(panels)
    return found


def _starts(rows: Rows) -> str:
    head = ["pre-trained on", "seeds", *_heads(), *FIGURES.values(), "processor, s"]
    lines = []
    for arm in STARTS:
        if _there(rows, arm):
            lines.append([f"{arm}{_note(rows, arm)}", _seeds(rows, arm), *_cells(rows, arm), _seconds(rows, arm)])
    return markdown(head, lines)


def _note(rows: Rows, arm: str) -> str:
    """What selection did to web texts."""
    if arm != "filtered":
        return ""
    found = [row for row in rows if row["kind"] == "filtered"]
    if not found:
        return ""
    parts = [mean_of([row["judge"][key] for row in found]).mean for key in ("kept", "wrong", "wrong_of_kept")]
    return " ({:.0%} kept; wrong {:.0%} → {:.0%})".format(*parts)


def _pair(rows: Rows, figures: Iterable[str]) -> str:
    """Quality against web texts, by some figures."""
    head = [
        "quality against alt",
        "seeds",
        "quality, 95 %",
        "alt, 95 %",
        "intervals",
        "ranges",
        "better by, 95 %",
        "so",
    ]
    lines = []
    for figure in figures:
        first, second = by_seed(rows, "quality", figure), by_seed(rows, "alt", figure)
        if not first.keys() & second.keys():
            continue
        found = compared(first, second, lower=figure in LOWER)
        lines.append(
            [
                f"{figure}, {FIGURES[figure]}" if figure in FIGURES else WORDS[figure],
                str(found.first.seeds),
                _interval(found.first),
                _interval(found.second),
                "apart" if found.apart else "touch",
                "apart" if found.ranges_apart else "touch",
                _interval(found.ahead, sign=True),
                f"**{found.says}**",
            ]
        )
    return markdown(head, lines)


def _curve(rows: Rows) -> str:
    """Segmentation by labels."""
    if len(_shares(rows)) < 2:
        return ""
    starts = [arm for arm in CURVES if by_seed(rows, arm, "segmentation")]
    lines = []
    for share, pictures in _shares(rows):
        found = [by_seed(rows, arm, "segmentation", share) for arm in starts]
        lines.append([f"{pictures:,}", *(_cell(values, "{:.3f}") for values in found)])
    return markdown(["mIoU with labelled pictures", *starts], lines)


def _savings(rows: Rows) -> str:
    """How many times fewer labels the quality start needs to equal the others."""
    head = ["quality needs fewer labels to equal, in mIoU", "with all labels", "with the labels that suit it best"]
    lines = []
    for arm in CURVES:
        whole, best = _saved(rows, arm, best=False), _saved(rows, arm, best=True)
        if arm != "quality" and whole:
            lines.append([arm, told(whole), told(best) if best else "–"])
    return markdown(head, lines)


def _saved(rows: Rows, arm: str, *, best: bool) -> list[Saving]:
    """How many times fewer labels the quality start needs, by seed; with `best`, for the other's best share."""
    shares, found = _shares(rows), []
    for seed, target in sorted(by_seed(rows, arm, "segmentation").items()):
        curve = {pictures: by_seed(rows, "quality", "segmentation", share).get(seed) for share, pictures in shares}
        whole = {pictures: value for pictures, value in curve.items() if value is not None}
        others = [by_seed(rows, arm, "segmentation", share).get(seed) for share, _ in shares]
        if len(whole) < 2 or max(whole) != max(curve) or (best and None in others):
            continue
        wanted = max(value for value in others if value is not None) if best else target
        found.append(saving(whole, wanted, lower=False))
    return found


def _towers(rows: Rows) -> str:
    head = ["tower", "seeds", "parameters, M", "MMAC", "training, s", *_heads(), *FIGURES.values()]
    lines = []
    arms = [arm for arm in TOWERS if _there(rows, arm)]
    if len(arms) < 2:
        return ""
    seeds = set.intersection(*({row["seed"] for row in _pretrained(rows, arm)} for arm in arms))
    same = [row for row in rows if row["seed"] in seeds]
    for arm in arms:
        mine = _pretrained(same, arm)
        cost = [f"{mine[0]['params'] / 1e6:.3f}", f"{mine[0]['macs'] / 1e6:.2f}"]
        cost.append(f"{mean_of([row['train_seconds'] for row in mine]).mean:.0f}")
        lines.append([TOWERS[arm], _seeds(same, arm), *cost, *_cells(same, arm)])
    return markdown(head, lines)


def _policies(rows: Rows) -> str:
    arms = [arm for arm in POLICIES if _there(rows, arm)]
    if len(arms) < 2:
        return ""
    seeds = set.union(*({row["seed"] for row in _pretrained(rows, arm)} for arm in arms if arm != "alt"))
    same = [row for row in rows if row["seed"] in seeds]
    head = ["caption policy", "seeds", *_heads(), FIGURES["segmentation"], "training, s"]
    lines = []
    for arm in arms:
        mine = _pretrained(same, arm)
        seconds = f"{mean_of([row['train_seconds'] for row in mine]).mean:.0f}"
        cells = _cells(same, arm)[: len(SHOWN) + 1]
        lines.append([f"`{mine[0]['captions']}`", _seeds(same, arm), *cells, seconds])
    return markdown(head, lines)


def _said(result: Mapping[str, Any]) -> str:
    """What holds and what does not, and how much was spent."""
    rows, settings = result["rows"], result["settings"]
    holds: list[tuple[str, Comparison]] = []
    fails: list[tuple[str, Comparison]] = []
    for task in TASKS:
        first, second = by_seed(rows, "quality", task), by_seed(rows, "alt", task)
        if first.keys() & second.keys():
            found = compared(first, second, lower=task in LOWER)
            (holds if found.apart and found.better else fails).append((task, found))
    parts = []
    if holds:
        parts.append(f"Quality captions beat web texts in {_listed(task for task, _ in holds)}: intervals apart.")
    if fails:
        parts.append("It does not hold, by that measure, in " + "; ".join(_failing(*one) for one in fails) + ".")
    hours = sum(row["seconds"] for row in rows) / 3600
    spent = settings["budget"]
    parts.append(
        f"{spent['steps']} steps of {spent['batch']} on {spent['count']:,} scenes, {spent['finetune_steps']} of "
        f"finetuning, measured on {spent['val']} scenes that are the same for all; {len(rows)} runs, {hours:.1f} hours "
        f"of one processor" + (f"; {settings['unfinished']} runs were not finished." if settings["unfinished"] else ".")
    )
    return " ".join(parts)


def _failing(task: str, found: Comparison) -> str:
    return f"{task} ({found.says}; by {_interval(found.ahead, sign=True)})"


def _listed(names: Iterable[str]) -> str:
    found = list(names)
    return found[0] if len(found) == 1 else f"{', '.join(found[:-1])} and {found[-1]}"


def _heads() -> list[str]:
    return [WORDS[figure] for figure in SHOWN]


def _cells(rows: Rows, arm: str) -> list[str]:
    """Every figure of an arm: zero-shot, retrieval, then the tasks."""
    words = [_cell(by_seed(rows, arm, figure), "{:.1%}") for figure in SHOWN]
    return [*words, *(_cell(by_seed(rows, arm, task), "{:.3f}") for task in TASKS)]


def _cell(values: Mapping[int, float], form: str) -> str:
    if not values:
        return "–"
    one = mean_of(list(values.values()))
    text = form.format(one.mean)
    if one.seeds < 2:
        return text
    return f"{text} ({form.format(one.least).rstrip('%')}–{form.format(one.most)})"


def _interval(one: Mean, *, sign: bool = False) -> str:
    form = "{:+.3f}" if sign else "{:.3f}"
    if one.seeds < 2:
        return form.format(one.mean)
    return f"{form.format(one.mean)} [{form.format(one.low)}, {form.format(one.high)}]"


def _shares(rows: Rows) -> list[tuple[float, int]]:
    """Shares of the labels of the curve with their pictures, all first."""
    found = {row["share"]: row["pictures"] for row in rows if row["kind"] == "finetuned"}
    return sorted(found.items(), reverse=True)


def _pretrained(rows: Rows, arm: str) -> list[Mapping[str, Any]]:
    return [row for row in rows if row["kind"] == "pretrained" and row["arm"] == arm]


def _there(rows: Rows, arm: str) -> bool:
    return any(row.get("arm") == arm for row in rows)


def _seeds(rows: Rows, arm: str) -> str:
    return str(len({row["seed"] for row in rows if row.get("arm") == arm}))


def _seconds(rows: Rows, arm: str) -> str:
    """Of pre-training and of finetuning once a task with all labels, a seed."""
    mine = [row for row in rows if row.get("arm") == arm and row["share"] == 1.0]
    return f"{sum(row['seconds'] for row in mine) / len({row['seed'] for row in mine}):.0f}"
