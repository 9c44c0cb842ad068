"""One student for several targets, against each target's text taken by itself."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from xlt_engine import ConfigError
from xlt_engine.data import ItemView, Tokenizer, TokenStore, rng_for
from xlt_engine.engine import load_recipe
from xlt_engine.engine.evaluation import voted
from xlt_engine.engine.evaluation.inference import predict_logits
from xlt_engine.engine.lab.studies.finished_run import FinishedRun
from xlt_engine.engine.preflight.checker import check
from xlt_engine.engine.preflight.cost import estimate
from xlt_engine.engine.report.parts import load_run
from xlt_engine.engine.runs.graph import chosen_stages, make_plan
from xlt_engine.engine.runs.prepare import make_context
from xlt_engine.engine.runs.verify import verify_run
from xlt_engine.engine.stages import round_decision
from xlt_engine.engine.stages.datasets import Datasets, capped
from xlt_engine.engine.stages.decision_files import SOFT_LABELS, decided_arrays, of_one_target
from xlt_engine.engine.stages.pool import correction, pool_store
from xlt_engine.engine.storage.names import of_target
from xlt_engine.engine.storage.run_folder import RunDir
from xlt_engine.engine.summary.answer import answers
from xlt_engine.engine.summary.stage_table import aggregate
from xlt_engine.engine.training.progress import Progress
from xlt_engine.kernels import votes
from xlt_engine.model import load_task_model

DUTCH = {"positive": ["goed", "mooi", "prachtig", "knap"], "negative": ["slecht", "zwak", "naar", "saai"]}
SHARED = "Paris Berlin Madrid"
CAP = 20
SETTINGS = ("selftrain.rounds=1", f"selftrain.cap={CAP}")
SETTINGS += ("selftrain.alpha.rule=fixed:0.55", "selftrain.soft.epochs=3", "btf.cap=22", "threads=1")


def dutch(number: int) -> tuple[str, str]:
    label = ("positive", "negative")[number % 3 == 0]
    words = DUTCH[label]
    return f"het boek nummer {number} {words[number % 4]} {words[number // 4 % 4]} .", label


def with_dutch(recipe: Any, together: str = "true") -> Any:
    """The tiny recipe with a second target of more texts and other shares of its classes; one text is in both."""
    folder = recipe.folder
    rows = "".join("\t".join(dutch(n)) + "\n" for n in range(50, 60))
    (folder / "test-nl.tsv").write_text(f"text\tlabel\n{rows}", "utf-8")
    (folder / "nl.txt").write_text("".join(f"{t}\n" for t in [SHARED, *(dutch(n)[0] for n in range(30))]), "utf-8")
    (folder / "de.txt").write_text(f"{(folder / 'de.txt').read_text('utf-8')}{SHARED}\n", "utf-8")
    block = recipe.table("[[targets]]", "[pretrain]").replace('"de"', '"nl"').replace('"de.txt"', '"nl.txt"')
    recipe.rewrite(("[pretrain]", block.replace("test-de", "test-nl") + "[pretrain]"))
    recipe.rewrite(("\n", f"\ntargets_together = {together}\n"))
    return recipe


@pytest.fixture(scope="module")
def ran(tiny_once: Any) -> Any:
    recipe = with_dutch(tiny_once("classification"))
    recipe.result = recipe.run(*SETTINGS)
    return recipe


def pool_of(recipe: Any, *languages: str) -> TokenStore:
    config = load_recipe(recipe.recipe, SETTINGS).config
    data = Datasets(config, Tokenizer.from_folder(folder(recipe, "soft1")), recipe.folder / "elsewhere")
    return data.target_pool(*config.targets_of(languages))


def folder(recipe: Any, stage: str) -> Path:
    return Path(recipe.result.folder) / "seed-0" / "de+nl" / stage


def test_plan_has_one_student_and_is_that_of_today_without(tiny: Any) -> None:
    recipe = with_dutch(tiny("classification"))
    config, apart = (recipe.resolved(*SETTINGS, f"targets_together={x}").config for x in ("true", "false"))
    plan = make_plan(config)
    names = ["pretrain", "baseline", *(f"de+nl/{name}" for name in ("btf", "finetune", "soft1", "hard1"))]
    assert [s.id for s in plan] == [f"seed-0/{name}" for name in names]
    assert {s.pair for s in plan} == {None, "de+nl"}
    # It serves both: asked for one, the run makes the same stages.
    assert chosen_stages(config, targets=["nl"]) == plan
    assert {s.pair for s in make_plan(apart)} == {None, "de", "nl"}
    lone = tiny("ner").resolved("targets_together=true").config
    assert make_plan(lone) == make_plan(tiny("ner").resolved().config)
    # Co-training has had a pool of all texts before.
    on = ("cotrain.on=true", "cotrain.iterations=2")
    together = [s for s in make_plan(recipe.resolved(*on).config) if s.kind == "cotrain"]
    pooled = make_plan(recipe.resolved(*on, "targets_together=false", "cotrain.pool=all").config)
    assert together == [s for s in pooled if s.kind == "cotrain"]


def test_recipes_that_cannot_be_together(tiny: Any) -> None:
    recipe = with_dutch(tiny("classification"))
    with pytest.raises(ConfigError, match=r"targets_together.*dictionary of one"):
        recipe.resolved("augment.code_switch.induce=true")
    recipe.rewrite(('"nl"', '"n+l"'))
    with pytest.raises(ConfigError, match=r"targets.1.language: has a \+"):
        recipe.resolved()


def test_text_of_each_target_is_that_which_it_has_alone(ran: Any) -> None:
    whole, alone = pool_of(ran, "de", "nl"), [pool_of(ran, x) for x in ("de", "nl")]
    assert [len(store) for store in alone] == [25, 31]  # the shared text is in both
    assert whole.languages == ("de", "nl")
    assert np.array_equal(whole.token_ids, np.concatenate([store.token_ids for store in alone]))
    # BTF: 24 source texts, 22 of each target, all drawn up to the largest.
    assert ran.stage("de+nl/btf")["examples_per_epoch"] == [24, 24, 24]


def test_pool_has_the_choice_of_each_target(ran: Any) -> None:
    pool = decided_arrays(folder(ran, "hard1"))["target.pool"]
    chosen = [capped(len(pool_of(ran, x)), CAP, 0, x) for x in ("de", "nl")]
    assert np.array_equal(np.flatnonzero(pool), np.concatenate([chosen[0], 25 + chosen[1]]))
    assert ran.stage("de+nl/soft1")["examples"] == 2 * CAP


def test_soft_labels_of_each_target_are_the_teachers(ran: Any) -> None:
    taught, teacher = decided_arrays(folder(ran, "soft1"), SOFT_LABELS)["targets"], folder(ran, "finetune")
    for language, first in (("de", 0), ("nl", 25)):
        store = pool_of(ran, language)
        chosen = capped(len(store), CAP, 0, language)
        said = torch.softmax(predict_logits(load_task_model(teacher), ItemView(store), chosen)[0], dim=-1)
        assert np.allclose(taught[first + chosen], said[chosen], atol=1e-6)


def said_logits(model: object, view: ItemView, examples: np.ndarray, **passes: Any) -> torch.Tensor:
    """Logits that depend on the name of an example alone."""
    draws = [rng_for(0, name).normal(size=(4, 2)) for name in view.store.example_ids]
    logits = [draw[0] * [2, 1] + draw[1:] / 4 for draw in draws]  # voters that mostly agree, one class surer
    return torch.from_numpy(np.stack(logits, axis=1)).float()


@pytest.mark.parametrize("correction", [(), ("selftrain.word_pooling=0.6", "selftrain.source_prior=0.75")])
def test_decision_on_each_target_is_that_of_a_run_apart(
    ran: Any, correction: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the same votes on the same texts: what is accepted, by shares of each target's own classes, and why."""
    monkeypatch.setattr(voted, "predict_logits", said_logits)
    monkeypatch.setattr(voted, "predict_votes", lambda *args, **passes: votes(said_logits(*args)))
    decided: dict[str, Any] = {}
    for together in ("true", "false"):
        config = ran.resolved(*SETTINGS, *correction, f"targets_together={together}").config
        with RunDir(ran.folder / "run") as home:
            context = make_context(config, home, Progress())
            for stage in (s for s in make_plan(config) if s.kind == "hard"):
                rules = round_decision.Rules.of(context)
                said = round_decision.collect_votes(context, stage, None)  # type: ignore[arg-type]
                decision = round_decision.decide(said, rules)
                decided[str(stage.pair)] = round_decision.record(context, stage, rules, said, decision)
    both, arrays = decided["de+nl"]
    for language in ("de", "nl"):
        (alone, alone_arrays), record = decided[language], of_target(both, language)
        own = of_one_target(record, arrays)
        assert own.keys() == alone_arrays.keys()
        assert all(np.array_equal(own[name], alone_arrays[name]) for name in own)
        differing = {key for key in record if record[key] != alone.get(key)}
        assert differing == {"targets", "items_at", "examples_at"}
        assert 0 < record["accepted"] < record["items"] == CAP
    parts = both["targets"].values()
    assert [both[key] for key in ("items", "accepted")] == [sum(p[key] for p in parts) for key in ("items", "accepted")]


