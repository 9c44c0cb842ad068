"""Batches of texts with their translations, for semantic alignment."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ... import DataError
from ..store.store import TokenStore
from .batch import PackedBatch, pack
from .buckets import BatchSize
from .rows import ItemView
from .sampling import num_batches, rng_for

Member = tuple[TokenStore, int]


class PairBatches:
    """A text, its `b` translations, and `b` texts of other classes: one micro-batch (Yu and Joty, EMNLP 2021, Eq. 4).

    In an epoch every text is in the middle once. The weight of its item is `b`, since the equation sums over the
    translations, that of all others 0: they are company, and have no contrastive loss of their own. Where fewer than
    `b` texts are of another class, all of these are in.

    Args:
        originals: labelled source texts.
        translations: for each language a store of the same texts in the same order, with the same labels.
        batch_size: sequences of a step, about: as many whole groups as it holds, at least one.
        epochs: passes over the originals.

    Raises:
        DataError: there is one class only, so that nothing can be pushed away.
    """

    def __init__(
        self,
        originals: TokenStore,
        translations: Sequence[TokenStore],
        *,
        batch_size: int,
        epochs: float,
        seed: int,
    ) -> None:
        self._originals, self._translations, self._seed = originals, list(translations), seed
        self._labels = np.asarray(originals.item_labels)
        if len(np.unique(self._labels)) < 2:
            raise DataError("the translated texts are of one class; semantic alignment needs texts of another")
        self._groups = max(1, batch_size // (2 * len(self._translations) + 1))
        self._per_epoch = num_batches(len(originals), self._groups)
        self._total = max(1, round(self._per_epoch * epochs))
        self._order = (-1, np.zeros(0, dtype=np.int64))

    def __len__(self) -> int:
        return self._total

    def anchors(self, step: int) -> np.ndarray:
        """The originals in the middle of a step's micro-batches.

        Raises:
            IndexError: there is no such step.
        """
        if not 0 <= step < self._total:
            raise IndexError(step)
        epoch, index = divmod(step, self._per_epoch)
        kept, order = self._order
        if epoch != kept:
            order = rng_for(self._seed, "order", epoch).permutation(len(self._originals))
            self._order = (epoch, order)
        return order[index * self._groups : (index + 1) * self._groups]

    def negatives(self, step: int, anchor: int) -> np.ndarray:
        """Originals of other classes for one in the middle, drawn anew in each epoch."""
        others = np.flatnonzero(self._labels != self._labels[anchor])
        rng = rng_for(self._seed, "negatives", step // self._per_epoch, int(anchor))
        return rng.permutation(others)[: len(self._translations)]

    def names(self, step: int) -> list[str]:
        """The ids of the examples of a step."""
        return [store.example_ids[i] for a in self.anchors(step) for store, i in self._members(step, int(a))]

    def sizes(self, step: int) -> list[BatchSize]:
        """The sizes of a step's batches, without making them."""
        found = []
        for anchor in self.anchors(step):
            lengths = [int(store.lengths[i]) for store, i in self._members(step, int(anchor))]
            found.append(BatchSize(sum(lengths), len(lengths), len(lengths), max(lengths)))
        return found

    def __getitem__(self, step: int) -> list[PackedBatch]:
        return [self._group(self._members(step, int(anchor))) for anchor in self.anchors(step)]

    def _members(self, step: int, anchor: int) -> list[Member]:
        translated = [(store, anchor) for store in self._translations]
        others = [(self._originals, int(i)) for i in self.negatives(step, anchor)]
        return [(self._originals, anchor), *translated, *others]

    def _group(self, members: Sequence[Member]) -> PackedBatch:
        weights = np.zeros((len(members), 1), dtype=np.float32)
        weights[0] = len(self._translations)
        return pack(
            [store.ids(i) for store, i in members],
            [store.segments(i) for store, i in members],
            items=[ItemView(store).positions(i) for store, i in members],
            labels=[self._labels[[i]] for _, i in members],
            weights=list(weights),
            example_ids=[i for _, i in members],
        )
