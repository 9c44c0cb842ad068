"""The language of a file: by its name, else guessed from its text."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

from ... import ConfigError
from ...data.corpus.language_id import language_model

LOOKED_AT, LONG = 100, 20
"""Texts that are guessed at, and characters of the shortest of them."""
AGREED, LEAST = 0.8, 10
"""Share of these texts that must look like one language, and their least number."""

_ROLES = frozenset(
    re.findall(
        r"\w+",
        "train training test testing dev valid validation eval unlabelled unlabeled labelled labeled raw plain mono "
        "data text source target src tgt general conll iob bio tsv csv jsonl ndjson json txt xz gz ner task",
    )
)
# ISO 639-1
_CODES = frozenset(
    re.findall(
        r"\w\w",
        "aa ab af ak am an ar as av ay az ba be bg bh bi bm bn bo br bs ca ce ch co cr cs cu cv cy da de dv dz ee "
        "el en eo es et eu fa ff fi fj fo fr fy ga gd gl gn gu gv ha he hi ho hr ht hu hy hz ia id ie ig ii ik io "
        "is it iu ja jv ka kg ki kj kk kl km kn ko kr ks ku kv kw ky la lb lg li ln lo lt lu lv mg mh mi mk ml mn "
        "mr ms mt my na nb nd ne ng nl nn no nr nv ny oc oj om or os pa pi pl ps pt qu rm rn ro ru rw sa sc sd se "
        "sg si sk sl sm sn so sq sr ss st su sv sw ta te tg th ti tk tl tn to tr ts tt tw ty ug uk ur uz ve vi vo "
        "wa wo xh yi yo za zh zu",
    )
)
_NAMES = dict(
    re.findall(
        r"(\w+)=(\w+)",
        "english=en eng=en german=de deutsch=de deu=de ger=de french=fr fra=fr fre=fr spanish=es spa=es esp=es "
        "dutch=nl nld=nl ned=nl dut=nl italian=it ita=it portuguese=pt por=pt russian=ru rus=ru chinese=zh zho=zh "
        "chi=zh japanese=ja jpn=ja arabic=ar ara=ar turkish=tr tur=tr polish=pl pol=pl swedish=sv swe=sv "
        "finnish=fi fin=fi danish=da dan=da gsw=gsw",
    )
)


def language_of(path: Path) -> str | None:
    """The language that a file's name, or else its folder's, gives: `de` for `train.de.conll` and `de/train.txt`.

    None where there is no ISO 639-1 code (or one of a few other names, `esp` or `german`) between other characters
    than letters. Nothing is looked at but the name.
    """
    for name in (path.name, path.resolve().parent.name):
        words = [word for word in re.split(r"[^a-z]+", name.lower()) if word and word not in _ROLES]
        codes = [_NAMES.get(word, word) for word in words if word in _CODES or word in _NAMES]
        if codes:
            return codes[-1]
    return None


def guess_language(texts: Iterable[str]) -> str | None:
    """The language that py3langid takes nearly all of the first texts for; None without it, or where they disagree."""
    try:
        model = language_model()
    except ConfigError:
        return None
    long = islice((text for text in texts if len(text) >= LONG), LOOKED_AT)
    votes = Counter(str(model.classify(text)[0]) for text in long)
    code, count = next(iter(votes.most_common(1)), ("", 0))
    return code if code in _CODES and votes.total() >= LEAST and count >= AGREED * votes.total() else None
