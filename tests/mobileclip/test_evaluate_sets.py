"""Every layout of a set, built here; every mistake in one, with its text."""

import csv
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import open_clip
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mobileclip.errors import DataError, ImageError
from mobileclip.evaluate import caption_files, classification_sets, retrieval_sets
from mobileclip.evaluate.caption_files import read_captions
from mobileclip.evaluate.classification_sets import open_classification
from mobileclip.evaluate.files import inside, read_text
from mobileclip.evaluate.packed import labelled
from mobileclip.evaluate.retrieval_sets import open_retrieval
from mobileclip.evaluate.sets import Classification, Retrieval
from mobileclip.evaluate.templates import (
    imagenet_classes,
    imagenet_synsets,
    read_classes,
    read_templates,
)

Members = Sequence[tuple[str, bytes]]


def encoded(shade: int = 0, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 6), (shade % 256, 0, 0)).save(file, kind)
    return file.getvalue()


def picture(path: Path, shade: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(shade))
    return path


def tar(path: Path, members: Members) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as file:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return path


def write(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def shade(what: Classification | Retrieval, index: int) -> int:
    return int(what.pictures.read(index).getpixel((0, 0))[0])  # type: ignore[index]


def by_name(found: Retrieval) -> dict[str, tuple[str, ...]]:
    return {found.pictures.name(index): texts for index, texts in enumerate(found.captions)}


# Classification: folders


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


# Class lists and text files


def test_forms_of_class_lists(tmp_path: Path) -> None:
    assert read_classes(write(tmp_path / "a.txt", "\ufefftench\r\ngreat_white_shark\n")) == (
        "tench",
        "great white shark",
    )
    assert read_classes(write(tmp_path / "a.json", ["a", "b c"])) == ("a", "b c")
    assert read_classes(write(tmp_path / "b.json", {"1": "b", "0": "a"})) == ("a", "b")
    assert read_classes(write(tmp_path / "c.json", {"0": ["n01", "tench"], "1": ["n02", "x_y"]})) == ("tench", "x y")
    assert read_classes("imagenet") == tuple(open_clip.IMAGENET_CLASSNAMES)
    assert read_templates("imagenet")[0] == "a bad photo of a {}."


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (["a", 1], r'x\.json holds \["a", 1\]: a JSON list of strings is a list of class names'),
        ("3", r"x\.json holds 3: a JSON list of strings"),
        ({"0": "a", "2": "b"}, r"x\.json has no class name for index 1: a JSON object must go from 0 on without gaps"),
        ([], r"x\.json holds no class name"),
        ("[", r"x\.json is not JSON \(.*\): save it again"),
        ("[" * 100_000, r"x\.json is not JSON \(.*recursion.*\): save it again"),
    ],
)
def test_json_class_list_mistakes(content: Any, text: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=text):
        read_classes(write(tmp_path / "x.json", content))


def test_too_many_entries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mobileclip.evaluate import templates

    monkeypatch.setattr(templates, "MAX_ENTRIES", 3)
    with pytest.raises(DataError, match=r"x\.txt holds 4 entries: at most 3 are taken; is it a list\?"):
        read_classes(write(tmp_path / "x.txt", "a\nb\nc\nd"))


def test_text_files_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mobileclip.evaluate import files

    with pytest.raises(DataError, match=r"missing cannot be opened \(No such file or directory\): check the path"):
        read_text(tmp_path / "missing")
    with pytest.raises(DataError, match=r"cannot be opened \(.*null.*\): check the path"):
        read_text(Path("a\0b"))
    with pytest.raises(DataError, match="is not a file: give a text or JSON file"):
        read_text(tmp_path)
    (tmp_path / "x").write_bytes(b"fine\nfine\n\xe9t\xe9")
    with pytest.raises(DataError, match=r"x is not UTF-8 \(byte 0xe9 in line 3\): save it as UTF-8"):
        read_text(tmp_path / "x")
    monkeypatch.setattr(files, "MAX_TEXT", 5)
    with pytest.raises(DataError, match=r"x has 13 bytes: at most 5 are read; split it"):
        read_text(tmp_path / "x")


# Classification: tars


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


