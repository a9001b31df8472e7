"""Every layout of data sets, and what is said of mistakes; scenes."""

import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path

import made
import numpy as np
import pytest
from refusals import refused

from mobileclip.dense import open_set
from mobileclip.dense.data.sets import LAYOUTS, layout_of
from mobileclip.dense.data.skipping import Skipped
from mobileclip.errors import UnknownName

MAKERS: dict[str, tuple[Callable[[Path], Path], tuple[str, ...]]] = {
    "ade": (made.ade, ("segmentation",)),
    "coco": (made.coco, ("detection",)),
    "nyu": (made.nyu_tree, ("depth",)),
    "scenes": (made.scenes, ("segmentation", "detection", "depth")),
    "folder": (made.folder, ("segmentation", "depth")),
}


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: maker(tmp_path_factory.mktemp(name)) for name, (maker, _) in MAKERS.items()}


CASES = [(name, task, split) for name, (_, tasks) in MAKERS.items() for task in tasks for split in ("train", "val")]


@pytest.mark.parametrize(("name", "task", "split"), CASES)
def test_every_layout(roots: dict[str, Path], name: str, task: str, split: str) -> None:
    """Found by looking, of its task alone, the same when opened again or sent to another process."""
    root = roots[name]
    assert layout_of(root, task, split) == name
    opened = open_set(root, task, split)
    assert opened.task == task
    assert len(opened) > 0
    again = pickle.loads(pickle.dumps(opened))
    assert again.fingerprint == opened.fingerprint == open_set(root, task, split, name).fingerprint
    assert len(again) == len(opened)
    for index in range(len(opened)):
        sample, other = opened[index], again[index]
        height, width = sample.image.shape[:2]
        assert sample.image.dtype == np.uint8
        assert sample.image.shape == (height, width, 3)
        assert sample.image.flags.writeable
        assert np.array_equal(sample.image, other.image)
        held = {"labels": sample.labels, "objects": sample.objects, "depth": sample.depth}
        wanted = {"segmentation": "labels", "detection": "objects", "depth": "depth"}[task]
        assert [key for key, value in held.items() if value is not None] == [wanted]
        if sample.labels is not None:
            assert (sample.labels.dtype, sample.labels.shape) == (np.uint8, (height, width))
            assert sample.labels.max(where=sample.labels != 255, initial=0) < len(opened.labels)
        if sample.depth is not None:
            assert (sample.depth.dtype, sample.depth.shape) == (np.float32, (height, width))
            assert 0 <= sample.depth.min() <= sample.depth.max() <= 10
        if sample.objects is not None:
            found = sample.objects
            count = len(found.boxes)
            assert found.boxes.shape == (count, 4)
            assert found.masks.shape == (count, height, width)
            assert (found.boxes.dtype, found.classes.dtype, found.masks.dtype) == (np.float32, np.int64, np.bool_)
            assert (found.boxes[:, 2:] > found.boxes[:, :2]).all()
            assert (found.boxes[:, :2] >= 0).all()
            assert (found.boxes[:, 2:] <= [width, height]).all()
            assert found.classes.max(initial=0) < len(opened.labels)
    with pytest.raises(IndexError):
        opened[len(opened)]


@pytest.mark.parametrize(("name", "task", "split"), [case for case in CASES if case[0] in ("ade", "coco")])
def test_a_fingerprint_changes_with_the_files(tmp_path: Path, name: str, task: str, split: str) -> None:
    root = MAKERS[name][0](tmp_path / "set")
    before = open_set(root, task, split).fingerprint
    if name == "ade":
        folder = "training" if split == "train" else "validation"
        next((root / "images" / folder).iterdir()).unlink()
    else:
        path = root / "annotations" / f"instances_{split}2017.json"
        path.write_text(path.read_text().replace('"iscrowd": 1', '"iscrowd": 0'))
    assert open_set(root, task, split).fingerprint != before


