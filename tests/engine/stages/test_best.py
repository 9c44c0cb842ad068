"""`keep = "best"`: the weights of the epoch that scores best on labelled source text."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor, nn

from xlt_engine import Interrupted
from xlt_engine.data import PackedBatch, pack
from xlt_engine.engine import Loop, OptimizerConfig, StepResult
from xlt_engine.engine.stages.context import Context
from xlt_engine.engine.stages.train_stage import BestEpoch
from xlt_engine.engine.training.distributed import ProcessGroup

BEST = ("training.keep=best", "selftrain.soft.epochs=3", "selftrain.rounds=1")
SHORT = ("selftrain.on=false", "arms.baseline=false", "finetune.epochs=4", "training.keep=best")
STEPS = 3  # in an epoch: 24 sentences in batches of 8


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Dev scores, and the scores of the test files after them, as they are listed."""

    def script(*values: float) -> None:
        rest: Iterator[float] = iter([*values, *[0.0] * 10])
        true = Context.score
        monkeypatch.setattr(
            Context, "score", lambda *a: replace(true(*a), points={"entity_f1": next(rest), "precision": 0.0})
        )

    return script


@pytest.mark.parametrize(("scores", "epoch"), [((40, 30, 20, 25), 1), ((10, 20, 30, 40), 4), ((5, 30, 30, 30), 2)])
def test_the_best_epoch_is_kept_and_the_first_of_equals(tiny: Any, scripted: Any, scores: Any, epoch: int) -> None:
    world = tiny("ner")
    scripted(*scores)
    world.run(*SHORT)
    record = world.stage("de/finetune")
    assert (record["kept_step"], record["dev_score"]) == (STEPS * epoch, max(scores))
    assert record["steps"] == 4 * STEPS
    assert not list((world.folder / "run").rglob("checkpoint"))


def test_the_weights_are_those_of_a_stage_that_ended_there(tiny: Any, scripted: Any, monkeypatch: Any) -> None:
    """With a constant rate, one epoch of four has the weights of a stage of one epoch."""
    monkeypatch.setattr("xlt_engine.engine.training.optimizer.lr_factor", lambda *_: 0.5)
    world = tiny("ner")
    scripted(30, 20, 10, 10)
    world.run(*SHORT, where="best")
    monkeypatch.undo()
    monkeypatch.setattr("xlt_engine.engine.training.optimizer.lr_factor", lambda *_: 0.5)
    world.run(*SHORT[:2], "finetune.epochs=1", where="short")
    world.run(*SHORT[:2], "finetune.epochs=4", where="long")
    assert world.weights("de/finetune", "best") == world.weights("de/finetune", "short")
    assert world.weights("de/finetune", "best") != world.weights("de/finetune", "long")


def test_an_interrupted_run_keeps_the_same(tiny: Any) -> None:
    world, polls = tiny("ner"), count()
    world.run(*BEST, where="whole", should_stop=lambda: 0 * next(polls))
    left = next(polls)
    for share in (0.4, 0.6, 0.8):
        stop, polls = int(left * share), count()
        with pytest.raises(Interrupted):
            world.run(*BEST, where="parts", should_stop=lambda n=stop, p=polls: 15 * (next(p) == n))
        left -= stop
    world.run(*BEST, where="parts")
    for stage in ("de/finetune", "de/soft1", "de/hard1"):
        whole, parts = (world.stage(stage, where) for where in ("whole", "parts"))
        assert whole["hashes"] == parts["hashes"], stage
        assert whole["kept_step"] == parts["kept_step"]


def test_it_belongs_to_the_fingerprint_with_the_dev_file(tiny: Any) -> None:
    world = tiny("ner")
    world.run("selftrain.on=false", where="run")
    before = world.stage("de/finetune")
    world.run("selftrain.on=false", "training.keep=best", where="run")
    after = world.stage("de/finetune")
    assert before["fingerprint"] != after["fingerprint"]
    (world.folder / "dev.conll").write_text("Anna\tB-PER\nlives\tO\n\n", encoding="utf-8")
    world.run("selftrain.on=false", "training.keep=best", where="run")
    assert world.stage("de/finetune")["fingerprint"] != after["fingerprint"]


class Steps:
    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, step: int) -> list[PackedBatch]:
        return [pack([[step + 2, 3]], items=[[0]], labels=[[1]])]


def learn(model: Any, batch: PackedBatch, seed: Any) -> Tensor:
    return model(batch.token_ids.float()).square().sum()


@pytest.mark.parametrize("saves", [(), (3,), (7,), (4,), (3, 5, 9)])
@pytest.mark.parametrize("every", [1, 4])
def test_every_epoch_is_scored_with_steps_launched_ahead(tmp_path: Path, every: int, saves: tuple[int, ...]) -> None:
    """As on a GPU: whether a checkpoint was saved just before must not decide which epochs are looked at."""
    scored: list[tuple[int, float]] = []
    weight = nn.Linear(2, 1)

    def score() -> float:
        scored.append((training.step, float(weight.weight.detach().sum())))
        return 0.0

    best = BestEpoch(tmp_path / "best", fingerprint={}, every=every, score=score, processes=ProcessGroup())
    training = Loop(weight, Steps(12), learn, optimizer=OptimizerConfig(lr=0.1), seed=1)
    alone = nn.Linear(2, 1)
    alone.load_state_dict(weight.state_dict())
    training.ahead, training.settle = 1, best.due

    def after(loop: Loop, result: StepResult) -> None:
        best.look(loop)
        if result.step + 1 in saves:
            loop.state()

    training.run(after)
    steps = list(range(every, 13, every))
    assert [step for step, _ in scored] == steps
    waiting = Loop(alone, Steps(12), learn, optimizer=OptimizerConfig(lr=0.1), seed=1)
    sums = [float(alone.weight.detach().sum()) for _ in range(12) if waiting.advance()]
    assert [value for _, value in scored] == [sums[step - 1] for step in steps]
