"""What writes captions, behind one interface: samples in, K texts each out, whatever the model and wherever it runs.

    writer = writer_of(options, kind="coca", stage="caption")       # "coca", "transformers" or "server"
    answers = writer([Ask(uid=row.uid, pixels=pixels, image=encoded)])

`Options` are those that stages "caption" and "rewrite" share. A sample that cannot be answered is an `Answer` whose
`problem` says why; what concerns all samples (no such model, a dead server, a key that is refused) is raised.
"""

import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
import pyarrow as pa

from mobileclip.captions.flags import Flag
from mobileclip.captions.stage import Columns, checked
from mobileclip.data.decode import Pixels

SCHEMA = pa.schema(
    [
        pa.field("texts", pa.list_(pa.string())),
        pa.field("lp", pa.list_(pa.float32())),
        pa.field("n_tok", pa.list_(pa.uint16())),
        pa.field("flags", pa.list_(pa.uint32())),
    ]
)
"""Columns of stages that write captions: texts, mean log-probability of their tokens, how many, what is odd."""
LONGEST = 4_000
"""Characters of a text that are kept."""

_LONGEST_RATIO = 8  # of a picture's sides
_REPEATED = 0.3  # share of a text's trigrams that were there before


@dataclass(frozen=True, kw_only=True, eq=False)
class Ask:
    """One sample that texts are wanted for."""

    uid: str
    """What draws are made from, with the stage's name, the seed and the text's number."""
    pixels: Pixels | None = None
    """RGB uint8 [H, W, 3]; None where only text is read."""
    image: memoryview | bytes | None = None
    """The encoded picture, for its hash."""
    prompts: tuple[str, ...] = ()
    """One a text that is wanted, or one for all."""
    system: str = ""
    """What a chat model is told before."""

    def prompt(self, number: int) -> str:
        """That of text `number`."""
        return self.prompts[number % len(self.prompts)] if self.prompts else ""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What was written for one sample: lists of one length."""

    texts: tuple[str, ...] = ()
    """As the model wrote them, without its special tokens."""
    lp: tuple[float | None, ...] = ()
    """Mean log-probability of the tokens that the model chose; None where it is not told."""
    n_tok: tuple[int | None, ...] = ()
    """How many those are."""
    ended: tuple[bool, ...] = ()
    """Whether the model ended the text itself."""
    problem: str = ""
    """Why there is nothing; "" where there is."""


Kept = Callable[[int, Answer], None]
"""Is called with the place of a sample and its answer."""


class Writer(Protocol):
    """Writes texts for samples."""

    @property
    def provenance(self) -> Mapping[str, Any]:
        """What decides the texts: model, revision, prompt, sampling, licence; JSON values."""
        ...

    def __call__(self, asks: Sequence[Ask], kept: Kept | None = None) -> list[Answer]:
        """One answer a sample, in order; `kept` is called with each as soon as it is there, by any thread.

        Raises:
            MobileClipError: nothing can be answered, now or later.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Options:
    """What stages that write captions can be told; what does not concern their kind of model is not looked at."""

    incidental: ClassVar[frozenset[str]] = frozenset(
        {"cache", "rate", "concurrency", "timeout", "deadline", "retries", "max_cost", "price_in", "price_out"}
        | {"key_env", "offline"}
    )
    """Options on which no text depends."""

    model: str
    """Name or folder: for "coca" open_clip's name or a folder with open_clip_config.json; for "transformers" a
    repository or a folder; for "server" what the server calls it."""
    weights: str = ""
    """Of open_clip's name: a file, or a tag of open_clip's."""
    revision: str = ""
    """Of the repository: a commit, so that it cannot change; "" is the newest."""
    licence: str = ""
    """Of the model, as it is to stand beside the captions."""
    k: int = 1
    """Texts a sample."""
    sampling: Literal["top_p", "greedy", "beam"] = "top_p"
    """Nucleus, the likeliest token, or beams (transformers alone)."""
    top_p: float = 0.9
    """Share of the probability that a nucleus holds."""
    temperature: float = 1.0
    """Of the draw."""
    beams: int = 3
    """With sampling "beam"; no fewer than `k`."""
    max_tokens: int = 30
    """Tokens of a text at most; for CoCa with start and end."""
    min_tokens: int = 0
    """Tokens of a text at least; for CoCa with the start, 5 where 0 is said, as open_clip has it."""
    repetition_penalty: float = 1.0
    """Over 1: tokens that are there already become less likely."""
    seed: int = 0
    """Another one, other draws."""
    first_sentence: bool = False
    """Cut at the first full stop."""
    device: str = "cpu"
    """Where a model runs."""
    bf16: bool = False
    """Its weights in bfloat16."""
    batch: int = 32
    """Samples of a pass."""
    offline: bool = False
    """Take models from this disk alone."""
    url: str = ""
    """Of a server: up to and without /chat/completions, as in http://127.0.0.1:8000/v1."""
    key_env: str = ""
    """Name of the environment variable with the server's key."""
    rate: float = 0.0
    """Requests a second, each process; 0: as many as there are."""
    concurrency: int = 8
    """Requests at a time, each process."""
    timeout: float = 60.0
    """Seconds without a byte before a request is given up."""
    deadline: float = 300.0
    """Seconds for a sample, with all its tries."""
    retries: int = 4
    """Further tries of a request."""
    price_in: float = 0.0
    """What 1,000 tokens of a prompt cost, in any currency."""
    price_out: float = 0.0
    """What 1,000 written tokens cost, in the same."""
    max_cost: float = 0.0
    """Stop before more is spent; 0: no cap. With `cache` the sum is kept there, for all processes and runs."""
    logprobs: bool = False
    """Ask a server for log-probabilities; not every one can."""
    side: int = 512
    """Pixels of a picture's longer side that a server is sent at most."""
    cache: str = ""
    """Folder of answers by content, for stages, runs and processes to share; "": none."""

    def check(self, name: str, kind: str) -> None:
        """Refuse what cannot be meant.

        Raises:
            DataError: what, and what is allowed.
        """
        checked(bool(self.model.strip()), f"{name}.model is empty: name a model.")
        checked(1 <= self.k <= 100, f"{name}.k is {self.k}: 1 to 100 texts are allowed.")
        checked(0 < self.top_p <= 1, f"{name}.top_p is {self.top_p}: a share over 0 and up to 1 is allowed.")
        checked(
            0 < self.temperature <= 10, f"{name}.temperature is {self.temperature}: over 0 and up to 10 is allowed."
        )
        checked(
            0 <= self.min_tokens < self.max_tokens <= 4_096,
            f"{name}.min_tokens is {self.min_tokens} and max_tokens {self.max_tokens}: the first must be less, the "
            "second 4,096 at most.",
        )
        checked(
            0.1 <= self.repetition_penalty <= 10,
            f"{name}.repetition_penalty is {self.repetition_penalty}: 0.1 to 10 is allowed, 1 changes nothing.",
        )
        known = self.device.partition(":")[0] in ("cpu", "cuda", "mps")
        checked(known, f"{name}.device is '{self.device[:40]}': cpu, cuda, cuda:1, ... or mps is allowed.")
        checked(1 <= self.batch <= 4_096, f"{name}.batch is {self.batch}: 1 to 4,096 samples are allowed.")
        checked(
            self.sampling != "beam" or kind == "transformers",
            f"{name}.sampling is 'beam', which {kind} has not: take 'top_p' or 'greedy', or a transformers model.",
        )
        checked(
            self.sampling != "beam" or self.k <= self.beams <= 100,
            f"{name}.beams is {self.beams} for k = {self.k}: k to 100 are allowed.",
        )
        checked(
            self.sampling != "greedy" or self.k == 1,
            f"{name}.sampling is 'greedy' and k is {self.k}: the likeliest text is one; take k = 1, or 'top_p'.",
        )
        checked(
            self.retries >= 0 and self.timeout > 0 and self.deadline > 0 and self.rate >= 0 and self.concurrency >= 1,
            f"{name} has rate {self.rate}, concurrency {self.concurrency}, timeout {self.timeout}, deadline "
            f"{self.deadline}, retries {self.retries}: no negative ones are allowed, and timeout, deadline and "
            "concurrency are above 0.",
        )
        checked(
            self.max_cost == 0 or (self.max_cost > 0 and min(self.price_in, self.price_out) >= 0 < self.price_out),
            f"{name}.max_cost is {self.max_cost} with prices {self.price_in} and {self.price_out}: give both prices.",
        )
        checked(32 <= self.side <= 4_096, f"{name}.side is {self.side}: 32 to 4,096 pixels are allowed.")
        address = self.url.startswith(("http://", "https://"))
        checked(kind != "server" or address, f"{name}.url is '{self.url[:200]}': give the server's http(s) address.")

    @property
    def sampled(self) -> dict[str, Any]:
        """Options of the sampling, as provenance says them."""
        names = ["k", "sampling", "max_tokens", "min_tokens", "repetition_penalty"]
        if self.sampling == "top_p":
            names += ["top_p", "temperature", "seed"]
        if self.sampling == "beam":
            names += ["beams"]
        return {name: getattr(self, name) for name in names}


