"""Wiki markup to text, disambiguation pages, and sentences: hand-written excerpts and the planted wiki."""

import random
import re
import time
import unicodedata

import pytest

from xlt_engine.data.corpus.sentence_split import sentences
from xlt_engine.data.corpus.wiki_text import is_disambiguation, to_text

PAGE = """\
{{Infobox Ort
| Name = Berlin
| Lage = {{Coordinate|NS=52/31|text={{{1|}}}|name=[[Berlin]]}}
}}
[[Datei:Tor.jpg|mini|hochkant=1.2|Das [[Brandenburger Tor]] [sic] im Jahr [https://example.org 1900]. {{Foto|x}}]]
'''Berlin''' ([[Lautschrift|'''b''']], {{IPA|bɛʁˈliːn}}) ist die [[Hauptstadt]] der
[[Deutschland|Bundesrepublik Deutschland]].<ref name="a/b">{{Literatur|Titel=Buch [[X]]}} Kein Text.</ref> Sie
liegt<ref name=a/>
an der ''[[Spree (Fluss)|Spree]]''.<!-- nicht
sichtbar -->

== Geschichte ==
{| class="wikitable"
! Jahr
|-
| 1237 || {{Zahl|1}}
|-
|
{|
| innen
|}
|}
* Erster Punkt mit [[Link]]s.
** Zweiter Punkt.
:; Eingerückt.
----
{{Hauptartikel|Geschichte Berlins}}
Am Ende ein Absatz, O'Neill&nbsp;schrieb „{{lang|en|x}}A&amp;B“ &ndash; 5&nbsp;&lt;&nbsp;7.

<gallery>
Datei:A.jpg|Text
</gallery><math>a<b</math>
__INHALTSVERZEICHNIS__
[[Kategorie:Ort in Berlin| ]][[en:Berlin]] [[Category:X]]
[[:Kategorie:Ort]] und [[:en:Berlin|englisch]] bleiben.
"""
TEXT = """\
Berlin (b) ist die Hauptstadt der Bundesrepublik Deutschland. Sie liegt an der Spree.
Erster Punkt mit Links.
Zweiter Punkt.
Eingerückt.
Am Ende ein Absatz, O'Neill schrieb „A&B“ – 5 < 7.
Kategorie:Ort und englisch bleiben."""


def test_a_whole_page() -> None:
    assert to_text(PAGE, "de") == TEXT


