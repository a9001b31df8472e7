"""What scores pictures and texts in caption work: a checkpoint of this project or of open_clip, as one thing.

    scorer = scorer_of("runs/mobileclip_s2/best")              # whatever `mobileclip.load` takes, or
    scorer = scorer_of("open_clip:ViT-L-14:openai", "cuda", bf16=True)
    rows = scorer.images(scorer.squares(pixels), batch=32)     # float32 [B, D], of unit length
    rows = scorer.texts(["a cat"], batch=32)

A network's last bits depend on how many rows a pass has. So every pass here has the same number of rows, filled up
where there are fewer: what is said of a picture does not depend on its neighbours, and a shard that is done again
gives the same bytes. Only where memory runs out is a pass divided, and its last bits may then differ.

A scorer is loaded once a process, whichever stages use it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from mobileclip.data.ahead import ahead
from mobileclip.data.decode import Pixels
from mobileclip.errors import CheckpointError, ImageError, MobileClipError, UnknownName
from mobileclip.images import MAX_PIXELS
from mobileclip.tokenizer import VOCABULARY, tokenize

if TYPE_CHECKING:
    from torch import Tensor

OPEN_CLIP = "open_clip:"
"""Begins the name of a model of open_clip's: `open_clip:NAME:TAG`, `open_clip:NAME:FILE` or
`open_clip:local-dir:FOLDER`."""
DEVICES = ("cpu", "cuda", "mps")
"""Where a scorer may compute; "cuda:1" and the like as well."""

_LOCAL = "local-dir:"
_HASHED = (".safetensors", ".pt", ".pth", ".bin", ".json")  # files of a folder that decide what is computed

Rows = npt.NDArray[np.float32]
"""[N, D], of unit length; NaN where the model gave what is not finite."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Scorer:
    """A model with both towers, ready to embed."""

    model: str
    """What was asked for."""
    weights: str
    """SHA-256 of the weights' file; "" for weights that are drawn or known by a tag."""
    licence: str
    """Of the weights."""
    research_only: bool
    """Whether that licence forbids products."""
    dim: int
    """D."""
    device: str
    """Where it computes."""
    bf16: bool
    """Whether it computes in bfloat16 where torch's autocast does."""
    square: Callable[[Image.Image], Pixels] = field(repr=False)
    """Upright picture -> uint8 [S, S', 3], as the model is evaluated."""
    normalise: tuple[tuple[float, ...], tuple[float, ...]] = field(repr=False)
    """Mean and standard deviation of the channels, of 0..1."""
    image_tower: Callable[["Tensor"], "Tensor"] = field(repr=False)
    """[B, 3, S, S'] -> [B, D]."""
    text_tower: Callable[["Tensor"], "Tensor"] = field(repr=False)
    """ids [B, L] -> [B, D]."""
    tokens: Callable[[list[str]], "Tensor"] = field(repr=False)
    """Texts -> ids [B, L]."""

    @property
    def provenance(self) -> Mapping[str, Any]:
        """For side-cars."""
        return {
            "model": self.model,
            "weights": self.weights,
            "licence": self.licence,
            "research_only": self.research_only,
            "device": self.device,
            "bf16": self.bf16,
        }

    def squares(self, pixels: Sequence[Pixels | None]) -> list[Pixels | ImageError | None]:
        """RGB uint8 [H, W, 3] each -> the squares that the model takes, or why there is none; None stays."""

        def one(picture: Pixels | None) -> Pixels | ImageError | None:
            try:
                return None if picture is None else self.square(Image.fromarray(picture))
            except ImageError as error:
                return error

        return list(ahead(one, pixels))

    def images(self, squares: Sequence[Pixels | ImageError | None], batch: int) -> Rows:
        """What `squares` gave -> float32 [N, D]; NaN where there is no square. `batch`: rows of a pass."""
        out = np.full((len(squares), self.dim), np.nan, np.float32)
        for first in range(0, len(squares), batch):
            found = squares[first : first + batch]
            there = np.array([isinstance(one, np.ndarray) for one in found])
            if there.any():
                block = [one for one in found if isinstance(one, np.ndarray)]
                filled = [one if isinstance(one, np.ndarray) else block[0] for one in found]
                out[first : first + batch][there] = _whole(self._pixels, np.stack(filled), batch)[there]
        return out

    def texts(self, texts: Sequence[str], batch: int) -> Rows:
        """Texts -> float32 [N, D]; `batch`: rows of a pass."""
        out = np.empty((len(texts), self.dim), np.float32)
        for first in range(0, len(texts), batch):
            ids = self.tokens(list(texts[first : first + batch])).numpy()
            out[first : first + batch] = _whole(self._ids, ids, batch)
        return out

    def _pixels(self, block: npt.NDArray[np.uint8]) -> Rows:
        import torch

        with self._computing():
            x = torch.from_numpy(block).to(self.device).permute(0, 3, 1, 2).contiguous().float().div_(255)
            if self.normalise != ((0.0,) * 3, (1.0,) * 3):
                mean, std = (torch.tensor(values, device=self.device).view(-1, 1, 1) for values in self.normalise)
                x = x.sub_(mean).div_(std)
            rows: Rows = self.image_tower(x).float().cpu().numpy()
        return rows

    def _ids(self, block: npt.NDArray[Any]) -> Rows:
        import torch

        with self._computing():
            rows: Rows = self.text_tower(torch.from_numpy(block).to(self.device)).float().cpu().numpy()
        return rows

    def _computing(self) -> Any:
        from contextlib import ExitStack

        import torch

        stack = ExitStack()
        stack.enter_context(torch.inference_mode())
        stack.enter_context(torch.autocast(self.device.partition(":")[0], torch.bfloat16, enabled=self.bf16))
        return stack


