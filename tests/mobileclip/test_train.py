"""The trainer: curves that do not know of interruptions, ranks or threads; a folder that is never half-written."""

import dataclasses
import json
import math
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
import torch.multiprocessing as mp
from safetensors.torch import load_file

import mobileclip
from mobileclip.data.corpus import corpus
from mobileclip.data.loader import Loader
from mobileclip.data.shard_writer import ShardWriter
from mobileclip.data.shards import Paug, Text
from mobileclip.data.teachers import Teachers
from mobileclip.errors import DataError, OutputError, TrainingError
from mobileclip.models import create
from mobileclip.recipes import Recipe, recipe_of
from mobileclip.train import train
from mobileclip.train_step import Stepper, learning_rate


def small(pairs: Path, **values: Any) -> Recipe:
    base = {"shards": (str(pairs),), "captions": "alt", "steps": 6, "warmup": 2, "batch": 16, "save_every": 2}
    return recipe_of("nano-scenes", base | {"log_every": 1, "threads": 2, "tensorboard": False} | values)


def losses(out: Path) -> dict[int, float]:
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return {line["step"]: line["loss"] for line in lines if "loss" in line}


def weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    return load_file(checkpoint / "model.safetensors")


def equal(a: Path, b: Path) -> bool:
    first, second = weights(a), weights(b)
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


