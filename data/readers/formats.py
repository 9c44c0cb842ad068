"""The formats, and the reader that fits a file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from typing import Any

from ... import ConfigError
from ...tasks import has_spans, per_word
from .arrow import ArrowReader
from .conll import ConllReader, ConlluReader
from .example import Examples
from .jsonl import JsonReader
from .lines import plain_suffix, read_lines
from .plain import TextReader
from .problems import Problems
from .published import WebisReader, XnliReader
from .reader import Found, Head, Reader, ReaderOptions
from .spans import SpansReader
from .table import TableReader
from .tagged import PLAIN


def _marc(path: str | Path, options: ReaderOptions, **more: Any) -> Reader:
    """MARC, the Multilingual Amazon Reviews Corpus (Keung et al. 2020): JSON lines, or `train.csv` of all languages.

    The reviews of `language` are read, or all of them with ""; the labels are "1" to "5".
    """
    label, field = None if options.label is None else "stars", "language" if options.language else None
    options = replace(options, text="review_body", label=label, language_field=field)
    return (TableReader if plain_suffix(path) == ".csv" else JsonReader)(path, options, **more)


_READERS: dict[str, Callable[..., Reader]] = {
    "conll": ConllReader,
    "conllu": ConlluReader,
    "tsv": TableReader,
    "csv": TableReader,
    "jsonl": JsonReader,
    "spans": SpansReader,
    "arrow": ArrowReader,
    "text": TextReader,
    "xnli": XnliReader,
    "webis-cls": WebisReader,
    "marc": _marc,
}
MULTILINGUAL = ("xnli", "marc")
"""Formats of files that may hold several languages, of which one is read."""
_COLUMN_FILES, _JSON = (".conll", ".iob", ".iob2", ".bio"), (".jsonl", ".ndjson", ".json")
_SUFFIXES = dict.fromkeys(_COLUMN_FILES, "conll") | dict.fromkeys(_JSON, "jsonl")
_SUFFIXES |= dict.fromkeys((".ann", ".spacy"), "spans") | dict.fromkeys((".parquet", ".arrow"), "arrow")
_SUFFIXES |= {".tsv": "tsv", ".csv": "csv", ".review": "webis-cls"}


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
        options: of `ReaderOptions`, those that the format takes.

    Raises:
        ConfigError: unknown format or option.
        DataError: the file cannot be read or has no example; or all its faults, the first 20 listed by line.
    """
    kind = format or guess_format(path, task=task, encoding=encoding)
    if kind not in _READERS:
        raise ConfigError(f"{path}: unknown format {kind!r}; choose from {', '.join(_READERS)}")
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
    return open_reader(path, kind, ReaderOptions(language=language, encoding=encoding, **options)).read()


def open_reader(path: str | Path, format: str, options: ReaderOptions, **more: Any) -> Reader:
    """The reader of a file, in a format that is known; `more` as of `Reader`."""
    return _READERS[format](path, options, **more)


def reader_options(format: str) -> list[str]:
    """Names of the options that the reader of a format takes."""
    reader: Any = WebisReader if format == "marc" else _READERS[format]
    return list(reader.takes)


def read_conll(path: str | Path, **options: Any) -> Examples:
    """The sentences of a column file (`ReaderOptions`)."""
    return ConllReader(path, ReaderOptions(**options)).read()


def read_tsv(path: str | Path, **options: Any) -> Examples:
    """The texts or pairs of a table; CSV by its name (`ReaderOptions`)."""
    return TableReader(path, ReaderOptions(**options)).read()


def read_jsonl(path: str | Path, **options: Any) -> Examples:
    """The examples of JSON lines, or of one JSON list (`ReaderOptions`)."""
    return JsonReader(path, ReaderOptions(**options)).read()


def read_text(path: str | Path, **options: Any) -> Examples:
    """The sentences of plain text, one a line, or with `split_words` their words (`ReaderOptions`)."""
    return TextReader(path, ReaderOptions(**options)).read()


def guess_format(path: str | Path, *, task: str, encoding: str = "utf-8") -> str:
    """The format that `read_examples` takes a file to have, by its name or its first lines."""
    if Path(path).is_dir() and any(_SUFFIXES.get(file.suffix) == "arrow" for file in Path(path).iterdir()):
        return "arrow"
    if per_word(task) and not has_spans(task) and plain_suffix(path) == ".conllu":
        return "conllu"
    kind = _SUFFIXES.get(plain_suffix(path)) or "text"
    if task != "ner" or kind not in ("jsonl", "tsv", "text"):
        return kind
    if plain_suffix(path) not in _SUFFIXES:
        lines = (line for _, line in read_lines(path, encoding, Problems()))
        first = islice((line for line in lines if line.strip() and not line.startswith("#")), 5)
        kind = "text" if ConllReader.probe(Head(path, list(first), few=True)) is None else "conll"
    if kind != "conll":
        head = Head(path, (line for _, line in read_lines(path, encoding, Problems())))
        kind = kind if SpansReader.probe(head) is None else "spans"
    return kind


def guess_stream(lines: Sequence[str], task: str) -> str:
    """The format of a stream by its first five lines."""
    head = Head("", lines, few=True)
    found = JsonReader.probe(head) or (ConllReader.probe(head) if task == "ner" else None)
    return found.format if found else "text"


def probe(head: Head) -> Found:
    """What a file looks like, its name and what is in it; for `init`: a run goes by its recipe.

    Raises:
        DataError: its columns or fields cannot be told.
    """
    suffix = plain_suffix(head.path)
    if suffix == ".review":
        return Found("webis-cls", {}, "classification")
    is_json = suffix in _JSON or JsonReader.probe(replace(head, few=True)) is not None
    if suffix == ".ann" or ((is_json or suffix == ".tsv") and SpansReader.probe(head)):
        return Found("spans", {}, "ner")
    if is_json:
        return JsonReader.columns(head)
    if found := ConllReader.probe(head) or ConlluReader.probe(head):
        return found
    if suffix in _COLUMN_FILES:
        return ConllReader.columns(head)
    return TableReader.probe(head) or Found("text", {}, None)
