from collections.abc import Callable
from itertools import product
from typing import NamedTuple

import numpy as np
import pytest
import torch

from xlt_engine import ConfigError
from xlt_engine.engine.evaluation.metrics import spans
from xlt_engine.engine.pseudolabels.filters import (
    Decision,
    Reason,
    calibration_bins,
    class_counts,
    counts_by_threshold,
    decide,
    reason_counts,
    source_consistency,
    span_of_item,
)
from xlt_engine.engine.pseudolabels.thresholds import choose_threshold, choose_threshold_from_sweep, uniform_grid
from xlt_engine.kernels.votes import votes as kernel_votes

LABELS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]


class Votes(NamedTuple):
    label: torch.Tensor
    agree: torch.Tensor
    min_confidence: torch.Tensor
    mean_probability: torch.Tensor


def count_votes(probability: torch.Tensor) -> Votes:
    """Votes of voters' probabilities [M, K, C], spelt out."""
    choice = probability.argmax(-1)
    mean = probability.mean(0)
    agree = (choice == choice[0]).all(0)
    return Votes(torch.where(agree, choice[0], mean.argmax(-1)), agree, probability.amax(-1).amin(0), mean)


def votes_for(labels: list[int], confidence: list[float], agree: list[bool] | None = None, classes: int = 5) -> Votes:
    """Votes with the given outcome; the rest of the probability is spread evenly."""
    label, sure = torch.tensor(labels, dtype=torch.int64), torch.tensor(confidence)
    mean = ((1 - sure) / (classes - 1))[:, None].expand(-1, classes).clone()
    mean[torch.arange(len(labels)), label] = sure
    return Votes(label, torch.tensor(agree or [True] * len(labels)), sure, mean)


def names(decision: Decision) -> list[str]:
    return [Reason(r).name for r in decision.reason.tolist()]


@pytest.mark.parametrize(
    ("agree", "confidence", "alpha", "reason"),
    [
        (True, 0.9, 0.8, Reason.KEPT),
        (True, 0.8, 0.8, Reason.LOW_CONFIDENCE),
        (True, 0.7, 0.8, Reason.LOW_CONFIDENCE),
        (False, 0.9, 0.8, Reason.DISAGREE),
        (False, 0.7, 0.8, Reason.DISAGREE),
        (True, 0.3, 0.0, Reason.KEPT),
        (False, 0.3, 0.0, Reason.DISAGREE),
        (True, 0.3, None, Reason.KEPT),
        (False, 0.3, None, Reason.KEPT),
        (True, float("nan"), 0.0, Reason.NOT_A_NUMBER),
        (False, float("nan"), None, Reason.NOT_A_NUMBER),
    ],
)
def test_truth_table(agree: bool, confidence: float, alpha: float | None, reason: Reason) -> None:
    decision = decide(votes_for([1], [confidence], [agree]), alpha)
    assert decision.reason.tolist() == [reason]
    assert decision.keep.tolist() == [reason == Reason.KEPT]
    assert decision.weight.tolist() == [float(reason == Reason.KEPT)]
    assert decision.targets.tolist() == [1 if reason == Reason.KEPT else -100]
    assert decision.label.tolist() == [1]


def test_threshold_is_rounded_to_the_confidences_precision() -> None:
    assert decide(votes_for([0], [0.6]), 0.6).keep.tolist() == [False]
    assert decide(votes_for([0], [0.6]), float(np.nextafter(np.float32(0.6), np.float32(0)))).keep.tolist() == [True]


def test_acceptance_lies_within_that_of_every_single_voter() -> None:
    probability = torch.randn(3, 500, 4, generator=torch.Generator().manual_seed(0)).mul(2).softmax(-1)
    together = decide(count_votes(probability), 0.5)
    alone = [decide(count_votes(voter[None]), 0.5) for voter in probability]
    for voter in alone:
        assert (together.keep <= voter.keep).all()
        assert (together.label == voter.label)[together.keep].all()
    assert 0 < together.keep.sum() < min(voter.keep.sum() for voter in alone)


def test_numpy_and_torch_votes_decide_alike() -> None:
    votes = count_votes(torch.rand(2, 50, 3, generator=torch.Generator().manual_seed(1)).softmax(-1))
    arrays = Votes(*(tensor.numpy() for tensor in votes))
    np.testing.assert_array_equal(decide(votes, 0.4).reason, decide(arrays, 0.4).reason)


