"""The formats that predictions are written in."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ... import ConfigError
from ...data import ReaderOptions
from ...data.readers.jsonl import json_line
from ...data.readers.reader import Reader, Record
from ...data.readers.spans import ENTITY_COLUMNS
from .out_files import Emit, OutFiles, out_files
from .predictor import Prediction, TagPrediction

OutputFormat = Literal["same", "conll", "jsonl", "tsv", "entities", "spacy", "brat"]
OF_TASK = {
    "ner": ("same", "conll", "jsonl", "tsv", "entities", "spacy", "brat"),
    "tag": ("same", "conll", "jsonl"),
    "classification": ("same", "jsonl", "tsv"),
}
AnyPrediction = Prediction | TagPrediction
Write = Callable[[Record, AnyPrediction | None], None]


@dataclass(frozen=True)
class Output:
    """`write` writes a record, with its prediction where it has one; `files` know how many have been written."""

    write: Write
    files: OutFiles


@contextmanager
def output(
    out: str | Path, kind: OutputFormat, names: ReaderOptions, reader: Reader, key: dict[str, Any] | None = None
) -> Iterator[Output]:
    """The output in one of the formats; files appear when the block ends well.

    Args:
        out: `-` for standard output.
        names: of columns and fields.
        reader: of the input, which writes its own format.
        key: as of `out_files`.

    Raises:
        ConfigError: for brat, `out` is no `.ann` file.
        RunInUseError: as `out_files`.
        StorageError: as writing fails.
    """
    paths = [out]
    if kind == "brat":
        if Path(out).suffix != ".ann":
            raise ConfigError("brat has a file of entities beside its text; give --out NAME.ann, and get NAME.txt too")
        paths = [Path(out).with_suffix(suffix) for suffix in (".ann", ".txt")]
    with out_files(paths, key) as files:
        emit, *beside = files.emit
        if kind == "brat":
            yield Output(_Brat(emit, beside[0], files.state).write, files)
        elif kind == "tsv":
            yield Output(_Table(emit, names, files.state).write, files)
        elif kind == "same":
            yield Output(lambda record, prediction: emit(reader.write(record, prediction)), files)
        else:
            line = _LINES[kind]
            yield Output(lambda record, found: emit("" if found is None else line(record, found, names)), files)


def _conll(record: Record, prediction: AnyPrediction, names: ReaderOptions) -> str:
    return "".join(f"{_cell(word)}\t{tag}\n" for word, tag, _ in prediction.cells()) + "\n"


def _jsonl(record: Record, prediction: AnyPrediction, names: ReaderOptions) -> str:
    assert record.example is not None
    texts = {names.text: record.example.text, names.pair or "pair": record.example.pair}
    fields = {"line": record.line} | {name: text for name, text in texts.items() if text is not None}
    label = names.tags if isinstance(prediction, TagPrediction) else names.label
    given = record.raw if isinstance(record.raw, dict) else fields
    return json_line(given | prediction.fields(str(label), names.words))


def _entities(record: Record, prediction: AnyPrediction, names: ReaderOptions) -> str:
    assert isinstance(prediction, TagPrediction)
    keys = ("start", "end", "label", "text")
    entities = [{key: getattr(e, key) for key in keys} | {"score": round(e.score, 6)} for e in prediction.entities]
    return json_line({"line": record.line, "text": prediction.text, "entities": entities})


def _spacy(record: Record, prediction: AnyPrediction, names: ReaderOptions) -> str:
    assert isinstance(prediction, TagPrediction)
    return json_line([prediction.text, {"entities": [[e.start, e.end, e.label] for e in prediction.entities]}])


_LINES: dict[str, Callable[[Record, AnyPrediction, ReaderOptions], str]] = {
    "conll": _conll,
    "jsonl": _jsonl,
    "entities": _entities,
    "spacy": _spacy,
}


class _Table:
    """TSV with a header: a row for each text, or for each entity and each sentence that has none."""

    def __init__(self, emit: Emit, names: ReaderOptions, state: dict[str, int]) -> None:
        self._emit, self._names, self._state = emit, names, state

    def write(self, record: Record, prediction: AnyPrediction | None) -> None:
        if isinstance(prediction, Prediction) and record.example is not None:
            names, one = self._names, record.example
            second = [one.pair or ""] if names.pair else []
            header = [names.text, *([names.pair] if names.pair else []), names.label or "", "confidence"]
            rows = [[one.text or "", *second, *prediction.cells()[0][1:]]]
        elif isinstance(prediction, TagPrediction):
            header = [*ENTITY_COLUMNS]
            line, sentence = f"{record.line}", prediction.text
            rows = [
                [line, f"{e.start}", f"{e.end}", e.label, e.text, f"{e.score:.4f}", sentence]
                for e in prediction.entities
            ] or [[line, "", "", "", "", "", sentence]]
        else:
            return
        for row in rows if self._state else [header, *rows]:
            self._emit("\t".join(map(_cell, row)) + "\n")
        self._state["begun"] = 1


class _Brat:
    """Standoff of one document, whose lines are the sentences."""

    def __init__(self, entities: Emit, text: Emit, state: dict[str, int]) -> None:
        self._entities, self._text, self._state = entities, text, state
        state.setdefault("start", 0)
        state.setdefault("count", 0)

    def write(self, record: Record, prediction: AnyPrediction | None) -> None:
        line, state = "", self._state
        if isinstance(prediction, TagPrediction):
            line = re.sub(r"[\r\n]", " ", prediction.text)
            for e in prediction.entities:
                state["count"] += 1
                start, end = state["start"] + e.start, state["start"] + e.end
                self._entities(f"T{state['count']}\t{e.label} {start} {end}\t{line[e.start : e.end]}\n")
        self._text(f"{line}\n")
        state["start"] += len(line) + 1


def _cell(text: str) -> str:
    """Without the characters that end a cell or a line."""
    return re.sub(r"[\t\r\n]", " ", text)
