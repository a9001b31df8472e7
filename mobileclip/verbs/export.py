"""`mobileclip export`."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tyro.conf import Positional

from export.targets import TARGETS, preset_of, targets_of
from mobileclip.config import config_of
from mobileclip.errors import MobileClipError, OutputError
from mobileclip.verbs.screen import lines, progress, table


@dataclass(frozen=True, kw_only=True)
class Export:
    """Turn a checkpoint into a bundle: artifacts for phones, each compared with the model it was made from.

    mobileclip export mobileclip_s2.pt --to onnx coreml executorch-xnnpack --out out/s2
    """

    checkpoint: Positional[str]
    """File, folder, `hf-hub:owner/name`, `MobileCLIP-S2:datacompdr`, or `seeded:mobileclip_s2` (untrained)."""
    out: Path
    """Folder of the bundle."""
    to: tuple[str, ...] = tuple(TARGETS)
    """Targets; all five when left out."""
    preset: str = "apple"
    """Names, types and normalisation of inputs and outputs: apple, queryable, transformers.js, ente or open_clip."""
    without_rewrite: tuple[str, ...] = ()
    """Rewrites to leave out, to see what they are good for."""
    labels: Path | None = None
    """File with one label a line, for the sample apps."""
    jobs: int = min(2, os.cpu_count() or 1)
    """Artifacts that are made at the same time; each process holds the model once."""
    force: bool = False
    """Replace a bundle that is there."""
    json: bool = False
    """Print the manifest."""

    def run(self) -> int:
        """Check what can be checked without a model, then export."""
        targets_of(self.to)
        preset_of(self.preset)
        known_source(self.checkpoint)
        if self.out.exists() and not self.force:
            raise OutputError(f"{self.out} exists already: choose another folder, or pass --force to replace it.")
        labels = lines(self.labels, "label") if self.labels else None
        with progress("exporting", self.json) as say:
            from export.recipe import LABELS, export

            out = export(
                self.checkpoint,
                self.to,
                self.out,
                preset=self.preset,
                without_rewrites=self.without_rewrite,
                labels=labels or LABELS,
                jobs=self.jobs,
                force=self.force,
                progress=say,
            )
        manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
        if self.json:
            print(json.dumps(manifest, indent=2))
        else:
            _print_bundle(out, manifest)
        return 0


def known_source(checkpoint: str) -> None:
    """Say at once that a file or a seeded model is not there."""
    if checkpoint.startswith("seeded:"):
        config_of(checkpoint.split(":")[1])
    elif checkpoint.endswith((".pt", ".pth", ".bin", ".safetensors")) and not Path(checkpoint).exists():
        raise MobileClipError(
            f"{checkpoint} does not exist: give a checkpoint, or seeded:mobileclip_s2 to try without one."
        )


def _print_bundle(out: Path, manifest: Mapping[str, Any]) -> None:
    rows = []
    for entry in manifest["artifacts"]:
        parity, gate = entry["parity"], entry["gate"]
        loose = ", ".join(f"{item['count']} {item['operator']} ({item['reason']})" for item in entry["loose"])
        proof = gate["reason"] if parity is None else f"{parity['db']:.1f} dB ({parity['runtime']})"
        delegates = "–" if entry["delegates"] is None else str(entry["delegates"])
        rows.append((entry["file"], entry["precision"], f"{entry['bytes'] / 1e6:.1f}", delegates, loose or "–", proof))
    table(str(out), ("artifact", "precision", "MB", "delegates", "outside of them", "against the model"), rows)
    checkpoint = manifest["model"]["checkpoint"]
    print(
        f"{manifest['model']['name']} from {checkpoint['source']} ({checkpoint['form']}); "
        f"licence: {checkpoint['licence']}"
    )
    for warning in checkpoint.get("warnings", []):
        print(f"warning: {warning}")
