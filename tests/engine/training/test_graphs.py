"""Graphed steps: which are captured, what they read, and that they equal steps launched one operation at a time.

On a CPU a "graph" is the step itself, called again on the buffers that it was captured with.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim import AdamW

from xlt_engine import DivergedError
from xlt_engine.data import Bucket, PackedBatch, pad_step
from xlt_engine.engine import Loop, OptimizerConfig, load_recipe
from xlt_engine.engine.storage.run_warning import RunWarning
from xlt_engine.engine.training.config import PerformanceConfig
from xlt_engine.engine.training.cuda_graphs import WARM_UP, GraphedSteps, Replay, why_no_graphs
from xlt_engine.engine.training.objectives import MicroBatches, cross_entropy
from xlt_engine.kernels import dispatch

from .models import KINDS, Words, outcome, restore, tagger

OPTIMIZER = OptimizerConfig(lr=5e-3, head_lr=1e-2, warmup=0.2)
PADDED = PerformanceConfig(graphs=False, buckets=3, feed=False)
gpu = pytest.mark.gpu
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
SHORT, MIDDLE, LONG = (2, 4), (6, 12), (12, 24)
FEW_LONG = (*[SHORT] * 5, LONG)


class Direct:
    """A runner without graphs; counts, and fails where it is told to."""

    def __init__(self, fails: Exception | None = None) -> None:
        self.fails, self.captured, self.replayed, self.inside, self.renewed = fails, 0, 0, 0, 0

    def lane(self) -> AbstractContextManager[object]:
        self.inside += 1
        return nullcontext()

    def capture(self, step: Replay) -> Replay:
        if self.fails is not None:
            raise self.fails
        self.captured += 1

        def replay() -> Tensor:
            self.replayed += 1
            return step()

        return replay

    def renew(self) -> None:
        self.renewed += 1


class Steps(Words):
    """Of three sizes in turn."""

    def __init__(self, count: int, parts: int = 1, kind: str = "hard", lengths: Any = (SHORT, MIDDLE, LONG)) -> None:
        super().__init__(count, parts, kind, lengths)


def loop(
    source: Any, kind: str = "hard", *, performance: PerformanceConfig = PADDED, objective: Any = None, **more: Any
) -> Loop:
    make, usual = KINDS[kind]
    model = make(0.1).to(more.pop("device", "cpu"))
    objective = objective or usual
    return Loop(model, source, objective, optimizer=OPTIMIZER, seed=1, performance=performance, **more)


def graphed(training: Loop, runner: Direct | None = None) -> tuple[Direct, list[RunWarning]]:
    """Makes a loop on a CPU run its steps as graphs."""
    runner, heard = runner or Direct(), []
    training.capture(runner, heard.append)
    return runner, heard


@pytest.mark.parametrize(
    ("kind", "parts", "precision"),
    [*((kind, 2, "fp32") for kind in KINDS), ("hard", 1, "fp32"), ("hard", 2, "bf16"), ("soft", 1, "fp16")],
)
def test_graphed_steps_equal_steps_as_they_are(kind: str, parts: int, precision: str) -> None:
    """To the bit on a CPU: losses, norms, rates, weights, moments and the loss scale."""
    plain = loop(Steps(18, parts, kind), kind, precision=precision)
    other = loop(Steps(18, parts, kind), kind, precision=precision)
    runner, heard = graphed(other)
    plain.run()
    other.run()
    assert outcome(other) == outcome(plain)
    shapes = len(plain.prefetcher.buckets)
    assert shapes == (3 if parts == 1 else 2)
    assert (runner.captured, runner.replayed) == (shapes, 18 - shapes * WARM_UP)
    assert other.graphs.replayed == runner.replayed
    assert runner.inside == 1
    assert heard == []
    assert all(p.grad is None for p in other.weights.trainable.values())


def toy(parts: MicroBatches, valid: int | Tensor) -> Tensor:
    """A step that shows all that it reads."""
    found = [torch.as_tensor(valid).double().reshape(1)]
    for seed, batch in parts:
        assert batch.labels is not None
        values = (batch.token_ids, batch.positions, batch.cu_seqlens, batch.item_index, batch.labels)
        found += [torch.as_tensor(seed).double().reshape(1), *(v.double() for v in values)]
    return torch.cat(found)


def test_a_replay_reads_the_buffers_and_nothing_of_the_step_that_was_captured() -> None:
    bucket = Bucket(256, 30, 256, 32)
    source = Steps(12, 2)
    runner = Direct()
    graphs = GraphedSteps(toy, [bucket], runner, clear=lambda: None)
    for step in range(12):
        parts = [(100 * step + i, batch) for i, batch in enumerate(pad_step(source[step], [bucket]))]
        numbers = graphs(parts, step + 1)
        assert graphs.replayed == max(0, step + 1 - WARM_UP)
        assert torch.equal(numbers, toy(parts, step + 1))
        for _, batch in parts:  # what a graph must not have kept
            batch.token_ids.fill_(-1)
            batch.cu_seqlens.fill_(-1)
    assert runner.captured == 1


def test_seeds_of_63_bits_arrive_whole() -> None:
    bucket = Bucket(256, 30, 256, 32)
    seen: list[int] = []

    def step(parts: MicroBatches, valid: int | Tensor) -> Tensor:
        seen.extend(int(seed) for seed, _ in parts)
        return torch.zeros(4)

    graphs = GraphedSteps(step, [bucket], Direct(), clear=lambda: None)
    batches = pad_step(Steps(1)[0], [bucket])
    for seed in (1, 2, 2**63 - 1, 2**62 + 12345):
        graphs([(seed, batches[0])], 1)
    assert seen == [1, 2, 2**63 - 1, 2**62 + 12345]


def test_what_is_not_of_one_bucket_is_run_as_it_is() -> None:
    small, large = Bucket(64, 16, 64, 32), Bucket(256, 30, 256, 32)
    runner = Direct()
    graphs = GraphedSteps(toy, [small, large], runner, clear=lambda: None)
    first, second = Steps(2, lengths=(SHORT, LONG))[0][0], Steps(2, lengths=(SHORT, LONG))[1][0]
    mixed = [(1, pad_step([first], [small])[0]), (2, pad_step([second], [large])[0])]
    unknown = [(1, first)]
    for parts in (mixed, unknown, []):
        for _ in range(WARM_UP + 2):
            assert torch.equal(graphs(parts, 1), toy(parts, 1))
    assert runner.captured == graphs.replayed == 0


def test_each_number_of_micro_batches_has_a_graph_of_its_own() -> None:
    bucket = Bucket(256, 30, 256, 32)
    runner = Direct()
    graphs = GraphedSteps(toy, [bucket], runner, clear=lambda: None)
    for count in (1, 2, 3, 2, 1, 3):
        parts = [(i, pad_step([batch], [bucket])[0]) for i, batch in enumerate(Steps(1, 4)[0][:count])]
        for _ in range(WARM_UP + 1):
            numbers = graphs(parts, 5)
        assert torch.equal(numbers, toy(parts, 5))
    assert runner.captured == 3


class Ragged(Steps):
    """Some micro-batches, and one whole step, have no target; one step is larger than all others."""

    def __getitem__(self, step: int) -> list[PackedBatch]:
        if step == 7:
            return Steps(1, self.parts, self.kind, ((14, 28),))[0]
        batches = super().__getitem__(step)
        for index, batch in enumerate(batches):
            if step == 5 or (step % 4 == 3 and index == 0):
                batch.labels.fill_(-100)
                object.__setattr__(batch, "num_targets", 0)
        return batches


def test_steps_without_targets_and_of_other_sizes_are_the_same_too() -> None:
    """A step without any target changes nothing, in the moments neither."""

    def run(graphs: bool) -> tuple[Loop, Direct | None]:
        training = loop(Ragged(20, 2))
        training.prefetcher.buckets = (Bucket(64, 16, 64, 20), Bucket(128, 16, 128, 26))
        runner = graphed(training)[0] if graphs else None
        training.run()
        return training, runner

    (plain, _), (other, runner) = run(False), run(True)
    assert outcome(other) == outcome(plain)
    assert plain.trace.valid[5] == 0
    assert runner.replayed > 5


def test_where_a_capture_fails_the_run_goes_on_and_says_so_once() -> None:
    """What the Python of the step has left in the weights is not added to the next step's gradients."""

    class Late(Direct):
        def capture(self, step: Replay) -> Replay:
            for parameter in other.model.parameters():
                parameter.grad = torch.full_like(parameter, 1e3)
            raise RuntimeError("CUDA error: operation not permitted\nmore")

    plain, other = loop(Steps(18)), loop(Steps(18))
    runner, heard = graphed(other, Late())
    plain.run()
    other.run()
    assert outcome(other) == outcome(plain)
    assert runner.replayed == 0
    assert [w.name for w in heard] == ["graphs-off"]
    assert "operation not permitted" in heard[0].message
    assert "more" not in heard[0].message
    assert "performance.graphs" in heard[0].message


