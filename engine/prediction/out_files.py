"""Files that appear when they are whole, and that a later process goes on with where one was broken off."""

from __future__ import annotations

import errno
import fcntl
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from ... import RunInUseError, StorageError
from ...untrusted import printable
from ..storage.files import atomic_write_json, read_json, storage_error

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
        StorageError: as writing fails.
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
