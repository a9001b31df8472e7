"""What was selected, packed: with its texts, weights and similarities, and nothing of what was not."""

from pathlib import Path

import pytest
from given import Given, jpeg, pairs, ran, tar

from mobileclip.captions import plan as plans
from mobileclip.captions.joined import Joined
from mobileclip.captions.plan import plan_of
from mobileclip.captions.recipe import Recipe
from mobileclip.captions.select import Select
from mobileclip.captions.uids import Uids
from mobileclip.data import tars
from mobileclip.data.index import index
from mobileclip.data.pack import pack_shards
from mobileclip.data.problems import Tally
from mobileclip.data.shards import read
from mobileclip.errors import DataError

FLOATS, TEXTS = "list<item: float32>", "list<item: string>"
Q = {"a": [0.9], "b": [0.1], "c": [0.7], "d": [0.6]}


@pytest.fixture
def work(tmp_path: Path) -> Path:
    pairs(tmp_path / "in" / "0.tar", {"a": "RAW A", "b": "RAW B"})
    tar(
        tmp_path / "in" / "1.tar",
        [("c", {"jpg": jpeg(3), "txt": "RAW C", "json": {"license": "CC0"}}), ("d", {"jpg": jpeg(4)})],
    )
    clean = Given(
        name="clean",
        types={"texts": TEXTS},
        values={"texts": {"a": ["one a"], "b": ["one b"], "c": ["one c"], "d": []}},
    )
    coca = Given(
        name="coca", types={"texts": TEXTS}, values={"texts": {key: [f"see {key}", f"two {key}"] for key in "abcd"}}
    )
    score = Given(
        name="score",
        types={"clip_clean": FLOATS, "clip_coca": FLOATS, "best_q": "float32", "q_clean": FLOATS, "q_coca": FLOATS}
        | {"flags_clean": "list<item: uint32>", "flags_coca": "list<item: uint32>"},
        values={
            "clip_clean": {key: [0.25] for key in "abc"} | {"d": []},
            "clip_coca": {key: [0.5, 0.125] for key in "abcd"},
            "best_q": {key: values[0] for key, values in Q.items()},
            "q_clean": {key: values for key, values in Q.items() if key != "d"} | {"d": []},
            "q_coca": {key: [values[0], 0.05] for key, values in Q.items()},
            "flags_clean": {"a": [0], "b": [0], "c": [0], "d": []},
            "flags_coca": {key: [0, 0] for key in "abcd"},
        },
    )
    select = Select(sources=("clean", "coca"), judge="score", score="score", min_q=0.5)
    plans.save(ran([clean, coca, score, select], tmp_path / "in", tmp_path / "work"))
    return tmp_path / "work"


def test_packed_shards_hold_what_was_selected(work: Path, tmp_path: Path) -> None:
    joined = Joined.open(work)
    assert joined.summary() == (3, 4, {"no caption passes": 1})
    packed = pack_shards((), tmp_path / "packed", captions=joined, embeddings="none", size=None)
    assert (packed.samples, packed.problems) == (3, {})
    with tars.opened(tmp_path / "packed" / "00000.tar") as data:
        samples = {sample.key: sample for sample in read(data, tars.walk(data, ""), Tally())}
    assert list(samples) == ["a", "c", "d"]
    texts = {(text.source, text.text): text for text in samples["a"].texts}
    assert set(texts) == {("alt", "one a"), ("syn_text_coca", "see a")}
    assert texts["alt", "one a"].weight == pytest.approx(0.9)
    assert texts["alt", "one a"].clip == pytest.approx(0.25)
    assert texts["syn_text_coca", "see a"].clip == pytest.approx(0.5)
    assert [text.source for text in samples["d"].texts] == ["syn_text_coca"]  # it had no web text at all
    assert samples["c"].record["license"] == "CC0"
    assert samples["c"].record["captions_from"]["coca"].startswith("coca@")
    assert index(tmp_path / "packed" / "00000.tar").n == 3
    again = pack_shards((), tmp_path / "packed", captions=joined, embeddings="none", size=None)
    assert again.kept == 1


def test_packing_in_several_processes_and_parts(work: Path, tmp_path: Path) -> None:
    joined = Joined.open(work)
    pack_shards((), tmp_path / "one", captions=joined, embeddings="none", per_shard=2)
    pack_shards((), tmp_path / "two", captions=joined, embeddings="none", per_shard=2, jobs=2)
    for name in ("00000.tar", "00001.tar"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_uids_of_what_is_kept(work: Path, tmp_path: Path) -> None:
    assert Joined.open(work).write_uids(tmp_path / "kept.npy") == 3
    assert len(Uids(tmp_path / "kept.npy")) == 3


def test_what_cannot_be_packed(work: Path, tmp_path: Path) -> None:
    joined = Joined.open(work)
    with pytest.raises(DataError, match="stored embeddings are those of other captions"):
        pack_shards((), tmp_path / "p", captions=joined)
    with pytest.raises(DataError, match=f"'{work}' has no select stage 'strict': it has select"):
        Joined.open(work, "strict")
    plan = plans.load(work, ["select.min_q=0.95"])
    plans.save(plan)
    with pytest.raises(DataError, match=r"2 of 2 shards of '.*' are not selected yet \(first: 0\)"):
        Joined.open(work)
    from mobileclip.captions.work import prepare
    from mobileclip.captions.work import work as do

    prepare(plan, "select")
    for item in plan.shards:
        do(plan, ("select",), item)
    with pytest.raises(DataError, match="none of 4 samples was selected: loosen the thresholds"):
        pack_shards((), tmp_path / "p", captions=Joined.open(work), embeddings="none")


def test_a_work_that_selects_nothing(tmp_path: Path) -> None:
    pairs(tmp_path / "in" / "0.tar", {"a": "x"})
    plan = plan_of(Recipe(name="r", stages=(Given(),)), tmp_path / "in", tmp_path / "work")
    plans.save(plan)
    with pytest.raises(DataError, match=r"recipe 'r' of '.*' selects nothing: add a stage of kind 'select'"):
        Joined.open(tmp_path / "work")