# Retrieval: caption files


COCO = {
    "images": [{"id": 7, "file_name": "a.png"}, {"id": 9, "file_name": "b.png"}],
    "annotations": [
        {"image_id": 7, "caption": "one"},
        {"image_id": 9, "caption": "two\n"},
        {"image_id": 7, "caption": "three"},
    ],
}
KARPATHY = {
    "images": [
        {"filename": "a.png", "split": "test", "sentences": [{"raw": "one"}, {"raw": "three"}]},
        {"filename": "b.png", "split": "test", "sentences": [{"raw": "two"}]},
        {"filename": "c.png", "split": "train", "sentences": [{"raw": "four"}]},
    ]
}
ROWS = [{"file": "a.png", "captions": ["one", "three"]}, {"image": "b.png", "caption": "two"}]
FORMS: Mapping[str, object] = {
    "captions.jsonl": "\n".join(map(json.dumps, ROWS)) + "\n\n",
    "captions.json": COCO,
    "dataset_flickr30k.json": KARPATHY,
    "x_karpathy_test.json": ROWS,
    "results.csv": "image_name| comment_number| comment\na.png| 0| one\na.png| 1|  three\nb.png| 0| two\n",
    "results_20130124.token": "a.png#0\tone\na.png#1\tthree\nb.png#0\ttwo\n",
    "captions.txt": "image,caption\r\na.png,one\r\na.png,three\r\nb.png,two\r\n",
    "captions.csv": 'raw,split,filename\n"[""one"", ""three""]",test,a.png\ntwo,test,b.png\nfour,train,c.png\n',
}


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("folder", ["", "images", "flickr30k-images"])
def test_forms_of_caption_files(name: str, folder: str, tmp_path: Path) -> None:
    write(tmp_path / "set" / name, FORMS[name])
    for index, file in enumerate(("a.png", "b.png")):
        picture(tmp_path / "set" / folder / file, index)
    for path in (tmp_path / "set", tmp_path / "set" / name):
        found = open_retrieval(path)
        assert by_name(found) == {"a.png": ("one", "three"), "b.png": ("two",)}
        assert found.name == path.name
        assert [shade(found, index) for index in range(2)] == [0, 1]
        assert (found.missing, found.left_out) == (0, 0)


def test_cocos_own_folders(tmp_path: Path) -> None:
    write(tmp_path / "annotations" / "captions_val2017.json", COCO)
    picture(tmp_path / "val2017" / "a.png")
    picture(tmp_path / "val2017" / "b.png")
    assert len(open_retrieval(tmp_path).captions) == 2
    karpathy = {"images": [{"filepath": "val2014", "filename": "a.png", "sentences": [{"raw": "one"}]}]}
    picture(tmp_path / "val2014" / "a.png", 5)
    other = open_retrieval(write(tmp_path / "dataset_coco.json", karpathy))
    assert shade(other, 0) == 5


def test_the_real_photos(photos: Path) -> None:
    found = open_retrieval(photos.parent)
    assert len(found.captions) == 111
    assert sum(map(len, found.captions)) == 555
    assert found.pictures.name(0) == "000000000285.jpg"
    assert found.pictures.read(0).size == (586, 640)
    assert [found.limited(3).pictures.name(index) for index in range(3)] == [
        found.pictures.name(index) for index in (0, 37, 74)
    ]


def test_flickrs_odd_row_and_blank_captions(tmp_path: Path) -> None:
    text = "image_name| comment_number| comment\n"
    text += "".join(f"{n}.png| 0| a | b {n}\n" for n in range(120)) + "7.png| 4   without a delimiter\n8.png| 1|  \n"
    found = read_captions(write(tmp_path / "results.csv", text))
    assert len(found.texts) == 120
    assert found.texts["7.png"] == ["a | b 7"]  # the delimiter inside of a caption
    assert found.left_out == 2
    quoted = 'image_name| comment_number| comment\na.png| 0| he says "hi\nb.png| 0| two\n'
    assert read_captions(write(tmp_path / "q.csv", quoted)).texts == {"a.png": ['he says "hi'], "b.png": ["two"]}


