"""What a teacher of another language says, corrected by what is known without labels of that language.

A model that has seen no label of a language errs in two ways that no confidence shows: it favours some classes
everywhere, and it errs by context, as where it takes a noun for a name only at the beginning of sentences. Both are
in sight over a whole unlabelled text: `match_prior` gives the classes the shares that the labelled source has, `pooled`
has a word know of the same word elsewhere (`of_same_word`), and a text of other texts with its words
(`of_shared_words`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.floating]
"""[K, C], probabilities; rows of zeros are items that were not labelled, and stay so."""
Numbers = NDArray[np.int64]
Ids = Sequence[int] | NDArray[np.integer]
_LEAST = 1e-12
_STEPS, _NEAR = 100, 1e-9


def match_prior(labels: Labels, prior: Labels, strength: float, outside: int | None = None) -> Labels:
    """The odds of each class times one factor for all items: with strength 1 their mean probabilities are `prior`.

    Args:
        prior: [C], the shares of the classes in the labelled source.
        strength: the exponent of the factors, from 0 to 1.
        outside: the class `O` of tags. Its mean is then raised to its share, or stays where it is higher, and the other
            classes keep their proportions: which kinds of names a text has differs from one text to the next.
    """
    known = labels.sum(axis=1) > 0
    scores, factor = _log(labels[known]), np.zeros(len(prior))
    for _ in range(_STEPS):  # Sinkhorn's: columns and rows in turn
        mean = _normalised(scores + factor).mean(axis=0)
        gap = _log(prior) - _log(mean)
        if outside is not None:
            gap += _log(1 - mean) - _log(1 - prior)
            gap = np.where(np.arange(len(gap)) == outside, np.maximum(gap, 0), 0)
        factor += gap
        if np.abs(gap).max() < _NEAR:
            break
    return _filled(labels, known, scores + strength * factor)


def pooled(labels: Labels, elsewhere: Labels, weight: float) -> Labels:
    """`p ** (1 - weight) * q ** weight`, normalised, of labels p and what is said elsewhere q, [K, C] both."""
    known = labels.sum(axis=1) > 0
    p, q = _log(labels[known]), _log(elsewhere[known])
    return _filled(labels, known, (1 - weight) * p + weight * q)


def of_same_word(labels: Labels, forms: Numbers) -> Labels:
    """The mean over all places of the same word, [K, C].

    Args:
        labels: of words.
        forms: [K], as `word_forms` numbers them.
    """
    known = labels.sum(axis=1) > 0
    sums = np.zeros((int(forms.max(initial=-1)) + 1, labels.shape[1]))
    np.add.at(sums, forms[known], labels[known])
    return _filled(labels, known, _log(sums[forms[known]]))


def of_shared_words(labels: Labels, texts: Numbers, words: Numbers) -> Labels:
    """Naive Bayes of the words that texts share, trained on the labels of the other texts, [K, C].

    `prior * product of (p(c | word) / prior) ** b`: p(c | word) is the mean over all other texts with the word and one
    text that says `prior`, the mean over all texts. Words of a text say much the same, so that b is what makes the mean
    confidence that of the labels, 1 at most.

    Args:
        labels: of texts.
        texts: [N], the text of each word that one has, as `words_of_texts` gives them.
        words: [N], that word.
    """
    known = labels.sum(axis=1) > 0
    there, own = known[texts], labels[known]
    texts, words = (np.cumsum(known) - 1)[texts[there]], words[there]
    count, prior = np.bincount(words), own.mean(axis=0)
    evidence = np.zeros(own.shape)
    for c, p in enumerate(prior):  # class by class: all at once take N * C numbers
        others = np.bincount(words, own[texts, c])[words] - own[texts, c]
        evidence[:, c] = np.bincount(texts, _log((others + p) / count[words]) - _log(p), len(own))
    low, high, confidence = 0.0, 1.0, own.max(axis=1, initial=0).mean()
    while high - low > _NEAR:
        middle = (low + high) / 2
        unsure = _normalised(_log(prior) + middle * evidence).max(axis=1, initial=0).mean() < confidence
        low, high = (middle, high) if unsure else (low, middle)
    return _filled(labels, known, _log(prior) + high * evidence)


def word_forms(sentences: Iterable[tuple[Ids, Ids]]) -> Numbers:
    """A number for each word, int64 [K]; the same for words of the same tokens.

    Args:
        sentences: of each its tokens and where its words begin among them; the last token belongs to none.
    """
    numbers: dict[bytes, int] = {}
    forms: list[int] = []
    for ids, starts in sentences:
        tokens, ends = np.asarray(ids, dtype=np.int32), [*starts[1:], len(ids) - 1]
        forms += [
            numbers.setdefault(tokens[start:end].tobytes(), len(numbers))
            for start, end in zip(starts, ends, strict=True)
        ]
    return np.array(forms, dtype=np.int64)


def words_of_texts(texts: Iterable[Ids]) -> tuple[Numbers, Numbers]:
    """Each text's distinct tokens but those at its two ends: numbers of texts and tokens, int64 [N] both."""
    words = [np.unique(np.asarray(ids[1:-1], dtype=np.int64)) for ids in texts]
    return np.repeat(np.arange(len(words)), [len(w) for w in words]), np.concatenate([np.empty(0, np.int64), *words])


def _filled(labels: Labels, known: NDArray[np.bool_], scores: Labels) -> Labels:
    """Probabilities of the known items from logarithms of them up to a constant each, like `labels`."""
    filled = np.zeros_like(labels)
    filled[known] = _normalised(scores)
    return filled


def _log(p: Labels) -> Labels:
    logarithms: Labels = np.log(np.maximum(p, _LEAST))
    return logarithms


def _normalised(scores: Labels) -> Labels:
    values = np.exp(scores - scores.max(axis=1, keepdims=True, initial=-np.inf))
    probabilities: Labels = values / values.sum(axis=1, keepdims=True)
    return probabilities
