"""Labelling files: read, label and write a chunk at a time, in order, in bounded memory."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal, Unpack

from ... import ConfigError, DataError, __version__
from ...data import ReaderOptions, guess_format
from ...data.readers.formats import guess_stream, open_reader
from ...data.readers.lines import check_encoding, decode_lines
from ...data.readers.problems import Problems
from ...data.readers.reader import Reader, Record
from ...tasks import has_spans, per_word
from ..training.progress import Progress
from .model_folder import ModelLike
from .output_formats import OF_TASK, AnyPrediction, OutputFormat, output, refuse_missing_folder
from .predictor import Options, Predictor

FileFormat = Literal["auto", "conll", "conllu", "tsv", "csv", "jsonl", "spans", "arrow", "text"]
FORMATS = {
    "ner": ("conll", "text", "jsonl", "spans", "arrow"),
    "tag": ("conll", "conllu", "text", "jsonl", "arrow"),
    "classification": ("text", "tsv", "csv", "jsonl", "arrow"),
}
STDIN = "<stdin>"
CHUNK_RECORDS, CHUNK_CHARACTERS = 512, 1 << 18
LONGEST_RECORD = 1 << 20
"""Characters of the longest text, or words of a sentence, that is labelled."""
_OF_ENTITIES = ("tsv", "entities", "spacy", "brat")
_NAMES = ("text", "pair", "label", "words", "tags", "token_column", "delimiter", "header")
"""Options of readers that the files of a model's training and those to label have in common."""
PATIENCE = 5.0
"""Seconds after which a person is told how far a file has been read."""


def predict_file(
    model: ModelLike,
    file: str | Path,
    out: str | Path = "-",
    *,
    input_format: FileFormat = "auto",
    output_format: OutputFormat = "same",
    encoding: str = "utf-8",
    text_column: str | None = None,
    pair_column: str | None = None,
    words_column: str | None = None,
    token_column: int | None = None,
    delimiter: str | None = None,
    header: bool | None = None,
    progress: Progress | None = None,
    **options: Unpack[Options],
) -> Predictor:
    """Writes labels and confidences, or entities, for the words or texts of a file, in the same order.

    The formats are those of docs/data-formats.md, "What predict writes".

    Args:
        model: as for `predict`, and so `options`.
        file: the input, `-` for standard input; `.xz`, `.gz` and `.bz2` are unpacked.
        out: the output in UTF-8, `-` for standard output. A file is replaced in one step, when all is done; where
            the process was stopped or killed before, the same call goes on with what it had written.
        input_format: "auto" goes by the file's name and first lines.
        output_format: "same" writes the file again with labels.
        encoding: of the input.
        text_column: table or JSON lines: column of the text; where absent, that of the model's training files.
        pair_column: column of the second text; likewise.
        words_column: JSON lines: field of the words; likewise.
        token_column: column files: number of the words' column, from 0; likewise.
        delimiter: CSV: what stands between the columns; likewise.
        header: whether tables begin with the names of their columns; likewise.
        progress: is told of warnings, and how far a file that takes longer has been read.

    Returns:
        The predictor, which has the counts and warnings.

    Raises:
        ConfigError: format and task do not fit, or an option is wrong.
        DataError: a line is wrong; with file and line. What stands before it may have been written to standard output.
            A row without text is copied with an empty label, and counted.
        ModelError: as `predict`.
        RunInUseError: another process writes the output.
        StorageError: the output cannot be written.
    """
    refuse_missing_folder(out)
    predictor = Predictor(model, **options)
    progress = progress or Progress()
    columns = {"text": text_column, "pair": pair_column, "words": words_column}
    names = _names(predictor, columns | {"token_column": token_column, "delimiter": delimiter, "header": header})
    meter = _Meter(progress, file)
    reader, kind = _open(predictor, file, input_format, output_format, replace(names, encoding=encoding), meter)
    problems, name = reader.problems, reader.path
    key = _key(predictor, file, [kind, output_format, encoding, asdict(names)])
    usual = _names(predictor, {})
    shown = replace(usual, pair=names.pair and (usual.pair or "pair"))  # as `evaluate` looks for them
    with output(out, output_format, shown, reader, key) as (write, out_files):
        records, done = _bounded(reader), out_files.done
        if done:
            progress.note(f"{out}: going on after {done:,} records that were written before")
            predictor.counts.update(out_files.counts)
            deque(islice(records, done), maxlen=0)
        empty = not done
        for chunk in filter(None, [list(records)]) if predictor.word_pooling else _chunks(records):
            problems.raise_if_any()
            empty = empty and all(record.example is None for record in chunk)
            if empty and len(chunk) < CHUNK_RECORDS:  # the last one: a header alone is no answer
                break
            predictor.counts["without_text"] = reader.counts["without_text"]
            said = len(predictor.warnings)
            for record, prediction in zip(chunk, _label(predictor, chunk), strict=True):
                write(record, prediction)
            for warning in predictor.warnings[said:]:
                progress.warning(warning)
            out_files.advance(len(chunk), predictor.counts)
            meter.show()
        problems.raise_if_any()
        if empty:
            raise DataError(f"{name}: nothing to label; check the file and its format ({kind})")
    meter.end(predictor.counts["texts"])
    return predictor


def _names(predictor: Predictor, asked: Mapping[str, Any]) -> ReaderOptions:
    """Of the arguments, else of the files that the model was trained on."""
    known = predictor.names | {name: value for name, value in asked.items() if value is not None}
    return ReaderOptions(**{name: known[name] for name in _NAMES if name in known})


