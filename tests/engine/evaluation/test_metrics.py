import math
import statistics

import numpy as np
import pytest
import torch
from seqeval.metrics import f1_score, precision_score, recall_score
from seqeval.scheme import IOB2

from xlt_engine import DataError
from xlt_engine.engine.evaluation.metrics import (
    EntityCounter,
    EntityScores,
    accuracy,
    as_array,
    entity_f1,
    label_scores,
    macro_f1,
    spans,
    transfer_gap,
)
from xlt_engine.engine.summary.seeds import Stat, paired_step, stat

TAGS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC", "B-work-of-art", "I-work-of-art"]


def random_document(seed: int) -> tuple[list[list[str]], list[list[str]]]:
    rng = np.random.default_rng(seed)
    gold, predicted = [], []
    for length in rng.integers(1, 15, size=4):
        tags = rng.choice(TAGS, size=length, p=[0.3, 0.1, 0.2, 0.1, 0.15, 0.05, 0.1])
        noise = rng.random(length) < 0.3
        gold.append(tags.tolist())
        predicted.append(np.where(noise, rng.choice(TAGS, size=length), tags).tolist())
    return gold, predicted


# Gold, prediction, and the (gold, predicted, correct) counts worked out by hand.
FIXTURES = [
    ("I- after O opens", "O I-PER I-PER O", "O B-PER I-PER O", (1, 1, 1)),
    ("I- of another type opens", "B-PER I-LOC", "B-PER B-LOC", (2, 2, 2)),
    ("I- at the start opens", "I-ORG O", "I-ORG I-ORG", (1, 1, 0)),
    ("IOB1: B- splits neighbours", "I-LOC B-LOC I-LOC", "I-LOC I-LOC I-LOC", (2, 1, 0)),
    ("IOB1 equals IOB2", "I-LOC B-LOC O I-PER", "B-LOC B-LOC O B-PER", (3, 3, 3)),
    ("prediction runs on", "B-PER O", "B-PER I-PER", (1, 1, 0)),
    ("type changes inside", "B-PER I-PER I-PER", "B-PER I-LOC I-PER", (1, 3, 0)),
    ("nothing", "O O", "O O", (0, 0, 0)),
]


@pytest.mark.parametrize(("gold", "predicted", "counts"), [f[1:] for f in FIXTURES], ids=[f[0] for f in FIXTURES])
def test_invalid_transitions_as_conlleval(gold: str, predicted: str, counts: tuple[int, int, int]) -> None:
    scores = entity_f1([gold.split()], [predicted.split()])
    assert (scores.num_gold, scores.num_predicted, scores.num_correct) == counts


@pytest.mark.parametrize("strict", [False, True])
def test_equals_seqeval_on_200_random_documents(strict: bool) -> None:
    """By default, which is conlleval's way, and strictly; most documents tell the two apart."""
    options = {"mode": "strict", "scheme": IOB2} if strict else {}
    apart = 0
    for seed in range(200):
        gold, predicted = random_document(seed)
        scores = entity_f1(gold, predicted, strict=strict)
        for ours, theirs in ((scores.f1, f1_score), (scores.precision, precision_score), (scores.recall, recall_score)):
            assert ours == pytest.approx(100 * theirs(gold, predicted, zero_division=0, **options), rel=1e-12, abs=0)
        apart += scores.f1 != entity_f1(gold, predicted, strict=not strict).f1
    assert apart > 150


def test_spans() -> None:
    tags = ["I-PER", "I-LOC", "B-LOC", "O", "B-work-of-art", "I-work-of-art"]
    assert spans(tags) == [("PER", 0, 1), ("LOC", 1, 2), ("LOC", 2, 3), ("work-of-art", 4, 6)]
    assert spans(tags, strict=True) == [("LOC", 2, 3), ("work-of-art", 4, 6)]
    assert spans(["B-PER", "I-LOC", "I-PER"], strict=True) == [("PER", 0, 1)]
    assert spans([]) == []


def test_scores_in_points_and_per_type() -> None:
    scores = entity_f1([["B-PER", "O", "B-LOC", "B-LOC"]], [["B-PER", "B-PER", "O", "B-LOC"]])
    assert scores.precision == pytest.approx(200 / 3)
    assert scores.recall == pytest.approx(200 / 3)
    assert scores.per_type["LOC"] == EntityScores(100.0, 50.0, pytest.approx(200 / 3), 2, 1, 1)
    assert scores.per_type["PER"].num_predicted == 2
    assert list(scores.per_type) == ["LOC", "PER"]
    assert entity_f1([["O"]], [["O"]]).f1 == 0.0


