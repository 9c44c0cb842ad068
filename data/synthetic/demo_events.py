"""What happens in the demo world: events without a language, of everyday life and of the news.

One sampler serves every language, so that the same things happen equally often in all of them; only the names are drawn
from the pools of the language that will tell the event. Words are named by concept, the key of the lexicons.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache

from ..readers.word_lists import read_list
from .demo_names import Draws, Name, Names


@cache
def listed(kind: str, of: str = "") -> tuple[str, ...]:
    """The concepts of a list, in order of frequency; of those that `of` (a noun, a verb) has for itself, perhaps none.

    Of the kind "unfit" are the adjectives that a person cannot have.
    """
    lists = read_list("synthetic/demo_events.tsv")
    return next((tuple(words.split()) for k, whose, words in lists if k == kind and of in (whose.split() or [""])), ())


@dataclass(frozen=True, slots=True)
class NounPhrase:
    """A name, a common noun, or a role and the name of who has it."""

    noun: str = ""
    sex: str = ""
    name: Name | None = None
    definite: bool = True
    plural: bool = False
    adjective: str = ""
    nationality: str = ""
    of: Name | None = None
    """The city, country or club that a role belongs to."""
    origin: Name | None = None
    """The place that a person comes from."""


@dataclass(frozen=True, slots=True)
class Clause:
    """One event; `time` and `place` are adverbials, and `front` ("time", "place" or "") says which opens the clause."""

    subject: NounPhrase
    verb: str
    tense: str = "present"
    direct: NounPhrase | None = None
    indirect: NounPhrase | None = None
    against: NounPhrase | None = None
    predicate: str = ""
    time: str = ""
    place: str | Name = ""
    front: str = ""
    score: tuple[int, int] | None = None
    content: Clause | None = None


@dataclass(frozen=True, slots=True)
class ScoreLine:
    """A result as the papers print it, with no verb."""

    home: Name
    away: Name
    score: tuple[int, int]
    place: Name | None


class Everyday:
    """Sentences of the general domain: no organisations, no surnames, no words of the news."""

    def __init__(self, draws: Draws, names: Names, person_share: float, place_share: float) -> None:
        self._draws, self._names = draws, names
        self._person_share, self._place_share = person_share, place_share

    def event(self) -> Clause:
        """A clause in the present or the future, in one of six shapes."""
        unit = self._draws.unit()
        if unit < 0.14:
            thinker = self._person()
            content = self._plain(self._draws.unit(), unlike=thinker)
            return Clause(thinker, self._draws.common(("think", "know")), content=content)
        return self._set_time(self._plain(self._draws.unit()))

    def _plain(self, unit: float, unlike: NounPhrase | None = None) -> Clause:
        if unit < 0.14:
            return self._quality(unlike)
        subject = self._person(unlike=unlike)
        direct = indirect = None
        places: Sequence[str] = listed("anywhere")
        if unit < 0.28:
            verb = self._draws.common(("sleep", "sing"))
        elif unit < 0.44:
            verb = self._draws.common(("give", "show"))
            direct, indirect = self._thing(listed("gifts")), self._person(unlike=subject, adjective=0.2)
        elif unit < 0.62:
            verb, places = self._draws.common(("see", "help", "love")), listed("street")
            direct = self._person(unlike=subject)
        else:
            verb = self._draws.common(listed("handle"))
            direct, places = self._thing(listed("handled", verb)), listed("handled at", verb)
        place: str | Name = ""
        if self._draws.chance(self._place_share):
            place = self._names.place()
        elif verb != "love" and self._draws.chance(0.4):
            place = self._draws.pick(places)
        tense = "future" if verb != "love" and self._draws.chance(0.15) else "present"
        return Clause(subject, verb, tense, direct=direct, indirect=indirect, place=place)

    def _set_time(self, clause: Clause) -> Clause:
        if clause.verb in ("be", "love"):
            return clause
        if self._draws.chance(0.35):
            time = self._draws.pick(("soon", "tomorrow") if clause.tense == "future" else listed("general times"))
            return replace(clause, time=time, front="time" if self._draws.chance(0.7) else "")
        return replace(clause, front="place") if clause.place and self._draws.chance(0.2) else clause

    def _quality(self, unlike: NounPhrase | None) -> Clause:
        if self._draws.chance(self._place_share):
            subject = NounPhrase(self._noun(unlike), origin=self._names.place())
        elif self._draws.chance(0.6):
            subject = self._person(unlike=unlike, adjective=0.0)
        else:
            subject = NounPhrase(self._draws.common(listed("things")))
        return Clause(subject, "be", predicate=self._draws.common(qualities(subject.noun)))

    def _person(self, *, unlike: NounPhrase | None = None, adjective: float = 0.35) -> NounPhrase:
        if self._draws.chance(self._person_share):
            return NounPhrase(name=different(self._names.given, self._names, unlike))
        noun = self._noun(unlike)
        quality = self._draws.common(qualities(noun)) if self._draws.chance(adjective) else ""
        return NounPhrase(noun, definite=self._draws.chance(0.8), adjective=quality)

    def _noun(self, unlike: NounPhrase | None) -> str:
        noun = self._draws.common(listed("people"))
        while unlike is not None and noun == unlike.noun:
            noun = self._draws.common(listed("people"))
        return noun

    def _thing(self, things: Sequence[str]) -> NounPhrase:
        noun = self._draws.common(things)
        quality = self._draws.common(qualities(noun)) if self._draws.chance(0.45) else ""
        return NounPhrase(noun, definite=noun in listed("uncounted") or self._draws.chance(0.5), adjective=quality)


class News:
    """Sentences of the task: people, organisations, places, and the miscellany of nationalities and occasions."""

    def __init__(self, draws: Draws, names: Names) -> None:
        self._draws, self._names = draws, names

    def event(self) -> Clause | ScoreLine:
        """A clause in the past or the future, or a score line."""
        unit = self._draws.unit()
        if unit < 0.06:
            return self._score_line()
        if unit < 0.18:
            speaker = self._named(self._names.firm()) if self._draws.chance(0.25) else self._person()
            report = self._clause(self._draws.unit() * 0.76)
            return Clause(speaker, self._draws.common(listed("saying")), "past", content=report)
        clause = self._clause(self._draws.unit())
        if clause.time and self._draws.chance(0.6):
            return replace(clause, front="time")
        return replace(clause, front="place") if clause.place and self._draws.chance(0.3) else clause

    def _clause(self, unit: float) -> Clause:
        if unit < 0.24:
            clause = Clause(self._person(), self._draws.common(listed("paper verbs")), direct=self._paper())
            return self._when(self._where(clause, 0.4))
        if unit < 0.41:
            return self._when(self._firm_deal())
        if unit < 0.62:
            return self._match()
        if unit < 0.76:
            return self._when(self._visit())
        if unit < 0.92:
            subject = self._person()
            other = self._person(unlike=subject)
            return self._when(
                self._where(Clause(subject, self._draws.common(listed("person verbs")), direct=other), 0.35)
            )
        return self._when(self._where(self._rally(), 0.7))

    def _person(self, *, sport: bool = False, unlike: NounPhrase | None = None) -> NounPhrase:
        role = self._draws.common(listed("athletes") if sport else listed("politicians"))
        unit = self._draws.unit()
        if unit < 0.35:
            return self._named(different(self._names.full, self._names, unlike))
        if unit < 0.5:
            return self._named(different(self._names.surname, self._names, unlike))
        sex = self._draws.pick("fm")
        if unit < 0.72:
            return NounPhrase(role, sex, name=self._names.full(sex))
        if unit < 0.88:
            nationality = self._names.nationality()
            name = self._names.full(sex) if self._draws.chance(0.7) else None
            return NounPhrase(role, sex, name=name, nationality=nationality)
        if sport:
            return NounPhrase(self._draws.pick(("coach", "captain")), sex, of=self._names.club())
        role = self._draws.pick(("president", "mayor", "ambassador"))
        return NounPhrase(role, sex, of=self._names.city() if role == "mayor" else self._names.country())

    def _named(self, name: Name) -> NounPhrase:
        return NounPhrase(name=name)

    def _paper(self) -> NounPhrase:
        quality = self._draws.pick(("new", "old")) if self._draws.chance(0.35) else ""
        return NounPhrase(self._draws.common(listed("papers")), adjective=quality)

    def _building(self, nouns: Sequence[str], *, definite: bool) -> NounPhrase:
        noun = self._draws.common(nouns)
        if self._draws.chance(0.25):
            return NounPhrase(noun, definite=definite, nationality=self._names.nationality())
        quality = self._draws.pick(("new", "big")) if self._draws.chance(0.4) else ""
        return NounPhrase(noun, definite=definite, adjective=quality)

    def _firm_deal(self) -> Clause:
        subject = self._named(self._names.firm())
        verb = self._draws.common(listed("firm verbs"))
        if verb == "acquire" and self._draws.chance(0.6):
            bought = different(self._names.firm, self._names, subject)
            return Clause(subject, verb, direct=self._named(bought))
        built = verb == "build"
        direct = self._building(listed("built") if built else listed("buildings"), definite=not built)
        return self._where(Clause(subject, verb, direct=direct), 0.4)

    def _match(self) -> Clause:
        if self._draws.chance(0.35):
            winner = self._person(sport=True)
            loser = self._person(sport=True, unlike=winner)
        else:
            winner = self._named(self._names.club())
            loser = self._named(different(self._names.club, self._names, winner))
        clause = Clause(winner, self._draws.common(listed("sport verbs")), direct=loser)
        at_event = self._draws.chance(0.4)
        clause = replace(clause, place=self._names.event()) if at_event else self._where(clause, 0.4)
        clause = self._when(clause)
        if clause.tense == "past" and self._draws.chance(0.5):
            clause = replace(clause, score=self._score())
        return clause

    def _visit(self) -> Clause:
        if self._draws.chance(0.4):
            return Clause(self._person(), "visit", direct=self._named(self._names.institution()))
        verb = self._draws.common(("visit", "leave"))
        return Clause(self._person(), verb, direct=self._named(self._names.place()))

    def _rally(self) -> Clause:
        nationality = self._names.nationality() if self._draws.chance(0.4) else ""
        group = NounPhrase(self._draws.common(listed("groups")), plural=True, nationality=nationality)
        verb = self._draws.common(("protest", "celebrate", "vote", "march"))
        if verb == "celebrate":
            return Clause(group, verb, direct=self._paper())
        return Clause(group, verb, against=None if verb == "march" else self._paper())

    def _score(self) -> tuple[int, int]:
        lost = int(self._draws.unit() * 3)
        return lost + 1 + int(self._draws.unit() * 3), lost

    def _score_line(self) -> ScoreLine:
        home = self._names.club()
        away = different(self._names.club, self._names, NounPhrase(name=home))
        score = int(self._draws.unit() * 5), int(self._draws.unit() * 5)
        return ScoreLine(home, away, score, self._names.city() if self._draws.chance(0.5) else None)

    def _where(self, clause: Clause, share: float) -> Clause:
        return replace(clause, place=self._names.place()) if self._draws.chance(share) else clause

    def _when(self, clause: Clause) -> Clause:
        tense = "future" if self._draws.chance(0.2) else "past"
        times = listed("future times") if tense == "future" else listed("past times")
        return replace(clause, tense=tense, time=self._draws.pick(times) if self._draws.chance(0.35) else "")


def qualities(noun: str) -> Sequence[str]:
    """The adjectives that a noun can have, or a given name (noun "")."""
    of_persons = (word for word in listed("person quality") if word not in listed("unfit", noun))
    return listed("quality", noun) or tuple(of_persons)


def different(draw: Callable[[], Name], names: Names, unlike: NounPhrase | None) -> Name:
    """A name that is not the one in `unlike`; names refused on the way count as not planted."""
    name = draw()
    while unlike is not None and unlike.name is not None and name.text == unlike.name.text:
        names.planted.pop()
        name = draw()
    return name
