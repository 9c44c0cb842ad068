"""`btf.sides`: task fitting on the text of both languages, or of the target alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from xlt_engine.engine import estimate
from xlt_engine.engine.plan import make_plan

SHORT = ("selftrain.on=false", "arms.control=true", "pretrain.epochs=0.4")


@pytest.mark.parametrize(("sides", "examples"), [("both", [24, 24]), ("target", [24])])
def test_text_of_the_stage(tiny: Callable[..., Any], sides: str, examples: list[int]) -> None:
    recipe = tiny("classification")
    overrides = (*SHORT, f"btf.sides={sides}")
    recipe.run(*overrides)
    found = {name: recipe.stage(name) for name in ("de/btf", "de/control-btf")}
    assert {name: record["examples_per_epoch"] for name, record in found.items()} == dict.fromkeys(found, examples)
    expected = {s.id: s.steps for s in estimate(recipe.resolved(*overrides), rate=1e9).stages}
    assert {name: expected[f"seed-0/{name}"] for name in found} == {n: r["steps"] for n, r in found.items()}


def test_the_source_text_is_no_input(tiny: Callable[..., Any]) -> None:
    recipe = tiny("classification")
    recipe.run(*SHORT, stage="btf", where="both")
    recipe.run(*SHORT, "btf.sides=target", stage="btf", where="target")
    both, alone = (recipe.json("de/btf/fingerprint.json", where) for where in ("both", "target"))
    assert [key for key in alone if key.startswith("data.")] == ["data.text.0"]
    assert alone["data.text.0"] == both["data.text.1"]


def test_both_is_what_it_was(tiny: Callable[..., Any]) -> None:
    plan = make_plan(tiny("classification").resolved().config)
    assert all("sides" not in s.settings.get("btf", {}) for s in plan)
