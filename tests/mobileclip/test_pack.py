"""Packing of other layouts into shards: smaller pictures, what is kept and left out, interruption."""

import gzip
import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
import torch
from PIL import Image
from shard_files import files_of, jpeg, picture, rows, write_tar

from mobileclip.data.corpus import corpus
from mobileclip.data.pack import pack_shards
from mobileclip.data.shards import Paug
from mobileclip.errors import DataError, OutputError

SHARED = Path(__file__).parents[3] / "shared" / "data"


def source_tar(path: Path, numbers: range, width: int = 160, height: int = 120) -> Path:
    files: dict[str, bytes] = {}
    for number in numbers:
        syn = {"syn_text": [f"first {number}", f"second {number}"]}
        arrays = io.BytesIO()
        np.savez(arrays, image_emb=rows(1, number), text_emb=rows(3, number))
        files |= {
            f"{number:04d}.jpg": jpeg(number, width, height),
            f"{number:04d}.txt": f"alt {number}".encode(),
            f"{number:04d}.json": json.dumps({"uid": f"{number:032x}", "url": "u", "license": "CC-BY"}).encode(),
            f"{number:04d}.syn.json": json.dumps(syn).encode(),
            f"{number:04d}.paug.json": json.dumps({"param_aug": json.dumps([[[20, 40, 60, 80], [[3, 1.0]]]])}).encode(),
            f"{number:04d}.npz": arrays.getvalue(),
            f"{number:04d}.url.txt": b"http://",
            f"{number:04d}.pkl": b"never copied",
        }
    return write_tar(path, files)


