"""What a file's encoding is taken for, and the one line that a wrong one gives."""

import copy
import gzip
import io
from pathlib import Path

import pytest

from xlt_engine.data import read_dictionary, read_examples
from xlt_engine.data.readers.lines import WrongEncoding, decode_lines, guess_encoding, read_lines, wrong_encoding
from xlt_engine.data.readers.problems import Problems, naming

GERMAN = "Käse aus Köln ist übrig .\n" * 30
RUSSIAN = "где этот дом\n" * 30


def test_guess() -> None:
    for encoding in ("utf-8", "latin-1", "utf-16", "utf-16-le"):
        assert guess_encoding(GERMAN.encode(encoding)) == encoding
    for data, guess in (
        (b"plain\n", "ascii"),
        (RUSSIAN.encode(), "utf-8"),
        (GERMAN.encode() + b"M\xfcnchen\n", "utf-8"),
        (GERMAN.encode()[:-27], "utf-8"),
        ("Käse".encode()[:2], "utf-8"),  # cut inside a character
        ("Käse – „Köln“ aus dem Norden\n".encode("cp1252"), "cp1252"),
        (RUSSIAN.encode("utf-16-be"), "utf-16-be"),
        (RUSSIAN.encode("koi8-r"), ""),
        ("これは本です\n".encode("shift-jis"), ""),
    ):
        assert guess_encoding(data) == guess


def one_line(path: Path, used: str = "utf-8") -> str:
    options = {"task": "text", "format": "text", "encoding": used}
    said = str(pytest.raises(WrongEncoding, read_examples, path, **options).value)
    assert "\n" not in said
    return said.removeprefix(f"{path}:")


@pytest.mark.fault(29)
def test_one_line_for_a_file_of_many_wrong_lines(tmp_path: Path) -> None:
    path = tmp_path / "de.txt"
    path.write_bytes(b"eins\n" + GERMAN.encode("latin-1") + b"\0\n")
    advice = 'it looks like latin-1: set reader.encoding = "latin-1", or convert it to UTF-8'
    assert one_line(path) == f"2:2: byte 0xe4 is not utf-8; {advice}"
    path.write_bytes(RUSSIAN.encode("koi8-r"))
    assert one_line(path) == "1:1: byte 0xc7 is not utf-8; it looks like neither UTF-8 nor latin-1: set reader.encoding"


def test_a_damaged_line_is_no_other_encoding(tmp_path: Path) -> None:
    path = tmp_path / "de.txt"
    path.write_bytes(RUSSIAN.encode() + b"M\xfcnchen\n")
    assert one_line(path) == "31:2: byte 0xfc is not utf-8; most of the file is utf-8: correct the line"
    path.write_bytes(b"plain\n" * 400_000 + b"M\xfcnchen\n")  # far behind the bytes that are looked at
    assert one_line(path).startswith("400001:2: byte 0xfc is not utf-8; it looks like latin-1: ")


def test_utf8_that_another_encoding_would_read_as_other_letters(tmp_path: Path) -> None:
    """Every byte is a letter of latin-1, so that nothing but this tells of it."""
    path = tmp_path / "de.txt"
    path.write_bytes(b"eins\nKohl, " + GERMAN.encode())
    for used in ("latin-1", "cp1252", "koi8-r"):
        fault = f"the file is UTF-8, but is read as {used}"
        assert one_line(path, used) == f'2:8: {fault}; it looks like utf-8: set reader.encoding = "utf-8"'
    path.write_bytes(b"plain\n")
    assert len(read_examples(path, task="text", encoding="latin-1")) == 1
    path.write_bytes(GERMAN.encode())
    assert one_line(path, "ascii").startswith("1:2: byte 0xc3 is not ascii; it looks like utf-8: ")
    assert one_line(path, "utf-16").startswith("1:1: the file is not utf-16; it looks like utf-8: ")


