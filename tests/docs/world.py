"""A folder in which the names that the documentation uses are there: shards, photos, checkpoints, data sets; all small.

What an earlier command of the documentation makes is not made here.
"""

import json
import shutil
from pathlib import Path

import av
import made
import numpy as np
from given import pairs
from small_coca import saved

import mobileclip
from mobileclip.captions.recipe import recipe_of
from mobileclip.captions.shown import toml_of
from mobileclip.evaluate.templates import imagenet_synsets

CAPTIONS = ("a red car on a street", "two dogs asleep in a basket", "a bridge over a river at night", "a cup of tea")
WEB, EACH = 4, 8
"""Tars of `web/`, and pairs in each."""


def make(root: Path) -> Path:
    """Everything, in a folder that is there."""
    web(root / "web")
    for name, first in (("photos", 0), ("other-photos", 100)):
        for seed in range(first, first + 16):
            made.save(made.picture(seed, 72, 96), root / name / f"{seed:03d}.jpg")
    (root / "captions.txt").write_text("\n".join(CAPTIONS) + "\n", encoding="utf-8")
    (root / "labels.txt").write_text("cat\ndog\nred car\n", encoding="utf-8")
    mobileclip.save(mobileclip.load("seeded:nano"), root / "mobileclip_s2.pt", form="open_clip")
    saved(root / "coca")
    imagenet(root / "imagenet" / "val")
    made.ade(root / "ADEChallengeData2016")
    made.coco(root / "coco")
    made.nyu_tree(root / "nyu")
    film(root / "walk.mp4")
    (root / "mine.toml").write_text(toml_of(recipe_of("text-only")), encoding="utf-8")
    shutil.copy(Path(__file__).parents[2] / "README.md", root)
    return root


def web(folder: Path) -> None:
    """As img2dataset writes them."""
    for shard in range(WEB):
        numbers = range(shard * EACH, (shard + 1) * EACH)
        texts = {f"{number:09d}": f"{CAPTIONS[number % len(CAPTIONS)]}, number {number}" for number in numbers}
        pairs(folder / f"{shard:05d}.tar", texts, first=shard * EACH)


def imagenet(folder: Path) -> None:
    """Three of ImageNet's thousand classes, a picture each, and one template in the place of eighty."""
    for seed, name in enumerate(imagenet_synsets()[:3]):
        made.save(made.picture(seed, 70, 64), folder / name / "a.jpg")
    (folder.parent / "templates.txt").write_text("a photo of a {}.\n", encoding="utf-8")


def film(path: Path) -> None:
    """Four frames."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for seed in range(4):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(made.picture(seed, 48, 64), format="rgb24")))
        container.mux(stream.encode(None))


def single_files(root: Path) -> None:
    """Of the bundle that was exported: a package and a model as if from somewhere, and what one is verified with."""
    bundle = root / "out" / "s2"
    shutil.copytree(bundle / "image.mlpackage", root / "any.mlpackage")
    shutil.copy(bundle / "image.onnx", root / "model.onnx")
    answer = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))["known_answer"]["image"]
    for name in ("input", "output"):
        entry = answer[name]
        content = (bundle / entry["file"]).read_bytes()
        np.save(
            root / f"{name.removesuffix('put')}.npy", np.frombuffer(content, entry["dtype"]).reshape(entry["shape"])
        )
