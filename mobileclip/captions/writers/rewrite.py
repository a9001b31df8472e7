"""Stage "rewrite": captions made of captions by a language model, which sees no picture.

    [[stage]]
    kind = "rewrite"
    style = "laclip"                 # the alt text in other words, K times
    alt = "clean"

    [[stage]]
    kind = "rewrite"
    name = "fused"
    style = "fuse"                   # the alt text's names and facts with what a captioner saw
    alt = "clean"
    caption = "caption"
    captioner = "server"
    model = "Qwen/Qwen2.5-7B-Instruct"
    url = "http://127.0.0.1:8000/v1"

"laclip" shows the model three examples before each text, all in one of four manners, drawn for that text anew: that is
what makes K rewrites differ. "fuse" gives text j caption j of the captioner. Prompts and examples are this project's.

Captions of the web are put into prompts as data: on one line, cut, without the marks by which the prompt is built.
Clean them before: what a fuser reads of shops and addresses it writes again. A sample that has nothing to rewrite (no
text, or one word) has no rewrites, and stays "ok".

Source: Fan et al., LaCLIP (2023), section 3.1; Yu et al., CapsFusion (2024), section 3; Lai et al., VeCLIP (2024),
section 3.
"""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa

from mobileclip.captions.stage import Batch, Columns, Everything, Prepared, checked, chosen
from mobileclip.captions.writers.caption import pointed_at, prompted
from mobileclip.captions.writers.captioner import SCHEMA, Answer, Ask, Options, Writer, columns, writer_of
from mobileclip.data.order import Permutation

REWRITE = (
    "Say the caption of a picture in other words. Keep every name, number and fact, add nothing, and answer with the "
    "new caption alone, on one line."
)
"""What stands before the examples of "laclip"."""
FUSE = (
    "Two texts belong to one picture. The first stood beside it on a page: it may know names, places and facts, and "
    "may hold advertising. The second tells in general words what is seen. Write one sentence about the picture: what "
    "is seen, with the names and facts of the first text that fit to it. Leave out advertising, prices and addresses, "
    "do not set one text behind the other, invent nothing, and answer with the sentence alone, on one line."
)
"""What stands before the two texts of "fuse"."""
EXAMPLES: Mapping[str, tuple[tuple[str, str], ...]] = {
    "plain": (
        ("dog on beach", "a dog stands on the sand of a beach"),
        ("Red tractor 1962 museum", "an old red tractor from 1962 is shown in a museum"),
        ("kids playing football park", "some children play football on the grass of a park"),
        ("my grandmother's apple cake", "an apple cake that was made by a grandmother"),
    ),
    "vivid": (
        ("dog on beach", "with wet paws and the sea behind it, a dog waits on the bright beach"),
        ("Red tractor 1962 museum", "polished and proud, the red tractor of 1962 rests among a museum's treasures"),
        ("kids playing football park", "the park is loud with children who chase a football across it"),
        ("my grandmother's apple cake", "golden and fragrant, an apple cake after grandmother's own way"),
    ),
    "brief": (
        ("a dog is standing on a beach next to the sea", "dog at the seaside"),
        ("Red tractor 1962 museum, one of the exhibits", "museum tractor, red, 1962"),
        ("kids playing football in the park on a sunny day", "sunny park, kids, football"),
        ("my grandmother's apple cake fresh out of the oven", "fresh apple cake, grandmother's"),
    ),
    "photo": (
        ("dog on beach", "a photo of a dog that is standing on a beach"),
        ("Red tractor 1962 museum", "a photo of a red tractor, built in 1962, inside a museum"),
        ("kids playing football park", "a photo of kids in a park while they are playing football"),
        ("my grandmother's apple cake", "a close photo of an apple cake baked by a grandmother"),
    ),
}
"""Manner -> captions and what became of them."""

_SHOWN = 3  # examples before a text
_READ = 1_000  # characters of a text that are put into a prompt
_ARROW = " => "
_BUILDS = re.compile(
    r"=>|<\|.{0,40}?\|>|</?\w{1,20}>|\[/?[A-Z_]{2,20}\]"
)  # of the prompt, and of chats' control tokens


