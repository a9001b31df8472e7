"""Pixels against torchvision's and open_clip's pipelines bit for bit, and foreign files made to break readers."""

import contextlib
import io
import os
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from torchvision import transforms

from mobileclip import preprocessing
from mobileclip.config import MODELS, OPENAI_MEAN, OPENAI_STD, Preprocess
from mobileclip.errors import ImageError, MobileClipError, UnknownName
from mobileclip.images import EXTENSIONS, MAX_BYTES, MAX_PIXELS, load_images, read_image
from mobileclip.preprocessing import square

DATA = Path(__file__).parents[3] / "shared" / "data"
PHOTOS = sorted((DATA / "photos" / "images").glob("*.jpg"))
POISON = sorted((DATA / "poison").glob("*"))
KINDS = [
    Preprocess(size=16),
    Preprocess(size=17, mean=OPENAI_MEAN, std=OPENAI_STD),
    Preprocess(size=24, mean=OPENAI_MEAN, std=OPENAI_STD, interpolation="bicubic"),
]


def _torchvision(config: Preprocess) -> transforms.Compose:
    steps = [
        transforms.Resize(config.size, transforms.InterpolationMode(config.interpolation)),
        transforms.CenterCrop(config.size),
        transforms.ToTensor(),
    ]
    return transforms.Compose([*steps, *([transforms.Normalize(config.mean, config.std)] if config.normalises else [])])


