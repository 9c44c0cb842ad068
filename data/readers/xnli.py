"""The files of XNLI (Conneau et al. 2018): sentence pairs with the class entailment, neutral or contradiction."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from ... import DataError
from ...untrusted import quoted
from .example import Example, Examples
from .lines import file_stem, finish, read_lines
from .problems import Problems

CLASSES = ("contradiction", "entailment", "neutral")
COLUMNS = {
    ("sentence1", "sentence2", "gold_label"): "XNLI's own files, and those of MultiNLI",
    ("premise", "hypo", "label"): "the translated training files (XNLI-MT)",
}
_NAMES = {"contradictory": "contradiction"}
_UNDECIDED = "-"


def read_xnli(
    path: str | Path, *, language: str = "", encoding: str = "utf-8", label: str | None = "label"
) -> Examples:
    """The sentence pairs of a file of XNLI: `xnli.dev.tsv`, `xnli.test.tsv`, `multinli.train.de.tsv`.

    Which of the two layouts a file has, its header says. Files with a column `language` hold all languages, of which
    one is read. The translated files' `contradictory` becomes `contradiction`.

    Args:
        language: the rows to read where the file has a column `language`, all of them with ""; written into the
            examples.
        label: None leaves the labels out, so that they decide nothing; pairs on which the annotators did not agree
            (`-`), counted as `dropped`, are then kept.

    Raises:
        ConfigError: unknown encoding.
        DataError: another header, no row of the language, or faulty rows, the first 20 listed by line.
    """
    problems, counts = Problems(), Counter[str]()
    lines = read_lines(path, encoding, problems)
    number, header = next(lines, (1, ""))
    names = header.split("\t")
    columns = [names.index(name) for name in _layout(f"{path}:{number}", names)]
    spoken = names.index("language") if "language" in names else None
    needed = max(columns) if spoken is None else max(*columns, spoken)
    stem, examples = file_stem(path), []
    for number, line in lines:
        cells = line.split("\t")
        if not line.strip():
            counts["blank"] += 1
        elif not needed < len(cells) <= len(names):  # MultiNLI leaves empty columns out at the end of a row
            what = f"{len(cells)} columns, but the header has {len(names)}"
            problems.add(f"{path}:{number}", what, "give every row the columns of the header")
        elif spoken is None or not language or cells[spoken] == language:
            first, second, given = (cells[column] for column in columns)
            found = _class(f"{path}:{number}", given.strip(), problems) if label is not None else None
            if found == _UNDECIDED:
                counts["dropped"] += 1
            elif not (first.strip() and second.strip()):
                problems.add(f"{path}:{number}", "one of the two sentences is empty", "fill it or remove the row")
            else:
                examples.append(Example(f"{stem}:{number}", language, None, first, second, found, str(path), number))
    if spoken is not None and language and not examples and not problems.count:
        raise DataError(f"{path}:1: no row of the language {language!r}; XNLI names languages as en, de, zh")
    return finish(path, examples, counts, problems)


def _layout(place: str, names: list[str]) -> tuple[str, ...]:
    for wanted in COLUMNS:
        if set(wanted) <= set(names):
            return wanted
    known = "; or ".join(f"{', '.join(wanted)} ({what})" for wanted, what in COLUMNS.items())
    raise DataError(f"{place}: is no file of XNLI; its header must have the columns {known}")


def _class(place: str, given: str, problems: Problems) -> str:
    found = _NAMES.get(given, given)
    if found not in (*CLASSES, _UNDECIDED):
        problems.add(place, f"unknown class {quoted(given)}", f"the classes are {', '.join(CLASSES)}")
    return found
