"""Dense models trained with the rounding of int8 artifacts: an ordinary fused checkpoint, exact after a stop."""

import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from mobileclip.data.scenes import write_scenes
from mobileclip.dense.checkpoint import load
from mobileclip.dense.finetune import finetune
from mobileclip.dense.plan import Finetune
from mobileclip.dense.predictor import predictor
from mobileclip.dense.recipes import recipe_of
from mobileclip.errors import CheckpointError, TrainingError
from mobileclip.fuse import fuse, is_fused

NANO = "seeded:nano_scenes:1"
ARGS = {"segmentation": {"neck": 16, "width": 16}, "detection": {"width": 16}, "depth": {"width": 16}}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve scenes to train on and four to measure on."""
    return write_scenes(tmp_path_factory.mktemp("scenes") / "scenes", count=12, val_count=4, size=64, dense=True)


def small(task: str = "segmentation", **values: Any) -> Finetune:
    base = {"size": (64, 64), "batch": 4, "steps": 4, "warmup": 1, "save_every": 2, "log_every": 1, "threads": 2}
    base |= {"tensorboard": False, "args": ARGS[task]}
    return recipe_of(f"scenes-{task}", base | values)


def run(recipe: Finetune, scenes: Path, out: Path, checkpoint: str | Path, **rest: Any) -> Path:
    return finetune(recipe, checkpoint=checkpoint, data=scenes, out=out, **({"say": lambda line: None} | rest))


@pytest.fixture(scope="module")
def floats(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A finetuned model of each task."""
    folder = tmp_path_factory.mktemp("floats")
    return {task: run(small(task), scenes, folder / task, NANO) for task in ARGS}


def told(checkpoint: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((checkpoint / "config.json").read_text())
    return found


@pytest.mark.parametrize("task", ARGS)
def test_what_is_saved_is_a_fused_model_near_to_the_float_one(
    task: str, floats: dict[str, Path], scenes: Path, tmp_path: Path
) -> None:
    checkpoint = run(small(task, qat=True, lr=1e-4), scenes, tmp_path / "run", floats[task])
    model, before = load(checkpoint), fuse(load(floats[task]))
    assert is_fused(model)
    document = told(checkpoint)
    assert document["state"] == "fused"
    assert document["record"]["quantisation_aware"] == {"precision": "w8a8", "towers": ["encoder", "head"]}
    assert document["record"]["begun_from"]["record"]["recipe"]["checkpoint"] == NANO
    state = model.state_dict()
    moved = [name for name, value in before.state_dict().items() if not torch.equal(value, state[name])]
    assert any(name.startswith("encoder.") for name in moved)
    assert any(name.startswith("head.") for name in moved)
    image = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    assert predictor(model, "fixed")(image) is not None
    x = torch.rand(1, 3, 64, 64)
    for mine, theirs in zip(model.encoder(x), before.encoder(x), strict=True):
        assert torch.nn.functional.cosine_similarity(mine.flatten(), theirs.flatten(), dim=0) > 0.99


def stop_at(step: int) -> Any:
    def say(line: str) -> None:
        if line.startswith(f"step {step}/"):
            os.kill(os.getpid(), signal.SIGTERM)

    return say


def test_a_stopped_run_goes_on_as_if_nothing_had_been(floats: dict[str, Path], scenes: Path, tmp_path: Path) -> None:
    recipe = small(qat=True, ema=0.9)
    whole = run(recipe, scenes, tmp_path / "whole", floats["segmentation"])
    for step in (1, 3):
        run(recipe, scenes, tmp_path / "run", floats["segmentation"], say=stop_at(step))
    last = run(replace(recipe, threads=1), scenes, tmp_path / "run", floats["segmentation"])
    assert last.name == whole.name == "step_00000004"
    first, second = (load_file(path / "model.safetensors") for path in (whole, last))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert told(last)["record"]["begun_from"] == told(whole)["record"]["begun_from"]


def test_parts_of_a_batch_are_one_step(floats: dict[str, Path], scenes: Path, tmp_path: Path) -> None:
    """The ends of ranges follow all parts together."""
    from mobileclip.train_state import read_training

    runs = []
    for parts in (1, 2):
        recipe = small("depth", qat=True, steps=1, warmup=0, accumulate=parts)
        runs.append(read_training(run(recipe, scenes, tmp_path / str(parts), floats["depth"]))[1]["model"])
    name = "model.encoder.stem.0.range_in.high"
    assert runs[0][name] == runs[1][name] > 0


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("clip", "'seeded:nano_scenes:1' is no dense model: finetune it first"),
        ("drawn", "holds weights that were drawn and not trained"),
        ("again", "was trained with --qat already: give the checkpoint in floats that it began from"),
        ("head", "holds the head semfpn where seg_linear is to be kept"),
    ],
)
def test_what_cannot_be_begun_from(
    what: str, message: str, floats: dict[str, Path], scenes: Path, tmp_path: Path
) -> None:
    checkpoint: str | Path = {"clip": NANO, "drawn": "seeded:nano_scenes+semfpn@64"}.get(what, "")
    recipe = small(qat=True, steps=1, warmup=0)
    if what == "again":
        checkpoint = run(recipe, scenes, tmp_path / "first", floats["segmentation"])
    if what == "head":
        checkpoint = floats["segmentation"]
        recipe = replace(recipe, head="seg_linear", args={})
    with pytest.raises(CheckpointError) as caught:
        run(recipe, scenes, tmp_path / "run", checkpoint)
    assert message in str(caught.value)


def test_the_schedule_is_short_and_fields_still_hold() -> None:
    plain, rounding = recipe_of("ade-semfpn-mci2"), recipe_of("ade-semfpn-mci2", {"qat": True, "lr": "3e-5"})
    assert rounding.steps == plain.steps // 10
    assert (rounding.lr, rounding.drop_path, rounding.weight_decay, rounding.schedule) == (3e-5, 0.0, 0.0, "cosine")
    assert recipe_of("nyu-linear").freeze
    with pytest.raises(TrainingError, match="qat trains encoder and head, without compile: set freeze=no"):
        recipe_of("nyu-linear", {"qat": "yes"})
