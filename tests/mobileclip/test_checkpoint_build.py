"""Loading is strict: what is missing, unexpected, of another shape or type, or not finite, is told in one sentence."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from weight_files import assert_same, write

from mobileclip import checkpoint_keys as keys
from mobileclip.checkpoint import load
from mobileclip.models import Clip

pytestmark = pytest.mark.usefixtures("one_thread")


def test_what_does_not_fit_is_counted_and_named_as_in_the_file(
    state: dict[str, Tensor], tmp_path: Path, refused: Callable[..., str]
) -> None:
    stem = "image_encoder.model.patch_embed.0"
    for leaf in ("weight", "bias", "running_mean", "running_var"):
        del state[f"{stem}.rbr_scale.bn.{leaf}"]
    state["extra.weight"] = torch.zeros(1)
    state["text_encoder.final_layer_norm.bias"] = torch.zeros(3)
    message = refused(write(tmp_path / "x.pt", state))
    assert (
        f"'{tmp_path / 'x.pt'}' does not fit nano: of 314 tensors there are 4 missing ({stem}.rbr_scale.bn.weight, "
        f"{stem}.rbr_scale.bn.bias, {stem}.rbr_scale.bn.running_mean, ...), 1 unexpected (extra.weight), 1 of "
        "another shape (text_encoder.final_layer_norm.bias [3] for [64]); give the file of that model."
    ) == message


def test_counters_may_be_absent_and_not_invented(
    state: dict[str, Tensor], tmp_path: Path, model: Callable[[str], Clip], refused: Callable[..., str]
) -> None:
    bare = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    assert_same(model("nano"), load(write(tmp_path / "bare.pt", bare)))
    state["text_encoder.final_layer_norm.num_batches_tracked"] = torch.tensor(0)
    assert "1 unexpected (text_encoder.final_layer_norm.num_batches_tracked)" in refused(
        write(tmp_path / "x.pt", state)
    )


def test_wrappers_are_taken_off(tmp_path: Path, model: Callable[[str], Clip]) -> None:
    own = model("nano").state_dict()
    names = keys.foreign("open_clip", own)
    wrapped = {f"module.{names[key]}": value for key, value in own.items()}
    inside = {"epoch": 3, "optimizer": {"state": {}, "param_groups": []}, "state_dict": wrapped}
    for file in (write(tmp_path / "a.pt", wrapped), write(tmp_path / "b.pt", inside)):
        loaded = load(file)
        assert_same(model("nano"), loaded)
        assert loaded.origin is not None
        assert loaded.origin.form == "open_clip"


def test_a_name_twice(state: dict[str, Tensor], tmp_path: Path, refused: Callable[..., str]) -> None:
    state["module.logit_scale"] = torch.tensor(1.0)
    message = refused(write(tmp_path / "x.pt", state))
    assert "names 1 of its 318 tensors twice, in two ways: save it again." in message


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_widened(
    dtype: torch.dtype, state: dict[str, Tensor], tmp_path: Path, model: Callable[[str], Clip]
) -> None:
    half = {key: value.to(dtype) if value.is_floating_point() else value for key, value in state.items()}
    loaded = load(write(tmp_path / "half.pt", half)).state_dict()
    key = "text.token_embedding.weight"
    assert loaded[key].dtype == torch.float32
    assert torch.equal(loaded[key], model("nano").state_dict()[key].to(dtype).float())


def test_large_finite_weights_are_finite(state: dict[str, Tensor], tmp_path: Path) -> None:
    state["text_encoder.final_layer_norm.bias"] = torch.full((64,), 3e38)
    assert load(write(tmp_path / "x.pt", state)).state_dict()["text.ln_final.bias"].max() > 1e38


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(
    value: float, state: dict[str, Tensor], tmp_path: Path, refused: Callable[..., str]
) -> None:
    state["text_encoder.final_layer_norm.bias"] = torch.full((64,), value)
    message = refused(write(tmp_path / "x.pt", state))
    assert (
        "has a value that is not finite in text_encoder.final_layer_norm.bias: take an earlier or undamaged" in message
    )


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (torch.zeros(64, dtype=torch.int32), "int32"),
        (torch.zeros(64).to_sparse(), "sparse_coo"),
        (torch.zeros(64) * 1j, "complex64"),
    ],
)
def test_weights_of_another_type(
    value: Tensor, kind: str, state: dict[str, Tensor], tmp_path: Path, refused: Callable[..., str]
) -> None:
    state["text_encoder.final_layer_norm.bias"] = value
    assert f"stores text_encoder.final_layer_norm.bias as {kind}, where float32" in refused(
        write(tmp_path / "x.pt", state)
    )


def test_a_shape_larger_than_its_file_costs_no_memory(
    state: dict[str, Tensor], tmp_path: Path, refused: Callable[..., str]
) -> None:
    state["text_encoder.final_layer_norm.bias"] = torch.zeros(1).expand(10**15)
    message = refused(write(tmp_path / "x.pt", state))
    assert "1 of another shape (text_encoder.final_layer_norm.bias [1000000000000000] for [64])" in message