def test_packing_makes_small_shards_of_several(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    source_tar(tmp_path / "in" / "a.tar", range(5))
    source_tar(tmp_path / "in" / "b.tar", range(5, 7))
    packed = pack_shards(tmp_path / "in", tmp_path / "out", size=60, per_shard=3)
    assert (packed.samples, packed.shards, packed.kept, packed.problems) == (7, 3, 0, {})
    found = corpus(tmp_path / "out")
    assert [one.n for one in found.shards] == [3, 3, 1]
    one = found.shards[1]
    assert [one.key(row) for row in range(3)] == ["0003", "0004", "0005"]
    files = files_of(tmp_path / "out" / "00001.tar")
    record = json.loads(files["0004.json"])
    assert (record["width"], record["height"], record["resized_from"]) == (80, 60, [160, 120])
    assert (record["uid"], record["license"]) == (f"{4:032x}", "CC-BY")
    assert record["original_sha256"] == hashlib.sha256(jpeg(4, 160, 120)).hexdigest()
    assert simplejpeg.decode_jpeg_header(files["0004.jpg"])[:2] == (60, 80)
    assert np.abs(simplejpeg.decode_jpeg(files["0004.jpg"]).astype(int) - picture(4, 80, 60)).mean() < 4
    assert one.paug(1) == Paug(params=[[[10, 20, 30, 40], [[3, 1.0]]]], size=(80, 60))
    teachers = one.teachers(1)
    assert teachers is not None
    assert np.array_equal(teachers.text, rows(3, 4))
    assert "0004.url.txt" in files
    assert "0004.pkl" not in files
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["provenance"]["packed"]["read"] == 7


def test_packing_by_processes_gives_the_same_bytes(tmp_path: Path) -> None:
    source = source_tar(tmp_path / "a.tar", range(6))
    pack_shards(source, tmp_path / "one", size=60, per_shard=2)
    pack_shards(source, tmp_path / "two", size=60, per_shard=2, jobs=2)
    for name in ("00000.tar", "00001.tar", "00002.tar", "manifest.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_what_is_finished_is_not_packed_again(tmp_path: Path) -> None:
    source = source_tar(tmp_path / "a.tar", range(6))
    pack_shards(source, tmp_path / "out", size=60, per_shard=2)
    expected = {path.name: path.read_bytes() for path in (tmp_path / "out").glob("*.tar")}
    (tmp_path / "out" / "00001.tar").unlink()
    (tmp_path / "out" / "manifest.json").unlink()
    (tmp_path / "out" / ".packing.json").write_bytes(b"{}")
    assert pack_shards(source, tmp_path / "out", size=60, per_shard=2).kept == 2
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").glob("*.tar")} == expected
    assert pack_shards(source, tmp_path / "out", size=60, per_shard=2).kept == 3
    with pytest.raises(OutputError, match="holds a finished corpus"):
        pack_shards(source, tmp_path / "out", size=40, per_shard=2)


def test_small_upright_images_keep_their_bytes(tmp_path: Path) -> None:
    png = io.BytesIO()
    Image.fromarray(picture(1)).save(png, "PNG")
    files = {"a.jpg": jpeg(0), "a.txt": b"a", "b.png": png.getvalue(), "b.txt": b"b", "c.JPEG": jpeg(2), "c.txt": b"c"}
    pack_shards(write_tar(tmp_path / "a.tar", files), tmp_path / "out", size=48)
    out = files_of(tmp_path / "out" / "00000.tar")
    assert (out["a.jpg"], out["b.png"], out["c.jpg"]) == (files["a.jpg"], files["b.png"], files["c.JPEG"])
    assert "resized_from" not in json.loads(out["a.json"])


@pytest.mark.parametrize("size", [None, 30])
def test_rotation_is_applied_unless_augmentations_refer_to_the_pixels(tmp_path: Path, size: int | None) -> None:
    paug = json.dumps({"param_aug": [[[0, 0, 24, 32], None]]}).encode()
    files = {
        "a.jpg": jpeg(0, orientation=6),
        "a.txt": b"a",
        "b.jpg": jpeg(0, orientation=6),
        "b.txt": b"b",
        "b.paug.json": paug,
    }
    pack_shards(write_tar(tmp_path / "a.tar", files), tmp_path / "out", size=size)
    out = files_of(tmp_path / "out" / "00000.tar")
    turned, lying = (Image.open(io.BytesIO(out[f"{key}.jpg"])) for key in "ab")
    short = size or 48
    assert (turned.size, lying.size) == ((short, round(short * 4 / 3)), (round(short * 4 / 3), short))
    assert turned.getexif().get(0x0112) is None
    assert lying.getexif().get(0x0112) is None
    expected = Image.fromarray(np.rot90(picture(0), -1)).resize(turned.size)
    assert np.abs(np.asarray(turned).astype(int) - np.asarray(expected)).mean() < 4


def test_broken_images_are_left_out_up_to_a_share(tmp_path: Path) -> None:
    files = {f"{i}.{ext}": content for i in range(9) for ext, content in (("jpg", jpeg(i)), ("txt", b"t"))}
    files |= {"9.jpg": jpeg(9)[:300], "9.txt": b"t"}
    source = write_tar(tmp_path / "a.tar", files)
    with pytest.raises(
        DataError,
        match=r"1 of 10 samples cannot be packed \(1 broken_image \(a/9\)\): a share of 0\.05 is allowed; look at",
    ):
        pack_shards(source, tmp_path / "out")
    assert not (tmp_path / "out" / "manifest.json").exists()
    packed = pack_shards(source, tmp_path / "out", broken_share=0.1)
    assert (packed.samples, packed.problems["broken_image"].names) == (9, ("a/9",))


def test_many_broken_images_end_it_early(tmp_path: Path) -> None:
    files = {
        f"{i:03d}.{ext}": content for i in range(300) for ext, content in (("jpg", b"\xff\xd8\xff"), ("txt", b"t"))
    }
    with pytest.raises(DataError, match="100 of 100 samples cannot be packed"):
        pack_shards(write_tar(tmp_path / "a.tar", files), tmp_path / "out")
    assert not list((tmp_path / "out").glob("*.tar"))


def test_bad_augmentations_and_embeddings_are_left_out(tmp_path: Path) -> None:
    none = io.BytesIO()
    np.savez(none, image_emb=rows(0), text_emb=rows(0))
    files = {"a.jpg": jpeg(0), "a.txt": b"a", "b.jpg": jpeg(0), "b.txt": b"b", "b.paug.json": b"{}"}
    files |= {"c.jpg": jpeg(0), "c.txt": b"c", "c.npz": none.getvalue(), "c.paug.json": b'{"param_aug": [[1]]}'}
    source = write_tar(tmp_path / "a.tar", files)
    packed = pack_shards(source, tmp_path / "out", broken_share=0.9)
    assert (packed.samples, set(packed.problems)) == (1, {"bad_augmentation", "bad_embeddings"})
    assert pack_shards(source, tmp_path / "two", broken_share=0.9, embeddings="none").samples == 2


def test_embeddings_move_beside_the_shards(tmp_path: Path) -> None:
    source = source_tar(tmp_path / "a.tar", range(4))
    pack_shards(source, tmp_path / "one", size=60, embeddings="sidecar-bf16")
    found = corpus(tmp_path / "one", embeddings=tmp_path / "one" / "emb").shards[0].teachers(2)
    assert found is not None
    assert np.abs(found.text - rows(3, 2)).max() <= 0.1
    pack_shards(tmp_path / "one", tmp_path / "two", side_cars=tmp_path / "one" / "emb")
    again = corpus(tmp_path / "two").shards[0].teachers(2)
    assert again is not None
    assert np.array_equal(again.text, found.text)


def test_equal_keys_of_two_tars_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in "ab":
        write_tar(tmp_path / "in" / f"{name}.tar", {"0.jpg": jpeg(ord(name)), "0.txt": name.encode()})
    assert pack_shards(tmp_path / "in", tmp_path / "out").samples == 2
    found = corpus(tmp_path / "out").shards[0]
    assert [found.key(row) for row in range(2)] == ["0", "b_0"]
    assert found.uid[0] != found.uid[1]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"size": 8}, "size is 8: a short side of 16 to 4,096 pixels is allowed"),
        (
            {"per_shard": 0},
            "per_shard is 0, quality 92, broken_share 0.05: at least 1, 1 to 100 and 0 to 1 are allowed",
        ),
        ({"quality": 0}, "quality 0"),
        ({"broken_share": 2}, "broken_share 2"),
    ],
)
def test_options_out_of_range(tmp_path: Path, options: dict[str, Any], text: str) -> None:
    with pytest.raises(DataError, match=text):
        pack_shards(tmp_path, tmp_path / "out", **options)


