"""A training step of MobileCLIP-S2 against open_clip's trainer: same device, batch, pixels, precision and arithmetic.

    python -m benchmarks step --size 128 --batch 8

open_clip's side is its own `train_one_epoch` over a loader of one batch that is in memory, with its model and its
optimiser; ours is `Stepper.step` with the same weights and the same batch. Neither reads data. Both sides run in this
process, interleaved A B B A, and must agree on the loss before they are timed. On a CPU one thread is measured, in CPU
time of the process: neighbours on the machine disturb it less than the clock on the wall, which is kept too. On a GPU
the model FLOPs utilisation is told as well (against the peak given with --peak-tflops), and the largest batch that fits
(--largest).
"""

import argparse
import logging
import math
import time
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import results
from benchmarks.timing import ratio_of_medians, timed
from mobileclip.config import config_of
from mobileclip.data.batches import Batch
from mobileclip.errors import GateFailed
from mobileclip.models import Clip, create
from mobileclip.recipes import Recipe, recipe_of
from mobileclip.tokenizer import END, START
from mobileclip.train_step import Stepper

_WORDS = 18  # tokens of a caption: the mean of web text (CapsFusion's samples)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print a table, write a result."""
    parser = argparse.ArgumentParser(prog="benchmarks step", description=__doc__.partition("\n")[0])
    parser.add_argument("--batch", type=int, default=8, help="pictures a step")
    parser.add_argument("--size", type=int, default=128, help="side of the pictures in pixels")
    parser.add_argument("--rounds", type=int, default=6, help="A B B A rounds")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="of both sides")
    parser.add_argument("--compile", action="store_true", help="torch.compile on our side (theirs has the option too)")
    parser.add_argument("--peak-tflops", type=float, default=0.0, help="of the device, for the utilisation")
    parser.add_argument("--largest", action="store_true", help="find the largest batch that fits (GPU)")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "train", help="folder")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    recipe = recipe_of("mci2-scratch", {"batch": args.batch, "precision": args.precision, "compile": args.compile})
    batch = synthetic(args.batch, args.size)
    ours, theirs = _ours(recipe, batch, device), _theirs(recipe, batch, device)
    first = [ours(), theirs()]
    if not math.isclose(first[0], first[1], rel_tol=2e-2 if args.precision == "bf16" else 1e-4):
        raise GateFailed(f"the losses {first[0]:.5f} and {first[1]:.5f} differ: the sides do not compute the same")
    for run in (ours, theirs):
        run()
    times: tuple[list[float], list[float]] = ([], [])
    wall: tuple[list[float], list[float]] = ([], [])
    for index in range(4 * args.rounds):
        side = (0, 1, 1, 0)[index % 4]
        start = time.process_time()
        wall[side].append(timed((ours, theirs)[side]))
        times[side].append(wall[side][-1] if device.type == "cuda" else (time.process_time() - start) * 1e3)
    ratio = ratio_of_medians(tuple(times[0]), tuple(times[1]))
    flops = _flops(args.size) * args.batch
    result = results.stamp() | {
        "study": "step",
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "settings": {"batch": args.batch, "size": args.size, "precision": args.precision, "compile": args.compile},
        "versions": {name: version(name) for name in ("torch", "open_clip_torch", "timm")},
        "loss": {"ours": first[0], "open_clip": first[1]},
        "clock": "wall" if device.type == "cuda" else "CPU time of the process",
        "ours_ms": times[0],
        "open_clip_ms": times[1],
        "ours_wall_ms": wall[0],
        "open_clip_wall_ms": wall[1],
        "ratio": asdict(ratio),
        "tflop": flops / 1e12,
        "peak_tflops": args.peak_tflops or None,
        "largest_batch": _largest(recipe, args.size, device) if args.largest and device.type == "cuda" else None,
    }
    print(table([result]))
    name = f"step_{device.type}_{args.precision}_{args.size}px_{args.batch}{'_compile' if args.compile else ''}"
    results.write(args.out, name, result)
    return 0


