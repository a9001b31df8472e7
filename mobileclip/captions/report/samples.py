"""The report's sheet of samples: the best, the worst, the middle, and rows by chance, with what is known of each."""

import base64
import hashlib
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mobileclip.captions import flags
from mobileclip.captions.report.data import Found, Place, base_of, read
from mobileclip.captions.report.html import Markup, Part, el, foreign, number
from mobileclip.captions.shard import Row, Shard
from mobileclip.errors import ImageError, MobileClipError

SIDE = 256
"""Pixels of a picture's long side, at most."""
MOST_CAPTIONS = 12
"""Captions of one source that are shown of a sample."""

_LEAST = 192  # pixels of the long side to which smaller pictures are shown enlarged
_QUALITY = 82  # of the pictures' JPEG
_KINDS = ("best", "middle", "worst", "left out", "failed", "by chance")
_FORMS = {"tokens": "number", "words": "number", "n_tok": "number", "concepts": "number", "rank": "number"}
_LABELS = {
    "q": "quality",
    "w": "weight",
    "clip": "CLIPScore",
    "rank": "outranked by",
    "agree": "agreement",
    "lp": "log-prob.",
    "n_tok": "tokens made",
    "words": "words",
    "tokens": "tokens",
    "idf": "IDF",
    "rep3": "repetition",
    "concepts": "concepts",
    "lang": "language",
}
_LARGE = ("image_emb", "texts_emb")  # columns that are not shown


@dataclass(frozen=True, kw_only=True)
class _Sample:
    """A row and what side-cars say of it."""

    kind: str
    place: Place
    row: Row
    picture: Markup
    said: Mapping[str, Mapping[str, Any]]  # stage -> column -> value


def chosen(found: Found, count: int, seed: int) -> list[tuple[str, Place]]:
    """Rows of every kind, as evenly as there are some: (kind, row), each row once."""
    shuffled = sorted(
        found.places, key=lambda place: hashlib.sha256(f"{seed}/{place.shard}/{place.row}".encode()).digest()
    )
    valued = sorted((place for place in shuffled if place.value is not None), key=lambda place: place.value or 0.0)
    middle = len(valued) // 2
    lists = {
        "best": valued[::-1],
        "middle": sorted(valued, key=lambda place: abs((place.value or 0.0) - (valued[middle].value or 0.0))),
        "worst": valued,
        "left out": [place for place in shuffled if place.left_out and not place.trouble],
        "failed": [place for place in shuffled if place.trouble],
        "by chance": shuffled,
    }
    out: list[tuple[str, Place]] = []
    taken: set[tuple[str, int]] = set()
    queues = {kind: iter(places) for kind, places in lists.items()}
    while len(out) < count and queues:
        for kind in list(queues):
            place = next((one for one in queues[kind] if (one.shard, one.row) not in taken), None)
            if place is None:
                del queues[kind]
            elif len(out) < count:
                taken.add((place.shard, place.row))
                out.append((kind, place))
    return sorted(out, key=lambda pair: _KINDS.index(pair[0]))


def sheet(found: Found, count: int, seed: int) -> list[Markup]:
    """A card for each of `count` rows."""
    wanted = chosen(found, count, seed)
    cards: dict[tuple[str, int], Markup] = {}
    for item in found.opened:
        mine = [(kind, place) for kind, place in wanted if place.shard == item.name]
        if not mine:
            continue
        try:
            with Shard.open(item.place, item.name, json_keys=found.plan.json_keys, cache=found.plan.cache) as shard:
                for sample in _read(found, shard, mine):
                    cards[sample.place.shard, sample.place.row] = _card(found, sample)
        except MobileClipError as error:
            found.problems.append(str(error))
    return [cards[place.shard, place.row] for _, place in wanted if (place.shard, place.row) in cards]


def _read(found: Found, shard: Shard, wanted: Sequence[tuple[str, Place]]) -> Iterator[_Sample]:
    read_ = {name: read(found, name, shard.name, lambda column: column not in _LARGE) for name in found.stages}
    side_cars = {name: table for name, table in read_.items() if table is not None}
    for kind, place in wanted:
        row = shard.rows[place.row]
        said = {name: table.slice(place.row, 1).to_pylist()[0] for name, table in side_cars.items()}
        yield _Sample(kind=kind, place=place, row=row, picture=_picture(shard, row, place), said=said)


