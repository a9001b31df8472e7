"""The whole loop of training, from tars on a disk to new weights, against open_clip's trainer.

    python -m benchmarks loop --photos photos --model nano_scenes --size 64

Both sides read the same tars, in this process, interleaved A B B A: open_clip's `train_one_epoch` over its own
webdataset pipeline with its transform and tokenizer (`workers=0`), and this project's loader (one thread) before
`Stepper.step`, which is what `mobileclip train` runs. Model, batch, pixels and optimiser are the same, and on one batch
in memory both must give the same loss before anything is timed. Each side's input is timed alone too, which tells what
a loop waits for: on one core with a real model the arithmetic, on a GPU the input. On a CPU one thread is measured, in
CPU time of the process; the clock on the wall is kept beside it. With photos, packing them is timed as well.
"""

import argparse
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks import results
from benchmarks.loader import CASES, Case, open_clip_input, pictures_of, write_tars
from benchmarks.step import Memory, open_clip_epoch, synthetic
from benchmarks.timing import ratio_of_medians
from mobileclip.config import config_of
from mobileclip.data.corpus import Corpus, corpus
from mobileclip.data.loader import Loader
from mobileclip.data.pack import pack_shards
from mobileclip.errors import GateFailed
from mobileclip.models import Clip, create
from mobileclip.recipes import Recipe, recipe_of
from mobileclip.train_step import Stepper

