"""Pictures in caption work: what a perceptual hash costs beside the decode that it shares, and what duplicates cost.

    OMP_NUM_THREADS=1 python -m benchmarks captions_images --photos ../shared/data/photos/images

Of each picture, in one process, interleaved A B B A: decoded as stages get it; decoded and hashed from the same pixels;
decoded, and decoded again for the same hash; decoded, and hashed by ImageHash with Pillow's decode, as pipelines of
separate tools do. What is compared is CPU time of the process.

Then copies of the pictures are made (compressed again, of other sizes, cut), and counted: how many are found within a
radius, and how many pairs of different pictures are within it too. Last, `dedup`'s two searches are timed on made-up
hashes and embeddings, with planted copies, and their memory is kept. Without photos, pictures are made up.
"""

import argparse
import io
import os
import sys
import tracemalloc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from itertools import combinations
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from benchmarks import results
from benchmarks.loader import pictures_of
from benchmarks.timing import ratio_of_medians
from mobileclip.captions.pictures import alike, cells, phash
from mobileclip.captions.shard import SIDE
from mobileclip.data.decode import Pixels, open_picture
from mobileclip.errors import MissingExtra

RADII = (2, 4, 6, 8)
"""Bits."""
_COPIES: Mapping[str, tuple[float, float, int]] = {  # factor of the size, share that is cut off each side, quality
    "quality 50": (1, 0, 50),
    "quality 20": (1, 0, 20),
    "half the size": (0.5, 0, 85),
    "a third": (1 / 3, 0, 85),
    "half more": (1.5, 0, 85),
    "0.5 % cut off": (1, 0.005, 90),
    "1 % cut off": (1, 0.01, 90),
    "3 % cut off": (1, 0.03, 90),
}

