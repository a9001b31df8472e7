"""`python -m benchmarks NAME`: studies too long for `mobileclip bench`; each writes JSON and prints a table.

python -m benchmarks loader --photos photos
python -m benchmarks report --into README.md         # the tables of all results that were kept
"""

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from benchmarks import plan, results, study, summary
from mobileclip.errors import MobileClipError, UnknownName

STUDIES = (
    "loader",
    "step",
    "loop",
    "scaling",
    "captions_text",
    "captions_images",
    "captions_coca",
    "captions_engine",
    "captions_study",
    "dense_host",
    "compressed",
    "qat",
    "quantised",
    "quantised_dense",
    "calibration_count",
    "int8_ablation",
    "int8_coreml",
    "runner_overhead",
    "study",
    "journey",
)
"""Modules of this package with `main(argv) -> int` and `table`."""
SECTIONS = {
    "training": ("loader", "step", "loop"),
    "scaling": ("scaling",),
    "plan": ("plan",),
    "captions": ("captions_text", "captions_coca", "captions_study"),
    "dense": ("dense_host",),
    "quantise": (
        "quantised",
        "quantised_dense",
        "compressed",
        "qat",
        "calibration_count",
        "int8_ablation",
        "int8_coreml",
    ),
    "runner": ("runner_overhead",),
    "study": ("study",),
    "journey": ("journey",),
    "study_page": ("study_page",),
    "summary": ("summary",),
    "limits": ("limits",),
}
"""Part of a Markdown file -> the studies whose tables stand there, between `marks`; `study_page` is all of `study`,
`summary` and `limits` are of all results (`benchmarks/summary.py`), `plan` is arithmetic (`benchmarks/plan.py`)."""


def marks(section: str) -> tuple[str, str]:
    """The lines between which a section's tables are written."""
    return f"<!-- {section}: made by `python -m benchmarks report` -->", f"<!-- /{section} -->"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one study, or report all; returns the exit code."""
    args = list(sys.argv[1:] if argv is None else argv)
    if not args or args[0] in ("-h", "--help"):
        print(f"usage: python -m benchmarks {{{','.join((*STUDIES, 'report'))}}} [options]; each has --help")
        return 0
    try:
        if args[0] == "report":
            return report(args[1:])
        if args[0] not in STUDIES:
            raise UnknownName("study", args[0], (*STUDIES, "report"))
        code: int = import_module(f"benchmarks.{args[0]}").main(args[1:])
    except MobileClipError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 2
    return code


def report(argv: Sequence[str]) -> int:
    """Print the tables of kept results, or put them into a Markdown file."""
    parser = argparse.ArgumentParser(prog="benchmarks report", description=report.__doc__)
    here = Path(__file__).parent / "results"
    parser.add_argument("results", type=Path, nargs="*", default=[here])
    parser.add_argument("--into", type=Path, help="Markdown file with the marks")
    args = parser.parse_args(argv)
    found = results.read(args.results)
    tables = {}
    for name in STUDIES:
        of_study = [result for result in found if result.get("study") == name]
        if of_study:
            tables[name] = import_module(f"benchmarks.{name}").table(of_study)
            if name == "study":
                tables["study_page"] = study.page(of_study)
    tables |= {"summary": summary.table(found), "limits": summary.limits(found), "plan": plan.table()}
    if args.into is not None:
        text = args.into.read_text(encoding="utf-8") if args.into.is_file() else ""
        inside = [section for section in SECTIONS if marks(section)[0] in text]
        for section, names in SECTIONS.items():
            if inside and section not in inside:
                continue
            there = [tables[name] for name in names if name in tables]
            if there:
                results.insert(args.into, "\n\n".join(there), *marks(section))
    print("\n\n".join(tables.values()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
