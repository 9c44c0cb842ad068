"""Which encoding a file is in, where it is not the one that it is read with."""

from __future__ import annotations

import codecs
from typing import IO

from ... import ConfigError, DataError
from ...untrusted import quoted

SAMPLE = 1 << 20
"""Bytes of a file that are looked at for its encoding."""
MAX_ACCENTED = 0.4
"""Largest share of bytes outside ASCII in text of a language that is written in latin-1."""

_NO_TEXT = ("idna", "punycode", "raw-unicode-escape", "undefined", "unicode-escape", "utf-7")
"""Python's encodings for other things than files, or that give halves of characters."""
_WINDOWS = bytes(sorted({*range(0x80, 0xA0)} - {0x81, 0x8D, 0x8F, 0x90, 0x9D}))
_CONTROLS = bytes(range(0x80, 0xA0))


class WrongEncoding(DataError):
    """A file is not in the encoding that it is read with: one message for the whole file.

    Attributes:
        place: `file:line:byte` of the first fault.
        fault: what is wrong there.
        used: the encoding that the file is read with.
        likely: the encoding that it looks like; the same as `used` where a few lines are damaged; "" where unknown.
    """

    def __init__(self, place: str, fault: str, used: str, likely: str, key: str = "") -> None:
        self.place, self.fault, self.used, self.likely = place, fault, used, likely
        super().__init__(f"{place}: {fault}; {self._advice(key)}")

    def naming(self, key: str) -> WrongEncoding:
        """The same fault, with the key of a recipe (or the option) that sets the encoding in its advice."""
        return WrongEncoding(self.place, self.fault, self.used, self.likely, key)

    def __reduce__(self) -> tuple[type[WrongEncoding], tuple[str, str, str, str]]:
        return WrongEncoding, (self.place, self.fault, self.used, self.likely)

    def _advice(self, key: str) -> str:
        if self.likely == "ascii":
            return f"it is plain ASCII: {f'leave {key} out' if key else 'give no encoding'}"
        if not self.likely:
            return f"it looks like neither UTF-8 nor latin-1: {f'set {key}' if key else 'give its encoding'}"
        if codecs.lookup(self.likely) == codecs.lookup(self.used):
            return f"most of the file is {self.likely}: correct the line"
        setting = f'set {key} = "{self.likely}"' if key else f"give {self.likely} as its encoding"
        return f"it looks like {self.likely}: {setting}{'' if self.likely == 'utf-8' else ', or convert it to UTF-8'}"


def check_encoding(path: str, encoding: str) -> bool:
    """Whether the line break of an encoding is that of ASCII.

    Raises:
        ConfigError: there is no such encoding of files.
    """
    try:
        if codecs.lookup(encoding).name.replace("_", "-") in _NO_TEXT:
            raise LookupError
        return "a\n".encode(encoding) == b"a\n"
    except (LookupError, ValueError) as error:
        advice = "use for example utf-8 or latin-1"
        raise ConfigError(f"{path}: unknown encoding {quoted(encoding)}; {advice}") from error


def guess_encoding(data: bytes) -> str:
    """The encoding of the first bytes of a file: "ascii", "utf-8", "utf-16", "utf-16-le", "utf-16-be", "cp1252",
    "latin-1", or "" where none of them is likely.

    A few lines that are not UTF-8 do not count where most lines outside ASCII are.
    """
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    zeros = data.count(0)
    if zeros * 20 > len(data):
        # Text of European languages has a zero for every second byte, the high one; of others at least at spaces.
        return "utf-16-le" if data[1::2].count(0) * 2 > zeros else "utf-16-be"
    if data.isascii():
        return "ascii"
    lines = [line for line in data.split(b"\n") if not line.isascii()]
    # A character of several bytes may be cut at the end of the sample.
    right = sum(is_utf8(line) for line in lines[:-1]) + _decodes_but_for_the_end(lines[-1])
    if right * 2 > len(lines):
        return "utf-8"
    accented = len(data) - len(data.translate(None, bytes(range(0x80, 0x100))))
    if accented > MAX_ACCENTED * len(data):
        return ""
    # Windows puts quotes and dashes where latin-1 has control characters that no text contains.
    controls = len(data) - len(data.translate(None, _CONTROLS))
    return "cp1252" if controls and controls == len(data) - len(data.translate(None, _WINDOWS)) else "latin-1"


def not_decodable(path: str, number: int, raw: bytes, column: int, used: str, file: IO[bytes]) -> WrongEncoding:
    """The error for a line that cannot be what the file is read as.

    Args:
        number: of the line, from 1.
        raw: the line.
        column: of the first byte that does not fit, from 0.
        file: open at any place; where it can be read again, its start is looked at, too.
    """
    likely = guess_encoding(_head(file, raw))
    fault = f"byte 0x{raw[column]:02x} is not {used}"
    return WrongEncoding(f"{path}:{number}:{column + 1}", fault, used, likely)


def with_zeros(path: str, number: int, raw: bytes, used: str, file: IO[bytes]) -> WrongEncoding | None:
    """The error for a line with NUL characters where it comes of UTF-16; None where the line is just damaged."""
    likely = guess_encoding(_head(file, raw))
    place = f"{path}:{number}:{raw.index(0) + 1}"
    return WrongEncoding(place, "NUL character", used, likely) if likely.startswith("utf-16") else None


def _head(file: IO[bytes], raw: bytes) -> bytes:
    """The start of the file, and a line that may lie further on."""
    if not file.seekable():
        return raw
    file.seek(0)
    head = file.read(SAMPLE)
    return head if raw in head else head + raw


def is_other_than_utf8(encoding: str) -> bool:
    """Whether an encoding has the line break of ASCII, but reads bytes of UTF-8 as other letters."""
    return codecs.lookup(encoding).name not in ("utf-8", "utf-8-sig", "ascii")


def is_utf8(data: bytes) -> bool:
    """Whether bytes are whole characters of UTF-8."""
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _decodes_but_for_the_end(line: bytes) -> bool:
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        decoder.decode(line)
    except UnicodeDecodeError:
        return False
    return True
