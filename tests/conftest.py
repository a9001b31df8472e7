"""What several tests share: seeded tiny models, a bundle made once, real photos where they are."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import simplejpeg

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


COLOURS = {"red": (210, 40, 40), "green": (40, 170, 60), "blue": (40, 60, 210), "grey": (128, 128, 128)}


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two plain webdataset tars of 48 coloured pictures of 72 x 80 each, with true captions."""
    folder = tmp_path_factory.mktemp("pairs")
    generator = np.random.default_rng(0)
    for shard in range(2):
        with tarfile.open(folder / f"{shard:05d}.tar", "w") as tar:
            for index in range(48):
                colour = list(COLOURS)[index % 4]
                pixels = np.clip(generator.normal(COLOURS[colour], 30, (72, 80, 3)), 0, 255).astype(np.uint8)
                members = {
                    "jpg": simplejpeg.encode_jpeg(pixels, 90),
                    "txt": f"a {colour} wall, number {index}".encode(),
                }
                for ending, content in members.items():
                    info = tarfile.TarInfo(f"{shard:05d}{index:04d}.{ending}")
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
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
