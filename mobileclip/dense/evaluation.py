"""How good a dense model is on a set, by the task's own metric; of a checkpoint, and of its exported artifacts.

    truth = open_set("ADEChallengeData2016", "segmentation", "val")
    report = evaluate(predictor(model), truth, keep=fixed(len(truth), 8))
    report.figures                                   # {"mIoU": 0.431, "aAcc": …, "mAcc": …}

The same code measures both, since it knows a model only as a picture to a prediction (`samples.Predictor`).
"""

import csv
import io
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from mobileclip.data.ahead import ahead
from mobileclip.data.arrays import placing
from mobileclip.dense.config import Task
from mobileclip.dense.metrics import DepthMetric, Metric, SegmentationMetric
from mobileclip.dense.samples import DenseSet, Prediction, Predictor, Sample
from mobileclip.errors import DataError, ImageError
from mobileclip.evaluate.pictures import check_lost

Progress = Callable[[int, int], None]
"""Called with the pictures that are done and all that will be."""
RESULTS = ("bbox", "segm")
"""Tables of detection that are files of COCO's own form."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """One model on one set."""

    subject: str
    """The predictor's name."""
    set: str
    task: Task
    fingerprint: str
    """Of the set."""
    n: int
    """Pictures that were measured: neither lost nor skipped."""
    lost: tuple[str, ...]
    """Pictures that could not be read or predicted, and why."""
    seconds: float
    """Reading, predicting and measuring."""
    better: Literal["higher", "lower"]
    """Of the first figure."""
    protocol: str = ""
    """How each picture was looked at: `whole`, `slide` or `fixed`, and what was averaged, as `whole + flip`."""
    left_out: dict[str, int] = field(default_factory=dict)
    """What the set had left out when it was opened: reason -> how often."""
    skipped: tuple[str, ...] = ()
    """Pictures in whose truth nothing counts, such as depth that is all holes; they are in no figure."""
    figures: dict[str, float]
    """The first is the task's own."""
    labels: tuple[str, ...] = ()
    tables: dict[str, Any] = field(default_factory=dict, repr=False)
    """`per_class`, `confusion`, `per_picture`, `bbox`, `segm`: what the task has."""
    kept: tuple[tuple[Sample, Prediction], ...] = field(default=(), repr=False)
    """Pictures that were asked for."""

    @property
    def metric(self) -> str:
        """Name of the first figure."""
        return next(iter(self.figures))

    @property
    def value(self) -> float:
        """The first figure."""
        return self.figures[self.metric]

    def beats(self, other: "Report | float") -> bool:
        """Whether the first figure is better; one that is not known is never better."""
        than = other.value if isinstance(other, Report) else other
        if math.isnan(self.value) or math.isnan(than):
            return math.isnan(than) and not math.isnan(self.value)
        return self.value > than if self.better == "higher" else self.value < than

    def as_dict(self) -> dict[str, Any]:
        """JSON values, without what single pictures and detections say; what is not known is None."""
        parts = ("subject", "set", "task", "fingerprint", "protocol", "n", "seconds", "better", "left_out")
        return {
            **{part: getattr(self, part) for part in parts},
            "lost": list(self.lost),
            "skipped": list(self.skipped),
            "figures": {name: None if math.isnan(value) else value for name, value in self.figures.items()},
            "per_class": self.tables.get("per_class", []),
        }

    def write(self, folder: Path) -> list[Path]:
        """`report.json`, `per_class.csv`, `confusion.csv`, `per_picture.csv`, `bbox.json`, `segm.json`: those that the
        task has.

        Raises:
            OutputError: the folder cannot be written.
        """
        files = {"report.json": json.dumps(self.as_dict(), indent=1)}
        for table in ("per_class", "per_picture"):
            if self.tables.get(table):
                files[f"{table}.csv"] = csv_of(self.tables[table])
        if "confusion" in self.tables:
            files["confusion.csv"] = confusion_csv(self.labels, self.tables["confusion"])
        files |= {f"{kind}.json": json.dumps(self.tables[kind]) for kind in RESULTS if kind in self.tables}
        for name, text in files.items():
            with placing(folder / name) as file:
                file.write(text.encode("utf-8"))
        return [folder / name for name in files]


