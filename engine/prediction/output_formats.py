"""The formats that predictions are written in, and files that appear when they are whole; broken off, they go on."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, Any, Literal

from ... import ConfigError, RunInUseError, StorageError
from ...data import ReaderOptions
from ...data.readers.jsonl import json_line
from ...data.readers.reader import Reader, Record
from ...data.readers.spans import ENTITY_COLUMNS
from ...untrusted import printable
from ..storage.files import atomic_write_json, read_json, storage_error
from .predictor import Prediction, TagPrediction

STDOUT = "<stdout>"
SECONDS = 5.0
"""Between two records of how far the files are."""
Emit = Callable[[str], None]


@dataclass
class OutFiles:
    """Files in the making, `done` records of them; `state` is the format's, `counts` those of an earlier process."""

    emit: list[Emit]
    done: int = 0
    state: dict[str, int] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    _record: Callable[[OutFiles], None] | None = None
    _at: float = field(default_factory=time.monotonic)

    def advance(self, records: int, counts: Mapping[str, int]) -> None:
        """So many more records are written; it is recorded now and then."""
        self.done += records
        if self._record is not None and time.monotonic() - self._at >= SECONDS:
            self.counts = dict(counts)
            self._record(self)
            self._at = time.monotonic()


def refuse_missing_folder(name: str | Path) -> None:
    """Raises a StorageError where the folder of a file to write is not there; `-` is standard output."""
    folder = Path(os.path.realpath(name)).parent
    if str(name) != "-" and not folder.is_dir():
        raise StorageError(
            f"cannot write {name}: there is no folder {Path(name).parent}; make it, or choose another --out"
        )


@contextmanager
def out_files(names: Sequence[str | Path], key: dict[str, Any] | None = None) -> Iterator[OutFiles]:
    """Files that are replaced in one step when the block ends well, and left as they are by an error.

    What a process writes until it is stopped or killed lies in `.NAME.part` beside the file.

    Args:
        names: `-` for standard output.
        key: what decides their content, as JSON values: one that was broken off with an equal key is gone on with.

    Raises:
        RunInUseError: another process writes them.
    """
    if str(names[0]) == "-":
        to_stdout = _writer(sys.stdout.buffer, STDOUT)
        yield OutFiles([lambda text: to_stdout(printable(text))] if sys.stdout.isatty() else [to_stdout])
        return
    paths = [Path(os.path.realpath(name)) for name in names]
    try:
        with ExitStack() as stack:
            if paths[0].exists() and not paths[0].is_file():
                yield OutFiles([_writer(stack.enter_context(open(path, "wb")), str(path)) for path in paths])
                return
            parts = [path.with_name(f".{path.name}.part") for path in paths]
            handles = [stack.enter_context(_locked(part, path)) for part, path in zip(parts, paths, strict=True)]
            record = parts[0].with_name(f"{parts[0].name}.json")
            try:
                yield _opened(handles, [str(name) for name in names], record, key)
                for part, path in zip(parts, paths, strict=True):
                    os.replace(part, path)
            except BaseException as error:
                if key is None or isinstance(error, Exception):  # a signal leaves what there is
                    for part in parts:
                        part.unlink(missing_ok=True)
                raise
            finally:
                if not parts[0].exists():
                    record.unlink(missing_ok=True)
    except OSError as error:
        raise storage_error(names[0], error.errno, error.strerror or str(error)) from error


def _opened(handles: Sequence[IO[bytes]], names: Sequence[str], record: Path, key: dict[str, Any] | None) -> OutFiles:
    """The files cut to what the record says of them, which is nothing where it is of something else."""
    emit = [_writer(handle, name) for handle, name in zip(handles, names, strict=True)]
    before = read_json(record, StorageError, "delete it") if key is not None else {}
    sizes = before.get("sizes", [])
    whole = [os.fstat(handle.fileno()).st_size >= size for handle, size in zip(handles, sizes, strict=False)]
    if before.get("key") != key or len(whole) != len(handles) or not all(whole):
        before, sizes = {}, [0] * len(handles)
    for handle, size in zip(handles, sizes, strict=True):
        handle.truncate(size)
        handle.seek(size)

    def keep(files: OutFiles) -> None:
        known = {"key": key, "done": files.done, "state": files.state, "counts": files.counts}
        atomic_write_json(record, known | {"sizes": [handle.tell() for handle in handles]})

    kept = [before.get(name, {}) for name in ("state", "counts")]
    return OutFiles(emit, before.get("done", 0), kept[0], kept[1], None if key is None else keep)


