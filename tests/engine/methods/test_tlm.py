"""`targets.N.pairs`: sentence pairs in the batches of BTF, and the mark of all that starts from it."""

from typing import Any

import pytest

from xlt_engine import DataError
from xlt_engine.engine.preflight.checker import check
from xlt_engine.engine.preflight.cost import estimate
from xlt_engine.engine.recipe.config import BtfConfig
from xlt_engine.engine.runs.graph import make_plan
from xlt_engine.engine.stages.masked_lm import pair_counts
from xlt_engine.engine.summary.summary import build_summary

QUICK = ("checkpoint.seconds=60", "pretrain.epochs=0.4")
PAIRS = "today Anna saw Paris\theute sah Anna Paris\nthe city of Roma is old\tdie Stadt Roma ist alt .\n"
SPANISH = '[[targets]]\nlanguage = "es"\nunlabelled = ["de.txt"]\ngeneral = ["general-de.txt"]\n'


def with_pairs(tiny: Any, lines: str = PAIRS * 5) -> tuple[Any, str]:
    recipe = tiny("classification")
    file = recipe.folder / "en-de.tsv"
    file.write_text(lines, "utf-8")
    return recipe, f'targets.0.pairs=["{file}"]'


@pytest.mark.parametrize(
    ("sizes", "balance", "share", "expected"),
    [
        ((24, 18), "up", 0.5, [24, 24, 48]),  # half of all are pairs
        ((24, 18), "none", 0.2, [24, 18, 10]),  # 42 / 4 = 10.5, to the even number
        ((10,), "up", 0.9, [10, 90]),
        ((10,), "up", 0.01, [10, 1]),  # one at least
    ],
)
def test_share_of_an_epoch(sizes: tuple[int, ...], balance: Any, share: float, expected: list[int]) -> None:
    assert pair_counts(sizes, BtfConfig(balance=balance, pairs_share=share)) == expected


def test_run_reads_the_pairs_and_marks_what_starts_from_them(tiny: Any) -> None:
    """Of ten lines two differ; 24 texts of each language and, at a share of 1/4, 16 pairs: 64 in batches of 8."""
    recipe, option = with_pairs(tiny)
    options = (option, "btf.pairs_share=0.25", "arms.control=true", "selftrain.rounds=0.5", *QUICK)
    result = recipe.run(*options)
    record = recipe.stage("de/btf")
    assert (record["pairs"], record["examples_per_epoch"], record["steps"]) == (2, [24, 24, 16], 8)
    assert recipe.stage("de/control-btf")["examples_per_epoch"] == [24, 24]
    stages = ("baseline", "de/control-btf", "de/control", "de/btf", "de/finetune", "de/soft1")
    marked = {name: recipe.stage(name)["uses_parallel_data"] for name in stages}
    assert marked == dict.fromkeys(stages[:3], False) | dict.fromkeys(stages[3:], True)
    rows = build_summary(result.folder)["rows"]
    assert {(r["stage"], r["uses_parallel_data"]) for r in rows} == {
        ("zero-shot", False),
        ("control", False),
        ("btf", True),
        ("soft1", True),
    }
    found = estimate(recipe.recipe, overrides=options, rate=1e9)
    assert {s.id: s.steps for s in found.stages} == {s["folder"]: s["steps"] for s in result.summary["stages"]}
    tokens = {s.id: s.tokens for s in found.stages}
    assert tokens["seed-0/de/btf"] == pytest.approx(record["tokens"], rel=0.02)

    before = record["hashes"]["model.safetensors"]
    recipe.run(*options, "btf.pair_positions=continued", stage="btf")
    assert recipe.stage("de/btf")["hashes"]["model.safetensors"] != before


def test_only_a_target_with_pairs_has_other_settings(tiny: Any) -> None:
    recipe, option = with_pairs(tiny)
    recipe.recipe.write_text(recipe.recipe.read_text("utf-8").replace("[pretrain]", f"{SPANISH}[pretrain]"), "utf-8")
    plain = {s.id: s for s in make_plan(recipe.resolved("arms.control=true").config)}
    other = {s.id: s for s in make_plan(recipe.resolved(option, "btf.pairs_share=0.2", "arms.control=true").config)}
    assert {i for i in plain if plain[i].settings != other[i].settings} == {"seed-0/de/btf"}
    added = {"btf.pairs_share": 0.2, "btf.pair_positions": "reset"}
    assert other["seed-0/de/btf"].settings == plain["seed-0/de/btf"].settings | added


def test_bad_pairs(tiny: Any) -> None:
    recipe, option = with_pairs(tiny, "good\tgut\nalone\n\nthree\tdrei\ttres\n")
    with pytest.raises(DataError) as caught:
        recipe.run(option)
    assert [line.partition(": ")[0][-2:] for line in str(caught.value).splitlines()] == [":2", ":4"]
    report = check(recipe.recipe, [option], rate=1e9)
    assert [p.where.rpartition("/")[2] for p in report.problems] == ["en-de.tsv:2", "en-de.tsv:4"]
    missing = check(recipe.recipe, ['targets.0.pairs=["nowhere.tsv"]'], rate=1e9)
    assert ["no such file" in p.message for p in missing.problems] == [True]


def test_check_knows_pairs_and_finds_test_texts_in_them(tiny: Any) -> None:
    recipe, option = with_pairs(tiny)
    test = (recipe.folder / "test-de.tsv").read_text("utf-8").splitlines()[1].split("\t")[0]
    (recipe.folder / "en-de.tsv").write_text(PAIRS + f"the same\t{test}\n", "utf-8")
    report = check(recipe.recipe, [option], rate=1e9)
    assert report.problems == []
    assert [(f.role, f.examples) for f in report.files if f.role == "pairs"] == [("pairs", 3)]
    leaks = {w.values["role"]: w.values["lines"] for w in report.warnings if w.name == "test-text-in-training"}
    assert leaks["pairs"] == [[2, 3]]
