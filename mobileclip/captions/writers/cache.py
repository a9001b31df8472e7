"""Answers that were given before, by the hash of all that decides them: a folder that stages, runs and processes share.

    cache = Cache(Path("answers"))
    key = cache_key(writer.provenance, prompt, image)
    cache.get(key) or cache.put(key, answer)

    answers/3f0.jsonl                   # {"key": "3f0…", "answer": {…}}, a line each; the first of a key counts

A line is appended in one piece under a lock, behind whatever a process that died left there. A line that is cut
short, no JSON, or no answer is skipped, so that a damaged or hostile file costs its entries and no more. Where the
model draws, the key holds what the draws are made from (uid, stage, seed): what is answered never depends on what was
asked before. An answer is kept as soon as it is there, so that none that was paid for is lost when a run ends.
"""

import fcntl
import hashlib
import json
import os
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mobileclip.captions.writers.captioner import LONGEST, Answer, Ask, Kept, Writer
from mobileclip.data.arrays import writing
from mobileclip.errors import DataError

FILE_LIMIT = 16_000_000
"""Bytes of one of the 4,096 files; a full one takes no more."""
LINE_LIMIT = 1_000_000
"""Bytes of a line that is read or written."""

_PREFIX = 3  # digits of a key by which its file is called
_HELD = 16  # files whose answers are kept in memory


class Cache:
    """A folder of answers.

    Raises:
        DataError: it cannot be read.
        OutputError: it cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        self._held: OrderedDict[str, tuple[int, dict[str, Answer]]] = OrderedDict()  # prefix -> bytes read, answers
        self._lock = threading.Lock()

    def get(self, key: str) -> Answer | None:
        """What was answered, if it was."""
        with self._lock:
            return self._read(key[:_PREFIX]).get(key)

    def put(self, key: str, answer: Answer) -> None:
        """Keep an answer; another one of that key that is there already stays."""
        said = {name: list(getattr(answer, name)) for name in ("texts", "lp", "n_tok", "ended")}
        line = json.dumps({"key": key, "answer": said}, ensure_ascii=True).encode() + b"\n"
        if len(line) > LINE_LIMIT:
            return
        path = self._path(key[:_PREFIX])
        with self._lock, writing(path), path.open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # given back when the file is closed
            size = file.seek(0, os.SEEK_END)
            if size + len(line) > FILE_LIMIT:
                return
            file.write(line if size == 0 or _last(path) == b"\n" else b"\n" + line)

    def _path(self, prefix: str) -> Path:
        return self.folder / f"{prefix}.jsonl"

    def _read(self, prefix: str) -> dict[str, Answer]:
        """Answers of a file, with what was appended since it was last read."""
        done, answers = self._held.pop(prefix, (0, {}))
        path = self._path(prefix)
        try:
            with path.open("rb") as file:
                file.seek(done)
                new = file.read(FILE_LIMIT)
        except FileNotFoundError:
            new = b""
        except OSError as error:
            raise DataError(f"the cache '{path}' cannot be read ({error.strerror}): check its permissions.") from error
        whole = new.rfind(b"\n") + 1
        for line in new[:whole].splitlines():
            found = _entry(line)
            if found is not None and found[0].startswith(prefix):
                answers.setdefault(*found)
        self._held[prefix] = (done + whole, answers)
        while len(self._held) > _HELD:
            self._held.popitem(last=False)
        return answers


class Cached:
    """A writer that asks another one only for what is not in a folder of answers.

    Args:
        writer: it is asked for the rest.
        folder: of the answers.
        seeded: what draws are made from besides a sample's uid; None: nothing is drawn.
    """

    def __init__(self, writer: Writer, folder: str, seeded: tuple[str, int] | None) -> None:
        self.writer, self.cache, self.seeded = writer, Cache(Path(folder)), seeded
        self.provenance = writer.provenance
        self.hits = 0
        """Samples that needed no model."""

    def __call__(self, asks: Sequence[Ask], kept: Kept | None = None) -> list[Answer]:
        keys = [self.key(ask) for ask in asks]
        found = [self.cache.get(key) for key in keys]
        todo = [place for place, answer in enumerate(found) if answer is None]
        self.hits += len(asks) - len(todo)

        def keep(number: int, answer: Answer) -> None:
            if not answer.problem:
                self.cache.put(keys[todo[number]], answer)

        if todo:
            for place, answer in zip(todo, self.writer([asks[place] for place in todo], keep), strict=True):
                found[place] = answer
        return [answer for answer in found if answer is not None]

    def key(self, ask: Ask) -> str:
        """64 hexadecimal digits of all that decides an answer."""
        draws = None if self.seeded is None else [*self.seeded, ask.uid]
        return cache_key(self.provenance, [ask.system, *ask.prompts], ask.image, draws)


def cache_key(
    provenance: Mapping[str, Any],
    prompts: Sequence[str],
    image: memoryview | bytes | None,
    draws: Sequence[Any] | None = None,
) -> str:
    """64 hexadecimal digits: of what the model is and how it is sampled, of the prompts, the picture and the draws."""
    picture = None if image is None else hashlib.sha256(image).hexdigest()
    said = [dict(provenance), list(prompts), picture, draws]
    return hashlib.sha256(json.dumps(said, sort_keys=True, default=str).encode()).hexdigest()


def _last(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1)


def _entry(line: bytes) -> tuple[str, Answer] | None:
    """The key and the answer of a line; None where it is none."""
    if len(line) > LINE_LIMIT:
        return None
    try:
        found = json.loads(line)
        key, said = found["key"], found["answer"]
        texts, lp, n_tok, ended = (said[name] for name in ("texts", "lp", "n_tok", "ended"))
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    lists = all(isinstance(values, list) for values in (texts, lp, n_tok, ended))
    if not isinstance(key, str) or len(key) != 64 or not lists or not len(texts) == len(lp) == len(n_tok) == len(ended):
        return None
    fits = (
        all(isinstance(text, str) and len(text) <= 4 * LONGEST for text in texts)
        and all(value is None or (isinstance(value, float | int) and abs(value) < 1e6) for value in lp)
        and all(count is None or (type(count) is int and 0 <= count < 1 << 32) for count in n_tok)
        and all(isinstance(value, bool) for value in ended)
    )
    answer = Answer(texts=tuple(texts), lp=tuple(lp), n_tok=tuple(n_tok), ended=tuple(ended))
    return (key, answer) if fits else None
