"""The loop: its schedule, its sums over micro-batches, what it freezes, and what it does with a NaN."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from xlt_engine import DivergedError
from xlt_engine.data import PackedBatch, pack
from xlt_engine.engine import Loop, OptimizerConfig, StepResult, train
from xlt_engine.engine.training.objectives import SoftLabels, cross_entropy, masked_lm
from xlt_engine.engine.training.optimizer import lr_factor, make_optimizer
from xlt_engine.model import Encoder, EncoderConfig, LinearHead, MaskedLM, TaskModel, VoterHeads
from xlt_engine.model.weights import frozen_hash, tensors_hash

VOCABULARY, HIDDEN, LABELS = 40, 16, ("O", "B-X", "I-X")


def encoder(layers: int = 2, dropout: float = 0.0, seed: int = 1) -> Encoder:
    config = EncoderConfig(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        num_layers=layers,
        num_heads=2,
        intermediate_size=32,
        max_positions=20,
        dropout=dropout,
        attention_dropout=dropout,
        initializer_range=0.1,
        pad_token_id=0,
    )
    return Encoder(config, seed=seed)


def tagger(dropout: float = 0.0, voters: bool = True, layers: int = 2) -> TaskModel:
    heads: dict[bool, Any] = {
        True: lambda: VoterHeads(HIDDEN, 3, (12, 13, 14), dropout, seed=2, initializer_range=0.5),
        False: lambda: LinearHead(HIDDEN, 3, dropout, seed=2, initializer_range=0.5),
    }
    return TaskModel(encoder(layers, dropout), heads[voters](), "ner", LABELS)


def batch(seed: int, count: int, *, kind: str = "hard", ignored: float = 0.0) -> list[dict[str, Any]]:
    """`count` sequences with items and targets, to be packed in one or in several batches."""
    rng, rows = np.random.default_rng(seed), []
    for _ in range(count):
        length = int(rng.integers(3, 12))
        items = np.arange(1, length - 1)
        labels = rng.integers(VOCABULARY if kind == "mlm" else 3, size=len(items))
        labels[rng.random(len(items)) < ignored] = -100
        soft = rng.dirichlet(np.ones(3), size=len(items)).astype(np.float32)
        ids = [2, *rng.integers(5, VOCABULARY, size=length - 2).tolist(), 3]
        rows.append({"ids": ids, "items": items, "labels": labels, "soft": soft})
    return rows


def packed(rows: Sequence[dict[str, Any]], kind: str = "hard") -> PackedBatch:
    targets = {
        "soft_targets" if kind == "soft" else "labels": [r["soft" if kind == "soft" else "labels"] for r in rows]
    }
    return pack([r["ids"] for r in rows], items=[r["items"] for r in rows], **targets)


class Steps(list[list[PackedBatch]]):
    """A batch source: a list of steps."""


def flat(model: torch.nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


KINDS: dict[str, tuple[Callable[[], Any], Any]] = {
    "mlm": (lambda: MaskedLM(encoder(), seed=3), masked_lm),
    "hard": (tagger, cross_entropy),
    "soft": (tagger, SoftLabels()),
}
PLAIN = OptimizerConfig(lr=1e-2, clip=0, weight_decay=0, warmup=0)


def gradient(kind: str, batches: list[PackedBatch]) -> tuple[Tensor, StepResult]:
    """The gradient of one step, which a learning rate that does not move leaves in the first moment."""
    make, objective = KINDS[kind]
    model = make()
    loop = Loop(model, Steps([batches]), objective, optimizer=PLAIN, seed=0)
    result = loop.advance()
    moments = loop.state()[0]
    names = [n for n in moments if n.endswith("exp_avg")]
    return torch.cat([moments[n].flatten() / (1 - PLAIN.beta1) for n in sorted(names)]), result


@pytest.mark.parametrize("kind", ["mlm", "hard", "soft"])
@pytest.mark.parametrize("cut", [1, 2, 5])
def test_micro_batches_equal_the_whole_batch(kind: str, cut: int) -> None:
    """With dropout off, also where micro-batches have very different numbers of targets, and some have none."""
    rows = batch(1, 6, kind=kind, ignored=0.4)
    for row in rows[:2]:
        row["labels"][:] = -100
    whole, one = gradient(kind, [packed(rows, kind)])
    parts, several = gradient(kind, [packed(rows[i : i + cut], kind) for i in range(0, 6, cut)])
    assert relative(parts, whole) < 1e-5
    assert several.loss == pytest.approx(one.loss, rel=1e-5)
    assert several.valid == one.valid
    assert several.tokens == one.tokens


@pytest.mark.parametrize("kind", ["mlm", "hard"])
def test_loss_is_the_mean_over_the_valid_targets_of_the_step(kind: str) -> None:
    """Against cross entropy of torch over all labelled items; a mean of the micro-batches' means would differ."""
    few, many = batch(2, 1, kind=kind, ignored=0.0), batch(3, 7, kind=kind, ignored=0.3)
    batches = [packed(few, kind), packed(many, kind)]
    _, result = gradient(kind, batches)
    model, losses, means = KINDS[kind][0](), [], []
    with torch.no_grad():
        for part in batches:
            logits = model.logits(part, part.item_index)[None] if kind == "mlm" else model(part)
            rows = [torch.nn.functional.cross_entropy(v, part.labels, reduction="none") for v in logits.double()]
            valid = torch.stack(rows).mean(0)[part.labels != -100]
            losses.append(valid)
            means.append(float(valid.mean()))
    expected = float(torch.cat(losses).mean())
    assert result.loss == pytest.approx(expected, rel=1e-5)
    assert result.valid == sum(len(x) for x in losses)
    assert abs(np.mean(means) - expected) > 1e-3


