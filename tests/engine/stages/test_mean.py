"""The mean of weights: at five points of a stage's last half (`keep = "mean"`), of three seeds (`keep = "seeds"`)."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn

from xlt_engine import Interrupted
from xlt_engine.engine import Loop, OptimizerConfig, estimate
from xlt_engine.engine.stages.train_stage import Fit, MeanOfLast
from xlt_engine.engine.training.distributed import ProcessGroup
from xlt_engine.model import load_task_model

from .test_best import Steps, learn

SEEDS = ("selftrain.rounds=1", "arms.baseline=false", "training.keep=seeds")
FITTED = ("selftrain.on=false", "arms.baseline=false", "checkpoint.seconds=0")
SHORT = (*FITTED, "finetune.epochs=4", "training.keep=mean")


@pytest.mark.parametrize(
    ("total", "points"), [(20, [12, 14, 16, 18, 20]), (12, [8, 9, 10, 11, 12]), (3, [2, 3]), (1, [1])]
)
def test_the_mean_of_what_the_steps_left(tmp_path: Path, total: int, points: list[int]) -> None:
    weight, alone = nn.Linear(2, 1), nn.Linear(2, 1)
    alone.load_state_dict(weight.state_dict())
    kept = MeanOfLast(tmp_path, fingerprint={}, total=total, processes=ProcessGroup())
    loop = Loop(weight, Steps(total), learn, optimizer=OptimizerConfig(lr=0.1), seed=1)
    loop.ahead, loop.settle = 1, kept.due
    loop.run(lambda loop, result: kept.look(loop))
    assert kept.restore(loop) == {"kept_steps": points}
    waiting = Loop(alone, Steps(total), learn, optimizer=OptimizerConfig(lr=0.1), seed=1)
    seen = [alone.weight.detach().numpy().copy() for _ in range(total) if waiting.advance()]
    expected = np.mean([seen[step - 1] for step in points], axis=0)
    np.testing.assert_allclose(weight.weight.detach().numpy(), expected, rtol=1e-6, atol=0)


class _Killed(Exception):
    """In place of a kill."""


def test_a_stage_that_was_cut_off_leaves_the_same(tiny: Any) -> None:
    """Killed between keeping the weights of a point and the checkpoint of its step, and then stopped at another."""
    world = tiny("ner")
    world.run(*SHORT, where="whole")
    whole, kept = world.stage("de/finetune", "whole"), world.folder / "parts/seed-0/de/finetune/checkpoint/mean"
    assert whole["kept_steps"] == [8, 9, 10, 11, 12]

    def kill() -> int:
        if (kept / "9").exists():
            raise _Killed
        return 0

    with pytest.raises(_Killed):
        world.run(*SHORT, where="parts", should_stop=kill)
    with pytest.raises(Interrupted):
        world.run(*SHORT, where="parts", should_stop=lambda: 15 * (kept / "11").exists())
    assert sorted(path.name for path in kept.iterdir()) == ["10", "11", "8", "9"]
    world.run(*SHORT, where="parts")
    assert world.stage("de/finetune", "parts")["hashes"] == whole["hashes"]
    assert not list((world.folder / "parts").rglob("checkpoint"))


def test_the_mean_of_three_seeds_from_one_start(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """All begin alike and differ, the first is a run without it, the stage is their mean; then stopped and killed."""
    begun, ended = dict[str, list[Any]](), dict[str, list[Any]]()
    build, finish = Fit.__init__, Fit.finish

    def at_start(fit: Any, run: Any, training: Any, *rest: Any) -> None:
        weights = {n: p.detach().numpy().copy() for n, p in training.model.named_parameters()}
        begun.setdefault(run.stage.id, []).append(weights)
        build(fit, run, training, *rest)

    def at_end(fit: Any) -> Any:
        result = finish(fit)
        weights = {n: p.detach().numpy().copy() for n, p in fit.model.named_parameters()}
        ended.setdefault(fit.stage.id, []).append(weights)
        return result

    monkeypatch.setattr(Fit, "__init__", at_start)
    monkeypatch.setattr(Fit, "finish", at_end)
    world = tiny("ner")
    world.run(*SEEDS, where="seeds")
    seeds, ended = ended, {}
    world.run(*FITTED, where="alone")
    assert [len(seeds.pop(f"seed-0/{masked}")) for masked in ("pretrain", "de/btf")] == [1, 1]
    for stage, parts in seeds.items():
        assert len(parts) == 3, stage
        for name in parts[0]:
            assert all((start[name] == begun[stage][0][name]).all() for start in begun[stage][:3]), name
        moved = [name for name in parts[0] if not (parts[0][name] == begun[stage][0][name]).all()]
        head = next(name for name in moved if name.startswith("head"))
        assert len({part[head].tobytes() for part in parts}) == 3
        saved = load_task_model(world.folder / "seeds" / stage)
        for name, weight in saved.named_parameters():
            expected = np.mean([part[name].astype(np.float64) for part in parts], axis=0)
            np.testing.assert_array_equal(weight.detach().numpy(), expected.astype(np.float32), err_msg=name)
    (alone,) = ended["seed-0/de/finetune"]
    assert all((alone[name] == weight).all() for name, weight in seeds["seed-0/de/finetune"][0].items())
    place = world.folder / "parts/seed-0/de/finetune/checkpoint"

    def kill() -> int:
        if (place / "pass-1").exists():
            raise _Killed
        return 0

    again = {"where": "parts", "reuse": [world.folder / "alone"]}
    with pytest.raises(Interrupted):
        world.run(*FITTED, "training.keep=seeds", **again, should_stop=lambda: 15 * place.parent.exists())
    with pytest.raises(_Killed):
        world.run(*FITTED, "training.keep=seeds", **again, should_stop=kill)
    world.run(*FITTED, "training.keep=seeds", **again)
    whole = world.stage("de/finetune", "seeds")
    assert world.stage("de/finetune", "parts")["hashes"] == whole["hashes"]
    plan = {stage.id: stage for stage in estimate(world.recipe, overrides=[*SEEDS], rate=1e10).stages}
    assert plan["seed-0/de/finetune"].steps == whole["kept_passes"] * whole["steps"]
