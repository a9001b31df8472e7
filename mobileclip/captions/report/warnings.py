"""What somebody who is about to train on the captions should know first."""

import math
import re
from collections.abc import Iterator

from mobileclip.captions.report.data import Found, Notice, own_found, web_of, web_ranks
from mobileclip.captions.text.metrics import collapse

MOST_FAILED = 0.01
"""Share of rows that may fail in a stage."""
MOST_FLAGGED = {"refusal": 0.001, "leakage": 0.001, "repeated": 0.01, "tokens": 0.02, "truncated": 0.02}
"""Flag -> share of a source's captions that may have it."""
MOST_INVENTED = 0.35
"""Share of a rewritten caption's words that may come from nowhere: CapsFusion's have 0.286, paraphrases included."""

_RESEARCH = re.compile(
    r"non-?commercial|research|\bnc\b|by-nc|academic|apple-amlr|\bamlr\b|llama|no.?derivatives|by-nd|unknown|proprietary",
    re.IGNORECASE,
)
_ROW_RESEARCH = re.compile(
    r"non-?commercial|research|\bnc\b|by-nc|no.?derivatives|by-nd|all rights reserved", re.IGNORECASE
)


def notices(found: Found) -> list[Notice]:
    """All of them, warnings first."""
    every = [
        *_collapsed(found),
        *_alarms(found),
        *_flagged(found),
        *_against_pictures(found),
        *_failed(found),
        *_licences(found),
    ]
    every += _scorers(found)
    if found.blocked:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in found.blocked.most_common(4))
        text = f"keys that ended a process, or would, and are never touched again: {reasons}."
        every.append(Notice(level="warning", title="Blocked keys", text=text))
    every += [Notice(level="warning", title="Not read", text=text) for text in dict.fromkeys(found.problems[:20])]
    if len(found.problems) > 20:
        text = f"{len(found.problems) - 20:,} more of this kind."
        every.append(Notice(level="warning", title="Not read", text=text))
    every += _unfinished(found)
    return sorted(every, key=lambda notice: notice.level != "warning")


def _collapsed(found: Found) -> Iterator[Notice]:
    web = web_of(found)
    for source in found.sources.values():
        if web is not None and source.role in ("synthetic", "fused"):
            for text in collapse(web.stats, source.stats):
                yield Notice(level="warning", title="Caption collapse", text=f"{source.name}: {text}.")
        invented = source.stats.result().values["invented"] if source.role == "fused" else None
        if invented is not None and invented > MOST_INVENTED:
            yield Notice(
                level="warning",
                title="Invention",
                text=f"{source.name}: {invented:.1%} of its content words are in none of the texts that it was written "
                f"from; {MOST_INVENTED:.0%} is taken as the bound, paraphrases included.",
            )


def _alarms(found: Found) -> Iterator[Notice]:
    """What a judge of the whole work heard; on its own sample, so the figures may be others than here."""
    for facts in found.stages.values():
        alarms = [str(alarm) for made, _, _ in facts.makers() for alarm in made.get("alarms") or ()]
        for alarm in dict.fromkeys(alarms):
            yield Notice(level="warning", title=f"Alarm of '{facts.name}'", text=f"{alarm[:400]}.")


def _flagged(found: Found) -> Iterator[Notice]:
    for source in found.sources.values():
        for flag, most in MOST_FLAGGED.items():
            count = source.flags[flag]
            if source.flagged and count > most * source.flagged:
                yield Notice(
                    level="warning",
                    title=f"Flag {flag}",
                    text=f"{source.name}: {count / source.flagged:.2%} of its {source.flagged:,} captions; {most:.1%} "
                    "is taken as the bound.",
                )


def _against_pictures(found: Found) -> Iterator[Notice]:
    """Sources whose captions find their own picture more seldom than the web's texts do, beyond chance."""
    for source in found.sources.values():
        for (measure, stage), ranks in source.histograms.items():
            web = web_ranks(found, stage)
            ours = measure == "rank" and source.role in ("synthetic", "fused") and ranks.count > 0
            if not ours or web is None:
                continue
            before, after = own_found(web), own_found(ranks)
            chance = math.sqrt(before * (1 - before) * (1 / web.count + 1 / ranks.count))
            if before - after > 3 * chance:
                yield Notice(
                    level="warning",
                    title="Generic captions",
                    text=f"{source.name}: {after:.1%} of its captions find their own picture, {before:.1%} of the "
                    f"web's texts do ('{stage}'): it says less about its pictures than what was there.",
                )


def _failed(found: Found) -> Iterator[Notice]:
    alike: dict[str, list[str]] = {}
    for facts in found.stages.values():
        if facts.rows and facts.failed > MOST_FAILED * facts.rows:
            kinds = ", ".join(f"{count:,} {kind}" for kind, count in facts.failures.most_common(5))
            said = f"{facts.failed / facts.rows:.1%} of {facts.rows:,} rows could not be worked on ({kinds})"
            alike.setdefault(said, []).append(facts.name)
    for said, names in alike.items():
        text = f"{', '.join(names)}: {said}; {MOST_FAILED:.0%} is taken as the bound."
        yield Notice(level="warning", title="Failures", text=text)


def _licences(found: Found) -> Iterator[Notice]:
    for facts in found.stages.values():
        for provenance, _, _ in facts.makers():
            licence = str(provenance.get("licence") or "")
            bound = provenance.get("research_only") or not licence or _RESEARCH.search(licence)
            if "model" in provenance and bound:
                yield Notice(
                    level="warning",
                    title="Model licence",
                    text=f"{facts.name}: the model {provenance['model']} has "
                    + (f"the licence '{licence[:120]}'" if licence else "no licence that is known")
                    + ": read its terms before what it made is used in a product.",
                )
                break
    bound = {name: count for name, count in found.licences.items() if _ROW_RESEARCH.search(name)}
    if bound:
        yield Notice(
            level="warning",
            title="Picture licences",
            text=f"{sum(bound.values()):,} of {found.images:,} pictures have a licence that restricts use or changes "
            f"({', '.join(sorted(bound))[:200]}).",
        )
    if found.images and found.licences[""] == found.images:
        yield Notice(level="note", title="Picture licences", text="No picture says what its licence is.")


def _scorers(found: Found) -> Iterator[Notice]:
    for name in dict.fromkeys(stage for source in found.sources.values() for _, stage in source.histograms):
        if name in found.stages and found.stages[name].kind == "score":
            yield Notice(
                level="note",
                title="One judge",
                text=f"Similarities by '{name}' are one model's opinion. If it is the model in training or its "
                "teacher, captions that it likes are kept and it is trained to like them more: keep a second, frozen "
                "scorer.",
            )


def _unfinished(found: Found) -> Iterator[Notice]:
    total = len(found.plan.shards)
    todo = [f"{facts.name} {facts.finished:,}" for facts in found.stages.values() if facts.finished < total]
    if todo:
        text = f"Of {total:,} shards are finished: {', '.join(todo)}. What is shown is what is there."
        yield Notice(level="note", title="Unfinished", text=text)
    for facts in found.stages.values():
        if facts.stale:
            yield Notice(
                level="warning",
                title="Out of date",
                text=f"{facts.name}: {facts.stale:,} of {len(found.sampled):,} sampled side-cars were made from what "
                "has changed since, and are left out; run the work again.",
            )
