"""The loop: its schedule, its sums over micro-batches, what it freezes, and what it does with a NaN."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from xlt_engine import DivergedError
from xlt_engine.data import PackedBatch
from xlt_engine.engine import Loop, OptimizerConfig, train
from xlt_engine.engine.training.objectives import cross_entropy, masked_lm, soft_labels
from xlt_engine.engine.training.optimizer import lr_factor, make_optimizer
from xlt_engine.model import MaskedLM
from xlt_engine.model.weights import frozen_hash, tensors_hash

from .models import KINDS, encoder, outcome, packed, restore, rows, tagger

PLAIN = OptimizerConfig(lr=1e-2, clip=0, weight_decay=0, warmup=0)


def flat(model: torch.nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize("kind", ["mlm", "hard"])
def test_loss_is_the_mean_over_the_valid_targets_of_the_step(kind: str) -> None:
    """Against cross entropy of torch over all labelled items; a mean of the micro-batches' means would differ."""
    batches = [packed(rows(2, 1, kind)), packed(rows(3, 7, kind, ignored=0.3))]
    make, objective = KINDS[kind]
    result = Loop(make(), [batches], objective, optimizer=PLAIN, seed=0).advance()
    model, losses, means = make(), [], []
    with torch.no_grad():
        for part in batches:
            logits = model.logits(part, part.item_index)[None] if kind == "mlm" else model(part)
            each = [torch.nn.functional.cross_entropy(v, part.labels, reduction="none") for v in logits.double()]
            valid = torch.stack(each).mean(0)[part.labels != -100]
            losses.append(valid)
            means.append(float(valid.mean()))
    expected = float(torch.cat(losses).mean())
    assert result.loss == pytest.approx(expected, rel=1e-5)
    assert result.valid == sum(len(x) for x in losses)
    assert abs(np.mean(means) - expected) > 1e-3


def test_soft_objective() -> None:
    """Eq. 1: the mean square over items, voters and classes."""
    part, model = packed(rows(4, 5), "soft"), tagger()
    assert part.soft_targets is not None
    with torch.no_grad():
        expected = float((model(part).double().softmax(-1) - part.soft_targets.double()).square().mean())
        assert float(soft_labels(model, part, 0)) / part.num_targets == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.25, 1.0])
def test_schedule(warmup: float) -> None:
    total = 40
    factors = [lr_factor(s, total, warmup, 1.0) for s in range(total)]
    warm = round(total * warmup)
    assert factors[:warm] == pytest.approx([(s + 1) / warm for s in range(warm)])
    assert factors[warm:] == pytest.approx([(total - s) / (total - warm) for s in range(warm, total)])
    assert min(factors) > 0
    assert max(factors) == 1


def test_schedule_with_a_constant_middle() -> None:
    """10 steps of warm-up, 60 at the peak, 30 of decay: 100, in equal differences; the last step still moves."""
    factors = [lr_factor(s, 100, 0.1, 1 / 3) for s in range(100)]
    assert factors[:10] == pytest.approx([(s + 1) / 10 for s in range(10)])
    assert factors[10:71] == pytest.approx([1.0] * 61)
    assert factors[70:] == pytest.approx([(100 - s) / 30 for s in range(70, 100)])
    assert [lr_factor(s, 100, 0.1, 0.0) for s in range(10, 100)] == [1.0] * 90


def test_schedule_of_a_single_step() -> None:
    assert lr_factor(0, 1, 0.1, 1.0) == lr_factor(0, 1, 0.0, 1.0) == lr_factor(0, 1, 0.0, 0.5) == 1


def test_rate_of_each_step_is_in_the_trace_and_in_the_groups() -> None:
    steps = [[packed(rows(s, 2))] for s in range(10)]
    config = OptimizerConfig(lr=1e-3, head_lr=5e-3, warmup=0.2)
    loop = Loop(tagger(), steps, cross_entropy, optimizer=config, seed=0)
    seen: list[set[float]] = []
    trace = loop.run(
        lambda loop, result: seen.append({round(g["lr"], 12) for g in loop.optimizer_step.optimizer.param_groups})
    )
    factors = [lr_factor(s, 10, 0.2, 1.0) for s in range(10)]
    assert trace.lr == pytest.approx([1e-3 * f for f in factors])
    assert seen == [{round(1e-3 * f, 12), round(5e-3 * f, 12)} for f in factors]


