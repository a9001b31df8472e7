"""Run a Core ML program where Core ML is not: an interpreter of .mlpackage files (ML Programs) in torch.

    program = Program.load("image.mlpackage")
    print(program.inputs, program.ops)
    audit = Audit()
    embedding = program.run({"image": picture}, fp16=True, audit=audit)["final_emb_1"]
    print(audit.overflows, audit.table(top=5))

It answers on Linux what otherwise needs a Mac: does this file still compute the model, how far did 8-bit weights or a
palette move it, and would an activation leave fp16's range on the Neural Engine. It says nothing about speed.

Unusual here: there are two arithmetics. By default weights are taken as they are stored (fp16, decoded 8-bit, ...) and
all arithmetic is float32; casts between float widths change nothing, so that what differs from the eager model is the
fault of weights and graph alone. With `fp16=True` every float tensor (inputs, constants, outputs of operators) is
rounded to fp16, as the Neural Engine stores them; sums inside of one operator stay float32; overflow shows as inf. A
program that is fp16 in parts says by its types what stays float32: that is neither rounded nor audited then.

Every computed shape is compared with the shape that the program declares, so that a wrong operator is noticed where it
is. The file is read by `export/mil_package.py`, the operators are in `export/mil_ops.py` and `export/mil_layers.py`.
Control flow, states, lists and random operators are refused when the program is loaded.
"""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from export.mil_features import Feature, describe, fit
from export.mil_ops import LEFT_OUT, MOVES, OPS, Op
from export.mil_package import (
    DECODERS,
    FOREIGN,
    MAX_ELEMENTS,
    Constant,
    Package,
    data_type,
    declared_shape,
    first,
    one_sentence,
    open_package,
    printable,
)
from mobileclip.errors import ArtifactError, UnknownName

FP16_LARGEST = 65504.0
FP16_SMALLEST_NORMAL = 2.0**-14

Argument: TypeAlias = Tensor | str | list[str] | list[Tensor]
Reference: TypeAlias = str | list[str]

# The inputs that MIL calls tuples, always passed as lists.
_TUPLES = frozenset({"values", "ref_tensors", "begins", "ends", "end_masks"})


@dataclass(frozen=True, kw_only=True)
class Row:
    """What an audit saw of one operator, over all of its outputs and runs."""

    name: str
    op: str
    shape: tuple[int, ...]
    largest: float
    "Largest magnitude, NaN left out; inf where a value is infinite."
    not_finite: int
    "Values that are inf or NaN."
    tiny: int
    "Values other than zero below fp16's smallest normal number, 6.1e-5: fp16 holds them less exactly or not at all."
    count: int
    "Values seen."

    @property
    def overflow(self) -> bool:
        """True if a value cannot be held in fp16: above 65504, infinite, or not a number."""
        return self.largest > FP16_LARGEST or self.not_finite > 0


