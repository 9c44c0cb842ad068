"""A model over a whole store: logits, votes, scores."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ... import DivergedError
from ...data import OUTSIDE, ItemView, PackedBatch, TokenStore, inference_batches, inference_tokens
from ...data.batches.buckets import pad_to_few_sizes
from ...kernels import Votes, votes
from ...model import TaskModel
from ...tasks import has_spans, per_word
from ..training.device import Arriving
from ..training.distributed import ProcessGroup
from ..training.out_of_memory import PassRetry
from ..training.precision import computing_in
from ..training.prefetch import sent
from .metrics import ClassTable, EntityCounter, class_table, label_scores, split_tag
from .per_example import predicted_tags
from .valid_tags import valid_classes

Poll = Callable[[], None]
Reduction = Callable[[Tensor], Tensor]
"""From the logits [M, K, C] of a batch's items, on the model's device, to what is kept of each, [K, D]."""
AHEAD = 2
"""Batches that a GPU has been given and whose results have not been read: one may take longer to make than to run."""


def predict_batches(
    model: TaskModel,
    batches: Iterable[tuple[PackedBatch, np.ndarray]],
    shape: tuple[int, int],
    reduction: Reduction,
    *,
    precision: str = "fp32",
    poll: Poll = lambda: None,
    processes: ProcessGroup | None = None,
    retry: PassRetry | None = None,
) -> Tensor:
    """What `reduction` keeps of each item, fp32 of `shape` [K, D] on the CPU; zeros for items that no batch has.

    On a GPU the host makes and launches the next batches while one is computed: it waits for results alone that lie
    `AHEAD` batches back, and for no other value of the device.

    Args:
        batches: of this process, each with the numbers of its items.
        reduction: applied batch by batch where the logits are, so that those of a corpus never lie anywhere at once.
        precision: what the model computes in, as in training.
        poll: called between batches, so that a long pass can be interrupted; among several processes once, at the end.
        processes: the processes that share the batches; all get all items, those that one process computes, to the bit.
        retry: what to do with a batch that does not fit into memory; halves it where absent.

    Raises:
        OutOfMemoryError: a batch does not fit.
        DivergedError: a logit is not finite.
    """
    processes, retry = processes or ProcessGroup(), retry or PassRetry()
    device = next(model.parameters()).device
    kept, arriving = torch.zeros(shape), deque[tuple[np.ndarray, Arriving]]()
    finite = torch.ones((), dtype=torch.bool, device=device)

    def run(batch: PackedBatch) -> Tensor:
        few_sizes = device.type == "cpu" and next(model.parameters()).dtype != torch.float32
        padded = pad_to_few_sizes(batch) if few_sizes else batch
        logits = model(sent(padded, device))[:, : len(batch.item_index)].float()
        finite.logical_and_(logits.isfinite().all())
        return reduction(logits).float()

    def settle(ahead: int) -> None:
        while len(arriving) > ahead:
            rows, values = arriving.popleft()
            kept[torch.from_numpy(rows)] = values.wait(processes.wait)

    with computing_in(model, precision), torch.inference_mode():
        for batch, rows in batches:
            if processes.size == 1:
                poll()
            for values in retry(run, batch) if len(rows) else ():
                arriving.append((rows[: len(values)], Arriving(values)))
                rows = rows[len(values) :]
                settle(0 if device.type == "cpu" else AHEAD)
        settle(0)
    damaged = not bool(Arriving(finite).wait(processes.wait))
    if processes.size > 1:
        processes.all_reduce_sum([kept])  # each row comes from one process, and adding zeros changes no number
        damaged = bool(processes.all_reduce_max(int(damaged))[0])
        poll()
    if damaged:
        raise DivergedError("a model gives probabilities that are not finite; its weights are damaged")
    return kept


def predict_items(
    model: TaskModel,
    view: ItemView,
    reduction: Reduction,
    examples: np.ndarray | None = None,
    *,
    width: int | None = None,
    processes: ProcessGroup | None = None,
    tokens: int = 0,
    **passes: Any,
) -> Tensor:
    """`predict_batches` over a store: fp32 [items of the store, D], zeros for examples that were not asked for.

    Args:
        width: D; the number of classes where absent.
        tokens: in one forward pass; 0: what suits the device.
        passes: as `predict_batches` takes them; it also has the errors.
    """
    processes = processes or ProcessGroup()
    passes.setdefault("retry", PassRetry(auto=not tokens))
    budget = tokens or inference_tokens(next(model.parameters()).device.type)
    batches = inference_batches(view, examples, token_budget=budget, part=processes.rank, parts=processes.size)
    shape = int(view.offsets[-1]), len(model.labels) if width is None else width
    return predict_batches(model, batches, shape, reduction, processes=processes, **passes)


def predict_logits(model: TaskModel, view: ItemView, examples: np.ndarray | None = None, **passes: Any) -> Tensor:
    """Logits [M, items of the store, C], fp32 on the CPU; zeros for examples that were not asked for.

    Args:
        passes: as `predict_items` takes them.
    """
    voters, classes = model.head.num_voters, len(model.labels)
    flat = predict_items(
        model, view, lambda logits: logits.transpose(0, 1).flatten(1), examples, width=voters * classes, **passes
    )
    return flat.view(len(flat), voters, classes).transpose(0, 1).contiguous()


def predict_votes(model: TaskModel, view: ItemView, examples: np.ndarray | None = None, **passes: Any) -> Votes:
    """The votes on all items of a store, counted on the model's device batch by batch.

    Args:
        passes: as `predict_items` takes them.
    """
    width = 3 + len(model.labels)
    return unpacked_votes(predict_items(model, view, packed_votes, examples, width=width, **passes))


def packed_votes(logits: Tensor) -> Tensor:
    """Label, agreement, confidence and mean probabilities side by side, [K, 3 + C]; fp32 holds a label exactly."""
    counted = votes(logits)
    columns = (counted.label, counted.agree, counted.min_confidence)
    return torch.cat([torch.stack([c.float() for c in columns], dim=1), counted.mean_probability], dim=1)


def unpacked_votes(packed: Tensor) -> Votes:
    """The votes of which `packed_votes` made a matrix."""
    label, agree, confidence = packed[:, 0].long(), packed[:, 1] > 0, packed[:, 2].contiguous()
    return Votes(label, agree, confidence, packed[:, 3:].contiguous())


NO_TOKEN = "(no token)"
"""What is predicted of a word that gives no token, where no tag says nothing."""
Confusion = dict[str, dict[str, int]]
"""Class in truth -> predicted class -> how many; what never occurs is left out."""


@dataclass(frozen=True)
class Scored:
    """What a model's predictions on a labelled store come to.

    Attributes:
        points: metric -> score in points.
        items: what the main score is made of (`per_example.Items`).
        classes: each entity type, or class, by itself.
        confusion: of words by entity type, `O` among them; of texts by class.
        predicted: int16 [items of the store], the class of each.
    """

    points: dict[str, float]
    items: np.ndarray
    classes: ClassTable
    confusion: Confusion
    predicted: np.ndarray


def score(model: TaskModel, store: TokenStore, *, prediction: str = "mean", **passes: Any) -> Scored:
    """Scores of what the voters predict.

    That is the class of the largest mean probability. NER: entity F1, precision and recall as conlleval counts, and
    strict F1; sentences of a store that keeps them whole are read in windows. Plain tags: accuracy and macro F1 of
    words. Classification: the same of texts. With the prediction "valid" the tags of a sentence are the most probable
    that are valid BIO, as `predict` writes them; elsewhere that of each word by itself, as the paper counts.
    """
    labels = model.labels
    if prediction == "valid" and has_spans(store.task):
        mean = predict_items(model, ItemView(store), lambda logits: votes(logits).mean_probability, **passes)
        predicted = valid_classes(labels, store, mean.numpy())
    else:

        def named(logits: Tensor) -> Tensor:
            return votes(logits).mean_probability.argmax(dim=-1, keepdim=True)

        predicted = predict_items(model, ItemView(store), named, width=1, **passes)[:, 0].long().numpy()
    if has_spans(store.task):
        return _entity_scores(labels, store, predicted)
    if per_word(store.task):
        return _tag_scores(labels, store, predicted)
    assert store.item_labels is not None
    gold = np.asarray(store.item_labels)
    return _class_scores(labels, gold, predicted, (gold == predicted).astype(np.uint8), predicted)


def _class_scores(
    labels: tuple[str, ...], gold: np.ndarray, guess: np.ndarray, items: np.ndarray, predicted: np.ndarray
) -> Scored:
    """Accuracy and macro F1 of what was guessed of each word or text, -1 for nothing."""
    scores, names = label_scores(gold, guess, range(len(labels))), [*labels, NO_TOKEN]
    points = {"accuracy": scores.accuracy, "macro_f1": scores.macro_f1}
    classes = class_table({labels[i]: each for i, each in scores.per_class.items()})
    pairs = Counter((labels[g], names[p]) for g, p in zip(gold.tolist(), guess.tolist(), strict=True))
    return Scored(points, items, classes, _confusion(pairs), predicted.astype(np.int16))


def _tag_scores(labels: tuple[str, ...], store: TokenStore, predicted: np.ndarray) -> Scored:
    """Accuracy over all words; one without a token is wrong. Its items, [n, 3], make the accuracy of some sentences."""
    gold = np.concatenate([np.asarray(store.gold(example)) for example in range(len(store))])
    starts = np.cumsum([0, *map(int, store.num_words)])
    guess = np.full(len(gold), -1, dtype=np.int64)
    for example, start in enumerate(starts[:-1].tolist()):
        here = slice(int(store.item_offsets[example]), int(store.item_offsets[example + 1]))
        guess[start + np.asarray(store.items(example)[1], dtype=np.int64)] = predicted[here]
    right = np.add.reduceat((gold == guess).astype(np.int64), starts[:-1])
    counts = np.stack([np.diff(starts), np.diff(starts), right], axis=1).astype(np.uint16)
    return _class_scores(labels, gold, guess, counts, predicted)


def _confusion(pairs: Counter[tuple[str, str]]) -> Confusion:
    table: Confusion = {}
    for (gold, predicted), count in sorted(pairs.items()):
        table.setdefault(gold, {})[predicted] = count
    return table


def _entity_scores(labels: tuple[str, ...], store: TokenStore, predicted: np.ndarray) -> Scored:
    lenient, strict, pairs = EntityCounter(), EntityCounter(strict=True), Counter[tuple[str, str]]()
    kinds = {tag: split_tag(tag)[1] or OUTSIDE for tag in labels}
    counts = np.zeros((len(store), 3), dtype=np.uint16)
    for example in range(len(store)):
        gold = [labels[i] for i in store.gold(example)]
        tags = predicted_tags(labels, store, example, predicted)
        counts[example] = lenient.update(gold, tags)
        strict.update(gold, tags)
        pairs.update((kinds[g], kinds[p]) for g, p in zip(gold, tags, strict=True))
    scores = lenient.result()
    points = {"entity_f1": scores.f1, "precision": scores.precision, "recall": scores.recall}
    points |= {"entity_f1_strict": strict.result().f1}
    return Scored(points, counts, class_table(scores.per_type), _confusion(pairs), predicted.astype(np.int16))


def metric_rows(scored: Scored, language: str, role: str, count: int) -> list[dict[str, Any]]:
    """The entries of `scores.json`; the first, of the main metric, also has each class and what is taken for it."""
    rows: list[dict[str, Any]] = [
        {"language": language, "role": role, "metric": name, "value": value, "count": count}
        for name, value in scored.points.items()
    ]
    rows[0] |= {"classes": scored.classes, "confusion": scored.confusion}
    return rows
