"""What is said to a user who made a mistake."""

from collections.abc import Callable
from typing import Any

import pytest

from mobileclip.errors import MobileClipError


def refused(call: Callable[[], Any]) -> str:
    """The sentence with which `call` is refused."""
    with pytest.raises(MobileClipError) as error:
        call()
    return str(error.value)
