"""What a file looks like: encoding, format, columns, task. For `init` only: a run goes by its recipe."""

from __future__ import annotations

import csv
import gzip
import io
import json
import lzma
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ... import DataError
from ...data import Example, read_examples
from ...data.readers.encodings import guess_encoding, not_decodable

LINES = 2000
"""Lines that are looked at for the format."""

_TAG = re.compile(r"O|[A-Z]-\S+")
_LABEL_NAMES = ("label", "labels", "class", "category", "intent", "sentiment", "stars", "rating", "target", "y")
_TEXT_NAMES = (
    "text",
    "sentence",
    "review",
    "utterance",
    "content",
    "body",
    "sentence1",
    "text_a",
    "premise",
    "question",
)
_PAIR_NAMES = ("pair", "sentence2", "text_b", "text2", "hypothesis", "second")
_OPENERS: dict[str, Any] = {".xz": lzma.open, ".gz": gzip.open}


@dataclass(frozen=True)
class FileFacts:
    """What was found out about one file.

    Attributes:
        format: "conll", "tsv", "csv", "jsonl" or "text".
        encoding: of the whole file; "ascii" where most others read it alike.
        options: keys of the `reader` table that it needs, where they differ from the defaults.
        task: "ner" or "classification"; None where the file has no labels.
        lines: the first lines.
    """

    path: Path
    format: str
    encoding: str
    options: dict[str, Any] = field(default_factory=dict)
    task: str | None = None
    lines: tuple[str, ...] = ()


def sniff(path: Path) -> FileFacts:
    """Looks at a file.

    Raises:
        WrongEncoding: it is in no encoding that can be told, or a few of its lines are damaged.
        DataError: it cannot be read.
    """
    data = _bytes(path)
    encoding, text = _text(path, data)
    lines = tuple(line.removesuffix("\r") for line in text.split("\n", LINES)[:LINES])
    kind = _format(path, [line for line in lines if line.strip()])
    options: dict[str, Any] = {}
    task = None
    if kind == "conll":
        options, task = _columns([line for line in lines if line.strip() and not line.startswith("-DOCSTART-")])
    elif kind == "jsonl":
        options, task = _fields(path, [line for line in lines if line.strip()][:200])
    elif kind in ("tsv", "csv"):
        options, task = _header(list(csv.reader(lines)) if kind == "csv" else [line.split("\t") for line in lines])
    return FileFacts(path, kind, encoding, options, task, lines)


def read_sample(facts: FileFacts, task: str, options: dict[str, Any]) -> list[Example]:
    """All examples of a file, read as the run will read it.

    Raises:
        DataError: what is wrong with it.
    """
    known = {"conll": ("token_column", "label_column", "repair"), "jsonl": ("words", "tags", "text", "label", "pair")}
    names = known.get(facts.format, ("text", "label", "pair") if facts.format in ("tsv", "csv") else ())
    chosen = {name: options[name] for name in names if name in options}
    encoding = "utf-8" if facts.encoding == "ascii" else facts.encoding
    return read_examples(facts.path, task=task, format=facts.format, encoding=encoding, **chosen)


def pretokenised(lines: Sequence[str]) -> bool:
    """Whether text has spaces before its punctuation, so that white space alone gives the words."""
    marked = [line for line in lines if re.search(r"[.,;:!?](\s|$)", line)]
    apart = [line for line in marked if re.search(r"\s[.,;:!?](\s|$)", line) and not re.search(r"\w[,;](\s|$)", line)]
    return len(apart) * 2 > len(marked)


def _bytes(path: Path) -> bytes:
    try:
        with _OPENERS.get(path.suffix.lower(), open)(path, "rb") as file:
            data = file.read()
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file; check the path") from error
    except (OSError, EOFError, lzma.LZMAError) as error:
        raise DataError(f"{path}: cannot be read: {error}; check the file and its permissions") from error
    if not data.strip():
        raise DataError(f"{path}: the file is empty; give one with text")
    return bytes(data)


def _text(path: Path, data: bytes) -> tuple[str, str]:
    """The encoding and the text of a whole file."""
    encoding = guess_encoding(data)
    try:
        return encoding, data.decode("utf-8-sig" if encoding in ("utf-8", "ascii") else encoding or "utf-8")
    except UnicodeDecodeError as error:
        number, raw = data.count(b"\n", 0, error.start) + 1, data[data.rfind(b"\n", 0, error.start) + 1 :]
        column = len(data) - len(raw)
        raise not_decodable(
            str(path), number, raw, error.start - column, encoding or "utf-8", io.BytesIO(data)
        ) from error


