"""From a checkpoint to files that phones run, and the proof that they are right.

bundle = export.export(model, ["onnx", "coreml"], "out")
report = export.verify(bundle)
"""

from typing import TYPE_CHECKING

from mobileclip.lazy import install

if TYPE_CHECKING:
    from export.recipe import export as export
    from export.verify import verify as verify

_HOME = {"export": "recipe", "verify": "verify"}
__all__ = ["export", "verify"]

install(__name__, _HOME)
