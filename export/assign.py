"""Which block gets which precision: a fixed rule (`mixed`), or the cheapest that keeps the gate (`auto`).

`auto` takes the errors of blocks for additive (Lagrange): at a price λ each block has the precision with the smallest
cost + λ x error. λ is bisected on what really comes out with such an assignment on inputs that calibration has not
seen, then single blocks are made cheaper as long as the gate is kept. Every step is in the trace.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from export.blocks import blocks_of
from export.parity import compare_outputs, worst
from export.pictures import LEAST, Calibration, apart, pictures
from export.rewrites import rewrite
from export.sensitivity import Table, sensitivities
from export.subjects import subject_of
from export.targets import OUTPUTS, QUANTISED, TARGETS, Kind, Precision, Quantisation, Request, searched
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
SENSED = 8
"""Held-out inputs that sensitivities are measured on."""
DYNAMIC = frozenset({"executorch-xnnpack"})
"""Targets that can quantise activations as they come."""
P1_BELOW = 0.02
"""How far the first percentile of cosines may be below what their mean must reach."""


@dataclass(frozen=True, kw_only=True)
class Limit:
    """What an assignment must keep on held-out inputs."""

    cosine: float
    """Mean of the cosines of the worst output; of labels, of the shares that agree."""
    p1: float
    """First percentile of the same."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """One assignment that was tried."""

    changed: Mapping[str, Precision]
    """Blocks that do not have the cheapest precision."""
    cost: float
    """Over that of all floats: of weights in bits, or of arithmetic where activations are integers too."""
    cosine: float
    p1: float
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
    view: View, variants: Variants, table: Table, inputs: Sequence[Tensor], limit: Limit, *, most: int = _EVALUATIONS
) -> Assigned:
    """The cheapest assignment that keeps `limit` on `inputs`.

    Args:
        table: of the same variants.
        most: assignments that are tried at most for λ, and as many again for single blocks.
    """
    search = _Search(view, variants, table, inputs, limit)
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


class _Search:
    def __init__(self, view: View, variants: Variants, table: Table, inputs: Sequence[Tensor], limit: Limit) -> None:
        self.variants, self.inputs, self.limit = variants, inputs, limit
        self.specs = [spec.as_dict() for spec in view.outputs]
        self.references = [view.answer(x) for x in inputs]
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
            found = [
                worst(compare_outputs(self.variants.answer(x, assignment), reference, self.specs)).cosine
                for x, reference in zip(self.inputs, self.references, strict=True)
            ]
            cosine, p1 = float(np.mean(found)), float(np.percentile(found, 1))
            cheapest = self.at(0.0)
            self.seen[key] = Step(
                changed={block: option for block, option in assignment.items() if option != cheapest[block]},
                cost=sum(self.costs[block, option] for block, option in assignment.items()),
                cosine=cosine,
                p1=p1,
                passed=cosine >= self.limit.cosine and p1 >= self.limit.p1,
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
    say: Callable[[str], None] = lambda line: None,
) -> tuple[Quantisation, dict[str, Any]]:
    """(how `view` is quantised, what the manifest tells of the choice).

    Args:
        request: one precision, `mixed`, or `auto`, which measures sensitivities on `held_out` and searches.
        inputs: of the view, for ranges.
    """
    if request != "mixed" and request != "auto":
        return Quantisation(precision=request, inputs=inputs, dynamic=target in DYNAMIC), {}
    if request == "mixed" or not held_out:
        blocks = mixed(view, target)
        return _by_block(blocks, inputs, target), {"blocks": blocks}
    variants, table = _sensed(view, target, inputs, held_out, say)
    gate = QUANTISED["auto"]
    found = automatic(view, variants, table, held_out, Limit(cosine=gate.cosine, p1=gate.cosine - P1_BELOW))
    told = {"blocks": dict(found.blocks), "search": found.as_dict()["trace"], "sensitivity": table.as_dict()}
    return _by_block(found.blocks, inputs, target), told


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
