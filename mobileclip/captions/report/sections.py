"""The report's sections of figures: summary, warnings, stages, before and after, distributions, selection."""

from collections.abc import Iterator, Mapping, Sequence

from mobileclip.captions.flags import Flag
from mobileclip.captions.report.data import (
    PLAIN,
    SELECTED,
    Found,
    Notice,
    SourceFacts,
    own_found,
    web_of,
    web_ranks,
)
from mobileclip.captions.report.html import Markup, Part, el, joined, number, seconds, size, table
from mobileclip.captions.report.plots import Histogram, distributions, meter
from mobileclip.captions.text.metric_list import METRICS, REFERENCE
from mobileclip.captions.text.metrics import (
    LEAST_CAPTIONS,
    LEAST_VOCABULARY,
    LEAST_WORDS,
    MOST_OPENINGS,
    Measured,
    common,
    specificity,
)

_TITLES = {
    "clip": "CLIPScore, cosine of picture and caption",
    "agree": "agreement, cosine of caption and alt text",
    "q": "quality q",
    "rank": "self-retrieval, pictures that fit better than the own",
    "words": "words a caption",
    "lp": "captioner's mean log-probability of a token",
}
_SHOWN = ("words", "clip", "rank", "agree", "q", "lp")


def summary(found: Found, said: Sequence[Notice]) -> Markup:
    """Tiles: how much came, what was kept, how many warnings."""
    shards = len(found.plan.shards)
    rows = max((facts.rows for facts in found.stages.values()), default=0)
    read = max((len(facts.notes) for facts in found.stages.values()), default=0)
    tiles: list[tuple[str, str, str]] = []
    if rows:
        whole = "in all shards" if read == shards else f"in {read:,} shards; about {rows / read * shards:,.0f} in all"
        tiles.append(("pairs", number(rows), whole))
    done = min((facts.finished for facts in found.stages.values()), default=0)
    tiles.append(("shards", number(shards), "all finished" if done == shards else f"{done:,} through every stage"))
    made = sum(facts.role in ("synthetic", "fused") for facts in found.sources.values())
    tiles.append(
        ("caption sources", number(len(found.sources) - (SELECTED in found.sources)), f"{made} of them synthetic")
    )
    if found.reasons:
        kept, total = found.reasons[""], found.reasons.total()
        tiles.append(("pairs selected", number(kept / total, "share"), f"{kept:,} of {total:,}"))
    if found.compared:
        share = found.duplicates.total() / found.compared
        tiles.append(("duplicates", number(share, "share"), f"{found.duplicates.total():,} of {found.compared:,}"))
    spent = sum(facts.seconds for facts in found.stages.values())
    if rows:
        tiles.append(("time", seconds(spent), f"{seconds(spent / rows * 1000)} a thousand pairs"))
    warned = sum(notice.level == "warning" for notice in said)
    tiles.append(("warnings", number(warned), f"notes: {len(said) - warned}"))
    cells = [el("div", el("dt", name), el("dd", value, el("span", sub, class_="sub"))) for name, value, sub in tiles]
    return el("dl", cells, class_="tiles")


def warnings(said: Sequence[Notice]) -> Markup:
    """A list, warnings first."""
    if not said:
        return el("p", "Nothing stands out.")
    lines = [el("li", el("b", notice.title), notice.text, class_=notice.level) for notice in said]
    return el("ul", lines, class_="notices")


def stages(found: Found) -> Markup:
    """What every stage has done."""
    total, rows = len(found.plan.shards), list[Sequence[Part]]()
    for facts in found.stages.values():
        failures = [f"{count:,} {kind}" for kind, count in facts.failures.most_common(6)]
        flagged = [f"{count:,} {flag}" for flag, count in facts.total("flags").most_common(6)]
        stale = f", {facts.stale} out of date" if facts.stale else ""
        rows.append(
            [
                el("a", facts.name, href=f"#stage-{facts.name}"),
                facts.kind if facts.kind != facts.name else "",
                f"{facts.finished:,} of {total:,}{stale}",
                number(facts.rows),
                number(facts.failed / facts.rows, "share") if facts.rows else "–",
                Markup(joined(["; ".join(failures)])),
                Markup(joined(["; ".join(flagged)])),
                seconds(facts.seconds / facts.rows * 1000) if facts.rows else "–",
                size(sum(note.size for note in facts.notes.values()) / facts.rows) if facts.rows else "–",
            ]
        )
    head = [
        "stage",
        "kind",
        "shards",
        "rows read",
        "failed",
        "failures",
        "captions by flag",
        "time of 1,000 rows",
        "bytes a row",
    ]
    about = "Stages in their order. Those that look at pictures in one pass share their time."
    return table(head, rows, "ttnnnttnn", about)


