"""One HTML page about caption work: what came, what was made of it, what to beware of, and where every caption is from.

    report(plans.load("work"), "captions.html")

The page is one file without scripts that loads nothing, so that it can be mailed, kept beside a corpus, and opened in
ten years. It shows what is finished, whatever that is, and is made from a sample of shards; the page says which.
"""

import os
from datetime import UTC, datetime
from pathlib import Path

import mobileclip
from mobileclip.captions.plan import Plan
from mobileclip.captions.report import sections
from mobileclip.captions.report.data import Found
from mobileclip.captions.report.gather import Progress, gather
from mobileclip.captions.report.html import Markup, Part, el, page, section
from mobileclip.captions.report.origins import origins
from mobileclip.captions.report.samples import sheet
from mobileclip.captions.report.warnings import notices
from mobileclip.data.arrays import placing
from mobileclip.errors import DataError


def report(
    plan: Plan,
    out: str | os.PathLike[str],
    *,
    samples: int = 24,
    seed: int = 0,
    shards: int = 200,
    tars: int = 12,
    progress: Progress | None = None,
) -> Path:
    """Write the page about `plan` to `out`, with `samples` rows on its sheet.

    Side-cars of at most `shards` shards are read and at most `tars` of their tars (texts, licences, pictures), chosen
    by `seed`; remote tars are copied into the cache. The same work and options give the same page but for its date.

    Raises:
        DataError: nothing is finished, a number is out of range, or a note is damaged.
        OutputError: `out` cannot be written.
    """
    if samples < 0 or shards < 1 or tars < 0:
        raise DataError(f"samples is {samples}, shards {shards}, tars {tars}: at least 0, 1 and 0 are allowed.")
    found = gather(plan, shards=shards, tars=tars, seed=seed, progress=progress)
    if not any(facts.finished for facts in found.stages.values()):
        raise DataError(
            f"'{plan.folder}' holds no finished side-car of recipe '{plan.recipe.name}': run `mobileclip captions run` "
            "first."
        )
    cards = sheet(found, samples, seed)
    content = page(f"Captions: {plan.recipe.name}", _body(found, cards)).encode("utf-8", "replace")
    with placing(Path(out)) as file:
        file.write(content)
    return Path(out)


def _body(found: Found, cards: list[Markup]) -> list[Part]:
    plan, said = found.plan, notices(found)
    every = [
        section("Warnings and notes", sections.warnings(said), id_="warnings"),
        section("Stages", sections.stages(found), id_="stages"),
        section(
            "Before and after",
            *sections.figures(found),
            sections.against_pictures(found),
            sections.flagged(found),
            id_="figures",
        ),
        section("Distributions", *sections.shapes(found), id_="distributions"),
        section("Duplicates", sections.duplicates(found), id_="duplicates"),
        section("Selection", *sections.selection(found), id_="selection"),
        section("Samples", _about(found, cards), el("div", cards, class_="cards") if cards else None, id_="samples"),
        section("Licences", *sections.licences(found), id_="licences"),
        section("Provenance", *origins(found), id_="provenance"),
    ]
    names = ("warnings", "stages", "figures", "distributions", "duplicates", "selection", "samples", "licences")
    shown = [name for name, part in zip((*names, "provenance"), every, strict=True) if part]
    links = [el("a", "before and after" if name == "figures" else name, href=f"#{name}") for name in shown]
    read = f"{len(found.sampled):,} of {len(plan.shards):,} shards' side-cars and {len(found.opened):,} of their tars"
    when = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    return [
        el("h1", f"Captions: {plan.recipe.name}"),
        el("p", "Made from ", read, " in ", el("code", str(plan.folder)), f", {when}.", class_="soft"),
        el("nav", links, aria_label="Sections"),
        el("main", sections.summary(found, said), every),
        el(
            "footer",
            f"mobileclip {mobileclip.__version__}. Captions are shown as they are; nothing on this page is run.",
        ),
    ]


def _about(found: Found, cards: list[Markup]) -> Markup | None:
    if not cards:
        return None
    return el(
        "p",
        "The best, the middling and the worst by quality (else by CLIPScore), rows that were left out or failed, and "
        f"rows by chance, from {len(found.opened):,} shards. A green line marks captions that are trained on.",
        class_="soft",
    )
