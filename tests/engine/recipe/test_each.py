"""A table [each]: one recipe for several runs, which differ in a word of their paths."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from xlt_engine import ConfigError, DataError
from xlt_engine.engine import (
    RunResult,
    check_all,
    each_run,
    estimate_all,
    load_recipe,
    render_checks,
    render_estimates,
    run,
    variants,
)
from xlt_engine.engine.lab.ablation.ablate import ablate
from xlt_engine.engine.lab.ablation.row_plans import forecast
from xlt_engine.engine.recipe.load import RecipeError
from xlt_engine.engine.storage.text import time_text

SHORT = ("selftrain.on=false", "arms.baseline=false", "finetune.epochs=1", "checkpoint.seconds=600")
DOMAINS = ("books", "dvd")


def by_domain(tiny: Any) -> Path:
    """The tiny recipe of classification with its files once for each domain; dvd has a shorter training file."""
    text = tiny.recipe.read_text("utf-8")
    names = set(re.findall(r'"([\w-]+\.(?:tsv|txt))"', text))
    for domain in DOMAINS:
        (tiny.folder / domain).mkdir()
        for name in names:
            lines = (tiny.folder / name).read_text("utf-8").splitlines()
            short = lines[:17] if (domain, name) == ("dvd", "train.tsv") else lines
            (tiny.folder / domain / name).write_text("\n".join(short) + "\n", "utf-8")
    for name in names:
        text = text.replace(f'"{name}"', f'"{{domain}}/{name}"')
        (tiny.folder / name).unlink()
    tiny.recipe.write_text(text.replace("[model.new]", f"[each]\ndomain = {json.dumps(DOMAINS)}\n[model.new]"), "utf-8")
    return Path(tiny.recipe)


@pytest.fixture
def recipe(tiny: Callable[[str], Any]) -> Path:
    return by_domain(tiny("classification"))


def run_each(
    recipe: Path, overrides: tuple[str, ...], run_dir: Path | None = None, **options: Any
) -> dict[str, RunResult]:
    places = each_run(recipe, overrides=overrides, run_dir=run_dir)
    return {name: run(recipe, **place, **options) for name, place in places}


def problems(path: Path, *overrides: str) -> list[tuple[str, str, str]]:
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, overrides)
    return [(p.where.removeprefix(f"{path.parent}/"), p.key, p.message) for p in caught.value.problems]


def test_a_run_for_each_value(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(recipe.parent)
    found = run_each(recipe, SHORT)
    assert [result.folder for result in found.values()] == [Path("runs/tiny", domain) for domain in found]
    assert tuple(found) == DOMAINS
    for domain, result in found.items():
        info = json.loads((result.folder / "run.json").read_bytes())
        assert info["name"] == f"tiny {domain}"
        assert load_recipe(result.folder / "config.toml").config.each == {"domain": (domain,)}
        assert str(recipe.parent / domain / "train.tsv") in info["hashes"]
        examples = json.loads((result.folder / "seed-0/de/finetune/stage.json").read_bytes())["examples"]
        assert examples == {"books": 24, "dvd": 16}[domain]
    again = run_each(recipe, SHORT)
    assert [result.done for result in again.values()] == [(), ()]
    # One value chosen by hand is the same run in the same folder; its saved recipe is a recipe.
    alone = run(recipe, overrides=(*SHORT, 'each.domain=["dvd"]'))
    assert (alone.folder, alone.done) == (Path("runs/tiny/dvd"), ())
    expected = load_recipe(recipe, (*SHORT, 'each.domain=["dvd"]', "precision=fp32"))  # what "auto" is on a CPU
    assert load_recipe(alone.folder / "config.toml").config == expected.config
    elsewhere = run_each(recipe, (*SHORT, 'each.domain=["dvd"]'), Path("here"), reuse=[alone.folder])
    assert [result.folder for result in elsewhere.values()] == [Path("here")]
    several = run_each(recipe, SHORT, Path("there"), reuse=[r.folder for r in found.values()])
    assert [(str(r.folder), r.done) for r in several.values()] == [("there/books", ()), ("there/dvd", ())]


def test_a_cut_off_run_goes_on(recipe: Path, tmp_path: Path) -> None:
    (_, first), _ = each_run(recipe, overrides=SHORT, run_dir=tmp_path / "runs")
    assert run(recipe, **first).done
    results = run_each(recipe, SHORT, tmp_path / "runs")
    assert [(name, bool(result.done)) for name, result in results.items()] == [("books", False), ("dvd", True)]


def test_a_missing_file_of_the_second_run_is_found_before_the_first(recipe: Path, tmp_path: Path) -> None:
    (recipe.parent / "dvd" / "de.txt").unlink()
    with pytest.raises(DataError, match=r"dvd/de\.txt: no such file, for the run dvd"):
        each_run(recipe, overrides=SHORT, run_dir=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()
    reports = check_all(recipe, SHORT, rate=1e9)
    assert [report.ok for report in reports.values()] == [True, False]
    assert "\n\ndvd\n\n" in render_checks(reports)


def test_what_all_cost(recipe: Path) -> None:
    overrides = (*SHORT, "seeds=[3, 4]")
    plans = estimate_all(recipe, overrides=overrides, rate=1e9)
    stages = [stage for plan in plans.values() for stage in plan.stages]
    steps, seconds = sum(stage.steps for stage in stages), sum(stage.seconds for stage in stages)
    last = render_estimates(plans).splitlines()[-1]
    assert last == f"2 runs: {len(stages)} stages, {steps:,} steps, about {time_text(seconds)}."
    reports = check_all(recipe, overrides, rate=1e9)
    assert render_checks(reports).splitlines()[-1] == last


def test_an_ablation_for_each_value(recipe: Path, tmp_path: Path) -> None:
    rows: dict[str, Any] = {"rows": ["no-st"]}
    for name, place in each_run(recipe, overrides=SHORT, run_dir=tmp_path / "lab"):
        assert forecast(recipe, **place, **rows)["planned"] == 6
        assert ablate(recipe, **place, **rows, jobs=1).folder == tmp_path / "lab" / name
    with pytest.raises(ConfigError, match=r"each\.domain: stands for 2 runs"):
        ablate(recipe)


def test_several_names_make_all_combinations(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_text('[each]\na = ["x", "y"]\nb = ["1"]\nc = ["2", "3"]\n[source]\ntrain = "{a}/{c}.tsv"\n', "utf-8")
    found = variants(path, ["task=ner"])
    assert [v.name for v in found] == ["x/1/2", "x/1/3", "y/1/2", "y/1/3"]
    assert found[1].overrides == ("task=ner", 'each.a=["x"]', 'each.b=["1"]', 'each.c=["3"]')
    assert [v.name for v in variants(path, ['each.a=["y"]'])] == ["y/1/2", "y/1/3"]
    assert variants("demo", ["seeds=[1]"]) == [("", ("seeds=[1]",))]


def test_what_is_wrong_is_said_where(recipe: Path) -> None:
    text = recipe.read_text("utf-8")
    line = next(i for i, t in enumerate(text.splitlines(), 1) if t.startswith("domain ="))
    choice = """stands for 2 runs (books, dvd); choose one here: --set 'each.domain=["books"]'"""
    assert problems(recipe) == [(f"{recipe.name}:{line}", "each.domain", choice)]
    one = 'each.domain=["books"]'
    recipe.write_text(text.replace('"{domain}/train.tsv"', '"{domian}/train.tsv"'), "utf-8")
    train = next(i for i, t in enumerate(text.splitlines(), 1) if t.startswith("train ="))
    wrong = '"{domian}/train.tsv" given, but [each] has no domian; did you mean {domain}?'
    assert (f"{recipe.name}:{train}", "source.train", wrong) in problems(recipe, one)
    given = problems(recipe, one, "source.train={size}.tsv")
    assert [g[2] for g in given] == [
        '"{size}.tsv" given, but [each] has no size; add size = ["..."] to the table [each]'
    ]
    assert given[0][0] == "--set source.train={size}.tsv"
    recipe.write_text(text.replace("{domain}", "books"), "utf-8")
    assert variants(recipe)[0].name == ""
    assert (f"{recipe.name}:{line}", "each.domain", "is in no path: write {domain} where the runs differ") in problems(
        recipe
    )


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("[]", "is empty; give at least one value"),
        ('["books", "books"]', "has a value twice"),
        ('["../up"]', "'../up' cannot be the name of a folder"),
        ("books", 'write ["books"]'),
    ],
)
def test_values_are_names_of_folders(recipe: Path, value: str, message: str) -> None:
    assert any(message in found for _, key, found in problems(recipe, f"each.domain={value}") if key == "each.domain")
    assert len(variants(recipe, [f"each.domain={value}"])) == 1


def test_an_environment_variable_is_no_placeholder(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("domain", str(recipe.parent / "dvd"))
    config = load_recipe(recipe, ('each.domain=["books"]', "source.test=${domain}/test-en.tsv")).config
    assert config.source.test == recipe.parent / "dvd" / "test-en.tsv"
    assert config.source.train == recipe.parent / "books" / "train.tsv"
