"""`augment.code_switch`: what fine-tuning learns then, and the mark that every row gets."""

from typing import Any

import pytest

from xlt_engine import DataError
from xlt_engine.engine.summary.stage_table import aggregate, table_cells
from xlt_engine.engine.summary.summary import build_summary

SHORT = ("selftrain.rounds=0.5", "pretrain.epochs=0.4")


def with_dictionary(
    tiny: Any, task: str, lines: str = "good\tgut\nbad\tsehr schlecht\nlives\twohnt da\n"
) -> tuple[Any, str]:
    recipe = tiny(task)
    file = recipe.folder / "en-de.tsv"
    file.write_text(lines, "utf-8")
    return recipe, f'augment.code_switch.dictionaries=["{file}"]'


@pytest.mark.parametrize("task", ["ner", "classification"])
def test_run_learns_the_switched_texts_and_marks_all_rows(tiny: Any, task: str) -> None:
    recipe, option = with_dictionary(tiny, task)
    recipe.run(*SHORT, option, "augment.code_switch.rate=1")
    record = recipe.stage("de/finetune")
    # "lives" is in every third sentence; of 24 opinions those with "good" or "bad" in one of two places.
    words = ("lives",) if task == "ner" else ("good", "bad")
    file = recipe.folder / ("train.conll" if task == "ner" else "train.tsv")
    blocks = file.read_text("utf-8").split("\n\n" if task == "ner" else "\n")
    expected = sum(any(word in block.split() for word in words) for block in blocks)
    assert 0 < expected < 24
    assert (record["examples"], record["switched_examples"]) == (24, expected)
    summary = build_summary(recipe.folder / "run")
    assert summary["rows"]
    assert all(row["uses_dictionary"] for row in summary["rows"])
    assert not any(row["uses_target_labels"] for row in summary["rows"])
    header, lines = table_cells(aggregate(summary))
    assert header[-3] == "dictionary"
    assert {line[-3] for line in lines} == {"yes"}
    assert '<th scope="col">dictionary</th>' in (recipe.folder / "run" / "report.html").read_text("utf-8")


def test_another_dictionary_makes_the_stage_anew(tiny: Any) -> None:
    recipe, option = with_dictionary(tiny, "classification")
    short = ("selftrain.on=false", "btf.on=false", "pretrain.epochs=0.4")
    recipe.run(*short, option)
    before = recipe.json("baseline/fingerprint.json")
    (recipe.folder / "en-de.tsv").write_text("good\tprima\n", "utf-8")
    recipe.run(*short, option)
    after = recipe.json("baseline/fingerprint.json")
    assert {key for key in after if after[key] != before[key]} == {"data.switched"}


def test_a_dictionary_of_other_words_is_refused(tiny: Any) -> None:
    recipe, option = with_dictionary(tiny, "classification", "zebra\tZebra\n")
    with pytest.raises(DataError, match=r"en-de\.tsv: no word of the source training text"):
        recipe.run(*SHORT, option)
