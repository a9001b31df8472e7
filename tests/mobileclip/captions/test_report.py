"""The report: of real stages, hostile captions, unfinished and damaged work; and what a browser makes of it."""

import base64
import hashlib
import io
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from given import jpeg, ran, tar
from PIL import Image
from reported import STAGES, Cleaned, Parsed, Written, shards

from mobileclip.captions.pictures.images import Images
from mobileclip.captions.plan import Plan, block, plan_of
from mobileclip.captions.recipe import Recipe
from mobileclip.captions.report.gather import gather
from mobileclip.captions.report.page import report
from mobileclip.captions.report.samples import chosen
from mobileclip.captions.report.warnings import notices
from mobileclip.captions.work import work
from mobileclip.errors import DataError, OutputError

HOSTILE = (
    '<script>document.title="taken"</script>',
    '"><img src="http://127.0.0.1:9/x" onerror="document.title=1">',
    "</dd></dl></style></title><iframe src=//127.0.0.1:9>",
    "right to left \u202e then more \x07 bell \x00 nul",
    "M" * 1_000_000,
    "כלב על הדשא",
    "stacked " + "e" + "\u0301" * 400,
    "&lt;b&gt; &amp; ]]> <!-- --> ${7*7} {{7*7}}",
)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """Work of every kind of stage on three shards, finished; never changed by a test."""
    folder = tmp_path_factory.mktemp("report")
    return ran(STAGES, [shards(folder / "web")], folder / "work")


