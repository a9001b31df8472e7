"""The folder of a training run: what is resumed, written whole or not at all, and read without unpickling.

    out/run.json                      the recipe and the corpus; a resume with another one is refused
    out/checkpoints/step_00001000/    model.safetensors + config.json (`mobileclip.load` takes the folder),
                                      training.safetensors (optimiser, raw weights beside averaged ones), state.json
    out/last, out/best                links to the newest checkpoint and to that with the best figure
    out/log.jsonl, out/tensorboard/   curves

A checkpoint is made beside its place and renamed; whatever kills the run leaves the one before it intact. There is no
state of a random generator: every draw of a step follows from (seed, step), so a resumed run repeats an uninterrupted
one bit for bit on a CPU.
"""

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from mobileclip.distributed import rank
from mobileclip.errors import OutputError, TrainingError

RUN, STATE, TRAINING = "run.json", "state.json", "training.safetensors"
_STEP = re.compile(r"step_(\d{8})")


class Folder:
    """One run's folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"

    def begin(
        self, run: Mapping[str, Any], differences: Callable[[Mapping[str, Any], Mapping[str, Any]], list[str]]
    ) -> None:
        """Make the folder, or take up the run that is in it.

        Raises:
            TrainingError: it belongs to another run; the differences are told.
            OutputError: it holds something else, or cannot be written.
        """
        try:
            if (self.path / RUN).exists():
                self._same(run, differences)
            elif self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
                raise OutputError(f"{self.path} holds something that is no training run: choose another folder.")
            else:
                self.checkpoints.mkdir(parents=True, exist_ok=True)
            self._write(self.path / RUN, run)
            for rest in self.checkpoints.glob("*.partial"):
                shutil.rmtree(rest, ignore_errors=True)
        except OSError as error:
            raise OutputError(f"{self.path} cannot be written ({error.strerror}): choose another folder.") from error

    def _same(
        self, run: Mapping[str, Any], differences: Callable[[Mapping[str, Any], Mapping[str, Any]], list[str]]
    ) -> None:
        try:
            before = json.loads((self.path / RUN).read_text(encoding="utf-8"))
            found = differences(before["recipe"], run["recipe"])
            if before["corpus"] != run["corpus"]:
                found.append(f"corpus: {before['corpus']} -> {run['corpus']}")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise TrainingError(f"{self.path / RUN} cannot be read ({error}): choose another folder.") from error
        if found and self.steps():  # without a checkpoint there is nothing that another recipe would spoil
            raise TrainingError(
                f"{self.path} holds a run with another recipe ({'; '.join(found)}): "
                "start with the recipe that it began with, or choose another folder."
            )

    def steps(self) -> list[int]:
        """Steps of the checkpoints that are complete, ascending."""
        found = (_STEP.fullmatch(path.parent.name) for path in self.checkpoints.glob(f"step_*/{STATE}"))
        return sorted(int(match[1]) for match in found if match)

    def at(self, step: int) -> Path:
        """The checkpoint of a step."""
        return self.checkpoints / f"step_{step:08d}"

    def newest(self) -> Path | None:
        """The last complete checkpoint."""
        steps = self.steps()
        return self.at(steps[-1]) if steps else None

    def save(self, step: int, write: Callable[[Path], None], *, best: bool, keep: int) -> Path:
        """Let `write` fill a folder, put it into place, move the links, and drop what is older than `keep`.

        Raises:
            OutputError: the disk is full or not writable; what was there stays.
        """
        target = self.at(step)
        part = target.with_suffix(".partial")
        try:
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir(parents=True)
            write(part)
            _flush(part)
            shutil.rmtree(target, ignore_errors=True)
            os.replace(part, target)
            self._link("last", target)
            if best:
                self._link("best", target)
        except (OSError, SafetensorError, OutputError) as error:
            shutil.rmtree(part, ignore_errors=True)
            newest = self.newest()
            kept = f"the last good checkpoint is {newest}" if newest else "there is no earlier checkpoint"
            raise OutputError(f"the checkpoint {target} cannot be written ({error}): make room; {kept}.") from error
        linked = {(self.path / name).resolve() for name in ("last", "best") if (self.path / name).exists()}
        for old in self.steps()[: -keep or None]:
            if self.at(old).resolve() not in linked:
                shutil.rmtree(self.at(old), ignore_errors=True)
        return target

    def _link(self, name: str, target: Path) -> None:
        part = self.path / f".{name}.partial"
        part.unlink(missing_ok=True)
        part.symlink_to(target.relative_to(self.path), target_is_directory=True)
        os.replace(part, self.path / name)

    def _write(self, path: Path, values: Mapping[str, Any]) -> None:
        part = path.with_suffix(".partial")
        part.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
        os.replace(part, path)


def whole(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors by name, gathered from their shards: each rank must call it, the first one has them on the CPU."""
    return {name: _whole(value) for name, value in values.items()}


def optimiser_state(model: nn.Module, optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """What the optimiser keeps, as `parameter/quantity`."""
    return {
        f"{name}/{key}": _whole(value)
        for name, parameter in model.named_parameters()
        for key, value in optimiser.state.get(parameter, {}).items()
    }


def restore_optimiser(model: nn.Module, optimiser: torch.optim.Optimizer, stored: Mapping[str, Tensor]) -> None:
    """Inverse of `optimiser_state`."""
    parameters = dict(model.named_parameters())
    for entry, value in stored.items():
        name, _, key = entry.rpartition("/")
        parameter = parameters[name]
        optimiser.state[parameter][key] = value if key == "step" else _like(parameter, value)


def restore(model: nn.Module, stored: Mapping[str, Tensor]) -> None:
    """Inverse of `whole`, in place.

    Raises:
        TrainingError: the weights are of another model.
    """
    own = model.state_dict()
    if own.keys() != stored.keys():
        raise TrainingError("the checkpoint is of another model: choose another folder for this run.")
    with torch.no_grad():
        for name, value in own.items():
            value.copy_(_like(value, stored[name]))


def read_training(checkpoint: Path) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]]:
    """state.json, and the groups of tensors of training.safetensors.

    Raises:
        TrainingError: one is damaged.
    """
    try:
        state = json.loads((checkpoint / STATE).read_text(encoding="utf-8"))
        tensors = load_file(checkpoint / TRAINING)
    except (OSError, ValueError, SafetensorError) as error:
        raise TrainingError(
            f"the checkpoint {checkpoint} is damaged ({error}): remove that folder, and the one before it is resumed."
        ) from error
    groups: dict[str, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        group, _, rest = name.partition(":")
        groups.setdefault(group, {})[rest] = value
    return state, groups


def write_training(part: Path, state: Mapping[str, Any], groups: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Inverse of `read_training`."""
    tensors = {
        f"{group}:{name}": value.contiguous() for group, named in groups.items() for name, value in named.items()
    }
    save_file(tensors, part / TRAINING)
    (part / STATE).write_text(json.dumps(state, indent=1) + "\n", encoding="utf-8")


def _whole(value: Tensor) -> Tensor:
    value = value.detach()
    if isinstance(value, DTensor):
        value = value.full_tensor()
    return value if rank() else value.cpu()  # the others write nothing


def _like(reference: Tensor, value: Tensor) -> Tensor:
    """`value` (whole) on the device and in the shards of `reference`."""
    if isinstance(reference, DTensor):
        return distribute_tensor(value.to(reference.device), reference.device_mesh, reference.placements)
    return value.to(reference.device)


def _flush(folder: Path) -> None:
    """Let the disk have the files before their folder gets its name."""
    for path in _files(folder):
        with path.open("rb") as file:
            os.fsync(file.fileno())


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())
