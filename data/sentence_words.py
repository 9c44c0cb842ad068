"""What the splitter of sentences knows of each language: abbreviations, and words that begin sentences."""

from __future__ import annotations

# Never at the end of a sentence: the word that they belong to follows. The key "" is for all languages.
TITLES = {
    "": "dr prof hr st mr mrs ms vs cf jr sr",
    "de": "bde abs aufl ausg bez bzw dipl ing evtl fa fam frl geb gest gegr ggf hl hrsg inkl insb jh jhd jhdt "
    "kgl mio mrd mind max min nachf nördl südl östl westl od österr pfr phil po pos rd rer rev sog spez "
    "str stud tel tsd übers urspr usf v verb vgl vors vorm vs wg zit zw zzgl zz sel ehem einschl engl frz "
    "ital lat griech span russ amerik brit dt niederl poln tschech ungar türk arab hebr jap chin lfd mult allg "
    "bes betr ders eigtl entspr erg ev evang kath röm ff mitgl nat städt svw weibl männl ugs altgr mhd "
    "ahd ca",
    "en": "approx apt assn asst ave blvd bldg brig cdr cmdr co corp dept dist div e.g est etc ex gov govt i.e "
    "inc ltd maj messrs mgr mme mlle orig p par pl pres prev prof ref rep reps sec sen sens sgt supt univ "
    "viz ed eds ca gen col lt capt rev hon mt ft",
    "fr": "m mm mme mmes mlle mlles me mgr mr chap éd coll env apr ap av boul bd cie dir ex fr hab ibid id ill "
    "n req ste sté suiv trad v º lt gén",
    "es": "sr sra sres sras srta srtas dra dres da dña dn ud uds vd vds ee uu av avda cap cía dpto ed ej etc "
    "excmo fdo gral ing lic prof pto rev sec sto sta tel hnos izq máx mín trad gen cnel",
    "it": "sig sigg sigra sign dott dottssa dr ing avv arch on mons prof profssa rag geom card cap pag pagg ecc "
    "es ed nr num sec cfr ca s ss tel trad",
    "nl": "dhr mevr mw mej drs ir ing mr ds prof dr st blz bijv bv enz evt excl incl jhr jkvr max min nl o.a "
    "ong resp sr str tel tk vgl vnl vs zgn zg ca t.a.v afd afb bijz co echtg geb gem gen ged h hfst ingen "
    "kol lt mgr",
    "pt": "sr sra srs sras srta dra exmo exma ilmo ilma av pç cap cia depto ed eng etc ex fl fls gen gov prof "
    "profa pe rev séc sto sta tel min máx",
    "sv": "bl dvs el etc ev exkl f.d fr.o.m inkl jfr kap kl m.fl m.m nr o.s.v resp s.k st t.ex t.o.m tel",
    "da": "bl dvs el etc ekskl evt fx inkl jf kap kl mht mv nr osv pct resp stk tlf",
    "pl": "np m.in tzw prof dr inż mgr ul pl al nr str tj itd itp ok r w św ks gen płk por kpt zob wg im",
    "ru": "г гг в вв им ул пр д стр рис т е п др проф акад см ср напр руб тыс млн млрд св о р род ок",
}
# At the end of a sentence as well as within one: the end, where a capital follows.
ENDERS = {
    "": "etc inc ltd co corp ff al",
    "de": "etc usw usf ff al u.a u.ä o.ä u.v.m",
    "en": "etc jr sr inc ltd co corp al a.m p.m",
    "fr": "etc",
    "es": "etc",
    "it": "ecc",
    "nl": "enz e.d e.a",
    "pt": "etc",
}
# Capitalised at the head of a sentence only, so that one after an abbreviation begins the next.
STARTERS = {
    "de": "Der Die Das Er Sie Es Ein Eine Im In Am An Auf Aus Bei Mit Nach Seit Von Vor Zu Zum Zur Dies Diese "
    "Dieser Dieses Auch Als Wenn Aber Und Doch So Da Hier Dort Danach Dabei Damit Bis Für Sein Seine Ihr "
    "Ihre Wir Ich Heute Während Durch Unter Über Später Zudem Außerdem Allerdings Daher Dadurch Nachdem "
    "Obwohl",
    "en": "The A An In On At He She It They We This That These Those There His Her Its Their But And As After "
    "Before When While For From With By However Although If Since During",
    "fr": "Le La Les Un Une Des Il Elle Ils Elles Ce Cette Ces En Dans Au Aux Mais Et Pour Par Avec Après Avant "
    "Son Sa Ses On Depuis Lors",
    "es": "El La Los Las Un Una En Es Fue Se Su Sus Este Esta Estos Estas Con Por Para Pero Y No Al Tras Desde "
    "Como Entre",
    "it": "Il Lo La I Gli Le Un Una Nel Nella È Fu Si Con Per Ma E In Dopo Questo Questa Suo Sua Durante Come",
    "nl": "De Het Een In Op Hij Zij Ze Dit Deze Die Dat Van Voor Met Na Maar En Als Er Ook Bij Hun Zijn Toen Door",
    "pt": "O A Os As Um Uma Em No Na É Foi Se Seu Sua Este Esta Com Por Para Mas E Ao Após Desde Como Entre",
}
# Abbreviations before a number, but words of their own elsewhere.
_NUMBERED = (
    "no nos nr nrs nº num núm vol op p pp pág págs fig art arts abb abs bd kap chap cap s ss str hst sec sect tab"
)
NUMBERED = frozenset(_NUMBERED.split())
# Languages that write ordinals with a full stop.
_ORDINAL = "als bar bs cs da de et eu fi fo gsw hr hu is lb lv nb nds nn no pl sk sl sr tr"
ORDINAL = frozenset(_ORDINAL.split())
# Languages that end a sentence without a space.
CJK = frozenset(("cdo", "gan", "hak", "ja", "lzh", "nan", "wuu", "yue", "zh", "zh-classical", "zh-yue"))
# Languages that share the abbreviations of another.
NEAR = {
    "als": "de",
    "bar": "de",
    "nds": "de",
    "lb": "de",
    "gsw": "de",
    "gl": "pt",
    "ca": "es",
    "uk": "ru",
    "nb": "da",
    "no": "da",
}
