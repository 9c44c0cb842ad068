"""Prefetching: the same batches in the same order, errors at their step, and no thread that outlives its use."""

import gc
import json
import threading
import time
from typing import Any

import pytest
import torch

from xlt_engine import DataError, DivergedError, Interrupted
from xlt_engine.data import BatchSize, Bucket, PackedBatch, derive_seed
from xlt_engine.engine import Loop, OptimizerConfig
from xlt_engine.engine.training.config import PerformanceConfig
from xlt_engine.engine.training.objectives import cross_entropy
from xlt_engine.engine.training.prefetch import DEPTH, SAMPLED, Prefetcher, make_prefetcher, survey
from xlt_engine.model import TaskModel

from .models import Words, outcome, restore, tagger

CPU = torch.device("cpu")
OPTIMIZER = OptimizerConfig(lr=1e-2)
AHEAD = PerformanceConfig(graphs=False, buckets=0, feed=True)
gpu = pytest.mark.gpu
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


class Steps(Words):
    """A batch source that remembers who asked for what."""

    def __init__(self, count: int, parts: int = 1, broken: int | None = None, seconds: float = 0.0) -> None:
        super().__init__(count, parts)
        self.broken, self.seconds = broken, seconds
        self.asked: list[int] = []
        self.threads: set[str] = set()
        self.inside = 0

    def __getitem__(self, step: int) -> list[PackedBatch]:
        self.inside += 1
        assert self.inside == 1, "two threads in the source"
        self.asked.append(step)
        self.threads.add(threading.current_thread().name)
        time.sleep(self.seconds)
        self.inside -= 1
        if step == self.broken:
            raise DataError(f"de.txt:{step}: broken")
        return super().__getitem__(step)

    def names(self, step: int) -> list[str]:
        self.inside += 1
        assert self.inside == 1, "two threads in the source"
        time.sleep(self.seconds)
        self.inside -= 1
        return [f"s{step}"]


def loop(source: Any, performance: PerformanceConfig, objective: Any = cross_entropy) -> Loop:
    return Loop(
        tagger(0.1, voters=False, fresh=True), source, objective, optimizer=OPTIMIZER, seed=1, performance=performance
    )


def prefetch_threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("xlt-prefetch")]


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Any:
    assert prefetch_threads() == []
    yield
    if prefetch_threads():
        gc.collect()
    deadline = time.monotonic() + 300
    while prefetch_threads() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert prefetch_threads() == []


@pytest.mark.parametrize(("precision", "few"), [("fp32", False), ("bf16", True)])
def test_16_bits_on_a_cpu_keep_to_few_sizes(precision: str, few: bool) -> None:
    """The computed batches are padded, what counts stays, and losses are those of batches as they come, rounded."""
    made, losses = [], []

    def objective(model: TaskModel, batch: PackedBatch, seed: int | torch.Tensor) -> torch.Tensor:
        made.append((batch.token_ids.shape[0], batch.num_targets))
        return cross_entropy(model, batch, seed)

    for padded in (True, False):
        loop = Loop(tagger(0.1), Steps(20), objective, optimizer=OPTIMIZER, seed=0, precision=precision)
        if not padded:
            loop.prefetcher._few_sizes = False
        losses.append(loop.run().loss)
        loop.close()
    tokens = [sum(len(batch.token_ids) for batch in Steps(20)[step]) for step in range(20)]
    assert [size for size, _ in made[20:]] == tokens
    assert [count for _, count in made[:20]] == [count for _, count in made[20:]]
    assert ([size for size, _ in made[:20]] != tokens) == few
    assert losses[0] == (pytest.approx(losses[1], rel=0.05) if few else losses[1])


@pytest.mark.parametrize("parts", [1, 2])
def test_results_are_the_same_bits_with_and_without_the_thread(parts: int) -> None:
    plain, ahead = loop(Steps(9, parts), PerformanceConfig(feed=False)), loop(Steps(9, parts), AHEAD)
    plain.run()
    ahead.run()
    assert outcome(ahead) == outcome(plain)
    assert prefetch_threads() == []


