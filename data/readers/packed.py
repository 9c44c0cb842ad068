"""Compressed files as streams of bytes, of which no small one fills the memory."""

from __future__ import annotations

import bz2
import io
import lzma
import zlib
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import IO, Any

from ... import ConfigError

_CHUNK = 1 << 14
_RATIO = 200
"""Bytes that a packed byte may stand for, on average over a chunk. Text has 3 to 10; what has more was made to do harm,
or repeats itself."""
_LITTLE = 256
"""Packed bytes that zstandard gets at a time: at most 10 MiB of text come of them."""
_HARMLESS = 1 << 20
"""Bytes that may come of any number of packed ones."""


_TOO_MUCH = f"it unpacks to over {_RATIO} times its size, which no text does"


def refuse_bomb(packed: bytes) -> None:
    """Raises EOFError where a zlib stream holds more than a text can, `zlib.error` where it is none."""
    limit = max(_HARMLESS, _RATIO * len(packed))
    if len(zlib.decompressobj().decompress(packed, limit + 1)) > limit:
        raise EOFError(_TOO_MUCH)


class _Gzip:
    """zlib's decompressor with the interface of those of bz2 and lzma."""

    def __init__(self) -> None:
        self._inner = zlib.decompressobj(16 + zlib.MAX_WBITS)

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    @property
    def needs_input(self) -> bool:
        return not self._inner.unconsumed_tail

    def decompress(self, packed: bytes, size: int) -> bytes:
        return self._inner.decompress(self._inner.unconsumed_tail + packed, size)


class _Zstd:
    """A decompressor with the interface of those of bz2 and lzma; that of zstandard gives any amount of text at once,
    and so gets little."""

    def __init__(self) -> None:
        self._inner, self._packed, self._out = _zstd(), b"", b""

    @property
    def eof(self) -> bool:
        return self._inner.eof and not self._out

    @property
    def unused_data(self) -> bytes:
        return bytes(self._inner.unused_data) + self._packed

    @property
    def needs_input(self) -> bool:
        return not (self._packed or self._out)

    def decompress(self, packed: bytes, size: int) -> bytes:
        self._packed += packed
        while self._packed and not self._out and not self._inner.eof:
            piece, self._packed = self._packed[:_LITTLE], self._packed[_LITTLE:]
            try:
                self._out = self._inner.decompress(piece)
            except Exception as error:  # a class of the library's own
                raise EOFError(str(error)) from error
        out, self._out = self._out[:size], self._out[size:]
        return out


def _zstd() -> Any:
    """The standard library's decompressor where it has one (3.14), else that of zstandard."""
    for module in ("compression.zstd", "zstandard"):
        try:
            new = import_module(module).ZstdDecompressor()
        except ImportError:
            continue
        return new.decompressobj() if hasattr(new, "decompressobj") else new
    raise ConfigError("files .zst need zstandard: pip install 'xlt-engine[zst]', or unpack them")


class _Streams(io.RawIOBase):
    """Compressed streams end to end. The library's own reader takes a damaged later one for the end of the file."""

    def __init__(self, path: str | Path, decompressor: Callable[[], Any]) -> None:
        self.packed = open(path, "rb")  # noqa: SIM115 - closed with this object
        self._new = decompressor
        self._begin()

    def _begin(self) -> None:
        self._stream, self._position, self._limit = self._new(), 0, _HARMLESS

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        """To the start only."""
        if (offset, whence) != (0, 0):
            raise io.UnsupportedOperation("a packed file is read from its start")
        self.packed.seek(0)
        self._begin()
        return 0

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        while True:
            packed, needed = b"", self._stream.needs_input
            if self._stream.eof:
                packed = self._next_stream()
                if not packed:
                    return 0
                self._stream = self._new()
            elif needed:
                packed = self._read()
            data = self._stream.decompress(packed, len(buffer))
            if data:
                return self._give(data, buffer)
            if needed and not packed and not self._stream.eof:
                raise EOFError("the file ends within a compressed stream")

    def _read(self) -> bytes:
        packed = self.packed.read(_CHUNK)
        # A block of text comes late, the last one with the few bytes of the last read.
        self._limit = self._position + max(_HARMLESS, _RATIO * len(packed))
        return packed

    def _next_stream(self) -> bytes:
        """The packed bytes behind a stream without the zeros that pad it; nothing at the end of the file."""
        packed: bytes = self._stream.unused_data.lstrip(b"\0")
        while not packed and (more := self._read()):
            packed = more.lstrip(b"\0")
        return packed

    def _give(self, data: bytes, buffer: Any) -> int:
        buffer[: len(data)] = data
        self._position += len(data)
        if self._position > self._limit:
            raise EOFError(f"{_TOO_MUCH}; unpack it if it is right")
        return len(data)

    def close(self) -> None:
        self.packed.close()
        super().close()


def _opener(decompressor: Callable[[], Any]) -> Callable[[str | Path], IO[bytes]]:
    return lambda path: io.BufferedReader(_Streams(path, decompressor), 1 << 20)


OPENERS = {
    ".xz": _opener(lzma.LZMADecompressor),
    ".gz": _opener(_Gzip),
    ".bz2": _opener(bz2.BZ2Decompressor),
    ".zst": _opener(_Zstd),
}
"""Suffix -> what opens such a file for reading.

Its errors are EOFError, OSError, `zlib.error` and `lzma.LZMAError`.
"""
