"""The procedural corpus: rendered scenes with captions at graded quality and full ground truth, as packed shards.

    write_scenes("scenes", count=20_000, size=64, jobs=8)
    scenes/train/00000.tar ...   scenes/val/00000.tar ...   scenes/val/captions.jsonl   scenes/val/images/000000.jpg ...

A sample has `.jpg`, `.txt`, `.json` (attributes, boxes, light, camera), `.syn.json` (lists `syn_text_short` and
`syn_text_quality`), `.cls` (the main object's shape), and unless left out `.mask.png`, `.instances.png` and
`.depth.png` (16 bits, millimetres).

Unusual: a sample depends on the seed and its index alone, so corpora of any count, number of jobs and caption quality
share their pictures, and the validation part, whose indices begin at 2^40 and whose captions are always of all
qualities, is the same for every training part. What is finished is never made again.
"""

import io
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobileclip.data import shard_writer
from mobileclip.data.arrays import placing, writing
from mobileclip.data.pool import each
from mobileclip.data.sample import sample_members
from mobileclip.data.scene_captions import (
    QUALITIES,
    AltNoise,
    Quality,
    alt_caption,
    captions,
    class_names,
    fine_label,
    templates,
)
from mobileclip.data.scene_layout import layout
from mobileclip.data.scene_render import MAX_SIZE, Scene, SceneObject, render
from mobileclip.data.scene_words import SHAPES
from mobileclip.data.shard_writer import TarWriter, Written
from mobileclip.data.shards import Text
from mobileclip.errors import DataError, OutputError, UnknownName

__all__ = ["FIRST_OF_VAL", "SHAPES", "AltNoise", "Scene", "SceneObject", "layout", "render", "write_scenes"]

FIRST_OF_VAL = 1 << 40
"""Index of the first scene of the validation part."""
DONE, BEGUN = "scenes.json", ".scenes.json"
"""What a finished corpus, and one on its way, was asked for."""

Progress = Callable[[int, int], None]
"""Called with the number of scenes that are written and the number of all."""

_VERSION = 1  # of what a seed gives; another one is another corpus
_LICENCE = "CC0-1.0"


@dataclass(frozen=True, kw_only=True)
class _Request:
    """What decides the content of a corpus, all of it."""

    version: int
    seed: int
    count: int
    val_count: int
    size: int
    caption_quality: tuple[str, ...]
    wordings: int
    noise: AltNoise
    per_shard: int
    dense: bool
    jpeg_quality: int


@dataclass(frozen=True, kw_only=True)
class _Task:
    """One shard."""

    path: Path
    request: _Request
    first: int  # index of its first scene
    start: int  # number of that scene in its part
    stop: int
    val: bool


def write_scenes(
    out: str | os.PathLike[str],
    *,
    count: int,
    size: int = 128,
    seed: int = 0,
    caption_quality: Sequence[str] = QUALITIES,
    wordings: int = 3,
    noise: AltNoise | None = None,
    val_count: int = 512,
    per_shard: int = 1_000,
    dense: bool = True,
    jpeg_quality: int = 92,
    jobs: int = 1,
    progress: Progress | None = None,
) -> Path:
    """Write `count` scenes to train on and `val_count` to measure with; started again, it goes on where it was.

    `caption_quality` are the texts that training samples get, `wordings` how many of each (of "alt" always one).
    Without "alt" among them, `.txt` is the first of the others. `dense` writes masks and depth.

    Returns:
        `out`, which has `train/`, `val/` and, written last, `scenes.json`.

    Raises:
        DataError: an argument is out of range, or `out` holds scenes of other arguments.
        OutputError: `out` holds something else, or cannot be written.
    """
    request = _request(
        seed=seed,
        count=count,
        val_count=val_count,
        size=size,
        caption_quality=caption_quality,
        wordings=wordings,
        noise=noise or AltNoise(),
        per_shard=per_shard,
        dense=dense,
        jpeg_quality=jpeg_quality,
    )
    if jobs < 1:
        raise DataError(f"jobs is {jobs}: at least 1 process is allowed; one per core is usual.")
    root = Path(out)
    if not _claim(root, request):
        return root
    parts = [(root / "train", 0, count, False), (root / "val", FIRST_OF_VAL, val_count, True)]
    open_parts = [part for part in parts if not (part[0] / shard_writer.MANIFEST).exists()]
    for folder, *_ in open_parts:
        shard_writer.claim(folder)
    tasks = [task for part in open_parts for task in _tasks(request, *part)]
    total = count + val_count
    done = total - sum(task.stop - task.start for task in tasks)
    written: dict[Path, list[Written]] = {folder: [] for folder, *_ in open_parts}
    for task, one in _run(tasks, jobs):
        written[task.path.parent].append(one)
        done += one.count
        if progress is not None:
            progress(done, total)
    _val_files(root / "val", request)
    provenance = {"scenes": _as_json(request)}
    for folder, ones in written.items():
        shard_writer.finish(folder, sorted(ones, key=lambda one: one.name), provenance)
    with placing(root / DONE) as file:
        file.write(_dump(_as_json(request)))
    with writing(root):
        for folder, *_ in parts:
            for path in folder.glob("*.done.json"):
                path.unlink()
        (root / BEGUN).unlink(missing_ok=True)
    return root