def test_each_step_is_made_once_in_order_by_the_thread() -> None:
    source = Steps(9)
    loop(source, AHEAD).run()
    assert source.asked == list(range(9))
    assert source.threads == {"xlt-prefetch_0"}


def test_without_a_thread_steps_are_made_where_they_are_asked_for() -> None:
    source = Steps(3)
    prefetcher = Prefetcher(source, CPU)
    for step in range(3):
        assert len(prefetcher[step].micro_batches) == 1
        assert source.asked == list(range(step + 1))
    assert source.threads == {threading.current_thread().name}


def test_it_runs_no_further_ahead_than_its_depth() -> None:
    source = Steps(20)
    prefetcher = Prefetcher(source, CPU, depth=3)
    prefetcher[0]
    while len(source.asked) < 4:
        time.sleep(0.01)
    time.sleep(0.2)
    assert source.asked == [0, 1, 2, 3]
    prefetcher.close()


@pytest.mark.parametrize("depth", [0, 1, DEPTH, 7])
def test_an_error_of_the_source_comes_at_its_step(depth: int) -> None:
    prefetcher = Prefetcher(Steps(9, broken=4), CPU, depth=depth)
    for step in range(4):
        prefetcher[step]
    for _ in range(2):  # asking again meets it again
        with pytest.raises(DataError, match="de.txt:4: broken"):
            prefetcher[4]
    assert len(prefetcher[5].batches) == 1
    prefetcher.close()


def test_an_error_ends_a_run_after_the_steps_before_it() -> None:
    steps: list[int] = []
    training = loop(Steps(9, broken=4), AHEAD)
    with pytest.raises(DataError, match="de.txt:4"):
        training.run(lambda _, result: steps.append(result.step))
    assert steps == [0, 1, 2, 3]
    assert prefetch_threads() == []


def test_an_interrupt_leaves_no_thread_and_the_run_goes_on() -> None:
    def stop(training: Loop, result: Any) -> None:
        if result.step == 3:
            raise Interrupted(15)

    whole, cut = loop(Steps(9), AHEAD), loop(Steps(9), AHEAD)
    whole.run()
    with pytest.raises(Interrupted):
        cut.run(stop)
    assert prefetch_threads() == []
    cut.run()
    assert outcome(cut) == outcome(whole)


def test_a_jump_drops_what_was_made_ahead() -> None:
    source = Steps(30)
    prefetcher = Prefetcher(source, CPU, depth=2)
    prefetcher[0]
    assert prefetcher[10].batches[0].example_ids[0] == 1000
    assert prefetcher[11].batches[0].example_ids[0] == 1100
    assert prefetcher[3].batches[0].example_ids[0] == 300
    prefetcher.close()
    assert prefetcher[4].batches[0].example_ids[0] == 400
    prefetcher.close()
    prefetcher.close()


def test_resuming_asks_for_the_step_to_come() -> None:
    whole, first = loop(Steps(8), AHEAD), loop(Steps(8), AHEAD)
    whole.run()
    for _ in range(5):
        first.advance()
    first.close()
    source = Steps(8)
    second = loop(source, AHEAD)
    restore(second, first)
    second.run()
    assert source.asked == [5, 6, 7]
    assert outcome(second) == outcome(whole)


def test_names_are_those_of_the_step_while_the_thread_works() -> None:
    """The source is asked by one thread at a time; the step that diverges is named, not the last one made."""

    def spoiled(model: Any, batch: PackedBatch, seed: Any) -> torch.Tensor:
        loss: torch.Tensor = cross_entropy(model, batch, seed)
        return loss * float("inf") if int(batch.example_ids[0]) == 300 else loss

    with pytest.raises(DivergedError, match="step 3: .*examples s3"):
        loop(Steps(40, seconds=0.02), AHEAD, spoiled).run()
    prefetcher = Prefetcher(Steps(40, seconds=0.002), CPU, depth=5)
    for step in range(20):
        assert prefetcher[step].batches[0].example_ids[0] == 100 * step
        assert prefetcher.names(step) == [f"s{step}"]
    prefetcher.close()


