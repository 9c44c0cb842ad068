"""Translate-train and translate-test: what is learned, what is scored, and which rows are marked."""

from pathlib import Path
from typing import Any

import pytest

from xlt_engine import DataError
from xlt_engine.data import read_tsv
from xlt_engine.engine import run
from xlt_engine.engine.prediction.scoring import evaluate
from xlt_engine.engine.preflight.checker import check
from xlt_engine.engine.preflight.cost import estimate
from xlt_engine.engine.stages.datasets import misfits
from xlt_engine.engine.summary.stage_table import aggregate, stage_table
from xlt_engine.engine.summary.summary import build_summary

QUICK = ("checkpoint.seconds=60", "pretrain.epochs=0.4")
WORDS = {
    "das": "the",
    "Buch": "book",
    "über": "about",
    "gut": "good",
    "fein": "fine",
    "schlecht": "bad",
    "mies": "poor",
}
SPANISH = """
[[targets]]
language = "es"
unlabelled = ["de.txt"]
general = ["general-de.txt"]
test = "test-de.tsv"
translated_train = "es-train.tsv"
"""


def translated(path: Path, words: dict[str, str], keep: int = 1000) -> list[str]:
    """The rows of a table with some words replaced."""
    rows = path.read_text("utf-8").splitlines()[: keep + 1]
    return ["\t".join(" ".join(words.get(w, w) for w in cell.split()) for cell in row.split("\t")) for row in rows]


def with_translations(tiny: Any) -> Any:
    """16 of 24 training texts in "German", all 12 test texts in "English"; two targets, of which es has other data."""
    recipe = tiny("classification")
    folder = recipe.folder
    german = {b: a for a, b in WORDS.items()}
    train = translated(folder / "train.tsv", german, 16)
    (folder / "de-train.tsv").write_text("\n".join(train) + "\n", "utf-8")
    (folder / "es-train.tsv").write_text("\n".join(train[:9]) + "\n", "utf-8")
    (folder / "de-test.tsv").write_text("\n".join(translated(folder / "test-de.tsv", WORDS)) + "\n", "utf-8")
    more = 'language = "de"\ntranslated_train = "de-train.tsv"\ntranslated_test = "de-test.tsv"'
    recipe.rewrite(("[pretrain]", f"{SPANISH}[pretrain]"), ('language = "de"', more))
    return recipe


def test_rows_and_marks(tiny: Any) -> None:
    recipe = with_translations(tiny)
    folder = recipe.folder
    options = ("finetune.translated_all=true", "selftrain.on=false", *QUICK)
    result = recipe.run(*options)
    learned = {
        name: (recipe.stage(name)["examples"], recipe.stage(name)["translated_examples"])
        for name in ("de/translate-train", "es/translate-train", "translate-train-all")
    }
    assert learned == {"de/translate-train": (24, 16), "es/translate-train": (24, 8), "translate-train-all": (24, 24)}
    start = recipe.stage("baseline")["encoder_at_start"]
    assert {recipe.stage(name)["encoder_at_start"] for name in learned} == {start}
    summary = build_summary(result.folder)
    marked = {(r["stage"], r["language"], r["uses_parallel_data"]) for r in summary["rows"] if r["role"] == "target"}
    stages = ("zero-shot", "translate-train", "translate-train-all", "btf")
    expected = {(stage, x, stage.startswith("translate")) for stage in stages for x in ("de", "es")}
    assert marked == expected | {("translate-test", "de", True)}
    # The zero-shot model itself, on the translated file.
    by_hand = evaluate(folder / "run/seed-0/baseline", read_tsv(folder / "de-test.tsv", language="en"))
    (row,) = [r for r in summary["rows"] if r["stage"] == "translate-test" and r["metric"] == "accuracy"]
    assert row["value"] == by_hand.scores[0].metrics["accuracy"]
    assert (row["model"], row["count"], row["role"]) == ("seed-0/baseline", 12, "target")
    stages = {s.stage: s for s in aggregate(summary).stages}
    assert list(stages) == ["zero-shot", "translate-test", "translate-train", "translate-train-all", "btf"]
    for name in ("translate-test", "translate-train", "translate-train-all"):
        step = stages[name].steps["de"]
        assert step.versus == "zero-shot"
        assert step.stat.mean == stages[name].targets["de"].mean - stages["zero-shot"].targets["de"].mean
    assert stages["btf"].step.versus == "zero-shot"
    assert [s.stage for s in aggregate(summary).trail] == ["zero-shot", "btf"]
    lines = {line.split()[0]: line.split() for line in stage_table(summary).splitlines() if line.strip()}
    shown = [lines[name][-4] for name in ("zero-shot", "translate-test", "translate-train", "BTF")]
    assert shown == ["no", "yes", "yes", "no"]

    found = estimate(recipe.recipe, overrides=options, rate=1e9)
    assert {s.id: s.steps for s in found.stages} == {s["folder"]: s["steps"] for s in summary["stages"]}
    assert_made_by_hand(recipe)


