"""Column files."""

import bz2
import gzip
import lzma
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from written import write

from xlt_engine import ConfigError, DataError
from xlt_engine.data import Examples, read_conll, read_examples

CONLL2003 = """\
-DOCSTART- -X- -X- O

EU NNP I-NP I-ORG
rejects VBZ I-VP O
German JJ I-NP I-MISC
British JJ I-NP B-MISC

Peter NNP I-NP I-PER
Blackburn NNP I-NP I-PER
"""


def tags(examples: Examples) -> list[object]:
    return [e.labels for e in examples]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "train.conll"


def test_conll_2003(path: Path) -> None:
    first, second = examples = read_conll(write(path, CONLL2003), language="en")
    assert (first.words, second.words) == (("EU", "rejects", "German", "British"), ("Peter", "Blackburn"))
    assert tags(examples) == [("B-ORG", "O", "B-MISC", "B-MISC"), ("B-PER", "I-PER")]
    assert (first.id, first.line, first.language, first.file) == ("train:3", 3, "en", str(path))
    assert (second.id, second.text, second.pair) == ("train:8", None, None)
    assert examples.counts == {"docstart": 1}


@pytest.mark.fault(29)
def test_utf16(path: Path) -> None:
    with pytest.raises(DataError, match=r"train.conll:1:1: byte 0xff is not utf-8; it looks like utf-16: "):
        read_conll(write(path, "aĊ O\nb O\n".encode("utf-16")))
    with pytest.raises(DataError, match=r"train.conll:1:2: NUL character; it looks like utf-16-le: "):
        read_conll(write(path, "a O\n".encode("utf-16-le")))
    with pytest.raises(DataError, match=r"train.conll:1:2: NUL character; remove it$"):
        read_conll(write(path, "a\0 O\n" + "b O\n" * 10))
    # U+010A holds the byte of a line feed.
    assert read_conll(write(path, "aĊ O\nb O\n".encode("utf-16")), encoding="utf-16")[0].words == ("aĊ", "b")
    pytest.raises(DataError, read_conll, write(path, b"\xff\xfea"), encoding="utf-16").match("not utf-16")
    with pytest.raises(DataError, match="train.conll:1:1: the file is not utf-16; it looks like utf-8: "):
        read_conll(write(path, "Köln B-LOC\n"), encoding="utf-16")
    pytest.raises(ConfigError, read_conll, path, encoding="utf-9").match("unknown encoding 'utf-9'")


@pytest.mark.fault(30)
def test_line_ends_and_other_breaks(path: Path) -> None:
    words = ["a\u2028b", "c\x0cd", "e\u0085f", "g\rh", "i\u00a0j", "k\u3000l", "\x1cm", '"', "'"]
    body = "".join(f"{w} O\n" for w in words)
    assert read_conll(write(path, body))[0].words == tuple(words)
    assert read_conll(write(path, "\ufeff" + body.replace("\n", "\r\n") + "\r\n"))[0].words == tuple(words)
    assert read_conll(write(path, "\ufeffBonn\tB-LOC\r\n"))[0].words == ("Bonn",)


def test_separator(path: Path) -> None:
    assert read_conll(write(path, "New York\tB-LOC\nx\tO\n"))[0].words == ("New York", "x")
    assert read_conll(write(path, "  a   O \nb O\n"))[0].words == ("a", "b")
    assert read_conll(write(path, "a|O\nb c|O\n"), separator="|")[0].words == ("a", "b c")
    assert read_conll(write(path, "1 a X O\n2 b Y O\n"), token_column=1)[0].words == ("a", "b")
    assert read_conll(write(path, "O a\nB-X b\n"), token_column=1, label_column=0)[0].labels == ("O", "B-X")
    assert [e.words for e in read_conll(write(path, "a O\n\n \t\n\nb O\n"))] == [("a",), ("b",)]


def test_unlabelled(path: Path) -> None:
    examples = read_conll(write(path, "a\nb\n\nc\n"))
    assert ([e.words for e in examples], tags(examples)) == ([("a", "b"), ("c",)], [None, None])
    pytest.raises(DataError, read_conll, path, require_labels=True).match(r"train.conll:1: no label column")


