"""Files to numbered lines, in which encoding they are where it is not the one given, and their labels."""

from __future__ import annotations

import codecs
import io
import lzma
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import IO, Any

from ... import ConfigError, DataError
from ...untrusted import listed, quoted
from .example import Example, Examples
from .packed import OPENERS
from .problems import Problems

SAMPLE = 1 << 20
"""Bytes of a file that are looked at for its encoding."""
MAX_ACCENTED = 0.4
"""Largest share of bytes outside ASCII in text of a language that is written in latin-1."""
MIXED = "mixed"
"""The encoding of files whose lines are in UTF-8, others in latin-1."""

_NO_TEXT = ("idna", "punycode", "raw-unicode-escape", "undefined", "unicode-escape", "utf-7")
"""Python's encodings for other things than files, or that give halves of characters."""
_WINDOWS = bytes(sorted({*range(0x80, 0xA0)} - {0x81, 0x8D, 0x8F, 0x90, 0x9D}))
_CONTROLS = bytes(range(0x80, 0xA0))


class WrongEncoding(DataError):
    """A file is not in the encoding that it is read with: one message for the whole file.

    Attributes:
        likely: the encoding that it looks like; that which it is read with where a few lines are damaged; `MIXED`, or
            "" where unknown.
    """

    def __init__(self, message: str, likely: str = "") -> None:
        super().__init__(message)
        self.likely = likely


def wrong_encoding(place: str, fault: str, used: str, likely: str) -> WrongEncoding:
    """The error for a file whose first fault is at `place`, `file:line:byte`, and which looks like `likely`."""
    if likely == "ascii":
        advice = "it is plain ASCII: leave reader.encoding out"
    elif not likely:
        advice = "it looks like neither UTF-8 nor latin-1: set reader.encoding"
    elif used != MIXED and codecs.lookup(likely) == codecs.lookup(used):
        advice = f"most of the file is {likely}: correct the line"
    else:
        advice = f'it looks like {likely}: set reader.encoding = "{likely}"'
        advice += "" if likely == "utf-8" else ", or convert it to UTF-8"
    return WrongEncoding(f"{place}: {fault}; {advice}", likely)


def two_encodings(path: str, right: int, number: int, byte: int, column: int) -> WrongEncoding:
    """The error for a file of which line `right` is UTF-8, and line `number`, at `column` from 0, is not."""
    fault = f"byte 0x{byte:02x} is not utf-8, but line {right} is in UTF-8"
    setting = f'reader.encoding = "{MIXED}", which reads what is not UTF-8 as latin-1'
    advice = f"correct the line, convert the file, or set {setting}"
    return WrongEncoding(f"{path}:{number}:{column + 1}: {fault}: {advice}", MIXED)


def decode_mixed(raw: bytes) -> str:
    """A line in UTF-8, or else in Windows' extension of latin-1, or in latin-1."""
    for encoding in ("utf-8", "cp1252"):
        try:
            return raw.decode(encoding)
        except UnicodeDecodeError:
            continue
    return raw.decode("latin-1")


class HiddenUtf8:
    """Looks for UTF-8 in the lines of a file that is read in an encoding with which every byte is some letter."""

    def __init__(self, path: str, encoding: str) -> None:
        self._path, self._encoding = path, encoding
        self._first, self._utf8, self._other = "", 0, (0, 0, 0)
        # Lines of Chinese in two bytes a character may be UTF-8 by accident.
        self._single = len(bytes(range(0x80, 0x100)).decode(encoding, "replace")) == 0x80

    def add(self, number: int, raw: bytes) -> None:
        """Raises a WrongEncoding where lines outside ASCII are of both kinds."""
        self._first = self._first or f"{self._path}:{number}:{next(i for i, x in enumerate(raw, 1) if x > 0x7F)}"
        try:
            raw.decode("utf-8")
        except UnicodeDecodeError as error:
            self._other = self._other if self._other[0] else (number, raw[error.start], error.start)
        else:
            self._utf8 = self._utf8 or number * (self._single and is_utf8_of(raw, self._encoding))
        if self._utf8 and self._other[0]:
            raise two_encodings(self._path, self._utf8, *self._other)

    def end(self) -> None:
        """Raises a WrongEncoding where all lines outside ASCII are UTF-8."""
        if self._first and not self._other[0]:
            fault = f"the file is UTF-8, but is read as {self._encoding}"
            raise wrong_encoding(self._first, fault, self._encoding, "utf-8")


def check_encoding(path: str, encoding: str) -> bool:
    """Whether the line break of an encoding is that of ASCII.

    Raises:
        ConfigError: there is no such encoding of files.
    """
    if encoding == MIXED:
        return True
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
        column: of the first byte that does not fit, from 0.
        file: open at any place; where it can be read again, its start is looked at, too.
    """
    head = _head(file, raw)
    likely = guess_encoding(head)
    if codecs.lookup(used).name == "utf-8" and file.seekable() and not likely.startswith("utf-16"):
        lines = enumerate(head.split(b"\n"), 1)
        if right := next((i for i, line in lines if not line.isascii() and is_utf8_of(line, "cp1252")), 0):
            return two_encodings(path, right, number, raw[column], column)
    fault = f"byte 0x{raw[column]:02x} is not {used}"
    return wrong_encoding(f"{path}:{number}:{column + 1}", fault, used, likely)


def with_zeros(path: str, number: int, raw: bytes, used: str, file: IO[bytes]) -> WrongEncoding | None:
    """The error for a line with NUL characters where it comes of UTF-16; else None, and the file is where it was."""
    at = file.tell() if file.seekable() else 0
    likely = guess_encoding(_head(file, raw))
    if at:  # packed files go to their start alone
        file.seek(0)
        while at:
            at -= len(file.read(min(at, SAMPLE)))
    place = f"{path}:{number}:{raw.index(0) + 1}"
    return wrong_encoding(place, "NUL character", used, likely) if likely.startswith("utf-16") else None


def _head(file: IO[bytes], raw: bytes) -> bytes:
    """The start of the file, and a line that may lie further on."""
    if not file.seekable():
        return raw
    file.seek(0)
    head = file.read(SAMPLE)
    return head if raw in head else head + raw


def is_other_than_utf8(encoding: str) -> bool:
    """Whether an encoding has the line break of ASCII, but reads bytes of UTF-8 as other letters."""
    return encoding != MIXED and codecs.lookup(encoding).name not in ("utf-8", "utf-8-sig", "ascii")


def is_utf8(data: bytes) -> bool:
    """Whether bytes are whole characters of UTF-8."""
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def is_utf8_of(data: bytes, encoding: str) -> bool:
    """Whether bytes are UTF-8 of characters that an encoding has, too: in it they make no text (`Ã¤` for `ä`)."""
    try:
        data.decode("utf-8").encode(encoding)
    except UnicodeError:
        return False
    return True


def _decodes_but_for_the_end(line: bytes) -> bool:
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        decoder.decode(line)
    except UnicodeDecodeError:
        return False
    return True


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
