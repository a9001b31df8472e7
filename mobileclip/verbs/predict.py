"""`mobileclip predict`."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from mobileclip.errors import ImageError
from mobileclip.verbs.dense_subjects import dense_predictor, is_bundle, known_dense, version_of
from mobileclip.verbs.screen import counted


@dataclass(frozen=True, kw_only=True)
class Predict:
    """Segment, detect or measure depth in pictures and videos: an overlay and a JSON file of each.

    mobileclip predict runs/ade/best photos walk.mp4 --out predicted

    The same command goes on after an interruption.
    """

    subject: Positional[str]
    """Dense checkpoint, or bundle exported from one."""
    images: Positional[tuple[Path, ...]]
    """Pictures, videos, and folders of them."""
    out: Path
    """Folder for the results."""
    task: str | None = None
    """Which head of a bundle that has several."""
    target: str | None = None
    """Which artifact of a bundle; the first that runs here if left out."""
    mode: Literal["whole", "slide", "fixed"] = "whole"
    """Of a checkpoint: the whole picture, windows of the size that it was trained on, or stretched as a bundle does."""
    flip: bool = False
    """Of a checkpoint: average with the mirrored picture."""
    score: float | None = None
    """Least score of a detection; 0.3 if left out."""
    every: int = 30
    """Of a video, one frame of so many."""
    server: bool = False
    """Write segmentations also as ADE20K's server takes them (label + 1)."""
    device: str | None = None
    """Of a checkpoint: cpu, cuda, mps."""
    json: bool = False
    """Print what was done as JSON."""

    def run(self) -> int:
        """Predict; 1 when nothing could be read."""
        known_dense(self.subject, self.target, self.task)
        if not self.images:
            raise ImageError("nothing to predict: give pictures, videos, or folders of them.")
        missing = next((path for path in self.images if not path.exists()), None)
        if missing is not None:
            raise ImageError(f"{missing} does not exist: give pictures, videos, or folders of them.")
        from mobileclip.dense.predicting import predict

        score = 0.3 if self.score is None else self.score
        settings = {"subject": version_of(self.subject), "score": score}
        if not is_bundle(self.subject):
            settings |= {"mode": self.mode, "flip": self.flip}
        see = dense_predictor(
            self.subject,
            target=self.target,
            task=self.task,
            mode=self.mode,
            flip=self.flip,
            score=score,
            device=self.device,
        )
        with counted("predicting", "files", self.json) as tell:
            found = predict(
                see, self.images, self.out, settings=settings, every=self.every, server=self.server, progress=tell
            )
        if self.json:
            print(json.dumps({"out": str(self.out), **found.as_dict()}, indent=1))
        else:
            for source, why in found.failed:
                print(f"{source}: {why}", file=sys.stderr)
            kept = f", {found.kept:,} were there already" if found.kept else ""
            failed = f", {len(found.failed):,} could not be read" if found.failed else ""
            print(f"{self.out}: {found.done:,} pictures predicted{kept}{failed}.")
        return 0 if found.done or found.kept else 1
