"""A dense model that trains with the rounding of int8 artifacts (mobileclip/qat.py): `mobileclip finetune … --qat`.

The encoder is in its deployed form; the head stays in the form that trains, which has the losses, with its BatchNorms
at rest. What is saved is the deployed form of both.
"""

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from mobileclip import qat
from mobileclip.dense.checkpoint import is_dense, load, start
from mobileclip.dense.config import DenseConfig
from mobileclip.dense.model import DenseModel, build, build_head
from mobileclip.errors import CheckpointError
from mobileclip.models.training import quicken_tower


def begin(config: DenseConfig, checkpoint: str) -> DenseModel:
    """A trained dense model of that head and those labels, with rounding.

    Raises:
        CheckpointError: it cannot be read, is no dense model, was not trained, or was trained so already.
    """
    if not is_dense(checkpoint):
        raise CheckpointError(
            f"'{checkpoint}' is no dense model: finetune it first, and give --qat the checkpoint that comes of it."
        )
    found = load(checkpoint).origin
    assert found is not None
    origin = qat.begun(found, checkpoint)
    model = prepared(start(config, checkpoint, head=True))
    model.origin = origin
    return model


def prepared(model: DenseModel) -> DenseModel:
    """A dense model in training form (taken over) with its encoder deployed and rounding in both parts."""
    encoder, head = model.deployed().encoder, model.head
    new = DenseModel(model.config, encoder, head)
    new.requires_grad_(True)
    quicken_tower(new.encoder)
    qat.insert(new)
    return new.eval()


def resumed(checkpoint: DenseModel) -> DenseModel:
    """What `prepared` gave, by the model that was saved of it; its weights are not those."""
    new = prepared(build(checkpoint.config))
    assert checkpoint.origin is not None
    new.origin = replace(checkpoint.origin, record={"begun_from": checkpoint.origin.record.get("begun_from")})
    return new


def deployed(model: DenseModel, state: Mapping[str, Tensor]) -> DenseModel:
    """The deployed form, without rounding, of a state of `model` (from `prepared`); on the CPU."""
    form = build(model.config)
    encoder = form.deployed().encoder
    bare = DenseModel(model.config, encoder, build_head(model.config, form.encoder.channels))  # type: ignore[arg-type]
    bare.load_state_dict(qat.plain(state))
    bare.eval().requires_grad_(False)
    new = DenseModel(model.config, bare.encoder, bare.head.deployed())  # type: ignore[operator]
    new.origin = model.origin
    return new.eval().requires_grad_(False)
