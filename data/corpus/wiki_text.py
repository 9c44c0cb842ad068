"""Wiki markup to plain text, in a few passes over the page, fast enough for whole dumps.

The general parsers of wiki markup build a tree, which takes six times as long, and leave more (docs/corpus.md). A
corpus needs running text only, so this is one scan for the braces of templates and tables and one regular expression
for each other thing. Markup that is broken costs its own line at most.
"""

from __future__ import annotations

import html
import re
import unicodedata
from functools import cache, lru_cache

from ..readers.word_lists import read_list, words_of

_WORD_LISTS = "corpus/wiki_words.tsv"
"""Prefixes of links that are pictures ("file") or categories, in lower case, of which the English ones work in every
wiki; patterns of the templates that mark a disambiguation page, and of what stands in brackets in its title."""

# Two or three small letters, perhaps more after a hyphen, before the colon: a link to another language's wiki.
INTERLANGUAGE = re.compile(r"(?:[a-z]{2,3}(?:-[a-z]+)*|simple|nds-nl|roa-rup|map-bms)")

# Tags whose content is no text; a tag of another name goes and its content stays.
HIDDEN_TAGS = (
    "ref|references|math|chem|ce|gallery|timeline|syntaxhighlight|source|score|imagemap|graph|hiero|templatedata|"
    "mapframe|maplink|includeonly|inputbox|categorytree|dynamicpagelist|indicator|style|script|table|pre"
)
# Tags at which a paragraph ends.
BLOCK_TAGS = "p|div|blockquote|center|li|ul|ol|dl|dd|dt|h[1-6]|tr|td|th|table|hr|poem"


@lru_cache(maxsize=64)
def hidden_namespaces(language: str) -> frozenset[str]:
    """Prefixes of links that are pictures or categories in the wiki of a language, in lower case, with spaces."""
    code = language.lower().split("-")[0]
    code = {"no": "nb", "nn": "nb", "yue": "zh", "wuu": "zh", "gl": "pt"}.get(code, code)
    words = words_of(_WORD_LISTS, "file", code) | words_of(_WORD_LISTS, "category", code)
    return frozenset(word.replace("_", " ") for word in words)


@cache
def disambiguation() -> tuple[re.Pattern[str], re.Pattern[str]]:
    """What marks a disambiguation page: its whole title, or a template somewhere in it."""
    titles, templates = (
        "|".join(pattern for kind, _, pattern in read_list(_WORD_LISTS) if kind == mark)
        for mark in ("title", "template")
    )
    return re.compile(rf".+[ _]?[(（](?:{titles})[)）]", re.I), re.compile(
        r"\{\{\s*(?:template:|vorlage:)?(?:" + templates.replace(" ", "[ _]") + r")\s*(?:\||\}\})|__DISAMBIG__", re.I
    )


_FLAGS = re.I | re.S
_COMMENT = re.compile(r"<!--.*?-->", re.S)
_OPEN_COMMENT = re.compile(r"<!--[^\n]*")
_NOWIKI = re.compile(r"<nowiki\s*>([^<]*+(?>(?:<(?!/?nowiki\b)[^<]*+)*))</nowiki\s*>", _FLAGS)
_HIDDEN = re.compile(
    rf"<({HIDDEN_TAGS})\b(?>(?:[^<>/]|/(?!\s*>))*)(?:/\s*>|>[^<]*+(?>(?:<(?!/?\1\b)[^<]*+)*)</\1\s*>)",
    _FLAGS,
)
_BLOCK = re.compile(rf"</?(?:{BLOCK_TAGS})\b[^<>]*>", re.I)
_BREAK = re.compile(r"<br\b[^<>]*>", re.I)
_TAG = re.compile(r"</?[a-zA-Z][^<>]*>")
_BRACE = re.compile(r"\{\{+|\}\}+|\n[ \t:*#;]*(?:\{\||\|\}(?!\}))")
_LABEL = r"[^\[\]]*+(?>(?:(?:\[(?!\[)|\](?!\]))[^\[\]]*+)*)"
_LINK = re.compile(rf"\[\[([^\[\]|\n]*)(?:\|({_LABEL}))?\]\]")
_OPEN_LINK = re.compile(r"\[\[([^\[\]|\n:]*)(:[^\n]*|\||)")
_OPEN_BRACES = re.compile(r"\{\{[^\n]*|\}\}+")
_EXTERNAL = re.compile(r"\[(?:[a-z]{3,6}:)?//[^\s\[\]<>]*+([^\[\]\n]*+)\]", re.I)
_QUOTES = re.compile(r"''+")
_LETTER_BOLD = re.compile(r"(?:(?<=^\w)|(?<=[\s(]\w))'''(?!')")
_WORD_BOLD = re.compile(r"(?<=\w)'''(?!')")
_ODD_LINE = re.compile(r"^[^\n]*\w'''(?!')[^\n]*", re.M)
_TOO_LONG = re.compile(r"&#0*(?:[1-9][0-9]{8,}|[xX]0*[1-9a-fA-F][0-9a-fA-F]{8,});?")
_SWITCH = re.compile(r"__[^\Wa-z]+__")
_VARIANT = re.compile(r"-\{([^{}]*)\}-")
_NO_TEXT = re.compile(r"={1,6}.*=$|\{\||-{4,}")
_LISTS = frozenset("*#:;")
_MARKS = frozenset(["", *"*#:;=|!{-"])
_QUALIFIED = re.compile(" ?[(（]")
_LIST = re.compile(r"[*#:;]+\s*")
# Spaces of other kinds, and characters that nobody sees.
_ODD = re.compile(
    r"[\0\t\v\f\r\x1c-\x1f\x85\u00a0\u00ad\u1680\u2000-\u200b\u200e\u200f\u2028\u2029\u202f\u205f\u2060\u3000\ufeff]+"
)
# What dropped templates leave: brackets with nothing but commas, a space before a full stop.
_EMPTY = re.compile(r"\([ ,;:.–-]*\)"), re.compile(r"（[ ,;:.、，；–-]*）")
_AFTER = re.compile(r"\([ ,;]+"), re.compile(r"（[ ,;、，；]+")
_STOP = re.compile(r" \.(?=\s|$)", re.M)