@dataclass
class Audit:
    """The range of every float tensor of the runs that it is given to: inputs and outputs of operators.

    Operators that only move numbers (reshape, concat, relu, ...) are left out: what they hold was seen before.
    """

    rows: dict[str, Row] = field(default_factory=dict)
    "By operator name, in the order of the program."

    def observe(self, name: str, op: str, values: Tensor) -> None:
        """Add a tensor of any shape; integers and truth values have no range to audit."""
        if not values.is_floating_point() or not values.numel():
            return
        low, high = (float(v) for v in values.aminmax())
        largest, bad = max(-low, high), 0
        if not math.isfinite(largest):
            bad = values.numel() - int(values.isfinite().count_nonzero())
            largest = float(values.abs().nan_to_num(nan=0.0, posinf=math.inf).max())
        zeros = values.numel() - int(values.count_nonzero())
        tiny = int((values.abs() < FP16_SMALLEST_NORMAL).count_nonzero()) - zeros
        old = self.rows.get(name)
        self.rows[name] = Row(
            name=name,
            op=op,
            shape=tuple(values.shape),
            largest=max(largest, old.largest if old else 0.0),
            not_finite=bad + (old.not_finite if old else 0),
            tiny=tiny + (old.tiny if old else 0),
            count=values.numel() + (old.count if old else 0),
        )

    def table(self, top: int = 20) -> list[Row]:
        """The `top` operators of the largest magnitudes, largest first."""
        return sorted(self.rows.values(), key=lambda row: (row.largest, row.not_finite), reverse=True)[:top]

    @property
    def overflows(self) -> list[str]:
        """Names of the operators with a value that fp16 cannot hold, in the order of the program."""
        return [row.name for row in self.rows.values() if row.overflow]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Step:
    """One operator, ready to be called: names for tensors, and which tensors nobody needs after it."""

    name: str
    op: str
    function: Op
    arguments: dict[str, Reference]
    outputs: tuple[str, ...]
    shapes: tuple[tuple[int, ...] | None, ...]
    wide: tuple[bool, ...]
    "Which outputs are declared as float32."
    frees: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Program:
    """A function of an ML Program, loaded. Make it with `Program.load`."""

    name: str
    "File name of the package, for messages."
    inputs: tuple[Feature, ...]
    outputs: tuple[Feature, ...]
    ops: dict[str, int]
    "How many operators of each type, constants left out; most frequent first."
    max_rank: int
    "Largest number of axes of any computed tensor; the Neural Engine prefers 4, and takes at most 5."
    half: bool
    "Whether any computed tensor is declared as float16; a program without runs in float32 on a device."
    weight_bytes: int
    "Bytes of stored weights that this function uses, as compressed as they are."
    compressed: Mapping[str, str]
    "Constants that were decoded when the program was loaded, by name, and what they are stored as (`UINT6`, `INT8`)."
    _steps: tuple[_Step, ...] = field(repr=False)
    _constants: dict[str, Argument] = field(repr=False)
    _wide: frozenset[str] = field(repr=False)
    "Constants that are stored wider than fp16."

    @classmethod
    def load(cls, path: str | Path, function: str = "main") -> "Program":
        """Read a package.

        Raises ArtifactError for a path that is no ML Program, a damaged or hostile file, or operators that are not
        known (all of them in one message); UnknownName for a function that the program does not have.
        """
        with one_sentence():
            package = open_package(path)
            functions = package.spec.mlProgram.functions
            if function not in functions:
                raise UnknownName("function", function, map(printable, functions))
            body = functions[function]
            if body.opset not in body.block_specializations:
                raise ArtifactError(
                    f"{package.path.name}: function '{function}' has no body for its opset '{body.opset}'."
                )
            block = body.block_specializations[body.opset]
            try:
                _refuse_unknown(package, body, block)
                return _compile(package, function, body, block)
            except ArtifactError:
                raise
            except FOREIGN as error:
                raise ArtifactError(
                    f"{package.path.name} cannot be read ({first(error)}): the package is damaged; "
                    "copy or export it again."
                ) from error

    def constant(self, name: str) -> Tensor:
        """A constant that an operator uses, decoded; float32, int64 or bool.

        Raises ArtifactError where there is none of that name.
        """
        value = self._constants.get(name)
        if not isinstance(value, Tensor):
            raise ArtifactError(f"{self.name} has no constant tensor '{printable(name)}' that an operator uses.")
        return value

    @torch.no_grad()
    def run(self, feeds: Mapping[str, Any], *, fp16: bool = False, audit: Audit | None = None) -> dict[str, Tensor]:
        """Compute the outputs.

        Args:
            feeds: one value per input. Tensors: torch or numpy, of the input's shape and kind of number. Images: uint8
                RGB [H, W, 3] (numpy, torch or PIL), or 0..255 RGB [1, 3, H, W], whatever order of channels the program
                wants; its own scale and bias follow. Grey images: [H, W] or [1, 1, H, W].
            fp16: round every float tensor to fp16, as the Neural Engine stores it; of a program that declares some
                tensors as float16, all but those that it declares as float32.
            audit: collects the range of every operator's output.

        Returns: float32, int64 or bool tensors by output name, whatever widths the program declares.
            Of a classifier: the index of its label, and the probabilities in the order of its labels.

        Raises ArtifactError for feeds that do not fit, or an operator that cannot be computed.
        """
        with one_sentence():
            live = self._fed(feeds)
            if fp16:
                live = {name: _rounded(value) for name, value in live.items()}
            if audit is not None:
                for name, value in live.items():
                    audit.observe(name, "input", value)
            for step in self._steps:
                results = self._computed(step, live, fp16)
                for name, value, wide in zip(step.outputs, results, step.wide, strict=True):
                    stays = fp16 and wide and self.half
                    live[name] = value if not fp16 or stays or step.op in MOVES else _rounded(value)
                    if audit is not None and step.op not in MOVES and not stays:
                        audit.observe(step.name, step.op, live[name])
                for name in step.frees:
                    live.pop(name, None)
            return {out.name: self._tensor(live, out.name, fp16) for out in self.outputs}

    def _fed(self, feeds: Mapping[str, Any]) -> dict[str, Tensor]:
        wanted = [feature.name for feature in self.inputs]
        if set(feeds) != set(wanted):
            given = ", ".join(map(str, feeds)) or "nothing"
            raise ArtifactError(f"{self.name} takes the inputs {', '.join(wanted)}; it was given {given}.")
        return {feature.name: fit(self.name, feature, feeds[feature.name]) for feature in self.inputs}

    def _computed(self, step: _Step, live: dict[str, Tensor], fp16: bool) -> tuple[Tensor, ...]:
        """The outputs of one operator, of the shapes that the program declares."""
        try:
            arguments: dict[str, Argument] = {
                key: [self._tensor(live, name, fp16) for name in ref]
                if isinstance(ref, list)
                else self._value(live, ref, fp16)
                for key, ref in step.arguments.items()
            }
            result = step.function(**arguments)
        except FOREIGN as error:
            raise ArtifactError(f"{self.name}: {step.op} '{step.name}' cannot be computed: {first(error)}.") from error
        results = result if isinstance(result, tuple) else (result,)
        if len(results) != len(step.outputs):
            raise ArtifactError(f"{self.name}: {step.op} '{step.name}' declares {len(step.outputs)} outputs.")
        for name, declared, value in zip(step.outputs, step.shapes, results, strict=True):
            if declared is not None and not _agree(declared, value.shape):
                raise ArtifactError(
                    f"{self.name}: {step.op} '{step.name}' declares '{name}' as {list(declared)} but computes "
                    f"{list(value.shape)}: the file is damaged, or this interpreter is wrong about {step.op}."
                )
        return results

    def _value(self, live: dict[str, Tensor], name: str, fp16: bool) -> Argument:
        if name in live:
            return live[name]
        value = self._constants[name]
        # Scalars (epsilons, clip limits) are the operator's parameters and not tensors in memory.
        if not fp16 or self.half or name not in self._wide or not isinstance(value, Tensor) or not value.ndim:
            return value
        return _rounded(value)

    def _tensor(self, live: dict[str, Tensor], name: str, fp16: bool) -> Tensor:
        value = self._value(live, name, fp16)
        if not isinstance(value, Tensor):
            raise ArtifactError(f"{self.name}: '{name}' is no tensor")
        return value


