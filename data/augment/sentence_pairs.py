"""Sentences with their translations, for translation language modelling."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from ..readers.example import Example, Examples
from ..readers.lines import file_stem, finish, read_lines
from ..readers.problems import Problems


def read_pairs(path: str | Path, *, language: str = "", encoding: str = "utf-8") -> Examples:
    """The sentence pairs of a file: a sentence, a tab, its translation; without a header.

    Blank lines are skipped; `language` is that of the translations.

    Raises:
        ConfigError: unknown encoding.
        DataError: all faults of the file, the first 20 listed by line; or there is no pair.
    """
    problems, counts = Problems(), Counter[str]()
    examples = []
    for number, line in read_lines(path, encoding, problems):
        cells = [cell.strip() for cell in line.split("\t")]
        if not line.strip():
            counts["blank"] += 1
        elif len(cells) != 2 or not all(cells):
            problems.add(
                f"{path}:{number}", "is not a sentence, a tab and its translation", "correct or remove the line"
            )
        else:
            name = f"{file_stem(path)}:{number}"
            examples.append(Example(name, language, None, cells[0], cells[1], None, str(path), number))
    return finish(path, examples, counts, problems)
