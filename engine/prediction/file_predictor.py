"""Labelling files: read, label and write a chunk at a time, in order, in bounded memory."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import sys
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any, Literal

from ... import ConfigError, DataError
from ...data import guess_format
from ...data.readers.lines import decode_lines, read_lines
from ...data.readers.problems import Problems
from ...data.readers.table import csv_rows, json_object
from ..storage.files import storage_error
from .model_folder import Device, ModelLike
from .predictor import Prediction, Predictor, TagPrediction

FileFormat = Literal["auto", "conll", "tsv", "csv", "jsonl", "text"]
STDIN, STDOUT = "<stdin>", "<stdout>"
ABSTAINED = "_"
COLUMNS = ("predicted", "confidence")
CHUNK_RECORDS, CHUNK_CHARACTERS = 512, 1 << 18
_TAGGED = re.compile(r"\S.*[ \t](?:O|[BI]-\S+) *")
_FORMATS = {"ner": ("conll", "text", "jsonl"), "classification": ("text", "tsv", "csv", "jsonl")}
Lines = Iterator[tuple[int, str]]
Labels = Sequence[tuple[str, str]]
"""Each with its confidence, as text."""


@dataclass(slots=True)
class _Record:
    """One piece of the input: words or a text to label, or, without them, lines that are copied.

    Attributes:
        write: what its format makes of the labels.
        fields: of JSON lines.
    """

    line: int
    copy: str = ""
    words: tuple[str, ...] | None = None
    text: str | None = None
    pair: str | None = None
    write: Callable[[Labels], str] | None = None
    fields: dict[str, Any] | None = None

    @property
    def size(self) -> int:
        return sum(map(len, self.words or ())) + len(self.text or "") + len(self.pair or "")

    @property
    def is_copied(self) -> bool:
        return self.words is None and self.text is None


@dataclass
class _Source:
    """What the parsers of the formats share."""

    name: str
    lines: Lines
    task: str
    text: str
    pair: str | None
    problems: Problems
    words: Callable[[str], tuple[str, ...]]

    @property
    def columns(self) -> list[str]:
        return [name for name in (self.text, self.pair) if name]


def predict_file(
    model: ModelLike,
    file: str | Path,
    out: str | Path = "-",
    *,
    abstain: bool = False,
    alpha: float | None = None,
    raw: bool = False,
    file_format: FileFormat = "auto",
    device: Device = "auto",
    as_json: bool = False,
    encoding: str = "utf-8",
    text_column: str = "text",
    pair_column: str | None = None,
    max_length: int | None = None,
) -> Predictor:
    """Writes the file again with a label and a confidence for each word or text, in the same order.

    conll: two more columns, tag and confidence; blank and -DOCSTART- lines stay. text: for classification `label TAB
    confidence TAB text` for each line, blank lines stay; for NER a line `word TAB tag TAB confidence` for each word and
    a blank line after each sentence. tsv, csv: two more columns, `predicted` and `confidence`. jsonl: the fields
    `predicted`, `confidence`, `agree` and, for classification, `probabilities` are added. An abstention is `_`, null
    in JSON.

    Args:
        model: as for `predict`, and so `abstain`, `alpha`, `raw`, `device`, `max_length`.
        file: the input, `-` for standard input; `.xz` and `.gz` are unpacked.
        out: the output in UTF-8, `-` for standard output. A file is replaced in one step, when all is done.
        file_format: "auto" goes by the file's name and first lines.
        as_json: write JSON lines whatever the input: the number of the line, the words or text, and the fields above.
        encoding: of the input.
        text_column: table or JSON lines: column of the text.
        pair_column: column of the second text.

    Returns:
        The predictor, which has the counts.

    Raises:
        ConfigError: format and task do not fit, or an option is wrong.
        DataError: a line is wrong; with file and line. What stands before it may have been written to standard output.
        ModelError: as `predict`.
        StorageError: the output cannot be written.
    """
    predictor = Predictor(model, abstain=abstain, alpha=alpha, raw=raw, max_length=max_length, device=device)
    problems = Problems()
    name, lines = _open(file, encoding, problems)
    kind, lines = _format(file_format, file, name, lines, predictor.task, encoding)
    if kind not in _FORMATS[predictor.task]:
        allowed = ", ".join(_FORMATS[predictor.task])
        raise ConfigError(
            f"{name}: format {kind} is not for {predictor.task}; give --format {allowed}, or another model"
        )
    source = _Source(name, lines, predictor.task, text_column, pair_column, problems, predictor.words)
    with _output(out) as emit:
        empty = True
        for chunk in _chunks(_PARSERS[kind](source)):
            problems.raise_if_any()
            empty = empty and all(r.is_copied for r in chunk)
            for record, prediction in zip(chunk, _label(predictor, chunk), strict=True):
                emit(_output_of(record, prediction, as_json))
        problems.raise_if_any()
        if empty:
            raise DataError(f"{name}: nothing to label; check the file and its format ({kind})")
    return predictor


def _label(predictor: Predictor, chunk: list[_Record]) -> Iterator[Prediction | TagPrediction | None]:
    """A prediction for each record that has something to label, in order."""
    todo = [r for r in chunk if not r.is_copied]
    labelled: Iterator[Prediction | TagPrediction]
    if predictor.task == "ner":
        labelled = iter(predictor.tag([r.words or () for r in todo]))
    else:
        labelled = iter(predictor.classify([r.text or "" for r in todo], [r.pair for r in todo]))
    return (None if r.is_copied else next(labelled) for r in chunk)


def _chunks(records: Iterator[_Record]) -> Iterator[list[_Record]]:
    chunk: list[_Record] = []
    size = 0
    for record in records:
        chunk.append(record)
        size += record.size
        if len(chunk) >= CHUNK_RECORDS or size >= CHUNK_CHARACTERS:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _open(file: str | Path, encoding: str, problems: Problems) -> tuple[str, Lines]:
    if str(file) != "-":
        return str(file), read_lines(file, encoding, problems)
    return STDIN, decode_lines(STDIN, sys.stdin.buffer, encoding, problems)


def _format(
    chosen: FileFormat, file: str | Path, name: str, lines: Lines, task: str, encoding: str
) -> tuple[str, Lines]:
    """The format, and the lines again: those of standard input were looked at."""
    if chosen != "auto":
        return chosen, lines
    if name != STDIN:
        return guess_format(file, task=task, encoding=encoding), lines
    first = list(islice(lines, 5))
    shown = [text for _, text in first if text.strip()]
    kind = "text"
    if shown and shown[0].lstrip().startswith("{"):
        kind = "jsonl"
    elif task == "ner" and shown and all(t.startswith("-DOCSTART-") or _TAGGED.fullmatch(t) for t in shown):
        kind = "conll"
    return kind, chain(first, lines)


@contextmanager
def _output(out: str | Path) -> Iterator[Callable[[str], None]]:
    """A function that writes text; a regular file appears when the block has ended well."""
    if str(out) == "-":
        yield _writer(sys.stdout.buffer, STDOUT)
        return
    path = Path(os.path.realpath(out))
    special = path.exists() and not path.is_file()
    temporary = path if special else path.with_name(f".tmp-{uuid.uuid4().hex}-{path.name}")
    try:
        with open(temporary, "wb") as handle:
            yield _writer(handle, str(out))
        if not special:
            os.replace(temporary, path)
    except OSError as error:
        raise storage_error(out, error.errno, error.strerror or str(error)) from error
    finally:
        if not special:
            with suppress(OSError):
                temporary.unlink()


def _writer(handle: IO[bytes], name: str) -> Callable[[str], None]:
    def write(text: str) -> None:
        try:
            handle.write(text.encode("utf-8"))
            handle.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise storage_error(name, error.errno, error.strerror or str(error)) from error

    return write


def _parse_conll(source: _Source) -> Iterator[_Record]:
    """Sentences of a column file with their lines; blank and -DOCSTART- lines as records of their own."""
    separator, width, first = "", 0, 0
    rows: list[str] = []
    words: list[str] = []
    for number, line in chain(source.lines, [(0, "")]):
        if not line.strip(" \t") or line.startswith("-DOCSTART-"):
            if words:
                yield _Record(first, words=tuple(words), write=partial(_columns, tuple(rows), separator))
                words, rows = [], []
            if number:
                yield _Record(number, f"{line}\n")
            continue
        separator = separator or ("\t" if "\t" in line else " ")
        cells = re.split(" +", line.strip(" ")) if separator == " " else line.split("\t")
        width = width or len(cells)
        place = f"{source.name}:{number}"
        if len(cells) != width:
            source.problems.add(place, f"{len(cells)} columns, but the file began with {width}", "correct the line")
        elif not cells[0]:
            source.problems.add(place, "empty word", "give a word, or leave the whole line blank to end a sentence")
        else:
            first = first if words else number
            words.append(cells[0])
            rows.append(line)


def _columns(rows: Sequence[str], separator: str, labels: Labels) -> str:
    """Lines with two more columns."""
    return "".join(f"{separator.join((row, *label))}\n" for row, label in zip(rows, labels, strict=True))


def _parse_text(source: _Source) -> Iterator[_Record]:
    ner = source.task == "ner"
    for number, line in source.lines:
        if not line.strip():
            yield _Record(number, "" if ner else "\n")
        elif ner:
            words = source.words(line)
            yield _Record(number, words=words, write=partial(_word_lines, words))
        else:
            yield _Record(number, text=line, write=partial(_before, line))


def _word_lines(words: Sequence[str], labels: Labels) -> str:
    return _columns(words, "\t", labels) + "\n"


def _before(line: str, labels: Labels) -> str:
    return "\t".join((*labels[0], line)) + "\n"


def _parse_tsv(source: _Source) -> Iterator[_Record]:
    return _parse_table(source, ((n, line.split("\t")) for n, line in source.lines), "\t".join)


def _parse_csv(source: _Source) -> Iterator[_Record]:
    return _parse_table(source, csv_rows(source.name, source.lines, ",", source.problems), _csv_line)


def _csv_line(cells: Sequence[str]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer).writerow(cells)
    return buffer.getvalue().removesuffix("\r\n")


def _parse_table(
    source: _Source, rows: Iterator[tuple[int, list[str]]], join: Callable[[Sequence[str]], str]
) -> Iterator[_Record]:
    number, header = next(rows, (1, []))
    place = f"{source.name}:{number}"
    for column in source.columns:
        if header.count(column) != 1:
            what = f"no column {column!r}" if column not in header else f"column {column!r} occurs twice"
            source.problems.add(place, f"{what}; the columns are {', '.join(header) or 'none'}", "name the text column")
    _refuse(source, place, "column", set(COLUMNS) & set(header))
    source.problems.raise_if_any()
    yield _Record(number, join([*header, *COLUMNS]) + "\n")
    at = [header.index(column) for column in source.columns]
    for number, cells in rows:
        place, texts = f"{source.name}:{number}", [cells[i] for i in at if i < len(cells)]
        if not any(cells):
            yield _Record(number, "\n")
        elif len(cells) != len(header):
            what = f"{len(cells)} columns, but the header has {len(header)}"
            source.problems.add(place, what, "give every row the columns of the header")
        elif not all(map(str.strip, texts)):
            source.problems.add(place, "empty text", "fill the field or remove the row")
        else:
            pair = texts[1] if len(at) > 1 else None
            yield _Record(number, text=texts[0], pair=pair, write=partial(_row, join, cells))


def _row(join: Callable[[Sequence[str]], str], cells: Sequence[str], labels: Labels) -> str:
    return join([*cells, *labels[0]]) + "\n"


def _refuse(source: _Source, place: str, what: str, names: set[str]) -> None:
    for name in names:
        source.problems.add(place, f"a {what} {name!r} is there already", "rename it")


def _parse_jsonl(source: _Source) -> Iterator[_Record]:
    for number, line in source.lines:
        if not line.strip():
            yield _Record(number, "\n")
            continue
        place = f"{source.name}:{number}"
        value = json_object(place, line, source.problems)
        if value is None:
            continue
        _refuse(source, place, "field", {*COLUMNS, "agree", "probabilities"} & set(value))
        texts, words = [value.get(name) for name in source.columns], value.get("words")
        if source.task != "ner":
            if all(isinstance(t, str) and t.strip() for t in texts):
                yield _Record(number, text=texts[0], pair=texts[1] if len(texts) > 1 else None, fields=value)
            else:
                columns = " and ".join(map(repr, source.columns))
                source.problems.add(place, f"no text in {columns}", "give the field, or name the right one")
        elif isinstance(words, list) and words and all(isinstance(w, str) and w for w in words):
            yield _Record(number, words=tuple(words), fields=value)
        elif "words" not in value and isinstance(texts[0], str) and texts[0].strip():
            yield _Record(number, words=source.words(texts[0]), fields=value)
        else:
            source.problems.add(place, f"no list of words in 'words', and no {source.text!r}", "give one of them")


def _output_of(record: _Record, prediction: Prediction | TagPrediction | None, as_json: bool) -> str:
    if prediction is None:
        return "" if as_json else record.copy
    if record.write is not None and not as_json:
        pairs = [(prediction.label, prediction.confidence)] if isinstance(prediction, Prediction) else prediction.pairs
        return record.write([(label or ABSTAINED, f"{confidence:.4f}") for label, confidence in pairs])
    fields = record.fields
    if fields is None:
        fields = {"line": record.line} | ({"text": record.text} if record.words is None else {"words": record.words})
        fields |= {} if record.pair is None else {"pair": record.pair}
    return json.dumps(fields | _fields(prediction), ensure_ascii=False) + "\n"


def _fields(prediction: Prediction | TagPrediction) -> dict[str, Any]:
    if isinstance(prediction, TagPrediction):
        confidence = [round(c, 6) for c in prediction.confidences]
        labels = {"words": prediction.words, "predicted": prediction.labels, "confidence": confidence}
        return labels | {"agree": prediction.agree}
    probabilities = {name: round(p, 6) for name, p in prediction.probabilities.items()}
    label = {"predicted": prediction.label, "confidence": round(prediction.confidence, 6), "agree": prediction.agree}
    return label | {"probabilities": probabilities}


_PARSERS: dict[str, Callable[[_Source], Iterator[_Record]]] = {
    "conll": _parse_conll,
    "text": _parse_text,
    "tsv": _parse_tsv,
    "csv": _parse_csv,
    "jsonl": _parse_jsonl,
}
