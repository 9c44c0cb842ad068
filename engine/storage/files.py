"""Files that are whole or absent: written beside, synchronised, renamed into place.

A name that starts with `.tmp-` (being written), `.trash-` (being deleted) or `.old-` (being replaced) is left
over from a process that was killed; `sweep` removes the first two and puts the last back if nothing took its place.
Every failure to write is a `StorageError` with the path and what to do. A failed fsync is never tried again: the
kernel may have dropped the data already.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import json
import math
import os
import re
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from ... import ConfigError, DataError, StorageError, XltError
from .faults import fault
from .text import size_text

_ADVICE = {
    errno.ENOSPC: "free disk space or choose another folder, then run the same command again",
    errno.EDQUOT: "the disk quota is used up: free space or choose another folder, then run the same command again",
    errno.EFBIG: "raise the file size limit (`ulimit -f`), then run the same command again",
    errno.EROFS: "the file system is read-only: choose another folder or mount it for writing",
    errno.EACCES: "make the folder writable for this user or choose another one",
    errno.EPERM: "make the folder writable for this user or choose another one",
    errno.EIO: "the disk reports a failure: look into the system log and move the folder to another disk",
    errno.ENOENT: "the folder has vanished while it was in use: restore it, or choose another one",
    errno.ELOOP: "it is a symbolic link, which is not followed here: delete the link",
    errno.ENAMETOOLONG: "the path is too long: choose a shorter one",
}
_NO_LINK = (errno.EPERM, errno.EXDEV, errno.EMLINK, errno.EOPNOTSUPP, errno.ENOSYS)
"""What says that a hard link is not to be had here, where a copy may be."""
CHECKSUM, _SHA256 = "checksum", "sha256:"
"""The last key of a JSON file that has a hash of itself, and how its value begins."""


@contextlib.contextmanager
def storage_errors(path: str | os.PathLike[str], verb: str = "write", needed: int | None = None) -> Iterator[None]:
    """Turn an OSError inside the block into a `StorageError` that names `path`; `needed` is in bytes.

    So too what safetensors makes of one: an error of its own with the number in the text.
    """
    try:
        yield
    except OSError as error:
        raise storage_error(path, error.errno, error.strerror or str(error), verb=verb, needed=needed) from error
    except SafetensorError as error:
        code = re.search(r"\(os error (\d+)\)", str(error))
        if code is None:
            raise
        raise storage_error(path, int(code[1]), os.strerror(int(code[1])), verb=verb, needed=needed) from error


def storage_error(
    path: str | os.PathLike[str], code: int | None, text: str, *, verb: str = "write", needed: int | None = None
) -> StorageError:
    """The `StorageError` for the errno `code` at `path`."""
    space = ""
    if code in (errno.ENOSPC, errno.EDQUOT):
        with contextlib.suppress(OSError):
            space = f" ({size_text(free_space(path))} free" + (f", {size_text(needed)} needed)" if needed else ")")
    advice = _ADVICE.get(code or 0, "make sure that the folder exists and can be written")
    return StorageError(f"cannot {verb} {os.fspath(path)}: {text}{space}; {advice}")


def free_space(path: str | os.PathLike[str]) -> int:
    """Bytes free for this user on the file system of `path`, which need not exist yet."""
    folder = Path(path).absolute()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free


def require_free_space(path: str | os.PathLike[str], needed: int, what: str) -> None:
    """Raise `StorageError` unless `needed` bytes are free where `path` is or will be."""
    with storage_errors(path, "look at"):
        free = free_space(path)
    if free < needed:
        raise StorageError(
            f"{what} needs {size_text(needed)} in {os.fspath(path)}, but {size_text(free)} are free; "
            f"{_ADVICE[errno.ENOSPC]}"
        )


def atomic_write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Replace the file in one step: a reader, and a process killed at any moment, sees the old or the new content.

    Raises:
        StorageError: the old content is still in place, unless only the last synchronisation failed.
    """
    path = Path(path)
    temporary = path.with_name(f".tmp-{uuid.uuid4().hex}-{path.name}")
    with storage_errors(path, needed=len(data)):
        try:
            fault("file.begin")
            write_file(temporary, [data])
            fault("file.written")
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
        fault("file.renamed")
        sync_folder(path.parent)
        fault("file.synced")


