"""The web app, built and run in a real Chromium with real bundles: what it says is what Python says, also without a
network; what is wrong is said in words. Its kit's own tests (golden vectors, speed) are run as well.

Skipped, with the reason, where npm, its packages or Chromium are missing. CHROMIUM names another binary.
"""

import json
import math
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image

import export
import mobileclip
from export import manifest
from export.install import install
from mobileclip.checkpoint import load
from mobileclip.dense import checkpoint as dense_checkpoint
from mobileclip.dense import host
from mobileclip.errors import ImageError
from mobileclip.images import read_image
from mobileclip.models import Clip
from mobileclip.preprocessing import preprocess

ROOT = Path(__file__).parents[2]
WEB = ROOT / "apps" / "web"
GOLDEN = ROOT / "apps" / "golden"
POISON = ROOT.parent / "shared" / "data" / "poison"
SCALE = 1000.0
"""Of the logits: an untrained model's cosines are nearly equal, and a difference of pictures must be seen."""
LABELS = ("a bear", "a red car", "the sea")
Drive = Callable[..., dict[str, Any]]


@pytest.fixture(scope="session")
def npm() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs npm or a program of the app's packages, which are installed first."""
    if shutil.which("npm") is None:
        pytest.skip("the web app needs npm (Node 20.19 or later), which is not installed")

    def run(*args: str, **environment: str) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "NO_COLOR": "1", **environment}
        return subprocess.run(args, cwd=WEB, capture_output=True, text=True, timeout=600, env=env)

    if not (WEB / "node_modules" / "playwright-core").is_dir():
        done = run("npm", "install", "--no-package-lock")
        if done.returncode:
            pytest.skip(f"npm could not install the web app's packages: {done.stderr.strip().splitlines()[-1:]}")
    return run


