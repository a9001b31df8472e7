"""How good an encoder is: zero-shot classification, retrieval, calibration; of a model, and of its exported artifacts.

    report = evaluate(ModelEncoder(model), zero_shot="pets/test", retrieval="photos")
    report.rows()                                          # JSON values, one dict a set
    compare(report, evaluate(BundleEncoder("out/s2"), ...))

The same code measures both, since it knows an encoder only as pictures and texts to embeddings (encoder.py).
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from mobileclip.errors import DataError
from mobileclip.evaluate import retrieval as _retrieval
from mobileclip.evaluate import zero_shot as _zero_shot
from mobileclip.evaluate.calibration import calibrate
from mobileclip.evaluate.classification_sets import open_classification
from mobileclip.evaluate.intervals import mcnemar
from mobileclip.evaluate.pictures import embed
from mobileclip.evaluate.retrieval_sets import open_retrieval
from mobileclip.evaluate.sets import LOST_SHARE, Classification, Retrieval

if TYPE_CHECKING:
    from mobileclip.evaluate.encoder import Embeddings, Encoder

Progress = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Result:
    """One set, one encoder."""

    set: str
    task: Literal["zero-shot", "retrieval"]
    encoder: str
    n: int
    """Pictures that were scored."""
    lost: int
    """Pictures that are missing or could not be read."""
    seconds: float
    images_per_second: float
    """Reading, resizing and encoding pictures."""
    metrics: dict[str, Any]
    names: tuple[str, ...] = field(repr=False)
    """[n]: the pictures."""
    images: "Embeddings" = field(repr=False)
    """[n, E]"""
    chosen: npt.NDArray[np.int64] = field(repr=False)
    """[n]: the class, or the text, that is nearest to each picture; -1 where there is none."""
    right: npt.NDArray[np.bool_] = field(repr=False)
    """[n]: whether it is right."""

    def as_dict(self) -> dict[str, Any]:
        """JSON values."""
        head = {"set": self.set, "task": self.task, "encoder": self.encoder, "n": self.n, "lost": self.lost}
        speed = {"seconds": round(self.seconds, 3), "images_per_second": round(self.images_per_second, 2)}
        return head | self.metrics | speed


@dataclass(frozen=True, kw_only=True)
class Report:
    """All sets, one encoder."""

    encoder: str
    results: tuple[Result, ...]

    def rows(self) -> list[dict[str, Any]]:
        """JSON values, a dict for each set."""
        return [result.as_dict() for result in self.results]


def evaluate(
    encoder: "Encoder",
    *,
    zero_shot: str | Path | Classification | None = None,
    retrieval: str | Path | Retrieval | None = None,
    classes: str | Path | None = None,
    templates: str | Path | None = None,
    captions: str | None = None,
    limit: int | None = None,
    lost_share: float = LOST_SHARE,
    progress: Progress = lambda line: None,
) -> Report:
    """Measure an encoder on a set to classify, a set to search, or both.

    Args:
        zero_shot: folder of class folders, or tars with `.cls` members (classification_sets.py).
        retrieval: `captions.jsonl`, COCO, Flickr30k, packed shards (retrieval_sets.py).
        classes: file of class names, or `imagenet`; found or made of the folders' names if left out.
        templates: file of templates with `{}` where the class goes, or `imagenet`.
        captions: of packed shards, whose captions to search (`alt`, `syn_text`, ...).
        limit: at most so many pictures of each set.
        lost_share: of a set that may be missing or damaged.
        progress: called with a line now and then.

    Raises:
        DataError: a set that cannot be used, and why; no set at all.
    """
    if zero_shot is None and retrieval is None:
        raise DataError("nothing to evaluate on: give a set to classify (zero-shot), a set to search, or both.")
    to_classify = (
        open_classification(zero_shot, classes=classes, templates=templates, lost_share=lost_share)
        if isinstance(zero_shot, str | Path)
        else zero_shot
    )
    to_search = (
        open_retrieval(retrieval, source=captions, lost_share=lost_share)
        if isinstance(retrieval, str | Path)
        else retrieval
    )
    results = []
    if to_classify is not None:
        results.append(_classify(encoder, to_classify.limited(limit), lost_share, progress))
    if to_search is not None:
        results.append(_search(encoder, to_search.limited(limit), lost_share, progress))
    return Report(encoder=encoder.name, results=tuple(results))


def run(
    source: "Encoder",
    zero_shot: Path | None = None,
    retrieval: Path | None = None,
    classes: Path | None = None,
    templates: Path | None = None,
    limit: int | None = None,
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """`evaluate`, as JSON values: a dict for each set."""
    report = evaluate(
        source,
        zero_shot=zero_shot,
        retrieval=retrieval,
        classes=classes,
        templates=templates,
        limit=limit,
        progress=progress or (lambda line: None),
    )
    return report.rows()


def compare(before: Report, after: Report) -> list[dict[str, Any]]:
    """Two encoders on the same sets (a model, and what was exported from it): a dict for each set.

    `agreement` is the share of pictures for which both choose the same class or text; `difference` is of the share that
    is right, after minus before; `p` is McNemar's: how often chance alone would split the pictures that one of both
    gets right so unevenly. `cosine` compares their image embeddings, where they are of one length.

    Raises:
        DataError: the reports are not of the same pictures.
    """
    if [(r.set, r.task) for r in before.results] != [(r.set, r.task) for r in after.results]:
        raise DataError(
            f"'{before.encoder}' and '{after.encoder}' were measured on other sets: measure both on the same ones."
        )
    return [_compare(a, b) for a, b in zip(before.results, after.results, strict=True)]


def _compare(before: Result, after: Result) -> dict[str, Any]:
    if before.names != after.names:
        raise DataError(
            f"{before.set}: '{before.encoder}' and '{after.encoder}' saw other pictures: give both the same limit."
        )
    gained = int((after.right & ~before.right).sum())
    lost = int((before.right & ~after.right).sum())
    cosines = (before.images * after.images).sum(axis=1) if before.images.shape == after.images.shape else None
    usable = None if cosines is None else cosines[np.isfinite(cosines)]
    return {
        "set": before.set,
        "task": before.task,
        "n": before.n,
        "before": before.encoder,
        "after": after.encoder,
        "right_before": float(before.right.mean()),
        "right_after": float(after.right.mean()),
        "difference": float(after.right.mean() - before.right.mean()),
        "agreement": float(((before.chosen == after.chosen) & (before.chosen >= 0)).mean()),
        "only_before": lost,
        "only_after": gained,
        "p": mcnemar(gained, lost),
        "cosine_mean": None if usable is None or not len(usable) else float(usable.mean()),
        "cosine_min": None if usable is None or not len(usable) else float(usable.min()),
    }


def _classify(encoder: "Encoder", what: Classification, lost_share: float, progress: Progress) -> Result:
    start = time.perf_counter()
    classes = _zero_shot.class_embeddings(encoder, what.classes, what.templates, progress)
    seen = embed(encoder, what.pictures, what=what.name, share=lost_share, gone=what.missing, progress=progress)
    labels = what.labels[seen.kept]
    answers = _zero_shot.answer(seen.rows, classes, labels)
    metrics = {"templates": len(what.templates)} | _zero_shot.metrics(answers, what.classes)
    metrics["calibration"] = calibrate(seen.rows, classes, labels, encoder.logit_scale)
    return Result(
        set=what.name,
        task="zero-shot",
        encoder=encoder.name,
        n=len(labels),
        lost=what.missing + len(seen.lost),
        seconds=time.perf_counter() - start,
        images_per_second=len(labels) / seen.seconds,
        metrics=metrics,
        names=tuple(what.pictures.name(int(row)) for row in seen.kept),
        images=seen.rows,
        chosen=answers.predicted,
        right=answers.predicted == labels,
    )


def _search(encoder: "Encoder", what: Retrieval, lost_share: float, progress: Progress) -> Result:
    start = time.perf_counter()
    seen = embed(encoder, what.pictures, what=what.name, share=lost_share, gone=what.missing, progress=progress)
    pairs, texts = _retrieval.pairs_of([what.captions[row] for row in seen.kept])
    progress(f"{what.name}: {len(texts):,} texts")
    rows = encoder.encode_texts(texts)
    ranks = _retrieval.ranks(seen.rows, rows, pairs, progress)
    return Result(
        set=what.name,
        task="retrieval",
        encoder=encoder.name,
        n=len(seen.kept),
        lost=what.missing + len(seen.lost),
        seconds=time.perf_counter() - start,
        images_per_second=len(seen.kept) / seen.seconds,
        metrics={"left_out": what.left_out} | _retrieval.metrics(ranks, pairs),
        names=tuple(what.pictures.name(int(row)) for row in seen.kept),
        images=seen.rows,
        chosen=_retrieval.nearest(seen.rows, rows),
        right=ranks.image_to_text == 0,
    )
