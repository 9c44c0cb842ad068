"""Names for the demo world, and the random choices that everything in it is made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from .demo_lexicon import Lexicon

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

    def __init__(
        self,
        draws: Draws,
        lexicon: Lexicon,
        shared: float,
        composed: float,
    ) -> None:
        self._draws = draws
        self._pool, self._shared_pool = lexicon.names, lexicon.shared_names
        self._nationalities = tuple(lexicon.nationalities)
        self._shared, self._composed = shared, composed
        self.planted: list[tuple[str, str]] = []

    def _from(self, shared: Sequence[T], own: Sequence[T]) -> T:
        return self._draws.pick(shared if self._draws.chance(self._shared) else own)

    def _plant(self, kind: str, text: str, article: str = "", sex: str = "") -> Name:
        self.planted.append((kind, text))
        return Name(kind, text, article, sex)

    def _city(self) -> str:
        return self._from(self._shared_pool.cities, self._pool.cities)

    def given(self) -> Name:
        sex = self._draws.pick("fm")
        return self._plant("PER", self._from(self._shared_pool.given[sex], self._pool.given[sex]), sex=sex)

    def full(self, sex: str = "") -> Name:
        sex = sex or self._draws.pick("fm")
        given = self._from(self._shared_pool.given[sex], self._pool.given[sex])
        return self._plant("PER", f"{given} {self._from(self._shared_pool.surnames, self._pool.surnames)}", sex=sex)

    def surname(self) -> Name:
        return self._plant(
            "PER", self._from(self._shared_pool.surnames, self._pool.surnames), sex=self._draws.pick("fm")
        )

    def city(self) -> Name:
        return self._plant("LOC", self._city())

    def country(self) -> Name:
        return self._plant("LOC", self._draws.pick(self._pool.countries))

    def place(self) -> Name:
        return self._plant("LOC", self._from(self._shared_pool.cities, self._pool.cities + self._pool.countries))

    def club(self) -> Name:
        if self._draws.chance(self._composed):
            article, frame = self._draws.pick(self._pool.club_frames)
            return self._plant("ORG", frame.format(self._city()), article)
        article, club = self._from(self._shared_pool.clubs, self._pool.clubs)
        return self._plant("ORG", club, article)

    def firm(self) -> Name:
        if self._draws.chance(self._composed):
            return self.institution()
        article, firm = self._from(self._shared_pool.firms, self._pool.firms)
        return self._plant("ORG", firm, article)

    def institution(self) -> Name:
        article, frame, kind = self._draws.pick(self._pool.firm_frames)
        place = self._city() if kind == "city" else self._draws.pick(self._pool.countries)
        return self._plant("ORG", frame.format(place), article)

    def event(self) -> Name:
        article, event = self._from(self._shared_pool.events, self._pool.events)
        return self._plant("MISC", event, article)

    def nationality(self) -> str:
        nationality = self._draws.pick(self._nationalities)
        self.planted.append(("MISC", nationality))
        return nationality