def writer_of(options: Options, kind: str, stage: str, *, looks: bool = True) -> Writer:
    """The writer that a stage of that name uses, with its cache if it has one.

    Raises:
        MobileClipError: the model cannot be loaded.
    """
    if kind != "server":
        _require_device(options.device, stage)
    writer: Writer
    if kind == "coca":
        from mobileclip.captions.writers.coca_captioner import CocaCaptioner

        writer = CocaCaptioner.load(options, stage)
    elif kind == "transformers":
        from mobileclip.captions.writers import transformers_captioner

        writer = transformers_captioner.load(options, stage, looks=looks)
    else:
        from mobileclip.captions.writers.server import ServerWriter

        writer = ServerWriter(options, stage)
    if options.cache:
        from mobileclip.captions.writers.cache import Cached

        writer = Cached(writer, options.cache, seeded=(stage, options.seed) if options.sampling == "top_p" else None)
    return writer


def _require_device(device: str, stage: str) -> None:
    import torch

    kind, _, number = device.partition(":")
    there = torch.cuda.is_available() if kind == "cuda" else kind != "mps" or torch.backends.mps.is_available()
    if kind == "cuda" and there and number:
        there = number.isdigit() and int(number) < torch.cuda.device_count()
    checked(there, f"{stage}.device is '{device}', which this machine has not: take cpu, or run where it is.")