def test_votes_decisions_and_sweeps_agree() -> None:
    generator = torch.Generator().manual_seed(2)
    logits, gold = torch.randn(3, 2000, 4, generator=generator), torch.randint(4, (2000,), generator=generator)
    logits += 3 * torch.nn.functional.one_hot(gold, 4)
    counted = kernel_votes(logits)
    sure = counted.agree & (counted.min_confidence > 0.7)
    np.testing.assert_array_equal(sure.numpy(), decide(counted, 0.7).keep)
    grid = torch.tensor(uniform_grid(), dtype=torch.float32)
    kept = counted.agree[:, None] & (counted.min_confidence[:, None] > grid)
    right = kept & (counted.label == gold)[:, None]
    swept = choose_threshold_from_sweep(uniform_grid(), kept.sum(0), right.sum(0), total=2000)
    single = choose_threshold(counted.min_confidence, counted.label == gold, agree=counted.agree)
    np.testing.assert_array_equal(swept.curve.kept, single.curve.kept)
    np.testing.assert_array_equal(swept.curve.correct, single.curve.correct)
    np.testing.assert_array_equal(swept.score, single.score)
    assert swept.alpha == single.alpha


def test_entity_unit_drops_incomplete_spans_and_judges_o_alone() -> None:
    #        O   B-PER I-PER O   B-LOC I-LOC B-LOC | I-LOC I-LOC
    label = [0, 1, 2, 0, 3, 4, 3, 4, 4]
    sure = [0.9, 0.9, 0.5, 0.5, 0.9, 0.9, 0.9, 0.9, 0.9]
    agree = [True] * 6 + [False] + [True] * 2
    sentence = [0] * 7 + [1] * 2
    decision = decide(votes_for(label, sure, agree), 0.8, unit="entity", sentence_of_item=sentence, labels=LABELS)
    expected = "KEPT SPAN_INCOMPLETE LOW_CONFIDENCE LOW_CONFIDENCE KEPT KEPT DISAGREE KEPT KEPT"
    assert names(decision) == expected.split()


def test_sentence_unit_drops_incomplete_sentences() -> None:
    votes = votes_for([0, 1, 0, 1, 2], [0.9, 0.9, 0.9, 0.5, 0.9])
    decision = decide(votes, 0.8, unit="sentence", sentence_of_item=torch.tensor([4, 4, 7, 7, 9]))
    assert names(decision) == ["KEPT", "KEPT", "SENTENCE_INCOMPLETE", "LOW_CONFIDENCE", "KEPT"]


def test_units_only_ever_drop_more() -> None:
    rng = np.random.default_rng(0)
    votes = votes_for(rng.integers(0, 5, 300).tolist(), rng.uniform(0.3, 1, 300).tolist())
    sentence = np.sort(rng.integers(0, 60, 300))
    item, entity, whole = (
        decide(votes, 0.5, unit=unit, sentence_of_item=sentence, labels=LABELS).keep
        for unit in ("token", "entity", "sentence")
    )
    assert (entity <= item).all()
    assert (whole <= entity).all()
    assert 0 < whole.sum() < entity.sum() < item.sum()


def test_no_filter_keeps_everything_in_every_unit() -> None:
    votes = votes_for([0, 1, 2], [0.3, 0.3, 0.3], [False, True, False])
    for unit in ("item", "entity", "sentence"):
        assert decide(votes, None, unit=unit, sentence_of_item=[0, 0, 0], labels=LABELS).keep.all()


def test_spans_of_items_equal_the_spans_of_the_metrics() -> None:
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 12, 100)
    sentence = np.repeat(np.arange(100), lengths)
    label = rng.integers(0, 5, lengths.sum())
    found = span_of_item(label, sentence, LABELS)
    expected, number = [], 0
    for index in range(100):
        tags = [LABELS[i] for i in label[sentence == index]]
        row = [-1] * len(tags)
        for _, start, end in spans(tags):
            row[start:end] = [number] * (end - start)
            number += 1
        expected += row
    assert found.tolist() == expected


ONE = votes_for([0], [0.9])


