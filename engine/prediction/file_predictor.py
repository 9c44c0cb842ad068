"""Labelling files: read, label and write a chunk at a time, in order, in bounded memory."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

from ... import ConfigError, DataError
from ...data.readers.lines import is_packed
from ...data.readers.problems import Problems
from ..training.progress import Progress
from .model_folder import Device, ModelLike
from .output_formats import OF_TASK, OutputFormat, output
from .predictor import Predictor
from .records import FORMATS, PARSERS, AnyPrediction, FileFormat, Lines, Record, Source, file_format, open_lines
from .words import Split

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
    abstain: bool = False,
    alpha: float | None = None,
    raw: bool = False,
    split: Split | None = None,
    device: Device = "auto",
    encoding: str = "utf-8",
    text_column: str = "text",
    pair_column: str | None = None,
    max_length: int | None = None,
    progress: Progress | None = None,
) -> Predictor:
    """Writes labels and confidences, or entities, for the words or texts of a file, in the same order.

    The formats are those of docs/data-formats.md, "What predict writes".

    Args:
        model: as for `predict`, and so `abstain`, `alpha`, `raw`, `split`, `device`, `max_length`.
        file: the input, `-` for standard input; `.xz`, `.gz` and `.bz2` are unpacked.
        out: the output in UTF-8, `-` for standard output. A file is replaced in one step, when all is done.
        input_format: "auto" goes by the file's name and first lines.
        output_format: "same" writes the file again with labels.
        encoding: of the input.
        text_column: table or JSON lines: column of the text.
        pair_column: column of the second text.
        progress: is told of warnings, and how far a file that takes longer has been read.

    Returns:
        The predictor, which has the counts and warnings.

    Raises:
        ConfigError: format and task do not fit, or an option is wrong.
        DataError: a line is wrong; with file and line. What stands before it may have been written to standard output.
        ModelError: as `predict`.
        StorageError: the output cannot be written.
    """
    predictor = Predictor(
        model, abstain=abstain, alpha=alpha, raw=raw, split=split, max_length=max_length, device=device
    )
    problems, progress = Problems(), progress or Progress()
    name, lines = open_lines(file, encoding, problems)
    meter = _Meter(progress, name)
    kind, lines = file_format(input_format, name, lines, predictor.task, encoding)
    _check_formats(predictor, name, kind, output_format)
    source = Source(name, meter.count(lines), predictor.task, text_column, pair_column, problems)
    with output(out, output_format, pair_column) as write:
        empty = True
        for chunk in _chunks(_bounded(PARSERS[kind](source), name, problems)):
            problems.raise_if_any()
            empty = empty and all(r.is_copied for r in chunk)
            said = len(predictor.warnings)
            for record, prediction in zip(chunk, _label(predictor, chunk), strict=True):
                write(record, prediction)
            for warning in predictor.warnings[said:]:
                progress.warning(warning)
            meter.show()
        problems.raise_if_any()
        if empty:
            raise DataError(f"{name}: nothing to label; check the file and its format ({kind})")
    meter.end(predictor.counts["texts"])
    return predictor


def _check_formats(predictor: Predictor, name: str, kind: str, output_format: str) -> None:
    task = predictor.task
    if kind not in FORMATS[task]:
        allowed = ", ".join(FORMATS[task])
        raise ConfigError(f"{name}: format {kind} is not for {task}; give --input-format {allowed}, or another model")
    if output_format not in OF_TASK[task]:
        raise ConfigError(f"format {output_format} is not for {task}; give --format {', '.join(OF_TASK[task])}")
    if task == "ner" and output_format in _OF_ENTITIES and not predictor.finds_entities:
        tags = ", ".join(predictor.model.labels)
        raise ConfigError(f"the model's tags ({tags}) are no BIO, so there are no entities; give --format conll")


def _label(predictor: Predictor, chunk: list[Record]) -> Iterator[AnyPrediction | None]:
    """A prediction for each record that has something to label, in order."""
    todo = [r for r in chunk if not r.is_copied]
    labelled: Iterator[AnyPrediction]
    if predictor.task == "ner":
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


class _Meter:
    """Says how far a file has been read, once that takes longer; of a stream or a packed file nobody knows the end."""

    def __init__(self, progress: Progress, name: str) -> None:
        self._progress, self._name = progress, name
        self._total = os.path.getsize(name) if os.path.isfile(name) and not is_packed(name) else 0
        self._started, self._done, self._first = time.monotonic(), 0, -1

    def count(self, lines: Lines) -> Lines:
        """The lines as they are."""
        for number, line in lines:
            self._done += len(line.encode()) + 1
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
