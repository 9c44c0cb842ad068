"""`keep = "mean"`: the mean of the weights at five points of a stage's last half."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor, nn

from xlt_engine import Interrupted
from xlt_engine.data import PackedBatch, pack
from xlt_engine.engine import Loop, OptimizerConfig
from xlt_engine.engine.stages.train_stage import MeanOfLast
from xlt_engine.engine.training.distributed import ProcessGroup

SHORT = ("selftrain.on=false", "arms.baseline=false", "finetune.epochs=4", "training.keep=mean")


class _Steps:
    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, step: int) -> list[PackedBatch]:
        return [pack([[step + 2, 3]], items=[[0]], labels=[[1]])]


def _learn(model: Any, batch: PackedBatch, seed: Any) -> Tensor:
    loss: Tensor = model(batch.token_ids.float()).square().sum()
    return loss


@pytest.mark.parametrize(
    ("total", "points"), [(20, [12, 14, 16, 18, 20]), (12, [8, 9, 10, 11, 12]), (3, [2, 3]), (1, [1])]
)
def test_the_mean_of_what_the_steps_left(tmp_path: Path, total: int, points: list[int]) -> None:
    weight, alone = nn.Linear(2, 1), nn.Linear(2, 1)
    alone.load_state_dict(weight.state_dict())
    kept = MeanOfLast(tmp_path, fingerprint={}, total=total, processes=ProcessGroup())
    loop = Loop(weight, _Steps(total), _learn, optimizer=OptimizerConfig(lr=0.1), seed=1)
    loop.ahead, loop.settle = 1, kept.due
    loop.run(lambda loop, result: kept.look(loop))
    assert kept.restore(loop) == {"kept_steps": points}
    waiting = Loop(alone, _Steps(total), _learn, optimizer=OptimizerConfig(lr=0.1), seed=1)
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
