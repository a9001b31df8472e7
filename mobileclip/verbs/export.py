"""`mobileclip export`."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tyro.conf import Positional

from export.targets import OUTPUTS, TARGETS, Output, preset_of, quantised_of, targets_of
from mobileclip.config import config_of
from mobileclip.dense.config import head_of
from mobileclip.errors import MobileClipError, OutputError
from mobileclip.verbs.screen import lines, progress, table


@dataclass(frozen=True, kw_only=True)
class Export:
    """Turn a checkpoint into a bundle: artifacts for phones, each compared with the model it was made from.

    mobileclip export mobileclip_s2.pt --to coreml executorch-xnnpack onnx --out out/s2

    mobileclip export mobileclip_s2.pt --to executorch-xnnpack onnx --precision w8a8 --calibration photos --out out/int8

    mobileclip export runs/ade/best --size 512 512 --out out/ade

    mobileclip export mobileclip_s2.pt --heads runs/seg/best runs/depth/best --out out/all
    """

    checkpoint: Positional[str]
    """File, folder, `hf-hub:owner/name`, `MobileCLIP-S2:datacompdr`, or `seeded:mobileclip_s2` (untrained); or a dense
    checkpoint, or `seeded:mci2+semfpn_phone@512`."""
    out: Path
    """Folder of the bundle."""
    to: tuple[str, ...] = tuple(TARGETS)
    """Targets; all five when left out."""
    preset: str = "apple"
    """Names, types and normalisation of inputs and outputs: apple, queryable, transformers.js, ente or open_clip."""
    without_rewrite: tuple[str, ...] = ()
    """Rewrites to leave out, to see what they are good for."""
    labels: Path | None = None
    """File with one label a line, for the sample apps; dense checkpoints bring their own."""
    output: Output = OUTPUTS[0]
    """Of segmentation: labels or logits at a quarter of the input's sides, or logits at all of them."""
    size: tuple[int, int] | None = None
    """Rows and columns of a dense input, multiples of 32; the checkpoint's own if left out."""
    heads: tuple[str, ...] = ()
    """Dense checkpoints, finetuned on this checkpoint's frozen encoder, that share one pass with the embedding."""
    view: tuple[Literal["image", "text", "dense"], ...] = ()
    """Of an image-text model: the towers, or the image tower pixel by pixel; both towers if left out."""
    precision: str | None = None
    """fp32, fp16, w8, w8a8, w8p, w6p, w4p, w6pj, w4pj, mixed or auto, as far as each target can hold it; its
    own floats if left out. auto finds the cheapest precision of each block that keeps the embedding."""
    calibration: Path | None = None
    """Pictures like those that the app will see, which set ranges and judge what comes out; w8a8, mixed and auto need
    them. Not those that you measure with."""
    gate: Path | None = None
    """Set with classes, captions or annotations, none of it in the calibration, that what is quantised is judged on."""
    timed: bool = False
    """What is quantised may not be slower than its floats on this machine."""
    accept: bool = False
    """Write artifacts that miss their gates as well; the manifest says which."""
    jobs: int = min(2, os.cpu_count() or 1)
    """Artifacts that are made at the same time; each process holds the model once."""
    force: bool = False
    """Replace a bundle that is there."""
    json: bool = False
    """Print the manifest."""

    def run(self) -> int:
        """Check what can be checked without a model, then export."""
        if self.precision is not None:
            quantised_of(self.to, self.precision)
        targets_of(self.to)
        preset_of(self.preset)
        for source in (self.checkpoint, *self.heads):
            known_source(source)
            unlowered(source)
        if self.out.exists() and not self.force:
            raise OutputError(f"{self.out} exists already: choose another folder, or pass --force to replace it.")
        labels = lines(self.labels, "label") if self.labels else None
        with progress("exporting", self.json) as say:
            from export.recipe import export
            from export.targets import LABELS

            out = export(
                self.checkpoint,
                self.to,
                self.out,
                preset=self.preset,
                without_rewrites=self.without_rewrite,
                labels=labels or LABELS,
                output=self.output,
                size=self.size,
                heads=self.heads,
                views=self.view or None,
                precision=self.precision,
                calibration=self.calibration,
                gate=self.gate,
                timed=self.timed,
                accept=self.accept,
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
        encoder, _, head = checkpoint.split(":")[1].partition("+")
        config_of(encoder)
        if head:
            head_of(head.partition("@")[0])
    elif checkpoint.endswith((".pt", ".pth", ".bin", ".safetensors")) and not Path(checkpoint).exists():
        raise MobileClipError(
            f"{checkpoint} does not exist: give a checkpoint, or seeded:mobileclip_s2 to try without one."
        )


def unlowered(checkpoint: str) -> None:
    """Say at once that a bundle is no checkpoint."""
    if (Path(checkpoint) / "manifest.json").is_file():
        raise MobileClipError(
            f"{checkpoint} is a bundle: what it holds is lowered, and perhaps quantised, already. Give the checkpoint "
            "that it was made from; its manifest.json names it under model.checkpoint.source."
        )


def _print_bundle(out: Path, manifest: Mapping[str, Any]) -> None:
    from export.judged import proof_of

    rows = []
    for entry in manifest["artifacts"]:
        parity, gate = entry["parity"], entry["gate"]
        small = entry["quantisation"] is not None
        loose = ", ".join(f"{item['count']} {item['operator']} ({item['reason']})" for item in entry["loose"])
        proof = proof_of(entry) if small else gate["reason"] if parity is None else _proof(parity)
        delegates = "–" if entry["delegates"] is None else str(entry["delegates"])
        rows.append((entry["file"], entry["precision"], f"{entry['bytes'] / 1e6:.1f}", delegates, loose or "–", proof))
    table(str(out), ("artifact", "precision", "MB", "delegates", "outside of them", "against the model"), rows)
    parts = [(manifest["model"]["name"], manifest["model"]["checkpoint"])]
    parts += [
        (head["head"], head["checkpoint"])
        for head in manifest.get("dense", {}).get("heads", ())
        if "checkpoint" in head
    ]
    for name, checkpoint in parts:
        print(f"{name} from {checkpoint['source']} ({checkpoint['form']}); licence: {checkpoint['licence']}")
        for warning in checkpoint.get("warnings", []):
            print(f"warning: {warning}")


def _proof(parity: Mapping[str, Any]) -> str:
    """Each output's own figure, and what ran the artifact."""
    told = [f"{name} {_figure(item)}".strip() for name, item in (parity.get("outputs") or {"": parity}).items()]
    return f"{', '.join(told)} ({parity['runtime']})"


def _figure(parity: Mapping[str, Any]) -> str:
    return f"{parity['db']:.1f} dB" if parity.get("equal") is None else f"{100 * parity['equal']:.2f} % equal"
