"""The two layouts of XNLI's files."""

from __future__ import annotations

from pathlib import Path

import pytest

from xlt_engine import DataError
from xlt_engine.data import read_examples

OWN = "language\tgold_label\tsentence1_binary_parse\tsentence1\tsentence2\tpairID\n"


def read(path: Path, **more: object) -> list[tuple[object, ...]]:
    found = read_examples(path, task="classification", format="xnli", **more)  # type: ignore[arg-type]
    return [(e.line, e.language, e.text, e.pair, e.labels) for e in found]


def test_one_language_of_a_file_that_holds_several(tmp_path: Path) -> None:
    file = tmp_path / "xnli.test.tsv"
    file.write_text(
        OWN + 'en\tneutral\t( )\tA "b\tC\t1\nde\tentailment\t( )\tD\tE\t2\nde\tcontradiction\t( )\tF\tG\t3\n'
    )
    assert read(file, language="de") == [(3, "de", "D", "E", "entailment"), (4, "de", "F", "G", "contradiction")]
    assert read(file, language="en") == [(2, "en", 'A "b', "C", "neutral")]
    assert len(read(file)) == 3
    with pytest.raises(DataError, match="no row of the language 'fi'"):
        read(file, language="fi")


def test_translated_training_file(tmp_path: Path) -> None:
    file = tmp_path / "multinli.train.de.tsv"
    file.write_text("premise\thypo\tlabel\nA\tB\tcontradictory\nC\tD\tneutral\n")
    assert read(file, language="de") == [(2, "de", "A", "B", "contradiction"), (3, "de", "C", "D", "neutral")]
    assert [row[-1] for row in read(file, label=None)] == [None, None]


def test_pairs_without_agreement_leave_with_the_labels_only(tmp_path: Path) -> None:
    file = tmp_path / "multinli_train.tsv"
    file.write_text("gold_label\tsentence1\tsentence2\n-\tA\tB\nneutral\tC\tD\n")
    found = read_examples(file, task="classification", format="xnli")
    assert [e.text for e in found] == ["C"]
    assert found.counts == {"dropped": 1}
    assert [row[2] for row in read(file, label=None)] == ["A", "C"]


def test_all_faults_at_once(tmp_path: Path) -> None:
    file = tmp_path / "x.tsv"
    file.write_text("premise\thypo\tlabel\nA\tB\tmaybe\nA\tB\nA\t \tneutral\n")
    with pytest.raises(DataError) as caught:
        read(file)
    text = str(caught.value)
    assert "x.tsv:2: unknown class 'maybe'" in text
    assert "x.tsv:3: 2 columns" in text
    assert "x.tsv:4: one of the two sentences is empty" in text


def test_another_header_says_what_is_wanted(tmp_path: Path) -> None:
    file = tmp_path / "x.tsv"
    file.write_text("text\tlabel\nA\tneutral\n")
    with pytest.raises(DataError, match=r"x\.tsv:1: is no file of XNLI; .*premise, hypo, label"):
        read(file)
