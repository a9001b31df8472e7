"""Batches for training: a true shuffle of all shards, decoded in threads, resumable at any step.

    loader = Loader(corpus(["shards/*.tar"]), size=256, batch=256, policy="ratio(0.2)", seed=0, device="cuda")
    for batch in loader: ...                          # endless; Loader(..., start_step=k) goes on at step k

Step k of the global batch (`batch * world` samples) is a function of the seed and k alone; rank r takes its r-th part.
Neither threads nor ranks nor a restart change a byte of it. The last samples of an epoch that do not fill a global
batch are left out of it; each epoch has its own order, so that they are others each time.

Threads, not processes: the decoder, the resize and the copies run without the GIL, and what Python does for a sample
takes a few tens of microseconds. A thread decodes some pictures of a batch into its buffer; the one that comes last
chooses the texts and sends all to the device, on a stream of its own. Buffers go round: one is used again when no
tensor over it is left (a fresh one costs as many page faults as it has pages).

A picture that cannot be used is replaced by another sample, and counted (`broken`); see `reading.py`. More than
`broken_share` of them is an error, and so are 16 at the start. What fails in a thread fails in `next()`.
"""

import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from mobileclip.data.augment import Augment, Pixels, apply, flip, resize, resize_batch
from mobileclip.data.batches import Batch, Rows, rows_of
from mobileclip.data.order import Ints, Order
from mobileclip.data.policies import Policy
from mobileclip.data.policies import policy as parse
from mobileclip.data.pool import cores
from mobileclip.data.problems import Problem
from mobileclip.data.reading import Reader, Sample, Tally
from mobileclip.errors import DataError

if TYPE_CHECKING:
    from mobileclip.data.corpus import Corpus


_SLICE = 32  # pictures that a thread takes at a time
_WIDEST = 4  # output sizes that a side of a crop may have to be resized on the device