def figures(found: Found) -> list[Part]:
    """The table of what captions are like, before and after, with the reference values beside it."""
    shown = {name: facts for name, facts in found.sources.items() if facts.stats.texts(1)}
    if not shown:
        return []
    captions, words = common(facts.stats for facts in shown.values())
    idf = specificity(facts.stats for facts in shown.values())
    measured = {name: facts.stats.result(captions, words, idf) for name, facts in shown.items()}
    head: list[Part] = ["", *(_name(found, name) for name in shown)]
    head += [el("span", "reference:", el("br"), name, class_="reference") for name in ("alt", "synthetic", "fused")]
    rows: list[Sequence[Part]] = [
        ["captions measured", *(number(one.captions) for one in measured.values()), *_references((10_000,) * 3), ""],
        [
            "words for the vocabulary",
            *(number(one.words) for one in measured.values()),
            *_references((80_000,) * 3),
            "",
        ],
    ]
    web = web_of(found)
    for metric in METRICS:
        values = [one.values[metric.name] for one in measured.values()]
        if all(value is None for value in values):
            continue
        cells = [
            _judged(found.sources[name], metric.name, value, metric.form, measured, web)
            for name, value in zip(shown, values, strict=True)
        ]
        rows.append(
            [
                metric.label,
                *cells,
                *_references(metric.reference, metric.form),
                el("span", metric.reading, class_="reading"),
            ]
        )
    opened = f"{len(found.opened):,} of {len(found.plan.shards):,} shards, {found.images:,} pairs"
    about = el(
        "p",
        f"One caption an image, of the same sampled images for every source where they have one; from {opened}. What "
        f"depends on the amount of text is measured on the same amount. The columns in italics are reference values, "
        f"not of these data: {REFERENCE}.",
        class_="soft",
    )
    columns = "t" + "n" * len(shown) + "enn" + "t"
    return [about, table([*head, "reading"], rows, columns, "Captions before and after")]


def against_pictures(found: Found) -> Markup:
    """What models say of captions and pictures, one row a source."""
    judged = list(dict.fromkeys(key for facts in found.sources.values() for key in facts.histograms if key[1]))
    judged.sort(key=lambda key: _SHOWN.index(key[0]))
    short = {"clip": "CLIPScore", "rank": "finds its own picture", "agree": "agreement", "q": "q"}
    head, rows = list[Part](["source"]), list[Sequence[Part]]()
    for measure, stage in judged:
        head += [f"{short[measure]} ({stage})", *(["÷ web's"] if measure == "rank" else [])]
    for name, facts in found.sources.items():
        cells: list[Part] = []
        for measure, stage in judged:
            histogram = facts.histograms.get((measure, stage))
            known = histogram is not None and histogram.count > 0
            if measure == "rank":
                web = web_ranks(found, stage)
                own = own_found(histogram) if histogram is not None and known else None
                before = own_found(web) if web is not None else 0.0
                cells += [number(own, "share"), number(own / before if own is not None and before else None, "mean")]
            else:
                cells.append(number(histogram.mean if histogram is not None else None, "mean"))
        if any(cell != "–" for cell in cells):
            rows.append([_name(found, name), *cells])
    return table(head, rows, "t" + "n" * len(head), "Captions against their pictures: means over the sampled shards")


def flagged(found: Found) -> Markup:
    """Captions by flag, one row a source."""
    known = {name: facts for name, facts in found.sources.items() if facts.flagged}
    shown = [
        flag for flag in (str(flag.name).lower() for flag in Flag) if any(facts.flags[flag] for facts in known.values())
    ]
    rows: list[Sequence[Part]] = [
        [
            _name(found, name),
            number(facts.flagged),
            *(number(facts.flags[flag] / facts.flagged, "share") for flag in shown),
        ]
        for name, facts in known.items()
        if shown
    ]
    head = ["source", "captions", *(flag.replace("_", " ") for flag in shown)]
    return table(head, rows, "t" + "n" * len(head), "Captions by flag: what rules found in them")


