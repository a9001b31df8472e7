"""A picture with its truth, on disk's terms (`Sample`, numpy) and on a batch's (`Item`, `Batch`, torch), and what a
model says about a picture (`Segmented`, `Detected`, `Depths`).

Everywhere: labels are 0..K-1 with 255 for pixels that count nowhere; boxes are (left, top, right, bottom) in pixels,
right and bottom outside; depth is in metres, 0 where there is none. H, W rows and columns, N objects, B pictures.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
from torch import Tensor

if TYPE_CHECKING:
    from mobileclip.dense.config import Task


Array = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Objects:
    """The objects of one picture."""

    boxes: npt.NDArray[np.float32]
    """[N, 4]"""
    classes: npt.NDArray[np.int64]
    """[N], 0..K-1."""
    masks: npt.NDArray[np.bool_]
    """[N, H, W]"""
    crowd: npt.NDArray[np.bool_]
    """[N]; crowds are left out of training and match anything in evaluation."""
    area: npt.NDArray[np.float32]
    """[N], of the mask as the annotation says, in pixels."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A picture and its truth; of the last three fields the one of the task is there."""

    name: str
    """File, for messages and results."""
    image: npt.NDArray[np.uint8]
    """[H, W, 3] RGB, upright."""
    labels: npt.NDArray[np.uint8] | None = None
    """[H, W]"""
    objects: Objects | None = None
    depth: npt.NDArray[np.float32] | None = None
    """[H, W]"""
    image_id: int = 0
    """COCO's id of the picture."""


class DenseSet(Protocol):
    """Pictures with truth, opened; `mobileclip.dense.open_set` gives one."""

    name: str
    task: "Task"
    labels: tuple[str, ...]
    category_ids: tuple[int, ...]
    fingerprint: str
    """Changes when the files do."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...


@dataclass(frozen=True, kw_only=True)
class Item:
    """One picture after a transform."""

    name: str
    image: Tensor
    """uint8 [3, H, W]"""
    labels: Tensor | None = None
    """int64 [H, W]"""
    depth: Tensor | None = None
    """float32 [H, W]"""
    boxes: Tensor | None = None
    """float32 [N, 4]"""
    classes: Tensor | None = None
    """int64 [N]"""
    masks: Tensor | None = None
    """bool [N, H, W]"""


@dataclass(frozen=True, kw_only=True)
class Targets:
    """The truth of a batch, for `Head.loss`; what the task does not need is None."""

    sizes: tuple[tuple[int, int], ...]
    """Rows and columns of each picture before it was padded to the right and below."""
    labels: Tensor | None = None
    """int64 [B, H, W], padded with 255."""
    depth: Tensor | None = None
    """float32 [B, H, W], padded with 0."""
    boxes: tuple[Tensor, ...] | None = None
    """float32 [N_i, 4] a picture."""
    classes: tuple[Tensor, ...] | None = None
    """int64 [N_i] a picture."""
    masks: tuple[Tensor, ...] | None = None
    """bool [N_i, H, W] a picture, padded."""

    def to(self, device: Any) -> "Targets":
        """All tensors on a device."""

        def moved(value: Any) -> Any:
            if isinstance(value, Tensor):
                return value.to(device, non_blocking=True)
            return tuple(moved(part) for part in value) if isinstance(value, tuple) else value

        parts = ("labels", "depth", "boxes", "classes", "masks")
        return Targets(sizes=self.sizes, **{part: moved(getattr(self, part)) for part in parts})


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What a step trains on."""

    names: tuple[str, ...]
    images: Tensor
    """uint8 [B, 3, H, W], padded with 0 to the right and below, H and W multiples of 32."""
    targets: Targets


@dataclass(frozen=True, kw_only=True)
class Segmented:
    """A class for each pixel of the picture as it came."""

    labels: npt.NDArray[np.uint8]
    """[H, W], 0..K-1."""


@dataclass(frozen=True, kw_only=True)
class Detected:
    """Objects of the picture as it came, best first."""

    boxes: npt.NDArray[np.float32]
    """[N, 4]"""
    scores: npt.NDArray[np.float32]
    """[N], 0..1."""
    classes: npt.NDArray[np.int64]
    """[N], 0..K-1."""
    masks: npt.NDArray[np.bool_]
    """[N, H, W]"""


@dataclass(frozen=True, kw_only=True)
class Depths:
    """A distance for each pixel of the picture as it came."""

    metres: npt.NDArray[np.float32]
    """[H, W]"""


Prediction = Segmented | Detected | Depths


@runtime_checkable
class Predictor(Protocol):
    """Anything that answers for a picture: a checkpoint in torch, or an artifact of a bundle."""

    name: str
    task: "Task"
    labels: tuple[str, ...]
    category_ids: tuple[int, ...]

    def __call__(self, image: npt.NDArray[np.uint8]) -> Prediction:
        """RGB [H, W, 3] of any size."""
        ...
