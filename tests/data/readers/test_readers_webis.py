"""The XML reviews of Webis-CLS-10: the published layout, and files that are hostile or broken."""

from __future__ import annotations

import lzma
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from xlt_engine import DataError
from xlt_engine.data import Examples, read_examples

STARS = {"1": "negative", "2": "negative", "3": None, "4": "positive", "5": "positive"}
# The order of the fields differs by language; the first line has the outermost element alone.
GERMAN = """\
<?xml version="1.0" encoding="UTF-8"?><items>
<item><category>bücher</category><rating>5.0</rating><asin>1</asin><date>1. Mai 2009</date><summary>Schön</summary>\
<text>Ein Buch über
Käse &amp; Wein, <![CDATA[2 < 3]]>.</text><reviewer>A</reviewer></item>

<item><rating>3.0</rating><text>Es geht.</text></item>

<item><text>Übel.</text><title>T</title><title>U</title><p><q>r</q></p><summary>Nein</summary><rating>1.0</rating></item>

<item><rating>2.0</rating><text> </text><summary>Ohne Text</summary></item>

</items>
"""


def read(path: Path, text: str, encoding: str = "utf-8", **more: object) -> Examples:
    path.write_bytes(text.encode(encoding))
    return read_examples(path, task="classification", format="webis-cls", encoding=encoding, **more)  # type: ignore[arg-type]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "train.review"


def test_reviews_with_their_stars(path: Path) -> None:
    found = read(path, GERMAN, language="de", label_map=STARS, require_labels=True)
    assert [(e.id, e.line, e.language, e.text, e.labels) for e in found] == [
        ("train:2", 2, "de", "Ein Buch über\nKäse & Wein, 2 < 3.", "positive"),
        ("train:7", 7, "de", "Übel.", "negative"),
    ]
    assert found.counts == {"dropped": 1, "blank": 1}
    assert [e.labels for e in read(path, GERMAN)] == ["5", "3", "1"]
    assert [e.labels for e in read(path, GERMAN, label=None, label_map=STARS)] == [None] * 3


def test_packed_and_in_another_encoding(tmp_path: Path) -> None:
    """The recipe's encoding holds, whatever the declaration says."""
    path = tmp_path / "test.review.xz"
    path.write_bytes(lzma.compress(GERMAN.encode("latin-1")))
    assert read_examples(path, task="classification", encoding="latin-1")[2].text == "Übel."
    caught = pytest.raises(DataError, read_examples, path, task="classification")
    assert str(caught.value).startswith(f"{path}:2:18: byte 0xfc is not utf-8; it looks like latin-1: ")


def test_all_faults_of_reviews_at_once(path: Path) -> None:
    text = (
        "<items>\n<item><rating>6.0</rating><text>a</text></item>\n<item><text>b</text></item>\n"
        "<item><rating>4.5</rating><text>c</text></item>\n</items>\n"
    )
    caught = pytest.raises(DataError, read, path, text, label_map=STARS, require_labels=True)
    lines = str(caught.value).split("\n")
    assert [line.split(": ")[0] for line in lines] == [f"{path}:{n}" for n in (2, 3, 4)]
    assert "label '6' is not in label_map" in lines[0]
    assert "empty label" in lines[1]
    assert "label '4.5'" in lines[2]


BOMB = (
    '<?xml version="1.0"?>\n<!DOCTYPE items [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;">]>\n'
    "<items><item><text>&b;</text></item></items>\n"
)


DECLARED = "it has a document type declaration, and entities are not read"


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        (BOMB, 2, DECLARED),
        ('<!DOCTYPE items SYSTEM "file:///etc/hostname"><items><item><text>a</text></item></items>', 1, DECLARED),
        ("<items>\n<item><text>&x;</text></item></items>", 2, "undefined entity inside <text>"),
        ("<items>\n<item><text>a</text></item>\n<item><text>b", 4, "it ends inside <text>"),
        ("<items>\n<item><text>a</text></item>\n", 3, "it ends inside <items>"),
        ("", 1, "no element found"),
        (" \n", 2, "no element found"),
        ("<items>\n<item><text>a</item></text></items>", 2, "mismatched tag inside <text>"),
        ("<items>\n<item><item><text>a</text></item></item></items>", 2, "<item> inside <item>"),
        ("<items>\n<item><text>a<b>c</b></text></item></items>", 2, "<b> inside <text>"),
        ("<items>\n<item><text>a</text><text>b</text></item></items>", 2, "an item with two <text>"),
        ("<items>\n<review><text>a</text></review></items>", 2, "<review> where <item> belongs"),
        ("<html>\n</html>", 1, "<html> where <items> belongs"),
        ("<items>\n<item>a<text>b</text></item></items>", 2, "text outside the fields of an item"),
        ("<items></items>\n<items></items>", 2, "junk after document element"),
        ("Ein Buch\t5\n", 1, "syntax error"),
        ("<items><item><text>a\x0bb</text></item></items>", 1, "not well-formed (invalid token) inside <text>"),
    ],
)
def test_files_that_are_no_reviews(path: Path, text: str, line: int, what: str) -> None:
    caught = pytest.raises(DataError, read, path, text)
    place = f"{path}:{line}: is no review file of Webis-CLS-10"
    assert str(caught.value) == f"{place}: {what}; give the file as it is published"


def test_a_broken_file_tells_what_was_wrong_before_it_broke(path: Path) -> None:
    with pytest.raises(DataError) as caught:
        read(path, "<items>\n<item><text>a</text></item>\n</item>\n", require_labels=True)
    first, second = str(caught.value).split("\n")
    assert first.startswith(f"{path}:2: empty label; ")
    assert second.startswith(f"{path}:3: is no review file of Webis-CLS-10: mismatched tag inside <items>; ")


def test_the_file_is_read_as_a_stream(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fields that are not read are not kept: 40 MB of them take next to no memory."""
    filler = "x" * 2000

    def lines(*_: object) -> Iterator[tuple[int, str]]:
        yield 1, "<items>"
        for number in range(2, 20_002):
            yield number, f"<item><summary>{filler}</summary><rating>4.0</rating><text>a</text></item>"
        yield 20_002, "</items>"

    monkeypatch.setattr("xlt_engine.data.readers.reader.read_lines", lines)
    tracemalloc.start()
    found = read_examples(path, task="classification")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(found) == 20_000
    assert peak < 20_000 * len(filler) / 4
