"""What the tests of `mobileclip/checkpoint*.py` share: seeded models, a file of Apple's form, a refusal's sentence."""

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mobileclip import checkpoint_keys as keys
from mobileclip.checkpoint import load, save
from mobileclip.errors import CheckpointError
from mobileclip.models import Clip, create

sys.path.insert(0, str(Path(__file__).parent))  # for what the tests of this folder import


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Threads cost more than they bring on models this small."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@lru_cache
def seeded(name: str) -> Clip:
    if name == "nano_image":
        whole = seeded("nano")
        return Clip(replace(whole.config, text=None), whole.image, None)
    made = create(name, seed=1)
    for key, value in made.named_parameters():
        if keys.is_head_bias(key):
            value.data.zero_()
    return made


@pytest.fixture(scope="session")
def model() -> Callable[[str], Clip]:
    """A seeded model; its image projection has no bias if Apple's form is to hold it."""
    return seeded


@pytest.fixture(scope="session")
def refused() -> Callable[..., str]:
    """The one sentence with which `load` refuses."""

    def sentence(path: Path | str, name: str | None = None) -> str:
        with pytest.raises(CheckpointError) as caught:
            load(path, name)
        text = str(caught.value)
        assert "\n" not in text
        assert text.endswith(".")
        return text

    return sentence


@pytest.fixture(scope="session")
def apple(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """nano under Apple's names."""
    return save(seeded("nano"), tmp_path_factory.mktemp("apple") / "nano.pt", "apple")


@pytest.fixture
def state(apple: Path) -> dict[str, Tensor]:
    return dict(torch.load(apple, weights_only=True))