def atomic_write_text(path: str | os.PathLike[str], text: str) -> None:
    """As `atomic_write_bytes`, in UTF-8, line ends as they are.

    Raises:
        ConfigError: a path in the text, which the system has as bytes, is not UTF-8.
    """
    try:
        data = text.encode("utf-8")
    except UnicodeEncodeError as error:
        near = text[max(0, error.start - 40) : error.end + 10].encode("ascii", "backslashreplace").decode()
        raise ConfigError(f"{path}: a path is not UTF-8 ({near}); rename the file or folder") from error
    atomic_write_bytes(path, data)


def atomic_write_json(path: str | os.PathLike[str], value: Any, *, indent: int | None = 2) -> None:
    """As `atomic_write_bytes`, `value` as `plain` makes it; non-finite numbers become null."""
    atomic_write_text(path, _json(plain(value), indent))


def write_sealed_json(path: str | os.PathLike[str], value: Any) -> None:
    """As `atomic_write_json`, for an object, with a hash of the rest: `read_json` notices every changed byte."""
    atomic_write_text(path, _json((body := _body(plain(value))) | {CHECKSUM: _checksum(body)}))


def _json(value: Any, indent: int | None = 2) -> str:
    return json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False) + "\n"


def _checksum(body: dict[str, Any]) -> str:
    return _SHA256 + hashlib.sha256(_json(body).encode()).hexdigest()


def _changed(value: dict[str, Any], data: bytes) -> bool:
    """Whether a sealed object is not as it was written; one that has lost the name of its hash still ends with it."""
    if CHECKSUM not in value:
        return _SHA256.encode() in data[-90:]
    return value[CHECKSUM] != _checksum(_body(value)) or _json(value).encode() != data


def _body(value: dict[str, Any]) -> dict[str, Any]:
    return {key: part for key, part in value.items() if key != CHECKSUM}


def read_json(
    path: Path, refusal: type[XltError] | None = DataError, remedy: str = "run the stage again", *, needed: bool = False
) -> dict[str, Any]:
    """The object in a JSON file, empty when there is no such file.

    Args:
        refusal: the error for a damaged file, or one that has changed since `write_sealed_json`; None where such a file
            counts as absent.
        remedy: what to do about it.
        needed: an absent file is refused, too.
    """
    try:
        data = path.read_bytes()
        value = json.loads(data)
        changed = isinstance(value, dict) and _changed(value, data)
    except (OSError, ValueError, RecursionError) as error:
        if refusal is None or (isinstance(error, FileNotFoundError) and not needed):
            return {}
        line = getattr(error, "lineno", 1)
        raise refusal(f"{path}:{line}: cannot be read as JSON ({error}); {remedy}") from error
    if isinstance(value, dict) and not changed:
        return value
    if refusal is None:
        return {}
    if changed:
        raise refusal(f"{path}: has changed since it was written, by the hash that it holds; {remedy}")
    raise refusal(f"{path}:1: expected a JSON object, found {type(value).__name__}; {remedy}")


