"""What is evaluated: anything that turns pictures and texts into embeddings, and a model in torch as one of them.

    encoder = ModelEncoder(mobileclip.load("mobileclip_s2.pt"), device="cuda", bf16=True)
    cosines = encoder.encode_images(pictures) @ encoder.encode_texts(["a dog", "a cat"]).T

Metrics know only `Encoder`, so an exported artifact (`export.encoder.BundleEncoder`) is measured by the same code as
the model that it was made from. Embeddings are of unit length in float32 at this border, whatever the graph gives; what
is not finite stays so, and is scored as wrong.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import nn

from mobileclip.data.ahead import ahead
from mobileclip.errors import MobileClipError
from mobileclip.preprocessing import square
from mobileclip.tokenizer import tokenize

if TYPE_CHECKING:
    from mobileclip.models import Clip


Embeddings = npt.NDArray[np.float32]
"""[N, E], rows of unit length."""
_T = TypeVar("_T")


class Encoder(Protocol):
    """Pictures and texts in, embeddings of unit length out."""

    name: str
    """What reports call it."""
    logit_scale: float
    """Factor on cosines before the softmax (already exponentiated)."""

    def encode_images(self, images: Iterable[Image.Image]) -> Embeddings:
        """Upright RGB pictures of any size -> float32 [N, E], of unit length."""
        ...

    def encode_texts(self, texts: Sequence[str]) -> Embeddings:
        """Texts -> float32 [N, E], of unit length."""
        ...


class ModelEncoder:
    """A `Clip` in training, reparameterised or fused form, as an `Encoder`; also for use in the middle of training.

    The model is in evaluation mode while it encodes; every module is then put back into the mode it was in. Nothing is
    random: the same input gives the same embedding.
    """

    def __init__(
        self,
        clip: "Clip",
        *,
        device: str | torch.device | None = None,
        batch: int = 64,
        bf16: bool = False,
        name: str | None = None,
    ) -> None:
        """Args:
        clip: the model; it is moved to `device`.
        device: where to compute; None leaves the model where it is.
        batch: pictures or texts a forward pass.
        bf16: compute in bfloat16 where torch's autocast does.
        name: for reports; made of the model's name and origin if left out.
        """
        if batch < 1:
            raise MobileClipError(f"a batch of {batch} holds nothing: give at least 1.")
        self.clip = clip if device is None else clip.to(device)
        self.device = next(clip.parameters()).device
        self.batch = batch
        self.bf16 = bf16
        origin = "" if clip.origin is None else f" ({clip.origin.source})"
        self.name = name or clip.config.name + origin
        self.logit_scale = float(clip.logit_scale.detach().exp())

    def encode_images(self, images: Iterable[Image.Image]) -> Embeddings:
        """Upright pictures -> float32 [N, E], of unit length. Resized in threads, a batch ahead of the model.

        Raises:
            ImageError: a picture that has no square of pixels.
        """
        pre = self.clip.config.preprocess
        squares = ahead(lambda image: np.asarray(square(image, pre)), images, depth=self.batch)
        mean, std = (torch.tensor(v, device=self.device).view(-1, 1, 1) for v in (pre.mean, pre.std))
        rows = [np.zeros((0, self.clip.config.embed_dim), np.float32)]
        with _evaluating(self.clip), self._computing():
            for batch in batches(squares, self.batch):
                pixels = torch.from_numpy(np.stack(batch)).to(self.device)  # [B, S, S, 3]
                x = pixels.permute(0, 3, 1, 2).contiguous().float().div_(255)
                if pre.normalises:
                    x.sub_(mean).div_(std)
                rows.append(self.clip.encode_image(x).float().cpu().numpy())
        return unit(np.concatenate(rows))

    def encode_texts(self, texts: Sequence[str]) -> Embeddings:
        """Texts -> float32 [N, E], of unit length.

        Raises:
            MobileClipError: the model has no text tower.
        """
        text = self.clip.config.text
        if self.clip.text is None or text is None:
            raise MobileClipError(f"{self.name} has no text tower: evaluate a model with both towers.")
        rows = [np.zeros((0, self.clip.config.embed_dim), np.float32)]
        with _evaluating(self.clip), self._computing():
            for batch in batches(texts, self.batch):
                ids = tokenize(batch, text.context).to(self.device)
                rows.append(self.clip.encode_text(ids).float().cpu().numpy())
        return unit(np.concatenate(rows))

    @contextmanager
    def _computing(self) -> Iterator[None]:
        # not inference_mode: what a module keeps of such a pass could not be used in training again
        with torch.no_grad(), torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            yield


def unit(rows: npt.ArrayLike) -> Embeddings:
    """Rows scaled to unit length. A row of zeros stays; a row that is not finite becomes NaN."""
    x = np.asarray(rows, dtype=np.float32)
    with np.errstate(invalid="ignore", over="ignore"):
        largest = np.abs(x).max(axis=-1, keepdims=True, initial=0.0)
        x = x / np.where(largest == 0, 1, largest)  # so that no square overflows
        length = np.linalg.norm(x, axis=-1, keepdims=True)
        out: Embeddings = x / np.where(length == 0, 1, length)
    out[~np.isfinite(out).all(axis=-1)] = np.nan
    return out


def finite(rows: Embeddings) -> npt.NDArray[np.bool_]:
    """[N]: which rows are finite in all of their values."""
    out: npt.NDArray[np.bool_] = np.logical_and.reduce(np.isfinite(rows), axis=-1)
    return out


def encode_distinct(encoder: Encoder, texts: Sequence[str]) -> Embeddings:
    """Embeddings of `texts`, each distinct text encoded once."""
    place = {text: index for index, text in enumerate(dict.fromkeys(texts))}
    rows = encoder.encode_texts(list(place))
    out: Embeddings = rows[[place[text] for text in texts]]
    return out


def batches(items: Iterable[_T], size: int) -> Iterator[list[_T]]:
    """Lists of `size` items, the last one perhaps shorter."""
    source = iter(items)
    while batch := list(islice(source, size)):
        yield batch


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    modes: list[tuple[Any, bool]] = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