class Loader:
    """Batches of a corpus for one rank; iterate over it, once or again, always from `start_step`.

    Args:
        corpus: what to train on.
        size: S, pixels a side.
        batch: samples a rank and step.
        policy: caption policy, as one line or parsed.
        seed: of order, crops and captions.
        rank: of this process, 0 to world - 1.
        world: ranks. `batch * world` is the global batch.
        threads: that decode; None: one for each core that this process may use.
        augment: what may be done to pictures. RandAugment belongs on a device: on a CPU it takes longer than all else.
        device: where batches are delivered.
        crop_on: `host` resizes crops in the threads; `device` sends them as they are and resizes there. The same bytes.
        broken_share: of the pictures read, this share may be broken.
        prefetch: batches that are worked on ahead.
        start_step: first step.
        steps: step before which to stop, counted from 0, not from `start_step`; None: endless.
        window: shuffle within this many shards at a time (see `Order`); None: all. Give it for a corpus that is
            fetched from afar, or of more shards than stay open (a quarter of the file descriptors that a process may
            have, 1,024 at most): opening an index takes as long as a picture.
        teachers: batches carry the stored embeddings; a sample without them counts as broken.

    Raises:
        DataError: the corpus does not fill one global batch, or has no source that the policy names.
        UnknownName: no policy is called so.
    """

    def __init__(
        self,
        corpus: "Corpus",
        *,
        size: int,
        batch: int,
        policy: str | Policy,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        threads: int | None = None,
        augment: Augment | None = None,
        device: str | torch.device = "cpu",
        crop_on: Literal["host", "device"] = "host",
        broken_share: float = 0.01,
        prefetch: int = 2,
        start_step: int = 0,
        steps: int | None = None,
        window: int | None = None,
        teachers: bool = False,
    ) -> None:
        if min(size, batch, world, prefetch) < 1 or not 0 <= rank < world or start_step < 0:
            raise DataError(
                f"the loader was asked for size {size}, batch {batch}, rank {rank} of {world}, prefetch {prefetch}, "
                f"start_step {start_step}: positive numbers and a rank below the number of ranks are allowed."
            )
        if crop_on not in ("host", "device"):
            raise DataError(f"crop_on is '{crop_on}': 'host' or 'device' is allowed.")
        if corpus.n < batch * world:
            raise DataError(
                f"the corpus holds {corpus.n:,} samples, one step takes {batch * world:,} ({batch:,} on each of "
                f"{world} ranks): give more shards, or make the batch smaller."
            )
        self.corpus, self.size, self.batch, self.seed, self.rank, self.world = corpus, size, batch, seed, rank, world
        self.policy = parse(policy) if isinstance(policy, str) else policy
        self.policy.check(corpus.sources)
        self.augment = Augment() if augment is None else augment
        self.threads = threads or cores()
        self.device, self.crop_on, self.prefetch = torch.device(device), crop_on, prefetch
        self.start_step, self.steps, self.teachers = start_step, steps, teachers
        self.steps_per_epoch = corpus.n // (batch * world)
        self.wait_s = 0.0
        self._order = Order(corpus.n, seed, sizes=np.diff(corpus.start).tolist(), window=window)
        self._tally = Tally(broken_share)
        self._reader = Reader(
            corpus=corpus, size=size, augment=self.augment, seed=seed, teachers=teachers, tally=self._tally
        )
        self._buffers = _Buffers()
        self._consumed: Counter[int] = Counter()
        self._stream = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None  # type: ignore[no-untyped-call]

    @property
    def broken(self) -> dict[str, Problem]:
        """Reason -> how many samples could not be used, and the first names."""
        return self._tally.result()

    @property
    def consumed(self) -> dict[str, int]:
        """Source -> texts that were delivered, those of weight 0 apart."""
        return {self.corpus.sources[source]: count for source, count in sorted(self._consumed.items())}

    def __iter__(self) -> Iterator[Batch]:
        pool = ThreadPoolExecutor(self.threads, thread_name_prefix="mobileclip-loader", initializer=self._settle)
        ahead: deque[_Job] = deque()
        step = self.start_step
        try:
            while ahead or self.steps is None or step < self.steps:
                while len(ahead) <= self.prefetch and (self.steps is None or step < self.steps):
                    ahead.append(_Job(step=step, epoch=step // self.steps_per_epoch, pool=pool))
                    pool.submit(self._guarded, ahead[-1], self._begin)
                    step += 1
                start = time.perf_counter()
                batch = ahead.popleft().done.result()
                self.wait_s += time.perf_counter() - start
                yield self._received(batch)
                del batch  # or its buffer would not go round
        finally:
            for job in ahead:
                job.stopped = True
            pool.shutdown(wait=True, cancel_futures=True)

    def _received(self, batch: "_Delivery") -> Batch:
        """On the consumer's thread and stream."""
        if batch.event is not None:
            stream = torch.cuda.current_stream(self.device)
            stream.wait_event(batch.event)
            for value in vars(batch.batch).values():
                if isinstance(value, Tensor):
                    value.record_stream(stream)
        self._consumed.update(batch.consumed)
        return batch.batch

    def _guarded(self, job: "_Job", work: Any, *args: Any) -> None:
        """What fails in a thread becomes the result of the batch."""
        if job.stopped or job.done.done():
            return
        try:
            work(job, *args)
        except BaseException as error:
            error.add_note(f"while loading step {job.step} (epoch {job.epoch}) on rank {self.rank}")
            with job.lock:
                if not job.done.done():
                    job.done.set_exception(error)

    def _settle(self) -> None:
        """In each thread, once."""
        if self._stream is not None:
            torch.cuda.set_device(self.device)  # pinned memory belongs to a device too

    def _begin(self, job: "_Job") -> None:
        job.place = (job.step % self.steps_per_epoch * self.world + self.rank) * self.batch
        job.rows = self._order.rows(job.epoch, job.place, job.place + self.batch)
        if self.crop_on == "host":
            job.images = self._image_buffer()
        width = max(1, min(_SLICE, -(-self.batch // self.threads)))
        cuts = range(0, self.batch, width)
        job.left = len(cuts)
        for low in cuts:
            job.pool.submit(self._guarded, job, self._slice, low, min(low + width, self.batch))

    def _image_buffer(self) -> Tensor:
        shape = (self.batch, self.size, self.size, 3)
        if self._stream is not None:
            return torch.empty(shape, dtype=torch.uint8, pin_memory=True).permute(0, 3, 1, 2)
        return torch.from_numpy(self._buffers.take(shape)).permute(0, 3, 1, 2)

    def _slice(self, job: "_Job", low: int, high: int) -> None:
        """Samples low to high of a batch; the last slice to end finishes the batch."""
        images = None if job.images is None else job.images[low:high]
        samples = self._reader.read(job.epoch, job.place + low, job.rows[low:high], images)
        if images is None:
            job.canvases[low] = self._canvas(samples)
        elif self._stream is None:
            self._change(images, samples)
        with job.lock:
            job.samples[low] = samples
            job.left -= 1
            last = job.left == 0
        if last:
            job.done.set_result(self._finish(job))

    def _change(self, images: Tensor, samples: Sequence[Sample]) -> Tensor:
        images = flip(images, np.array([sample.mirrored for sample in samples]))
        return apply(images, [sample.operations for sample in samples])

    def _canvas(self, samples: Sequence[Sample]) -> tuple[Tensor, Tensor]:
        """Crops side by side in uint8 [n, Hm, Wm, 3], and their sizes int64 [n, 2]."""
        crops = [self._bounded(sample.crop) for sample in samples if sample.crop is not None]
        extents = torch.tensor([crop.shape[:2] for crop in crops])
        shape = (len(crops), *extents.amax(0).tolist(), 3)
        canvas = torch.empty(shape, dtype=torch.uint8, pin_memory=self._stream is not None)
        for into, crop, sample in zip(canvas.numpy(), crops, samples, strict=True):
            into[: crop.shape[0], : crop.shape[1]] = crop
            sample.crop = None
        return canvas, extents

    def _bounded(self, crop: Pixels) -> Pixels:
        """The crop, or what the host makes of one that would make the canvas of all large; the device keeps it then."""
        if max(crop.shape) <= _WIDEST * self.size:
            return crop
        out = torch.empty((1, self.size, self.size, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
        resize(crop, (0, 0, *crop.shape[:2]), out, self.augment.interpolation)
        done: Pixels = out[0].permute(1, 2, 0).numpy()
        return done

    def _finish(self, job: "_Job") -> "_Delivery":
        """Texts, teachers, and the way to the device."""
        samples = [sample for _, part in sorted(job.samples.items()) for sample in part]
        rows = rows_of(self.corpus, samples, self.policy)
        ids = np.array([sample.index.uid[sample.row] for sample in samples], np.uint64).view(np.int64)
        teachers = self._embeddings(samples, rows) if self.teachers else (None, None)
        with torch.cuda.stream(self._stream):  # without CUDA the stream is None, and this does nothing
            batch = Batch(
                images=self._on_device(job, samples),
                tokens=self._send(rows.tokens),
                text_weight=self._send(rows.weight),
                text_hash=self._send(rows.hashes),
                image_id=self._send(ids),
                source=rows.source,
                teacher_image=None if teachers[0] is None else self._send(teachers[0]),
                teacher_text=None if teachers[1] is None else self._send(teachers[1]),
                keys=[sample.name for sample in samples],
                step=job.step,
                epoch=job.epoch,
            )
            event = None if self._stream is None else self._stream.record_event()
        consumed = Counter(rows.source[rows.weight > 0].tolist())
        return _Delivery(batch=batch, event=event, consumed=consumed)

    def _on_device(self, job: "_Job", samples: Sequence[Sample]) -> Tensor:
        if job.images is not None:
            if self._stream is None:  # augmented in the slices
                return job.images.to(self.device)
            return self._change(job.images.to(self.device, non_blocking=True), samples)
        parts = []
        for _, (canvas, extents) in sorted(job.canvases.items()):
            there = (canvas.to(self.device, non_blocking=True), extents.to(self.device, non_blocking=True))
            parts.append(resize_batch(*there, self.size, self.augment.interpolation))
        return self._change(torch.cat(parts), samples)

    def _send(self, values: Any) -> Tensor:
        tensor = torch.from_numpy(values)
        if self._stream is not None:
            tensor = tensor.pin_memory()
        return tensor.to(self.device, non_blocking=True)

    def _embeddings(self, samples: Sequence[Sample], rows: Rows) -> tuple[Any, Any]:
        """float32 [B, D] of the replayed augmentations and [B, M, D] of the chosen texts."""
        teachers = [sample.teacher for sample in samples]
        images = np.stack([t.image[max(s.aug, 0)] for s, t in zip(samples, teachers, strict=True) if t is not None])
        texts = np.zeros((*rows.teacher.shape, images.shape[1]), np.float32)
        for i, (sample, teacher) in enumerate(zip(samples, teachers, strict=True)):
            assert teacher is not None
            for m, row in enumerate(rows.teacher[i].tolist()):
                if rows.weight[i, m] == 0:
                    continue
                if not 0 <= row < len(teacher.text) or np.isnan(teacher.text[row, 0]):
                    source = self.corpus.sources[rows.source[i, m]]
                    raise DataError(
                        f"sample {sample.name} has no teacher embedding for its caption from '{source}': name sources "
                        f"that have them in the caption policy '{self.policy.line}', or train without teachers."
                    )
                texts[i, m] = teacher.text[row]
        return images, texts


@dataclass(kw_only=True, eq=False)
class _Job:
    """A batch on its way."""

    step: int
    epoch: int
    pool: ThreadPoolExecutor
    done: "Future[_Delivery]" = field(default_factory=Future)
    lock: threading.Lock = field(default_factory=threading.Lock)
    stopped: bool = False
    left: int = 0  # slices that are not ready
    place: int = 0  # of its first sample in the epoch
    rows: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    samples: dict[int, list[Sample]] = field(default_factory=dict)  # first place in the batch -> those of a slice
    images: Tensor | None = None
    canvases: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class _Delivery:
    batch: Batch
    event: Any
    consumed: Counter[int]


class _Buffers:
    """Arrays that go round: one is handed out again when nobody else refers to it, views included."""

    def __init__(self) -> None:
        self._arrays: list[Pixels] = []
        self._lock = threading.Lock()

    def take(self, shape: tuple[int, ...]) -> Pixels:
        with self._lock:
            for place in range(len(self._arrays)):
                if sys.getrefcount(self._arrays[place]) == 2:  # the list's and the argument's
                    return self._arrays[place]
            self._arrays.append(np.empty(shape, np.uint8))
            return self._arrays[-1]