# Characters that `<nowiki>` shields from the passes stand in the private use area meanwhile.
_SHIELDED = "[]{}|'<>*#:;=_-\n&"
_SHIELD = {ord(c): 0xF0000 + n for n, c in enumerate(_SHIELDED)}
_UNSHIELD = {0xF0000 + n: " " if c == "\n" else c for n, c in enumerate(_SHIELDED)}
_UNSPACED = ("ja", "zh", "yue", "wuu", "gan", "th", "lo", "km", "my", "bo")
_DEEPEST = 8


def to_text(wikitext: str, language: str) -> str:
    """The running text of a page, a paragraph or list item a line, composed (NFC).

    Templates, tables, references, comments, formulas, pictures, galleries, categories, headings and links to other
    languages go, links leave the words that a reader sees, lists lose their marks. What a template would have written
    into a sentence is missing there. Broken markup never raises: an opening mark without its closing one costs no
    more than its line.

    The XML escapes of the page are undone; the language is for the names of its namespaces.
    """
    text = wikitext.replace("\r\n", "\n")
    if "<" in text:
        text = _without_tags(text)
    if "{" in text or "}}" in text:
        text = _without_braces(text, language)
    if "[" in text or "]]" in text:
        text = _links(text, hidden_namespaces(language))
    if "'''" in text:
        text = _ODD_LINE.sub(_balanced, text)
    if "''" in text:
        text = _QUOTES.sub(_quotes, text)
    if "__" in text:
        text = _SWITCH.sub("", text)
    if "&" in text:
        text = _unescape(text)
    text = _lines(text, "" if language.lower().split("-")[0] in _UNSPACED else " ")
    text = _tidy(text.translate(_UNSHIELD) if "<nowiki" in wikitext else text)
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def _unescape(text: str) -> str:
    """As `html.unescape`, which fails at a character of thousands of digits: it is beyond Unicode, like all so long."""
    return html.unescape(_TOO_LONG.sub("\ufffd", text))


def is_disambiguation(wikitext: str, title: str) -> bool:
    """Whether a page lists the meanings of a name: by its template in any of some 35 languages, or by its title."""
    of_title, template = disambiguation()
    return of_title.fullmatch(title) is not None or template.search(wikitext) is not None


def _without_tags(text: str) -> str:
    if "<!--" in text:
        closed = text.rfind("-->") + 1
        text = _OPEN_COMMENT.sub("", _COMMENT.sub("", text[: closed + 2]) + text[closed + 2 :] if closed else text)
    if "<nowiki" in text:
        text = _NOWIKI.sub(lambda m: _unescape(m[1]).translate(_SHIELD), text)
    for _ in range(_DEEPEST):
        text, count = _HIDDEN.subn("", text)
        if not count:
            break
    text = _BREAK.sub(" ", text)
    text = _BLOCK.sub("\n\n", text)
    return _TAG.sub("", text)


