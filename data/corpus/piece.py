"""One piece of the text to select from: its sentences that may be selected, and a sample of all of them.

A piece is worked on alone, and its result is the same wherever and whenever that is done.
"""

from __future__ import annotations

import random
import re
import unicodedata
from array import array
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from ..batches.seeding import derive_seed
from .matcher import TitleMatcher
from .select import SentenceHash, comparison_key, score_order

MATCHED, CONTROL, INFLECTED = 1, 2, 4
_SPACES = ("\u00a0", "\u202f", "\u2007", "\u2009", "\t", "\f", "\v")
_NOTHING = ("\u00ad", "\u200e", "\u200f", "\ufeff")
_MORE_SPACES = re.compile(" {2,}")


class Verdict(NamedTuple):
    """The entities that a sentence counts for, none where it may not be selected.

    `score`, from 0 to 1, decides among the sentences of an entity, else a hash; `inexact` where only an ending made
    the match.
    """

    entities: Collection[int]
    score: float | None = None
    inexact: bool = False


_NO_ENTITY = Verdict(())


class Criterion(Protocol):
    """What may be selected."""

    def may_hold(self, paragraph: str) -> bool:
        """Whether a sentence of the paragraph may be selected."""

    def judge(self, sentence: str) -> Verdict:
        """What the sentence is worth."""


class ByTitle:
    """Sentences with a title, each of which counts for the entity that `groups` has at its place."""

    def __init__(self, matcher: TitleMatcher, groups: tuple[int, ...]) -> None:
        self._find, self._groups = matcher.find, groups

    def may_hold(self, paragraph: str) -> bool:
        """Whether a title is in it."""
        return bool(self._find(paragraph))

    def judge(self, sentence: str) -> Verdict:
        """The entities of its titles."""
        matches = self._find(sentence)
        inexact = bool(matches) and not any(match.exact for match in matches)
        return Verdict({self._groups[match.title] for match in matches}, inexact=inexact)


class ByScore:
    """Sentences by a score from 0 to 1, all for one entity; those of score 0 are not selected."""

    def __init__(self, score: Callable[[str], float]) -> None:
        self._score = score

    def may_hold(self, paragraph: str) -> bool:
        """Any may."""
        return True

    def judge(self, sentence: str) -> Verdict:
        """The score."""
        score = self._score(sentence)
        return Verdict((0,) if score > 0 else (), score)


@dataclass(frozen=True)
class PieceRules:
    """What a piece's result depends on beside its text.

    Attributes:
        seed: of the hashes and the sample.
        min_chars: shorter sentences are left out.
        max_chars: longer ones too.
        control_share: share of the paragraphs whose sentences are all taken for the control.
    """

    seed: int
    min_chars: int
    max_chars: int
    control_share: float


@dataclass
class PieceResult:
    """The sentences kept of a piece, each once, in the order of the text.

    Attributes:
        texts: the sentences.
        hashes: of each.
        order: of each, what decides among the sentences of an entity, the lowest first.
        flags: of each MATCHED, CONTROL, INFLECTED (only an ending made the match).
        pair_row: row of a sentence, for each entity in it.
        pair_entity: that entity.
        counts: what was read and left out.
    """

    texts: list[str] = field(default_factory=list)
    hashes: array[int] = field(default_factory=lambda: array("Q"))
    order: array[int] = field(default_factory=lambda: array("Q"))
    flags: array[int] = field(default_factory=lambda: array("B"))
    pair_row: array[int] = field(default_factory=lambda: array("i"))
    pair_entity: array[int] = field(default_factory=lambda: array("i"))
    counts: Counter[str] = field(default_factory=Counter)


class PieceReader:
    """Works through one piece after another.

    Args:
        rules: what decides beside the criterion.
        criterion: what may be selected.
        split: paragraph to sentences.
        excluded: keys (`comparison_key`) of sentences that must not be in the corpus.
    """

    def __init__(
        self,
        rules: PieceRules,
        criterion: Criterion,
        split: Callable[[str], list[str]],
        excluded: frozenset[str] = frozenset(),
    ) -> None:
        self.rules, self._criterion = rules, criterion
        self._split, self._excluded = split, excluded
        self._hash = SentenceHash(rules.seed)

    def read(self, index: int, texts: Iterable[str], counts: Counter[str] | None = None) -> PieceResult:
        """The result of the piece with a number; `counts` are gone on with."""
        result, rows = PieceResult(counts=Counter() if counts is None else counts), dict[int, int]()
        draw = random.Random(derive_seed(self.rules.seed, "control", index)).random
        share, may_hold = self.rules.control_share, self._criterion.may_hold
        for text in texts:
            result.counts["characters"] += len(text)
            lines = paragraphs(text)
            result.counts["paragraphs"] += len(lines)
            for line in lines:
                control, judged = draw() < share, may_hold(line)
                if control or judged:
                    for sentence in self._split(line):
                        verdict = self._criterion.judge(sentence) if judged else _NO_ENTITY
                        self._add(result, rows, sentence, verdict, control)
        return result

    def _add(self, result: PieceResult, rows: dict[int, int], sentence: str, verdict: Verdict, control: bool) -> None:
        matched = bool(verdict.entities)
        if not matched and not control:
            return
        result.counts["matched"] += matched
        if not self.rules.min_chars <= len(sentence) <= self.rules.max_chars:
            result.counts["too-short" if len(sentence) < self.rules.min_chars else "too-long"] += matched
            return
        if self._excluded and comparison_key(sentence) in self._excluded:
            result.counts["excluded"] += 1
            return
        value, row = self._hash(sentence), len(rows)
        if value in rows:
            result.counts["duplicates"] += matched
            result.flags[rows[value]] |= CONTROL * control
            return
        rows[value] = row
        result.texts.append(sentence)
        result.hashes.append(value)
        result.order.append(value if verdict.score is None else score_order(verdict.score))
        result.flags.append(MATCHED * matched | CONTROL * control | INFLECTED * verdict.inexact)
        for entity in verdict.entities:
            result.pair_row.append(row)
            result.pair_entity.append(entity)


def paragraphs(text: str) -> list[str]:
    """The non-empty lines of a text in NFC, white space made single spaces, invisible characters removed."""
    for char in _SPACES:
        if char in text:
            text = text.replace(char, " ")
    for char in _NOTHING:
        if char in text:
            text = text.replace(char, "")
    if "\r" in text:
        text = text.replace("\r\n", "\n")
    if "  " in text:
        text = _MORE_SPACES.sub(" ", text)
    normal, compose = unicodedata.is_normalized, unicodedata.normalize
    return [
        line if line.isascii() or normal("NFC", line) else compose("NFC", line)
        for line in map(str.strip, text.split("\n"))
        if line
    ]
