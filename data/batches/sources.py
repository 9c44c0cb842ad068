"""Batch sources: from a step number to the batches of that step, with no state in between."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from ..store.store import IGNORE, Corpus
from .batch import PackedBatch, cut, pack_joined
from .buckets import BatchSize
from .rows import ItemView, Row, Rows, pack_rows
from .sampling import epoch_batches, num_batches, resample, rng_for

MASK_DEVIATIONS = 2
"""`MlmBatches.sizes` allows for so many standard deviations of the number of masked tokens: 1 batch in 40 has more."""


class _Draws:
    """Which examples of which corpus make up the batch of a step; keeps the current epoch's order at hand."""

    def __init__(
        self,
        lengths: Sequence[np.ndarray],
        *,
        batch_size: int,
        epochs: float,
        seed: int,
        balance: str,
        temperature: float = 1.0,
        counts: Sequence[int] | None = None,
    ) -> None:
        self._lengths, self._batch_size, self._seed = list(lengths), batch_size, seed
        self._how: dict[str, Any] = {"mode": balance, "temperature": temperature, "counts": counts}
        self.per_epoch = [len(part) for part in self._sample(0)]
        self._batches_per_epoch = num_batches(sum(self.per_epoch), batch_size)
        self.total = max(1, round(self._batches_per_epoch * epochs))
        self._epoch = -1
        self._pool = np.zeros((0, 2), dtype=np.int64)
        self._batches: list[np.ndarray] = []

    def _sample(self, epoch: int) -> list[np.ndarray]:
        sizes = [len(part) for part in self._lengths]
        return resample(sizes, seed=self._seed, epoch=epoch, **self._how)

    def members(self, step: int) -> np.ndarray:
        """int64 [n, 2]: corpus and example of each sequence of the batch."""
        if not 0 <= step < self.total:
            raise IndexError(step)
        epoch, index = divmod(step, self._batches_per_epoch)
        if epoch != self._epoch:
            drawn = self._sample(epoch)
            self._pool = np.concatenate([np.stack([np.full(len(d), c), d], axis=1) for c, d in enumerate(drawn)])
            self._batches = epoch_batches(len(self._pool), self._batch_size, seed=self._seed, epoch=epoch)
            self._epoch = epoch
        members: np.ndarray = self._pool[self._batches[index]]
        return members

    def lengths(self, step: int) -> np.ndarray:
        """int [n], tokens in each sequence of the batch."""
        return np.array([self._lengths[c][i] for c, i in self.members(step)])


def mask_tokens(
    ids: np.ndarray,
    special: np.ndarray,
    rng: np.random.Generator,
    *,
    mask_id: int,
    vocab_size: int,
    rate: float = 0.15,
    replace_rate: float = 0.8,
    random_rate: float = 0.1,
) -> tuple[np.ndarray, np.ndarray]:
    """Corrupts token ids for masked language modelling (Devlin et al. 2018).

    Each token that is not special is chosen with probability `rate`; a chosen one becomes [MASK] with probability
    `replace_rate`, a uniformly drawn ordinary token with `random_rate`, and stays as it is otherwise.

    Args:
        ids: int [T].
        special: bool [vocab_size], true for tokens that are never chosen and never drawn.
        rng: source of the draws; the same state gives the same masks.

    Returns:
        The corrupted ids, int64 [T], and the targets, int64 [T]: the original id where chosen, -100 elsewhere.
    """
    ids = np.asarray(ids, dtype=np.int64)
    chosen = (rng.random(len(ids)) < rate) & ~special[ids]
    action = rng.random(len(ids))
    ordinary = np.flatnonzero(~special[:vocab_size])
    drawn = ordinary[rng.integers(len(ordinary), size=len(ids))]
    corrupted = np.where(chosen & (action < replace_rate), mask_id, ids)
    corrupted = np.where(chosen & (action >= replace_rate) & (action < replace_rate + random_rate), drawn, corrupted)
    return corrupted, np.where(chosen, ids, IGNORE)


