"""pages-articles XML and WikiExtractor's lines: what is read, from where, and what is said of damaged files."""

from __future__ import annotations

import bz2
import gzip
import importlib.util
import itertools
import json
import lzma
import random
import sys
import tracemalloc
import types
import zlib
from pathlib import Path

import pytest

from xlt_engine import ConfigError, DataError
from xlt_engine.data.corpus import wiki_files
from xlt_engine.data.corpus.wiki_dump import (
    Article,
    Page,
    Span,
    open_text,
    read_articles,
    read_pages,
    split_dump,
)

HEAD = """\
<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/" version="0.11" xml:lang="de">
  <siteinfo>
    <sitename>Wikipedia</sitename>
    <namespaces><namespace key="14" case="first-letter">Kategorie</namespace></namespaces>
  </siteinfo>
"""
BERLIN = """\
  <page>
    <title>Berlin</title>
    <ns>0</ns>
    <id>3354</id>
    <revision>
      <id>2470</id>
      <comment>&lt;text&gt; in a comment</comment>
      <text bytes="70" xml:space="preserve">'''Berlin''' &amp;ndash; a &lt; b &amp;amp; c &quot;d&quot;
&apos;zweite&apos; &#x2014;&#8211;&#38;lt;&lt;ref/&gt;</text>
      <sha1>abc</sha1>
    </revision>
  </page>
"""
REDIRECT = """\
  <page>
    <title>Spree-Athen &amp; S&#xF6;hne</title>
    <ns>0</ns>
    <id>2</id>
    <redirect title="Berlin &quot;West&quot;" />
    <revision><text bytes="0" /></revision>
  </page>
"""
CATEGORY = """\
  <page>
    <title>Kategorie:Ort</title>
    <ns>14</ns>
    <id>30</id>
    <revision><text>alt</text></revision>
    <revision><text>neu Cafe\u0301</text></revision>
  </page>
"""
TAIL = "</mediawiki>\n"
DUMP = HEAD + BERLIN + REDIRECT + CATEGORY + TAIL


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return path


