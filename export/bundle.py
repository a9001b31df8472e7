"""What a bundle holds beside its artifacts: known answers, labels, licences, and the manifest of it all."""

import json
import shutil
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from export import manifest
from export.runtimes import tool_versions
from export.targets import Kind
from export.views import View
from mobileclip import __version__
from mobileclip.models import Clip
from mobileclip.tokenizer import END, PAD, START, tokenizer_hash

TEMPLATE = "a photo of a {}"
"""What a label is put into before it is tokenised."""


def write_known_answers(views: Mapping[Kind, View], partial: Path) -> None:
    """The example of every view and what the model makes of it, in `partial/known_answer`."""
    folder = partial / "known_answer"
    folder.mkdir(exist_ok=True)
    for kind, view in views.items():
        with torch.no_grad():
            output = view(view.example)
        answer = {
            "input": _write_array(folder, f"{kind}.input.bin", view.example.numpy()),
            "output": _write_array(folder, f"{kind}.output.bin", output.numpy()),
        }
        if kind == "image":
            Image.fromarray((view.example[0] * 255).round().byte().permute(1, 2, 0).numpy()).save(folder / "image.png")
            answer["picture"] = "known_answer/image.png"
        (folder / f"{kind}.json").write_text(json.dumps(answer))


def _write_array(folder: Path, name: str, values: Any) -> Any:
    (folder / name).write_bytes(np.ascontiguousarray(values).astype(values.dtype.newbyteorder("<")).tobytes())
    return {"file": f"{folder.name}/{name}", "dtype": str(values.dtype), "shape": list(values.shape)}


def read_array(folder: Path, entry: Mapping[str, Any]) -> npt.NDArray[Any]:
    """An array of the known answer: little-endian values, row by row."""
    values = np.frombuffer((folder / entry["file"]).read_bytes(), dtype=np.dtype(entry["dtype"]).newbyteorder("<"))
    return values.reshape(entry["shape"]).astype(entry["dtype"])


def finish(
    model: Clip,
    views: Mapping[Kind, View],
    partial: Path,
    *,
    entries: Sequence[Mapping[str, Any]],
    recipe: Mapping[str, Any],
    preset: str,
    labels: Sequence[str],
) -> None:
    """Turn the working folder into a bundle: remove what only the work needed, write the rest, the manifest last."""
    answers = {kind: json.loads((partial / "known_answer" / f"{kind}.json").read_text()) for kind in views}
    artifacts = {entry["file"] for entry in entries}
    for leftover in [*(partial / "known_answer").glob("*.json"), *(partial / f"{file}.json" for file in artifacts)]:
        leftover.unlink()
    (partial / "fingerprint").unlink()
    shutil.rmtree(partial / "fused")
    words = json.dumps({"labels": list(labels), "template": TEMPLATE}, indent=2, ensure_ascii=False)
    (partial / "labels.json").write_text(words + "\n", encoding="utf-8")
    (partial / "LICENSES").write_text(_licences(model), encoding="utf-8")
    others = [
        item
        for item in sorted(partial.rglob("*"))
        if item.is_file() and item.relative_to(partial).parts[0] not in artifacts
    ]
    manifest.write(
        partial,
        {
            "schema": manifest.SCHEMA_VERSION,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "generator": {"name": "mobileclip-toolkit", "version": __version__, "tools": dict(tool_versions())},
            "model": {
                "name": model.config.name,
                "config": model.config.as_dict(),
                "embed_dim": model.config.embed_dim,
                "logit_scale": float(model.logit_scale.detach().exp()),
                "checkpoint": _checkpoint(model),
            },
            "preset": preset,
            "recipe": recipe,
            "tokenizer": _tokenizer(model),
            "labels": "labels.json",
            "known_answer": answers,
            "artifacts": entries,
            "files": {item.relative_to(partial).as_posix(): manifest.sha256_of(item) for item in others},
        },
    )


def _checkpoint(model: Clip) -> dict[str, Any]:
    origin = model.origin
    if origin is None:
        return {
            "form": "made here",
            "source": "a model in memory",
            "sha256": None,
            "licence": "unknown",
            "research_only": False,
        }
    return {
        "form": origin.form,
        "source": origin.source,
        "sha256": origin.sha256 or None,
        "licence": origin.licence,
        "research_only": origin.licence_research_only,
        "warnings": list(origin.warnings),
        "record": dict(origin.record),
    }


def _tokenizer(model: Clip) -> dict[str, Any] | None:
    if model.config.text is None:
        return None
    return {
        "kind": "CLIP byte-pair encoding",
        "sha256": tokenizer_hash(),
        "context": model.config.text.context,
        "start": START,
        "end": END,
        "pad": PAD,
    }


def _licences(model: Clip) -> str:
    origin = model.origin
    weights = "unknown" if origin is None else origin.licence
    lines = [
        "What this bundle may be used for.",
        "",
        f"Weights: {weights} (from {origin.source if origin else 'a model in memory'}).",
    ]
    if origin is not None and origin.licence_research_only:
        lines += ["These weights may be used for research only: do not ship this bundle in a product."]
    lines += [
        "",
        "Graph and manifest: made by mobileclip-toolkit (MIT).",
        "Tokenizer: the merges of OpenAI's CLIP (MIT).",
        "Runtimes, not contained: ExecuTorch (BSD-3-Clause), onnxruntime (MIT), Core ML (part of Apple's systems).",
    ]
    return "\n".join(lines) + "\n"
