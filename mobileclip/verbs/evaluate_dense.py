"""`mobileclip evaluate --dense`."""

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mobileclip.dense.checkpoint import is_dense
from mobileclip.errors import DataError
from mobileclip.verbs.dense_subjects import dense_predictor, is_bundle, known_dense, text_predictor
from mobileclip.verbs.export import known_source
from mobileclip.verbs.screen import counted, table

if TYPE_CHECKING:
    from mobileclip.dense.data.skipping import Skipped
    from mobileclip.dense.evaluation import Report
    from mobileclip.dense.samples import Predictor

SHOWN = 8
"""Pictures on a page."""


def evaluate_dense(
    subjects: Sequence[str],
    path: Path,
    *,
    task: str | None,
    split: str,
    layout: str | None,
    target: str | None,
    templates: str | None,
    mode: Literal["whole", "slide", "fixed"],
    flip: bool,
    multi_scale: bool,
    limit: int | None,
    out: Path | None,
    as_json: bool,
) -> int:
    """Measure dense checkpoints and bundles on the same pictures, print a table and the differences from the first.

    A checkpoint that `flip` or `multi_scale` averages is measured without them first: published figures are apart.

    Raises:
        MobileClipError: a subject, the data set or an option cannot be taken.
    """
    if not path.exists():
        raise DataError(f"{path} does not exist: give a folder or a file that does.")
    by_texts = [templates is not None and not is_dense(subject) and not is_bundle(subject) for subject in subjects]
    for subject, texts in zip(subjects, by_texts, strict=True):
        if texts:
            known_source(subject)
        else:
            known_dense(subject, target, task)
    from mobileclip.dense.data.sets import open_set
    from mobileclip.dense.evaluation import evaluate, fixed
    from mobileclip.dense.host_detection import THRESHOLD

    reports, pages, truth = list["Report"](), list[Path](), None
    for place, subject in enumerate(subjects):
        if by_texts[place]:
            truth = truth or open_set(path, "segmentation", split, layout)
            sees: list[Predictor] = [text_predictor(subject, truth.labels, str(templates))]
        else:
            sees = [
                dense_predictor(
                    subject, target=target, task=task, mode=mode, flip=mirrored, score=THRESHOLD, multi_scale=sizes
                )
                for mirrored, sizes in _averages(subject, flip, multi_scale)
            ]
        for see in sees:
            if truth is None:
                truth = open_set(path, see.task, split, layout, max_depth=getattr(see, "max_depth", 10.0))
            count = len(truth) if limit is None else min(limit, len(truth))
            with counted(subject, "pictures", as_json) as tell:
                report = evaluate(see, truth, limit=limit, keep=fixed(count, SHOWN) if out else (), progress=tell)
            reports.append(report)
            if out is not None:
                from mobileclip.dense.page import write_report

                pages.append(write_report(report, out / folder_of(place, subject, report.protocol)))
    if as_json:
        rows = [report.as_dict() for report in reports]
        print(json.dumps({"results": rows, "compared": compared(reports)}, indent=1))
    else:
        _print(reports, getattr(truth, "skipped", None))
        print("\n".join(map(str, pages)), end="\n" if pages else "")
    return 0


def _averages(subject: str, flip: bool, multi_scale: bool) -> list[tuple[bool, bool]]:
    """(flip, multi_scale) of each measurement; a bundle looks at a picture once."""
    averaged = (flip or multi_scale) and not is_bundle(subject)
    return [(False, False), (flip, multi_scale)] if averaged else [(False, False)]


def folder_of(place: int, subject: str, protocol: str = "") -> str:
    """Name of a subject's folder: its place, the end of its path, and what was averaged."""
    _, _, averaged = protocol.partition(" + ")
    words = "/".join(Path(subject).parts[-2:])[-60:] + (f" {averaged.replace(' + ', ' ')}" if averaged else "")
    return f"{place + 1}-" + re.sub(r"[^\w.+@-]+", "-", words).strip("-.")


def compared(reports: Sequence["Report"]) -> list[dict[str, Any]]:
    """Each further report against the first that looked at pictures alike, or the very first: what is different."""
    rows = []
    for place, report in enumerate(reports[1:], 1):
        before = next((one for one in reports[:place] if one.protocol == report.protocol), reports[0])
        changes = {name: report.figures[name] - value for name, value in before.figures.items()}
        known = {name: None if math.isnan(value) else value for name, value in changes.items()}
        ends = {"before": before.subject, "after": report.subject}
        rows.append({**ends, "protocols": [before.protocol, report.protocol], "change": known})
    return rows


def _print(reports: Sequence["Report"], left_out: "Skipped | None") -> None:
    first = reports[0]
    names = list(first.figures)[:9]
    rows = [
        [
            *(one.subject, one.protocol, f"{one.n:,}"),
            *(f"{one.figures[name]:.4f}" for name in names),
            f"{one.n / one.seconds:.1f}",
        ]
        for one in reports
    ]
    title = f"{first.task} on {first.set}; {first.metric}: {first.better} is better"
    table(title, ("model", "looked at", "pictures", *names, "images/s"), rows)
    if len(reports) > 1:
        changes = [
            [
                f"{row['after']}, {row['protocols'][1]}",
                f"{row['before']}, {row['protocols'][0]}",
                *(_signed(row["change"][name]) for name in names),
            ]
            for row in compared(reports)
        ]
        table("changes", ("model", "against", *names), changes)
    if left_out:
        print(f"left out of {first.set}: {left_out.sentence()}")
    if first.skipped:
        print(f"without truth, in no figure: {len(first.skipped):,} pictures (first '{first.skipped[0]}')")


def _signed(value: float | None) -> str:
    return "–" if value is None else f"{value:+.4f}"
