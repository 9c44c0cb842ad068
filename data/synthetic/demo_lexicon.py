"""The words and names of the demo world's languages, read from the lists in `synthetic/`.

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
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType

from ..readers.word_lists import read_list

Words = MappingProxyType[str, str]
Articled = tuple[tuple[str, str], ...]

LANGUAGES = ("en", "de", "es")


def words(text: str) -> tuple[str, ...]:
    """The words of a list written as one string."""
    return tuple(text.split())


@dataclass(frozen=True)
class NamePool:
    """The names of one language, its own or those that it shares with all others; frames are its own alone.

    Names that may take an article come with its gender before them, "" for none.
    """

    given: MappingProxyType[str, tuple[str, ...]]
    """By sex, "f" and "m"."""
    surnames: tuple[str, ...]
    cities: tuple[str, ...]
    countries: tuple[str, ...]
    clubs: Articled
    firms: Articled
    events: Articled
    club_frames: Articled
    """`{}` stands for a city."""
    firm_frames: tuple[tuple[str, str, str], ...]
    """Article, frame, and the kind of place that it asks for: "city" or "country"."""


@dataclass(frozen=True)
class Lexicon:
    """The words of one language by concept, and its names."""

    nouns: Words
    adjectives: Words
    nationalities: Words
    verbs: Words
    places: Words
    times: Words
    names: NamePool
    shared_names: NamePool


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
        nouns=MappingProxyType(concepts["noun"]),
        adjectives=MappingProxyType(concepts["adjective"]),
        nationalities=MappingProxyType(concepts["nationality"]),
        verbs=MappingProxyType(concepts["verb"]),
        places=MappingProxyType(concepts["place"]),
        times=MappingProxyType(concepts["time"]),
        names=_pool(names, ""),
        shared_names=_pool(names, "shared "),
    )


def _pool(names: defaultdict[str, list[tuple[str, str]]], prefix: str) -> NamePool:
    def texts(kind: str) -> tuple[str, ...]:
        return tuple(name for _, name in names[prefix + kind])

    frames = names[f"{prefix}firm frame"]
    return NamePool(
        given=MappingProxyType({sex: texts(f"given {sex}") for sex in "fm"}),
        surnames=texts("surname"),
        cities=texts("city"),
        countries=texts("country"),
        clubs=tuple(names[f"{prefix}club"]),
        firms=tuple(names[f"{prefix}firm"]),
        events=tuple(names[f"{prefix}event"]),
        club_frames=tuple(names[f"{prefix}club frame"]),
        firm_frames=tuple(
            (article, frame.replace(f"{{{place}}}", "{}"), place)
            for article, frame in frames
            for place in ("city", "country")
            if f"{{{place}}}" in frame
        ),
    )
