"""What the splitter of sentences knows of each language: abbreviations, and words that begin sentences."""

from __future__ import annotations

WORDS = "corpus/sentence_words.tsv"
"""By language: abbreviations that never end a sentence, since the word that they belong to follows ("title"); those
that may end one, which is where a capital follows ("ender"); and words that are capitalised at the head of a sentence
only, so that one after an abbreviation begins the next ("starter")."""

# Abbreviations before a number, but words of their own elsewhere.
_NUMBERED = (
    "no nos nr nrs nº num núm vol op p pp pág págs fig art arts abb abs bd kap chap cap s ss str hst sec sect tab"
)
NUMBERED = frozenset(_NUMBERED.split())
# Languages that write ordinals with a full stop.
_ORDINAL = "als bar bs cs da de et eu fi fo gsw hr hu is lb lv nb nds nn no pl sk sl sr tr"
ORDINAL = frozenset(_ORDINAL.split())
# Languages that end a sentence without a space.
CJK = frozenset(("cdo", "gan", "hak", "ja", "lzh", "nan", "wuu", "yue", "zh", "zh-classical", "zh-yue"))
# Languages that share the abbreviations of another.
NEAR = {
    "als": "de",
    "bar": "de",
    "nds": "de",
    "lb": "de",
    "gsw": "de",
    "gl": "pt",
    "ca": "es",
    "uk": "ru",
    "nb": "da",
    "no": "da",
}
