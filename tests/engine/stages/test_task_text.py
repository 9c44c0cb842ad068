"""Which text BTF and self-training read: each text once, of a cap the same draw, one side alone, long texts whole."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from xlt_engine.engine.preflight.cost import Estimate, estimate
from xlt_engine.engine.runs.graph import make_plan
from xlt_engine.engine.runs.prepare import make_context
from xlt_engine.engine.stages.masked_lm import btf_text
from xlt_engine.engine.stages.pool import load_pool
from xlt_engine.engine.storage.run_folder import RunDir
from xlt_engine.engine.training.progress import Progress

COUNT, CAP = 400, 120
FITTED = ("selftrain.on=false", "arms.control=true", "pretrain.epochs=0.4")
SHORT = ("max_length=8", "selftrain.rounds=1", 'selftrain.soft.positions="all"', "arms.baseline=false")
WINDOWS = (*SHORT, "long_texts=windows")


def texts(number: int) -> str:
    return f"Satz {number}, gesprochen in Wien (Nr. {number * 7})."


@pytest.mark.parametrize("task", ["ner", "classification"])
def test_a_cap_draws_the_same_texts(tiny: Any, task: str) -> None:
    """One text in a hundred stands twice, once with other white space: positions after it must not shift."""
    run = tiny(task)
    lines = [texts(i) for i in range(COUNT)]
    for i in range(0, COUNT, 100):
        lines.insert(i + 50, texts(i) if i else texts(i).replace(" (", "   ("))
    path = run.folder / "de.txt"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    run.run(stage="pretrain")
    config = run.resolved(f"btf.cap={CAP}", f"selftrain.cap={CAP}").config
    with RunDir(run.folder / "run") as home:
        context = make_context(config, home, Progress())
        stages = {stage.id.rpartition("/")[2]: stage for stage in make_plan(config)}
        corpus = btf_text(context, stages["btf"])[-1]
        pool = context.data.target_pool(config.targets[0])
        chosen = load_pool(context, stages["soft1"]).target

    def text(name: str) -> str:
        return lines[int(name.rpartition(":")[2]) - 1]

    fitted = [text(corpus.name(i)) for i in range(len(corpus))]
    trained = [text(pool.example_ids[i]) for i in chosen]
    assert len(pool) == COUNT
    assert len(fitted) == len(set(fitted)) == CAP
    assert set(fitted) == set(trained)
    assert not np.array_equal(chosen, np.arange(CAP))


@pytest.mark.parametrize(("sides", "examples"), [("both", [24, 24]), ("target", [24])])
def test_text_of_the_stage(tiny: Callable[..., Any], sides: str, examples: list[int]) -> None:
    recipe = tiny("classification")
    overrides = (*FITTED, f"btf.sides={sides}")
    recipe.run(*overrides)
    found = {name: recipe.stage(name) for name in ("de/btf", "de/control-btf")}
    assert {name: record["examples_per_epoch"] for name, record in found.items()} == dict.fromkeys(found, examples)
    expected = {s.id: s.steps for s in estimate(recipe.resolved(*overrides), rate=1e9).stages}
    assert {name: expected[f"seed-0/{name}"] for name in found} == {n: r["steps"] for n, r in found.items()}


def test_the_source_text_is_no_input(tiny: Callable[..., Any]) -> None:
    recipe = tiny("classification")
    recipe.run(*FITTED, stage="btf", where="both")
    recipe.run(*FITTED, "btf.sides=target", stage="btf", where="target")
    both, alone = (recipe.json("de/btf/fingerprint.json", where) for where in ("both", "target"))
    assert [key for key in alone if key.startswith("data.")] == ["data.text.0"]
    assert alone["data.text.0"] == both["data.text.1"]


def test_the_control_of_the_paper_reads_the_same_source_text(tiny: Callable[..., Any]) -> None:
    """`source.control` = the training file, as in cls-paper: BTF and its control differ in the target's text alone."""
    recipe = tiny("ner")
    text = recipe.recipe.read_text("utf-8")
    table = 'train = "train.conll"\n'
    recipe.recipe.write_text(text.replace(table, f'{table}control = ["train.conll"]\n'), "utf-8")
    recipe.run(*FITTED)
    task, control = (recipe.json(f"de/{name}/fingerprint.json") for name in ("btf", "control-btf"))
    assert control["data.text.0"] == task["data.text.0"], "the source's training text"
    assert control["data.text.1"] != task["data.text.1"], "the target's text"
    assert recipe.stage("de/btf")["examples_per_epoch"] == recipe.stage("de/control-btf")["examples_per_epoch"]


def test_every_stage_learns_what_lies_beyond_the_maximum_length(tiny: Callable[[str], Any]) -> None:
    """No word is unseen, in as many steps as the forecast says, which are more than where texts are cut."""
    run = tiny("ner")

    def steps(forecast: Estimate) -> dict[str, int]:
        return {stage.id: stage.steps for stage in forecast.stages if stage.kind != "hard"}

    done = run.run(*WINDOWS)
    planned, cut = (steps(estimate(run.recipe, overrides=options, rate=1e9)) for options in (WINDOWS, SHORT))
    assert planned == {name: len(run.json(f"{name.partition('/')[2]}/trace.json")["loss"]) for name in planned}
    assert all(planned[name] > cut[name] for name in planned)
    words = [line.split() for line in set((run.folder / "de.txt").read_text("utf-8").splitlines())]
    assert run.json("de/hard1/decision.json")["items"] == sum(map(len, words))
    assert "cut-by-maximum-length" not in str(done.summary["warnings"])