def test_wrong_columns_are_all_listed(path: Path) -> None:
    body = "a O\n" + "b\n" * 30 + "c X O\n"
    caught = pytest.raises(DataError, read_conll, write(path, body))
    first, second = str(caught.value).split("\n")
    assert first.startswith(f"{path}:2: 1 columns, but the file began with 2 (separated by spaces); ")
    assert first.endswith(f"(29 more like it, the last at {path}:31)")
    assert second.startswith(f"{path}:32: 3 columns")
    caught = pytest.raises(DataError, read_conll, write(path, "a O\n" + "".join(f"b {n}\n" for n in range(31))))
    lines = str(caught.value).split("\n")
    assert [line.split(": ")[0] for line in lines[:-1]] == [f"{path}:{n}" for n in range(2, 22)]
    assert lines[-1] == "... 31 faults in all, the first 20 listed"
    with pytest.raises(DataError, match=r":1: 2 columns, but token_column is 0 and label_column is 3"):
        read_conll(path, label_column=3)
    pytest.raises(DataError, read_conll, write(path, "a\tO\n\tO\n")).match(r":2: empty word")


@pytest.mark.parametrize("tag", ["o", "PER", "X-PER", "B-", "B_PER", "B-A B", ""])
def test_unknown_tags(path: Path, tag: str) -> None:
    with pytest.raises(DataError, match=r":2: unknown tag .*give O, B-<type> and I-<type>, in BIOES"):
        read_conll(write(path, f"a\tO\nb\t{tag}\n"))


def test_iob1_by_scheme(path: Path) -> None:
    write(path, "a I-X\nb B-X\nc I-Y\nd O\ne I-Y\nf I-Y\n\ng I-Y\n")
    expected: list[object] = [("B-X", "B-X", "B-Y", "O", "B-Y", "I-Y"), ("B-Y",)]
    examples = read_conll(path)
    assert tags(examples) == expected
    assert "repaired" not in examples.counts
    assert tags(read_conll(path, scheme="iob1")) == expected
    pytest.raises(DataError, read_conll, path, scheme="bio").match(r":1: I-X does not continue an entity of its type")


def test_invalid_bio(path: Path) -> None:
    write(path, "a B-X\nb I-X\nc I-Y\nd O\ne I-Y\n\nf I-X\n")
    caught = pytest.raises(DataError, read_conll, path)
    assert [line.split(": ")[0] for line in str(caught.value).split("\n")] == [f"{path}:{n}" for n in (3, 5, 7)]
    repaired = read_conll(path, repair=True)
    assert (tags(repaired), repaired.counts) == ([("B-X", "I-X", "B-Y", "O", "B-Y"), ("B-X",)], {"repaired": 3})
    pytest.raises(ConfigError, read_conll, path, scheme="iobes").match("unknown tag scheme 'iobes'")


def in_scheme(tags: Sequence[str], inside: str, single: str, end: str) -> list[str]:
    """BIO as a scheme that marks the ends of entities."""
    changed = []
    for tag, following in zip(tags, [*tags[1:], "O"], strict=True):
        last = not following.startswith("I")
        letters = {"B": single if last else "B", "I": end if last else inside}
        changed.append(tag if tag == "O" else letters[tag[0]] + tag[1:])
    return changed


@pytest.mark.parametrize(("scheme", "letters"), [("bioes", "ISE"), ("bilou", "IUL"), ("bio", "IBI")])
def test_schemes_give_the_same_tags(path: Path, scheme: str, letters: str) -> None:
    rng = np.random.default_rng(5)
    sentences = []
    for _ in range(200):
        bio: list[str] = []
        while len(bio) < 12:
            kind, length = rng.choice(["X", "Y"]), int(rng.integers(0, 4))
            bio += [f"B-{kind}", *[f"I-{kind}"] * (length - 1)] if length else ["O"]
        sentences.append(tuple(bio))
    lines = [[f"w {tag}" for tag in in_scheme(bio, *letters)] for bio in sentences]
    write(path, "\n\n".join("\n".join(sentence) for sentence in lines) + "\n")
    assert tags(read_conll(path)) == tags(read_conll(path, scheme=scheme)) == sentences


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("a S-X\nb B-X\nc O\n", ":2: B-X is the last word of its entity, which BIOES marks with ES"),
        ("a B-X\nb I-X\nc B-Y\nd L-Y\n", ":2: I-X is the last word of its entity, which BILOU marks with LU"),
        ("a S-X\nb E-X\n", ":2: I-X does not continue an entity"),
        ("a S-X\nb U-X\n", ":2: unknown tag 'U-X'"),
    ],
)
def test_invalid_ends(path: Path, text: str, fault: str) -> None:
    pytest.raises(DataError, read_conll, write(path, text)).match(fault)


def test_repaired_ends(path: Path) -> None:
    repaired = read_conll(write(path, "a S-X\nb B-X\nc O\nd E-X\n"), repair=True)
    assert (tags(repaired), repaired.counts) == ([("B-X", "B-X", "O", "B-X")], {"repaired": 2})


