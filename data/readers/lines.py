"""Files to numbered lines, and their labels."""

from __future__ import annotations

import io
import lzma
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import IO, Any

from ... import DataError
from ...untrusted import listed, quoted
from .encodings import (
    MIXED,
    SAMPLE,
    HiddenUtf8,
    check_encoding,
    decode_mixed,
    guess_encoding,
    is_other_than_utf8,
    not_decodable,
    with_zeros,
    wrong_encoding,
)
from .example import Example, Examples
from .packed import OPENERS
from .problems import Problems

LONGEST_LINE = 1 << 26
"""Bytes of the longest line that is read, and of the longest page or row of a dump."""
_BOM = "\ufeff"


def plain_suffix(path: str | Path) -> str:
    """The suffix in lower case, without a compression suffix: `.txt` for `de.txt.xz`."""
    name = Path(path)
    return (Path(name.stem) if name.suffix.lower() in OPENERS else name).suffix.lower()


def file_stem(path: str | Path) -> str:
    """The file name without its suffixes: `de` for `de.txt.xz`."""
    name = Path(path)
    return Path(name.stem).stem if name.suffix.lower() in OPENERS else name.stem


def is_packed(path: str | Path) -> bool:
    """Whether the name says that the file is compressed: `.xz`, `.gz` or `.bz2`."""
    return Path(path).suffix.lower() in OPENERS


@contextmanager
def open_file(path: str | Path) -> Iterator[Any]:
    """The bytes of a file, unpacked as its name says.

    Raises:
        DataError: the file is missing or unreadable, or its compression is damaged or cut off, which names the byte.
    """
    packed = OPENERS.get(Path(path).suffix.lower())
    try:
        if "\0" in str(path):
            raise FileNotFoundError
        with packed(path) if packed else open(path, "rb") as file:
            try:
                yield file
            except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
                if getattr(error, "strerror", None):  # the disk's, not the decompressor's
                    raise
                raise DataError(
                    f"{path}: damaged compressed file after byte {file.tell()} of the unpacked data: {error}; "
                    "copy or download it again"
                ) from error
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file; check the path") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}; check the file and its permissions") from error


Watch = Callable[[Callable[[], int]], None]


def read_lines(
    path: str | Path, encoding: str, problems: Problems, watch: Watch | None = None
) -> Iterator[tuple[int, str]]:
    """Number, from 1, and text of each line; a line ends at `\\n` or `\\r\\n` and nowhere else.

    A byte order mark is dropped; `.xz`, `.gz` and `.bz2` files are unpacked. Lines with a NUL character are noted in
    `problems` and left out.

    Args:
        watch: is called with a function that says how many bytes of the file, packed or not, have been read.

    Raises:
        ConfigError: unknown encoding.
        WrongEncoding: the file is in another encoding; what follows the first line that shows it is not looked at.
        DataError: as `open_file`, or a line is longer than `LONGEST_LINE` bytes.
    """
    check_encoding(str(path), encoding)
    with open_file(path) as file:
        if watch:
            watch(partial(_bytes_read, file))
        yield from decode_lines(str(path), file, encoding, problems)
        if watch:
            whole = _bytes_read(file)
            watch(lambda: whole)


def _bytes_read(file: Any) -> int:
    """Of the file on the disk, of which the readers of packed files hold the handle."""
    packed = getattr(getattr(file, "raw", None), "packed", None)
    position: int = (packed or file).tell()
    return position


def _recode(path: str, file: IO[bytes], encoding: str) -> IO[bytes]:
    """A file in UTF-8, for encodings whose line break is not the byte of ASCII (UTF-16): text is cut, not bytes."""
    data = file.read()
    likely = guess_encoding(data[:SAMPLE])
    if data and 0 not in data[:SAMPLE] and likely != "utf-16":  # any space or line break has a zero
        raise wrong_encoding(f"{path}:1:1", f"the file is not {encoding}", encoding, likely)
    try:
        return io.BytesIO(data.decode(encoding).encode("utf-8"))
    except UnicodeDecodeError as error:
        line, column = data.count(b"\n", 0, error.start) + 1, error.start - data.rfind(b"\n", 0, error.start)
        fault = f"byte 0x{data[error.start]:02x} is not {encoding}"
        raise wrong_encoding(f"{path}:{line}:{column}", fault, encoding, likely) from error


def decode_lines(path: str, file: IO[bytes], encoding: str, problems: Problems) -> Iterator[tuple[int, str]]:
    """As `read_lines`, of an open file that `path` names in messages."""
    if not check_encoding(path, encoding):
        file, encoding = _recode(path, file, encoding), "utf-8"
    zeros, hidden = False, HiddenUtf8(path, encoding) if is_other_than_utf8(encoding) else None
    for number, raw in enumerate(iter(partial(file.readline, LONGEST_LINE), b""), 1):
        if len(raw) == LONGEST_LINE:
            raise DataError(f"{path}:{number}: a line of {LONGEST_LINE >> 20} MiB or more; is this a file of text?")
        try:
            text = decode_mixed(raw) if encoding == MIXED else raw.decode(encoding)
        except UnicodeDecodeError as error:
            raise not_decodable(path, number, raw, error.start, encoding, file) from error
        if hidden and not raw.isascii():
            hidden.add(number, raw)
        if number == 1:
            text = text.removeprefix(_BOM)
            if "\r" in text.rstrip("\r") and not text.endswith("\n"):
                raise DataError(f"{path}:1: the lines end in CR alone; convert them to LF")
        if "\0" in text:
            if not zeros and (wrong := with_zeros(path, number, raw, encoding, file)) is not None:
                raise wrong
            zeros = True
            problems.add(f"{path}:{number}:{text.index(chr(0)) + 1}", "NUL character", "remove it")
            continue
        yield number, text.removesuffix("\n").removesuffix("\r")
    if hidden:
        hidden.end()


def finish(
    path: str | Path,
    examples: list[Example],
    counts: Counter[str],
    problems: Problems,
) -> Examples:
    """The reader's result, after raising what went wrong and refusing an empty one."""
    problems.raise_if_any()
    if not examples:
        reasons = ", ".join(f"{count} {name}" for name, count in sorted(counts.items()) if count)
        raise DataError(
            f"{path}: no examples{f' (skipped: {reasons})' if reasons else ''}; check the file and its filters"
        )
    return Examples(examples, counts)


class LabelSet(dict[str, None]):
    """The labels that may occur, in their order."""

    def __init__(self, labels: Iterable[str]) -> None:
        super().__init__(dict.fromkeys(labels))

    @cached_property
    def text(self) -> str:
        """For messages."""
        return listed(self)


def check_label(place: str, label: str, labels: LabelSet | None, problems: Problems) -> None:
    """Note a label that is not among those that may occur."""
    if labels is not None and label not in labels:
        fix = f"the labels are {labels.text}; correct the file or the list"
        problems.add(place, f"unknown label {quoted(label)}", fix)


def map_label(place: str, label: str, label_map: Mapping[str, str | None] | None, problems: Problems) -> str | None:
    """The mapped label; None where the map drops the row."""
    if label_map is None:
        return label
    if label not in label_map:
        what = f"label {quoted(label)} is not in label_map"
        problems.add(place, what, f"it maps {listed(label_map)}; add this label, None drops it")
        return label
    return label_map[label]
