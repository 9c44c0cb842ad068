import bz2
import gzip
import json
import lzma
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from xlt_engine import DataError
from xlt_engine.data.corpus.piece import (
    CONTROL,
    MATCHED,
    PieceReader,
    PieceResult,
    Source,
    kind_of,
    open_source,
    paragraphs,
    tasks,
    texts_of,
)
from xlt_engine.data.corpus.title_links import TitleMatcher

NAMES = ["Oslo", "Rom", "Ulm"]
PAGE = "  <page><title>T{n}</title><ns>{ns}</ns><id>{n}</id>{more}<revision><text>{text}</text></revision></page>\n"


def split(text: str) -> list[str]:
    return [part.strip() + "." for part in text.split(".") if part.strip()]


def reader(share: float = 0.0, *, lengths: tuple[int, int] = (1, 99), **more: Any) -> PieceReader:
    groups = more.pop("groups", (0, 1, 2))
    return PieceReader(TitleMatcher(NAMES, "de"), groups, split, 0, *lengths, share, **more)


def read(lines: list[str], share: float = 0.0, **more: Any) -> PieceResult:
    return reader(share, **more).read(0, lines)


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
    assert +result.counts == {"matched": 4, "duplicates": 1, "paragraphs": 3, "characters": 78}


def test_titles_of_one_entity_count_once() -> None:
    result = read(["Ulm und Rom."], groups=(0, 5, 5))
    assert pairs(result) == {("Ulm und Rom.", 5)}


def test_lengths_and_exclusion() -> None:
    lines = ["Rom.", "Rom ist schön.", "Rom ist sehr alt und sehr groß.", "Rom ist heiss."]
    result = read(lines, lengths=(10, 20), excluded=frozenset({"romistschön"}))
    assert result.texts == ["Rom ist heiss."]
    assert [result.counts[n] for n in ("too-short", "too-long", "excluded")] == [1, 1, 1]


def test_control_is_every_sentence_of_the_sampled_lines() -> None:
    lines = [f"Satz {i}. Rom {i}. Zeile {i}." for i in range(200)]
    everything = read(lines, 1.0)
    assert all(flag & CONTROL for flag in everything.flags)
    assert len(everything.texts) == 600
    assert sum(flag & MATCHED for flag in everything.flags) == 200
    some = read(lines, 0.2)
    control = [t for t, f in zip(some.texts, some.flags, strict=True) if f & CONTROL]
    assert 60 <= len(control) <= 180
    assert len(control) % 3 == 0, "whole lines"
    assert len(some.texts) == len(control) + 200 - len(control) // 3
    assert reader(0.2).read(0, lines).flags == some.flags
    assert reader(0.2).read(1, lines).flags != some.flags, "another piece has another sample"


def texts(path: Path, piece: int) -> tuple[list[str], int]:
    """All lines of a file through its tasks, and how many tasks there were."""
    planned = list(tasks([open_source(path)], piece=piece))
    assert [task.index for task in planned] == list(range(len(planned)))
    lines = [line for task in planned for text in texts_of(task, "de", Counter()) for line in paragraphs(text)]
    return lines, len(planned)


@pytest.mark.parametrize("packer", [None, gzip, bz2, lzma], ids=["plain", "gz", "bz2", "xz"])
@pytest.mark.parametrize("piece", [100, 1000, 10**6])
def test_text_in_pieces_is_whole(tmp_path: Path, packer: object, piece: int) -> None:
    lines = [f"Zeile {i} aus Köln {'x' * (i % 7)}" for i in range(300)]
    data = ("\ufeff" + "\n".join(lines)).encode()
    name = {None: "a.txt", gzip: "a.txt.gz", bz2: "a.txt.bz2", lzma: "a.txt.xz"}[packer]  # type: ignore[index]
    (tmp_path / name).write_bytes(packer.compress(data) if packer else data)  # type: ignore[attr-defined]
    got, count = texts(tmp_path / name, piece)
    assert got == [line.strip() for line in lines]
    assert count == 1 or count >= len(data) // (piece + 30)


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


def test_articles_in_pieces_are_whole(tmp_path: Path) -> None:
    """JSON can hold half of a pair of surrogates, which is no character."""
    lines = [json.dumps({"title": f"T{i}", "text": f"Satz {i}.\nZeile \ud83d\ude00 \ud83d{i}."}) for i in range(50)]
    for path in (tmp_path / "wiki_00", tmp_path / "wiki_00.gz"):
        data = ("\n".join(lines) + "\n").encode()
        path.write_bytes(gzip.compress(data) if path.suffix else data)
        got, count = texts(path, 300)
        assert got == [part for i in range(50) for part in (f"Satz {i}.", f"Zeile \U0001f600 \ufffd{i}.")]
        assert count >= 3


def test_kinds(tmp_path: Path) -> None:
    for content, kind in ((b"\n <mediawiki>", "xml"), (b'\xef\xbb\xbf{"title"', "articles"), (b"Ein Satz", "text")):
        (tmp_path / "x").write_bytes(content)
        assert kind_of(tmp_path / "x") == kind
    (tmp_path / "x").write_bytes(b" \n")
    with pytest.raises(DataError, match="the file is empty"):
        kind_of(tmp_path / "x")
    assert open_source(tmp_path / "x", "text") == Source(str(tmp_path / "x"), "text", 2)


def test_bad_input_names_its_line(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_bytes(b"eins\nzwei\n" * 30 + b"dr\xffei\n")
    with pytest.raises(DataError, match=r"x\.txt:61:3: byte 0xff is not utf-8"):
        texts(path, 100)
    path.write_bytes(b'{"title": "a", "text": "b"}\n{"title": "a", "te\n')
    with pytest.raises(DataError, match=r"x\.txt:2: not JSON at character 16"):
        texts(path, 10**6)
    for line in (b'{"title": "a"}\n', b'["A"]\n{}', b'{"text": 3}'):
        path.write_bytes(b'{"text": ""}\n' + line)
        with pytest.raises(DataError, match=r'x\.txt:2: no "text" string'):
            texts(path, 10**6)