@pytest.mark.parametrize(
    ("markup", "text"),
    [
        # Templates and parameters, deep and with lone braces.
        ("a {{b|{{c|{{d}}}}}} e", "a e"),
        ("a {{b|{{{c|{{d}}}}}}} e {f} g", "a e {f} g"),
        ("a {{{1|x}}} b {{#if:{{{2|}}}|{{c}}}} d", "a b d"),
        ("{{a\n|b={|\n| c\n|}\n}}d", "d"),
        # Tables in tables; one after a colon.
        (":{|\n|a\n|-\n|{{b}}\n|}\nc", "c"),
        # References of all kinds.
        ('a<ref>b</ref> c<ref name="d" /> e<REF group=f>g\n\nh</REF>.', "a c e."),
        ("a<ref>b<br/>c <nowiki>[[</nowiki></ref>d", "ad"),
        ("a<ref name=x/ >b", "ab"),
        ("a<references>\n<ref>b</ref>\n</references>c", "ac"),
        # Tags.
        ("a<br>b<br />c", "a b c"),
        ("H<sub>2</sub>O <small class='x'>klein</small> <div style=\"a\">b</div>c", "H2O klein\nb\nc"),
        ("a < b und c > d, 3<4", "a < b und c > d, 3<4"),
        ("<blockquote>Zitat.</blockquote>Text", "Zitat.\nText"),
        ("<table><tr><td><table>a</table></td></tr></table>b", "b"),
        ("a<syntaxhighlight lang=x>{{b</syntaxhighlight>c<pre>d</pre>", "ac"),
        # Nowiki.
        ("a <nowiki>[[b]] '''c''' {{d}} &lt;e> * f</nowiki> g", "a [[b]] '''c''' {{d}} <e> * f g"),
        ("<nowiki />a<nowiki>\n</nowiki>b", "a b"),
        # Comments.
        ("a<!-- [[b -->c<!---->d", "acd"),
        # Links.
        ("[[a]]n [[b|c]]d [[e#f|g]] [[h (i)|]] [[j|k|l]]", "an cd g h k|l"),
        ("[[Wikipedia:A|B]] [[Bild:x.png]] [[IMAGE:y.png|60px]] [[Kategorie:Z]] [[File:a|[[b]] [[c|d]]]]e", "B e"),
        ("[[Star Trek: Picard]] [[2001: Odyssee|Film]] [[als:X]] [[zh-min-nan:Y]]", "Star Trek: Picard Film"),
        ("[https://a.org/b_(c) Text mit ''Wort''] [//d.org] [mailto:a b] [e]", "Text mit Wort [mailto:a b] [e]"),
        ("[[a|[b]]] c", "[b] c"),
        # Bold and italic.
        ("'''''a''' b'' ''c'' 'd' e's", "a b c 'd' e's"),
        ("L'''Iliade'' et '''gras'''", "L'Iliade et gras"),
        ("C'est l'''Iliade'' d'Homère", "C'est l'Iliade d'Homère"),
        ("''''a''''", "'a'"),
        # Entities and odd characters; composed.
        ("a&nbsp;b&#160;c&#x2009;d\u00ade\u200bf&ouml; A\u0308", "a b c d" + "efö Ä"),
        # What templates leave behind.
        ("A ({{b}}; {{c}}) d ({{e}}, f) g {{h}}, i {{j}}.", "A d (f) g, i."),
        # Lines.
        ("a\nb\n\nc\n d", "a b\nc d"),
        ("= a =\n=== b ===  \n====c====\nd\n1 = 2\n= 5", "d 1 = 2 = 5"),
        ("; Begriff : Erklärung\n#a\n*#:b", "Begriff : Erklärung\na\nb"),
        ("a\n-----\nb\n- c\n__NOTOC__ d_e__f", "a\nb - c d_e__f"),
        ("a\r\nb\r\n\r\nc", "a b\nc"),
        ("", ""),
    ],
)
def test_markup(markup: str, text: str) -> None:
    assert to_text(markup, "de") == text


@pytest.mark.parametrize(
    ("markup", "text"),
    [
        ("vor {{offen|a\n\nnach", "vor\nnach"),
        ("{{offen|{{zu}}\nnach {{auch zu}}.", "nach."),
        ("vor }} nach ]] Ende", "vor nach Ende"),
        ("{|\n| a\n|-\n! b\n\nnach", "nach"),
        ("{| offen\n{{x}}\n\nText {{y}} da.\n\n{|\n|c\n|}", "Text da."),
        ("vor |} nach\n|}\nEnde", "vor |} nach\nEnde"),
        ("[[Datei:x.jpg|mini|offen\n\nnach", "nach"),
        ("a [[halb\nb [[x|ganz]] [[lose|c", "a halb b ganz c"),
        ("a<ref>offen b<ref>zu</ref> c", "aoffen b c"),
        ("a <!-- offen\nb", "a\nb".replace("\n", " ")),
        ("<!-- zu --> a <!-- offen\nb <!-- c", "a b"),
        ("a <nowiki> [[b]]", "a b"),
        ("a <div b\n'''c ''d", "a <div b c d"),
        ("<math>x a", "x a"),
        ("[[[[[[a]]]]]]", "a"),
        ("{{{{{{", ""),
        ("[[a|b]", "b]"),
        ("&#xFFFFFFF; &unbekannt; & &#;", "\ufffd &unbekannt; & &#;"),
    ],
)
def test_broken_markup_loses_its_line_at_most(markup: str, text: str) -> None:
    assert to_text(markup, "de") == text


