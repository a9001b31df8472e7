"""From bundles and the names of baselines to artifacts that a device can time, each with its known answer."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.protocol import Subject
from benchmarks.sides import ON, DeviceKind, kind_of, model_name
from export.bundle import answers_of, read_array
from export.manifest import Bundle
from export.targets import TARGETS, Kind, made_gate
from export.views import card
from mobileclip.errors import MobileClipError

PICTURE = (960, 1280)
"""Rows and columns of the picture that end-to-end figures begin with: a camera frame, as JPEG of quality 90."""


def subjects_of(
    bundle: Bundle, device: DeviceKind, targets: Sequence[str] | None, views: Sequence[Kind], cache: Path
) -> list[Subject]:
    """The artifacts of a bundle that `device` can run.

    Args:
        targets: of the bundle; all that run when None.
        views: of the bundle; a dense bundle's own view is timed where it has none of these.

    Raises:
        MobileClipError: there is none.
    """
    entries = bundle.manifest["artifacts"]
    held = list(dict.fromkeys(entry["view"] for entry in entries))
    views = [kind for kind in held if kind in views] or [kind for kind in held if kind not in ("image", "text")]
    wanted = [name for name in targets or ON[device] if name in ON[device]]
    chosen = [entry for entry in entries if entry["target"] in wanted and entry["view"] in views]
    if not chosen:
        on = {"host": "a host", "adb": "an Android device", "iphone": "an iPhone", "browser": "a browser"}[device]
        raise MobileClipError(
            f"{bundle.path} holds {', '.join(dict.fromkeys(e['target'] for e in entries))} and nothing to time on {on} "
            f"for {', '.join(targets or ON[device])}: export it for {' or '.join(ON[device])}."
        )
    return [subject(bundle, entry["view"], entry["target"], cache) for entry in chosen]


def subject(bundle: Bundle, view: Kind, target: str, cache: Path) -> Subject:
    """One artifact of a bundle.

    Raises:
        MobileClipError: the bundle has none for this view and target.
    """
    for entry in bundle.manifest["artifacts"]:
        if (entry["view"], entry["target"]) == (view, target):
            answer = bundle.manifest["known_answer"][view]
            known = (entry["quantisation"] or {}).get("known_answer", answer)
            return Subject(
                name=f"{bundle.manifest['model']['name']} {view} {target} {entry['precision']}",
                file=bundle.file(entry["file"]),
                entry=entry,
                feed=read_array(bundle.path, answer["input"]),
                expected=answers_of(bundle.path, known),
                gate=made_gate(entry["quantisation"] or {}, target, entry["precision"]),
                bundle=bundle.path,
                picture=None if view == "text" else picture(cache),
            )
    raise MobileClipError(
        f"{bundle.path} holds no {view} artifact for {target} to compare with: export it with --to {target}."
    )


def rival(bundle: Bundle, mine: Subject, against: str, cache: Path, progress: Callable[[str], None]) -> Subject | None:
    """What `mine` is held against; None where that is `mine` itself.

    Raises:
        UnknownName: no such baseline.
        MobileClipError: a baseline that is not there, or that has no such view.
    """
    from benchmarks import baselines  # exports, and with it everything that makes models

    view, target = mine.entry["view"], mine.entry["target"]
    kind = kind_of(against)
    if kind == "target":
        return None if target == against else subject(bundle, view, against, cache)
    if kind == "bundle":
        return subject(Bundle.open(against), view, target, cache)
    if kind == "model":
        if view not in ("image", "text"):
            raise MobileClipError(
                f"{bundle.path} has a dense view ({view}), which the encoder {against} has not: compare it with "
                "naive, a target, or the bundle of another dense model."
            )
        return subject(baselines.exported(model_name(against), target, cache, progress), view, target, cache)
    path, entry = baselines.naive(bundle, view, target, cache)
    about = bundle.manifest
    return Subject(
        name=f"{about['model']['name']} {view} {target} naive",
        file=path,
        entry=entry,
        feed=mine.feed,
        # of another preset the naive export gives the same embedding, but not scaled to unit length
        expected=[] if about["preset"] == "open_clip" else answers_of(bundle.path, about["known_answer"][view]),
        gate=TARGETS[target].gate,
        picture=mine.picture,
    )


def picture(cache: Path) -> Path:
    """A JPEG like a camera frame: the card of the known answers, large; made once."""
    path = cache / f"card-{PICTURE[1]}x{PICTURE[0]}.jpg"
    if not path.is_file():
        cache.mkdir(parents=True, exist_ok=True)
        pixels = (card(*PICTURE)[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
        partial = path.with_suffix(".partial")
        Image.fromarray(pixels).save(partial, format="JPEG", quality=90)
        partial.replace(path)
    return path
