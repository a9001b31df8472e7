"""What a user can cause, as exceptions whose text is one sentence: what came, what is allowed, what to do.

MobileClipError              the command line prints it and exits with code 2
├── UnknownName              a name that no table holds; lists what it holds and the nearest
├── CheckpointError          weights that are foreign, truncated, of another size, or unsafe to read
├── DataError                shards, captions, side-cars or a corpus that cannot be trained on or measured with
├── TrainingError            a run that cannot start, go on or be resumed
│   └── Diverged             its loss is no number any more
├── ImageError               a picture that cannot be read, or is too large to be read safely
├── BundleError              a bundle or manifest that is broken, changed or of another version
├── ArtifactError            a model file that no reader or runtime of this project can take
├── ServerError              a server that cannot be used
├── OutputError              a place that cannot be written, or that holds something already
└── MissingExtra             an optional package that is not installed
GateFailed                   not the user's mistake: an artifact disagrees with its reference (exit code 1)
"""

from collections.abc import Iterable
from difflib import get_close_matches


class MobileClipError(Exception):
    """Something that the user can put right; `str()` is the whole message."""


class UnknownName(MobileClipError):
    """`kind` has no entry called `name`; the nearest of `known` is offered."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        names = sorted(known)
        near = get_close_matches(name.lower(), names, n=1, cutoff=0.4)
        hint = f"did you mean '{near[0]}'? " if near else ""
        super().__init__(f"unknown {kind} '{name}': {hint}Known: {', '.join(names)}.")


class CheckpointError(MobileClipError):
    """A file of weights that cannot be taken, and why."""


class ImageError(MobileClipError):
    """A picture that cannot be read, and why."""


class DataError(MobileClipError):
    """Shards, captions, side-cars or a corpus that cannot be used, and why."""


class TrainingError(MobileClipError):
    """A training run that cannot start, go on or be resumed as asked."""


class Diverged(TrainingError):
    """A training run whose loss or gradient is not finite any more."""


class BundleError(MobileClipError):
    """A bundle that is incomplete, changed after export, or of another version."""


class ArtifactError(MobileClipError):
    """A model file that cannot be read or run here."""


class ServerError(MobileClipError):
    """A server that cannot be used: dead, elsewhere, not an API, or a key, rate or sum that it does not accept."""


class OutputError(MobileClipError):
    """An output path that cannot be written or must not be overwritten."""


class MissingExtra(MobileClipError):
    """An optional package is absent; names the line that installs it."""


class GateFailed(Exception):
    """An artifact was written and run, and does not agree with its reference."""


def some(names: Iterable[object], count: int = 3) -> str:
    """The first names for a message, each shortened: a foreign file may hold long ones; with dots if there are more."""
    shown = [str(name)[:100] for name in names]
    return ", ".join(shown[:count]) + (", ..." if len(shown) > count else "")
