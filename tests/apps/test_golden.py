"""The golden vectors are current, and Python's public functions give what they say."""

import base64
import hashlib
import html
import importlib.util
import io
import json
import math
import shutil
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.protocol import in_rounds, model_bench, percentiles
from export.encoder import BundleEncoder
from export.manifest import Bundle
from mobileclip.config import Preprocess
from mobileclip.dense import host, host_detection
from mobileclip.dense.colours import depth_colours, distances, palette
from mobileclip.errors import BundleError, ImageError
from mobileclip.evaluate.encoder import unit
from mobileclip.images import read_image
from mobileclip.preprocessing import Transform, square
from mobileclip.tokenizer import encode, tokenize, tokenizer_hash

GOLDEN = Path(__file__).parents[2] / "apps" / "golden"


def golden(name: str) -> dict[str, Any]:
    whole: dict[str, Any] = json.loads((GOLDEN / name).read_text(encoding="ascii"))
    assert whole["version"] == 1
    assert all(whole[key] for key in whole if isinstance(whole[key], list))
    return whole


def values(entry: dict[str, Any]) -> Any:
    dtype = np.dtype(entry["dtype"])
    raw = base64.b64decode(entry["base64"])
    return np.frombuffer(raw, dtype.newbyteorder("<")).astype(dtype).reshape(entry["shape"])


def by_name(name: str, part: str = "cases") -> Any:
    cases = golden(name)[part]
    return pytest.mark.parametrize("case", cases, ids=[str(case.get("name", case.get("mode"))) for case in cases])


def near(found: Any, wanted: Any, tolerance: float) -> None:
    assert np.shape(found) == np.shape(wanted)
    np.testing.assert_allclose(np.asarray(found, np.float64), np.asarray(wanted, np.float64), rtol=0, atol=tolerance)


def test_files_are_current_and_small() -> None:
    run = subprocess.run(
        [sys.executable, str(GOLDEN / "make.py"), "--check"], capture_output=True, text=True, timeout=600
    )
    assert run.returncode == 0, run.stdout + run.stderr[-2000:]
    assert run.stdout.strip() == "all current"
    assert sum(path.stat().st_size for path in GOLDEN.rglob("*") if path.is_file() and path.suffix != ".pyc") < 3 << 20


def test_a_changed_file_is_not_current(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("golden_make", GOLDEN / "make.py")
    assert spec is not None
    assert spec.loader is not None
    make = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make)
    copied = tmp_path / "golden"
    shutil.copytree(GOLDEN, copied, ignore=shutil.ignore_patterns("__pycache__"))
    assert make.different(GOLDEN, copied) == []
    (copied / "latency.json").write_text("{}")
    (copied / "merges.txt").unlink()
    (copied / "bundles" / "newer" / "more.txt").write_text("x")
    assert make.different(GOLDEN, copied) == ["bundles/newer/more.txt", "latency.json", "merges.txt"]


def test_tokens() -> None:
    whole = golden("tokenization.json")
    assert len(whole["cases"]) >= 2000
    rows = tokenize([case["text"] for case in whole["cases"]], whole["context"]).tolist()
    for case, row in zip(whole["cases"], rows, strict=True):
        ids = encode(case["text"])
        assert ids[:75] == case["ids"], ascii(case["text"])
        assert len(ids) == case.get("tokens", len(case["ids"]))
        wanted = [whole["start"], *case["ids"], whole["end"]]
        assert row == wanted + [whole["pad"]] * (whole["context"] - len(wanted))
    for case in whole["repaired"]:
        assert encode(case["text"])[:75] == case["reference"] != case["ids"]
    for case in whole["surrogates"]:
        assert encode("".join(map(chr, case["utf16"]))) == case["ids"]


def test_tables_of_the_cleaning() -> None:
    tables = golden("cleaning.json")
    assert tables["version"] == 1
    for name, text in tables["entities"].items():
        assert html.unescape(f"&{name}") == text
    for number, text in tables["numeric"].items():
        assert html.unescape(f"&#{number};") == text
    assert {chr(code) for code in tables["spaces"]} == {chr(code) for code in range(0x110000) if chr(code).isspace()}


def test_merges_are_the_manifest_s() -> None:
    raw = (GOLDEN / "merges.txt").read_bytes()
    assert raw.count(b"\n") == 48_894
    assert hashlib.sha256(raw).hexdigest() == tokenizer_hash() == golden("tokenization.json")["merges_sha256"]


