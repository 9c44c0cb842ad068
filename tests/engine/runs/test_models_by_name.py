"""`cotrain.model` by the name of the Hugging Face hub, from its cache."""

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
ON = ("cotrain.on=true", "selftrain.on=false", "btf.on=false", "cotrain.lr=1e-2")
BY_NAME = f"cotrain.model={NAME}"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def put(cache: Path, model: Path, commit: str) -> Path:
    """A model as `main` of the repository, of which a snapshot has no record of a stage."""
    names = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "xlt.json")
    return put_files(cache, {name: (model / name).read_bytes() for name in names}, commit)


def test_a_second_encoder_by_name(tiny: Any, cache: Path) -> None:
    """A run stays with the commit that it began with, unless a revision is named; a folder of that name goes before."""
    world = tiny("classification")
    encoder = world.second_encoder()
    first = put(cache, encoder, FIRST)

    def models() -> Any:
        return read_json(world.folder / "run" / "run.json")["models"]

    world.run(*ON, BY_NAME, stage="pretrain")
    assert models() == {"cotrain.model": f"{NAME}@{FIRST}"}
    second = put(cache, encoder, SECOND)
    world.run(*ON, BY_NAME, stage="pretrain")
    assert models() == {"cotrain.model": f"{NAME}@{FIRST}"}
    assert world.resolved(*ON, BY_NAME).config.cotrain.model == second
    world.run(*ON, f"{BY_NAME}@{SECOND}", stage="pretrain")
    assert models() == {"cotrain.model": f"{NAME}@{SECOND}"}
    shutil.copytree(first, world.folder / NAME)
    recipe = world.folder / "beside.toml"
    recipe.write_text(f'{world.recipe.read_text("utf-8")}\n[cotrain]\non = true\nmodel = "{NAME}"\n', "utf-8")
    assert load_recipe(recipe).config.cotrain.model == world.folder / NAME
    assert model_names(recipe, []) == []
    assert model_names(world.recipe, [*ON, BY_NAME]) == [NAME]


def test_a_name_that_is_not_in_the_cache(tiny: Any, cache: Path) -> None:
    """It stands for the folder of that name, which may be still to come; a run says what it lacks."""
    world, option = tiny("classification"), "cotrain.model=org/absent"
    assert world.resolved(*ON, option).config.cotrain.model == Path.cwd() / "org/absent"
    with pytest.raises(ModelError, match=r"org/absent: no such model folder.*info ORG/NAME --download"):
        world.run(*ON, option)
