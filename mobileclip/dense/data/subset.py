"""Seeded nested subsets of a data set: the 1 % lies inside the 3 %, that inside the 10 %, for each seed.

few = Part(whole, nested(len(whole), 0.1, seed=0))
"""

import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt

from mobileclip.dense.samples import DenseSet, Sample
from mobileclip.errors import DataError


def nested(count: int, share: float, seed: int) -> npt.NDArray[np.int64]:
    """Indices of `share` of `count` samples, in ascending order, at least 1: the first of one seeded permutation.

    Raises:
        DataError: `share` is not above 0 and at most 1, `count` is not positive, or `seed` is negative.
    """
    if not 0 < share <= 1:
        raise DataError(f"the share of labels is {share}: more than 0 and at most 1 is allowed; 0.1 is a tenth.")
    if count < 1:
        raise DataError(f"there are {count} samples to choose from: at least 1 is needed.")
    if seed < 0:
        raise DataError(f"the seed is {seed}: 0 or more is allowed.")
    order = np.random.Generator(np.random.PCG64(seed)).permutation(count)
    return np.sort(order[: max(1, round(count * share))]).astype(np.int64)


class Part:
    """Some samples of a data set, in the order of the indices; a `DenseSet` itself."""

    def __init__(self, whole: DenseSet, indices: npt.NDArray[np.int64]) -> None:
        self.whole, self.indices = whole, np.asarray(indices, np.int64)
        self.name, self.task = whole.name, whole.task
        self.labels, self.category_ids = whole.labels, whole.category_ids
        self.skipped: Any = getattr(whole, "skipped", {})
        digest = hashlib.sha256(f"{whole.fingerprint} ".encode() + self.indices.tobytes())
        self.fingerprint = digest.hexdigest()

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Sample:
        return self.whole[int(self.indices[index])]
