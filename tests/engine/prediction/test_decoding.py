"""Decoded tags are valid BIO, the best valid ones, and the raw ones where those are valid."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from xlt_engine.engine.prediction.words import TagDecoder

LABELS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")


def valid(tags: list[str]) -> bool:
    before = ["O", *tags]
    return all(t[0] != "I" or b in (f"B-{t[2:]}", t) for b, t in zip(before, tags, strict=False))


def decoded(
    labels: tuple[str, ...], sentences: list[np.ndarray], seen: list[np.ndarray] | None = None
) -> list[list[str]]:
    mean = np.concatenate(sentences)
    starts = [0, *np.cumsum([len(s) for s in sentences]).tolist()]
    read = np.ones(len(mean), dtype=bool) if seen is None else np.concatenate(seen)
    tags = TagDecoder(labels).decode(mean.argmax(axis=1), mean, read, starts)
    return [[labels[i] for i in tags[a:b]] for a, b in zip(starts, starts[1:], strict=False)]


@pytest.mark.parametrize("seed", range(6))
def test_sentences_are_valid_and_the_best_of_all_valid_ones(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = tuple(rng.permutation(LABELS))
    lengths = [0, *rng.integers(1, 5, size=40), 0]
    sentences = [rng.dirichlet(np.full(5, 0.4), size=n).astype(np.float32) for n in lengths]
    changed = 0
    for mean, tags in zip(sentences, decoded(labels, sentences), strict=True):
        raw = [labels[i] for i in mean.argmax(axis=1)]
        assert valid(tags)
        assert len(tags) == len(raw)
        assert tags == raw or not valid(raw)
        changed += tags != raw
        scores = np.log(np.maximum(mean.astype(float), 1e-300))
        ways = (p for p in product(range(5), repeat=len(mean)) if valid([labels[i] for i in p]))
        best = max(sum(scores[w, i] for w, i in enumerate(p)) for p in ways)
        assert sum(scores[w, labels.index(t)] for w, t in enumerate(tags)) == pytest.approx(best)
    assert changed > 5


def test_even_certainty_of_something_invalid_gives_something_valid() -> None:
    sure = np.eye(5, dtype=np.float32)[[2, 4, 2, 0, 2]]
    (tags,) = decoded(LABELS, [sure])
    assert valid(tags)
    assert tags[3] == "O"


def test_a_word_that_the_model_has_not_read_is_outside() -> None:
    mean = np.eye(5, dtype=np.float32)[[1, 0, 2]]
    mean[1] = 0
    (tags,) = decoded(LABELS, [mean], [np.array([True, False, True])])
    assert tags[1] == "O"
    assert valid(tags)


def test_tags_of_iob1_stay() -> None:
    mean = np.eye(3, dtype=np.float32)[[1, 1, 0, 1]]
    assert decoded(("O", "I-PER", "I-LOC"), [mean]) == [["I-PER", "I-PER", "O", "I-PER"]]