def _picture(shard: Shard, row: Row, place: Place) -> Markup:
    """A small JPEG inside the page, or why there is none; pictures that ended a process are not opened again."""
    from PIL import Image

    if place.trouble.startswith("blocked"):
        return el("div", f"not opened: {place.trouble[:200]}", class_="none")
    try:
        image = Image.fromarray(shard.pixels(row))
    except ImageError as error:
        return el("div", f"no picture: {str(error)[:200]}", class_="none")
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=_QUALITY)
    source = f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
    alt = f"picture of {row.key[:60]}"
    larger = min(max(_LEAST // max(image.size), 1), 4)
    return el("img", src=source, width=image.width * larger, height=image.height * larger, alt=alt)


def _card(found: Found, sample: _Sample) -> Markup:
    row, tags = sample.row, [el("span", sample.kind, class_="tag")]
    for said in sample.said.values():
        if said.get("keep") is not None:
            kept = "selected" if said["keep"] else f"left out: {said.get('why') or ''}"[:80]
            tags.append(el("span", kept, class_="tag good" if said["keep"] else "tag alarm"))
        if said.get("duplicate_of"):
            tags.append(el("span", f"{said.get('how')} duplicate of {said['duplicate_of']}"[:120], class_="tag alarm"))
        if said.get("width") and said.get("height"):
            tags.append(el("span", f"{said['width']} × {said['height']}", class_="tag"))
    if sample.place.trouble:
        tags.append(el("span", sample.place.trouble[:160], class_="tag alarm"))
    licence = row.license[:60] or "no licence said"
    name = el("span", f"{sample.place.shard}/{row.key[:80]}", class_="mono")
    head = el(
        "header", tags, name, el("span", f"uid {row.uid}", class_="mono"), el("span", licence, class_="small soft")
    )
    figure = el("figure", sample.picture)
    return el("article", head, figure, el("dl", list(_captions(found, sample)), class_="captions"), class_="card")


def _captions(found: Found, sample: _Sample) -> Iterator[Part]:
    """Every source with every caption, its scores and flags."""
    texts: dict[str, Sequence[str | None]] = {source: list(given) for source, given in sample.row.texts.items()}
    texts |= {name: said["texts"] for name, said in sample.said.items() if said.get("texts") is not None}
    for source, captions in texts.items():
        facts = found.stages.get(source)
        name: Part = source
        if facts is not None:
            name = el("a", f"{source}@{facts.config_hash}", href=f"#stage-{source}", class_="mono")
            base = base_of(found.plan, source)
            name = [name, el("span", f" from {base}", class_="soft")] if base != source else name
        yield el("dt", name)
        for place, caption in enumerate(captions[:MOST_CAPTIONS]):
            yield _caption(found, sample, source, place, caption, len(captions))
        if len(captions) > MOST_CAPTIONS:
            yield el("dd", f"and {len(captions) - MOST_CAPTIONS:,} more", class_="soft small")
        if not captions:
            yield el("dd", "none", class_="soft small")


def _caption(found: Found, sample: _Sample, source: str, place: int, caption: str | None, count: int) -> Markup:
    scores: dict[str, list[Part]] = {measure: [] for measure in _LABELS}
    bits, weight = 0, 0.0
    for name, said in sample.said.items():
        facts = found.stages[name]
        of_source = facts.kind == "text_score" and facts.config.get("source") == source
        ending = "" if name == source or of_source else f"_{source}"
        for measure in (*_LABELS, "flags"):
            values = said.get(f"{measure}{ending}")
            if not isinstance(values, list) or len(values) != count or values[place] in (None, ""):
                continue
            if measure == "flags":
                bits |= values[place]
                continue
            if measure == "w":
                weight = values[place]
            value = values[place]
            shown = value[:12] if isinstance(value, str) else number(value, _FORMS.get(measure, "mean"))
            scores[measure].append(el("span", f"{_LABELS[measure]} ", el("b", shown), title=name))
    tags = [el("span", flag, class_="tag alarm") for flag in flags.names(bits)]
    line = el("div", list(scores.values()), tags, class_="scores") if any(scores.values()) or tags else None
    text = foreign(caption) if caption else el("span", "empty", class_="soft")
    return el("dd", text, line, class_="used" if weight > 0 else None)
