"""The same work on Ray's actors: on one Ray that all tests of this file share, and by drivers that are killed."""

import os
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from odd_shards import below, driver, gone, many, planned, print_of, texts_tar

from mobileclip.captions.engine import ray_engine, run, status
from mobileclip.captions.engine.ray_engine import Cluster, connected
from mobileclip.errors import MissingExtra, OutputError

ray = pytest.importorskip("ray", reason="Ray is not installed")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Ray, started as `engine="ray"` does without an address."""
    with connected(None, cpus=1.0, gpus=0.0, jobs=2) as found:
        yield found


def test_it_listens_on_loopback_alone_and_has_room(cluster: Cluster) -> None:
    assert [node["NodeManagerAddress"] for node in ray.nodes()] == ["127.0.0.1"]
    assert cluster.room == 2
    assert Cluster(ray=ray, cpus=0.5, gpus=0.0).room == 4
    assert Cluster(ray=ray, cpus=1.0, gpus=0.5).room == 1


def test_the_same_files_as_of_processes(cluster: Cluster, tmp_path: Path, pairs: Path) -> None:
    folder = many(tmp_path / "in", 5, s3_5="exit", s3_6="memory", s3_7="raise")
    texts_tar(folder / "empty.tar", [])
    plans = {engine: planned([folder, pairs], tmp_path / engine) for engine in ("local", "ray")}
    found = {engine: run(plan, engine=engine, jobs=2) for engine, plan in plans.items()}
    assert found["ray"].blocked == found["local"].blocked
    assert found["ray"].blocked == {"00003": {"000005": "ends the process (exit code 3)", "000006": "out of memory"}}
    assert print_of(plans["ray"].folder) == print_of(plans["local"].folder)
    assert not list(plans["ray"].folder.glob(".seen-*"))
    assert 10_000_000 < found["ray"].memory < 1_000_000_000


def test_an_actor_that_stands_still_is_ended(cluster: Cluster, tmp_path: Path) -> None:
    plan = planned([many(tmp_path / "in", 2, rows=4, s1_2="hang")], tmp_path / "out", "deadly")
    summary = run(plan, engine="ray", jobs=2, watchdog=4.0)
    assert summary.blocked == {"00001": {"000002": "makes no progress"}}
    assert summary.counts["killed"] == 2


def test_a_full_disk_on_a_node_ends_the_run(cluster: Cluster, tmp_path: Path) -> None:
    plan = planned([many(tmp_path / "in", 3, s0_3="full")], tmp_path / "out", "deadly")
    with pytest.raises(OutputError, match=r"^'x' cannot be written \(No space left on device\): give a place that exi"):
        run(plan, engine="ray", jobs=1)


def test_a_driver_at_an_address_is_killed_and_so_are_its_actors(cluster: Cluster, tmp_path: Path) -> None:
    """Driver and actors come and go, the cluster stays; kills at random."""
    shards, luck = many(tmp_path / "in", 12), random.Random(3)
    whole = planned([shards], tmp_path / "whole", "shout", "share", shout_seconds=0.3)
    run(whole, jobs=2)
    address = ray.get_runtime_context().gcs_address
    out, kills, drivers = tmp_path / "out", 0, 0
    while True:
        process = driver(shards, out, seconds=0.3, engine="ray", address=address)
        drivers += 1
        while process.poll() is None and kills < 6:
            time.sleep(luck.uniform(0.2, 0.8))
            actors = [pid for pid, command in below(os.getpid()).items() if command.startswith("ray::Actor")]
            if not actors:
                continue
            victim = process.pid if kills in (1, 3) else luck.choice(actors)
            os.kill(victim, 9)
            kills += 1
        told, _ = process.communicate(timeout=240)
        if process.returncode != -9:
            assert process.returncode == 0, told.decode()
            break
    assert drivers == 1 + (kills > 1) + (kills > 3)
    assert print_of(out) == print_of(whole.folder)
    assert status(planned([shards], out, "shout", "share", shout_seconds=0.3)).finished


def test_a_whole_node_is_killed(tmp_path: Path) -> None:
    """With a Ray of its own: its processes end, and the next run goes on."""
    shards, out = many(tmp_path / "in", 8), tmp_path / "out"
    process = driver(shards, out, seconds=0.5, engine="ray")
    stop = time.monotonic() + 300
    while not list(out.rglob("*.done.json")) and process.poll() is None and time.monotonic() < stop:
        time.sleep(0.05)
    started = below(process.pid)
    (node,) = [pid for pid, command in started.items() if "/raylet/raylet " in command]
    os.kill(node, 9)
    told, _ = process.communicate(timeout=300)
    assert process.returncode != 0, told.decode()
    assert gone(started, 120)  # its agents look up now and then
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.done.json")}
    assert before
    plan = planned([shards], out, "shout", "share", shout_seconds=0.5)
    run(plan, jobs=2)
    whole = planned([shards], tmp_path / "whole", "shout", "share", shout_seconds=0.5)
    run(whole, jobs=2)
    assert print_of(out) == print_of(whole.folder)
    assert all(path.stat().st_mtime_ns == time_ for path, time_ in before.items())


def test_a_folder_that_a_node_does_not_see(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = planned([many(tmp_path / "in", 1)], tmp_path / "out", "shout")
    original = ray_engine.Actors.__enter__

    def enter(self: Any) -> Any:
        original(self)
        self._token.unlink()  # as on a node where the folder is another disk's
        return self

    monkeypatch.setattr(ray_engine.Actors, "__enter__", enter)
    monkeypatch.setattr(ray_engine, "SEEN", 1.0)
    with pytest.raises(
        OutputError, match=r"does not see '.*/out': give a folder on a file system that all nodes share\.$"
    ):
        run(plan, engine="ray", jobs=1)


def test_without_ray_the_line_that_installs_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    plan = planned([many(tmp_path / "in", 1)], tmp_path / "out", "shout")
    with pytest.raises(MissingExtra) as caught:
        run(plan, engine="ray")
    assert str(caught.value) == "engine 'ray' needs Ray: pip install 'mobileclip-toolkit[ray]'"


def test_a_cluster_that_is_not_there(tmp_path: Path) -> None:
    """In a process of its own, where no Ray is connected."""
    process = driver(many(tmp_path / "in", 1), tmp_path / "out", seconds=0.0, engine="ray", address="127.0.0.1:1")
    told, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    assert told.decode().strip().splitlines()[-1] == (
        "mobileclip.errors.MobileClipError: Ray is not reached at 127.0.0.1:1 ([Errno 111] Connection refused): check "
        "the address, and that versions of Ray are the same; or use another engine."
    )
