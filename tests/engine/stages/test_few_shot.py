"""Few-shot: `per_class` of the source, labelled target examples in fine-tuning, and the marks that follow."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from xlt_engine import ConfigError
from xlt_engine.data import Tokenizer
from xlt_engine.engine.preflight.check_data import leak_warnings, read_all
from xlt_engine.engine.recipe.config.files import recipe_files
from xlt_engine.engine.runs.graph import make_plan
from xlt_engine.engine.stages.datasets import Datasets
from xlt_engine.engine.summary.stage_table import aggregate, stage_table
from xlt_engine.engine.summary.summary import build_summary

FEW = ('targets.0.labelled="few-de.tsv"', "targets.0.per_class=2")


def with_few(tiny: Callable[..., Any]) -> Any:
    recipe = tiny("classification")
    shutil.copy(recipe.folder / "test-de.tsv", recipe.folder / "few-de.tsv")
    return recipe


def absolute(recipe: Any) -> tuple[str, str]:
    return f'targets.0.labelled="{recipe.folder / "few-de.tsv"}"', FEW[1]


def datasets(recipe: Any, *overrides: str) -> Datasets:
    vocabulary = recipe.folder / "v"
    vocabulary.mkdir(exist_ok=True)
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{x}" for x in letters)]
    (vocabulary / "vocab.txt").write_text("\n".join(words) + "\n")
    config = recipe.resolved(*overrides).config
    return Datasets(config, Tokenizer.from_folder(vocabulary), recipe.folder / "stores")


@pytest.mark.parametrize("draw", [0, 1])
def test_source_per_class(tiny: Callable[..., Any], draw: int) -> None:
    data = datasets(tiny("classification"), "source.per_class=3", f"source.draw={draw}")
    store = data.source_train
    assert Counter(np.asarray(store.item_labels).tolist()) == {0: 3, 1: 3}
    text = data.task_text(data.config.targets[0])[0]
    assert sorted(text.example_ids) == sorted(store.example_ids)


def test_source_draw_and_all(tiny: Callable[..., Any]) -> None:
    recipe = tiny("classification")
    ids = [datasets(recipe, "source.per_class=3", f"source.draw={x}").source_train.example_ids for x in (0, 1)]
    assert list(ids[0]) != list(ids[1])
    assert len(datasets(recipe).source_train) == 24


def test_ner_source_has_k_sentences_of_each_type(tiny: Callable[..., Any]) -> None:
    data = datasets(tiny("ner"), "source.per_class=2")
    store = data.source_train
    names = [data.labels[i] for i in np.asarray(store.item_labels) if i >= 0]
    assert {name[2:] for name in names if name != "O"} == {"PER", "LOC"}
    assert 2 <= len(store) <= 4


def test_keys_that_do_not_go_together(tiny: Callable[..., Any]) -> None:
    with pytest.raises(ConfigError, match=r"source\.per_class: is given, and so is source\.cap"):
        tiny("classification").resolved("source.per_class=3", "source.cap=4")
    with pytest.raises(ConfigError, match=r"targets\.0\.labelled is missing"):
        tiny("classification").resolved("targets.0.per_class=3")


def test_plan_adds_one_stage_and_changes_no_other(tiny: Callable[..., Any]) -> None:
    recipe = with_few(tiny)
    plain = {s.id: s for s in make_plan(recipe.resolved().config)}
    few = {s.id: s for s in make_plan(recipe.resolved(*absolute(recipe)).config)}
    assert few.keys() - plain.keys() == {"seed-0/de/fewshot"}
    added = few["seed-0/de/fewshot"]
    assert added.settings == plain["seed-0/de/finetune"].settings | {"few_shot": {"per_class": 2, "draw": 0}}
    assert added.inputs == plain["seed-0/de/finetune"].inputs
    assert {i for i in plain if plain[i] != few[i]} == {"seed-0/de/soft1"}
    assert few["seed-0/de/soft1"].inputs["teacher"] == "seed-0/de/fewshot"


def test_run_marks_what_learned_from_target_labels(tiny: Callable[..., Any]) -> None:
    recipe = with_few(tiny)
    recipe.run(*absolute(recipe), "selftrain.rounds=1")
    record = recipe.stage("de/fewshot")
    assert (record["examples"], record["few_shot_examples"]) == (24, 4)
    stages = ("baseline", "de/finetune", "de/fewshot", "de/soft1", "de/hard1")
    used = {name: recipe.stage(name)["uses_target_labels"] for name in stages}
    assert used == {"baseline": False, "de/finetune": False, "de/fewshot": True, "de/soft1": True, "de/hard1": True}
    summary = build_summary(recipe.folder / "run")
    marked = {(row["stage"], row["uses_target_labels"]) for row in summary["rows"]}
    assert marked == {("zero-shot", False), ("btf", False), ("few-shot", True), ("soft1", True), ("hard1", True)}
    assert ["uses_target_labels" in s.marks for s in aggregate(summary).stages] == [False, False, True, True, True]
    table = stage_table(summary).splitlines()
    lines = {line.split()[0]: line for line in table if line.strip()}
    assert "yes" in lines["few-shot"].split()
    assert "yes" not in lines["zero-shot"].split()
    page = (recipe.folder / "run" / "report.html").read_text("utf-8")
    assert "target labels were used for more than scoring" in page


def test_without_btf_the_few_shot_teacher_starts_from_the_encoder(tiny: Callable[..., Any]) -> None:
    recipe = with_few(tiny)
    plan = {s.id: s for s in make_plan(recipe.resolved(*absolute(recipe), "btf.on=false").config)}
    assert plan["seed-0/de/fewshot"].inputs == {"base": "seed-0/pretrain"}
    assert plan["seed-0/de/soft1"].inputs["teacher"] == "seed-0/de/fewshot"


def test_balanced_mix_repeats_the_target(tiny: Callable[..., Any]) -> None:
    recipe = with_few(tiny)
    short = ("selftrain.on=false", "btf.on=false", *absolute(recipe))
    recipe.run(*short, where="natural")
    recipe.run(*short, 'finetune.target_mix="balanced"', where="balanced")
    steps = [recipe.stage("de/fewshot", where)["steps"] for where in ("natural", "balanced")]
    assert steps == [2 * 4, 2 * 6]


def test_a_test_file_of_the_same_content_stays_whole(tiny: Callable[..., Any]) -> None:
    """The few-shot file serves for nothing else: the test store of the same file stays whole."""
    recipe = with_few(tiny)
    data = datasets(recipe, *absolute(recipe))
    target = data.config.targets[0]
    assert len(data.target_labelled(target)) == 4
    assert target.labelled is not None
    assert len(data.labelled(target.labelled, "de")) == 12


def test_parallel_data_of_the_recipe_is_marked_on_every_row(tiny: Callable[..., Any]) -> None:
    recipe = tiny("classification")
    recipe.run("uses_parallel_data=true", "selftrain.rounds=0.5", "pretrain.epochs=0.4")
    rows = build_summary(recipe.folder / "run")["rows"]
    assert {(row["stage"], row["uses_parallel_data"]) for row in rows} == {
        ("zero-shot", True),
        ("btf", True),
        ("soft1", True),
    }


def test_check_finds_test_texts_among_the_few(tiny: Callable[..., Any]) -> None:
    recipe = with_few(tiny)
    config = recipe.resolved(*absolute(recipe)).config
    texts, faults = read_all(config, recipe_files(config))
    assert faults == []
    leaks = [w.values for w in leak_warnings(texts)]
    assert [(leak["role"], leak["count"]) for leak in leaks if leak["role"] == "few-shot"] == [("few-shot", 12)]
