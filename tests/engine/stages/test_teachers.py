"""`selftrain.soft.teachers` and `teacher_folders`: soft labels of several teachers, and what is refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from xlt_engine import ConfigError, Interrupted, ModelError
from xlt_engine.data import ItemView, Tokenizer, TokenStore
from xlt_engine.engine import check, estimate
from xlt_engine.engine.evaluation.inference import predict_logits
from xlt_engine.engine.runs.graph import make_plan
from xlt_engine.engine.stages.teachers import Average, same_items
from xlt_engine.model import load_task_model

SHORT = ("checkpoint.seconds=60", "pretrain.epochs=0.4", "arms.baseline=false")
SEVERAL = ("selftrain.soft.teachers=seeds", "seeds=[0,1]")
TWICE = 'selftrain.stages=["soft","soft"]'


@pytest.fixture(scope="module")
def world(tiny_once: Any) -> Any:
    """The tiny recipe with a finished model of another vocabulary, and a run with the teachers of two seeds and it."""
    recipe = tiny_once("ner")
    recipe.run("checkpoint.seconds=60", "model.new.vocab_size=60", "btf.on=false", stage="finetune", where="other")
    recipe.run(*SHORT, *SEVERAL, by_folder(recipe), TWICE, where="whole")
    return recipe


def by_folder(recipe: Any, *more: Path) -> str:
    paths = [recipe.folder / "other" / "seed-0" / "baseline", *more]
    return f"selftrain.soft.teacher_folders={json.dumps([str(p) for p in paths])}"


def stage_folder(recipe: Any, name: str, where: str = "whole", seed: int = 0) -> Path:
    return recipe.folder / where / f"seed-{seed}" / name


def labels_of(recipe: Any, name: str, where: str = "whole", seed: int = 0) -> np.ndarray:
    return load_file(stage_folder(recipe, name, where, seed) / "soft_labels.safetensors")["targets"]


def pool_of(recipe: Any, tokenizer: Tokenizer) -> TokenStore:
    """The unlabelled target text as a tokenizer sees it."""
    for folder in sorted((recipe.folder / "whole" / "store").iterdir()):
        store = TokenStore.open(folder)
        fits = store.task == "ner" and len(store) == 24 and store.tokenizer_fingerprint == tokenizer.fingerprint
        if fits and store.item_labels is not None and store.item_labels.max() < 0:
            return store
    raise AssertionError("no such store")


def probabilities(folder: Path, store: TokenStore) -> dict[tuple[int, int], np.ndarray]:
    """float64 mean probability over the voters, for each example and word that the store has."""
    logits = predict_logits(load_task_model(folder), ItemView(store)).double()
    values = logits.softmax(-1).mean(0).numpy()
    words = [(i, int(word)) for i in range(len(store)) for word in store.items(i)[1]]
    return dict(zip(words, values, strict=True))


def reference(recipe: Any, names: list[str], weights: list[float]) -> np.ndarray:
    """The weighted mean over the seeds' teachers and the folder, word by word; a word it does not know is left out."""
    folders = [stage_folder(recipe, name, seed=seed) for name in names for seed in (0, 1)]
    folders.append(stage_folder(recipe, "baseline", "other"))
    said = [probabilities(folder, pool_of(recipe, Tokenizer.from_folder(folder))) for folder in folders]
    expected = []
    for word in said[0]:
        known = [(p[word], w) for p, w in zip(said, weights, strict=True) if word in p]
        expected.append(np.average([p for p, _ in known], axis=0, weights=[w for _, w in known]))
    return np.array(expected)


@pytest.mark.parametrize(("stage", "teacher"), [("de/soft1", "de/finetune"), ("de/soft2", "de/soft1")])
def test_labels_are_the_mean_over_teachers(world: Any, stage: str, teacher: str) -> None:
    found = labels_of(world, stage)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, reference(world, [teacher], [1, 1, 1]), atol=2e-7)
    np.testing.assert_array_equal(found, labels_of(world, stage, seed=1))
    assert world.stage(stage, "whole")["teachers"] == 3
    alone = probabilities(
        stage_folder(world, teacher), pool_of(world, Tokenizer.from_folder(world.folder / "whole/tokenizer"))
    )
    assert np.abs(found - np.array(list(alone.values()))).max() > 1e-3


def test_the_other_vocabulary_cuts_words(world: Any) -> None:
    """Otherwise the test above would not see what happens to words that a folder's model does not know."""
    stores = [pool_of(world, Tokenizer.from_folder(world.folder / f"{name}/tokenizer")) for name in ("whole", "other")]
    where = same_items(*stores)
    assert 0 < (where < 0).sum() < len(where)
    words = [[(i, int(w)) for i in range(24) for w in store.items(i)[1]] for store in stores]
    assert [words[1].index(w) if w in words[1] else -1 for w in words[0]] == where.tolist()


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


def test_weights_and_a_stage_that_was_cut_off(world: Any) -> None:
    """Cut off in the soft stage and continued, the run ends in the same bits; weights are those of the recipe."""
    given = (*SHORT, *SEVERAL, by_folder(world), "selftrain.rounds=0.5", "selftrain.soft.teacher_weights=[1,4]")
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
    np.testing.assert_allclose(
        labels_of(world, "de/soft1", "cut"), reference(world, ["de/finetune"], [1, 1, 4]), atol=2e-7
    )