def write_file(path: str | os.PathLike[str], data: Iterable[Any]) -> None:
    """A new file of these parts, on the disk when the call returns; its mode follows the umask."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        for part in data:
            view = memoryview(part).cast("B")
            while view:
                view = view[os.write(handle, view) :]
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_file(path: str | os.PathLike[str], mode: int | None = None) -> None:
    """Put a file that a library wrote on the disk, with this mode: safetensors writes 0600 whatever the umask."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        if mode is not None:
            os.fchmod(handle, mode)
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_folder(folder: str | os.PathLike[str]) -> None:
    """Put the names in a folder on the disk; a file system that cannot do this for folders is left alone."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)


def file_mode(folder: str | os.PathLike[str]) -> int:
    """The mode of an ordinary file under the umask with which `folder` was made (reading the umask would change it)."""
    return os.stat(folder).st_mode & 0o666


@contextlib.contextmanager
def new_folder(final: str | os.PathLike[str], *, replace: bool = False) -> Iterator[Path]:
    """A folder `.tmp-...` to be filled, which gets its name when the block ends: on the disk, modes by the umask.

    Where the block or the renaming fails it is deleted, and what had the name before has it still.

    Args:
        replace: a folder of that name is moved aside before and deleted after; killed in between, the next `sweep`
            puts it back.

    Raises:
        ConfigError: without `replace`, something has that name already.
        StorageError: if only the last synchronisation fails, the new folder is visible already and stays.
    """
    final = Path(final)
    if not replace and os.path.lexists(final):
        raise ConfigError(f"{final}: is there already; give the name of a new folder")
    with storage_errors(final, "create"):
        final.parent.mkdir(parents=True, exist_ok=True)
        temporary = final.with_name(f".tmp-{final.name}-{uuid.uuid4().hex}")
        temporary.mkdir()
    try:
        yield temporary
        with storage_errors(final):
            sync_tree(temporary)
            fault("publish.synced")
            aside = _renamed(temporary, final, replace)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    with storage_errors(final):
        fault("publish.renamed")
        sync_folder(final.parent)
        fault("publish.done")
    if aside is not None:
        delete(aside)


def _renamed(temporary: Path, final: Path, replace: bool) -> Path | None:
    """Gives a folder its final name; returns where the one that had it lies now, if any had."""
    if not (replace and os.path.lexists(final)):
        os.rename(temporary, final)
        return None
    aside = final.with_name(f".old-{uuid.uuid4().hex}-{final.name}")
    os.rename(final, aside)
    try:
        fault("publish.aside")
        os.rename(temporary, final)
    except BaseException:
        os.rename(aside, final)
        raise
    return aside


def link_files(paths: Iterable[Path], folder: Path) -> None:
    """The same files in `folder`: hard links where they are this user's and the file system has them, else copies."""
    for path in paths:
        with storage_errors(folder / path.name):
            try:
                if path.stat().st_uid != os.geteuid():
                    raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
                os.link(path, folder / path.name)
            except OSError as error:
                if error.errno not in _NO_LINK:
                    raise
                shutil.copyfile(path, folder / path.name)


def take_over(final: Path, sources: Iterable[Path], mark: str) -> bool:
    """Makes `final`, unless it is there, of the files of the first of `sources` that has a file `mark`."""
    if final.exists():
        return False
    for source in sources:
        if (source / mark).is_file():
            with new_folder(final, replace=True) as temporary:  # another process may have been first
                link_files(sorted(p for p in source.iterdir() if p.is_file()), temporary)
            return True
    return False


def sync_tree(folder: Path) -> None:
    mode = file_mode(folder)
    for parent, _, names in os.walk(folder, topdown=False):
        for name in sorted(names):
            sync_file(os.path.join(parent, name), mode)
        sync_folder(parent)


def delete(path: str | os.PathLike[str]) -> None:
    """Delete a file or folder so that half of it is never found under its name."""
    path = Path(path)
    with storage_errors(path, "delete"):
        if path.is_dir() and not path.is_symlink():
            trash = path.with_name(f".trash-{uuid.uuid4().hex}")
            os.rename(path, trash)
            fault("delete.renamed")
            shutil.rmtree(trash)
        else:
            path.unlink(missing_ok=True)


def sweep(folder: str | os.PathLike[str]) -> list[Path]:
    """Remove or put back, and return, what killed processes left under `folder`; the caller holds the run's lock."""
    removed: list[Path] = []
    with storage_errors(folder, "clean"):
        for parent, folders, files in os.walk(folder):
            for name in sorted(folders + files):
                if name.startswith((".tmp-", ".trash-", ".old-")):
                    path = Path(parent, name)
                    removed.append(path)
                    _remove_or_restore(path)
            folders[:] = [name for name in folders if not name.startswith((".tmp-", ".trash-", ".old-"))]
    return removed


def _remove_or_restore(path: Path) -> None:
    replaced = re.fullmatch(r"\.old-[0-9a-f]{32}-(.+)", path.name)
    if replaced and not os.path.lexists(path.with_name(replaced[1])):
        os.rename(path, path.with_name(replaced[1]))
    elif path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def sha256_file(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file's bytes in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def plain(value: Any) -> Any:
    """`value` in types that JSON has: dataclasses as dicts, tuples as lists, paths as strings, NaN and inf as None."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    if isinstance(value, set | frozenset):
        return sorted(plain(part) for part in value)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if hasattr(value, "tolist"):  # numpy and torch, without importing either
        return plain(value.tolist())
    raise TypeError(f"{type(value).__name__} has no JSON form")
