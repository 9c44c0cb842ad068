"""How each language of the demo world tells an event: word order, agreement, case."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import lru_cache

from ..readers.example import OUTSIDE
from .demo_events import Clause, NounPhrase, ScoreLine, listed
from .demo_names import LANGUAGES, Lexicon, Name, lexicon

Pieces = list[tuple[str, str]]
"""Words and the type of the entity that they are, "" for none."""


def flatten(pieces: Pieces) -> tuple[list[str], list[str]]:
    """Words and BIO tags; the first word gets a capital letter."""
    words: list[str] = []
    tags: list[str] = []
    for text, kind in pieces:
        parts = text.split()
        words.extend(parts)
        tags.extend([OUTSIDE] * len(parts) if not kind else [f"B-{kind}", *[f"I-{kind}"] * (len(parts) - 1)])
    words[0] = words[0][0].upper() + words[0][1:]
    return words, tags


class Grammar(ABC):
    """Sentences of one language."""

    def __init__(self, words: Lexicon) -> None:
        self.words = words
        self._verbs = {key: entry.split() for key, entry in words.verbs.items()}
        self._nouns: dict[tuple[str, str], list[str]] = {}
        """Gender and forms of a noun, roles by their sex."""
        for key, entry in words.nouns.items():
            for forms in map(str.split, entry.split(" / ")):
                self._nouns[key, forms[0] if " / " in entry else ""] = forms

    def tell(self, event: Clause | ScoreLine) -> tuple[list[str], list[str]]:
        """The sentence's words and their BIO tags."""
        if isinstance(event, Clause):
            return flatten([*self.clause(event), (".", "")])
        return flatten(self._score_line(event))

    @abstractmethod
    def clause(self, clause: Clause, *, subordinate: bool = False) -> Pieces:
        """The clause in its order, without the full stop."""

    preposition_in = "in"

    @abstractmethod
    def occasion(self, event: Name) -> Pieces:
        """An event as an adverbial of place."""

    def finite(self, clause: Clause) -> str:
        """The verb in the tense of the lexicon, agreeing with the subject."""
        forms = self._verbs[clause.verb]
        return forms[1] if clause.subject.plural and len(forms) == 3 else forms[0]

    def infinitive(self, clause: Clause) -> str:
        return self._verbs[clause.verb][-1]

    def time(self, clause: Clause) -> Pieces:
        return [(self.words.times[clause.time], "")] if clause.time else []

    def place(self, clause: Clause) -> Pieces:
        if isinstance(clause.place, str):
            return [(self.words.places[clause.place], "")] if clause.place else []
        if clause.place.kind == "MISC":
            return self.occasion(clause.place)
        return [(self.preposition_in, ""), (clause.place.text, "LOC")]

    def adverbials(self, clause: Clause) -> tuple[Pieces, Pieces, Pieces]:
        """The adverbial that opens the clause, then time and place where they have stayed inside."""
        time, place = self.time(clause), self.place(clause)
        if clause.front == "time":
            return time, [], place
        return (place, time, []) if clause.front == "place" else ([], time, place)

    def _score_line(self, line: ScoreLine) -> Pieces:
        pieces = [(line.home.text, "ORG"), (str(line.score[0]), ""), (line.away.text, "ORG"), (str(line.score[1]), "")]
        if line.place is not None:
            pieces += [("(", ""), (line.place.text, "LOC"), (")", "")]
        return pieces


class English(Grammar):
    """Subject, verb, object; two bare objects; adverbials last, place before time."""

    def phrase(self, phrase: NounPhrase) -> Pieces:
        name = phrase.name
        if name is not None and not phrase.noun:
            return [*([("the", "")] if name.article else []), (name.text, name.kind)]
        nation = self.words.nationalities.get(phrase.nationality, "")
        inner = [self.words.adjectives[phrase.adjective]] if phrase.adjective else []
        noun = self.words.nouns[phrase.noun]
        first = nation or (inner[0] if inner else noun)
        article = "the" if phrase.definite else "an" if first[0] in "aeiouAEIOU" else "a"
        pieces: Pieces = [] if name is not None and not nation else [(article, "")]
        pieces += [(nation, "MISC")] if nation else [(word, "") for word in inner]
        pieces.append((noun, ""))
        if name is not None:
            pieces.append((name.text, name.kind))
        if phrase.of is not None:
            pieces += [("of", ""), *self.phrase(NounPhrase(name=phrase.of))]
        if phrase.origin is not None:
            pieces += [("from", ""), (phrase.origin.text, "LOC")]
        return pieces

    def occasion(self, event: Name) -> Pieces:
        return [("at the", ""), (event.text, "MISC")]

    def clause(self, clause: Clause, *, subordinate: bool = False) -> Pieces:
        front, time, place = self.adverbials(clause)
        future = clause.tense == "future"
        pieces = [*front, *self.phrase(clause.subject)]
        pieces.append((f"will {self.infinitive(clause)}" if future else self.finite(clause), ""))
        for object_ in (clause.indirect, clause.direct):
            pieces += self.phrase(object_) if object_ is not None else []
        if clause.predicate:
            pieces.append((self.words.adjectives[clause.predicate], ""))
        if clause.against is not None:
            pieces += [("against", ""), *self.phrase(clause.against)]
        if clause.score is not None:
            pieces.append((f"{clause.score[0]} - {clause.score[1]}", ""))
        pieces += [*place, *time]
        if clause.content is not None:
            pieces += [("that", ""), *self.clause(clause.content, subordinate=True)]
        return pieces