@pytest.mark.parametrize(
    ("decided", "message"),
    [
        (lambda: decide(ONE, 0.5, unit="sentense"), "did you mean 'sentence'"),
        (lambda: decide(ONE, 0.5, unit="sentence"), "sentence_of_item"),
        (lambda: decide(ONE, 0.5, unit="entity", sentence_of_item=[0]), "labels"),
        (lambda: source_consistency(ONE, [0], kept=[True], rule="corect"), "did you mean 'correct"),
        (lambda: source_consistency(ONE, [0], kept=[True], rule="correct+alpha"), "needs alpha"),
    ],
)
def test_bad_units_and_source_filters_are_refused(decided: Callable[[], object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        decided()


def test_source_filter_drops_contradicted_sentences() -> None:
    votes = votes_for([0, 1, 0, 1, 2], [0.9] * 5)
    gold = [0, 1, 1, 1, -100]
    decision = source_consistency(votes, gold, kept=[True] * 4, example_of_item=[0, 0, 1, 1, 2])
    # Example 2 has no known label, and example 3 no item at all: neither is contradicted.
    assert decision.keep.tolist() == [True, False, True, True]
    assert reason_counts(decision.reason) == {"kept": 3, "contradicted": 1}


def test_source_filter_goes_by_mean_probability_not_by_agreement() -> None:
    votes = votes_for([1, 1], [0.9, 0.9], [False, True])
    assert source_consistency(votes, [1, 1], kept=[True, True]).keep.all()
    strict = source_consistency(votes, [1, 1], kept=[True, True], rule="correct+alpha", alpha=0.8)
    assert strict.keep.tolist() == [False, True]
    unsure = source_consistency(votes, [1, 1], kept=[True, True], rule="correct+alpha", alpha=0.95, guard=1)
    assert reason_counts(unsure.reason) == {"low_confidence": 1, "kept_for_class": 1}


def test_source_filter_shrinks_for_good() -> None:
    rng = np.random.default_rng(0)
    kept = np.ones(200, bool)
    gold = rng.integers(0, 3, 200)
    for _ in range(5):
        predicted = np.where(rng.random(200) < 0.2, rng.integers(0, 3, 200), gold)
        votes = votes_for(predicted.tolist(), rng.uniform(0.4, 1, 200).tolist(), classes=3)
        after = source_consistency(votes, gold, kept=kept).keep
        assert (after <= kept).all()
        np.testing.assert_array_equal(after, kept & (predicted == gold))
        kept = after
    assert 0 < kept.sum() < 150


def test_source_filter_none_changes_nothing() -> None:
    decision = source_consistency(votes_for([0, 0], [0.9, 0.9]), [1, 1], kept=[True, False], rule="none")
    assert decision.keep.tolist() == [True, False]
    assert reason_counts(decision.reason) == {"kept": 1, "removed_before": 1}


def test_source_filter_never_empties_a_class() -> None:
    # All of class 1 is contradicted; examples 4 and 5 would be the most confident but are gone already.
    votes = votes_for([0, 0, 0, 0, 1, 0], [0.9, 0.8, 0.6, 0.7, 0.9, 0.55], classes=2)
    kept = [True, True, True, True, False, False]
    decision = source_consistency(votes, [0, 1, 1, 1, 1, 1], kept=kept, labels=["neg", "pos"], guard=2)
    assert decision.keep.tolist() == [True, False, True, True, False, False]
    assert reason_counts(decision.reason) == {"kept": 1, "contradicted": 1, "removed_before": 2, "kept_for_class": 2}
    assert [w.name for w in decision.warnings] == ["source-class-emptied"]
    assert decision.warnings[0].values == {"label": "pos", "examples": 3, "kept": 2}
    assert "'pos'" in decision.warnings[0].message


def test_guard_goes_by_entity_type() -> None:
    """B-X and I-X are one class: sentence 0 keeps PER alive, so only LOC, in sentences 2 and 3, needs its guard."""
    #           0: B-PER O     1: B-PER I-PER O   2: B-LOC O   3: B-LOC I-LOC   4: O
    example = [0, 0, 1, 1, 1, 2, 2, 3, 3, 4]
    gold = [1, 0, 1, 2, 0, 3, 0, 3, 4, 0]
    predicted = [1, 0, 1, 1, 0, 0, 0, 3, 0, 0]
    votes = votes_for(predicted, [0.9, 0.9, 0.9, 0.6, 0.9, 0.6, 0.9, 0.9, 0.8, 0.9])
    decision = source_consistency(votes, gold, kept=[True] * 5, example_of_item=example, labels=LABELS, guard=1)
    assert decision.guarded == {"LOC": 1}
    assert [w.values for w in decision.warnings] == [{"label": "LOC", "examples": 2, "kept": 1}]
    # Mean gold probability: sentence 2 (0.1 + 0.9) / 2, sentence 3 (0.9 + 0.05) / 2.
    expected = [Reason.KEPT, Reason.CONTRADICTED, Reason.KEPT_FOR_CLASS, Reason.CONTRADICTED, Reason.KEPT]
    assert decision.reason.tolist() == expected
    by_number = source_consistency(votes, gold, kept=[True] * 5, example_of_item=example, guard=1)
    assert by_number.guarded == {"2": 1, "3": 1, "4": 1}


def test_guard_of_the_outside_comes_last() -> None:
    """All is contradicted. What stays for PER and LOC has words outside of them, unless no sentence with a type has."""
    example, gold = [0, 0, 1, 1, 2], [1, 0, 3, 0, 0]
    wrong = votes_for([2, 2, 2, 2, 2], [0.9] * 5)
    decision = source_consistency(wrong, gold, kept=[True] * 3, example_of_item=example, labels=LABELS)
    assert decision.guarded == {"PER": 1, "LOC": 1}
    assert decision.keep.tolist() == [True, True, False]
    decision = source_consistency(wrong, [1, 2, 3, 3, 0], kept=[True] * 3, example_of_item=example, labels=LABELS)
    assert decision.guarded == {"PER": 1, "LOC": 1, "O": 1}
    # Classes that only look like tags are classes, and so is "O" among them.
    labels = ["O", "B-side", "C", "D", "E"]
    decision = source_consistency(wrong, gold, kept=[True] * 3, example_of_item=example, labels=labels)
    assert decision.guarded == {"B-side": 1, "D": 1}


def test_source_filter_drops_what_is_not_a_number() -> None:
    votes = votes_for([0, 0, 0], [0.9, float("nan"), 0.9])
    decision = source_consistency(votes, [0, 0, 0], kept=[True] * 3)
    assert decision.reason.tolist() == [Reason.KEPT, Reason.NOT_A_NUMBER, Reason.KEPT]


def test_counts_against_a_plain_loop() -> None:
    rng = np.random.default_rng(0)
    gold = rng.integers(0, 5, 400)
    label = np.where(rng.random(400) < 0.7, gold, rng.integers(0, 5, 400))
    gold[:20] = -100
    votes = votes_for(label.tolist(), rng.uniform(0.3, 1, 400).tolist(), (rng.random(400) < 0.8).tolist())
    decision = decide(votes, 0.6)
    table = counts_by_threshold(votes, LABELS, [0.4, 0.6, 0.9], gold)
    rows = list(zip(label, gold, decision.keep, votes.min_confidence.tolist(), votes.agree.tolist(), strict=True))
    found = class_counts(decision, LABELS, gold)
    for index, name in enumerate(LABELS):
        inside = [row for row in rows if row[0] == index]
        accepted = [row for row in inside if row[2]]
        right = [row for row in accepted if row[0] == row[1]]
        assert found[name]["gold"] == sum(g == index for g in gold)
        assert tuple(found[name].values())[:3] == tuple(map(len, (inside, accepted, right)))
        assert {key: found[name][key] for key in ("items", "accepted")} == class_counts(decision, LABELS)[name]
    for (place, threshold), (index, name) in product(enumerate([0.4, 0.6, 0.9]), enumerate(LABELS)):
        kept = [row for row in rows if row[0] == index and row[4] and row[3] > threshold]
        assert table["kept"][name][place] == len(kept)
        assert table["correct"][name][place] == sum(row[0] == row[1] for row in kept)
    assert counts_by_threshold(votes, LABELS, [0.4, 0.6, 0.9]) == table | {"correct": None}


def test_calibration_bins() -> None:
    # 10 items at .95, 9 right; 10 at .55, 3 right; one that is no number; .5 itself belongs to the bin below.
    confidence = np.array([0.95] * 10 + [0.55] * 10 + [float("nan"), 0.5])
    right = np.array([True] * 9 + [False] + [True] * 3 + [False] * 7 + [True, True])
    bins = calibration_bins(confidence, right)
    assert [row["count"] for row in bins] == [1, 10, 10]
    assert [row["accuracy"] for row in bins] == pytest.approx([1.0, 0.3, 0.9])
    assert [row["confidence"] for row in bins] == pytest.approx([0.5, 0.55, 0.95])
    assert calibration_bins(confidence[:0], right[:0]) == []
