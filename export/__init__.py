"""From a checkpoint to files that phones run, and the proof that they are right.

bundle = export.export(model, ["onnx", "coreml"], "out")
report = export.verify(bundle)
"""

from typing import TYPE_CHECKING

from mobileclip.lazy import install

if TYPE_CHECKING:
    from export.recipe import export as export
    from export.targets import TARGETS as TARGETS
    from export.verify import verify as verify

_HOME = {"TARGETS": "targets", "export": "recipe", "verify": "verify"}
__all__ = ["TARGETS", "export", "verify"]

install(__name__, _HOME)