def table(found: Sequence[dict[str, Any]]) -> str:
    """A line for each result."""
    lines = [
        "| device | batch | pixels | precision | ours, images/s | open_clip's | times as fast | 95 % | TFLOP/s |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for result in found:
        settings, ratio = result["settings"], result["ratio"]
        ours, theirs = (float(np.median(result[side])) / 1e3 for side in ("ours_ms", "open_clip_ms"))
        speed = result["tflop"] / ours
        share = f" ({speed / result['peak_tflops']:.0%} of peak)" if result["peak_tflops"] else ""
        name = result["device"] if result["device"] != "cpu" else "CPU, one core"
        lines.append(
            f"| {name} | {settings['batch']} | {settings['size']} | {settings['precision']} | "
            f"{settings['batch'] / ours:.2f} | {settings['batch'] / theirs:.2f} | **{ratio['value']:.2f}** | "
            f"{ratio['low']:.2f}–{ratio['high']:.2f} | {speed:.2f}{share} |"
        )
    return "\n".join(lines)


def synthetic(count: int, size: int) -> Batch:
    """Noise with captions of random tokens, as a loader would deliver it."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.zeros(count, 1, 77, dtype=torch.int32)
    tokens[:, :, 0], tokens[:, :, _WORDS + 1] = START, END
    tokens[:, :, 1 : _WORDS + 1] = torch.randint(
        1000, 40000, (count, 1, _WORDS), generator=generator, dtype=torch.int32
    )
    return Batch(
        images=torch.randint(0, 256, (count, 3, size, size), generator=generator, dtype=torch.uint8),
        tokens=tokens,
        text_weight=torch.ones(count, 1),
        text_hash=torch.arange(count)[:, None],
        image_id=torch.arange(count),
        source=np.zeros((count, 1), np.uint8),
        teacher_image=None,
        teacher_text=None,
        keys=[str(index) for index in range(count)],
        step=0,
        epoch=0,
    )


def _ours(recipe: Recipe, batch: Batch, device: torch.device) -> Callable[[], float]:
    stepper = Stepper(_weights(), recipe, device)
    step = 0

    def run() -> float:
        nonlocal step
        figures = stepper.step(batch, step)
        step += 1
        return float(figures.loss)

    return run


def _theirs(recipe: Recipe, batch: Batch, device: torch.device) -> Callable[[], float]:
    name = config_of(recipe.model).open_clip
    model = open_clip.create_model(name, output_dict=True).to(device)
    model.load_state_dict({_renamed(key): value for key, value in _weights().state_dict().items()})
    return open_clip_epoch(model, Memory([(batch.images.float() / 255, batch.tokens[:, 0].long())]), recipe, device)


def open_clip_epoch(model: torch.nn.Module, loader: Any, recipe: Recipe, device: torch.device) -> Callable[[], float]:
    """`open_clip_train.train.train_one_epoch` over a loader, again and again; each gives the loss of its last step.

    Args:
        model: gives a dict of features, as open_clip's with `output_dict`.
        loader: yields (pictures, ids), with `num_batches` and `num_samples`.
    """
    from open_clip_train.train import train_one_epoch

    logging.disable(logging.INFO)
    plain = [p for key, p in model.named_parameters() if p.ndim < 2 or "bn" in key or "ln" in key or "bias" in key]
    rest = [p for p in model.parameters() if all(p is not other for other in plain)]
    groups: list[dict[str, Any]] = [{"params": plain, "weight_decay": 0.0}, {"params": rest, "weight_decay": 0.2}]
    optimiser = torch.optim.AdamW(groups, lr=recipe.lr, betas=recipe.betas, eps=recipe.eps)
    args = Namespace(
        device=str(device),
        precision="amp_bf16" if recipe.precision == "bf16" else "fp32",
        distill=False,
        accum_freq=1,
        skip_scheduler=False,
        horovod=False,
        grad_clip_norm=recipe.clip,
        rank=0,
        local_rank=0,
        log_local=False,
        log_every_n_steps=1,
        world_size=1,
        batch_size=recipe.batch,
        wandb=False,
    )
    data = {"train": _Epoch(loader)}
    loss = _Watched(open_clip.ClipLoss())
    step = 0

    def schedule(_: int) -> None:
        for group in optimiser.param_groups:
            group["lr"] = recipe.lr * (step + 1) / recipe.warmup

    def run() -> float:
        nonlocal step
        train_one_epoch(model, data, loss, 0, optimiser, None, schedule, None, args)
        step += int(loader.num_batches)
        return loss.last

    return run


class _Epoch:
    """Data of open_clip's kind."""

    def __init__(self, loader: Any) -> None:
        self.dataloader = loader

    def set_epoch(self, epoch: int) -> None:
        """Nothing is shuffled."""


class Memory(list[tuple[torch.Tensor, torch.Tensor]]):
    """A loader of batches that are in memory."""

    @property
    def num_batches(self) -> int:
        return len(self)

    @property
    def num_samples(self) -> int:
        return sum(len(batch[0]) for batch in self)


class _Watched(torch.nn.Module):
    """A loss that remembers its value."""

    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner, self.last = inner, math.nan

    def forward(self, **values: Any) -> dict[str, torch.Tensor]:
        losses: dict[str, torch.Tensor] = self.inner(**values)
        self.last = sum(float(value.detach()) for value in losses.values())
        return losses


def _weights() -> Clip:
    torch.manual_seed(0)
    return create("mobileclip_s2")


def _renamed(name: str) -> str:
    """Our name of a weight -> open_clip's."""
    return "visual.trunk." + name.removeprefix("image.") if name.startswith("image.") else name


def _flops(size: int) -> float:
    """Of forward and backward of one pair: three times the forward pass that torch counts.

    Torch 2.14 counts what goes back through a depthwise convolution as if it were dense, which would make it nine times
    the forward pass.
    """
    clip = create("mobileclip_s2").train().to("meta")
    images, ids = torch.zeros(2, 3, size, size, device="meta"), torch.zeros(2, 77, dtype=torch.int32, device="meta")
    with FlopCounterMode(display=False) as counter:
        clip(images, ids)
    return 3 * float(counter.get_total_flops()) / 2


def _largest(recipe: Recipe, size: int, device: torch.device) -> int:
    """The largest multiple of 16 of which one step fits into the memory of the GPU, by bisection."""
    low, high = 0, 4096
    while high - low > 16:
        count = (low + high) // 32 * 16
        try:
            stepper = Stepper(_weights(), recipe, device)
            stepper.step(synthetic(count, size), 0)
            low = count
        except torch.cuda.OutOfMemoryError:
            high = count
        stepper = None  # type: ignore[assignment]
        torch.cuda.empty_cache()
        time.sleep(0.1)
    return low
