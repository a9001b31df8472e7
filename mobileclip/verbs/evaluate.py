"""`mobileclip evaluate`."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tyro.conf import Positional

from export.targets import targets_of
from mobileclip.errors import DataError, MobileClipError
from mobileclip.verbs.export import known_source
from mobileclip.verbs.screen import progress, table


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Measure checkpoints and exported bundles: zero-shot classification, retrieval, calibration; or a dense task.

    mobileclip evaluate mobileclip_s2.pt out/s2 --zero-shot imagenet/val --classes imagenet

    mobileclip evaluate runs/ade/best out/ade --dense ADEChallengeData2016 --out results
    """

    subjects: Positional[tuple[str, ...]]
    """Checkpoints and bundles; each is compared with the first."""
    zero_shot: Path | None = None
    """Folder of class folders, or of tars with .cls members."""
    retrieval: Path | None = None
    """captions.jsonl, a COCO or Flickr30k file, packed shards, or the folder that holds them."""
    classes: str | None = None
    """File with a class a line or as JSON, or `imagenet`."""
    templates: str | None = None
    """File with a template a line ({} is the class), or `imagenet`. With --dense, image-text models are then measured
    by texts alone: each pixel is the class of the set whose text is nearest."""
    captions: str | None = None
    """Of packed shards, whose captions to search."""
    target: str | None = None
    """Which artifacts of a bundle; onnx, then executorch-xnnpack, if left out."""
    limit: int | None = None
    """At most so many pictures of each set."""
    dense: Path | None = None
    """Data set of a dense task: its folder or file. The subjects are then dense checkpoints and bundles of them."""
    task: str | None = None
    """segmentation, detection or depth; the first subject's if left out."""
    split: str = "val"
    """Of the dense data set."""
    layout: str | None = None
    """Of the dense data set: ade, coco, nyu, scenes or folder; found out if left out."""
    mode: Literal["whole", "slide", "fixed"] = "whole"
    """Of dense checkpoints: the whole picture, windows, or stretched to one size, as bundles always do."""
    flip: bool = False
    """Of dense checkpoints: average with the mirrored picture."""
    multi_scale: bool = False
    """Of dense checkpoints: average over sizes 0.5 to 1.75; with --flip the papers' "ms + flip"."""
    out: Path | None = None
    """Folder for a page, per_class.csv, confusion.csv, bbox.json and segm.json of each subject of a dense task."""
    json: bool = False
    """Print the figures as JSON."""

    def run(self) -> int:
        """Evaluate each subject on the same sets, then compare."""
        if not self.subjects:
            raise MobileClipError("nothing to evaluate: give a checkpoint or a bundle.")
        if self.dense is not None:
            return self._dense(self.dense)
        given = next((name for name in ("task", "layout", "out") if getattr(self, name) is not None), None)
        if given:
            raise MobileClipError(f"--{given} is of dense tasks: give their data set as --dense too.")
        if self.zero_shot is None and self.retrieval is None:
            raise DataError(
                "nothing to evaluate on: give --zero-shot FOLDER, --retrieval FILE_OR_FOLDER, or both; of dense models "
                "give --dense FOLDER."
            )
        for path in (self.zero_shot, self.retrieval):
            if path is not None and not path.exists():
                raise DataError(f"{path} does not exist: give a folder or a file that does.")
        if self.target is not None:
            targets_of([self.target])
        for subject in self.subjects:
            known_source(subject)
        with progress("evaluating", self.json) as say:
            from export.encoder import encoder_of
            from mobileclip.evaluate import compare, evaluate

            reports = [
                evaluate(
                    encoder_of(subject, self._target(subject), progress=say),
                    zero_shot=self.zero_shot,
                    retrieval=self.retrieval,
                    classes=self.classes,
                    templates=self.templates,
                    captions=self.captions,
                    limit=self.limit,
                    progress=say,
                )
                for subject in self.subjects
            ]
            compared = [row for report in reports[1:] for row in compare(reports[0], report)]
        rows = [row for report in reports for row in report.rows()]
        if self.json:
            print(json.dumps({"results": rows, "compared": compared}, indent=1))
        else:
            _print(rows, compared)
        return 0

    def _dense(self, path: Path) -> int:
        """Evaluate each subject on the same pictures of a dense task, then compare with the first."""
        from mobileclip.verbs.evaluate_dense import evaluate_dense

        for option in ("zero_shot", "retrieval"):
            if getattr(self, option) is not None:
                name = option.replace("_", "-")
                raise MobileClipError(f"--{name} is of image-text models and --dense of dense ones: give one of them.")
        return evaluate_dense(
            self.subjects,
            path,
            task=self.task,
            split=self.split,
            layout=self.layout,
            target=self.target,
            templates=self.templates,
            mode=self.mode,
            flip=self.flip,
            multi_scale=self.multi_scale,
            limit=self.limit,
            out=self.out,
            as_json=self.json,
        )

    def _target(self, subject: str) -> str | None:
        """The target is of bundles; a checkpoint beside them has none."""
        return self.target if (Path(subject) / "manifest.json").is_file() else None


def _print(rows: Sequence[Mapping[str, Any]], compared: Sequence[Mapping[str, Any]]) -> None:
    shown = []
    for row in rows:
        if row["task"] == "zero-shot":
            low, high = row["top1_interval"]
            five = "–" if row["top5"] is None else f"{row['top5']:.1%}"
            told = f"top-1 {row['top1']:.1%} ({low:.1%}–{high:.1%}), top-5 {five}; chance {row['chance']:.1%}"
        else:
            ways = (("image to text", row["image_to_text"]), ("text to image", row["text_to_image"]))
            told = "; ".join(f"{way} R@1/5/10 {_recalls(found)}" for way, found in ways)
        shown.append((row["encoder"], row["set"], row["task"], str(row["n"]), told, f"{row['images_per_second']:.0f}"))
    table("", ("model", "set", "task", "pictures", "figures", "images/s"), shown)
    if compared:
        names = ("before", "after", "set", "task", "right before", "right after", "agreement", "mean cosine")
        cells = [
            (
                row["before"],
                row["after"],
                row["set"],
                row["task"],
                f"{row['right_before']:.1%}",
                f"{row['right_after']:.1%}",
                f"{row['agreement']:.1%}",
                "–" if row["cosine_mean"] is None else f"{row['cosine_mean']:.6f}",
            )
            for row in compared
        ]
        table("", names, cells)


def _recalls(found: Mapping[str, Any]) -> str:
    return " / ".join("–" if found[f"R@{k}"] is None else f"{found[f'R@{k}']:.1%}" for k in (1, 5, 10))
