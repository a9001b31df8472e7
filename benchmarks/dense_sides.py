"""Dense models and their encoders as artifacts that a host can time: built, lowered once, kept with a known answer.

A side is called `mci2+semfpn@512` (a whole model), `mci2@512` (its encoder alone: four maps) or `…@480x640` (rows x
columns). All sides pass the same rules: fused, rewritten and lowered as `export` does for XNNPACK. Weights are drawn
from a seed, because latency does not depend on them; the known answer is that of the form that trains, so an artifact
is proved against timm's own network.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import limits
from export.dense_views import checked_size, dense_view
from export.manifest import sha256_of
from export.rewrites import rewrite
from export.targets import TARGETS
from export.to_executorch import loose_operators, lower_xnnpack
from export.views import InputSpec, OutputSpec, Statistics, View, card
from mobileclip import __version__
from mobileclip.config import config_of
from mobileclip.dense.config import DenseConfig, head_of
from mobileclip.dense.labels import default_labels
from mobileclip.dense.model import DenseModel, build
from mobileclip.errors import MobileClipError
from mobileclip.fuse import fuse
from mobileclip.models import seed_weights
from mobileclip.models.pyramid import Pyramid, build_pyramid

TARGET = "executorch-xnnpack"


@dataclass(frozen=True, kw_only=True)
class Side:
    """One of the two that are compared."""

    encoder: str
    """Key of `MODELS`."""
    head: str | None
    """Key of `HEADS`; None for the encoder alone."""
    size: tuple[int, int]
    """Rows and columns of the picture."""

    @property
    def name(self) -> str:
        """As `side_of` reads it."""
        rows, columns = self.size
        size = f"{rows}" if rows == columns else f"{rows}x{columns}"
        return f"{self.encoder}{'' if self.head is None else '+' + self.head}@{size}"


def side_of(name: str) -> Side:
    """The side called `name`.

    Raises:
        UnknownName: no such encoder or head.
        MobileClipError: not of the form above, or a size that is no multiple of 32.
    """
    match = re.fullmatch(r"([^+@]+)(?:\+([^@]+))?@(\d{1,4})(?:x(\d{1,4}))?", name)
    if match is None:
        raise MobileClipError(
            f"'{name}' names no side: write ENCODER+HEAD@SIZE or ENCODER@SIZE, such as mci2+semfpn@512 or mci2@480x640."
        )
    encoder, head, rows, columns = match.groups()
    config_of(encoder)
    if head is not None:
        head_of(head)
    return Side(encoder=encoder, head=head, size=checked_size((int(rows), int(columns or rows))))


class _Maps(nn.Module):
    """The four maps of an encoder as a tuple."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.encoder(x))


def built(side: Side) -> DenseModel | Pyramid:
    """The side with fresh weights, in evaluation, in the form that trains."""
    encoder = config_of(side.encoder)
    if side.head is None:
        return build_pyramid(encoder, side.size).eval()
    labels, ids = default_labels(head_of(side.head).task)
    config = DenseConfig(encoder=encoder, head=side.head, size=side.size, labels=labels, category_ids=ids)
    return build(config)


def deployed(model: DenseModel | Pyramid) -> nn.Module:
    """The side in the form that devices run."""
    return fuse(model) if isinstance(model, DenseModel) else model.deployed().eval().requires_grad_(False)


def view_of(side: Side, model: nn.Module, device: str = "cpu") -> View:
    """The graph of a side, from pixels 0..1 to its logits or maps; `model` is in either form."""
    if isinstance(model, DenseModel) and device == "cpu":
        return dense_view(model, "logits_quarter")
    tower: nn.Module = model if isinstance(model, DenseModel) else _Maps(model)
    picture = InputSpec(name="image", kind="image", shape=(1, 3, *side.size), dtype="float32", colour="RGB")
    map_ = OutputSpec(name="map", shape=(), dtype="float32", meaning="map of the pyramid, finest first")
    outputs = [replace(map_, name=f"map{index}") for index in range(1 if isinstance(model, DenseModel) else 4)]
    view = View("dense", tower, picture, outputs, card(*side.size).to(device))
    pre = config_of(side.encoder).preprocess
    if pre.normalises:
        view.statistics = Statistics(pre).to(device)
    return view.eval().requires_grad_(False)