def assert_made_by_hand(recipe: Any) -> None:
    """A recipe whose source is source and translations in one file ends in the same bits."""
    folder = recipe.folder
    recipe.take_model(folder / "run" / "seed-0" / "pretrain")
    rows = (folder / "train.tsv").read_text("utf-8") + (folder / "de-train.tsv").read_text("utf-8").partition("\n")[2]
    (folder / "all.tsv").write_text(rows, "utf-8")
    hand = folder / "hand.toml"
    hand.write_text(recipe.text.replace('train = "train.tsv"', 'train = "all.tsv"'), "utf-8")
    run(
        hand, run_dir=folder / "hand", overrides=("btf.on=false", "selftrain.on=false", *QUICK), stage="seed-0/baseline"
    )
    assert recipe.weights("de/translate-train") == recipe.weights("baseline", "hand")


def test_translations_alone(tiny: Any) -> None:
    recipe = with_translations(tiny)
    options = ("finetune.translated=only", "selftrain.on=false", "btf.on=false", *QUICK)
    recipe.run(*options, stage="seed-0/de/translate-train")
    record = recipe.stage("de/translate-train")
    # 16 examples, two epochs of two batches.
    assert (record["examples"], record["translated_examples"], record["steps"]) == (0, 16, 4)
    assert record["uses_parallel_data"]


def test_plan_adds_stages_and_changes_none(tiny: Any) -> None:
    recipe = with_translations(tiny)
    plan, other = recipe.plan(), recipe.plan("finetune.translated=only", "finetune.translated_all=true")
    text = "\n".join(line for line in recipe.text.splitlines() if not line.startswith("translated_"))
    recipe.recipe.write_text(text, "utf-8")
    before = recipe.plan()
    assert plan.keys() - before.keys() == {"de/translate-train", "es/translate-train"}
    assert all(plan[i] == before[i] for i in before)
    added = plan["de/translate-train"]
    assert added.settings == before["baseline"].settings | {"finetune.translated": "both"}
    assert added.inputs == before["baseline"].inputs == {"base": "seed-0/pretrain"}
    assert all((other[i].settings, other[i].inputs) == (before[i].settings, before[i].inputs) for i in before)
    assert other.keys() - plan.keys() == {"translate-train-all"}


def test_a_translated_test_file_that_comes_later_trains_nothing(tiny: Any) -> None:
    recipe = with_translations(tiny)
    recipe.rewrite((SPANISH, ""), ('translated_train = "de-train.tsv"\n', ""))
    later = recipe.text
    recipe.rewrite(('translated_test = "de-test.tsv"\n', ""))
    options = ("btf.on=false", "selftrain.on=false", *QUICK)
    recipe.run(*options)
    recipe.recipe.write_text(later, "utf-8")
    second = recipe.run(*options)
    assert second.done == ()
    assert "translate-test" in {row["stage"] for row in second.summary["rows"]}


def test_labels_and_numbers_must_be_those_of_the_test_file(tiny: Any) -> None:
    recipe = with_translations(tiny)
    file = recipe.folder / "de-test.tsv"
    rows = file.read_text("utf-8").splitlines()
    swapped = [*rows[:3], rows[3].replace("positive", "negative"), rows[4].replace("negative", "positive"), *rows[5:]]
    file.write_text("\n".join(swapped) + "\n", "utf-8")
    with pytest.raises(DataError) as caught:
        recipe.run()
    assert "text number 3 has another label" in str(caught.value)
    assert "text number 4 has another label" in str(caught.value)
    report = check(recipe.recipe, rate=1e9)
    wrong = [p.where.rpartition("/")[2] for p in report.problems if "has another label" in p.message]
    assert wrong == ["de-test.tsv:4", "de-test.tsv:5"]
    file.write_text("\n".join(rows[:-1]) + "\n", "utf-8")
    with pytest.raises(DataError, match=r"de-test\.tsv:1: has 11 texts, .*test-de\.tsv has 12; translate"):
        recipe.run()
    assert any("has 11 texts" in p.message for p in check(recipe.recipe, rate=1e9).problems)
    assert len(misfits(30, 30, (["a"] * 30, ["b"] * 30), "x")) == 21
    assert misfits(2, 2, None, "x") == []

    (recipe.folder / "de-train.tsv").write_text("text\tlabel\neins\tgut\nzwei\tmies\n", "utf-8")
    report = check(recipe.recipe, rate=1e9)
    assert sum("is not among the labels" in p.message for p in report.problems) == 2
    file.unlink()
    (recipe.folder / "es-train.tsv").unlink()
    places = [p.message.partition(": ")[0] for p in check(recipe.recipe, rate=1e9).problems]
    assert {"targets.0.translated_test", "targets.1.translated_train"} <= set(places)
    with pytest.raises(DataError, match="no such file|cannot be read"):
        recipe.run()


def test_check_says_where_there_is_no_zero_shot_model(tiny: Any) -> None:
    recipe = with_translations(tiny)
    notes = [check(recipe.recipe, options, rate=1e9).notes for options in ((), ("arms.baseline=false",))]
    assert ["translate-test" in " ".join(found) for found in notes] == [False, True]
