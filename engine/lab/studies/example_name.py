"""Names of single examples of a run: `de:12` by position, `train.txt:345` or an id of the file's own by place."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from .... import DataError
from ....data import TokenStore
from ....data.readers.lines import file_stem

_NEAR = 3
"""How many other examples a message names."""


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
    chosen, name = ([language], rest) if slash and language in by_language else (list(by_language), text)
    items = [Item(role, lang, n, store) for role, lang, store in stores if lang in chosen for n in range(len(store))]
    file, _, line = name.rpartition(":")
    id_of_line = f"{file_stem(file)}:{line}" if file else name
    named = [item for item in items if item.example in (name, id_of_line)]
    if len(named) == 1:
        return named[0]
    if named:
        raise DataError(f"{text}: several examples have this name; give {_listed(named)}")
    near = _nearest(id_of_line, items)
    hint = (
        f"the nearest are {_listed(near)}"
        if near
        else f"give LANGUAGE:NUMBER, with a language of {', '.join(by_language)}"
    )
    raise DataError(f"{text}: no such example in this run; {hint}")


def _nearest(name: str, items: list[Item]) -> list[Item]:
    """Examples of the same file on the nearest lines; else those with the most similar ids."""
    stem, _, line = name.rpartition(":")
    places = [(item, *item.example.rpartition(":")[::2]) for item in items]
    same = [(abs(int(at) - int(line)), item) for item, file, at in places if file == stem and (at + line).isdigit()]
    if stem and same:
        return [item for _, item in sorted(same, key=lambda entry: entry[0])]
    by_example = {item.example: item for item in reversed(items)}
    return [by_example[e] for e in difflib.get_close_matches(name, by_example, n=_NEAR, cutoff=0.7)]


def _listed(items: list[Item]) -> str:
    return ", ".join(f"{item.name} ({item.example})" for item in items[:_NEAR])
