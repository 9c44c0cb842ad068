"""The demo world's German.

A noun is its gender and its nominative; an accusative and dative that differ follow (for plurals, "p", the dative).
Roles list the masculine, then the feminine. An adjective is its stem. A verb is its third person singular, its third
person plural where it is needed, and its infinitive: present tense in everyday words, preterite in the news.
"""

from __future__ import annotations

from types import MappingProxyType

from .demo_lexicon import Lexicon, NamePool, table, words

LEXICON = Lexicon(
    nouns=table("""
        man: m Mann
        woman: f Frau
        boy: m Junge Jungen
        girl: n Mädchen
        friend: f Freundin
        neighbour: m Nachbar Nachbarn
        teacher: f Lehrerin
        doctor: m Arzt
        baker: m Bäcker
        farmer: m Bauer Bauern
        cook: m Koch
        daughter: f Tochter
        gardener: f Gärtnerin
        grandmother: f Großmutter
        grandfather: m Großvater
        aunt: f Tante
        uncle: m Onkel
        student: f Studentin
        painter: m Maler
        book: n Buch
        letter: m Brief
        story: f Geschichte
        apple: m Apfel
        cake: m Kuchen
        egg: n Ei
        soup: f Suppe
        tea: m Tee
        coffee: m Kaffee
        milk: f Milch
        coat: m Mantel
        shirt: n Hemd
        car: n Auto
        door: f Tür
        window: n Fenster
        box: f Kiste
        flower: f Blume
        picture: n Bild
        president: m Präsident Präsidenten / f Präsidentin
        minister: m Minister / f Ministerin
        mayor: m Bürgermeister / f Bürgermeisterin
        coach: m Trainer / f Trainerin
        captain: m Kapitän / f Kapitänin
        judge: m Richter / f Richterin
        senator: m Senator / f Senatorin
        ambassador: m Botschafter / f Botschafterin
        director: m Direktor / f Direktorin
        economist: m Ökonom Ökonomen / f Ökonomin
        striker: m Stürmer / f Stürmerin
        goalkeeper: m Torhüter / f Torhüterin
        journalist: m Journalist Journalisten / f Journalistin
        workers: p Arbeiter Arbeitern
        fans: p Fans
        voters: p Wähler Wählern
        pilots: p Piloten
        nurses: p Pfleger Pflegern
        miners: p Bergleute Bergleuten
        activists: p Aktivisten
        residents: p Anwohner Anwohnern
        law: n Gesetz
        plan: m Plan
        budget: m Haushalt
        report: m Bericht
        agreement: n Abkommen
        proposal: m Vorschlag
        contract: m Vertrag
        reform: f Reform
        factory: f Fabrik
        mine: n Bergwerk
        airport: m Flughafen
        stadium: n Stadion
        bridge: f Brücke
        newspaper: f Zeitung
        harbour: m Hafen
        hospital: n Krankenhaus
    """),
    adjectives=table("""
        old: alt
        young: jung
        slim: schlank
        small: klein
        kind: freundlich
        clever: klug
        happy: glücklich
        poor: arm
        strong: stark
        new: neu
        big: groß
        red: rot
        white: weiß
        heavy: schwer
        cheap: billig
        pretty: schön
    """),
    nationalities=table("""
        German: deutsch
        Spanish: spanisch
        Italian: italienisch
        French: französisch
        Polish: polnisch
        Swedish: schwedisch
        Norwegian: norwegisch
        Greek: griechisch
        Hungarian: ungarisch
        Russian: russisch
        Mexican: mexikanisch
        Japanese: japanisch
    """),
    verbs=table("""
        read: liest lesen
        write: schreibt schreiben
        eat: isst essen
        drink: trinkt trinken
        buy: kauft kaufen
        wash: wäscht waschen
        open: öffnet öffnen
        see: sieht sehen
        love: liebt lieben
        help: hilft helfen
        give: gibt geben
        show: zeigt zeigen
        sleep: schläft schlafen
        sing: singt singen
        think: denkt denken
        know: weiß wissen
        be: ist sein
        criticise: kritisierte kritisierten kritisieren
        present: präsentierte präsentierten präsentieren
        reject: verwarf verwarfen verwerfen
        defend: verteidigte verteidigten verteidigen
        sign: unterzeichnete unterzeichneten unterzeichnen
        welcome: begrüßte begrüßten begrüßen
        acquire: erwarb erwarben erwerben
        sell: verkaufte verkauften verkaufen
        close: schloss schlossen schließen
        build: baute bauten bauen
        receive: empfing empfingen empfangen
        praise: lobte lobten loben
        accuse: beschuldigte beschuldigten beschuldigen
        interview: interviewte interviewten interviewen
        replace: ersetzte ersetzten ersetzen
        beat: schlug schlugen schlagen
        defeat: besiegte besiegten besiegen
        visit: besuchte besuchten besuchen
        leave: verließ verließen verlassen
        protest: protestierte protestierten protestieren
        vote: stimmte stimmten stimmen
        march: marschierte marschierten marschieren
        celebrate: feierte feierten feiern
        say: sagte sagten sagen
        explain: erklärte erklärten erklären
        claim: behauptete behaupteten behaupten
    """),
    places=table("""
        garden: im Garten
        kitchen: in der Küche
        school: in der Schule
        market: auf dem Markt
        forest: im Wald
        station: am Bahnhof
        church: in der Kirche
        library: in der Bibliothek
        park: im Park
        village: im Dorf
        street: auf der Straße
        river: am Fluss
    """),
    times=table("""
        morning: am Morgen
        evening: am Abend
        night: in der Nacht
        daily: jeden Tag
        summer: im Sommer
        today: heute
        soon: bald
        monday: am Montag
        wednesday: am Mittwoch
        friday: am Freitag
        sunday: am Sonntag
        yesterday: gestern
        last_week: letzte Woche
        tomorrow: morgen
        next_week: nächste Woche
    """),
    names=NamePool(
        given=MappingProxyType(
            {
                "f": words("Ingrid Heike Sabine Ursula Greta Anneliese Birgit Katrin Liesel Monika"),
                "m": words("Jürgen Hans Wolfgang Dieter Uwe Klaus Stefan Holger Matthias Günther"),
            }
        ),
        surnames=words(
            "Müller Schmidt Schneider Weber Becker Hoffmann Schäfer Krüger Lehmann Zimmermann Hartmann Schwarz "
            "Vogel Brandt Köhler Pfeiffer Seidel Böhm Winkler Lorenz Keller Scholz Ziegler Engel Bergmann Friedrich"
        ),
        cities=words(
            "Rostock Kassel Erfurt Potsdam Freiburg Chemnitz Augsburg Lübeck Würzburg Dresden Bochum Magdeburg"
        ),
        clubs=tuple(("", name) for name in words("Fortuna Germania Arminia Viktoria Teutonia Hansa")),
        firms=(
            ("", "Nordbau"),
            ("", "Kronwerk"),
            ("", "Lindner Stahl"),
            ("", "Hagedorn Chemie"),
            ("", "Talmühle"),
            ("", "Bahnhaus Logistik"),
        ),
        club_frames=(("", "Eintracht {}"), ("m", "FC {}"), ("m", "SV {}")),
        firm_frames=(
            ("f", "Universität {}", "city"),
            ("f", "Bank von {}", "country"),
            ("f", "Sparkasse {}", "city"),
        ),
        events=(
            ("f", "Weltmeisterschaft"),
            ("n", "Frühlingsturnier"),
            ("m", "Hansepokal"),
            ("m", "Rheinlauf"),
            ("f", "Meisterrunde"),
            ("f", "Bergtournee"),
        ),
        shared_events=(("m", "Grand Prix"), ("f", "Euro Trophy"), ("n", "Masters"), ("m", "Super Bowl")),
    ),
)
