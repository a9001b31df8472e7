"""Cleaning and scoring of captions' text, a core: the stages against a plain form of the same rules.

    python -m benchmarks captions_text

Both sides run in this process, interleaved A B B A, on the same captions in batches as caption work cuts them. What is
compared is CPU time of one thread. Ours is what the workers of `clean` and `text_score` do to a batch, from texts in
memory to Arrow columns and back to texts between the two. The plain side is the same rules as anyone would write them
first: every rule on every caption with Python's `re`, words by a regular expression, concepts by one lookup of each
run of words, tokens by the tokenizer, lingua for every caption of three words and more ("plain"); or ours in place of
lingua ("plain, our languages"), which keeps the detector's cost out of the comparison.

Four kinds of captions: web texts with known faults (scenes' alt texts), true captions (of scenes), web titles of rare
words (drawn by rank from the tokenizer's vocabulary, one word in eight new, one caption in eight with boilerplate), and
the same with one in three in another language. "First sight" is the first round, on captions that these workers have
not seen, so that nothing that they remember helps.
"""

import argparse
import os
import random
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks import results
from benchmarks.timing import ratio_of_medians
from mobileclip.captions.flags import Flag
from mobileclip.captions.shard import Row
from mobileclip.captions.stage import OK, Batch
from mobileclip.captions.text import rules, words
from mobileclip.captions.text.clean import Clean, Cleaner
from mobileclip.captions.text.language import Languages
from mobileclip.captions.text.language_words import WORDS
from mobileclip.captions.text.text_score import TextScore, TextScorer
from mobileclip.captions.work import TEXT_ROWS
from mobileclip.data.scene_captions import alt_caption, captions
from mobileclip.data.scene_layout import layout
from mobileclip.tokenizer import encode, merges

TARGET = 20_000
"""Captions a second and core that cleaning and scoring together shall reach."""

