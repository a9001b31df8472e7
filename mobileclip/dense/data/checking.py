"""Look at a dense data set before anything is trained on it: counts, sizes, ranges, classes, problems, 16 pictures.

    report = check("ADEChallengeData2016", "segmentation", "train", out=Path("look"))
    report.problems                                     # [Problem(what, count, first)]
    look/samples.png, look/report.json

Reading is what finds broken files; `limit` samples are read, spread evenly.
"""

import json
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mobileclip.data.arrays import placing
from mobileclip.dense.config import IGNORE
from mobileclip.dense.data import reading
from mobileclip.dense.data.sets import OpenedSet, layout_of, open_set
from mobileclip.dense.data.sheet import sheet
from mobileclip.dense.samples import Sample
from mobileclip.errors import DataError

PUBLISHED: dict[tuple[str, str], int] = {
    ("ade", "train"): 20_210,
    ("ade", "val"): 2_000,
    ("coco", "train"): 118_287,
    ("coco", "val"): 5_000,
    ("nyu", "train"): 24_231,
    ("nyu", "train795"): 795,
    ("nyu", "val"): 654,
}
"""Pictures of a layout's split, as its publisher counts them; told, not demanded."""
DRAWN = 16
"""Samples on the sheet."""
LIMIT = 2_000
"""Samples that are read unless told otherwise."""
SMALL = 32
"""Pixels of a shorter side below which a picture gives a map of less than one place."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Something that is wrong, or that a user should know."""

    what: str
    """In words."""
    count: int
    """How many samples have it."""
    first: str
    """One of them."""


@dataclass(kw_only=True)
class Report:
    """What was found."""

    name: str
    """Of the set."""
    task: str
    """One of `TASKS`."""
    layout: str
    """Key of `LAYOUTS`."""
    split: str
    """As asked for."""
    count: int
    """Samples of the set."""
    published: int | None
    """How many its publisher counts; None where nobody does."""
    read: int = 0
    """Samples that were read."""
    usable: int = 0
    """Of those, without an error."""
    labels: tuple[str, ...] = ()
    """Names of the classes."""
    rows: tuple[int, int, int] = (0, 0, 0)
    """Least, median and largest height in pixels."""
    columns: tuple[int, int, int] = (0, 0, 0)
    """Least, median and largest width in pixels."""
    classes: list[dict[str, Any]] = field(default_factory=list)
    """Name, id, samples with it, and pixels or objects of it."""
    ranges: dict[str, float] = field(default_factory=dict)
    """Of depth in metres, of objects their number a picture, of label maps the share that counts nowhere."""
    problems: list[Problem] = field(default_factory=list)
    """Most frequent first."""
    notes: tuple[str, ...] = ()
    """Sentences to read before training."""

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def check(
    path: str | os.PathLike[str],
    task: str,
    split: str = "train",
    layout: str | None = None,
    *,
    limit: int | None = LIMIT,
    out: Path | None = None,
    progress: Progress | None = None,
) -> Report:
    """Open a set, read `limit` of its samples (None: all) and say what is there; with `out`, draw `DRAWN` of them.

    Raises:
        UnknownName, DataError: as `open_set`.
        OutputError: `out` cannot be written.
    """
    layout = layout or layout_of(path, task, split)
    opened = open_set(path, task, split, layout)
    report = Report(
        name=opened.name,
        task=opened.task,
        layout=layout,
        split=split,
        count=len(opened),
        published=PUBLISHED.get((layout, split)),
        labels=opened.labels,
        notes=opened.notes,
    )
    seen = _Seen(len(opened.labels))
    for reason, count in opened.skipped.items():
        seen.problem(f"left out: {reason}", opened.skipped.first[reason], count)
    chosen = spread(len(opened), limit)
    for done, index in enumerate(chosen, 1):
        try:
            seen.take(opened[index])
        except DataError as error:
            seen.problem(_kind(str(error)), _file(str(error)))
        if progress is not None:
            progress(done, len(chosen))
    report.read, report.usable = len(chosen), seen.usable
    seen.tell(report)
    if out is not None:
        with placing(out / "samples.png") as file:
            file.write(sheet(_drawable(opened), opened.labels))
        with placing(out / "report.json") as file:
            file.write(json.dumps(report.as_dict(), indent=1).encode())
    return report


