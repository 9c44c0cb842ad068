"""SQL dumps, Wikidata's table of sites, and title tables."""

from __future__ import annotations

import gzip
import importlib.util
import sys
import types
import unicodedata
from pathlib import Path

import pytest

from xlt_engine import DataError
from xlt_engine.data.corpus import wiki_files
from xlt_engine.data.corpus.wiki_tables import (
    PageRow,
    RedirectRow,
    TableRows,
    read_disambiguations,
    read_langlinks,
    read_page,
    read_redirects,
    read_site_links,
    read_site_pairs,
    read_titles,
)

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


@pytest.fixture(scope="module")
def planted() -> types.ModuleType:
    spec = importlib.util.spec_from_file_location("planted_wiki", Path(__file__).with_name("planted_wiki.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["planted_wiki"] = module
    spec.loader.exec_module(module)
    return module


GERMAN = [
    (1, 'O\'Neill "A" \\B'),
    (2, "New York, (Stadt)"),
    (3, "It's"),
    (4, ""),
    (6, "Zeile\nzwei\0\x1a"),
]


@pytest.mark.parametrize("size", [1 << 20, 1, 7, 64])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_rows_with_escapes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, suffix: str) -> None:
    monkeypatch.setattr(wiki_files, "BLOCK", size)
    monkeypatch.setattr(wiki_files, "PIECE", size)
    data = (OTHER + LANGLINKS + OTHER).encode()
    path = write(tmp_path / f"langlinks.sql{suffix}", gzip.compress(data) if suffix else data)
    assert list(read_langlinks(path, "de")) == GERMAN
    assert list(read_langlinks(path, "fr")) == [(1, "a),(b;")]
    assert list(read_langlinks(path, "als")) == [(5, "Zürich")]


def test_numbers_null_and_bytes(tmp_path: Path) -> None:
    text = (
        b"INSERT INTO `langlinks` (`a`, `ll_from`, `b`, `c`, `d`, `ll_lang`, `ll_title`) VALUES\n"
        b"(-3,1,NULL,0.25,'','de',_binary 'ab\xc3'),\n(4,2,1e-3,0x4A,NULL,'de','\xc3\xa4'),(-1,3,0,0,0,'de',NULL);\n"
    )
    rows = list(read_langlinks(write(tmp_path / "l.sql", text), "de"))
    assert rows == [(1, "ab\ufffd"), (2, "ä"), (3, "")]


def test_columns_come_from_the_file(tmp_path: Path) -> None:
    """The table `page` has lost a column over the years; without CREATE TABLE the present order holds."""
    old = (
        "CREATE TABLE `page` (\n  `page_id` int,\n  `page_namespace` int,\n  `page_title` varbinary(255),\n"
        "  `page_restrictions` tinyblob,\n  `page_is_redirect` tinyint\n) ENGINE=InnoDB;\n"
        "INSERT INTO `page` VALUES (7,0,'Sa\u0303o_Paulo','',1),(8,14,'Ort','',0),(9,0,'B','',0);\n"
    )
    path = write(tmp_path / "page.sql", old)
    assert list(read_page(path)) == [PageRow(7, 0, "São Paulo", True), PageRow(9, 0, "B", False)]
    assert list(read_page(path, namespace=14)) == [PageRow(8, 14, "Ort", False)]
    assert len(list(read_page(path, namespace=None))) == 3
    bare = "INSERT INTO `page` VALUES (7,0,'A',1,0,0.1,'2026',NULL,5,6,'wikitext',NULL);\n"
    assert list(read_page(write(tmp_path / "bare.sql", bare))) == [PageRow(7, 0, "A", True)]
    missing = old.replace("page_is_redirect", "page_is_moved")
    with pytest.raises(DataError, match="the table page has no column page_is_redirect"):
        list(read_page(write(tmp_path / "missing.sql", missing)))


def test_redirects_and_page_props(tmp_path: Path) -> None:
    rows = "INSERT INTO `redirect` VALUES (1,0,'New_York','',''),(2,0,'X','wikt',NULL),(3,4,'Y',NULL,'Teil_1');\n"
    assert list(read_redirects(write(tmp_path / "r.sql", rows))) == [
        RedirectRow(1, 0, "New York", "", ""),
        RedirectRow(2, 0, "X", "wikt", ""),
        RedirectRow(3, 4, "Y", "", "Teil_1"),
    ]
    rows = "INSERT INTO `page_props` VALUES (5,'disambiguation','',NULL),(6,'wikibase_item','Q1',NULL);\n"
    assert read_disambiguations(write(tmp_path / "p.sql", rows)) == {5}


def test_sites_of_wikidata(tmp_path: Path) -> None:
    rows = (
        "INSERT INTO `wb_items_per_site` VALUES (1,90,'enwiki','Paris'),(2,90,'dewiki','Paris (Stadt)'),"
        "(3,64,'dewiki','Berlin'),(4,64,'enwiki','Berlin'),(5,64,'zh_yuewiki','柏林'),(6,65,'enwiki','X');\n"
    )
    path = write(tmp_path / "w.sql", rows)
    assert list(read_site_links(path, {"zh_yuewiki"})) == [(64, "zh_yuewiki", "柏林")]
    assert read_site_pairs(path, "en", "de", {"Paris", "Berlin", "X"}) == {"Paris": "Paris (Stadt)", "Berlin": "Berlin"}
    assert read_site_pairs(path, "en", "zh-yue", {"Berlin"}) == {"Berlin": "柏林"}
    assert read_site_pairs(path, "en", "de", {"Rom"}) == {}


def drain(path: Path) -> tuple[int, str]:
    """How many rows come out before the error, and what it says."""
    count = 0
    try:
        for _ in TableRows(path, "langlinks").rows():
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
    assert f"the file ends at byte {len(packed) // 2}, in the middle of the .gz stream from byte 0" in said


def test_a_table_without_rows(tmp_path: Path) -> None:
    empty = LANGLINKS[: LANGLINKS.index("INSERT")]
    assert list(read_langlinks(write(tmp_path / "l.sql", empty), "de")) == []


def test_a_damaged_row_does_not_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xlt_engine.data.corpus.wiki_tables._ROW_LIMIT", 5000)
    monkeypatch.setattr(wiki_files, "BLOCK", 1000)
    head = LANGLINKS[: LANGLINKS.index(",(2,'de'")]
    count, said = drain(write(tmp_path / "l.sql", head + ",(2,'de','" + "x" * 100_000 + "');\n"))
    assert (count, "no whole row" in said) == (2, True)


@pytest.mark.parametrize("language", ["de", "ja"])
def test_planted_wiki_is_linked_as_planned(tmp_path: Path, planted: types.ModuleType, language: str) -> None:
    """The tables alone, without the package's rules: redirects followed, loops and disambiguation pages left out."""
    plan = planted.make_planted(tmp_path, language=language)
    rows = {row.title: row for row in read_page(plan.files["page_sql"])}
    redirects = {row.page_id: row.title for row in read_redirects(plan.files["redirect_sql"])}
    links = dict(read_langlinks(plan.files["langlinks_sql"], language))
    skipped = read_disambiguations(plan.files["page_props_sql"])
    found = {}
    for entity in plan.entities:
        title, seen = planted.nfc(entity.surface), set()
        while title in rows and rows[title].is_redirect and title not in seen:
            seen.add(title)
            title = redirects[rows[title].page_id]
        row = rows.get(title)
        if row and not row.is_redirect and row.page_id not in skipped and row.page_id in links:
            found[planted.nfc(entity.surface)] = links[row.page_id]
    assert found == plan.links
    assert len(found) > 50
    assert set(plan.unlinked.values()) == {"loop", "missing", "no-link", "disambiguation"}
    pages = {e.page for e in plan.entities if e.target}
    pairs = read_site_pairs(plan.files["sites_sql"], "en", language, pages)
    assert pairs == {e.page: e.target for e in plan.entities if e.target}
    assert dict(read_titles(plan.files["titles"])) == plan.links


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
