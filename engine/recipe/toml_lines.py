"""Where the keys of a TOML text stand: `tomllib` gives values without lines, and error messages need them."""

from __future__ import annotations

import re

Key = tuple[str | int, ...]

_BARE = re.compile(r"[A-Za-z0-9_-]+")
_SCALAR = re.compile(r"[^,\]}#\n]*")
_ESCAPE = re.compile(r"\\(?:u[0-9A-Fa-f]{4}|U[0-9A-Fa-f]{8}|.)", re.S)
_SHORT = {"b": "\b", "t": "\t", "n": "\n", "f": "\f", "r": "\r", "e": "\x1b"}


def key_lines(text: str) -> dict[Key, int]:
    """Key path -> line, from 1, of every key, table header and array element of a text that `tomllib` accepts.

    Elements of arrays, tables of `[[...]]` included, are numbered from 0: `("targets", 0, "language")`. A table that
    is only implied by a dotted key or a longer header has the line of the first key that implies it.
    """
    return _Scanner(text.replace("\r\n", "\n")).scan()


class _Scanner:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.lines: dict[Key, int] = {}
        self.counts: dict[Key, int] = {}

    def scan(self) -> dict[Key, int]:
        table: Key = ()
        while self._skip(newlines=True):
            if self.text.startswith("[[", self.at):
                self.at += 2
                table = self._array_table(self._key())
            elif self.text[self.at] == "[":
                self.at += 1
                table = self._resolve(self._key())
                self._note(table)
            else:
                self._pair(table)
            self._to_line_end()
        return self.lines

    def _array_table(self, names: Key) -> Key:
        path = self._resolve(names[:-1]) + names[-1:]
        self._note(path)
        number = self.counts.get(path, 0)
        self.counts[path] = number + 1
        self._note((*path, number))
        return (*path, number)

    def _resolve(self, names: Key) -> Key:
        """A header's names with the numbers of the array tables that it goes through."""
        path: Key = ()
        for name in names:
            path = (*path, name)
            if path in self.counts:
                path = (*path, self.counts[path] - 1)
        return path

    def _note(self, path: Key) -> None:
        line = self.text.count("\n", 0, self.at) + 1
        for length in range(1, len(path) + 1):
            self.lines.setdefault(path[:length], line)

    def _pair(self, table: Key) -> None:
        path = table + self._key()
        self._note(path)
        self.at += 1  # the "="
        self._skip(newlines=False)
        self._value(path)

    def _key(self) -> Key:
        names: list[str | int] = []
        while True:
            self._skip(newlines=False)
            if self.text[self.at] in "\"'":
                names.append(self._string())
            else:
                match = _BARE.match(self.text, self.at)
                assert match, "tomllib accepted the text"
                names.append(match[0])
                self.at = match.end()
            self._skip(newlines=False)
            if not self.text.startswith(".", self.at):
                return tuple(names)
            self.at += 1

    def _value(self, path: Key) -> None:
        first = self.text[self.at]
        if first in "\"'":
            self._string()
        elif first == "[":
            self._elements(path, "]")
        elif first == "{":
            self._elements(path, "}")
        else:
            match = _SCALAR.match(self.text, self.at)
            assert match
            self.at = match.end()

    def _elements(self, path: Key, end: str) -> None:
        self.at += 1
        number = 0
        while self._skip(newlines=True) and self.text[self.at] != end:
            if self.text[self.at] == ",":
                self.at += 1
            elif end == "}":
                self._pair(path)
            else:
                self._note((*path, number))
                self._value((*path, number))
                number += 1
        self.at += 1

    def _string(self) -> str:
        """Skip the string here and return its value; escapes matter for quoted keys only."""
        quote = self.text[self.at]
        width = 3 if self.text.startswith(quote * 3, self.at) else 1
        start = self.at = self.at + width
        while not self.text.startswith(quote * width, self.at):
            self.at += 2 if quote == '"' and self.text[self.at] == "\\" else 1
        while width == 3 and self.text.startswith(quote, self.at + 3):  # up to two quotes may precede the closing three
            self.at += 1
        body = self.text[start : self.at]
        self.at += width
        return _ESCAPE.sub(_unescape, body) if quote == '"' else body

    def _skip(self, *, newlines: bool) -> bool:
        """Move past blanks, and with `newlines` past line ends and comments; False at the end of the text."""
        while self.at < len(self.text):
            here = self.text[self.at]
            if here == "#" and newlines:
                self._to_line_end()
            elif here in " \t" or (here == "\n" and newlines):
                self.at += 1
            else:
                return True
        return False

    def _to_line_end(self) -> None:
        end = self.text.find("\n", self.at)
        self.at = len(self.text) if end < 0 else end


def _unescape(match: re.Match[str]) -> str:
    code = match[0][1:]
    return chr(int(code[1:], 16)) if code[0] in "uU" else _SHORT.get(code, code)
