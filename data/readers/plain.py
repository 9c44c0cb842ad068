"""Plain text, and its words."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from .example import Example, Examples
from .lines import file_stem, finish, read_lines
from .problems import Problems

WORD = re.compile(r"\w+(?:[-.,'’&/]\w+)*|\S")
"""A word of plain text: white space and punctuation end it, but not a hyphen, point or apostrophe inside it."""


def read_text(path: str | Path, *, language: str = "", encoding: str = "utf-8", split_words: bool = False) -> Examples:
    """The sentences of a plain text file, one a line; blank lines are skipped and counted.

    Args:
        split_words: give lists of words for tagging instead of texts: cut at white space and around punctuation,
            but not at a hyphen, point or apostrophe inside a word. Text in a script without spaces should come cut
            into words, as column file or JSON lines.

    Raises:
        ConfigError: unknown encoding.
        DataError: the file cannot be read, has no sentence, or does not decode.
    """
    problems, counts, stem = Problems(), Counter[str](), file_stem(path)
    examples = []
    for number, line in read_lines(path, encoding, problems):
        if not line.strip():
            counts["blank"] += 1
            continue
        words = words_of(line) if split_words else None
        text = None if split_words else line
        examples.append(Example(f"{stem}:{number}", language, words, text, None, None, str(path), number))
    return finish(path, examples, counts, problems)


def words_of(text: str) -> tuple[str, ...]:
    """The words of a plain text, as `read_text` with `split_words` cuts it."""
    return tuple(WORD.findall(text))
