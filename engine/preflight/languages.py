"""The language of a file, by its name."""

from __future__ import annotations

import re
import tomllib
from importlib import resources
from pathlib import Path

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
