"""Where the keys of a TOML text stand: `tomllib` gives values without lines, and error messages need them."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from typing import Any

Key = tuple[str | int, ...]
_AGAIN = 1 << 20
"""Characters of values over several lines that are parsed once more for each of their lines, in all."""


def key_lines(text: str) -> dict[Key, int]:
    """Key path -> line, from 1, of every key, table header and array element of a text that `tomllib` accepts.

    Elements of arrays, tables of `[[...]]` included, are numbered from 0: `("targets", 0, "language")`. A table that
    is only implied by a dotted key or a longer header has the line of the first key that implies it, and an element
    that goes over several lines has the last of them. Arrays of thousands of lines end the search: what follows has
    no line.
    """
    lines, counts = dict[Key, int](), dict[Key, int]()
    table: Key = ()
    chunk, first, again = "", 1, 0
    for number, row in enumerate(text.split("\n"), 1):
        chunk += row + "\n"
        complete, value = _parsed(chunk)
        if chunk.lstrip().startswith("["):
            table = _resolved(value, counts)
            value = {}
        for path in [(), *_paths(value)]:
            for end in range(1, len(table) + len(path) + 1):
                whole = (*table, *path)[:end]
                lines.setdefault(whole, number if any(isinstance(part, int) for part in path) else first)
        if complete:
            chunk, first = "", number + 1
        again += len(chunk)
        if again > _AGAIN:
            break
    return lines


def _parsed(chunk: str) -> tuple[bool, dict[str, Any]]:
    """Whether lines are a whole statement, and its value; that of an array so far where one goes on."""
    for closing in ("", "]"):
        try:
            return not closing, tomllib.loads(chunk + closing)
        except tomllib.TOMLDecodeError:
            continue
    return False, {}


def _paths(value: Any, path: Key = ()) -> Iterator[Key]:
    """The key paths of all that lies in a value."""
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in parts:
        yield (*path, key)
        yield from _paths(part, (*path, key))


def _resolved(value: Any, counts: dict[Key, int]) -> Key:
    """The path of a header, with the numbers of the array tables that it goes through and of the one that it begins."""
    path: Key = ()
    while value:
        if isinstance(value, list):
            counts[path] = counts.get(path, 0) + 1
            return (*path, counts[path] - 1)
        [(name, value)] = value.items()
        path = (*path, name)
        if path in counts and not isinstance(value, list):
            path = (*path, counts[path] - 1)
    return path
