"""The same files whoever makes them, and all of them whatever happens: kills, poison, hangs, full disks, bad shards."""

import io
import json
import os
import random
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from odd_shards import below, driver, gone, many, planned, print_of, texts_tar

from mobileclip.captions import tables
from mobileclip.captions.engine import attempts, runner
from mobileclip.captions.engine.runner import NotReady, Progress, run, share
from mobileclip.captions.engine.status import status
from mobileclip.captions.plan import blocked
from mobileclip.captions.recipe import build
from mobileclip.errors import DataError, MobileClipError, OutputError, UnknownName

TEXTS = ("shout", "share")


@pytest.fixture
def odd(tmp_path: Path, pairs: Path) -> list[Path]:
    """Pictures; nothing; one sample; only broken pictures; one key twice; captions that end a process or raise."""
    folder = tmp_path / "odd"
    texts_tar(folder / "empty.tar", [])
    texts_tar(folder / "one.tar", [("a", "one")])
    texts_tar(folder / "twice.tar", [("a", "one"), ("b", "two"), ("a", "three")])
    texts_tar(folder / "deadly.tar", [("a", "one"), ("b", "exit"), ("c", "memory"), ("d", "raise")])
    with tarfile.open(folder / "broken.tar", "w") as tar:
        for number in range(3):
            info = tarfile.TarInfo(f"{number}.jpg")
            info.size = 4
            tar.addfile(info, io.BytesIO(b"\xff\xd8\xff\x00"))
    return [pairs, folder]


def test_the_same_files_come_out_of_one_process_two_and_an_array(odd: list[Path], tmp_path: Path) -> None:
    found = {}
    for jobs in (1, 2):
        plan = planned(odd, tmp_path / f"local{jobs}")
        summary = run(plan, jobs=jobs)
        assert summary.failed == {}
        assert summary.blocked == {"deadly": {"b": "ends the process (exit code 3)", "c": "out of memory"}}
        found[f"local{jobs}"] = print_of(plan.folder)
    plan = planned(odd, tmp_path / "array")
    for _ in plan.waves:
        for index in range(3):
            try:
                run(plan, engine="array", array=(index, 3), jobs=1)
            except NotReady:
                continue
    found["array"] = print_of(plan.folder)
    assert len(found["array"]) == 2 * (4 * len(plan.shards) + 1)
    assert found["local1"] == found["local2"] == found["array"]


def test_what_is_wrong_with_a_sample_is_its_status(odd: list[Path], tmp_path: Path) -> None:
    plan = planned(odd, tmp_path / "out")
    run(plan, jobs=2)
    of = {
        item.name: pq.read_table(tables.with_ending(plan.stem("deadly", item.name), ".parquet")) for item in plan.shards
    }
    assert of["deadly"].column("status").to_pylist() == [
        "ok",
        "blocked: ends the process (exit code 3)",
        "blocked: out of memory",
        "error: ValueError: a caption that raises",
    ]
    assert of["deadly"].column("length").to_pylist() == [3, None, None, None]
    assert of["empty"].num_rows == 0
    assert of["one"].num_rows == 1
    assert of["twice"].column("key").to_pylist() == ["a", "b"]
    broken = pq.read_table(tables.with_ending(plan.stem("brightness", "broken"), ".parquet"))
    assert all(status.startswith("broken image: ") for status in broken.column("status").to_pylist())
    assert broken.column("mean").to_pylist() == [None] * 3


def test_what_is_finished_is_not_done_again(tmp_path: Path) -> None:
    plan = planned([many(tmp_path / "in", 3)], tmp_path / "out", *TEXTS)
    told: list[tuple[int, int]] = []
    assert run(plan, jobs=1, progress=lambda done, all: told.append((done, all))).shards == 6
    assert told[-1] == (3, 3)
    before = {path: path.stat().st_mtime_ns for path in plan.folder.rglob("*.parquet")}
    again = run(plan, jobs=1)
    assert (again.shards, again.rows, again.counts) == (0, 0, {})
    plan.stem("shout", "00001").with_name("00001.done.json").unlink()
    assert run(plan, jobs=1).shards == 1
    after = {path: path.stat().st_mtime_ns for path in plan.folder.rglob("*.parquet")}
    assert {path.name for path in before if before[path] != after[path]} == {"00001.parquet"}


