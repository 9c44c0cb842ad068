"""Sentences with tags, and the schemes in which tags mark entities."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from ...untrusted import clip, quoted
from .example import OUTSIDE, Example
from .problems import Problems, setting

PLAIN = "plain"
"""The scheme of tags that mark no entities."""
SCHEMES = ("auto", "iob1", "bio", "bioes", "bilou", PLAIN)
BIO_TAG = re.compile(r"O|[BI]-\S+")
TAG = re.compile(r"O|[BILUES]-\S+")
TAG_LIKE = re.compile(r"O|[A-Z]-\S+")
"""What may be meant as a tag of an entity, for `probe`."""
_LETTERS = {"iob1": "BI", "bio": "BI", "bioes": "BIES", "bilou": "BILU"}
_BEGIN, _END = "BSU", "ESLU"  # first word of an entity, and the last one in the schemes that mark it
_AS_BIO = {"B": "B", "I": "I", "E": "I", "L": "I", "S": "B", "U": "B"}


@dataclass(slots=True)
class TaggedSentence:
    """Words with their tags, None where there are none, and the line of each word."""

    id: str
    words: list[str]
    tags: list[str] | None
    lines: list[int]
    text: ClassVar[str | None] = None
    pair: ClassVar[str | None] = None

    def example(self, language: str, path: str) -> Example:
        """The sentence as an example."""
        tags = None if self.tags is None else tuple(self.tags)
        return Example(self.id, language, tuple(self.words), None, None, tags, path, self.lines[0])


def scheme_of(tags: Iterable[str]) -> str:
    """What the letters of a file's tags say: "bioes" or "bilou" where half of its entities have their ends marked so,
    else "bio"."""
    letters = Counter(tag[0] for tag in tags if TAG.fullmatch(tag))
    for scheme, (end, single) in (("bioes", "ES"), ("bilou", "LU")):
        marked = letters[end] + letters[single]
        if marked and 2 * marked >= letters["B"] + letters[single]:
            return scheme
    return "bio"


def resolve_tags(
    path: str, sentences: Sequence[TaggedSentence], *, scheme: str, repair: bool, problems: Problems
) -> int:
    """Turn the tags of one file into BIO, in place, where every entity starts with `B-`.

    The scheme "auto" is decided for the whole file, as `scheme_of` has it. In BIO, an `I-X` that
    follows neither `B-X` nor `I-X` cannot be BIO; a `B-X` that does not follow an entity of type X is not needed in
    IOB1. With the first kind only, the file is IOB1 (or IO, which is IOB1 without a `B-`), and its entity-opening `I-`
    become `B-`. With both kinds it is BIO with invalid transitions, which are errors unless `repair`.

    BIOES and BILOU mark the last word of an entity; where it is not marked, that is an error too. Plain tags stay.

    Returns:
        How many words inside an entity that nothing opened were read as its first because of `repair`, and how many
        ends that are not marked were taken.
    """
    if scheme == PLAIN:
        return 0
    guessed = scheme == "auto"
    if guessed:
        scheme = scheme_of(tag for sentence in sentences for tag in sentence.tags or ())
    openers = 0
    orphans: list[tuple[list[str], int, int]] = []
    unended: list[tuple[int, str]] = []
    for sentence in sentences:
        words = list(_entity_words(path, sentence, scheme, problems))
        for i, tag, continues, ended in words:
            assert sentence.tags is not None
            opens = tag[0] in _BEGIN
            openers += opens and not continues
            if not (opens or continues):
                orphans.append((sentence.tags, i, sentence.lines[i]))
            if not ended:
                unended.append((sentence.lines[i], tag))
            sentence.tags[i] = _AS_BIO[tag[0]] + tag[1:]
    convert = scheme == "iob1" or (guessed and scheme == "bio" and not openers)
    if not (convert or repair):
        for tags, i, line in orphans:
            what = f"{clip(tags[i])} does not continue an entity of its type"
            fix = f"write B-{clip(tags[i][2:])}, or set reader.repair = true, or {setting('scheme', 'iob1')}"
            problems.add(f"{path}:{line}", what, fix)
        for line, tag in unended:
            what = (
                f"{clip(tag)} is the last word of its entity, which {scheme.upper()} marks with {_LETTERS[scheme][2:]}"
            )
            problems.add(
                f"{path}:{line}", what, f"correct the tag, or set reader.repair = true, or {setting('scheme', 'bio')}"
            )
    for tags, i, _ in orphans:
        tags[i] = "B" + tags[i][1:]
    return 0 if convert else len(orphans) + len(unended)


def _entity_words(
    path: str, sentence: TaggedSentence, scheme: str, problems: Problems
) -> Iterator[tuple[int, str, bool, bool]]:
    """Position and tag of every word of an entity; whether the entity before goes on in it; whether its end is marked.

    The last is true where the scheme marks no end.
    """
    tags = sentence.tags or ()
    marks_end = len(_LETTERS[scheme]) > 2
    open_type = ""
    for i, tag in enumerate(tuple(tags)):
        if tag == OUTSIDE:
            open_type = ""
        elif TAG.fullmatch(tag) and tag[0] in _LETTERS[scheme]:
            following = tags[i + 1] if i + 1 < len(tags) else OUTSIDE
            goes_on = following[:1] in ("I", "E", "L") and following[1:] == tag[1:]
            yield i, tag, tag[1:] == open_type, not marks_end or tag[0] in _END or goes_on
            open_type = "" if tag[0] in _END else tag[1:]
        else:
            place = f"{path}:{sentence.lines[i]}"
            fix = "give O, B-<type> and I-<type>, in BIOES also E- and S-, in BILOU L- and U-"
            problems.add(place, f"unknown tag {quoted(tag)}", fix)
            open_type = ""
