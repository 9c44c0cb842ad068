"""Any files of text, labelled or not, for commands that need no recipe."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...data import Example, guess_format, read_examples, reader_options


def read_texts(files: Sequence[str | Path], encoding: str = "utf-8", text: str = "text") -> list[Example]:
    """The examples of all files; labels of tables are not read.

    Args:
        files: plain text, columns, tables or JSON lines, by their names or, for columns, their first lines.
        text: table or JSON lines: column of the text.

    Raises:
        DataError: a file is missing or wrong.
    """
    found: list[Example] = []
    for file in files:
        kind = guess_format(file, task="ner", encoding=encoding)  # columns are known by their tags, too
        given: dict[str, Any] = {"text": text, "label": None}
        options = {name: value for name, value in given.items() if name in reader_options(kind)}
        found += read_examples(file, task="text", format=kind, encoding=encoding, **options)
    return found
