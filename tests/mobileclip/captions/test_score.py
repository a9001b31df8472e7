"""The stage `score`: cosines, ranks, agreement and spread against a plain reading of their definitions."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from given import jpeg, ran, tar
from hypothesis import given, settings
from hypothesis import strategies as st

import mobileclip
from mobileclip.captions import tables
from mobileclip.captions.pictures.embed import Embed, embeddings
from mobileclip.captions.pictures.score import Score, spread, unmediated
from mobileclip.captions.pictures.scorer import scorer_of
from mobileclip.errors import DataError, UnknownName

CAPTIONS = ["a red wall", "a photo of a red wall", "two dogs on a beach", "an image"]
STAGES = [Embed(model="seeded:nano"), Score(sources=("alt", "syn_text"), alt="alt")]


def samples(count: int) -> list[tuple[str, dict[str, Any]]]:
    out: list[tuple[str, dict[str, Any]]] = []
    for n in range(count):
        captions = [CAPTIONS[(n + k) % 4] for k in range(n % 4)]
        out.append((f"{n:04d}", {"jpg": jpeg(n), "txt": f"wall {n}", "syn.json": {"syn_text": captions}}))
    return out


def read(folder: Path, name: str = "score") -> list[dict[str, Any]]:
    (path,) = folder.glob(f"{name}@*/a.parquet")
    rows: list[dict[str, Any]] = tables.read(path.with_suffix("")).to_pylist()
    return rows


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scored")
    found = samples(60)
    found[7] = ("0007", {"jpg": b"broken", "txt": "a broken one", "syn.json": {"syn_text": ["never scored"]}})
    found[8] = ("0008", {"txt": "no picture"})
    ran(STAGES, [tar(folder / "a.tar", found)], folder / "work")
    return folder / "work"


def test_cosines_ranks_and_pool_are_what_they_say(scored: Path) -> None:
    rows, there = embeddings(tables.read(next(scored.glob("embed@*/a.parquet")).with_suffix("")).column("image_emb"))
    pictures = rows[there].astype(np.float64)
    pictures /= np.linalg.norm(pictures, axis=1, keepdims=True)
    own = np.cumsum(there) - 1
    scorer = scorer_of("seeded:nano")
    checked = 0
    for place, (row, sample) in enumerate(zip(read(scored), samples(60), strict=True)):
        if not there[place]:
            continue
        assert row["pool"] == 58
        for source, captions in (("alt", [sample[1]["txt"]]), ("syn_text", sample[1]["syn.json"]["syn_text"])):
            assert len(row[f"clip_{source}"]) == len(row[f"rank_{source}"]) == len(captions)
            for caption, cosine, rank in zip(captions, row[f"clip_{source}"], row[f"rank_{source}"], strict=True):
                cosines = pictures @ scorer.texts([caption], 1)[0].astype(np.float64)
                assert cosine == pytest.approx(cosines[own[place]], abs=1e-5)
                assert abs(rank - int((cosines > cosines[own[place]]).sum())) <= 1
                checked += 1
    assert checked > 120


def test_rows_without_a_picture_have_nulls_and_say_why(scored: Path) -> None:
    rows = read(scored)
    for row, status in ((rows[7], "broken image: "), (rows[8], "no image")):
        assert row["status"].startswith(status)
        assert {value for name, value in row.items() if name not in ("key", "uid", "status")} == {None}
    assert {row["status"] for row in rows[9:]} == {"ok"}


def test_agreement_leaves_the_medium_out(tmp_path: Path) -> None:
    members = {"jpg": jpeg(1), "txt": "Image of a red wall", "syn.json": {"syn_text": CAPTIONS}}
    ran(STAGES, [tar(tmp_path / "a.tar", [("0", members)])], tmp_path / "work")
    (row,) = read(tmp_path / "work")
    first, second, third, _ = row["agree_syn_text"]
    assert first == second == pytest.approx(1, abs=1e-6)
    assert third < 0.999
    assert row["agree_alt"] is None
    assert row["clip_syn_text"][0] != row["clip_syn_text"][1]
    assert row["spread_syn_text"] == pytest.approx(spread(CAPTIONS))
    assert row["spread_alt"] is None


def test_the_same_picture_twice_does_not_take_a_rank(tmp_path: Path) -> None:
    texts = ("first", "second", "third")
    found = [(f"{n}", {"jpg": jpeg(4), "txt": text}) for n, text in enumerate(texts)]
    ran([Embed(model="seeded:nano"), Score(sources=("alt",), alt="alt")], [tar(tmp_path / "a.tar", found)], tmp_path)
    assert [row["rank_alt"] for row in read(tmp_path)] == [[0], [0], [0]]


def test_how_texts_are_passed_changes_no_byte(tmp_path: Path) -> None:
    shard = tar(tmp_path / "a.tar", samples(40))
    digests = set()
    for folder in ("one", "two"):
        plan = ran(STAGES, [shard], tmp_path / folder)
        done = tables.committed(plan.stem("score", "a"))
        assert done is not None
        digests.add(done.sha256)
        assert done.provenance["model"] == "seeded:nano"
    assert len(digests) == 1


def test_empty_captions_have_nulls_of_their_own(tmp_path: Path) -> None:
    members = {"jpg": jpeg(1), "txt": "a wall", "syn.json": {"syn_text": ["", "  ", "a wall"]}}
    ran(STAGES, [tar(tmp_path / "a.tar", [("0", members), ("1", {"jpg": jpeg(2)})])], tmp_path / "work")
    row, bare = read(tmp_path / "work")
    kept = [value is not None for value in row["clip_syn_text"]]
    assert kept[-1]
    assert len(kept) == len(row["rank_syn_text"]) == len(row["agree_syn_text"])
    assert bare["clip_alt"] == bare["clip_syn_text"] == []
    assert bare["status"] == "ok"


def test_other_weights_under_the_same_name_are_refused(tmp_path: Path) -> None:
    shard = tar(tmp_path / "a.tar", samples(4))
    mobileclip.save(mobileclip.load("seeded:nano"), tmp_path / "model")
    stages = [Embed(model=str(tmp_path / "model")), Score(sources=("alt",), alt="alt")]
    plan = ran(stages[:1], [shard], tmp_path / "work")
    mobileclip.save(mobileclip.load("seeded:nano:5"), tmp_path / "model", force=True)
    batch_worker = stages[1].worker(None)
    table = tables.read(plan.stem("embed", "a"))
    with pytest.raises(DataError, match=r"stage 'embed' was made with other weights of '.*model' \(sha256 \w{12}, "):
        batch_worker._loaded(table.schema.field("image_emb"))  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("text", "rest"),
    [
        ("a photo of a dog", "a dog"),
        ("A Photo Of a dog", "a dog"),
        ("This is a black and white photograph of two men", "two men"),
        ("close-up of a flower", "a flower"),
        ("vector illustration of a house, stock image showing a tree", "a house, a tree"),
        ("a photo of", "a photo of"),
        ("photography of trees", "photography of trees"),
        ("the view from here", "the view from here"),
        ("", ""),
    ],
)
def test_medium_phrases(text: str, rest: str) -> None:
    assert unmediated(text) == rest


@given(st.text(max_size=60))
@settings(max_examples=100, deadline=None)
def test_something_is_left_of_any_text(text: str) -> None:
    assert bool(unmediated(text).strip()) == bool(text.strip())


@given(st.lists(st.text("ab c", max_size=12), max_size=6))
@settings(max_examples=100, deadline=None)
def test_spread_is_of_pairs(captions: list[str]) -> None:
    found = spread(captions)
    with_words = [text for text in captions if text.strip()]
    assert (found is None) == (len(with_words) < 2)
    if found is not None:
        assert 0 <= found <= 1
        assert spread(captions[::-1]) == pytest.approx(found)
        assert spread([with_words[0]] * 3) == 0


def test_options() -> None:
    with pytest.raises(DataError, match=r"score.sources is empty: name what is to be scored"):
        Score(sources=())
    with pytest.raises(DataError, match=r"score.sources names one twice"):
        Score(sources=("alt", "alt"))
    with pytest.raises(UnknownName, match="unknown device 'tpu'"):
        Score(device="tpu")
