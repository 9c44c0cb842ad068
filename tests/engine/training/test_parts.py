"""A step is the same however it is cut, with dropout on: parts differ from the whole by the rounding of fp32 alone.

Bounds are relative: 1e-6 of the loss, 1e-5 of the norm of all gradients. Masks that depend on the cut miss them by four
orders of magnitude.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from xlt_engine.data import PackedBatch, pack, pad_step
from xlt_engine.data.batches.batch import cut
from xlt_engine.engine import Loop, OptimizerConfig, StepResult
from xlt_engine.engine.methods.contrastive import LabelAlignment
from xlt_engine.engine.training.config import PerformanceConfig
from xlt_engine.engine.training.objectives import cross_entropy, masked_lm, soft_labels
from xlt_engine.model import (
    Encoder,
    EncoderConfig,
    Head,
    LinearHead,
    MaskedLM,
    MlpHead,
    Pooler,
    TaskModel,
    VoterHeads,
)

VOCABULARY, HIDDEN, CLASSES = 40, 16, 3
CONFIG = EncoderConfig(
    VOCABULARY, HIDDEN, 2, 2, 32, max_positions=16, dropout=0.3, attention_dropout=0.3, initializer_range=0.3
)
CUTS = {"halves": (4,), "uneven": (3,), "singles": (1,), "twice": (4, 3)}
"""Sequences of a part of the eight of the step; the last is halved further after it was cut."""


def voters() -> Head:
    return VoterHeads(HIDDEN, CLASSES, (12, 13), 0.3, seed=2, initializer_range=0.5)


def linear() -> Head:
    return LinearHead(HIDDEN, CLASSES, 0.3, seed=2, initializer_range=0.5)


def tagger(head: Callable[[], Head] = voters) -> TaskModel:
    return TaskModel(Encoder(CONFIG, seed=1), head(), "ner", ("O", "B-X", "I-X"))


def classifier(head: Callable[[], Head] = voters, pooling: str = "cls") -> TaskModel:
    pooler = Pooler(CONFIG, seed=4) if pooling == "pooler" else None
    return TaskModel(Encoder(CONFIG, seed=1), head(), "classification", "abc", pooling=pooling, pooler=pooler)


KINDS: dict[str, Callable[[], tuple[Any, Any]]] = {
    "pretrain, btf": lambda: (MaskedLM(Encoder(CONFIG, seed=1), seed=3), masked_lm),
    "finetune, hard, cotrain": lambda: (tagger(), cross_entropy),
    "finetune, one layer": lambda: (tagger(linear), cross_entropy),
    "soft": lambda: (tagger(), soft_labels),
    "classes": lambda: (classifier(), cross_entropy),
    "classes, mlp": lambda: (classifier(lambda: MlpHead(HIDDEN, CLASSES, 0.3, seed=2)), cross_entropy),
    "classes, mean": lambda: (classifier(pooling="mean"), cross_entropy),
    "classes, pooler": lambda: (classifier(linear, "pooler"), cross_entropy),
    # The contrast itself is between the texts of a part, so that without it alone parts add up.
    "align": lambda: (classifier(linear), LabelAlignment(0.1, 0.0)),
}


def batch(kind: str, step: int = 0) -> PackedBatch:
    """Eight sequences of unequal length; one has no item, one no target."""
    rng = np.random.default_rng([3, step])
    lengths = rng.integers(3, 12, size=8)
    items = [np.arange(1, n - 1) for n in lengths]
    items[2] = items[2][:0]
    if kind.startswith(("classes", "align")):
        items = [np.array([0])] * 8
    labels = [rng.integers(VOCABULARY if "btf" in kind else CLASSES, size=len(i)) for i in items]
    labels[5][:] = -100
    given: dict[str, Any] = {"labels": labels}
    if kind.startswith("soft"):
        given = {"soft_targets": [rng.dirichlet(np.ones(CLASSES), len(i)).astype(np.float32) for i in items]}
        given["weights"] = [rng.random(len(i)).astype(np.float32) for i in items]
    ids = [[2, *rng.integers(11, VOCABULARY, size=n - 2), 3] for n in lengths]
    return pack(ids, items=items, **given)


class Steps:
    """Steps of whole batches, cut one size after the other."""

    def __init__(self, kind: str, cuts: Sequence[int] = (), count: int = 1) -> None:
        self.kind, self.cuts, self.count = kind, cuts, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, step: int) -> list[PackedBatch]:
        batches = [batch(self.kind, step)]
        for size in self.cuts:
            batches = [part for one in batches for part in cut(one, size)]
        return batches


def first_step(kind: str, sizes: Sequence[int] = (), **options: Any) -> tuple[StepResult, Tensor]:
    """What a step found, and the gradients that its update would take."""
    model, objective = KINDS[kind]()
    loop = Loop(model, Steps(kind, sizes), objective, optimizer=OptimizerConfig(lr=1e-3), seed=5, **options)
    gradients: list[Tensor] = []
    parameters = list(loop.weights.trainable.values())
    update = loop.optimizer_step.apply

    def apply(loss: Tensor) -> Tensor:
        gradients.extend(torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in parameters)
        return update(loss)

    loop.optimizer_step.apply = apply  # type: ignore[method-assign]
    return loop.advance(), torch.cat(gradients)


@pytest.mark.parametrize("kind", KINDS)
def test_parts_add_up_to_the_whole_step(kind: str) -> None:
    whole, expected = first_step(kind)
    for sizes in CUTS.values():
        found, gradient = first_step(kind, sizes)
        assert found.loss == pytest.approx(whole.loss, rel=1e-6)
        assert (found.valid, found.tokens) == (whole.valid, whole.tokens)
        assert float((gradient - expected).norm()) < 1e-5 * float(expected.norm())


def test_dropout_is_on_and_the_batches_of_a_step_have_masks_of_their_own() -> None:
    """So that the test above can fail: another seed is another step, and equal batches of a step drop differently."""
    model, objective = KINDS["soft"]()
    given = batch("soft")
    with torch.no_grad():
        one, other = (float(objective(model, given, seed)) for seed in (1, 2))
    assert abs(one - other) > 1e-3 * one
    seen: list[tuple[int, int, int]] = []

    class Twice(Steps):
        def __getitem__(self, step: int) -> list[PackedBatch]:
            return [part for _ in range(2) for part in cut(given, 5)]

    def spy(model: Any, part: PackedBatch, seed: Any) -> Tensor:
        seen.append((seed, int(part.first_token), int(part.first_item)))
        loss: Tensor = objective(model, part, seed)
        return loss

    Loop(model, Twice("soft"), spy, optimizer=OptimizerConfig(), seed=5).advance()
    tokens, items = int(given.cu_seqlens[5]), int((given.item_example < 5).sum())
    assert [place for _, *place in seen] == [[0, 0], [tokens, items]] * 2
    assert seen[0][0] == seen[1][0] != seen[2][0] == seen[3][0]


def test_a_model_alone_drops_in_a_part_what_it_drops_in_the_whole() -> None:
    model, whole = tagger(), batch("hard")
    with torch.no_grad():
        expected, found = model(whole, seed=7), [model(part, seed=7) for part in cut(whole, 3)]
        states, of_parts = model.encoder(whole, seed=7).hidden, [model.encoder(p, seed=7).hidden for p in cut(whole, 3)]
    torch.testing.assert_close(torch.cat(found, 1), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(torch.cat(of_parts), states, rtol=0, atol=1e-5)


class Direct:
    """A CUDA graph on a CPU: the captured step, called again on its buffers."""

    lane = staticmethod(nullcontext)
    renew = staticmethod(lambda: None)

    def capture(self, step: Callable[[], Tensor]) -> Callable[[], Tensor]:
        return step


@pytest.mark.parametrize("kind", ["pretrain, btf", "soft", "classes"])
def test_one_graph_serves_parts_that_begin_elsewhere_in_each_step(kind: str) -> None:
    """Replays of a cut step follow whole steps launched one operation at a time; in fp32 for 8 updates within 1e-4."""
    losses = []
    for sizes in ((), (4,)):
        model, objective = KINDS[kind]()
        performance = PerformanceConfig(graphs=False, buckets=1, feed=False)
        optimizer = OptimizerConfig(lr=1e-3)
        loop = Loop(model, Steps(kind, sizes, 8), objective, optimizer=optimizer, seed=5, performance=performance)
        if sizes:
            loop.capture(Direct(), pytest.fail)
            (bucket,) = loop.prefetcher.buckets
            starts = {pad_step(loop.batches[step], [bucket])[1].first_token for step in range(8)}
            assert len(starts) > 2
        losses.append(loop.run().loss)
        assert loop.supply["graphs"] == (6 if sizes else 0)
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
