"""CLIP with quality captions on phones: models, weights, pixels and tokens.

    model = mobileclip.load("mobileclip_s2.pt")
    fused = mobileclip.fuse(model)
    pixels = mobileclip.preprocess(model)(image)
    ids = mobileclip.tokenize(["a photo of a cat"])

Names are resolved on first use, so that importing the package does not import torch.
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mobileclip.checkpoint import load, save
    from mobileclip.errors import MobileClipError
    from mobileclip.fuse import fuse
    from mobileclip.models import create
    from mobileclip.preprocessing import preprocess
    from mobileclip.tokenizer import tokenize

try:
    __version__ = version("mobileclip-toolkit")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"

_HOME = {
    "MobileClipError": "errors",
    "create": "models",
    "fuse": "fuse",
    "load": "checkpoint",
    "preprocess": "preprocessing",
    "save": "checkpoint",
    "tokenize": "tokenizer",
}
__all__ = ["MobileClipError", "create", "fuse", "load", "preprocess", "save", "tokenize"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'mobileclip' has no attribute '{name}'")
    # `mobileclip.fuse` is both a module and its function: the function is what this package exports
    value = getattr(import_module(f"mobileclip.{_HOME[name]}"), name)
    globals()[name] = value
    return value
