"""TOML with limits that it does not set itself: what is beyond them is no recipe, and costs no time."""

from __future__ import annotations

import re
import tomllib
from typing import Any

from .toml_lines import Key, key_lines

LONGEST = 1 << 18
"""Bytes of a recipe."""
_DEEPEST = 32  # tables in one another
_WHOLE = range(-(1 << 63), 1 << 63)
_DIGITS = re.compile(r"(?<![0-9_])[0-9_]{4301}")
_PART = r"""(?:"(?:[^"\\\n]|\\.)*+"|'[^'\n]*+'|(?<![\w-])[\w-]++)"""
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


def _parts(value: Any) -> Any:
    return value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