def _agree(declared: tuple[int, ...], shape: torch.Size) -> bool:
    return len(declared) == len(shape) and all(d in (-1, n) for d, n in zip(declared, shape, strict=True))


def _rounded(value: Tensor) -> Tensor:
    return value.half().float() if value.is_floating_point() else value


# Loading


def _refuse_unknown(package: Package, body: Any, block: Any) -> None:
    """Name every operator and input that cannot be run."""
    states = [i.name for i in body.inputs if i.type.WhichOneof("type") != "tensorType"]
    if states:
        raise ArtifactError(
            f"{package.path.name} keeps a state or takes no plain tensor in {', '.join(states)}: "
            "only programs from tensors to tensors can be run here."
        )
    unknown: dict[str, list[str]] = {}
    for op in block.operations:
        if op.type != "const" and op.type not in OPS and op.type not in DECODERS:
            unknown.setdefault(op.type, []).append(f"'{_op_name(op)}'")
    if unknown:
        parts = [
            f"{kind} {', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}"
            + (f" ({LEFT_OUT[kind]})" if kind in LEFT_OUT else "")
            for kind, names in unknown.items()
        ]
        raise ArtifactError(
            f"{package.path.name} uses operators that cannot be run here: {'; '.join(parts)}. "
            "Run it with Core ML on a Mac, or convert the model without them."
        )


