"""A bundle as an `Encoder`: exported artifacts are evaluated by the same code as the model that they were made from.

    report = evaluate(BundleEncoder("out/s2", "executorch-xnnpack"), zero_shot="pets/test")

All that is known of the artifacts is read from the manifest, as an app does: size, resize, colour order, scale, types
and names of inputs, the tokenizer, the logit scale. What an app would trip over is an error here. onnxruntime and the
ExecuTorch runtime run their own artifacts; Core ML programs run in this project's interpreter, which is right and slow,
and a line tells how slow.
"""

import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from export.manifest import Bundle
from export.runtimes import CoreMLSession, NotHere, Session, open_artifact
from export.targets import Kind, targets_of
from mobileclip.checkpoint import load
from mobileclip.config import Preprocess
from mobileclip.data.ahead import ahead
from mobileclip.errors import ArtifactError, BundleError, MobileClipError
from mobileclip.evaluate.encoder import Embeddings, Encoder, ModelEncoder, unit
from mobileclip.preprocessing import square
from mobileclip.tokenizer import CONTEXT, END, PAD, START, tokenize, tokenizer_hash

Array = npt.NDArray[Any]
PREFERRED = ("onnx", "executorch-xnnpack", "coreml", "executorch-coreml")
"""Which target is taken where none is named: the first that the bundle has."""
_RESIZE = re.compile(r"shortest side to (?P<size>\d+), (?P<filter>bilinear|bicubic), antialias")
_DEPTH = 16  # pictures that are made ready ahead of the runtime


class BundleEncoder:
    """The artifacts of one target of a bundle."""

    def __init__(
        self,
        bundle: str | Path | Bundle,
        target: str | None = None,
        *,
        threads: int = 0,
        progress: Callable[[str], None] = lambda line: None,
    ) -> None:
        """Args:
        bundle: folder that `export` wrote (its hashes are checked), or one that was opened.
        target: key of `TARGETS`; the first of `PREFERRED` that is there if left out.
        threads: of the CPU runtimes; 0 leaves it to them.
        progress: called with a line where something is slow.

        Raises:
            UnknownName: no such target.
            BundleError: broken or changed, or without an image artifact of this target.
            ArtifactError: this machine cannot run the target.
        """
        self.bundle = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
        self.target = _target(self.bundle, target)
        self.name = f"{self.bundle.path.name or self.bundle.path.resolve().name} ({self.target})"
        self.logit_scale = float(self.bundle.manifest["model"]["logit_scale"])
        self._threads, self._progress = threads, progress
        self._image = _Artifact(self.bundle, self.target, "image", threads)
        self._preprocess = _preprocess(self._image)
        self._text: _Artifact | None = None

    def encode_images(self, images: Iterable[Image.Image]) -> Embeddings:
        """Upright pictures -> float32 [N, E], of unit length.

        Raises:
            ImageError: a picture that has no square of pixels.
            ArtifactError: the artifact gives something else than the manifest says.
        """
        return self._run(self._image, ahead(self._pixels, images, depth=_DEPTH))

    def encode_texts(self, texts: Sequence[str]) -> Embeddings:
        """Texts -> float32 [N, E], of unit length.

        Raises:
            BundleError: the bundle has no text artifact of this target, or is of another tokenizer.
            ArtifactError: the artifact gives something else than the manifest says.
        """
        if self._text is None:
            _check_tokenizer(self.bundle)
            self._text = _Artifact(self.bundle, self.target, "text", self._threads)
        text = self._text
        if len(text.shape) != 2 or text.shape[0] != 1:
            raise BundleError(f"{text.path} takes ids of shape {list(text.shape)}: [1, {CONTEXT}] is known.")
        return self._run(text, (tokenize([line], text.shape[1]).numpy().astype(text.dtype) for line in texts))

    def _pixels(self, image: Image.Image) -> Array:
        """What the image artifact takes: 8-bit [S, S, 3] where the runtime scales, else float32 [1, 3, S, S]."""
        pixels: Array = np.asarray(square(image, self._preprocess))
        if self._image.dtype == "image":  # a picture, whose channels the runtime orders
            return pixels
        if self._image.entry["colour"] == "BGR":
            pixels = pixels[..., ::-1]
        scale = np.float32(self._image.entry["scale"])
        return np.ascontiguousarray((pixels.astype(np.float32) * scale).transpose(2, 0, 1)[None])

    def _run(self, artifact: "_Artifact", feeds: Iterable[Array]) -> Embeddings:
        rows: list[Array] = []
        for feed in feeds:
            start = time.perf_counter()
            row = artifact.session.run([feed])[0]
            if row.size != artifact.length:
                raise ArtifactError(
                    f"{artifact.path} gives {row.size} values where its manifest says {artifact.length}: export again."
                )
            if not rows and isinstance(artifact.session, CoreMLSession):
                self._progress(
                    f"{artifact.path.name} runs in the Core ML interpreter, which is right and slow: "
                    f"{time.perf_counter() - start:.1f} s an input"
                )
            rows.append(row.reshape(1, -1).astype(np.float32))
        return unit(np.concatenate(rows) if rows else np.zeros((0, artifact.length), np.float32))


