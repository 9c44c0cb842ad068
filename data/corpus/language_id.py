"""The language of a sentence, by a small model that comes with its library and needs no network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any

from ... import ConfigError
from ..readers.example import Example

# Languages that a model of character sequences cannot tell apart in one sentence; each stands for the others.
_KIN = (("no", "nb", "nn"), ("zh", "wuu", "yue", "hak", "nan"), ("hr", "bs", "sr", "sh"), ("id", "ms"), ("tl", "fil"))


@cache
def language_model() -> Any:
    """The library's model, with `classify` and `labels`; a ConfigError where the library is missing."""
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ImportError as error:
        raise ConfigError(
            "to tell languages apart takes py3langid; run pip install 'xlt-engine[corpus]', or leave the check out "
            "(--no-language-check, reader.check_language = false)"
        ) from error
    return LanguageIdentifier.from_model_file(MODEL_FILE)


def accepted_codes(language: str) -> frozenset[str]:
    """The codes that the model may give a sentence of a language; none where it does not know the language."""
    code = language.split("-")[0].lower()
    codes = frozenset(next((group for group in _KIN if code in group), (code,)))
    return codes if codes & set(language_model().labels) else frozenset()


def of_language(examples: Iterable[Example], language: str, refused: Counter[str]) -> Iterator[Example]:
    """The examples whose text the model takes for a language; `refused` counts the others by theirs.

    Raises:
        ConfigError: py3langid is missing, or its model does not know the language.
    """
    codes = accepted_codes(language)
    if not codes:
        raise ConfigError(f"reader.check_language: the language model does not know {language!r}; leave it out")
    for example in examples:
        code = str(language_model().classify(example.plain)[0])
        if code in codes:
            yield example
        else:
            refused[code] += 1
