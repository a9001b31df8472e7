"""Which block gets which precision: a fixed rule (`mixed`), or the cheapest that keeps the gate (`auto`).

`auto` takes the errors of blocks for additive (Lagrange): at a price λ each block has the precision with the smallest
cost + λ x error. λ is bisected on what really comes out with such an assignment on inputs that calibration has not
seen, then single blocks are made cheaper as long as the gate is kept. Every step is in the trace.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from export.blocks import blocks_of
from export.gates import LIMITS, Limits, judge, measure
from export.pictures import LEAST, Calibration, apart, pictures
from export.rewrites import rewrite
from export.sensitivity import Table, sensitivities
from export.subjects import subject_of
from export.targets import OUTPUTS, TARGETS, Kind, Precision, Quantisation, Request, searched
from export.variants import Assignment, Integers, Variants, Weights
from export.views import View
from mobileclip.dense.checkpoint import is_dense
from mobileclip.errors import MobileClipError

_BITS: Mapping[Precision, float] = {
    "fp32": 32,
    "fp16": 16,
    "w8": 8,
    "w8a8": 8,
    "w8p": 8,
    "w6p": 6,
    "w4p": 4,
    "w6pj": 6,
    "w4pj": 4,
}
_INTEGER_TIME = 0.4
"""Time of an 8-bit operator over that of a 32-bit one, about; it only weighs blocks against each other."""
_EVALUATIONS = 12
SHARES = (2, 4, 8)
"""Parts of the gate's loss that a search allows itself, one after the other until the artifact keeps the gate."""
SENSED = 8
"""Held-out inputs that sensitivities are measured on."""
DYNAMIC = frozenset({"executorch-xnnpack"})
"""Targets that can quantise activations as they come."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """One assignment that was tried."""

    changed: Mapping[str, Precision]
    """Blocks that do not have the cheapest precision."""
    cost: float
    """Over that of all floats: of weights in bits, or of arithmetic where activations are integers too."""
    numbers: Mapping[str, float]
    """What the gate is held against (`export.gates.measure`)."""
    passed: bool


@dataclass(frozen=True, kw_only=True)
class Assigned:
    """What `automatic` found."""

    blocks: Mapping[str, Precision]
    """Of every block."""
    trace: tuple[Step, ...]
    passed: bool
    """Whether it keeps the limit; where nothing but floats does, it is all floats."""

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def mixed(view: View, target: str) -> dict[str, Precision]:
    """The rule that holds for this family: what sees raw pixels and what makes the embedding keeps more bits.

    For Core ML palettes of 64 values, and 8 bits where there are few weights: stem, last convolution and head. For
    integers: stem and head in floats, which cost 3 % of the time.
    """
    coreml = "coreml" in target
    ends: Precision = "w8" if coreml else "fp32"
    rest: Precision = "w6p" if coreml else "w8a8"
    return {block: ends if _end(block) else rest for block in blocks_of(view)}


def _end(block: str) -> bool:
    return block.split(".")[-1] == "head" or "stem" in block.split(".") or "final" in block.split(".")


def automatic(
    view: View,
    variants: Variants,
    table: Table,
    inputs: Sequence[Tensor],
    limits: Limits,
    *,
    texts: npt.NDArray[Any] | None = None,
    most: int = _EVALUATIONS,
) -> Assigned:
    """The cheapest assignment that keeps `limits` on `inputs`.

    Args:
        table: of the same variants.
        texts: embeddings of texts [T, E] among which the best must stay, for views that give embeddings.
        most: assignments that are tried at most for λ, and as many again for single blocks.
    """
    search = _Search(view, variants, table, inputs, limits, texts)
    if search.tried(search.at(0.0)).passed:
        return search.best()
    low, high = 1e-3, 1e9
    for _ in range(most):
        middle = float(np.sqrt(low * high))
        if search.tried(search.at(middle)).passed:
            high = middle
        else:
            low = middle
    search.refine(most)
    return search.best()


class _Variant(nn.Module):
    """A view under one assignment, as `measure` takes it."""

    def __init__(self, variants: Variants, assignment: Assignment) -> None:
        super().__init__()
        self.variants, self.assignment = variants, assignment

    def forward(self, x: Tensor) -> list[Tensor]:
        """Every output in order."""
        return [torch.from_numpy(item.copy()) for item in self.variants.answer(x, self.assignment)]


class _Search:
    def __init__(
        self,
        view: View,
        variants: Variants,
        table: Table,
        inputs: Sequence[Tensor],
        limits: Limits,
        texts: npt.NDArray[Any] | None,
    ) -> None:
        self.view, self.variants, self.inputs, self.limits, self.texts = view, variants, inputs, limits, texts
        self.specs = [spec.as_dict() for spec in view.outputs]
        self.options = variants.options
        floats = self.options[-1]
        self.blocks = list(dict.fromkeys(row.block for row in table.rows))
        integers = "w8a8" in self.options
        units = {row.block: float(row.macs if integers else row.weights) for row in table.rows}
        total = sum(units.values()) or 1.0
        self.costs: dict[tuple[str, Precision], float] = {}
        self.errors: dict[tuple[str, Precision], float] = {}
        for block in self.blocks:
            for option in self.options:
                relative = _INTEGER_TIME if option == "w8a8" else 1.0 if integers else _BITS[option] / _BITS[floats]
                self.costs[block, option] = units[block] / total * relative
            self.errors[block, floats] = 0.0
        for row in table.rows:
            self.errors[row.block, row.precision] = row.alone
        self.seen: dict[tuple[Precision, ...], Step] = {}

    def at(self, price: float) -> dict[str, Precision]:
        return {
            block: min(self.options, key=lambda o: (self.costs[block, o] + price * self.errors[block, o], -_BITS[o]))
            for block in self.blocks
        }

    def tried(self, assignment: Assignment) -> Step:
        key = tuple(assignment[block] for block in self.blocks)
        if key not in self.seen:
            numbers = measure(_Variant(self.variants, assignment), self.view, self.inputs, self.specs, texts=self.texts)
            verdict = judge(numbers, self.limits, pictures=len(self.inputs))
            cheapest = self.at(0.0)
            self.seen[key] = Step(
                changed={block: option for block, option in assignment.items() if option != cheapest[block]},
                cost=sum(self.costs[block, option] for block, option in assignment.items()),
                numbers=numbers,
                passed=verdict.passed,
            )
        return self.seen[key]

    def refine(self, most: int) -> None:
        """Make single blocks cheaper, the dearest for their error first."""
        best = dict(self.best().blocks)
        for _ in range(most):
            cheaper = [
                (self.costs[block, best[block]] - self.costs[block, option], block, option)
                for block in self.blocks
                for option in self.options
                if self.costs[block, option] < self.costs[block, best[block]]
                and tuple({**best, block: option}[b] for b in self.blocks) not in self.seen
            ]
            if not cheaper:
                return
            gain = {
                (block, option): saved / max(self.errors[block, option] - self.errors[block, best[block]], 1e-12)
                for saved, block, option in cheaper
            }
            block, option = max(gain, key=lambda item: gain[item])
            candidate = {**best, block: option}
            if self.tried(candidate).passed:
                best = candidate

    def best(self) -> Assigned:
        passing = [(step.cost, key) for key, step in self.seen.items() if step.passed]
        floats = tuple(self.options[-1] for _ in self.blocks)
        key = min(passing)[1] if passing else floats
        blocks = dict(zip(self.blocks, key, strict=True))
        return Assigned(blocks=blocks, trace=tuple(self.seen.values()), passed=bool(passing))


def chosen(
    view: View,
    target: str,
    request: Request,
    inputs: Sequence[Tensor],
    held_out: Sequence[Tensor],
    texts: npt.NDArray[Any] | None = None,
    share: int = SHARES[0],
    say: Callable[[str], None] = lambda line: None,
) -> tuple[Quantisation, dict[str, Any]]:
    """(how `view` is quantised, what the manifest tells of the choice).

    Args:
        request: one precision, `mixed`, or `auto`, which measures sensitivities on `held_out` and searches.
        inputs: of the view, for ranges.
        texts: embeddings [T, E] among which the best must stay.
        share: the search allows itself one such part of the loss that the gate does.
    """
    if request != "mixed" and request != "auto":
        return Quantisation(precision=request, inputs=inputs, dynamic=target in DYNAMIC), {}
    if request == "mixed" or not held_out:
        blocks = mixed(view, target)
        return _by_block(blocks, inputs, target), {"blocks": blocks}
    variants, table = _sensed(view, target, inputs, held_out, say)
    found = automatic(view, variants, table, held_out, _tightened(LIMITS["auto"], share), texts=texts)
    told = {"blocks": dict(found.blocks), "search": found.as_dict()["trace"], "sensitivity": table.as_dict()}
    return _by_block(found.blocks, inputs, target), told


def _tightened(limits: Limits, share: int) -> Limits:
    """One `share`-th of the loss that limits allow: held-out pictures are few, and the gate may be held on others."""
    kept = ("cosine_mean", "cosine_p1", "agreement", "index", "labels", "objects")
    tighter = {name: 1 - (1 - getattr(limits, name)) / share for name in kept}
    return replace(limits, depth=limits.depth / share, **tighter)


def _sensed(
    view: View, target: str, inputs: Sequence[Tensor], held_out: Sequence[Tensor], say: Callable[[str], None]
) -> tuple[Variants, Table]:
    options = searched(TARGETS[target])
    variants: Variants = Integers(view, inputs) if options == ("w8a8",) else Weights(view, options, inputs)
    key = f"{target} {len(inputs)} " + hashlib.sha256(b"".join(x.numpy().tobytes() for x in inputs)).hexdigest()
    return variants, sensitivities(view, variants, held_out[:SENSED], key=key, say=say)


def measured(
    model: str, target: str, calibration: str | Path, *, view: Kind, say: Callable[[str], None] = lambda line: None
) -> Table:
    """Sensitivities of a checkpoint's view, rewritten for a target.

    Args:
        model: what `export` takes.
        calibration: pictures; every fourth is held out and measured on.
        view: of an image-text model; a dense model has one.

    Raises:
        MobileClipError: too few pictures to hold any out.
    """
    dense = is_dense(model)
    subject = subject_of(model, preset="apple", output=OUTPUTS[0], size=None, heads=(), views=None if dense else [view])
    ((kind, found),) = subject.deployed().items()
    changed = rewrite(found, TARGETS[target].rewrites)
    assert isinstance(changed, View)
    inputs, held_out = apart(Calibration.of(calibration).inputs(pictures(subject.about(), kind)))
    if not held_out:
        raise MobileClipError(f"{calibration} holds too few pictures to hold any out: give {2 * LEAST} or more.")
    return _sensed(changed, target, inputs, held_out, say)[1]


def _by_block(blocks: Mapping[str, Precision], inputs: Sequence[Tensor], target: str) -> Quantisation:
    common = max(blocks.values(), key=list(blocks.values()).count)
    others = {block: precision for block, precision in blocks.items() if precision != common}
    return Quantisation(precision=common, blocks=others, inputs=inputs, dynamic=target in DYNAMIC)
