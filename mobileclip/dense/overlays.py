"""Pictures of what a model says and of what is true: for eyes, not for measuring.

    overlay(sample.image, predictor(sample.image), labels)        # uint8 [H, W, 3]
    overlay(sample.image, sample, labels)                         # the truth, drawn alike
    errors(predictor(sample.image), sample)                       # where the two differ

Legend: H, W rows and columns of the picture.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from mobileclip.dense.colours import Colours, depth_colours, palette
from mobileclip.dense.config import IGNORE
from mobileclip.dense.samples import Depths, Detected, Objects, Prediction, Sample, Segmented
from mobileclip.errors import DataError

TINT = 0.55
"""Share of the class's colour over a picture."""
NAMED_SHARE = 0.01
"""Of the picture that a class must cover to be named on it."""
WORST = 0.5
"""Relative error of a depth that has the darkest colour."""

_OBJECTS = 50  # drawn at most


def overlay(
    image: npt.NDArray[np.uint8],
    said: Prediction | Sample,
    labels: Sequence[str] = (),
    *,
    low: float | None = None,
    high: float | None = None,
) -> Colours:
    """A prediction, or the truth of a sample, over a picture [H, W, 3].

    Segmentation: a tint a class, the larger ones named; pixels that count nowhere stay as they are. Detection: tinted
    masks, boxes, names and scores. Depth: colours from near (light) to far (dark), from `low` to `high` metres.

    Raises:
        DataError: the sample holds no truth.
    """
    match truth_of(said) if isinstance(said, Sample) else said:
        case Segmented(labels=found):
            return _segmented(image, found, labels)
        case Detected(boxes=boxes, scores=scores, classes=classes, masks=masks):
            texts = [f"{_name(labels, kind)} {score:.2f}" for kind, score in zip(classes, scores, strict=True)]
            return _objects(image, boxes, classes, masks, texts)
        case Objects(boxes=boxes, classes=classes, masks=masks, crowd=crowd):
            texts = [
                _name(labels, kind) + (" (crowd)" if many else "") for kind, many in zip(classes, crowd, strict=True)
            ]
            return _objects(image, boxes, classes, masks, texts)
        case Depths(metres=metres):
            return depth_colours(metres, low, high)[0]


def truth_of(sample: Sample) -> Segmented | Objects | Depths:
    """The truth of a sample in the form that is drawn.

    Raises:
        DataError: it holds none.
    """
    if sample.labels is not None:
        return Segmented(labels=sample.labels)
    if sample.objects is not None:
        return sample.objects
    if sample.depth is None:
        raise DataError(f"{sample.name} holds no truth: open its set for a task.")
    return Depths(metres=sample.depth)


