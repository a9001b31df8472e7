"""Training with the rounding of int8 artifacts: an ordinary fused checkpoint, exact after a stop and on two ranks."""

import dataclasses
import json
import os
import signal
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp
from safetensors.torch import load_file
from torch import nn

import mobileclip
from mobileclip import cli, qat
from mobileclip.errors import CheckpointError, TrainingError
from mobileclip.fuse import fuse, is_fused
from mobileclip.models import Clip, create
from mobileclip.recipes import Recipe, recipe_of
from mobileclip.train import train


def small(pairs: Path, **values: Any) -> Recipe:
    base = {"shards": (str(pairs),), "captions": "alt", "steps": 4, "warmup": 1, "batch": 16, "save_every": 2}
    return recipe_of("nano-scenes", base | {"log_every": 1, "threads": 2, "tensorboard": False} | values)


def quiet(recipe: Recipe, out: Path, **rest: Any) -> Path:
    return train(recipe, out, **({"say": lambda line: None} | rest))


def logged(out: Path, name: str = "loss") -> dict[int, float]:
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return {line["step"]: line[name] for line in lines if name in line}


def record_of(checkpoint: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((checkpoint / "config.json").read_text())["record"]
    return found


@pytest.fixture(scope="module")
def floats(pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained checkpoint."""
    return quiet(small(pairs, steps=12), tmp_path_factory.mktemp("floats") / "run")


@pytest.fixture(scope="module")
def finished(floats: Path, pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "whole"
    quiet(small(pairs, qat=str(floats), ema=0.9), out)
    return out


def test_a_range_rounds_as_the_operators_of_torch_do() -> None:
    """The same integers as quantise and dequantise with the range's ends."""
    x = torch.randn(2, 3, 8, 8)
    one = qat.Range()
    one(x)
    qat.follow(one)
    assert (one.low, one.high, int(one.batches)) == (x.min(), x.max(), 1)
    step = (one.high - one.low) / 255
    zero = int(-128 - (one.low / step).round())
    expected = torch.quantize_per_tensor(x, float(step), zero + 128, torch.quint8).dequantize()
    torch.testing.assert_close(one.eval()(x), expected, rtol=0, atol=1e-6)
    assert one(one(x)) is one(one(one(x))) or torch.equal(one(one(x)), one(x))
    weight = torch.randn(4, 3, 3, 3)
    rounded = qat.Rounded(0)(weight)
    steps = weight.abs().amax((1, 2, 3)) / 127
    whole = rounded / steps.reshape(-1, 1, 1, 1)
    torch.testing.assert_close(whole, whole.round(), rtol=0, atol=1e-4)
    assert whole.abs().max() <= 127.001


def test_gradients_pass_rounding_and_stop_at_the_ends() -> None:
    one = qat.Range()
    one(torch.tensor([-1.0, 1.0]))
    qat.follow(one)
    x = torch.tensor([-3.0, 0.3, 2.0], requires_grad=True)
    one.eval()(x).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0.0, 1.0, 0.0]


def test_ends_are_the_mean_of_the_first_batches() -> None:
    one = qat.Range()
    for least, largest in ((-1.0, 1.0), (-2.0, 3.0)):
        one(torch.tensor([least, 0.0]))
        one(torch.tensor([0.0, largest]))  # two parts of a step
        qat.follow(one)
    torch.testing.assert_close(torch.stack([one.low, one.high]), torch.tensor([-1.5, 2.0]))
    qat.follow(one)  # a step that did not pass here
    assert int(one.batches) == 2


def test_batchnorm_and_relu_behind_a_convolution_belong_to_it() -> None:
    layers = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1))
    qat.insert(layers)
    rounded = {name.rpartition(".")[0] for name, module in layers.named_modules() if isinstance(module, qat.Range)}
    assert rounded == {"0", "2", "3"}
    names = dict(layers.named_modules())
    assert "0.range_out" not in names
    assert "2.range_out" in names
    assert qat.plain(layers.state_dict()).keys() == nn.Sequential(*layers[:0]).state_dict().keys() | {
        *("0.weight", "0.bias", "3.weight", "3.bias"),
        *(f"1.{name}" for name in nn.BatchNorm2d(4).state_dict()),
    }


def test_what_rounds_is_what_an_export_rounds() -> None:
    """In evaluation, with the same pictures for the ranges, it is as far from the floats as the exported integers."""
    from export.quantise import quantised
    from export.targets import Quantisation
    from export.views import make_views

    fused = fuse(create("nano", seed=3))
    assert isinstance(fused, Clip)
    model = qat.prepare(fused)
    pictures = [torch.rand(1, 3, 64, 64) for _ in range(4)]
    with torch.no_grad():
        for x in pictures:
            model.train().encode_image(x)
            qat.follow(model)
        model.eval()
        artifact = quantised(make_views(fused)["image"], Quantisation(precision="w8a8", inputs=pictures))
        runs = {"float": fused.encode_image, "mine": model.encode_image, "artifact": artifact}
        found = {name: torch.cat([run(x) for x in pictures]) for name, run in runs.items()}
    away = {name: float((rows - found["float"]).norm() / found["float"].norm()) for name, rows in found.items()}
    assert 0.001 < away["artifact"] < 0.2
    assert away["artifact"] / 5 < away["mine"] < 5 * away["artifact"], away  # ranges and biases are chosen otherwise