def _noise(width: int, height: int, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(pixels)


def _file(image: Image.Image, kind: str = "PNG", **options: object) -> io.BytesIO:
    file = io.BytesIO()
    image.save(file, kind, **options)
    file.seek(0)
    return file


def _png(width: int, height: int) -> bytes:
    """The header of a PNG, and no pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


side = st.one_of(st.integers(1, 40), st.integers(41, 300))


@settings(max_examples=250, deadline=None)
@given(side, side, st.sampled_from(KINDS), st.integers(0, 9))
@example(1, 1, KINDS[0], 0)
@example(1, 300, KINDS[1], 0)
@example(300, 1, KINDS[2], 0)
@example(16, 16, KINDS[0], 0)
@example(16, 33, KINDS[0], 0)
def test_equals_torchvision(width: int, height: int, config: Preprocess, seed: int) -> None:
    image = _noise(width, height, seed)
    out = preprocessing.preprocess(config)(image)
    assert out.dtype == torch.float32
    assert out.is_contiguous()
    assert torch.equal(out, _torchvision(config)(image))
    if not config.normalises:
        pixels = np.asarray(square(image, config))
        assert pixels.shape == (config.size, config.size, 3)
        assert torch.equal(out, torch.from_numpy(pixels.astype(np.float32) / 255).permute(2, 0, 1))


def test_every_level_is_divided_as_torchvision_divides_it() -> None:
    image = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, 2))
    for config in (Preprocess(size=16), Preprocess(size=16, mean=OPENAI_MEAN, std=OPENAI_STD)):
        assert torch.equal(preprocessing.preprocess(config)(image), _torchvision(config)(image))


def test_equals_torchvision_on_photos() -> None:
    if not PHOTOS:
        pytest.skip(f"no photos in {DATA}")
    for index, path in enumerate(PHOTOS[:20]):
        config = MODELS[("mobileclip_s2", "mobileclip2_s3", "swin_b", "mobileclip_b")[index % 4]].preprocess
        plain = Image.open(path).convert("RGB")
        image = read_image(path)
        assert np.array_equal(np.asarray(image), np.asarray(plain)), path.name
        assert torch.equal(preprocessing.preprocess(config)(image), _torchvision(config)(plain)), path.name


def test_equals_open_clip() -> None:
    open_clip = pytest.importorskip("open_clip")
    theirs = open_clip.image_transform(
        256, is_train=False, mean=(0, 0, 0), std=(1, 1, 1), interpolation="bilinear", resize_mode="shortest"
    )
    ours = preprocessing.preprocess("mobileclip_s2")
    for width, height in ((640, 480), (333, 500), (256, 256), (100, 90), (1, 3)):
        image = _noise(width, height)
        assert torch.equal(ours(image), theirs(image))


def test_a_model_is_named_configured_or_given() -> None:
    config = MODELS["mobileclip2_s3"]

    class Given:
        pass

    model = Given()
    model.config = config  # type: ignore[attr-defined]
    for source in ("mobileclip2_s3", config, config.preprocess, model):
        assert preprocessing.preprocess(source) == preprocessing.Transform(config.preprocess)


def test_unknown_models_are_refused() -> None:
    with pytest.raises(UnknownName, match="unknown model 'mobileclip_s3': did you mean"):
        preprocessing.preprocess("mobileclip_s3")
    with pytest.raises(MobileClipError) as error:
        preprocessing.preprocess(3)  # type: ignore[arg-type]
    assert str(error.value) == ("no preprocessing is known for a int: give a model, its name or its configuration.")


def test_neither_torch_nor_torchvision_is_imported_for_pictures() -> None:
    code = (
        "import sys; from PIL import Image; from mobileclip.preprocessing import preprocess, square;"
        "square(Image.new('L', (9, 5)), preprocess('mobileclip_s2').preprocess);"
        "print([m for m in ('torch', 'torchvision', 'open_clip', 'timm') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV"])
def test_modes_become_rgb_as_pillow_converts_them(mode: str) -> None:
    image = _noise(20, 30).convert(mode if mode != "PA" else "P").convert(mode)
    config = Preprocess(size=16)
    assert np.array_equal(np.asarray(square(image, config)), np.asarray(square(image.convert("RGB"), config)))


def test_alpha_is_dropped() -> None:
    image = Image.merge("RGBA", [*_noise(8, 8).split(), Image.new("L", (8, 8), 0)])
    assert np.array_equal(np.asarray(read_image(_file(image))), np.asarray(_noise(8, 8)))
    grey = Image.new("L", (4, 4), 9)
    assert np.asarray(read_image(_file(grey, transparency=9))).tolist() == [[[9, 9, 9]] * 4] * 4
    grey.info["transparency"] = 9
    square(grey, Preprocess(size=4))
    assert grey.info == {"transparency": 9}


@pytest.mark.parametrize(("kind", "mode"), [("PNG", "I;16"), ("TIFF", "I;16"), ("TIFF", "I;16B"), ("PPM", "I")])
def test_sixteen_bit_grey_keeps_its_high_byte(kind: str, mode: str) -> None:
    levels = np.array([[0, 255, 256, 0x7FFF], [0x8000, 0xFEFF, 0xFF00, 0xFFFF]], np.uint16)
    image = Image.fromarray(levels)
    if mode == "I;16B":
        image = Image.frombytes("I;16B", (4, 2), levels.astype(">u2").tobytes())
    if kind == "PPM":
        image = Image.fromarray(levels.astype(np.int32))
    out = np.asarray(read_image(_file(image, kind)))
    assert np.array_equal(out, (levels >> 8).astype(np.uint8)[..., None].repeat(3, 2))


def test_twelve_bit_tiff_is_scaled_from_twelve_bits() -> None:
    # two samples of 12 bits, 0xFFF and 0x800, in three bytes; tags: size, bits, no compression, grey, one strip
    tags = [(256, 2), (257, 1), (258, 12), (259, 1), (262, 1), (273, 8), (277, 1), (278, 1), (279, 3)]
    entries = b"".join(struct.pack("<HHII", tag, 4 if tag in (273, 279) else 3, 1, value) for tag, value in tags)
    data = b"II*\0" + struct.pack("<I", 12) + b"\xff\xf8\x00\0" + struct.pack("<H", len(tags)) + entries + b"\0" * 4
    assert np.asarray(read_image(data))[0, :, 0].tolist() == [255, 128]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_pictures_are_turned_upright_once(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = _file(_noise(5, 3), kind, exif=exif)
    with Image.open(file) as image:
        expected = ImageOps.exif_transpose(image).convert("RGB")
    out = read_image(file)
    assert out.size == ((5, 3) if orientation < 5 else (3, 5))
    assert np.array_equal(np.asarray(out), np.asarray(expected))
    assert np.array_equal(np.asarray(ImageOps.exif_transpose(out)), np.asarray(out))


def test_an_animation_gives_its_first_frame() -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    for kind in ("GIF", "PNG", "WEBP", "TIFF"):
        options = {"lossless": True} if kind == "WEBP" else {}
        file = _file(frames[0], kind, save_all=True, append_images=frames[1:], **options)
        assert read_image(file).getpixel((0, 0)) == (255, 0, 0)


def test_sources_of_a_picture(tmp_path: Path) -> None:
    content = _file(_noise(6, 5)).getvalue()
    path = tmp_path / "a.png"
    path.write_bytes(content)
    read, write = os.pipe()
    os.write(write, content)
    os.close(write)
    with path.open("rb") as file, os.fdopen(read, "rb") as pipe:
        for source in (path, str(path), content, file, pipe):
            out = read_image(source)
            assert type(out) is Image.Image
            assert np.array_equal(np.asarray(out), np.asarray(_noise(6, 5)))


def test_a_picture_of_108_megapixels_is_let_through_quietly(tmp_path: Path) -> None:
    path = tmp_path / "large.png"
    Image.new("1", (12_000, 9_000)).save(path)
    code = f"from mobileclip.images import read_image; print(read_image({str(path)!r}).size)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("(12000, 9000)\n", "")


def _refusal(source: object) -> str:
    start = time.process_time()
    with pytest.raises(ImageError) as error:
        read_image(source)  # type: ignore[arg-type]
    assert time.process_time() - start < 5
    return str(error.value)


_TOO_MANY = "holds more than 178,956,970 pixels: that many are allowed; make it smaller first."
_UNKNOWN = (
    "is not a picture that can be read: allowed are JPEG, PNG, WEBP, AVIF, GIF, BMP, TIFF, JPEG2000, PPM, ICO, QOI; "
    "convert it first."
)


def test_too_large_a_picture_is_refused_before_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 12_000 * 9_000 < MAX_PIXELS < 20_000 * 9_000
    assert _refusal(_png(20_000, 9_000)) == f"the picture {_TOO_MANY}"
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)  # other code may lift Pillow's limit
    assert _refusal(_png(20_000, 9_000)) == f"the picture {_TOO_MANY}"


def test_too_large_a_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "large.png"
    with path.open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    assert _refusal(path) == "large.png is larger than 537,919,486 bytes: that many are allowed; save it compressed."


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "JPEG2000", "AVIF", "PPM", "QOI"):
        path = tmp_path / f"cut.{kind}"
        content = _file(_noise(64, 64), kind).getvalue()
        path.write_bytes(content[: len(content) * 3 // 4])
        message = _refusal(path)
        assert message == f"cut.{kind} {_UNKNOWN}" or (
            message.startswith(f"cut.{kind} is damaged or cut short (")
            and message.endswith("): get or save it again.")
            and "\n" not in message
        ), message
    assert _refusal(_png(5, 5)).startswith("the picture is damaged or cut short (")
    with pytest.raises(
        ImageError, match=r"the picture is damaged or cut short \(.*seekable.*\): get or save it again."
    ):
        read_image(3)  # type: ignore[arg-type]


def test_what_is_no_picture_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("not a picture")
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "run.eps").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(x) run\n")
    for name in ("text.jpg", "empty.jpg", "run.eps"):
        assert _refusal(tmp_path / name) == f"{name} {_UNKNOWN}"


def test_paths_that_cannot_be_opened(tmp_path: Path) -> None:
    advice = "check the path and its permissions."
    assert _refusal(tmp_path / "no.png") == f"no.png cannot be opened (No such file or directory): {advice}"
    assert _refusal(f"{tmp_path}/a\0.png") == f"a\0.png cannot be opened (embedded null byte): {advice}"
    folder = tmp_path / "folder.png"
    folder.mkdir()
    assert _refusal(folder) == "folder.png is not a file: give the path of a picture."
    os.mkfifo(tmp_path / "pipe.png")
    assert _refusal(tmp_path / "pipe.png") == "pipe.png is not a file: give the path of a picture."


_KIND = "has pixels of kind {}: 8 or 16 bits of grey or colour are allowed; convert it."
_BEYOND = "has grey values beyond 16 bits: 8 or 16 bits are allowed; scale it first."


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (Image.new("F", (4, 4), 0.5), _KIND.format("F")),
        (Image.new("La", (4, 4)), _KIND.format("La")),
        (Image.new("I", (4, 4), 70_000), _BEYOND),
        (Image.new("I", (4, 4), -1), _BEYOND),
    ],
    ids=["float", "premultiplied", "32 bits", "negative"],
)
def test_pixels_without_an_rgb_form_are_refused(image: Image.Image, message: str, tmp_path: Path) -> None:
    with pytest.raises(ImageError) as error:
        square(image, Preprocess(size=4))
    assert str(error.value) == f"the picture {message}"
    if image.mode != "La":  # which no file has
        image.save(tmp_path / "a.tif")
        assert _refusal(tmp_path / "a.tif") == f"a.tif {message}"


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ((0, 5), "the picture is 0 x 5: it has no pixels; give one with at least 1 x 1."),
        ((1, 3_000), "the picture is 1 x 3000: a side may be at most 2,730 times the other."),
        ((60_000, 2), "the picture is 60000 x 2: a side may be at most 2,730 times the other."),
    ],
)
def test_shapes_that_have_no_square(size: tuple[int, int], message: str) -> None:
    with pytest.raises(ImageError) as error:
        preprocessing.preprocess("mobileclip_s2")(Image.new("RGB", size))
    assert str(error.value) == message


@pytest.mark.parametrize("path", POISON or [None], ids=lambda path: path.name if path else "none")
def test_poison_is_read_or_refused_in_one_sentence(path: Path | None) -> None:
    if path is None:
        pytest.skip(f"no files in {DATA / 'poison'}")
    start = time.process_time()
    try:
        out = read_image(path)
    except ImageError as error:
        message = str(error)
        assert message.startswith(f"{path.name} ")
        assert message.endswith(".")
        assert "\n" not in message
        assert len(message) < 300
    else:
        assert out.mode == "RGB"
        assert preprocessing.preprocess("mobileclip_s2")(out).isfinite().all()
    assert time.process_time() - start < 10


_SEEDS = [
    _file(_noise(24, 17).convert(mode), kind).getvalue()
    for kind, mode in (("JPEG", "RGB"), ("PNG", "P"), ("WEBP", "RGBA"), ("GIF", "P"), ("TIFF", "RGB"), ("BMP", "RGB"))
]


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(_SEEDS), st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=8))
def test_changed_bytes_raise_nothing_else(content: bytes, changes: list[tuple[float, int]]) -> None:
    data = bytearray(content)
    for place, value in changes:
        data[int(place * min(len(data), 400))] = value
    with contextlib.suppress(ImageError):
        assert read_image(bytes(data)).mode == "RGB"


def test_a_folder_gives_its_pictures_in_order(tmp_path: Path) -> None:
    for name in ("b.JPG", "a.png", "c.txt", "._b.JPG", "d.webp"):
        (tmp_path / name).touch()
    (tmp_path / "e.jpg").mkdir()
    (tmp_path / "e.jpg" / "inner.jpg").touch()
    assert [path.name for path in load_images(tmp_path)] == ["a.png", "b.JPG", "d.webp"]
    assert load_images(str(tmp_path / "c.txt")) == [tmp_path / "c.txt"]
    found = load_images([tmp_path / "d.webp", tmp_path / "e.jpg", tmp_path / "a.png"])
    assert [path.name for path in found] == ["d.webp", "inner.jpg", "a.png"]


def test_no_pictures_are_an_error(tmp_path: Path) -> None:
    cases: list[tuple[Callable[[], object], str]] = [
        (lambda: load_images(tmp_path), f"no picture in {tmp_path}: allowed are {' '.join(EXTENSIONS)}."),
        (lambda: load_images([]), f"no picture in an empty list: allowed are {' '.join(EXTENSIONS)}."),
        (
            lambda: load_images(tmp_path / "x"),
            f"{tmp_path / 'x'} does not exist: give a picture or a folder of pictures.",
        ),
    ]
    for call, message in cases:
        with pytest.raises(ImageError) as error:
            call()
        assert str(error.value) == message
