"""`mobileclip verify`."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tyro.conf import Positional

from mobileclip.errors import MobileClipError
from mobileclip.verbs.screen import progress, table


@dataclass(frozen=True, kw_only=True)
class Verify:
    """Run every artifact that can run here and compare it with its model; works on any .mlpackage, without a Mac.

    mobileclip verify out/s2 --images photos --text captions.txt

    mobileclip verify any.mlpackage --against model.onnx
    """

    subject: Positional[Path]
    """A bundle, or a .mlpackage, .onnx or .pte."""
    images: Path | None = None
    """Folder of photos."""
    text: Path | None = None
    """File with one caption a line."""
    checkpoint: str | None = None
    """The model of the bundle, when it is no longer where the manifest says."""
    heads: tuple[str, ...] = ()
    """The heads of a multi-task bundle, likewise."""
    against: Path | None = None
    """For a single file: another model file, fed the same inputs."""
    inputs: Path | None = None
    """For a single file: .npz of inputs by name, or one .npy."""
    outputs: Path | None = None
    """For a single file: .npz or .npy of what `inputs` should give."""
    limit: int = 32
    """At most so many photos and captions."""
    audit: bool = False
    """List the operators of Core ML programs with the largest values (fp16 ends at 65,504)."""
    json: bool = False
    """Print the report as JSON."""

    def run(self) -> int:
        """Verify a bundle or a file; 1 when a gate fails."""
        if not self.subject.exists():
            raise MobileClipError(f"{self.subject} does not exist: give a bundle, or a .mlpackage, .onnx or .pte.")
        for path in (self.images, self.text, self.against, self.inputs, self.outputs):
            if path is not None and not path.exists():
                raise MobileClipError(f"{path} does not exist: give a path that does.")
        single = self.subject.is_file() or self.subject.suffix == ".mlpackage"
        if not single:
            from export.manifest import Bundle

            Bundle.open(self.subject, hashes=False)
        with progress("verifying", self.json) as say:
            from export.verify import verify, verify_package

            if single:
                report = verify_package(
                    self.subject,
                    against=self.against,
                    inputs=self.inputs,
                    outputs=self.outputs,
                    images=self.images,
                    limit=self.limit,
                )
            else:
                report = verify(
                    self.subject,
                    images=self.images,
                    text=self.text,
                    checkpoint=self.checkpoint,
                    heads=self.heads or None,
                    limit=self.limit,
                    progress=say,
                )
        if self.json:
            print(json.dumps(report.as_dict(), indent=2))
        else:
            _print_report(report, self.audit)
        return 0 if report.passed else 1


def _print_report(report: Any, audit: bool) -> None:
    rows = []
    for row in report.rows:
        if row.passed is None:
            rows.append((f"{row.file} {row.output}".strip(), "", "0", "", "", "", "", row.note))
            continue
        inside = "" if row.largest is None else f"{row.largest:.4g}"
        verdict = ("passed" if row.passed else "FAILED") + f", {row.note}"
        if row.against:
            verdict += f", against {row.against}"
        if row.overflows:
            verdict += f"; fp16 overflow in {', '.join(row.overflows[:3])}"
        spread = f"{row.db:.1f} / {row.db_mean:.1f}"
        if row.equal is not None:
            spread = f"{100 * row.equal:.2f} % equal"
        elif row.found is not None:
            spread += f", {100 * row.found:.0f} % found"
        rows.append(
            (
                f"{row.file} {row.output}".strip(),
                row.runtime,
                str(row.inputs),
                spread,
                f"{row.cosine:.7f}",
                f"{row.max_error:.2e}",
                inside,
                verdict,
            )
        )
    columns = ("artifact", "run by", "inputs", "dB min / mean", "cosine min", "max error", "largest |x|", "verdict")
    table(f"{report.subject}\nagainst {report.reference}", columns, rows)
    if audit:
        for file, lines in report.audit.items():
            seen = [(item.name, item.op, f"{item.largest:.5g}", str(item.not_finite), str(item.tiny)) for item in lines]
            table(f"{file}: largest values", ("name", "operator", "largest |x|", "inf or NaN", "below fp16"), seen)