def _op_name(op: Any) -> str:
    stored = op.attributes["name"].immediateValue.tensor.strings.values if "name" in op.attributes else ()
    return str(stored[0]) if stored else (str(op.outputs[0].name) if op.outputs else "?")


def _compile(package: Package, function: str, body: Any, block: Any) -> Program:
    """Decode the constants, and bind every operator to its function."""
    values: dict[str, Constant] = {}
    steps: list[tuple[Any, dict[str, Reference]]] = []
    kinds: dict[str, str] = {}
    for op in block.operations:
        if op.type == "const":
            values[op.outputs[0].name] = package.constant(op.attributes["val"], op.outputs[0].name)
        elif op.type in DECODERS:
            values.update(_decompress(package, op, values))
            kinds[op.outputs[-1].name] = _stored_as(op, block)
        else:
            steps.append((op, _arguments(package, op, values)))
    known = set(values) | {i.name for i in body.inputs}
    for op, arguments in steps:
        for name in _flat(arguments):
            if name not in known:
                raise ArtifactError(
                    f"{package.path.name}: {op.type} '{_op_name(op)}' uses '{name}' before it is computed."
                )
        known |= {out.name for out in op.outputs}
    if missing := [name for name in block.outputs if name not in known]:
        raise ArtifactError(f"{package.path.name}: the output {missing[0]} is never computed.")
    used = {name for _, arguments in steps for name in _flat(arguments)} | set(block.outputs)
    bound = _bind(steps, set(block.outputs) | set(values))
    users: dict[str, list[tuple[str, list[str], str]]] = {}
    for step in bound:
        for name in _flat(step.arguments):
            users.setdefault(name, []).append((step.op, _flat(step.arguments), step.outputs[0]))
    shapes = [_shape(out) or () for op, _ in steps for out in op.outputs] + [_shape(i) or () for i in body.inputs]
    return Program(
        name=package.path.name,
        inputs=tuple(describe(package, function, i.name, i, users, values) for i in body.inputs),
        outputs=tuple(describe(package, function, name, _typed(name, body, block)) for name in block.outputs),
        ops=dict(Counter(step.op for step in bound).most_common()),
        half=any(_declares(out, "FLOAT16") for op, _ in steps for out in op.outputs),
        max_rank=max((len(shape) for shape in shapes), default=0),
        weight_bytes=sum(package.blob_bytes.values()),
        compressed={name: kind for name, kind in kinds.items() if name in used},
        _steps=bound,
        _constants={name: _to_torch(values[name]) for name in used if name in values},
        _wide=frozenset(
            n for n in used if isinstance(v := values.get(n), np.ndarray) and v.dtype in (np.float32, np.float64)
        ),
    )


def _arguments(package: Package, op: Any, values: dict[str, Constant]) -> dict[str, Reference]:
    """Names by parameter; a literal becomes a constant of its own."""
    arguments: dict[str, Reference] = {}
    for key, argument in op.inputs.items():
        names = []
        for place, binding in enumerate(argument.arguments):
            name = binding.name
            if binding.WhichOneof("binding") == "value":
                name = f"{_op_name(op)}.{key}.{place}"
                values[name] = package.constant(binding.value, name)
            names.append(name)
        arguments[key] = names if key in _TUPLES or len(names) != 1 else names[0]
    return arguments


