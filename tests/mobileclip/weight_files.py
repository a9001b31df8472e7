"""What tests of checkpoints make and compare."""

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mobileclip.config import MODELS
from mobileclip.models import Clip, build


@lru_cache
def meta(name: str, merged: bool = False) -> Mapping[str, Tensor]:
    """The weights of a real size, without memory."""
    with torch.device("meta"):
        return build(MODELS[name], merged=merged).state_dict()


def write(path: Path, tensors: Mapping[str, Any]) -> Path:
    torch.save(dict(tensors), path)
    return path


def assert_same(one: Clip, other: Clip) -> None:
    first, second = one.state_dict(), other.state_dict()
    assert set(first) == set(second)
    assert [key for key in first if not torch.equal(first[key], second[key])] == []
