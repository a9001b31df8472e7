"""Pictures for calibration: from folders, tars and scenes, spread and told apart from those that judge."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from export.calibration import LEAST, MOST, Calibration, found_in
from mobileclip.data.scenes import write_scenes
from mobileclip.errors import DataError, ImageError, MobileClipError


def fit(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image.resize((8, 8)), dtype=np.float32).transpose(2, 0, 1))[None] / 255


def pictures(folder: Path, count: int, value: int | None = None) -> Path:
    folder.mkdir()
    generator = np.random.default_rng(0)
    for index in range(count):
        pixels = generator.integers(0, 256, (8, 8, 3)) if value is None else np.full((8, 8, 3), value)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{index:04d}.png")
    return folder


def test_a_folder_is_taken_evenly_and_always_alike(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "many", 2 * MOST + 3)
    found = Calibration.of(folder)
    assert len(set(found.images)) == len(found.images) == MOST
    assert (found.images[0].name, found.images[-1].name) == ("0000.png", "0256.png")
    assert found == Calibration.of(folder)
    assert found.digest() == Calibration.of(folder).digest() != Calibration.of(pictures(tmp_path / "few", 9)).digest()
    assert len(found.inputs(fit)) == MOST


def test_tars(pairs: Path) -> None:
    found = Calibration.of(pairs)
    assert len(found.images) == 96
    assert {picture.name.split("/")[0] for picture in found.images} == {"00000.tar", "00001.tar"}
    assert found.inputs(fit)[0].shape == (1, 3, 8, 8)
    assert found.shared(pairs) == [picture.name for picture in found.images]


def test_scenes_give_those_to_train_on(tmp_path: Path) -> None:
    write_scenes(tmp_path / "scenes", count=10, size=64, val_count=9, dense=False)
    found = Calibration.of(tmp_path / "scenes")
    assert len(found.images) == 10
    assert found.shared(tmp_path / "scenes" / "val" / "images") == []
    held = Calibration.of(tmp_path / "scenes" / "val" / "images")
    assert len(held.shared(tmp_path / "scenes" / "val")) == 9


def test_a_picture_that_also_judges_is_found_under_any_name(tmp_path: Path) -> None:
    mine, judges = pictures(tmp_path / "mine", 9), tmp_path / "judges"
    judges.mkdir()
    shutil.copy(mine / "0003.png", judges / "another.png")
    assert Calibration.of(mine).shared(judges) == ["0003.png"]


def test_what_cannot_calibrate(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="no picture in"):
        Calibration.of(pictures(tmp_path / "none", 0))
    with pytest.raises(MobileClipError, match=r"holds 1 picture\(s\): calibration needs 8 or more"):
        Calibration.of(pictures(tmp_path / "one", 1))
    with pytest.raises(MobileClipError, match=r"holds 7 picture\(s\): calibration needs 8 or more"):
        Calibration.of(pictures(tmp_path / "seven", LEAST - 1))
    with pytest.raises(MobileClipError, match="of one colour alone: calibrate with photos"):
        Calibration.of(pictures(tmp_path / "black", LEAST, 0)).inputs(fit)
    red = pictures(tmp_path / "red", 0)
    for index in range(LEAST):
        Image.new("RGB", (8, 8), (255, index, 0)).save(red / f"{index}.png")
    with pytest.raises(MobileClipError, match="of one colour alone: calibrate with photos"):
        Calibration.of(red).inputs(fit)
    for index in range(3):
        shutil.copy(tmp_path / "one" / "0000.png", red / f"copy{index}.png")
    told = r"of 11 pictures of .*red 8 are of one colour alone, and 1 of the others differ: calibration needs 8 or more"
    with pytest.raises(MobileClipError, match=told):
        Calibration.of(red).inputs(fit)
    broken = pictures(tmp_path / "broken", LEAST)
    (broken / "0002.png").write_bytes((broken / "0002.png").read_bytes()[:60])
    with pytest.raises(ImageError, match=r"0002\.png is damaged or cut short"):
        Calibration.of(broken).inputs(fit)
    (tmp_path / "tars").mkdir()
    (tmp_path / "tars" / "0.tar").write_bytes(b"")
    with pytest.raises(DataError):
        found_in(tmp_path / "tars")
