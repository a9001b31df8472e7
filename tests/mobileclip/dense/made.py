"""Small data sets in the layouts of the real ones, made of drawn pictures whose truth is known.

ade(tmp_path)           # tmp_path is an ADEChallengeData2016
"""

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
from PIL import Image
from pycocotools import mask as coco_mask

from mobileclip.data.scenes import write_scenes
from mobileclip.dense.samples import Objects, Sample

Array = npt.NDArray[Any]


def picture(seed: int, height: int, width: int) -> npt.NDArray[np.uint8]:
    """A soft gradient with two rectangles."""
    generator = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width]
    base = 60 + 120 * rows / height, 60 + 120 * columns / width, np.full((height, width), 100.0)
    image = np.stack(base, 2).astype(np.uint8)
    for _ in range(2):
        top, left = generator.integers(0, max(height // 2, 1)), generator.integers(0, max(width // 2, 1))
        image[top : top + height // 3 + 1, left : left + width // 3 + 1] = generator.integers(0, 256, 3)
    return image


def save(pixels: Array, path: Path) -> Path:
    """By the ending: JPEG or PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def ade(root: Path, train: int = 4, val: int = 3) -> Path:
    """SceneParse150: value v in column v of the first 151 of 160 columns, and 0 in the rest."""
    rows = ["Idx\tRatio\tTrain\tVal\tStuff\tName"]
    rows += [f"{number}\t0.1\t10\t1\t1\tthing {number}, other name" for number in range(1, 151)]
    root.mkdir(parents=True, exist_ok=True)
    (root / "objectInfo150.txt").write_text("\n".join(rows) + "\n")
    columns = np.arange(160)
    for folder, short, count in (("training", "train", train), ("validation", "val", val)):
        for number in range(1, count + 1):
            name = f"ADE_{short}_{number:08d}"
            height = 40 + 10 * number
            ids = np.tile(np.where(columns <= 150, columns, 0).astype(np.uint8), (height, 1))
            save(picture(number, height, 160), root / "images" / folder / f"{name}.jpg")
            save(ids, root / "annotations" / folder / f"{name}.png")
    return root


def folder(root: Path, names: tuple[str, ...] = ("a", "b", "c"), splits: tuple[str, ...] = ("train", "val")) -> Path:
    """Pictures, masks of three classes and depth, and labels.txt; without splits where there are none."""
    for split in splits or ("",):
        for seed, name in enumerate(names):
            ids = np.zeros((48, 64), np.uint8)
            ids[10:30, 5:40], ids[35:, 20:], ids[0] = 1, 2, 255
            save(picture(seed, 48, 64), root / "images" / split / f"{name}.png")
            save(ids, root / "masks" / split / f"{name}.png")
            save(np.full((48, 64), 1500 + seed, np.uint16), root / "depth" / split / f"{name}.png")
    (root / "labels.txt").write_text("ground\nbox\nwall\n")
    return root


def objects_json() -> dict[str, Any]:
    """Two pictures with all kinds of objects, one without any, one that is not there, and objects to be left out."""
    disc = np.asfortranarray(np.hypot(*np.mgrid[-30:30, -40:40]) < 20).astype(np.uint8)
    packed = coco_mask.encode(disc)["counts"].decode()
    polygons = [[5, 5, 40.5, 5, 40.5, 30.25, 5, 30.25], [50, 40, 70, 40, 60, 55]]
    found: dict[str, Any] = {
        "info": {"description": "made"},
        "licenses": [],
        "images": [
            {"id": 7, "file_name": "one.jpg", "height": 60, "width": 80},
            {"id": 3, "file_name": "two.jpg", "height": 60, "width": 80},
            {"id": 9, "file_name": "empty.jpg", "height": 60, "width": 80},
            {"id": 11, "file_name": "gone.jpg", "height": 60, "width": 80},
        ],
        "categories": [{"id": 90, "name": "toothbrush"}, {"id": 1, "name": "person"}, {"id": 18, "name": "dog"}],
    }
    entries: list[tuple[int, int, list[float], Any, int]] = [
        (7, 18, [5, 5, 65, 50], polygons, 0),
        (7, 1, [20, 10, 40, 40], {"size": [60, 80], "counts": packed}, 0),
        (7, 1, [0, 0, 80, 60], {"size": [60, 80], "counts": [600, 1200, 3000]}, 1),
        (3, 90, [70, 50, 20, 20], [[70, 50, 90, 50, 90, 70, 70, 70]], 0),
        (3, 1, [10, 10, 20, 20], [], 0),
        (3, 1, [30, 30, 0, 10], [[30, 30, 30, 40, 30, 35]], 0),
        (11, 1, [1, 1, 9, 9], [[1, 1, 10, 1, 10, 10]], 0),
        (99, 1, [1, 1, 9, 9], [[1, 1, 10, 1, 10, 10]], 0),
        (7, 5, [1, 1, 9, 9], [[1, 1, 10, 1, 10, 10]], 0),
    ]
    found["annotations"] = [
        {
            "id": 100 + number,
            "image_id": image,
            "category_id": category,
            "bbox": box,
            "area": box[2] * box[3],
            "segmentation": segmentation,
            "iscrowd": crowd,
        }
        for number, (image, category, box, segmentation, crowd) in enumerate(entries)
    ]
    return found


def coco(root: Path) -> Path:
    """COCO 2017 with the same pictures in both splits."""
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    for split in ("train2017", "val2017"):
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(objects_json()))
        for seed, name in enumerate(("one", "two", "empty")):
            save(picture(seed, 60, 80), root / split / f"{name}.jpg")
    return root


def frame(seed: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
    """A frame of 480 x 640 and its raw depth in metres, with a hole."""
    rows, columns = np.mgrid[:480, :640]
    depth = (1 + rows / 480 + columns / 640 + seed / 8).astype(np.float32)
    depth[100:150, 200:260] = 0
    return picture(seed, 480, 640), depth


def nyu_tree(root: Path, scenes: int = 2) -> Path:
    """BTS' tree: a pair in each scene of sync/ and of both official splits."""
    for base in ("sync", "official_splits/test", "official_splits/train"):
        for number in range(scenes):
            image, depth = frame(number)
            image = image.copy()
            image[:7] = image[474:] = image[:, :7] = image[:, 632:] = 0
            place = root / base / f"room_{number:04d}"
            save(image, place / "rgb_00045.png")
            save((depth * 1000).astype(np.uint16), place / "sync_depth_00045.png")
    return root


def nyu_mat(path: Path, frames: int = 3) -> Path:
    """The labelled .mat, transposed as MATLAB writes it, and splits.json: the last frame to train on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    made = [frame(number) for number in range(frames)]
    with h5py.File(path, "w") as file:
        file["images"] = np.stack([image.transpose(2, 1, 0) for image, _ in made])
        file["rawDepths"] = np.stack([depth.T for _, depth in made])
    splits = {"trainNdxs": [frames], "testNdxs": list(range(1, frames))}
    path.with_name("splits.json").write_text(json.dumps(splits))
    return path


def nyu_h5(root: Path) -> Path:
    """FastDepth's frames, one in each split."""
    for split, scene in (("train", "room_0001"), ("val", "official")):
        (root / split / scene).mkdir(parents=True)
        image, depth = frame(len(split))
        with h5py.File(root / split / scene / "00001.h5", "w") as file:
            file["rgb"], file["depth"] = image.transpose(2, 0, 1), depth
    return root


def scenes(root: Path, count: int = 6, val_count: int = 4, size: int = 48) -> Path:
    """Rendered scenes with dense truth."""
    return write_scenes(root, count=count, val_count=val_count, size=size, per_shard=4)


def ramp(height: int, width: int, *, objects: bool = False) -> Sample:
    """Depth is 1 + the column, so that a transform's scale, place and flip can be read from it; label is the row's
    third; objects are three rectangles, the last a crowd.
    """
    rows, columns = np.mgrid[:height, :width]
    found = None
    if objects:
        boxes = np.array([[0.1, 0.1, 0.4, 0.6], [0.5, 0.3, 0.9, 0.9], [0, 0, 1, 1]]) * [width, height, width, height]
        boxes = boxes.round().astype(np.float32)
        masks = np.stack([(columns >= a) & (columns < c) & (rows >= b) & (rows < d) for a, b, c, d in boxes])
        found = Objects(
            boxes=boxes,
            classes=np.array([2, 0, 1]),
            masks=masks,
            crowd=np.array([False, False, True]),
            area=masks.sum((1, 2)).astype(np.float32),
        )
    return Sample(
        name="ramp",
        image=picture(0, height, width),
        labels=(rows * 3 // height).astype(np.uint8),
        depth=(1 + columns).astype(np.float32),
        objects=found,
    )
