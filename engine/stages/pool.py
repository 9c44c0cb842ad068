"""The examples that are still in play in a round of self-training, and labels of them corrected by their whole text."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np

from ...data import OUTSIDE, TokenStore
from ...tasks import has_spans, per_word
from ..evaluation.voted import examples_of_items
from ..plan import Stage
from ..pseudolabels.refine import (
    Ids,
    Labels,
    match_prior,
    of_same_word,
    of_shared_words,
    pooled,
    word_forms,
    words_of_texts,
)
from .context import Context
from .datasets import capped
from .decision_files import decided_arrays

POOL = ("selftrain.cap", "selftrain.word_pooling", "selftrain.source_prior")
"""Settings of what a stage reads of the unlabelled text."""


@dataclass(frozen=True)
class Pool:
    """The examples that are still in: of the target text, and of the labelled source."""

    target: np.ndarray
    source: np.ndarray


def load_pool(context: Context, stage: Stage) -> Pool:
    """What the last hard stage left: source examples leave for good, target ones only where the recipe says so."""
    data, config = context.data, context.config
    if "previous" in stage.inputs:
        saved = decided_arrays(context.folder(stage.inputs["previous"]))
        return Pool(np.flatnonzero(saved["target.pool"]), np.flatnonzero(saved["source.keep"]))
    store, cap = pool_store(context, stage), config.selftrain.cap
    texts = zip(stage.targets, by_target(store), strict=True)
    chosen = [text[capped(len(text), cap, stage.seed, language)] for language, text in texts]
    return Pool(np.concatenate(chosen), np.arange(len(data.source_train)))


def pool_store(context: Context, stage: Stage) -> TokenStore:
    """The unlabelled text of a stage's targets."""
    return context.data.target_pool(*context.config.targets_of(stage.targets))


def by_target(store: TokenStore, examples: np.ndarray | None = None) -> list[np.ndarray]:
    """Some examples of `pool_store`, or all, int64: those of each target, in its order."""
    chosen = np.arange(len(store)) if examples is None else examples
    if store.language is None:
        return [chosen]
    language = np.asarray(store.language)[chosen]
    return [chosen[language == number] for number in range(len(store.languages))]


def target_examples(context: Context, stage: Stage) -> tuple[TokenStore, np.ndarray]:
    """As many unlabelled examples as a round draws, whichever it draws: for an estimate."""
    store = pool_store(context, stage)
    cap = context.config.selftrain.cap or len(store)
    visible = np.flatnonzero(np.diff(np.asarray(store.item_offsets)) > 0)
    return store, np.concatenate([text[:cap] for text in by_target(store, visible)])


def correction(context: Context, store: TokenStore) -> Callable[[np.ndarray], np.ndarray] | None:
    """What corrects probabilities of all items of an unlabelled text, float32 [items, C]; None where nothing does."""
    table, names = context.config.selftrain, context.data.labels
    if not (table.word_pooling or table.source_prior):
        return None
    gold = np.asarray(context.data.source_train.item_labels)
    shares = np.bincount(gold[gold >= 0], minlength=len(names)) / (gold >= 0).sum()
    outside, tagged = names.index(OUTSIDE) if has_spans(store.task) else None, per_word(store.task)
    words = cache(lambda: (word_forms(_words(store)),) if tagged else words_of_texts(map(store.ids, range(len(store)))))
    elsewhere = of_same_word if tagged else of_shared_words

    def correct(given: np.ndarray) -> np.ndarray:
        whole = np.zeros_like(given)
        for examples in by_target(store):  # each by itself: what is zero counts for nothing
            own = np.isin(examples_of_items(store), examples)[:, None]
            labels: Labels = np.where(own, given, 0).astype(np.float64)
            if not labels.any():  # none of this target is in play any more
                continue
            if table.word_pooling:
                labels = pooled(labels, elsewhere(labels, *words()), table.word_pooling)
            if table.source_prior:
                labels = match_prior(labels, shares, table.source_prior, outside)
            whole += labels.astype(given.dtype)
        return whole

    return correct


def _words(store: TokenStore) -> Iterator[tuple[Ids, Ids]]:
    """Of each sentence its tokens, and where its words begin."""
    return ((store.ids(example), store.items(example)[0]) for example in range(len(store)))


def pool_tokens(context: Context, stage: Stage, at_most: int | None = None) -> int:
    """Tokens of the unlabelled examples that a stage's self-training draws; of the mean length, whichever it draws.

    Args:
        at_most: examples of each target.
    """
    store, tokens = pool_store(context, stage), 0
    for text in by_target(store):
        drawn = min(len(text), context.config.selftrain.cap or len(text), at_most or len(text))
        tokens += round(float(store.lengths[text].mean()) * drawn)
    return tokens