def points_at(model: str) -> str:
    """Hash of what a model's name points at on this disk; "" where the name says all.

    Raises:
        MobileClipError: there is no such file, folder or model.
    """
    from mobileclip.checkpoint import CONFIG, WEIGHTS

    _, found = _place(model)
    if found is None:
        return ""
    if not found.exists():
        raise CheckpointError(
            f"the scorer '{model}' points at '{found}', which is not there: give a file or folder of weights, "
            f"{OPEN_CLIP}NAME:TAG, {OPEN_CLIP}NAME:FILE or seeded:NAME."
        )
    files = [found]
    if found.is_dir():  # of `mobileclip.save` or the trainer, whose other files decide nothing; or of another program
        own = [found / WEIGHTS, found / CONFIG]
        files = own if all(path.is_file() for path in own) and not model.startswith(OPEN_CLIP) else _files(found)
    return " ".join(_hash(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files)


def check(device: str, bf16: bool, batch: int, stage: str) -> None:
    """Refuse options that stages with a scorer share.

    Raises:
        MobileClipError: one sentence.
    """
    if device.partition(":")[0] not in DEVICES:
        raise UnknownName("device", device, DEVICES)
    if batch < 1:
        raise MobileClipError(f"{stage}.batch is {batch}: at least 1 row of a pass is needed.")
    if bf16 and device == "mps":
        raise MobileClipError(f"{stage}.bf16 is not for the device mps: take cpu or cuda, or leave bf16 out.")


def scorer_of(model: str, device: str = "cpu", bf16: bool = False) -> Scorer:
    """Load a model and make it ready; kept for the next who asks.

    Args:
        model: what `mobileclip.load` takes, or a name that begins with `OPEN_CLIP`.
        device: where to compute.
        bf16: compute in bfloat16 where torch's autocast does.

    Raises:
        MobileClipError: the weights cannot be used, the model lacks a tower, or the device is not there.
    """
    return _loaded(model, points_at(model), device, bf16)


@lru_cache(maxsize=2)
def _loaded(model: str, content: str, device: str, bf16: bool) -> Scorer:
    """`scorer_of`; `content`: what the name points at now, so that another file under the same name is loaded anew."""
    import torch

    if device.startswith("cuda") and not torch.cuda.is_available():
        raise MobileClipError(f'the device {device} is not there: take device = "cpu", or a machine that has one.')
    return (_open_clip if model.startswith(OPEN_CLIP) else _own)(model, device, bf16)


def _own(model: str, device: str, bf16: bool) -> Scorer:
    import mobileclip
    from mobileclip.models import Clip
    from mobileclip.preprocessing import square

    clip = mobileclip.load(model)
    text = clip.config.text
    if text is None:
        raise CheckpointError(f"the scorer '{model}' has no text tower: give a model with both towers.")
    origin, pre = clip.origin, clip.config.preprocess
    assert origin is not None, "what was loaded has an origin"
    fused = mobileclip.fuse(clip).to(device)
    assert isinstance(fused, Clip)
    return Scorer(
        model=model,
        weights=origin.sha256,
        licence=origin.licence,
        research_only=origin.licence_research_only,
        dim=clip.config.embed_dim,
        device=device,
        bf16=bf16,
        square=lambda image: np.asarray(square(image, pre)),
        normalise=(pre.mean, pre.std),
        image_tower=fused.encode_image,
        text_tower=fused.encode_text,
        tokens=lambda texts: tokenize(texts, text.context),
    )


def _open_clip(model: str, device: str, bf16: bool) -> Scorer:
    import open_clip
    import torch
    from open_clip.transform import PreprocessCfg, image_transform_v2
    from torchvision.transforms import Normalize, ToTensor

    name, found = _place(model)
    weights = None if name.startswith(_LOCAL) else model.removeprefix(OPEN_CLIP).partition(":")[2]
    try:
        built = open_clip.create_model(name, pretrained=weights, device=device, require_pretrained=True)
        tokens = _tokens(open_clip.get_tokenizer(name))
    except Exception as error:  # of the hub, of the file, of a shape: each its own
        reason = " ".join(str(error).split())[:200].rstrip(".")
        raise CheckpointError(
            f"the scorer '{model}' cannot be loaded ({reason}): give weights that fit, as a file on this disk."
        ) from error
    built = built.eval().requires_grad_(False)
    pre = PreprocessCfg(**built.visual.preprocess_cfg)
    steps = image_transform_v2(pre, is_train=False).transforms
    steps = [step for step in steps if not isinstance(step, ToTensor | Normalize)]

    def square(image: Image.Image) -> Pixels:
        _bounded(image.size, max(pre.size) if isinstance(pre.size, Sequence) else pre.size)
        for step in steps:
            image = step(image)
        return np.asarray(image)

    with torch.inference_mode():
        dim = built.encode_text(tokens(["a"]).to(device)).shape[-1]
    return Scorer(
        model=model,
        weights="" if found is None else points_at(model),
        licence="unknown: that of open_clip's weights",
        research_only=False,
        dim=dim,
        device=device,
        bf16=bf16,
        square=square,
        normalise=(tuple(pre.mean), tuple(pre.std)),
        image_tower=built.encode_image,
        text_tower=built.encode_text,
        tokens=tokens,
    )


def _tokens(theirs: Any) -> Callable[[list[str]], "Tensor"]:
    """open_clip's tokenizer, or ours where it gives the same ids, in a fraction of the time."""
    from open_clip import tokenizer as known

    plain = type(theirs) is known.SimpleTokenizer and theirs.vocab_size == VOCABULARY
    if not plain or theirs.reduction_fn is not None or theirs.clean_fn is not known._clean_lower:
        found: Callable[[list[str]], Tensor] = theirs
        return found
    return lambda texts: tokenize(texts, theirs.context_length).long()


def _bounded(size: tuple[int, int], side: int) -> None:
    short, long = sorted(size)
    if side * side * long > MAX_PIXELS * short:
        raise ImageError(
            f"the picture is {size[0]} x {size[1]}: a side may be at most {MAX_PIXELS // side**2:,} times the other."
        )


def _place(model: str) -> tuple[str, Path | None]:
    """(open_clip's name or the model, what lies on this disk).

    Raises:
        MobileClipError: open_clip has no such model, or no weights are given.
    """
    if not model.startswith(OPEN_CLIP):
        if model.startswith("seeded:"):
            from mobileclip.config import config_of

            config_of(model.split(":")[1])
            return model, None
        known = Path(model).exists()
        return model, None if ":" in model and not known else Path(model)
    text = model.removeprefix(OPEN_CLIP)
    if text.startswith(_LOCAL):
        return text, Path(text.removeprefix(_LOCAL))
    import open_clip

    name, _, weights = text.partition(":")
    if name not in open_clip.list_models():
        raise UnknownName("open_clip model", name, open_clip.list_models())
    tags = open_clip.list_pretrained_tags_by_model(name)
    if not weights:
        raise CheckpointError(
            f"the scorer '{model}' has no weights: write {model}:FILE or {model}:TAG, with one of "
            f"{', '.join(tags) or 'no tags'}."
        )
    return name, None if weights in tags else Path(weights)


def _whole(run: Callable[[Any], Rows], block: npt.NDArray[Any], rows: int) -> Rows:
    """`run` on exactly `rows` rows, filled up from the block's own, of unit length; in parts where memory runs out."""
    from mobileclip.evaluate.encoder import unit

    count = len(block)
    if count < rows:
        block = block[np.arange(rows) % count]
    return unit(_run(run, block)[:count])


def _run(run: Callable[[Any], Rows], block: npt.NDArray[Any]) -> Rows:
    import torch

    try:
        return run(block)
    except (MemoryError, torch.OutOfMemoryError):
        if len(block) == 1:
            raise
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    middle = len(block) // 2
    return np.concatenate([_run(run, block[:middle]), _run(run, block[middle:])])


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix in _HASHED and path.is_file())


@lru_cache(maxsize=64)
def _hash(path: str, size: int, changed: int) -> str:
    """Of a file, by what says that it is the same."""
    from mobileclip.checkpoint_files import sha256_of

    return sha256_of(Path(path))
