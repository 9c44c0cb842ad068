"""How the time of a stage is counted, over all starts of a run."""

import json
import shutil
from collections.abc import Callable
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from xlt_engine import Interrupted
from xlt_engine.engine.stages import train_stage

from ..conftest import Watch


def clocks(monkeypatch: pytest.MonkeyPatch, wall: Callable[[], float], cpu: Callable[[], float]) -> None:
    monkeypatch.setattr(train_stage, "time", SimpleNamespace(monotonic=wall, process_time=cpu))


def test_seconds_add_up_over_starts(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both clocks stand still in the second start, which therefore ends with what the checkpoint has."""
    recipe, watch = tiny("ner"), Watch()
    clocks(monkeypatch, count(1000.0, 1.0).__next__, count(50.0, 0.25).__next__)
    with pytest.raises(Interrupted):
        recipe.run(stage="pretrain", progress=watch, should_stop=lambda: 15 * (len(watch.steps) >= 4))
    (newest,) = sorted((recipe.folder / "run/seed-0/pretrain/checkpoint").glob("step-*"))[-1:]
    spent = json.loads((Path(newest) / "meta.json").read_bytes())["spent"]
    assert min(spent.values()) > 0
    assert spent["wall"] != spent["cpu"]
    clocks(monkeypatch, lambda: 7.0, lambda: 3.0)
    summary = recipe.run(stage="pretrain").summary
    record = recipe.stage("pretrain")
    assert (record["seconds"], record["cpu_seconds"]) == (round(spent["wall"], 3), round(spent["cpu"], 3))
    (line,) = summary["stages"]
    assert (line["seconds"], line["cpu_seconds"]) == (record["seconds"], record["cpu_seconds"])


def test_one_start_counts_from_its_begin(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock of the processor is read when training begins and when it ends, and nothing between counts twice."""
    seen: list[float] = []
    ticks = count(50.0, 0.25)

    def cpu() -> float:
        seen.append(next(ticks))
        return seen[-1]

    recipe = tiny("ner")
    clocks(monkeypatch, lambda: 7.0, cpu)
    recipe.run("checkpoint.seconds=60", stage="pretrain")
    assert len(seen) == 2  # nothing is saved on the way
    assert recipe.stage("pretrain")["cpu_seconds"] == seen[-1] - seen[0] == 0.25
    assert recipe.stage("pretrain")["seconds"] == 0


def test_a_curve_that_was_damaged_before_its_stage_goes_on_is_written_again(tiny: Any) -> None:
    """Where it was cut, emptied or lost."""
    world = tiny("ner")
    short = ("selftrain.rounds=1", "arms.baseline=false")
    world.run(*short, where="whole")
    watch = Watch()
    stop = {"progress": watch, "should_stop": lambda: 15 * (watch.steps.count("seed-0/de/hard1") == 1)}
    with pytest.raises(Interrupted):
        world.run(*short, where="cut", **stop)
    whole = (world.folder / "whole/seed-0/de/hard1/curve.csv").read_bytes()
    for number, left in enumerate((whole[:20], b"", None)):
        where = shutil.copytree(world.folder / "cut", world.folder / f"cut-{number}")
        curve = where / "seed-0/de/hard1/curve.csv"
        assert curve.read_bytes() == whole
        curve.unlink()
        if left is not None:
            curve.write_bytes(left)
        world.run(*short, where=where.name)
        assert curve.read_bytes() == whole