def test_comments(path: Path) -> None:
    """Rows of words may begin with "#", too: what is no row as the others are is a comment where a sentence begins."""
    found = read_conll(write(path, "# id 1\n# O\n# B-X\n\n# id\na O\n# O\n"))
    assert [e.words for e in found] == [("#", "#"), ("a", "#")]
    assert found.counts == {"comment": 2}
    pytest.raises(DataError, read_conll, write(path, "a O\n# id 2\n")).match("2: 3 columns, but the file began with 2")
    universal = write(path, "# sent_id = 7\n# text = Anna ruft\n1\tAnna\tB-PER\t-\n2\truft\tO\t-\n")
    (sentence,) = read_conll(universal, token_column=1, label_column=2)
    assert (sentence.words, sentence.tags) == (("Anna", "ruft"), ("B-PER", "O"))
    (sentence,) = read_conll(write(path, "# id 8-b domain=en\nAnna _ _ B-PER\nruft _ _ O\n"))
    assert sentence.words == ("Anna", "ruft")
    (sentence,) = read_conll(write(path, "#\tNN\nruft\tVB\n"), scheme="plain")
    assert sentence.words == ("#", "ruft")


def test_a_document_ends_a_sentence(path: Path) -> None:
    found = read_conll(write(path, "Carl B-PER\nsaw O\n-DOCSTART- O\nOslo B-LOC\n"))
    assert [e.words for e in found] == [("Carl", "saw"), ("Oslo",)]


def test_missing_empty_and_packed(path: Path, tmp_path: Path) -> None:
    for file, fault in (
        (path, "train.conll: no such file; check the path"),
        (tmp_path, "cannot be read"),
        (write(tmp_path / "a", ""), "a: no examples; check"),
        (write(tmp_path / "b", "-DOCSTART- O\n\n"), r"no examples \(skipped: 1 docstart\)"),
        (write(tmp_path / "b.conll.xz", lzma.compress(CONLL2003.encode() * 99)[:-20]), "damaged compressed file"),
        (write(tmp_path / "c.gz", b"plain"), "damaged compressed file"),
    ):
        pytest.raises(DataError, read_conll, file).match(fault)
    packed = write(tmp_path / "a.conll.gz", gzip.compress(CONLL2003.encode()))
    assert [e.id for e in read_examples(packed, task="ner")] == ["a:3", "a:8"]


@pytest.mark.parametrize(("suffix", "library"), [("gz", gzip), ("bz2", bz2), ("xz", lzma)])
def test_streams_end_to_end(suffix: str, library: Any, tmp_path: Path) -> None:
    """All streams of a file are read, and a damaged later one is not the end of the file."""
    stream = library.compress(CONLL2003.encode())
    twice = write(tmp_path / f"a.conll.{suffix}", stream + stream)
    assert len(read_conll(twice)) == 2 * len(read_conll(write(tmp_path / f"b.conll.{suffix}", stream)))
    damaged = write(tmp_path / f"c.conll.{suffix}", stream + bytes([stream[0] ^ 1]) + stream[1:])
    with pytest.raises(DataError, match=f"damaged compressed file after byte {len(CONLL2003.encode())} of the"):
        read_conll(damaged)


GERMEVAL = """#\thttp://de.wikipedia.org/wiki/Mainz\t[2009-10-17]
1\tFSV\tB-ORG\tO
2\tMainz\tI-ORG\tB-LOC
3\tspielt\tO\tO
4\toft\tO\tO

"""


def test_outer_entities_of_nested_ones(path: Path) -> None:
    """GermEval 2014; and the chunks of CoNLL 2003, which are no entities about entities."""
    (outer,) = found = read_conll(write(path, GERMEVAL), token_column=1)
    assert (outer.words, outer.labels) == (("FSV", "Mainz", "spielt", "oft"), ("B-ORG", "I-ORG", "O", "O"))
    assert found.counts == {"comment": 1, "nested": 1}
    assert read_conll(path, token_column=1, label_column=3)[0].labels == ("O", "B-LOC", "O", "O")
    write(path, GERMEVAL.replace("B-LOC", "O"))
    assert read_conll(path, token_column=1)[0].labels == outer.labels
    chunks = read_conll(write(path, "U.N. NNP I-NP I-ORG\nheads VBZ I-VP O\n"))
    assert (chunks[0].labels, chunks.counts) == (("B-ORG", "O"), {})
    assert read_conll(write(path, "a I-NP O\nb I-VP O\n"))[0].labels == ("O", "O")
