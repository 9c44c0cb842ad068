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
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

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