def test_commas_and_quotes_in_csv(tmp_path: Path) -> None:
    rows = [("a.png", 'a dog, a cat and "x"'), ("b.png", "two\nlines"), ("c.png", "u\u2028v")]
    file = io.StringIO(newline="")
    csv.writer(file).writerows([("filepath", "title"), *rows])
    (tmp_path / "x.csv").write_bytes(file.getvalue().encode())
    found = read_captions(tmp_path / "x.csv")
    assert found.texts == {"a.png": ['a dog, a cat and "x"'], "b.png": ["two lines"], "c.png": ["u v"]}


def test_missing_pictures_are_counted_up_to_a_share(tmp_path: Path) -> None:
    rows = [{"file": f"{n}.png", "captions": [f"c {n}"]} for n in range(50)]
    write(tmp_path / "set" / "captions.jsonl", "\n".join(map(json.dumps, rows)))
    for n in range(49):
        picture(tmp_path / "set" / f"{n}.png")
    found = open_retrieval(tmp_path / "set", lost_share=0.02)
    assert (found.missing, len(found.pictures), len(found.captions)) == (1, 49, 49)
    with pytest.raises(
        DataError, match=r"set: 1 of 50 pictures are missing or cannot be read \(49\.png: not in .*set\): at most 1\.0%"
    ):
        open_retrieval(tmp_path / "set")


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        (
            "x.json",
            {"info": 1},
            r"x\.json is no caption file that is known \(it holds an object with info\): known are",
        ),
        ("x.json", "3", r"x\.json is no caption file that is known \(it holds no object\)"),
        ("x.json", "{", r"x\.json is not JSON \(.*\): save it again"),
        ("x.json", {"images": [1], "annotations": []}, r"is no caption file that is known"),
        ("x.json", {"images": [], "annotations": []}, r"x\.json holds no caption: known are lines or a list of JSON"),
        (
            "x.json",
            {"images": [], "annotations": [{"bbox": []}]},
            r"annotation 0 has no caption; give the captions_\*\.json",
        ),
        ("x.json", {"images": [], "annotations": 3}, r"x\.json holds no caption"),
        ("x.json", COCO | {"images": []}, r"annotation 0 is of image 7, which is not among the images"),
        (
            "x.json",
            [{"file": "a.png"}],
            r'entry 1 \(\{"file": "a\.png"\}\) needs the picture\'s name in one of file, image',
        ),
        ("x.jsonl", '{"file": "a.png", "captions": [1]}', r"x\.jsonl: entry 1 .* and text in one of captions, caption"),
        ("x.jsonl", '{"file": "a.png", "captions": ["x"]}\nnonsense', r"x\.jsonl, line 2, is not JSON"),
        ("x.jsonl", "[1]", r"x\.jsonl: entry 1 \(\[1\]\) needs the picture's name"),
        ("x.jsonl", '{"file": "a.png", "captions": [" "]}', r"x\.jsonl holds no caption"),
        (
            "x.jsonl",
            '{"file": "../a.png", "captions": ["x"]}',
            r"names the picture '\.\./a\.png', which lies outside of its",
        ),
        (
            "x.jsonl",
            '{"file": "/etc/a.png", "captions": ["x"]}',
            r"names the picture '/etc/a\.png', which lies outside",
        ),
        (
            "x.jsonl",
            '{"file": "gone.png", "captions": ["x"]}',
            r"none of its pictures \(gone\.png\) is in .* put them into .*images",
        ),
        ("x.csv", "a,b\n1,2\n", r"x\.csv is no caption file that is known \(it begins 'a,b'\): known are"),
        (
            "x.csv",
            "image|caption\n" + "a.png\n" * 9,
            r"x\.csv: 9 of 9 rows have too few columns: is it cut or of another",
        ),
        ("x.csv", "image,caption\na.png," + "x" * 140_000, r"cannot be read as CSV behind line 2 \(field larger than"),
        ("x.txt", "", r"x\.txt is no caption file that is known \(it begins ''\)"),
    ],
)
def test_caption_file_mistakes(name: str, content: object, text: str, tmp_path: Path) -> None:
    write(tmp_path / name, content)
    with pytest.raises(DataError, match=text):
        open_retrieval(tmp_path / name)


