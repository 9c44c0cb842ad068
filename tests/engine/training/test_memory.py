"""Steps that do not fit into memory, smaller micro-batches, recomputed activations, damaged soft labels."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from xlt_engine import Interrupted, OutOfMemoryError
from xlt_engine.data import Bucket, PackedBatch, pad_to_bucket
from xlt_engine.data.batches.batch import cut
from xlt_engine.engine.storage import faults
from xlt_engine.engine.storage.files import sha256_file
from xlt_engine.engine.training.config import OptimizerConfig
from xlt_engine.engine.training.loop import Loop
from xlt_engine.engine.training.objectives import cross_entropy
from xlt_engine.engine.training.out_of_memory import StepSize, is_out_of_memory
from xlt_engine.engine.training.precision import DTYPES
from xlt_engine.model.weights import tensors_hash

from . import models
from .models import HIDDEN, KINDS, packed, tagger

NO_MEMORY = "DefaultCPUAllocator: can't allocate memory: you tried to allocate 12 bytes"
OPTIMIZER = OptimizerConfig(lr=2e-3)


def rows(seed: int, count: int = 8) -> list[dict[str, Any]]:
    """Sequences of different lengths; one has no item, one no target."""
    found = models.rows(seed, count, ignored=0.3)
    for column in ("items", "labels", "soft", "weights"):
        found[2][column] = found[2][column][:0]
    found[4]["labels"][:] = -100
    return found


def assert_same(one: PackedBatch, other: PackedBatch) -> None:
    for name in PackedBatch.__dataclass_fields__:
        a, b = getattr(one, name), getattr(other, name)
        if isinstance(a, Tensor):
            assert a.dtype == b.dtype, name
            assert torch.equal(a, b), name
        else:
            assert a == b, name


@pytest.mark.parametrize("kind", ["mlm", "hard", "soft"])
@pytest.mark.parametrize("size", [1, 3, 4, 7])
@pytest.mark.parametrize("padded", [False, True])
def test_parts_are_what_packing_them_alone_gives(kind: str, size: int, padded: bool) -> None:
    every = rows(1)
    whole = packed(every, kind, bare=False)
    expected = [
        replace(
            packed(every[a : a + size], kind, names=range(a, min(a + size, 8)), bare=False),
            first_token=sum(len(r["ids"]) for r in every[:a]),
            first_item=sum(len(r["items"]) for r in every[:a]),
        )
        for a in range(0, 8, size)
    ]
    given = pad_to_bucket(whole, Bucket(192, 40, 160, 20)) if padded else whole
    parts = cut(given, size)
    assert len(parts) == len(expected)
    for part, other in zip(parts, expected, strict=True):
        assert_same(part, other)
    assert sum(part.num_targets for part in parts) == whole.num_targets


def test_a_batch_that_is_small_enough_is_not_cut() -> None:
    whole = packed(rows(1), "hard")
    for size in (0, 8, 9):
        assert cut(whole, size) == [whole]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (RuntimeError(NO_MEMORY), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("shape mismatch"), False),
        (OSError("can't allocate memory"), False),
    ],
)
def test_what_counts_as_out_of_memory(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) == expected


def test_torch_still_says_it_in_these_words() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 55)
    assert is_out_of_memory(caught.value)


class Steps:
    """Six steps, each of one batch of eight sequences with names."""

    def __len__(self) -> int:
        return 6

    def __getitem__(self, step: int) -> list[PackedBatch]:
        return [packed(rows(step), "hard")]

    def names(self, step: int) -> list[str]:
        return [f"en:{step}{number}" for number in range(8)]


def failing_from(step: int, most: int, where: str) -> Any:
    """An objective with memory for `most` sequences from a step on; fails in the forward or in the backward pass."""

    class Fails(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Tensor:
            raise RuntimeError(NO_MEMORY)

    def objective(model: Any, batch: PackedBatch, seed: int) -> Tensor:
        full = len(batch.example_ids) > most and objective.loop.step >= step  # type: ignore[attr-defined]
        if full and where == "forward":
            raise torch.OutOfMemoryError("CUDA out of memory")
        loss: Tensor = cross_entropy(model, batch, seed)
        if full and where == "last part":
            # The gradients of this very batch are complete when memory runs out.
            loss.backward()
            raise MemoryError
        return Fails.apply(loss) if full else loss  # type: ignore[no-any-return]

    return objective


def trained(objective: Any, auto: bool, precision: str = "fp32", limits: Any = None) -> Loop:
    loop = Loop(
        tagger(0.1, fresh=True),
        Steps(),
        objective,
        optimizer=OPTIMIZER,
        seed=5,
        precision=precision,
        auto_micro_batch=auto,
    )
    objective.loop = loop
    while loop.step < loop.total:
        if limits is not None:
            loop.memory.limit = limits.get(loop.step, loop.memory.limit)
        loop.advance()
    return loop


@pytest.mark.parametrize(
    ("where", "precision"), [*(("forward", name) for name in DTYPES), ("backward", "fp32"), ("last part", "fp16")]
)
def test_a_repeated_step_ends_as_if_its_micro_batch_had_been_smaller(where: str, precision: str) -> None:
    """To the bit, with dropout and all that the optimiser remembers; but for rounding that of whole batches."""
    loop = trained(failing_from(3, 2, where), True, precision)
    expected = trained(failing_from(9, 2, where), False, precision, limits={3: 2})
    whole = trained(failing_from(9, 2, where), False, precision)
    assert tensors_hash(loop.state()[0]) == tensors_hash(expected.state()[0])
    assert (loop.trace.loss, loop.trace.valid, loop.trace.tokens) == (
        expected.trace.loss,
        expected.trace.valid,
        expected.trace.tokens,
    )
    assert loop.trace.loss[:3] == whole.trace.loss[:3]
    assert loop.trace.loss[3:] == pytest.approx(whole.trace.loss[3:], rel=1e-5 if precision == "fp32" else 1e-2)
    assert [tuple(h.values[name] for name in ("step", "before", "after")) for h in loop.memory.halvings] == [
        (3, 8, 4),
        (3, 4, 2),
    ]
    size = StepSize.of(Steps()[3])
    assert loop.memory.halvings[0].values.items() >= {("tokens", size.tokens), ("longest", size.longest)}
    assert loop.trace.valid == whole.trace.valid


@pytest.mark.parametrize("where", ["forward", "backward", "last part"])
def test_without_leave_the_step_is_named_and_nothing_is_applied(where: str) -> None:
    loop = Loop(tagger(0.1, fresh=True), Steps(), failing_from(3, 2, where), optimizer=OPTIMIZER, seed=5)
    loop.objective.loop = loop  # type: ignore[attr-defined]
    for _ in range(3):
        loop.advance()
    before = tensors_hash(loop.state()[0])
    lengths = [len(row["ids"]) for row in rows(3)]
    with pytest.raises(OutOfMemoryError) as caught:
        loop.advance()
    message = str(caught.value)
    size = f"8 sequences, {sum(lengths)} tokens, the longest has {max(lengths)}"
    assert f"step 3 does not fit into memory: {size}" in message
    assert f"(en:3{int(np.argmax(lengths))}), 8 sequences at a time; set training.micro_batch = 4" in message
    assert tensors_hash(loop.state()[0]) == before
    assert all(p.grad is None for p in loop.model.parameters())
    assert loop.step == 3


def test_a_single_sequence_cannot_be_halved() -> None:
    loop = Loop(
        tagger(0.1, fresh=True),
        Steps(),
        failing_from(0, 0, "forward"),
        optimizer=OPTIMIZER,
        seed=5,
        auto_micro_batch=True,
    )
    loop.objective.loop = loop  # type: ignore[attr-defined]
    with pytest.raises(
        OutOfMemoryError, match=r"1 sequences at a time; set training.recompute = true, or lower max_length"
    ):
        loop.advance()
    assert [h.values["after"] for h in loop.memory.halvings] == [4, 2, 1]


def test_other_errors_pass() -> None:
    def objective(model: Any, batch: PackedBatch, seed: int) -> Tensor:
        raise RuntimeError("shape mismatch")

    with pytest.raises(RuntimeError, match="shape mismatch"):
        Loop(tagger(0.1, fresh=True), Steps(), objective, optimizer=OPTIMIZER, seed=5, auto_micro_batch=True).advance()


def test_the_limit_is_part_of_a_checkpoint() -> None:
    whole = trained(failing_from(1, 3, "forward"), True)
    loop = Loop(
        tagger(0.1, fresh=True),
        Steps(),
        failing_from(1, 3, "forward"),
        optimizer=OPTIMIZER,
        seed=5,
        auto_micro_batch=True,
    )
    loop.objective.loop = loop  # type: ignore[attr-defined]
    for _ in range(4):
        loop.advance()
    tensors, meta = loop.state()
    # Memory is there again: what was halved stays so.
    again = Loop(tagger(0.1, fresh=True), Steps(), cross_entropy, optimizer=OPTIMIZER, seed=5, auto_micro_batch=True)
    again.restore(4, {n: t.clone() for n, t in tensors.items()}, json.loads(json.dumps(meta)))
    again.run()
    assert tensors_hash(again.state()[0]) == tensors_hash(whole.state()[0])
    assert again.memory.halvings == whole.memory.halvings


@pytest.fixture
def strike(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Plants a fault, or with "" none, and forgets earlier passages."""

    def plant(plan: str) -> None:
        faults._passages.clear()
        monkeypatch.setenv(faults.VARIABLE, plan)

    return plant


