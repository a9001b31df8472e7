"""Which concepts of a list a caption names: all of them in one pass over many captions (Aho and Corasick, 1975).

    Concepts(["golden retriever", "tennis ball"]).of(words)      # [(0, 1)] for "Two golden retrievers, one tennis ball"

A concept is found where its words stand in a row, the last of them perhaps in the plural, after capitals and
punctuation are gone: never inside of a word. MetaCLIP's lists (Xu et al. 2023) are taken as they are.
"""

import hashlib
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

from mobileclip.captions.text import words
from mobileclip.errors import DataError, MissingExtra

PLACES = 1 << 24
"""Characters of all concepts; automata of longer lists would not fit into the memory of a worker."""


def needed() -> None:
    """Raise unless pyahocorasick is installed.

    Raises:
        MissingExtra: it is not.
    """
    if find_spec("ahocorasick") is None:
        raise MissingExtra(
            "concepts are found by pyahocorasick, which is not installed: pip install 'mobileclip-toolkit[captions]'"
        )


class Concepts:
    """An automaton over a list of concepts.

    Raises:
        DataError: the list is too long, or no entry has a word.
        MissingExtra: pyahocorasick is not installed.
    """

    def __init__(self, names: Sequence[str]) -> None:
        found = words.of_texts(names)
        if sum(map(len, names)) > PLACES:
            raise DataError(
                f"the list of concepts has {sum(map(len, names))} characters, {PLACES} are allowed: give a shorter one."
            )
        if not any(found):
            raise DataError("the list of concepts has no word: write one concept a line.")
        needed()
        import ahocorasick

        self._automaton: Any = ahocorasick.Automaton()
        for number, own in enumerate(found):
            for form in _forms(own):
                if form not in self._automaton:  # of two with the same words the first counts
                    self._automaton.add_word(form, number)
        self._automaton.make_automaton()

    def of(self, found: Sequence[Sequence[str]]) -> list[tuple[int, ...]]:
        """Numbers of the concepts in each caption, whose words are given, ascending."""
        texts = [" ".join(own) for own in found]
        out: list[set[int]] = [set() for _ in texts]
        place, end = -1, -1
        for last, number in self._automaton.iter(" " + " \n ".join(texts) + " "):
            while last > end:  # where a caption, a space on both sides, ends
                place += 1
                end += len(texts[place]) + 3
            out[place].add(number)
        return [tuple(sorted(numbers)) for numbers in out]


def content(names: Sequence[str]) -> str:
    """Hash of a list."""
    return hashlib.sha256("\n".join(names).encode("utf-8", "replace")).hexdigest()


def _forms(own: Sequence[str]) -> list[str]:
    """The words of a concept as they stand between spaces, and with the last in the plural."""
    if not own:
        return []
    *before, last = own
    plural = last[:-1] + "ies" if last.endswith("y") and last[-2:-1] not in "aeiou" else last
    plural += "" if plural != last else "es" if last.endswith(("s", "x", "ch", "sh")) else "s"
    return [f" {' '.join((*before, word))} " for word in (last, plural)]
