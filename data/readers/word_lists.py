"""The word lists that come with the package: tab-separated files, their first line a head."""

from __future__ import annotations

from functools import cache
from importlib import resources


@cache
def read_list(name: str) -> tuple[tuple[str, ...], ...]:
    """The cells of each line after the head; `name` is the file's path in `data/`."""
    text = (resources.files(__package__.rpartition(".")[0]) / name).read_text("utf-8")
    return tuple(tuple(line.split("\t")) for line in text.splitlines()[1:])


@cache
def words_of(name: str, kind: str, language: str) -> frozenset[str]:
    """The words of one kind for a language and for all, of a file with kind, language ("" for all) and words."""
    lists = (words.split() for of, code, words in read_list(name) if of == kind and code in ("", language))
    return frozenset(word for words in lists for word in words)