def counted(side: Side) -> dict[str, Any]:
    """Parameters and multiply-accumulates of one picture, without computing anything.

    `params` are those of the form that trains, as papers count them; `macs` those of products and convolutions, as the
    deployed form runs them; `products` [[M, K, N, times], …] the dense layers among them.
    """
    with torch.device("meta"):
        model = built(side)
    fused = deployed(model)
    view = view_of(side, fused, "meta").to("meta")
    found = limits.products(view)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        view(view.example)
    return {
        "params": sum(p.numel() for p in model.parameters()),
        "deployed_params": sum(p.numel() for p in fused.parameters()),
        "macs": counter.get_total_flops() // 2,
        "products": [[*product, times] for product, times in found.items()],
    }


def lowered(side: Side, cache: Path, progress: Callable[[str], None] = lambda line: None) -> Path:
    """Folder with the side's artifact, its known answer and what is known of it (`told`); made where it is not there.

    A change of the code of this toolkit is not noticed: what is in the cache stays what it was, and its note tells its
    hash; delete the folder to make it again.
    """
    folder = cache / f"dense-{side.name}-{__version__}"
    if (folder / "note.json").is_file():
        return folder
    progress(f"lowering {side.name}, once")
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    start = time.perf_counter()
    model = built(side)
    seed_weights(model, 0)
    example = _write_answer(side, model, partial)
    fused = deployed(model)
    del model
    view = rewrite(view_of(side, fused), TARGETS[TARGET].rewrites)
    del fused
    assert isinstance(view, View)
    view.example = example
    path = partial / f"model{TARGETS[TARGET].suffix}"
    found = lower_xnnpack(view, path, "apple")
    note = {
        "name": side.name,
        "file": path.name,
        "sha256": sha256_of(path),
        "bytes": path.stat().st_size,
        "delegates": found.delegates,
        "loose": loose_operators(found),
        "lowering_s": time.perf_counter() - start,
        **counted(side),
    }
    (partial / "note.json").write_text(json.dumps(note, indent=1) + "\n")
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(partial, folder)
    return folder


def told(folder: Path) -> dict[str, Any]:
    """What is known of an artifact."""
    note: dict[str, Any] = json.loads((folder / "note.json").read_text())
    return note


def answer(folder: Path) -> tuple[npt.NDArray[Any], list[npt.NDArray[Any]]]:
    """The known answer of an artifact: input, outputs in order."""
    outputs = sorted(folder.glob("output*.npy"))
    return np.load(folder / "input.npy", allow_pickle=False), [np.load(file, allow_pickle=False) for file in outputs]


def floor_ms(note: Mapping[str, Any], threads: int, repeats: int = 5) -> float:
    """The time of the dense layers alone, as this machine multiplies matrices now (benchmarks/limits.py)."""
    products = Counter({(m, k, n): times for m, k, n, times in note["products"]})
    return limits.gemm_floor_ms(products, threads, repeats)


def peak_memory(folder: Path, threads: int) -> dict[str, float]:
    """MiB that a process needs for one artifact: `runtime` before it is loaded, `peak` after two runs."""
    files = [str(folder / told(folder)["file"]), str(folder / "input.npy")]
    command = [sys.executable, "-m", "benchmarks.peak", *files, TARGET, str(threads)]
    out = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1])
    found: dict[str, float] = json.loads(out.stdout.strip().splitlines()[-1])
    return found


def _write_answer(side: Side, model: DenseModel | Pyramid, folder: Path) -> Tensor:
    """Write the known answer of the form that trains; returns its input."""
    view = view_of(side, model)
    np.save(folder / "input.npy", view.example.numpy())
    for index, output in enumerate(view.answer(view.example)):
        np.save(folder / f"output{index}.npy", output)
    return view.example
