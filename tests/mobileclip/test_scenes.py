"""Rendered scenes: the same bits everywhere; masks, depth and boxes that agree; corpora that are written once."""

import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mobileclip.data import scenes
from mobileclip.data.corpus import corpus
from mobileclip.data.scene_layout import layout, stream
from mobileclip.data.scene_rays import View, local
from mobileclip.data.scene_render import MAX_DEPTH, Scene, render
from mobileclip.data.scene_shapes import REACH, SOLIDS
from mobileclip.data.scene_words import COLOURS, MATERIALS, SETTINGS, SHAPES
from mobileclip.data.scenes import FIRST_OF_VAL, AltNoise, write_scenes
from mobileclip.errors import DataError, OutputError, UnknownName
from mobileclip.evaluate.classification_sets import open_classification
from mobileclip.evaluate.retrieval_sets import open_retrieval

INDICES = st.integers(0, 2**40)
SMALL: dict[str, Any] = {"count": 5, "size": 32, "val_count": 3, "per_shard": 2, "wordings": 2}


def digest(scene: Scene) -> str:
    parts = (scene.image, scene.mask, scene.instances, scene.depth)
    return hashlib.sha256(b"".join(part.tobytes() for part in parts)).hexdigest()


def test_same_bits_in_another_process() -> None:
    code = (
        "import sys, hashlib; from mobileclip.data.scene_render import render\n"
        "for index in (7, 3, 100):\n"
        "    s = render(4, index, 64)\n"
        "    parts = (s.image, s.mask, s.instances, s.depth)\n"
        "    print(hashlib.sha256(b''.join(part.tobytes() for part in parts)).hexdigest())"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert out == [digest(render(4, index, 64)) for index in (7, 3, 100)]


def test_scenes_differ() -> None:
    assert len({digest(render(seed, index, 16)) for seed in (0, 1) for index in range(30)}) == 60


@settings(max_examples=40, deadline=None)
@given(index=INDICES, size=st.sampled_from([16, 33, 64, 128]))
def test_truth_agrees_with_itself(index: int, size: int) -> None:
    scene = render(0, index, size)
    assert (scene.image.shape, scene.image.dtype) == ((size, size, 3), np.uint8)
    assert (scene.mask.dtype, scene.instances.dtype, scene.depth.dtype) == (np.uint8, np.uint8, np.float32)
    assert {array.shape for array in (scene.mask, scene.instances, scene.depth)} == {(size, size)}
    assert np.isfinite(scene.depth).all()
    assert scene.depth.min() > 0
    assert scene.depth.max() <= MAX_DEPTH
    assert np.array_equal(scene.mask == 0, scene.instances == 0)
    assert set(np.unique(scene.instances)) <= {0, *(seen.instance for seen in scene.objects)}
    for seen in scene.objects:
        own = scene.instances == seen.instance
        assert seen.pixels == own.sum()
        assert 0 <= seen.visible <= 1
        assert SHAPES[seen.label] == seen.thing.shape
        if not seen.pixels:
            assert seen.box == (0, 0, 0, 0)
            continue
        rows, columns = np.nonzero(own)
        assert seen.box == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        assert (scene.mask[own] == seen.label + 1).all()
        reach = 1.5 * max(seen.thing.scale)
        assert np.abs(scene.depth[own] - seen.thing.depth).max() < reach
        u0, v0, u1, v1 = ((bound + 0.5) * size for bound in seen.thing.extent)
        assert u0 - 1.01 <= seen.box[0] < seen.box[2] <= u1 + 1.01
        assert v0 - 1.01 <= seen.box[1] < seen.box[3] <= v1 + 1.01


@settings(max_examples=30, deadline=None)
@given(index=INDICES)
def test_main_object_is_nearest_prominent_and_uncovered(index: int) -> None:
    scene = render(0, index, 64)
    main, others = scene.objects[0], scene.objects[1:]
    assert main.thing is scene.plan.main
    assert main.visible == 1
    assert main.pixels > 64 * 64 * 0.02
    for other in others:
        assert other.thing.depth > main.thing.depth
        assert max(other.thing.scale) / other.thing.depth < max(main.thing.scale) / main.thing.depth
    assert scene.label == main.label == scene.plan.label
    assert 1 <= len(scene.objects) <= 5


def test_every_object_is_mostly_there() -> None:
    shares = [seen.visible for index in range(150) for seen in render(0, index, 96).objects]
    assert np.mean([share > 0.3 for share in shares]) > 0.98
    assert min(share for share in shares) > 0.05


@settings(max_examples=12, deadline=None)
@given(index=INDICES)
def test_a_scene_is_the_same_at_every_size(index: int) -> None:
    small, large = render(0, index, 64), render(0, index, 256)
    assert small.plan == large.plan
    blocks = large.image.reshape(64, 4, 64, 4, 3).mean(axis=(1, 3))
    assert np.abs(blocks - small.image).mean() < 14
    centre = large.instances[2::4, 2::4]
    assert (centre == small.instances).mean() > 0.97
    near = (large.instances[1::4, 1::4] == centre) & (centre == small.instances)
    ratio = np.median(np.abs(small.depth - large.depth[2::4, 2::4])[near] / small.depth[near])
    assert ratio < 0.03


def test_ground_truth_of_the_ground() -> None:
    """Depth of a ground pixel is where its ray meets y = 0."""
    for index in range(20):
        scene = render(0, index, 64)
        camera = scene.plan.camera
        free = scene.instances[-1] == 0
        _, dy, dz = camera.ray(0.0, (63.5 / 64) - 0.5)
        if free.any() and camera.height / -dy * dz < scene.plan.wall:
            assert np.allclose(scene.depth[-1][free], camera.height / -dy, rtol=1e-4)


@pytest.mark.parametrize("shape", SHAPES)
def test_solids(shape: str) -> None:
    """Points that rays hit lie within reach of the shape, and normals face the ray."""
    rng = np.random.default_rng(0)
    half, tall, deep = REACH[shape]
    for variant in ((0.0, 0.0), (1.0, 1.0), (0.3, 0.6)):
        target = rng.uniform((-half, 0, -deep), (half, tall, deep), (4000, 3)).astype(np.float32)
        eye = np.array([0.7, 1.6, -3.0], np.float32)
        direction = tuple((target - eye).T)
        union = np.zeros(len(target), bool)
        for part in SOLIDS[shape](*variant):
            with np.errstate(all="ignore"):
                t = part.solid.hit(tuple(eye), direction)
            assert t.dtype == np.float32
            hit = np.isfinite(t)
            union |= hit
            point = [e + t[hit] * d[hit] for e, d in zip(eye, direction, strict=True)]
            low, high = np.array(part.solid.bounds()).reshape(2, 3)
            for axis in range(3):
                assert (point[axis] > low[axis] - 0.02).all()
                assert (point[axis] < high[axis] + 0.02).all()
            assert (low > np.array([-half, 0, -deep]) - 0.03).all(), shape
            assert (high < np.array([half, tall, deep]) + 0.03).all(), shape
            normal = part.solid.normal((point[0], point[1], point[2]))
            facing = sum(n * d[hit] for n, d in zip(normal, direction, strict=True))
            length = np.sqrt(sum(np.square(n) for n in normal)) * np.sqrt(sum(np.square(d[hit]) for d in direction))
            assert np.mean(facing / (length + 1e-9) < 0.05) > 0.95, shape
        assert union.mean() > 0.1, shape


@pytest.mark.parametrize("shape", SHAPES)
def test_rays_meet_a_solid_from_both_ends_or_not_at_all(shape: str) -> None:
    rng = np.random.default_rng(1)
    directions = rng.normal(size=(3, 4000)).astype(np.float32)
    directions /= np.sqrt((directions**2).sum(axis=0))
    middles = rng.uniform((-0.5, 0, -0.5), (0.5, 1, 0.5), (4000, 3)).astype(np.float32).T
    for part in SOLIDS[shape](0.4, 0.3):
        with np.errstate(all="ignore"):
            there = part.solid.hit(tuple(middles - 4 * directions), tuple(directions))
            back = part.solid.hit(tuple(middles + 4 * directions), tuple(-directions))
        assert np.mean(np.isfinite(there) != np.isfinite(back)) < 0.04  # plates are sampled, seen edge-on the most
        both = np.isfinite(there) & np.isfinite(back)
        assert np.mean(there[both] + back[both] > 8.02) < 0.03  # it leaves where the other one came in


def test_local_frame_and_projection_agree() -> None:
    plan = layout(0, 3)
    view = View(plan, 64)
    thing = plan.main
    x, z = thing.place
    u, v, depth = plan.camera.project(x, 0.0, z)
    assert depth == pytest.approx(thing.depth, rel=1e-5)
    ray = view.rays(np.float32(u), np.float32(v))
    foot = (depth * ray[0] - x, depth * ray[1] + plan.camera.height, depth * ray[2] - z)
    assert np.allclose(foot, 0, atol=1e-3)
    assert np.allclose(local(thing, foot), 0, atol=0.01)


def test_corpus_is_varied() -> None:
    plans = [layout(0, index) for index in range(800)]
    things = [thing for plan in plans for thing in plan.things]
    assert {thing.shape for thing in things} == set(SHAPES)
    assert {thing.colour for thing in things} == set(COLOURS)
    assert {thing.material for thing in things} == set(MATERIALS)
    assert {plan.setting for plan in plans} == set(SETTINGS)
    assert {len(plan.things) for plan in plans} == {1, 2, 3, 4, 5}
    assert np.mean([len(plan.things) for plan in plans]) > 1.9
    assert {plan.light.side for plan in plans} == {"left", "right", "above"}
    labels = np.bincount([plan.label for plan in plans], minlength=len(SHAPES))
    assert labels.min() > 15
    assert all(len({(t.colour, t.shape) for t in plan.things}) == len(plan.things) for plan in plans)


def test_arguments_of_rendering() -> None:
    with pytest.raises(DataError, match="a scene of 8 pixels: 16 to 2048 a side is allowed"):
        render(0, 0, 8)
    with pytest.raises(DataError, match=r"seed is -1: 0 to 2\^63 - 1 is allowed"):
        render(-1, 0, 32)
    with pytest.raises(DataError, match="index is 9223372036854775808"):
        stream(0, 2**63, 0)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scenes(tmp_path_factory.mktemp("scenes") / "out", seed=9, **SMALL)


def tree(root: Path) -> dict[str, str]:
    """File -> hash, the indices apart, which hold the time of their tar."""
    files = [path for path in root.rglob("*") if path.is_file() and not path.name.endswith(".index.safetensors")]
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def members(tar: Path) -> dict[str, bytes]:
    with tarfile.open(tar) as file:
        return {info.name: file.extractfile(info).read() for info in file}  # type: ignore[union-attr]


def test_samples_hold_what_was_rendered(written: Path) -> None:
    found = members(written / "train" / "00001.tar")
    assert {name.split(".")[0] for name in found} == {"000000002", "000000003"}
    scene = render(9, 3, 32)
    record = json.loads(found["000000003.json"])
    assert record["uid"] == f"{9:016x}{3:016x}"
    assert int(found["000000003.cls"]) == record["label"] == scene.label
    assert [one["box"] for one in record["objects"]] == [list(seen.box) for seen in scene.objects]
    assert record["setting"] == scene.plan.setting
    picture = simplejpeg.decode_jpeg(found["000000003.jpg"])
    assert np.abs(picture.astype(int) - scene.image).mean() < 8
    for name, truth in (("mask", scene.mask), ("instances", scene.instances)):
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(found[f"000000003.{name}.png"]))), truth)
    depth = np.asarray(Image.open(io.BytesIO(found["000000003.depth.png"])))
    assert np.abs(depth.astype(np.float64) / 1000 - scene.depth).max() < 0.00051
    syn = json.loads(found["000000003.syn.json"])
    assert syn["syn_text_short"] == scenes.captions(scene.plan, "short", 2)
    assert syn["syn_text_quality"] == scenes.captions(scene.plan, "quality", 2)
    alt = scenes.alt_caption(scene.plan, corpus=5)
    assert found["000000003.txt"].decode() == alt.text
    assert (record["alt_kind"], record["alt_faults"]) == (alt.kind, list(alt.faults))
    assert record["caption_short"] in syn["syn_text_short"]
    assert record["caption_quality"] in syn["syn_text_quality"]


