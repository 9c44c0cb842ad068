"""Acceptance beyond the paper: quotas, ratios, temperatures and class thresholds against plain numpy."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import pytest
import torch

from xlt_engine import ConfigError
from xlt_engine.data import derive_seed
from xlt_engine.engine.acceptance import (
    balanced_classes,
    choose_accepted,
    count_units,
    outside_by_ratio,
    source_distribution,
)
from xlt_engine.engine.calibration import HIGHEST, LOWEST, fit_temperature
from xlt_engine.engine.class_thresholds import class_thresholds
from xlt_engine.engine.consistency import steady_labels
from xlt_engine.engine.decisions import Decision, Reason, decide, doubts, source_consistency
from xlt_engine.engine.objectives import over_voters
from xlt_engine.engine.thresholds import choose_threshold
from xlt_engine.engine.voter_weights import bootstrap_weights
from xlt_engine.kernels import soft_label_loss, voter_cross_entropy

TAGS = ("O", "B-LOC", "B-PER", "I-LOC", "I-PER")
SENTIMENT = ("neg", "neu", "pos")


class Votes(NamedTuple):
    label: np.ndarray
    agree: np.ndarray
    min_confidence: np.ndarray
    mean_probability: np.ndarray


def votes_of(probability: np.ndarray) -> Votes:
    """Votes of one voter's probabilities [K, C]."""
    label, sure = probability.argmax(-1), probability.max(-1)
    return Votes(label, np.ones(len(label), bool), sure, probability)


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
    assert entities.counts(np.ones(6, bool)).tolist() == [2, 1]


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
    options = {"unit": "entity", "sentence_of_item": sentence, "source_sentence": sentence}
    found = choose_accepted(decision, confidence, TAGS, accept=accept, source_gold=label, **options)
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


def test_outside_by_ratio() -> None:
    rng = np.random.default_rng(5)
    label = rng.choice(5, 1000, p=[0.9, 0.04, 0.03, 0.02, 0.01])
    outside, kept = label == 0, rng.random(1000) < np.where(label == 0, 0.95, 0.3)
    entity = int((kept & ~outside).sum())
    stays = outside_by_ratio(outside, kept, source_outside=4000, source_entity=1000, seed=1)
    assert (stays & ~outside).sum() == entity
    assert (stays & outside).sum() == 4 * entity
    assert not (stays & ~kept).any()
    assert (stays == outside_by_ratio(outside, kept, source_outside=4000, source_entity=1000, seed=1)).all()
    assert (stays != outside_by_ratio(outside, kept, source_outside=4000, source_entity=1000, seed=2)).any()
    assert (outside_by_ratio(outside, kept, source_outside=99_000, source_entity=1, seed=1) == kept).all()
    assert (outside_by_ratio(outside, kept, source_outside=5, source_entity=0, seed=1) == kept).all()
    alone = kept & outside
    assert (outside_by_ratio(outside, alone, source_outside=5, source_entity=1, seed=1) == alone).all()
    # A draw, not the first ones: about half of what stays lies in each half of the items.
    assert 0.35 < stays[:500][outside[:500]].sum() / stays[outside].sum() < 0.65


def test_defaults_change_nothing_and_unknown_names_are_refused() -> None:
    keep = np.array([True, False])
    decision = Decision(keep, np.array([0, 1]), keep.astype(np.float32), np.array([0, 2], np.int8))
    assert choose_accepted(decision, np.ones(2), SENTIMENT, source_gold=np.array([0])) is decision
    with pytest.raises(ConfigError, match="class-balanced"):
        choose_accepted(decision, np.ones(2), SENTIMENT, accept="class-balanzed", source_gold=np.array([0]))


def mean_loss(logits: np.ndarray, gold: np.ndarray, temperature: float) -> float:
    scaled = torch.from_numpy(logits).double() / temperature
    losses = [torch.nn.functional.cross_entropy(voter, torch.from_numpy(gold)) for voter in scaled]
    return float(torch.stack(losses).mean())


@pytest.mark.parametrize("true", [0.4, 1.0, 2.5])
def test_temperature(true: float) -> None:
    """Recovers the temperature that labels were drawn with, and no temperature near it is better."""
    rng = np.random.default_rng(0)
    logits = 2 * rng.standard_normal((2, 20_000, 4))
    logits[1] = logits[0]
    share = np.exp(logits[0] / true)
    gold = (rng.random((20_000, 1)) < np.cumsum(share / share.sum(-1, keepdims=True), -1)).argmax(-1)
    found = fit_temperature(logits, gold)
    assert found.value == pytest.approx(true, rel=0.05)
    assert found.nll_after == pytest.approx(mean_loss(logits, gold, found.value), rel=1e-12)
    assert found.nll_before == pytest.approx(mean_loss(logits, gold, 1.0), rel=1e-12)
    for factor in (0.999, 1.001):
        assert mean_loss(logits, gold, found.value * factor) > found.nll_after
    assert (found.items, found.at_bound) == (20_000, False)
    assert fit_temperature(logits, gold) == found