def errors(prediction: Prediction, sample: Sample) -> Colours | None:
    """Where a prediction is wrong [H, W, 3]; None for detection, whose errors are no matter of pixels.

    Segmentation: wrong pixels red over a pale picture, what counts nowhere black. Depth: the relative error from 0
    (light) to `WORST` (dark), what has no depth black.
    """
    if isinstance(prediction, Segmented) and sample.labels is not None:
        out = (sample.image // 3 + 150).astype(np.uint8)
        out[prediction.labels != sample.labels] = (205, 40, 35)
        out[sample.labels == IGNORE] = 0
        return out
    if isinstance(prediction, Depths) and sample.depth is not None:
        known = sample.depth > 0
        off = np.abs(prediction.metres - sample.depth) / np.where(known, sample.depth, 1)
        return depth_colours(np.where(known, np.maximum(off, 1e-9), 0), 0.0, WORST)[0]
    return None


def _segmented(image: npt.NDArray[np.uint8], found: npt.NDArray[np.uint8], labels: Sequence[str]) -> Colours:
    colours = np.zeros((IGNORE + 1, 3), np.uint8)
    colours[:IGNORE] = palette(IGNORE)
    tinted = image + TINT * (colours[found] - image.astype(np.float32))
    out = np.where((found == IGNORE)[..., None], image, tinted.round().astype(np.uint8))
    edges = _edges(found)
    out[edges] = colours[found[edges]]
    canvas = Image.fromarray(out)
    counts = np.bincount(found.ravel(), minlength=IGNORE + 1)[:IGNORE]
    for kind in np.argsort(-counts):
        if counts[kind] < max(NAMED_SHARE * found.size, 1):
            break
        _write(canvas, _inside(found == kind), _name(labels, kind), colours[kind], centred=True)
    return np.asarray(canvas)


def _objects(
    image: npt.NDArray[np.uint8],
    boxes: npt.NDArray[np.float32],
    classes: npt.NDArray[np.int64],
    masks: npt.NDArray[np.bool_],
    texts: Sequence[str],
) -> Colours:
    out = image.copy()
    shown = range(min(len(boxes), _OBJECTS))
    colours = palette(IGNORE)[classes % IGNORE]
    for place in reversed(shown):  # the best one on top
        inside = masks[place]
        out[inside] = (out[inside] + TINT * (colours[place] - out[inside].astype(np.float32))).round().astype(np.uint8)
        out[inside & _edges(inside)] = colours[place]
    canvas = Image.fromarray(out)
    draw = ImageDraw.Draw(canvas)
    for place in reversed(shown):
        left, top, right, bottom = (float(side) for side in boxes[place])
        corners = (left, top, max(right - 1, left), max(bottom - 1, top))
        draw.rectangle(corners, outline=_tuple(colours[place]), width=max(_type_size(canvas) // 8, 1))
        _write(canvas, (left, top), texts[place], colours[place])
    return np.asarray(canvas)


def _edges(found: npt.NDArray[np.generic]) -> npt.NDArray[np.bool_]:
    """[H, W]: pixels whose right or lower neighbour is something else."""
    out = np.zeros(found.shape, bool)
    out[:, :-1] |= found[:, :-1] != found[:, 1:]
    out[:-1] |= found[:-1] != found[1:]
    return out


def _inside(region: npt.NDArray[np.bool_]) -> tuple[float, float]:
    """A point (x, y) well inside: the middle of the longest run in the middle one of the rows that have most of it."""
    counts = region.sum(1)
    rows = np.flatnonzero(counts >= 0.9 * counts.max())
    row = int(rows[len(rows) // 2])
    steps = np.diff(np.concatenate([[0], region[row].astype(np.int8), [0]]))
    starts, ends = np.flatnonzero(steps == 1), np.flatnonzero(steps == -1)
    longest = int((ends - starts).argmax())
    return (starts[longest] + ends[longest]) / 2, row + 0.5


def _write(
    canvas: Image.Image, at: tuple[float, float], text: str, colour: npt.NDArray[np.uint8], centred: bool = False
) -> None:
    """Text on a patch of the class's colour, moved so that it lies in the picture; none where it is too small."""
    size = _type_size(canvas)
    font = ImageFont.load_default(size)
    text = "".join(char if char.isprintable() else " " for char in text)[:40]
    draw = ImageDraw.Draw(canvas)
    left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
    width, height = right - left + size // 2, bottom - top + size // 3
    if width > canvas.width or height > canvas.height:
        return
    x = at[0] - width / 2 if centred else at[0]
    y = at[1] - height / 2 if centred else at[1]
    x, y = min(max(x, 0), canvas.width - width), min(max(y, 0), canvas.height - height)
    draw.rectangle((x, y, x + width - 1, y + height - 1), fill=_tuple(colour))
    dark = float(colour @ np.array([0.299, 0.587, 0.114])) < 140  # luma of ITU-R BT.601
    draw.text((x - left + size // 4, y - top + size // 6), text, fill="white" if dark else "black", font=font)


def _type_size(canvas: Image.Image) -> int:
    return max(10, round(min(canvas.size) / 28))


def _name(labels: Sequence[str], kind: int) -> str:
    return labels[kind] if kind < len(labels) else str(kind)


def _tuple(colour: npt.NDArray[np.uint8]) -> tuple[int, int, int]:
    red, green, blue = (int(part) for part in colour)
    return red, green, blue