def test_the_loader_and_evaluation_read_it(written: Path) -> None:
    found = corpus([str(written / "train")])
    assert found.n == 5
    assert {source for shard in found.shards for source in shard.sources} == {
        "alt",
        "syn_text_short",
        "syn_text_quality",
    }
    assert corpus([str(written / "val")]).n == 3
    rows = [json.loads(line) for line in (written / "val" / "captions.jsonl").read_text().splitlines()]
    assert [row["file"] for row in rows] == [f"images/{number:06d}.jpg" for number in range(3)]
    assert all((written / "val" / row["file"]).is_file() and len(row["captions"]) == 2 for row in rows)
    classes = open_classification(written / "val")
    assert (len(classes.pictures), classes.classes) == (3, tuple(SHAPES))
    assert list(classes.labels) == [layout(9, FIRST_OF_VAL + number).label for number in range(3)]
    assert len(open_retrieval(written / "val").pictures) == 3


def test_finished_is_not_made_again(written: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in written.rglob("*")}
    calls: list[tuple[int, int]] = []
    write_scenes(written, seed=9, progress=lambda done, total: calls.append((done, total)), **SMALL)
    assert {path: path.stat().st_mtime_ns for path in written.rglob("*")} == before
    assert not calls


def test_other_arguments_are_refused(written: Path) -> None:
    with pytest.raises(DataError, match=r"holds scenes of other arguments \(seed 9 there, 8 asked for; size 32 there"):
        write_scenes(written, **SMALL | {"seed": 8, "size": 48})
    with pytest.raises(DataError, match=r"holds scenes of other arguments .*noise .*give another folder"):
        write_scenes(written, seed=9, noise=AltNoise(boilerplate=0.5), **SMALL)


