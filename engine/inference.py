"""A model over a whole store: logits, votes, scores."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import DivergedError
from ..data import ItemView, TokenStore, inference_batches
from ..kernels import Votes, votes
from ..model import TaskModel
from .metrics import AccuracyCounter, EntityCounter
from .precision import computing_in

Poll = Callable[[], None]
OUTSIDE = "O"


def predict_logits(
    model: TaskModel,
    view: ItemView,
    examples: np.ndarray | None = None,
    *,
    precision: str = "fp32",
    poll: Poll = lambda: None,
) -> Tensor:
    """Logits [M, items of the store, C], fp32 on the CPU; zeros for examples that were not asked for.

    Args:
        precision: what the model computes in, as in training.
        poll: called between batches, so that a long pass can be interrupted.

    Raises:
        DivergedError: a logit is not finite.
    """
    total = int(view.offsets[-1])
    device = next(model.parameters()).device
    out: Tensor | None = None
    with computing_in(model, precision), torch.inference_mode():
        for batch, rows in inference_batches(view, examples):
            poll()
            if not len(rows):
                continue
            logits = model(batch.to(device)).float().cpu()
            if out is None:
                out = torch.zeros(logits.shape[0], total, logits.shape[2])
            out[:, torch.from_numpy(rows)] = logits
    if out is None:
        return torch.zeros(1, total, len(model.labels))
    if not out.isfinite().all():
        raise DivergedError("a model gives probabilities that are not finite; its weights are damaged")
    return out.clone()


def score(
    model: TaskModel, store: TokenStore, *, precision: str = "fp32", poll: Poll = lambda: None
) -> tuple[dict[str, float], Votes]:
    """Scores in points of the mean probability of the voters, and the votes themselves.

    NER: entity F1, precision and recall as conlleval counts them, and strict F1; words that the maximum length cut
    count as `O`. Classification: accuracy and macro F1.
    """
    result = votes(predict_logits(model, ItemView(store), precision=precision, poll=poll))
    predicted = result.mean_probability.argmax(dim=-1).numpy()
    if store.task == "ner":
        return _entity_scores(model.labels, store, predicted), result
    counter = AccuracyCounter(range(len(model.labels)))
    assert store.item_labels is not None
    counter.update(np.asarray(store.item_labels), predicted)
    scores = counter.result()
    return {"accuracy": scores.accuracy, "macro_f1": scores.macro_f1}, result


def _entity_scores(labels: tuple[str, ...], store: TokenStore, predicted: np.ndarray) -> dict[str, float]:
    lenient, strict = EntityCounter(), EntityCounter(strict=True)
    for example in range(len(store)):
        gold = [labels[i] for i in store.gold(example)]
        tags = predicted_tags(labels, store, example, predicted)
        lenient.update(gold, tags)
        strict.update(gold, tags)
    scores = lenient.result()
    return {
        "entity_f1": scores.f1,
        "precision": scores.precision,
        "recall": scores.recall,
        "entity_f1_strict": strict.result().f1,
    }


def predicted_tags(labels: tuple[str, ...], store: TokenStore, example: int, predicted: np.ndarray) -> list[str]:
    """The tag of every word of an example; `O` where the word has no token or was cut."""
    tags = [OUTSIDE] * int(store.num_words[example])
    start = int(store.item_offsets[example])
    for offset, word in enumerate(store.items(example)[1]):
        tags[int(word)] = labels[int(predicted[start + offset])]
    return tags


def metric_rows(scores: dict[str, float], language: str, role: str, count: int) -> list[dict[str, Any]]:
    """The entries of `scores.json`."""
    return [
        {"language": language, "role": role, "metric": name, "value": value, "count": count}
        for name, value in scores.items()
    ]
