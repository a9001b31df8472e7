"""Every command and Python block of README.md, docs/*.md and the help texts, and what makes each of them small.

    for command in commands():
        print(command.where, command.line, small(command.argv))

A command is run as it is written but for what stands here: fewer steps, pictures and runs, small models in the place
of large ones, and targets that others of the commands have lowered to already.
"""

import inspect
import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

from mobileclip import cli

ROOT = Path(__file__).parents[2]
STARTS = ("mobileclip ", "torchrun ", "python ", "make ", "npm ", "cd ", "gradle ")
"""How a command begins."""
SHELL = ("", "sh", "bash")
"""Fences whose lines are commands."""


@dataclass(frozen=True, kw_only=True)
class Command:
    """A line of a page or of a help text."""

    where: str
    """Page, or verb."""
    line: str
    """As it is written, without its comment."""

    @property
    def argv(self) -> tuple[str, ...]:
        """Its words."""
        return tuple(shlex.split(self.line))

    @property
    def own(self) -> tuple[str, ...]:
        """The words behind `mobileclip`, also where torchrun starts it; none of other programs."""
        if self.argv[0] == "torchrun":
            return self.argv[self.argv.index("mobileclip.cli") + 1 :]
        return self.argv[1:] if self.argv[0] == "mobileclip" else ()


def pages() -> list[Path]:
    """README.md, then docs/ in the order of its table; what is not in the table comes last."""
    front = ROOT / "README.md"
    found = sorted((ROOT / "docs").glob("*.md"))
    listed = [ROOT / place for place in re.findall(r"\]\((docs/[\w-]+\.md)\)", front.read_text(encoding="utf-8"))]
    return [front, *sorted(found, key=lambda page: listed.index(page) if page in listed else len(listed))]


def blocks(page: Path, *languages: str) -> Iterator[str]:
    """The contents of a page's fences in one of `languages`."""
    for language, text in re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(encoding="utf-8"), re.M | re.S):
        if language in languages:
            yield text


def commands() -> list[Command]:
    """All of them, each once, in the order of reading."""
    found = [
        Command(where=page.relative_to(ROOT).as_posix(), line=line)
        for page in pages()
        for block in blocks(page, *SHELL)
        for line in lines_of(block)
    ]
    found += [Command(where=name, line=line) for name, made in verbs() for line in examples_of(made)]
    first: dict[str, Command] = {}
    for command in found:
        first.setdefault(command.line, command)
    return list(first.values())


def lines_of(block: str) -> list[str]:
    """The commands of a fence: continued lines joined, comments left out."""
    joined = re.sub(r"\\\n\s*", "", block)
    return [line for line in map(_plain, joined.splitlines()) if line]


def _plain(line: str) -> str:
    """A command without its comment, and without the file that its output goes to."""
    words = shlex.split(line, comments=True)
    return shlex.join(words[: words.index(">")] if ">" in words else words)


def verbs() -> Iterator[tuple[str, type]]:
    """`train`, `pack scenes`, …: every verb and part of one, with its dataclass."""

    def below(name: str, made: type) -> Iterator[tuple[str, type]]:
        yield name, made
        inner = get_type_hints(made, include_extras=True).get("what") if is_dataclass(made) else None
        for part in _choices(inner):
            yield from below(f"{name} {part.__name__.lower()}", part)

    for made in _choices(cli.Verb):
        yield from below(made.__name__.lower(), made)


def _choices(hint: Any) -> list[type]:
    """The dataclasses of a union, however it is annotated."""
    if isinstance(hint, type):
        return [hint] if is_dataclass(hint) else []
    return [made for inner in get_args(hint) for made in _choices(inner)]


def examples_of(made: type) -> list[str]:
    """The commands in a verb's help: a line that begins like one, and those of its paragraph that follow it."""
    found: list[str] = []
    for paragraph in inspect.cleandoc(made.__doc__ or "").split("\n\n"):
        for line in paragraph.splitlines():
            if line.startswith(STARTS):
                found.append(line)
            elif found and paragraph.startswith(STARTS):
                found[-1] += f" {line}"
            else:
                break
    return [_plain(line) for line in found]


# What makes them small

Words = tuple[str, ...]


def small(argv: Words) -> Words:
    """What is run in the place of the words behind `mobileclip`: the same verb and options, less work."""
    words = tuple(SMALLER.get(word, word) for word in argv)
    for verb, change in RULES.items():
        if words[: len(verb)] == verb:
            return change(words)
    return words


SMALLER = {
    "coca.model=coca_ViT-L-14": "coca.model=coca",
    "swin-l": "nano_swin",
    "seeded:mobileclip_s2": "seeded:nano",
    "web/{00000..00127}.tar": "web/{00000..00003}.tar",
    "/data/{00000..12799}.tar": "web",
    "/data/work": "work-of-an-array",
    "192.168.1.20": "192.0.2.1",
}
"""Models by name that take minutes here -> the same classes, small; places -> those of the world; an address that may
be somebody's -> one that is nobody's (RFC 5737)."""
SMALLER_PYTHON = {'"swin_l"': '"naive"', "runs=20, seconds=1": "runs=2, seconds=0.01, memory=False"}
"""Likewise, in blocks of Python."""
TRAINING = ("steps=2", "warmup=1", "batch=8", "threads=1", "precision=fp32", "tensorboard=no", "log_every=1")