def test_jobs_do_not_matter(written: Path, tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    out = tmp_path / "out"
    write_scenes(out, seed=9, jobs=2, progress=lambda done, total: calls.append((done, total)), **SMALL)
    assert tree(out) == tree(written)
    assert calls[-1] == (8, 8)
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)


def test_an_interrupted_corpus_is_finished(written: Path, tmp_path: Path) -> None:
    code = (
        "import sys, os; from mobileclip.data.scenes import write_scenes\n"
        "def stop(done, total):\n"
        "    if done >= 4: os._exit(9)\n"
        f"write_scenes(sys.argv[1], seed=9, progress=stop, **{SMALL!r})"
    )
    out = tmp_path / "out"
    assert subprocess.run([sys.executable, "-c", code, str(out)]).returncode == 9
    assert not (out / "scenes.json").exists()
    assert not (out / "train" / "manifest.json").exists()
    with pytest.raises(DataError, match="holds scenes of other arguments"):
        write_scenes(out, **SMALL | {"seed": 10})
    first = (out / "train" / "00000.tar").stat().st_mtime_ns
    write_scenes(out, seed=9, **SMALL)
    assert (out / "train" / "00000.tar").stat().st_mtime_ns == first
    assert tree(out) == tree(written)


def test_a_shard_that_was_cut_is_made_again(written: Path, tmp_path: Path) -> None:
    calls = 0

    def stop(done: int, total: int) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt

    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        write_scenes(out, seed=9, progress=stop, **SMALL)
    os.truncate(out / "train" / "00000.tar", 1000)
    write_scenes(out, seed=9, **SMALL)
    assert tree(out) == tree(written)