def _decompress(package: Package, op: Any, values: dict[str, Constant]) -> dict[str, Constant]:
    """The outputs of a `constexpr_*` op, whose parameters are attributes (iOS 16) or inputs (iOS 18)."""
    name = _op_name(op)
    parameters: dict[str, Constant] = {}
    for key, value in op.attributes.items():
        if key != "name":
            parameters[key] = package.constant(value, f"{name}.{key}")
    for key, ref in _arguments(package, op, values).items():
        if not isinstance(ref, str) or ref not in values:
            raise ArtifactError(f"{package.path.name}: {op.type} '{name}' is not made of constants.")
        parameters[key] = values[ref]
    declared = _shape(op.outputs[-1])
    if "shape" in parameters and tuple(np.asarray(parameters["shape"]).tolist()) != declared:
        raise ArtifactError(f"{package.path.name}: {op.type} '{name}' does not have the shape that it declares.")
    try:
        results = DECODERS[op.type](**parameters)
    except FOREIGN as error:
        raise ArtifactError(f"{package.path.name}: {op.type} '{name}' cannot be decoded: {first(error)}.") from error
    if declared is not None and results[-1].shape != declared:
        raise ArtifactError(f"{package.path.name}: {op.type} '{name}' does not have the shape that it declares.")
    return {out.name: value for out, value in zip(op.outputs, results, strict=True)}


def _stored_as(op: Any, block: Any) -> str:
    """The type of the numbers that a `constexpr_*` op decodes."""
    for key in ("indices", "data", "quantized_data", "nonzero_data", "indices_nonzero_data", "source_val"):
        if key in op.attributes:
            return data_type(op.attributes[key].type.tensorType)
        for binding in op.inputs[key].arguments if key in op.inputs else ():
            if binding.WhichOneof("binding") == "value":
                return data_type(binding.value.type.tensorType)
            made = next(out for other in block.operations for out in other.outputs if out.name == binding.name)
            return data_type(made.type.tensorType)
    return "?"


def _bind(steps: list[tuple[Any, dict[str, Reference]]], keep: set[str]) -> tuple[_Step, ...]:
    """The steps with the tensors that each frees: those it is the last to use, but for `keep`."""
    last = {
        name: i
        for i, (op, arguments) in enumerate(steps)
        for name in (*_flat(arguments), *(o.name for o in op.outputs))
    }
    frees: dict[int, list[str]] = {}
    for name, i in last.items():
        if name not in keep:
            frees.setdefault(i, []).append(name)
    return tuple(
        _Step(
            name=_op_name(op),
            op=op.type,
            function=OPS[op.type],
            arguments=arguments,
            outputs=tuple(out.name for out in op.outputs),
            shapes=tuple(_shape(out) if op.type != "classify" else None for out in op.outputs),
            wide=tuple(_declares(out, "FLOAT32") for out in op.outputs),
            frees=tuple(frees.get(i, ())),
        )
        for i, (op, arguments) in enumerate(steps)
    )


def _flat(arguments: dict[str, Reference]) -> list[str]:
    return [name for ref in arguments.values() for name in (ref if isinstance(ref, list) else [ref])]


def _to_torch(value: Constant) -> Argument:
    if not isinstance(value, np.ndarray):
        return value
    wide: dict[str, Any] = {"f": np.float32, "i": np.int64, "u": np.int64, "b": np.bool_}
    return torch.from_numpy(np.array(value, dtype=wide[value.dtype.kind]))


def _shape(typed: Any) -> tuple[int, ...] | None:
    """The declared sizes of a `NamedValueType` that is a tensor of known rank; bounded."""
    if typed.type.WhichOneof("type") != "tensorType" or typed.type.tensorType.rank < 0:
        return None
    shape = declared_shape(typed.type.tensorType)
    if math.prod(n for n in shape if n > 0) > MAX_ELEMENTS:
        raise ArtifactError(f"'{typed.name}' is declared with {list(shape)}: more than {MAX_ELEMENTS} elements.")
    return shape


def _declares(typed: Any, kind: str) -> bool:
    return typed.type.WhichOneof("type") == "tensorType" and data_type(typed.type.tensorType) == kind


def _typed(name: str, body: Any, block: Any) -> Any:
    """The `NamedValueType` that computes or is `name`."""
    every = [*body.inputs, *(out for op in block.operations for out in op.outputs)]
    return next(typed for typed in reversed(every) if typed.name == name)
