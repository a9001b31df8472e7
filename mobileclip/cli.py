"""`mobileclip VERB`: parses, calls one function, prints what it gives.

Each verb is a frozen dataclass whose fields are its options and whose `run` calls what a program would call; nothing
heavy is imported before an argument is known to be right. Exit code 0: done. 2: the user's mistake, one sentence on
the error stream. 1: an artifact failed its gate, or a fault of ours.
"""

import json
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union

import tyro
from tyro.conf import Positional, subcommand

from export.targets import TARGETS, preset_of, targets_of
from mobileclip import __version__
from mobileclip.config import config_of
from mobileclip.errors import GateFailed, MobileClipError, OutputError

Progress = Callable[[str], None]


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
        _known_source(self.checkpoint)
        if self.out.exists() and not self.force:
            raise OutputError(f"{self.out} exists already: choose another folder, or pass --force to replace it.")
        labels = _lines(self.labels, "label") if self.labels else None
        with _progress("exporting", self.json) as say:
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
        with _progress("verifying", self.json) as say:
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
                    limit=self.limit,
                    progress=say,
                )
        if self.json:
            print(json.dumps(report.as_dict(), indent=2))
        else:
            _print_report(report, self.audit)
        return 0 if report.passed else 1


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Time the artifacts of a bundle on this machine against a baseline, interleaved, after proving them right.

    mobileclip bench out/s2 --against swin-l
    """

    bundle: Positional[Path]
    """Folder that `mobileclip export` wrote."""
    device: Literal["host"] = "host"
    """Where to measure."""
    against: tuple[str, ...] = ("swin-l", "naive")
    """Models exported by our rules, `naive` (plain export of the same weights), a target here, or other bundles."""
    to: tuple[str, ...] = ("executorch-xnnpack", "onnx")
    """Targets to time."""
    view: tuple[Literal["image", "text"], ...] = ("image",)
    """Views to time."""
    runs: int = 40
    """Timed runs of each side."""
    threads: int = 0
    """Threads of both runtimes; 0 is one for each core."""
    out: Path = Path("runs/results")
    """Folder for the result JSONs."""
    json: bool = False
    """Print the results as JSON."""

    def run(self) -> int:
        """Measure against each baseline in turn."""
        targets_of(self.to)
        if self.runs < 2:
            raise MobileClipError(f"{self.runs} runs cannot give a median and an interval: take at least 2.")
        from benchmarks.sides import kind_of
        from export.manifest import Bundle

        for against in self.against:
            kind_of(against)
        Bundle.open(self.bundle, hashes=False)
        with _progress("measuring", self.json) as say:
            from benchmarks.host import measure

            results = [
                result
                for against in self.against
                for result in measure(
                    self.bundle,
                    device=self.device,
                    against=against,
                    targets=self.to,
                    views=self.view,
                    runs=self.runs,
                    threads=self.threads,
                    out=self.out,
                    progress=say,
                )
            ]
        if self.json:
            print(json.dumps(results, indent=1))
        else:
            _print_bench(results)
        return 0


@dataclass(frozen=True, kw_only=True)
class Report:
    """Make the table of results from result JSONs; with --into, put it into a Markdown file.

    mobileclip report runs/results --into README.md
    """

    results: Positional[tuple[Path, ...]] = (Path("runs/results"),)
    """Files and folders that `mobileclip bench` wrote."""
    into: Path | None = None
    """Markdown file with the two lines that mark where the table belongs."""
    json: bool = False
    """Print the results as one JSON list."""

    def run(self) -> int:
        """Print or insert the table."""
        from benchmarks import results

        found = results.read(self.results)
        if self.into is not None:
            results.insert(self.into, results.table(found))
        print(json.dumps(found) if self.json else results.table(found))
        return 0


Verb = Union[  # noqa: UP007 - tyro reads the annotations of a Union's members
    Annotated[Export, subcommand("export")],
    Annotated[Verify, subcommand("verify")],
    Annotated[Bench, subcommand("bench")],
    Annotated[Report, subcommand("report")],
]


def main(argv: Sequence[str] | None = None) -> int:
    """Parse and run; returns the exit code."""
    args = list(sys.argv[1:] if argv is None else argv)
    if args == ["--version"]:
        print(f"mobileclip {__version__}")
        return 0
    verb: Any = tyro.cli(
        Verb,
        prog="mobileclip",
        description="CLIP with quality captions on phones: export, verify and measure MCi2.",
        args=args or ["--help"],
    )
    try:
        code: int = verb.run()
    except MobileClipError as error:
        print(f"mobileclip {type(verb).__name__.lower()}: {error}", file=sys.stderr)
        return 2
    except GateFailed as error:
        print(f"mobileclip {type(verb).__name__.lower()}: {error}.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; start the same command again to go on", file=sys.stderr)
        return 130
    return code


def _known_source(checkpoint: str) -> None:
    """Say at once that a file or a seeded model is not there."""
    if checkpoint.startswith("seeded:"):
        config_of(checkpoint.split(":")[1])
    elif checkpoint.endswith((".pt", ".pth", ".bin", ".safetensors")) and not Path(checkpoint).exists():
        raise MobileClipError(
            f"{checkpoint} does not exist: give a checkpoint, or seeded:mobileclip_s2 to try without one."
        )


def _lines(path: Path, what: str) -> list[str]:
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise MobileClipError(f"{path} cannot be read as UTF-8 text with one {what} a line ({error}).") from error
    if not lines:
        raise MobileClipError(f"{path} holds no {what}: put one a line.")
    return lines


@contextmanager
def _progress(doing: str, quiet: bool) -> Iterator[Progress]:
    """A spinner on a terminal, plain lines elsewhere, on the error stream; converters are kept quiet."""
    from rich.console import Console

    console = Console(stderr=True)
    logging.disable(logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if console.is_terminal and not quiet:
            with console.status(f"{doing} …"):
                yield lambda line: console.print(line, highlight=False)
        else:
            yield lambda line: print(line, file=sys.stderr, flush=True)


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console() if sys.stdout.isatty() else Console(width=160)
    table = Table(*columns, title=title, title_justify="left")
    for row in rows:
        table.add_row(*row)
    console.print(table)


def _print_bundle(out: Path, manifest: Mapping[str, Any]) -> None:
    rows = []
    for entry in manifest["artifacts"]:
        parity, gate = entry["parity"], entry["gate"]
        loose = ", ".join(f"{item['count']} {item['operator']} ({item['reason']})" for item in entry["loose"])
        proof = gate["reason"] if parity is None else f"{parity['db']:.1f} dB ({parity['runtime']})"
        delegates = "–" if entry["delegates"] is None else str(entry["delegates"])
        rows.append((entry["file"], entry["precision"], f"{entry['bytes'] / 1e6:.1f}", delegates, loose or "–", proof))
    _table(str(out), ("artifact", "precision", "MB", "delegates", "outside of them", "against the model"), rows)
    checkpoint = manifest["model"]["checkpoint"]
    print(
        f"{manifest['model']['name']} from {checkpoint['source']} ({checkpoint['form']}); "
        f"licence: {checkpoint['licence']}"
    )
    for warning in checkpoint.get("warnings", []):
        print(f"warning: {warning}")


def _print_report(report: Any, audit: bool) -> None:
    rows = []
    for row in report.rows:
        if row.passed is None:
            rows.append((row.file, "", "0", "", "", "", "", row.note))
            continue
        inside = "" if row.largest is None else f"{row.largest:.4g}"
        verdict = ("passed" if row.passed else "FAILED") + f", {row.note}"
        if row.overflows:
            verdict += f"; fp16 overflow in {', '.join(row.overflows[:3])}"
        spread = f"{row.db:.1f} / {row.db_mean:.1f}"
        rows.append(
            (
                row.file,
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
    _table(f"{report.subject}\nagainst {report.reference}", columns, rows)
    if audit:
        for file, lines in report.audit.items():
            seen = [(item.name, item.op, f"{item.largest:.5g}", str(item.not_finite), str(item.tiny)) for item in lines]
            _table(f"{file}: largest values", ("name", "operator", "largest |x|", "inf or NaN", "below fp16"), seen)


def _print_bench(results: Sequence[Mapping[str, Any]]) -> None:
    rows = []
    for result in results:
        ratio, limit = result["ratio"], result["gemm_ms"]
        for side in ("a", "b"):
            item = result[side]
            loose = sum(entry["count"] for entry in item["loose"] if entry["compute"])
            divided = "–" if item["delegates"] is None else f"{item['delegates']} / {loose}"
            times = [f"{item[key]:.1f}" for key in ("p50_ms", "p90_ms", "p99_ms", "load_ms", "first_ms")]
            told = f"{ratio['value']:.2f}× ({ratio['low']:.2f}–{ratio['high']:.2f})" if side == "a" else ""
            bound = f"{item['p50_ms'] / limit:.2f}" if side == "a" else ""
            rows.append((item["name"], divided, *times, told, bound))
    columns = (
        "artifact",
        "delegates / loose",
        "p50",
        "p90",
        "p99",
        "load",
        "first",
        "times as fast (95 %)",
        "× GEMM floor",
    )
    _table("times in ms on this host; they do not predict a phone", columns, rows)


if __name__ == "__main__":
    sys.exit(main())