def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    assert resource
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))\n"
        "from mobileclip.data.scenes import write_scenes; from mobileclip.errors import OutputError\n"
        "try: write_scenes(sys.argv[1], count=40, size=32, val_count=2)\n"
        "except OutputError as error: print(error)"
    )
    out = tmp_path / "out"
    run = subprocess.run([sys.executable, "-c", code, str(out)], capture_output=True, text=True, check=True)
    assert "00000.tar' cannot be written (File too large)" in run.stdout
    names = {path.name for path in out.rglob("*") if path.is_file()}
    assert names <= {".scenes.json", ".packing.json"}


@pytest.mark.parametrize(
    ("qualities", "lists"),
    [
        (("alt",), set()),
        (("short",), {"syn_text_short"}),
        (("quality", "alt"), {"syn_text_quality"}),
        ("quality", None),
    ],
)
def test_corpora_of_one_quality_share_their_pictures(
    written: Path, tmp_path: Path, qualities: Any, lists: set[str] | None
) -> None:
    out = write_scenes(tmp_path / "out", seed=9, caption_quality=qualities, **SMALL)
    one, all_ = members(out / "train" / "00000.tar"), members(written / "train" / "00000.tar")
    assert one["000000000.jpg"] == all_["000000000.jpg"]
    syn = json.loads(one.get("000000000.syn.json", b"{}"))
    lists = {"syn_text_quality"} if lists is None else lists
    assert {name for name in syn if name.startswith("syn_text")} == lists
    if "alt" in qualities:
        assert one["000000000.txt"] == all_["000000000.txt"]
    else:
        assert one["000000000.txt"].decode() == next(iter(syn.values()))[0]
    assert members(out / "val" / "00000.tar") == members(written / "val" / "00000.tar")


def test_dense_truth_can_be_left_out(tmp_path: Path) -> None:
    out = write_scenes(tmp_path / "out", seed=9, dense=False, **SMALL | {"val_count": 0})
    endings = {name.split(".", 1)[1] for name in members(out / "train" / "00000.tar")}
    assert endings == {"jpg", "txt", "json", "syn.json", "cls"}
    assert (out / "val" / "captions.jsonl").read_text() == ""


@pytest.mark.parametrize(
    ("values", "kind", "text"),
    [
        ({"count": 0}, DataError, "count is 0: 1 to "),
        ({"size": 4000}, DataError, "size is 4000: 16 to 2,048 is allowed"),
        ({"wordings": 0}, DataError, "wordings is 0: 1 to 32 is allowed"),
        ({"jobs": 0}, DataError, "jobs is 0: at least 1 process"),
        ({"caption_quality": ()}, DataError, "no caption quality was given"),
        ({"caption_quality": ("best",)}, UnknownName, "unknown caption quality 'best'"),
    ],
)
def test_arguments_of_writing(tmp_path: Path, values: dict[str, Any], kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=text):
        write_scenes(tmp_path / "out", **{**SMALL, **values})
    assert not (tmp_path / "out").exists()


def test_foreign_folders_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(OutputError, match="is there and holds no scenes: give a new or empty folder"):
        write_scenes(tmp_path, **SMALL)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "scenes.json").write_text("[1")
    with pytest.raises(DataError, match=r"scenes\.json' is damaged"):
        write_scenes(tmp_path / "other", **SMALL)