def test_parameter_groups() -> None:
    """Matrices decay, biases and LayerNorms do not; the head has its own rate; every parameter is in one group."""
    model = tagger()
    optimizer = make_optimizer(
        dict(model.named_parameters()), OptimizerConfig(lr=1e-3, head_lr=2e-3, weight_decay=0.05), torch.device("cpu")
    )
    groups = {id(p): (g["peak"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]}
    assert sum(len(g["params"]) for g in optimizer.param_groups) == len(groups) == len(list(model.parameters()))
    for name, parameter in model.named_parameters():
        plain = name.endswith("bias") or "norm" in name
        assert groups[id(parameter)] == (2e-3 if name.startswith("head.") else 1e-3, 0.0 if plain else 0.05), name
    decaying = {n for n, p in model.named_parameters() if groups[id(p)][1]}
    assert decaying == {n for n, p in model.named_parameters() if "weight" in n and "norm" not in n} | {
        f"encoder.embeddings.{n}" for n in ("word", "position", "segment")
    }


@pytest.mark.parametrize(("embeddings", "layers"), [(True, 0), (True, 1), (True, 2), (False, 0)])
def test_frozen_weights_stay_and_have_no_state(embeddings: bool, layers: int) -> None:
    model = tagger(dropout=0.1)
    model.encoder.freeze(embeddings, layers)
    frozen = {n: p for n, p in model.named_parameters() if not p.requires_grad}
    expected = {"encoder.embeddings."} if embeddings else set()
    expected |= {f"encoder.layers.{i}." for i in range(layers)}
    assert all(any(n.startswith(e) for e in expected) for n in frozen)
    assert all(any(n.startswith(e) for n in frozen) for e in expected)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    digest = frozen_hash(model)
    loop = Loop(model, [[packed(rows(s, 3))] for s in range(5)], cross_entropy, optimizer=PLAIN, seed=0)
    in_optimiser = {id(p) for g in loop.optimizer_step.optimizer.param_groups for p in g["params"]}
    assert not in_optimiser & {id(p) for p in frozen.values()}
    loop.run()
    assert frozen_hash(model) == digest
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]) == (name in frozen), name
        assert parameter.grad is None
    assert not any(n.split(".", 1)[1].startswith(tuple(frozen)) for n in loop.state()[0] if frozen)


def test_frozen_embeddings_of_a_masked_lm_freeze_its_decoder() -> None:
    model = MaskedLM(encoder(), seed=3)
    model.encoder.freeze(True, 1)
    before = model.decoder_weight.detach().clone()
    bias = model.decoder_bias.detach().clone()
    train(model, [[packed(rows(1, 4, "mlm"))]], masked_lm, optimizer=PLAIN)
    assert torch.equal(model.decoder_weight, before)
    assert not torch.equal(model.decoder_bias, bias)


def test_clipping() -> None:
    """The recorded norm is that before clipping; the step uses gradients of the given norm."""
    steps = [[packed(rows(1, 4))]]

    def first_moment(clip: float) -> tuple[float, float]:
        config = OptimizerConfig(lr=1e-3, clip=clip, warmup=0)
        loop = Loop(tagger(), steps, cross_entropy, optimizer=config, seed=0)
        norm = loop.advance().grad_norm
        moments = torch.cat([v.flatten() for n, v in loop.state()[0].items() if n.endswith("exp_avg")])
        return norm, float(moments.norm()) / (1 - config.beta1)

    norm, unclipped = first_moment(0)
    assert unclipped == pytest.approx(norm, rel=1e-5)
    assert first_moment(norm / 4) == pytest.approx((norm, norm / 4), rel=1e-4)
    assert first_moment(norm * 4) == pytest.approx((norm, norm), rel=1e-5)


