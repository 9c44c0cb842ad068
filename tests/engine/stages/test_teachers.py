"""`selftrain.soft.teachers`: soft labels of several teachers."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from xlt_engine import Interrupted
from xlt_engine.data import ItemView
from xlt_engine.engine import estimate
from xlt_engine.engine.evaluation.inference import predict_logits
from xlt_engine.model import load_task_model

SHORT = ("checkpoint.seconds=60", "pretrain.epochs=0.4", "arms.baseline=false")
SEVERAL = ("selftrain.soft.teachers=seeds", "seeds=[0,1]")
TWICE = 'selftrain.stages=["soft","soft"]'


@pytest.fixture(scope="module")
def world(tiny_once: Any) -> Any:
    """The tiny recipe, and a run with the teachers of two seeds."""
    recipe = tiny_once("ner")
    recipe.run(*SHORT, *SEVERAL, TWICE, where="whole")
    return recipe


def stage_folder(recipe: Any, name: str, where: str = "whole", seed: int = 0) -> Path:
    return recipe.folder / where / f"seed-{seed}" / name


def labels_of(recipe: Any, name: str, where: str = "whole", seed: int = 0) -> np.ndarray:
    return load_file(stage_folder(recipe, name, where, seed) / "soft_labels.safetensors")["targets"]


def probabilities(recipe: Any, name: str, seed: int) -> np.ndarray:
    """float64 mean probability over the voters, [items, C]."""
    model = load_task_model(stage_folder(recipe, name, seed=seed))
    logits = predict_logits(model, ItemView(recipe.store(24, "whole", labelled=False)))
    return logits.double().softmax(-1).mean(0).numpy()


@pytest.mark.parametrize(("stage", "teacher"), [("de/soft1", "de/finetune"), ("de/soft2", "de/soft1")])
def test_labels_are_the_mean_over_teachers(world: Any, stage: str, teacher: str) -> None:
    found, said = labels_of(world, stage), [probabilities(world, teacher, seed) for seed in (0, 1)]
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, np.mean(said, axis=0), rtol=2e-6)
    np.testing.assert_array_equal(found, labels_of(world, stage, seed=1))
    assert world.stage(stage, "whole")["teachers"] == 2
    assert np.abs(found - said[0]).max() > 1e-3


def test_stages_come_after_the_teachers_of_all_seeds(world: Any) -> None:
    plan = world.plan(*SEVERAL, "selftrain.rounds=1.5")
    plain = world.plan("seeds=[0,1]", "selftrain.rounds=1.5")
    assert plan.keys() == plain.keys()
    place = {s.id: i for i, s in enumerate(plan.values())}
    assert all(place[other] < place[s.id] for s in plan.values() for other in s.inputs.values())
    assert plan["seed-1/de/soft2"].inputs["teacher"] == "seed-1/de/hard1"
    assert plan["seed-1/de/soft2"].inputs["teacher-0"] == "seed-0/de/hard1"
    changed = {name for name, stage in plain.items() if plan[name] != stage}
    assert changed == {f"{seed}de/soft{m}" for seed in ("", "seed-1/") for m in (1, 2)}


def test_a_stage_that_was_cut_off(world: Any) -> None:
    """Cut off in the soft stage and continued, the run ends in the same bits."""
    given = (*SHORT, *SEVERAL, "selftrain.rounds=0.5")
    steps = 0

    def stop() -> int:
        nonlocal steps
        steps += (stage_folder(world, "de/soft1", "cut") / "soft_labels.safetensors").exists()
        return 15 if steps == 3 else 0

    shutil.copytree(world.folder / "whole", world.folder / "cut")
    shutil.copytree(world.folder / "whole", world.folder / "uncut")
    for seed in (0, 1):
        shutil.rmtree(stage_folder(world, "de/soft1", "cut", seed))
    with pytest.raises(Interrupted):
        world.run(*given, where="cut", should_stop=stop)
    assert list((stage_folder(world, "de/soft1", "cut") / "checkpoint").glob("step-*"))
    world.run(*given, where="cut")
    world.run(*given, where="uncut")
    for seed in (0, 1):
        files = [stage_folder(world, "de/soft1", where, seed) / "model.safetensors" for where in ("cut", "uncut")]
        assert files[0].read_bytes() == files[1].read_bytes()


def test_one_seed_has_its_own_teacher_and_the_estimate_counts_teachers(world: Any) -> None:
    short = (*SHORT, "selftrain.rounds=0.5", "selftrain.soft.teachers=seeds")
    world.run(*short, where="alone", reuse=[world.folder / "whole"])
    assert "teachers" not in world.stage("de/soft1", "alone")
    read = [
        {s.id: s.read for s in estimate(world.resolved(*SHORT, *more), rate=1e9).stages}["seed-0/de/soft1"]
        for more in (("seeds=[0,1]",), SEVERAL)
    ]
    assert read[1] > read[0]
