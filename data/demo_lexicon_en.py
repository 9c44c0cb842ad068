"""The demo world's English.

A noun is its one form (the plural, for groups of people). A verb is its finite form, third person, and its infinitive:
present tense in everyday words, past tense in the news.
"""

from __future__ import annotations

from types import MappingProxyType

from .demo_lexicon import Lexicon, NamePool, Words, table, words


def _same(text: str) -> Words:
    return MappingProxyType({word: word for word in words(text)})


LEXICON = Lexicon(
    nouns=_same(
        "man woman boy girl friend neighbour teacher doctor baker farmer cook daughter gardener grandmother "
        "grandfather aunt uncle student painter "
        "book letter story apple cake egg soup tea coffee milk coat shirt car door window box flower picture "
        "president minister mayor coach captain judge senator ambassador director economist striker goalkeeper "
        "journalist workers fans voters pilots nurses miners activists residents "
        "law plan budget report agreement proposal contract reform "
        "factory mine airport stadium bridge newspaper harbour hospital"
    ),
    adjectives=_same("old young slim small kind clever happy poor strong new big red white heavy cheap pretty"),
    nationalities=_same(
        "German Spanish Italian French Polish Swedish Norwegian Greek Hungarian Russian Mexican Japanese"
    ),
    verbs=table("""
        read: reads read
        write: writes write
        eat: eats eat
        drink: drinks drink
        buy: buys buy
        wash: washes wash
        open: opens open
        see: sees see
        love: loves love
        help: helps help
        give: gives give
        show: shows show
        sleep: sleeps sleep
        sing: sings sing
        think: thinks think
        know: knows know
        be: is be
        criticise: criticised criticise
        present: presented present
        reject: rejected reject
        defend: defended defend
        sign: signed sign
        welcome: welcomed welcome
        acquire: acquired acquire
        sell: sold sell
        close: closed close
        build: built build
        receive: received receive
        praise: praised praise
        accuse: accused accuse
        interview: interviewed interview
        replace: replaced replace
        beat: beat beat
        defeat: defeated defeat
        visit: visited visit
        leave: left leave
        protest: protested protest
        vote: voted vote
        march: marched march
        celebrate: celebrated celebrate
        say: said say
        explain: explained explain
        claim: claimed claim
    """),
    places=table("""
        garden: in the garden
        kitchen: in the kitchen
        school: at school
        market: at the market
        forest: in the forest
        station: at the station
        church: in the church
        library: in the library
        park: in the park
        village: in the village
        street: in the street
        river: by the river
    """),
    times=table("""
        morning: in the morning
        evening: in the evening
        night: at night
        daily: every day
        summer: in summer
        today: today
        soon: soon
        monday: on Monday
        wednesday: on Wednesday
        friday: on Friday
        sunday: on Sunday
        yesterday: yesterday
        last_week: last week
        tomorrow: tomorrow
        next_week: next week
    """),
    names=NamePool(
        given=MappingProxyType(
            {
                "f": words("Emily Grace Alice Heather Molly Lucy Jane Holly Megan Daisy"),
                "m": words("James Harry George Jack Oliver William Henry Edward Andrew Graham"),
            }
        ),
        surnames=words(
            "Smith Jones Taylor Wilson Thompson Walker Wright Hughes Edwards Clarke Bennett Foster Harrison Murray "
            "Palmer Russell Spencer Webb Barnes Fletcher Griffiths Hawkins Jenkins Matthews Parsons Turner"
        ),
        cities=words("Bristol Leeds Oxford Norwich Plymouth Brighton Sheffield Exeter Derby Lancaster Coventry Durham"),
        clubs=tuple(("", name) for name in words("Rovers Wanderers Harriers Albion Thistle Olympic")),
        firms=(
            ("", "Northwind"),
            ("", "Brightwater"),
            ("", "Redstone Motors"),
            ("", "Oakfield Foods"),
            ("", "Kingsley Steel"),
            ("", "Fairway Rail"),
        ),
        club_frames=(("", "{} United"), ("", "{} City"), ("", "{} Athletic")),
        firm_frames=(
            ("n", "University of {}", "city"),
            ("n", "Bank of {}", "country"),
            ("", "{} Airlines", "city"),
        ),
        events=(
            ("p", "Spring Games"),
            ("n", "World Cup"),
            ("n", "Boat Race"),
            ("n", "Derby Stakes"),
            ("n", "Harvest Cup"),
            ("n", "Channel Trophy"),
        ),
        shared_events=(("n", "Grand Prix"), ("n", "Euro Trophy"), ("n", "Masters"), ("n", "Super Bowl")),
    ),
)
