"""The loader against open_clip's own webdataset pipeline: the same shards, the same output size, one core each.

    python -m benchmarks.loader --photos ../shared/data/photos/images

Both sides run in this process, interleaved A B B A: open_clip's `get_wds_dataset` with its default training transform,
its tokenizer and `workers=0`; this project's loader with one thread, from a fresh iterator, so that nothing was made
ahead. What is compared is CPU time of the process (a sample on a core), which neighbours on the machine disturb less
than the clock on the wall; both are kept. Ours is measured as it trains on a CPU (`host`), and, as training on a GPU
has it, for the host's part alone (`crops`: read, decoded, cropped, tokens made; crops are resized on the device).

Decoding, resizing, tokenising, reading of tars and the index are timed apart. Without photos, pictures are made up.
"""

import argparse
import io
import json
import sys
import tarfile
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks import results
from benchmarks.timing import ratio_of_medians
from mobileclip.data.augment import Pixels, resize
from mobileclip.data.batches import rows_of
from mobileclip.data.corpus import Corpus, corpus
from mobileclip.data.decode import open_picture
from mobileclip.data.loader import Loader
from mobileclip.images import load_images, read_image
from mobileclip.tokenizer import encode

_CAPTION = "A {} dog sits beside a wooden fence in the {} light of the afternoon, number {}."
_WORDS = ("brown", "white", "small", "muddy", "happy", "warm", "cold", "golden", "dim", "strange")


@dataclass(frozen=True, kw_only=True)
class Case:
    """Pictures as they lie in shards, and the size at which they are trained on."""

    name: str
    """In the table."""
    size: int
    """Output, pixels a side."""
    short: int | None
    """Short side in the shard; None: the files as they are."""
    quality: int
    """Of the JPEG, where it is made."""
    square: bool = False
    """Cropped to a square, as rendered scenes are."""


CASES = (
    Case(name="photos as they are", size=224, short=None, quality=0),
    Case(name="photos as they are", size=256, short=None, quality=0),
    Case(name="photos, short side 480 at quality 85", size=224, short=480, quality=85),
    Case(name="packed, short side 288 at quality 92", size=256, short=288, quality=92),
    Case(name="scenes of 128", size=64, short=128, quality=92, square=True),
    Case(name="scenes of 128", size=128, short=128, quality=92, square=True),
)

