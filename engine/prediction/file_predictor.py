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
from dataclasses import asdict, fields, replace
from itertools import islice
from pathlib import Path
from typing import Any, Unpack

from ... import ConfigError, DataError, __version__
from ...data.readers.lines import is_packed
from ...data.readers.problems import Problems
from ...tasks import has_spans, per_word
from ..training.progress import Progress
from .model_folder import ModelLike
from .out_files import refuse_missing_folder
from .output_formats import OF_TASK, OutputFormat, output
from .predictor import Options, Predictor
from .records import (
    FORMATS,
    PARSERS,
    STDIN,
    AnyPrediction,
    FieldNames,
    FileFormat,
    Lines,
    Record,
    Source,
    file_format,
    object_lines,
    open_lines,
)

CHUNK_RECORDS, CHUNK_CHARACTERS = 512, 1 << 18
LONGEST_RECORD = 1 << 20
"""Characters of the longest text, or words of a sentence, that is labelled."""
_OF_ENTITIES = ("tsv", "entities", "spacy", "brat")
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
    problems, progress = Problems(), progress or Progress()
    columns = {"text": text_column, "pair": pair_column, "words": words_column}
    names = _names(predictor, columns | {"token_column": token_column, "delimiter": delimiter, "header": header})
    meter = _Meter(progress, file)
    name, lines = open_lines(file, encoding, problems, meter.watch)
    kind, lines = file_format(input_format, name, lines, predictor.task, encoding)
    _check_formats(predictor, name, kind, output_format)
    if kind in ("spans", "arrow"):
        lines = object_lines(kind, name, encoding, names, problems)
    source = Source(name, kind, meter.count(lines), predictor.task, names, problems)
    key = _key(predictor, file, [kind, output_format, encoding, asdict(names)])
    usual = _names(predictor, {})
    shown = replace(usual, pair=names.pair and (usual.pair or "pair"))  # as `evaluate` looks for them
    with output(out, output_format, shown, key) as result:
        records, done = _bounded(PARSERS[kind](source), name, problems), result.files.done
        if done:
            progress.note(f"{out}: going on after {done:,} records that were written before")
            predictor.counts.update(result.files.counts)
            deque(islice(records, done), maxlen=0)
        empty = not done
        for chunk in _chunks(records):
            problems.raise_if_any()
            empty = empty and all(r.is_copied for r in chunk)
            predictor.counts["without_text"] += sum(record.without_text for record in chunk)
            said = len(predictor.warnings)
            for record, prediction in zip(chunk, _label(predictor, chunk), strict=True):
                result.write(record, prediction)
            for warning in predictor.warnings[said:]:
                progress.warning(warning)
            result.files.advance(len(chunk), predictor.counts)
            meter.show()
        problems.raise_if_any()
        if empty:
            raise DataError(f"{name}: nothing to label; check the file and its format ({kind})")
    meter.end(predictor.counts["texts"])
    return predictor


def _names(predictor: Predictor, asked: Mapping[str, Any]) -> FieldNames:
    """Of the arguments, else of the files that the model was trained on."""
    known = predictor.names | {name: value for name, value in asked.items() if value is not None}
    return FieldNames(**{each.name: known[each.name] for each in fields(FieldNames) if each.name in known})


def _key(predictor: Predictor, file: str | Path, settings: list[Any]) -> dict[str, Any] | None:
    """What decides the labels of a file; None for a stream, and for a model that lies in no folder."""
    if predictor.folder is None or not os.path.isfile(file):
        return None
    read = [Path(file).resolve(), *sorted(path for path in predictor.folder.resolve().iterdir() if path.is_file())]
    stats = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in read]
    about = [predictor.abstain, predictor.alpha, predictor.raw, predictor.split, predictor.max_length]
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
    todo = [r for r in chunk if not r.is_copied]
    labelled: Iterator[AnyPrediction]
    if per_word(predictor.task):
        labelled = iter(predictor.tag([r.text or "" if r.words is None else r.words for r in todo]))
    else:
        labelled = iter(predictor.classify([r.text or "" for r in todo], [r.pair for r in todo]))
    return (None if r.is_copied else next(labelled) for r in chunk)


def _bounded(records: Iterator[Record], name: str, problems: Problems) -> Iterator[Record]:
    """The records up to the first that is too long to be one text."""
    for record in records:
        if record.size > LONGEST_RECORD:
            what = f"a text of {record.size:,} characters, and the longest that is labelled has {LONGEST_RECORD:,}"
            problems.add(f"{name}:{record.line}", what, "cut it into sentences, one a line")
            return
        yield record


def _chunks(records: Iterator[Record]) -> Iterator[list[Record]]:
    chunk: list[Record] = []
    size = 0
    for record in records:
        chunk.append(record)
        size += record.size
        if len(chunk) >= CHUNK_RECORDS or size >= CHUNK_CHARACTERS:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _size(file: str | Path) -> int:
    """Bytes of a file, or of what is left of the one that is standard input; 0 where nobody knows."""
    if str(file) != "-":
        return os.path.getsize(file) if os.path.isfile(file) else 0
    try:
        status = os.fstat(sys.stdin.fileno())
        return status.st_size - sys.stdin.buffer.tell() if stat.S_ISREG(status.st_mode) else 0
    except (OSError, AttributeError):  # not a file of the system at all
        return 0


class _Meter:
    """Says how far a file has been read, once that takes longer; of a pipe nobody knows the end."""

    def __init__(self, progress: Progress, file: str | Path) -> None:
        self._progress, self._name = progress, STDIN if str(file) == "-" else str(file)
        self._total, self._packed = _size(file), is_packed(file)
        self._started, self._done, self._first = time.monotonic(), 0, -1

    def watch(self, bytes_read: Callable[[], int]) -> None:
        """Takes what is asked for the place in a packed file."""
        self._bytes_read = bytes_read

    def count(self, lines: Lines) -> Lines:
        """The lines as they are."""
        for number, line in lines:
            self._done = self._bytes_read() if self._packed else self._done + len(line.encode()) + 1
            yield number, line

    def show(self) -> None:
        """Says it, if it is time."""
        if self._first >= 0:
            self._progress.read(self._done, self._total, self._done - self._first)
        elif self._total and time.monotonic() - self._started > PATIENCE:
            self._progress.begin_reading(self._name, self._total)
            self._first = self._done

    def end(self, texts: int) -> None:
        """Ends what `show` began."""
        if self._first >= 0:
            self._progress.end(self._name, f"{texts:,} texts labelled")
