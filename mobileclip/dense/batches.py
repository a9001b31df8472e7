"""What a step trains on, as a function of (recipe, step): which pictures, in which order, transformed how.

    for parts in Batches(dense_set, indices, transform, batch=16, steps=300, ...):    # list[Batch], one a part
        ...

The pictures of an epoch are a keyed permutation (`mobileclip.data.order`), epochs follow each other without a seam, and
what a transform draws follows from (seed, epoch, picture). So a run resumes in the middle of an epoch, and the number
of ranks and threads does not show. Pictures are read and transformed in threads ahead of their step.
"""

import time
from collections.abc import Callable, Iterator
from itertools import islice

import numpy as np
import numpy.typing as npt

from mobileclip.data.ahead import ahead
from mobileclip.data.order import Order, hashed
from mobileclip.data.pool import cores
from mobileclip.dense.samples import Batch, DenseSet, Item, Sample

Transform = Callable[[Sample, int], Item]
"""A picture and a seed -> what is trained on."""
Collate = Callable[[list[Item]], Batch]


class Batches:
    """Batches of one rank, each in `accumulate` parts.

    Args:
        dense_set: where pictures come from.
        indices: int64 [N], those of it that are trained on.
        transform: of a picture.
        collate: items to a batch.
        batch: pictures of a step over all ranks, a multiple of `world * accumulate`.
        accumulate: parts of a rank's share.
        seed: of the run.
        rank: this process.
        world: all processes.
        start: first step.
        steps: one behind the last.
        threads: that read and transform; 0: one for each core.
    """

    def __init__(
        self,
        dense_set: DenseSet,
        indices: npt.NDArray[np.int64],
        transform: Transform,
        collate: Collate,
        *,
        batch: int,
        accumulate: int = 1,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        start: int = 0,
        steps: int,
        threads: int = 0,
    ) -> None:
        assert batch % (world * accumulate) == 0
        self.dense_set, self.indices, self.transform, self.collate = dense_set, indices, transform, collate
        self.batch, self.accumulate, self.seed, self.rank, self.world = batch, accumulate, seed, rank, world
        self.start, self.steps, self.threads = start, steps, threads or cores()
        self.order = Order(len(indices), seed)
        self.wait_s = 0.0

    def drawn(self, step: int) -> list[tuple[int, int]]:
        """(number in the set, seed of the transform) of this rank's pictures at a step."""
        share = self.batch // self.world
        first = step * self.batch + self.rank * share
        out: list[tuple[int, int]] = []
        while len(out) < share:
            epoch, place = divmod(first + len(out), self.order.n)
            rows = self.order.rows(epoch, place, min(place + share - len(out), self.order.n))
            numbers = self.indices[rows]
            seeds = hashed(self.seed, epoch, numbers) >> np.uint64(1)  # what every generator takes
            out += zip(numbers.tolist(), seeds.tolist(), strict=True)
        return out

    def __iter__(self) -> Iterator[list[Batch]]:
        part = self.batch // self.world // self.accumulate
        wanted = (one for step in range(self.start, self.steps) for one in self.drawn(step))
        items = ahead(self._item, wanted, threads=self.threads, depth=2 * self.threads + part)
        for _ in range(self.start, self.steps):
            began = time.perf_counter()
            parts = [self.collate(list(islice(items, part))) for _ in range(self.accumulate)]
            self.wait_s += time.perf_counter() - began
            yield parts

    def _item(self, drawn: tuple[int, int]) -> Item:
        number, seed = drawn
        return self.transform(self.dense_set[number], seed)