def columns(status: Sequence[str], places: Sequence[int], answers: Sequence[Answer], first_sentence: bool) -> Columns:
    """What a stage gives for a batch: `answers` belong to the rows at `places`."""
    out: dict[str, list[Any]] = {entry.name: [None] * len(status) for entry in SCHEMA}
    said = list(status)
    for place, answer in zip(places, answers, strict=True):
        if answer.problem:
            said[place] = answer.problem[:300]
            continue
        texts = [tidied(text, first_sentence) for text in answer.texts]
        out["texts"][place] = texts
        out["lp"][place] = [None if value is None else round(value, 3) for value in answer.lp]
        out["n_tok"][place] = [None if count is None else min(count, 65_535) for count in answer.n_tok]
        out["flags"][place] = [
            flags_of(text, texts[:number], raw, answer.ended[number])
            for number, (text, raw) in enumerate(zip(texts, answer.texts, strict=True))
        ]
    return {"status": said, **out}


def picture(pixels: Pixels) -> Any:
    """RGB uint8 [H, W, 3] -> a PIL image; of a strip, which models would enlarge to a wall, the middle."""
    from PIL import Image

    height, width = pixels.shape[:2]
    most = _LONGEST_RATIO * min(height, width)
    top, left = max(0, height - most) // 2, max(0, width - most) // 2
    return Image.fromarray(np.ascontiguousarray(pixels[top : top + most, left : left + most]))


def tidied(text: str, first_sentence: bool) -> str:
    """One line without control characters, cut at its first full stop where that is asked for."""
    shown = "".join(" " if unicodedata.category(one) in ("Cc", "Cs", "Zl", "Zp") else one for one in text[:LONGEST])
    line = " ".join(shown.split())
    return line.partition(".")[0].rstrip() if first_sentence else line


def flags_of(text: str, before: Sequence[str], raw: str, ended: bool) -> int:
    """Bits of `Flag` that the writing itself shows."""
    words = text.lower().split()
    threes = Counter(zip(words, words[1:], words[2:], strict=False))
    total = sum(threes.values())
    found = {
        Flag.EMPTY: not text,
        Flag.CUT: len(raw) > LONGEST,
        Flag.TRUNCATED: not ended and not ("." in raw and "." not in text),
        Flag.REPEATED: total > 0 and 1 - len(threes) / total > _REPEATED,
        Flag.DUPLICATE: text in before,
    }
    return int(sum(flag for flag, is_so in found.items() if is_so))
