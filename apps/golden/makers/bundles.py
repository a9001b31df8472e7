"""Bundles, good and broken, with tiny artifacts that run; and the sentence that an app shows for each."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper
from PIL import Image

from export import manifest
from export.bundle import write_outputs
from makers.form import file
from mobileclip.tokenizer import CONTEXT, END, PAD, START, tokenize, tokenizer_hash

_SIDE = 8
_WIDTH = 4
_AGAIN = "Install the bundle again."
_EXPORT = "Export the model again."


def write_bundles(folder: Path) -> dict[str, Any]:
    """Write the folders; give manifests.json."""
    good = folder / "good"
    _good(good)
    found: list[dict[str, Any]] = [
        {"bundle": "good", "ok": True, "view": "image", "target": "onnx", "file": "image.onnx"},
        {"bundle": "good", "ok": True, "view": "text", "target": "onnx", "file": "text.onnx"},
        {"bundle": "good", "ok": True, "view": "image", "target": "coreml", "file": "image.mlpackage"},
        {
            "bundle": "good",
            "ok": False,
            "code": "target",
            "view": "image",
            "target": "executorch-xnnpack",
            "message": "This model has no image part for executorch-xnnpack (it has coreml, onnx). Export it with --to "
            "executorch-xnnpack.",
        },
    ]
    for name, code, message, python, breaks in _broken():
        there = folder / name
        shutil.copytree(good, there)
        breaks(there)
        case: dict[str, Any] = {"bundle": name, "ok": False, "code": code, "view": "image", "target": "onnx"}
        found.append({**case, "message": message, **({"python": python} if python else {})})
    for case in found:
        _thin(folder / case["bundle"], case["code"] if not case["ok"] else "target")
    return file(found)


def _good(folder: Path) -> None:
    (folder / "known_answer").mkdir(parents=True)
    onnx.save(_image_model(), folder / "image.onnx")
    onnx.save(_text_model(), folder / "text.onnx")
    _package(folder / "image.mlpackage")
    rng = np.random.default_rng(8)
    pixels = rng.integers(0, 256, (_SIDE, _SIDE, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "known_answer" / "image.png")
    feeds = {
        "image": (pixels.astype(np.float32) / np.float32(255)).transpose(2, 0, 1)[None],
        "text": tokenize("a photo of a cat").numpy(),
    }
    answers = {}
    for view, feed in feeds.items():
        raw = np.ascontiguousarray(feed).tobytes()
        (folder / "known_answer" / f"{view}.input.bin").write_bytes(raw)
        session = onnxruntime.InferenceSession(folder / f"{view}.onnx", providers=["CPUExecutionProvider"])
        outputs = session.run(None, {view: np.ascontiguousarray(feed)})
        entry = {"file": f"known_answer/{view}.input.bin", "dtype": str(feed.dtype), "shape": list(feed.shape)}
        answers[view] = {"input": entry, **write_outputs(folder, view, outputs)}
    answers["image"]["picture"] = "known_answer/image.png"
    words = {"labels": ["cat", "dog", "red car"], "template": "a photo of a {}"}
    (folder / "labels.json").write_text(json.dumps(words, indent=2) + "\n", encoding="utf-8", newline="\n")
    (folder / "LICENSES").write_text("Made by mobileclip-toolkit (MIT).\n", encoding="utf-8", newline="\n")
    _finish(folder, answers)


def _finish(folder: Path, answers: dict[str, Any]) -> None:
    artifacts = [
        _entry(folder, "image.onnx", "image", "onnx", "float32"),
        _entry(folder, "text.onnx", "text", "onnx", "int32"),
        _entry(folder, "image.mlpackage", "image", "coreml", "image"),
    ]
    inside = {entry["file"] for entry in artifacts}
    others = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    others = [path for path in others if path.relative_to(folder).parts[0] not in inside]
    checkpoint = {"form": "golden", "source": "golden", "sha256": None, "licence": "MIT", "research_only": False}
    manifest.write(
        folder,
        {
            "schema": manifest.SCHEMA_VERSION,
            "created": "2026-11-30T00:00:00+00:00",
            "generator": {"name": "mobileclip-toolkit", "version": "golden", "tools": {}},
            "model": {
                "name": "golden",
                "config": {"name": "golden"},
                "embed_dim": _WIDTH,
                "logit_scale": 100.0,
                "checkpoint": checkpoint,
            },
            "preset": "apple",
            "recipe": {},
            "tokenizer": {
                "kind": "CLIP byte-pair encoding",
                "sha256": tokenizer_hash(),
                "context": CONTEXT,
                "start": START,
                "end": END,
                "pad": PAD,
            },
            "labels": "labels.json",
            "known_answer": answers,
            "artifacts": artifacts,
            "files": {path.relative_to(folder).as_posix(): manifest.sha256_of(path) for path in others},
        },
    )


def _entry(folder: Path, name: str, view: str, target: str, dtype: str) -> dict[str, Any]:
    given: dict[str, Any] = {"name": view, "kind": view, "dtype": dtype}
    if view == "image":
        given |= {"shape": [1, 3, _SIDE, _SIDE], "colour": "RGB", "scale": 1.0 if dtype == "image" else 1 / 255}
        given |= {"resize": f"shortest side to {_SIDE}, bilinear, antialias", "crop": "centre"}
    else:
        given |= {"shape": [1, CONTEXT]}
    output = {"name": "final_emb_1", "shape": [1, _WIDTH], "dtype": "float32", "meaning": f"{view} embedding"}
    return {
        "file": name,
        "sha256": manifest.sha256_of(folder / name),
        "bytes": manifest.size_of(folder / name),
        "view": view,
        "target": target,
        "precision": "fp32",
        "quantisation": None,
        "inputs": [given],
        "outputs": [{**output, "normalised": False}],
        "rewrites": [],
        "delegates": None,
        "loose": [],
        "parity": None,
        "gate": {"db": 60.0, "cosine": 0.9999, "passed": None},
    }


def _broken() -> list[tuple[str, str, str, str, Callable[[Path], None]]]:
    """Name, code, the apps' sentence, part of Python's (empty: Python does not check this on opening), the damage."""
    incomplete = f"The model's manifest.json does not say what this app needs. {_EXPORT}"
    damaged = "The model is damaged: {} is not the file that was exported. " + _AGAIN
    outside = "The model's manifest names a file outside of its folder ({}). Do not use this bundle."
    not_json = f"The model's manifest.json cannot be read: it is not JSON. {_AGAIN}"
    no_manifest = "There is no model here: manifest.json is missing. Install a bundle that `mobileclip export` made."
    newer = "This model was made for a newer app (manifest version 2, this app reads 1). Update the app, or export the "
    older = f"This model's manifest is of version 0, this app reads 1. {_EXPORT}"
    other = "This model was made for another tokenizer: its texts would be misread. Export it again with this version."
    sha = "0" * 63 + "Z"
    first = ("artifacts", 0)
    return [
        ("no-manifest", "no_manifest", no_manifest, "is no bundle", _without("manifest.json")),
        ("not-json", "not_json", not_json, "is not JSON", _text('{"schema": 1, ')),
        ("nested", "not_json", not_json, "is not JSON", _text("[" * 50_000)),
        ("list", "not_json", not_json, "schema version None", _text("[1]\n")),
        ("newer", "newer", newer + "model again.", "schema version 2", _set(("schema",), 2)),
        ("older", "older", older, "schema version 0", _set(("schema",), 0)),
        ("no-artifacts", "incomplete", incomplete, "breaks the schema at artifacts", _set(("artifacts",), [])),
        ("no-inputs", "incomplete", incomplete, "breaks the schema", _set((*first, "inputs"), None)),
        ("bad-hash", "incomplete", incomplete, "breaks the schema", _set((*first, "sha256"), sha)),
        ("missing", "missing", f"The model is incomplete: text.onnx is missing. {_AGAIN}", "text.onnx is missing",
         _without("text.onnx")),
        ("changed", "changed", damaged.format("image.onnx"), "was changed after export", _changed("image.onnx")),
        ("changed-labels", "changed", damaged.format("labels.json"), "was changed", _changed("labels.json")),
        ("changed-package", "changed", damaged.format("image.mlpackage"), "was changed",
         _changed("image.mlpackage/Manifest.json")),
        ("escape", "outside", outside.format("../good/image.onnx"), "lies outside of it",
         _set((*first, "file"), "../good/image.onnx")),
        ("absolute", "outside", outside.format("/etc/hostname"), "lies outside of it",
         _set(("files", "/etc/hostname"), "0" * 64)),
        ("nameless", "outside", outside.format(""), "lies outside of it", _set((*first, "file"), "")),
        ("other-tokenizer", "tokenizer", other, "", _set(("tokenizer", "sha256"), "0" * 64)),
    ]  # fmt: skip


def _without(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def _text(text: str) -> Callable[[Path], None]:
    def breaks(folder: Path) -> None:
        (folder / "manifest.json").write_text(text, encoding="utf-8", newline="\n")

    return breaks


def _changed(name: str) -> Callable[[Path], None]:
    """Another last byte but one: the size stays."""

    def breaks(folder: Path) -> None:
        raw = bytearray((folder / name).read_bytes())
        raw[-2] ^= 1
        (folder / name).write_bytes(raw)

    return breaks


def _set(where: tuple[str | int, ...], value: Any) -> Callable[[Path], None]:
    """Another value in the manifest; None takes the key out."""

    def breaks(folder: Path) -> None:
        path = folder / "manifest.json"
        whole = json.loads(path.read_text(encoding="utf-8"))
        *parents, last = where
        inner = whole
        for key in parents:
            inner = inner[key]
        if value is None:
            del inner[last]
        else:
            inner[last] = value
        path.write_text(json.dumps(whole, indent=2) + "\n", encoding="utf-8", newline="\n")

    return breaks


def _thin(folder: Path, code: str) -> None:
    """Bundles that are refused by their manifest alone need no other file."""
    if code in ("not_json", "newer", "older", "incomplete", "no_manifest"):
        for path in sorted(folder.rglob("*"), reverse=True):
            if path.is_dir():
                path.rmdir()
            elif path.name not in ("manifest.json", "labels.json"):
                path.unlink()


def _image_model() -> onnx.ModelProto:
    """[1, 3, 8, 8] -> [1, 4]: the mean of each channel, times a matrix."""
    weights = np.array([[2, -1, 0, 1], [0, 3, -2, 1], [-1, 0, 2, 1]], np.float32)
    nodes = [
        helper.make_node("GlobalAveragePool", ["image"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["final_emb_1"]),
    ]
    return _model(nodes, "image", TensorProto.FLOAT, [1, 3, _SIDE, _SIDE], weights)


def _text_model() -> onnx.ModelProto:
    """[1, 77] -> [1, 4]: each id / 49408, times a matrix of small integers."""
    place = np.arange(CONTEXT * _WIDTH).reshape(CONTEXT, _WIDTH)
    weights = ((place * 7919 % 13 - 6) / 49408).astype(np.float32)
    nodes = [
        helper.make_node("Cast", ["text"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["floats", "weights"], ["final_emb_1"]),
    ]
    return _model(nodes, "text", TensorProto.INT32, [1, CONTEXT], weights)


def _model(nodes: list[Any], name: str, dtype: int, shape: list[int], weights: Any) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info(name, dtype, shape)],
        [helper.make_tensor_value_info("final_emb_1", TensorProto.FLOAT, [1, _WIDTH])],
        [onnx.numpy_helper.from_array(weights, "weights")],
    )
    model = helper.make_model(graph, producer_name="golden", opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model


def _package(folder: Path) -> None:
    """A Core ML package of the same network, in the layout that `coremltools` writes, with fixed identifiers."""
    import coremltools as ct
    from coremltools.models.neural_network import NeuralNetworkBuilder

    array = ct.models.datatypes.Array
    builder = NeuralNetworkBuilder(
        [("image", array(3, _SIDE, _SIDE))], [("final_emb_1", array(3, 1, 1))], disable_rank5_shape_mapping=False
    )
    builder.add_pooling(
        "pooled", height=1, width=1, stride_height=1, stride_width=1, layer_type="AVERAGE", padding_type="VALID",
        input_name="image", output_name="final_emb_1", is_global=True,
    )  # fmt: skip
    inner = folder / "Data" / "com.apple.CoreML"
    inner.mkdir(parents=True)
    (inner / "model.mlmodel").write_bytes(builder.spec.SerializeToString(deterministic=True))
    key = "00000000-0000-4000-8000-000000000008"
    item = {"author": "com.apple.CoreML", "description": "CoreML Model Specification", "name": "model.mlmodel"}
    entries = {key: {**item, "path": "com.apple.CoreML/model.mlmodel"}}
    whole = {"fileFormatVersion": "1.0.0", "itemInfoEntries": entries, "rootModelIdentifier": key}
    (folder / "Manifest.json").write_text(json.dumps(whole, indent=4) + "\n", encoding="utf-8", newline="\n")
