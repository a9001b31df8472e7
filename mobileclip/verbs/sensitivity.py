"""`mobileclip sensitivity`."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from export.targets import TARGETS, searched, targets_of
from mobileclip.errors import MobileClipError
from mobileclip.verbs.export import known_source, unlowered
from mobileclip.verbs.screen import progress, table


@dataclass(frozen=True, kw_only=True)
class Sensitivity:
    """Show which blocks of a model suffer from fewer bits: each quantised alone, and all others quantised but it.

    mobileclip sensitivity mobileclip_s2.pt --to coreml --calibration photos --out sensitivity
    """

    checkpoint: Positional[str]
    """As for export: an image-text model, or a dense one."""
    calibration: Path
    """Pictures like those that the app will see; a quarter of them is measured on and sets no ranges."""
    out: Path | None = None
    """Folder for sensitivity.json and sensitivity.svg."""
    to: str = "executorch-xnnpack"
    """Target, whose rewrites are applied: Core ML is measured with fewer bits for weights, others with integers."""
    view: Literal["image", "dense"] | None = None
    """Of an image-text model: image if left out."""
    json: bool = False
    """Print the table as JSON."""

    def run(self) -> int:
        """Check what can be checked without a model, then measure."""
        known_source(self.checkpoint)
        unlowered(self.checkpoint)
        (target,) = targets_of([self.to]).values()
        if not searched(target):
            able = ", ".join(name for name, item in TARGETS.items() if searched(item))
            raise MobileClipError(f"{self.to} holds floats alone: choose a target that can be quantised, {able}.")
        with progress("measuring", self.json) as say:
            from export.assign import measured

            found = measured(self.checkpoint, self.to, self.calibration, view=self.view or "image", say=say)
        if self.out is not None:
            from export.sensitivity import plot

            self.out.mkdir(parents=True, exist_ok=True)
            (self.out / "sensitivity.json").write_text(json.dumps(found.as_dict(), indent=2) + "\n")
            title = f"{self.checkpoint}: {found.view} view for {self.to}"
            (self.out / "sensitivity.svg").write_text(plot(found, title), encoding="utf-8")
        if self.json:
            print(json.dumps(found.as_dict(), indent=2))
            return 0
        rows = [
            (row.block, row.precision, f"{row.weights:,}", f"{row.macs / 1e6:,.1f}", *errors)
            for row in found.rows
            for errors in [(f"{row.alone:.2e}", f"{row.without:.2e}")]
        ]
        whole = ", ".join(f"{precision} {error:.2e}" for precision, error in found.whole.items())
        columns = ("block", "precision", "weights", "M products", "alone", "all but it")
        table(f"1 - cosine over {found.inputs} held-out inputs; every block: {whole}", columns, rows)
        return 0
