"""What a file looks like: encoding, format, columns, task. For `init` only: a run goes by its recipe."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ... import DataError
from ...data import Example, guess_format, read_examples, reader_options
from ...data.readers.arrow import ArrowReader
from ...data.readers.encodings import MIXED, WrongEncoding
from ...data.readers.formats import open_reader, probe
from ...data.readers.lines import plain_suffix, read_lines
from ...data.readers.problems import Problems
from ...data.readers.reader import Head, ReaderOptions

LINES = 2000
"""Lines that are looked at for the format."""


@dataclass(frozen=True)
class FileFacts:
    """What one file is.

    Attributes:
        format: "conll", "conllu", "tsv", "csv", "jsonl", "spans", "arrow" or "text".
        encoding: of the whole file; "ascii" where most others read it alike.
        options: keys of the `reader` table that it needs, where they differ from the defaults.
        task: "ner", "tag" or "classification"; None where the file has no labels.
        lines: the first lines.
        note: what a person should know of the way it is read.
    """

    path: Path
    format: str
    encoding: str
    options: dict[str, Any] = field(default_factory=dict)
    task: str | None = None
    lines: tuple[str, ...] = ()
    note: str = ""


def sniff(path: Path, header: bool = True, label: str = "", encoding: str = "") -> FileFacts:
    """Looks at a file.

    Args:
        header: whether tables begin with the names of their columns.
        label: the column or field of the labels, where the file has one of this name; found where empty.
        encoding: of the file, where it is not UTF-8; found where empty.

    Raises:
        WrongEncoding: it is in no encoding that can be told, or in two, or a few of its lines are damaged.
        DataError: it cannot be read.
    """
    if guess_format(path, task="text") == "arrow":
        found = ArrowReader.probe(Head(path, (), label=label))
        return FileFacts(path, "arrow", "ascii", found.options, found.task)
    if plain_suffix(path) == ".spacy":
        texts = [example.plain for example in open_reader(path, "spans", ReaderOptions(), task="ner").stream()]
        return FileFacts(path, "spans", "ascii", task="ner", lines=tuple(texts[:LINES]))
    encoding, text = _decode(path, encoding)
    head = Head(path, text[:LINES], header=header, label=label)
    if not head.filled:
        raise DataError(f"{path}: the file is empty; give one with text")
    found = probe(head)
    return FileFacts(path, found.format, encoding, found.options, found.task, tuple(head.lines), found.note)


def read_sample(facts: FileFacts, task: str, options: Mapping[str, Any]) -> list[Example]:
    """All examples of a file, read as the run will read it.

    Raises:
        DataError: what is wrong with it.
    """
    chosen = {name: options[name] for name in reader_options(facts.format) if name in options}
    encoding = "utf-8" if facts.encoding == "ascii" else facts.encoding
    return read_examples(facts.path, task=task, format=facts.format, encoding=encoding, **chosen)


def pretokenised(lines: Sequence[str]) -> bool:
    """Whether text has spaces before its punctuation, so that white space alone gives the words."""
    marked = [line for line in lines if re.search(r"[.,;:!?](\s|$)", line)]
    apart = [line for line in marked if re.search(r"\s[.,;:!?](\s|$)", line) and not re.search(r"\w[,;](\s|$)", line)]
    return len(apart) * 2 > len(marked)


def _decode(path: Path, said: str) -> tuple[str, list[str]]:
    """The encoding and the lines of a whole file."""
    encoding, problems = "utf-8", Problems()
    try:
        lines = [line for _, line in read_lines(path, encoding, problems)]
    except WrongEncoding as error:
        if error.likely in ("", "ascii", encoding, MIXED) and not said:
            raise
        encoding = said or error.likely
        lines = [line for _, line in read_lines(path, encoding, problems)]
    problems.raise_if_any()
    return "ascii" if all(map(str.isascii, lines)) else encoding, lines
