"""Names of single examples of a run: `de:12` by position, `train.txt:345` or an id of the file's own by place."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass

from .... import DataError
from ....data import TokenStore
from ....data.readers.lines import file_stem

_NEAR = 3


@dataclass(frozen=True)
class Item:
    """One example that a run has used.

    Attributes:
        role: "source" (labelled training text) or "target" (unlabelled text).
        number: its position in the store, from 0, which is what the arrays of a decision count in.
    """

    role: str
    language: str
    number: int
    store: TokenStore

    @property
    def name(self) -> str:
        """The short name, such as `de:12`."""
        return f"{self.language}:{self.number}"

    @property
    def example(self) -> str:
        """The id that the reader gave it: the file's own, else `<file stem>:<line>`."""
        return self.store.example_ids[self.number]


def find_item(text: str, stores: list[tuple[str, str, TokenStore]]) -> Item:
    """The example that `text` names.

    Args:
        text: `LANGUAGE:NUMBER`, the position from 0; or `FILE:LINE`, or an id as the file has it, either with
            `LANGUAGE/` before it where several languages have the same.
        stores: role, language and store of everything that may be meant.

    Raises:
        DataError: nothing or more than one has this name; the message has the nearest ones.
    """
    by_language = {language: (role, store) for role, language, store in stores}
    left, _, right = text.rpartition(":")
    if left in by_language and right.isdigit():
        role, store = by_language[left]
        if int(right) < len(store):
            return Item(role, left, int(right), store)
        raise DataError(f"{text}: {left} has {len(store)} examples here; give {left}:0 to {left}:{len(store) - 1}")
    language, slash, rest = text.partition("/")
    wanted, chosen = text, stores
    if slash and language in by_language:
        wanted, chosen = rest, [entry for entry in stores if entry[1] == language]
    left, _, right = wanted.rpartition(":")
    forms = {wanted} | ({f"{file_stem(left)}:{right}"} if left else set())
    found = [
        Item(role, name, number, store)
        for role, name, store in chosen
        for number, example in enumerate(store.example_ids)
        if example in forms
    ]
    if len(found) == 1:
        return found[0]
    if found:
        raise DataError(f"{text}: several examples have this name; give {_listed(found)}")
    near = _nearest(f"{file_stem(left)}:{right}" if left else wanted, chosen)
    names = ", ".join(by_language)
    hint = f"the nearest are {_listed(near)}" if near else f"give LANGUAGE:NUMBER, with a language of {names}"
    raise DataError(f"{text}: no such example in this run; {hint}")


def _nearest(wanted: str, stores: list[tuple[str, str, TokenStore]]) -> list[Item]:
    """Examples of the same file on the nearest lines; else those with the most similar ids."""
    items = [Item(role, name, n, store) for role, name, store in stores for n in range(len(store))]
    stem, _, line = wanted.rpartition(":")
    if stem and line.isdigit():
        same = [(m, item) for item in items if (m := re.fullmatch(re.escape(stem) + r":(\d+)", item.example))]
        if same:
            same.sort(key=lambda pair: abs(int(pair[0][1]) - int(line)))
            return [item for _, item in same[:_NEAR]]
    by_example = {item.example: item for item in reversed(items)}
    return [by_example[e] for e in difflib.get_close_matches(wanted, by_example, n=_NEAR, cutoff=0.7)]


def _listed(items: list[Item]) -> str:
    return ", ".join(f"{item.name} ({item.example})" for item in items[:_NEAR])
