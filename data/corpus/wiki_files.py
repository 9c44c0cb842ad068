"""Files of any size as blocks of bytes and as lines, packed or not, from a place in the middle, in constant memory."""

from __future__ import annotations

import bz2
import lzma
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from ... import ConfigError, DataError

PACKED = (".gz", ".bz2", ".xz")
BLOCK = 1 << 20
"""Bytes read at once."""
PIECE = 1 << 18
"""Most bytes unpacked at once: what a damaged place can cost of the text before it."""
LONGEST = 1 << 26
"""The longest page, row or line that is taken for one."""
NO_END = (1 << 63) - 1
"""The end of a span that reaches to the end of the file."""

_STREAM, _PAGE, _BREAK = re.compile(rb"BZh[1-9]1AY&SY"), re.compile(rb"<page>"), re.compile(rb"\n")
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Span:
    """A part of a file: what begins at an offset from `start` to before `end`."""

    start: int
    end: int


class _Gzip:
    """zlib's decompressor with the interface of the two others."""

    def __init__(self) -> None:
        self._inner = zlib.decompressobj(wbits=31)
        self.needs_input = True

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        out = self._inner.decompress(self._inner.unconsumed_tail + data, max_length)
        self.needs_input = not self._inner.unconsumed_tail and len(out) < max_length
        return out


_MAKERS: dict[str, Callable[[], Any]] = {".gz": _Gzip, ".bz2": bz2.BZ2Decompressor, ".xz": lzma.LZMADecompressor}


def is_packed(path: str | Path) -> bool:
    """Whether the name says that the file is compressed."""
    return Path(path).suffix.lower() in PACKED


def open_file(path: str | Path) -> IO[bytes]:
    """The bytes of a file as they are on the disk; a DataError where there are none."""
    try:
        return Path(path).open("rb")
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file; check the path") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}; check the file and its permissions") from error


def blocks(path: str | Path, start: int = 0) -> Iterator[tuple[bytes, int]]:
    """The unpacked bytes of a file, a block at a time, each with its offset.

    The offset is that of the block's first byte: in the file where it is plain, in the unpacked data for `.gz` and
    `.xz`. For `.bz2` it is where the stream that holds the block begins in the packed file: the public dumps consist
    of many streams, and each is a place to start from.

    Args:
        path: `.gz`, `.bz2` and `.xz` are unpacked.
        start: an offset as it is given out. In a `.gz` or `.xz` file all before it has to be unpacked all the same.

    Raises:
        DataError: the file cannot be read, ends too early or is damaged. What came before has been given out.
    """
    suffix = Path(path).suffix.lower()
    with open_file(path) as file:
        if suffix not in _MAKERS:
            file.seek(start)
            while data := _read(file, path):
                yield data, start
                start += len(data)
        elif suffix == ".bz2":
            file.seek(start)
            for data, stream, _ in _unpacked(file, path, suffix, start):
                yield data, stream
        else:
            for data, _, place in _unpacked(file, path, suffix, 0):
                if place + len(data) > start:
                    skipped = max(0, start - place)
                    yield data[skipped:], place + skipped


def _read(file: IO[bytes], path: str | Path) -> bytes:
    try:
        return file.read(BLOCK)
    except OSError as error:
        raise DataError(f"{path}: cannot be read at byte {file.tell()}: {error.strerror}; check the disk") from error


def _unpacked(file: IO[bytes], path: str | Path, suffix: str, start: int) -> Iterator[tuple[bytes, int, int]]:
    """Data, where its stream begins in the packed file, where it begins in the unpacked data (counted from 0)."""
    read, place, stream = start, 0, start
    unpacker = _MAKERS[suffix]()
    held = b""
    while True:
        if not held and unpacker.needs_input:
            held = _read(file, path)
            read += len(held)
            if not held:
                break
        begin = read - len(held)
        try:
            data = unpacker.decompress(held, PIECE)
        except (OSError, zlib.error, lzma.LZMAError) as error:
            if begin == stream and place and not held.strip(b"\0"):
                return  # padding with zeros after the last stream
            raise DataError(
                f"{path}: damaged {suffix} data between byte {begin} and byte {read} of the packed file "
                f"(stream from byte {stream}): {error}; download the file again"
            ) from error
        held = b""
        if data:
            yield data, stream, place
            place += len(data)
        if unpacker.eof:
            held = unpacker.unused_data
            stream, unpacker = read - len(held), _MAKERS[suffix]()
            if not held:
                held = _read(file, path)
                read += len(held)
                if not held:
                    return
    if read > stream or not place:
        raise DataError(
            f"{path}: the file ends at byte {read}, in the middle of the {suffix} stream from byte {stream} "
            f"(byte {place} of the unpacked data); download the file again"
        )


