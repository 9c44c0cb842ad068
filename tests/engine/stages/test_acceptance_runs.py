"""Balanced acceptance in tiny runs: fingerprints, decision records, warnings, and what the hard stage trains on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from xlt_engine import ConfigError
from xlt_engine.engine import load_recipe
from xlt_engine.engine.plan import fingerprint
from xlt_engine.engine.runs.graph import make_plan

TRAINED = ("finetune.epochs=12", "selftrain.soft.epochs=25", "selftrain.soft.lr=0.01")
ONE = ("selftrain.rounds=1", "checkpoint.seconds=60", "selftrain.alpha.min_kept=2", *TRAINED)


class Runs:
    def __init__(self, run: Any) -> None:
        self.run, self.count = run, 0
        run.run(*ONE, where="base")

    def again(self, *overrides: str) -> tuple[Path, dict[str, Any], list[str]]:
        """The hard stage's folder and decision, and the stages that were made anew."""
        self.count += 1
        where = f"again-{self.count}"
        shutil.copytree(self.run.folder / "base", self.run.folder / where)
        done = self.run.run(*ONE, *overrides, where=where).done
        folder = self.run.folder / where / "seed-0/de/hard1"
        return folder, json.loads((folder / "decision.json").read_bytes()), [d.split("/")[-1] for d in done]


@pytest.fixture(scope="module")
def made() -> dict[str, Runs]:
    return {}


@pytest.fixture
def runs(
    tiny: Callable[[str], Any], made: dict[str, Runs], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Runs]:
    def of(task: str) -> Runs:
        if task not in made:
            run, folder = tiny(task), tmp_path_factory.mktemp("acceptance") / task
            shutil.copytree(run.folder, folder)
            made[task] = Runs(type(run)(folder, task))
        return made[task]

    return of


def prints(run: Any, *overrides: str) -> dict[str, str]:
    return {
        s.id: json.dumps(fingerprint(s, s.inputs, {}), sort_keys=True)
        for s in make_plan(run.resolved(*overrides).config)
    }


def test_fingerprints(tiny: Callable[[str], Any]) -> None:
    """`accept` decides the hard stage and no other."""
    run = tiny("ner")
    plain, changed = (
        prints(run, "selftrain.rounds=1", f"selftrain.accept={rule}") for rule in ("threshold", "class-balanced")
    )
    assert [i.rpartition("/")[2] for i in plain if plain[i] != changed[i]] == ["hard1"]


def test_the_default_does_nothing(runs: Callable[[str], Runs]) -> None:
    _, record, done = runs("ner").again()
    assert done == []
    assert "options" not in record


@pytest.mark.parametrize("task", ["ner", "classification"])
def test_balanced_acceptance(runs: Callable[[str], Runs], task: str) -> None:
    own = runs(task)
    _, before, _ = own.again()
    for rule in ("class-balanced", "source-distribution"):
        folder, record, done = own.again(f"selftrain.accept={rule}")
        assert done == ["hard1"]
        found = record["options"]["accept"]
        assert found["rule"] == rule
        assert record["accepted"] == before["accepted"] - found["dropped"]
        assert sum(found["per_class"].values()) == found["dropped"] == record["rejected"].get("above-class-share", 0)
        assert record["accepted"] + sum(record["rejected"].values()) == record["items"]
        targets = load_file(folder / "decision.safetensors")["target.targets"]
        assert (targets >= 0).sum() == record["accepted"]


def test_report_says_what_balancing_did(runs: Callable[[str], Runs]) -> None:
    folder, _, _ = runs("ner").again("selftrain.accept=class-balanced")
    page = (folder.parents[2] / "report.html").read_text("utf-8")
    assert "accept = class-balanced took" in page


def test_balancing_needs_words_or_entities(tiny: Callable[[str], Any]) -> None:
    with pytest.raises(ConfigError, match="target_filter"):
        load_recipe(tiny("ner").recipe, ["selftrain.accept=class-balanced", "selftrain.target_filter=sentence"])