def test_what_is_in_a_folder_decides_not_where_it_is(world: Any) -> None:
    moved = world.folder / "moved"
    shutil.copytree(stage_folder(world, "baseline", "other"), moved)
    plans = [make_plan(world.resolved(f'selftrain.soft.teacher_folders=["{p}"]').config) for p in (moved, "x")]
    assert [s.settings for s in plans[0]] == [s.settings for s in plans[1]]
    same = (*SHORT, *SEVERAL, TWICE, f'selftrain.soft.teacher_folders=["{moved}"]')
    assert world.run(*same, where="whole").done == ()
    record = json.loads((moved / "stage.json").read_bytes())
    tensors = load_file(moved / "model.safetensors")
    for key in ("checksum", "hashes"):  # what is no more as it was written says so
        del record[key]
    (moved / "stage.json").write_text(json.dumps(record | {"uses_target_labels": True}))
    from safetensors.numpy import save_file

    save_file({n: t + (0.01 if n == "classifier.bias" else 0) for n, t in tensors.items()}, moved / "model.safetensors")
    result = world.run(*same, where="changed", reuse=[world.folder / "whole"], stage="seed-0/de/soft1")
    assert result.done == ("seed-0/de/soft1",)
    before, after = (world.json("de/soft1/fingerprint.json", where) for where in ("whole", "changed"))
    assert {key for key in after if after[key] != before.get(key)} == {"input.teacher.folder-0"}
    assert world.stage("de/soft1", "changed")["uses_target_labels"] is True
    assert world.stage("de/soft1", "whole")["uses_target_labels"] is False


def test_one_seed_is_warned_of_and_the_estimate_counts_teachers(world: Any) -> None:
    short = (*SHORT, "selftrain.rounds=0.5", "selftrain.soft.teachers=seeds")
    world.run(*short, where="alone", reuse=[world.folder / "whole"])
    assert [w["name"] for w in world.stage("de/soft1", "alone")["warnings"]] == ["one-teacher"]
    assert "teachers" not in world.stage("de/soft1", "alone")
    read = [
        {s.id: s.read for s in estimate(world.resolved(*SHORT, *more), rate=1e9).stages}["seed-0/de/soft1"]
        for more in ((), (by_folder(world),))
    ]
    assert read[1] > read[0]


def folder_of(world: Any, name: str, **changes: Any) -> Path:
    """The finished model with entries of `config.json` and `xlt.json` changed."""
    place: Path = world.folder / name
    shutil.copytree(stage_folder(world, "baseline", "other"), place)
    (place / "stage.json").unlink()  # which would say that the files have changed
    for file in ("config.json", "xlt.json"):
        values = json.loads((place / file).read_bytes())
        (place / file).write_text(json.dumps(values | {k: v for k, v in changes.items() if k in values}))
    return place


@pytest.mark.fault(38)
def test_labels_in_another_order_are_put_in_order(world: Any) -> None:
    """A folder whose classes are listed backwards, rows of its classifier with them, teaches the same."""
    from safetensors.numpy import save_file

    names = json.loads((stage_folder(world, "baseline", "other") / "xlt.json").read_bytes())["labels"][::-1]
    id2label = {str(i): label for i, label in enumerate(names)}
    turned = folder_of(world, "turned", labels=names, id2label=id2label, label2id={x: i for i, x in enumerate(names)})
    tensors = load_file(turned / "model.safetensors")
    save_file(
        {n: t[::-1].copy() if n.startswith("classifier") else t for n, t in tensors.items()},
        turned / "model.safetensors",
    )
    given = (*SHORT, *SEVERAL, "selftrain.rounds=0.5", f'selftrain.soft.teacher_folders=["{turned}"]')
    world.run(*given, where="turned-run", reuse=[world.folder / "whole"], stage="seed-0/de/soft1")
    np.testing.assert_allclose(labels_of(world, "de/soft1", "turned-run"), labels_of(world, "de/soft1"), atol=1e-7)


def test_what_cannot_teach_is_refused(world: Any) -> None:
    base = (*SHORT, "selftrain.rounds=0.5")
    pretrained = stage_folder(world, "pretrain", "other")
    names = ["O", "B-ORG", "I-ORG", "B-PER", "I-PER"]
    other = folder_of(
        world,
        "labels",
        labels=names,
        id2label={str(i): x for i, x in enumerate(names)},
        label2id={x: i for i, x in enumerate(names)},
    )
    for folder, message in (
        (pretrained, "holds no tagger or classifier, the task is ner"),
        (other, r"its labels are O, B-ORG, I-ORG, B-PER, I-PER, the run's are O, B-LOC"),
        (world.folder / "nowhere", "nowhere"),
    ):
        option = f'selftrain.soft.teacher_folders=["{folder}"]'
        with pytest.raises(ModelError, match=message):
            world.run(*base, option, where="refused")
        problems = check(world.recipe, [*base, option], rate=1e9).problems
        assert any("selftrain.soft.teacher_folders.0" in str(p) for p in problems)
    assert not list((world.folder / "refused").glob("seed-*/*/stage.json"))
    with pytest.raises(ConfigError, match="cuts words into other sub-tokens"):
        world.run(*base, by_folder(world), "selftrain.soft.positions=all", where="refused")


def test_average_leaves_out_what_is_not_known() -> None:
    rng = np.random.default_rng(0)
    values = rng.random((3, 5, 4)).astype(np.float32)
    known = np.array([[1, 1, 1, 1, 1], [1, 0, 1, 0, 1], [0, 0, 1, 1, 1]], dtype=bool)
    weights = (1.0, 0.5, 3.0)
    average = Average()
    for v, w, k in zip(values, weights, known, strict=True):
        average.add(v, w, k)
    mass = known * np.array(weights)[:, None]
    expected = (values.astype(np.float64) * mass[..., None]).sum(0) / mass.sum(0)[:, None]
    np.testing.assert_allclose(average.result(), expected, atol=2e-7)
    alone = Average()
    alone.add(values[0])
    assert torch.equal(torch.from_numpy(alone.result()), torch.from_numpy(values[0]))