@dataclass(frozen=True, kw_only=True)
class Rewrite(Options):
    """Rewrites of captions, or fusions of two kinds of them."""

    kind: ClassVar[str] = "rewrite"
    version: ClassVar[int] = 1
    prepares: ClassVar[bool] = False
    divisible: ClassVar[bool] = True

    name: str = "rewrite"
    """What other stages call it."""
    style: Literal["laclip", "fuse"] = "laclip"
    """In other words, or two texts in one."""
    alt: str = "alt"
    """Source of the alt text; of several the first is taken."""
    caption: str = ""
    """Source of the captions that are fused with it."""
    captioner: Literal["transformers", "server"] = "server"
    """What writes."""
    max_tokens: int = 77
    """Tokens of a text at most."""
    temperature: float = 0.9
    """Of the draw."""
    top_p: float = 0.95
    """Share of the probability that a nucleus holds."""

    def __post_init__(self) -> None:
        self.check(self.name, self.captioner)
        checked(
            (self.style == "fuse") == bool(self.caption),
            f"{self.name}.style is '{self.style}' and caption '{self.caption}': 'fuse' needs the name of a source of "
            "captions, 'laclip' reads none.",
        )

    def needs(self) -> tuple[str, ...]:
        return (self.alt, self.caption) if self.caption else (self.alt,)

    def looks(self) -> bool:
        return False

    def points_at(self) -> Mapping[str, str]:
        return pointed_at(self, self.captioner)

    def prepare(self, everything: Everything) -> pa.Table | None:
        return None

    def worker(self, prepared: Prepared | None) -> "RewriteWorker":
        return RewriteWorker(self, writer_of(self, self.captioner, self.name, looks=False))


class RewriteWorker:
    """Texts -> texts."""

    schema = SCHEMA

    def __init__(self, stage: Rewrite, writer: Writer) -> None:
        from mobileclip.captions.writers.sampling import row_keys  # brings torch

        self.stage, self.writer, self._row_keys = stage, writer, row_keys
        shown = fused("{alt}", "{caption}") if stage.style == "fuse" else rewritten("{alt}", ())
        examples = [] if stage.style == "fuse" else [_line(*pair) for pairs in EXAMPLES.values() for pair in pairs]
        self.provenance: Mapping[str, Any] = {
            **writer.provenance,
            "style": stage.style,
            **prompted(shown, *examples),
            "first_sentence": stage.first_sentence,
        }

    def __call__(self, batch: Batch) -> Columns:
        places = chosen(batch)
        alts = batch.texts(self.stage.alt)
        seen = batch.texts(self.stage.caption) if self.stage.caption else [[] for _ in alts]
        prompts = {at: self._prompts(batch.rows[at].uid, alts[at], seen[at]) for at in places}
        asks = {at: Ask(uid=batch.rows[at].uid, prompts=tuple(found)) for at, found in prompts.items() if found}
        told = dict(zip(asks, self.writer(list(asks.values())), strict=True)) if asks else {}
        answers = [_line_of(told.get(at, Answer())) for at in places]
        return columns(batch.status, places, answers, self.stage.first_sentence)

    def _prompts(self, uid: str, alts: Sequence[str], captions: Sequence[str]) -> list[str]:
        """One a text that is wanted, or one for all; none where there is nothing to rewrite."""
        alt = next((text for text in map(quoted, alts) if text), "")
        if self.stage.style == "fuse":
            seen = [text for text in map(quoted, captions) if text][: self.stage.k]
            if not alt or not seen:
                return []
            found = [fused(alt, text) for text in seen]
            return found if len(found) == 1 else [found[number % len(found)] for number in range(self.stage.k)]
        if len(alt.split()) < 2:
            return []
        keys = self._row_keys([uid], f"{self.stage.name} examples", self.stage.k, self.stage.seed)[0]
        return [rewritten(alt, examples_of(int(key))) for key in keys]


def rewritten(text: str, examples: Sequence[tuple[str, str]]) -> str:
    """The prompt of "laclip"."""
    return "\n".join([REWRITE, "", *(_line(*pair) for pair in examples), f"{text}{_ARROW}".rstrip()])


def fused(alt: str, caption: str) -> str:
    """The prompt of "fuse"."""
    return f"{FUSE}\n\nPage: {alt}\nSeen: {caption}\nSentence:"


def examples_of(key: int) -> list[tuple[str, str]]:
    """Three examples of one manner, drawn by a key."""
    manners = list(EXAMPLES.values())
    found = manners[key % len(manners)]
    order = Permutation(n=len(found), key=key >> 1)(np.arange(_SHOWN))
    return [found[place] for place in order.tolist()]


def quoted(text: str) -> str:
    """A foreign text as it is put into a prompt: one line, cut, without what builds the prompt."""
    shown = "".join(" " if unicodedata.category(one)[0] == "C" else one for one in text[: 4 * _READ])
    return " ".join(_BUILDS.sub(" ", shown).split())[:_READ].strip()


def _line(text: str, other: str) -> str:
    return f"{text}{_ARROW}{other}"


def _line_of(answer: Answer) -> Answer:
    """An answer without what language models put around a text: further lines and examples, quotation marks."""
    texts = []
    for text in answer.texts:
        line = next((line for line in text.splitlines() if line.strip()), "")
        line = line.rpartition(_ARROW.strip())[2].strip() if line.strip().startswith("=>") else line.partition("=>")[0]
        line = line.strip()
        if len(line) > 1 and line[0] in "\"'“" and line[-1] in "\"'”":
            line = line[1:-1].strip()
        texts.append(line)
    return Answer(texts=tuple(texts), lp=answer.lp, n_tok=answer.n_tok, ended=answer.ended, problem=answer.problem)
