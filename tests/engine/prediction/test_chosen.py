"""The model of a run for a language, from what the stages say of themselves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from xlt_engine import ConfigError
from xlt_engine.engine import Predictor, chosen_model


def stage(run: Path, folder: str, kind: str, order: int, arm: str | None = "selftrain", **more: Any) -> Path:
    path = run / folder
    path.mkdir(parents=True)
    pair = more.get("pair")
    record = {"kind": kind, "stage": path.name, "order": order, "arm": arm, "seed": int(folder[5]), "pair": pair}
    (path / "stage.json").write_text(json.dumps(record))
    return path


def test_the_last_self_trained_stage_of_the_lowest_seed(tmp_path: Path) -> None:
    stage(tmp_path, "seed-0/pretrain", "pretrain", 0, None)
    stage(tmp_path, "seed-0/zero", "finetune", 10, "baseline")
    for seed in (1, 0):
        stage(tmp_path, f"seed-{seed}/de/btf", "btf", 30, None, pair="de")
        stage(tmp_path, f"seed-{seed}/de/finetune", "finetune", 31, "btf", pair="de")
        stage(tmp_path, f"seed-{seed}/de/soft1", "soft", 100, pair="de")
        stage(tmp_path, f"seed-{seed}/de/hard1", "hard", 150, pair="de")
    fine = stage(tmp_path, "seed-0/es/finetune", "finetune", 31, "btf", pair="es")
    (tmp_path / "seed-0" / "es" / "soft1").mkdir()  # unfinished
    (tmp_path / "run.json").write_text('{"targets": ["de", "es", "fr"]}')
    assert (chosen_model(tmp_path, "de"), chosen_model(tmp_path, "es")) == (tmp_path / "seed-0/de/hard1", fine)
    assert chosen_model(tmp_path, "fr") == tmp_path / "seed-0/zero"
    listed = r"de \(seed-0/de/hard1\), es \(seed-0/es/finetune\), fr \(seed-0/zero\)"
    pytest.raises(ConfigError, chosen_model, tmp_path, "it").match(f"no finished model for 'it'; there are {listed}")
    pytest.raises(ConfigError, Predictor, tmp_path).match(f"is a run with models for {listed}; give one of them")


def test_what_is_no_run(tmp_path: Path) -> None:
    pytest.raises(ConfigError, chosen_model, tmp_path, "de").match("is not the folder of a run")