def _without_braces(text: str, language: str) -> str:
    """Without templates and tables, however deep in one another; one scan with a stack of what is open."""
    if "-{" in text and language.lower().startswith(("zh", "yue", "wuu", "gan", "sr")):
        text = _VARIANT.sub(_variant, text)
    text = "\n" + text
    stack: list[tuple[int, bool]] = []  # where it opens; whether it is a table
    closed: list[tuple[int, int]] = []  # whole spans, none in another
    tables = 0
    for match in _BRACE.finditer(text):
        mark = match[0]
        if mark[0] == "{":
            # A run of braces opens half as many templates; the third of `{{{` is a parameter's.
            stack += [(match.start() + 2 * n, False) for n in range(len(mark) // 2)]
            continue
        if mark[0] == "}":
            wanted, is_table = len(mark) // 2, False
        elif mark[-1] == "|":
            stack.append((match.start() + 1, True))
            tables += 1
            continue
        else:
            wanted, is_table = min(tables, 1), True
        for _ in range(wanted):
            if not is_table and len(stack) == tables:
                break
            while stack:
                begin, kind = stack.pop()
                tables -= kind
                if kind is is_table:
                    while closed and closed[-1][0] >= begin:
                        closed.pop()
                    closed.append((begin, match.end()))
                    break
    if closed:
        edges = [0, *(edge for span in closed for edge in span), len(text)]
        text = "".join(text[a:b] for a, b in zip(edges[::2], edges[1::2], strict=True))
    return _OPEN_BRACES.sub("", text) if "{{" in text or "}}" in text else text


def _variant(match: re.Match[str]) -> str:
    """Chinese: the first of the spellings for different regions."""
    first = match[1].split(";")[0].rsplit("|", 1)[-1]
    return first.split(":", 1)[-1]


def _links(text: str, hidden: frozenset[str]) -> str:
    def shown(match: re.Match[str]) -> str:
        target, label = match[1], match[2]
        if ":" in target:
            name = target.split(":", 1)[0].strip().replace("_", " ")
            if name and (name.lower() in hidden or INTERLANGUAGE.fullmatch(name)):
                return ""
        if label is not None:
            return label or _pipe_trick(target)
        return target.lstrip(":")

    for _ in range(_DEEPEST):
        if "//" in text:
            text = _EXTERNAL.sub(lambda m: m[1].strip(), text)
        text, count = _LINK.subn(shown, text)
        if not count:
            break
    if "[[" in text or "]]" in text:
        text = _OPEN_LINK.sub(lambda m: _half_link(m, hidden), text).replace("]]", "")
    return text


def _half_link(match: re.Match[str], hidden: frozenset[str]) -> str:
    """A link that is not closed: of a picture, its line goes; else the mark goes."""
    name, rest = match[1], match[2]
    if rest.startswith(":"):
        return "" if name.strip().lower().replace("_", " ") in hidden else name + rest
    return "" if rest else name


def _pipe_trick(target: str) -> str:
    name = target.split(":", 1)[-1]
    return _QUALIFIED.split(name, maxsplit=1)[0] if name.endswith((")", "）")) else name


def _quotes(match: re.Match[str]) -> str:
    """Marks of italic (2), bold (3) and both (5) go; what is more are apostrophes."""
    count = len(match[0])
    return "'" if count == 4 else "'" * max(0, count - 5)


def _balanced(match: re.Match[str]) -> str:
    """French `l'''Iliade''`: where bold and italic marks are both odd on a line, one bold mark is an apostrophe."""
    line = match[0]
    runs = [min(len(run), 5) for run in _QUOTES.findall(line)]
    bold, italic = sum(n in (3, 4, 5) for n in runs), sum(n in (2, 5) for n in runs)
    if bold % 2 == 0 or italic % 2 == 0:
        return line
    pattern = _LETTER_BOLD if _LETTER_BOLD.search(line) else _WORD_BOLD
    return pattern.sub("&#39;''", line, count=1)


def _lines(text: str, joint: str) -> str:
    """Paragraphs and list items, one a line; lines that follow one another are one paragraph, as in a wiki."""
    out: list[str] = []
    parts: list[str] = []
    for line in text.split("\n"):
        line = line.strip()
        first = line[:1]
        if first not in _MARKS or (first in "={-" and first and not _NO_TEXT.match(line)):
            parts.append(line)
            continue
        if parts:
            out.append(joint.join(parts))
            parts = []
        if first in _LISTS:
            out.append(_LIST.sub("", line, count=1))
    if parts:
        out.append(joint.join(parts))
    return "\n".join(filter(None, out))


def _tidy(text: str) -> str:
    text = _ODD.sub(lambda m: " " if any(map(str.isspace, m[0])) else "", text)
    for bracket, empty, after in zip("(（", _EMPTY, _AFTER, strict=True):
        if bracket in text:
            text = after.sub(bracket, empty.sub("", text))
    # Plain replacement reads ten times faster than the expression for a run of spaces.
    while "  " in text:
        text = text.replace("  ", " ")
    for left, clean in ((" ,", ","), (" )", ")"), (",)", ")"), (";)", ")"), (" \n", "\n"), ("\n ", "\n")):
        text = text.replace(left, clean)
    return _STOP.sub(".", text).strip() if " ." in text else text.strip()