def test_public_datacompdr_bf16(tmp_path: Path) -> None:
    file = io.BytesIO()
    torch.save({"image_emb": torch.ones(1, 8).bfloat16(), "text_emb": torch.arange(24.0).view(3, 8).bfloat16()}, file)
    source = source_tar(tmp_path / "a.tar", range(1))
    files = {name: content for name, content in files_of(source).items() if not name.endswith(".npz")}
    pack_shards(write_tar(source, {**files, "0000.pth.gz": gzip.compress(file.getvalue())}), tmp_path / "out", size=60)
    found = corpus(tmp_path / "out").shards[0]
    teachers = found.teachers(0)
    assert found.embeds_kind.tolist() == [1]
    assert teachers is not None
    assert teachers.text.tolist() == torch.arange(24.0).view(3, 8).tolist()


def test_poison_images(tmp_path: Path) -> None:
    folder = SHARED / "poison"
    if not folder.is_dir():
        pytest.skip(f"no broken images at {folder}")
    pictures = [
        path for path in sorted(folder.iterdir()) if path.suffix in (".jpg", ".png", ".webp", ".gif", ".tif", ".ico")
    ]
    files = {}
    for number, path in enumerate(pictures):  # whatever they are: under names that readers take
        files |= {f"{number:03d}_{path.stem}.jpg": path.read_bytes(), f"{number:03d}_{path.stem}.txt": b"a picture"}
    files = {name.replace(path.stem, path.stem.replace(".", "_")): content for name, content in files.items()}
    packed = pack_shards(write_tar(tmp_path / "a.tar", files), tmp_path / "out", broken_share=0.9)
    assert {"broken_image", "image_too_large"} <= set(packed.problems)
    assert packed.samples + sum(problem.count for problem in packed.problems.values()) == len(pictures)
    assert packed.samples >= 15
    for sample in files_of(tmp_path / "out" / "00000.tar").items():
        if sample[0].endswith(".jpg"):
            simplejpeg.decode_jpeg(sample[1])


def test_photos_pack_well(tmp_path: Path, photos: Path) -> None:
    chosen = sorted(photos.iterdir())[:12]
    files = {f"{path.stem}.{ext}": c for path in chosen for ext, c in (("jpg", path.read_bytes()), ("txt", b"photo"))}
    packed = pack_shards(write_tar(tmp_path / "a.tar", files), tmp_path / "out", size=288)
    assert (packed.samples, packed.problems) == (12, {})
    found = corpus(tmp_path / "out").shards[0]
    for row, path in enumerate(chosen):
        image = Image.open(io.BytesIO(found.image_bytes(row)))
        assert min(image.size) == 288
        plain = Image.open(path).convert("RGB").resize(image.size, Image.Resampling.BICUBIC)
        error = np.asarray(image.convert("RGB")).astype(float) - np.asarray(plain)
        assert 10 * np.log10(255**2 / (error**2).mean()) > 30
