"""A stage gets the tables and keys of the recipe that its kind declares: what it reads is what identifies it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from xlt_engine import ConfigError
from xlt_engine.data import ItemView, Part, TokenStore
from xlt_engine.engine.plan import Stage, fingerprint
from xlt_engine.engine.plan.stage import given
from xlt_engine.engine.runs.graph import make_plan
from xlt_engine.engine.stages import kind as kinds
from xlt_engine.engine.stages.kind import StageKind, StageRun, Training, register_kind, register_planner


class Planted(StageKind):
    """Reads alpha's rule."""

    name = "planted"

    def inputs(self, context: Any, stage: Stage) -> dict[str, TokenStore]:
        assert context.config.selftrain.alpha.rule == "slope"
        return {"source": context.data.source_train}

    def build(self, run: StageRun) -> Training:
        raise NotImplementedError

    def batches(self, run: StageRun) -> Any:
        return run.task_batches([Part(ItemView(run.context.data.source_train), [0])])


@pytest.fixture
def planted(tiny: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch) -> Any:
    """A recipe with a stage of that kind for each seed."""
    monkeypatch.setattr(kinds, "_KINDS", dict(kinds._KINDS))
    monkeypatch.setattr(kinds, "_PLANNERS", list(kinds._PLANNERS))
    register_kind(Planted())
    register_planner(
        lambda config, seed, core: [
            Stage(f"seed-{seed}/planted", "planted", "planted", None, seed, core[0].training, order=9000)
        ]
    )
    return tiny("ner")


def test_a_stage_that_reads_an_undeclared_table_fails_before_anything_is_trained(planted: Any) -> None:
    message = r"a stage of the kind 'planted' reads selftrain\.alpha\.rule .* does not declare; name it"
    with pytest.raises(ConfigError, match=message):
        planted.run("selftrain.alpha.rule=slope")
    assert not (planted.folder / "run" / "seed-0").exists()


@pytest.mark.parametrize("tables", [("selftrain.alpha",), ("selftrain.alpha.rule",)])
def test_what_it_declares_it_gets_and_is_identified_by(
    planted: Any, monkeypatch: pytest.MonkeyPatch, tables: tuple[str, ...]
) -> None:
    monkeypatch.setattr(Planted, "tables", tables)
    config = planted.resolved("selftrain.alpha.rule=slope").config
    stage = make_plan(config)[-1]
    assert given(config, stage).selftrain.alpha.rule == fingerprint(stage, {}, {})["selftrain.alpha.rule"] == "slope"
    assert "planted" in planted.remade("selftrain.alpha.rule=kappa")
    assert ("planted" in planted.remade("selftrain.alpha.step=0.02")) == (tables == ("selftrain.alpha",))
    assert "planted" not in planted.remade("selftrain.hard.lr=0.5", "selftrain.cap=7")


def test_what_a_stage_may_read(tiny: Callable[[str], Any]) -> None:
    config = tiny("classification").resolved("training.freeze_layers=0", "btf.freeze_layers=1").config
    stages = {stage.name: stage for stage in make_plan(config)}
    soft, btf = given(config, stages["soft1"]), given(config, stages["btf-mlm"])
    assert (soft.selftrain.soft.positions, soft.source.language) == ("first", "en")
    assert given(soft, stages["hard1"]).selftrain.alpha.rule == config.selftrain.alpha.rule
    # How a stage trains it has resolved: by its own table, else by [training].
    assert stages["btf-mlm"].training.freeze_layers == stages["btf-mlm"].settings["training.freeze_layers"] == 1
    with pytest.raises(ConfigError, match=r"reads training\.freeze_layers .*read it of `stage\.training`"):
        _ = btf.training.freeze_layers
    with pytest.raises(ConfigError, match=r"reads selftrain\.soft\.lr .*read it of `stage\.training`"):
        _ = soft.selftrain.soft.lr
    for key in ("pooling", "task"):
        with pytest.raises(ConfigError, match="does not declare"):
            getattr(btf, key)
