"""What is said of a Core ML package that is not read, or is fed what does not fit."""

from collections.abc import Callable
from typing import Any

import pytest

from mobileclip.errors import ArtifactError


def refused(call: Callable[[], Any], *parts: str) -> None:
    """`call` raises an ArtifactError whose text, one sentence without a line break, holds every part."""
    with pytest.raises(ArtifactError) as caught:
        call()
    text = str(caught.value)
    assert "\n" not in text
    for part in parts:
        assert part in text