@pytest.fixture(scope="module")
def html(done: Plan, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return report(done, tmp_path_factory.mktemp("page") / "captions.html")


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page about texts, keys, licences, models and reasons that would all like to be obeyed."""
    folder = tmp_path_factory.mktemp("hostile")
    bad = '<script>document.title="taken"</script>'
    samples = [
        (f"{place}{'<b>' if place % 2 else ''}", {"jpg": jpeg(place), "txt": text, "json": {"license": bad}})
        for place, text in enumerate(HOSTILE)
    ]
    tar(folder / "web" / "00000.tar", samples)
    plan = ran(
        [Cleaned(name="clean", model=bad, licence=bad), Written(name="coca", text=f"{bad}{{}}{{}}")],
        [folder / "web"],
        folder / "w",
    )
    block(plan, "00000", samples[0][0], bad)
    return report(plan, folder / "captions.html", samples=40)


ALLOWED = {
    "html",
    "head",
    "meta",
    "title",
    "style",
    "body",
    "h1",
    "h2",
    "h3",
    "p",
    "nav",
    "main",
    "section",
    "footer",
    "a",
    "dl",
    "dt",
    "dd",
    "div",
    "span",
    "ul",
    "li",
    "b",
    "code",
    "figure",
    "table",
    "caption",
    "thead",
    "tbody",
    "tr",
    "th",
    "td",
    "svg",
    "path",
    "line",
    "rect",
    "text",
    "article",
    "header",
    "img",
    "details",
    "summary",
    "br",
}


def test_every_section_is_there(html: Path) -> None:
    found = Parsed(html)
    assert {
        "warnings",
        "stages",
        "figures",
        "distributions",
        "duplicates",
        "selection",
        "samples",
        "licences",
    } <= found.ids
    assert {f"stage-{stage.name}" for stage in STAGES} <= found.ids
    for said in (
        "Captions: test",
        "3 of 3 shards' side-cars and 3 of their tars",
        "reference:",
        "CapsFusion's 10,000 example triples",
        "finds its own picture (score)",
        "name a concept",
        "Captions by flag",
        "nearly the same" if "phash)" in found.text else "the same file (sha256)",
        "left out: no image",
        "left out: not in the top share",
        "CC BY-NC 2.0",
        "seeded:captioner",
        "what is this?",
        hashlib.sha256(b"what is this?").hexdigest(),
        "Lake number 0 in Slovenia",
        "no picture: ",
    ):
        assert said in found.text, said


def test_links_lead_somewhere_and_nothing_is_loaded(html: Path, hostile: Path) -> None:
    for page_ in (html, hostile):
        found = Parsed(page_)
        for tag, attributes in found.tags:
            assert tag in ALLOWED, tag
            assert not [name for name in attributes if name.startswith("on") or name in ("style", "srcset")]
            if "href" in attributes:
                assert str(attributes["href"])[:1] == "#"
                assert str(attributes["href"])[1:] in found.ids
            if "src" in attributes:
                assert str(attributes["src"]).startswith("data:image/jpeg;base64,")


def test_pictures_are_small_jpegs(html: Path) -> None:
    sources = [str(attributes["src"]) for tag, attributes in Parsed(html).tags if tag == "img"]
    assert len(sources) >= 16
    for source in sources:
        with Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))) as image:
            assert (image.format, image.size) == ("JPEG", (256, 171))


def test_the_policy_allows_the_style_sheet_and_nothing_else(html: Path) -> None:
    text = html.read_text()
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)
    assert style is not None
    assert policy is not None
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    assert policy[1].replace("&#x27;", "'").split("; ") == [
        "default-src 'none'", "img-src data:", f"style-src 'sha256-{digest}'", "base-uri 'none'", "form-action 'none'"
    ]  # fmt: skip
    assert "prefers-color-scheme: dark" in style[1]


def test_hostile_texts_are_shown_as_texts(hostile: Path) -> None:
    found = Parsed(hostile)
    assert hostile.stat().st_size < 300_000
    for text in (HOSTILE[0], HOSTILE[1], HOSTILE[2], HOSTILE[5], HOSTILE[7]):
        assert " ".join(text.split()) in found.text, text
    assert "right to left U+202E then more U+0007 bell U+0000 nul" in found.text
    assert "20,000 characters" in found.text
    assert "\u0301" * 3 not in found.text
    directions = [attributes.get("dir") for tag, attributes in found.tags if "foreign" in str(attributes.get("class"))]
    assert len(directions) >= 2 * len(HOSTILE)
    assert set(directions) == {"auto"}
    for hidden in "\u202e\x00\x07":
        assert hidden not in found.text


def test_the_same_work_gives_the_same_page(done: Plan, html: Path, tmp_path: Path) -> None:
    again = report(done, tmp_path / "again.html")
    dated = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC")
    assert dated.sub("", again.read_text()) == dated.sub("", html.read_text())
    other = report(done, tmp_path / "other.html", seed=1)
    assert dated.sub("", other.read_text()) != dated.sub("", html.read_text())


def test_figures_are_those_of_the_side_cars(done: Plan) -> None:
    found = gather(done)
    assert list(found.stages) == [stage.name for stage in STAGES]
    assert found.images == 48
    assert [facts.finished for facts in found.stages.values()] == [3] * len(STAGES)
    assert found.stages["images"].total("counts")["no image"] == 3
    assert found.stages["images"].failed == 6
    assert found.duplicates.total() == 3
    assert found.reasons.total() == 48
    assert (found.sources["coca"].stats.count, found.sources["alt"].stats.count) == (96, 48)
    roles = {name: facts.role for name, facts in found.sources.items()}
    assert roles == {"alt": "alt", "clean": "alt", "coca": "synthetic", "fused": "fused", "selected": "selected"}
    ranks = found.sources["coca"].histograms["rank", "score"]
    assert ranks.count == 2 * (48 - 6), "of pictures that can be looked at"
    assert found.sources["clean"].histograms["words", ""].quantile(0.5) == 5
    assert found.sources["coca"].histograms["lp", ""].mean == pytest.approx(-1)
    assert found.sources["coca"].flags["refusal"] == 6
    assert found.sources["fused"].stats.result().values["invented"] == pytest.approx(0, abs=0.35)
    assert found.sources["clean"].stats.result().values["recall"] == 1
    weights = [facts.weight for facts in found.sources.values()]
    assert sum(weights) > 0
    assert found.sources["selected"].stats.count > 0


def test_warnings_say_what_is_wrong(done: Plan) -> None:
    said = [(notice.level, f"{notice.title}: {notice.text}") for notice in notices(gather(done))]
    texts = [text for level, text in said if level == "warning"]
    for begin in (
        "Flag refusal: coca: 6.25% of its 96 captions; 0.1% is taken as the bound.",
        "Failures: images, embed, score: 12.5% of 48 rows could not be worked on (3 broken image, 3 no image); 1% is ",
        "Model licence: fused: the model seeded:captioner has the licence 'Llama community licence, research'",
        "Picture licences: 24 of 48 pictures have a licence that restricts use or changes (CC BY-NC 2.0).",
    ):
        assert any(text.startswith(begin) for text in texts), (begin, texts)
    assert [text for level, text in said if level == "note" and text.startswith("One judge: Similarities by 'score'")]
    assert [level for level, _ in said] == sorted((level for level, _ in said), reverse=True)


def test_a_source_of_templates_is_an_alarm(tmp_path: Path) -> None:
    words = [f"w{number}" for number in range(4_000)]
    texts = [" ".join(words[10 * row : 10 * row + 8]) for row in range(400)]
    tar(tmp_path / "web" / "0.tar", [(f"{row:04d}", {"txt": text}) for row, text in enumerate(texts)])
    plan = ran([Written(name="coca")], [tmp_path / "web"], tmp_path / "work")
    text = Parsed(report(plan, tmp_path / "page.html")).text
    assert "Caption collapse coca: its vocabulary in" in text
    assert "Caption collapse coca: 100.0% of 400 captions begin with one of ten openings" in text


def test_unfinished_work_is_shown_as_far_as_it_is(tmp_path: Path) -> None:
    stages = Recipe(name="half", stages=(Images(), Cleaned(name="clean"), Written(name="coca")))
    plan = plan_of(stages, [shards(tmp_path / "web")], tmp_path / "work")
    work(plan, ["images"], plan.shards[1])
    found = Parsed(report(plan, tmp_path / "page.html"))
    assert "Of 3 shards are finished: images 1, clean 0, coca 0." in found.text
    assert "1 of 3" in found.text
    assert not {"selection", "duplicates"} & found.ids
    assert "stage-images" in found.ids
    assert "stage-coca" not in {name for name in found.ids if name == "stage-coca"}


def test_a_part_of_many_shards_is_read(done: Plan, tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    text = Parsed(
        report(done, tmp_path / "page.html", shards=2, tars=1, progress=lambda done, count: calls.append((done, count)))
    ).text
    assert "2 of 3 shards' side-cars and 1 of their tars" in text
    assert "32 in 2 shards; about 48 in all" in text
    assert calls == [(1, 3), (2, 3), (3, 3)]


def test_work_without_its_tars_is_shown(tmp_path: Path) -> None:
    plan = ran([Images(), Written(name="coca")], [shards(tmp_path / "web", 1)], tmp_path / "work")
    (tmp_path / "web" / "00000.tar").unlink()
    text = Parsed(report(plan, tmp_path / "page.html")).text
    assert "Not read" in text
    assert "00000.tar" in text
    assert "1 of 1" in text


def test_side_cars_of_another_tar_are_left_out(tmp_path: Path) -> None:
    plan = ran([Images(), Written(name="coca")], [shards(tmp_path / "web", 1)], tmp_path / "work")
    tar(tmp_path / "web" / "00000.tar", [("other", {"txt": "another text"})])
    text = Parsed(report(plan, tmp_path / "page.html")).text
    assert "side-car 'coca' of shard '00000' was made from another content of" in text
    assert "coca: 1 of 1 sampled side-cars were made from what has changed since" in text


def test_a_damaged_side_car_is_said(tmp_path: Path) -> None:
    plan = ran([Written(name="coca")], [shards(tmp_path / "web", 2)], tmp_path / "work")
    path = plan.stem("coca", "00000").with_name("00000.parquet")
    path.write_bytes(b"\0" * path.stat().st_size)
    text = Parsed(report(plan, tmp_path / "page.html")).text
    assert "00000.parquet' cannot be read" in text


def test_blocked_keys_are_said_and_not_opened(tmp_path: Path) -> None:
    folder = shards(tmp_path / "web", 1)
    plan = plan_of(Recipe(name="x", stages=(Images(),)), [folder], tmp_path / "work")
    block(plan, "00000", "000000002", "signal 11")
    work(plan, ["images"], plan.shards[0])
    text = Parsed(report(plan, tmp_path / "page.html", samples=16)).text
    assert "keys that ended a process, or would, and are never touched again: 1 signal 11." in text
    assert "not opened: blocked: signal 11" in text


def test_samples_are_of_every_kind(done: Plan) -> None:
    found = gather(done)
    rows = chosen(found, 12, 0)
    assert rows == chosen(found, 12, 0)
    assert len({(place.shard, place.row) for _, place in rows}) == 12
    assert {kind for kind, _ in rows} == {"best", "middle", "worst", "left out", "failed", "by chance"}
    values = {kind: [place.value or 0.0 for one, place in rows if one == kind] for kind in ("best", "middle", "worst")}
    assert min(values["best"]) >= max(values["middle"]) >= max(values["worst"])
    assert len(chosen(found, 1_000, 0)) == 48
    assert chosen(found, 0, 0) == []


def test_nothing_finished_is_an_error(tmp_path: Path) -> None:
    plan = plan_of(Recipe(name="none", stages=(Images(),)), [shards(tmp_path / "web", 1)], tmp_path / "work")
    with pytest.raises(
        DataError, match=r"holds no finished side-car of recipe 'none': run `mobileclip captions run` first"
    ):
        report(plan, tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_numbers_out_of_range_are_errors(done: Plan, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"samples is -1, shards 0, tars 0: at least 0, 1 and 0 are allowed\."):
        report(done, tmp_path / "page.html", samples=-1, shards=0, tars=0)


def test_a_place_that_cannot_be_written_is_an_error(done: Plan, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        report(done, tmp_path / "file" / "page.html", samples=0, tars=0)


@pytest.fixture(scope="module")
def browser() -> str:
    for name in ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"):
        found = shutil.which(name)
        if found:
            return found
    pytest.skip("no Chromium on this machine: install chromium to see the page drawn")


def opened(browser: str, page_: Path, folder: Path, *options: str) -> str:
    """What a browser with a profile of its own prints."""
    command = [
        browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run",
        "--hide-scrollbars", "--disable-dev-shm-usage", f"--user-data-dir={folder / 'profile'}",
        *options, page_.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, timeout=120, check=True)
    return done.stdout.decode()


@pytest.mark.parametrize(("width", "height"), [(1280, 2400), (500, 2400)])
def test_a_browser_draws_the_page(browser: str, html: Path, tmp_path: Path, width: int, height: int) -> None:
    shot = tmp_path / "page.png"
    opened(browser, html, tmp_path, f"--screenshot={shot}", f"--window-size={width},{height}")
    with Image.open(shot) as image:
        assert image.size == (width, height)
        grey = np.asarray(image.convert("L"), np.float64)
        colours = np.asarray(image.convert("RGB"), np.int16).reshape(-1, 3)
    assert all(band.std() > 5 for band in np.array_split(grey, 8)), "every part of it shows something"
    assert (np.ptp(colours, axis=1) > 40).mean() > 0.002, "warnings, plots and links have colours"
    text = np.asarray(grey < grey.max() - 60).mean(axis=0)
    assert text[: width // 2].mean() > text[-width // 50 :].mean(), "nothing runs out of the window"


def test_a_browser_runs_nothing_of_what_captions_say(browser: str, hostile: Path, tmp_path: Path) -> None:
    log = tmp_path / "net.json"
    dom = opened(browser, hostile, tmp_path, "--dump-dom", f"--log-net-log={log}")
    assert "<title>Captions: test</title>" in dom
    assert "taken" in dom, "it is there as text"
    assert not re.search(r"<(script|iframe|object|embed|link|base|form)\b", dom)
    asked = re.findall(r'"url":"(https?:[^"]*)"', log.read_text(errors="replace"))
    assert not [url for url in asked if "127.0.0.1" in url]


def test_every_caption_leads_to_what_made_it(done: Plan, html: Path) -> None:
    found = Parsed(html)
    for name in ("clean", "coca", "fused"):
        assert f"{name}@{done.hashes[name]}" in found.text
        note = json.loads(done.stem(name, "00000").with_name("00000.done.json").read_bytes())
        assert note["sha256"][:12] in found.text
