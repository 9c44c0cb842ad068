"""What `tomllib` does not do: say where the keys of a text stand, for error messages, and set limits.

What is beyond the limits is no recipe, and costs no time.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from typing import Any

Key = tuple[str | int, ...]
_AGAIN = 1 << 20
"""Characters of values over several lines that are parsed once more for each of their lines, in all."""
LONGEST = 1 << 18
"""Bytes of a recipe."""
_DEEPEST = 32  # tables in one another
_WHOLE = range(-(1 << 63), 1 << 63)
_DIGITS = re.compile(r"(?<![0-9_])[0-9_]{4301}")
_PART = r"""(?:"(?>(?:[^"\\\n]|\\.)*)"|'[^'\n]*+'|(?<![\w-])[\w-]++)"""
_DEEP_KEY = re.compile(rf"(?:{_PART}[ \t]*+\.[ \t]*+){{{_DEEPEST}}}")


class TooLargeError(ValueError):
    """A value that no recipe has, and its line."""

    def __init__(self, what: str, line: int = 1) -> None:
        self.line = line
        super().__init__(what)


def parse_toml(text: str) -> dict[str, Any]:
    """The tables of a text, in time linear in its length.

    Raises:
        TOMLDecodeError: it is no TOML.
        TooLargeError: keys of over 32 parts, tables as deep, or a number of over 64 bits.
    """
    if deep := _DEEP_KEY.search(text):
        raise TooLargeError(f"a key of over {_DEEPEST} parts", _line(text, deep))
    try:
        raw = tomllib.loads(text)
    except RecursionError:
        raise TooLargeError("nested too deeply") from None
    except tomllib.TOMLDecodeError:
        raise
    except ValueError:  # Python reads no whole number of over 4,300 digits
        raise TooLargeError("a number of thousands of digits", _line(text, _DIGITS.search(text))) from None
    level: list[tuple[Key, Any]] = [((), raw)]
    for _ in range(_DEEPEST):
        level = [((*path, key), part) for path, value in level for key, part in _parts(value)]
        if large := next((path for path, value in level if isinstance(value, int) and value not in _WHOLE), None):
            name = ".".join(map(str, large))
            raise TooLargeError(f"{name}: a number of over 64 bits", key_lines(text).get(large, 1))
    if level:
        raise TooLargeError("nested too deeply")
    return raw


def _line(text: str, match: re.Match[str] | None) -> int:
    return text.count("\n", 0, match.start()) + 1 if match else 1


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
    for key, part in _parts(value):
        yield (*path, key)
        yield from _paths(part, (*path, key))


def _parts(value: Any) -> Any:
    return value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()


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
