"""`mobileclip apps`: a bundle into one of the sample apps."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from mobileclip.verbs.screen import progress


@dataclass(frozen=True, kw_only=True)
class Apps:
    """Put what a sample app (apps/ios, apps/android, apps/web) runs of a bundle into it, with labels and tokenizer.

    mobileclip apps install web out/s2

    mobileclip apps install web out/s2 --small out/int8

    mobileclip apps install ios out/s2 --to executorch-xnnpack --into ../OurApp/Model
    """

    what: Positional[Literal["install"]]
    """What to do."""
    app: Positional[Literal["ios", "android", "web"]]
    """Which app."""
    bundle: Positional[Path]
    """Folder that `mobileclip export` wrote."""
    into: Path | None = None
    """Folder that becomes the app's bundle; that of the sample app in this repository if left out."""
    to: tuple[str, ...] = ()
    """Targets to copy; of each view the best that the app runs if left out."""
    small: Path | None = None
    """Bundle of the same model with fewer bits, which the app offers where memory is short."""
    json: bool = False
    """Print what was written as JSON."""

    def run(self) -> int:
        """Check, copy, and tell what must be known."""
        from export.install import install

        with progress("installing", self.json):
            found = install(self.app, self.bundle, into=self.into, targets=self.to, small=self.small)
        if self.json:
            told = {"folder": str(found.folder), "artifacts": found.artifacts, "bytes": found.bytes}
            beside = None if found.beside is None else str(found.beside)
            print(json.dumps({**told, "beside": beside, "warnings": found.warnings}))
            return 0
        beside = "" if found.beside is None else f", and beside it {found.beside.name}"
        print(f"{found.folder}: {', '.join(found.artifacts)}{beside}; {found.bytes / 1e6:.1f} MB in all")
        for warning in found.warnings:
            print(f"warning: {warning}")
        return 0
