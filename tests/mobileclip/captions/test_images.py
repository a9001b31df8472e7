"""The stage `images`: what it says of files, of broken ones too, and that pictures are decoded once."""

import hashlib
import io
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from given import jpeg, ran, tar
from PIL import Image

from mobileclip.captions import tables
from mobileclip.captions.pictures import phash
from mobileclip.captions.pictures.embed import Embed
from mobileclip.captions.pictures.images import Images
from mobileclip.captions.plan import Plan
from mobileclip.captions.shard import Row, Shard
from mobileclip.data.decode import Pixels

SHARED = Path(__file__).parents[4] / "shared" / "data"


def said(plan: Plan, stage: str = "images", shard: str = "a") -> list[dict[str, object]]:
    return tables.read(plan.stem(stage, shard)).to_pylist()


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def test_bytes_and_hashes(tmp_path: Path) -> None:
    data = jpeg(3, size=(90, 60))
    shard = tar(tmp_path / "a.tar", [("0", {"jpg": data, "txt": "one"}), ("1", {"jpg": data}), ("2", {"txt": "none"})])
    first, second, third = said(ran([Images()], [shard], tmp_path / "work"))
    assert first["sha256"] == hashlib.sha256(data).hexdigest()
    assert (first["width"], first["height"], first["bytes"]) == (90, 60, len(data))
    assert first["phash"] == second["phash"]
    assert isinstance(first["phash"], int)
    assert third["status"] == "no image"
    assert {third[name] for name in ("sha256", "phash", "width", "height", "bytes")} == {None}


def test_one_colour_has_no_perceptual_hash(tmp_path: Path) -> None:
    data = saved(Image.new("RGB", (64, 64), (200, 10, 10)), "JPEG")
    (row,) = said(ran([Images()], [tar(tmp_path / "a.tar", [("0", {"jpg": data})])], tmp_path / "work"))
    assert row["phash"] is None
    assert row["sha256"] == hashlib.sha256(data).hexdigest()
    assert row["status"] == "ok"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("size", [(300, 200), (2_100, 1_100)])
@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_size_is_of_the_full_picture_upright(
    tmp_path: Path, kind: str, size: tuple[int, int], orientation: int
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.effect_noise((size[0] // 50, size[1] // 50), 90).convert("RGB").resize(size)
    data = saved(image, kind, exif=exif, **({"compression": "tiff_lzw"} if kind == "TIFF" else {}))
    shard = tar(tmp_path / "a.tar", [("0", {"jpg": data})])  # a picture is known by its content
    (row,) = said(ran([Images()], [shard], tmp_path / "work"))
    assert (row["width"], row["height"]) == (size[::-1] if orientation == 6 else size)


def test_scaled_decoding_hardly_changes_a_hash(photos: Path, tmp_path: Path) -> None:
    """A file of three times the size is decoded at a fraction of it, and is the same picture."""
    samples = []
    for number, path in enumerate(sorted(photos.iterdir())[:8]):
        image = Image.open(path).convert("RGB")
        large = image.resize((image.width * 3, image.height * 3), Image.Resampling.BICUBIC)
        samples += [(f"{number}a", {"jpg": path.read_bytes()}), (f"{number}b", {"jpg": saved(large, "JPEG")})]
        samples += [(f"{number}c", {"png": saved(large, "PNG", compress_level=1)})] if number < 2 else []
    rows = {row["key"]: row["phash"] for row in said(ran([Images()], [tar(tmp_path / "a.tar", samples)], tmp_path))}
    for key, word in rows.items():
        assert int(word).bit_count() > 16  # type: ignore[call-overload]
        assert (int(word) ^ int(rows[f"{str(key)[0]}a"])).bit_count() <= 4  # type: ignore[call-overload]


def test_stages_that_look_together_decode_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: Counter[str] = Counter()
    pixels = Shard.pixels

    def counted(shard: Shard, row: Row) -> Pixels:
        decoded[row.key] += 1
        return pixels(shard, row)

    monkeypatch.setattr(Shard, "pixels", counted)
    shard = tar(tmp_path / "a.tar", [(f"{number:03d}", {"jpg": jpeg(number)}) for number in range(140)])
    plan = ran([Images(), Embed(model="seeded:nano")], [shard], tmp_path / "work")
    assert decoded == Counter({f"{number:03d}": 1 for number in range(140)})
    assert [row["status"] for row in said(plan, "embed")] == ["ok"] * 140
    words = [int(row["phash"]) for row in said(plan)]  # type: ignore[call-overload]
    with Shard.open(str(shard)) as found:
        grey = np.stack([phash.reduced(pixels(found, row)) for row in found.rows])
    assert words == phash.hashes(grey)[0].tolist()


def test_poison_gets_a_status_and_harms_nobody(tmp_path: Path) -> None:
    folder = SHARED / "poison"
    if not folder.is_dir():
        pytest.skip(f"no poison at {folder}")
    files = sorted(path for path in folder.iterdir() if path.name != "LICENSE")
    samples = [(f"{number:02d}", {"jpg": path.read_bytes()}) for number, path in enumerate(files)]
    samples += [("empty", {"jpg": b""}), ("text", {"jpg": b"not a picture"}), ("good", {"jpg": jpeg(1)})]
    samples += [("long", {"png": saved(Image.effect_noise((60_000, 1), 50), "PNG")})]
    plan = ran([Images(), Embed(model="seeded:nano")], [tar(tmp_path / "a.tar", samples)], tmp_path / "work")
    images = {str(row["key"]): row for row in said(plan)}
    embeds = {str(row["key"]): row for row in said(plan, "embed")}
    assert len(images) == len(embeds) == len(samples)
    assert "0 bytes" in str(images["empty"]["status"])
    assert str(images["text"]["status"]).startswith("broken image: ")
    assert images["long"]["status"] == "ok"
    assert "a side may be at most" in str(embeds["long"]["status"])
    assert embeds["good"]["status"] == "ok"
    broken = [key for key, row in images.items() if row["status"] != "ok"]
    assert 5 < len(broken) < len(samples) - 10
    for key, row in embeds.items():
        assert (row["image_emb"] is None) == (row["status"] != "ok")
        assert images[key]["status"] in ("ok", row["status"])
