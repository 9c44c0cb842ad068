"""Labels for texts in one call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Unpack, overload

from ... import ConfigError
from ...data import Tokenizer
from .model_folder import ModelLike
from .predictor import Options, Prediction, Predictor, TagPrediction


@overload
def predict(
    model: ModelLike,
    texts: Sequence[str] | Sequence[Sequence[str]],
    *,
    task: Literal["ner", "tag"],
    pairs: Sequence[str | None] | None = None,
    tokenizer: Tokenizer | None = None,
    **options: Unpack[Options],
) -> list[TagPrediction]: ...
@overload
def predict(
    model: ModelLike,
    texts: Sequence[str] | Sequence[Sequence[str]],
    *,
    task: Literal["classification"],
    pairs: Sequence[str | None] | None = None,
    tokenizer: Tokenizer | None = None,
    **options: Unpack[Options],
) -> list[Prediction]: ...
@overload
def predict(
    model: ModelLike,
    texts: Sequence[str] | Sequence[Sequence[str]],
    *,
    task: str | None = None,
    pairs: Sequence[str | None] | None = None,
    tokenizer: Tokenizer | None = None,
    **options: Unpack[Options],
) -> list[Prediction] | list[TagPrediction]: ...
def predict(
    model: ModelLike,
    texts: Sequence[str] | Sequence[Sequence[str]],
    *,
    task: str | None = None,
    pairs: Sequence[str | None] | None = None,
    tokenizer: Tokenizer | None = None,
    **options: Unpack[Options],
) -> list[Prediction] | list[TagPrediction]:
    """Labels every text: a `Prediction` each for classification, a `TagPrediction` each for NER.

    A label is the most probable class of the voters' mean probability (arXiv 2310.04726 leaves this open), or what the
    recipe of a stage folder has as `prediction`. Where the tags of a sentence would not be valid BIO, it gets the valid
    ones with the largest product of mean probabilities. With `abstain` a label is given only where all voters agree on
    it and each of them is surer than alpha (Eq. 4).

    Args:
        model: a task model, or the folder of one; a stage folder of a run is one.
        texts: texts; for NER lists of words, or texts, which are then cut into words.
        task: "ner", "tag" or "classification", where the caller knows it: type checkers then know the result, and a
            model for another task is an error.
        pairs: classification: the second text of each.
        tokenizer: the model's; needed with a model in memory, read from the folder otherwise.
        options: `Options`, of which none has to be given.

    Raises:
        ConfigError: the arguments do not fit together or the task, or `split` does not suit the script of the texts.
        DataError: a text is not usable.
        ModelError: the folder is damaged, or model and tokenizer do not fit.
        DivergedError: the model gives probabilities that are not finite.
    """
    predictor = Predictor(model, tokenizer=tokenizer, **options)
    if task is not None:
        predictor.expect(task)
    if predictor.task == "classification":
        return predictor.classify([_text(t) for t in texts], pairs)
    if pairs is not None:
        raise ConfigError("pairs are for classification; a tagger reads one sentence at a time")
    return predictor.tag(texts)


def _text(text: str | Sequence[str]) -> str:
    if not isinstance(text, str):
        raise ConfigError(f"the model classifies texts, but one is a {type(text).__name__}; give strings")
    return text
