"""The records of a file to label: read one at a time, each able to come out again with its labels."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal

from ... import ConfigError
from ...data import guess_format
from ...data.readers.arrow import object_rows
from ...data.readers.conll import CONLLU, blocks, conllu_column, find_comments, is_beside, separator_of, split_row
from ...data.readers.encodings import check_encoding
from ...data.readers.formats import looks_tagged
from ...data.readers.jsonl import json_lines, json_object
from ...data.readers.lines import Watch, decode_lines, read_lines
from ...data.readers.problems import Problems
from ...data.readers.spans import text_objects
from ...data.readers.table import open_table
from ...tasks import has_spans, per_word
from ...untrusted import listed
from .predictor import Prediction, TagPrediction

FileFormat = Literal["auto", "conll", "conllu", "tsv", "csv", "jsonl", "spans", "arrow", "text"]
FORMATS = {
    "ner": ("conll", "text", "jsonl", "spans", "arrow"),
    "tag": ("conll", "conllu", "text", "jsonl", "arrow"),
    "classification": ("text", "tsv", "csv", "jsonl", "arrow"),
}
STDIN = "<stdin>"
ABSTAINED = "_"
COLUMNS = ("predicted", "confidence")
Lines = Iterator[tuple[int, str]]
AnyPrediction = Prediction | TagPrediction


@dataclass(slots=True)
class Record:
    """One piece of the input: words or a text to label, or, without them, lines that are copied.

    Attributes:
        again: the record in the format it came in, with its labels.
        fields: of JSON lines.
        without_text: it is copied since its field for the text is empty.
    """

    line: int
    copy: str = ""
    words: tuple[str, ...] | None = None
    text: str | None = None
    pair: str | None = None
    again: Callable[[AnyPrediction], str] | None = None
    fields: dict[str, Any] | None = None
    without_text: bool = False

    @property
    def size(self) -> int:
        """Characters."""
        return sum(map(len, self.words or ())) + len(self.text or "") + len(self.pair or "")

    @property
    def is_copied(self) -> bool:
        """Whether there is nothing to label."""
        return self.words is None and self.text is None


@dataclass(frozen=True)
class FieldNames:
    """Columns and fields of tables and JSON lines, the words' column of column files, what cuts the rows of CSV, and
    whether tables have names."""

    text: str = "text"
    pair: str | None = None
    label: str = "label"
    words: str = "words"
    tags: str = "tags"
    token_column: int = 0
    delimiter: str = ","
    header: bool = True


@dataclass
class Source:
    """What the parsers of the formats share."""

    name: str
    kind: str
    lines: Lines
    task: str
    names: FieldNames
    problems: Problems

    @property
    def columns(self) -> dict[str, str]:
        """The columns, or fields, of the text and of the second text."""
        return {"text": self.names.text} | ({"pair": self.names.pair} if self.names.pair else {})


def open_lines(file: str | Path, encoding: str, problems: Problems, watch: Watch) -> tuple[str, Lines]:
    """The name of a file, `-` for standard input, and its lines; `watch` as of `read_lines`."""
    if str(file) != "-":
        return str(file), read_lines(file, encoding, problems, watch)
    check_encoding(STDIN, encoding)
    return STDIN, decode_lines(STDIN, sys.stdin.buffer, encoding, problems)


def file_format(chosen: FileFormat, name: str, lines: Lines, task: str, encoding: str) -> tuple[str, Lines]:
    """The format, and the lines again: those of standard input were looked at."""
    if chosen != "auto":
        return chosen, lines
    if name != STDIN:
        return guess_format(name, task=task, encoding=encoding), lines
    first = list(islice(lines, 5))
    shown = [text for _, text in first if text.strip()]
    kind = "text"
    if shown and shown[0].lstrip().startswith("{"):
        kind = "jsonl"
    elif task == "ner" and looks_tagged([text for text in shown if not text.startswith("#")]):
        kind = "conll"
    return kind, chain(first, lines)


def object_lines(kind: str, name: str, encoding: str, names: FieldNames, problems: Problems) -> Lines:
    """Texts with entities, or the rows of Arrow files, as JSON lines."""
    if name == STDIN:
        raise ConfigError(f"{STDIN}: format {kind} is not read from standard input; give the file")
    rows = object_rows(name) if kind == "arrow" else text_objects(name, encoding, names.text, problems)
    return ((number, _strict_json(row)) for number, row in rows)


def _strict_json(row: dict[str, Any]) -> str:
    """A row in one line, its NaN, which JSON does not have, as null."""
    line = json.dumps(row, default=str)
    return json.dumps(json.loads(line, parse_constant=lambda _: None)) if "NaN" in line or "Infinity" in line else line


def labels_of(prediction: AnyPrediction) -> list[tuple[str, str]]:
    """Each label, `_` for none, with its confidence, as text."""
    pairs = [(prediction.label, prediction.confidence)] if isinstance(prediction, Prediction) else prediction.pairs
    return [(label or ABSTAINED, f"{confidence:.4f}") for label, confidence in pairs]


def _parse_conll(source: Source) -> Iterator[Record]:
    """Sentences of a column file with their lines; blank lines, comments and -DOCSTART- as records of their own."""
    separator, width, at = "", 0, source.names.token_column
    is_comment, lines = find_comments(source.lines, None, -1 if has_spans(source.task) else None)
    for block in blocks(lines, is_comment):
        if isinstance(block, tuple):
            yield Record(block[0], f"{block[1]}\n")
            continue
        words: list[str] = []
        for number, line in block:
            separator = separator or separator_of(line)
            cells = split_row(line, separator)
            width = width or len(cells)
            place = f"{source.name}:{number}"
            if len(cells) != width:
                source.problems.add(place, f"{len(cells)} columns, but the file began with {width}", "correct the line")
            elif not -width <= at < width:
                source.problems.add(place, f"no column {at}", "name that of the words: reader.token_column")
            elif not cells[at]:
                source.problems.add(place, "empty word", "give a word, or leave the whole line blank to end a sentence")
            else:
                words.append(cells[at])
        again = partial(_columns, tuple(line for _, line in block), separator)
        yield Record(block[0][0], words=tuple(words), again=again)


def _columns(rows: Sequence[str], separator: str, prediction: AnyPrediction) -> str:
    """Lines with two more columns, the tag last, where readers of column files look for it."""
    pairs = zip(rows, labels_of(prediction), strict=True)
    return "".join(f"{separator.join((row, confidence, tag))}\n" for row, (tag, confidence) in pairs)


def _parse_conllu(source: Source) -> Iterator[Record]:
    """Sentences of CoNLL-U with their comments."""
    rows: list[tuple[int, str]] = []
    for number, line in chain(source.lines, [(0, "")]):
        if line.strip():
            rows.append((number, line))
            if not is_beside(line) and (line.count("\t") != len(CONLLU) - 1 or not line.split("\t")[1]):
                what = f"not {len(CONLLU)} columns with a word in the second"
                source.problems.add(f"{source.name}:{number}", what, "correct the line")
            continue
        words = tuple(row.split("\t")[1] for _, row in rows if not is_beside(row) and "\t" in row)
        if words:
            again = partial(_conllu, tuple(row for _, row in rows), conllu_column(source.names.tags))
            yield Record(rows[0][0], words=words, again=again)
        elif rows:
            yield Record(rows[0][0], "".join(f"{row}\n" for _, row in rows))
        if number:
            yield Record(number, f"{line}\n")
        rows = []


def _conllu(rows: Sequence[str], column: int, prediction: AnyPrediction) -> str:
    """The lines with the tags in their column, and the confidence in the last."""
    labels, lines = iter(labels_of(prediction)), list[str]()
    for row in rows:
        cells = row.split("\t")
        if not is_beside(row):
            cells[column], confidence = next(labels)
            cells[-1] = "|".join([*(x for x in cells[-1:] if x != "_"), f"Confidence={confidence}"])
        lines.append("\t".join(cells) + "\n")
    return "".join(lines)


def _parse_text(source: Source) -> Iterator[Record]:
    for number, line in source.lines:
        if line.strip():
            yield Record(number, text=line, again=_word_lines if per_word(source.task) else partial(_before, line))
        else:
            yield Record(number, "" if per_word(source.task) else "\n")


def _word_lines(prediction: AnyPrediction) -> str:
    assert isinstance(prediction, TagPrediction)
    return _columns(prediction.words, "\t", prediction) + "\n"


def _before(line: str, prediction: AnyPrediction) -> str:
    return "\t".join((*labels_of(prediction)[0], line)) + "\n"


def _csv_line(delimiter: str, cells: list[str]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, delimiter=delimiter).writerow(cells)
    return buffer.getvalue().removesuffix("\r\n")


def _parse_table(source: Source) -> Iterator[Record]:
    delimiter = "" if source.kind == "tsv" else source.names.delimiter
    join = partial(_csv_line, delimiter) if delimiter else "\t".join
    number, header, rows = open_table(source.name, source.lines, delimiter, source.names.header, source.problems)
    place = f"{source.name}:{number}"
    for role, column in source.columns.items():
        if header.count(column) != 1:
            what = f"no column {column!r}" if column not in header else f"column {column!r} occurs twice"
            what += f"; the columns are {listed(header) or 'none'}"
            source.problems.add(place, what, f"name it with reader.{role}")
    _refuse(source, place, "column", set(COLUMNS) & set(header))
    source.problems.raise_if_any()
    if source.names.header:
        yield Record(number, join([*header, *COLUMNS]) + "\n")
    at = [header.index(column) for column in source.columns.values()]
    for number, cells in rows:
        place, texts = f"{source.name}:{number}", [cells[i] for i in at if i < len(cells)]
        if not any(cells):
            yield Record(number, "\n")
        elif len(cells) != len(header):
            what = f"{len(cells)} columns, but the header has {len(header)}"
            source.problems.add(place, what, "give every row the columns of the header")
        elif not all(map(str.strip, texts)):
            yield Record(number, join([*cells, "", ""]) + "\n", without_text=True)
        else:
            pair = texts[1] if len(at) > 1 else None
            yield Record(number, text=texts[0], pair=pair, again=partial(_row, join, cells))


def _row(join: Callable[[list[str]], str], cells: list[str], prediction: AnyPrediction) -> str:
    return join([*cells, *labels_of(prediction)[0]]) + "\n"


def _refuse(source: Source, place: str, what: str, names: set[str]) -> None:
    for name in names:
        source.problems.add(place, f"a {what} {name!r} is there already", "rename it")


def _parse_jsonl(source: Source) -> Iterator[Record]:
    for number, line in json_lines(source.name, source.lines, source.problems):
        if not line.strip():
            yield Record(number, "\n")
            continue
        place = f"{source.name}:{number}"
        value = json_object(place, line, source.problems)
        if value is None:
            continue
        _refuse(source, place, "field", {*COLUMNS, "agree", "probabilities"} & set(value))
        words = value.get(source.names.words) if per_word(source.task) else None
        texts = [value.get(name, 0) for name in source.columns.values()]  # 0 is no text, but no empty one
        again = partial(_object, value, source.names.words)
        empty = [text is None or (isinstance(text, str) and not text.strip()) for text in texts]
        if any(empty) and not words:
            yield Record(number, json_line(value | {"predicted": None, "confidence": None}), without_text=True)
        elif not per_word(source.task):
            if all(isinstance(t, str) for t in texts):
                pair = texts[1] if len(texts) > 1 else None
                yield Record(number, text=texts[0], pair=pair, fields=value, again=again)
            else:
                names = " and ".join(f"{name!r} (reader.{role})" for role, name in source.columns.items())
                source.problems.add(place, f"no text in {names}", "give the field, or name the right one")
        elif isinstance(words, list) and words and all(isinstance(w, str) and w for w in words):
            yield Record(number, words=tuple(words), fields=value, again=again)
        elif source.names.words not in value and isinstance(texts[0], str):
            yield Record(number, text=texts[0], fields=value, again=again)
        else:
            what = (
                f"no list of words in {source.names.words!r} (reader.words), and no {source.names.text!r} (reader.text)"
            )
            source.problems.add(place, what, "give one of them, or name the right one")


def _object(fields: dict[str, Any], words: str, prediction: AnyPrediction) -> str:
    return json_line(fields | json_fields(prediction, "predicted", words))


def json_line(value: Any) -> str:
    """A JSON value in one line."""
    return json.dumps(value, ensure_ascii=False) + "\n"


def json_fields(prediction: AnyPrediction, name: str, words: str) -> dict[str, Any]:
    """What a JSON line says of a prediction: the words under `words`, the label or tags under `name`."""
    if isinstance(prediction, TagPrediction):
        confidence = [round(c, 6) for c in prediction.confidences]
        labels = {words: prediction.words, name: prediction.labels, "confidence": confidence}
        return labels | {"agree": prediction.agree}
    probabilities = {label: round(p, 6) for label, p in prediction.probabilities.items()}
    label = {name: prediction.label, "confidence": round(prediction.confidence, 6), "agree": prediction.agree}
    return label | {"probabilities": probabilities}


PARSERS: dict[str, Callable[[Source], Iterator[Record]]] = {
    "conll": _parse_conll,
    "conllu": _parse_conllu,
    "text": _parse_text,
    "tsv": _parse_table,
    "csv": _parse_table,
    "jsonl": _parse_jsonl,
    "spans": _parse_jsonl,
    "arrow": _parse_jsonl,
}
