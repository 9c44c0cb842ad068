"""The language of a file: by its name, else guessed from its text."""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from collections.abc import Iterable
from importlib import resources
from itertools import islice
from pathlib import Path

from ... import ConfigError
from ...data.corpus.language_id import language_model

LOOKED_AT, LONG = 100, 20
"""Texts that are guessed at, and characters of the shortest of them."""
AGREED, LEAST = 0.8, 10
"""Share of these texts that must look like one language, and their least number."""

_FILE = tomllib.loads(resources.files(__package__).joinpath("languages.toml").read_text("utf-8"))
_ROLES, _CODES = (frozenset(_FILE[kind].split()) for kind in ("roles", "codes"))
_NAMES = {name: code for code, names in _FILE["names"].items() for name in names.split()}


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