def test_any_markup_is_read() -> None:
    """Nothing raises, and a word between two blank lines never gets lost, whatever unclosed mark stands before it."""
    rng = random.Random(7)
    marks = re.findall(r"\S+", "{{ }} {| |} [[ ]] [ ] | ''' '' <ref> </ref> <ref /> <!-- --> <nowiki> </nowiki> * a")
    marks += ["\n", "== ", "ä ", *re.findall(r"\S+", "{ } <math> -{ }- __X__ &amp; Datei:")]
    for _ in range(3000):
        text = "".join(rng.choices(marks, k=rng.randrange(30)))
        for language in ("de", "zh"):
            out = to_text(text, language)
            assert out == out.strip()
            assert unicodedata.is_normalized("NFC", out)
            assert "\n\n" not in out
    for mark in re.findall(r"\S+", "{{ [[ [[Datei: {{{ <ref> <nowiki> ''' <!-- <math> {| [http://a <ref_name="):
        text = f"{mark} x\n\nWort bleibt.\n\n{{{{y}}}} <ref>z</ref>".replace("_", " ")
        assert to_text(text, "de").split("\n")[-1] == "Wort bleibt.", mark


def test_hostile_markup_takes_no_longer_than_its_length() -> None:
    begin = time.perf_counter()
    for mark in ("{{", "[[", "[[a|", "[", "<ref>", "<ref", "<!--", "<!--\n", "<nowiki>", "'''a", "{|\n", "<math><ref>"):
        to_text(mark * (60_000 // len(mark)), "de")
    to_text("a'''b " * 10_000 + "''", "fr")
    for mark in (".", ". ", "。", "「", "（。", "a.b", '."', "! »"):
        for language in ("de", "ja"):
            sentences(mark * (60_000 // len(mark)), language)
    assert time.perf_counter() - begin < 20


def test_languages_have_their_own_namespaces() -> None:
    assert to_text("[[Fichier:a.jpg|b]][[Catégorie:c]]d [[Datei:e|f]]", "fr") == "d f"
    assert to_text("[[ファイル:a.jpg|b]][[カテゴリ:c]]d\ne [[Category:x]]", "ja") == "de"
    assert to_text("[[Tập tin:a.jpg|b]][[Thể loại:c]]d", "vi") == "d"
    assert to_text("-{zh-hans:计算机; zh-hant:電腦;}-很好-{A|x}-", "zh") == "计算机很好x"
    assert to_text("[[Файл:a|b]] в", "ru") == "в"


@pytest.mark.parametrize(
    ("markup", "title", "answer"),
    [
        ("'''A''' kann sein:\n{{Begriffsklärung}}", "A", True),
        ("{{Begriffsklärungshinweis|B}} Text", "A", False),
        ("{{disambiguation|geo}}", "A", True),
        ("{{Place_name disambiguation}}", "A", True),
        ("a{{disambiguation needed|date=x}}", "A", False),
        ("{{Template:Hndis|a}}", "A", True),
        ("{{Homonymie de toponyme}}", "A", True),
        ("{{ Desambiguación }}", "A", True),
        ("{{地名の曖昧さ回避}}", "A", True),
        ("{{Неоднозначность}}", "A", True),
        ("__DISAMBIG__", "A", True),
        ("x", "Mercury (disambiguation)", True),
        ("x", "Merkur (Begriffsklärung)", True),
        ("x", "水星（曖昧さ回避）", True),
        ("x", "Begriffsklärung", False),
        ("Eine Begriffsklärung ist [[disambiguation]].", "Wikipedia", False),
    ],
)
def test_disambiguation(markup: str, title: str, answer: bool) -> None:
    assert is_disambiguation(markup, title) is answer


@pytest.mark.parametrize(
    ("language", "parts"),
    [
        ("en", ["Mr. Smith of the U.S. Navy came.", "J. R. R. Tolkien wrote it, i.e. the book.", "It cost $3.5."]),
        ("en", ['"Really?" he asked.', "See No. 5 and p. 7.", "He said no.", "Then (approx. 2 m) fell!", "Why?"]),
        ("en", ["It rained in the U.S. and in Washington, D.C.", "The rest (Smith et al. 1999) etc. was dry.", "End"]),
        ("de", ["Am 5. Mai 1999 kam er.", "Die 2. Liga u. a. gewann.", "Ludwig XIV. starb.", "Siehe Bd. 3, S. 12 ff."]),
        (
            "de",
            ["Er kam ca. 1900 in St. Gallen an, d. h. spät (vgl. M.).", "„Komm!“, rief er.", "Das war 1999.", "So."],
        ),
        ("de", ["Das kostet 3 Mio. Euro.", "Im 19. Jahrhundert lebte Karl d. Gr. nicht.", "Ende des 19.", "Die."]),
        ("de", ["Er aß Obst, Gemüse usw.", "Sie nicht.", "Prof. Dr. h. c. mult. Weber sprach.", "Dort z. B. Öl."]),
        (
            "fr",
            ["M. Dupont vit ici.", "C'est la p. 12, av. J.-C. environ.", "« Viens ! » dit-il.", "« Oui. »", "Non ?"],
        ),
        ("es", ["El Sr. García y la Dra. López vinieron.", "¿Qué?", "Nada.", "EE. UU. ganó.", "¡Sí!"]),
        ("it", ["Il sig. Rossi arrivò.", "Nacque nel 300 a.C. a Roma.", "L'on. Bianchi parlò.", "Fu così."]),
        ("nl", ["Dhr. Jansen kwam o.a. langs.", "Het was ca. 3 uur.", "Hij stond op.", "Alle foto's.", "De rest."]),
        ("pt", ["O Sr. Silva chegou à Av. Paulista.", "Foi em 300 a.C. em Roma.", "Sim!"]),
        ("ru", ["Он жил в г. Москве.", "Это был А. С. Пушкин.", "Да!"]),
        ("hi", ["यह एक वाक्य है।", "यह दूसरा है।"]),
        ("xx", ["One…", "Two... three.", "4 men.", "(Five.)", "[Six.]", "Www.example.org is."]),
    ],
)
def test_sentences(language: str, parts: list[str]) -> None:
    assert sentences(" ".join(parts), language) == parts
    assert sentences("\n".join(parts), language) == parts


@pytest.mark.parametrize(
    ("language", "parts"),
    [
        ("ja", ["今日は晴れ。", "「昔。今。」と彼は述べた。", "なぜ？", "（注。）そうだ！！", "終わり"]),
        ("ja", ["「本当ですか？」と聞いた。", "『本。』を読む。", "「はい。」", "彼は笑った。"]),
        ("zh", ["他说：“你好。”", "然后走了。", "《书！》很好。", "3.5公里？", "是…"]),
        ("zh-hant", ["他說：「你好。」", "然後走了。"]),
        ("yue", ["佢話好。", "係！"]),
    ],
)
def test_sentences_without_spaces(language: str, parts: list[str]) -> None:
    assert sentences("".join(parts), language) == parts


def test_no_letter_gets_lost() -> None:
    rng = random.Random(3)
    marks = [*".!?…。「」“”\"'()» \n", "a", "B", "z. B.", "Dr.", "3.", "XIV.", " ", "天", "？"]
    for _ in range(2000):
        text = "".join(rng.choices(marks, k=rng.randrange(40)))
        for language in ("de", "fr", "ja", "zh", "th"):
            found = sentences(text, language)
            assert "".join("".join(found).split()) == "".join(text.split()), (language, text)
            assert all(s and s == s.strip() for s in found)


def test_thai_is_cut_at_line_breaks_only() -> None:
    assert sentences("ประโยคหนึ่ง ประโยคสอง\nสาม", "th") == ["ประโยคหนึ่ง ประโยคสอง", "สาม"]
