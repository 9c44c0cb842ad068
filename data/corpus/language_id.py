"""The language of a sentence, by a small model that comes with its library and needs no network."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from ... import ConfigError

# Languages that a model of character sequences cannot tell apart in one sentence; each stands for the others.
_KIN = (("no", "nb", "nn"), ("zh", "wuu", "yue", "hak", "nan"), ("hr", "bs", "sr", "sh"), ("id", "ms"), ("tl", "fil"))


class LanguageIdentifier:
    """Says whether a sentence is in the language that it should be in.

    Args:
        language: ISO 639-1 code; a regional part is ignored.

    Attributes:
        supported: whether the model knows the language; where it does not, nothing is said about any sentence.

    Raises:
        ConfigError: the library is missing.
    """

    def __init__(self, language: str) -> None:
        model = _model()
        self._classify: Callable[[str], tuple[str, float]] = model.classify
        self.language = language.split("-")[0].lower()
        kin = next((group for group in _KIN if self.language in group), (self.language,))
        self._accepted = frozenset(kin)
        self.supported = bool(self._accepted & set(model.labels))

    def identify(self, sentence: str) -> str:
        """The code of the most likely language."""
        return str(self._classify(sentence)[0])

    def accepts(self, code: str) -> bool:
        """Whether a code that `identify` gave stands for the language, or for one that cannot be told from it."""
        return code in self._accepted


@cache
def _model() -> Any:
    try:
        from py3langid.langid import MODEL_FILE
        from py3langid.langid import LanguageIdentifier as Model
    except ImportError as error:
        raise ConfigError(
            "the check of the language needs py3langid; run pip install 'xlt-engine[corpus]', "
            "or leave the check out with --no-language-check"
        ) from error
    return Model.from_model_file(MODEL_FILE)