def encoder_of(
    source: str | Path,
    target: str | None = None,
    *,
    device: str | None = None,
    bf16: bool = False,
    progress: Callable[[str], None] = lambda line: None,
) -> Encoder:
    """What a user names: a bundle (a folder with a manifest), or anything that `mobileclip.load` takes.

    Raises:
        MobileClipError: neither can be read, or an option is given that belongs to the other.
    """
    folder = Path(source)
    if (folder / "manifest.json").is_file():
        if device is not None or bf16:
            raise MobileClipError(
                f"{folder} is a bundle, whose runtimes compute as they were exported: leave the device out."
            )
        return BundleEncoder(folder, target, progress=progress)
    if target is not None:
        raise MobileClipError(f"'{source}' is a model, not a bundle: a target ('{target}') is chosen for bundles only.")
    return ModelEncoder(load(source), device=device, bf16=bf16)


class _Artifact:
    """One view of one target: its file, loaded, and its entry in the manifest."""

    def __init__(self, bundle: Bundle, target: str, kind: Kind, threads: int) -> None:
        entries = [e for e in bundle.manifest["artifacts"] if e["view"] == kind and e["target"] == target]
        if not entries:
            raise BundleError(
                f"{bundle.path} has no {kind} artifact for {target}: export a model with that tower, or choose another "
                f"target of {', '.join(_targets(bundle)) or 'another bundle'}."
            )
        self.path = bundle.file(entries[0]["file"])
        inputs, outputs = entries[0]["inputs"], entries[0]["outputs"]
        if [item["kind"] for item in inputs] != [kind] or not outputs:
            raise BundleError(
                f"{self.path} has {len(inputs)} inputs and {len(outputs)} outputs: one {kind} in and an embedding out "
                "is known."
            )
        self.entry: Mapping[str, Any] = inputs[0]
        self.shape: tuple[int, ...] = tuple(self.entry["shape"])
        self.dtype: str = self.entry["dtype"]
        self.length = int(np.prod(outputs[0]["shape"]))
        self.session = _open(self.path, target, threads)
        slots = self.session.inputs
        by_position = self.path.suffix == ".pte"  # programs of ExecuTorch have no names
        if len(slots) != 1 or not (by_position or slots[0].name == self.entry["name"]):
            raise ArtifactError(
                f"{self.path} takes {', '.join(slot.name for slot in slots)}, its manifest says "
                f"{self.entry['name']}: export it again."
            )


def _open(path: Path, target: str, threads: int) -> Session:
    try:
        return open_artifact(path, target, threads)
    except NotHere as reason:
        raise ArtifactError(f"{path} cannot run here: it needs {reason}; choose another target.") from reason


def _targets(bundle: Bundle) -> list[str]:
    return list(dict.fromkeys(entry["target"] for entry in bundle.manifest["artifacts"] if entry["view"] == "image"))


def _target(bundle: Bundle, target: str | None) -> str:
    held = _targets(bundle)
    if target is not None:
        targets_of([target])
        if target not in held:
            raise BundleError(f"{bundle.path} has nothing for {target}: it holds {', '.join(held) or 'no image view'}.")
        return target
    chosen = next((name for name in PREFERRED if name in held), None)
    if chosen is None:
        raise ArtifactError(
            f"{bundle.path} holds {', '.join(held) or 'no image view'}, which does not run here: export it for one of "
            f"{', '.join(PREFERRED)} too."
        )
    return chosen


def _preprocess(image: _Artifact) -> Preprocess:
    """How a picture becomes what the artifact takes, as its manifest tells."""
    entry, shape = image.entry, image.shape
    found = _RESIZE.fullmatch(str(entry.get("resize")))
    right = (
        found is not None
        and shape == (1, 3, int(found["size"]), int(found["size"]))
        and entry.get("crop") == "centre"
        and entry.get("colour") in ("RGB", "BGR")
        and "scale" in entry
        and entry["dtype"] in ("float32", "image")
    )
    if found is None or not right:
        told = {key: entry.get(key) for key in ("shape", "dtype", "colour", "scale", "resize", "crop")}
        raise BundleError(f"{image.path} takes pictures in a way that this version does not know ({told}).")
    return Preprocess(size=shape[2], interpolation="bicubic" if found["filter"] == "bicubic" else "bilinear")


def _check_tokenizer(bundle: Bundle) -> None:
    about = bundle.manifest["tokenizer"]
    if about is None:
        raise BundleError(
            f"{bundle.path} is of an image tower alone, without texts: evaluate a model with both towers."
        )
    if about["sha256"] != tokenizer_hash() or [about[key] for key in ("start", "end", "pad")] != [START, END, PAD]:
        raise BundleError(
            f"{bundle.path} was made for another tokenizer (sha256 {about['sha256'][:12]}, here "
            f"{tokenizer_hash()[:12]}): its texts cannot be tokenised."
        )
