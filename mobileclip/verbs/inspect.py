"""`mobileclip inspect`."""

import json
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from mobileclip.errors import MobileClipError
from mobileclip.verbs.screen import counted, table


@dataclass(frozen=True, kw_only=True)
class Inspect:
    """Look for everything that is wrong with shards, or with a data set of a dense task, before training on it.

    mobileclip inspect "web/{00000..00127}.tar"

    mobileclip inspect ADEChallengeData2016 --task segmentation --out look
    """

    shards: Positional[tuple[str, ...]]
    """Folders, globs, brace patterns or URLs of tars; with --task the folder or file of one data set."""
    decode: bool = False
    """Decode every picture as well; with --task, read all samples and not only 2,000."""
    json_keys: tuple[str, ...] = ()
    """String fields of .json that are captions."""
    task: str | None = None
    """segmentation, detection or depth: what a data set has truth for."""
    split: str = "train"
    """Of a data set: train or val."""
    layout: str | None = None
    """Of a data set: ade, coco, nyu, scenes or folder; found out if left out."""
    out: Path | None = None
    """Folder for samples.png, 16 samples with their truth, and report.json."""
    json: bool = False
    """Print the report as JSON."""

    def run(self) -> int:
        """Inspect; 1 when nothing of it can be used."""
        if self.task is not None:
            return self._dense(self.task)
        for option in ("layout", "out"):
            if getattr(self, option) is not None:
                raise MobileClipError(f"--{option} is of data sets with truth for each pixel: give their --task too.")
        from mobileclip.data.doctor import inspect

        with counted("inspecting", "shards", self.json) as tell:
            report = inspect(self.shards, decode=self.decode, json_keys=self.json_keys, progress=tell)
        if self.json:
            print(json.dumps(report.as_dict(), indent=1))
        else:
            sources = ", ".join(f"{count:,} {name}" for name, count in report.sources.items()) or "none"
            licences = ", ".join(f"{count:,} {name or 'without one'}" for name, count in report.licences.items())
            print(f"{report.samples:,} samples in {report.shards:,} shards, {report.bytes / 1e6:,.1f} MB")
            print(f"captions: {sources}\nlicences: {licences or 'none'}")
            table("readers", ("reader", "samples", "why not the others"), report.readers_table())
            if report.problems:
                table("problems", ("problem", "count", "first", "what to do"), report.table())
        return 0 if report.samples else 1

    def _dense(self, task: str) -> int:
        """A data set of a dense task."""
        from mobileclip.dense.config import task_of

        task_of(task)
        if len(self.shards) != 1:
            raise MobileClipError(f"{len(self.shards)} paths were given with --task: give one, of one data set.")
        from mobileclip.dense.data import checking

        with counted("reading", "samples", self.json) as tell:
            report = checking.check(
                self.shards[0],
                task,
                self.split,
                self.layout,
                limit=None if self.decode else checking.LIMIT,
                out=self.out,
                progress=tell,
            )
        if self.json:
            print(json.dumps(report.as_dict(), indent=1))
        else:
            print("\n".join(checking.lines(report)))
            for title, columns, rows in checking.tables(report):
                table(title, columns, rows)
            if self.out is not None:
                print(f"{self.out / 'samples.png'}: look at it before training")
        return 0 if report.usable else 1