def test_a_capture_begins_and_ends_without_gradients() -> None:
    """They must be made within the graph, and those that it made are its memory."""
    model = tagger(0.1)
    seen: list[bool] = []

    class Looking(Direct):
        def capture(self, step: Replay) -> Replay:
            seen.append(any(p.grad is not None for p in model.parameters()))
            step()
            return super().capture(lambda: torch.zeros(4))

    def step(parts: MicroBatches, valid: int | Tensor) -> Tensor:
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        return torch.zeros(4)

    bucket = Bucket(256, 30, 256, 32)
    graphs = GraphedSteps(step, [bucket], Looking(), clear=model.zero_grad)
    parts = [(1, pad_step(Steps(1)[0], [bucket])[0])]
    for _ in range(WARM_UP + 1):
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        graphs(parts, 1)
    assert seen == [False]
    assert all(p.grad is None for p in model.parameters())


def test_other_errors_of_a_capture_are_not_swallowed() -> None:
    training = loop(Steps(18))
    graphed(training, Direct(KeyError("a bug")))
    with pytest.raises(KeyError, match="a bug"):
        training.run()


def test_a_step_that_diverges_in_a_graph_is_named() -> None:
    class Spoiled(Steps):
        def __getitem__(self, step: int) -> list[PackedBatch]:
            batches = super().__getitem__(step)
            if step == 11:
                assert batches[0].soft_targets is not None
                batches[0].soft_targets.fill_(float("inf"))
            return batches

    training = loop(Spoiled(18, kind="soft"), "soft")
    runner, _ = graphed(training)
    with pytest.raises(DivergedError, match=r"step 11: loss inf.*examples 1100, 1101"):
        training.run()
    assert runner.replayed > 3
    assert training.step == 11