def open_text(path: str | Path, *, start: int = 0) -> Iterator[tuple[int, str]]:
    """The lines of a UTF-8 text, plain or packed, without their line break, each with its offset.

    A line ends at `\\n` or `\\r\\n` and nowhere else; a byte order mark is dropped. Offsets are those of `blocks`; in
    a `.bz2` file a line belongs to the stream that holds the line break before it.

    Args:
        path: `.gz`, `.bz2` and `.xz` are unpacked.
        start: where a line begins: 0, the start of a span, or an offset that was given out. From a place within a
            line (only streams of `.bz2` begin there) the rest of that line is left out.

    Raises:
        DataError: the file cannot be read, is damaged, or is not UTF-8. All whole lines before have been given out.
    """
    by_stream = Path(path).suffix.lower() == ".bz2"
    skip = by_stream and start > 0
    held, held_at = b"", start
    for data, offset in blocks(path, start):
        if skip:
            cut = data.find(b"\n") + 1
            data, skip, held_at = data[cut:], not cut, offset
            if skip:
                continue
        lines = (held + data).split(b"\n")
        held = lines.pop()
        for line in lines:
            yield held_at, decode(path, line.removesuffix(b"\r"), held_at)
            held_at = offset if by_stream else held_at + len(line) + 1
        if len(held) > LONGEST:
            raise DataError(f"{path}: no line break in {LONGEST} bytes after {where(path, held_at)}; is this a text?")
    if held:
        yield held_at, decode(path, held.removesuffix(b"\r"), held_at)


def where(path: str | Path, offset: int) -> str:
    """An offset of `blocks` in words."""
    suffix = Path(path).suffix.lower()
    if suffix == ".bz2":
        return f"the beginning of the bz2 stream at byte {offset}"
    return f"byte {offset} of the unpacked data" if suffix in PACKED else f"byte {offset}"


def decode(path: str | Path, data: bytes, offset: int, *, after: int = 0) -> str:
    """UTF-8 that begins `after` bytes after an offset to text; drops the byte order mark of a file's first byte."""
    try:
        return (data if offset or after else data.removeprefix(_BOM)).decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: byte 0x{data[error.start]:02x}, {error.start + after} after {where(path, offset)}, is not UTF-8; "
            "convert the file to UTF-8, or download it again"
        ) from error


def split_dump(path: str | Path, parts: int) -> list[Span]:
    """A file as at most `parts` spans of about equal size, each of which can be read on its own.

    Plain XML is cut where a page begins, other plain text where a line begins, `.bz2` where a stream begins. Anything
    else is one span. Read a span from its `start`, until an offset is not below its `end`. Together the spans hold
    every page (line) once, whatever their number.

    Args:
        path: taken for pages-articles XML where it begins like XML.
        parts: the number of spans wanted.

    Raises:
        ConfigError: parts is not positive.
        DataError: the file cannot be read.
    """
    if parts < 1:
        raise ConfigError(f"a file is split into at least one part, not {parts}")
    suffix = Path(path).suffix.lower()
    if suffix in PACKED and suffix != ".bz2":
        with open_file(path):
            return [Span(0, NO_END)]
    with open_file(path) as file:
        xml = file.read(64).removeprefix(_BOM).lstrip().startswith((b"<mediawiki", b"<?xml"))
        pattern = _STREAM if suffix == ".bz2" else _PAGE if xml else _BREAK
        after = pattern is _BREAK
        size = file.seek(0, 2)
        cuts = [0]
        for part in range(1, parts):
            wanted = max(size * part // parts, cuts[-1] + 1)
            # A line begins after a line break: the break may be the byte before the place wanted.
            found = _find(file, pattern, wanted - 1) + 1 if after else _find(file, pattern, wanted)
            if not 0 < found < size:
                break
            cuts.append(found)
    return [Span(a, b) for a, b in zip(cuts, [*cuts[1:], NO_END], strict=True)]


def has_streams(path: str | Path) -> bool:
    """Whether a file is `.bz2` of many streams, as the multistream dumps, so that it can be read from many places.

    A second stream is looked for where the first has no more than `LONGEST` bytes: those of the dumps have one or two
    megabytes. What `bzip2` makes of a file is one stream, however long.

    Raises:
        DataError: the file cannot be read.
    """
    if Path(path).suffix.lower() != ".bz2":
        return False
    with open_file(path) as file:
        return _find(file, _STREAM, 1, LONGEST) > 0


def _find(file: IO[bytes], pattern: re.Pattern[bytes], start: int, end: int = NO_END) -> int:
    """Where the pattern is first found from `start` on; -1 where it is not before `end` or soon after."""
    file.seek(start)
    held, place = b"", start
    while place < end and (data := file.read(BLOCK)):
        held += data
        if found := pattern.search(held):
            return place + found.start()
        place += max(0, len(held) - 16)
        held = held[-16:]
    return -1
