"""Pixels: pictures in memory and in files, and what Pillow and this project make of them."""

import base64
import io
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from makers.form import array, file
from mobileclip.config import Preprocess
from mobileclip.dense import host, host_detection
from mobileclip.images import read_image
from mobileclip.preprocessing import Transform, square

Picture = npt.NDArray[np.uint8]
_OPENAI = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
_SQUARES = (  # width, height, side, filter
    (40, 40, 16, "bilinear"),
    (40, 40, 16, "bicubic"),
    (53, 37, 16, "bilinear"),
    (37, 53, 16, "bicubic"),
    (64, 48, 32, "bicubic"),
    (31, 47, 32, "bilinear"),
    (9, 7, 16, "bilinear"),
    (9, 7, 16, "bicubic"),
    (16, 16, 16, "bicubic"),
    (16, 31, 16, "bilinear"),
    (33, 16, 16, "bicubic"),
    (1, 1, 8, "bilinear"),
    (1, 1, 8, "bicubic"),
    (1, 9, 8, "bicubic"),
    (7, 1, 8, "bilinear"),
    (2, 3, 8, "bicubic"),
    (200, 24, 16, "bicubic"),
    (24, 200, 16, "bicubic"),
    (30, 77, 16, "bilinear"),
    (257, 255, 16, "bilinear"),
)
_STRETCHES = (
    (40, 30, 32, 32),
    (30, 41, 64, 32),
    (64, 32, 64, 32),
    (1, 1, 32, 32),
    (5, 90, 32, 32),
    (32, 50, 32, 32),
    (60, 80, 32, 32),
)
"""Width, height, rows, columns."""


def cases() -> dict[str, Any]:
    """preprocessing.json."""
    rng = np.random.default_rng(80)
    found = [_square(rng, *shape) for shape in _SQUARES]
    found += [_generated(12_000, 40, 16, "bilinear"), _generated(30, 4_000, 16, "bicubic")]
    found += [_fitted(rng, "stretch", *shape) for shape in _STRETCHES]
    found += [_fitted(rng, "letterbox", *shape) for shape in (*_STRETCHES, (90, 5, 32, 32), (100, 75, 64, 64))]
    return file(found, tensors=_tensors(rng), modes=_modes(rng), files=_files(rng))


def generated(width: int, height: int) -> Picture:
    """The picture of a formula: channel c of the pixel in column x and row y is
    ((2 c + 3) x + (3 c + 5) y + 11 (x y mod 7)) mod 256."""
    y, x, c = np.ogrid[:height, :width, :3]
    return (((2 * c + 3) * x + (3 * c + 5) * y + 11 * (x * y % 7)) % 256).astype(np.uint8)


def _square(rng: np.random.Generator, width: int, height: int, side: int, interpolation: Any) -> dict[str, Any]:
    picture = _noise(rng, width, height)
    wanted = np.asarray(square(Image.fromarray(picture), Preprocess(size=side, interpolation=interpolation)))
    return {
        "name": f"{width} x {height} to {side}, {interpolation}",
        "kind": "square",
        "picture": array(picture),
        "size": [side, side],
        "interpolation": interpolation,
        "pixels": array(wanted),
        "tolerance": 0,
    }


def _generated(width: int, height: int, side: int, interpolation: Any) -> dict[str, Any]:
    picture = Image.fromarray(generated(width, height))
    wanted = np.asarray(square(picture, Preprocess(size=side, interpolation=interpolation)))
    return {
        "name": f"{width} x {height} of a formula to {side}, {interpolation}",
        "kind": "square",
        "generated": [width, height],
        "size": [side, side],
        "interpolation": interpolation,
        "pixels": array(wanted),
        "tolerance": 0,
    }