def diverging(model: Any, part: PackedBatch, seed: int) -> Tensor:
    """Cross entropy whose gradient is not finite for one parameter only."""
    loss: Tensor = cross_entropy(model, part, seed)
    if 99 in part.example_ids.tolist():
        loss = loss + 0.0 * (model.encoder.layers[1].up_bias * 0.0).sqrt().sum()
    return loss


@pytest.mark.parametrize("clip", [0.0, 1.0])
def test_not_a_number_stops_before_the_update(clip: float) -> None:
    """Names the step, the parameter whose gradient is bad, and the examples; the weights are the step before's."""
    model, good = tagger(), packed(rows(1, 3))
    bad = packed(rows(1, 3), names=[7, 99, 8])
    config = OptimizerConfig(lr=1e-2, clip=clip, warmup=0)
    loop = Loop(model, [[good], [bad], [good]], diverging, optimizer=config, seed=0)
    loop.advance()
    before = flat(model)
    state = tensors_hash(loop.state()[0])
    with pytest.raises(DivergedError, match=r"step 1: .*encoder\.layers\.1\.up_bias; examples 7, 99, 8\."):
        loop.advance()
    assert torch.equal(flat(model), before)
    assert tensors_hash(loop.state()[0]) == state
    assert loop.step == 1
    assert len(loop.trace.loss) == 1


def test_infinite_loss_stops_before_the_update() -> None:
    def infinite(model: Any, part: PackedBatch, seed: int) -> Tensor:
        return cross_entropy(model, part, seed) * float("inf")

    model = tagger()
    before = flat(model)
    with pytest.raises(DivergedError, match="step 0: loss inf"):
        train(model, [[packed(rows(1, 2))]], infinite, optimizer=PLAIN)
    assert torch.equal(flat(model), before)


@pytest.mark.fault(41)
def test_step_without_a_target_changes_nothing() -> None:
    model, nothing = tagger(), packed(rows(1, 3, ignored=1.1))
    before = flat(model)
    trace = train(model, [[nothing]], cross_entropy, optimizer=PLAIN)
    assert (trace.loss, trace.valid) == ([0.0], [0])
    assert torch.equal(flat(model), before)


@pytest.mark.parametrize("stop", [1, 4, 6])
def test_restored_loop_goes_on_in_the_same_bits(stop: int) -> None:
    """With dropout, clipping, decay and micro-batches; the state goes through no file here."""
    steps = [[packed(rows(10 * s + i, 2)) for i in range(2)] for s in range(6)]
    config = OptimizerConfig(lr=1e-2, head_lr=2e-2, warmup=0.3)

    def fresh() -> Loop:
        model = tagger(dropout=0.1)
        model.encoder.freeze(True, 1)
        return Loop(model, steps, cross_entropy, optimizer=config, seed=5)

    whole, first, second = fresh(), fresh(), fresh()
    whole.run()
    for _ in range(stop):
        first.advance()
    restore(second, first)
    second.run()
    assert outcome(second) == outcome(whole)


def test_dropout_depends_on_seed_and_step_alone() -> None:
    same = [packed(rows(1, 3))]
    config = OptimizerConfig(lr=1e-30, warmup=0, weight_decay=0)

    def losses(seed: int) -> list[float]:
        torch.manual_seed(seed * 7 + int(torch.randint(1000, ())))
        return train(tagger(dropout=0.3), [same, same, same], cross_entropy, optimizer=config, seed=seed).loss

    assert losses(1) == losses(1)
    assert len(set(losses(1))) == 3
    assert losses(1) != losses(2)


def test_training_learns() -> None:
    steps = [[packed(rows(1, 6))]] * 60
    trace = train(tagger(), steps, cross_entropy, optimizer=OptimizerConfig(lr=1e-2))
    assert trace.loss[-1] < 0.3 * trace.loss[0]
    assert len(trace.loss) == len(trace.lr) == len(trace.grad_norm) == len(trace.tokens) == len(trace.valid) == 60
