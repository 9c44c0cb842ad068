from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from xlt_engine import ConfigError
from xlt_engine.data import read_conll
from xlt_engine.data.corpus.title_links import LinkRules, PageFacts, add_aliases, entity_surfaces, link_table, link_wiki
from xlt_engine.data.corpus.wiki_source import FileWiki, SourceFiles, target_redirects
from xlt_engine.data.readers.example import Example


def tagged(*pairs: tuple[str, str]) -> Example:
    words, labels = zip(*pairs, strict=True)
    return Example("x:1", "en", words, None, None, labels, "x", 1)


class MadeWiki:
    """Pages by title with their redirect; how often it is asked is counted."""

    def __init__(self, pages: dict[str, str | None], links: dict[str, str], lists: tuple[str, ...] = ()) -> None:
        self.facts = {t: PageFacts(n, to, t in lists) for n, (t, to) in enumerate(pages.items(), 1)}
        self.targets, self.asked = links, 0

    def pages(self, titles: set[str]) -> dict[str, PageFacts]:
        self.asked += 1
        return {t: self.facts[t] for t in titles if t in self.facts}

    def links(self, pages: Mapping[str, int]) -> dict[str, str]:
        assert all(self.facts[title].page_id == number for title, number in pages.items())
        return {t: self.targets[t] for t in pages if t in self.targets}


def test_entities_of_tags() -> None:
    one = tagged(("In", "O"), ("New", "B-LOC"), ("York", "I-LOC"), ("Anna", "B-PER"), ("Berta", "B-PER"), (".", "O"))
    two = tagged(("Anna", "B-PER"), ("of", "O"), ("Cafe\u0301", "B-ORG"), ("Sa\u0303o", "I-ORG"))
    odd = tagged(("A", "I-LOC"), ("B", "B-LOC"), ("C", "I-PER"))
    assert entity_surfaces([one, two]) == {"New York": 1, "Anna": 2, "Berta": 1, "Café São": 1}
    assert entity_surfaces([odd]) == {"B": 1}
    assert entity_surfaces([Example("x:1", "en", None, "text", None, "positive", "x", 1)]) == {}


def test_table() -> None:
    rows = [("Munich", "München"), ("Munich", "Minga"), ("Munich", "München"), ("Sa\u0303o_Paulo", "São Paulo")]
    links = link_table(["Munich", "São Paulo", "Nowhere", "munich"], rows, LinkRules())
    assert links.titles == {"Munich": ("München", "Minga"), "São Paulo": ("São Paulo",), "munich": ("München", "Minga")}
    assert links.fates["Nowhere"] == "missing"
    assert links.patterns == ["Minga", "München", "São Paulo"]
    assert (links.counts["linked"], links.counts["missing"], links.counts["first-letter"]) == (3, 1, 1)
    strict = link_table(["munich"], rows, LinkRules(first_letter=False))
    assert strict.fates == {"munich": "missing"}


def test_qualifiers() -> None:
    rows = [("Mercury", "Merkur (Planet)"), ("Odd", "(500)"), ("Tokyo", "東京（曖昧）")]
    exact = link_table(["Mercury", "Odd", "Tokyo"], rows, LinkRules())
    assert exact.patterns == ["(500)", "Merkur (Planet)", "東京（曖昧）"]
    stripped = link_table(["Mercury", "Odd", "Tokyo"], rows, LinkRules(strip_qualifier=True))
    assert stripped.patterns == ["(500)", "Merkur", "東京"]
    assert stripped.counts["qualifier-stripped"] == 2


def test_wiki_rules() -> None:
    wiki = MadeWiki(
        {
            "Rome": None,
            "Roma": "Rome",
            "Old Roma": "Roma",
            "A": "B",
            "B": "A",
            "Self": "Self",
            "Gone": "Nothing here",
            "Mercury": None,
            "To Mercury": "Mercury",
            "Local": None,
            "IPod": None,
        },
        {"Rome": "Rom", "Mercury": "Merkur", "IPod": "iPod"},
        lists=("Mercury",),
    )
    asked = ["Rome", "Roma", "Old Roma", "A", "Self", "Gone", "Mercury", "To Mercury", "Local", "iPod", "None"]
    links = link_wiki(asked, wiki, LinkRules())
    assert links.titles == {"Rome": ("Rom",), "Roma": ("Rom",), "Old Roma": ("Rom",), "iPod": ("iPod",)}
    assert links.fates == {
        **dict.fromkeys(["Rome", "Roma", "Old Roma", "iPod"], "linked"),
        **dict.fromkeys(["A", "Self"], "loop"),
        **dict.fromkeys(["Mercury", "To Mercury"], "disambiguation"),
        **dict.fromkeys(["Gone", "None"], "missing"),
        "Local": "no-link",
    }
    counts = {name: links.counts[name] for name in ("through-redirect", "through-chain", "first-letter", "linked")}
    assert counts == {"through-redirect": 3, "through-chain": 1, "first-letter": 1, "linked": 4}
    assert wiki.asked == 2, "one pass for the surfaces, one for where redirects lead that was not asked for"


