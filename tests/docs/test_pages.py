"""The pages: every figure is in a kept result, every link leads somewhere, the reference is that of the docstrings."""

import importlib.util
import re
import shutil
from fnmatch import fnmatch
from pathlib import Path

import pytest
from commands import ROOT, pages

from benchmarks import results
from benchmarks.__main__ import SECTIONS, main, marks
from mobileclip import cli

ROOTS = ("mobileclip/", "export/", "benchmarks/", "apps/", "docs/", "tests/")
KEPT = ROOT / "benchmarks" / "results"
MARKED = re.compile(r"<!-- ([\w-]+): made by `([^`]+)` -->\n.*?<!-- /\1 -->\n", re.S)
"""A part of a page that a command makes."""
FIGURE = re.compile(
    r"\d[\d.,]*\s?(?:×(?!\s?\d)|%|‰|times\b|ms\b|µs\b|us\b|s\b|seconds?\b|minutes?\b|hours?\b|h\b|[kMG]B\b|[KMG]iB\b|dB\b|"
    r"points?\b|GMACs?\b|[TG]FLOPs?\b|images?/s|samples?/s|captions?/s|mIoU\b|AP\b)"
)
"""A number with a unit, or a share or ratio; `7×7` is neither."""


def prose(page: Path) -> str:
    """What was written by hand."""
    text = MARKED.sub("", page.read_text(encoding="utf-8"))
    return re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)


def sections(page: Path) -> dict[str, str]:
    """Name of each marked part -> the command that makes it."""
    return dict(match.groups() for match in MARKED.finditer(page.read_text(encoding="utf-8")))


@pytest.mark.parametrize("page", [page for page in pages() if sections(page)], ids=lambda page: page.name)
def test_marked_parts_are_what_their_command_makes(page: Path, tmp_path: Path) -> None:
    copy = tmp_path / page.name
    shutil.copy(page, copy)
    for name, command in sections(page).items():
        assert name in SECTIONS or results.START in page.read_text(encoding="utf-8"), f"{name}: made by {command}"
    if set(sections(page)) & set(SECTIONS):
        assert main(["report", "--into", str(copy)]) == 0
    if results.START in page.read_text(encoding="utf-8"):
        assert cli.main(["report", str(KEPT / "host"), "--into", str(copy)]) == 0
    assert copy.read_text(encoding="utf-8") == page.read_text(encoding="utf-8"), (
        f"{page.name} is not what its results make: `python -m benchmarks report --into {page.relative_to(ROOT)}`, "
        "and of latencies `mobileclip report benchmarks/results/host --into` it"
    )


def test_no_figure_of_the_front_page_is_written_by_hand() -> None:
    found = [match[0] for match in FIGURE.finditer(prose(ROOT / "README.md"))]
    assert not found, f"put these into a marked part, which its results make: {found}"


@pytest.mark.parametrize(
    "text", ["12.7 × as", "1.5 %", "6.9×", "411 ms", "157 MB", "in 12 minutes", "0.109 mIoU", "5 times"]
)
def test_a_figure_is_seen(text: str) -> None:
    assert FIGURE.search(text)


@pytest.mark.parametrize("text", ["Depthwise 7×7 that", "Python 3.11–3.13", "CLIP ViT-B/32", "8 bits", "× GEMM limit"])
def test_a_size_or_name_is_no_figure(text: str) -> None:
    assert not FIGURE.search(text)


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
        assert "://" not in target, f"{page.name}: {target}"
        assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_front_page_leads_to_every_page() -> None:
    front = (ROOT / "README.md").read_text(encoding="utf-8")
    for page in pages()[1:]:
        assert f"(docs/{page.name})" in front, page.name


def mapped() -> list[str]:
    """Places of the module map: of a row's names, those behind the first lie in its folder unless they say another."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    found = []
    for row in re.findall(r"^\| (`.*?`) \|", text[text.index("## Where things are") :], re.M):
        folder = ""
        for item in re.findall(r"`([^`]+)`", row):
            place = item if item.startswith(ROOTS) else folder + item
            folder = folder or place.rstrip("/").rsplit("/", 1)[0] + "/"
            found.append(place)
    return found


def test_the_map_has_every_module_and_no_other() -> None:
    places = mapped()
    for package in ("mobileclip", "export", "benchmarks"):
        for file in (ROOT / package).rglob("*.py"):
            name = file.relative_to(ROOT).as_posix()
            known = any(fnmatch(name, place) or (place.endswith("/") and name.startswith(place)) for place in places)
            assert known or file.name in ("__init__.py", "__main__.py"), f"README.md has no line for {name}"
    gone = [place for place in places if not any(ROOT.glob(place.rstrip("/")))]
    assert not gone, f"README.md has lines for what is not there: {gone}"


def test_every_kept_result_is_in_a_table() -> None:
    """A section of some page for each study that has a result."""
    shown = {study for page in pages() for name in sections(page) for study in SECTIONS.get(name, ())}
    kept = {result["study"] for result in results.read([KEPT]) if "study" in result}
    untold = kept - shown - {"captions_images", "captions_engine"}  # told in docs/captions-at-scale.md and limits.md
    assert not untold, untold


def test_marks_are_pairs() -> None:
    for page in pages():
        text = page.read_text(encoding="utf-8")
        for name in SECTIONS:
            start, end = marks(name)
            assert text.count(start) == text.count(end) <= 1, (page.name, name)


def test_the_reference_is_current() -> None:
    spec = importlib.util.spec_from_file_location("api", ROOT / "docs" / "api.py")
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    text = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    assert text == made.page(), "docs/api.md is not what the docstrings say: run `python docs/api.py`"