@pytest.mark.parametrize("used", ["utf-8", "latin-1", "cp1252"])
@pytest.mark.parametrize(
    ("lines", "first", "other"),
    [
        (["Käse".encode(), *["Köln".encode("latin-1")] * 9], 1, 2),
        (["Köln".encode("latin-1"), *["Käse".encode()] * 9], 2, 1),
        ([b"plain", *["Käse".encode()] * 9, "ein Köln".encode("latin-1")], 2, 11),
    ],
)
def test_lines_in_two_encodings(tmp_path: Path, used: str, lines: list[bytes], first: int, other: int) -> None:
    """Whichever is more, and whatever the recipe says: an error with the first line of each, and what decides."""
    path = tmp_path / "de.txt"
    path.write_bytes(b"\n".join(lines))
    advice = (
        'correct the line, convert the file, or set reader.encoding = "mixed", which reads what is not UTF-8 as latin-1'
    )
    place = f"{other}:{lines[other - 1].index(0xF6) + 1}"
    assert one_line(path, used) == f"{place}: byte 0xf6 is not utf-8, but line {first} is in UTF-8: {advice}"
    read = read_examples(path, task="text", encoding="mixed")
    assert {e.text for e in read} <= {"Käse", "Köln", "ein Köln", "plain"}
    assert len(read) == len(lines)


def test_two_encodings_are_not_seen_where_they_are_not(tmp_path: Path) -> None:
    """Letters of latin-1 or Chinese that are UTF-8 by accident: `ß»` and `ß…` would be of N'Ko, `联通` Latin."""
    path = tmp_path / "a.txt"
    for text, encoding in (("Spaß»\nKöln\n", "latin-1"), ("Spaß…\nKöln\n", "cp1252"), ("校\n中文\n", "gbk")):
        path.write_bytes(text.encode(encoding))
        assert [e.text for e in read_examples(path, task="text", encoding=encoding)] == text.split()


def test_dictionaries_say_the_same(tmp_path: Path) -> None:
    path = tmp_path / "d.tsv"
    path.write_bytes("cheese\tKäse\n".encode("latin-1") * 30)
    message = r"d.tsv:1:9: byte 0xe4 is not utf-8; it looks like latin-1: "
    pytest.raises(WrongEncoding, read_dictionary, [path]).match(message)


class Pipe(io.BytesIO):
    """A stream that has no beginning to go back to, and whose end may never come."""

    def seekable(self) -> bool:
        return False

    def read(self, *_: object) -> bytes:
        raise AssertionError("would wait for the rest")


def test_a_pipe_is_judged_by_the_line() -> None:
    lines = decode_lines("-", Pipe(b"eins\nM\xfcnchen\nzwei\n"), "utf-8", Problems())
    assert next(lines) == (1, "eins")
    pytest.raises(WrongEncoding, next, lines).match("-:2:2: .*looks like latin-1")


def test_the_key_of_a_recipe_and_the_way_between_processes() -> None:
    error = wrong_encoding("a:1:2", "byte 0xfc is not utf-8", "utf-8", "latin-1")
    assert (str(copy.copy(error)), copy.copy(error).likely) == (str(error), "latin-1")
    with pytest.raises(WrongEncoding) as caught, naming(lambda key, value: f"targets.0.reader.{key} = {value}"):
        raise error
    setting = 'set targets.0.reader.encoding = "latin-1", or convert it to UTF-8'
    assert str(caught.value) == f"a:1:2: byte 0xfc is not utf-8; it looks like latin-1: {setting}"
    plain = "a:1:1: x; it is plain ASCII: leave reader.encoding out"
    assert str(wrong_encoding("a:1:1", "x", "utf-16", "ascii")) == plain


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_what_comes_behind_a_nul(tmp_path: Path, suffix: str) -> None:
    """The look at the start of the file, for UTF-16, leaves the place where it was."""
    path = tmp_path / f"a.txt{suffix}"
    data = b"".join(b"line %d%s\n" % (i, b"\0" if i % 10_000 == 1 else b" and so on, at length") for i in range(60_000))
    path.write_bytes(gzip.compress(data, mtime=0) if suffix else data)
    problems = Problems()
    assert (len(list(read_lines(path, "utf-8", problems))), problems.count) == (59_994, 6)
