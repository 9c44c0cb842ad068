"""`cotrain.model` by the names of the Hugging Face hub, from its cache."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from xlt_engine.engine import load_recipe
from xlt_engine.engine.recipe.load import model_names
from xlt_engine.engine.storage.files import read_json

from ...cli.test_hub import put as put_files

NAME, FIRST, SECOND = "org/tiny", "1" * 40, "2" * 40
COTRAIN = "cotrain.model"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def put(cache: Path, model: Path, commit: str) -> Path:
    """A model as `main` of the repository, of which a snapshot has no record of a stage."""
    names = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "xlt.json")
    return put_files(cache, {name: (model / name).read_bytes() for name in names}, commit)


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
    assert model_names(world.recipe, on) == [NAME]
