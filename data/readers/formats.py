"""Plain text, and the reader that fits a file."""

from __future__ import annotations

import inspect
import re
from collections import Counter
from collections.abc import Callable
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from typing import Any

from ... import ConfigError
from .conll import read_conll
from .example import Example, Examples
from .lines import file_stem, finish, plain_suffix, read_lines
from .marc import read_marc
from .problems import Problems
from .table import read_jsonl, read_tsv
from .webis import read_webis_cls
from .xnli import read_xnli

WORD = re.compile(r"\w+(?:[-.,'’&/]\w+)*|\S")
_TAGGED_LINE = re.compile(r"\S.*[ \t](?:O|[BI]-\S+) *")


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


_READERS: dict[str, Callable[..., Examples]] = {
    "conll": read_conll,
    "tsv": read_tsv,
    "csv": read_tsv,
    "jsonl": read_jsonl,
    "text": read_text,
    "xnli": read_xnli,
    "webis-cls": read_webis_cls,
    "marc": read_marc,
}
MULTILINGUAL = ("xnli", "marc")
"""Formats of files that may hold several languages, of which one is read."""
_SUFFIXES = {
    ".conll": "conll",
    ".iob": "conll",
    ".bio": "conll",
    ".tsv": "tsv",
    ".csv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".review": "webis-cls",
}


def read_examples(
    path: str | Path,
    *,
    task: str,
    format: str | None = None,
    language: str = "",
    encoding: str = "utf-8",
    **options: Any,
) -> Examples:
    """Read a file with the reader that its name calls for.

    `.conll .iob .bio` are column files, `.tsv .csv .jsonl .ndjson` what they say, `.json` JSON lines, each also with
    `.xz` or `.gz`.
    Anything else is plain text, except that for the task "ner" a file whose first five non-blank lines end in a tag
    is a column file, and plain text is cut into words (`read_text` with `split_words`).

    Args:
        path: `.xz`, `.gz` and `.bz2` are unpacked, by every reader.
        language: written into the examples.
        encoding: of the file.
        task: "ner", "classification" or "text".
        format: "conll", "tsv", "csv", "jsonl", "text", "xnli", "webis-cls" or "marc", where the name does not tell.
        options: passed on to the reader.

    Raises:
        ConfigError: unknown format or option.
        DataError: as the reader.
    """
    kind = format or guess_format(path, task=task, encoding=encoding)
    if kind not in _READERS:
        raise ConfigError(f"{path}: unknown format {kind!r}; choose from {', '.join(_READERS)}")
    reader = _READERS[kind]
    known = reader_options(kind)
    for name in options:
        if name not in known:
            near = get_close_matches(name, known, 1)
            advice = f"did you mean {near[0]!r}?" if near else f"it takes {', '.join(known)}"
            raise ConfigError(f"{path}: format {kind} has no option {name!r}; {advice}")
    if kind == "text" and task == "ner":
        options = {"split_words": True, **options}
    if kind == "csv" and plain_suffix(path) != ".csv":
        options = {"quoting": True, **options}
    return reader(path, language=language, encoding=encoding, **options)


def guess_format(path: str | Path, *, task: str, encoding: str = "utf-8") -> str:
    """The format that `read_examples` takes a file to have: "conll", "tsv", "csv", "jsonl", "webis-cls" or "text"."""
    return _SUFFIXES.get(plain_suffix(path)) or _sniff(path, task, encoding)


def reader_options(format: str) -> list[str]:
    """Names of the options that the reader of a format takes."""
    return [name for name in inspect.signature(_READERS[format]).parameters if name != "path"]


def _sniff(path: str | Path, task: str, encoding: str) -> str:
    if task != "ner":
        return "text"
    lines = (line for _, line in read_lines(path, encoding, Problems()))
    first = list(islice((line for line in lines if line.strip()), 5))
    tagged = [line.startswith("-DOCSTART-") or _TAGGED_LINE.fullmatch(line) for line in first]
    return "conll" if tagged and all(tagged) else "text"