_EXTRAS = (
    "{} | Shutterstock",
    "{} Stock Photo - Alamy",
    "{} - Buy Online",
    "{}, Free Shipping",
    "{} (click to enlarge)",
    "{} &amp; More",
    "{} – www.example.com",
    "{} royalty free image {n}",
)
_PLAIN_WORDS = re.compile(r"[^\W_]+")


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print a table, write a result."""
    parser = argparse.ArgumentParser(prog="benchmarks captions_text", description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "captions", help="folder")
    parser.add_argument("--captions", type=int, default=8 * TEXT_ROWS, help="of each kind")
    parser.add_argument("--rounds", type=int, default=6, help="of ours; the plain side has as many, on fewer captions")
    args = parser.parse_args(argv)
    result = text(args.captions, args.rounds)
    path = results.write(args.out, "text", result)
    print(f"{table([result])}\n\nraw samples: {path}")
    return 0


def text(count: int = 8 * TEXT_ROWS, rounds: int = 6) -> dict[str, Any]:
    """Measure both sides on `count` captions of each kind."""
    result: dict[str, Any] = results.stamp() | {
        "study": "captions_text",
        "tools": {name: version(name) for name in ("pyarrow", "ftfy", "lingua-language-detector", "pyahocorasick")},
        "protocol": {"order": "ABBA", "process": "one", "threads": 1, "clock": "CPU", "batch": TEXT_ROWS}
        | {"load": os.getloadavg()},
        "target": TARGET,
        "cases": [],
    }
    pa.set_cpu_count(1)
    for name, made in kinds(2 * count).items():
        result["cases"].append({"name": name} | _measured(made[:count], made[count:], rounds))
    return result


def table(found: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: captions a second and core, of both stages together."""
    lines = [
        "| captions | characters | ours | clean | score | first sight | of target | plain | times | 95 % | plain, our "
        "languages | times |",
        "|---" * 12 + "|",
    ]
    for case in (case for result in found for case in result["cases"]):
        rate = {name: 1e6 / float(np.median(case[name])) for name in case["sides"]}
        ratio, other = case["ratio"], case["ratio_without_lingua"]
        cells = [case["name"], f"{case['characters']:.0f}", f"**{rate['ours']:,.0f}**", f"{rate['clean']:,.0f}"]
        cells += [f"{rate['score']:,.0f}", f"{1e6 / case['first_us']:,.0f}", f"{rate['ours'] / TARGET:.2f}"]
        cells += [f"{rate['plain']:,.0f}", f"**{ratio['value']:.1f}**", f"{ratio['low']:.1f}–{ratio['high']:.1f}"]
        cells += [f"{rate['plain, our languages']:,.0f}", f"{other['value']:.1f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def kinds(count: int) -> dict[str, list[str]]:
    """Kind of captions -> `count` of them."""
    return {
        "web texts of scenes": [alt_caption(layout(3, index)).text for index in range(count)],
        "true captions of scenes": [captions(layout(3, index), "quality")[0] for index in range(count)],
        "web titles": list(_titles(count, foreign=0.0)),
        "web titles, a third foreign": list(_titles(count, foreign=1 / 3)),
    }


def _titles(count: int, foreign: float) -> Iterator[str]:
    rng = random.Random(0)
    known = [line.replace(" ", "")[:-4] for line in merges() if line.endswith("</w>")]
    known = [word for word in known if len(word) > 2 and word.isalpha() and word.isascii()]
    others = [sorted(found) for code, found in WORDS.items() if code != "en"]
    stop = sorted(words.STOP)
    for _ in range(count):
        size = min(40, max(2, round(rng.lognormvariate(2.2, 0.6))))
        if rng.random() < foreign:
            own = rng.choice(others)
            yield " ".join(rng.choice(own) if rng.random() < 0.7 else _new(rng) for _ in range(size))
            continue
        out = []
        for _ in range(size):
            draw = rng.random()
            if draw < 0.14:
                out.append(rng.choice(stop))
            elif draw < 0.26:
                out.append(_new(rng))
            else:  # by rank, as words of a language are
                out.append(known[min(len(known) - 1, int(len(known) ** rng.random()))])
        title = " ".join(out)
        title = title.title() if rng.random() < 0.3 else title
        yield rng.choice(_EXTRAS).format(title, n=rng.randrange(9_999)) if rng.random() < 0.125 else title


def _new(rng: random.Random) -> str:
    """A word that nobody has seen."""
    made = "".join(rng.choice("bcdfgklmnprstvz") + rng.choice("aeiou") for _ in range(rng.randrange(2, 5)))
    return made if rng.random() < 0.8 else f"{made}{rng.randrange(99)}"


def _measured(texts: Sequence[str], unseen: Sequence[str], rounds: int) -> dict[str, Any]:
    ours = _Ours(unseen)
    plain, other = _Plain(ours.scorer, lingua=True), _Plain(ours.scorer, lingua=False)
    batches = _batches(texts)
    ours.cleaner.cleaned(["vestido elegante larga noche fiesta"])  # lingua's models are loaded when they are needed
    first = _clocked(lambda: ours.both(batches), len(texts))
    few = texts[: max(TEXT_ROWS, len(texts) // 8)]
    cleaned = ours.clean(batches)
    sides: dict[str, tuple[Callable[[], object], int]] = {
        "ours": (lambda: ours.both(batches), len(texts)),
        "clean": (lambda: ours.clean(batches), len(texts)),
        "score": (lambda: ours.score(batches, cleaned), len(texts)),
        "plain": (lambda: plain(few), len(few)),
        "plain, our languages": (lambda: other(few), len(few)),
    }
    times: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(rounds):
        for name in list(sides) if turn % 2 else list(sides)[::-1]:
            times[name].append(_clocked(*sides[name]))
    assert other(few)[:3] == ours.flags(few), "the plain side finds something else"
    return {
        "captions": len(texts),
        "characters": float(np.mean([len(text) for text in texts])),
        "words": float(np.mean([len(own) for own in words.of_texts(texts)])),
        "first_us": first,
        "sides": list(sides),
        **times,
        "ratio": asdict(ratio_of_medians(tuple(times["ours"]), tuple(times["plain"]))),
        "ratio_without_lingua": asdict(ratio_of_medians(tuple(times["ours"]), tuple(times["plain, our languages"]))),
    }


class _Ours:
    """The workers of both stages; frequencies are counted on captions that are not measured."""

    def __init__(self, counted: Sequence[str]) -> None:
        stage = TextScore()
        self.cleaner = Cleaner(Clean())
        self.scorer = TextScorer(stage, stage.prepare(_One(counted)))

    def both(self, batches: Sequence[Batch]) -> None:
        self.score(batches, self.clean(batches))

    def clean(self, batches: Sequence[Batch]) -> list[pa.Table]:
        return [pa.table(dict(self.cleaner(batch))) for batch in batches]

    def score(self, batches: Sequence[Batch], cleaned: Sequence[pa.Table]) -> list[pa.Table]:
        inputs = [replace(batch, inputs={"clean": table}) for batch, table in zip(batches, cleaned, strict=True)]
        return [pa.table(dict(self.scorer(batch))) for batch in inputs]

    def flags(self, texts: Sequence[str]) -> tuple[list[str], list[int], list[int]]:
        cleaned, flags, _ = self.cleaner.cleaned(texts)
        return cleaned, flags, self.scorer.scored(cleaned)["flags"]


class _Plain:
    """The same rules one after the other, on one caption after the other."""

    def __init__(self, scorer: TextScorer, *, lingua: bool) -> None:
        self._stage = Clean()
        self._languages = Languages(self._stage.languages)
        self._lingua = lingua
        self._idf = scorer._idf
        names = TextScore().names
        self._concepts = {
            " ".join(_PLAIN_WORDS.findall(name.lower().replace("'", ""))): n for n, name in enumerate(names)
        }

    def __call__(self, texts: Sequence[str]) -> tuple[list[str], list[int], list[int], list[Any]]:
        cleaned, flags, found, scores = [], [], [], []
        for raw in texts:
            settled = rules.settled(raw)
            own = words.of_text(settled.text)
            what = rules.named(settled.text, own)
            cleaned.append(settled.text)
            flags.append(self._flags(settled.text, own, settled.flags | what))
            score = self._score(settled.text)
            scores.append(score)
            found.append(rules.settled(settled.text).flags | what | (Flag.TOKENS if score[1] > 77 else 0))
        return cleaned, flags, found, scores

    def _flags(self, text: str, own: Sequence[str], flags: int) -> int:
        flags |= Flag.SHORT if len(own) < self._stage.min_words else 0
        flags |= Flag.LONG if len(own) > self._stage.max_words else 0
        if self._lingua:
            tag = self._asked(text) if len(own) > 2 else ""
        else:
            (tag,) = self._languages.tags([text], [own])
        flags |= Flag.LANGUAGE if self._languages.unwanted(tag, own) else 0
        blocked = any(str(Flag(bit).name).lower() in self._stage.blocks for bit in Flag if flags & bit)
        return int(flags | Flag.BLOCKED) if blocked else int(flags)

    def _asked(self, text: str) -> str:
        found = self._languages._lingua.detect_language_of(text) if self._languages._lingua is not None else None
        return "" if found is None else str(found.iso_code_639_1.name).lower()

    def _score(self, text: str) -> tuple[Any, ...]:
        own = _PLAIN_WORDS.findall(text.lower().replace("'", ""))
        grams = [tuple(own[place : place + 3]) for place in range(len(own) - 2)]
        runs = {" ".join(own[a:b]) for a in range(len(own)) for b in range(a + 1, min(a + 5, len(own) + 1))}
        content = [self._idf[word] for word in own if word not in words.STOP]
        return (
            len(own),
            len(encode(text)) + 2,
            1 - len(set(grams)) / len(grams) if grams else 0.0,
            sum(word in words.STOP for word in own) / max(1, len(own)),
            sum(content) / max(1, len(content)),
            sorted(self._concepts[run] for run in runs if run in self._concepts),
            sum(map(str.isdigit, text)) / max(1, len(text)),
            sum(map(str.isupper, text)) / max(1, len(text)),
            text[-1:] in ".!?",
        )


class _One:
    """One shard of captions, as `prepare` sees it."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.shards = ["0"]
        self._texts = texts

    def texts(self, source: str, shard: str) -> list[list[str]]:
        return [[text] for text in self._texts]

    def tables(self, stage: str, columns: Sequence[str]) -> Iterator[tuple[str, pa.Table]]:
        return iter(())

    def columns(self, stage: str) -> Sequence[str]:
        return ()

    def rows(self, shard: str) -> Sequence[Row]:
        return ()


def _batches(texts: Sequence[str]) -> list[Batch]:
    return [_batch(texts[first : first + TEXT_ROWS]) for first in range(0, len(texts), TEXT_ROWS)]


def _batch(texts: Sequence[str]) -> Batch:
    rows = [Row(key=str(number), uid="", texts={"alt": (text,)}, image=None) for number, text in enumerate(texts)]
    nothing: list[Any] = [None] * len(rows)
    return Batch(shard="0", rows=rows, pixels=nothing, images=nothing, status=[OK] * len(rows), inputs={})


def _clocked(run: Callable[[], object], count: int) -> float:
    """Microseconds of CPU a caption."""
    start = time.process_time()
    run()
    return (time.process_time() - start) / count * 1e6


if __name__ == "__main__":
    sys.exit(main())
