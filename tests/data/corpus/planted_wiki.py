"""A made pair of wikis whose entities, links and sentences are known: the truth for tests and benchmarks of `corpus`.

The source wiki is English, the target German or Japanese. All names are made of syllables, so that no name occurs where
it was not planted; the sentences around them are real words. Everything is a function of the arguments.
"""

import bz2
import gzip
import html
import json
import random
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

LANGUAGES = ("de", "ja")
SOURCE = "en"
_SYLLABLES = [c + v for c in ("k", "z", "v", "dr", "kl", "m", "t", "p", "x", "qu") for v in ("a", "e", "i", "o", "u")]
_KANA = "カキクケコサシスセソタチツテトナニヌネノハヒフヘホマミムメモラリルレロガギグゲゴザジズゼゾ"
_FRAMES = {
    "de": (
        "Im Sommer des Jahres {n} besuchte der Minister {} und sprach mit den Bürgern.",
        "Die Zeitung berichtete am Abend über {} und nannte {n} Gründe dafür.",
        "Nach Angaben der Behörde stimmten {n} Mitglieder des Vereins gegen {}, aber das Ergebnis blieb offen.",
        "{} gehört seit dem Vertrag Nummer {n} zu den wichtigsten Partnern des Landes.",
        "Der Fluss entspringt, wie z. B. {}, nördlich der alten Straße {n} in den Bergen.",
        "Dr. Weber kennt {} seit dem 3. Oktober und hat {n} Briefe darüber geschrieben.",
        "Warum wurde {} in der Ausgabe {n} nicht erwähnt?",
        "Auf Seite {n} steht, dass „{}“ schon im Mittelalter bekannt war!",
        "Zwischen {} und der Küste liegen {n} kleine Dörfer.",
    ),
    "ja": (
        "大臣は{n}年の夏に{}を訪れて、市民と話をした。",
        "新聞は夜に{}について{n}の理由を伝えた。",
        "{}は第{n}号の条約から、この国の大切な仲間である。",
        "なぜ{n}号では{}が書かれなかったのか？",
        "「{}は昔から知られていた」と{n}人の学者が述べた。",
        "川は{}の北の山から始まり、{n}の村を通る。",
    ),
}
_PLAIN = {"de": ("die Gemeinde", "das Rathaus", "der Hafen", "die Schule"), "ja": ("学校", "駅", "町", "港")}
_TEMPLATES = {
    "de": ("Begriffsklärung", "Datei", "Kategorie", "Weiterleitung", "mini"),
    "ja": ("曖昧さ回避", "ファイル", "カテゴリ", "転送", "サムネイル"),
}


@dataclass
class Entity:
    """One entity of the source training set: its surface there, its fate, its title in the target."""

    surface: str
    kind: str
    page: str | None = None
    target: str | None = None
    chain: tuple[str, ...] = ()
    alias: str | None = None