def picture(case: dict[str, Any]) -> Any:
    if "picture" in case:
        return values(case["picture"])
    width, height = case["generated"]
    rows = [
        [[((2 * c + 3) * x + (3 * c + 5) * y + 11 * (x * y % 7)) % 256 for c in range(3)] for x in range(width)]
        for y in range(height)
    ]
    return np.array(rows, np.uint8)


@by_name("preprocessing.json")
def test_pixels(case: dict[str, Any]) -> None:
    pixels, size = picture(case), tuple(case["size"])
    if case["kind"] == "square":
        plan = Preprocess(size=size[0], interpolation=case["interpolation"])
        found = np.asarray(square(Image.fromarray(pixels), plan))
    elif case["kind"] == "stretch":
        found = host.stretch(pixels, size)
    else:
        found, scale = host_detection.letterbox(pixels, size)
        assert scale == case["scale"]
        assert list(host_detection.content(pixels.shape[:2], size)) == case["content"]
    near(found, values(case["pixels"]), case["tolerance"])


def test_the_resampling_rule_of_the_readme_is_pillow_s() -> None:
    """The rule in whole numbers that kits follow, written down once more in plain Python."""
    orders = set()
    for case in golden("preprocessing.json")["cases"]:
        if case["kind"] != "stretch":
            continue
        found = picture(case)
        few, many = found.shape[:2], case["size"]
        down_first = many[0] < few[0] and few[0] - many[0] > 2 * (few[1] - many[1])
        orders.add(down_first)
        for axis in (0, 1) if down_first else (1, 0):
            if many[axis] != few[axis]:
                found = resampled(found.swapaxes(0, axis), many[axis]).swapaxes(0, axis)
        near(found, values(case["pixels"]), 0)
    assert orders == {True, False}


def resampled(lines: Any, many: int) -> Any:
    few = len(lines)
    out = np.empty((many, *lines.shape[1:]), np.uint8)
    step = few / many
    wide = max(step, 1.0)
    for place in range(many):
        centre = (place + 0.5) * step
        first, last = max(int(centre - wide + 0.5), 0), min(int(centre + wide + 0.5), few)
        raw = [max(1 - abs((k + first - centre + 0.5) / wide), 0.0) for k in range(last - first)]
        total = sum(raw)
        whole = [int(weight / total * (1 << 22) + 0.5) for weight in raw]
        value = (1 << 21) + sum(w * lines[first + k].astype(np.int64) for k, w in enumerate(whole))
        out[place] = np.clip(value >> 22, 0, 255)
    return out


@by_name("preprocessing.json", "tensors")
def test_tensors(case: dict[str, Any]) -> None:
    pixels = Image.fromarray(values(case["pixels"]))
    plan = Preprocess(size=pixels.width, mean=tuple(case["mean"]), std=tuple(case["std"]))
    near(Transform(plan)(pixels).numpy(), values(case["tensor"]), case["tolerance"])


@by_name("preprocessing.json", "modes")
def test_modes(case: dict[str, Any]) -> None:
    pixels, wanted = values(case["pixels"]).astype(np.int64), values(case["rgb"])
    if case["mode"] == "P":
        found = values(case["palette"])[pixels]
    elif case["mode"] == "RGBA":
        found = pixels[..., :3]
    elif case["mode"] == "CMYK":
        rest = 255 - pixels[..., 3:]
        t = pixels[..., :3] * rest + 128
        found = np.maximum(rest - (((t >> 8) + t) >> 8), 0)
    else:
        grey = pixels >> 8 if case["mode"] == "I;16" else pixels[..., 0] if case["mode"] == "LA" else pixels
        found = np.repeat(grey[..., None], 3, axis=2)
    near(found, wanted, case["tolerance"])


