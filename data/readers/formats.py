"""The reader that fits a file."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from typing import Any

from ... import ConfigError
from ...tasks import has_spans, per_word
from .arrow import read_arrow
from .conll import read_conll, read_conllu
from .example import Examples
from .jsonl import json_lines, read_jsonl
from .lines import plain_suffix, read_lines
from .marc import read_marc
from .plain import read_text
from .problems import Problems
from .spans import ENTITY_COLUMNS, LISTS, read_spans
from .table import read_tsv
from .tagged import PLAIN, TAG
from .webis import read_webis_cls
from .xnli import read_xnli

_TAGGED_LINE = re.compile(rf"\S.*[ \t](?:{TAG.pattern}) *")
_READERS: dict[str, Callable[..., Examples]] = {
    "conll": read_conll,
    "conllu": read_conllu,
    "tsv": read_tsv,
    "csv": read_tsv,
    "jsonl": read_jsonl,
    "spans": read_spans,
    "arrow": read_arrow,
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
    ".iob2": "conll",
    ".bio": "conll",
    ".tsv": "tsv",
    ".csv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".ann": "spans",
    ".spacy": "spans",
    ".parquet": "arrow",
    ".arrow": "arrow",
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

    `.conll .iob .iob2 .bio` are column files, `.tsv .csv .jsonl .ndjson .parquet .arrow .ann .spacy` what they say,
    `.json` JSON lines or one JSON list, and a folder is one of `save_to_disk`; text files also with `.xz`, `.gz` or
    `.bz2`. For the task "ner" JSON whose first text has a list of entities is "spans". Anything else is plain text,
    except that for "ner" a file whose first five lines end in a tag, but for blank ones and those with "#", is a column
    file; for "tag" `.conllu` is CoNLL-U. For both plain text is cut into words (`split_words`).

    Args:
        path: `.xz`, `.gz` and `.bz2` are unpacked, by every reader.
        language: written into the examples.
        encoding: of the file.
        task: "ner", "tag", "classification" or "text".
        format: a key of the table above, where the name does not tell.
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
    if kind == "text" and per_word(task):
        options = {"split_words": True, **options}
    if kind == "conllu" and has_spans(task) and options.get("require_labels"):
        raise ConfigError(f'{path}: format conllu has plain tags, which mark no entities; set task = "tag"')
    if per_word(task) and not has_spans(task) and "scheme" in known:
        if options.get("scheme", PLAIN) not in ("auto", PLAIN):
            raise ConfigError(f"{path}: scheme is of tags that mark entities; leave it out")
        options = {**options, "scheme": PLAIN}
    if kind == "csv" and plain_suffix(path) != ".csv":
        options = {"quoting": True, **options}
    return reader(path, language=language, encoding=encoding, **options)


def guess_format(path: str | Path, *, task: str, encoding: str = "utf-8") -> str:
    """The format that `read_examples` takes a file to have, by its name or its first lines."""
    if Path(path).is_dir() and any(_SUFFIXES.get(file.suffix) == "arrow" for file in Path(path).iterdir()):
        return "arrow"
    if per_word(task) and not has_spans(task) and plain_suffix(path) == ".conllu":
        return "conllu"
    kind = _SUFFIXES.get(plain_suffix(path)) or _sniff(path, task, encoding)
    if task == "ner" and kind in ("jsonl", "tsv", "text") and _has_spans(path, encoding):
        return "spans"
    return kind


def reader_options(format: str) -> list[str]:
    """Names of the options that the reader of a format takes."""
    return [name for name in inspect.signature(_READERS[format]).parameters if name != "path"]


def _sniff(path: str | Path, task: str, encoding: str) -> str:
    if task != "ner":
        return "text"
    lines = (line for _, line in read_lines(path, encoding, Problems()))
    first = islice((line for line in lines if line.strip() and not line.startswith("#")), 5)
    return "conll" if looks_tagged(list(first)) else "text"


def looks_tagged(lines: Sequence[str]) -> bool:
    """Whether each of some lines that are not blank is a word and its tag."""
    return bool(lines) and all(line.startswith("-DOCSTART-") or _TAGGED_LINE.fullmatch(line) for line in lines)


def _has_spans(path: str | Path, encoding: str) -> bool:
    """Whether a file is a table of entities, or its first text, as JSON, has a list of them and not words with tags."""
    lines = (numbered for numbered in read_lines(path, encoding, Problems()) if numbered[1].strip())
    _, first = next(json_lines(str(path), lines, Problems()), (1, ""))
    if first.split("\t") == list(ENTITY_COLUMNS) or re.match(r"\s*\[\s*[\[\"]", first):
        return True
    try:
        value = json.loads(first) if first.lstrip().startswith("{") else {}
    except (ValueError, RecursionError):
        return False
    lists = [value[name] for name in LISTS if isinstance(value.get(name), list)]
    return isinstance(value.get("data"), dict) or any(
        not all(isinstance(entry, str | int) for entry in one) or not one for one in lists
    )