def without(words: Words, *options: str) -> Words:
    """Without `options` and their values."""
    kept, skipping = [], False
    for word in words:
        if word.startswith("--"):
            skipping = word in options
        if not skipping:
            kept.append(word)
    return tuple(kept)


def with_settings(words: Words, *settings: str) -> Words:
    """With further values behind `--set`'s own, which stand in the place of those of the same name."""
    names = {setting.partition("=")[0] for setting in settings}
    given = [word for word in values_of(words, "--set") if word.partition("=")[0] not in names]
    return (*without(words, "--set"), "--set", *given, *settings)


def values_of(words: Words, option: str) -> Words:
    """The values of an option."""
    if option not in words:
        return ()
    rest = words[words.index(option) + 1 :]
    return rest[: next((place for place, word in enumerate(rest) if word.startswith("--")), len(rest))]


def _scenes(words: Words) -> Words:
    few = ("--count", "40", "--val-count", "20", "--size", "64", "--per-shard", "20", "--jobs", "1")
    return (*without(words, "--count", "--size"), *few)


def _captions(words: Words) -> Words:
    """In one process, where tests/mobileclip/captions/test_ray_engine.py runs Ray."""
    words = without(words, "--engine", "--gpus") if "ray" in words else words
    if "--show" in words:
        return words
    if "coca.model=coca" in words:
        words = tuple(word for word in words if not word.startswith("coca.weights="))
        words = with_settings(words, "coca.k=2", "coca.max_tokens=8")
    return (*without(words, "--jobs"), "--jobs", "1")


def _train(words: Words) -> Words:
    if "--show" in words:
        return words
    model = () if "nano-scenes" in words or "--qat" in words else ("model=nano",)
    return with_settings(words, *TRAINING, "save_every=2", *model)


def _finetune(words: Words) -> Words:
    if "--show" in words:
        return words
    words = (*without(words, "--sweep-steps"), "--sweep-steps", "2") if "--sweep" in words else words
    sides = ("size=64,64", "eval_size=64,64", "batch=2", "val_limit=2", "frozen_bn_steps=0", "bn=frozen")
    shorter = ("steps=1", "warmup=0") if "detection" in words else ()  # its pictures are large whatever the size
    return with_settings(words, *TRAINING, *sides, *shorter)


def _export(words: Words) -> Words:
    """In one process; to ExecuTorch once, for `out/s2`."""
    targets = values_of(words, "--to")
    if "out/s2" in words and set(targets) in (set(), {"onnx", "coreml", "executorch-xnnpack"}):
        targets = ("coreml", "executorch-xnnpack", "onnx")
    else:
        targets = tuple(dict.fromkeys("onnx" if "executorch" in name else name for name in targets or ("onnx",)))
    if "auto" in words:
        targets = ("coreml",)
    words = (*without(words, "--size"), "--size", "64", "64") if "--size" in words else words
    return (*without(words, "--to", "--jobs"), "--to", *targets, "--jobs", "1")


def _bench(words: Words) -> Words:
    """One target, one rival: the block of Python has another."""
    if "--device" not in words:
        words = (*without(words, "--against"), "--against", values_of(words, "--against")[0], "--to", "onnx")
    return (*without(words, "--sustained"), "--runs", "2", "--seconds", "0.01")


def _evaluate(words: Words) -> Words:
    """With one template in the place of eighty."""
    if values_of(words, "--templates") != ("imagenet",):
        return words
    return (*without(words, "--templates"), "--templates", "imagenet/templates.txt")


def _build(words: Words) -> Words:
    """Planned and not run: tests/mobileclip/test_build.py runs a journey."""
    return words if "--plan" in words else (*words, "--plan")


def _apps(words: Words) -> Words:
    return (*without(words, "--into"), "--into", f"installed-{words[2]}")


RULES: Mapping[Words, Callable[[Words], Words]] = {
    ("pack", "scenes"): _scenes,
    ("pack", "shards"): lambda words: (*words, "--jobs", "1"),
    ("captions", "run"): _captions,
    ("captions", "select"): lambda words: (*words, "--jobs", "1"),
    ("train",): _train,
    ("finetune",): _finetune,
    ("export",): _export,
    ("verify",): lambda words: (*without(words, "--limit"), "--limit", "4"),
    ("evaluate",): _evaluate,
    ("bench",): _bench,
    ("build",): _build,
    ("apps",): _apps,
}
"""Words that a command begins with -> what is changed."""


def parsed(argv: Sequence[str]) -> None:
    """Let the command's own parser read it; nothing runs."""
    import tyro

    tyro.cli(cli.Verb, prog="mobileclip", args=list(argv))