@pytest.fixture(scope="session")
def built(npm: Callable[..., subprocess.CompletedProcess[str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The app as it is served, without a bundle."""
    out = tmp_path_factory.mktemp("web") / "app"
    done = npm("npm", "run", "build", "--", "--outDir", str(out), "--emptyOutDir")
    assert done.returncode == 0, done.stdout + done.stderr
    shutil.rmtree(out / "bundle", ignore_errors=True)
    return out


@pytest.fixture(scope="session")
def drive(npm: Callable[..., subprocess.CompletedProcess[str]]) -> Drive:
    """Runs a scenario of tests/browser.mjs."""
    chromium = os.environ.get("CHROMIUM", "/usr/bin/chromium")
    if not Path(chromium).is_file():
        pytest.skip(f"no Chromium at {chromium}: install it, or name one in CHROMIUM")

    def run(scenario: str, **given: Any) -> dict[str, Any]:
        done = npm("node", "tests/browser.mjs", scenario, json.dumps(given, default=str), CHROMIUM=chromium)
        assert done.returncode == 0, done.stdout + done.stderr
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        assert found.get("errors", []) == []
        assert all(address.removeprefix("blob:").startswith("http://127.0.0.1:") for address in found.get("asked", []))
        return found

    return run


@pytest.fixture(scope="session")
def sharp() -> Clip:
    """The small model with a large logit scale."""
    model = load("seeded:nano").eval()
    model.logit_scale.data.fill_(math.log(SCALE))
    return model


@pytest.fixture(scope="session")
def bundle(sharp: Clip, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """It, for ONNX."""
    return export.export(sharp, ("onnx",), tmp_path_factory.mktemp("sharp") / "bundle", labels=LABELS, jobs=1)


@pytest.fixture(scope="session")
def app(built: Path, bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The app with that bundle."""
    return with_bundle(built, bundle, tmp_path_factory.mktemp("app") / "app")


@pytest.fixture(scope="session")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real photo where there are some, a made one elsewhere."""
    photo = ROOT.parent / "shared" / "data" / "photos" / "images" / "000000000285.jpg"
    if photo.is_file():
        return photo
    made = tmp_path_factory.mktemp("picture") / "made.png"
    noise = np.random.default_rng(8).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((640, 480), Image.Resampling.BICUBIC).save(made)
    return made


def with_bundle(built: Path, bundle: Path, into: Path, small: Path | None = None) -> Path:
    shutil.copytree(built, into)
    install("web", bundle, into=into / "bundle", small=small)
    return into


@torch.no_grad()
def shares(model: Clip, picture: Path, labels: Sequence[str]) -> dict[str, float]:
    """What Python says of a picture."""
    image = model.encode_image(preprocess(model)(read_image(picture))[None])
    texts = model.encode_text(mobileclip.tokenize([f"a photo of a {label}" for label in labels]))
    image, texts = (torch.nn.functional.normalize(part, dim=-1) for part in (image, texts))
    found = (model.logit_scale.exp() * image @ texts.T).softmax(-1)[0]
    return dict(zip(labels, found.tolist(), strict=True))


def test_types_and_golden_vectors(npm: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    done = npm("npm", "run", "check")
    assert done.returncode == 0, done.stdout + done.stderr
    done = npm("npm", "test", "--", "--reporter=json")
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(done.stdout[done.stdout.index('{"num') :])
    assert result["numFailedTests"] == result["numPendingTests"] == 0
    assert result["numPassedTests"] > 150


def test_speed(npm: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    done = npm("npm", "run", "bench")
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("(limit ") == 3


def test_the_browser_decodes_as_pillow_does(
    drive: Drive, npm: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    (tmp_path / "index.html").write_text("<!doctype html><title>pictures</title>")
    done = npm("npx", "vite", "build", "--config", "tests/decode.config.ts", DECODE_OUT=str(tmp_path))
    assert done.returncode == 0, done.stderr
    files = json.loads((GOLDEN / "preprocessing.json").read_text())["files"]
    found = drive("decode", folder=tmp_path, golden=GOLDEN)["found"]
    assert len(found) == len(files) > 20
    for given, made in zip(files, found, strict=True):
        if given.get("refused"):
            assert "is not a picture that this browser can read" in made["refused"], given["name"]
        else:
            assert made["size"] == given["upright"]["shape"][:2], given["name"]
            assert made["difference"] <= given["tolerance"], given["name"]


def test_a_photo_is_classified_as_python_does_also_without_a_network(
    drive: Drive, app: Path, sharp: Clip, picture: Path, tmp_path: Path
) -> None:
    found = drive("classify", folder=app, picture=picture, labels=LABELS, shots=tmp_path)
    assert found["first"]["state"] == found["again"]["state"] == "ready"
    assert found["first"]["isolated"], "threads need the headers that the service worker adds"
    assert found["first"]["tabs"] == ["Classify", "Search", "Model"]
    wanted = shares(sharp, picture, LABELS)
    assert max(wanted.values()) - min(wanted.values()) > 0.01
    for way in ("online", "offline"):
        assert found[way]["notice"] == ""
        assert found[way]["shares"] == pytest.approx(wanted, abs=1e-3), way
    assert found["problems"] == []
    for shot in ("classify.png", "classify_dark.png"):
        with Image.open(tmp_path / shot) as image:
            assert image.width == 800  # 400 points of two pixels


def _pictures(folder: Path) -> list[Path]:
    """Pictures of the kinds that apps get wrong, named by what they are."""
    rng = np.random.default_rng(8)
    noise = Image.fromarray(rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)).resize((320, 240))
    turned = Image.Exif()
    turned[0x0112] = 6
    alpha = noise.copy()
    alpha.putalpha(Image.linear_gradient("L").resize(noise.size))
    made: dict[str, tuple[Image.Image, dict[str, Any]]] = {
        "turned.jpg": (noise, {"exif": turned.tobytes(), "quality": 95}),
        "alpha.png": (alpha, {}),
        "cmyk.jpg": (noise.convert("CMYK"), {"quality": 95}),
        "deep.png": (Image.fromarray(rng.integers(0, 65536, (60, 80), dtype=np.uint16)), {}),
        "dot.png": (noise.resize((1, 1)), {}),
        "huge.jpg": (noise.resize((12_000, 9_000)), {"quality": 80}),
        "wide.png": (noise.resize((12_000, 20)), {}),
        "lossy.webp": (noise, {"quality": 90}),
    }
    for name, (image, options) in made.items():
        image.save(folder / name, **options)
    (folder / "none.png").write_bytes(b"not a picture")
    (folder / "empty.jpg").write_bytes(b"")
    more = sorted(path for path in POISON.glob("*.*") if path.name != "LICENSE") if POISON.is_dir() else []
    return [*sorted(folder.iterdir()), *more]


def test_pictures_of_every_kind_give_what_python_gives_or_a_sentence(
    drive: Drive, app: Path, sharp: Clip, tmp_path: Path
) -> None:
    pictures = _pictures(tmp_path)
    found = drive("pictures", folder=app, pictures=pictures)["found"]
    agreed = 0
    for path in pictures:
        told = found[str(path)]
        if not told["shares"]:
            expected = f"{path.name} is not a picture that this browser can read, or it is damaged."
            assert told["notice"].startswith(expected) or "megapixels are read" in told["notice"], (path, told)
            continue
        assert told["notice"] == ""
        try:
            wanted = shares(sharp, path, LABELS)
        except ImageError:
            continue  # the browser takes what Pillow does not, such as a JPEG that is cut short
        # WebP is decoded by another version of its library, which smooths colours otherwise
        assert told["shares"] == pytest.approx(wanted, abs=2e-2 if path.suffix == ".webp" else 2e-3), path
        agreed += 1
    assert agreed >= 7
    for name in ("none.png", "empty.jpg"):
        assert found[str(tmp_path / name)]["notice"]


def test_labels_by_keyboard_and_a_very_long_one(drive: Drive, app: Path, picture: Path) -> None:
    found = drive("labels", folder=app, picture=picture, label="bear " * 1999 + "trap!")
    assert found["hint"] == "The model reads about 75 words: the end of one label does not count."
    assert found["wide"] == 400, "the page is wider than the phone"
    assert (found["tab"], found["focused"], found["last"]) == ("Search", "tab", "Model")


def test_camera(drive: Drive, app: Path, tmp_path: Path) -> None:
    found = drive("camera", folder=app, shots=tmp_path)
    assert found["allowed"] == {"results": len(LABELS), "notice": "", "errors": []}
    assert found["stopped"]
    assert found["refused"]["results"] == 0
    assert found["refused"]["notice"].startswith("The camera is not allowed for this page. Allow it in the browser's")


@torch.no_grad()
def test_search_goes_on_where_it_stopped(drive: Drive, app: Path, sharp: Clip, tmp_path: Path) -> None:
    rng = np.random.default_rng(80)
    photos = []
    for index in range(12):
        photos.append(tmp_path / f"photo{index:02d}.png")
        colour = rng.integers(0, 256, 3)
        pixels = np.clip(rng.normal(colour, 40, (24, 32, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).resize((1280, 960), Image.Resampling.BICUBIC).save(photos[-1])
    found = drive("search", folder=app, photos=photos, query="a dog", shots=tmp_path)
    assert not found["interrupted"].startswith("12 photos")
    assert found["problems"] == []
    images = torch.stack([preprocess(sharp)(read_image(path)) for path in photos])
    rows, question = sharp.encode_image(images), sharp.encode_text(mobileclip.tokenize("a dog"))
    rows, question = (torch.nn.functional.normalize(part, dim=-1) for part in (rows, question))
    wanted = dict(zip((path.name for path in photos), (rows @ question.T)[:, 0].tolist(), strict=True))
    scores = [score for _, score in found["order"]]
    assert scores == sorted(scores, reverse=True)
    assert dict(found["order"]) == pytest.approx(wanted, abs=1e-2)  # of int8


def test_another_model_takes_the_place_of_the_first(drive: Drive, app: Path, built: Path, tmp_path: Path) -> None:
    other = export.export("seeded:nano:1", ("onnx",), tmp_path / "bundle", views=("image", "text"), jobs=1)
    photos = []
    for index in range(2):
        photos.append(tmp_path / f"{index}.png")
        Image.new("RGB", (80, 60), (90 * index, 50, 60)).save(photos[-1])
    found = drive("another", folder=app, other=with_bundle(built, other, tmp_path / "app"), photos=photos)
    assert found["told"].startswith("2 photos were indexed with another model and cannot be searched with this one")
    first, second = (
        manifest.Bundle.open(folder / "bundle").manifest["artifacts"][0]["sha256"][:16]
        for folder in (app, tmp_path / "app")
    )
    assert any(first in address for address in found["before"])
    assert not any(first in address for address in found["after"])
    assert any(second in address for address in found["after"])


def test_segmentation_over_the_picture(drive: Drive, built: Path, picture: Path, tmp_path: Path) -> None:
    head = dense_checkpoint.load("seeded:nano+semfpn@64")
    bundle = export.export("seeded:nano", ("onnx",), tmp_path / "bundle", heads=(head,), jobs=1)
    folder = with_bundle(built, bundle, tmp_path / "app")
    found = drive("segment", folder=folder, picture=picture, shots=tmp_path)
    assert found["first"]["tabs"] == ["Classify", "Search", "Segment", "Model"]
    pixels = np.asarray(read_image(picture))
    assert found["size"] == [pixels.shape[1], pixels.shape[0]]
    x = np.ascontiguousarray(host.stretch(pixels, (64, 64)).transpose(2, 0, 1)[None].astype(np.float32) / 255)
    session = onnxruntime.InferenceSession(bundle / "multitask.onnx", providers=["CPUExecutionProvider"])
    (output,) = session.run(["labels"], {session.get_inputs()[0].name: x})
    labels = host.segmented_labels(output, pixels.shape[:2]).labels
    names = json.loads((bundle / "labels.json").read_text())["labels"]
    counts = np.bincount(labels.ravel(), minlength=len(names)) / labels.size
    assert dict(found["shares"]) == pytest.approx({names[i]: counts[i] for i in np.flatnonzero(counts)}, abs=2e-3)
    assert found["problems"] == []


def test_the_graphics_processor(drive: Drive, app: Path, sharp: Clip, picture: Path) -> None:
    found = drive("gpu", folder=app, picture=picture, labels=LABELS)
    for way in ("online", "offline"):
        assert found[way]["shares"] == pytest.approx(shares(sharp, picture, LABELS), abs=1e-3), way
    assert "the graphics processor, WebGPU" in found["told"]


def test_no_graphics_processor(drive: Drive, app: Path) -> None:
    found = drive("no_gpu", folder=app)
    assert found["first"]["notice"] == "This browser gives no graphics processor any more: the main one is used."
    assert found["first"]["state"] == found["again"]["state"] == "ready"
    assert found["again"]["notice"] == ""
    assert "of the main processor, WebAssembly" in found["told"]
    assert "Try the graphics processor" not in found["told"]


@pytest.mark.parametrize("name", ["no-manifest", "not-json", "nested", "newer", "older", "no-artifacts", "escape"])
def test_what_is_no_bundle_for_it(name: str, drive: Drive, built: Path, tmp_path: Path) -> None:
    shutil.copytree(built, tmp_path / "app")
    shutil.copytree(GOLDEN / "bundles" / name, tmp_path / "app" / "bundle")
    wanted = {case["bundle"]: case for case in json.loads((GOLDEN / "manifests.json").read_text())["cases"]}
    found = drive("start", folder=tmp_path / "app")["first"]
    assert found["state"] == "failed"
    assert found["notice"].split("\n")[0] == wanted[name]["message"]
    assert "Try again" in found["notice"]


def _drop(folder: Path) -> None:
    (folder / "text.onnx").unlink()


def _flip(folder: Path) -> None:
    raw = bytearray((folder / "image.onnx").read_bytes())
    raw[-2] ^= 1
    (folder / "image.onnx").write_bytes(raw)


def _changed_manifest(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    def breaks(folder: Path) -> None:
        whole = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        change(whole)
        manifest.write(folder, whole)

    return breaks


def _coreml(whole: dict[str, Any]) -> None:
    for entry in whole["artifacts"]:
        entry["target"] = "coreml"


def _answer(whole: dict[str, Any]) -> None:
    known = whole["known_answer"]
    known["image"]["output"] = {**known["text"]["output"]}


@pytest.mark.parametrize(
    ("breaks", "text"),
    [
        (_drop, "The model is incomplete: text.onnx is missing. Install the bundle again."),
        (_flip, "The model is damaged: image.onnx is not the file that was exported. Install the bundle again."),
        (
            _changed_manifest(_coreml),
            "This model was exported for coreml; this app runs onnx. Export it with --to onnx.",
        ),
        (_changed_manifest(_answer), "This browser does not run the model rightly: the known answer of its image part"),
        (
            _changed_manifest(lambda whole: whole["tokenizer"].update(sha256="0" * 64)),
            "This model was made for another tokenizer: its texts would be misread. Export it again with this version.",
        ),
    ],
    ids=["missing", "changed", "target", "wrong answer", "tokenizer"],
)
def test_a_bundle_that_was_damaged(
    breaks: Callable[[Path], None], text: str, drive: Drive, app: Path, tmp_path: Path
) -> None:
    shutil.copytree(app, tmp_path / "app")
    breaks(tmp_path / "app" / "bundle")
    found = drive("start", folder=tmp_path / "app")["first"]
    assert found["state"] == "failed"
    assert found["notice"].startswith(text)


def test_a_device_with_little_memory_is_offered_the_smaller_model(
    drive: Drive, built: Path, bundle: Path, sharp: Clip, tmp_path: Path
) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    rng = np.random.default_rng(8)
    for index in range(8):
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(pictures / f"{index}.png")
    small = export.export(
        sharp, ("onnx",), tmp_path / "int8", labels=LABELS, precision="w8a8", calibration=pictures, views=("image",),
        accept=True, jobs=1,
    )  # fmt: skip
    folder = with_bundle(built, bundle, tmp_path / "app", small)
    plenty: Mapping[str, Any] = drive("start", folder=folder, memory=8)["first"]
    assert plenty["notice"] == ""
    none = drive("start", folder=folder, wasmPages=500)["first"]  # 32 MB for all that WebAssembly does
    assert none["state"] == "failed"
    assert none["notice"].startswith("This device has too little free memory for the model. Use the smaller model, or")
    assert "Use the smaller model\n" in none["notice"]
    found = drive("start", folder=folder, memory=0.01, press="Use the smaller model")
    assert found["first"]["notice"].startswith(
        "This device has little memory. There is a smaller model that needs less"
    )
    assert "nano, w8a8, fp32" in found["pressed"]
    assert "Use the full model" in found["pressed"]


def test_the_page_may_ask_nothing_but_its_origin() -> None:
    page = (WEB / "index.html").read_text(encoding="utf-8")
    assert "default-src 'self'" in page
    assert "connect-src 'self'" in page
    assert "http" not in page.replace("http-equiv", "")


def test_the_merges_of_the_bundle_are_those_of_the_golden_vectors() -> None:
    module = import_module("export.install")
    assert "".join(f"{line}\n" for line in module.merges()) == (GOLDEN / "merges.txt").read_text(encoding="utf-8")