@pytest.fixture(scope="module")
def planted() -> types.ModuleType:
    spec = importlib.util.spec_from_file_location("planted_wiki", Path(__file__).with_name("planted_wiki.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["planted_wiki"] = module
    spec.loader.exec_module(module)
    return module


def collect(path: Path) -> tuple[list[str], str]:
    """The titles that come out before the error, and what it says."""
    titles: list[str] = []
    try:
        for page in read_pages(path):
            titles.append(page.title)
    except DataError as error:
        return titles, str(error)
    raise AssertionError("no error")


def test_pages(tmp_path: Path) -> None:
    path = write(tmp_path / "dewiki-pages-articles.xml", DUMP)
    berlin, redirect, category = read_pages(path)
    assert berlin.text == "'''Berlin''' &ndash; a < b &amp; c \"d\"\n'zweite' —–&lt;<ref/>"
    assert (berlin.title, berlin.namespace, berlin.page_id, berlin.redirect) == ("Berlin", 0, 3354, None)
    assert redirect == Page("Spree-Athen & Söhne", 0, 2, 'Berlin "West"', "", DUMP.encode().index(b"<page>", 500))
    assert (category.namespace, category.text, category.page_id) == (14, "neu Cafe\u0301", 30)
    assert [DUMP.encode()[p.offset :][:6] for p in (berlin, redirect, category)] == [b"<page>"] * 3


def test_namespaces_are_left_out(tmp_path: Path) -> None:
    path = write(tmp_path / "d.xml", DUMP)
    assert [p.title for p in read_pages(path, namespaces={14})] == ["Kategorie:Ort"]
    assert [p.page_id for p in read_pages(path, namespaces={0})] == [3354, 2]


def test_titles_are_composed_and_have_spaces(tmp_path: Path) -> None:
    page = BERLIN.replace("<title>Berlin", "<title>Cafe\u0301_Ost")
    assert [p.title for p in read_pages(write(tmp_path / "d.xml", HEAD + page + TAIL))] == ["Café Ost"]


@pytest.mark.parametrize("suffix", ["", ".gz", ".bz2", ".xz"])
def test_packed_files_and_start(tmp_path: Path, suffix: str) -> None:
    pack = {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}[suffix]
    path = write(tmp_path / f"d.xml{suffix}", pack(DUMP.encode()))
    pages = list(read_pages(path))
    assert [p.page_id for p in pages] == [3354, 2, 30]
    places = [0] * 3 if suffix == ".bz2" else [i for i in range(len(DUMP)) if DUMP.encode().startswith(b"<page>", i)]
    assert [p.offset for p in pages] == places
    if suffix != ".bz2":
        assert list(read_pages(path, start=pages[1].offset)) == pages[1:]
        assert list(read_pages(path, start=pages[0].offset + 1)) == pages[1:]


def test_streams_that_cut_pages_anywhere(tmp_path: Path) -> None:
    """Packers with many threads cut where they like, also within a tag; each stream is a place to start from."""
    data = DUMP.encode()
    cuts = [0, 100, data.index(b"<page>") + 3, data.index(b"Berlin"), data.index(b"</page>") + 2, 900, len(data)]
    streams = [bz2.compress(data[a:b]) for a, b in zip(cuts, cuts[1:], strict=False)]
    path = write(tmp_path / "d.xml.bz2", b"".join(streams) + b"\0" * 30)
    whole = list(read_pages(path))
    assert [p.page_id for p in whole] == [3354, 2, 30]
    starts = [sum(map(len, streams[:n])) for n in range(len(streams))]
    assert set(p.offset for p in whole) <= set(starts)
    assert split_dump(path, 100)[-1].start == starts[-1]
    assert [s.start for s in split_dump(path, 10_000)] == starts
    for start, end in zip(starts, [*starts[1:], 10**9], strict=True):
        own = [p for p in read_pages(path, start=start) if p.offset < end]
        assert own == [p for p in whole if start <= p.offset < end]


@pytest.mark.parametrize("file", ["target_xml", "target_bz2", "target_gz"])
@pytest.mark.parametrize("parts", [1, 2, 5, 40])
def test_spans_hold_every_page_once(tmp_path: Path, planted: types.ModuleType, file: str, parts: int) -> None:
    plan = planted.make_planted(tmp_path)
    path = plan.files[file]
    spans = split_dump(path, parts)
    assert len(spans) == (1 if file == "target_gz" else min(parts, 13) if file == "target_bz2" else parts)
    pages = [p for s in spans for p in read_pages(path, start=s.start) if p.offset < s.end]
    assert len(pages) == plan.pages
    assert [p.page_id for p in pages] == list(range(1, plan.pages + 1))


def test_blocks_of_any_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tag, a letter of several bytes and an escape across the border of two blocks."""
    pages = list(read_pages(write(tmp_path / "d.xml", DUMP)))
    packed = write(tmp_path / "d.xml.gz", gzip.compress(DUMP.encode()))
    text = write(tmp_path / "t.txt", "ä\r\nöü\n\nzu")
    for size in (1, 2, 3, 7, 50):
        monkeypatch.setattr(wiki_files, "BLOCK", size)
        monkeypatch.setattr(wiki_files, "PIECE", size)
        assert list(read_pages(tmp_path / "d.xml")) == pages
        assert list(read_pages(packed)) == pages
        assert list(open_text(text)) == [(0, "ä"), (4, "öü"), (9, ""), (10, "zu")]
        assert split_dump(text, 3) == [Span(0, 4), Span(4, 9), Span(9, wiki_files.NO_END)]


@pytest.mark.parametrize(
    ("content", "titles", "said"),
    [
        (HEAD + BERLIN + REDIRECT[:60], 1, "byte {second}: the file ends within the page that begins here"),
        (HEAD + BERLIN, 1, "the file ends here, without </mediawiki>"),
        (
            HEAD + BERLIN.replace("</page>", "") + REDIRECT + TAIL,
            0,
            "byte {first}: the page that begins here has a",
        ),
        (
            HEAD + BERLIN + REDIRECT.replace("<ns>0</ns>", "") + TAIL,
            1,
            "byte {second}: the page that begins here has no",
        ),
        (
            HEAD + BERLIN.replace("</text>", "") + TAIL,
            0,
            "byte {first}: the text of the page 'Berlin' that",
        ),
        (HEAD + BERLIN + "<pagf>" + REDIRECT[8:] + TAIL, 1, "byte {gap}: b'<pagf>"),
        ("<html>" + BERLIN, 0, "byte 0: no <mediawiki> before the first page"),
        ("", 0, "nothing from byte 0 on"),
    ],
)
def test_damaged_xml(tmp_path: Path, content: str, titles: int, said: str) -> None:
    path = write(tmp_path / "d.xml", content)
    found, message = collect(path)
    assert len(found) == titles
    places = {"first": content.find("<page>"), "second": len(HEAD + BERLIN) + 2, "gap": len(HEAD + BERLIN) - 1}
    assert said.format(**places) in message
    assert message.startswith(f"{path}: ")
    assert "; " in message


def test_bytes_that_are_no_utf8(tmp_path: Path) -> None:
    data = DUMP.encode()
    place = data.index(b"zweite")
    path = write(tmp_path / "d.xml", data[:place] + b"\xff" + data[place + 1 :])
    found, message = collect(path)
    begin = data.index(b"<page>")
    assert found == []
    assert f"byte 0xff, {place - begin} after byte {begin}, is not UTF-8" in message


def many(count: int) -> bytes:
    """Pages that do not pack well."""
    rng = random.Random(0)
    return "".join(
        BERLIN.replace("Berlin</title>", f"Berlin {n}</title>").replace("zweite", rng.randbytes(400).hex())
        for n in range(count)
    ).encode()


@pytest.mark.parametrize("suffix", [".gz", ".bz2"])
def test_truncated_packed_file(tmp_path: Path, suffix: str) -> None:
    """All whole pages before the cut come out, then the error says where the file ends."""
    body, pages = many(60), 60
    if suffix == ".gz":
        data = gzip.compress(HEAD.encode() + body + TAIL.encode(), 1)
        whole = zlib.decompressobj(wbits=31).decompress(data[: len(data) // 2]).count(b"</page>")
    else:
        streams = [bz2.compress(body[n : n + 10_000]) for n in range(0, len(body), 10_000)]
        data = b"".join((bz2.compress(HEAD.encode()), *streams, bz2.compress(TAIL.encode())))
        used = list(itertools.takewhile(lambda n: n < len(data) // 2, itertools.accumulate(map(len, streams))))
        whole = body[: 10_000 * (len(used) - 1)].count(b"</page>")
    path = write(tmp_path / f"d.xml{suffix}", data[: len(data) // 2])
    found, message = collect(path)
    assert pages / 4 < whole <= len(found) <= whole + 10 < pages
    assert found == [f"Berlin {n}" for n in range(len(found))]
    assert suffix == ".bz2" or len(found) == whole
    assert f"the file ends at byte {len(data) // 2}" in message
    assert f"in the middle of the {suffix} stream from byte" in message
    assert "download the file again" in message


def test_damaged_bz2_names_the_place(tmp_path: Path) -> None:
    first, second = bz2.compress(HEAD.encode() + many(5)), bytearray(bz2.compress(many(5) + TAIL.encode()))
    second[len(second) // 2] ^= 0xFF
    path = write(tmp_path / "d.xml.bz2", first + bytes(second))
    found, message = collect(path)
    assert found == [f"Berlin {n}" for n in range(5)]
    assert f"(stream from byte {len(first)})" in message
    assert "damaged .bz2 data between byte" in message


def test_what_is_no_bz2(tmp_path: Path) -> None:
    assert "damaged .bz2 data between byte 0" in collect(write(tmp_path / "d.xml.bz2", DUMP))[1]
    assert "damaged .gz data between byte 0" in collect(write(tmp_path / "d.xml.gz", DUMP))[1]
    assert "the file ends at byte 0" in collect(write(tmp_path / "e.xml.bz2", b""))[1]
    assert "no such file" in collect(tmp_path / "none.xml")[1]
    assert "cannot be read: Is a directory" in collect(tmp_path)[1]


def test_a_page_without_end_does_not_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xlt_engine.data.corpus.wiki_dump.LONGEST", 10_000)
    monkeypatch.setattr(wiki_files, "LONGEST", 10_000)
    monkeypatch.setattr(wiki_files, "BLOCK", 1000)
    path = write(tmp_path / "d.xml", HEAD + BERLIN + "<page>" + "x" * 30_000)
    found, message = collect(path)
    assert found == ["Berlin"]
    assert "no </page> in the next 10000 bytes" in message
    with pytest.raises(DataError, match="no line break in 10000 bytes after byte 0"):
        list(open_text(write(tmp_path / "t.txt", "x" * 30_000)))


def test_memory_does_not_grow_with_the_file(tmp_path: Path, planted: types.ModuleType) -> None:
    plan = planted.make_planted(tmp_path, target_bytes=8_000_000, packed=False)
    path = plan.files["target_xml"]
    packed = write(tmp_path / "d.xml.gz", gzip.compress(path.read_bytes(), 1))
    for file in (path, packed):
        tracemalloc.start()
        assert sum(1 for _ in read_pages(file)) == plan.pages
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 4_000_000 < path.stat().st_size / 2


@pytest.mark.parametrize("suffix", ["", ".gz", ".bz2", ".xz"])
def test_lines(tmp_path: Path, suffix: str) -> None:
    pack = {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}[suffix]
    data = "\ufeffeins\r\nzwei\u2028drei\x0b\n\nvier".encode()
    path = write(tmp_path / f"t.txt{suffix}", pack(data))
    lines = list(open_text(path))
    assert [line for _, line in lines] == ["eins", "zwei\u2028drei\x0b", "", "vier"]
    assert [at for at, _ in lines] == ([0] * 4 if suffix == ".bz2" else [0, 9, 22, 23])
    assert [line for _, line in open_text(path, start=lines[2][0])] == (["", "vier"] if suffix != ".bz2" else [
        line for _, line in lines])  # fmt: skip


def test_spans_of_lines(tmp_path: Path) -> None:
    lines = [f"Zeile {n} " + "ü" * (n % 13) for n in range(300)]
    data = "\n".join(lines).encode()
    cuts = [0, 50, data.index(b"\n", 400) + 1, data.index(b"\n", 900), 1300, 1301, len(data)]
    streams = b"".join(bz2.compress(data[a:b]) for a, b in zip(cuts, cuts[1:], strict=False))
    for path in (write(tmp_path / "t.txt", data), write(tmp_path / "t.txt.bz2", streams)):
        for parts in (1, 2, 3, 8, 1000):
            spans = split_dump(path, parts)
            assert [s.start for s in spans[1:]] == [s.end for s in spans[:-1]]
            found = [line for s in spans for at, line in open_text(path, start=s.start) if at < s.end]
            assert found == lines
    assert len(split_dump(tmp_path / "t.txt", 8)) == 8
    with pytest.raises(ConfigError, match="at least one part, not 0"):
        split_dump(tmp_path / "t.txt", 0)
    with pytest.raises(DataError, match="no such file"):
        split_dump(tmp_path / "none.gz", 2)


def test_articles(tmp_path: Path) -> None:
    rows = [{"id": "1", "title": "Cafe\u0301", "text": "Eins.\nZwei."}, {"title": "B", "text": ""}]
    path = write(tmp_path / "wiki_00.gz", gzip.compress("\n\n".join(map(json.dumps, rows)).encode()))
    assert list(read_articles(path)) == [Article("Café", "Eins.\nZwei.", 1, 0), Article("B", "", 3, 60)]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"title": "A", "te', ":2: byte 27: not JSON at character 16"),
        ('["A"]', ':2: byte 27: no "title" and "text" strings'),
        ('{"title": "A", "text": 3}', ':2: byte 27: no "title" and "text" strings'),
    ],
)
def test_articles_that_are_none(tmp_path: Path, line: str, said: str) -> None:
    path = write(tmp_path / "wiki_00", '{"title": "A", "text": ""}\n' + line)
    articles = read_articles(path)
    assert next(articles).title == "A"
    with pytest.raises(DataError) as caught:
        next(articles)
    assert str(caught.value).startswith(f"{path}{said}")
