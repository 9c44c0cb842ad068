"""The formats that predictions are written in, and files that appear when they are whole."""

from __future__ import annotations

import os
import re
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Literal

from ... import ConfigError
from ...untrusted import printable
from ..storage.files import storage_error
from .predictor import Prediction, TagPrediction
from .records import ABSTAINED, AnyPrediction, Record, json_fields, json_line, labels_of

OutputFormat = Literal["same", "conll", "jsonl", "tsv", "entities", "spacy", "brat"]
OF_TASK = {
    "ner": ("same", "conll", "jsonl", "tsv", "entities", "spacy", "brat"),
    "classification": ("same", "jsonl", "tsv"),
}
STDOUT = "<stdout>"
Emit = Callable[[str], None]
Write = Callable[[Record, AnyPrediction | None], None]


@contextmanager
def output(out: str | Path, kind: OutputFormat, pair: str | None = None) -> Iterator[Write]:
    """A function that writes a record, with its prediction where it has one; files appear when the block ends well.

    Args:
        out: `-` for standard output.
        pair: the column of the second text, where there is one.

    Raises:
        ConfigError: for brat, `out` is no `.ann` file.
        StorageError: as writing fails.
    """
    if kind == "brat":
        if Path(out).suffix != ".ann":
            raise ConfigError("brat has a file of entities beside its text; give --out NAME.ann, and get NAME.txt too")
        with ExitStack() as files:
            entities, text = (files.enter_context(_file(Path(out).with_suffix(s))) for s in (".ann", ".txt"))
            yield _Brat(entities, text).write
        return
    with _file(out) as emit:
        yield _Table(emit, pair).write if kind == "tsv" else _by_line(emit, _LINES[kind])


def _by_line(emit: Emit, line: Callable[[Record, AnyPrediction | None], str]) -> Write:
    return lambda record, prediction: emit(line(record, prediction))


def _same(record: Record, prediction: AnyPrediction | None) -> str:
    return record.copy if prediction is None or record.again is None else record.again(prediction)


def _conll(record: Record, prediction: AnyPrediction | None) -> str:
    if not isinstance(prediction, TagPrediction):
        return ""
    pairs = zip(prediction.words, labels_of(prediction), strict=True)
    return "".join(f"{_cell(word)}\t{tag}\n" for word, (tag, _) in pairs) + "\n"


def _jsonl(record: Record, prediction: AnyPrediction | None) -> str:
    if prediction is None:
        return ""
    texts = {"text": record.text, "pair": record.pair}
    fields = record.fields or {"line": record.line} | {name: text for name, text in texts.items() if text is not None}
    return json_line(fields | json_fields(prediction, "tags" if isinstance(prediction, TagPrediction) else "label"))


def _entities(record: Record, prediction: AnyPrediction | None) -> str:
    if not isinstance(prediction, TagPrediction):
        return ""
    names = ("start", "end", "label", "text")
    entities = [{n: getattr(e, n) for n in names} | {"score": round(e.score, 6)} for e in prediction.entities]
    return json_line({"line": record.line, "text": prediction.text, "entities": entities})


def _spacy(record: Record, prediction: AnyPrediction | None) -> str:
    if not isinstance(prediction, TagPrediction):
        return ""
    return json_line([prediction.text, {"entities": [[e.start, e.end, e.label] for e in prediction.entities]}])


_LINES: dict[str, Callable[[Record, AnyPrediction | None], str]] = {
    "same": _same,
    "conll": _conll,
    "jsonl": _jsonl,
    "entities": _entities,
    "spacy": _spacy,
}


class _Table:
    """TSV with a header: a row for each text, or for each entity."""

    def __init__(self, emit: Emit, pair: str | None) -> None:
        self._emit, self._pair, self._begun = emit, pair, False

    def write(self, record: Record, prediction: AnyPrediction | None) -> None:
        if isinstance(prediction, Prediction):
            second = [record.pair or ""] if self._pair else []
            label = prediction.label or ABSTAINED
            header = ["text", *(["pair"] if self._pair else []), "label", "confidence"]
            rows = [[record.text or "", *second, label, f"{prediction.confidence:.4f}"]]
        elif prediction is not None:
            header = ["line", "start", "end", "label", "text", "score"]
            rows = [
                [f"{record.line}", f"{e.start}", f"{e.end}", e.label, e.text, f"{e.score:.4f}"]
                for e in prediction.entities
            ]
        else:
            return
        for row in rows if self._begun else [header, *rows]:
            self._emit("\t".join(map(_cell, row)) + "\n")
        self._begun = True


class _Brat:
    """Standoff of one document, whose lines are the sentences."""

    def __init__(self, entities: Emit, text: Emit) -> None:
        self._entities, self._text, self._start, self._count = entities, text, 0, 0

    def write(self, record: Record, prediction: AnyPrediction | None) -> None:
        line = ""
        if isinstance(prediction, TagPrediction):
            line = re.sub(r"[\r\n]", " ", prediction.text)
            for e in prediction.entities:
                self._count += 1
                start, end = self._start + e.start, self._start + e.end
                self._entities(f"T{self._count}\t{e.label} {start} {end}\t{line[e.start : e.end]}\n")
        self._text(f"{line}\n")
        self._start += len(line) + 1


def _cell(text: str) -> str:
    """Without the characters that end a cell or a line."""
    return re.sub(r"[\t\r\n]", " ", text)


@contextmanager
def _file(out: str | Path) -> Iterator[Emit]:
    """A function that writes text; a regular file appears when the block has ended well."""
    if str(out) == "-":
        to_stdout = _writer(sys.stdout.buffer, STDOUT)
        yield (lambda text: to_stdout(printable(text))) if sys.stdout.isatty() else to_stdout
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


def _writer(handle: IO[bytes], name: str) -> Emit:
    def write(text: str) -> None:
        try:
            handle.write(text.encode("utf-8"))
            handle.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise storage_error(name, error.errno, error.strerror or str(error)) from error

    return write
