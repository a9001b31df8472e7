"""What several tests share: seeded tiny models, a bundle made once, real photos where they are."""

from pathlib import Path

import pytest

import export
from mobileclip.checkpoint import load
from mobileclip.models import Clip

SHARED = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def photos() -> Path:
    """Folder of real photos; the tests that want them are skipped where it is missing."""
    folder = SHARED / "photos" / "images"
    if not folder.is_dir():
        pytest.skip(f"no photos at {folder}")
    return folder


@pytest.fixture(scope="session")
def nano() -> Clip:
    """A seeded MobileCLIP of the real classes, small."""
    return load("seeded:nano")


@pytest.fixture(scope="session")
def nano_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both views of `nano` for every target; made once, never changed by a test."""
    out = tmp_path_factory.mktemp("bundle") / "nano"
    return export.export("seeded:nano", export.TARGETS, out, jobs=2)
