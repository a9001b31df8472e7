"""One HTML page about a finetuning or an evaluation: curves, figures, classes, confusions, pictures.

    write("runs/ade")                             # runs/ade/report.html, per_class.csv, confusion.csv
    write_report(evaluate(predictor(model), truth, keep=fixed(len(truth), 8)), "results/ade")

The page is one file without scripts that loads nothing, like the page on captions (mobileclip/captions/report), whose
look it has. Pictures are always the same ones of a set, so that pages of different runs can be laid side by side.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import mobileclip
from mobileclip.captions.report.html import Markup, Part, el, page, section
from mobileclip.data.arrays import placing
from mobileclip.dense.config import head_of
from mobileclip.dense.evaluation import Report, fixed, read_report
from mobileclip.dense.page_curves import Series, curves, read_log
from mobileclip.dense.page_parts import STYLE, all_figures, classes, confusions, shots, tiles, worst
from mobileclip.dense.samples import Prediction, Sample
from mobileclip.errors import DataError, MobileClipError
from mobileclip.train_log import LOG
from mobileclip.train_state import RUN

PAGE = "report.html"
"""Name of the page in its folder."""
EVALUATION = "evaluation"
"""Folder of a checkpoint that holds what was measured of it."""

_LONGEST = 2000  # characters of a recipe's value


def write(run: str | os.PathLike[str], *, shown: int = 8, report: Report | None = None) -> Path:
    """The page on a finetuning, in its folder; its best checkpoint predicts the pictures.

    Args:
        run: folder of `mobileclip finetune`.
        shown: pictures; read from the run's validation set, and left out with a note where that is not there any more.
        report: of the best checkpoint, with the pictures that it kept; read from the checkpoint if left out.

    Raises:
        DataError: no finetuning's folder.
        OutputError: it cannot be written.
    """
    folder, notes = Path(run), list[str]()
    recipe = _recipe(folder)
    checkpoint = next((path for name in ("best", "last") if (path := folder / name).exists()), None)
    if report is None and checkpoint is not None:
        try:
            report = read_report(checkpoint / EVALUATION)
        except DataError:
            notes.append("Nothing was evaluated yet: figures and pictures come with the first evaluation.")
        else:
            try:
                report = replace(report, kept=_kept(recipe, checkpoint, shown))
            except MobileClipError as error:
                notes.append(f"No pictures are shown: {error}")
    body = _body(f"Finetuning: {folder.resolve().name}", report, read_log(folder / LOG), recipe, notes)
    if report is not None:
        report.write(folder)
    return _placed(folder / PAGE, page(f"Finetuning: {folder.resolve().name}", body, STYLE))


def write_report(report: Report, folder: str | os.PathLike[str]) -> Path:
    """The page on an evaluation, with its files (`Report.write`) beside it.

    Raises:
        OutputError: the folder cannot be written.
    """
    report.write(Path(folder))
    title = f"{report.subject} on {report.set}"
    return _placed(Path(folder) / PAGE, page(title, _body(title, report, {}, {}, []), STYLE))


def _body(
    title: str, report: Report | None, series: Series, recipe: Mapping[str, Any], notes: Sequence[str]
) -> list[Part]:
    every: dict[str, Markup] = {}
    metric, better = ("loss", "lower") if report is None else (report.metric, report.better)
    every["curves"] = section("Curves", curves(series, metric, better) or None, id_="curves")
    if report is not None:
        every |= _measured(report)
    if recipe:
        every["recipe"] = section("Recipe", _facts(recipe), id_="recipe")
    said = [el("li", el("b", "note"), note) for note in notes] + ([] if report is None else _unmeasured(report))
    when = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    about = "Nothing is measured yet"
    if report is not None:
        seen = f"; {report.protocol}" if report.protocol else ""
        about = f"{report.subject} on {report.set} ({report.task}{seen})"
    links = [el("a", name, href=f"#{name}") for name, part in every.items() if part]
    return [
        el("h1", title),
        el("p", f"{about}, {when}.", class_="soft"),
        el("nav", links, aria_label="Sections"),
        el(
            "main",
            None if report is None else tiles(report, _spent(series)),
            el("ul", said, class_="notices") if said else None,
            list(every.values()),
        ),
        el("footer", f"mobileclip {mobileclip.__version__}"),
    ]


def _unmeasured(report: Report) -> list[Markup]:
    """A notice for each kind of picture that is in no figure."""
    out: list[Markup] = []
    for what, names in (("not measured", report.lost), ("without truth", report.skipped)):
        if names:
            out.append(el("li", el("b", what), f"{len(names):,} pictures: {'; '.join(names[:5])}", class_="warning"))
    if report.left_out:
        told = ", ".join(f"{count:,} x {reason}" for reason, count in report.left_out.items())
        out.append(el("li", el("b", "left out of the set"), told))
    return out


def _measured(report: Report) -> dict[str, Markup]:
    tables = report.tables
    confusion = tables.get("confusion")
    return {
        "figures": section("Figures", all_figures(report) if len(report.figures) > 4 else None, id_="figures"),
        "pictures": section("Pictures", *shots(report.kept, report.labels), id_="pictures"),
        "classes": section("Classes", *classes(tables.get("per_class", ()), confusion is not None), id_="classes"),
        "confusions": section(
            "Confusions", *(confusions(report.labels, confusion) if confusion else ()), id_="confusions"
        ),
        "worst": section("Worst pictures", worst(tables.get("per_picture", ())) or None, id_="worst"),
    }


def _spent(series: Series) -> list[tuple[str, str, str]]:
    if "loss" not in series:
        return []
    steps = series["loss"][0]
    speed = series["images_s"][1] if "images_s" in series else None
    return [("steps", f"{steps[-1]:,.0f}", "" if speed is None else f"{float(speed.mean()):.1f} pictures a second")]


def _kept(recipe: Mapping[str, Any], checkpoint: Path, shown: int) -> tuple[tuple[Sample, Prediction], ...]:
    from mobileclip.dense.checkpoint import load
    from mobileclip.dense.data.sets import open_set
    from mobileclip.dense.predictor import predictor

    given = recipe.get("val") or ""
    truth = open_set(
        given or recipe["data"],
        head_of(recipe["head"]).task,
        "val",
        None if given else recipe.get("layout") or None,
        max_depth=recipe.get("max_depth", 10.0),
    )
    size = tuple(recipe.get("eval_size") or (0, 0))
    see = predictor(
        load(checkpoint),
        recipe.get("evaluation", "whole"),
        size=(size[0], size[1]) if size[0] else None,
        crop=recipe.get("crop") or None,
        stride=recipe.get("stride") or None,
        flip=recipe.get("flip", False),
    )
    samples = [truth[place] for place in fixed(len(truth), shown)]
    return tuple((sample, see(sample.image)) for sample in samples)


def _recipe(folder: Path) -> dict[str, Any]:
    try:
        values: dict[str, Any] = json.loads((folder / RUN).read_text(encoding="utf-8"))["recipe"]
        head_of(values["head"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{folder} is no folder of a finetuning: it has no {RUN} with a recipe ({error}); give what "
            "`mobileclip finetune` wrote to --out."
        ) from error
    return values


def _facts(values: Mapping[str, Any]) -> Markup:
    cells: list[Part] = []
    for name, value in values.items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        cells += [el("dt", name), el("dd", text[:_LONGEST] or "–", class_="mono")]
    return el("dl", cells, class_="facts")


def _placed(path: Path, content: str) -> Path:
    with placing(path) as file:
        file.write(content.encode("utf-8", "replace"))
    return path