def _fitted(rng: np.random.Generator, kind: str, width: int, height: int, rows: int, columns: int) -> dict[str, Any]:
    picture = _noise(rng, width, height)
    case: dict[str, Any] = {
        "name": f"{kind} {width} x {height} into {columns} x {rows}",
        "kind": kind,
        "picture": array(picture),
        "size": [rows, columns],
        "interpolation": "bilinear",
    }
    if kind == "stretch":
        return {**case, "pixels": array(host.stretch(picture, (rows, columns))), "tolerance": 0}
    wanted, scale = host_detection.letterbox(picture, (rows, columns))
    inside = host_detection.content((height, width), (rows, columns))
    return {**case, "pixels": array(wanted), "tolerance": 0, "scale": scale, "content": list(inside)}


def _tensors(rng: np.random.Generator) -> list[dict[str, Any]]:
    """A square of pixels -> float32 [3, S, S]."""
    pixels = _noise(rng, 8, 8)
    out = []
    for name, preprocess in (
        ("0..1", Preprocess(size=8)),
        ("mean and std", Preprocess(size=8, mean=_OPENAI[0], std=_OPENAI[1])),
    ):
        wanted = Transform(preprocess)(Image.fromarray(pixels)).numpy()
        statistics = {"mean": list(preprocess.mean), "std": list(preprocess.std)}
        out.append({"name": name, "pixels": array(pixels), **statistics, "tensor": array(wanted), "tolerance": 1e-6})
    return out


def _modes(rng: np.random.Generator) -> list[dict[str, Any]]:
    """Decoded pixels of other kinds -> RGB."""
    grey = rng.integers(0, 256, (5, 7), dtype=np.uint8)
    wide = rng.integers(0, 65536, (5, 7), dtype=np.uint16)
    alpha = rng.integers(0, 256, (5, 7, 4), dtype=np.uint8)
    both = np.ascontiguousarray(alpha[..., :2])
    picture = Image.fromarray(grey, "P")
    picture.putpalette(rng.integers(0, 256, 768, dtype=np.uint8).tobytes())
    table = np.array(picture.getpalette(), np.uint8).reshape(256, 3)
    grid = np.array([[[a, b, c, k] for a in (0, 1, 128, 255)] for b, c, k in ((0, 255, 0), (7, 90, 200), (9, 9, 255))])
    inks = np.concatenate([grid.astype(np.uint8), rng.integers(0, 256, (3, 4, 4), dtype=np.uint8)])
    sources: list[tuple[str, Any, Image.Image]] = [
        ("L", grey, Image.fromarray(grey, "L")),
        ("LA", both, Image.fromarray(both, "LA")),
        ("RGBA", alpha, Image.fromarray(alpha, "RGBA")),
        ("I;16", wide, Image.fromarray(wide)),
        ("P", grey, picture),
        ("CMYK", inks, Image.fromarray(inks, "CMYK")),
    ]
    out = []
    for mode, pixels, image in sources:
        case = {"mode": mode, "pixels": array(pixels), "rgb": array(_rgb(image)), "tolerance": 0}
        out.append({**case, "palette": array(table)} if mode == "P" else case)
    return out


def _rgb(image: Image.Image) -> Picture:
    """What `read_image` makes of it, by way of a file without loss."""
    return np.asarray(read_image(_saved(image, "TIFF")))