@dataclass
class Planted:
    """Where the files are and what is true of them; sentences and titles are NFC."""

    folder: Path
    language: str
    entities: list[Entity] = field(default_factory=list)
    files: dict[str, Path] = field(default_factory=dict)
    expected: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Sentence of the target dump -> the target titles that stand in it, in their order."""
    expected_with_aliases: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """The further sentences that are found where redirects of the target wiki count as names."""
    decoys: set[str] = field(default_factory=set)
    """Visible sentences that must not be found, though a name or part of one is in them or near them."""
    pages: int = 0

    @property
    def links(self) -> dict[str, str]:
        """Source surface (NFC) -> target title, of the entities that have one."""
        return {nfc(e.surface): e.target for e in self.entities if e.target}

    @property
    def unlinked(self) -> dict[str, str]:
        """Source surface (NFC) -> why it has no target: missing, loop, disambiguation, no-link."""
        return {nfc(e.surface): e.kind for e in self.entities if not e.target}


def nfc(text: str) -> str:
    """Composed form."""
    return unicodedata.normalize("NFC", text)


class _Names:
    """Made names, each unique; a Japanese name, which ends in a kana of its own, is never part of another."""

    def __init__(self, language: str, rng: random.Random) -> None:
        self.language, self.rng = language, rng
        self.seen: set[str] = set()
        self.ends: set[str] = set()

    def source(self) -> str:
        """A capitalised word of three or four syllables."""
        return self._new(lambda: "".join(self.rng.choices(_SYLLABLES, k=self.rng.choice((3, 4)))).capitalize())

    def target(self, source: str) -> str:
        """The same name in German; other letters in Japanese."""
        if self.language == "de":
            return source
        name = self._new(lambda: "".join(self.rng.choices(_KANA, k=self.rng.choice((3, 4, 5)))) + "ン")
        ends = {name[start:] for start in range(1, len(name))}
        if name in self.ends or ends & self.seen:
            return self.target(source)
        self.ends |= ends
        return name

    def _new(self, draw: object) -> str:
        while (name := draw()) in self.seen:  # type: ignore[operator]
            pass
        self.seen.add(name)
        return name


def make_entities(language: str, bulk: int, rng: random.Random) -> tuple[list[Entity], dict[str, str]]:
    """The entities of every kind, then `bulk` ordinary ones; and the nested and decoy names of the target."""
    names = _Names(language, rng)

    def pair() -> tuple[str, str]:
        source = names.source()
        return source, names.target(source)

    def joined(*parts: str) -> str:
        return (" " if language == "de" else "").join(parts)

    out: list[Entity] = []
    for number in range(6):
        s, t = pair()
        out.append(Entity(s, "direct", s, t))
        s, t = pair()
        out.append(Entity(f"Old {s}", "redirect", s, t, (f"Old {s}",)))
        s, t = pair()
        out.append(Entity(f"First {s}", "chain", s, t, (f"First {s}", f"Second {s}", f"Third {s}")))
        s, t = pair()
        out.append(Entity(s, "loop", None, None, (s, f"{s} Again", f"{s} Anew")))
        out.append(Entity(pair()[0], "missing"))
        s = pair()[0]
        out.append(Entity(s, "no-link", s))
        s = pair()[0]
        out.append(Entity(s, "disambiguation", s))
        s = pair()[0]
        out.append(Entity(f"Late {s}", "disambiguation", s, None, (f"Late {s}",)))
        s, t = pair()
        page, target = f"S{s}ão Éà", f"S{s}ão Éà" if language == "de" else f"{t}パガ"
        # Written decomposed in the training set; composed, as MediaWiki stores titles, in the dumps.
        out.append(Entity(unicodedata.normalize("NFD", page), "decomposed", page, target))
        s, t = pair()
        out.append(Entity(f"O'{s} & Sons", "escaped", f"O'{s} & Sons", f"O'{s} & Söhne" if language == "de" else t))
        s, t = pair()
        alias = names.target(names.source())
        out.append(Entity(s, "target-redirect", s, t, (), alias))
        if number < 3:
            s, t = pair()
            out.append(Entity(f"New {s}", "nested", f"New {s}", joined("Nova" if language == "de" else "新", t)))
            bay = joined("Nova" if language == "de" else "新", t, "Bucht" if language == "de" else "湾")
            out.append(Entity(f"New {s} Bay", "nested", f"New {s} Bay", bay))
    out += [Entity(s, "direct", s, t) for s, t in (pair() for _ in range(bulk))]
    decoys = {"disambiguation-target": names.target(names.source()), "stranger": names.target(names.source())}
    return out, decoys


class _Writer:
    """Target sentences, each with a serial number, so that none occurs twice by chance."""

    def __init__(self, plan: Planted, rng: random.Random) -> None:
        self.plan, self.rng, self.serial = plan, rng, 1000
        self.text: list[str] = []

    def frame(self, name: str) -> str:
        self.serial += 1
        frames = _FRAMES[self.plan.language]
        line = frames[self.rng.randrange(len(frames))].replace("{n}", str(self.serial)).replace("{}", name)
        return line[0].upper() + line[1:]

    def filler(self) -> str:
        return self.frame(self.rng.choice(_PLAIN[self.plan.language]))

    def mention(self, title: str, *more: str) -> str:
        line = self.frame(title)
        for other in more:
            line = line[:-1] + (f", nicht {other}" if self.plan.language == "de" else f"、{other}も") + line[-1]
        self.plan.expected[nfc(line)] = tuple(sorted((title, *more), key=line.index))
        return line

    def decoy(self, name: str) -> str:
        line = self.frame(name)
        self.plan.decoys.add(nfc(line))
        return line

    def paragraph(self, *sentences: str) -> str:
        return (" " if self.plan.language == "de" else "").join(sentences)


def _forms(name: str) -> dict[str, str]:
    return {
        "plain": name,
        "link": f"[[{name}]]",
        "piped": f"[[{name} (Ort)|{name}]]",
        "bold": f"'''{name}'''",
        "bolditalic": f"'''''{name}'''''",
        "reference": f'{name}<ref name="x">Buch von {name}, [[Seite]] 3. {{{{Cite|a=[[b]]|{name}}}}}</ref>',
        "nbsp": name.replace(" ", "&nbsp;"),
        "half-link": f"[[{name[:3]}]]{name[3:]}" if " " not in name[:4] else f"[[{name}]]",
        "comment": f"{name[:2]}<!-- {name} -->{name[2:]}",
        "nowiki": f"<nowiki>{name}</nowiki>",
        "small": f"<small class='a'>{name}</small>",
        "external": f"[https://example.org/{len(name)} {name}]",
        "template": f"{name}{{{{Anker|{name}|{{{{innen|x}}}}}}}}",
        "decomposed": unicodedata.normalize("NFD", name),
        "entity": "".join(f"&#{ord(c)};" if ord(c) > 127 else c for c in name),
        "two-parts": "''" + name.replace(" ", "'' [[", 1) + "]]" if " " in name else f"''{name}''",
    }


FORMS = list(_forms("x"))


def marked(line: str, name: str, how: str) -> str:
    """The sentence in wiki markup with the name written in one of many ways; the visible text stays as it was."""
    return line.replace(name, _forms(name)[how], 1)


def hidden_markup(name: str, language: str) -> str:
    """Places where a name is no part of the text: template, table, caption, gallery, category, comment, mathematics."""
    _, file, category, _, thumb = _TEMPLATES[language]
    return "\n".join(
        (
            f"{{{{Infobox|Name={name}|Lage={{{{Koordinate|{name}|[[{name}]]}}}}|Text=Wo liegt {name}?\n|Bild=x.jpg}}}}",
            f'{{| class="wikitable"\n|+ {name}\n! {name} !! Zahl\n|-\n| [[{name}]] || 3\n|-\n'
            f"| {{| \n| innen {name}\n|}}\n|}}",
            f"[[{file}:Bild.jpg|{thumb}|200px|Bild von [[{name}]] im Jahr 1900. Noch eines von {name}.]]",
            f"<gallery>\n{file}:A.jpg|{name}\n</gallery>",
            f"<math>{name}</math><!-- {name}\n{name} --><ref group='a'>{name}</ref><ref name='b' />",
            f"== {name} ==",
            f"[[{category}:{name}]]\n[[Category:{name}]]\n[[fr:{name}]]\n__NOTOC__",
        )
    )


def core_pages(plan: Planted, write: _Writer, extra: dict[str, str]) -> Iterator[tuple[str, int, str, str | None]]:
    """Title, namespace, wikitext and redirect target of the pages with the hard cases."""
    rng, language = write.rng, plan.language
    disambiguation, _, category, redirect, _ = _TEMPLATES[language]
    linked = [e for e in plan.entities if e.target]
    for entity in linked[:80]:
        title = str(entity.target)
        forms = FORMS if entity.kind != "decomposed" else [f for f in FORMS if f not in ("half-link", "comment")]
        lines = [marked(write.mention(title), title, how) for how in rng.sample(list(forms), 3)]
        hidden = hidden_markup(title, language)
        text = f"{hidden}\n\n{write.paragraph(write.filler(), lines[0], write.filler())}\n\n* {lines[1]}\n: {lines[2]}"
        yield f"Seite {title}", 0, text, None
        yield f"Diskussion:{title}", 1, write.frame(title), None
        yield f"{category}:{title}", 14, write.frame(title), None
        if entity.alias:
            line = write.frame(entity.alias)
            plan.expected_with_aliases[line] = (entity.alias,)
            yield f"Nebenseite {title}", 0, write.paragraph(write.filler(), line), None
            yield entity.alias, 0, f"#{redirect} [[{title}]]", title
    nested = [str(e.target) for e in linked if e.kind == "nested"]
    both = [write.mention(nested[0], nested[1]), write.mention(nested[3], nested[2])]
    yield "Beide", 0, write.paragraph(*both), None
    yield "Doppelt", 0, write.paragraph(both[0], write.filler()), None
    yield extra["disambiguation-target"], 0, f"{{{{{disambiguation}}}}}\n* [[A]]\n* [[B]]", None
    decoys = [write.decoy(e.page or e.surface) for e in plan.entities if not e.target and language == "de"]
    decoys.append(write.decoy(extra["stranger"]))
    if language == "de":
        plain = [str(e.target) for e in linked if e.kind == "direct"][:3]
        decoys += [write.decoy(f"{plain[0]}stan"), write.decoy(f"Sankt{plain[1]}")]
        decoys += [write.decoy(f"das {plain[2].lower()}")]
        decoys.append(write.decoy("Nova und Bucht"))
        # A link to the entity that shows another word.
        decoys.append(write.decoy("Hafenstadt").replace("Hafenstadt", f"[[{plain[0]}|Hafenstadt]]"))
    yield "Fremde", 0, write.paragraph(*decoys), None
    title = str(linked[0].target)
    yield "Kaputt", 0, f"{{{{Offen|{write.frame(title)}\n\n{write.filler()} [[Halb", None


def bulk_page(write: _Writer, titles: list[str], rng: random.Random, number: int) -> tuple[str, str]:
    """An ordinary page: infobox, paragraphs with links and references, a table; one page in three has a name."""
    language = write.plan.language
    _, file, category, _, thumb = _TEMPLATES[language]
    parts = [
        f"{{{{Infobox Ort\n| Name = Ort {number}\n| Einwohner = {rng.randrange(10**6)}\n| Bild = O{number}.jpg\n}}}}"
    ]
    named = rng.random() < 1 / 3
    for block in range(rng.randrange(3, 7)):
        lines = [write.filler() for _ in range(rng.randrange(3, 7))]
        word = write.plan.language == "de" and "Bürgern" or "市民"
        lines[0] = lines[0].replace(word, f"[[{word}]]") + (
            f"<ref>{{{{Literatur|Seite={number}}}}}</ref>" * (block % 2)
        )
        if named and block == 1:
            title = rng.choice(titles)
            lines.insert(1, marked(write.mention(title), title, rng.choice(("plain", "link", "piped", "reference"))))
        parts += [f"== Abschnitt {block} ==", write.paragraph(*lines)]
    if number % 3 == 0:
        parts.append(
            '{| class="wikitable"\n! Jahr !! Zahl\n|-\n' + "\n|-\n".join(f"| {y} || {y * 3}" for y in range(9)) + "\n|}"
        )
    parts.append(f"[[{file}:O{number}.jpg|{thumb}|Bild {number}]]\n[[{category}:Ort]]")
    return f"Ort {number}", "\n\n".join(parts)


_HEAD = """<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/" version="0.11" xml:lang="{lang}">
  <siteinfo>
    <sitename>Wikipedia</sitename>
    <dbname>{lang}wiki</dbname>
    <namespaces>
      <namespace key="0" case="first-letter" />
      <namespace key="14" case="first-letter">{category}</namespace>
    </namespaces>
  </siteinfo>
