"""Layouts of a set for zero-shot classification, folders and tars, built here; every mistake in one, with its text."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import open_clip
import pytest
from set_files import encoded, picture, shade, write
from shard_files import write_tar as tar

from mobileclip.errors import DataError, ImageError
from mobileclip.evaluate.classification_sets import open_classification
from mobileclip.evaluate.packed import labelled
from mobileclip.evaluate.templates import imagenet_classes, imagenet_synsets

# Folders


def test_folders_are_classes(tmp_path: Path) -> None:
    for name in ("tabby_cat", "dog", ".hidden"):
        picture(tmp_path / "set" / name / "b.png", 2)
    picture(tmp_path / "set" / "dog" / "deeper" / "a.PNG", 1)
    write(tmp_path / "set" / "dog" / "notes.txt", "x")
    picture(tmp_path / "set" / "dog" / ".b.png")
    found = open_classification(tmp_path / "set")
    assert found.name == "set"
    assert found.classes == ("dog", "tabby cat")
    assert found.labels.tolist() == [0, 0, 1]
    assert found.templates == ("a photo of a {}.",)
    assert [found.pictures.name(index) for index in range(3)] == ["b.png", "a.PNG", "b.png"]
    assert [shade(found, index) for index in range(3)] == [2, 1, 2]


@pytest.mark.parametrize(
    ("folders", "names", "expected"),
    [
        (["dog", "Tabby_Cat"], ["tabby cat", "bird", "dog"], {"dog": 2, "Tabby_Cat": 0}),  # by name, in any order
        (["0", "1", "10", "2"], [f"c{n}" for n in range(11)], {"0": 0, "1": 1, "10": 10, "2": 2}),  # by index
        (["n02", "n01", "n03"], ["first", "second", "third"], {"n01": 0, "n02": 1, "n03": 2}),  # in sorted order
    ],
)
def test_folders_and_a_class_list(
    folders: list[str], names: list[str], expected: Mapping[str, int], tmp_path: Path
) -> None:
    for name in folders:
        picture(tmp_path / "set" / name / f"{name}.png")
    listed = write(tmp_path / "names.txt", "\n".join(names) + "\n\n")
    found = open_classification(tmp_path / "set", classes=listed)
    assert found.classes == tuple(names)
    assert {found.pictures.name(i)[:-4]: int(label) for i, label in enumerate(found.labels)} == expected
    for place in (tmp_path / "set" / "classes.txt", tmp_path / "classes.txt"):
        write(place, "\n".join(names))
        assert open_classification(tmp_path / "set").labels.tolist() == found.labels.tolist()
        place.unlink()


def test_folders_of_imagenet(tmp_path: Path) -> None:
    ids = imagenet_synsets()
    assert ids == tuple(sorted(ids))
    for index in (3, 0, 999):
        picture(tmp_path / "some" / ids[index] / f"{index}.png")
    some = open_classification(tmp_path / "some")
    assert some.classes == tuple(open_clip.IMAGENET_CLASSNAMES[index] for index in (0, 3, 999))
    assert some.labels.tolist() == [0, 1, 2]
    assert len(some.templates) == 80
    among_all = open_classification(tmp_path / "some", classes="imagenet", templates="imagenet")
    assert len(among_all.classes) == 1000
    assert among_all.labels.tolist() == [0, 3, 999]
    for index in range(1000):
        (tmp_path / "all" / ids[index]).mkdir(parents=True)
    picture(tmp_path / "all" / ids[7] / "x.JPEG")
    every = open_classification(tmp_path / "all")
    assert every.classes == imagenet_classes()
    assert every.labels.tolist() == [7]
    picture(tmp_path / "strange" / "n00000001" / "x.png")
    with pytest.raises(DataError, match=r"the WordNet ids n00000001 are none of ImageNet's 1,000 classes: give a list"):
        open_classification(tmp_path / "strange")


def test_templates_are_found_or_given(tmp_path: Path) -> None:
    picture(tmp_path / "set" / "dog" / "x.png")
    write(tmp_path / "set" / "templates.txt", "a {} here\nthe {c}\n")
    assert open_classification(tmp_path / "set").templates == ("a {} here", "the {c}")
    given_list = write(tmp_path / "t.json", ["{}"])
    assert open_classification(tmp_path / "set", templates=given_list).templates == ("{}",)


def test_limits_are_spread_over_classes(tmp_path: Path) -> None:
    for name, count in (("a", 5), ("b", 1), ("c", 3)):
        for index in range(count):
            picture(tmp_path / name / f"{name}{index}.png")
    found = open_classification(tmp_path)
    for limit, expected in ((3, [0, 1, 2]), (4, [0, 0, 1, 2]), (6, [0, 0, 0, 1, 2, 2]), (99, [0] * 5 + [1] + [2] * 3)):
        part = found.limited(limit)
        assert part.labels.tolist() == expected
        names = [part.pictures.name(index) for index in range(len(part.pictures))]
        assert [name[0] for name in names] == ["abc"[label] for label in expected]
        part.pictures.read(0)


@pytest.mark.parametrize(
    ("files", "options", "text"),
    [
        ([], {}, r"set does not exist: give a folder of class folders with pictures in them, a folder of tars"),
        (["set/x.png"], {}, r"set has no folders and no tars: give a folder of class folders"),
        (["set/a/x.txt"], {}, r"set: no picture in 1 folders \(a\): allowed are \.avif .*; give a folder of class"),
        (["set/train/a/x.png", "set/val/a/x.png"], {}, r"set has the parts train, val of a set, not its classes"),
        (["set"], {}, r"set is a file: give a folder of class folders"),
        (
            ["set/a/x.png", "set/b/x.png"],
            {"classes": "one\ntwo\nthree"},
            r"its 2 folders \(a, b\) do not fit the 3 class names of .*classes\.txt \(one, two, three\): folders must",
        ),
        (["set/a/x.png"], {"classes": "one\n\ntwo"}, r"classes\.txt: class name 2 is empty, and those behind it would"),
        (["set/a/x.png"], {"classes": "\n"}, r"classes\.txt holds no class name: put one a line, or give a JSON list"),
        (
            ["set/a/x.png"],
            {"templates": "a photo"},
            r"template 1 is 'a photo', which has no place for the class: write",
        ),
        (["set/a/x.png"], {"templates": "a {0}"}, r"template 1 is 'a \{0\}', which has no place for the class: write"),
    ],
)
def test_folder_mistakes(files: list[str], options: Mapping[str, str], text: str, tmp_path: Path) -> None:
    for name in files:
        picture(tmp_path / name)
    lists = {name: write(tmp_path / f"{name}.txt", content) for name, content in options.items()}
    with pytest.raises(DataError, match=text):
        open_classification(tmp_path / "set", **lists)


# Tars


def labelled_tar(path: Path, labels: Sequence[object], extension: str = "png") -> Path:
    members = []
    for index, label in enumerate(labels):
        members += [(f"s{index:04d}.{extension}", encoded(index)), (f"s{index:04d}.cls", str(label).encode())]
    return tar(path, members)


def test_tars_with_classes(tmp_path: Path) -> None:
    labelled_tar(tmp_path / "set" / "0.tar", [1, 0, "2\n"])
    labelled_tar(tmp_path / "set" / "1.tar", [2], "webp")
    write(tmp_path / "set" / "classes.txt", "a\nb\nc")
    found = open_classification(tmp_path / "set")
    assert found.labels.tolist() == [1, 0, 2, 2]
    assert found.classes == ("a", "b", "c")
    assert found.templates == ("a photo of a {}.",)
    assert [found.pictures.name(index) for index in (0, 3)] == ["0.tar/s0000", "1.tar/s0000"]
    assert [shade(found, index) for index in range(4)] == [0, 1, 2, 0]
    assert found.missing == 0
    alone = open_classification(tmp_path / "set" / "0.tar")
    assert alone.labels.tolist() == [1, 0, 2]
    assert shade(found.limited(3), 2) == 2


def test_clip_benchmarks_layout(tmp_path: Path) -> None:
    labelled_tar(tmp_path / "test" / "0.tar", [1, 0])
    write(tmp_path / "classnames.txt", "a\nb")
    write(tmp_path / "zeroshot_classification_templates.txt", "a {c}.")
    for path in (tmp_path, tmp_path / "test"):
        found = open_classification(path)
        assert found.labels.tolist() == [1, 0]
    assert open_classification(tmp_path).templates == ("a {c}.",)


def test_packed_pictures_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = labelled_tar(tmp_path / "0.tar", [0, 0])
    pictures, _, _ = labelled([file], 1)
    monkeypatch.setattr("mobileclip.evaluate.packed.MAX_BYTES", 5)
    with pytest.raises(ImageError, match=r"0\.tar/s0000 has \d+ bytes: at most 5 are allowed"):
        pictures.read(0)
    monkeypatch.undo()
    file.unlink()
    with pytest.raises(ImageError, match=r"0\.tar/s0000 cannot be read \(No such file or directory\): check the tar"):
        pictures.read(0)


def test_tar_mistakes(tmp_path: Path) -> None:
    file = labelled_tar(tmp_path / "set" / "0.tar", [0, 3])
    with pytest.raises(DataError, match=r"set has tars and no list of classes: put classes\.txt beside them, one name"):
        open_classification(tmp_path / "set")
    classes = write(tmp_path / "set" / "classes.txt", "a\nb\nc")
    with pytest.raises(
        DataError, match=r"0\.tar: sample s0001 is of class '3', the class list has 0 to 2: give the list"
    ):
        open_classification(tmp_path / "set")
    labelled_tar(file, ["dog"])
    with pytest.raises(DataError, match=r"sample s0000 is of class 'dog', the class list has 0 to 2"):
        open_classification(tmp_path / "set")
    tar(file, [("a.png", encoded()), ("a.txt", b"x")])
    with pytest.raises(
        DataError,
        match=r"0\.tar: no sample has both a picture and a \.cls member \(found: png, txt\); zero-shot",
    ):
        open_classification(tmp_path / "set")
    tar(file, [("a.png", encoded()), ("a.cls", b"0"), ("b.png", encoded()), ("c.cls", b"0"), ("d.json", b"{}")])
    with pytest.raises(
        DataError, match=r"set: 2 of 3 pictures .* \(0\.tar/b: no \.cls; 0\.tar/c: no picture\): at most"
    ):
        open_classification(tmp_path / "set")
    assert open_classification(tmp_path / "set", lost_share=0.7).missing == 2
    labelled_tar(file, [0, 1])
    whole = file.read_bytes()
    for size, reason in ((2048, "its end mark is missing, so it may have been cut"), (1800, "it ends within .*")):
        file.write_bytes(whole[:size])
        with pytest.raises(DataError, match=rf"0\.tar is damaged \({reason}\): a figure from part of a set misleads"):
            open_classification(tmp_path / "set")
    file.write_bytes(b"PK\x03\x04" + b"x" * 4000)
    with pytest.raises(DataError, match="is a zip archive"):
        open_classification(file, classes=classes)