def test_counter_adds_up_to_the_document() -> None:
    gold, predicted = random_document(1)
    counter = EntityCounter()
    counts = [counter.update(g, p) for g, p in zip(gold, predicted, strict=True)]
    assert counter.result() == entity_f1(gold, predicted)
    found = counter.result()
    assert np.sum(counts, axis=0).tolist() == [found.num_gold, found.num_predicted, found.num_correct]


@pytest.mark.parametrize("tag", ["X-PER", "B", "I-", "PER", "E-PER", ""])
def test_unknown_tags_are_refused(tag: str) -> None:
    with pytest.raises(DataError, match="unknown tag"):
        entity_f1([["O"]], [[tag]])


def test_uneven_input_is_refused() -> None:
    with pytest.raises(DataError, match="number of sentences"):
        entity_f1([["O"], ["O"]], [["O"]])
    with pytest.raises(DataError, match="1 gold tags but 2"):
        entity_f1([["O"]], [["O", "O"]])
    with pytest.raises(DataError, match="2 gold labels but 1"):
        accuracy([1, 2], [1])


def test_accuracy_and_macro_f1() -> None:
    gold, predicted = [0, 0, 0, 1, 1, 2], [0, 0, 1, 1, 2, 1]
    assert accuracy(gold, predicted) == pytest.approx(50.0)
    f1 = {0: 100 * 4 / 5, 1: 100 * 2 / 5, 2: 0.0}
    assert macro_f1(gold, predicted) == pytest.approx(sum(f1.values()) / 3)
    # Class 7 occurs nowhere and does not count; class 2 is not asked for.
    assert macro_f1(gold, predicted, labels=[0, 1, 7]) == pytest.approx((f1[0] + f1[1]) / 2)
    assert accuracy(torch.tensor(gold), np.array(predicted)) == pytest.approx(50.0)
    assert math.isnan(accuracy([], []))
    assert math.isnan(macro_f1([], []))


def test_scores_of_each_class() -> None:
    scores = label_scores(["a", "b", "b"], ["a", "a", "b"], ["a", "b"])
    assert {x: s.f1 for x, s in scores.per_class.items()} == {"a": pytest.approx(200 / 3), "b": pytest.approx(200 / 3)}
    assert (scores.per_class["a"].precision, scores.per_class["a"].recall) == (50.0, 100.0)
    assert (scores.per_class["b"].num_gold, scores.per_class["b"].num_predicted) == (2, 1)


def test_transfer_gap() -> None:
    summary = transfer_gap(90.0, {"de": 80.0, "es": 70.0, "nl": 93.0})
    assert summary.gap == {"de": 10.0, "es": 20.0, "nl": -3.0}
    assert summary.mean_gap == pytest.approx(9.0)
    assert summary.average_targets == pytest.approx(81.0)
    assert summary.average_all == pytest.approx(83.25)
    assert summary.std_targets == pytest.approx(statistics.pstdev([80, 70, 93]))
    assert summary.std_all == pytest.approx(statistics.pstdev([80, 70, 93, 90]))
    with pytest.raises(DataError):
        transfer_gap(90.0, {})


def test_as_array_widens_16_bit_floats() -> None:
    array = as_array(torch.tensor([0.5], dtype=torch.bfloat16, requires_grad=True))
    assert array.dtype == np.float32
    assert as_array(torch.tensor([True])).dtype == bool


def test_mean_and_deviation_over_seeds() -> None:
    summary = stat([70.0, 72.0, 77.0])
    assert summary.mean == pytest.approx(73.0)
    assert summary.std == pytest.approx(statistics.stdev([70, 72, 77]))
    assert (summary.n, str(summary)) == (3, "73.0 ± 3.6")
    assert stat([5.0]) == Stat(5.0, None, 1)
    assert str(stat([5.0])) == "5.0"
    assert stat([]) is None


def test_paired_step() -> None:
    step = paired_step([5.0, -1.0, 8.0], "zero-shot")
    assert step.stat.mean == pytest.approx(4.0)
    assert step.stat.std == pytest.approx(statistics.stdev([5, -1, 8]))
    assert (step.up, step.stat.n, step.versus) == (2, 3, "zero-shot")
    assert paired_step([], "zero-shot") is None
