"""Labelling files: read, label and write a chunk at a time, in order, in bounded memory."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any, Literal

from ... import ConfigError, DataError
from ...data import guess_format
from ...data.readers.lines import decode_lines, read_lines
from ...data.readers.problems import Problems
from ...data.readers.table import csv_rows, json_object
from ..storage.files import storage_error
from .model_folder import ModelLike
from .predictor import Prediction, Predictor, TagPrediction

FileFormat = Literal["auto", "conll", "tsv", "csv", "jsonl", "text"]
STDIN, STDOUT = "<stdin>", "<stdout>"
ABSTAINED = "_"
COLUMNS = ("predicted", "confidence")
CHUNK_RECORDS, CHUNK_CHARACTERS = 512, 1 << 18
_TAGGED = re.compile(r"\S.*[ \t](?:O|[BI]-\S+) *")
_FORMATS = {"ner": ("conll", "text", "jsonl"), "classification": ("text", "tsv", "csv", "jsonl")}
Lines = Iterator[tuple[int, str]]


@dataclass(slots=True)
class _Record:
    """One piece of the input: `raw` is what its writer needs; without words and text it is copied as it is."""

    line: int
    raw: Any
    words: tuple[str, ...] | None = None
    text: str | None = None
    pair: str | None = None

    @property
    def size(self) -> int:
        return sum(map(len, self.words or ())) + len(self.text or "") + len(self.pair or "")


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


def predict_file(
    model: ModelLike,
    file: str | Path,
    out: str | Path = "-",
    *,
    abstain: bool = False,
    alpha: float | None = None,
    file_format: FileFormat = "auto",
    device: Literal["auto", "cpu", "cuda"] = "auto",
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
        model: as for `predict`, and so `abstain`, `alpha`, `device`, `max_length`.
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
    predictor = Predictor(model, abstain=abstain, alpha=alpha, max_length=max_length, device=device)
    problems = Problems()
    name, lines = _open(file, encoding, problems)
    kind, lines = _format(file_format, file, name, lines, predictor.task, encoding)
    if kind not in _FORMATS[predictor.task]:
        allowed = ", ".join(_FORMATS[predictor.task])
        raise ConfigError(
            f"{name}: format {kind} is not for {predictor.task}; give --format {allowed}, or another model"
        )
    source = _Source(name, lines, predictor.task, text_column, pair_column, problems, predictor.words)
    write: Callable[[_Record, Prediction | TagPrediction | None], str]
    parse, write = _HANDLERS[kind]
    with _output(out) as emit:
        empty = True
        for chunk in _chunks(parse(source)):
            problems.raise_if_any()
            empty = empty and all(_copied(r) for r in chunk)
            for record, found in zip(chunk, _label(predictor, chunk), strict=True):
                emit(_as_json(record, found) if as_json else write(record, found))
        problems.raise_if_any()
        if empty:
            raise DataError(f"{name}: nothing to label; check the file and its format ({kind})")
    return predictor


def _copied(record: _Record) -> bool:
    return record.words is None and record.text is None


def _label(predictor: Predictor, chunk: list[_Record]) -> Iterator[Prediction | TagPrediction | None]:
    """A prediction for each record that has something to label, in order."""
    todo = [r for r in chunk if not _copied(r)]
    found: Iterator[Prediction | TagPrediction]
    if predictor.task == "ner":
        found = iter(predictor.tag([r.words or () for r in todo]))
    else:
        found = iter(predictor.classify([r.text or "" for r in todo], [r.pair for r in todo]))
    return (None if _copied(r) else next(found) for r in chunk)


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
    separator, width = "", 0
    rows: list[str] = []
    words: list[str] = []
    first = 0

    def sentence() -> Iterator[_Record]:
        if words:
            yield _Record(first, (separator, rows.copy()), tuple(words))
        words.clear()
        rows.clear()

    for number, line in source.lines:
        if not line.strip(" \t") or line.startswith("-DOCSTART-"):
            yield from sentence()
            yield _Record(number, line)
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
    yield from sentence()


def _parse_text(source: _Source) -> Iterator[_Record]:
    for number, line in source.lines:
        if not line.strip():
            yield _Record(number, "" if source.task == "classification" else None)
        elif source.task == "ner":
            yield _Record(number, line, source.words(line))
        else:
            yield _Record(number, line, text=line)


def _parse_tsv(source: _Source) -> Iterator[_Record]:
    return _parse_table(source, ((n, line.split("\t")) for n, line in source.lines), "\t".join)


def _parse_csv(source: _Source) -> Iterator[_Record]:
    return _parse_table(source, csv_rows(source.name, source.lines, ",", source.problems), _csv_line)


def _csv_line(cells: list[str]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer).writerow(cells)
    return buffer.getvalue().removesuffix("\r\n")


def _parse_table(
    source: _Source, rows: Iterator[tuple[int, list[str]]], join: Callable[[list[str]], str]
) -> Iterator[_Record]:
    number, header = next(rows, (1, []))
    place, wanted = f"{source.name}:{number}", [c for c in (source.text, source.pair) if c]
    for column in wanted:
        if header.count(column) != 1:
            what = f"no column {column!r}" if column not in header else f"column {column!r} occurs twice"
            source.problems.add(place, f"{what}; the columns are {', '.join(header) or 'none'}", "name the text column")
    for column in set(COLUMNS) & set(header):
        source.problems.add(place, f"a column {column!r} is there already", "rename it")
    source.problems.raise_if_any()
    yield _Record(number, join([*header, *COLUMNS]))
    at = [header.index(column) for column in wanted]
    for number, cells in rows:
        place = f"{source.name}:{number}"
        if not any(cells):
            yield _Record(number, "")
        elif len(cells) != len(header):
            what = f"{len(cells)} columns, but the header has {len(header)}"
            source.problems.add(place, what, "give every row the columns of the header")
        elif not all(cells[i].strip() for i in at):
            source.problems.add(place, "empty text", "fill the field or remove the row")
        else:
            yield _Record(number, (join, cells), text=cells[at[0]], pair=cells[at[1]] if len(at) > 1 else None)


def _parse_jsonl(source: _Source) -> Iterator[_Record]:
    for number, line in source.lines:
        if not line.strip():
            yield _Record(number, "")
            continue
        place = f"{source.name}:{number}"
        value = json_object(place, line, source.problems)
        if value is None:
            continue
        for name in {*COLUMNS, "agree", "probabilities"} & set(value):
            source.problems.add(place, f"a field {name!r} is there already", "rename it")
        record = _json_record(source, place, number, value)
        if record is not None:
            yield record


def _json_record(source: _Source, place: str, number: int, value: dict[str, Any]) -> _Record | None:
    if source.task == "ner":
        words = value.get("words")
        if isinstance(words, list) and words and all(isinstance(w, str) and w for w in words):
            return _Record(number, value, tuple(words))
        if "words" not in value and isinstance(value.get(source.text), str) and value[source.text].strip():
            return _Record(number, value, source.words(value[source.text]))
        source.problems.add(place, f"no list of words in 'words', and no {source.text!r}", "give one of them")
        return None
    texts = [value.get(name) for name in (source.text, source.pair) if name]
    if not all(isinstance(t, str) and t.strip() for t in texts):
        wanted = " and ".join(repr(name) for name in (source.text, source.pair) if name)
        source.problems.add(place, f"no text in {wanted}", "give the field, or name the right one")
        return None
    return _Record(number, value, text=texts[0], pair=texts[1] if len(texts) > 1 else None)


def _write_conll(record: _Record, found: Prediction | TagPrediction | None) -> str:
    if found is None:
        return f"{record.raw}\n"
    assert isinstance(found, TagPrediction)
    separator, rows = record.raw
    return "".join(
        f"{row}{separator}{tag or ABSTAINED}{separator}{confidence:.4f}\n"
        for row, tag, confidence in zip(rows, found.labels, found.confidences, strict=True)
    )


def _write_text(record: _Record, found: Prediction | TagPrediction | None) -> str:
    if found is None:
        return "" if record.raw is None else f"{record.raw}\n"
    if isinstance(found, TagPrediction):
        cells = zip(found.words, found.labels, found.confidences, strict=True)
        return "".join(f"{word}\t{tag or ABSTAINED}\t{confidence:.4f}\n" for word, tag, confidence in cells) + "\n"
    return f"{found.label or ABSTAINED}\t{found.confidence:.4f}\t{record.raw}\n"


def _write_table(record: _Record, found: Prediction | TagPrediction | None) -> str:
    if found is None:
        return f"{record.raw}\n"
    assert isinstance(found, Prediction)
    join, cells = record.raw
    return f"{join([*cells, found.label or ABSTAINED, f'{found.confidence:.4f}'])}\n"


def _write_jsonl(record: _Record, found: Prediction | TagPrediction | None) -> str:
    if found is None:
        return f"{record.raw}\n"
    return json.dumps(record.raw | _fields(found), ensure_ascii=False) + "\n"


def _as_json(record: _Record, found: Prediction | TagPrediction | None) -> str:
    if found is None:
        return ""
    if isinstance(record.raw, dict):
        return _write_jsonl(record, found)
    given: dict[str, Any] = {"words": record.words} if record.words is not None else {"text": record.text}
    if record.pair is not None:
        given["pair"] = record.pair
    return json.dumps({"line": record.line} | given | _fields(found), ensure_ascii=False) + "\n"


def _fields(found: Prediction | TagPrediction) -> dict[str, Any]:
    if isinstance(found, TagPrediction):
        added: dict[str, Any] = {"words": found.words, "predicted": found.labels}
        return added | {"confidence": [round(c, 6) for c in found.confidences], "agree": found.agree}
    return {
        "predicted": found.label,
        "confidence": round(found.confidence, 6),
        "agree": found.agree,
        "probabilities": {name: round(p, 6) for name, p in found.probabilities.items()},
    }


_HANDLERS: dict[str, tuple[Callable[[_Source], Iterator[_Record]], Callable[..., str]]] = {
    "conll": (_parse_conll, _write_conll),
    "text": (_parse_text, _write_text),
    "tsv": (_parse_tsv, _write_table),
    "csv": (_parse_csv, _write_table),
    "jsonl": (_parse_jsonl, _write_jsonl),
}