def _request(*, caption_quality: Sequence[str], **values: Any) -> _Request:
    qualities = (caption_quality,) if isinstance(caption_quality, str) else tuple(caption_quality)
    for quality in qualities:
        if quality not in QUALITIES:
            raise UnknownName("caption quality", quality, QUALITIES)
    if not qualities:
        raise DataError(f"no caption quality was given: one or more of {', '.join(QUALITIES)} are allowed.")
    for name, low, high in (
        ("count", 1, FIRST_OF_VAL),
        ("val_count", 0, 1_000_000),
        ("size", 16, MAX_SIZE),
        ("seed", 0, 2**63 - 1),
        ("wordings", 1, 32),
        ("per_shard", 1, 1_000_000),
        ("jpeg_quality", 1, 100),
    ):
        if not low <= values[name] <= high:
            raise DataError(f"{name} is {values[name]}: {low:,} to {high:,} is allowed; choose such a number.")
    ordered = tuple(quality for quality in QUALITIES if quality in qualities)
    return _Request(version=_VERSION, caption_quality=ordered, **values)


def _as_json(request: _Request) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(json.dumps(asdict(request)))
    return value


def _dump(value: object) -> bytes:
    return json.dumps(value, indent=1).encode() + b"\n"


def _claim(root: Path, request: _Request) -> bool:
    """Whether there is something to write; a folder of other scenes is refused."""
    asked = _as_json(request)
    for name in (DONE, BEGUN):
        path = root / name
        if not path.exists():
            continue
        try:
            found = json.loads(path.read_bytes())
            known = dict(found)
        except (OSError, ValueError, TypeError) as error:
            raise DataError(f"'{path}' is damaged ({error}): give another folder, or remove this one.") from error
        differences = [
            f"{field} {known.get(field)!r} there, {asked[field]!r} asked for"
            for field in asked
            if known.get(field) != asked[field]
        ]
        if differences:
            raise DataError(
                f"'{root}' holds scenes of other arguments ({'; '.join(differences)}): give another folder, or remove "
                "it first."
            )
        return name != DONE
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise OutputError(f"'{root}' is there and holds no scenes: give a new or empty folder.")
    with placing(root / BEGUN) as file:
        file.write(_dump(asked))
    return True


def _tasks(request: _Request, folder: Path, first: int, count: int, val: bool) -> Iterator[_Task]:
    for number, start in enumerate(range(0, count, request.per_shard)):
        yield _Task(
            path=folder / f"{number:05d}.tar",
            request=request,
            first=first + start,
            start=start,
            stop=min(start + request.per_shard, count),
            val=val,
        )


def _run(tasks: Sequence[_Task], jobs: int) -> Iterator[tuple[_Task, Written]]:
    """All shards, those first that an earlier run finished."""
    waiting = []
    for task in tasks:
        known = _finished(task)
        if known is None:
            waiting.append(task)
        else:
            yield task, known
    yield from each(_write, waiting, jobs)


def _finished(task: _Task) -> Written | None:
    """What an earlier run says of a shard that is still there."""
    try:
        written = Written(**json.loads(task.path.with_suffix(".done.json").read_bytes()))
        return written if task.path.stat().st_size == written.bytes else None
    except (OSError, ValueError, TypeError):
        return None


def _write(task: _Task) -> Written:
    """One shard, a function of its task alone."""
    task.path.with_suffix(".done.json").unlink(missing_ok=True)
    with TarWriter(task.path) as writer:
        for number in range(task.start, task.stop):
            index = task.first + number - task.start
            key = f"v{number:08d}" if task.val else f"{number:09d}"
            texts, members, record, image = _sample(task.request, index, val=task.val)
            writer.add(key, sample_members(key, image, texts, record, members, None), texts)
    written = writer.written()
    with placing(task.path.with_suffix(".done.json")) as file:
        file.write(_dump(asdict(written)))
    return written


