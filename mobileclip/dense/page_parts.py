"""Parts of the page on a dense model: figures, classes, confusions, pictures."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from mobileclip.captions.report.html import Markup, Part, el, number, table
from mobileclip.captions.report.plots import meter
from mobileclip.dense.colours import Colours, depth_colours, distances, palette
from mobileclip.dense.config import IGNORE
from mobileclip.dense.evaluation import Report
from mobileclip.dense.overlays import WORST, errors, overlay
from mobileclip.dense.samples import Depths, Detected, Prediction, Sample, Segmented

STYLE = """
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(21rem, 100%), 1fr)); gap: 1.25rem; }
.chart svg { width: 100%; height: auto; }
.chart b { color: var(--ink); }
.line { fill: none; stroke: var(--accent); stroke-width: 1.6; stroke-linejoin: round; }
.dot { fill: var(--accent); }
.shots { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(17rem, 100%), 1fr)); gap: .75rem;
  margin: .5rem 0 1.75rem; }
.shots img { display: block; width: 100%; height: auto; border-radius: 4px; background: var(--wash); }
.shots figcaption { font-size: .86rem; padding: .2rem 0; }
.matrix { max-width: 44rem; }
.matrix img { display: block; width: 100%; height: auto; image-rendering: pixelated; border: 1px solid var(--line); }
.swatch { display: inline-block; vertical-align: -1px; margin-right: .4em; }
.scale { display: flex; align-items: center; gap: .6rem; font-size: .86rem; max-width: 30rem; color: var(--soft); }
.scale img { flex: 1 1 auto; min-width: 0; width: 60%; height: .8rem; border-radius: 2px; }
"""
"""Of these parts; goes behind the style sheet of reports."""

_SHOWN = 20  # classes and confusions that are not folded away
_LARGEST, _SMALLEST = 512, 320  # pixels of a picture's long side
_DRAWN = 2048  # of the long side at which a picture is drawn, at most
_SHARES = frozenset(("mIoU", "aAcc", "mAcc", "d1", "d2", "d3"))
_METRES = frozenset(("rmse",))
_MAIN = ("iou", "box_ap")
_QUALITY = 85


def tiles(report: Report, more: Sequence[tuple[str, str, str]] = ()) -> Markup:
    """The first figures, large, and what they were measured on."""
    shown = [(name, figure(name, value), "") for name, value in list(report.figures.items())[:4]]
    shown[0] = (*shown[0][:2], f"{report.better} is better")
    per_second = report.n / report.seconds if report.seconds else float("nan")
    shown.append(("pictures", f"{report.n:,}", f"{per_second:.1f} a second" if report.seconds else ""))
    cells = [
        el("div", el("dt", name), el("dd", value, el("span", sub, class_="sub")))
        for name, value, sub in (*shown, *more)
    ]
    return el("dl", cells, class_="tiles")


def figure(name: str, value: float | None) -> str:
    """A figure with its unit: shares and average precisions as per cent."""
    if value is None or value != value or (value == -1 and ("_ap" in name or "_ar" in name)):
        return "–"
    if name in _SHARES or "_ap" in name or "_ar" in name:
        return f"{100 * value:.1f}%"
    return f"{value:.3f} m" if name in _METRES else f"{value:.4g}"


def all_figures(report: Report) -> Markup:
    """Every figure; detection's as COCO's two columns."""
    boxes = {name.removeprefix("box_"): value for name, value in report.figures.items() if name.startswith("box_")}
    if boxes:
        rows: list[Sequence[Part]] = [
            [name, *(figure(f"box_{name}", report.figures.get(f"{kind}_{name}")) for kind in ("box", "mask"))]
            for name in boxes
        ]
        return table(["", "boxes", "masks"], rows, "tnn")
    return table(["", "value"], [[name, figure(name, value)] for name, value in report.figures.items()], "tn")


def classes(rows: Sequence[Mapping[str, Any]], colours: bool) -> list[Part]:
    """A table with a row a class, the best first; long ones are folded behind their ends."""
    if not rows:
        return []
    names = [name for name in rows[0] if name not in ("class", "label", "category_id")]
    main = next(name for name in (*_MAIN, names[0]) if name in names)
    ordered = sorted(rows, key=lambda row: -_value(row.get(main)))

    def line(row: Mapping[str, Any]) -> Sequence[Part]:
        label = [_swatch(int(row["class"])) if colours and "class" in row else None, str(row["label"])]
        bar = meter(max(_value(row.get(main)), 0.0), f"{main} of {row['label']}")
        return [label, bar, *(_cell(row.get(name)) for name in names)]

    head, letters = ["class", el("span", "", aria_label=main), *names], "tt" + "n" * len(names)
    if len(ordered) <= 2 * _SHOWN:
        return [table(head, map(line, ordered), letters)]
    every = el(
        "details", el("summary", f"All {len(ordered)} classes"), table(head, map(line, ordered), letters, "All classes")
    )
    half = _SHOWN // 2
    return [
        table(head, map(line, ordered[:half]), letters, f"The best {half}"),
        table(head, map(line, ordered[-half:]), letters, f"The worst {half}"),
        every,
    ]


def confusions(labels: Sequence[str], confusion: Sequence[Sequence[int]]) -> list[Part]:
    """The largest confusions, and the whole matrix as a picture."""
    counts = np.asarray(confusion, np.int64)
    true = counts.sum(1)
    off = counts - np.diag(np.diag(counts))
    order = np.argsort(-off, axis=None, kind="stable")[:_SHOWN]
    rows: list[Sequence[Part]] = []
    for truth, said in zip(*np.unravel_index(order, off.shape), strict=True):
        if off[truth, said]:
            names = [[_swatch(int(kind)), labels[kind]] for kind in (truth, said)]
            share = off[truth, said] / true[truth]
            rows.append([*names, meter(float(share), "share"), number(float(share), "share"), f"{off[truth, said]:,}"])
    with np.errstate(invalid="ignore", divide="ignore"):
        shares = np.nan_to_num(counts / true[:, None])
    cells = distances()[(np.sqrt(shares) * 255).round().astype(np.uint8)]  # [K, K, 3]; the root shows small shares
    cells = _repeated(cells, max(600 // len(labels), 1))
    picture = el(
        "figure",
        el("img", src=_data(cells, "PNG"), alt="confusion matrix"),
        el(
            "figcaption",
            f"{len(labels)} × {len(labels)} classes in the set's order: rows are the truth, columns what was said, "
            "dark is a large share of the truth (its square root). confusion.csv has the counts.",
        ),
        class_="matrix",
    )
    head = ["truth", "taken for", "", "of the truth", "pixels"]
    return [table(head, rows, "tttnn", "The largest confusions"), picture]


def shots(kept: Sequence[tuple[Sample, Prediction]], labels: Sequence[str]) -> list[Part]:
    """Each picture, its truth, what was said, and where that is wrong."""
    out: list[Part] = []
    for sample, prediction in kept:
        sample, prediction = _enlarged(*_reduced(sample, prediction))
        low, high = depth_colours(sample.depth)[1] if sample.depth is not None else (None, None)
        drawn: list[tuple[str, Colours | None]] = [
            ("picture", sample.image),
            ("truth", overlay(sample.image, sample, labels, low=low, high=high)),
            ("prediction", overlay(sample.image, prediction, labels, low=low, high=high)),
            ("errors", errors(prediction, sample)),
        ]
        figures = [
            el("figure", el("img", src=_data(image, "JPEG"), alt=f"{what} of {sample.name}"), el("figcaption", what))
            for what, image in drawn
            if image is not None
        ]
        out.append(el("h3", sample.name, class_="mono"))
        if low is not None and high is not None:
            out.append(_scale(f"{low:.1f} m", f"{high:.1f} m"))
        out.append(el("div", figures, class_="shots"))
    if kept and kept[0][0].depth is not None:
        out.insert(0, el("p", "Errors are relative to the truth:", class_="soft"))
        out.insert(1, _scale("0%", f"{WORST:.0%} and more"))
    return out


def worst(rows: Sequence[Mapping[str, Any]]) -> Markup:
    """Pictures of depth with the largest errors."""
    if not rows:
        return Markup("")
    names = [name for name in rows[0] if name != "name"]
    shown = [[str(row["name"]), *(_plain(name, row[name]) for name in names)] for row in rows[:_SHOWN]]
    return table(
        ["picture", *names], shown, "t" + "n" * len(names), f"The worst {len(shown)} of {len(rows):,} pictures"
    )


def _scale(low: str, high: str) -> Markup:
    bar = el("img", src=_data(distances()[None], "PNG"), alt="colours from near to far")
    return el("div", el("span", low), bar, el("span", high), class_="scale")


def _swatch(kind: int) -> Markup:
    colour = "#" + bytes(palette(IGNORE)[kind % IGNORE]).hex()
    square = el("rect", width=11, height=11, rx=2, fill=colour)
    return el("svg", square, width=11, height=11, class_="swatch", aria_hidden="true")


def _reduced(sample: Sample, prediction: Prediction) -> tuple[Sample, Prediction]:
    """Every so many pixels of large pictures, which are shown much smaller: drawing costs memory a pixel."""
    step = -(-max(sample.image.shape[:2]) // _DRAWN)
    if step == 1:
        return sample, prediction
    few, things = (slice(None, None, step),) * 2, sample.objects
    if things is not None:
        things = replace(things, boxes=things.boxes / step, masks=things.masks[:, *few])
    sample = replace(
        sample,
        image=np.ascontiguousarray(sample.image[few]),
        labels=None if sample.labels is None else sample.labels[few],
        depth=None if sample.depth is None else sample.depth[few],
        objects=things,
    )
    match prediction:
        case Segmented(labels=labels):
            return sample, Segmented(labels=labels[few])
        case Depths(metres=metres):
            return sample, Depths(metres=metres[few])
        case Detected(boxes=boxes, masks=masks):
            return sample, replace(prediction, boxes=boxes / step, masks=masks[:, *few])


def _enlarged(sample: Sample, prediction: Prediction) -> tuple[Sample, Prediction]:
    """Small pictures several times as large, so that names fit on them."""
    times = max(_SMALLEST // max(sample.image.shape[:2]), 1)
    if times == 1:
        return sample, prediction
    things = sample.objects
    if things is not None:
        things = replace(things, boxes=things.boxes * times, masks=_repeated(things.masks, times, 1))
    sample = replace(
        sample,
        image=_repeated(sample.image, times),
        labels=None if sample.labels is None else _repeated(sample.labels, times),
        depth=None if sample.depth is None else _repeated(sample.depth, times),
        objects=things,
    )
    match prediction:
        case Segmented(labels=labels):
            return sample, Segmented(labels=_repeated(labels, times))
        case Depths(metres=metres):
            return sample, Depths(metres=_repeated(metres, times))
        case Detected(boxes=boxes, masks=masks):
            return sample, replace(prediction, boxes=boxes * times, masks=_repeated(masks, times, 1))


def _repeated(values: npt.NDArray[Any], times: int, axis: int = 0) -> npt.NDArray[Any]:
    return values.repeat(times, axis).repeat(times, axis + 1)


def _data(image: Colours, form: str) -> str:
    """A picture inside the page, at most `_LARGEST` pixels long; PNG at full size."""
    shown = Image.fromarray(image)
    if form == "JPEG":
        shown.thumbnail((_LARGEST, _LARGEST), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    shown.save(file, form, **({"quality": _QUALITY} if form == "JPEG" else {"optimize": True}))
    return f"data:image/{form.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"


def _value(value: Any) -> float:
    return float(value) if isinstance(value, int | float) and value == value else -1.0


def _cell(value: Any) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    return "–" if value is None or value == -1 else f"{100 * value:.1f}%"


def _plain(name: str, value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else figure(name, value)
