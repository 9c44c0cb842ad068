"""The words and names of the demo world, read from the lists in `synthetic/`, and its random choices.

`demo_words.tsv` has a concept of `demo_events` a line, and how each language says it:

English   A noun is its one form (the plural, for groups of people). A verb is its finite form, third person, and its
          infinitive.
German    A noun is its gender and its nominative; an accusative and dative that differ follow (for plurals, "p", the
          dative). Roles list the masculine, then the feminine. An adjective is its stem. A verb is its third person
          singular, its third person plural where it is needed, and its infinitive.
Spanish   A noun is its gender and its one form (the plural, for groups of people); roles list the masculine, then the
          feminine. An adjective is its masculine and feminine, or the one form for both; a nationality adds the two
          plurals. A verb is as in German.

Verbs are in the present tense in everyday words, in the past tense (the preterite) in the news.

`demo_names.tsv` has the names, in one column where all languages share them. Where a name takes an article its gender
stands before it, with a colon.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TypeVar

import numpy as np

from ..readers.word_lists import read_list

LANGUAGES = ("en", "de", "es")


@dataclass(frozen=True)
class Lexicon:
    """The words of one language by concept, and its names.

    Attributes:
        names: by kind, each with the gender of its article, "" for none; what all languages share is of the kind
            "shared city" and the like. A frame has `{}` (of a firm `{city}` or `{country}`) where a place stands.
    """

    nouns: Mapping[str, str]
    adjectives: Mapping[str, str]
    nationalities: Mapping[str, str]
    verbs: Mapping[str, str]
    places: Mapping[str, str]
    times: Mapping[str, str]
    names: Mapping[str, tuple[tuple[str, str], ...]]


@cache
def lexicon(language: str) -> Lexicon:
    """The words of one language of `LANGUAGES`."""
    column = LANGUAGES.index(language)
    concepts: defaultdict[str, dict[str, str]] = defaultdict(dict)
    for part, concept, *forms in read_list("synthetic/demo_words.tsv"):
        concepts[part][concept] = forms[column]
    names: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)
    for kind, *forms in read_list("synthetic/demo_names.tsv"):
        article, _, name = forms[column if len(forms) > 1 else 0].rpartition(":")
        names[kind].append((article, name))
    return Lexicon(
        nouns=concepts["noun"],
        adjectives=concepts["adjective"],
        nationalities=concepts["nationality"],
        verbs=concepts["verb"],
        places=concepts["place"],
        times=concepts["time"],
        names={kind: tuple(listed) for kind, listed in names.items()},
    )


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Name:
    """A named entity: its type, its words, and the gender of the article before it, "" if there is none."""

    kind: str
    text: str
    article: str = ""
    sex: str = ""


class Draws:
    """Choices out of Philox's raw stream, which NumPy keeps the same from version to version (its distributions it
    does not)."""

    def __init__(self, seed: int) -> None:
        self._bits = np.random.Philox(key=seed)
        self._stock: list[int] = []

    def unit(self) -> float:
        """A number in [0, 1)."""
        if not self._stock:
            self._stock = np.asarray(self._bits.random_raw(512)).tolist()
        return (self._stock.pop() >> 11) * 2.0**-53

    def chance(self, probability: float) -> bool:
        return self.unit() < probability

    def pick(self, options: Sequence[T]) -> T:
        """One of the options, all equally likely."""
        return options[int(self.unit() * len(options))]

    def common(self, options: Sequence[T]) -> T:
        """One of the options, the first about three times as likely as the last."""
        unit = self.unit()
        return options[int(unit * (0.5 + 0.5 * unit) * len(options))]


class Names:
    """Draws names: each from the pool that all languages share with probability `shared`, else from the language's own;
    an organisation is composed around a place with probability `composed`. `planted` lists them as drawn."""

    def __init__(self, draws: Draws, lexicon: Lexicon, shared: float, composed: float) -> None:
        self._draws, self._names = draws, lexicon.names
        self._nationalities = tuple(lexicon.nationalities)
        self._shared, self._composed = shared, composed
        self.planted: list[tuple[str, str]] = []

    def _from(self, kind: str, *more: str) -> tuple[str, str]:
        """Article and name: a shared one, or one of the language's own, which may also be of the kinds `more`."""
        if self._draws.chance(self._shared):
            return self._draws.pick(self._names[f"shared {kind}"])
        return self._draws.pick([name for each in (kind, *more) for name in self._names[each]])

    def _plant(self, kind: str, text: str, article: str = "", sex: str = "") -> Name:
        self.planted.append((kind, text))
        return Name(kind, text, article, sex)

    def _text(self, kind: str) -> str:
        return self._from(kind)[1]

    def given(self) -> Name:
        sex = self._draws.pick("fm")
        return self._plant("PER", self._text(f"given {sex}"), sex=sex)

    def full(self, sex: str = "") -> Name:
        sex = sex or self._draws.pick("fm")
        return self._plant("PER", f"{self._text(f'given {sex}')} {self._text('surname')}", sex=sex)

    def surname(self) -> Name:
        return self._plant("PER", self._text("surname"), sex=self._draws.pick("fm"))

    def city(self) -> Name:
        return self._plant("LOC", self._text("city"))

    def country(self) -> Name:
        return self._plant("LOC", self._country())

    def _country(self) -> str:
        return self._draws.pick(self._names["country"])[1]

    def place(self) -> Name:
        return self._plant("LOC", self._from("city", "country")[1])

    def club(self) -> Name:
        if self._draws.chance(self._composed):
            article, frame = self._draws.pick(self._names["club frame"])
            return self._plant("ORG", frame.format(self._text("city")), article)
        article, club = self._from("club")
        return self._plant("ORG", club, article)

    def firm(self) -> Name:
        if self._draws.chance(self._composed):
            return self.institution()
        article, firm = self._from("firm")
        return self._plant("ORG", firm, article)

    def institution(self) -> Name:
        article, frame = self._draws.pick(self._names["firm frame"])
        place = self._text("city") if "{city}" in frame else self._country()
        return self._plant("ORG", frame.format(city=place, country=place), article)

    def event(self) -> Name:
        article, event = self._from("event")
        return self._plant("MISC", event, article)

    def nationality(self) -> str:
        nationality = self._draws.pick(self._nationalities)
        self.planted.append(("MISC", nationality))
        return nationality
