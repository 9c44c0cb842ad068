"""Which sentences a page shows of many: pure functions of what was said of each item."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ....data import TokenStore

SHORTEST, LONGEST = 6, 60
"""Tokens of a sentence that is easily read, special ones included."""
_LOOKED_AT = 500
"""Candidates among which one that is unlike the others is looked for."""
Ints = NDArray[np.int64]


class Items:
    """The items of a store by example."""

    def __init__(self, store: TokenStore) -> None:
        self.store, self.count = store, len(store)
        offsets = np.asarray(store.item_offsets, dtype=np.int64)
        self.example: Ints = np.repeat(np.arange(self.count), np.diff(offsets))

    def of(self, number: int) -> slice:
        """Where the items of an example lie."""
        return slice(int(self.store.item_offsets[number]), int(self.store.item_offsets[number + 1]))

    def number_with(self, items: NDArray[np.bool_]) -> Ints:
        """int64 [N], how many items of each example are marked."""
        return np.bincount(self.example[items], minlength=self.count)

    def lowest(self, values: NDArray[np.floating]) -> NDArray[np.float64]:
        """[N], the smallest value among the items of each example; infinite without an item."""
        lowest = np.full(self.count, np.inf)
        np.minimum.at(lowest, self.example, values)
        return lowest

    def readable(self, among: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """bool [N], those of some examples that are neither very short nor very long; all where none is."""
        short = among & (self.store.lengths >= SHORTEST) & (self.store.lengths <= LONGEST)
        return short if short.any() else among


class Picker:
    """Picks examples that no earlier call has picked, unlike each other where possible."""

    def __init__(self, items: Items) -> None:
        self._items, self._taken = items, set[int]()

    def best(self, among: NDArray[np.bool_], order: NDArray[Any], labels: Ints, most: int) -> list[int]:
        """At most `most` examples with the smallest values.

        Args:
            among: bool [N].
            order: [N]; of equal values the first example.
            labels: [K]; two examples should differ in the labels that they have.
        """
        candidates = np.flatnonzero(among)
        candidates = candidates[np.argsort(order[candidates], kind="stable")]
        free = [n for n in candidates[:_LOOKED_AT].tolist() if n not in self._taken]
        picked = list(_first_of_each(free, lambda n: frozenset(labels[self._items.of(n)].tolist())))[:most]
        picked += [n for n in free if n not in picked][: most - len(picked)]
        self._taken.update(picked)
        return picked


def _first_of_each(numbers: Iterable[int], kind: Callable[[int], Hashable]) -> Iterator[int]:
    seen: set[Hashable] = set()
    for number in numbers:
        if (name := kind(number)) not in seen:
            seen.add(name)
            yield number


def frequent_errors(
    items: Items, gold: NDArray[np.integer], predicted: NDArray[np.integer], classes: Sequence[str], most: int
) -> list[int]:
    """Examples that show the most frequent confusions, one each, with as few other errors as possible.

    Args:
        gold, predicted: [K] into `classes`, the names of which count: two labels of one name are no confusion.
    """
    wrong = np.flatnonzero(np.array(classes)[gold] != np.array(classes)[predicted])
    pairs = [(classes[g], classes[p]) for g, p in zip(gold[wrong], predicted[wrong], strict=True)]
    errors = np.bincount(items.example[wrong], minlength=items.count)
    readable, picked = items.readable(errors > 0), list[int]()
    for pair, _ in Counter(pairs).most_common():
        showing = {int(items.example[i]) for i, other in zip(wrong.tolist(), pairs, strict=True) if other == pair}
        free = [n for n in sorted(showing, key=lambda n: (int(errors[n]), n)) if readable[n] and n not in picked]
        picked += free[:1]
        if len(picked) == most:
            break
    return picked
