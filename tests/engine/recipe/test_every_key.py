"""Every key of every packaged recipe, set to a wrong value, type or range: refused before the first step.

What is accepted has its reason here, and is built as a stage would build it. `XLT_TABLE=1 pytest -s` on this file
prints how many mutations there were, and what became of them.
"""

import dataclasses
import os
import re
import sys
import tomllib
import types
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import pytest
import torch
from torch import nn

import xlt_engine
from xlt_engine import ConfigError
from xlt_engine.engine import check, estimate
from xlt_engine.engine.recipe.config import RunConfig
from xlt_engine.engine.recipe.load import load_recipe
from xlt_engine.engine.recipe.schema import toml_key
from xlt_engine.engine.runs.graph import make_plan
from xlt_engine.engine.runs.prepare import setting_problems
from xlt_engine.engine.training.config import OptimizerConfig
from xlt_engine.engine.training.optimizer import lr_factor, make_optimizer
from xlt_engine.model import VoterHeads

FOLDER = Path(xlt_engine.__file__).parent / "data" / "recipes"
RECIPES = sorted(path.stem for path in FOLDER.glob("*.toml"))
WHOLE = ("demo", "wikineural")
ANY_TEXT = {
    "name": "any text is a name",
    "language": "any text is a language",
    "labels": "any text is a label; the training file is compared with it before the first step",
    "label_map": "any text is a label; the files are compared with it before the first step",
    **dict.fromkeys(
        ("words", "tags", "text", "pair", "label"), "any text is a column; the files are read before the first step"
    ),
    "template": "any text with its fields is a template",
    "draw": "any number is a seed",
    "seed": "any number is a seed",
    "seeds": "any number is a seed",
}
"""Last parts of keys, or what they end in, whose values no list can hold."""
FILES = "files and folders are looked for before the first step"
Hint = Any


def leaves(cls: type[Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Hint, dict[str, Any]]]:
    """Key, type and limits of every value below a table; of arrays of tables the first one's."""
    hints = get_type_hints(cls)
    for field in dataclasses.fields(cls):
        hint, key = hints[field.name], (*path, toml_key(field))
        inner = next((t for t in (hint, *get_args(hint)) if dataclasses.is_dataclass(t)), None)
        several = get_origin(hint) is tuple and inner is not None
        if inner is None:
            yield key, hint, dict(field.metadata)
        else:
            yield from leaves(inner, (*key, "0") if several and key != ("source",) else key)