def evaluate(
    predictor: Predictor,
    dense_set: DenseSet,
    *,
    limit: int | None = None,
    keep: Sequence[int] = (),
    lost_share: float = 0.0,
    threads: int = 2,
    metric: Metric | None = None,
    progress: Progress | None = None,
) -> Report:
    """Predict every picture of a set and measure it.

    Args:
        limit: only so many pictures, from the start.
        keep: numbers of pictures whose truth and prediction the report holds, for `overlays`.
        lost_share: of the set that may be impossible to read or to predict; such pictures are counted, named and left
            out. None of a benchmark's may, or its figure is another benchmark's.
        threads: that read ahead.
        metric: another than the task's own.
        progress: called as pictures are done.

    Raises:
        DataError: the set is empty, of another task, has other classes, or too much of it cannot be read.
    """
    _fitting(predictor, dense_set)
    count = len(dense_set) if limit is None else min(limit, len(dense_set))
    if count < 1:
        raise DataError(
            f"{dense_set.name} gives no picture to measure: take a set that is not empty, and a limit of 1."
        )
    metric = metric or metric_of(dense_set)
    start, wanted, lost = time.perf_counter(), frozenset(keep), list[str]()
    kept: list[tuple[Sample, Prediction]] = []
    for place, sample in enumerate(_read(dense_set, count, threads)):
        prediction = sample if isinstance(sample, str) else _predicted(predictor, sample)
        if isinstance(sample, str) or isinstance(prediction, str):
            lost.append(str(prediction))
            check_lost(len(lost), count, lost, what=dense_set.name, share=lost_share)
        else:
            metric.add(prediction, sample)
            if place in wanted:
                kept.append((sample, prediction))
        if progress:
            progress(place + 1, count)
    result = metric.result()
    skipped = tuple(result.pop("skipped", ()))
    return Report(
        subject=predictor.name,
        set=dense_set.name,
        task=dense_set.task,
        fingerprint=dense_set.fingerprint,
        protocol=getattr(predictor, "protocol", ""),
        left_out=dict(getattr(dense_set, "skipped", {})),
        n=count - len(lost) - len(skipped),
        lost=tuple(lost),
        skipped=skipped,
        seconds=time.perf_counter() - start,
        better=metric.better,
        figures=result.pop("figures"),
        labels=tuple(dense_set.labels),
        tables=result,
        kept=tuple(kept),
    )


def read_report(folder: Path) -> Report:
    """What `Report.write` wrote, without what single detections said and without kept pictures.

    Raises:
        DataError: it is not there, or damaged.
    """
    try:
        values = json.loads((folder / "report.json").read_text(encoding="utf-8"))
        tables: dict[str, Any] = {"per_class": values.pop("per_class")}
        labels: list[str] = []
        if (folder / "confusion.csv").is_file():
            head, *rows = csv.reader(io.StringIO((folder / "confusion.csv").read_text(encoding="utf-8")))
            labels, tables["confusion"] = head[1:], [[int(count) for count in row[1:]] for row in rows]
        if (folder / "per_picture.csv").is_file():
            read = csv.DictReader(io.StringIO((folder / "per_picture.csv").read_text(encoding="utf-8")))
            tables["per_picture"] = [{name: _number(name, text) for name, text in row.items()} for row in read]
        figures = {name: math.nan if value is None else float(value) for name, value in values.pop("figures").items()}
        lost, skipped = tuple(values.pop("lost")), tuple(values.pop("skipped", ()))
        return Report(**values, figures=figures, lost=lost, skipped=skipped, labels=tuple(labels), tables=tables)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{folder} holds no evaluation that can be read ({error}): evaluate the checkpoint again."
        ) from error


def metric_of(dense_set: DenseSet) -> Metric:
    """The metric of a set's task.

    Raises:
        MissingExtra: detection without a package that knows COCO's average precision.
    """
    if dense_set.task == "segmentation":
        return SegmentationMetric(dense_set.labels)
    if dense_set.task == "depth":
        return DepthMetric(max_depth=getattr(dense_set, "max_depth", 10.0))
    from mobileclip.dense.coco_metrics import DetectionMetric

    return DetectionMetric(dense_set.labels, dense_set.category_ids)


def fixed(count: int, wanted: int) -> tuple[int, ...]:
    """Numbers of `wanted` pictures of `count`, evenly spread: the same at every evaluation of a run."""
    wanted = min(wanted, count)
    return tuple((2 * place + 1) * count // (2 * wanted) for place in range(wanted))


def csv_of(rows: Sequence[dict[str, Any]]) -> str:
    """Rows with the same keys as CSV with a head; what is not known is empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def confusion_csv(labels: Sequence[str], confusion: Sequence[Sequence[int]]) -> str:
    """Pixels by truth (rows) and prediction (columns), with the names of both."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["truth \\ prediction", *labels])
    writer.writerows([label, *row] for label, row in zip(labels, confusion, strict=True))
    return text.getvalue()


def _number(name: str, text: str) -> str | int | float:
    return text if name == "name" else int(text) if name == "pixels" else float(text)


def _fitting(predictor: Predictor, dense_set: DenseSet) -> None:
    if predictor.task != dense_set.task:
        raise DataError(
            f"{predictor.name} does {predictor.task}, and {dense_set.name} is a set for {dense_set.task}: open the set "
            f"for {predictor.task}, or take another model."
        )
    said, true = tuple(predictor.labels), tuple(dense_set.labels)
    if dense_set.task != "depth" and said != true:
        place = next((p for p, pair in enumerate(zip(said, true, strict=False)) if pair[0] != pair[1]), None)
        first = "" if place is None else f", the first that differs is {place}: '{said[place]}' and '{true[place]}'"
        raise DataError(
            f"{predictor.name} knows {len(said)} classes and {dense_set.name} has {len(true)}{first}: evaluate on a "
            "set of the classes that it was finetuned on."
        )


def _predicted(predictor: Predictor, sample: Sample) -> Prediction | str:
    """What is said of a picture, or why nothing is."""
    try:
        return predictor(sample.image)
    except ImageError as error:
        return f"{sample.name}: {error}"


def _read(dense_set: DenseSet, count: int, threads: int) -> Iterator[Sample | str]:
    def read(place: int) -> Sample | str:
        try:
            return dense_set[place]
        except (DataError, ImageError) as error:
            return str(error)

    return iter(ahead(read, range(count), threads=threads))