def test_what_is_saved_is_an_ordinary_fused_checkpoint(floats: Path, finished: Path) -> None:
    model = mobileclip.load(finished / "last")
    assert is_fused(model)
    assert model.origin is not None
    record = record_of(finished / "last")
    assert record["quantisation_aware"] == {"precision": "w8a8", "towers": ["image"]}
    assert record["recipe"]["qat"] == str(floats)
    assert record["begun_from"]["source"] == str(floats)
    assert record["begun_from"]["record"]["step"] == 12
    before = fuse(mobileclip.load(floats)).state_dict()
    after = model.state_dict()
    assert before.keys() == after.keys()
    moved = {name.partition(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"image"}
    ids = mobileclip.tokenize(["a red picture"])
    torch.testing.assert_close(model.encode_text(ids), mobileclip.load(floats).encode_text(ids), rtol=1e-3, atol=1e-4)
    assert all(value >= 0 for value in logged(finished, "away").values())


def test_the_run_is_judged_with_rounding(floats: Path, pairs: Path, tmp_path: Path) -> None:
    seen = []

    def validate(clip: Any) -> dict[str, float]:
        seen.append(sum(isinstance(module, qat.Range) for module in clip.modules()))
        return {"top1": 0.5}

    quiet(small(pairs, qat=str(floats), steps=1, warmup=0), tmp_path / "run", validate=validate)
    assert len(seen) == 1
    assert seen[0] > 50


def stop_at(step: int) -> Any:
    def say(line: str) -> None:
        if line.startswith(f"step {step}/"):
            os.kill(os.getpid(), signal.SIGTERM)

    return say


@pytest.mark.parametrize("step", [1, 3])
def test_a_stopped_run_goes_on_as_if_nothing_had_been(
    step: int, floats: Path, finished: Path, pairs: Path, tmp_path: Path
) -> None:
    recipe = small(pairs, qat=str(floats), ema=0.9)
    quiet(recipe, tmp_path / "run", say=stop_at(step))
    quiet(dataclasses.replace(recipe, threads=1), tmp_path / "run")
    assert logged(tmp_path / "run") == logged(finished)
    first, second = (load_file(out / "last" / "model.safetensors") for out in (tmp_path / "run", finished))
    assert all(torch.equal(first[name], second[name]) for name in second)
    assert record_of(tmp_path / "run" / "last") == record_of(finished / "last") | {
        "recipe": recipe.as_dict() | {"threads": 1}
    }


def run_rank(rank: int, world: int, port: int, recipe: Recipe, out: str) -> None:
    torch.set_num_threads(1)
    here = {"RANK": rank, "WORLD_SIZE": world, "LOCAL_RANK": rank, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({key: str(value) for key, value in here.items()})
    train(recipe, out, say=lambda line: None)


def test_two_ranks_and_two_parts_are_one_run(floats: Path, pairs: Path, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    recipe = small(pairs, qat=str(floats), steps=3, lr=1e-5, eps=1e-4)
    quiet(dataclasses.replace(recipe, accumulate=2), tmp_path / "one")
    mp.spawn(run_rank, args=(2, port, recipe, str(tmp_path / "two")), nprocs=2)
    for step, loss in logged(tmp_path / "one").items():
        assert logged(tmp_path / "two")[step] == pytest.approx(loss, abs=5e-4)
    first, second = (load_file(tmp_path / out / "last" / "model.safetensors") for out in ("one", "two"))
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=1e-3, atol=1e-5, msg=name)


def test_what_cannot_be_begun_from(floats: Path, finished: Path, pairs: Path, tmp_path: Path) -> None:
    mobileclip.save(mobileclip.load("seeded:nano_scenes"), tmp_path / "drawn")
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "manifest.json").write_text("{}")
    other = tmp_path / "other"
    mobileclip.save(create("nano", seed=1), other)
    for source, message in (
        ("seeded:nano_scenes", "'seeded:nano_scenes' holds weights that were drawn and not trained: give --qat a"),
        (tmp_path / "drawn", "drawn' holds weights that were drawn and not trained"),
        (tmp_path / "bundle", "is a bundle of artifacts, which no training takes: give --qat the checkpoint"),
        (finished / "last", f"in floats that it began from ({floats})"),
        (other, "nano_scenes"),
    ):
        with pytest.raises(CheckpointError) as caught:
            quiet(small(pairs, qat=str(source)), tmp_path / "run")
        assert message in str(caught.value)
        assert str(caught.value).count(". ") == 0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"qat": "x", "init": "y"}, "qat says what to start from, and so does init: set one of them"),
        ({"qat": "x", "compile": True}, "qat goes with loss=clip, without fsdp and without compile"),
        ({"qat": "x", "loss": "siglip"}, "qat goes with loss=clip"),
        ({"hold": 1.0}, "hold is 1.0: at least 0, and above it only with qat"),
    ],
)
def test_fields_that_exclude_each_other(values: dict[str, Any], message: str) -> None:
    with pytest.raises(TrainingError) as caught:
        recipe_of("nano-scenes", values)
    assert message in str(caught.value)


def test_the_schedule_is_short_and_fields_still_hold(capsys: pytest.CaptureFixture[str]) -> None:
    plain, rounding = recipe_of("mci2-scratch"), recipe_of("mci2-scratch", {"qat": "x", "lr": "3e-5"})
    assert (rounding.steps, rounding.lr, rounding.weight_decay) == (plain.steps // 10, 3e-5, 0.0)
    assert recipe_of("finetune-from-released", {"qat": "x"}).init == ""
    assert cli.main(["train", "nano-scenes", "--qat", "runs/x", "--out", "y", "--show"]) == 0
    assert json.loads(capsys.readouterr().out)["qat"] == "runs/x"
