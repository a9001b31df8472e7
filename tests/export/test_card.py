"""MODEL_CARD.md and LICENSES: what the manifest and the record say, of every kind of bundle, and no folder of ours."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

import export
from export.card import CARD, LICENCES, card, licences, place
from export.manifest import Bundle
from export.targets import TARGETS
from mobileclip.checkpoint import load, save
from mobileclip.models import create


def manifest_of(bundle: Path) -> dict[str, Any]:
    """What a card is made from."""
    return dict(Bundle.open(bundle).manifest)


def test_every_bundle_has_one(nano_bundle: Path) -> None:
    about = manifest_of(nano_bundle)
    assert {CARD, LICENCES} <= set(about["files"]), "they are hashed with the rest"
    text = (nano_bundle / CARD).read_text(encoding="utf-8")
    assert text == card(about | {"created": "2020-01-01T00:00:00+00:00", "files": {}}), "made from the manifest alone"
    assert text.startswith("# nano\n")
    assert "drawn by chance and were never trained" in text
    for entry in about["artifacts"]:
        gate = "not run" if entry["target"] == "executorch-vulkan" else "passed"
        (row,) = [line for line in text.splitlines() if line.startswith(f"| `{entry['file']}` |")]
        assert f"| {entry['target']} | {entry['precision']} | {entry['bytes'] / 1e6:.1f} |" in row
        assert row.endswith(f"| {gate} |")
    assert "- `image.vulkan.pte` was not run where it was made: not run here: needs" in text
    assert "| text | in | `text` | 1 x 77 | int32 | token ids |" in text
    assert "| image | out | `final_emb_1` | 1 x 32 | float32 | image embedding |" in text
    for app in ("ios", "android", "web"):
        assert f"mobileclip apps install {app} .\n" in text
    assert len(about["artifacts"]) == 2 * len(TARGETS)


def test_its_first_command_runs(nano_bundle: Path) -> None:
    text = (nano_bundle / CARD).read_text(encoding="utf-8")
    assert "\nmobileclip verify .\n" in text
    done = subprocess.run(
        [sys.executable, "-m", "mobileclip.cli", "verify", "."], cwd=nano_bundle, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_a_trained_model_and_no_folders(tmp_path: Path) -> None:
    """What a record says of training is told; where the files lay on the machine is not."""
    record = {
        "recipe": {
            "name": "nano-scenes",
            "captions": "pick(syn_text_quality=1)",
            "shards": [str(tmp_path / "scenes" / "train"), "s3://bucket/shards"],
            "batch": 128,
            "init": "",
        },
        "step": 30,
        "captions": {"syn_text_quality": 3840, "alt": 1280},
        "shape top1": 0.125,
    }
    save(create("nano", seed=0), tmp_path / "weights", record=record)
    out = export.export(tmp_path / "weights", ["onnx"], tmp_path / "out", views=["image"])
    text, terms = ((out / name).read_text(encoding="utf-8") for name in (CARD, LICENCES))
    assert "| recipe | nano-scenes |\n" in text
    assert "| captions | pick(syn\\_text" not in text
    assert "| captions | pick(syn_text_quality=1) |\n" in text
    assert "| data | train, s3://bucket/shards |\n" in text
    assert "| steps | 30 |\n" in text
    assert "| captions that it saw | alt 1,280 (25%), syn_text_quality 3,840 (75%) |\n" in text
    assert "| shape top1, on its validation set | 0.125 |\n" in text
    assert "began from" not in text
    assert "from `weights`, form toolkit" in text
    assert str(tmp_path) not in text + terms
    assert "from weights" in terms


def test_research_only(tmp_path: Path) -> None:
    model = create("nano", seed=0)
    torch.nn.init.zeros_(model.image.head.fc.bias)  # Apple's form has no such bias
    save(model, tmp_path / "mobileclip_nano.pt", form="apple")
    out = export.export(tmp_path / "mobileclip_nano.pt", ["onnx"], tmp_path / "out", views=["image"])
    text = (out / CARD).read_text(encoding="utf-8")
    assert "**For research only: not for a product.**" in text
    assert "The checkpoint does not tell how it was trained, nor on what." in text
    assert "do not ship this bundle in a product" in (out / LICENCES).read_text(encoding="utf-8")


def test_heads_and_their_own_weights(tmp_path: Path) -> None:
    out = export.export("seeded:nano", ["onnx"], tmp_path / "out", heads=["seeded:nano+semfpn@64"], views=())
    text = (out / CARD).read_text(encoding="utf-8")
    assert "- segmentation of 150 classes by the head `semfpn`: names the class of each pixel.\n" in text
    assert "**the head semfpn**: from `seeded:nano+semfpn@64x64:0`, form seeded.\n" in text
    assert "| multitask | out | `labels` | 1 x 1 x 16 x 16 | int32 | class of each pixel, 0..149 |\n" in text
    assert "mobileclip apps install web ." in text
    assert "mobileclip apps install ios ." not in text
    assert "Weights of the head semfpn: MIT" in (out / LICENCES).read_text(encoding="utf-8")


def test_fewer_bits(nano_bundle: Path) -> None:
    about = json.loads(json.dumps(manifest_of(nano_bundle)))
    entry = about["artifacts"][0]
    entry["precision"] = "w8a8"
    entry["gate"]["passed"] = False
    entry["quantisation"] = {
        "calibration": 18,
        "held_out": 6,
        "known_answer": {},
        "made": {"db": 47.1},
        "kept": {
            "pictures": 6,
            "numbers": [
                {"name": "cosine_mean", "value": 0.99999, "limit": 0.99, "better": "higher", "passed": True},
                {"name": "new_loose", "value": 1.0, "limit": 0.0, "better": "lower", "passed": False},
            ],
        },
    }
    text = card(about)
    seen = "ranges from 18 inputs, judged on 6: cosine_mean 1 (≥ 0.99), new_loose 1 (≤ 0)"
    assert f"- `{entry['file']}`, {seen}\n" in text
    assert f"- `{entry['file']}` missed its gate and was accepted all the same.\n" in text


def test_foreign_names_add_nothing(nano_bundle: Path) -> None:
    about = json.loads(json.dumps(manifest_of(nano_bundle)))
    checkpoint = about["model"]["checkpoint"]
    checkpoint["form"] = "toolkit"
    checkpoint["licence"] = "MIT\n\n## Weights\n\nfree"
    checkpoint["record"] = {
        "recipe": {"name": "a | b\n# big", "captions": "<script>[x](y)" * 40},
        "captions": {"x": "y"},
    }
    text = card(about)
    assert "| recipe | a \\| b # big |\n" in text
    assert "<script>" not in text
    assert "[x](" not in text
    assert text.count("\n## Weights\n") == 1
    assert max(len(line) for line in text.splitlines() if "script" in line) < 400
    assert "\n## Weights" not in licences(about)


def test_places() -> None:
    assert place("/home/someone/runs/s2/best") == "best"
    assert place("C:\\Users\\someone\\s2.pt") == "s2.pt"
    assert place("runs/s2/best") == "runs/s2/best"
    assert place("hf-hub:apple/MobileCLIP-S2-OpenCLIP") == "hf-hub:apple/MobileCLIP-S2-OpenCLIP"
    assert place("s3://bucket/x.tar") == "s3://bucket/x.tar"


def test_a_model_in_memory(tmp_path: Path) -> None:
    model = load("seeded:nano_swin")
    model.origin = None
    out = export.export(model, ["onnx"], tmp_path / "out")
    text = (out / CARD).read_text(encoding="utf-8")
    assert "from `a model in memory`, form made here." in text
    assert "Licence: unknown." in text
    assert "Texts" not in text
