"""How fast are artifacts, held against what? Measured here, never told.

results = benchmarks.measure("out/s2", against="swin_l")
"""

from typing import TYPE_CHECKING

from mobileclip.lazy import install

if TYPE_CHECKING:
    from benchmarks.measure import measure as measure

_HOME = {"measure": "measure"}
__all__ = ["measure"]

install(__name__, _HOME)
