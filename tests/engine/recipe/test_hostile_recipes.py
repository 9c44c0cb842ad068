"""Recipes and options that were made to cost time or a traceback."""

import time
from pathlib import Path

import pytest

from xlt_engine import ConfigError
from xlt_engine.engine.recipe.load import LISTED, RecipeError, load_recipe
from xlt_engine.engine.recipe.toml_parse import LONGEST, parse_toml


def refused(path: Path, text: str = "", *options: str) -> str:
    """What a recipe of a text and options is told, in ten times the 2 CPU seconds that it may take."""
    path.write_text(text, "utf-8")
    began = time.process_time()
    with pytest.raises(ConfigError) as caught:
        load_recipe(path, options)
    assert time.process_time() - began < 20
    assert len(said := str(caught.value)) < 30_000
    return said


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "x.toml"


TEXTS = {
    "600,000 keys": ("".join(f"k{i}=1\n" for i in range(600_000)), "x.toml: a recipe has up to 256 kB"),
    "digits": ("task = 'ner'\nx = " + "1" * 5000, "x.toml:2: a number of thousands of digits"),
    "hexadecimal digits": ("[btf]\nlr = 0x" + "f" * 9000, "x.toml:2: btf.lr: a number of over 64 bits"),
    "a deep key": ("# a\n" + ".".join("a" * 100_000) + " = 1", "x.toml:2: a key of over 32 parts"),
    "a deep key in quotes": (" . ".join(['"a b"'] * 30_000) + " = 1", "x.toml:1: a key of over 32 parts"),
    "a deep key of quotes": (".".join(['"\\" "', "'\\'"] * 15_000) + " = 1", "x.toml:1: a key of over 32 parts"),
    "no key": ("x = " + "a" * 250_000, "x.toml:1: not valid TOML"),
    "no keys": ("x = " + '"' * 250_000, "x.toml:1: not valid TOML"),
    "a deep key with quotes": (".".join(['"a"'] * 60_000) + " = 1", "x.toml:1: a key of over 32 parts"),
    "a deep header": (f"[{'.'.join('a' * 50)}]", "x.toml:1: a key of over 32 parts"),
    "deep tables": ("x = " + "{a=" * 200 + "1" + "}" * 200, "x.toml:1: nested too deeply"),
    "deep tables of dotted keys": ("x = " + "{a.a.a.a.a.a.a.a=" * 9 + "1" + "}" * 9, "x.toml:1: nested too deeply"),
    "an array of lines": ("targets = [\n" + "1,\n" * 80_000 + "]", "targets: 80,000 entries given, expected at most"),
    "tables": ("[[targets]]\n" * 20_000, "targets: 20,000 entries given, expected at most 1,000"),
    "a path with a NUL": ('[source]\nlanguage = "en"\ntrain = "a\\u0000b"', "a path with a NUL character"),
}


@pytest.mark.parametrize("case", TEXTS)
def test_recipes_beyond_all_limits(path: Path, case: str) -> None:
    text, message = TEXTS[case]
    assert message in refused(path, text)


def test_unknown_keys_are_counted(path: Path) -> None:
    said = refused(path, "".join(f"k{i} = 1\n" for i in range(20_000)))
    assert f"{path}:1: k0: unknown key in the recipe" in said
    assert f"{path}:21: k20: one of 19980 more unknown keys" in said
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, [f"k{i}=1" for i in range(3)])
    assert len(caught.value.problems) == 22


def test_wrong_values_are_counted(path: Path) -> None:
    said = refused(path, "task = 'ner'\nlabels = [\n" + "1,\n" * 5000 + "]\n")
    assert f"{LISTED} more" not in said
    assert said.count("\n") == LISTED + 1
    assert said.endswith("more")


@pytest.mark.parametrize(
    "option",
    [
        "x=" + "[" * 100_000,
        "finetune.lr=" + "1" * 5000,
        "finetune.epochs=0x" + "f" * 5000,
        ".".join("a" * 30_000) + "=1",
        "a" * 100_000 + "=1",
        "finetune.lr\0=1",
        "x=" + "{a=" * 3000,
        "targets." + "1" * 5000 + ".language=de",
    ],
    ids=lambda option: option[:12],
)
def test_options(path: Path, option: str) -> None:
    assert "--set " in refused(path, "", option)


def test_ordinary_recipes_are_not_touched() -> None:
    """Floats in a row and sentences with points are no deep keys."""
    text = f"x = [{', '.join(['0.5'] * 200)}]\ny = '{'e.g. this one. ' * 99}'\nz = {2**63 - 1}\nw = {-(2**63)}\n"
    assert parse_toml(text)["z"] == 2**63 - 1
    assert (
        20
        * max(len(file.read_text("utf-8")) for file in (Path(__file__).parents[3] / "data" / "recipes").glob("*.toml"))
        < LONGEST
    )
