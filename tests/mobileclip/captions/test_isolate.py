"""Rows that end a process are found by letting processes end; what went wrong before is remembered."""

import json
from pathlib import Path

import pytest
from odd_shards import planned, texts_tar

from mobileclip.captions.engine import attempts, isolate
from mobileclip.captions.engine.isolate import search
from mobileclip.captions.plan import Plan, blocked
from mobileclip.captions.work import work
from mobileclip.errors import DataError


@pytest.fixture
def plan(tmp_path: Path, request: pytest.FixtureRequest) -> Plan:
    texts = {f"{row:06d}": f"text {row}" for row in range(300)} | request.param.get("texts", {})
    texts_tar(tmp_path / "in" / "a.tar", texts.items())
    return planned([tmp_path / "in"], tmp_path / "out", "deadly", **request.param.get("options", {}))


def odd(**texts: str) -> dict[str, dict[str, str]]:
    return {"texts": {key.removeprefix("k"): text for key, text in texts.items()}}


@pytest.mark.parametrize("plan", [odd(k000007="segv", k000130="exit", k000131="memory", k000299="exit")], indirect=True)
def test_rows_that_end_a_process_are_found_and_blocked(plan: Plan) -> None:
    beats = []
    found = search(plan, ("deadly",), plan.shards[0], watchdog=60.0, beat=lambda: beats.append(1))
    assert found.rows == {
        "000007": "ends the process (SIGSEGV)",
        "000130": "ends the process (exit code 3)",
        "000131": "out of memory",
        "000299": "ends the process (exit code 3)",
    }
    assert blocked(plan, "a") == found.rows
    assert beats
    assert not plan.home("deadly").exists()
    assert work(plan, ("deadly",), plan.shards[0]) == 300


@pytest.mark.parametrize("plan", [odd(k000140="hang")], indirect=True)
def test_a_row_that_never_ends_is_found(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolate, "LEAST", 1.0)
    assert search(plan, ("deadly",), plan.shards[0], watchdog=60.0).rows == {"000140": "makes no progress"}


@pytest.mark.parametrize("plan", [odd(k000040="grow")], indirect=True)
def test_a_row_that_fills_the_memory_is_found(plan: Plan) -> None:
    found = search(plan, ("deadly",), plan.shards[0], watchdog=60.0, memory=600_000_000)
    assert found.rows == {"000040": "ends the process (more memory than a worker may hold)"}


@pytest.mark.parametrize("plan", [odd(k000040="raise")], indirect=True)
def test_where_no_row_ends_a_process_nothing_is_blocked(plan: Plan) -> None:
    found = search(plan, ("deadly",), plan.shards[0], watchdog=60.0)
    assert (found.rows, found.why) == ({}, "")


@pytest.mark.parametrize("plan", [{"options": {"deadly_at_load": "exit"}}], indirect=True)
def test_a_stage_that_ends_the_process_when_it_loads(plan: Plan) -> None:
    found = search(plan, ("deadly",), plan.shards[0], watchdog=60.0)
    assert found.rows == {}
    assert found.why == (
        "ends the process (exit code 3) before any row is touched: the shard's tar, or what the stages load"
    )


@pytest.mark.parametrize("plan", [{}], indirect=True)
def test_a_mistake_of_the_user_comes_through(plan: Plan) -> None:
    Path(plan.shards[0].place).unlink()
    with pytest.raises(DataError, match=r"a\.tar"):
        search(plan, ("deadly",), plan.shards[0], watchdog=60.0)


@pytest.mark.parametrize("plan", [{}], indirect=True)
def test_what_went_wrong_is_remembered_until_the_shard_is_done(plan: Plan) -> None:
    assert attempts.trouble(plan, "a") is None
    attempts.note(plan, "a", "begun")
    attempts.note(plan, "a", "ended", "SIGSEGV")
    first = attempts.trouble(plan, "a")
    assert first == attempts.Trouble(ends=1, beginnings=1, failed="", why="SIGSEGV")
    assert not first.suspect
    attempts.note(plan, "a", "ended", "SIGBUS")
    second = attempts.trouble(plan, "a")
    assert second is not None
    assert second.suspect
    attempts.note(plan, "a", "searched")
    attempts.note(plan, "a", "failed", "no row alone")
    third = attempts.trouble(plan, "a")
    assert third == attempts.Trouble(ends=0, beginnings=0, failed="no row alone", why="no row alone")
    attempts.note(plan, "a", "begun")
    assert dict(attempts.troubled(plan))["a"].failed == ""
    attempts.clear(plan, "a")
    assert dict(attempts.troubled(plan)) == {}


@pytest.mark.parametrize("plan", [{}], indirect=True)
def test_a_shard_that_was_begun_often_and_never_ended_is_suspect(plan: Plan) -> None:
    for _ in range(attempts.BEGINNINGS):
        attempts.note(plan, "a", "begun")
    found = attempts.trouble(plan, "a")
    assert found is not None
    assert found.suspect


@pytest.mark.parametrize("plan", [{}], indirect=True)
def test_a_log_that_was_cut_off_is_read(plan: Plan) -> None:
    attempts.note(plan, "a", "ended", "SIGKILL")
    path = plan.folder / attempts.FOLDER / "a.jsonl"
    path.write_bytes(path.read_bytes() + b'{"what": "beg')
    found = attempts.trouble(plan, "a")
    assert found is not None
    assert found.ends == 1
    assert json.loads(path.read_bytes().splitlines()[0])["why"] == "SIGKILL"