def soft_reference(logits: Tensor, teacher: Tensor, kind: str, temperature: float, combine: str) -> float:
    student, teacher = logits.double(), teacher.double()
    if kind == "logits":
        student = student.mean(0, keepdim=True) if combine == "mean" else student
        return float((student - teacher).square().mean())
    if kind == "mse":
        temperature = 1.0
    p = (student / temperature).softmax(-1)
    p = p.mean(0, keepdim=True) if combine == "mean" else p
    t = teacher ** (1 / temperature)
    t = t / t.sum(-1, keepdim=True)
    if kind == "mse":
        return float((p - t).square().mean())
    cross = -(t * p.log()).sum(-1)
    entropy = -(t * t.log()).sum(-1)
    return float((cross - (entropy if kind == "kl" else 0)).mean() * temperature**2)


@pytest.mark.parametrize("combine", ["per-voter", "mean"])
@pytest.mark.parametrize(
    ("kind", "temperature"), [("mse", 1.0), ("logits", 1.0), ("kl", 1.0), ("kl", 2.0), ("ce", 3.0)]
)
def test_soft_objectives(kind: str, temperature: float, combine: str) -> None:
    part = packed(batch(4, 5), "soft")
    model = tagger()
    assert part.soft_targets is not None
    with torch.no_grad():
        loss = SoftLabels(kind, temperature, combine)(model, part, 0)
        expected = soft_reference(model(part), part.soft_targets, kind, temperature, combine)
    assert float(loss) / part.num_targets == pytest.approx(expected, rel=1e-5)


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
    steps = Steps([[packed(batch(s, 2))] for s in range(10)])
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
    loop = Loop(model, Steps([[packed(batch(s, 3))] for s in range(5)]), cross_entropy, optimizer=PLAIN, seed=0)
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
    train(model, Steps([[packed(batch(1, 4, kind="mlm"))]]), masked_lm, optimizer=PLAIN)
    assert torch.equal(model.decoder_weight, before)
    assert not torch.equal(model.decoder_bias, bias)