Clocks = tuple[float, float]
"""Microseconds a sample: CPU of the process, wall."""


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print a table, write a result."""
    parser = argparse.ArgumentParser(prog="benchmarks loader", description=__doc__.partition("\n")[0])
    parser.add_argument("--photos", type=Path, help="folder of photos; without it pictures are made up")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "train", help="folder")
    parser.add_argument("--samples", type=int, default=1024, help="in the shards of a case")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--batches", type=int, default=3, help="of a round")
    parser.add_argument("--rounds", type=int, default=8, help="of each side; of A B B A")
    parser.add_argument("--only", default="", help="cases whose name or size contains this")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    pictures = pictures_of(args.photos)
    result: dict[str, Any] = results.stamp() | {
        "study": "loader",
        "tools": {name: version(name) for name in ("torch", "torchvision", "open_clip_torch", "webdataset", "pillow")}
        | {"simplejpeg": version("simplejpeg")},
        "pictures": str(args.photos.name) if args.photos else "made up",
        "protocol": {"order": "ABBA", "process": "one", "batch": args.batch, "batches": args.batches, "threads": 1},
        "cases": [],
    }
    for case in CASES:
        if args.only not in f"{case.name} {case.size}":
            continue
        with tempfile.TemporaryDirectory() as folder:
            write_tars(Path(folder), case, pictures, args.samples)
            result["cases"].append(_measure(Path(folder), case, args.batch, args.batches, args.rounds))
        print(_line(result["cases"][-1]), flush=True)
    path = results.write(args.out, "loader", result)
    print(f"\n{table([result])}\n\nraw samples: {path}")
    return 0


def table(found: Sequence[dict[str, Any]]) -> str:
    """Markdown: samples a second and core of both sides, and the parts in microseconds a sample."""
    lines = [
        "| shards | output | open_clip | ours, host | times | 95 % | ours, crops | times | 95 % |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    cases = [case for result in found for case in result["cases"]]
    for case in cases:
        cells = [case["case"]["name"], str(case["case"]["size"]), f"{case['open_clip']['per_core']:.0f}"]
        for mode in ("host", "crops"):
            ratio = case[mode]["ratio"]
            cells += [f"{case[mode]['per_core']:.0f}", f"**{ratio['value']:.1f}**"]
            cells += [f"{ratio['low']:.1f}–{ratio['high']:.1f}"]
        lines.append("| " + " | ".join(cells) + " |")
    parts = list(cases[0]["parts_us"])
    lines += ["", "| µs a sample | output | " + " | ".join(parts) + " |", "|---" * (len(parts) + 2) + "|"]
    for case in cases:
        cells = [case["case"]["name"], str(case["case"]["size"]), *(f"{case['parts_us'][part]:.0f}" for part in parts)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _line(case: dict[str, Any]) -> str:
    return f"{case['case']['name']} -> {case['case']['size']}: " + ", ".join(
        f"{mode} {case[mode]['per_core']:.0f}/s/core ({case[mode]['ratio']['value']:.2f} times)"
        for mode in ("host", "crops")
    )


def _measure(folder: Path, case: Case, batch: int, batches: int, rounds: int) -> dict[str, Any]:
    shards = sorted(str(path) for path in folder.glob("*.tar"))
    start = time.process_time()
    found = corpus(shards)
    built = (time.process_time() - start) / found.n * 1e6
    count = batch * batches
    theirs = open_clip_input(folder, case.size, batch)
    sides: dict[str, Callable[[int], object]] = {
        "open_clip": lambda turn: [next(theirs) for _ in range(batches)],
        "host": lambda turn: list(map(_nothing, _loader(found, case.size, batch, turn * batches, batches))),
        "crops": lambda turn: _crops(found, case.size, batch, turn * batches, batches),
    }
    times: dict[str, list[Clocks]] = {name: [] for name in sides}
    for run in sides.values():  # warm up: caches, the shuffle buffer, the allocator
        run(0)
    for turn in range(1, rounds + 1):
        for name in list(sides) if turn % 2 else list(sides)[::-1]:
            times[name].append(_clocked(lambda run=sides[name], turn=turn: run(turn), count))  # type: ignore[misc]
    out: dict[str, Any] = {"case": asdict(case), "samples": found.n, "bytes": _mean_bytes(found)}
    base = tuple(cpu for cpu, _ in times["open_clip"])
    for name, clocks in times.items():
        cpu = tuple(cpu for cpu, _ in clocks)
        out[name] = {
            "per_core": 1e6 / float(np.median(cpu)),
            "per_second": 1e6 / float(np.median([wall for _, wall in clocks])),
            "cpu_us": list(cpu),
            "wall_us": [wall for _, wall in clocks],
        }
        if name != "open_clip":
            out[name]["ratio"] = asdict(ratio_of_medians(cpu, base))
    return out | {"parts_us": {"index, built once": built} | _parts(found, case)}


def _nothing(batch: object) -> None:
    """Lets a batch go, so that its buffer goes round as in training."""


def _loader(found: Corpus, size: int, batch: int, first: int, batches: int) -> Loader:
    return Loader(found, size=size, batch=batch, policy="alt", threads=1, start_step=first, steps=first + batches)


def _crops(found: Corpus, size: int, batch: int, first: int, batches: int) -> None:
    """What the host does where crops are resized on the device."""
    loader = _loader(found, size, batch, first, batches)
    for step in range(first, first + batches):
        place = step % loader.steps_per_epoch * batch
        rows = loader._order.rows(step // loader.steps_per_epoch, place, place + batch)
        samples = loader._reader.read(0, place, rows, None)
        rows_of(found, samples, loader.policy)
        for low in range(0, batch, 32):
            loader._canvas(samples[low : low + 32])


def open_clip_input(folder: Path, size: int, batch: int) -> Iterator[Any]:
    """open_clip's training input as its trainer makes it, endless, in this process."""
    from functools import partial

    import open_clip
    from open_clip_train import data as training
    from webdataset.tariterators import tar_file_expander

    # webdataset 1 marks the end of a shard by an empty sample, on which open_clip 3.3 stumbles
    training.tar_file_expander = partial(tar_file_expander, eof_value=None)
    count = len(list(folder.glob("*.tar")))
    options = Namespace(
        train_data=f"{folder}/{{00000..{count - 1:05d}}}.tar",
        train_num_samples=1 << 30,
        train_data_upsampling_factors=None,
        dataset_resampled=True,
        batch_size=batch,
        workers=0,
        world_size=1,
        seed=0,
    )
    transform = open_clip.image_transform(size, is_train=True)
    data = training.get_wds_dataset(options, transform, True, tokenizer=open_clip.get_tokenizer("ViT-B-32"))
    return iter(data.dataloader)