@pytest.mark.parametrize("stop", [4, 8, 13])
def test_a_resumed_run_ends_in_the_same_bits(stop: int) -> None:
    """It warms up anew, at other steps: those are the same in a graph and outside."""
    whole, first, second = (loop(Steps(18)) for _ in range(3))
    for training in (whole, first, second):
        graphed(training)
    whole.run()
    for _ in range(stop):
        first.advance()
    second.advance()
    restore(second, first)
    second.run()
    assert outcome(second) == outcome(whole)


def test_restoring_drops_graphs() -> None:
    """The optimiser's tensors are new ones after it."""
    training = loop(Steps(30, lengths=((4, 8),)))
    runner, _ = graphed(training)
    for _ in range(WARM_UP + 2):
        training.advance()
    restore(training, training)
    before = runner.captured
    training.advance()
    assert before > 0
    assert runner.captured > before
    assert runner.renewed == 1


def test_a_loop_whose_batches_are_cut_for_memory_captures_nothing() -> None:
    training = loop(Steps(18))
    runner, _ = graphed(training)
    training.memory.limit = 3
    training.run()
    assert runner.captured == runner.replayed == 0


def test_graphs_make_room_where_memory_does_not_suffice() -> None:
    """What a step needs must not be held by graphs of other shapes, which are of no use from then on."""
    calls = 0

    def hungry(model: Any, batch: PackedBatch, seed: Any) -> Tensor:
        nonlocal calls
        calls += 1
        if len(batch.example_ids) == 8 and batch.max_seqlen > 20 and calls > 8:
            raise torch.OutOfMemoryError("CUDA out of memory")
        loss: Tensor = cross_entropy(model, batch, seed)
        return loss

    source = Steps(40, lengths=FEW_LONG)
    training = Loop(tagger(0.1), source, hungry, optimizer=OPTIMIZER, seed=1, performance=PADDED, auto_micro_batch=True)
    runner, _ = graphed(training)
    training.run()
    assert training.memory.limit == 4
    assert runner.replayed > 5
    assert training.graphs._captured == {}
    assert len(training.trace.loss) == 40