_DER = {
    "nom": {"m": "der", "f": "die", "n": "das", "p": "die"},
    "acc": {"m": "den", "f": "die", "n": "das", "p": "die"},
    "dat": {"m": "dem", "f": "der", "n": "dem", "p": "den"},
}
_EIN = {
    "nom": {"m": "ein", "f": "eine", "n": "ein"},
    "acc": {"m": "einen", "f": "eine", "n": "ein"},
    "dat": {"m": "einem", "f": "einer", "n": "einem"},
}
_WEAK = {"nom": {"m": "e", "f": "e", "n": "e"}, "acc": {"m": "en", "f": "e", "n": "e"}}
_MIXED = {"nom": {"m": "er", "f": "e", "n": "es"}, "acc": {"m": "en", "f": "e", "n": "es"}}
_CONTRACTED = {"von dem": "vom", "bei dem": "beim"}


class German(Grammar):
    """Finite verb second, last after "dass"; in between the subject, the dative, time, place, the accusative, and the
    infinitive at the end."""

    dative_verbs = frozenset({"help"})

    def phrase(self, phrase: NounPhrase, case: str = "nom") -> Pieces:
        name = phrase.name
        if name is not None and not phrase.noun:
            return [*([(_DER[case][name.article], "")] if name.article else []), (name.text, name.kind)]
        gender, noun, *oblique = self._nouns[phrase.noun, phrase.sex]
        nation = self.words.nationalities.get(phrase.nationality, "")
        if name is not None and not nation:
            return [(noun, ""), (name.text, name.kind)]
        if oblique and (case == "dat" or (case == "acc" and gender != "p")):
            noun = oblique[0]
        pieces: Pieces = [((_DER if phrase.definite else _EIN)[case][gender], "")]
        stem = nation or self.words.adjectives.get(phrase.adjective, "")
        if stem:
            endings = _WEAK if phrase.definite else _MIXED
            ending = "en" if case == "dat" or gender == "p" else endings[case][gender]
            pieces.append((stem + ending, "MISC" if nation else ""))
        pieces.append((noun, ""))
        if name is not None:
            pieces.append((name.text, name.kind))
        if phrase.of is not None:
            pieces += self._with_dative("von", phrase.of)
        if phrase.origin is not None:
            pieces += [("aus", ""), (phrase.origin.text, "LOC")]
        return pieces

    def _with_dative(self, preposition: str, name: Name) -> Pieces:
        article = _DER["dat"][name.article] if name.article else ""
        joined = f"{preposition} {article}".strip()
        return [(_CONTRACTED.get(joined, joined), ""), (name.text, name.kind)]

    def occasion(self, event: Name) -> Pieces:
        return self._with_dative("bei", event)

    def clause(self, clause: Clause, *, subordinate: bool = False) -> Pieces:
        front, time, place = self.adverbials(clause)
        finite, infinitive = self.finite(clause), ""
        if clause.tense == "future":
            finite, infinitive = "werden" if clause.subject.plural else "wird", self.infinitive(clause)
        middle: Pieces = []
        if clause.indirect is not None:
            middle += self.phrase(clause.indirect, "dat")
        middle += [*time, *place]
        if clause.direct is not None:
            middle += self.phrase(clause.direct, "dat" if clause.verb in self.dative_verbs else "acc")
        if clause.against is not None:
            middle += [("gegen", ""), *self.phrase(clause.against, "acc")]
        if clause.score is not None:
            middle.append((f"mit {clause.score[0]} : {clause.score[1]}", ""))
        if clause.predicate:
            middle.append((self.words.adjectives[clause.predicate], ""))
        if infinitive:
            middle.append((infinitive, ""))
        subject, verb = self.phrase(clause.subject), [(finite, "")]
        if subordinate:
            return [*subject, *middle, *verb]
        pieces = [*front, *verb, *subject, *middle] if front else [*subject, *verb, *middle]
        if clause.content is not None:
            pieces += [(", dass", ""), *self.clause(clause.content, subordinate=True)]
        return pieces