def _format(path: Path, lines: Sequence[str]) -> str:
    name = Path(path.stem) if path.suffix.lower() in _OPENERS else path
    suffix = name.suffix.lower()
    if suffix in (".jsonl", ".ndjson") or _is_object(lines[0]):
        return "jsonl"
    first = [line for line in lines if not line.startswith("-DOCSTART-")][:50]
    tagged = [any(_TAG.fullmatch(cell) for cell in line.split()[1:]) and len(line.split()) < 12 for line in first]
    if suffix in (".conll", ".iob", ".bio") or (tagged and sum(tagged) * 10 >= len(tagged) * 9):
        return "conll"
    if suffix in (".tsv", ".csv"):
        return suffix[1:]
    tabs = {line.count("\t") for line in first}
    return "tsv" if len(tabs) == 1 and tabs != {0} and len(first) > 1 else "text"


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _columns(lines: Sequence[str]) -> tuple[dict[str, Any], str | None]:
    """Token and tag column of a column file."""
    rows = [line.split("\t") if "\t" in line else line.split() for line in lines]
    width = len(rows[0])
    rows = [row for row in rows if len(row) == width]
    options: dict[str, Any] = {}
    if width == 1:
        return options, None
    tags = [i for i in range(width) if all(_TAG.fullmatch(row[i].strip()) for row in rows)]
    if tags and width - 1 not in tags:
        options["label_column"] = tags[-1]
    if width > 2 and all(row[0].strip().isdigit() for row in rows):
        options["token_column"] = 1
    # Without tags the reader's message says which line is not one.
    return options, "ner"


def _fields(path: Path, lines: Sequence[str]) -> tuple[dict[str, Any], str | None]:
    """Names of the fields of JSON lines."""
    rows = [row for row in map(_object, lines) if row]
    if not rows:
        raise DataError(f"{path}:1: not a JSON object; write one object a line")
    lists = [k for k, v in rows[0].items() if isinstance(v, list) and v and all(isinstance(x, str) for x in v)]
    tags = [k for k in lists if all(_TAG.fullmatch(str(x)) for row in rows for x in row.get(k) or ())]
    words = [k for k in lists if k not in tags]
    if words:
        found = {"words": _prefer(words, ("words", "tokens"))}
        found |= {"tags": _prefer(tags, ("tags", "ner_tags", "labels"))} if tags else {}
        return _changed(found), "ner" if tags else None
    strings = [k for k, v in rows[0].items() if isinstance(v, str)]
    return _text_columns(strings, {k: [str(row.get(k, "")) for row in rows] for k in strings})


def _object(line: str) -> dict[str, Any] | None:
    return json.loads(line) if _is_object(line) else None


def _header(rows: Sequence[Sequence[str]]) -> tuple[dict[str, Any], str | None]:
    names = rows[0]
    body = [row for row in rows[1:] if len(row) == len(names)]
    return _text_columns(names, {name: [row[i] for row in body] for i, name in enumerate(names)})


def _text_columns(names: Sequence[str], values: dict[str, list[str]]) -> tuple[dict[str, Any], str | None]:
    """Which columns hold the label, the text and the second text: by name, else by how much they vary."""
    label = next((n for n in names if n.lower() in _LABEL_NAMES), None)
    rest = [n for n in names if n != label and n.lower() not in ("id", "guid", "index", "idx")]
    if label is None and len(rest) > 1:
        rare = min(rest, key=lambda n: len(set(values[n])))
        if len(set(values[rare])) * 2 <= len(values[rare]):
            label = rare
            rest = [n for n in rest if n != rare]
    pair = next((n for n in rest if n.lower() in _PAIR_NAMES), None)
    rest = [n for n in rest if n != pair]
    if not rest:
        return {}, None
    longest = max(rest, key=lambda n: sum(map(len, values[n])))
    text = next((n for n in rest if n.lower() in _TEXT_NAMES), longest)
    found = {"text": text} | ({"label": label} if label else {}) | ({"pair": pair} if pair else {})
    return _changed(found), "classification" if label else None


def _prefer(names: Sequence[str], usual: Sequence[str]) -> str:
    return next((name for name in usual if name in names), names[0])


def _changed(options: dict[str, Any]) -> dict[str, Any]:
    """Only what is not the reader's default, under which a key has its own name."""
    return {key: name for key, name in options.items() if key != name}
