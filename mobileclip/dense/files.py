"""Predictions as files: PNG of labels and depths in the forms that servers and tools take, masks as run lengths.

Every file is written beside its place and moved there, so a file that exists is whole.
"""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from mobileclip.data.arrays import placing
from mobileclip.dense.colours import Colours, palette
from mobileclip.dense.config import IGNORE

FARTHEST = 65.535
"""Metres that 16 bits of millimetres hold."""


def write_labels(path: Path, labels: npt.NDArray[np.uint8]) -> None:
    """Labels [H, W] as a PNG whose values are the labels and whose palette are their colours (`colours.palette`)."""
    image = Image.fromarray(labels)
    image.putpalette(np.concatenate([palette(IGNORE), np.zeros((1, 3), np.uint8)]).tobytes())
    _png(path, image)


def write_server_labels(path: Path, labels: npt.NDArray[np.uint8]) -> None:
    """Labels [H, W] as ADE20K's server and its tools have them: a grey PNG of label + 1, where 0 is "other".

    Source: CSAILVision/sceneparsing, README; mmsegmentation's `iou_metric.py` adds the same 1.
    """
    _png(path, Image.fromarray(np.where(labels == IGNORE, 0, labels + np.uint8(1)).astype(np.uint8)))


def write_depth(path: Path, metres: npt.NDArray[np.float32]) -> None:
    """Metres [H, W] as a 16-bit grey PNG of millimetres, as NYUv2's trees have them: 0 where there is no depth, and at
    most `FARTHEST`."""
    known = np.nan_to_num(metres.astype(np.float64), nan=0.0, posinf=FARTHEST, neginf=0.0)
    _png(path, Image.fromarray((np.clip(known, 0, FARTHEST) * 1000).round().astype(np.uint16)))


def write_picture(path: Path, image: Colours) -> None:
    """RGB [H, W, 3] as a JPEG or PNG, by the name's ending."""
    with placing(path) as file:
        if path.suffix.lower() == ".png":
            Image.fromarray(image).save(file, "PNG")
        else:
            Image.fromarray(image).save(file, "JPEG", quality=90)


def run_lengths(mask: npt.NDArray[np.bool_]) -> dict[str, Any]:
    """A mask [H, W] as COCO's run lengths that are not compressed: `counts` of pixels out, in, out, … down the columns.

    `pycocotools.mask.frPyObjects` reads it.
    """
    flat = mask.ravel(order="F")
    ends = np.flatnonzero(np.diff(flat.astype(np.int8))) + 1
    counts = np.diff(np.concatenate([[0], ends, [flat.size]])).tolist()
    return {"size": [int(side) for side in mask.shape], "counts": [0, *counts] if flat[0] else counts}


def _png(path: Path, image: Image.Image) -> None:
    with placing(path) as file:
        image.save(file, "PNG")
