from __future__ import annotations

import bz2
import gzip
import json
import lzma
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from xlt_engine import DataError
from xlt_engine.data.corpus.input import Source, kind_of, open_source, tasks, texts_of
from xlt_engine.data.corpus.matcher import TitleMatcher
from xlt_engine.data.corpus.piece import (
    CONTROL,
    INFLECTED,
    MATCHED,
    PieceReader,
    PieceResult,
    PieceRules,
    StoredPiece,
    batches,
    no_split,
    paragraphs,
)

NAMES = ["Oslo", "Rom", "Ulm"]
PAGE = "  <page><title>T{n}</title><ns>{ns}</ns><id>{n}</id>{more}<revision><text>{text}</text></revision></page>\n"


def split(text: str) -> list[str]:
    return [part.strip() + "." for part in text.split(".") if part.strip()]


def read(lines: list[str], **changed: object) -> PieceResult:
    given = {"seed": 0, "min_chars": 1, "max_chars": 99, "keep": 100, "control_share": 0.0, "groups": (0, 1, 2)}
    rules = PieceRules(**{**given, **changed})  # type: ignore[arg-type]
    matcher = TitleMatcher(NAMES, "de", inflection=bool(changed.pop("inflection", False)))
    return PieceReader(rules, matcher, split).read(0, [lines])


def pairs(result: PieceResult) -> set[tuple[str, int]]:
    return {(result.texts[r], int(e)) for r, e in zip(result.pair_row, result.pair_entity, strict=True)}


def test_paragraphs() -> None:
    text = " Ein\u00a0Haus \r\n\n\u00adUl\u00adm  \t am\u202fSee\u200e\nKo\u0308ln\x0bist\x85da\u2028so\n"
    assert paragraphs(text) == ["Ein Haus", "Ulm am See", "Köln ist\x85da\u2028so"]


def test_sentences_with_their_entities() -> None:
    result = read(["Rom ist alt. Nichts hier. Ulm und Rom.", "Auch Oslo. Rom ist alt.", "Gar nichts. Leer."])
    assert result.texts == ["Rom ist alt.", "Ulm und Rom.", "Auch Oslo."]
    assert pairs(result) == {("Rom ist alt.", 1), ("Ulm und Rom.", 2), ("Ulm und Rom.", 1), ("Auch Oslo.", 0)}
    assert result.flags.tolist() == [MATCHED] * 3
    assert result.counts == {"matched": 4, "duplicates": 1, "paragraphs": 3}
    assert (result.order == result.hashes).all()


def test_titles_of_one_entity_count_once() -> None:
    result = read(["Ulm und Rom."], groups=(0, 5, 5))
    assert pairs(result) == {("Ulm und Rom.", 5)}


def test_lengths_and_exclusion() -> None:
    rules = PieceRules(0, 10, 20, 100, 0.0, (0, 1, 2))
    reader = PieceReader(rules, TitleMatcher(NAMES, "de"), split, frozenset({"romistschön"}))
    result = reader.read(0, [["Rom.", "Rom ist schön.", "Rom ist sehr alt und sehr groß.", "Rom ist heiss."]])
    assert result.texts == ["Rom ist heiss."]
    assert {n: result.counts[n] for n in ("too-short", "too-long", "excluded")} == {
        "too-short": 1,
        "too-long": 1,
        "excluded": 1,
    }


def test_control_is_every_sentence_of_the_sampled_lines() -> None:
    lines = [f"Satz {i}. Rom {i}. Zeile {i}." for i in range(200)]
    everything = read(lines, control_share=1.0, keep=1000)
    assert (everything.flags & CONTROL != 0).all()
    assert len(everything.texts) == 600
    assert int((everything.flags & MATCHED != 0).sum()) == 200
    some = read(lines, control_share=0.2, keep=1000)
    control = [t for t, f in zip(some.texts, some.flags, strict=True) if f & CONTROL]
    assert 60 <= len(control) <= 180
    assert len(control) % 3 == 0, "whole lines"
    assert len(some.texts) == len(control) + 200 - len(control) // 3
    few = read(lines, control_share=1.0, keep=50)
    assert int((few.flags & CONTROL != 0).sum()) == 50
    assert int((few.flags & MATCHED != 0).sum()) == 200, "the control's bound is not the selection's"


