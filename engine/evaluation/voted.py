"""What a model's voters say about some examples of a store, item by item, beside gold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from ...data import ItemView, TokenStore
from ...kernels import Votes, votes
from ...model import TaskModel
from .inference import predict_logits, predict_votes


@dataclass(frozen=True)
class Voted:
    """Votes on the items of some examples of a store.

    Attributes:
        items: int64 [K], where these items lie on the store's item axis.
        example: int64 [K], the example of each.
        gold: int64 [K], -100 where unknown.
    """

    store: TokenStore
    items: np.ndarray
    example: np.ndarray
    gold: np.ndarray
    votes: Votes

    def of(self, examples: np.ndarray) -> Voted:
        """The votes on the items of some examples, bool [N]."""
        mask = examples[self.example]
        return replace(
            self,
            items=self.items[mask],
            example=self.example[mask],
            gold=self.gold[mask],
            votes=votes_of(self.votes, torch.from_numpy(mask)),
        )

    def spread(self, values: np.ndarray, fill: int) -> np.ndarray:
        """`values` [K] on the whole item axis of the store, `fill` elsewhere."""
        whole = np.full(int(self.store.item_offsets[-1]), fill, dtype=values.dtype)
        whole[self.items] = values
        return whole


def vote(
    model: TaskModel,
    store: TokenStore,
    examples: np.ndarray | None = None,
    correct: Callable[[np.ndarray], np.ndarray] | None = None,
    **passes: Any,
) -> Voted:
    """The votes of a model on some examples, or on all.

    Args:
        correct: takes and gives a voter's probabilities, float32 [items of the store, C], zeros where not asked for.
        passes: as `predict_items` takes them.
    """
    chosen = np.zeros(len(store), dtype=bool)
    chosen[slice(None) if examples is None else examples] = True
    example = examples_of_items(store)
    items = np.flatnonzero(chosen[example])
    view, numbers = ItemView(store), np.flatnonzero(chosen)
    if correct is None:
        counted = votes_of(predict_votes(model, view, numbers, **passes), torch.from_numpy(items))
    else:
        said = predict_logits(model, view, numbers, **passes)
        each = torch.zeros_like(said)
        each[:, items] = said[:, items].softmax(dim=-1)
        right = [torch.from_numpy(correct(voter))[items] for voter in each.numpy()]
        counted = votes(torch.stack(right).log())
    gold = np.asarray(store.item_labels, dtype=np.int64)[items]
    return Voted(store, items, example[items], gold, counted)


def examples_of_items(store: TokenStore) -> np.ndarray:
    """int64 [items of the store], the example of each."""
    offsets = np.asarray(store.item_offsets, dtype=np.int64)
    return np.repeat(np.arange(len(store)), offsets[1:] - offsets[:-1])


def votes_of(counted: Votes, items: torch.Tensor) -> Votes:
    """The votes on some items, by number or as bool [K]."""
    parts = {name: getattr(counted, name)[items] for name in counted._fields[:4]}
    return counted._replace(**parts)
