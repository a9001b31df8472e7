"""The report's provenance: for every stage what made its side-cars, for every caption the side-car that it lies in."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from mobileclip.captions.report.data import Found, StageFacts
from mobileclip.captions.report.html import Markup, Part, el, number, seconds, table

_FIRST = ("model", "revision", "licence", "prompt", "sampling", "seed")
_LONGEST = 2_000  # characters of a value


def origins(found: Found) -> list[Part]:
    """One block a stage that has finished anything, then the side-cars of the opened shards."""
    blocks = [_stage(facts) for facts in found.stages.values() if facts.notes]
    return [*blocks, _files(found)] if blocks else []


def _stage(facts: StageFacts) -> Markup:
    makers = facts.makers()
    body: list[Part] = []
    for provenance, versions, count in makers[:8]:
        said: dict[str, Any] = {key: provenance[key] for key in _FIRST if key in provenance}
        said |= {key: value for key, value in provenance.items() if key not in said}
        if "prompt" in said and "prompt_sha256" not in said:
            said["prompt_sha256"] = hashlib.sha256(str(said["prompt"]).encode("utf-8", "surrogatepass")).hexdigest()
        body.append(el("h3", "Made by" + (f", {count:,} of {len(facts.notes):,} shards" if len(makers) > 1 else "")))
        body.append(_facts({**said, "versions": versions}))
    if len(makers) > 1:
        body.insert(0, el("p", "Not all shards were made alike: see below.", class_="bad"))
    shard, note = next(iter(facts.notes.items()))
    hashes = {f"input {name}": digest for name, digest in note.inputs.items()}
    example = {"shard": shard, "tar": note.place, "tar's content": note.content, "keys": note.keys}
    example |= hashes | {"side-car": note.sha256, "made": note.made.get("at", "–"), "on": note.made.get("host", "–")}
    title = [el("b", facts.name), f"@{facts.config_hash}"]
    kind = el("span", f"  {facts.kind}: {_brief(makers[0][0])}", class_="soft")
    summary = el("summary", el("span", title, class_="mono"), kind)
    options = [el("h3", "Options"), _facts(facts.config)]
    return el("details", summary, options, body, el("h3", "For example"), _facts(example), id=f"stage-{facts.name}")


def _brief(provenance: Mapping[str, Any]) -> str:
    said = [str(provenance[key]) for key in ("model", "revision") if provenance.get(key)]
    return " ".join(said)[:120] or "no model"


def _facts(values: Mapping[str, Any]) -> Markup:
    """Names and values; what is nested as JSON."""
    cells: list[Part] = []
    for name, value in values.items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)
        cells += [el("dt", name), el("dd", text[:_LONGEST] + (" …" if len(text) > _LONGEST else ""), class_="mono")]
    return el("dl", cells, class_="facts")


def _files(found: Found) -> Markup:
    """Every side-car of the opened shards, by which a caption of the sheet is found again."""
    rows: list[Sequence[Part]] = []
    for item in found.opened:
        for facts in found.stages.values():
            note = facts.notes.get(item.name)
            if note is not None:
                read = ", ".join(f"{name} {digest[:12]}" for name, digest in note.inputs.items())
                name = el("span", f"{facts.name}@{facts.config_hash}/{item.name}", class_="mono")
                cells = [el("span", text, class_="mono") for text in (note.sha256[:12], note.content[:12], read)]
                spent = seconds(float(note.made.get("seconds", 0.0)))
                rows.append([name, number(note.rows), *cells, spent])
    head = ["side-car", "rows", "sha256", "tar's content", "inputs", "time"]
    files = table(head, rows, "tntttn", "Side-cars of the shards that the samples come from")
    return el("details", el("summary", f"Side-cars of {len(found.opened):,} shards"), files) if rows else Markup("")
