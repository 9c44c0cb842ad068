"""Labels for texts in one call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, overload

from ... import ConfigError
from ...data import Tokenizer
from ..training.device import Precision
from .model_folder import Device, ModelLike
from .predictor import Prediction, Predictor, TagPrediction
from .words import Split


@overload
def predict(
    model: ModelLike,
    texts: Sequence[str] | Sequence[Sequence[str]],
    *,
    task: Literal["ner", "tag"],
    pairs: Sequence[str | None] | None = None,
    tokenizer: Tokenizer | None = None,
    abstain: bool = False,
    alpha: float | None = None,
    raw: bool = False,
    split: Split | None = None,
    max_length: int | None = None,
    device: Device = "auto",
    precision: Precision = "auto",
) -> list[TagPrediction]: ...
@overload
def predict(
    model: ModelLike,
    texts: Sequence[str] | Sequence[Sequence[str]],
    *,
    task: Literal["classification"],
    pairs: Sequence[str | None] | None = None,
    tokenizer: Tokenizer | None = None,
    abstain: bool = False,
    alpha: float | None = None,
    raw: bool = False,
    split: Split | None = None,
    max_length: int | None = None,
    device: Device = "auto",
    precision: Precision = "auto",
) -> list[Prediction]: ...
@overload
def predict(
    model: ModelLike,
    texts: Sequence[str] | Sequence[Sequence[str]],
    *,
    task: str | None = None,
    pairs: Sequence[str | None] | None = None,
    tokenizer: Tokenizer | None = None,
    abstain: bool = False,
    alpha: float | None = None,
    raw: bool = False,
    split: Split | None = None,
    max_length: int | None = None,
    device: Device = "auto",
    precision: Precision = "auto",
) -> list[Prediction] | list[TagPrediction]: ...
def predict(
    model: ModelLike,
    texts: Sequence[str] | Sequence[Sequence[str]],
    *,
    task: str | None = None,
    pairs: Sequence[str | None] | None = None,
    tokenizer: Tokenizer | None = None,
    abstain: bool = False,
    alpha: float | None = None,
    raw: bool = False,
    split: Split | None = None,
    max_length: int | None = None,
    device: Device = "auto",
    precision: Precision = "auto",
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
        alpha: for `abstain`; where absent, what the stage that made the folder decided with, else 0.9.
        raw: NER: the tag of each word by itself, valid or not, as a run scores them.
        split: NER: where texts are cut into words: around "punctuation", at "whitespace" only, or for scripts without
            spaces at all their "characters"; where absent, as the recipe of the folder cut its unlabelled text, else
            around punctuation.
        max_length: in tokens, special ones included; where absent, the length the folder was trained with, else all
            positions of the encoder. A longer sentence of NER is read in overlapping windows, so that every word gets a
            tag; a longer text of classification is cut.
        device: for a folder; a model in memory stays where it is.
        precision: for a folder: what the model computes in. "auto" is fp32 on a CPU, and on a GPU what the stage was
            trained in, else 16 bits. On a CPU with AVX-512 BF16 "bf16" is 1.5 to 1.9 times as fast.

    Raises:
        ConfigError: the arguments do not fit together or the task, or `split` does not suit the script of the texts.
        DataError: a text is not usable.
        ModelError: the folder is damaged, or model and tokenizer do not fit.
        DivergedError: the model gives probabilities that are not finite.
    """
    predictor = Predictor(
        model,
        tokenizer=tokenizer,
        abstain=abstain,
        alpha=alpha,
        raw=raw,
        split=split,
        max_length=max_length,
        device=device,
        precision=precision,
    )
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
