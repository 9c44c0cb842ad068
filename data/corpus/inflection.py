"""Endings that a name may carry in running text, by language: a tolerance, not a grammar.

A title is cut to its stem where the language changes its last vowel, and an ending of the list may follow the stem.
Only the last word of a title is inflected. Every such match is counted apart from the exact ones, since it costs
precision: an ending can make another word of a name.
"""

from __future__ import annotations


def _list(text: str) -> frozenset[str]:
    return frozenset(text.split())


_ENGLISH = _list("s es")
_GERMAN = _list("s es e en ens n er ern ers")
_SCANDINAVIAN = _list("s en et n ne ens ets er ers")
_ROMANCE = _list("s es i e")
_SLAVIC_LATIN = _list(
    "a u e i y o ou em om am ami ach ech ich ům ův ů ovi ové owi owie ów ze ie ę ą ej ego emu ě ím ima ama og oj"
)
_SLAVIC_CYRILLIC = _list("а у е и ы о ой ою ом ем ам ами ах ях ев ов я ю ей ию ия ии ієм і ї ові")
_FINNIC = _list(
    "n a ä ta tä ssa ssä sta stä lla llä lta ltä lle na nä ksi in en an än on ön un yn hin hen iin een s st l lt le ks"
)
_HUNGARIAN = _list(
    "t at et ot öt nak nek ban ben ba be ból ből on en ön n ra re ról ről nál nél tól től hoz hez höz ig val vel "
    "i é ért ként"
)
_TURKIC = _list("da de ta te dan den tan ten a e ya ye ı i u ü nın nin nun nün ın in un ün lı li lu lü")

_LANGUAGES: dict[str, frozenset[str]] = {
    **dict.fromkeys(["en"], _ENGLISH),
    **dict.fromkeys(["de", "nds", "gsw", "lb", "nl", "af", "fy"], _GERMAN),
    **dict.fromkeys(["da", "sv", "nb", "nn", "no", "is", "fo"], _SCANDINAVIAN),
    **dict.fromkeys(["es", "pt", "fr", "it", "ca", "gl", "oc", "ro"], _ROMANCE),
    **dict.fromkeys(["pl", "cs", "sk", "sl", "hr", "bs"], _SLAVIC_LATIN),
    **dict.fromkeys(["ru", "uk", "be", "bg", "mk"], _SLAVIC_CYRILLIC),
    "sr": _SLAVIC_LATIN | _SLAVIC_CYRILLIC,
    **dict.fromkeys(["fi", "et"], _FINNIC),
    "hu": _HUNGARIAN,
    **dict.fromkeys(["tr", "az"], _TURKIC),
}
# Languages in which the last vowel of the nominative gives way to the ending (Praha, Prahy).
_VOWELS = {
    **dict.fromkeys(["pl", "cs", "sk", "sl", "hr", "bs"], "aeoy"),
    **dict.fromkeys(["ru", "uk", "be", "bg", "mk"], "аеояьй"),
    "sr": "aeoаео",
}
_SHORTEST_STEM = 4


def endings_of(language: str) -> frozenset[str]:
    """The endings that a language's names may carry; empty where no list is known."""
    return _LANGUAGES.get(language.split("-")[0], frozenset())


def stem_of(title: str, language: str) -> str:
    """The title without its last vowel where the language changes it and four letters are left."""
    vowels = _VOWELS.get(language.split("-")[0], "")
    return title[:-1] if len(title) > _SHORTEST_STEM and title[-1] in vowels else title
