"""A model over a whole store: logits, votes, scores."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ... import DivergedError
from ...data import OUTSIDE, ItemView, TokenStore, inference_batches, inference_tokens
from ...kernels import votes
from ...model import TaskModel
from ..training.distributed import ProcessGroup
from ..training.out_of_memory import naming_the_batch
from ..training.precision import computing_in
from .metrics import AccuracyCounter, ClassTable, EntityCounter, class_table

Poll = Callable[[], None]


def predict_logits(
    model: TaskModel,
    view: ItemView,
    examples: np.ndarray | None = None,
    *,
    precision: str = "fp32",
    poll: Poll = lambda: None,
    processes: ProcessGroup | None = None,
    tokens: int = 0,
) -> Tensor:
    """Logits [M, items of the store, C], fp32 on the CPU; zeros for examples that were not asked for.

    Args:
        precision: what the model computes in, as in training.
        poll: called between batches, so that a long pass can be interrupted; among several processes once, at the end.
        processes: share the batches; all get all logits, those that one process computes, to the bit.
        tokens: in one forward pass; 0: what suits the device.

    Raises:
        OutOfMemoryError: a batch does not fit.
        DivergedError: a logit is not finite.
    """
    total = int(view.offsets[-1])
    processes = processes or ProcessGroup()
    device = next(model.parameters()).device
    out: Tensor | None = None
    with computing_in(model, precision), torch.inference_mode():
        for batch, rows in inference_batches(
            view,
            examples,
            token_budget=tokens or inference_tokens(device.type),
            part=processes.rank,
            parts=processes.size,
        ):
            if processes.size == 1:
                poll()
            if not len(rows):
                continue
            with naming_the_batch(batch):
                logits = model(batch.to(device)).float().cpu()
            if out is None:
                out = torch.zeros(logits.shape[0], total, logits.shape[2])
            out[:, torch.from_numpy(rows)] = logits
        if processes.size > 1:
            out = _gathered(out, total, processes)
            poll()
    if out is None:
        return torch.zeros(1, total, len(model.labels))
    if not out.isfinite().all():
        raise DivergedError("a model gives probabilities that are not finite; its weights are damaged")
    return out.clone()


def _gathered(part: Tensor | None, total: int, processes: ProcessGroup) -> Tensor | None:
    """The rows of all processes; each row comes from one of them, and adding zeros changes no number."""
    voters, classes = processes.all_reduce_max(*((0, 0) if part is None else (part.shape[0], part.shape[2])))
    if not voters:
        return None
    out = torch.zeros(voters, total, classes) if part is None else part
    processes.all_reduce_sum([out])
    return out


def predicted_classes(logits: Tensor, mean: Tensor, prediction: str) -> np.ndarray:
    """The class of each item, int64 [K].

    Args:
        logits: [M, K, C].
        mean: [K, C], the voters' mean probability.
        prediction: "mean" takes its largest; "vote" the class that most voters name, among equals that of the larger
            mean; "first" what the first voter names. The lowest class where all this is equal.
    """
    if prediction == "first":
        return logits[0].argmax(dim=-1).numpy()
    if prediction == "vote":
        named = torch.nn.functional.one_hot(logits.argmax(dim=-1), logits.shape[-1]).sum(dim=0)
        # Half a mean probability decides between equal numbers of votes and never outweighs one.
        return (named.double() + mean.double() / 2).argmax(dim=-1).numpy()
    return mean.argmax(dim=-1).numpy()


def score(
    model: TaskModel,
    store: TokenStore,
    *,
    precision: str = "fp32",
    poll: Poll = lambda: None,
    processes: ProcessGroup | None = None,
    tokens: int = 0,
    prediction: str = "mean",
) -> tuple[dict[str, float], np.ndarray, ClassTable]:
    """Scores in points of what the voters predict, what the first is made of (`items.Items`), and each class alone.

    NER: entity F1, precision and recall as conlleval counts them, and strict F1; sentences of a store that keeps them
    whole are read in windows. Classification: accuracy and macro F1.
    """
    logits = predict_logits(model, ItemView(store), precision=precision, poll=poll, processes=processes, tokens=tokens)
    predicted = predicted_classes(logits, votes(logits).mean_probability, prediction)
    if store.task == "ner":
        return _entity_scores(model.labels, store, predicted)
    counter = AccuracyCounter(range(len(model.labels)))
    assert store.item_labels is not None
    gold = np.asarray(store.item_labels)
    counter.update(gold, predicted)
    found = counter.result()
    classes = class_table({x: found.per_class[i] for i, x in enumerate(model.labels) if i in found.per_class})
    return {"accuracy": found.accuracy, "macro_f1": found.macro_f1}, (gold == predicted).astype(np.uint8), classes


def _entity_scores(
    labels: tuple[str, ...], store: TokenStore, predicted: np.ndarray
) -> tuple[dict[str, float], np.ndarray, ClassTable]:
    lenient, strict = EntityCounter(), EntityCounter(strict=True)
    counts = np.zeros((len(store), 3), dtype=np.uint16)
    for example in range(len(store)):
        gold = [labels[i] for i in store.gold(example)]
        tags = predicted_tags(labels, store, example, predicted)
        counts[example] = lenient.update(gold, tags)
        strict.update(gold, tags)
    scores = lenient.result()
    found = {
        "entity_f1": scores.f1,
        "precision": scores.precision,
        "recall": scores.recall,
        "entity_f1_strict": strict.result().f1,
    }
    return found, counts, class_table(scores.per_type)


def predicted_tags(labels: tuple[str, ...], store: TokenStore, example: int, predicted: np.ndarray) -> list[str]:
    """The tag of every word of an example; `O` where the word has no token, or the store cut it."""
    tags = [OUTSIDE] * int(store.num_words[example])
    start = int(store.item_offsets[example])
    for offset, word in enumerate(store.items(example)[1]):
        tags[int(word)] = labels[int(predicted[start + offset])]
    return tags


def metric_rows(
    scores: dict[str, float], classes: ClassTable, language: str, role: str, count: int
) -> list[dict[str, Any]]:
    """The entries of `scores.json`; the first, of the main metric, also says how each class does."""
    rows: list[dict[str, Any]] = [
        {"language": language, "role": role, "metric": name, "value": value, "count": count}
        for name, value in scores.items()
    ]
    rows[0]["classes"] = classes
    return rows
