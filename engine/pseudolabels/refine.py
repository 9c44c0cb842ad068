"""What a teacher of another language says of words, corrected by what is known without labels of that language.

A tagger that has seen no label of a language errs in two ways that no confidence shows. It errs by context: it takes a
noun for a name where it begins a sentence, and not elsewhere. And it may name too much everywhere. Both are in sight
over a whole unlabelled text: `pool_by_word` has a word know of the same word elsewhere, `match_outside` takes names
away where the text seems to have more of them than the source.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ...data import TokenStore

Labels = NDArray[np.float32]
"""[K, C], probabilities; rows of zeros are items that were not labelled, and stay so."""
_LEAST = 1e-12
_STEPS = 60


def word_forms(store: TokenStore) -> NDArray[np.int64]:
    """A number for each item of a store of words, int64 [K]; the same for words of the same tokens."""
    numbers: dict[bytes, int] = {}
    forms = np.empty(int(store.item_offsets[-1]), dtype=np.int64)
    for example in range(len(store)):
        ids, starts = store.ids(example), np.asarray(store.items(example)[0], dtype=np.int64)
        first, ends = int(store.item_offsets[example]), [*starts[1:], len(ids) - 1]
        for item, (start, end) in enumerate(zip(starts, ends, strict=True), start=first):
            forms[item] = numbers.setdefault(ids[start:end].tobytes(), len(numbers))
    return forms


def pool_by_word(labels: Labels, forms: NDArray[np.int64], weight: float) -> Labels:
    """`p ** (1 - weight) * q ** weight`, normalised, q being the mean of p over all places of the same word.

    Args:
        forms: [K], as `word_forms` numbers them.
        weight: of the mean, from 0 to 1.
    """
    known = labels.sum(axis=1) > 0
    own, of_word = labels[known].astype(np.float64), forms[known]
    sums = np.zeros((int(forms.max(initial=-1)) + 1, labels.shape[1]))
    np.add.at(sums, of_word, own)
    mean = sums[of_word] / np.bincount(of_word, minlength=len(sums))[of_word, None]
    pooled = np.zeros_like(labels)
    pooled[known] = _normalised(np.log(own + _LEAST) * (1 - weight) + np.log(mean + _LEAST) * weight)
    return pooled


def match_outside(labels: Labels, outside: int, share: float, strength: float) -> Labels:
    """The odds of `O` times one factor for all words: with strength 1 the mean probability of `O` is at least `share`.

    Nothing changes where it is already. The other classes keep their proportions: which kinds of names a text has
    differs from one text to the next.

    Args:
        outside: the class `O`.
        share: of the words of the labelled source, above 0 and below 1.
        strength: the exponent of the factor, from 0 to 1.
    """
    known = labels.sum(axis=1) > 0
    scores = np.log(labels[known].astype(np.float64) + _LEAST)
    is_outside = np.arange(labels.shape[1]) == outside
    low, high = 0.0, 30.0
    for _ in range(_STEPS):  # the mean grows with the factor: bisection
        middle = (low + high) / 2
        too_small = _normalised(scores + middle * is_outside)[:, outside].mean() < share
        low, high = (middle, high) if too_small else (low, middle)
    matched = np.zeros_like(labels)
    matched[known] = _normalised(scores + strength * low * is_outside)
    return matched


def _normalised(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Probabilities [K, C] from logarithms of them up to a constant a row."""
    values = np.exp(scores - scores.max(axis=1, keepdims=True))
    probabilities: NDArray[np.float64] = values / values.sum(axis=1, keepdims=True)
    return probabilities
