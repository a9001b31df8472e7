"""CLIP with quality captions on phones: models, weights, pixels and tokens.

model = mobileclip.load("mobileclip_s2.pt")
fused = mobileclip.fuse(model)
pixels = mobileclip.preprocess(model)(image)
ids = mobileclip.tokenize(["a photo of a cat"])
"""

from typing import TYPE_CHECKING

from mobileclip.lazy import install

if TYPE_CHECKING:
    from mobileclip.checkpoint import load as load
    from mobileclip.checkpoint import save as save
    from mobileclip.errors import MobileClipError as MobileClipError
    from mobileclip.fuse import fuse as fuse
    from mobileclip.models import create as create
    from mobileclip.preprocessing import preprocess as preprocess
    from mobileclip.tokenizer import tokenize as tokenize

__version__ = "0.7.0"

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

install(__name__, _HOME)
