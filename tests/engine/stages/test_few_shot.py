"""Few-shot: `per_class` of the source, labelled target examples in fine-tuning, and the marks that follow."""

import shutil
from collections import Counter
from typing import Any

import numpy as np

from xlt_engine.engine.preflight.check_data import leak_warnings, read_all
from xlt_engine.engine.recipe.config.files import recipe_files
from xlt_engine.engine.stages.datasets import Datasets
from xlt_engine.engine.summary.stage_table import aggregate, stage_table
from xlt_engine.engine.summary.summary import build_summary

FEW = ('targets.0.labelled="few-de.tsv"', "targets.0.per_class=2")


def with_few(tiny: Any) -> Any:
    recipe = tiny("classification")
    shutil.copy(recipe.folder / "test-de.tsv", recipe.folder / "few-de.tsv")
    return recipe


def absolute(recipe: Any) -> tuple[str, str]:
    return f'targets.0.labelled="{recipe.folder / "few-de.tsv"}"', FEW[1]


def datasets(recipe: Any, *overrides: str) -> Datasets:
    return Datasets(recipe.resolved(*overrides).config, recipe.tokenizer(), recipe.folder / "stores")


def test_source_per_class_by_draw(tiny: Any) -> None:
    recipe, drawn = tiny("classification"), []
    for draw in (0, 1):
        data = datasets(recipe, "source.per_class=3", f"source.draw={draw}")
        assert Counter(np.asarray(data.source_train.item_labels).tolist()) == {0: 3, 1: 3}
        drawn.append(list(data.source_train.example_ids))
        assert sorted(data.task_text(data.config.targets[0])[0].example_ids) == sorted(drawn[-1])
    assert drawn[0] != drawn[1]
    assert len(datasets(recipe).source_train) == 24


def test_ner_source_has_k_sentences_of_each_type(tiny: Any) -> None:
    data = datasets(tiny("ner"), "source.per_class=2")
    store = data.source_train
    names = [data.labels[i] for i in np.asarray(store.item_labels) if i >= 0]
    assert {name[2:] for name in names if name != "O"} == {"PER", "LOC"}
    assert 2 <= len(store) <= 4


def test_plan_adds_one_stage_and_changes_no_other(tiny: Any) -> None:
    recipe = with_few(tiny)
    plain, few = recipe.plan(), recipe.plan(*absolute(recipe))
    assert few.keys() - plain.keys() == {"de/fewshot"}
    added = few["de/fewshot"]
    assert added.settings == plain["de/finetune"].settings | {"targets.de.per_class": 2, "targets.de.draw": 0}
    assert added.inputs == plain["de/finetune"].inputs
    assert {name for name in plain if plain[name] != few[name]} == {"de/soft1"}
    assert few["de/soft1"].inputs["teacher"] == "seed-0/de/fewshot"


def test_run_marks_what_learned_from_target_labels(tiny: Any) -> None:
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
    assert "Target labels were used for more than scoring" in page


def test_without_btf_the_few_shot_teacher_starts_from_the_encoder(tiny: Any) -> None:
    recipe = with_few(tiny)
    plan = recipe.plan(*absolute(recipe), "btf.on=false")
    assert plan["de/fewshot"].inputs == {"base": "seed-0/pretrain"}
    assert plan["de/soft1"].inputs["teacher"] == "seed-0/de/fewshot"


def test_balanced_mix_repeats_the_target(tiny: Any) -> None:
    recipe = with_few(tiny)
    short = ("selftrain.on=false", "btf.on=false", *absolute(recipe))
    recipe.run(*short, where="natural")
    recipe.run(*short, 'finetune.target_mix="balanced"', where="balanced")
    steps = [recipe.stage("de/fewshot", where)["steps"] for where in ("natural", "balanced")]
    assert steps == [2 * 4, 2 * 6]


def test_a_test_file_of_the_same_content_stays_whole(tiny: Any) -> None:
    """The few-shot file serves for nothing else: the test store of the same file stays whole."""
    recipe = with_few(tiny)
    data = datasets(recipe, *absolute(recipe))
    target = data.config.targets[0]
    assert len(data.target_labelled(target)) == 4
    assert len(data.scored(target.labelled, "de")) == 12


def test_check_finds_test_texts_among_the_few(tiny: Any) -> None:
    recipe = with_few(tiny)
    config = recipe.resolved(*absolute(recipe)).config
    texts, faults = read_all(config, recipe_files(config))
    assert faults == []
    leaks = [w.values for w in leak_warnings(texts)]
    assert [(leak["role"], leak["count"]) for leak in leaks if leak["role"] == "few-shot"] == [("few-shot", 12)]
