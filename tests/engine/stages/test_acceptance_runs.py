"""Balanced acceptance in tiny runs: decision records, warnings, and what the hard stage trains on."""

from typing import Any

import pytest
from safetensors.numpy import load_file

TRAINED = ("finetune.epochs=12", "selftrain.soft.epochs=25", "selftrain.soft.lr=0.01")
ONE = ("selftrain.rounds=1", "checkpoint.seconds=60", "selftrain.alpha.min_kept=2", *TRAINED)


@pytest.mark.parametrize("task", ["ner", "classification"])
def test_balanced_acceptance(tiny: Any, task: str) -> None:
    run = tiny(task)
    run.run(*ONE)
    before = run.json("de/hard1/decision.json")
    assert "options" not in before
    for rule in ("class-balanced", "source-distribution"):
        result = run.run(*ONE, f"selftrain.accept={rule}")
        assert result.done == ("seed-0/de/hard1",)
        record = run.json("de/hard1/decision.json")
        found = record["options"]["accept"]
        assert found["rule"] == rule
        assert record["accepted"] == before["accepted"] - found["dropped"]
        assert sum(found["per_class"].values()) == found["dropped"] == record["rejected"].get("above-class-share", 0)
        assert record["accepted"] + sum(record["rejected"].values()) == record["items"]
        targets = load_file(run.folder / "run/seed-0/de/hard1/decision.safetensors")["target.targets"]
        assert (targets >= 0).sum() == record["accepted"]
        if (task, rule) == ("ner", "class-balanced"):
            assert "accept = class-balanced took" in result.report.read_text("utf-8")


def test_how_labels_are_accepted_decides_the_hard_stage_alone(tiny: Any) -> None:
    run, one = tiny("ner"), ("selftrain.rounds=1",)
    assert run.remade("selftrain.accept=class-balanced", before=one) == {"de/hard1"}
    assert run.remade("selftrain.accept=threshold", before=one) == set()