def _parts(found: Corpus, case: Case, count: int = 96) -> dict[str, float]:
    """Microseconds a sample of single steps, medians."""
    import open_clip

    rows = np.arange(min(count, found.n))
    shard, row = (values.tolist() for values in found.locate(rows))
    indices = [found.shards[number] for number in shard]
    data = [bytes(index.image_bytes(place)) for index, place in zip(indices, row, strict=True)]
    views = [memoryview(content) for content in data]
    opened = [open_picture(view) for view in views]
    boxes = [(0, 0, picture.height, picture.width) for picture in opened]
    decoded = [picture.decode(case.size, box)[0] for picture, box in zip(opened, boxes, strict=True)]
    pillow = [Image.fromarray(np.ascontiguousarray(pixels)) for pixels in decoded]
    out = torch.empty((1, case.size, case.size, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
    captions = [_caption(number) for number in rows.tolist()]
    slow = open_clip.get_tokenizer("ViT-B-32")
    size = (case.size, case.size)
    tar = Path(found.shards[0].tar)
    steps: dict[str, Callable[[], object]] = {
        "header": lambda: [open_picture(view) for view in views],
        "decode": lambda: [picture.decode(case.size, box) for picture, box in zip(opened, boxes, strict=True)],
        "decode, Pillow": lambda: [Image.open(io.BytesIO(content)).convert("RGB") for content in data],
        "resize": lambda: _resize_all(decoded, out),
        "resize, Pillow bicubic": lambda: [image.resize(size, Image.Resampling.BICUBIC) for image in pillow],
        "tokenise, once": lambda: [encode(caption) for caption in captions],
        "tokenise, open_clip": lambda: slow(captions),
        "access by index": lambda: [index.image_bytes(place) for index, place in zip(indices, row, strict=True)],
    }
    parts = {name: _median(run, len(rows)) for name, run in steps.items()}
    return parts | {"tarfile, a sample": _median(lambda: _stream(tar), found.shards[0].n, 3)}


def _resize_all(decoded: Sequence[Pixels], out: torch.Tensor) -> None:
    for pixels in decoded:
        resize(pixels, (0, 0, *pixels.shape[:2]), out)


def _stream(tar: Path) -> None:
    """Reads a tar as webdataset does."""
    with tarfile.open(tar, "r|") as file:
        for member in file:
            content = file.extractfile(member)
            assert content is not None
            content.read()


def _median(run: Callable[[], object], count: int, repeats: int = 5) -> float:
    run()
    return float(np.median([_clocked(run, count)[0] for _ in range(repeats)]))


def _clocked(run: Callable[[], object], count: int) -> Clocks:
    cpu, wall = time.process_time(), time.perf_counter()
    run()
    return (time.process_time() - cpu) / count * 1e6, (time.perf_counter() - wall) / count * 1e6


def _mean_bytes(found: Corpus) -> float:
    total = sum(int(found.shards[number].image[:, 1].sum()) for number in range(len(found.shards)))
    return total / found.n


def pictures_of(photos: Path | None, count: int = 64) -> list[bytes]:
    """JPEGs of a folder, or made up."""
    if photos is not None:
        return [path.read_bytes() for path in load_images(photos) if path.suffix.lower() in (".jpg", ".jpeg")]
    generator = np.random.default_rng(0)
    made = []
    for _ in range(count):  # smooth colours, edges and grain, so that a JPEG of it has a photo's size
        small = Image.fromarray(generator.integers(0, 256, (24, 32, 3), dtype=np.uint8))
        pixels = np.asarray(small.resize((640, 480), Image.Resampling.BICUBIC), np.int16)
        pixels = (pixels + generator.normal(0, 6, pixels.shape)).clip(0, 255).astype(np.uint8)
        made.append(_jpeg(Image.fromarray(pixels), 90))
    return made


def _jpeg(image: Image.Image, quality: int) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return file.getvalue()


def _encoded(content: bytes, case: Case) -> bytes:
    if case.short is None:
        return content
    image = read_image(content)
    if case.square:
        side = min(image.size)
        image = image.crop((0, 0, side, side))
    scale = case.short / min(image.size)
    width, height = (max(case.short, round(side * scale)) for side in image.size)
    return _jpeg(image.resize((width, height), Image.Resampling.BICUBIC), case.quality)


def _caption(number: int) -> str:
    return _CAPTION.format(_WORDS[number % 10], _WORDS[number // 10 % 10], number)


def write_tars(folder: Path, case: Case, pictures: Sequence[bytes], samples: int, shards: int = 2) -> None:
    """Tars of a case with captions, as webdataset has them."""
    encoded = [_encoded(content, case) for content in pictures]
    for shard in range(shards):
        with tarfile.open(folder / f"{shard:05d}.tar", "w") as tar:
            for number in range(shard * samples // shards, (shard + 1) * samples // shards):
                record = json.dumps({"uid": f"{number:032x}"})
                texts = {"txt": _caption(number).encode(), "json": record.encode()}
                for extension, data in ({"jpg": encoded[number % len(encoded)]} | texts).items():
                    info = tarfile.TarInfo(f"{number:09d}.{extension}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))


if __name__ == "__main__":
    sys.exit(main())