def _files(rng: np.random.Generator) -> list[dict[str, Any]]:
    """Encoded pictures. `stored` is what a decoder gives that ignores EXIF, `upright` what an app must show."""
    smooth = Image.fromarray(_noise(rng, 3, 2)).resize((24, 16), Image.Resampling.BICUBIC)
    out = [_file(f"JPEG, EXIF orientation {turn}", _saved(smooth, "JPEG", turn), "jpeg", 3) for turn in range(1, 9)]
    out += [_file(f"PNG, EXIF orientation {turn}", _saved(smooth, "PNG", turn), "png", 0) for turn in (1, 3, 6, 7)]
    alpha = smooth.convert("RGBA")
    alpha.putalpha(Image.linear_gradient("L").resize(smooth.size).point(lambda value: max(value, 16)))
    grey, colours = smooth.convert("L"), smooth.quantize(16)
    colours.info["transparency"] = 3
    wide = Image.fromarray(rng.integers(0, 65536, (9, 12), dtype=np.uint16))
    dot = Image.new("RGB", (1, 1), (200, 30, 70))
    out += [
        _file("JPEG without EXIF", _saved(smooth, "JPEG"), "jpeg", 3),
        _file("JPEG, grey", _saved(grey, "JPEG"), "jpeg", 3),
        _file("JPEG, CMYK", _saved(smooth.convert("CMYK"), "JPEG"), "jpeg", 3),
        _file("JPEG, 1 x 1", _saved(dot, "JPEG"), "jpeg", 3),
        _file("JPEG, broken EXIF", _broken_exif(smooth), "jpeg", 3),
        _file("PNG, alpha (dropped, not blended)", _saved(alpha, "PNG"), "png", 0),
        _file("PNG, grey", _saved(grey, "PNG"), "png", 0),
        _file("PNG, grey with alpha", _saved(alpha.convert("LA"), "PNG"), "png", 0),
        _file("PNG, palette with a transparent colour", _saved(colours, "PNG"), "png", 0),
        _file("PNG, 16-bit grey", _saved(wide, "PNG"), "png", 1),
        _file("PNG, 1 x 1", _saved(dot, "PNG"), "png", 0),
    ]
    cut = _saved(smooth, "PNG")[:60]
    out += [_refused("PNG, cut short", cut, "png"), _refused("no picture", b"not a picture at all", "none")]
    return [*out, _refused("empty", b"", "none")]


def _file(name: str, raw: bytes, kind: str, tolerance: int) -> dict[str, Any]:
    with Image.open(io.BytesIO(raw)) as image:
        image.load()
        try:
            orientation = int(image.getexif().get(0x0112, 1))
        except Exception:  # a broken block is no orientation, as for `read_image`
            orientation = 1
        image.info.pop("exif", None)
    plain = _without_exif(raw)
    return {
        "name": name,
        "kind": kind,
        "base64": base64.b64encode(raw).decode(),
        "orientation": orientation,
        "stored": array(np.asarray(read_image(plain))),
        "upright": array(np.asarray(read_image(raw))),
        "tolerance": tolerance,
    }


def _refused(name: str, raw: bytes, kind: str) -> dict[str, Any]:
    return {"name": name, "kind": kind, "base64": base64.b64encode(raw).decode(), "refused": True}


def _without_exif(raw: bytes) -> bytes:
    """The same file with the orientation's tag made another one, so that its pixels are decoded as they lie."""
    tag = raw.find(b"\x01\x12\x00\x03"), raw.find(b"\x12\x01\x03\x00")
    place = max(tag)
    if place < 0:
        return raw
    renamed = raw[place : place + 4].replace(b"\x12", b"\x0f")
    changed = raw[:place] + renamed + raw[place + 4 :]
    if not raw.startswith(b"\x89PNG"):
        return changed
    image = Image.open(io.BytesIO(raw))  # a PNG's block has a checksum: write it anew
    return _saved(Image.fromarray(np.asarray(image)), "PNG")


def _broken_exif(image: Image.Image) -> bytes:
    raw = _saved(image, "JPEG", 6)
    place = raw.find(b"Exif\0\0") + 6
    return raw[:place] + b"\xff" * 8 + raw[place + 8 :]


def _saved(image: Image.Image, kind: str, orientation: int | None = None) -> bytes:
    out = io.BytesIO()
    more: dict[str, Any] = {"quality": 90, "subsampling": 0} if kind == "JPEG" else {}
    if orientation is not None:
        exif = Image.Exif()
        exif[0x0112] = orientation
        more["exif"] = exif.tobytes()
    image.save(out, kind, **more)
    return out.getvalue()


def _noise(rng: np.random.Generator, width: int, height: int) -> Picture:
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
