"""What a bundle holds beside its artifacts: known answers, labels, licences, the card, and the manifest of it all."""

import json
import shutil
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from export import card, manifest
from export.targets import Kind
from export.views import View
from mobileclip import __version__

if TYPE_CHECKING:
    from export.subjects import Subject


def write_known_answers(views: Mapping[Kind, View], partial: Path) -> None:
    """The example of every view and what the model makes of it, in `partial/known_answer`."""
    folder = partial / "known_answer"
    folder.mkdir(exist_ok=True)
    for kind, view in views.items():
        answer = {
            "input": _write_array(folder, f"{kind}.input.bin", view.example.numpy()),
            **write_outputs(partial, kind, view.answer(view.example)),
        }
        if view.inputs[0].kind == "image":
            pixels = (view.example[0] * 255).round().byte().permute(1, 2, 0).numpy()
            Image.fromarray(pixels).save(folder / f"{kind}.png")
            answer["picture"] = f"known_answer/{kind}.png"
        (folder / f"{kind}.json").write_text(json.dumps(answer))


def write_outputs(partial: Path, name: str, outputs: Sequence[npt.NDArray[Any]]) -> dict[str, Any]:
    """Outputs as files of the known answer: `output`, and `others` where there are several."""
    folder = partial / "known_answer"
    first, *others = outputs
    answer: dict[str, Any] = {"output": _write_array(folder, f"{name}.output.bin", first)}
    if others:
        answer["others"] = [
            _write_array(folder, f"{name}.output{index}.bin", item) for index, item in enumerate(others, 1)
        ]
    return answer


def _write_array(folder: Path, name: str, values: Any) -> Any:
    (folder / name).write_bytes(np.ascontiguousarray(values).astype(values.dtype.newbyteorder("<")).tobytes())
    return {"file": f"{folder.name}/{name}", "dtype": str(values.dtype), "shape": list(values.shape)}


def read_array(folder: Path, entry: Mapping[str, Any]) -> npt.NDArray[Any]:
    """An array of the known answer: little-endian values, row by row."""
    values = np.frombuffer((folder / entry["file"]).read_bytes(), dtype=np.dtype(entry["dtype"]).newbyteorder("<"))
    return values.reshape(entry["shape"]).astype(entry["dtype"])


def answers_of(folder: Path, answer: Mapping[str, Any]) -> list[npt.NDArray[Any]]:
    """All outputs of a known answer, in order: `output`, then `others`."""
    return [read_array(folder, entry) for entry in (answer["output"], *answer.get("others", ()))]


def finish(
    subject: "Subject",
    views: Mapping[Kind, View],
    partial: Path,
    *,
    entries: Sequence[Mapping[str, Any]],
    recipe: Mapping[str, Any],
    preset: str,
    labels: Sequence[str],
) -> None:
    """Turn the working folder into a bundle: remove what only the work needed, write the rest, the manifest last."""
    from export.runtimes import tool_versions

    answers = {kind: json.loads((partial / "known_answer" / f"{kind}.json").read_text()) for kind in views}
    artifacts = {entry["file"] for entry in entries}
    for leftover in [*(partial / "known_answer").glob("*.json"), *(partial / f"{file}.json" for file in artifacts)]:
        leftover.unlink()
    (partial / "fingerprint").unlink()
    for folder in ("subject", "calibration"):
        shutil.rmtree(partial / folder, ignore_errors=True)
    words = json.dumps(subject.words(labels), indent=2, ensure_ascii=False)
    (partial / "labels.json").write_text(words + "\n", encoding="utf-8")
    whole = {
        "schema": manifest.SCHEMA_VERSION,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "generator": {"name": "mobileclip-toolkit", "version": __version__, "tools": dict(tool_versions())},
        "preset": preset,
        "recipe": recipe,
        **subject.about(),
        "labels": "labels.json",
        "known_answer": answers,
        "artifacts": entries,
    }
    (partial / card.LICENCES).write_text(card.licences(whole), encoding="utf-8")
    (partial / card.CARD).write_text(card.card(whole), encoding="utf-8")
    others = [
        item
        for item in sorted(partial.rglob("*"))
        if item.is_file() and item.relative_to(partial).parts[0] not in artifacts
    ]
    files = {item.relative_to(partial).as_posix(): manifest.sha256_of(item) for item in others}
    manifest.write(partial, whole | {"files": files})