def test_clipping() -> None:
    """The recorded norm is that before clipping; the step uses gradients of the given norm."""
    steps = Steps([[packed(batch(1, 4))]])

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
    model, rows = tagger(), batch(1, 3)
    bad = packed(rows)
    bad = pack(
        [r["ids"] for r in rows],
        items=[r["items"] for r in rows],
        labels=[r["labels"] for r in rows],
        example_ids=[7, 99, 8],
    )
    config = OptimizerConfig(lr=1e-2, clip=clip, warmup=0)
    loop = Loop(model, Steps([[packed(rows)], [bad], [packed(rows)]]), diverging, optimizer=config, seed=0)
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
        train(model, Steps([[packed(batch(1, 2))]]), infinite, optimizer=PLAIN)
    assert torch.equal(flat(model), before)


@pytest.mark.fault(41)
def test_step_without_a_target_changes_nothing() -> None:
    rows = batch(1, 3)
    for row in rows:
        row["labels"][:] = -100
    model = tagger()
    before = flat(model)
    trace = train(model, Steps([[packed(rows)]]), cross_entropy, optimizer=PLAIN)
    assert (trace.loss, trace.valid) == ([0.0], [0])
    assert torch.equal(flat(model), before)


@pytest.mark.parametrize("stop", [1, 4, 6])
def test_restored_loop_goes_on_in_the_same_bits(stop: int) -> None:
    """With dropout, clipping, decay and micro-batches; the state goes through no file here."""
    steps = Steps([[packed(batch(10 * s + i, 2)) for i in range(2)] for s in range(6)])
    config = OptimizerConfig(lr=1e-2, head_lr=2e-2, warmup=0.3)

    def fresh() -> Loop:
        model = tagger(dropout=0.1)
        model.encoder.freeze(True, 1)
        return Loop(model, steps, cross_entropy, optimizer=config, seed=5)

    whole, first, second = fresh(), fresh(), fresh()
    whole.run()
    for _ in range(stop):
        first.advance()
    tensors, meta = first.state()
    second.restore(
        stop, {n: t.clone() for n, t in tensors.items()}, {"trace": {k: list(v) for k, v in meta["trace"].items()}}
    )
    second.run()
    assert tensors_hash(second.state()[0]) == tensors_hash(whole.state()[0])
    assert second.trace == whole.trace


def test_dropout_depends_on_seed_and_step_alone() -> None:
    same = [packed(batch(1, 3))]
    config = OptimizerConfig(lr=1e-30, warmup=0, weight_decay=0)

    def losses(seed: int) -> list[float]:
        torch.manual_seed(seed * 7 + int(torch.randint(1000, ())))
        return train(tagger(dropout=0.3), Steps([same, same, same]), cross_entropy, optimizer=config, seed=seed).loss

    assert losses(1) == losses(1)
    assert len(set(losses(1))) == 3
    assert losses(1) != losses(2)


def test_bf16_keeps_fp32_weights_and_follows_fp32() -> None:
    steps = Steps([[packed(batch(s, 6))] for s in range(8)])
    config = OptimizerConfig(lr=3e-3, warmup=0)
    full, half = tagger(), tagger()
    a = train(full, steps, cross_entropy, optimizer=config)
    b = train(half, steps, cross_entropy, optimizer=config, precision="bf16")
    assert {p.dtype for p in half.parameters()} == {torch.float32}
    assert a.loss != b.loss
    assert b.loss == pytest.approx(a.loss, rel=0.05)
    assert all(math.isfinite(x) for x in b.grad_norm)


def test_training_learns() -> None:
    steps = Steps([[packed(batch(1, 6))]] * 60)
    trace = train(tagger(), steps, cross_entropy, optimizer=OptimizerConfig(lr=1e-2))
    assert trace.loss[-1] < 0.3 * trace.loss[0]
    assert len(trace.loss) == len(trace.lr) == len(trace.grad_norm) == len(trace.tokens) == len(trace.valid) == 60