def test_names_without_a_source_that_knows_them() -> None:
    class Nameless(list[Any]):
        pass

    prefetcher = Prefetcher(Nameless([Steps(3)[2]]), CPU)
    assert prefetcher.names(0) == [str(200 + i) for i in range(8)]


@pytest.mark.parametrize("depth", [0, 2])
def test_waiting_is_measured(depth: int) -> None:
    """A slow source makes every step wait, the first one with a thread, too; what the caller does is no waiting."""
    prefetcher, asking = Prefetcher(Steps(6, seconds=0.05), CPU, depth=depth), 0.0
    for step in range(6):
        began = time.perf_counter()
        prefetcher[step]
        asking += time.perf_counter() - began
        time.sleep(0.04)
    prefetcher.close()
    assert (0.3 if depth == 0 else 0.05) <= prefetcher.waited <= asking


def test_a_caller_that_is_slower_than_the_source_does_not_wait() -> None:
    prefetcher = Prefetcher(Steps(6, seconds=0.2), CPU, depth=2)
    prefetcher[0]
    first = prefetcher.waited
    for step in range(1, 6):
        while not prefetcher._ahead[0][1].done():
            time.sleep(0.01)
        prefetcher[step]
    prefetcher.close()
    assert prefetcher.waited - first < 1  # 1 or more where nothing is made ahead


def test_a_prefetcher_that_is_dropped_takes_its_thread_with_it() -> None:
    prefetcher = Prefetcher(Steps(9), CPU, depth=2)
    prefetcher[0]
    assert prefetch_threads() != []
    del prefetcher


def test_quiet_holds_the_thread() -> None:
    source = Steps(9)
    prefetcher = Prefetcher(source, CPU, depth=2)
    prefetcher[0]
    with prefetcher.quiet():
        time.sleep(0.05)
        before = list(source.asked)
        prefetcher._next(1)  # asks for step 3 without waiting
        time.sleep(0.1)
        assert source.asked == before
    assert prefetcher[4].batches[0].example_ids[0] == 400
    prefetcher.close()


def test_only_the_share_of_this_process_is_moved_and_padded() -> None:
    prefetcher = Prefetcher(Steps(3, 4), CPU, buckets=[Bucket(128, 40, 64, 16)], share=lambda count: range(1, count, 2))
    batches = prefetcher[1]
    assert [seed for seed, _ in batches.micro_batches] == [derive_seed(0, "dropout", 1, number) for number in (1, 3)]
    assert len(batches.batches) == 4
    for number, (_, part) in zip((1, 3), batches.micro_batches, strict=True):
        assert BatchSize.of(part) == (128, 40, 64, 16)
        size = BatchSize.of(batches.batches[number])
        assert size.tokens < 128
        assert torch.equal(part.token_ids[: size.tokens], batches.batches[number].token_ids)


def test_padded_training_is_that_of_the_batches_as_they_come() -> None:
    """Losses and weights to rounding; the trace counts tokens of text."""
    plain, padded = loop(Steps(12, 2), AHEAD), loop(Steps(12, 2), PerformanceConfig(buckets=3, feed=True))
    assert len(padded.prefetcher.buckets) <= 3
    plain.run()
    padded.run()
    assert padded.prefetcher.padding > 0
    assert padded.trace.tokens == plain.trace.tokens
    assert padded.trace.valid == plain.trace.valid
    assert padded.trace.loss == pytest.approx(plain.trace.loss, rel=1e-5)
    assert padded.trace.loss != plain.trace.loss
    one, other = (torch.cat([p.detach().flatten() for p in x.model.parameters()]) for x in (plain, padded))
    assert float((one - other).norm() / one.norm()) < 1e-5


