"""The demo world's Spanish.

A noun is its gender and its one form (the plural, for groups of people); roles list the masculine, then the feminine.
An adjective is its masculine and feminine, or the one form for both; a nationality adds the two plurals. A verb is its
third person singular, its third person plural where it is needed, and its infinitive: present tense in everyday words,
preterite in the news.
"""

from __future__ import annotations

from types import MappingProxyType

from .demo_lexicon import Lexicon, NamePool, table, words

LEXICON = Lexicon(
    nouns=table("""
        man: m hombre
        woman: f mujer
        boy: m niño
        girl: f niña
        friend: f amiga
        neighbour: m vecino
        teacher: f maestra
        doctor: m médico
        baker: m panadero
        farmer: m granjero
        cook: m cocinero
        daughter: f hija
        gardener: f jardinera
        grandmother: f abuela
        grandfather: m abuelo
        aunt: f tía
        uncle: m tío
        student: f estudiante
        painter: m pintor
        book: m libro
        letter: f carta
        story: m cuento
        apple: f manzana
        cake: m pastel
        egg: m huevo
        soup: f sopa
        tea: m té
        coffee: m café
        milk: f leche
        coat: m abrigo
        shirt: f camisa
        car: m coche
        door: f puerta
        window: f ventana
        box: f caja
        flower: f flor
        picture: m cuadro
        president: m presidente / f presidenta
        minister: m ministro / f ministra
        mayor: m alcalde / f alcaldesa
        coach: m entrenador / f entrenadora
        captain: m capitán / f capitana
        judge: m juez / f jueza
        senator: m senador / f senadora
        ambassador: m embajador / f embajadora
        director: m director / f directora
        economist: m economista / f economista
        striker: m delantero / f delantera
        goalkeeper: m portero / f portera
        journalist: m periodista / f periodista
        workers: m trabajadores
        fans: m aficionados
        voters: m votantes
        pilots: m pilotos
        nurses: m enfermeros
        miners: m mineros
        activists: m activistas
        residents: m residentes
        law: f ley
        plan: m plan
        budget: m presupuesto
        report: m informe
        agreement: m acuerdo
        proposal: f propuesta
        contract: m contrato
        reform: f reforma
        factory: f fábrica
        mine: f mina
        airport: m aeropuerto
        stadium: m estadio
        bridge: m puente
        newspaper: m periódico
        harbour: m puerto
        hospital: m hospital
    """),
    adjectives=table("""
        old: viejo vieja
        young: joven
        slim: delgado delgada
        small: pequeño pequeña
        kind: amable
        clever: inteligente
        happy: feliz
        poor: pobre
        strong: fuerte
        new: nuevo nueva
        big: grande
        red: rojo roja
        white: blanco blanca
        heavy: pesado pesada
        cheap: barato barata
        pretty: bonito bonita
    """),
    nationalities=table("""
        German: alemán alemana alemanes alemanas
        Spanish: español española españoles españolas
        Italian: italiano italiana italianos italianas
        French: francés francesa franceses francesas
        Polish: polaco polaca polacos polacas
        Swedish: sueco sueca suecos suecas
        Norwegian: noruego noruega noruegos noruegas
        Greek: griego griega griegos griegas
        Hungarian: húngaro húngara húngaros húngaras
        Russian: ruso rusa rusos rusas
        Mexican: mexicano mexicana mexicanos mexicanas
        Japanese: japonés japonesa japoneses japonesas
    """),
    verbs=table("""
        read: lee leer
        write: escribe escribir
        eat: come comer
        drink: bebe beber
        buy: compra comprar
        wash: lava lavar
        open: abre abrir
        see: ve ver
        love: ama amar
        help: ayuda ayudar
        give: da dar
        show: muestra mostrar
        sleep: duerme dormir
        sing: canta cantar
        think: piensa pensar
        know: sabe saber
        be: es ser
        criticise: criticó criticaron criticar
        present: presentó presentaron presentar
        reject: rechazó rechazaron rechazar
        defend: defendió defendieron defender
        sign: firmó firmaron firmar
        welcome: celebró celebraron celebrar
        acquire: adquirió adquirieron adquirir
        sell: vendió vendieron vender
        close: cerró cerraron cerrar
        build: construyó construyeron construir
        receive: recibió recibieron recibir
        praise: elogió elogiaron elogiar
        accuse: acusó acusaron acusar
        interview: entrevistó entrevistaron entrevistar
        replace: sustituyó sustituyeron sustituir
        beat: venció vencieron vencer
        defeat: derrotó derrotaron derrotar
        visit: visitó visitaron visitar
        leave: abandonó abandonaron abandonar
        protest: protestó protestaron protestar
        vote: votó votaron votar
        march: marchó marcharon marchar
        celebrate: festejó festejaron festejar
        say: dijo dijeron decir
        explain: explicó explicaron explicar
        claim: afirmó afirmaron afirmar
    """),
    places=table("""
        garden: en el jardín
        kitchen: en la cocina
        school: en la escuela
        market: en el mercado
        forest: en el bosque
        station: en la estación
        church: en la iglesia
        library: en la biblioteca
        park: en el parque
        village: en el pueblo
        street: en la calle
        river: junto al río
    """),
    times=table("""
        morning: por la mañana
        evening: por la tarde
        night: por la noche
        daily: cada día
        summer: en verano
        today: hoy
        soon: pronto
        monday: el lunes
        wednesday: el miércoles
        friday: el viernes
        sunday: el domingo
        yesterday: ayer
        last_week: la semana pasada
        tomorrow: mañana
        next_week: la semana próxima
    """),
    names=NamePool(
        given=MappingProxyType(
            {
                "f": words("Carmen Lucía Pilar Dolores Isabel Rocío Inés Beatriz Mercedes Ximena"),
                "m": words("José Javier Pablo Alejandro Miguel Diego Rodrigo Álvaro Ignacio Ramón"),
            }
        ),
        surnames=words(
            "García Fernández González López Martínez Sánchez Pérez Gómez Jiménez Ruiz Hernández Díaz Álvarez Muñoz "
            "Romero Navarro Domínguez Vázquez Ramos Gil Serrano Molina Ortega Castro Castillo Ibáñez"
        ),
        cities=words("Valladolid Málaga Bilbao Salamanca Cádiz Murcia Oviedo Huelva Toledo Burgos Albacete Granada"),
        clubs=tuple(("m", name) for name in words("Betis Numancia Hércules Rayo Celta Sporting")),
        firms=(
            ("", "Aceros Vega"),
            ("m", "Grupo Solana"),
            ("", "Textil Andina"),
            ("", "Rioluz"),
            ("", "Cementeras Unidas"),
            ("", "Navinorte"),
        ),
        club_frames=(("m", "Real {}"), ("m", "Atlético de {}"), ("m", "Deportivo {}")),
        firm_frames=(
            ("f", "Universidad de {}", "city"),
            ("m", "Banco de {}", "country"),
            ("f", "Caja de {}", "city"),
        ),
        events=(
            ("f", "Copa del Mundo"),
            ("f", "Copa de Abril"),
            ("f", "Vuelta Ciclista"),
            ("m", "Trofeo Mediterráneo"),
            ("f", "Liga del Norte"),
            ("m", "Torneo de Otoño"),
        ),
        shared_events=(("m", "Grand Prix"), ("m", "Euro Trophy"), ("m", "Masters"), ("f", "Super Bowl")),
        shared_club_article="m",
    ),
)