def _sample(request: _Request, index: int, *, val: bool) -> tuple[list[Text], dict[str, bytes], dict[str, Any], bytes]:
    scene = render(request.seed, index, request.size)
    texts, extra = _texts(request, scene, QUALITIES if val else request.caption_quality)
    members = {"cls": str(scene.label).encode()}
    if request.dense:
        members["mask.png"] = _png(scene.mask)
        members["instances.png"] = _png(scene.instances)
        members["depth.png"] = _png(np.round(scene.depth * 1000).astype(np.uint16))
    return texts, members, _record(scene) | extra, _jpeg(scene, request.jpeg_quality)


def _texts(request: _Request, scene: Scene, qualities: Sequence[str]) -> tuple[list[Text], dict[str, Any]]:
    """Captions of one sample, and for the record what is wrong with its web text."""
    texts, extra = [], {}
    if "alt" in qualities:
        alt = alt_caption(scene.plan, noise=request.noise, corpus=request.count)
        texts.append(Text(source="alt", text=alt.text))
        extra = {"alt_kind": alt.kind, "alt_faults": list(alt.faults)}
    true: tuple[Quality, ...] = ("short", "quality")
    for quality in true:
        if quality in qualities:
            found = captions(scene.plan, quality, request.wordings)
            if not texts:
                texts.append(Text(source="alt", text=found[0]))
            texts += [Text(source=f"syn_text_{quality}", text=text) for text in found]
    return texts, extra


def _record(scene: Scene) -> dict[str, Any]:
    """What `.json` says of a scene."""
    plan, size = scene.plan, scene.image.shape[0]
    objects = []
    for seen in scene.objects:
        thing = seen.thing
        objects.append(
            {
                "instance": seen.instance,
                "label": seen.label,
                "shape": thing.shape,
                "colour": thing.colour,
                "material": thing.material,
                "size": thing.size,
                "box": list(seen.box),
                "pixels": seen.pixels,
                "visible": round(seen.visible, 4),
                "depth": round(thing.depth, 4),
                "place": [round(part, 4) for part in thing.place],
                "metres": [round(part, 4) for part in thing.scale],
            }
        )
    return {
        "uid": f"{plan.seed:016x}{plan.index:016x}",
        "seed": plan.seed,
        "index": plan.index,
        "width": size,
        "height": size,
        "license": _LICENCE,
        "label": scene.label,
        "label_name": plan.main.shape,
        "label_fine": fine_label(plan),
        "setting": plan.setting,
        "light": {
            "warmth": plan.light.warmth,
            "brightness": plan.light.brightness,
            "side": plan.light.side,
            "towards": [round(part, 4) for part in plan.light.towards],
        },
        "camera": {
            "height": round(plan.camera.height, 4),
            "pitch": round(plan.camera.pitch, 5),
            "focal": round(plan.camera.focal, 5),
        },
        "objects": objects,
    }


def _jpeg(scene: Scene, quality: int) -> bytes:
    import simplejpeg

    content: bytes = simplejpeg.encode_jpeg(scene.image, quality=quality, colorspace="RGB", colorsubsampling="420")
    return content


def _png(pixels: NDArray[Any]) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=1)
    return file.getvalue()


def _val_files(folder: Path, request: _Request) -> None:
    """What evaluation wants beside the tars: pictures and captions to search, class names and templates."""
    images = folder / "images"
    part = folder / ".images.part"
    rows = []
    with writing(images):
        folder.mkdir(parents=True, exist_ok=True)
        if part.exists():
            shutil.rmtree(part)
        part.mkdir()
        for number in range(request.val_count):
            plan = layout(request.seed, FIRST_OF_VAL + number)
            name = f"{number:06d}.jpg"
            rows.append({"file": f"images/{name}", "captions": captions(plan, "quality", request.wordings)})
            if not images.exists():
                scene = render(request.seed, FIRST_OF_VAL + number, request.size)
                (part / name).write_bytes(_jpeg(scene, request.jpeg_quality))
        if images.exists():
            part.rmdir()
        else:
            part.rename(images)
    with placing(folder / "captions.jsonl") as file:
        for row in rows:
            file.write(json.dumps(row).encode() + b"\n")
    for name, lines in (
        ("classes.txt", class_names()),
        ("classes_fine.txt", class_names(fine=True)),
        ("templates.txt", templates()),
    ):
        with placing(folder / name) as file:
            file.write("".join(f"{line}\n" for line in lines).encode())