def test_auto_changes_nothing_on_a_cpu() -> None:
    prefetcher = make_prefetcher(Steps(3), CPU, PerformanceConfig(), graphs=False)
    assert prefetcher.buckets == ()
    batches = prefetcher[0]
    assert batches.micro_batches[0][1] is batches.batches[0]
    assert prefetch_threads() == []
    assert make_prefetcher(Steps(3), CPU, PerformanceConfig(), graphs=True).buckets != ()
    assert make_prefetcher(Steps(3), CPU, PerformanceConfig(buckets=0), graphs=True).buckets == ()


def test_a_source_that_knows_its_sizes_makes_no_batch_to_be_surveyed() -> None:
    class Sized(Steps):
        def sizes(self, step: int) -> list[BatchSize]:
            return [BatchSize(step + 1, 1, 1, 1)]

    sized, unsized = Sized(200), Steps(200, 2)
    assert survey(sized) == [BatchSize(step + 1, 1, 1, 1) for step in range(200)]
    assert sized.asked == []
    assert len(survey(unsized)) == 2 * SAMPLED
    assert len(set(unsized.asked)) == SAMPLED
    assert max(unsized.asked) > 190
    assert len(survey(Steps(5))) == 5
    assert survey(Steps(0)) == []


def test_a_run_with_the_thread_and_padding_is_that_without(tiny: Any) -> None:
    """Every kind of stage: the same bits with the thread; to rounding with static shapes, whose use is on record."""
    made = tiny("ner")
    made.run("checkpoint.seconds=60", where="plain")
    made.run("checkpoint.seconds=60", "performance.feed=true", where="ahead")
    made.run("checkpoint.seconds=60", "performance.feed=true", "performance.buckets=4", where="padded")
    for stage in ("pretrain", "baseline", "de/btf", "de/finetune", "de/soft1", "de/hard1"):
        plain, ahead, padded = (made.json(f"{stage}/trace.json", where) for where in ("plain", "ahead", "padded"))
        assert ahead == plain, stage
        assert (
            made.stage(stage, "ahead")["hashes"]["model.safetensors"]
            == (made.stage(stage, "plain")["hashes"]["model.safetensors"])
        )
        assert padded["tokens"] == plain["tokens"], stage
        assert padded["loss"][0] == pytest.approx(plain["loss"][0], rel=1e-4), stage
    records = [json.loads(line) for line in (made.folder / "padded" / "events.jsonl").read_text().splitlines()]
    supply = {r["stage"]: r for r in records if r["kind"] == "supply"}
    assert "seed-0/de/soft2" in supply
    assert all(0 < r["padding"] < 1 and r["waited"] > 0 and r["graphs"] == 0 for r in supply.values())


@gpu
@needs_gpu
@pytest.mark.parametrize("depth", [0, DEPTH])
def test_batches_arrive_on_the_device(depth: int) -> None:
    """The copy is made on another stream while this one computes, and its memory is not used again too early."""
    device = torch.device("cuda", torch.cuda.current_device())
    source, prefetcher = Steps(60, 2), Prefetcher(Steps(60, 2), device, depth=depth)
    sums: list[tuple[torch.Tensor, int]] = []
    busy = torch.randn(2048, 2048, device=device)
    for step in range(60):
        batches = prefetcher[step]
        for number, (_, part) in enumerate(batches.micro_batches):
            assert part.token_ids.device == device
            busy = (busy @ busy).tanh()
            sums.append((part.token_ids.sum(), int(source[step][number].token_ids.sum())))
        del batches
    prefetcher.close()
    assert [int(found) for found, _ in sums] == [expected for _, expected in sums]


@gpu
@needs_gpu
def test_the_thread_changes_no_bit_on_the_device() -> None:
    def trained(performance: PerformanceConfig) -> tuple[str, dict[str, Any]]:
        model = tagger(0.1, voters=False).to("cuda")
        training = Loop(model, Steps(20, 2), cross_entropy, optimizer=OPTIMIZER, seed=1, performance=performance)
        training.run()
        return outcome(training)

    assert trained(AHEAD) == trained(PerformanceConfig(graphs=False, buckets=0, feed=False))
