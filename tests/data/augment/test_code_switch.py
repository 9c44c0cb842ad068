"""Code switching: the dictionary file, the words of a text, and tags that stay with their words."""

from pathlib import Path

import numpy as np
import pytest

from xlt_engine import DataError
from xlt_engine.data import Example, code_switched, read_dictionary

DICTIONARY = {"new": ["neu"], "york": ["Stadt am Hudson"], "bank": ["Bank", "Ufer"], "in": ["im"]}


def tagged(number: int, words: str, tags: str) -> Example:
    return Example(f"s:{number}", "en", tuple(words.split()), None, None, tuple(tags.split()), "s", number)


def spans(example: Example) -> list[tuple[str, str]]:
    """Type and words of each entity, read off the BIO tags."""
    found: list[tuple[str, list[str]]] = []
    assert example.words is not None
    assert isinstance(example.labels, tuple)
    for word, tag in zip(example.words, example.labels, strict=True):
        if tag.startswith("B-"):
            found.append((tag[2:], [word]))
        elif tag.startswith("I-"):
            assert found[-1][0] == tag[2:]
            found[-1][1].append(word)
    return [(kind, " ".join(words)) for kind, words in found]


def test_by_hand() -> None:
    """A word inside an entity becomes three, and the one that opens an entity becomes three."""
    example = tagged(1, "The New York bank in York .", "O B-LOC I-LOC O O B-LOC O")
    found = code_switched(example, {"york": ["Stadt am Hudson"], "New": ["Neu"], "in": ["im"]}, 1.0, 0)
    assert found.words == ("The", "Neu", "Stadt", "am", "Hudson", "bank", "im", "Stadt", "am", "Hudson", ".")
    assert found.labels == ("O", "B-LOC", "I-LOC", "I-LOC", "I-LOC", "O", "O", "B-LOC", "I-LOC", "I-LOC", "O")
    assert spans(found) == [("LOC", "Neu Stadt am Hudson"), ("LOC", "Stadt am Hudson")]
    assert found.id == "s:1/switched"


def test_spans_cover_the_translations_of_their_words() -> None:
    """Every word is marked by its translation: whatever is drawn, a span holds what came of its own words."""
    words, tags = "a b c d e f", "B-X I-X O B-Y B-X O"
    dictionary = {w: [f"{w}1 {w}2", f"{w}1 {w}2 {w}3"] for w in words.split()}
    for number in range(30):
        found = code_switched(tagged(number, words, tags), dictionary, 0.6, 5)
        if found is None:
            continue
        assert [(kind, "".join(dict.fromkeys(w[0] for w in text.split()))) for kind, text in spans(found)] == [
            ("X", "ab"),
            ("Y", "d"),
            ("X", "e"),
        ]


def test_rate_and_seed() -> None:
    examples = [tagged(i, " ".join(["bank"] * 50), " ".join(["O"] * 50)) for i in range(40)]
    switched = [code_switched(e, DICTIONARY, 0.3, 0) for e in examples]
    again = [code_switched(e, DICTIONARY, 0.3, 0) for e in examples]
    assert switched == again
    assert switched != [code_switched(e, DICTIONARY, 0.3, 1) for e in examples]
    words = [w for e in switched if e is not None and e.words is not None for w in e.words]
    # 2,000 draws: four standard deviations are 0.041.
    assert np.mean([w != "bank" for w in words]) == pytest.approx(0.3, abs=0.041)
    replaced = [w for w in words if w != "bank"]
    assert np.mean([w == "Ufer" for w in replaced]) == pytest.approx(0.5, abs=0.09)


def test_texts_and_pairs_keep_what_stands_between_the_words() -> None:
    example = Example("t:1", "en", None, "In  (new) banks!", "New: in", "x", "t", 1)
    found = code_switched(example, DICTIONARY, 1.0, 0)
    assert (found.text, found.pair, found.labels) == ("Im  (neu) banks!", "Neu: im", "x")


def test_nothing_to_replace() -> None:
    assert code_switched(tagged(1, "a b", "O O"), DICTIONARY, 1.0, 0) is None


def test_dictionary_file(tmp_path: Path) -> None:
    first, second = tmp_path / "de.tsv", tmp_path / "fr.tsv"
    first.write_text("bank\tBank\n\nbank\tUfer\nbank\tBank\n", "utf-8")
    second.write_text("bank\tla banque\nhouse\tmaison\n", "utf-8")
    assert read_dictionary([first, second]) == {"bank": ["Bank", "Ufer", "la banque"], "house": ["maison"]}


def test_faults_of_a_dictionary_come_at_once(tmp_path: Path) -> None:
    file = tmp_path / "de.tsv"
    file.write_text("bank Bank\nhouse\t\na\tb\tc\nx\ty\n", "utf-8")
    caught = pytest.raises(DataError, read_dictionary, [file])
    assert [f"de.tsv:{n}:" in str(caught.value) for n in (1, 2, 3, 4)] == [True, True, True, False]