def test_wiki_rules_switched_off() -> None:
    wiki = MadeWiki({"Roma": "Rome", "Rome": None, "M": None}, {"Rome": "Rom", "M": "Merkur"}, lists=("M",))
    links = link_wiki(["Roma", "M", "rome"], wiki, LinkRules(redirects=False, disambiguation=False, first_letter=False))
    assert links.fates == {"Roma": "missing", "M": "linked", "rome": "missing"}
    assert wiki.asked == 1


@pytest.mark.parametrize(("steps", "fate"), [(8, "linked"), (9, "loop")])
def test_long_chains_are_loops(steps: int, fate: str) -> None:
    pages: dict[str, str | None] = {f"P{i}": f"P{i + 1}" for i in range(steps)}
    wiki = MadeWiki({**pages, f"P{steps}": None}, {f"P{steps}": "Ziel"})
    assert link_wiki(["P0"], wiki, LinkRules()).fates["P0"] == fate


def test_aliases() -> None:
    links = link_table(["Rome", "Oslo"], [("Rome", "Rom"), ("Oslo", "Oslo")], LinkRules())
    add_aliases(links, [("Ewige Stadt", "Rom"), ("Roma", "Rom"), ("Christiania", "Oslo"), ("X", "Y"), ("Oslo", "Rom")])
    assert links.titles == {"Rome": ("Rom", "Ewige Stadt", "Roma"), "Oslo": ("Oslo", "Christiania")}
    assert links.counts["target-aliases"] == 3


@pytest.fixture(scope="module")
def plan(planted: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return planted.make_planted(tmp_path_factory.mktemp("wiki"), language="de")


@pytest.mark.parametrize("way", ["tables", "dump", "dump and wikidata", "all"])
def test_files_of_the_planted_wiki(plan: Any, way: str) -> None:
    files = plan.files
    tables = {"page": files["page_sql"], "redirect": files["redirect_sql"], "page_props": files["page_props_sql"]}
    given = {
        "tables": SourceFiles(**tables, langlinks=files["langlinks_sql"]),
        "dump": SourceFiles(dump=files["source_xml"], langlinks=files["langlinks_sql"]),
        "dump and wikidata": SourceFiles(dump=files["source_xml"], items=files["sites_sql"]),
        "all": SourceFiles(files["source_xml"], **tables, langlinks=files["langlinks_sql"], items=files["sites_sql"]),
    }[way]
    surfaces = entity_surfaces(read_conll(files["train"]))
    links = link_wiki(surfaces, FileWiki(given, "en", "de"), LinkRules())
    assert {s: t[0] for s, t in links.titles.items()} == plan.links
    unlinked = {s: fate for s, fate in links.fates.items() if fate != "linked"}
    assert unlinked == plan.unlinked


def test_wikidata_alone_knows_no_redirects(plan: Any) -> None:
    files = plan.files
    wiki = FileWiki(SourceFiles(items=files["sites_sql"]), "en", "de")
    direct = {e.surface: e.target for e in plan.entities if e.kind == "direct"}
    links = link_wiki([*direct, "Nowhere"], wiki, LinkRules())
    assert {s: t[0] for s, t in links.titles.items()} == direct
    assert links.fates["Nowhere"] == "no-link"


def test_redirects_of_the_target(plan: Any) -> None:
    pairs = dict(target_redirects(plan.files["target_xml"]))
    aliases = {e.alias: e.target for e in plan.entities if e.alias}
    assert pairs == aliases
    assert aliases


def test_files_that_do_not_suffice(tmp_path: Path) -> None:
    path = tmp_path / "x"
    for files, part in (
        (SourceFiles(dump=path), "no language links"),
        (SourceFiles(langlinks=path), "page numbers only"),
        (SourceFiles(redirect=path, items=path), "page numbers only"),
    ):
        with pytest.raises(ConfigError, match=part):
            FileWiki(files, "en", "de")
