"""Layouts of a set for retrieval, caption files and tars, built here; every mistake in one, with its text."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
from set_files import encoded, picture, shade, write
from shard_files import write_tar as tar

from mobileclip.errors import DataError
from mobileclip.evaluate import caption_files, classification_sets, retrieval_sets
from mobileclip.evaluate.retrieval_sets import open_retrieval
from mobileclip.evaluate.sets import Retrieval


def by_name(found: Retrieval) -> dict[str, tuple[str, ...]]:
    return {found.pictures.name(index): texts for index, texts in enumerate(found.captions)}


# Caption files


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


# Tars


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