def test_matches_by_an_ending_are_marked() -> None:
    rules = PieceRules(0, 1, 99, 100, 0.0, (0, 1, 2))
    reader = PieceReader(rules, TitleMatcher(NAMES, "de", inflection=True), split)
    result = reader.read(0, [["Roms Altar.", "Rom und Ulms Tor.", "Rom."]])
    assert [bool(flag & INFLECTED) for flag in result.flags] == [True, False, False]


def test_scores() -> None:
    rules = PieceRules(0, 1, 99, 2, 0.0)
    reader = PieceReader(rules, lambda text: len(text) / 20, no_split)
    result = reader.read(0, [["abc", "abcdef", "", "abcdefghi", "abc"]])
    assert result.texts == ["abcdef", "abcdefghi"]
    assert result.order[1] < result.order[0]
    assert pairs(result) == {("abcdef", 0), ("abcdefghi", 0)}
    zero = PieceReader(PieceRules(0, 1, 99, 9, 1.0), lambda text: 0.0, no_split).read(0, [["a", "b"]])
    assert (zero.flags == CONTROL).all()
    assert len(zero.pair_row) == 0


def test_a_stored_piece_is_the_same(tmp_path: Path) -> None:
    result = read(["Rom ist alt. Köln 東京 Ulm.", "Oslo \U0001f600 x."], control_share=1.0)
    data = result.to_bytes()
    stored = StoredPiece(data, "piece")
    assert [stored.text(i) for i in range(len(result.texts))] == result.texts
    assert [stored.length(i) for i in range(3)] == [len(t.encode()) for t in result.texts]
    for name in ("hashes", "order", "flags", "pair_row", "pair_entity"):
        assert np.array_equal(getattr(stored, name), getattr(result, name)), name
    assert stored.counts == result.counts
    empty = StoredPiece(read(["nichts."]).to_bytes(), "piece")
    assert (len(empty.hashes), len(empty.pair_row)) == (0, 0)
    for wrong in (b"", b"xlt-piece-1", b"something else\n{}"):
        with pytest.raises(DataError, match="not a piece"):
            StoredPiece(wrong, "piece")


def texts(path: Path, piece: int) -> tuple[list[str], int]:
    """All lines of a file through its tasks, and how many tasks there were."""
    planned = list(tasks([open_source(path)], piece=piece))
    assert [task.index for task in planned] == list(range(len(planned)))
    return [line for task in planned for text in texts_of(task, "de", Counter()) for line in paragraphs(text)], len(
        planned
    )


