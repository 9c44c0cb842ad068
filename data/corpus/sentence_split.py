"""Paragraphs to sentences, by rules: abbreviations, initials, ordinals, quotes; scripts without spaces.

A sentence ends at a mark of end, with its closing quotes, where a space and anything but a small letter follow. A full
stop does not end it after an abbreviation, an initial or (where the language writes them so) an ordinal, unless the
next word is one that is capitalised at the head of a sentence only. Chinese and Japanese end at their marks outside
quotes and brackets, with no space; Thai and its neighbours, which mark no ends, at line breaks only.
"""

from __future__ import annotations

import re
from functools import lru_cache

from ..readers.word_lists import read_list, words_of

_WORDS = "corpus/sentence_words.tsv"
"""By language: abbreviations that never end a sentence, since the word that they belong to follows ("title"); those
that may end one, which is where a capital follows ("ender"); and words that are capitalised at the head of a sentence
only, so that one after an abbreviation begins the next ("starter"). For all: abbreviations before a number, which are
words of their own elsewhere ("numbered"); languages that write ordinals with a full stop ("ordinal"), that end a
sentence without a space ("unspaced"), and those that share the abbreviations of another ("near")."""
_END = ".!?…؟۔।॥።။។‼⁇⁈⁉"
_ENDS = re.compile(rf"""(?<![{_END}])[{_END}]++(?>(?:[)\]"'”’»›“‘]|\s[»›])*)\s++(?=\S)""")
_OPENERS = "\"'“”„«»‚‘’‹›([{¿¡–—-… "
_INNER = re.compile(r"\w\.-?\w")
_ROMAN = re.compile(r"[IVXLC]+")
_WORD = re.compile(r"[^\W\d_]+")
_QUOTE = (
    r"「[^」\n]{0,300}+」|『[^』\n]{0,300}+』|（[^）\n]{0,300}+）|《[^》\n]{0,100}+》|“[^”\n]{0,300}+”"
    r"|\([^)\n]{0,300}+\)"
)
_CJK_SENTENCE = re.compile(
    rf"\s*+(?:(?>(?:{_QUOTE}|[^。！？!?｡…])+)(?:[。！？!?｡…]++[」』）”’\"》)]*+|$)|[。！？!?｡…]++[」』）”’\"》)]*+)"
)
_QUOTE_END = re.compile(r"[。！？!?｡…][」』”](?=[^とっなのをがはにでもやか、。，；：,;）」』”.\s])")


def sentences(text: str, language: str) -> list[str]:
    """The sentences of a text, in order; a line break always ends one.

    Every character but white space at the edges is kept. Abbreviations are known for German, English, French, Spanish,
    Italian, Dutch and Portuguese, some for others.

    The text has a paragraph a line, as `to_text` makes it; the language is an ISO code such as "de" or "zh-hant".
    """
    code = language.lower()
    cjk = not words_of(_WORDS, "unspaced", "").isdisjoint((code, code.split("-")[0]))
    rules = _rules(code.split("-")[0])
    out: list[str] = []
    for line in text.split("\n"):
        if cjk:
            out += _cut_cjk(line)
        else:
            rules.cut(line, out)
    return out


class _Rules:
    """What one language calls abbreviations."""

    def __init__(self, code: str) -> None:
        near = (of for kind, of, codes in read_list(_WORDS) if kind == "near" and code in codes.split())
        base = next(near, code)
        self.titles, self.enders, self.starters, self.numbered = (
            words_of(_WORDS, kind, base) for kind in ("title", "ender", "starter", "numbered")
        )
        self.longest = max(map(len, self.titles | self.enders))
        self.ordinal = code in words_of(_WORDS, "ordinal", "")

    def cut(self, line: str, out: list[str]) -> None:
        """Append the sentences of a line."""
        begin = 0
        for match in _ENDS.finditer(line):
            if self._ends(line, begin, match.start(), match.end()):
                out.append(line[begin : match.end()].strip())
                begin = match.end()
        if rest := line[begin:].strip():
            out.append(rest)

    def _ends(self, line: str, begin: int, mark: int, after: int) -> bool:
        """Whether the mark at `mark` ends the sentence that began at `begin`; the next would begin at `after`."""
        first = line[after]
        if first in _OPENERS:
            rest = line[after : after + 12].lstrip(_OPENERS)
            first = rest[:1]
        if first.islower() or not first or first in ",;:)]":
            return False
        if line[mark] != "." or line.startswith("..", mark):
            return True
        space = max(line.rfind(" ", begin, mark), begin - 1)
        token = line[space + 1 : mark].lstrip("\"'“„«‚‘([{¿¡–—-/’")
        if not token:
            return True
        if "'" in token or "’" in token:
            token = token.replace("’", "'").rsplit("'", 1)[-1]
            if len(token) < 2:  # Dutch: collega's
                return True
        if token.isdigit():
            return not (self.ordinal and len(token) <= 2) or self._starts(line, after)
        if (letters := token.isalpha()) and len(token) > self.longest:
            return True
        word = token.lower()
        if word in self.enders or (letters and word in self.numbered and len(word) > 1):
            return not first.isdigit()
        if word in self.titles:
            return False
        if letters:
            initial = len(token) == 1 and (token.isupper() or token.islower())
            number = self.ordinal and _ROMAN.fullmatch(token) is not None
            return not (initial or number) or self._starts(line, after)
        return _INNER.search(token) is None or self._starts(line, after)

    def _starts(self, line: str, after: int) -> bool:
        word = _WORD.search(line, after, after + 24)
        return word is not None and word[0] in self.starters


_rules = lru_cache(maxsize=64)(_Rules)


def _cut_cjk(line: str) -> list[str]:
    found: list[str] = []
    for sentence in _CJK_SENTENCE.findall(line):
        begin = 0
        for match in _QUOTE_END.finditer(sentence):
            found.append(sentence[begin : match.end()])
            begin = match.end()
        found.append(sentence[begin:])
    return [clean for sentence in found if (clean := sentence.strip())]
