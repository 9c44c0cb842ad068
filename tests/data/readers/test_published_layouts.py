"""Imitations of the layouts in which data sets are published, in the bytes of their encodings."""

import csv
import gzip
import io
import json
import lzma
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from written import write

from xlt_engine import DataError
from xlt_engine.data import Examples, read_examples

STARS = {"1": "negative", "2": "negative", "3": None, "4": "positive", "5": "positive"}


def tagged(path: Path, **options: Any) -> list[tuple[tuple[str, ...] | None, object]]:
    return [(e.words, e.labels) for e in read_examples(path, task="ner", **options)]


def test_conll_2002_dutch(tmp_path: Path) -> None:
    """Word, part of speech and tag, BIO, latin-1; a document marker right before the first sentence."""
    text = "-DOCSTART- -DOCSTART- O\nDe Art O\nBelgië N B-LOC\nCup N B-MISC\n\nRené N B-PER\nzag V O\n\n"
    file = write(tmp_path / "ned.train", text, "latin-1")
    found = read_examples(file, task="ner", encoding="latin-1")
    assert [(e.words, e.labels) for e in found] == [
        (("De", "België", "Cup"), ("O", "B-LOC", "B-MISC")),
        (("René", "zag"), ("B-PER", "O")),
    ]
    assert found.counts == {"docstart": 1}


def test_conll_2003_german(tmp_path: Path) -> None:
    """Five columns, with a lemma behind the word; IOB1, latin-1."""
    text = (
        "-DOCSTART- -X- -X- -X- O\n\nIm in APPRART I-PC O\nKölner Kölner ADJA I-NC I-MISC\nZoo Zoo NN I-NC O\n\n"
        "Jürgen Jürgen NE I-NC I-PER\nMüller <unknown> NE I-NC I-PER\nfährt fahren VVFIN I-VC O\n\n"
    )
    assert tagged(write(tmp_path / "deu.testb", text, "latin-1"), encoding="latin-1") == [
        (("Im", "Kölner", "Zoo"), ("O", "B-MISC", "O")),
        (("Jürgen", "Müller", "fährt"), ("B-PER", "I-PER", "O")),
    ]


def test_pan_x(tmp_path: Path) -> None:
    """A language code before every word, a tab, BIO; a word may be a colon, and have the code's own letters in it."""
    text = "no:Oslo\tB-LOC\nno::\tO\nno:no:de\tO\n\nno:Ole\tB-PER\nno:Berg\tI-PER\n\n"
    found = [(("Oslo", ":", "no:de"), ("B-LOC", "O", "O")), (("Ole", "Berg"), ("B-PER", "I-PER"))]
    assert tagged(write(tmp_path / "train", text)) == found
    assert tagged(write(tmp_path / "t", text.replace("no:", "zh-min-nan:")))[1] == found[1]
    with pytest.raises(DataError, match="t:2: no word behind 'no:'"):
        tagged(write(tmp_path / "t", "no:Oslo\tB-LOC\nno:\tO\n"))


@pytest.mark.parametrize(
    "text",
    [
        "no:Oslo\tB-LOC\nBergen\tB-LOC\n",  # one word without
        "no:Oslo\tB-LOC\nsv:Lund\tB-LOC\n",  # two codes
        "no:Oslo B-LOC\nno:Lund B-LOC\n",  # no tab
        "http://no\tB-LOC\nhttp://sv\tO\n",  # no language code
        "no:Oslo\nno:Lund\n",  # no tags
    ],
)
def test_colons_that_are_not_pan_x_stay(tmp_path: Path, text: str) -> None:
    (sentence,) = read_examples(write(tmp_path / "a.conll", text), task="ner")
    assert sentence.words == tuple(line.replace(" ", "\t").split("\t")[0] for line in text.splitlines())


XNLI = (
    "language\tgold_label\tsentence1_binary_parse\tsentence2_binary_parse\tsentence1_parse\tsentence2_parse\tsentence1"
    "\tsentence2\tpromptID\tpairID\tgenre\tlabel1\tlabel2\tlabel3\tlabel4\tlabel5\tsentence1_tokenized"
    "\tsentence2_tokenized\tmatch\n"
)
MULTINLI = (
    "gold_label\tsentence1_binary_parse\tsentence2_binary_parse\tsentence1_parse\tsentence2_parse\tsentence1\tsentence2"
    "\tpromptID\tpairID\tgenre\tlabel1\tlabel2\tlabel3\tlabel4\tlabel5\n"
)


def test_xnli_dev(tmp_path: Path) -> None:
    """19 columns, of which five are empty; a lone quote; all languages in one file."""
    row = "{}\tneutral\t\t\t\t\t{}\t{}\t1\t1\tfacetoface\tneutral\tneutral\tentailment\tneutral\tneutral\ta\tb\tTrue\n"
    file = write(tmp_path / "xnli.dev.tsv", XNLI + row.format("ar", "قال", "نعم") + row.format("de", 'Er "sagt', "Ja."))
    (found,) = read_examples(file, task="classification", format="xnli", language="de")
    assert (found.text, found.pair, found.labels, found.line) == ('Er "sagt', "Ja.", "neutral", 3)
    assert len(read_examples(file, task="classification", format="xnli")) == 2
    with pytest.raises(DataError, match="no row of the language 'fi'"):
        read_examples(file, task="classification", format="xnli", language="fi")