def mutations(hint: Hint, limits: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Values in TOML that the type or the limits do not allow, or that mean nothing, each with its sort."""
    arms = [a for a in get_args(hint) if a is not type(None)] if _union(hint) else [hint]
    kinds = {get_origin(arm) or arm for arm in arms}
    yield ("type", "[[1]]") if tuple in kinds else ("type", "[1]")
    yield "type", "1979-05-27"
    if not kinds & {str, Path, dict, tuple} and Literal not in kinds:
        yield "value", '"no-such-value"'
    if Literal in kinds or str in kinds:
        yield "value", '"no-such-value"'
    if not kinds & {bool, int, float} and Literal not in kinds:
        yield "type", "true"
    if kinds & {int, float}:
        yield from (("range", "nan"), ("range", "-inf"))
        for name, beyond in (("min", -1), ("above", 0), ("max", 1), ("below", 0)):
            if name in limits:
                yield "range", repr(limits[name] + beyond)
    if int in kinds:
        yield "type", "0.5"


def _union(hint: Hint) -> bool:
    return get_origin(hint) in (Union, types.UnionType)


def reason(key: tuple[str, ...], hint: Hint) -> str:
    """Why a value is accepted; empty where there is no reason."""
    named = [part for part in key if not part.isdigit()]
    if "Path" in str(hint):
        return FILES
    for name, why in ANY_TEXT.items():
        if any(part == name or part.endswith(f"_{name}") for part in named[-1:]):
            return why
    return "" if "str" not in str(hint) else FILES if named[0] in ("model", "cotrain") else ""


def build(config: RunConfig) -> None:
    """What stages make of settings alone."""
    plan = make_plan(config)
    for stage in plan:
        weight = {"head.weight": nn.Parameter(torch.ones(2, 2))}
        assert isinstance(stage.training, OptimizerConfig)
        make_optimizer(weight, stage.training, torch.device("cpu"))
        assert 0 < lr_factor(1, 10, stage.training.warmup, stage.training.decay) <= 1
        assert stage.training.epochs > 0
        assert stage.training.batch_size >= 1
    if config.selftrain.widths:
        assert len(config.selftrain.widths) == config.selftrain.voters
        assert VoterHeads


def own_keys(recipe: str) -> set[tuple[str, ...]]:
    """The keys that a packaged recipe sets, of its tables of targets those of the first."""
    found = set[tuple[str, ...]]()

    def walk(table: dict[str, Any], path: tuple[str, ...]) -> None:
        for name, value in table.items():
            inner = value[0] if isinstance(value, list) and value and isinstance(value[0], dict) else value
            place = (*path, name, "0") if inner is not value and name != "source" else (*path, name)
            if isinstance(inner, dict):
                walk(inner, place)
            found.add(place)

    walk(tomllib.loads((FOLDER / f"{recipe}.toml").read_text(encoding="utf-8")), ())
    return found


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_wrong_value_is_refused_before_the_first_step(recipe: str, monkeypatch: Any, tmp_path: Path) -> None:
    """All keys there are in two recipes, and in the others those that they set."""
    monkeypatch.setenv("XLT_DATA", str(tmp_path))
    assert not list(setting_problems(load_recipe(recipe).config))
    own, found, late = own_keys(recipe), Counter[str](), list[str]()
    keys = [leaf for leaf in leaves(RunConfig) if recipe in WHOLE or leaf[0] in own]
    for key, hint, limits in keys:
        for sort, value in mutations(hint, limits):
            text = f"{'.'.join(key)}={value}"
            try:
                config = load_recipe(recipe, [text]).config
                problems = [f"{place}: {said}" for place, said in setting_problems(config)]
            except ConfigError as error:
                problems = [str(error)]
            if problems:
                found[f"{sort} refused"] += 1
                assert sort == "value" or key[-1] in " ".join(problems), (text, problems)
                continue
            build(config)
            found["accepted with a reason"] += 1
            if not reason(key, hint):
                late.append(text)
    if os.environ.get("XLT_TABLE"):
        sys.stdout.write(f"{recipe}: {len(keys)} keys, {sum(found.values())} mutations: {dict(found)}; late: {late}\n")
    assert not late
    assert found["type refused"] > 2 * len(keys)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "selftrain.alpha.rule=second-diference",
            "selftrain.alpha.rule: unknown threshold rule 'second-diference': did",
        ),
        (
            "selftrain.alpha.rule=precision:7",
            "selftrain.alpha.rule: threshold rule 'precision:7': write precision:<num",
        ),
        ("selftrain.alpha.upper=0.4", "selftrain.alpha.upper: no threshold between 0.5 and 0.4"),
        ("model.new.num_heads=7", "model.new: encoder configuration: "),
        ("reader.encoding=utf-9", "reader.encoding: unknown encoding 'utf-9'"),
    ],
)
def test_check_and_run_say_the_same(tiny: Any, text: str, said: str) -> None:
    """Of what was found in the first hard stage once, or when a vocabulary had been trained."""
    world = tiny("ner")
    report = check(world.recipe, overrides=[text])
    assert any(said in problem.message for problem in report.problems), report.problems
    with pytest.raises(ConfigError, match=re.escape(said)):
        world.run(text)
    with pytest.raises(ConfigError, match=re.escape(said)):
        estimate(world.recipe, overrides=[text])
    assert not (world.folder / "run" / "seed-0").exists()