def test_temperature_at_its_bounds() -> None:
    logits = np.array([[[3.0, 0.0], [0.0, 2.0]]])
    right, wrong = fit_temperature(logits, np.array([0, 1])), fit_temperature(logits, np.array([1, 0]))
    assert (right.value, right.at_bound) == (pytest.approx(LOWEST), True)
    assert (wrong.value, wrong.at_bound) == (pytest.approx(HIGHEST), True)
    empty = fit_temperature(logits, np.array([-100, -100]))
    assert (empty.value, empty.items, empty.at_bound) == (1.0, 0, False)
    assert fit_temperature(np.array([[[3.0, 0.0], [0.0, 2.0], [1.0, 0.0]]]), np.array([0, 1, -100])) == right


def test_class_thresholds() -> None:
    """Each class as `choose_threshold` would choose on its items alone; rare and flat ones take the common alpha."""
    rng = np.random.default_rng(2)
    label = rng.choice(4, 4000, p=[0.5, 0.3, 0.197, 0.003])
    confidence = rng.uniform(0.4, 1, 4000)
    correct = rng.random(4000) < np.where(label == 0, confidence**0.2, confidence**3)
    correct[label == 2] = True
    agree = rng.random(4000) < 0.9
    overall = choose_threshold(confidence, correct, num_classes=4, agree=agree)
    found = class_thresholds(confidence, label, correct, overall, num_classes=4, min_kept=20, agree=agree)
    for c in (0, 1):
        own = label == c
        assert found.alpha[c] == choose_threshold(confidence[own], correct[own], num_classes=4, agree=agree[own]).alpha
    assert found.own.tolist() == [True, True, False, False]
    assert found.alpha[2:].tolist() == [overall.alpha] * 2
    fixed = choose_threshold(confidence, correct, rule="fixed:0.7", num_classes=4, agree=agree)
    rare = class_thresholds(confidence, label, correct, fixed, num_classes=4, min_kept=20, agree=agree)
    assert rare.own.tolist() == [True, True, True, False]
    assert found.as_dict(("a", "b", "c", "d"))["c"] == {"alpha": overall.alpha, "own": False}


def test_decide_by_class_alpha_and_steadiness() -> None:
    votes = votes_of(np.array([[0.8, 0.2], [0.2, 0.8], [0.1, 0.9], [0.9, 0.1]], dtype=np.float32))
    by_class = decide(votes, np.array([0.7, 0.85]))
    assert by_class.keep.tolist() == [True, False, True, True]
    steady = decide(votes, np.array([0.7, 0.85]), steady=[True, True, False, True])
    assert [Reason(r).name for r in steady.reason] == ["KEPT", "LOW_CONFIDENCE", "INCONSISTENT", "KEPT"]
    assert decide(votes, None, steady=[False] * 4).keep.all()
    at_limit = decide(votes_of(np.array([[0.4, 0.6]], np.float32)), np.array([0.5, 0.6]))
    assert not at_limit.keep.any(), "compared in the precision of the confidences"


def test_an_unsteady_word_drops_its_entity() -> None:
    probability = np.full((3, 5), 0.01, dtype=np.float32)
    probability[[0, 1, 2], [2, 4, 0]] = 0.96
    options = {"unit": "entity", "sentence_of_item": [0, 0, 0], "labels": TAGS}
    decision = decide(votes_of(probability), 0.5, steady=[True, False, True], **options)
    assert [Reason(r).name for r in decision.reason] == ["SPAN_INCOMPLETE", "INCONSISTENT", "KEPT"]


def test_steady_labels() -> None:
    """All passes must agree, and each has its own seed."""
    probability = {0: [[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]], 1: [[0.7, 0.3], [0.6, 0.4], [0.3, 0.7]]}
    seeds = {derive_seed(7, "consistency", n): n for n in probability}

    def disturbed(seed: int) -> list[list[float]]:
        return probability[seeds[seed]]

    assert steady_labels([0, 1, 0], disturbed, passes=0, seed=7).tolist() == [True] * 3
    assert steady_labels([0, 1, 0], disturbed, passes=1, seed=7).tolist() == [True, True, True]
    assert steady_labels([0, 1, 0], disturbed, passes=2, seed=7).tolist() == [True, False, False]


def test_agreed_source_filter() -> None:
    """The student contradicts examples 0, 1 and 2; the teacher contradicts 0, is unsure of 1 and sure of 2."""
    student = votes_of(np.array([[0.1, 0.9], [0.2, 0.8], [0.3, 0.7], [0.9, 0.1]]))
    teacher = votes_of(np.array([[0.2, 0.8], [0.6, 0.4], [0.95, 0.05], [0.5, 0.5]]))
    gold = np.array([0, 0, 0, 0])
    doubted = doubts(teacher, gold, 0.7)
    assert doubted.tolist() == [True, True, False, True]
    found = source_consistency(student, gold, kept=[True] * 4, rule="agreed", doubted=doubted, guard=1)
    assert [Reason(r).name for r in found.reason] == ["CONTRADICTED", "CONTRADICTED", "TEACHER_CONFIRMS", "KEPT"]
    assert found.keep.tolist() == [False, False, True, True]
    # A sentence leaves only if one and the same word is both contradicted and doubted.
    apart = source_consistency(
        student,
        gold,
        kept=[True, True],
        rule="agreed",
        doubted=[False, False, False, True],
        example_of_item=[0, 0, 1, 1],
    )
    assert apart.keep.all()
    with pytest.raises(ConfigError, match="first teacher"):
        source_consistency(student, gold, kept=[True] * 4, rule="agreed")