Words = npt.NDArray[np.uint64]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print a table, write a result."""
    parser = argparse.ArgumentParser(prog="benchmarks captions_images", description=__doc__.partition("\n")[0])
    parser.add_argument("--photos", type=Path, help="folder of photos; without it pictures are made up")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "captions", help="folder")
    parser.add_argument("--rounds", type=int, default=8, help="of each side; of A B B A")
    parser.add_argument("--hashes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000], help="to search")
    parser.add_argument("--embeddings", type=int, nargs="+", default=[8_000, 50_000], help="to search")
    args = parser.parse_args(argv)
    contents = pictures_of(args.photos)
    result: dict[str, Any] = results.stamp() | {
        "study": "captions_images",
        "tools": {name: version(name) for name in ("numpy", "pillow", "simplejpeg", "imagehash")},
        "pictures": {"what": args.photos.name if args.photos else "made up", "count": len(contents)},
        "protocol": {"order": "ABBA", "process": "one", "threads": os.environ.get("OMP_NUM_THREADS")},
        "hash": _hash(contents, args.rounds),
        "copies": _copies(contents),
        "hashes": [_hashes(count) for count in args.hashes],
        "embeddings": [_embeddings(count) for count in args.embeddings],
    }
    path = results.write(args.out, "captions_images", result)
    print(f"{table([result])}\n\nraw samples: {path}")
    return 0


def table(found: Sequence[dict[str, Any]]) -> str:
    """Markdown: microseconds a picture, shares of copies, and items a second."""
    lines = []
    for result in found:
        lines += [
            "| a picture | CPU µs | times the decode | 95 % | pictures a second and core |",
            "|---|---|---|---|---|",
        ]
        for name, side in result["hash"].items():
            ratio = side["ratio"]
            lines.append(
                f"| {name} | {side['us']:.0f} | **{ratio['value']:.2f}** | {ratio['low']:.2f}–{ratio['high']:.2f} | "
                f"{1e6 / side['us']:.0f} |"
            )
        copies = result["copies"]
        lines += ["", "| copies found within | " + " | ".join(f"{radius} bits" for radius in RADII) + " |"]
        lines.append("|---" * (len(RADII) + 1) + "|")
        for name, shares in copies["found"].items():
            lines.append(f"| {name} | " + " | ".join(f"{share:.1%}" for share in shares) + " |")
        pairs = f"pairs of different pictures, of {copies['pairs']:,}"
        lines.append(f"| {pairs} | " + " | ".join(str(count) for count in copies["different"]) + " |")
        lines += [
            "",
            "| search | items | planted copies found | others dropped | items a second and core | bytes an item |",
        ]
        lines.append("|---|---|---|---|---|---|")
        for what in ("hashes", "embeddings"):
            for case in result[what]:
                lines.append(
                    f"| {what} | {case['items']:,} | {case['found']:.2%} | {case['others']:,} | "
                    f"{case['per_second']:,.0f} | {case['bytes']:.0f} |"
                )
    return "\n".join(lines)


def _hash(contents: Sequence[bytes], rounds: int) -> dict[str, Any]:
    try:
        import imagehash
    except ImportError as error:
        raise MissingExtra("ImageHash is compared with: pip install 'mobileclip-toolkit[dev]'") from error

    def apart() -> None:
        for data in contents:
            _decoded(data)
            imagehash.phash(Image.open(io.BytesIO(data)))

    def twice() -> None:
        for data in contents:
            _decoded(data)
        _words(contents)

    sides: dict[str, Callable[[], object]] = {
        "decoded": lambda: [_decoded(data) for data in contents],
        "decoded, and hashed from the same pixels": lambda: _words(contents),
        "decoded, and decoded again for the same hash": twice,
        "decoded, and hashed by ImageHash": apart,
    }
    times: dict[str, list[float]] = {name: [] for name in sides}
    for run in sides.values():
        run()
    for turn in range(rounds):
        for name in list(sides) if turn % 2 == 0 else list(sides)[::-1]:
            start = process_time()
            sides[name]()
            times[name].append((process_time() - start) / len(contents) * 1e6)
    base = tuple(times["decoded"])
    return {
        name: {
            "us": float(np.median(values)),
            "ratio": asdict(ratio_of_medians(base, tuple(values))),
            "cpu_us": values,
        }
        for name, values in times.items()
    }


def _decoded(data: bytes) -> Pixels:
    """As stages of caption work get it (`Shard.pixels`)."""
    picture = open_picture(memoryview(data))
    return picture.decode(SIDE, (0, 0, picture.height, picture.width))[0]


def _words(contents: Sequence[bytes]) -> Words:
    return phash.hashes(np.stack([phash.reduced(_decoded(data)) for data in contents]))[0]


def _copies(contents: Sequence[bytes]) -> dict[str, Any]:
    before = _words(contents)
    found = {}
    for name, change in _COPIES.items():
        bits = phash.distance(before, _words([_copy(data, *change) for data in contents]))
        found[name] = [float((bits <= radius).mean()) for radius in RADII]
    different = np.array([int(phash.distance(before[i], before[j])) for i, j in combinations(range(len(before)), 2)])
    return {
        "radii": RADII,
        "found": found,
        "pairs": len(different),
        "different": [int((different <= radius).sum()) for radius in RADII],
        "nearest": int(different.min()),
    }


def _copy(data: bytes, factor: float, share: float, quality: int) -> bytes:
    image = Image.open(io.BytesIO(data)).convert("RGB")
    width, height = image.size
    image = image.crop(
        (round(width * share), round(height * share), round(width * (1 - share)), round(height * (1 - share)))
    )
    image = image.resize((round(image.width * factor), round(image.height * factor)), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return file.getvalue()


def _hashes(count: int, radius: int = 4, share: int = 20) -> dict[str, Any]:
    """Random hashes, one in `share` of them another with up to `radius` bits changed."""
    generator = np.random.default_rng(0)
    words = generator.integers(0, 2**64, count, dtype=np.uint64)
    copies = count // share
    of = generator.integers(0, count - copies, copies)
    words[-copies:] = words[of]
    for _ in range(radius):
        words[-copies:] ^= np.uint64(1) << generator.integers(0, 64, copies).astype(np.uint64)
    out = _searched(count, lambda: alike.thinned(count, *alike.pairs(words, radius)), copies)
    return out | {"radius": radius, "bands": alike.cheapest(count, radius)}


def _embeddings(count: int, dim: int = 512, share: int = 20, eps: float = 0.05) -> dict[str, Any]:
    """Rows in crowds of fifty, one in `share` of them another with a little noise (cosine near 0.99)."""
    generator = np.random.default_rng(0)
    copies = count // share
    middle = generator.standard_normal((count // 50, dim), np.float32)
    rows = middle[np.arange(count) % len(middle)] + generator.standard_normal((count, dim), np.float32)
    of = generator.choice(count - copies, copies, replace=False)
    rows[-copies:] = rows[of] + 0.2 * generator.standard_normal((copies, dim), np.float32)
    rows = cells.unit(rows).astype(np.float16)
    out = _searched(count, lambda: cells.same(rows, eps), copies)
    return out | {"dim": dim, "eps": eps}


def _searched(count: int, run: Callable[[], npt.NDArray[np.int64]], copies: int) -> dict[str, Any]:
    start = process_time()
    by = run()
    seconds = process_time() - start
    tracemalloc.start()
    run()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return {
        "items": count,
        "found": float((by[-copies:] >= 0).mean()),
        "others": int((by[:-copies] >= 0).sum()),
        "per_second": count / seconds,
        "bytes": peak / count,
    }


if __name__ == "__main__":
    sys.exit(main())