def test_folder_of_captions_mistakes(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"missing does not exist: give a folder with captions\.jsonl and images/, packed"
    ):
        open_retrieval(tmp_path / "missing")
    with pytest.raises(DataError, match=r"has neither a caption file nor tars: give a folder with captions\.jsonl"):
        open_retrieval(tmp_path)
    write(tmp_path / "captions.jsonl", "")
    write(tmp_path / "captions.txt", "")
    with pytest.raises(
        DataError, match=r"has several caption files \(captions\.jsonl, captions\.txt\): give one of them"
    ):
        open_retrieval(tmp_path)


def test_paths_that_leave_their_folder() -> None:
    for name in ("../a", "a/../../b", "/a", "\\a", "..\\a", "a\0b", "", "~/a"):
        assert inside(name) is None, name
    for name in ("a", "a/b.png", "..a", "a..b/c", "~a"):
        assert inside(name) is not None, name


def _read_or_told(path: Path) -> caption_files.Captions | None:
    try:
        return read_captions(path)
    except DataError as error:
        told = str(error)
    assert told.startswith(str(path))
    return None


@settings(max_examples=100, deadline=None)
@given(
    suffix=st.sampled_from([".json", ".jsonl", ".csv", ".token"]),
    content=st.one_of(st.text(max_size=80), st.binary(max_size=80)),
)
def test_foreign_caption_files_end_in_a_sentence(
    suffix: str, content: str | bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / f"foreign{suffix}"
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
    found = _read_or_told(path)
    if found is not None:
        assert all(text.strip() for texts in found.texts.values() for text in texts)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "images",
                    "annotations",
                    "id",
                    "file_name",
                    "image_id",
                    "caption",
                    "file",
                    "captions",
                    "sentences",
                    "raw",
                    "split",
                    "filepath",
                    "filename",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)


@settings(max_examples=300, deadline=None)
@given(content=JSON)
def test_foreign_json_ends_in_a_sentence(content: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "foreign.json"
    path.write_text(json.dumps(content))
    found = _read_or_told(path)
    if found is not None:
        assert all(isinstance(file, str) and texts for file, texts in found.texts.items())


# Retrieval: tars


def test_packed_shards(tmp_path: Path) -> None:
    tar(
        tmp_path / "set" / "00000.tar",
        [
            ("a.png", encoded(1)),
            ("a.txt", b"alt a"),
            ("a.syn.json", json.dumps({"syn_text": ["syn a", "syn aa"]}).encode()),
            ("b.png", encoded(2)),
            ("b.txt", b"alt b"),
        ],
    )
    tar(tmp_path / "set" / "00001.tar", [("c.png", encoded(3)), ("c.txt", b"alt c")])
    found = open_retrieval(tmp_path / "set")
    assert by_name(found) == {
        "00000.tar/a": ("alt a", "syn a", "syn aa"),
        "00000.tar/b": ("alt b",),
        "00001.tar/c": ("alt c",),
    }
    assert [shade(found, index) for index in range(3)] == [1, 2, 3]
    assert by_name(open_retrieval(tmp_path / "set", source="syn_text")) == {"00000.tar/a": ("syn a", "syn aa")}
    assert (found.left_out, open_retrieval(tmp_path / "set", source="syn_text").left_out) == (0, 2)
    assert len(open_retrieval(tmp_path / "set" / "00001.tar").captions) == 1
    with pytest.raises(DataError, match="no caption is of source 'syn': these shards have alt, syn_text"):
        open_retrieval(tmp_path / "set", source="syn")
    tar(tmp_path / "bare" / "0.tar", [("a.png", encoded())])
    with pytest.raises(DataError, match=r"0\.tar: no sample has a picture and a caption \(1 no_caption \(a\)\)"):
        open_retrieval(tmp_path / "bare")


def test_layouts_are_told_in_full() -> None:
    assert "captions.jsonl" in retrieval_sets.LAYOUTS
    assert caption_files.FORMS in retrieval_sets.LAYOUTS
    assert "classes.txt" in classification_sets.LAYOUTS