def test_a_run_tells_where_it_is(tmp_path: Path) -> None:
    plan = planned([many(tmp_path / "in", 4)], tmp_path / "out", *TEXTS)
    told: list[Progress] = []
    summary = run(plan, jobs=2, watch=told.append)
    last = told[-1]
    assert (last.wave, last.waves, last.stages, last.done, last.shards) == (2, 2, ("share",), 4, 4)
    assert last.seconds_left == 0.0
    assert str(last).startswith("wave 2 of 2 (share): 4 of 4 shards, ")
    assert str(last).endswith(" left")
    assert summary.rows == 160
    assert 10_000_000 < summary.memory < 1_000_000_000


def test_the_state_is_read_from_the_side_cars_alone(tmp_path: Path) -> None:
    plan = planned([many(tmp_path / "in", 3, s1_4="exit")], tmp_path / "out", "shout", "deadly")
    empty = status(plan)
    assert [(stage.done, stage.shards, stage.rows) for stage in empty.stages] == [(0, 3, 0)] * 2
    assert not empty.finished
    run(plan, jobs=2)
    for path in (tmp_path / "in").iterdir():
        path.unlink()
    found = status(plan)
    assert found.finished
    shout, deadly = found.stages
    assert (shout.done, shout.rows, shout.counts) == (3, 60, {"ok": 60})
    assert deadly.counts == {"ok": 59, "blocked: ends the process": 1}
    assert deadly.bytes == sum(path.stat().st_size for path in plan.home("deadly").glob("*.parquet"))
    assert deadly.seconds_left == 0.0
    assert found.blocked == {"00001": {"000004": "ends the process (exit code 3)"}}
    assert (found.failed, found.troubled) == ({}, {})
    assert json.loads(json.dumps(found.as_dict()))["stages"][0]["name"] == "shout"
    plan.stem("shout", "00001").with_name("00001.parquet").unlink()
    assert status(plan).stages[0].done == 2


def test_a_row_that_never_ends_is_blocked(tmp_path: Path) -> None:
    plan = planned([many(tmp_path / "in", 2, rows=4, s1_2="hang")], tmp_path / "out", "deadly")
    summary = run(plan, jobs=2, watchdog=2.0)
    assert summary.blocked == {"00001": {"000002": "makes no progress"}}
    assert summary.counts["killed"] == 2


def test_a_row_that_fills_the_memory_is_blocked(tmp_path: Path) -> None:
    plan = planned([many(tmp_path / "in", 2, rows=4, s0_1="grow")], tmp_path / "out", "deadly")
    summary = run(plan, jobs=1, memory_gb=0.6)
    assert summary.blocked == {"00000": {"000001": "ends the process (more memory than a worker may hold)"}}
    assert summary.memory < 600_000_000


def test_a_shard_that_cannot_be_read_is_left_out_and_the_others_go_on(tmp_path: Path) -> None:
    plan = planned([many(tmp_path / "in", 4)], tmp_path / "out", *TEXTS)
    bad = Path(plan.shards[2].place)
    bad.write_bytes(b"no tar at all" * 100)
    summary = run(plan, jobs=2, broken_share=0.25)
    assert list(summary.failed) == ["00002"]
    assert "00002.tar" in summary.failed["00002"]
    found = status(plan)
    assert [stage.done for stage in found.stages] == [3, 3]
    assert found.failed == summary.failed
    with pytest.raises(DataError) as caught:
        run(plan, jobs=2)
    assert str(caught.value) == (
        f"1 of 4 shards failed, '00002' for one ({summary.failed['00002'].rstrip('.')}); what is finished stays: "
        "repair or remove them, or allow more with broken_share."
    )
    texts_tar(bad, [("a", "repaired")])
    assert run(plan, jobs=2).failed == {}
    assert [stage.done for stage in status(plan).stages] == [4, 4]


def test_a_run_in_which_nothing_works_ends_early(tmp_path: Path) -> None:
    plan = planned([many(tmp_path / "in", 20)], tmp_path / "out", "shout")
    for item in plan.shards:
        Path(item.place).write_bytes(b"no tar at all" * 100)
    with pytest.raises(DataError, match=rf"^{runner.FEW} of 20 shards failed, '000\d\d' for one \("):
        run(plan, jobs=1, attempts_each=1, broken_share=1.0)


