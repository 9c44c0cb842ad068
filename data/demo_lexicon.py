"""What a language of the demo world has to list, and the names that all its languages share."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

Words = MappingProxyType[str, str]
Articled = tuple[tuple[str, str], ...]

LANGUAGES = ("en", "de", "es")


def words(text: str) -> tuple[str, ...]:
    """The words of a list written as one string."""
    return tuple(text.split())


SHARED_GIVEN = MappingProxyType(
    {
        "f": words("Laura Sara Elena Eva Clara Julia Marta Nora"),
        "m": words("David Daniel Samuel Leo Gabriel Bruno Hugo Marco"),
    }
)
SHARED_SURNAMES = words("Silva Novak Kowalski Rossi Moreau Lindberg Petrov Tanaka Dubois Conti Horvat Bergman")
SHARED_CITIES = ("Madrid", "Oslo", "Toronto", "Chicago", "Helsinki", "Dakar", "Lima", "Buenos Aires")
SHARED_CLUBS = ("Ajax", "Inter", "Dynamo", "Sparta", "Galaxy")
SHARED_FIRMS = ("Orbitel", "Aerolux", "Medicor", "Unitex", "Polaris Energy")

# One place, three names; the columns are LANGUAGES.
_COUNTRIES = """
    Germany Deutschland Alemania, Spain Spanien España, Italy Italien Italia, France Frankreich Francia,
    Poland Polen Polonia, Sweden Schweden Suecia, Norway Norwegen Noruega, Denmark Dänemark Dinamarca,
    Greece Griechenland Grecia, Hungary Ungarn Hungría, Russia Russland Rusia, Belgium Belgien Bélgica,
    Croatia Kroatien Croacia, Brazil Brasilien Brasil, Egypt Ägypten Egipto, Scotland Schottland Escocia
"""
_CITIES = """
    Munich München Múnich, Cologne Köln Colonia, Vienna Wien Viena, Milan Mailand Milán, Geneva Genf Ginebra,
    Brussels Brüssel Bruselas, Moscow Moskau Moscú, Prague Prag Praga, Lisbon Lissabon Lisboa, Venice Venedig Venecia
"""


def _column(table: str, language: str) -> tuple[str, ...]:
    return tuple(row.split()[LANGUAGES.index(language)] for row in table.split(","))


def exonyms(language: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The 16 countries and the 10 cities that have a name of their own in each language."""
    return _column(_COUNTRIES, language), _column(_CITIES, language)


def table(text: str) -> Words:
    """A read-only mapping out of lines `key: value`."""
    pairs = (line.split(":", 1) for line in text.strip().splitlines())
    return MappingProxyType({key.strip(): value.strip() for key, value in pairs})


@dataclass(frozen=True)
class NamePool:
    """A language's own names. Where a name or a frame takes an article its gender stands before it, else ""."""

    given: MappingProxyType[str, tuple[str, ...]]
    surnames: tuple[str, ...]
    cities: tuple[str, ...]
    clubs: Articled
    firms: Articled
    club_frames: Articled
    """`{}` stands for a city."""
    firm_frames: tuple[tuple[str, str, str], ...]
    """Article, frame, and the kind of place that it asks for: "city" or "country"."""
    events: Articled
    shared_events: Articled
    shared_club_article: str = ""


@dataclass(frozen=True)
class Lexicon:
    """The words of one language by concept; the concepts are those of `demo_events`, the inflection is explained
    where the words are listed."""

    nouns: Words
    adjectives: Words
    nationalities: Words
    verbs: Words
    places: Words
    times: Words
    names: NamePool