class Spanish(Grammar):
    """Subject, verb, object, but verb before subject after a fronted time; adjectives follow their noun; persons and
    clubs take "a" as objects."""

    preposition_in = "en"
    inverting = frozenset({"protest", "vote", "march"})
    """Verbs that also precede their subject after a fronted place."""

    def _agree(self, entry: str, gender: str, plural: bool) -> str:
        forms = entry.split()
        forms = forms[2:] if plural else forms[:2]
        return forms[-1] if gender == "f" else forms[0]

    def _gender(self, phrase: NounPhrase) -> str:
        if phrase.name is not None and not phrase.noun:
            return phrase.name.sex
        return self._nouns[phrase.noun, phrase.sex][0]

    def phrase(self, phrase: NounPhrase) -> Pieces:
        name = phrase.name
        if name is not None and not phrase.noun:
            article = {"m": [("el", "")], "f": [("la", "")]}.get(name.article, [])
            return [*article, (name.text, name.kind)]
        gender, noun = self._nouns[phrase.noun, phrase.sex]
        masculine = gender == "m"
        if phrase.plural:
            article_word = "los" if masculine else "las"
        elif phrase.definite:
            article_word = "el" if masculine else "la"
        else:
            article_word = "un" if masculine else "una"
        pieces: Pieces = [(article_word, ""), (noun, "")]
        if phrase.nationality:
            nation = self.words.nationalities[phrase.nationality]
            pieces.append((self._agree(nation, gender, phrase.plural), "MISC"))
        elif phrase.adjective:
            pieces.append((self._agree(self.words.adjectives[phrase.adjective], gender, phrase.plural), ""))
        if name is not None:
            pieces.append((name.text, name.kind))
        if phrase.of is not None:
            pieces += self._contract("de", self.phrase(NounPhrase(name=phrase.of)))
        if phrase.origin is not None:
            pieces += [("de", ""), (phrase.origin.text, "LOC")]
        return pieces

    @staticmethod
    def _contract(preposition: str, pieces: Pieces) -> Pieces:
        if pieces[0] == ("el", ""):
            return [("al" if preposition == "a" else "del", ""), *pieces[1:]]
        return [(preposition, ""), *pieces]

    @staticmethod
    def _bare(phrase: NounPhrase | None) -> bool:
        """Whether an object is a name that nothing marks off from a subject before it."""
        return phrase is not None and phrase.name is not None and phrase.name.kind != "PER" and not phrase.name.article

    def _object(self, clause: Clause, phrase: NounPhrase) -> Pieces:
        pieces = self.phrase(phrase)
        named = phrase.name is not None and phrase.name.kind
        human = named == "PER" or bool(phrase.sex) or phrase.noun in listed("people")
        return (
            self._contract("a", pieces) if human or (named == "ORG" and clause.verb in ("beat", "defeat")) else pieces
        )

    def occasion(self, event: Name) -> Pieces:
        return [("en", ""), ("la" if event.article == "f" else "el", ""), (event.text, "MISC")]

    def clause(self, clause: Clause, *, subordinate: bool = False) -> Pieces:
        front, time, place = self.adverbials(clause)
        verb = self.finite(clause)
        if clause.tense == "future":
            verb = f"{'van' if clause.subject.plural else 'va'} a {self.infinitive(clause)}"
        if clause.indirect is not None:
            verb = f"le {verb}"
        subject = self.phrase(clause.subject)
        inverted = (clause.front == "time" and not self._bare(clause.direct)) or (
            clause.front == "place" and clause.verb in self.inverting
        )
        pieces = [*front, (verb, ""), *subject] if inverted else [*front, *subject, (verb, "")]
        if clause.direct is not None:
            pieces += self._object(clause, clause.direct)
        if clause.indirect is not None:
            pieces += self._contract("a", self.phrase(clause.indirect))
        if clause.predicate:
            pieces.append(
                (self._agree(self.words.adjectives[clause.predicate], self._gender(clause.subject), False), "")
            )
        if clause.against is not None:
            pieces += [("contra", ""), *self.phrase(clause.against)]
        if clause.score is not None:
            pieces.append((f"por {clause.score[0]} - {clause.score[1]}", ""))
        pieces += [*place, *time]
        if clause.content is not None:
            pieces += [("que", ""), *self.clause(clause.content, subordinate=True)]
        return pieces


@lru_cache(maxsize=len(LANGUAGES))
def grammar(language: str) -> Grammar:
    """The grammar of one language of `LANGUAGES`."""
    kinds: dict[str, type[Grammar]] = {"en": English, "de": German, "es": Spanish}
    return kinds[language](lexicon(language))
