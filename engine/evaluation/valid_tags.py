"""Valid tags: the most probable sequences of valid BIO over what a model says of each word."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ...data import OUTSIDE, TokenStore

_LEAST = float(np.finfo(np.float32).tiny)


class TagDecoder:
    """The most probable sequences of valid BIO, in which `I-X` stands behind `B-X` or `I-X`, over the tags of a model.

    An `I-X` without a `B-X` among the tags is of IOB1, where it opens an entity: it may stand anywhere.
    """

    def __init__(self, labels: Sequence[str]) -> None:
        self._outside = labels.index(OUTSIDE) if OUTSIDE in labels else 0
        # One row more than there are tags, the first: what may begin a sentence.
        allowed = [[_follows(before, tag, labels) for tag in labels] for before in (OUTSIDE, *labels)]
        self._allowed = np.array(allowed, dtype=bool)
        self._cost = np.where(self._allowed, 0.0, -np.inf)

    def decode(
        self,
        tags: NDArray[np.int64],
        probabilities: NDArray[np.float32],
        seen: NDArray[np.bool_],
        starts: Sequence[int],
    ) -> NDArray[np.int64]:
        """Valid tags of sentences that lie end to end, [W]: as they are where a sentence is valid already.

        Args:
            tags: [W], the choice for each word alone.
            probabilities: [W, C], whose product over a sentence the new tags make as large as valid tags can.
            seen: [W], whether the model has read the word; one that it has not is `O`.
            starts: the first word of each sentence, and W.
        """
        tags = np.where(seen, tags, self._outside)
        before = np.concatenate([[0], tags[:-1] + 1])
        before[[start for start in starts if start < len(tags)]] = 0
        invalid = np.flatnonzero(~self._allowed[before[: len(tags)], tags])
        for sentence in np.unique(np.searchsorted(starts, invalid, side="right") - 1):
            part = slice(starts[sentence], starts[sentence + 1])
            scores = np.log(np.maximum(probabilities[part].astype(np.float64), _LEAST))
            scores[~seen[part]] = np.where(np.arange(scores.shape[1]) == self._outside, 0.0, -np.inf)
            tags[part] = self._best_path(scores)
        return tags

    def _best_path(self, scores: NDArray[np.float64]) -> list[int]:
        """Viterbi: the tags with the largest sum of scores [W, C] that follow each other as they may."""
        best = self._cost[0] + scores[0]
        origins = []
        for score in scores[1:]:
            reached = best[:, None] + self._cost[1:]
            origins.append(reached.argmax(axis=0))
            best = reached.max(axis=0) + score
        path = [int(best.argmax())]
        for origin in reversed(origins):
            path.append(int(origin[path[-1]]))
        return path[::-1]


def _follows(before: str, tag: str, labels: Sequence[str]) -> bool:
    kind = tag[2:]
    return not tag.startswith("I-") or before in (f"B-{kind}", tag) or f"B-{kind}" not in labels


def valid_classes(labels: Sequence[str], store: TokenStore, mean: NDArray[np.float32]) -> NDArray[np.int64]:
    """The class of each item of a store of sentences, int64 [K], so that the tags of a sentence are valid BIO.

    Args:
        labels: names of the C classes.
        mean: [K, C], the voters' mean probability; a word without a token is `O`.
    """
    starts = np.cumsum([0, *map(int, store.num_words)])
    sentence = np.repeat(np.arange(len(store)), np.diff(store.item_offsets))
    places = starts[sentence] + np.asarray(store.item_words, dtype=np.int64)
    seen, probabilities = np.zeros(starts[-1], dtype=bool), np.zeros((starts[-1], len(labels)), dtype=np.float32)
    seen[places], probabilities[places] = True, mean
    tags = TagDecoder(labels).decode(probabilities.argmax(axis=1), probabilities, seen, starts.tolist())
    classes: NDArray[np.int64] = tags[places]
    return classes
