"""Finetuning: curves that do not know of interruptions, ranks or threads; what is frozen does not move by a bit."""

import json
import math
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from mobileclip import cli
from mobileclip.data.scenes import write_scenes
from mobileclip.dense.batches import Batches
from mobileclip.dense.checkpoint import load, save
from mobileclip.dense.data.sets import open_set
from mobileclip.dense.data.transforms import collate, transform
from mobileclip.dense.finetune import finetune, with_steps
from mobileclip.dense.plan import Finetune
from mobileclip.dense.recipes import recipe_of
from mobileclip.dense.samples import Sample
from mobileclip.dense.stepper import Stepper, settle
from mobileclip.dense.sweep import record_of, sweep
from mobileclip.errors import CheckpointError, Diverged, OutputError, TrainingError

NANO = "seeded:nano_scenes:1"
HEAD_ARGS = {"segmentation": {"neck": 16, "width": 16}, "detection": {"width": 16}, "depth": {"width": 16}}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve scenes to train on and four to measure on."""
    return write_scenes(tmp_path_factory.mktemp("scenes") / "scenes", count=12, val_count=4, size=64, dense=True)


def small(task: str = "segmentation", **values: Any) -> Finetune:
    base = {"size": (64, 64), "batch": 4, "steps": 4, "warmup": 1, "save_every": 2, "log_every": 1, "threads": 2}
    base |= {"tensorboard": False, "args": HEAD_ARGS[task]}
    return recipe_of(f"scenes-{task}", base | values)


def run(recipe: Finetune, scenes: Path, out: Path, checkpoint: str = NANO, **rest: Any) -> Path:
    return finetune(recipe, checkpoint=checkpoint, data=scenes, out=out, **({"say": lambda line: None} | rest))


def logged(out: Path, name: str = "loss") -> dict[int, float]:
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return {line["step"]: line[name] for line in lines if name in line}


def weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = load_file(checkpoint / "model.safetensors")
    return found


def equal(a: Path, b: Path) -> bool:
    first, second = weights(a), weights(b)
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


@pytest.fixture(scope="module")
def finished(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "whole"
    run(small(ema=0.9, drop_path=0.2, tensorboard=True), scenes, out)
    return out


def test_a_run_leaves_what_others_read(finished: Path) -> None:
    assert sorted(logged(finished)) == [1, 2, 3, 4]
    assert (finished / "last").resolve().name == (finished / "best").resolve().name == "step_00000004"
    model = load(finished / "last")
    assert model.config.task == "segmentation"
    assert model.config.encoder.name == "nano_scenes"
    record = record_of(finished / "last")
    assert record["step"] == 4
    assert record["pictures"] == 12
    assert record["metric"] == "mIoU"
    assert 0 <= record["mIoU"] <= 1
    assert record["recipe"]["checkpoint"] == NANO
    assert record["begun_from"]["source"] == "seeded:nano_scenes:1"
    assert logged(finished, "val/mIoU") == {4: record["mIoU"]}
    assert (finished / "last" / "evaluation" / "per_class.csv").is_file()
    assert list((finished / "tensorboard").iterdir())
    assert not list(finished.rglob("*.partial"))


def stop_at(step: int) -> Any:
    def say(line: str) -> None:
        if line.startswith(f"step {step}/"):
            os.kill(os.getpid(), signal.SIGTERM)

    return say


def test_a_stopped_run_goes_on_as_if_nothing_had_been(finished: Path, scenes: Path, tmp_path: Path) -> None:
    out, recipe = tmp_path / "run", small(ema=0.9, drop_path=0.2)
    for step in (1, 3):
        run(replace(recipe, threads=step), scenes, out, say=stop_at(step))
        assert (out / "last").resolve().name == f"step_{step:08d}"
    run(recipe, scenes, out)
    assert logged(out) == logged(finished)
    assert equal(out / "last", finished / "last")
    assert record_of(out / "last")["begun_from"] == record_of(finished / "last")["begun_from"]
    said: list[str] = []
    run(recipe, scenes, out, say=said.append)
    assert said == [f"{out} is finished: 4 steps."]


@pytest.mark.parametrize(
    ("task", "values"),
    [
        ("segmentation", {"head": "seg_linear", "args": {}, "freeze": True}),
        ("depth", {"head": "depth_linear", "args": {}, "freeze": True}),
        ("detection", {"head": "det_linear", "args": {}, "freeze": True}),
        ("detection", {"lr": 1e-3}),
    ],
    ids=["segmentation", "depth", "detection", "all of detection"],
)
def test_every_task_trains(task: str, values: dict[str, Any], scenes: Path, tmp_path: Path) -> None:
    newest = run(small(task, steps=2, accumulate=2, clip=1.0, **values), scenes, tmp_path / "run")
    assert all(math.isfinite(loss) for loss in logged(tmp_path / "run").values())
    record = record_of(newest)
    assert record["better"] == ("lower" if task == "depth" else "higher")
    assert record["metric"] in record
    load(newest)


def test_a_frozen_encoder_does_not_move_by_a_bit(scenes: Path, tmp_path: Path) -> None:
    begun = run(small(steps=2, bn="live"), scenes, tmp_path / "first")
    newest = run(
        small("depth", steps=3, freeze=True, drop_path=0.5, ema=0.5, weight_decay=0.5),
        scenes,
        tmp_path / "second",
        checkpoint=str(begun),
    )
    before, after = weights(begun), weights(newest)
    encoder = [key for key in before if key.startswith("encoder.")]
    assert any("running_mean" in key for key in encoder)
    assert all(torch.equal(before[key], after[key]) for key in encoder)
    assert record_of(newest)["begun_from"]["record"]["metric"] == "mIoU"
    assert "mIoU" not in record_of(newest)


@pytest.mark.parametrize("bn", ["frozen", "live"])
def test_statistics_of_the_encoder(bn: str, scenes: Path, tmp_path: Path) -> None:
    newest = run(small(steps=2, bn=bn, save_every=1, keep=2, frozen_bn_steps=1), scenes, tmp_path / "run")
    begun = dict(load("seeded:nano_scenes+semfpn@64").state_dict())
    begun |= {f"encoder.trunk.{key}": value for key, value in _tower().items()}
    first, second = weights(newest.parent / "step_00000001"), weights(newest)
    mean = next(key for key in first if key.startswith("encoder.") and key.endswith("running_mean"))
    scale = mean.replace("running_mean", "weight")
    assert torch.equal(begun[mean], first[mean])
    assert torch.equal(first[mean], second[mean]) == (bn == "frozen")
    assert not torch.equal(begun[scale], second[scale])
    head = next(key for key in first if key.startswith("head.") and key.endswith("running_mean"))
    assert not torch.equal(first[head], second[head])


def _tower() -> dict[str, torch.Tensor]:
    from mobileclip.checkpoint import load as load_clip

    return dict(load_clip(NANO).image.state_dict())


def test_modes_of_a_step(scenes: Path) -> None:
    model = load("seeded:nano_scenes+semfpn@64")
    norms = [module for module in model.encoder.modules() if isinstance(module, nn.BatchNorm2d)]
    settle(model, small(bn="frozen"), 0)
    assert model.training
    assert model.encoder.training
    assert not any(norm.training for norm in norms)
    settle(model, small(bn="live"), 0)
    assert all(norm.training for norm in norms)
    settle(model, small(freeze=True), 0)
    assert not any(module.training for module in model.encoder.modules())
    assert all(module.training for module in model.head.modules())


class Plain:
    """Pictures that say their number."""

    name, task, labels, category_ids, fingerprint = "plain", "segmentation", ("a", "b"), (0, 1), "plain"

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        image = np.full((40, 50, 3), index, np.uint8)
        labels = np.zeros((40, 50), np.uint8)
        labels[:, 25:] = 1
        return Sample(name=f"{index}.png", image=image, labels=labels)


def batches(**values: Any) -> Batches:
    return Batches(
        Plain(10),  # type: ignore[arg-type]
        np.array([0, 1, 2, 3, 5, 7, 8]),
        transform("plain", (32, 32)),
        collate,
        **({"batch": 4, "steps": 7, "seed": 3} | values),
    )


def names(source: Batches) -> Iterator[list[str]]:
    return ([name for part in parts for name in part.names] for parts in source)


def test_an_epoch_has_each_picture_once_and_follows_without_a_seam() -> None:
    drawn = [name for step in names(batches()) for name in step]
    for epoch in range(4):
        assert sorted(drawn[7 * epoch : 7 * epoch + 7]) == [f"{i}.png" for i in (0, 1, 2, 3, 5, 7, 8)]
    assert drawn[:7] != drawn[7:14]
    seeds = [seed for step in range(7) for _, seed in batches().drawn(step)]
    assert len(set(seeds)) == 28
    assert list(names(batches(steps=2, batch=12)))[1][2:] == drawn[14:24]


def test_ranks_parts_threads_and_starts_give_the_same_order() -> None:
    whole = list(names(batches()))
    ranks = zip(*(names(batches(rank=rank, world=2)) for rank in range(2)), strict=True)
    assert [first + second for first, second in ranks] == whole
    assert list(names(batches(accumulate=2, threads=1))) == whole
    assert list(names(batches(start=3, threads=5))) == whole[3:]
    parts = next(iter(batches(accumulate=2)))
    assert [len(part.names) for part in parts] == [2, 2]


def rank_of_two(rank: int, port: int) -> dict[str, str]:
    here = {"RANK": rank, "WORLD_SIZE": 2, "LOCAL_RANK": rank, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return {key: str(value) for key, value in here.items()}


def run_rank(port: int, recipe: Finetune, scenes: str, out: str) -> None:
    torch.set_num_threads(1)
    os.environ.update(rank_of_two(1, port))
    finetune(recipe, checkpoint=NANO, data=scenes, out=out, say=lambda line: None)


def test_two_ranks_equal_one_in_two_parts(scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = int(s.getsockname()[1])
    recipe = small(lr=1e-4, drop_path=0.3, steps=3, optimiser="sgd")
    run(replace(recipe, accumulate=2), scenes, tmp_path / "one")
    other = get_context("spawn").Process(target=run_rank, args=(port, recipe, str(scenes), str(tmp_path / "two")))
    other.start()
    with monkeypatch.context() as patch:
        for key, value in rank_of_two(0, port).items():
            patch.setenv(key, value)
        run(recipe, scenes, tmp_path / "two")
    other.join(60)
    assert other.exitcode == 0
    assert logged(tmp_path / "one") == pytest.approx(logged(tmp_path / "two"), abs=2e-5)
    one, two = weights(tmp_path / "one" / "last"), weights(tmp_path / "two" / "last")
    for key in one:
        if "running" not in key and "tracked" not in key:
            torch.testing.assert_close(one[key], two[key], rtol=1e-4, atol=1e-6, msg=key)
    assert run(recipe, scenes, tmp_path / "two").name == "step_00000003"  # one goes on with what two began


def test_what_diverges_names_the_pictures_and_the_last_good_checkpoint(scenes: Path, tmp_path: Path) -> None:
    with pytest.raises(Diverged) as caught:
        run(small(lr=1e30, lr_decay=1.0, clip=0.0, warmup=0, steps=8, save_every=1), scenes, tmp_path / "run")
    text = str(caught.value)
    assert "are not finite, with the pictures 0000" in text
    assert "lower the learning rate, or look at these pictures; " in text
    newest = sorted((tmp_path / "run" / "checkpoints").glob("step_*"))
    assert (f"the last good checkpoint is {newest[-1]}" if newest else "no checkpoint was written yet") in text


def test_mistakes(finished: Path, scenes: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"holds a run with another recipe \(lr: 0.003 -> 0.5"):
        run(small(ema=0.9, drop_path=0.2, lr=0.5), scenes, finished)
    with pytest.raises(TrainingError, match="batch of 3 cannot be shared by 1 ranks in 2 parts each: take a multiple"):
        run(small(batch=3, accumulate=2), scenes, tmp_path / "run")
    with pytest.raises(TrainingError, match="12 pictures are 3 steps, and warm-up takes 3: set a shorter warmup"):
        with_steps(small(steps=0, epochs=1, warmup=3), 12)
    assert with_steps(small(steps=0, epochs=2, warmup=0), 13).steps == 7
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(OutputError, match="holds something that is no training run"):
        run(small(), scenes, tmp_path)


def test_a_head_is_kept_only_for_the_same_classes(finished: Path, scenes: Path, tmp_path: Path) -> None:
    recipe = small(keep_head=True, steps=1, warmup=0, lr=1e-9)
    newest = run(recipe, scenes, tmp_path / "same", checkpoint=str(finished / "last"))
    key = next(key for key in weights(newest) if key.startswith("head.") and weights(newest)[key].ndim == 4)
    assert torch.allclose(weights(newest)[key], weights(finished / "last")[key], atol=1e-6)
    other = load("seeded:nano_scenes+semfpn@64")
    save(other, tmp_path / "ade")
    with pytest.raises(CheckpointError, match=r"has 150 classes .* the data"):
        run(replace(recipe, args={}), scenes, tmp_path / "run", checkpoint=str(tmp_path / "ade"))
    with pytest.raises(CheckpointError, match="holds no head where semfpn is to be kept"):
        run(recipe, scenes, tmp_path / "run")


def test_a_share_of_the_labels_and_scratch(scenes: Path, tmp_path: Path) -> None:
    newest = run(small(labels=0.25, steps=2, val="none"), scenes, tmp_path / "run", checkpoint="scratch")
    record = record_of(newest)
    assert record["pictures"] == 3
    assert "metric" not in record
    assert "begun_from" not in record
    assert logged(tmp_path / "run", "epoch")[2] == pytest.approx(8 / 3)


def test_an_opened_set_is_taken(scenes: Path, tmp_path: Path) -> None:
    train_set, val_set = (open_set(scenes, "depth", split) for split in ("train", "val"))
    said: list[str] = []
    newest = finetune(
        small("depth", steps=1, warmup=0, flip=True, val_limit=2),
        checkpoint=NANO,
        data=train_set,
        val=val_set,
        out=tmp_path / "run",
        say=said.append,
    )
    assert record_of(newest)["metric"] == "rmse"


def test_best_is_by_the_direction_of_the_metric(scenes: Path, tmp_path: Path) -> None:
    run(small("depth", steps=3, evaluate_every=1, save_every=1, keep=9, lr=0.02), scenes, tmp_path / "run")
    found = logged(tmp_path / "run", "val/rmse")
    assert len(found) == 3
    best = min(found, key=lambda step: found[step])
    assert (tmp_path / "run" / "best").resolve().name == f"step_{best:08d}"


def test_a_sweep_names_the_best_rate_and_goes_on(scenes: Path, tmp_path: Path) -> None:
    recipe = small("depth", warmup=0, steps=50, lr_decay=1.0, clip=0.0)
    kept: dict[str, Any] = {"checkpoint": NANO, "data": scenes, "out": tmp_path / "sweep"}
    found = sweep(recipe, (1e-6, 1e-2, 1e30), steps=2, say=lambda line: None, **kept)
    assert [row.lr for row in found.rows] == [1e-6, 1e-2, 1e30]
    assert found.rows[2].figure is None
    assert "are not finite" in found.rows[2].note
    assert (found.metric, found.better) == ("rmse", "lower")
    assert found.best is not None
    assert found.best.figure == min(row.figure for row in found.rows if row.figure is not None)
    assert json.loads((tmp_path / "sweep" / "sweep.json").read_text())["best"] == found.best.lr
    said: list[str] = []
    assert sweep(recipe, (1e-2, 1e-6), steps=2, say=said.append, **kept).best == found.best
    assert said == [f"{tmp_path / 'sweep' / name} is finished: 2 steps." for name in ("lr_0.01", "lr_1e-06")]


def test_mistakes_of_a_sweep(scenes: Path, tmp_path: Path) -> None:
    recipe = small(steps=2)
    kept: dict[str, Any] = {"checkpoint": NANO, "data": scenes, "out": tmp_path}
    for rates in ((), (1e-3, 1e-3), (0.0,)):
        with pytest.raises(TrainingError, match=r"the rates of a sweep are .* one or more above 0 are allowed, each o"):
            sweep(recipe, rates, **kept)
    with pytest.raises(TrainingError, match="was not evaluated, so no rate is the best: give the data set a val part"):
        sweep(replace(recipe, val="none"), (1e-3,), say=lambda line: None, **kept)
    with pytest.raises(TrainingError, match=r"lr_0\.002 was stopped at step 1: start the same command again to go on"):
        sweep(recipe, (2e-3,), say=stop_at(1), **kept)


def test_the_command(scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = ["steps=2", "warmup=1", "batch=2", "size=64,64", 'args={"neck": 16, "width": 16}', "tensorboard=no"]
    args = ["finetune", "segmentation", "scenes-segmentation", "--checkpoint", NANO, "--data", str(scenes)]
    args += ["--labels", "0.5", "--set", *settings]
    assert cli.main([*args, "--out", str(tmp_path / "run"), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["pictures"] == 6
    assert cli.main([*args, "--out", str(tmp_path / "run")]) == 0
    assert "step 2 of 2; `mobileclip evaluate`, `predict` and `export` take this folder." in capsys.readouterr().out
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    torchrun += ["--master-addr", "127.0.0.1", "--master-port", str(port), "-m", "mobileclip.cli"]
    done = subprocess.run(
        [*torchrun, *args, "--out", str(tmp_path / "run")], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.count("step 2 of 2; ") == 1, "one of two ranks speaks"
    assert cli.main([*args, "--show"]) == 0
    assert json.loads(capsys.readouterr().out)["labels"] == 0.5
    assert cli.main(args) == 2
    assert "a run needs --out with its folder; only --show does without." in capsys.readouterr().err
    assert cli.main([*args, "--out", str(tmp_path / "lr"), "--sweep", "1e-3"]) == 0
    out = capsys.readouterr().out
    assert "mIoU, higher is better" in out
    assert "best: lr " in out


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["depth", "ade-semfpn"], "recipe ade-semfpn is for segmentation, not for depth: take nyu-depth, nyu-depth-ph"),
        (["depht", "nyu-depth"], "unknown task 'depht': did you mean 'depth'?"),
        (["depth", "nyu-depth"], "recipe nyu-depth has no checkpoint"),
        (["depth", "nyu-depth", "--labels", "0"], "labels is 0.0: above 0 and at most 1"),
        (["depth", "nyu-depth", "--set", "batch"], "'batch' sets nothing: write FIELD=VALUE"),
        (
            ["depth", "nyu-depth", "--checkpoint", "x", "--data", "y", "--sweep-steps", "3"],
            "--sweep-steps shortens the runs of a sweep: give --sweep with learning rates as well.",
        ),
        (["depth", "nyu-depth", "--checkpoint", "seeded:nano", "--data", "nowhere"], "'nowhere' does not exist"),
    ],
)
def test_mistakes_of_the_command(
    args: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["finetune", *args, "--out", str(tmp_path / "run")]) == 2
    assert message in capsys.readouterr().err


def test_a_step_in_bf16_without_files() -> None:
    model = load("seeded:nano_scenes+semfpn@64")
    recipe = small(precision="bf16", bn="frozen")
    stepper = Stepper(model, recipe, pictures=12, device=torch.device("cpu"))
    item = transform("plain", (64, 64))(Plain(3)[1], 0)
    figures = stepper.step([collate([item, item])], 0)
    assert torch.isfinite(figures.loss)
    assert all(p.dtype == torch.float32 for p in model.parameters())
