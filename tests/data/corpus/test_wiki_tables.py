"""SQL dumps, Wikidata's table of sites, and title tables."""

import gzip
import unicodedata
from pathlib import Path

import pytest

from xlt_engine import DataError
from xlt_engine.data.corpus import wiki_dump
from xlt_engine.data.corpus.title_links import PageFacts
from xlt_engine.data.corpus.wiki_source import FileWiki, SourceFiles, read_titles, table_rows, title_of

LANGLINKS = r"""-- MySQL dump 10.19
/*!40101 SET NAMES utf8mb4 */;
DROP TABLE IF EXISTS `langlinks`;
CREATE TABLE `langlinks` (
  `ll_from` int(8) unsigned NOT NULL DEFAULT 0,
  `ll_lang` varbinary(35) NOT NULL DEFAULT '),(1,',
  `ll_title` varbinary(255) NOT NULL DEFAULT '',
  PRIMARY KEY (`ll_from`,`ll_lang`)
) ENGINE=InnoDB DEFAULT CHARSET=binary;
/*!40000 ALTER TABLE `langlinks` DISABLE KEYS */;
INSERT INTO `langlinks` VALUES (1,'de','O\'Neill \"A\" \\B'),(1,'fr','a),(b;'),(2,'de','New_York,_(Stadt)'),
(3,'de','It''s');
INSERT INTO `langlinks` VALUES (4,'de',''),(5,'als','Zürich'),(6,'de',_binary 'Zeile\nzwei\0\Z\t');
/*!40000 ALTER TABLE `langlinks` ENABLE KEYS */;
"""
OTHER = "CREATE TABLE `page_old` (\n  `x` int\n);\nINSERT INTO `page_old` VALUES (1),(2);\n"


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return path


def links(path: Path, language: str) -> list[tuple[int, str]]:
    """Page and title, in the order of the file."""
    code = f"'{language}'".encode()
    return [(int(page), title_of(title)) for page, of, title in table_rows(path, "langlinks") if of == code]


def facts(tmp_path: Path, titles: set[str], **tables: str) -> dict[str, PageFacts]:
    """What the tables say of the pages with these titles."""
    files = {name: write(tmp_path / f"{name}.sql", text) for name, text in tables.items()}
    return FileWiki(SourceFiles(**files, items=tmp_path / "x"), "en", "de").pages(titles)


GERMAN = [(1, 'O\'Neill "A" \\B'), (2, "New York, (Stadt)"), (3, "It's"), (4, ""), (6, "Zeile\nzwei\0\x1a")]


@pytest.mark.parametrize("size", [1 << 20, 1, 7, 64])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_rows_with_escapes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, suffix: str) -> None:
    monkeypatch.setattr(wiki_dump, "BLOCK", size)
    data = (OTHER + LANGLINKS + OTHER).encode()
    path = write(tmp_path / f"langlinks.sql{suffix}", gzip.compress(data) if suffix else data)
    assert links(path, "de") == GERMAN
    assert links(path, "fr") == [(1, "a),(b;")]
    assert links(path, "als") == [(5, "Zürich")]


def test_numbers_null_and_bytes(tmp_path: Path) -> None:
    text = (
        b"INSERT INTO `langlinks` (`a`, `ll_from`, `b`, `c`, `d`, `ll_lang`, `ll_title`) VALUES\n"
        b"(-3,1,NULL,0.25,'','de',_binary 'ab\xc3'),\n(4,2,1e-3,0x4A,NULL,'de','\xc3\xa4'),(-1,3,0,0,0,'de',NULL);\n"
    )
    rows = links(write(tmp_path / "l.sql", text), "de")
    assert rows == [(1, "ab\ufffd"), (2, "ä"), (3, "")]


def test_columns_come_from_the_file(tmp_path: Path) -> None:
    """The table `page` has lost a column over the years; without CREATE TABLE the present order holds."""
    old = (
        "CREATE TABLE `page` (\n  `page_id` int,\n  `page_namespace` int,\n  `page_title` varbinary(255),\n"
        "  `page_restrictions` tinyblob,\n  `page_is_redirect` tinyint\n) ENGINE=InnoDB;\n"
        "INSERT INTO `page` VALUES (7,0,'Sa\u0303o_Paulo','',1),(8,14,'Ort','',0),(9,0,'B','',0);\n"
    )
    assert facts(tmp_path, {"São Paulo", "Ort", "B"}, page=old) == {"São Paulo": PageFacts(7, ""), "B": PageFacts(9)}
    bare = "INSERT INTO `page` VALUES (7,0,'A',1,0,0.1,'2026',NULL,5,6,'wikitext',NULL);\n"
    assert facts(tmp_path, {"A"}, page=bare) == {"A": PageFacts(7, "")}
    missing = old.replace("page_is_redirect", "page_is_moved")
    with pytest.raises(DataError, match="the table page has no column page_is_redirect"):
        facts(tmp_path, {"A"}, page=missing)


