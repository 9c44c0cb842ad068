"""`cotrain.model` and `teacher_folders` by the names of the Hugging Face hub, from its cache."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from xlt_engine import ModelError
from xlt_engine.engine import load_recipe
from xlt_engine.engine.recipe.load import model_names
from xlt_engine.engine.storage.files import read_json

from ...cli.test_hub import put as put_files

NAME, FIRST, SECOND = "org/tiny", "1" * 40, "2" * 40
TEACHER, COTRAIN = "selftrain.soft.teacher_folders", "cotrain.model"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def put(cache: Path, model: Path, commit: str) -> Path:
    """A model as `main` of the repository, of which a snapshot has no record of a stage."""
    names = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "xlt.json")
    return put_files(cache, {name: (model / name).read_bytes() for name in names}, commit)


def test_a_teacher_by_name(tiny: Any, cache: Path) -> None:
    """The same labels as by its folder; a run stays with the commit that it began with, unless a revision is named."""
    world = tiny("ner")
    alone = ("btf.on=false", "selftrain.rounds=0.5", "arms.baseline=false")
    world.run(*alone, where="alone")
    taught = {"where": "run", "reuse": [world.folder / "alone"]}
    first = put(cache, world.folder / "alone/seed-0/de/soft1", FIRST)
    by_name = (*alone, f'{TEACHER}=["{NAME}"]')
    world.run(*by_name, **taught)
    world.run(*alone, f'{TEACHER}=["{first}"]', where="by-path", reuse=[world.folder / "alone"])
    weights = world.stage("de/soft1")["hashes"]["model.safetensors"]
    assert weights == world.stage("de/soft1", "by-path")["hashes"]["model.safetensors"]
    assert weights != world.stage("de/soft1", "alone")["hashes"]["model.safetensors"]
    models = {f"{TEACHER}.0": f"{NAME}@{FIRST}"}
    assert read_json(world.folder / "run" / "run.json")["models"] == models
    second = put(cache, world.folder / "run/seed-0/de/soft1", SECOND)
    assert world.run(*by_name, **taught).done == ()
    assert read_json(world.folder / "run" / "run.json")["models"] == models
    assert world.resolved(*by_name).config.selftrain.soft.teacher_folders == (second,)
    assert world.run(*alone, f'{TEACHER}=["{NAME}@{SECOND}"]', **taught).done == ("seed-0/de/soft1",)


def test_a_second_encoder_by_name(tiny: Any, cache: Path) -> None:
    world = tiny("classification")
    put(cache, world.second_encoder(), FIRST)
    on = ("cotrain.on=true", "selftrain.on=false", "btf.on=false", f"{COTRAIN}={NAME}", "cotrain.lr=1e-2")
    world.run(*on, stage="pretrain")
    assert read_json(world.folder / "run" / "run.json")["models"] == {COTRAIN: f"{NAME}@{FIRST}"}
    shutil.copytree(
        cache / "models--org--tiny/snapshots" / FIRST, world.folder / NAME
    )  # beside the recipe: it goes before
    recipe = world.folder / "beside.toml"
    recipe.write_text(f'{world.recipe.read_text("utf-8")}\n[cotrain]\non = true\nmodel = "{NAME}"\n', "utf-8")
    assert load_recipe(recipe).config.cotrain.model == world.folder / NAME
    assert model_names(recipe, []) == []
    assert model_names(world.recipe, [f'{TEACHER}=["a/b", "{world.folder}"]', *on]) == [NAME, "a/b"]


def test_a_name_that_is_not_in_the_cache(tiny: Any, cache: Path) -> None:
    """It stands for the folder of that name, which may be still to come; a run says what it lacks."""
    world = tiny("ner")
    option = f'{TEACHER}=["org/absent"]'
    assert world.resolved(option).config.selftrain.soft.teacher_folders == (Path.cwd() / "org/absent",)
    with pytest.raises(ModelError, match=r"org/absent: no such model folder.*info ORG/NAME --download"):
        world.run("btf.on=false", "arms.baseline=false", option)