def weights(run: Any, where: str) -> dict[str, str]:
    folder = run.folder / where
    return {str(p.relative_to(folder)): sha256_file(p) for p in sorted(folder.glob("seed-*/**/*.safetensors"))}


@pytest.mark.fault(50)
def test_run_ends_with_8_and_goes_on(tiny: Any, strike: Callable[[str], None]) -> None:
    """The message names the stage and the step; the status has the code; the same command goes on to the same bits."""
    run = tiny("ner")
    run.run(stage="pretrain", where="alone")
    strike("loop.loss:3:oom")
    with pytest.raises(OutOfMemoryError, match=r"^seed-0/pretrain: step 2 does not fit into memory: 8 sequences"):
        run.run(stage="pretrain")
    status = json.loads((run.folder / "run" / "status.json").read_bytes())
    assert (status["state"], status["exit_code"], status["stage"]) == ("failed", 8, "seed-0/pretrain")
    assert "set training.micro_batch = 4" in status["reason"]
    strike("")
    run.run('training.micro_batch="auto"', stage="pretrain")
    assert weights(run, "run") == weights(run, "alone")


def test_memory_that_ends_outside_of_a_step(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise MemoryError

    run = tiny("ner")
    monkeypatch.setattr("xlt_engine.engine.training.optimizer.OptimizerStep.apply", full)
    with pytest.raises(OutOfMemoryError, match=r"^seed-0/pretrain: out of memory outside of a forward"):
        run.run(stage="pretrain")
    assert json.loads((run.folder / "run" / "status.json").read_bytes())["exit_code"] == 8


def test_halving_is_reported_and_survives_a_stop(tiny: Any, strike: Callable[[str], None]) -> None:
    """Weights and `stage.json` of a run that was stopped after the halving are those of one that was not."""
    from xlt_engine.engine import Progress

    class Watch(Progress):
        steps = 0

        def step(self, done: int, total: int, loss: float, tokens: int, lr: float) -> None:
            self.steps += 1

    run, watch = tiny("ner"), Watch()
    strike("loop.loss:3:oom")
    run.run('training.micro_batch="auto"', stage="pretrain", where="alone")
    warnings = run.stage("pretrain", "alone")["warnings"]
    # So small an encoder learns nothing else.
    assert [w["name"] for w in warnings] == ["micro-batch-halved", "only-frequencies"]
    warning = warnings[0]
    assert {k: warning["values"][k] for k in ("step", "before", "after")} == {"step": 2, "before": 8, "after": 4}
    strike("loop.loss:3:oom")
    stop = {"should_stop": lambda: 15 * (watch.steps >= 4), "progress": watch}
    with pytest.raises(Interrupted):
        run.run('training.micro_batch="auto"', stage="pretrain", **stop)
    strike("")
    run.run('training.micro_batch="auto"', stage="pretrain")
    assert weights(run, "run") == weights(run, "alone")
    assert run.stage("pretrain")["warnings"] == warnings
    run.run(stage="pretrain", where="whole")
    assert weights(run, "whole") != weights(run, "alone")


def kept(model: Any, batch: PackedBatch, forward: Callable[[], Any]) -> tuple[list[int], Any]:
    """The bytes of what a forward pass keeps for the backward one, weights and the batch aside, and its result."""
    given = [*model.parameters(), *(getattr(batch, name) for name in PackedBatch.__dataclass_fields__)]
    own = {t.untyped_storage().data_ptr() for t in given if isinstance(t, Tensor)}
    found: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own and tensor.numel():
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = forward()
    return [*found.values()], result


@pytest.mark.parametrize("kind", ["mlm", "hard"])
@pytest.mark.parametrize("frozen", [0, 1, 2])
def test_recomputed_layers_keep_their_inputs_alone_and_give_the_same_gradients(kind: str, frozen: int) -> None:
    """To the bit, with dropout."""
    model, batch = KINDS[kind][0](0.1, layers=3), packed(rows(3, 40))
    model.encoder.freeze(frozen > 0, frozen)
    kept_by_encoder, gradients = [], []
    for recompute in (False, True):
        model.encoder.recompute = recompute
        sizes, states = kept(model, batch, lambda: model.encoder(batch, seed=7))
        kept_by_encoder.append(sum(sizes))
        del states
        KINDS[kind][1](model, batch, 7).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
        model.zero_grad()
    assert torch.equal(*gradients)
    inputs = 4 * batch.num_tokens * HIDDEN
    if frozen:
        assert sizes == [inputs] * (3 - frozen)
    # By hand: a layer keeps at least 10 of what its input takes (3 for the projections, the inner width twice over,
    # and what is between).
    assert kept_by_encoder[0] - kept_by_encoder[1] >= (3 - frozen) * 9 * inputs


def test_recomputing_costs_one_more_forward_pass_and_none_without_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch, calls = tagger(0.1, fresh=True), packed(rows(3)), []
    layer = type(model.encoder.layers[0])
    forward = layer.forward
    monkeypatch.setattr(layer, "forward", lambda self, *inputs: calls.append(0) or forward(self, *inputs))
    model.encoder.recompute = True
    cross_entropy(model, batch, 7).backward()
    assert len(calls) == 4
    with torch.inference_mode():
        model(batch)
    assert len(calls) == 6


def test_recomputing_changes_no_result_and_no_fingerprint(tiny: Any) -> None:
    run = tiny("ner")
    less = ("selftrain.rounds=1", "arms.baseline=false")
    run.run(*less, where="kept")
    run.run(*less, "training.recompute=true", where="recomputed")
    assert weights(run, "kept") == weights(run, "recomputed")
    both = ("training.recompute=true", "training.micro_batch=auto")
    assert run.run(*less, *both, where="kept").done == ()


def test_damaged_soft_labels_are_made_anew(tiny: Any) -> None:
    """Damaged while the stage is stopped; the run goes on to the result of an undamaged one, and says so."""
    from xlt_engine.engine import Progress

    class Watch(Progress):
        stop = False

        def step(self, done: int, total: int, loss: float, tokens: int, lr: float) -> None:
            self.stop = self.stop or (self.stage == "seed-0/de/soft1" and done == 2)

        def begin(self, stage: str, total: int, done: int) -> None:
            self.stage = stage

    run, watch = tiny("ner"), Watch()
    less = ("selftrain.rounds=0.5", "arms.baseline=false")
    with pytest.raises(Interrupted):
        run.run(*less, where="alone", progress=watch, should_stop=lambda: 15 * watch.stop)
    for damage in ("truncated", "changed"):
        shutil.copytree(run.folder / "alone", run.folder / damage)
    run.run(*less, where="alone")
    for damage in ("truncated", "changed"):
        path = run.folder / damage / "seed-0" / "de" / "soft1" / "soft_labels.safetensors"
        data = path.read_bytes()
        path.write_bytes(data[:-8] if damage == "truncated" else data[:-8] + bytes(8))
        run.run(*less, where=damage)
        assert path.read_bytes() == data
        assert weights(run, damage) == weights(run, "alone")
    names = {where: [w["name"] for w in run.stage("de/soft1", where)["warnings"]] for where in ("alone", damage)}
    assert "damaged" in names[damage]
    assert "damaged" not in names["alone"]
