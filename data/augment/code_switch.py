"""Code switching: words of a text replaced by their translations from a dictionary file, tags kept in place."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ... import DataError
from ..batches.sampling import rng_for
from ..readers.example import OUTSIDE, Example
from ..readers.lines import read_lines
from ..readers.problems import Problems

Dictionary = Mapping[str, Sequence[str]]
_WORD = re.compile(r"\w+(?:[-'’]\w+)*")


def read_dictionary(paths: Sequence[str | Path], *, encoding: str = "utf-8") -> dict[str, list[str]]:
    """The translations of each word, in the order of the files: a word, a tab, a translation, without a header.

    A word may have several lines. Blank lines are skipped.

    Raises:
        DataError: all faults, the first 20 listed by line; or a file without an entry.
    """
    found: dict[str, list[str]] = {}
    problems = Problems()
    for path in paths:
        before = len(found)
        for number, line in read_lines(path, encoding, problems):
            cells = [cell.strip() for cell in line.split("\t")]
            if not line.strip():
                continue
            if len(cells) != 2 or not all(cells):
                problems.add(f"{path}:{number}", "is not a word, a tab and a translation", "correct or remove the line")
                continue
            known = found.setdefault(cells[0], [])
            known += [] if cells[1] in known else [cells[1]]
        if len(found) == before and not problems.count:
            raise DataError(
                f"{path}:1: the dictionary has no entry of its own; give word, tab, translation on each line"
            )
    problems.raise_if_any()
    return found


def code_switched(example: Example, dictionary: Dictionary, rate: float, seed: int) -> Example | None:
    """The example with some words in another language; None where none was replaced.

    Each word that the dictionary has is replaced with probability `rate`, by one of its translations, all equally
    likely. A word that is not there as it is written is looked up in lower case, and its translation gets its capital.
    Where one word becomes several, `B-X` becomes `B-X I-X ...`, and `I-X` and `O` are repeated, so that every span
    covers the same words as before. The draw depends on the seed and the example's id alone.

    Args:
        example: words with tags, a text, or a pair of texts, both of which are switched.
        rate: 0 to 1.
    """
    rng = rng_for(seed, "code_switch", example.id)
    if example.words is not None:
        return _switched_words(example, dictionary, rate, rng)
    text, count = _switched_text(example.text or "", dictionary, rate, rng)
    pair, more = (None, 0) if example.pair is None else _switched_text(example.pair, dictionary, rate, rng)
    return replace(example, id=f"{example.id}/switched", text=text, pair=pair) if count + more else None


def _switched_words(example: Example, dictionary: Dictionary, rate: float, rng: np.random.Generator) -> Example | None:
    words: list[str] = []
    tags: list[str] = []
    count = 0
    given = example.words or ()
    old_tags = example.labels if isinstance(example.labels, tuple) else (OUTSIDE,) * len(given)
    for word, tag in zip(given, old_tags, strict=True):
        translation = _draw(word, dictionary, rate, rng)
        new = [word] if translation is None else translation.split()
        count += translation is not None
        words += new
        tags += [tag, *([f"I-{tag[2:]}" if tag.startswith("B-") else tag] * (len(new) - 1))]
    labels = tuple(tags) if isinstance(example.labels, tuple) else example.labels
    return replace(example, id=f"{example.id}/switched", words=tuple(words), labels=labels) if count else None


def _switched_text(text: str, dictionary: Dictionary, rate: float, rng: np.random.Generator) -> tuple[str, int]:
    count = 0

    def switch(match: re.Match[str]) -> str:
        nonlocal count
        translation = _draw(match[0], dictionary, rate, rng)
        count += translation is not None
        return match[0] if translation is None else translation

    return _WORD.sub(switch, text), count


def _draw(word: str, dictionary: Dictionary, rate: float, rng: np.random.Generator) -> str | None:
    """A translation, or None where the word stays."""
    exact = dictionary.get(word)
    known = exact or dictionary.get(word.lower())
    if not known or rng.random() >= rate:
        return None
    found = known[int(rng.integers(len(known)))]
    return found[0].upper() + found[1:] if exact is None and word[0].isupper() else found