class MlmBatches:
    """Masked-language-model batches over the corpora of several languages, balanced by resampling.

    Args:
        corpora: one per language.
        special: bool [vocab_size], tokens that are never masked and never drawn.
        balance: with `temperature`, see `sampling.resample`.
        micro_batch: sequences in one forward pass; 0 for the whole batch. Masks do not depend on it.
    """

    def __init__(
        self,
        corpora: Sequence[Corpus],
        *,
        special: np.ndarray,
        mask_id: int,
        batch_size: int,
        epochs: float,
        seed: int,
        rate: float = 0.15,
        balance: str = "up",
        temperature: float = 1.0,
        micro_batch: int = 0,
    ) -> None:
        self._corpora, self._special, self._mask_id = list(corpora), special, mask_id
        self._seed, self._rate, self._micro_batch = seed, rate, micro_batch or batch_size
        self._draws = _Draws(
            [c.lengths for c in corpora],
            batch_size=batch_size,
            epochs=epochs,
            seed=seed,
            balance=balance,
            temperature=temperature,
        )
        self.examples_per_epoch = self._draws.per_epoch

    def __len__(self) -> int:
        return self._draws.total

    def names(self, step: int) -> list[str]:
        """The ids of the examples of a step."""
        return [self._corpora[c].name(i) for c, i in self._draws.members(step)]

    def sizes(self, step: int) -> list[BatchSize]:
        """The sizes of a step's batches, without making them; masks are not drawn, `items` is seldom exceeded."""
        found = []
        for lengths in _parts(self._draws.lengths(step), self._micro_batch):
            tokens = int(lengths.sum())
            ordinary = tokens - 2 * len(lengths)  # at most: [CLS] and [SEP] are never masked
            mean = self._rate * ordinary
            items = math.ceil(mean + MASK_DEVIATIONS * math.sqrt(mean * (1 - self._rate)))
            found.append(BatchSize(tokens, len(lengths), min(items, ordinary), int(lengths.max())))
        return found

    def __getitem__(self, step: int) -> list[PackedBatch]:
        members = self._draws.members(step)
        texts = [(self._corpora[c], i) for c, i in members]
        ids = [text.ids(i) for text, i in texts]
        lengths = np.array([len(i) for i in ids], dtype=np.int64)
        corrupted, targets = mask_tokens(
            np.concatenate(ids),
            self._special,
            rng_for(self._seed, "mask", step),
            mask_id=self._mask_id,
            vocab_size=len(self._special),
            rate=self._rate,
        )
        hidden = np.flatnonzero(targets != IGNORE)
        sequence = np.repeat(np.arange(len(lengths)), lengths)[hidden]
        whole = pack_joined(
            lengths,
            corrupted,
            hidden - (np.cumsum(lengths) - lengths)[sequence],
            np.bincount(sequence, minlength=len(lengths)),
            segments=np.concatenate([text.segments(i) for text, i in texts]).astype(np.int64),
            labels=targets[hidden],
            example_ids=members[:, 1],
        )
        return cut(whole, self._micro_batch)


def _parts(values: np.ndarray, size: int) -> list[np.ndarray]:
    return [values[a : a + size] for a in range(0, len(values), size)]


@dataclass(frozen=True)
class Part:
    """Examples of one store with their targets on the flat item axis.

    Attributes:
        view: which items.
        examples: int [n], the examples that take part.
        labels: int [items of the store], -100 to ignore.
        soft_targets: float32 [items of the store, C].
        weights: float32 [items of the store].
    """

    view: ItemView
    examples: np.ndarray
    labels: np.ndarray | None = None
    soft_targets: np.ndarray | None = None
    weights: np.ndarray | None = None


class TaskBatches:
    """Batches for the task losses over one or several parts.

    Args:
        parts: what to train on; with several, each epoch mixes them. An example that is longer than its store's maximum
            length is several sequences, its windows, each an example by itself from here on.
        balance: "none" takes every example once an epoch, "up" repeats the smaller parts to the size of the largest.
        counts: how many examples of each part make up an epoch, instead of those of `balance`.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        *,
        batch_size: int,
        epochs: float,
        seed: int,
        balance: str = "none",
        micro_batch: int = 0,
        counts: Sequence[int] | None = None,
    ) -> None:
        read = [(part, Rows(part.view, part.examples, part.labels)) for part in parts]
        self._parts = [(part, rows) for part, rows in read if len(rows)]
        self._micro_batch = micro_batch or batch_size
        self._draws = _Draws(
            [rows.lengths for _, rows in self._parts],
            batch_size=batch_size,
            epochs=epochs,
            seed=seed,
            balance=balance,
            counts=counts,
        )

    def __len__(self) -> int:
        return self._draws.total

    def names(self, step: int) -> list[str]:
        """The ids of the examples of a step."""
        return [part.view.store.example_ids[row.example] for part, row in self._drawn(step)]

    def sizes(self, step: int) -> list[BatchSize]:
        """The sizes of a step's batches, without making them."""
        counts = np.array([self._parts[c][1].counts[i] for c, i in self._draws.members(step)])
        size = self._micro_batch
        return [
            BatchSize(int(lengths.sum()), len(lengths), int(items.sum()), int(lengths.max()))
            for lengths, items in zip(_parts(self._draws.lengths(step), size), _parts(counts, size), strict=True)
        ]

    def __getitem__(self, step: int) -> list[PackedBatch]:
        members = self._draws.members(step)
        if (members[:, 0] == members[0, 0]).all():
            part, rows = self._parts[members[0, 0]]
            batch, items = rows.batch(members[:, 1])
            pieces = [(part, items)]
        else:
            drawn = self._drawn(step)
            batch, _ = pack_rows([row for _, row in drawn])
            pieces = [(part, np.asarray(row.items)) for part, row in drawn]

        def column(name: str, dtype: type) -> torch.Tensor | None:
            if getattr(pieces[0][0], name) is None:
                return None
            values = np.concatenate([getattr(part, name)[items] for part, items in pieces])
            return torch.from_numpy(values.astype(dtype, copy=False))

        labels = column("labels", np.int64)
        targets = batch.num_targets if labels is None else int((labels != IGNORE).sum())
        soft, weights = column("soft_targets", np.float32), column("weights", np.float32)
        whole = replace(batch, labels=labels, soft_targets=soft, weights=weights, num_targets=targets)
        return cut(whole, self._micro_batch)

    def _drawn(self, step: int) -> list[tuple[Part, Row]]:
        """The sequences of a step, each with the part that it is of."""
        members = [(self._parts[c], i) for c, i in self._draws.members(step)]
        return [(part, rows[int(i)]) for (part, rows), i in members]