@by_name("preprocessing.json", "files")
def test_files(case: dict[str, Any]) -> None:
    raw = base64.b64decode(case["base64"])
    if case.get("refused"):
        with pytest.raises(ImageError, match=r"not a picture|damaged or cut short"):
            read_image(raw)
        return
    near(np.asarray(read_image(raw)), values(case["upright"]), 0)
    stored = values(case["stored"])
    turned = {  # rows, columns, channels as EXIF 2.32 says
        1: stored,
        2: stored[:, ::-1],
        3: stored[::-1, ::-1],
        4: stored[::-1],
        5: stored.transpose(1, 0, 2),
        6: stored[::-1].transpose(1, 0, 2),
        7: stored[::-1, ::-1].transpose(1, 0, 2),
        8: stored.transpose(1, 0, 2)[::-1],
    }
    near(turned[case["orientation"]], values(case["upright"]), 0)
    if "broken" not in case["name"]:
        assert Image.open(io.BytesIO(raw)).getexif().get(0x0112, 1) == case["orientation"]


@by_name("ranking.json")
def test_ranking(case: dict[str, Any]) -> None:
    image, texts = (values(case[key]).astype(np.float64) for key in ("image", "texts"))
    if case.get("refused"):
        assert not np.isfinite(image).all() or not np.isfinite(texts).all(axis=1).any()
        return
    logits = torch.full((len(texts),), -math.inf, dtype=torch.float64)
    for place, text in enumerate(texts):
        if np.isfinite(text).all():
            length = np.linalg.norm(image) * np.linalg.norm(text)
            logits[place] = case["logit_scale"] * float(image @ text / length if length else 0)
    found = logits.softmax(0).numpy()
    near(found, case["probabilities"], case["tolerance"])
    assert sorted(range(len(texts)), key=lambda place: -case["probabilities"][place]) == case["order"]


def test_ensembles() -> None:
    for case in golden("ranking.json")["ensembles"]:
        texts = values(case["texts"]).astype(np.float64)
        texts /= np.linalg.norm(texts, axis=1, keepdims=True)
        mean = texts.reshape(-1, case["templates"], texts.shape[1]).mean(axis=1)
        near(mean / np.linalg.norm(mean, axis=1, keepdims=True), values(case["classes"]), case["tolerance"])


@by_name("search.json")
def test_search(case: dict[str, Any]) -> None:
    """The rules once more, value by value, in exact fractions where rounding decides."""
    rows, question = [exact_unit(row) for row in values(case["rows"])], exact_unit(values(case["question"]))
    near(unit(values(case["rows"])), np.array(rows), 1e-6)
    most = case["most"]
    halves = values(case["fp16"]["stored"])
    near(halves, torch.from_numpy(np.array(rows)).half().numpy(), 0)
    cosines = [math.fsum(float(a) * float(b) for a, b in zip(row, question, strict=True)) for row in halves]
    order = sorted(range(len(rows)), key=lambda place: -cosines[place])[:most]
    assert order == case["fp16"]["order"]
    near([cosines[place] for place in order], case["fp16"]["scores"], case["fp16"]["tolerance"])

    stored, asked = values(case["int8"]["stored"]), values(case["int8"]["question"])
    for row, integers, scale in zip(
        [*rows, question],
        [*stored, asked],
        [*values(case["int8"]["scales"]), np.float32(case["int8"]["question_scale"])],
        strict=True,
    ):
        largest = max(Fraction(abs(float(value))) for value in row)
        assert scale == np.float32(float(largest) / 127)
        for value, integer in zip(row, integers, strict=True):
            exact = abs(Fraction(float(value))) * 127 / (largest or 1)
            assert abs(abs(int(integer)) - exact) <= Fraction(1, 2) + Fraction(1, 10**12)
            assert int(integer) == 0 or (integer > 0) == (value > 0)
    dots = stored.astype(np.int64) @ asked.astype(np.int64)
    near(dots, values(case["int8"]["dots"]), 0)
    scores = dots * values(case["int8"]["scales"]).astype(np.float64)
    ranked = sorted(range(len(rows)), key=lambda place: -scores[place])
    assert ranked[:most] == case["int8"]["order"]
    near(scores[ranked[:most]] * case["int8"]["question_scale"], case["int8"]["scores"], case["int8"]["tolerance"])

    signs = [sum(1 << i for i, value in enumerate(row) if value > 0) for row in [*rows, question]]
    codes = values(case["binary"]["codes"])
    assert [int.from_bytes(code.tobytes(), "little") for code in codes] == signs[:-1]
    apart = [(code ^ signs[-1]).bit_count() for code in signs[:-1]]
    near(apart, values(case["binary"]["distances"]), 0)
    first = set(sorted(range(len(rows)), key=lambda place: apart[place])[: case["candidates"]])
    assert [place for place in ranked if place in first][:most] == case["binary"]["order"]


