"""pages-articles XML and WikiExtractor's lines: what is read, from where, and what is said of damaged files."""

import bz2
import gzip
import itertools
import lzma
import random
import re
import zlib
from pathlib import Path

import pytest

from xlt_engine import DataError
from xlt_engine.data.corpus import wiki_dump
from xlt_engine.data.corpus.wiki_dump import Page, read_pages

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
    assert redirect == Page("Spree-Athen & Söhne", 0, 2, 'Berlin "West"', "")
    assert (category.namespace, category.text, category.page_id) == (14, "neu Cafe\u0301", 30)


def test_namespaces_are_left_out(tmp_path: Path) -> None:
    path = write(tmp_path / "d.xml", DUMP)
    assert [p.title for p in read_pages(path, namespaces={14})] == ["Kategorie:Ort"]
    assert [p.page_id for p in read_pages(path, namespaces={0})] == [3354, 2]


def test_titles_are_composed_and_have_spaces(tmp_path: Path) -> None:
    page = BERLIN.replace("<title>Berlin", "<title>Cafe\u0301_Ost")
    assert [p.title for p in read_pages(write(tmp_path / "d.xml", HEAD + page + TAIL))] == ["Café Ost"]


@pytest.mark.parametrize("suffix", ["", ".gz", ".bz2", ".xz"])
def test_packed_files(tmp_path: Path, suffix: str) -> None:
    pack = {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}[suffix]
    path = write(tmp_path / f"d.xml{suffix}", pack(DUMP.encode()))
    assert [p.page_id for p in read_pages(path)] == [3354, 2, 30]


def test_streams_that_cut_pages_anywhere(tmp_path: Path) -> None:
    """Packers with many threads cut where they like, also within a tag."""
    data = DUMP.encode()
    cuts = [0, 100, data.index(b"<page>") + 3, data.index(b"Berlin"), data.index(b"</page>") + 2, 900, len(data)]
    streams = [bz2.compress(data[a:b]) for a, b in zip(cuts, cuts[1:], strict=False)]
    path = write(tmp_path / "d.xml.bz2", b"".join(streams) + b"\0" * 30)
    assert [p.page_id for p in read_pages(path)] == [3354, 2, 30]


def test_blocks_of_any_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tag, a letter of several bytes and an escape across the border of two blocks."""
    pages = list(read_pages(write(tmp_path / "d.xml", DUMP)))
    packed = write(tmp_path / "d.xml.gz", gzip.compress(DUMP.encode()))
    for size in (1, 2, 3, 7, 50):
        monkeypatch.setattr(wiki_dump, "BLOCK", size)
        assert list(read_pages(tmp_path / "d.xml")) == pages
        assert list(read_pages(packed)) == pages


@pytest.mark.parametrize(
    ("content", "titles", "said"),
    [
        (HEAD + BERLIN + REDIRECT[:60], 1, "byte {second}: the file ends within the page that begins here"),
        (HEAD + BERLIN, 1, "the file ends here, without </mediawiki>"),
        (HEAD + BERLIN.replace("</page>", "") + REDIRECT + TAIL, 0, "byte {first}: the page that begins here has a"),
        (
            HEAD + BERLIN + REDIRECT.replace("<ns>0</ns>", "") + TAIL,
            1,
            "byte {second}: the page that begins here has no",
        ),
        (HEAD + BERLIN.replace("</text>", "") + TAIL, 0, "byte {first}: the text of the page 'Berlin' that"),
        (HEAD + BERLIN + "<pagf>" + REDIRECT[8:] + TAIL, 1, "byte {gap}: b'<pagf>"),
        ("<html>" + BERLIN, 0, "byte 0: no <mediawiki> before the first page"),
        ("", 0, "byte 0: no <mediawiki> before the first page"),
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
    assert f"byte {begin}: byte 0xff of the page that begins here is not UTF-8" in message


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
    assert re.search(r"damaged compressed file after byte \d+ of the unpacked data: .*; copy or download it", message)


def test_a_page_without_end_does_not_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xlt_engine.data.corpus.wiki_dump.LONGEST", 10_000)
    monkeypatch.setattr(wiki_dump, "BLOCK", 1000)
    path = write(tmp_path / "d.xml", HEAD + BERLIN + "<page>" + "x" * 30_000)
    found, message = collect(path)
    assert found == ["Berlin"]
    assert "no </page> in the next 10000 bytes" in message
