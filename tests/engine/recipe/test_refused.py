"""Keys that do not go together, or lack what they need: refused with the key and what to do, by each method."""

from typing import Any

import pytest

from xlt_engine import ConfigError
from xlt_engine.engine import load_recipe

TEXTS = "classification"
COTRAIN = ("cotrain.on=true", "selftrain.on=false", "btf.on=false")
ALIGN = ("contrastive.on=true", "selftrain.on=false", "btf.on=false")
INDUCE = "augment.code_switch.induce=true"


@pytest.mark.parametrize(
    ("task", "overrides", "message"),
    [
        (TEXTS, ("source.per_class=3", "source.cap=4"), r"source\.per_class: is given, and so is source\.cap"),
        (TEXTS, ("targets.0.per_class=3",), r"targets\.0\.labelled is missing"),
        (TEXTS, ("finetune.source_mix=weights",), "source_mix: is weights, but there is one source"),
        (TEXTS, (*COTRAIN, 'cotrain.modes=["both"]'), 'expected "co", "self-a" or "self-b"'),
        (TEXTS, (*COTRAIN, "cotrain.modes=[]"), "give each mode once"),
        (TEXTS, (*COTRAIN, "task=ner"), "co-training is for classification"),
        (TEXTS, (*COTRAIN, "targets=[{language='de'}]"), "co-training needs unlabelled text"),
        (TEXTS, (*COTRAIN, "cotrain.threshold=1.5"), "at most 1"),
        (TEXTS, (*COTRAIN, "cotrain.start=adapted"), "start: is adapted, but contrastive.on is false"),
        (TEXTS, (*ALIGN, "task=ner"), "contrastive adaptation is for classification"),
        (TEXTS, (*ALIGN, "contrastive.temperature=0"), "greater than 0"),
        ("ner", (INDUCE, 'augment.code_switch.dictionaries=["a.tsv"]'), "induce: is on, and dictionaries are given"),
        ("ner", ("pretrain.further=true",), r"pretrain.further: is on, but \[model.new\]"),
    ],
)
def test_what_does_not_go_together_is_refused(tiny: Any, task: str, overrides: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tiny(task).resolved(*overrides)


def test_the_best_epoch_needs_a_dev_file_which_no_made_world_has(tiny: Any) -> None:
    world, message = tiny("ner"), r"training\.keep: is best, but source\.dev is missing"
    world.rewrite(('dev = "dev.conll"\n', ""))
    for recipe in (world.recipe, "demo"):
        with pytest.raises(ConfigError, match=message):
            load_recipe(recipe, ("training.keep=best",))


OFF = (
    *("finetune.source_temperature", "augment.", "source.", "targets."),
    *("contrastive.", "cotrain."),
)


@pytest.mark.parametrize("task", ["ner", "classification"])
def test_what_is_off_is_in_no_stage_and_no_fingerprint(tiny: Any, task: str) -> None:
    plan = tiny(task).plan("seeds=[0,1]", "arms.control=true")
    assert "de/soft2" in plan
    for stage in plan.values():
        assert not [key for key in stage.settings if key.startswith(OFF)], stage.id
        assert not stage.options.keys() - {"text"}, stage.id
        assert not stage.additions, stage.id
        assert not [role for role in stage.inputs if role.startswith("teacher-")], stage.id