def exact_unit(row: Any) -> Any:
    scaled = [float(np.float32(value / (np.abs(row).max() or 1))) for value in row]
    length = math.sqrt(sum(value * value for value in scaled)) or 1
    return np.array([value / length for value in scaled]).astype(np.float32)


@by_name("segmentation.json")
def test_segmentation(case: dict[str, Any]) -> None:
    output, size = values(case["output"]), tuple(case["size"])
    if case["kind"] == "labels":
        near(host.segmented_labels(output, size).labels, values(case["labels"]), 0)
        return
    wide = torch.nn.functional.interpolate(torch.from_numpy(output), size, mode="bilinear", align_corners=False)[0]
    if case["kind"] == "depth":
        near(host.depths(output, size).metres, values(case["metres"]), case["tolerance"])
        near(wide[0].numpy(), values(case["metres"]), case["tolerance"])
    else:
        near(host.segmented(output, size).labels, values(case["labels"]), 0)
        near(wide.argmax(0).numpy(), values(case["labels"]), 0)


@by_name("segmentation.json", "colours")
def test_colours(case: dict[str, Any]) -> None:
    if case["name"] == "palette":
        found = palette(case["count"])
    elif case["name"] == "distances":
        found = distances()
    else:
        given = {} if case["name"] == "depth" else {"low": case["low"], "high": case["high"]}
        found, (low, high) = depth_colours(values(case["metres"]), **given)
        near([low, high], [case["low"], case["high"]], 1e-6)
    near(found, values(case["rgb"]), 0)


@by_name("detection.json")
def test_detection(case: dict[str, Any]) -> None:
    outputs = {key: values(entry) for key, entry in case["outputs"].items()}
    options = {key: case[key] for key in ("threshold", "most", "nms") if key in case}
    if case["kind"] == "points":
        found = host_detection.detected(**outputs, original=tuple(case["original"]), **options)
    else:
        found = host_detection.detected_regions(
            **outputs, original=tuple(case["original"]), size=tuple(case["size"]), **options
        )
    near(found.boxes, values(case["boxes"]), case["tolerance"])
    near(found.scores, values(case["scores"]), case["tolerance"])
    near(found.classes, values(case["classes"]), 0)
    near(found.masks, values(case["masks"]), 0)


@by_name("latency.json")
def test_latency(case: dict[str, Any]) -> None:
    assert percentiles(case["ms"]) == pytest.approx(case["percentiles"], abs=case["tolerance"])
    assert model_bench(in_rounds(case["ms"])) == pytest.approx(case["model_bench"], abs=case["tolerance"])


_MANIFESTS = golden("manifests.json")["cases"]


@pytest.mark.parametrize("case", _MANIFESTS, ids=[f"{case['bundle']}-{case['target']}" for case in _MANIFESTS])
def test_manifests(case: dict[str, Any]) -> None:
    folder = GOLDEN / "bundles" / case["bundle"]
    if "python" in case:
        with pytest.raises(BundleError) as raised:
            Bundle.open(folder)
        assert case["python"] in str(raised.value)
        return
    bundle = Bundle.open(folder)
    held = [item for item in bundle.manifest["artifacts"] if item["view"] == case["view"]]
    files = [item["file"] for item in held if item["target"] == case["target"]]
    if case["ok"]:
        assert files == [case["file"]]
    elif case["code"] == "target":
        assert not files
        assert f"(it has {', '.join(sorted(item['target'] for item in held))})" in case["message"]
    else:
        assert bundle.manifest["tokenizer"]["sha256"] != tokenizer_hash()


def test_the_good_bundle_runs() -> None:
    encoder = BundleEncoder(GOLDEN / "bundles" / "good", target="onnx")
    shown = Image.open(GOLDEN / "bundles" / "good" / "known_answer" / "image.png")
    wanted = np.fromfile(GOLDEN / "bundles" / "good" / "known_answer" / "image.output.bin", "<f4")
    near(encoder.encode_images([shown])[0], unit(wanted[None])[0], 1e-6)
    wanted = np.fromfile(GOLDEN / "bundles" / "good" / "known_answer" / "text.output.bin", "<f4")
    near(encoder.encode_texts(["a photo of a cat"])[0], unit(wanted[None])[0], 1e-5)
