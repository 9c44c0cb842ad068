"""`btf.sides`: task fitting on the text of both languages, or of the target alone."""

from typing import Any

import pytest

from xlt_engine.engine import estimate

SHORT = ("selftrain.on=false", "arms.control=true", "pretrain.epochs=0.4")


@pytest.mark.parametrize(("sides", "examples"), [("both", [24, 24]), ("target", [24])])
def test_text_of_the_stage(tiny: Any, sides: str, examples: list[int]) -> None:
    recipe = tiny("classification")
    overrides = (*SHORT, f"btf.sides={sides}")
    recipe.run(*overrides)
    found = {name: recipe.stage(name) for name in ("de/btf", "de/control-btf")}
    assert {name: record["examples_per_epoch"] for name, record in found.items()} == dict.fromkeys(found, examples)
    expected = {s.id: s.steps for s in estimate(recipe.resolved(*overrides), rate=1e9).stages}
    assert {name: expected[f"seed-0/{name}"] for name in found} == {n: r["steps"] for n, r in found.items()}


def test_the_source_text_is_no_input(tiny: Any) -> None:
    recipe = tiny("classification")
    recipe.run(*SHORT, stage="btf", where="both")
    recipe.run(*SHORT, "btf.sides=target", stage="btf", where="target")
    both, alone = (recipe.json("de/btf/fingerprint.json", where) for where in ("both", "target"))
    assert [key for key in alone if key.startswith("data.")] == ["data.text.0"]
    assert alone["data.text.0"] == both["data.text.1"]


def test_the_control_of_the_paper_reads_the_same_source_text(tiny: Any) -> None:
    """`source.control` = the training file, as in cls-paper: BTF and its control differ in the target's text alone."""
    recipe = tiny("ner")
    text = recipe.recipe.read_text("utf-8")
    table = 'train = "train.conll"\n'
    recipe.recipe.write_text(text.replace(table, f'{table}control = ["train.conll"]\n'), "utf-8")
    recipe.run(*SHORT)
    task, control = (recipe.json(f"de/{name}/fingerprint.json") for name in ("btf", "control-btf"))
    assert control["data.text.0"] == task["data.text.0"], "the source's training text"
    assert control["data.text.1"] != task["data.text.1"], "the target's text"
    assert recipe.stage("de/btf")["examples_per_epoch"] == recipe.stage("de/control-btf")["examples_per_epoch"]