def spread(count: int, limit: int | None) -> list[int]:
    """At most `limit` of `count` indices, evenly."""
    if limit is None or limit >= count:
        return list(range(count))
    return [(place * count) // limit for place in range(limit)]


def _drawable(opened: OpenedSet) -> list[Sample]:
    """Samples for the sheet: those that can be read of twice as many."""
    found: list[Sample] = []
    for index in dict.fromkeys(spread(len(opened), DRAWN) + spread(len(opened), 2 * DRAWN)):
        try:
            found.append(opened[index])
        except DataError:
            continue  # it is in the table of problems
        if len(found) == DRAWN:
            break
    return found


class _Seen:
    """What samples have, summed up."""

    def __init__(self, classes: int) -> None:
        self.usable = 0
        self._amount, self._samples = np.zeros(256, np.int64), np.zeros(max(classes, 256), np.int64)
        self._sizes: list[tuple[int, int]] = []
        self._nearest, self._farthest, self._holes, self._pixels = np.inf, 0.0, 0, 0
        self._objects: list[int] = []
        self._classes = classes
        self._problems: dict[str, tuple[int, str]] = {}

    def problem(self, what: str, first: str, count: int = 1) -> None:
        was, name = self._problems.get(what, (0, first))
        self._problems[what] = (was + count, name)

    def take(self, sample: Sample) -> None:
        self.usable += 1
        height, width = sample.image.shape[:2]
        self._sizes.append((height, width))
        if min(height, width) < SMALL:
            self.problem(f"a side of less than {SMALL} pixels", sample.name)
        if sample.labels is not None:
            self._label_map(sample.labels, sample.name)
        if sample.objects is not None:
            self._found(np.bincount(sample.objects.classes, minlength=256)[:256])
            self._objects.append(len(sample.objects.classes))
            if not len(sample.objects.classes):
                self.problem("no object", sample.name)
            if len(sample.objects.masks) and not sample.objects.masks.any((1, 2)).all():
                self.problem("an object whose mask is empty", sample.name)
        if sample.depth is not None:
            self._depth(sample.depth, sample.name)

    def _label_map(self, labels: npt.NDArray[np.uint8], name: str) -> None:
        counts = reading.counts(labels)
        self._pixels += labels.size
        self._holes += int(counts[IGNORE])
        if counts[IGNORE] == labels.size:
            self.problem("no pixel that counts", name)
        counts[IGNORE] = 0
        self._found(counts)

    def _depth(self, depth: npt.NDArray[np.float32], name: str) -> None:
        there = depth[depth > 0]
        self._pixels += depth.size
        self._holes += depth.size - there.size
        if not there.size:
            self.problem("no depth at all: it counts nowhere", name)
            return
        self._nearest, self._farthest = min(self._nearest, float(there.min())), max(self._farthest, float(there.max()))

    def _found(self, counts: npt.NDArray[np.integer[Any]]) -> None:
        self._amount += counts
        self._samples[:256] += counts > 0

    def tell(self, report: Report) -> None:
        """Into the report."""
        if self._sizes:
            for name, sides in zip(("rows", "columns"), zip(*self._sizes, strict=True), strict=True):
                setattr(report, name, (min(sides), int(np.median(sides)), max(sides)))
        unit = "objects" if report.task == "detection" else "pixels"
        report.classes = [
            {"id": number, "name": name, "samples": int(self._samples[number]), unit: int(self._amount[number])}
            for number, name in enumerate(report.labels)
        ]
        missing = [row["name"] for row in report.classes if not row["samples"]]
        if missing and self.usable:
            self.problem("class of which nothing was seen", str(missing[0]), len(missing))
        if report.task == "depth" and self._farthest:
            report.ranges = {"nearest": round(self._nearest, 3), "farthest": round(self._farthest, 3)}
        if report.task == "detection" and self._objects:
            report.ranges = {
                "objects_mean": round(float(np.mean(self._objects)), 2),
                "objects_most": max(self._objects),
            }
        if self._pixels:
            report.ranges["without_truth"] = round(self._holes / self._pixels, 4)
        ordered = sorted(self._problems.items(), key=lambda entry: -entry[1][0])
        report.problems = [Problem(what=what, count=count, first=first) for what, (count, first) in ordered]


def _kind(text: str) -> str:
    """A message without the names and numbers that differ from file to file."""
    return re.sub(r"\d[\d,]*", "N", re.sub(r"'[^']*'", "a file", text)).split(": ")[0]


def _file(text: str) -> str:
    found = re.search(r"'([^']*)'", text)
    return found[1] if found else text[:80]


def lines(report: Report) -> list[str]:
    """What a person reads first."""
    known = f" (published: {report.published:,})" if report.published is not None else ""
    told = [
        f"{report.name}: {report.count:,} samples{known}, layout '{report.layout}', {report.task}",
        f"read {report.read:,}, usable {report.usable:,}",
    ]
    if report.usable:
        told.append(
            "height {:,} / {:,} / {:,}, width {:,} / {:,} / {:,} (least, median, largest)".format(
                *report.rows, *report.columns
            )
        )
    if report.ranges:
        told.append(", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in report.ranges.items()))
    return told + list(report.notes)


def tables(report: Report) -> list[tuple[str, Sequence[str], list[list[str]]]]:
    """Title, columns and rows of each table: classes, and problems."""
    found: list[tuple[str, Sequence[str], list[list[str]]]] = []
    if report.classes:
        unit = "objects" if report.task == "detection" else "pixels"
        total = max(sum(row[unit] for row in report.classes), 1)
        ordered = sorted(report.classes, key=lambda row: -row[unit])
        shown = ordered if len(ordered) <= 30 else [*ordered[:15], *ordered[-10:]]
        rows = [
            [str(row["id"]), row["name"], f"{row['samples']:,}", f"{row[unit]:,}", f"{row[unit] / total:.2%}"]
            for row in shown
        ]
        title = "classes" if shown is ordered else f"classes: the 15 most and 10 least frequent of {len(ordered)}"
        found.append((title, ("id", "name", "samples", unit, "share"), rows))
    if report.problems:
        rows = [[problem.what, f"{problem.count:,}", problem.first] for problem in report.problems]
        found.append(("problems", ("problem", "count", "first"), rows))
    return found
