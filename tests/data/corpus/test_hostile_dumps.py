"""Dumps and extracted articles that were made to cost time, memory or a traceback."""

import time
from pathlib import Path

import pytest

from xlt_engine import DataError
from xlt_engine.data.corpus import wiki_source as wiki_tables
from xlt_engine.data.corpus.wiki_dump import read_articles, read_pages
from xlt_engine.data.corpus.wiki_source import FileWiki, SourceFiles, table_rows
from xlt_engine.data.corpus.wiki_text import to_text

CHEAP = 20.0
"""Ten times the 2 CPU seconds that a hostile file may take."""


def refused(path: Path, table: str = "page") -> str:
    began = time.process_time()
    with pytest.raises(DataError) as caught:
        list(table_rows(path, table))
    assert time.process_time() - began < CHEAP
    assert str(path) in (said := str(caught.value))
    assert len(said) < 5000
    return said


@pytest.mark.parametrize("article", ["[" * 100_000, "1" * 5000, '{"text": ' * 5000, '{"text": 1' + "0" * 5000 + "}"])
def test_articles_that_json_cannot_hold(tmp_path: Path, article: str) -> None:
    path = tmp_path / "wiki_00"
    path.write_text('{"text": "a"}\n' + article + "\n", "utf-8")
    articles = read_articles(path)
    assert next(articles) == "a"
    with pytest.raises(DataError, match=r"wiki_00:2: not JSON"):
        next(articles)


@pytest.mark.parametrize("number", ["'7'", "1.2.3", "0-", "NULL", "-7", "1" * 5000, "0x7"])
@pytest.mark.parametrize("table", ["page", "langlinks", "redirect", "page_props"])
def test_what_is_no_number_of_a_page(tmp_path: Path, table: str, number: str) -> None:
    path = tmp_path / "t.sql"
    path.write_text(f"INSERT INTO `{table}` VALUES ({number},0,'A',1);\n", "utf-8")
    assert f"row 1 of {table}" in refused(path, table)


def test_odd_numbers_are_errors_for_who_asks_for_titles(tmp_path: Path) -> None:
    """Another place of the text than the reader's own."""
    pages, links = tmp_path / "p.sql", tmp_path / "l.sql"
    pages.write_text("INSERT INTO `page` VALUES (1,0,'A',0);\n", "utf-8")
    links.write_text("INSERT INTO `langlinks` VALUES ('x','de','A');\n", "utf-8")
    wiki = FileWiki(SourceFiles(page=pages, langlinks=links), "en", "de")
    assert wiki.pages({"A"})["A"].page_id == 1
    with pytest.raises(DataError, match=r"l\.sql: row 1 of langlinks: b\"'x'\" is no page"):
        wiki.links({"A": 1})


def test_rows_with_too_few_or_too_many_values(tmp_path: Path) -> None:
    path = tmp_path / "t.sql"
    path.write_text("INSERT INTO `page` VALUES (1,0);\n", "utf-8")
    assert "has 2 values, too few" in refused(path)
    path.write_text(f"INSERT INTO `page` VALUES ({'1,' * 500_000}1);\n", "utf-8")
    assert "500001 values for the 4096 columns" in refused(path)
    for count, said in ((50_000, "50000 values for"), (40, "has no column page_id; it has c0, c1")):
        columns = "".join(f"  `c{i}` int,\n" for i in range(count))
        row = f"INSERT INTO `page` VALUES ({'1,' * (count - 1)}1);\n"
        path.write_text(f"CREATE TABLE `page` (\n{columns});\n{row}", "utf-8")
        assert said in refused(path)


def test_statements_that_do_not_begin_or_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "t.sql"
    path.write_text("INSERT INTO `page`" + " " * 1_000_000, "utf-8")
    assert "no table 'page'" in refused(path)
    path.write_text("CREATE TABLE `page` (" * 50_000, "utf-8")
    assert "no table 'page'" in refused(path)
    monkeypatch.setattr(wiki_tables, "LONGEST", 1000)
    for text in ("CREATE TABLE `page` (\n" + "  `a` int,\n" * 1000, "x" * 5000):
        path.write_text(text, "utf-8")
        assert "no whole row of page begins here" in refused(path)


def test_pages_with_numbers_of_thousands_of_digits(tmp_path: Path) -> None:
    path, page = tmp_path / "d.xml", "<page><title>A</title><ns>{}</ns><id>{}</id><text>a</text></page>"
    for numbers in (("0" * 5000, "1"), ("0", "1" * 5000)):
        path.write_text("<mediawiki>\n" + page.format(*numbers) + "</mediawiki>", "utf-8")
        with pytest.raises(DataError, match="has no title, ns and id"):
            list(read_pages(path))


@pytest.mark.parametrize(
    "markup",
    ["[//" + "a" * 200_000, "[[a" + "(" * 200_000 + "|]]", "[//a " * 50_000, "{{" * 200_000, "<ref>" * 50_000],
    ids=lambda text: text[:5],
)
def test_markup_is_read_in_linear_time(markup: str) -> None:
    began = time.process_time()
    to_text(markup, "de")
    assert time.process_time() - began < CHEAP


@pytest.mark.parametrize("digits", ["9" * 9, "1" * 5000, "x" + "f" * 5000, "X0" + "1" * 9])
def test_characters_with_thousands_of_digits(digits: str) -> None:
    for markup in ("a &#{}; b", "a &#{} b", "a <nowiki>&#{};</nowiki> b"):
        assert to_text(markup.format(digits), "de") == "a \ufffd b"
    assert to_text(f"a &#{'0' * 20}65; &#x{'0' * 20}42;", "de") == "a A B"


def test_the_pipe_trick() -> None:
    assert to_text("[[Merkur (Planet)|]] [[A(B)|]] [[C (D) E|]] [[F (G (H))|]] [[(I)|]]", "de") == "Merkur A C (D) E F"
