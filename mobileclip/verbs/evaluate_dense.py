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
    from mobileclip.dense.evaluation import Report

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

    reports, truth = list["Report"](), None
    for place, subject in enumerate(subjects):
        if by_texts[place]:
            truth = truth or open_set(path, "segmentation", split, layout)
            see = text_predictor(subject, truth.labels, str(templates))
        else:
            see = dense_predictor(
                subject, target=target, task=task, mode=mode, flip=flip, score=THRESHOLD, multi_scale=multi_scale
            )
        if truth is None:
            truth = open_set(path, see.task, split, layout, max_depth=getattr(see, "max_depth", 10.0))
        count = len(truth) if limit is None else min(limit, len(truth))
        with counted(subject, "pictures", as_json) as tell:
            report = evaluate(see, truth, limit=limit, keep=fixed(count, SHOWN) if out else (), progress=tell)
        reports.append(report)
        if out is not None:
            from mobileclip.dense.page import write_report

            write_report(report, out / folder_of(place, subject))
    protocol = mode + (" + multi-scale" if multi_scale else "") + (" + flip" if flip else "")
    if as_json:
        rows = [report.as_dict() for report in reports]
        print(json.dumps({"protocol": protocol, "results": rows, "compared": compared(reports)}, indent=1))
    else:
        _print(reports, protocol)
        for place, subject in enumerate(subjects if out else ()):
            print(f"{out}/{folder_of(place, subject)}/report.html")
    return 0


def folder_of(place: int, subject: str) -> str:
    """Name of a subject's folder: its place and the end of its path."""
    return f"{place + 1}-" + re.sub(r"[^\w.+@-]+", "-", "/".join(Path(subject).parts[-2:])).strip("-.")[-60:]


def compared(reports: Sequence["Report"]) -> list[dict[str, Any]]:
    """Each further report against the first: the differences of its figures."""
    rows = []
    for report in reports[1:]:
        changes = {name: report.figures[name] - value for name, value in reports[0].figures.items()}
        known = {name: None if math.isnan(value) else value for name, value in changes.items()}
        rows.append({"before": reports[0].subject, "after": report.subject, "change": known})
    return rows


def _print(reports: Sequence["Report"], protocol: str) -> None:
    first = reports[0]
    names = list(first.figures)[:9]
    rows = [
        [one.subject, f"{one.n:,}", *(f"{one.figures[name]:.4f}" for name in names), f"{one.n / one.seconds:.1f}"]
        for one in reports
    ]
    title = f"{first.task} on {first.set}; {protocol}; {first.metric}: {first.better} is better"
    table(title, ("model", "pictures", *names, "images/s"), rows)
    if len(reports) > 1:
        changes = [[row["after"], *(_signed(row["change"][name]) for name in names)] for row in compared(reports)]
        table(f"change from {first.subject}", ("model", *names), changes)


def _signed(value: float | None) -> str:
    return "–" if value is None else f"{value:+.4f}"