def test_a_target_of_which_nothing_is_in_play_is_left_alone(ran: Any) -> None:
    config = ran.resolved(*SETTINGS, "selftrain.word_pooling=0.6", "selftrain.source_prior=0.75").config
    with RunDir(ran.folder / "run") as home:
        context = make_context(config, home, Progress())
        (stage,) = (s for s in make_plan(config) if s.name == "soft1")
        store = pool_store(context, stage)
        said = np.zeros((int(store.item_offsets[-1]), 2), dtype=np.float32)
        said[:25] = (0.3, 0.7)  # those of the first target
        correct = correction(context, store)
        assert correct is not None
        found = correct(said)
    assert (found[:25].sum(axis=1) > 0.99).all()
    assert not found[25:].any()


def test_each_target_is_a_part_of_the_hard_stage(ran: Any) -> None:
    record, hard = ran.json("de+nl/hard1/decision.json"), ran.stage("de+nl/hard1")
    assert hard["target_examples"] == record["accepted"] == sum(p["accepted"] for p in record["targets"].values())


def test_rows_models_and_studies_are_by_target(ran: Any) -> None:
    home, summary = Path(ran.result.folder), ran.result.summary
    result = aggregate(summary)
    assert {s.stage: set(s.targets) for s in result.stages} == {
        name: {"de", "nl"} for name in ("zero-shot", "btf", "soft1", "hard1")
    }
    last = {r["language"]: r for r in summary["rows"] if r["stage"] == "hard1" and r["metric"] == "accuracy"}
    record = ran.json("de+nl/hard1/decision.json")
    for language in ("de", "nl"):
        assert last[language]["accepted"] == record["targets"][language]["accepted"]
        assert (home / "models" / language).resolve() == answers(home)[language].folder.resolve()
        assert answers(home)[language].stage.startswith("seed-0/de+nl/")
        figures = ran.stage("de+nl/soft1")["against_teacher"]["targets"][language]
        assert figures["examples"] == figures["items"] == CAP
    decisions = load_run(home).decisions
    assert {key: d["accepted"] for key, d in decisions.items()} == {
        (language, 1, 0): record["targets"][language]["accepted"] for language in ("de", "nl")
    }
    found = {stage.pair: arrays for stage, _, arrays in FinishedRun.open(home).decisions()}
    assert {pair: len(arrays["target.reason"]) for pair, arrays in found.items()} == {"de": 25, "nl": 31}
    assert not verify_run(home).damaged


def test_again_nothing_is_made_and_the_estimate_knows_the_steps(ran: Any) -> None:
    assert ran.run(*SETTINGS, targets=["nl"]).done == ()
    stages = {s.id.rpartition("/")[2]: s for s in estimate(ran.recipe, overrides=SETTINGS).stages}
    for name in ("btf", "finetune", "soft1"):
        assert stages[name].steps == ran.stage(f"de+nl/{name}")["steps"]
    assert ran.stage("de+nl/hard1")["steps"] <= stages["hard1"].steps
    assert check(ran.recipe, SETTINGS).ok