def test_a_step_that_fits_without_graphs_is_not_cut() -> None:
    """Their memory is given up for good, and the same step is tried again as it is: the results stay the same."""
    training, plain = loop(Steps(40, lengths=FEW_LONG)), loop(Steps(40, lengths=FEW_LONG))
    plain.run()
    runner, heard = graphed(training)

    def hungry(model: Any, batch: PackedBatch, seed: Any) -> Tensor:
        if batch.max_seqlen > 20 and training.graphs._captured:
            raise torch.OutOfMemoryError("CUDA out of memory")
        loss: Tensor = cross_entropy(model, batch, seed)
        return loss

    training.objective = hungry
    training.run()
    assert outcome(training) == outcome(plain)
    assert runner.replayed > 0
    assert training.memory.halvings == []
    assert [w.name for w in heard] == ["graphs-off"]
    assert "the memory that graphs hold is needed" in heard[0].message


def test_graphs_where_there_can_be_none() -> None:
    """Asked for, a warning says why; with "auto" nothing is said."""
    heard: list[RunWarning] = []
    training = loop(Steps(3), performance=PerformanceConfig(graphs=True), warn=heard.append)
    assert training.graphs is None
    assert [w.name for w in heard] == ["graphs-off"]
    assert "no CUDA graphs on cpu" in heard[0].message
    loop(Steps(3), performance=PerformanceConfig(), warn=heard.append)
    assert len(heard) == 1
    assert "several processes" in str(why_no_graphs(torch.device("cuda"), processes=2))


RECIPE = 'task = "ner"\n[source]\ntrain = "a.conll"\n[[targets]]\nlanguage = "de"\nunlabelled = ["b.txt"]\n'