def test_a_stage_that_ends_every_process_is_told(tmp_path: Path) -> None:
    plan = planned([many(tmp_path / "in", 1)], tmp_path / "out", "deadly", deadly_at_load="exit")
    with pytest.raises(
        DataError, match=r"^1 of 1 shards failed, '00000' for one \(ends the process \(exit code 3\) befo"
    ):
        run(plan, jobs=1, attempts_each=1)


def test_a_mistake_that_meets_every_shard_ends_the_run_at_once(tmp_path: Path) -> None:
    plan = planned([many(tmp_path / "in", 3, s0_3="full")], tmp_path / "out", "deadly")
    with pytest.raises(OutputError, match=r"^'x' cannot be written \(No space left on device\): give a place that exi"):
        run(plan, jobs=1)
    assert not list(plan.folder.rglob("00000.*.json"))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 kB."""
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", place], capture_output=True)
    if mounted.returncode:
        pytest.skip("no small disk without the right to mount one")
    yield place
    subprocess.run(["umount", place], check=True)


def test_a_disk_that_fills_up_in_the_middle_leaves_nothing_half_written(tmp_path: Path, small_disk: Path) -> None:
    shards = tmp_path / "in"
    noise = random.Random(0)
    for shard in range(4):
        texts_tar(shards / f"{shard:05d}.tar", [(f"{row:06d}", noise.randbytes(40).hex()) for row in range(2_000)])
    plan = planned([shards], small_disk / "out", "shout")
    with pytest.raises(
        OutputError, match=r"^'.*/shout@.*' cannot be written \(No space left on device\): give a place"
    ):
        run(plan, jobs=1)
    assert not list(plan.folder.rglob(".*.part"))
    for stem in plan.home("shout").glob("*.done.json"):
        assert tables.committed(stem.with_name(stem.name.removesuffix(".done.json"))) is not None
    assert status(plan).stages[0].done < 4
    subprocess.run(["mount", "-o", "remount,size=8m", small_disk], check=True)
    run(plan, jobs=1)
    whole = planned([shards], tmp_path / "whole", "shout")
    run(whole, jobs=1)
    assert print_of(plan.folder) == print_of(whole.folder)


def test_a_side_car_of_another_version_is_refused(tmp_path: Path) -> None:
    plan = planned([many(tmp_path / "in", 2)], tmp_path / "out", "shout")
    run(plan, jobs=1)
    note = plan.stem("shout", "00001").with_name("00001.done.json")
    note.write_text(note.read_text().replace('"version": 1', '"version": 2'))
    for read in (run, status):
        with pytest.raises(
            DataError, match=r"is a side-car of version 2, 1 is read: remove its folder, or use the rel"
        ):
            read(plan)


def test_tasks_of_an_array_share_all_shards_and_wait_for_one_another(tmp_path: Path) -> None:
    plan = planned([many(tmp_path / "in", 7)], tmp_path / "out", *TEXTS)
    parts = [share(plan.shards, index, 3) for index in range(3)]
    assert sorted(item.name for part in parts for item in part) == [item.name for item in plan.shards]
    with pytest.raises(NotReady) as caught:
        run(plan, engine="array", array=(1, 3), jobs=1)
    missing = 7 - len(parts[1])
    assert str(caught.value) == (
        f"stage 'share' looks at all shards first, and {missing} shards are not through the stages before it: start "
        "the same array again when all its tasks have ended."
    )
    for index in (0, 2):
        with (
            pytest.raises(NotReady) if index == 0 else pytest.raises(NotReady, match="and task 0 has not done so: star")
        ):
            run(plan, engine="array", array=(index, 3), jobs=1)
    for index in range(3):
        run(plan, engine="array", array=(index, 3), jobs=1)
    assert status(plan).finished


def test_a_task_of_an_array_can_wait(tmp_path: Path) -> None:
    plan = planned([many(tmp_path / "in", 4)], tmp_path / "out", *TEXTS)
    with pytest.raises(NotReady):
        run(plan, engine="array", array=(1, 2), jobs=1, wait=2.0)
    run(plan, engine="array", array=(0, 2), jobs=1, wait=2.0)
    run(plan, engine="array", array=(1, 2), jobs=1)
    assert status(plan).finished


@pytest.mark.parametrize(
    ("options", "kind", "text"),
    [
        ({"engine": "rya"}, UnknownName, "unknown engine 'rya': did you mean 'ray'? Known: array, local, ray."),
        ({"engine": "array"}, DataError, "array is (index, count) for engine 'array', and for no other."),
        ({"array": (0, 2)}, DataError, "array is (index, count) for engine 'array', and for no other."),
        (
            {"engine": "array", "array": (2, 2)},
            DataError,
            "array is (2, 2): (index, count) is wanted, index from 0.",
        ),
        ({"broken_share": 1.5}, DataError, "broken_share is 1.5: a share from 0 to 1 is wanted."),
        ({"jobs": -1}, DataError, "jobs and limits cannot be negative."),
    ],
)
def test_options_that_cannot_be(
    tmp_path: Path, options: dict[str, Any], kind: type[MobileClipError], text: str
) -> None:
    plan = planned([many(tmp_path / "in", 1)], tmp_path / "out", "shout")
    with pytest.raises(kind) as caught:
        run(plan, **options)
    assert str(caught.value) == text


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (
            "odd_stage:Shout",
            "stage 'odd_stage:Shout' cannot be imported (No module named 'odd_stage'): write package.module:Class, and "
            "put the package where Python finds it.",
        ),
        (
            "odd_stages:Shouter",
            "'odd_stages:Shouter' is no stage of that kind: a dataclass is wanted whose 'kind' is "
            "'odd_stages:Shouter'.",
        ),
    ],
)
def test_a_stage_of_ones_own_that_is_none(kind: str, text: str) -> None:
    with pytest.raises(DataError) as caught:
        build("x", [{"kind": kind}])
    assert str(caught.value) == text


def test_files_that_killed_processes_left_are_swept_after_a_day(tmp_path: Path) -> None:
    plan = planned([many(tmp_path / "in", 1)], tmp_path / "out", "shout")
    run(plan, jobs=1)
    old, new = (plan.home("shout") / f".00000.parquet.{pid}.1.part" for pid in (1, 2))
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    assert status(plan).stages[0].rows == 20
    run(plan, jobs=1)
    assert (old.exists(), new.exists()) == (False, True)


def test_workers_end_with_their_driver(tmp_path: Path) -> None:
    process = driver(many(tmp_path / "in", 4), tmp_path / "out", seconds=30.0)
    stop = time.monotonic() + 60
    while not list((tmp_path / "out" / attempts.FOLDER).glob("*")) and time.monotonic() < stop:
        time.sleep(0.05)
    workers = below(process.pid)
    assert len(workers) >= 3
    process.kill()
    process.wait()
    assert gone(workers)


def test_killed_twenty_times_at_random_the_same_files_come_out(tmp_path: Path) -> None:
    """Workers, the server that makes them, the driver: at most what was in flight is done again."""
    shards, luck = many(tmp_path / "in", 40), random.Random(5)
    whole = planned([shards], tmp_path / "whole", *TEXTS, shout_seconds=0.15)
    run(whole, jobs=2)
    expected, kills, rounds, drivers = print_of(whole.folder), 0, 0, 0
    committed: dict[Path, int] = {}
    while kills < 20:
        rounds += 1
        out = tmp_path / f"out{rounds}"
        while True:
            process = driver(shards, out, seconds=0.15)
            drivers += 1
            while process.poll() is None and kills < 20:
                time.sleep(luck.uniform(0.1, 1.0))
                victims = list(below(process.pid))
                if len(victims) < 4 or process.poll() is not None:
                    continue  # it has not begun, or is about to end
                committed |= {path: path.stat().st_mtime_ns for path in out.rglob("*.done.json")}
                victim = process.pid if luck.random() < 0.3 else luck.choice(victims)
                try:
                    os.kill(victim, 9)
                except ProcessLookupError:
                    continue
                kills += 1
            told, _ = process.communicate(timeout=120)
            if process.returncode != -9:
                assert process.returncode == 0, told.decode()
                break
        plan = planned([shards], out, *TEXTS, shout_seconds=0.15)
        assert print_of(out) == expected
        assert status(plan).finished
        assert not any(blocked(plan, item.name) for item in plan.shards)
    assert drivers > rounds
    assert sum(path.stat().st_mtime_ns != before for path, before in committed.items()) <= 2 * kills
