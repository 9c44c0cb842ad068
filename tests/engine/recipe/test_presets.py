"""A preset fills in what a recipe leaves open, and nothing else."""

from pathlib import Path

import pytest

from xlt_engine.engine.recipe.load import RecipeError, load_recipe

RECIPE = """task = "{task}"
labels = {labels}
[model]
path = "m"
[source]
language = "en"
train = "a"
[[targets]]
language = "de"
unlabelled = ["b"]
"""
LABELS = {"ner": '["O", "B-X", "I-X"]', "tag": '["N", "V"]', "classification": '["x", "y"]'}


def values(folder: Path, task: str, more: str, *overrides: str) -> tuple[object, ...]:
    path = folder / "r.toml"
    path.write_text(RECIPE.format(task=task, labels=LABELS[task]) + more, encoding="utf-8")
    config = load_recipe(path, overrides).config
    table = config.selftrain
    return config.prediction, table.word_pooling, table.source_prior, table.restore, table.soft.teachers


@pytest.mark.parametrize(
    ("task", "best"),
    [
        ("ner", ("valid", 0.6, 0.75, "finetuned", "seeds")),
        ("tag", ("mean", 0.0, 0.0, "base", "one")),
        ("classification", ("mean", 0.6, 0.75, "finetuned", "seeds")),
    ],
)
def test_what_is_left_open_is_the_presets(tmp_path: Path, task: str, best: tuple[object, ...]) -> None:
    assert values(tmp_path, task, "", "preset=best") == best
    assert values(tmp_path, task, "") == values(tmp_path, task, "", "preset=paper") == ("mean", 0.0, 0.0, "base", "one")


def test_what_the_recipe_or_an_option_says_stays_and_origins_tell(tmp_path: Path) -> None:
    more = "[selftrain]\nword_pooling = 0.2\n"
    assert values(tmp_path, "ner", more, "preset=best", "prediction=mean") == ("mean", 0.2, 0.75, "finetuned", "seeds")
    origins = load_recipe(tmp_path / "r.toml", ["preset=best", "prediction=mean"]).origins
    places = [origins[f"selftrain.{key}"] for key in ("word_pooling", "source_prior", "cap")]
    assert places == [f"{tmp_path / 'r.toml'}:12", "preset best", "default"]
    assert origins["prediction"] == "--set"


def test_faults_beside_a_preset_are_named_as_without(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="selftrain.soft"):
        values(tmp_path, "ner", "[selftrain]\nsoft = 3\n", "preset=best")
    with pytest.raises(RecipeError, match="preset"):
        values(tmp_path, "ner", "", "preset=finest")