@pytest.fixture(scope="module")
def finished(pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "whole"
    train(small(pairs, ema=0.9, tensorboard=True), out, say=lambda line: None)
    return out


def test_a_run_leaves_what_others_read(finished: Path) -> None:
    assert sorted(losses(finished)) == [1, 2, 3, 4, 5, 6]
    assert (finished / "last").resolve().name == "step_00000006"
    assert sorted(path.name for path in (finished / "checkpoints").iterdir()) == ["step_00000004", "step_00000006"]
    model = mobileclip.load(finished / "last")
    assert model.origin is not None
    record = model.origin.record
    assert record["step"] == 6
    assert record["recipe"]["captions"] == "alt"
    assert record["captions"] == {"alt": 96}
    assert not list(finished.rglob("*.partial"))
    assert list((finished / "tensorboard").iterdir())
    fresh = create("nano_scenes")
    assert not torch.equal(fresh.state_dict()["text.ln_final.weight"], model.state_dict()["text.ln_final.weight"])


def test_it_learns(pairs: Path, tmp_path: Path) -> None:
    train(small(pairs, steps=60, warmup=10, batch=32, save_every=60), tmp_path / "run", say=lambda line: None)
    found = losses(tmp_path / "run")
    assert sum(found[step] for step in range(56, 61)) / 5 < 0.8 * found[1]


def stop_at(step: int) -> Any:
    """A `say` that asks this process to end when a step is told."""

    def say(line: str) -> None:
        if line.startswith(f"step {step}/"):
            os.kill(os.getpid(), signal.SIGTERM)

    return say


@pytest.mark.parametrize("step", [1, 3, 5])
def test_a_stopped_run_goes_on_as_if_nothing_had_been(step: int, finished: Path, pairs: Path, tmp_path: Path) -> None:
    out, recipe = tmp_path / "run", small(pairs, ema=0.9, tensorboard=False)
    train(recipe, out, say=stop_at(step))
    assert (out / "last").resolve().name == f"step_{step:08d}"
    train(dataclasses.replace(recipe, threads=1), out, say=lambda line: None)
    assert losses(out) == losses(finished)
    assert equal(out / "last", finished / "last")
    said: list[str] = []
    train(recipe, out, say=said.append)
    assert said == [f"{out} is finished: 6 steps."]


def test_a_damaged_log_and_a_left_over_part_do_not_matter(finished: Path, pairs: Path, tmp_path: Path) -> None:
    out, recipe = tmp_path / "run", small(pairs, ema=0.9)
    train(recipe, out, say=stop_at(3))
    with (out / "log.jsonl").open("a") as file:
        file.write('{"step": 5, "loss": 1.0}\n{"step": 6, "lo')
    (out / "checkpoints" / "step_00000004.partial").mkdir()
    train(recipe, out, say=lambda line: None)
    assert losses(out) == losses(finished)
    assert not list(out.rglob("*.partial"))


def test_another_recipe_or_corpus_is_refused_with_the_difference(finished: Path, pairs: Path, tmp_path: Path) -> None:
    before = (finished / "run.json").read_bytes()
    with pytest.raises(TrainingError, match=r"holds a run with another recipe \(lr: 0.003 -> 0.5; seed: 0 -> 1\)"):
        train(small(pairs, ema=0.9, tensorboard=True, lr=0.5, seed=1), finished)
    fewer = tmp_path / "fewer"
    fewer.mkdir()
    shutil.copy(pairs / "00000.tar", fewer)
    with pytest.raises(TrainingError, match=r"another recipe \(shards: .*; corpus: "):
        train(small(fewer, ema=0.9, tensorboard=True), finished)
    assert (finished / "run.json").read_bytes() == before


def test_a_run_that_never_began_does_not_bind_its_folder(pairs: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nobody"):
        train(small(pairs, captions="pick(nobody=1)"), tmp_path / "run")
    train(small(pairs, steps=3), tmp_path / "run", say=lambda line: None)
    assert sorted(losses(tmp_path / "run")) == [1, 2, 3]


def test_a_folder_that_is_no_run_is_left_alone(pairs: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(OutputError, match="holds something that is no training run"):
        train(small(pairs), tmp_path)
    with pytest.raises(
        TrainingError, match=r"batch of 15 cannot be shared by 1 ranks in 2 parts each: take a multiple"
    ):
        train(small(pairs, batch=15, accumulate=2), tmp_path / "run")
    with pytest.raises(DataError, match="the corpus holds 96 samples, one step takes 128"):
        train(small(pairs, batch=128), tmp_path / "run")
    with pytest.raises(TrainingError, match="has no shards"):
        train(dataclasses.replace(small(pairs), shards=()), tmp_path / "run")


def test_what_diverges_stops_with_step_samples_and_the_last_good_checkpoint(pairs: Path, tmp_path: Path) -> None:
    recipe = small(pairs, lr=1e18, clip=0.0, warmup=3, steps=12)
    with pytest.raises(TrainingError) as caught:
        train(recipe, tmp_path / "run", say=lambda line: None)
    text = str(caught.value)
    assert "are not finite, with the batch 0000" in text
    assert "lower the learning rate" in text
    newest = sorted((tmp_path / "run" / "checkpoints").glob("step_*"))
    assert (f"the last good checkpoint is {newest[-1]}" if newest else "no checkpoint was written yet") in text


@pytest.mark.parametrize(
    "values",
    [
        {"captions": "both"},
        {"captions": "multi(3)"},
        {"captions": "sub(1)"},
        {"loss": "siglip"},
        {"loss": "siglip", "accumulate": 2},
        {"accumulate": 4},
        {"precision": "bf16"},
        {"rand_augment": (2, 9), "flip": 0.5},
        {"model": "nano_mct"},
        {"model": "nano_vit"},
    ],
    ids=str,
)
def test_every_option_trains(values: dict[str, Any], pairs: Path, tmp_path: Path) -> None:
    train(small(pairs, steps=3, **values), tmp_path / "run", say=lambda line: None)
    assert all(math.isfinite(loss) for loss in losses(tmp_path / "run").values())


def test_parts_of_a_batch_have_the_gradient_of_the_whole(pairs: Path) -> None:
    """With BatchNorm at rest, whose statistics would be of a part."""
    found = corpus([str(pairs)])
    batch = next(iter(Loader(found, size=64, batch=16, policy="both", steps=1, threads=1)))
    grads = []
    for parts in (1, 4):
        recipe = small(pairs, accumulate=parts, captions="both", clip=0.0)
        stepper = Stepper(create("nano", seed=3), recipe, torch.device("cpu"))
        for module in stepper.clip.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.eval()
        stepper.step(batch, 0)
        grads.append({name: p.grad for name, p in stepper.trainee.named_parameters() if p.grad is not None})
    assert grads[0].keys() == grads[1].keys()
    assert "clip.logit_scale" in grads[0]
    for name, grad in grads[0].items():
        torch.testing.assert_close(grad, grads[1][name], rtol=1e-4, atol=1e-6, msg=name)


def test_parts_do_not_move_the_statistics_twice(pairs: Path) -> None:
    found = corpus([str(pairs)])
    batch = next(iter(Loader(found, size=64, batch=16, policy="alt", steps=1, threads=1)))
    stepper = Stepper(create("nano", seed=3), small(pairs, accumulate=2), torch.device("cpu"))
    stepper.step(batch, 0)
    counts = {int(v) for k, v in stepper.trainee.state_dict().items() if k.endswith("num_batches_tracked")}
    assert counts == {2}


def test_a_live_teacher(pairs: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    teacher = open_clip.create_model("ViT-S-32-alt")
    torch.save(teacher.state_dict(), tmp_path / "teacher.pt")
    recipe = small(
        pairs, steps=2, warmup=1, distill=0.5, teachers=(f"ViT-S-32-alt:{tmp_path / 'teacher.pt'}",), captions="both"
    )
    train(recipe, tmp_path / "run", say=lambda line: None)
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert all(line["distill"] > 0 and line["contrastive"] > 0 for line in lines)
    for names, message in (
        (("ViT-X:a",), "unknown teacher 'ViT-X'"),
        (("ViT-S-32-alt:nothing.pt",), "'nothing.pt' is no weights of ViT-S-32-alt"),
        (("ViT-S-32-alt",), "has no weights"),
    ):
        with pytest.raises(TrainingError, match=message):
            train(dataclasses.replace(recipe, teachers=names), tmp_path / "other")


def test_stored_teachers_and_views(tmp_path: Path) -> None:
    """A DataCompDR-like corpus: two captions, stored crops, embeddings of two teachers."""
    generator = np.random.default_rng(0)
    with ShardWriter(tmp_path / "shards", per_shard=12) as writer:
        for index in range(24):
            texts = [Text(source="alt", text=f"picture {index}", teacher=0)]
            texts += [Text(source="syn_text", text=f"a thing of kind {index}", teacher=1)]
            writer.add(
                f"{index:05d}",
                image=generator.integers(0, 255, (80, 96, 3), np.uint8),
                texts=texts,
                paug=Paug(params=[[[2, 3, 70, 72], [[4, 9.0]]], [[0, 0, 80, 80], []]], size=(96, 80)),
                teachers=Teachers(
                    image=generator.normal(size=(2, 16)).astype(np.float32),
                    text=generator.normal(size=(2, 16)).astype(np.float32),
                ),
            )
    recipe = small(
        tmp_path / "shards", captions="both", distill=1.0, replay=True, batch=8, steps=3, crop_scale="0.08,1"
    )
    said: list[str] = []
    train(recipe, tmp_path / "run", say=said.append)
    assert not any("left out" in line for line in said)
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert all(math.isfinite(line["distill"]) and line["distill"] > 0 for line in lines)
    assert "contrastive" not in lines[0]
    assert lines[-1]["captions/alt"] == lines[-1]["captions/syn_text"] == 0.5


def test_distillation_without_embeddings_says_so(pairs: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"teacher|embedding"):
        train(small(pairs, distill=1.0), tmp_path / "run", say=lambda line: None)


def run_rank(rank: int, world: int, port: int, recipe: Recipe, out: str) -> None:
    torch.set_num_threads(1)
    here = {"RANK": rank, "WORLD_SIZE": world, "LOCAL_RANK": rank, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({key: str(value) for key, value in here.items()})
    train(recipe, out, say=lambda line: None)


def free_port() -> int:
    import socket

    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def close(a: Path, b: Path) -> None:
    first, second = weights(a / "last"), weights(b / "last")
    for key in first:
        # two ranks average their statistics, one process keeps the last part's
        if "running" not in key and "tracked" not in key:
            # AdamW's eps is above rounding here, or it would make steps of the sign of gradients that are zero
            torch.testing.assert_close(first[key], second[key], rtol=1e-4, atol=1e-5, msg=key)


def test_two_ranks_equal_one(pairs: Path, tmp_path: Path) -> None:
    """BatchNorm sees a rank's samples, as it sees a part's: one process in two parts is the same run."""
    recipe = small(pairs, steps=4, captions="both", lr=1e-4, eps=1e-4)
    train(dataclasses.replace(recipe, accumulate=2), tmp_path / "one", say=lambda line: None)
    mp.spawn(run_rank, args=(2, free_port(), recipe, str(tmp_path / "two")), nprocs=2)
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    for step in one:
        assert one[step] == pytest.approx(two[step], abs=2e-5)
    close(tmp_path / "one", tmp_path / "two")
    # and what two ranks began, one goes on with
    longer = dataclasses.replace(recipe, steps=4)
    assert train(longer, tmp_path / "two", say=lambda line: None).name == "step_00000004"


def test_sharded_parameters_equal_replicated_ones(pairs: Path, tmp_path: Path) -> None:
    recipe = small(pairs, steps=3, ema=0.5, lr=1e-4, eps=1e-4)
    mp.spawn(run_rank, args=(2, free_port(), recipe, str(tmp_path / "ddp")), nprocs=2)
    sharded = dataclasses.replace(recipe, fsdp=True)
    mp.spawn(run_rank, args=(2, free_port(), sharded, str(tmp_path / "fsdp")), nprocs=2)
    for step, loss in losses(tmp_path / "ddp").items():
        assert losses(tmp_path / "fsdp")[step] == pytest.approx(loss, abs=2e-5)
    close(tmp_path / "ddp", tmp_path / "fsdp")
    mobileclip.load(tmp_path / "fsdp" / "last")


def command(*args: object) -> list[str]:
    return [sys.executable, "-m", "mobileclip.cli", "train", "nano-scenes", *map(str, args)]


SETTINGS = ("--set", "captions=alt", "batch=16", "warmup=2", "tensorboard=no", "log_every=1")


def test_a_killed_rank_ends_the_run_and_leaves_a_good_checkpoint(pairs: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(free_port())]
    work = command("--shards", pairs, "--out", out, *SETTINGS, "steps=100000", "save_every=2")[1:]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.Popen([*launch, *work], env=env, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        deadline = time.monotonic() + 120
        while not (out / "last").exists() and time.monotonic() < deadline:
            time.sleep(0.2)
        children = subprocess.run(["pgrep", "-P", str(done.pid)], capture_output=True, text=True).stdout.split()
        os.kill(int(children[-1]), signal.SIGKILL)
        assert done.wait(timeout=90) != 0
    finally:
        if done.poll() is None:
            os.killpg(done.pid, signal.SIGKILL)
    mobileclip.load(out / "last")


def test_a_full_disk_leaves_the_checkpoint_before(pairs: Path, tmp_path: Path) -> None:
    out, recipe = tmp_path / "run", small(pairs, steps=4)
    train(recipe, out, say=stop_at(2))
    before = weights(out / "last")
    program = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "from mobileclip import cli\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, resource.RLIM_INFINITY))\n"
        "sys.exit(cli.main(sys.argv[1:]))"
    )
    args = command("--shards", pairs, "--out", out, *SETTINGS, "steps=4", "save_every=2", "threads=2")[3:]
    done = subprocess.run([sys.executable, "-c", program, *args], capture_output=True, text=True, timeout=120)
    assert done.returncode == 2, done.stderr
    assert "step_00000004 cannot be written" in done.stderr
    assert "the last good checkpoint is" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(out.rglob("*.partial"))
    after = weights(out / "last")
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 1_000_000


def test_sigterm_to_the_command_saves_and_ends(pairs: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    args = command("--shards", pairs, "--out", out, *SETTINGS, "steps=100000", "save_every=1000000")
    done = subprocess.Popen(args, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 120
        while not (out / "log.jsonl").exists() or len((out / "log.jsonl").read_text().splitlines()) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.2)
        done.terminate()
        _, said = done.communicate(timeout=60)
    finally:
        done.kill()
    assert done.returncode == 0
    assert "stopped by a signal at step" in said
    mobileclip.load(out / "last")


def test_the_schedule() -> None:
    recipe = recipe_of("nano-scenes", {"steps": 101, "warmup": 10, "lr": 1.0, "end_lr": 0.1})
    rates = [learning_rate(recipe, step) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == rates[10] == 1.0
    assert rates[-1] == pytest.approx(0.1)
    assert rates[55] == pytest.approx(0.55)
