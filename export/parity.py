"""How close two embeddings are, as one number each way of asking."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from export.targets import Gate

LARGEST_DB = 400.0
"""What is said of two equal arrays: more than float64 can tell apart."""


@dataclass(frozen=True, kw_only=True)
class Parity:
    """One output held against its reference."""

    db: float
    """10 log10(sum reference^2 / sum (output - reference)^2), in dB."""
    cosine: float
    max_error: float
    """Largest |output - reference|."""

    def passes(self, gate: Gate) -> bool:
        """Whether both figures reach the gate (NaN does not)."""
        return self.db >= gate.db and self.cosine >= gate.cosine

    def as_dict(self) -> Mapping[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def compare(output: npt.ArrayLike, reference: npt.ArrayLike) -> Parity:
    """Compare two arrays of the same number of values; anything not finite in `output` gives -inf dB and cosine 0."""
    a = np.asarray(output, dtype=np.float64).ravel()
    b = np.asarray(reference, dtype=np.float64).ravel()
    assert a.shape == b.shape, f"{a.shape} against {b.shape}"
    if not np.isfinite(a).all():
        return Parity(db=-LARGEST_DB, cosine=0.0, max_error=float(np.finfo(np.float32).max))
    error, signal = float(((a - b) ** 2).sum()), float((b**2).sum())
    db = LARGEST_DB if error == 0 else -LARGEST_DB if signal == 0 else 10 * float(np.log10(signal / error))
    lengths = float(np.linalg.norm(a) * np.linalg.norm(b))
    cosine = float(a @ b) / lengths if lengths else float(error == 0)
    return Parity(db=min(db, LARGEST_DB), cosine=min(cosine, 1.0), max_error=float(np.abs(a - b).max(initial=0.0)))