SIDES = ("ours", "open_clip", "our input", "open_clip's input")
"""What is timed: the loops, and the input of each alone."""


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print a table, write a result."""
    parser = argparse.ArgumentParser(prog="benchmarks loop", description=__doc__.partition("\n")[0])
    parser.add_argument("--photos", type=Path, help="folder of photos; without it pictures are made up")
    parser.add_argument("--model", default="nano_scenes", help="name of a model with both towers")
    parser.add_argument("--size", type=int, default=64, help="side of the pictures in pixels")
    parser.add_argument("--short", type=int, default=128, help="short side of the pictures in the tars")
    parser.add_argument("--samples", type=int, default=1024, help="in the tars")
    parser.add_argument("--batch", type=int, default=64, help="pictures a step")
    parser.add_argument("--batches", type=int, default=3, help="of a turn")
    parser.add_argument("--rounds", type=int, default=6, help="of each side; of A B B A")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "train", help="folder")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    case = Case(name="pictures", size=args.size, short=args.short, quality=92)
    with tempfile.TemporaryDirectory() as folder:
        write_tars(Path(folder), case, pictures_of(args.photos), args.samples)
        found = measured(Path(folder), args.model, case, args.batch, args.batches, args.rounds, device)
    pack_us = packed(args.photos) if args.photos else []
    result = results.stamp() | {
        "study": "loop",
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": 1,
        "load": os.getloadavg(),
        "settings": {"model": args.model, "samples": args.samples, "batch": args.batch, "batches": args.batches}
        | {"case": asdict(case), "pictures": "photos" if args.photos else "made up"},
        "versions": {name: version(name) for name in ("torch", "open_clip_torch", "timm", "webdataset")},
        **found,
        "pack_us": pack_us,
    }
    print(table([result]))
    results.write(args.out, f"loop_{device.type}_{args.model}_{args.size}px_{args.batch}", result)
    return 0


def table(found: Sequence[dict[str, Any]]) -> str:
    """A line for each result: samples a second of both loops, and what share of them is input."""
    head = ["device", "model", "pixels", "batch", "ours, samples/s", "open_clip's", "times as fast", "95 %"]
    lines = []
    for result in found:
        settings, ratio = result["settings"], result["ratio"]
        us = {side: float(np.median(result["us"][side])) for side in SIDES}
        name = result["device"] if result["device"] != "cpu" else "CPU, one core"
        cells = [name, settings["model"], str(settings["case"]["size"]), str(settings["batch"])]
        cells += [f"{1e6 / us['ours']:.1f}", f"{1e6 / us['open_clip']:.1f}", f"**{ratio['value']:.2f}**"]
        cells += [f"{ratio['low']:.2f}–{ratio['high']:.2f}", f"{us['our input'] / us['ours']:.0%}"]
        cells += [f"{us[SIDES[3]] / us['open_clip']:.0%}"]
        lines.append(cells)
    return results.markdown([*head, "input of ours", "of open_clip's"], lines)


def measured(
    folder: Path, model: str, case: Case, batch: int, batches: int, rounds: int, device: torch.device
) -> dict[str, Any]:
    """Microseconds a sample of every side and turn, and the ratio of the two loops.

    Raises:
        GateFailed: the sides do not compute the same loss.
    """
    recipe = recipe_of("nano-scenes", {"model": model, "batch": batch, "precision": "fp32", "warmup": 100})
    losses = _losses(recipe, case.size, device)
    if not math.isclose(*losses, rel_tol=1e-4):
        raise GateFailed(f"the losses {losses[0]:.5f} and {losses[1]:.5f} differ: the sides do not compute the same")
    theirs = _Some(open_clip_input(folder, case.size, batch), batches, batch)
    sides = _sides(corpus(sorted(str(path) for path in folder.glob("*.tar"))), recipe, case, theirs, device)
    for run in sides.values():
        run(0)
    cpu: dict[str, list[float]] = {name: [] for name in SIDES}
    wall: dict[str, list[float]] = {name: [] for name in SIDES}
    for turn in range(1, rounds + 1):
        for name in SIDES if turn % 2 else SIDES[::-1]:
            begun = time.process_time(), time.perf_counter()
            sides[name](turn)
            cpu[name].append((time.process_time() - begun[0]) / (batch * batches) * 1e6)
            wall[name].append((time.perf_counter() - begun[1]) / (batch * batches) * 1e6)
    times = wall if device.type == "cuda" else cpu
    return {
        "clock": "wall" if device.type == "cuda" else "CPU time of the process",
        "loss": {"ours": losses[0], "open_clip": losses[1]},
        "us": times,
        "wall_us": wall,
        "ratio": asdict(ratio_of_medians(times["ours"], times["open_clip"])),
        "input_ratio": asdict(ratio_of_medians(times["our input"], times[SIDES[3]])),
    }


def packed(photos: Path, samples: int = 444, repeats: int = 3) -> list[float]:
    """CPU microseconds that packing takes of one photo as it is: read, decoded, scaled to short side 288, encoded."""
    found = []
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name) / "tars"
            folder.mkdir()
            write_tars(folder, CASES[0], pictures_of(photos), samples)
            begun = time.process_time()
            pack_shards(sorted(folder.glob("*.tar")), Path(name) / "packed", jobs=1)
            found.append((time.process_time() - begun) / samples * 1e6)
    return found


def _sides(
    found: Corpus, recipe: Recipe, case: Case, theirs: "_Some", device: torch.device
) -> dict[str, Callable[[int], object]]:
    stepper = Stepper(_weights(recipe.model), recipe, device)
    epoch = open_clip_epoch(_Named(_weights(recipe.model)).to(device), theirs, recipe, device)

    def ours(turn: int) -> None:
        loss = None
        for number, batch in enumerate(_loader(found, case.size, recipe.batch, turn, theirs.num_batches)):
            loss = stepper.step(batch, turn * theirs.num_batches + number).loss
        assert loss is not None
        float(loss)  # waits for the device

    def our_input(turn: int) -> None:
        for _ in _loader(found, case.size, recipe.batch, turn, theirs.num_batches):
            pass

    runs = (ours, lambda turn: epoch(), our_input, lambda turn: list(theirs))
    return dict(zip(SIDES, runs, strict=True))


def _loader(found: Corpus, size: int, batch: int, turn: int, batches: int) -> Loader:
    first = turn * batches
    return Loader(found, size=size, batch=batch, policy="alt", threads=1, start_step=first, steps=first + batches)


def _losses(recipe: Recipe, size: int, device: torch.device) -> tuple[float, float]:
    """Of the first step of each side, with the same weights, on one batch in memory."""
    batch = synthetic(recipe.batch, size)
    memory = Memory([(batch.images.float() / 255, batch.tokens[:, 0].long())])
    ours = float(Stepper(_weights(recipe.model), recipe, device).step(batch, 0).loss)
    return ours, open_clip_epoch(_Named(_weights(recipe.model)).to(device), memory, recipe, device)()


def _weights(model: str) -> Clip:
    config_of(model)
    return create(model, seed=0)


class _Named(nn.Module):
    """Towers of timm and open_clip behind the interface that open_clip's trainer has of its own models."""

    def __init__(self, clip: Clip) -> None:
        super().__init__()
        self.clip = clip

    @property
    def logit_scale(self) -> Tensor:
        return self.clip.logit_scale

    def forward(self, images: Tensor, ids: Tensor) -> dict[str, Tensor]:
        unit = nn.functional.normalize
        return {
            "image_features": unit(self.clip.encode_image(images), dim=-1),
            "text_features": unit(self.clip.encode_text(ids), dim=-1),
            "logit_scale": self.clip.logit_scale.exp(),
        }


class _Some:
    """So many batches at a time of an endless loader, as open_clip's trainer wants to be told."""

    def __init__(self, endless: Iterator[Any], batches: int, batch: int) -> None:
        self.endless, self.num_batches, self.num_samples = endless, batches, batches * batch

    def __iter__(self) -> Iterator[Any]:
        for _ in range(self.num_batches):
            yield next(self.endless)