def test_translated_training_files_of_xnli(tmp_path: Path) -> None:
    text = "premise\thypo\tlabel\nA\tB\tcontradictory\nC\tD\tneutral\n"
    file, options = write(tmp_path / "multinli.train.de.tsv", text), {"task": "classification", "format": "xnli"}
    found = [(e.line, e.text, e.pair, e.labels) for e in read_examples(file, language="de", **options)]
    assert found == [(2, "A", "B", "contradiction"), (3, "C", "D", "neutral")]
    write(file, "premise\thypo\tlabel\nA\tB\tmaybe\nA\tB\nA\t \tneutral\n")
    said = str(pytest.raises(DataError, read_examples, file, **options).value)
    for fault in ("2: unknown class 'maybe'", "3: 2 columns", "4: one of the two sentences is empty"):
        assert f"{file}:{fault}" in said
    write(file, "text\tlabel\nA\tneutral\n")
    with pytest.raises(DataError, match=r"tsv:1: is no file of XNLI; .*premise, hypo, label"):
        read_examples(file, **options)


def test_multinli(tmp_path: Path) -> None:
    """15 columns in the header; a row may end after the first annotator's label; no agreement is a hyphen."""
    row = "{}\t( )\t( )\t(ROOT)\t(ROOT)\tA man\tA boy\t1\t1c\tfiction\tneutral{}\n"
    text = MULTINLI + row.format("neutral", "\t" * 4) + row.format("entailment", "") + row.format("-", "\t-\t-\t-\t-")
    file = write(tmp_path / "multinli_1.0_train.txt", text)
    found = read_examples(file, task="classification", format="xnli")
    assert found.counts == {"dropped": 1}
    assert [(e.text, e.pair, e.labels) for e in found] == [("A man", "A boy", x) for x in ("neutral", "entailment")]
    assert [e.labels for e in read_examples(file, task="classification", format="xnli", label=None)] == [None] * 3
    file = write(tmp_path / "x.txt", MULTINLI + "neutral\t\t\t\t\tA\n")
    with pytest.raises(DataError, match="txt:2: 6 columns, but the header has 15"):
        read_examples(file, task="classification", format="xnli")


def review(language: str, stars: Any, body: str) -> dict[str, Any]:
    numbers = {"review_id": f"{language}_1", "product_id": "product_1", "reviewer_id": "reviewer_1", "stars": stars}
    return numbers | {"review_body": body, "review_title": "T", "language": language, "product_category": "book"}


def test_marc_json_lines(tmp_path: Path) -> None:
    """One language a file; stars as a string or as a number."""
    rows = [review("de", "5", "Schön"), review("de", 3, "Naja"), review("de", 1, "Übel")]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    for file in (tmp_path / "dataset_de_train.json", tmp_path / "dataset_de_train.json.gz"):
        file.write_bytes(gzip.compress(text.encode()) if file.suffix == ".gz" else text.encode())
        found = read_examples(file, task="classification", format="marc", language="de", label_map=STARS)
        assert [(e.text, e.labels) for e in found] == [("Schön", "positive"), ("Übel", "negative")]
        assert found.counts == {"dropped": 1}
        plain = read_examples(file, task="classification", format="marc", language="de", label=None, label_map=STARS)
        assert [(e.text, e.labels) for e in plain] == [("Schön", None), ("Naja", None), ("Übel", None)]


def test_marc_csv(tmp_path: Path) -> None:
    """All languages in one file, with a column of row numbers that has no name; a body may hold line breaks."""
    buffer = io.StringIO()
    rows = [review("de", 4, 'Sehr "gut",\nja'), review("fr", 2, "Bof"), review("de", 2, "Nein")]
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["", *rows[0]])
    writer.writerows([i, *row.values()] for i, row in enumerate(rows))
    file = write(tmp_path / "train.csv", buffer.getvalue())
    found = read_examples(file, task="classification", format="marc", language="de", require_labels=True)
    assert [(e.text, e.labels, e.line) for e in found] == [('Sehr "gut",\nja', "4", 2), ("Nein", "2", 5)]
    assert found.counts == {"foreign": 1}
    assert len(read_examples(file, task="classification", format="marc")) == 3
    with pytest.raises(DataError, match=r"train.csv: no examples \(skipped: 3 foreign\)"):
        read_examples(file, task="classification", format="marc", language="es")


def test_json_lines_by_the_name_of_marc(tmp_path: Path) -> None:
    """`.json` is JSON lines: read as plain text the punctuation of JSON would be learned."""
    file = write(tmp_path / "dataset_de_dev.json", json.dumps(review("de", 4, "Gut")) + "\n")
    (found,) = read_examples(file, task="classification", text="review_body", label="stars")
    assert (found.text, found.labels) == ("Gut", "4")


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