"""
_TAIL = "</mediawiki>\n"


def page_xml(title: str, namespace: int, page_id: int, text: str, redirect: str | None) -> str:
    """One page element as pages-articles has it."""
    link = f'    <redirect title="{html.escape(redirect)}" />\n' if redirect is not None else ""
    body = html.escape(text, quote=False).replace('"', "&quot;")
    return (
        f"  <page>\n    <title>{html.escape(title, quote=False)}</title>\n    <ns>{namespace}</ns>\n"
        f"    <id>{page_id}</id>\n{link}    <revision>\n      <id>{page_id + 10**6}</id>\n"
        f"      <timestamp>2026-11-01T00:00:00Z</timestamp>\n      <contributor>\n        <username>A</username>\n"
        f"        <id>7</id>\n      </contributor>\n      <model>wikitext</model>\n      <format>text/x-wiki</format>\n"
        f'      <text bytes="{len(text.encode())}" xml:space="preserve">{body}</text>\n'
        f"      <sha1>x</sha1>\n    </revision>\n  </page>\n"
    )


def sql_value(value: int | float | str | None) -> str:
    """A value as mysqldump writes it."""
    if value is None:
        return "NULL"
    if not isinstance(value, str):
        return str(value)
    for plain, escaped in (("\\", "\\\\"), ("'", "\\'"), ('"', '\\"'), ("\n", "\\n"), ("\0", "\\0")):
        value = value.replace(plain, escaped)
    return f"'{value}'"


def sql_dump(
    table: str, columns: list[str], rows: list[tuple[int | float | str | None, ...]], per_insert: int = 50
) -> str:
    """A table as mysqldump writes it: CREATE TABLE, then INSERT lines of many rows."""
    made = ",\n".join(f"  `{name}` varbinary(255) NOT NULL DEFAULT ''" for name in columns)
    out = [
        f"-- MySQL dump\n\nDROP TABLE IF EXISTS `{table}`;\nCREATE TABLE `{table}` (\n{made},\n"
        f"  PRIMARY KEY (`{columns[0]}`),\n  KEY `x` (`{columns[-1]}`)\n) ENGINE=InnoDB;\n"
    ]
    for start in range(0, len(rows), per_insert):
        values = ",".join("(" + ",".join(map(sql_value, row)) + ")" for row in rows[start : start + per_insert])
        out.append(f"INSERT INTO `{table}` VALUES {values};\n")
    return "".join(out)


def write_source(plan: Planted, extra: dict[str, str], rng: random.Random) -> None:
    """The training set, and the source wiki as XML and as SQL tables."""
    pages: list[tuple[str, int, str, str | None]] = []
    links: list[tuple[str, str, str]] = []
    for e in plan.entities:
        ends = (*e.chain[1:], e.chain[0] if e.kind == "loop" else e.page)
        pages += [(name, 0, f"#REDIRECT [[{to}]]", to) for name, to in zip(e.chain, ends, strict=False)]
        if e.page:
            note = "{{Disambiguation}}\n* [[A]]" if e.kind == "disambiguation" else f"'''{e.page}''' is a place."
            pages.append((e.page, 0, note, None))
            links.append((e.page, "fr", f"{e.page} (lieu)"))
        if e.page and (e.target or e.kind == "disambiguation"):
            links.append((e.page, plan.language, e.target or extra["disambiguation-target"]))
        if e.kind == "missing":  # the name exists in another namespace only
            pages.append((e.surface, 14, "A category.", None))
    rng.shuffle(pages)
    numbered = [(number, *page) for number, page in enumerate(pages, 11)]
    ids = {title: number for number, title, namespace, _, _ in numbered if namespace == 0}
    text = "".join(page_xml(f"Category:{t}" if ns else t, ns, number, body, to) for number, t, ns, body, to in numbered)
    head = _HEAD.format(lang=SOURCE, category="Category")
    _write(plan, "source_xml", "enwiki-pages-articles.xml", head + text + _TAIL)
    _write_tables(plan, numbered, ids, links)
    blocks = []
    for e in plan.entities:
        words = e.surface.split(" ")
        tagged = [f"{w}\t{'B' if i == 0 else 'I'}-LOC" for i, w in enumerate(words)]
        blocks.append("\n".join(["We\tO", "saw\tO", *tagged, ".\tO"]))
    _write(plan, "train", "train.conll", "\n\n".join(blocks) + "\n")
    _write(plan, "titles", "titles.tsv", "".join(f"{e.surface}\t{e.target}\n" for e in plan.entities if e.target))


def _write_tables(
    plan: Planted,
    numbered: list[tuple[int, str, int, str, str | None]],
    ids: dict[str, int],
    links: list[tuple[str, str, str]],
) -> None:
    def key(title: str) -> str:
        return title.replace(" ", "_")

    page = [(n, ns, key(t), int(to is not None), 0, 0.5, "20261101000000", None, n, 10, "wikitext", None)
            for n, t, ns, _, to in numbered]  # fmt: skip
    columns = (
        "page_id page_namespace page_title page_is_redirect page_is_new page_random page_touched page_links_updated "
        "page_latest page_len page_content_model page_lang"
    )
    _write(plan, "page_sql", "enwiki-page.sql.gz", sql_dump("page", columns.split(), page))
    redirect = [(n, ns, key(to), "", "" if n % 2 else None) for n, _, ns, _, to in numbered if to is not None]
    names = ["rd_from", "rd_namespace", "rd_title", "rd_interwiki", "rd_fragment"]
    _write(plan, "redirect_sql", "enwiki-redirect.sql.gz", sql_dump("redirect", names, redirect))
    rows = [(ids[t], lang, target) for t, lang, target in links]
    _write(
        plan,
        "langlinks_sql",
        "enwiki-langlinks.sql.gz",
        sql_dump("langlinks", ["ll_from", "ll_lang", "ll_title"], rows),
    )
    props = [(n, "disambiguation", "", None) for n, _, _, body, _ in numbered if "{{Disambiguation}}" in body]
    names = ["pp_page", "pp_propname", "pp_value", "pp_sortkey"]
    _write(plan, "page_props_sql", "enwiki-page_props.sql.gz", sql_dump("page_props", names, props))
    sites: list[tuple[int | float | str | None, ...]] = []
    for number, (title, lang, target) in enumerate((link for link in links if link[1] == plan.language), 1):
        sites += [(2 * number, number, f"{SOURCE}wiki", title), (2 * number + 1, number, f"{lang}wiki", target)]
    names = ["ips_row_id", "ips_item_id", "ips_site_id", "ips_site_page"]
    _write(plan, "sites_sql", "wikidata-wb_items_per_site.sql.gz", sql_dump("wb_items_per_site", names, sites))


def _write(plan: Planted, name: str, file: str, text: str) -> None:
    path = plan.folder / file
    data = text.encode("utf-8")
    path.write_bytes(gzip.compress(data, 1, mtime=0) if file.endswith(".gz") else data)
    plan.files[name] = path


def make_planted(
    folder: Path,
    *,
    language: str = "de",
    seed: int = 0,
    bulk_entities: int = 20,
    bulk_pages: int = 30,
    target_bytes: int = 0,
    pages_per_stream: int = 20,
    packed: bool = True,
) -> Planted:
    """Write both wikis and say what is in them.

    Args:
        folder: an existing folder; all files go there, `plan.files` names them: train, titles, source_xml, page_sql,
            redirect_sql, langlinks_sql, page_props_sql, sites_sql, target_xml, target_bz2 (multistream), target_gz,
            text (a sentence a line), articles (WikiExtractor's JSON lines).
        language: of the target, "de" or "ja".
        bulk_entities: ordinary entities beside the hard cases (some 70).
        bulk_pages: ordinary target pages, at least.
        target_bytes: go on with ordinary pages until the target XML has this size.
        packed: also write the packed and plain-text forms of the target.
    """
    rng = random.Random(f"{seed}-{language}")
    plan = Planted(folder, language)
    plan.entities, extra = make_entities(language, bulk_entities, rng)
    write_source(plan, extra, rng)
    _write_target(plan, extra, rng, bulk_pages, target_bytes, pages_per_stream, packed)
    return plan


def _write_target(
    plan: Planted, extra: dict[str, str], rng: random.Random, pages: int, size: int, per_stream: int, packed: bool
) -> None:
    write = _Writer(plan, rng)
    titles = [str(e.target) for e in plan.entities if e.kind == "direct"]
    path = plan.folder / f"{plan.language}wiki-pages-articles.xml"
    streams, stream, written, number = [], [], 0, 0
    head = _HEAD.format(lang=plan.language, category=_TEMPLATES[plan.language][2])

    def rest() -> Iterator[tuple[str, int, str, str | None]]:
        made = 0
        while made < pages or written < size:
            title, text = bulk_page(write, titles, rng, made)
            made += 1
            yield title, 0, text, None

    with path.open("wb") as file:
        written += file.write(head.encode())
        for source in (core_pages(plan, write, extra), rest()):
            for title, namespace, text, redirect in source:
                number += 1
                data = page_xml(title, namespace, number, text, redirect).encode()
                written += file.write(data)
                stream.append(data if packed else b"")
                if len(stream) == per_stream:
                    streams, stream = [*streams, b"".join(stream)] if packed else [], []
        file.write(_TAIL.encode())
    plan.pages, plan.files["target_xml"] = number, path
    if packed:
        _write_packed(plan, write, [head.encode(), *streams, b"".join(stream), _TAIL.encode()])


def _write_packed(plan: Planted, write: _Writer, streams: list[bytes]) -> None:
    path = plan.folder / f"{plan.language}wiki-pages-articles-multistream.xml.bz2"
    path.write_bytes(b"".join(bz2.compress(s) for s in streams if s))
    plan.files["target_bz2"] = path
    path = plan.folder / f"{plan.language}wiki-pages-articles.xml.gz"
    path.write_bytes(gzip.compress(b"".join(streams), 1, mtime=0))
    plan.files["target_gz"] = path
    lines = [*plan.expected, *plan.expected_with_aliases, *sorted(plan.decoys)]
    lines += [write.filler() for _ in range(len(lines))]
    write.rng.shuffle(lines)
    lines += lines[:5]  # duplicates
    text = [unicodedata.normalize("NFD", line) if n % 7 == 0 else line for n, line in enumerate(lines)]
    _write(plan, "text", f"{plan.language}.txt", "".join(f"{line}\n" for line in text))
    articles = [
        {
            "id": str(n),
            "url": f"https://example.org/?curid={n}",
            "title": f"Artikel {n}",
            "text": "\n".join(lines[n : n + 4]),
        }
        for n in range(0, len(lines), 4)
    ]
    _write(
        plan,
        "articles",
        "wiki_00.jsonl",
        "".join(json.dumps(a, ensure_ascii=n % 2 == 0) + "\n" for n, a in enumerate(articles)),
    )
