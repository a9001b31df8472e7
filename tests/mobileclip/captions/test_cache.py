"""Answers by content: kept once, for all, whatever lies in the folder."""

import json
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_server import serving

from mobileclip.captions.writers import cache as caches
from mobileclip.captions.writers.cache import Cache, Cached, cache_key
from mobileclip.captions.writers.captioner import Answer, Ask, Kept, Options
from mobileclip.captions.writers.server import ServerWriter
from mobileclip.errors import DataError, OutputError, ServerError

ANSWER = Answer(texts=("a dög\n", ""), lp=(-1.5, None), n_tok=(3, None), ended=(True, False))


def key(number: int, prefix: str = "abc") -> str:
    return f"{prefix}{number:061x}"


class Echo:
    """Writes the uid, and counts."""

    def __init__(self, **provenance: Any) -> None:
        self.provenance, self.asked = provenance, 0

    def __call__(self, asks: Sequence[Ask], kept: Kept | None = None) -> list[Answer]:
        self.asked += len(asks)
        out = []
        for place, ask in enumerate(asks):
            problem = "no" if ask.uid == "bad" else ""
            out.append(Answer(texts=(ask.uid,), lp=(None,), n_tok=(1,), ended=(True,), problem=problem))
            if kept is not None:
                kept(place, out[-1])
        return out


def test_what_is_put_is_there_for_the_next_process(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    assert cache.get(key(1)) is None
    cache.put(key(1), ANSWER)
    cache.put(key(1), Answer(texts=("another",), lp=(None,), n_tok=(1,), ended=(True,)))
    assert cache.get(key(1)) == Cache(tmp_path).get(key(1)) == ANSWER
    assert cache.get(key(2)) is None


def _put(place: tuple[Path, int]) -> None:
    folder, first = place
    cache = Cache(folder)
    for number in range(first, first + 200):
        cache.put(key(number), Answer(texts=(f"{number} " * 50,), lp=(None,), n_tok=(1,), ended=(True,)))


def test_processes_write_into_one_file(tmp_path: Path) -> None:
    with ProcessPoolExecutor(2) as pool:
        list(pool.map(_put, [(tmp_path, 0), (tmp_path, 100)]))
    cache = Cache(tmp_path)
    assert all(cache.get(key(number)) for number in range(300))
    assert all(json.loads(line) for line in (tmp_path / "abc.jsonl").read_bytes().splitlines())


def test_what_a_dead_process_left_is_passed_over(tmp_path: Path) -> None:
    Cache(tmp_path).put(key(1), ANSWER)
    path = tmp_path / "abc.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + whole[: len(whole) // 2])
    cache = Cache(tmp_path)
    assert cache.get(key(1)) == ANSWER
    cache.put(key(2), ANSWER)
    assert cache.get(key(2)) == Cache(tmp_path).get(key(2)) == ANSWER


@settings(max_examples=60, deadline=None)
@given(
    st.binary(max_size=80)
    | st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["key", "answer", "texts", "lp", "n_tok", "ended"]), inner, max_size=6)
        ),
        max_leaves=12,
    ).map(lambda value: json.dumps(value).encode())
)
def test_hostile_lines_cost_nothing_but_themselves(line: bytes) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "abc.jsonl").write_bytes(line + b"\n" + b"[" * 100_000 + b"\n")
        cache = Cache(Path(folder))
        assert cache.get(key(1)) is None
        cache.put(key(1), ANSWER)
        assert cache.get(key(1)) == ANSWER


@pytest.mark.parametrize(
    "answer",
    [
        {"texts": ["a"], "lp": [None], "n_tok": [-1], "ended": [True]},
        {"texts": ["a"], "lp": [None], "n_tok": [1], "ended": [1]},
        {"texts": ["a", "b"], "lp": [None], "n_tok": [1], "ended": [True]},
        {"texts": ["a" * 20_000], "lp": [None], "n_tok": [1], "ended": [True]},
        {"texts": ["a"], "lp": [1e300], "n_tok": [1], "ended": [True]},
    ],
)
def test_answers_that_are_none(tmp_path: Path, answer: Any) -> None:
    (tmp_path / "abc.jsonl").write_text(json.dumps({"key": key(1), "answer": answer}) + "\n")
    assert Cache(tmp_path).get(key(1)) is None


def test_a_full_file_takes_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caches, "FILE_LIMIT", 400)
    cache = Cache(tmp_path)
    for number in range(9):
        cache.put(key(number), ANSWER)
    assert (tmp_path / "abc.jsonl").stat().st_size <= 400
    assert [cache.get(key(number)) is not None for number in range(9)] == [True, True] + [False] * 7
    cache.put(key(1, "abd"), ANSWER)
    assert cache.get(key(1, "abd")) == ANSWER


def test_a_place_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        Cache(tmp_path / "file")
    cache = Cache(tmp_path / "folder")
    (tmp_path / "folder" / "abc.jsonl").mkdir()
    with pytest.raises(DataError, match=r"the cache '.*abc.jsonl' cannot be read \(Is a directory\): check"):
        cache.get(key(1))


def test_a_hit_asks_nobody(tmp_path: Path) -> None:
    echo = Echo(model="m")
    cached = Cached(echo, str(tmp_path), seeded=("stage", 0))
    asks = [Ask(uid=name, image=b"same picture", prompts=("p",)) for name in ("a", "b", "bad")]
    first = cached(asks)
    assert [answer.texts for answer in first] == [("a",), ("b",), ("bad",)]
    assert (echo.asked, cached.hits) == (3, 0)
    assert cached(asks[::-1]) == first[::-1]
    assert (echo.asked, cached.hits) == (4, 2)  # a problem is not kept


def test_the_key_holds_all_that_decides_an_answer(tmp_path: Path) -> None:
    def made(seeded: Any = ("stage", 0), uid: str = "a", image: bytes = b"1", prompt: str = "p", **about: Any) -> str:
        return Cached(Echo(**about), str(tmp_path), seeded).key(Ask(uid=uid, image=image, prompts=(prompt,)))

    changed = [
        made(),
        made(seeded=("other", 0)),
        made(seeded=("stage", 1)),
        made(uid="b"),
        made(image=b"2"),
        made(prompt="q"),
        made(model="m"),
        made(model="m", k=2),
        made(seeded=None),
    ]
    assert len(set(changed)) == len(changed)
    assert made(seeded=None, uid="b") == changed[-1]  # nothing is drawn: the picture decides
    assert cache_key({}, [], memoryview(b"1")) == cache_key({}, [], b"1")


def test_what_was_paid_for_is_kept_when_a_run_ends(tmp_path: Path) -> None:
    options = Options(model="m", url="http://x", cache=str(tmp_path), retries=0, concurrency=1)
    asks = [Ask(uid=str(number), prompts=("p",)) for number in range(9)]
    with serving("well", "well", "well", "status 401") as server:
        writer = ServerWriter(Options(**{**vars(options), "url": server.url}), "s", pause=0.01)
        with pytest.raises(ServerError, match="answered 401"):
            Cached(writer, str(tmp_path), ("s", 0))(asks)
        cached = Cached(writer, str(tmp_path), ("s", 0))
        cached(asks)
        assert cached.hits == 3
        assert len(server.requests) == 4 + 6
