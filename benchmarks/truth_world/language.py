"""A fake language, made of a real one by a seeded bijection of its words.

After the "fake English" of K et al. (arXiv 1912.07840) and the bijections of Dufter and Schuetze (arXiv 2005.00396):
what is said stays the same, how it is written does not. Every choice about a word or a letter hangs on the seed and on
that word or letter alone, and choices are nested: what is an anchor at a share of 0.2 is one at 0.3.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import chain

from xlt_engine import ConfigError
from xlt_engine.data import OUTSIDE, derive_seed
from xlt_engine.data.synthetic.demo_names import Draws

_SCRIPTS = ((0x430, 0x44F), (0x3B1, 0x3C9), (0x561, 0x586))  # Cyrillic, Greek, Armenian small letters
_PARTS = re.compile(r"(\W*)(.*?)(\W*)", re.DOTALL)


class FakeLanguage:
    """Writes sentences of a source language in a language of its own.

    A word is an anchor, and written as it is, or has each letter replaced. Letters go one to one to letters that the
    source text does not have, capitals to capitals; digits and punctuation stay. So different words stay different.
    An ending consists of two letters that nothing else uses, and can be cut off again.

    Args:
        words: all words of the source text, for its alphabet.
        seed: decides every choice.
        anchors, letter_overlap, affixes, word_order: as in `Knobs`.

    Raises:
        ConfigError: the text has more letters than there are others to write them with.
    """

    def __init__(
        self,
        words: Iterable[str],
        *,
        seed: int,
        anchors: float = 0.0,
        letter_overlap: float = 0.0,
        affixes: float = 0.0,
        word_order: float = 0.0,
    ) -> None:
        self._seed, self._anchors, self._affixes, self._order = seed, anchors, affixes, word_order
        self._units: dict[tuple[str, str], float] = {}
        alphabet = {_small(c) for c in set(chain.from_iterable(words)) if c.isalpha()}
        free = [c for low, high in _SCRIPTS for c in map(chr, range(low, high + 1)) if _fits(c, alphabet)]
        ordered = sorted(alphabet, key=lambda c: derive_seed(seed, "letter", c))
        kept = set(ordered[: round(letter_overlap * len(ordered))])
        if len(alphabet) > len(free) - 2:
            raise ConfigError(
                f"truth world: the text has {len(alphabet)} letters, and only {max(0, len(free) - 2)} can be replaced"
            )
        images = sorted(free[:-2], key=lambda c: derive_seed(seed, "image", c))
        self.letters = {c: image for c, image in zip(sorted(alphabet), images, strict=False) if c not in kept}
        """The letters that are replaced, small ones, by what."""
        first, second = free[-2:]
        self.endings = (first, second, first + second)

    def is_anchor(self, word: str) -> bool:
        """Whether a word is chosen to stay as it is; words without a letter always do."""
        return not _key(word) or self._unit("anchor", _key(word)) < self._anchors

    def takes_ending(self, word: str) -> bool:
        """Whether a word has an ending wherever it occurs."""
        return not self.is_anchor(word) and self._unit("ending", _key(word)) < self._affixes

    def word(self, word: str) -> str:
        """The word in the fake language, without an ending."""
        return word if self.is_anchor(word) else self._spell(word, self.letters)

    def sentence(
        self, words: Sequence[str], tags: Sequence[str], draws: Draws
    ) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """A sentence and its BIO tags in the fake language; `draws` choose the endings.

        Entities stay whole. A sentence that began with a capital does so again, and a word that had its capital for
        that loses it.
        """
        order = self.order(words, tags)
        said = [words[i] for i in order]
        if words[0][0].isupper():
            if tags[0] == OUTSIDE:
                said[order.index(0)] = words[0][0].lower() + words[0][1:]
            said[0] = said[0][0].upper() + said[0][1:]
        written = tuple(self._with_ending(word, draws) for word in said)
        return written, tuple(tags[i] for i in order)

    def order(self, words: Sequence[str], tags: Sequence[str]) -> list[int]:
        """Which of the words stands at each place.

        Every word type has a rank in [0, 1), as if its kind stood early or late in this language. Chunks (an entity, or
        a word) are sorted by a mean of their relative place in the source and the rank of their first word, in which
        `word_order` is the weight of the rank. What ends the sentence stays there.
        """
        chunks: list[list[int]] = []
        for i in range(len(words)):
            if chunks and tags[i].startswith("I-"):
                chunks[-1].append(i)
            else:
                chunks.append([i])
        end = [chunks.pop()] if len(chunks) > 1 and not _key(words[chunks[-1][0]]) else []
        weight = self._order
        ranks = [self._unit("order", _key(words[chunk[0]])) for chunk in chunks]
        place = [(1 - weight) * n / len(chunks) + weight * rank for n, rank in enumerate(ranks)]
        moved = [chunks[n] for n in sorted(range(len(chunks)), key=lambda n: (place[n], n))]
        return list(chain.from_iterable(moved + end))

    def _with_ending(self, word: str, draws: Draws) -> str:
        if not self.takes_ending(word):
            return self.word(word)
        before, core, after = _parts(self.word(word))
        return before + core + draws.pick(self.endings) + after

    def _spell(self, word: str, letters: dict[str, str]) -> str:
        return "".join(_replaced(c, letters) for c in word)

    def _unit(self, purpose: str, key: str) -> float:
        found = self._units.get((purpose, key))
        if found is None:
            found = self._units[purpose, key] = derive_seed(self._seed, "fake language", purpose, key) / 2.0**63
        return found


def inversions(order: Sequence[int]) -> float:
    """Share of the pairs of places whose contents come in another order than before (Kendall's distance)."""
    pairs = [(a, b) for j, b in enumerate(order) for a in order[:j]]
    return sum(a > b for a, b in pairs) / len(pairs) if pairs else 0.0


def _parts(word: str) -> tuple[str, str, str]:
    match = _PARTS.fullmatch(word)
    assert match is not None
    return match[1], match[2], match[3]


def _key(word: str) -> str:
    """What makes words the same type: no capitals, no punctuation around; "" where there is no letter."""
    return _parts(word)[1].lower() if any(map(str.isalpha, word)) else ""


def _small(letter: str) -> str:
    """The small letter of a capital that has one, else the letter."""
    low = letter.lower()
    return low if len(low) == 1 and low.upper() == letter else letter


def _replaced(letter: str, letters: dict[str, str]) -> str:
    image = letters.get(_small(letter), letter)
    return image if _small(letter) == letter else image.upper()


def _fits(letter: str, alphabet: set[str]) -> bool:
    capital = letter.upper()
    return letter not in alphabet and len(capital) == 1 and capital != letter and capital.lower() == letter