def _open(
    predictor: Predictor,
    file: str | Path,
    input_format: FileFormat,
    output_format: OutputFormat,
    options: ReaderOptions,
    meter: _Meter,
) -> tuple[Reader, str]:
    """The reader of the file and its format, which are those of the task."""
    task, kind, name, problems, lines = predictor.task, str(input_format), str(file), Problems(), None
    if name == "-":
        name = STDIN
        check_encoding(STDIN, options.encoding)
        meter.watch(lambda: sys.stdin.buffer.tell())
        lines = decode_lines(STDIN, sys.stdin.buffer, options.encoding, problems)
        if kind == "auto":
            first = list(islice(lines, 5))
            kind, lines = guess_stream([text for _, text in first], task), chain(first, lines)
    elif kind == "auto":
        kind = guess_format(name, task=task, encoding=options.encoding)
    _check_formats(predictor, name, kind, output_format)
    if lines is not None and kind in ("spans", "arrow"):
        raise ConfigError(f"{STDIN}: format {kind} is not read from standard input; give the file")
    options = replace(options, quoting=kind == "csv")
    return open_reader(name, kind, options, task=task, lines=lines, problems=problems, watch=meter.watch), kind


def _key(predictor: Predictor, file: str | Path, settings: list[Any]) -> dict[str, Any] | None:
    """What decides the labels of a file; None for a stream, and for a model that lies in no folder."""
    if predictor.folder is None or not os.path.isfile(file):
        return None
    read = [Path(file).resolve(), *sorted(path for path in predictor.folder.resolve().iterdir() if path.is_file())]
    stats = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in read]
    about = [predictor.abstain, predictor.alpha, predictor.raw, predictor.split, predictor.max_length]
    about += [predictor.word_pooling]
    weights = next(predictor.model.parameters())
    key = [__version__, stats, about, str(weights.device), str(weights.dtype), settings]
    return {"sha256": hashlib.sha256(json.dumps(key).encode()).hexdigest()}


def _check_formats(predictor: Predictor, name: str, kind: str, output_format: str) -> None:
    task = predictor.task
    if kind not in FORMATS[task]:
        allowed = ", ".join(FORMATS[task])
        raise ConfigError(f"{name}: format {kind} is not for {task}; give --input-format {allowed}, or another model")
    if output_format not in OF_TASK[task]:
        raise ConfigError(f"format {output_format} is not for {task}; give --format {', '.join(OF_TASK[task])}")
    if has_spans(task) and output_format in _OF_ENTITIES and not predictor.finds_entities:
        tags = ", ".join(predictor.model.labels)
        raise ConfigError(f"the model's tags ({tags}) are no BIO, so there are no entities; give --format conll")


def _label(predictor: Predictor, chunk: list[Record]) -> Iterator[AnyPrediction | None]:
    """A prediction for each record that has something to label, in order."""
    todo = [record.example for record in chunk if record.example is not None]
    labelled: Iterator[AnyPrediction]
    if per_word(predictor.task):
        labelled = iter(predictor.tag([one.text or "" if one.words is None else one.words for one in todo]))
    else:
        labelled = iter(predictor.classify([one.text or "" for one in todo], [one.pair for one in todo]))
    return (None if record.example is None else next(labelled) for record in chunk)


def _length(record: Record) -> int:
    """Characters that there are to label."""
    one = record.example
    return 0 if one is None else sum(map(len, one.words or ())) + len(one.text or "") + len(one.pair or "")


def _bounded(reader: Reader) -> Iterator[Record]:
    """The records up to the first that is too long to be one text."""
    for record in reader.records():
        if (size := _length(record)) > LONGEST_RECORD:
            what = f"a text of {size:,} characters, and the longest that is labelled has {LONGEST_RECORD:,}"
            reader.problems.add(f"{reader.path}:{record.line}", what, "cut it into sentences, one a line")
            return
        yield record


def _chunks(records: Iterator[Record]) -> Iterator[list[Record]]:
    chunk: list[Record] = []
    size = 0
    for record in records:
        chunk.append(record)
        size += _length(record)
        if len(chunk) >= CHUNK_RECORDS or size >= CHUNK_CHARACTERS:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _size(file: str | Path) -> int:
    """Bytes of a file, or of the one that is standard input; 0 where nobody knows."""
    if str(file) != "-":
        return os.path.getsize(file) if os.path.isfile(file) else 0
    try:
        status = os.fstat(sys.stdin.fileno())
        return status.st_size if stat.S_ISREG(status.st_mode) else 0
    except (OSError, AttributeError):  # not a file of the system at all
        return 0


class _Meter:
    """Says how far a file has been read, once that takes longer; of a pipe nobody knows the end."""

    def __init__(self, progress: Progress, file: str | Path) -> None:
        self._progress, self._name = progress, STDIN if str(file) == "-" else str(file)
        self._total, self._started, self._first = _size(file), time.monotonic(), -1
        self._place: Callable[[], int] | None = None

    def watch(self, bytes_read: Callable[[], int]) -> None:
        """Takes what says how far the file has been read."""
        self._place = bytes_read

    def show(self) -> None:
        """Says it, if it is time."""
        done = self._place() if self._place and self._total else 0
        if self._first >= 0:
            self._progress.read(done, self._total, done - self._first)
        elif done and time.monotonic() - self._started > PATIENCE:
            self._progress.begin_reading(self._name, self._total)
            self._first = done

    def end(self, texts: int) -> None:
        """Ends what `show` began."""
        if self._first >= 0:
            self._progress.end(self._name, f"{texts:,} texts labelled")