def test_open_set_mistakes(roots: dict[str, Path], tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    assert refused(lambda: open_set(tmp_path / "no", "depth")).endswith(
        "does not exist: give the folder of a data set."
    )
    assert "unknown task 'deptth': did you mean 'depth'?" in refused(lambda: open_set(empty, "deptth"))
    assert "unknown layout 'aded': did you mean 'ade'?" in refused(lambda: open_set(empty, "depth", layout="aded"))
    with pytest.raises(UnknownName):
        open_set(empty, "segment")
    text = refused(lambda: open_set(empty, "segmentation"))
    assert "is no data set for segmentation with the split 'val' that is known here: looked for ade: images/" in text
    assert "scenes: tars with" in text
    assert "folder: images/ with masks/" in text
    assert "coco" not in text
    text = refused(lambda: open_set(roots["ade"], "depth", layout="ade"))
    assert text.startswith("the layout 'ade' has no truth for depth: it has segmentation; ask for that")
    assert refused(lambda: open_set(empty, "depth", max_depth=0)).startswith("max_depth is 0: more than 0 metres")
    for name, (_, tasks) in MAKERS.items():
        text = refused(lambda name=name, tasks=tasks: open_set(empty, tasks[0], "val", name))  # type: ignore[misc]
        assert "looked for" in text
        assert str(empty) in text
    assert set(MAKERS) == set(LAYOUTS)


def test_skipped_says_what_and_the_first() -> None:
    skipped = Skipped()
    assert skipped.sentence() == ""
    skipped.add("empty file", "a.jpg")
    skipped.add("empty file", "b.jpg", 2)
    assert skipped == {"empty file": 3}
    assert skipped.sentence() == "3 x empty file (first 'a.jpg')"


def test_scenes(roots: dict[str, Path]) -> None:
    """The three tasks agree with each other: they are of the same pictures."""
    maps, things, depths = (open_set(roots["scenes"], task, "train") for task in ("segmentation", "detection", "depth"))
    assert (len(maps), len(things), len(depths)) == (6, 6, 6)
    assert maps.labels == ("background", *things.labels)
    for index in range(6):
        labels, found = maps[index].labels, things[index].objects
        assert labels is not None
        assert found is not None
        drawn = np.zeros_like(labels)
        for kind, mask, box, area in zip(found.classes, found.masks, found.boxes, found.area, strict=True):
            drawn[mask] = kind + 1
            rows, columns = np.nonzero(mask)
            assert box.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert area == mask.sum()
        assert np.array_equal(drawn, labels)
        assert maps[index].name == things[index].name
    inner = open_set(roots["scenes"] / "val", "depth", "val")
    assert len(inner) == 4
    far = open_set(roots["scenes"], "depth", "val", max_depth=70)[0].depth
    near = inner[0].depth
    assert far is not None
    assert near is not None
    assert np.array_equal(near, np.where(far > 10, 0, far))


def rewritten(source: Path, target: Path, change: Callable[[str, bytes], bytes | None]) -> Path:
    """A tar with other contents; members that become None are left out."""
    import io

    target.parent.mkdir(parents=True)
    with tarfile.open(source) as old, tarfile.open(target, "w") as new:
        for member in old:
            file = old.extractfile(member)
            content = change(member.name, file.read()) if file is not None else None
            if content is not None:
                info = tarfile.TarInfo(member.name)
                info.size = len(content)
                new.addfile(info, io.BytesIO(content))
    return target.parent.parent


def test_scenes_that_are_broken(roots: dict[str, Path], tmp_path: Path) -> None:
    source = next((roots["scenes"] / "val").glob("*.tar"))

    def said(task: str, name: str, ending: str, content: bytes | None) -> str:
        root = rewritten(
            source, tmp_path / name / "val" / "0.tar", lambda key, was: content if key.endswith(ending) else was
        )
        return refused(lambda: open_set(root, task)[0])

    png = made.save(np.full((48, 48), 200, np.uint8), tmp_path / "a.png").read_bytes()
    other = made.save(np.zeros((4, 4), np.uint8), tmp_path / "b.png").read_bytes()
    assert "0.tar/v00000000.mask.png' holds the label 200: 0 to 19" in said("segmentation", "a", ".mask.png", png)
    assert "has 48 x 48 pixels and '0.tar/v00000000.mask.png' 4 x 4" in said("segmentation", "b", ".mask.png", other)
    text = said("segmentation", "c", ".mask.png", None)
    assert "holds no sample with a picture and .mask.png: write the scenes with dense=True." in text
    text = said("detection", "d", ".instances.png", png)
    assert "instances.png' holds the object 200, which '0.tar/v00000000.json' does not list." in text
    for number, record in enumerate((b"{}", b"[", b'{"objects": [{"instance": 1, "label": 99}]}', b" " * (2 << 20))):
        text = said("detection", f"e{number}", "0.json", record)
        assert "v00000000.json' does not say which objects there are (" in text
    assert "no 16-bit grey picture" in said("depth", "f", ".depth.png", other)
    cut = tmp_path / "g" / "val" / "0.tar"
    cut.parent.mkdir(parents=True)
    content = source.read_bytes()
    cut.write_bytes(content[: len(content) // 2])
    opened = open_set(tmp_path / "g", "depth")
    assert opened.skipped["shard that is damaged: what comes after"] == 1
    assert 0 < len(opened) < 4
    cut.write_bytes(content[:600])
    assert "became shorter after it was opened: open the set again." in refused(lambda: opened[0])
    cut.unlink()
    assert "0.tar' cannot be read (No such file" in refused(lambda: opened[0])
