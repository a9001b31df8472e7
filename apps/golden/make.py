"""The golden vectors: what every kit (Python, Swift, Kotlin, TypeScript) must give for the same input.

    python apps/golden/make.py              # writes them
    python apps/golden/make.py --check      # says whether they are current; exit code 1 where not

The expected values come from open_clip (tokens), Pillow (pixels), onnxruntime (known answers) and this project's public
functions, never from a kit. Everything is seeded, so the same pinned packages write the same bytes. The formats and the
rules that a kit follows are in README.md beside this file.
"""

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from makers import bundles, detection, pixels, ranking, search, segmentation, speed, tokens
from makers.form import write

HERE = Path(__file__).parent
KEPT = ("README.md", "make.py", "makers")
"""What of this folder is written by hand."""


def make(folder: Path) -> None:
    """Write every golden file into an empty folder."""
    (folder / "merges.txt").write_text(tokens.merges_file(), encoding="utf-8", newline="\n")
    write(folder / "cleaning.json", tokens.cleaning())
    write(folder / "tokenization.json", tokens.cases())
    write(folder / "preprocessing.json", pixels.cases())
    write(folder / "ranking.json", ranking.cases())
    write(folder / "segmentation.json", segmentation.cases())
    write(folder / "detection.json", detection.cases())
    write(folder / "search.json", search.cases())
    write(folder / "latency.json", speed.cases())
    write(folder / "manifests.json", bundles.write_bundles(folder / "bundles"))


def different(made: Path, kept: Path) -> list[str]:
    """Files that are in one folder and not the same in the other."""
    names = {path.relative_to(root).as_posix() for root in (made, kept) for path in root.rglob("*") if path.is_file()}
    names = {name for name in names if Path(name).parts[0] not in KEPT}
    return sorted(name for name in names if not _same(made / name, kept / name))


def _same(one: Path, other: Path) -> bool:
    return one.is_file() and other.is_file() and one.read_bytes() == other.read_bytes()


def main() -> int:
    """Write or check."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; say which files are not current")
    check = parser.parse_args().check
    with tempfile.TemporaryDirectory() as name:
        made = Path(name)
        make(made)
        changed = different(made, HERE)
        if check:
            print(f"not current: {', '.join(changed)}; run python apps/golden/make.py" if changed else "all current")
            return 1 if changed else 0
        shutil.rmtree(HERE / "bundles", ignore_errors=True)
        for path in sorted(item for item in made.rglob("*") if item.is_file()):
            into = HERE / path.relative_to(made)
            into.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, into)
    for name in changed:
        print(f"written: {name}")
    size = sum(path.stat().st_size for path in HERE.rglob("*") if path.is_file() and path.suffix != ".pyc")
    print(f"{size:,} bytes in all")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