def test_redirects_and_page_props(tmp_path: Path) -> None:
    pages = "".join(f"({n},0,'{title}',1,0,0.1,'2026',NULL,5,6,'wikitext',NULL)," for n, title in enumerate("ABCD", 1))
    read = facts(
        tmp_path,
        set("ABCD"),
        page=f"INSERT INTO `page` VALUES {pages[:-1]};\n",
        redirect="INSERT INTO `redirect` VALUES (1,0,'New_York','',''),(2,0,'X','wikt',NULL),(3,4,'Y',NULL,'T');\n",
        page_props="INSERT INTO `page_props` VALUES (4,'disambiguation','',NULL),(3,'wikibase_item','Q1',NULL);\n",
    )
    assert {title: page.redirect for title, page in read.items()} == {"A": "New York", "B": "", "C": "", "D": ""}
    assert [title for title, page in read.items() if page.disambiguation] == ["D"]


def test_sites_of_wikidata(tmp_path: Path) -> None:
    rows = (
        "INSERT INTO `wb_items_per_site` VALUES (1,90,'enwiki','Paris'),(2,90,'dewiki','Paris (Stadt)'),"
        "(3,64,'dewiki','Berlin'),(4,64,'enwiki','Berlin'),(5,64,'zh_yuewiki','柏林'),(6,65,'enwiki','X');\n"
    )
    files = SourceFiles(items=write(tmp_path / "w.sql", rows))

    def pairs(target: str, *titles: str) -> dict[str, str]:
        return FileWiki(files, "en", target).links(dict.fromkeys(titles, 0))

    assert pairs("de", "Paris", "Berlin", "X") == {"Paris": "Paris (Stadt)", "Berlin": "Berlin"}
    assert pairs("zh-yue", "Berlin") == {"Berlin": "柏林"}
    assert pairs("de", "Rom") == {}


def drain(path: Path) -> tuple[int, str]:
    """How many rows come out before the error, and what it says."""
    count = 0
    try:
        for _ in table_rows(path, "langlinks"):
            count += 1
    except DataError as error:
        return count, str(error)
    raise AssertionError("no error")


def test_damaged_tables(tmp_path: Path) -> None:
    path = tmp_path / "l.sql"
    count, said = drain(write(path, LANGLINKS[: LANGLINKS.index("Stadt)")]))
    place = LANGLINKS.encode().index(b"(2,'de'")
    assert count == 2
    assert f"{path}: byte {place} of the SQL text: no whole row of langlinks begins here: b\"(2,'de','New_York" in said
    assert "damaged or cut off; download the file again" in said
    count, said = drain(write(path, LANGLINKS.replace("(3,'de','It''s')", "(3,'de';'It''s')")))
    assert (count, "byte" in said) == (3, True)
    count, said = drain(write(path, LANGLINKS.replace("(1,'fr','a),(b;')", "(1,'fr')")))
    assert count == 1
    count, said = drain(write(path, LANGLINKS.replace("(1,'de','O", "(1,2,'de','O")))
    assert (count, "4 values for the 3 columns of langlinks" in said) == (0, True)
    count, said = drain(write(path, OTHER))
    assert (count, "byte 0: no table 'langlinks' in this file" in said) == (0, True)
    packed = gzip.compress(LANGLINKS.encode())
    count, said = drain(write(tmp_path / "l.sql.gz", packed[: len(packed) // 2]))
    assert "l.sql.gz: damaged compressed file after byte" in said


def test_a_table_without_rows(tmp_path: Path) -> None:
    empty = LANGLINKS[: LANGLINKS.index("INSERT")]
    assert links(write(tmp_path / "l.sql", empty), "de") == []


def test_a_damaged_row_does_not_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xlt_engine.data.corpus.wiki_source._ROW_LIMIT", 5000)
    monkeypatch.setattr(wiki_dump, "BLOCK", 1000)
    head = LANGLINKS[: LANGLINKS.index(",(2,'de'")]
    count, said = drain(write(tmp_path / "l.sql", head + ",(2,'de','" + "x" * 100_000 + "');\n"))
    assert (count, "no whole row" in said) == (2, True)


def test_title_tables(tmp_path: Path) -> None:
    text = "\ufeffNew_York\tNew York\r\n\n  Sa\u0303o Paulo \tSão Paulo\nNew York\tNeu York\n"
    pairs = read_titles(write(tmp_path / "t.tsv", text))
    assert pairs == [("New York", "New York"), ("São Paulo", "São Paulo"), ("New York", "Neu York")]
    assert all(unicodedata.is_normalized("NFC", cell) for pair in pairs for cell in pair)


def test_title_tables_with_faults(tmp_path: Path) -> None:
    path = write(tmp_path / "t.tsv", "A\tB\nA\nA\tB\tC\n\tB\n")
    with pytest.raises(DataError) as caught:
        read_titles(path)
    assert str(caught.value).splitlines() == [
        f"{path}:2: 1 columns; write the source title, a tab and the target title",
        f"{path}:3: 3 columns; write the source title, a tab and the target title",
        f"{path}:4: an empty title; write the source title, a tab and the target title",
    ]
    with pytest.raises(DataError, match=":1: no pair of titles"):
        read_titles(write(path, "\n"))
