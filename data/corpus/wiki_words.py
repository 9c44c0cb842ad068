"""Words of wiki markup that each language has for itself: namespaces, tags, templates of disambiguation pages."""

from __future__ import annotations

import re
from functools import cache

from ..readers.word_lists import read_list, words_of

_LISTS = "corpus/wiki_words.tsv"
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


def hidden_namespaces(language: str) -> frozenset[str]:
    """Prefixes of links that are pictures or categories in the wiki of a language, in lower case, with spaces."""
    code = language.lower().split("-")[0]
    code = {"no": "nb", "nn": "nb", "yue": "zh", "wuu": "zh", "gl": "pt"}.get(code, code)
    words = words_of(_LISTS, "file", code) | words_of(_LISTS, "category", code)
    return frozenset(word.replace("_", " ") for word in words)


@cache
def disambiguation() -> tuple[re.Pattern[str], re.Pattern[str]]:
    """What marks a disambiguation page: its whole title, or a template somewhere in it."""
    titles, templates = (
        "|".join(pattern for kind, _, pattern in read_list(_LISTS) if kind == mark) for mark in ("title", "template")
    )
    return re.compile(rf".+[ _]?[(（](?:{titles})[)）]", re.I), re.compile(
        r"\{\{\s*(?:template:|vorlage:)?(?:" + templates.replace(" ", "[ _]") + r")\s*(?:\||\}\})|__DISAMBIG__", re.I
    )
