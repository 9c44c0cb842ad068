"""Acceptance beyond the paper: quotas and proportions against plain numpy."""

import math

import numpy as np
import pytest

from xlt_engine import ConfigError
from xlt_engine.engine.pseudolabels.acceptance import (
    balanced_classes,
    choose_accepted,
    count_dropped,
    count_units,
    source_distribution,
)
from xlt_engine.engine.pseudolabels.diagnostics import acceptance_cut
from xlt_engine.engine.pseudolabels.filters import Decision, Reason

TAGS = ("O", "B-LOC", "B-PER", "I-LOC", "I-PER")
SENTIMENT = ("neg", "neu", "pos")


def random_case(classes: int, count: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels of very unequal frequency, confidences with ties, and which of the items pass."""
    rng = np.random.default_rng(seed)
    share = 0.5 ** np.arange(classes)
    label = rng.choice(classes, count, p=share / share.sum())
    confidence = np.round(rng.random(count), 2)
    return label, confidence, confidence > 0.3 + 0.5 * label / classes


def best(candidates: list[int], confidence: np.ndarray, most: int) -> set[int]:
    return set(sorted(candidates, key=lambda i: (-confidence[i], i))[:most])


@pytest.mark.parametrize("seed", range(5))
def test_class_balanced_shares(seed: int) -> None:
    label, confidence, kept = random_case(3, 400, seed)
    stays = balanced_classes(count_units(label, SENTIMENT), confidence, kept)
    share = kept.sum() / len(label)
    for c in range(3):
        quota = math.ceil(round(share * (label == c).sum(), 9))
        expected = best([i for i in range(400) if kept[i] and label[i] == c], confidence, quota)
        assert set(np.flatnonzero(stays & (label == c)).tolist()) == expected
    assert 0 < stays.sum() < kept.sum()


@pytest.mark.parametrize("seed", range(5))
def test_source_distribution_is_matched(seed: int) -> None:
    label, confidence, kept = random_case(3, 400, seed)
    source = np.array([50, 100, 25])
    stays = source_distribution(count_units(label, SENTIMENT), confidence, kept, source)
    passed = [int((kept & (label == c)).sum()) for c in range(3)]
    scarcest = min(range(3), key=lambda c: passed[c] / source[c])
    for c in range(3):
        quota = max(1, math.floor(passed[scarcest] * int(source[c]) / int(source[scarcest]) + 1e-9))
        expected = best([i for i in range(400) if kept[i] and label[i] == c], confidence, quota)
        assert set(np.flatnonzero(stays & (label == c)).tolist()) == expected
    counts = np.bincount(label[stays], minlength=3)
    assert counts[scarcest] == passed[scarcest]
    np.testing.assert_allclose(counts / counts.sum(), source / source.sum(), atol=2 / counts.sum())


def test_plain_tags_with_an_o_among_them_are_classes() -> None:
    """Of supersenses, for one: their `O` is a tag as the others are."""
    units = count_units(np.array([0, 1, 2, 1]), ("O", "noun.person", "LOC"))
    assert (units.names, units.kind.tolist()) == (("O", "noun.person", "LOC"), [0, 1, 2, 1])


def test_source_distribution_by_hand() -> None:
    """A class of which nothing passed does not starve the others; one that the source lacks goes."""
    units = count_units(np.array([0, 0, 0, 2, 2]), SENTIMENT)
    sure, kept = np.array([0.9, 0.8, 0.95, 0.7, 0.6]), np.ones(5, bool)
    assert source_distribution(units, sure, kept, np.array([10, 10, 20])).tolist() == [False, False, True, True, True]
    assert source_distribution(units, sure, kept, np.array([10, 10, 0])).tolist() == [True, True, True, False, False]
    assert not source_distribution(units, sure, ~kept, np.array([1, 1, 1])).any()


def test_units_of_tagging() -> None:
    """Words by entity type, or whole entities; O alone, and a new sentence ends an entity."""
    label, sentence = np.array([2, 4, 0, 1, 3, 3, 0, 0]), np.array([0, 0, 0, 0, 0, 1, 1, 1])
    words = count_units(label, TAGS)
    assert words.names == ("LOC", "PER")
    assert words.kind.tolist() == [1, 1, -1, 0, 0, 0, -1, -1]
    entities = count_units(label, TAGS, unit="entity", sentence_of_item=sentence)
    assert entities.of_item.tolist() == [0, 0, 1, 2, 2, 3, 4, 5]
    assert entities.kind.tolist() == [1, -1, 0, 0, -1, -1]
    assert entities.counts().tolist() == [2, 1]
    assert entities.counts(np.arange(6) > 0).tolist() == [2, 0]


@pytest.mark.parametrize("accept", ["class-balanced", "source-distribution"])
def test_whole_entities_stay_or_go(accept: str) -> None:
    rng = np.random.default_rng(3)
    label = np.concatenate(
        [rng.choice([0, 1, 2]) * np.ones(1, int) if rng.random() < 0.5 else [2, 4] for _ in range(200)]
    )
    sentence = np.arange(label.size) // 7
    confidence = rng.random(label.size)
    units = count_units(label, TAGS, unit="entity", sentence_of_item=sentence)
    keep = rng.random(units.kind.size)[units.of_item] < 0.6
    decision = Decision(keep, label, keep.astype(np.float32), np.where(keep, 0, 2).astype(np.int8))
    found = choose_accepted(accept, decision, confidence, units, units.counts())
    assert not (found.keep & ~keep).any()
    assert (found.keep[label == 0] == keep[label == 0]).all()
    for unit in range(units.kind.size):
        assert len(set(found.keep[units.of_item == unit].tolist())) == 1
    # An entity is as sure as its least sure word, and the surest of a type stay.
    sure = np.array([confidence[units.of_item == unit].min() for unit in range(units.kind.size)])
    taken, passed = (
        np.array([k[units.of_item == u].all() for u in range(units.kind.size)]) for k in (found.keep, keep)
    )
    for kind in (0, 1):
        gone = passed & ~taken & (units.kind == kind)
        assert sure[taken & (units.kind == kind)].min() >= sure[gone].max(initial=0)
    changed = found.reason != decision.reason
    assert changed.any()
    assert set(found.reason[changed].tolist()) == {Reason.OVER_QUOTA}
    assert (found.weight == found.keep).all()


def test_the_default_changes_nothing_and_unknown_names_are_refused() -> None:
    keep = np.array([True, False])
    decision = Decision(keep, np.array([0, 1]), keep.astype(np.float32), np.array([0, 2], np.int8))
    case = decision, np.ones(2), count_units(decision.label, SENTIMENT), np.array([1, 0, 0])
    assert choose_accepted("threshold", *case) is decision
    with pytest.raises(ConfigError, match="class-balanced"):
        choose_accepted("class-balanzed", *case)


def test_dropped_labels_are_counted_by_name() -> None:
    label = np.array([0, 0, 0, 2, 2])
    decision = Decision(np.ones(5, bool), label, np.ones(5, np.float32), np.zeros(5, np.int8))
    cut = choose_accepted(
        "source-distribution", decision, np.linspace(0.5, 0.9, 5), count_units(label, SENTIMENT), np.array([10, 10, 20])
    )
    assert cut.keep.tolist() == [False, False, True, True, True]
    assert count_dropped(cut, SENTIMENT) == {"neg": 2}
    assert count_dropped(decision, SENTIMENT) == {}


def test_warning() -> None:
    assert acceptance_cut("class-balanced", 90, 10) is None
    assert acceptance_cut("class-balanced", 0, 0) is None
    warning = acceptance_cut("source-distribution", 91, 9)
    assert warning.name == "acceptance-cut"
    assert warning.message.startswith("selftrain.accept = source-distribution took 91 of 100")