def test_the_recipe_takes_auto_or_a_choice(tmp_path: Any) -> None:
    path = tmp_path / "r.toml"
    path.write_text(RECIPE + '[model]\npath = "m"\n[performance]\ngraphs = false\nbuckets = 4\nfeed = "auto"\n')
    assert load_recipe(path).config.performance == PerformanceConfig(graphs=False, buckets=4)
    assert load_recipe(path, ["performance.buckets=auto"]).config.performance.buckets == "auto"
    again = tmp_path / "again.toml"
    again.write_text(load_recipe(path).dump())
    assert load_recipe(again).config.performance == PerformanceConfig(graphs=False, buckets=4)
    for wrong in ("graphs=maybe", "buckets=-1", "buckets=true", "feed=3"):
        with pytest.raises(Exception, match=f"performance.{wrong.split('=')[0]}"):
            load_recipe(path, [f"performance.{wrong}"])
    with pytest.raises(Exception, match="graphs = true needs static sizes"):
        load_recipe(path, ["performance.graphs=true", "performance.buckets=0"])


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("recompute", [False, True])
def test_a_step_on_the_kernel_path_reads_nothing_back(
    kind: str, precision: str, recompute: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On tensors without values, where every question about a value fails; the kernels are their declared shapes.

    Seeds and the number of targets are tensors, as in a capture, and the number of the step is not there to be read.
    """
    monkeypatch.setattr(dispatch, "_decide", lambda *key: True)
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device=None: False)
    # torch's own fused step, which does not run here, refuses this device.
    monkeypatch.setattr(torch.optim, "AdamW", lambda groups, fused, **rest: AdamW(groups, **rest))
    source = Steps(1, 2, kind)
    training = loop(source, kind, precision=precision, device="meta")
    training.model.encoder.recompute = recompute
    del training.step
    bucket = Bucket(256, 30, 256, 32)
    parts = [
        (torch.zeros((), dtype=torch.int64, device="meta"), batch.to("meta")) for batch in pad_step(source[0], [bucket])
    ]
    numbers = training.train_step(parts, torch.zeros((), device="meta"))
    assert numbers.shape == (4,)
    assert numbers.device.type == "meta"
    with pytest.raises(RuntimeError, match="meta"):
        numbers.tolist()


def _trained(performance: PerformanceConfig, kind: str, precision: str, steps: int = 30) -> Loop:
    source = Steps(steps, 2, kind)
    training = loop(source, kind, performance=performance, precision=precision, device="cuda")
    training.run()
    return training


@gpu
@needs_gpu
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_graphs_on_the_device_equal_steps_as_they_are(kind: str, precision: str) -> None:
    """The same kernels on the same shapes: the same bits."""
    plain = _trained(PerformanceConfig(graphs=False, buckets=3, feed=False), kind, precision)
    other = _trained(PerformanceConfig(graphs=True, buckets=3, feed=True), kind, precision)
    assert other.graphs.replayed == 30 - len(other.prefetcher.buckets) * WARM_UP
    assert outcome(other) == outcome(plain)


@gpu
@needs_gpu
def test_graphs_on_the_device_follow_unpadded_steps() -> None:
    plain = _trained(PerformanceConfig(graphs=False, buckets=0, feed=False), "hard", "fp32")
    other = _trained(PerformanceConfig(), "hard", "fp32")
    assert other.trace.loss == pytest.approx(plain.trace.loss, rel=1e-3)
    assert other.trace.tokens == plain.trace.tokens


@gpu
@needs_gpu
@pytest.mark.parametrize("graphs", [False, True])
def test_no_step_waits_for_the_device(graphs: bool) -> None:
    training = loop(Steps(40, 2), performance=PerformanceConfig(graphs=graphs, buckets=3, feed=True), device="cuda")
    with training.lane():
        for _ in range(3 * (WARM_UP + 1)):
            training.launch()
        training.finish()
        torch.cuda.set_sync_debug_mode("error")
        try:
            for _ in range(6):
                training.launch()
        finally:
            torch.cuda.set_sync_debug_mode("default")
        training.finish()
    training.close()


@gpu
@needs_gpu
def test_an_objective_that_reads_its_loss_is_not_captured_and_trains_all_the_same() -> None:
    def curious(model: Any, batch: PackedBatch, seed: Any) -> Tensor:
        loss: Tensor = cross_entropy(model, batch, seed)
        return loss if float(loss.detach()) > -1 else -loss

    def trained(performance: PerformanceConfig) -> tuple[Loop, list[RunWarning]]:
        heard: list[RunWarning] = []
        training = loop(Steps(20, 2), performance=performance, objective=curious, device="cuda", warn=heard.append)
        training.run()
        return training, heard

    plain, _ = trained(PerformanceConfig(graphs=False, buckets=3, feed=False))
    other, heard = trained(PerformanceConfig(graphs=True, buckets=3))
    assert [w.name for w in heard] == ["graphs-off"]
    assert outcome(other) == outcome(plain)


@gpu
@needs_gpu
def test_a_run_on_the_device_resumes_in_the_same_bits() -> None:
    whole = _trained(PerformanceConfig(), "hard", "bf16")
    first, second = (loop(Steps(30, 2), precision="bf16", performance=PerformanceConfig(), device="cuda") for _ in "ab")
    for _ in range(17):
        first.advance()
    restore(second, first)
    first.close()
    second.run()
    assert outcome(second) == outcome(whole)