@pytest.mark.parametrize("packer", [None, gzip, bz2, lzma], ids=["plain", "gz", "bz2", "xz"])
@pytest.mark.parametrize("piece", [100, 1000, 10**6])
def test_text_in_pieces_is_whole(tmp_path: Path, packer: object, piece: int) -> None:
    lines = [f"Zeile {i} aus Köln {'x' * (i % 7)}" for i in range(300)]
    data = ("\ufeff" + "\n".join(lines)).encode()
    name = {None: "a.txt", gzip: "a.txt.gz", bz2: "a.txt.bz2", lzma: "a.txt.xz"}[packer]  # type: ignore[index]
    (tmp_path / name).write_bytes(packer.compress(data) if packer else data)  # type: ignore[attr-defined]
    got, count = texts(tmp_path / name, piece)
    assert got == [line.strip() for line in lines]
    if packer is None:
        assert count == min(len(lines), -(-len(data) // piece))


@pytest.mark.parametrize("form", ["a.xml", "a.xml.gz", "a.xml.bz2", "b.xml.bz2"])
def test_pages_in_pieces_are_whole(tmp_path: Path, form: str) -> None:
    pages = [PAGE.format(n=n, ns=0, more="", text=f"Seite [[{n}]] {'y' * (n % 50)}.") for n in range(1, 120)]
    pages[3:3] = [
        PAGE.format(n=900, ns=1, more="", text="Gespräch."),
        PAGE.format(n=901, ns=0, more='<redirect title="T1" />', text="#REDIRECT [[T1]]"),
        PAGE.format(n=902, ns=0, more="", text="{{Begriffsklärung}} Liste."),
    ]
    parts = ["<mediawiki>\n", *("".join(pages[i : i + 10]) for i in range(0, len(pages), 10)), "</mediawiki>\n"]
    raw = [part.encode() for part in parts]
    packed = {
        "a.xml": b"".join(raw),
        "a.xml.gz": gzip.compress(b"".join(raw)),
        "a.xml.bz2": bz2.compress(b"".join(raw)),
        "b.xml.bz2": b"".join(map(bz2.compress, raw)),
    }
    (tmp_path / form).write_bytes(packed[form])
    expected = [f"Seite {n} {'y' * (n % 50)}." for n in range(1, 120)]
    got, count = texts(tmp_path / form, 2000)
    assert [g.replace(" .", ".") for g in got] == [e.replace(" .", ".") for e in expected]
    assert count >= 3, "a file of one stream too, so that neither memory nor lost work grows with it"
    assert open_source(tmp_path / form).feed == (form in ("a.xml.gz", "a.xml.bz2"))


def test_articles_in_pieces_are_whole(tmp_path: Path) -> None:
    lines = [json.dumps({"title": f"T{i}", "text": f"Satz {i}.\nZeile {i}."}) for i in range(50)]
    for path in (tmp_path / "wiki_00", tmp_path / "wiki_00.gz"):
        data = ("\n".join(lines) + "\n").encode()
        path.write_bytes(gzip.compress(data) if path.suffix else data)
        got, count = texts(path, 300)
        assert got == [part for i in range(50) for part in (f"Satz {i}.", f"Zeile {i}.")]
        assert count >= 3


def test_half_characters_of_json(tmp_path: Path) -> None:
    """JSON can hold half of a pair of surrogates, which is no character."""
    lines = ['{"title": "a", "text": "Rom \\ud83d\\ude00 \\ud83d Ulm"}\n']
    for path, packed in ((tmp_path / "x", False), (tmp_path / "x.gz", True)):
        data = "".join(lines).encode()
        path.write_bytes(gzip.compress(data) if packed else data)
        assert texts(path, 100)[0] == ["Rom \U0001f600 \ufffd Ulm"]


def test_kinds(tmp_path: Path) -> None:
    for content, kind in ((b"\n <mediawiki>", "xml"), (b'\xef\xbb\xbf{"title"', "articles"), (b"Ein Satz", "text")):
        (tmp_path / "x").write_bytes(content)
        assert kind_of(tmp_path / "x") == kind
    (tmp_path / "x").write_bytes(b" \n")
    with pytest.raises(DataError, match="the file is empty"):
        kind_of(tmp_path / "x")
    assert open_source(tmp_path / "x", "text") == Source(str(tmp_path / "x"), "text", 2, feed=False)


def test_bad_input_names_its_byte(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_bytes(b"eins\nzwei\n" * 30 + b"dr\xffei\n")
    with pytest.raises(DataError, match=r"x\.txt: byte 0xff, \d+ after byte \d+, is not UTF-8"):
        texts(path, 100)
    path.write_bytes(b'{"title": "a", "text": "b"}\n{"title": "a", "te\n')
    with pytest.raises(DataError, match=r"x\.txt: byte 28: not a JSON line"):
        texts(path, 10**6)
    path.write_bytes(b'{"title": "a"}\n')
    with pytest.raises(DataError, match=r'x\.txt: byte 0: no "text" string'):
        texts(path, 10**6)


def test_characters_are_counted() -> None:
    counts: Counter[str] = Counter()
    assert list(batches(["ab\ncd", "e"], counts)) == [["ab", "cd", "e"]]
    assert counts == {"characters": 6}
    many = list(batches(["x\n" * 300] * 5, Counter()))
    assert [len(part) for part in many] == [600, 600, 300]
