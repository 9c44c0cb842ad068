"""Imitations of the layouts in which data sets are published, in the bytes of their encodings."""

from __future__ import annotations

import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

import pytest

from xlt_engine import DataError
from xlt_engine.data import read_examples

STARS = {"1": "negative", "2": "negative", "3": None, "4": "positive", "5": "positive"}


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_bytes(text.encode(encoding))
    return path


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