def _locked(part: Path, path: Path) -> IO[bytes]:
    handle = os.fdopen(os.open(part, os.O_RDWR | os.O_CREAT, 0o666), "r+b")
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        handle.close()
        if error.errno in (errno.EACCES, errno.EAGAIN):
            raise RunInUseError(f"{path}: another process is writing it; wait for it, or give another --out") from error
        raise
    return handle


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


OutputFormat = Literal["same", "conll", "jsonl", "tsv", "entities", "spacy", "brat"]
OF_TASK = {
    "ner": ("same", "conll", "jsonl", "tsv", "entities", "spacy", "brat"),
    "tag": ("same", "conll", "jsonl"),
    "classification": ("same", "jsonl", "tsv"),
}
AnyPrediction = Prediction | TagPrediction
Write = Callable[[Record, AnyPrediction | None], None]


@contextmanager
def output(
    out: str | Path, kind: OutputFormat, names: ReaderOptions, reader: Reader, key: dict[str, Any] | None = None
) -> Iterator[tuple[Write, OutFiles]]:
    """What writes a record, with its prediction where it has one, and its files, which appear when the block ends well.

    `out` and `key` are as for `out_files`, `names` those of columns and fields; the reader writes its own format again.
    """
    paths = [out]
    if kind == "brat":
        if Path(out).suffix != ".ann":
            raise ConfigError("brat has a file of entities beside its text; give --out NAME.ann, and get NAME.txt too")
        paths = [Path(out).with_suffix(suffix) for suffix in (".ann", ".txt")]
    with out_files(paths, key) as files:
        emit, *beside = files.emit
        if kind == "brat":
            yield partial(_write_brat, emit, beside[0], files.state), files
        elif kind == "tsv":
            yield partial(_write_tsv, emit, names, files.state), files
        elif kind == "same":
            yield lambda record, prediction: emit(reader.write(record, prediction)), files
        else:
            line = _LINES[kind]
            yield lambda record, found: emit("" if found is None else line(record, found, names)), files


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


def _tsv(record: Record, prediction: AnyPrediction, names: ReaderOptions) -> list[list[str]]:
    """Rows below their header: one for each text, or for each entity and each sentence that has none."""
    if isinstance(prediction, TagPrediction):
        line, sentence = f"{record.line}", prediction.text
        entities = [
            [line, f"{e.start}", f"{e.end}", e.label, e.text, f"{e.score:.4f}", sentence] for e in prediction.entities
        ]
        return [[*ENTITY_COLUMNS], *(entities or [[line, "", "", "", "", "", sentence]])]
    assert record.example is not None
    _, label, confidence = prediction.cells()[0]
    columns = [(names.text, record.example.text or "")]
    columns += [(names.pair, record.example.pair or "")] if names.pair else []
    columns += [(names.label or "", label), ("confidence", confidence)]
    return [[name for name, _ in columns], [cell for _, cell in columns]]


def _write_tsv(
    emit: Emit, names: ReaderOptions, state: dict[str, int], record: Record, prediction: AnyPrediction | None
) -> None:
    """A record's rows, the first one's with their header."""
    if prediction is not None:
        for row in _tsv(record, prediction, names)[state.get("begun", 0) :]:
            emit("\t".join(map(_cell, row)) + "\n")
        state["begun"] = 1


def _write_brat(
    entities: Emit, text: Emit, state: dict[str, int], record: Record, prediction: AnyPrediction | None
) -> None:
    """Standoff of one document, whose lines are the sentences; `state` counts its characters and entities."""
    line, start, count = "", state.get("start", 0), state.get("count", 0)
    if isinstance(prediction, TagPrediction):
        line = re.sub(r"[\r\n]", " ", prediction.text)
        for e in prediction.entities:
            count += 1
            entities(f"T{count}\t{e.label} {start + e.start} {start + e.end}\t{line[e.start : e.end]}\n")
    text(f"{line}\n")
    state |= {"start": start + len(line) + 1, "count": count}


def _cell(text: str) -> str:
    """Without the characters that end a cell or a line."""
    return re.sub(r"[\t\r\n]", " ", text)