def shapes(found: Found) -> Iterator[Markup]:
    """Distributions of what is known of single captions."""
    keys = list(dict.fromkeys(key for facts in found.sources.values() for key in facts.histograms))
    if not any(measure == "words" for measure, _ in keys):
        keys.insert(0, ("words", ""))
    for measure, stage in sorted(keys, key=lambda key: _SHOWN.index(key[0])):
        by_source = {
            name: facts.histograms[measure, stage]
            for name, facts in found.sources.items()
            if (measure, stage) in facts.histograms
        }
        if measure == "words" and not by_source:
            by_source = _lengths(found)
        by = "" if measure in PLAIN else f" by '{stage}'"
        model = (
            next((made[0].get("model") for made in found.stages[stage].makers()), None)
            if stage in found.stages
            else None
        )
        about = f"{_TITLES[measure]}{by}{f' ({model})' if model else ''}"
        form = "number" if measure in ("words", "rank") else "mean"
        yield distributions(_TITLES[measure].split(",")[0], by_source, form, about)


def duplicates(found: Found) -> Markup:
    """Pictures that are there more than once."""
    if not found.compared:
        return Markup("")
    said = {"sha256": "the same file", "phash": "nearly the same pixels", "semantic": "nearly the same embedding"}
    return _shares(
        [(f"{said.get(how, how)} ({how})", count) for how, count in found.duplicates.most_common()],
        found.compared,
        f"Duplicates among {found.compared:,} pictures",
    )


def selection(found: Found) -> list[Part]:
    """What was kept, why the rest was not, and what every source weighs."""
    if not found.reasons:
        return []
    total = found.reasons.total()
    kept = [("kept", found.reasons[""])]
    left = [(f"left out: {reason}", count) for reason, count in found.reasons.most_common() if reason]
    weight = sum(facts.weight for facts in found.sources.values())
    rows: list[Sequence[Part]] = [
        [
            _name(found, name),
            number(facts.used),
            number(facts.weight, "mean"),
            number(facts.weight / weight, "share"),
            meter(facts.weight / weight, f"share of the weight of {name}"),
        ]
        for name, facts in found.sources.items()
        if facts.used and weight
    ]
    by_source = table(["source", "captions that weigh", "weight", "share", ""], rows, "tnnnt", "Weight by source")
    return [_shares(kept + left, total, f"{total:,} pairs by what became of them"), by_source]


def licences(found: Found) -> list[Part]:
    """Pictures by licence, models by licence."""
    rows = [(licence[:160] or "none said", count) for licence, count in found.licences.most_common(50)]
    models: list[Sequence[Part]] = []
    for facts in found.stages.values():
        for provenance, _, _ in facts.makers():
            if "model" in provenance or "licence" in provenance:
                said = str(provenance.get("licence") or "none said")[:300]
                models.append(
                    [_name(found, facts.name), Markup(joined([provenance.get("model", "–")])), Markup(joined([said]))]
                )
    return [
        _shares(rows, found.images, f"Licences of the pictures of {len(found.opened):,} shards, as their .json says"),
        table(["stage", "model", "licence"], models, caption="Licences of the models, as the stages say"),
    ]


def _shares(rows: Sequence[tuple[str, int]], total: int, caption: str) -> Markup:
    cells: list[Sequence[Part]] = [
        [name, number(count), number(count / total, "share"), meter(count / total, name)]
        for name, count in rows
        if total
    ]
    return table(["", "pairs", "share", ""], cells, "tnnt", caption)


def _name(found: Found, source: str) -> Part:
    """A stage's name leads to where it comes from."""
    return el("a", source, href=f"#stage-{source}") if source in found.stages else source


def _references(values: Sequence[float | None], form: str = "number") -> list[Markup]:
    return [el("span", number(value, form), class_="reference") for value in values]


def _judged(
    source: SourceFacts,
    metric: str,
    value: float | None,
    form: str,
    measured: Mapping[str, Measured],
    web: SourceFacts | None,
) -> Part:
    """A figure, marked where it is beyond what the alarm allows."""
    shown = number(value, form)
    before = measured[web.name].values["vocabulary"] if web is not None and web.name in measured else None
    if value is None or source.role not in ("synthetic", "fused"):
        return shown
    own = measured[source.name]
    few = metric == "vocabulary" and own.words >= LEAST_WORDS and before and value < LEAST_VOCABULARY * before
    alike = metric == "openings" and own.captions >= LEAST_CAPTIONS and value > MOST_OPENINGS
    return el("span", shown, class_="bad") if few or alike else shown


def _lengths(found: Found) -> dict[str, Histogram]:
    """Words a caption of the texts that were read."""
    out = {}
    for name, facts in found.sources.items():
        out[name] = Histogram(0, 256, 256)
        out[name].add(facts.stats.lengths())
    return out