def test_bootstrap_weights() -> None:
    offsets = np.concatenate([[0], np.cumsum(np.arange(3000) % 3)])
    weights = bootstrap_weights(offsets, 3, seed=4)
    assert weights.shape == (offsets[-1], 3)
    assert weights.dtype == np.float32
    first = weights[offsets[:-1][np.diff(offsets) > 0]]
    for example in (1, 2, 5):
        assert (weights[offsets[example] : offsets[example + 1]] == weights[offsets[example]]).all()
    np.testing.assert_allclose(first.mean(0), 1, atol=0.08)
    np.testing.assert_allclose((first == 0).mean(0), math.exp(-1), atol=0.04)
    assert np.abs(np.corrcoef(first.T) - np.eye(3)).max() < 0.08
    assert (weights == bootstrap_weights(offsets, 3, seed=4)).all()


@pytest.mark.parametrize("kind", ["hard", "mse", "kl"])
def test_losses_with_weights_by_voter(kind: str) -> None:
    """The mean over the voters of each voter's own weighted loss, and its gradient; equal rows are the usual loss."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 7, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    weights = torch.randint(0, 3, (7, 3), generator=generator).double()
    gold = torch.tensor([0, 1, 2, 3, -100, 1, 0])
    teacher = torch.rand(7, 4, generator=generator, dtype=torch.float64).softmax(-1)

    def loss(z: torch.Tensor, w: torch.Tensor | None) -> torch.Tensor:
        if kind == "hard":
            return voter_cross_entropy(z, gold, weights=w)
        return soft_label_loss(z, teacher, kind=kind, weights=w)

    def one(z: torch.Tensor) -> torch.Tensor:
        if kind == "hard":
            return torch.nn.functional.cross_entropy(z, gold, ignore_index=-100, reduction="none")
        if kind == "mse":
            return (z.softmax(-1) - teacher).square().mean(-1)
        return (teacher * (teacher.log() - z.log_softmax(-1))).sum(-1)

    found = over_voters(loss, logits, weights)
    expected = sum((one(logits[m]) * weights[:, m]).sum() for m in range(3)) / 3
    assert found.item() == pytest.approx(expected.item(), rel=1e-12)
    gradient = torch.autograd.grad(found, logits)[0]
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, logits)[0], rtol=1e-10, atol=1e-14)
    same = weights[:, :1].expand(-1, 3)
    assert over_voters(loss, logits, same).item() == pytest.approx(loss(logits, weights[:, 0]).item(), rel=1e-12)


def test_warnings() -> None:
    from xlt_engine.engine import diagnostics_options as d

    silent = [
        d.temperature_at_bound(1.2, False),
        d.shared_class_alphas([], 3),
        d.dropout_disagreement(50, 50),
        d.dropout_disagreement(0, 0),
        d.acceptance_cut("accept = class-balanced", 90, 10),
        d.teacher_knows_all(1, 1000),
        d.teacher_knows_all(0, 0),
    ]
    assert silent == [None] * 7
    found = [
        d.temperature_at_bound(0.05, True),
        d.shared_class_alphas(["B-LOC"], 5),
        d.dropout_disagreement(51, 49),
        d.acceptance_cut("outside = source-ratio", 91, 9),
        d.teacher_knows_all(0, 1000),
    ]
    assert [w.name for w in found if w is not None] == [
        "temperature-at-bound",
        "class-alpha-shared",
        "dropout-disagreement",
        "acceptance-cut",
        "teacher-doubts-nothing",
    ]
    assert found[3] is not None
    assert found[3].message.startswith("selftrain.outside = source-ratio took 91 of 100")


def test_weights_by_voter_through_batches() -> None:
    """Packing, cutting and padding keep the rows of weights [K, M]; padding weighs nothing."""
    from xlt_engine.data import Bucket, pack, pad_to_bucket
    from xlt_engine.data.batch import cut

    rows = [np.arange(6, dtype=np.float32).reshape(2, 3), np.full((1, 3), 9, dtype=np.float32)]
    batch = pack([[1, 2, 3, 4], [5, 6]], items=[[1, 2], [0]], labels=[[0, 1], [1]], weights=rows)
    assert batch.weights is not None
    assert batch.weights.tolist() == np.concatenate(rows).tolist()
    assert [part.weights.tolist() for part in cut(batch, 1) if part.weights is not None] == [r.tolist() for r in rows]
    padded = pad_to_bucket(batch, Bucket(tokens=16, sequences=4, items=8, longest=8))
    assert padded.weights is not None
    assert padded.weights.shape == (8, 3)
    assert padded.weights[:3].equal(batch.weights)
    assert not padded.weights[3:].any()
