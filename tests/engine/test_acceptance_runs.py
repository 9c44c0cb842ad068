"""The acceptance options in tiny runs: fingerprints, decision records, warnings, and what the hard stage trains on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from xlt_engine import ConfigError
from xlt_engine.data import ItemView, Tokenizer, TokenStore
from xlt_engine.engine import load_recipe, predict
from xlt_engine.engine.decisions import Reason
from xlt_engine.engine.inference import predict_logits
from xlt_engine.engine.opening import stored_scale
from xlt_engine.engine.plan import fingerprint, make_plan
from xlt_engine.model import load_task_model

TRAINED = ("finetune.epochs=12", "selftrain.soft.epochs=25", "selftrain.soft.lr=0.01")
ONE = ("selftrain.rounds=1", "checkpoint.seconds=60", "selftrain.alpha.min_kept=2", *TRAINED)
OPTIONS = {
    "accept": "class-balanced",
    "outside": "source-ratio",
    "consistency": 2,
    "diversity": "bootstrap",
    "source_filter": "agreed",
    "alpha.per_class": "true",
    "alpha.calibrate": "temperature",
}


class Runs:
    def __init__(self, run: Any) -> None:
        self.run, self.count = run, 0
        run.run(*ONE, where="base")

    def again(self, *overrides: str) -> tuple[Path, dict[str, Any], list[str]]:
        """The hard stage's folder and decision, and the stages that were made anew."""
        self.count += 1
        where = f"again-{self.count}"
        shutil.copytree(self.run.folder / "base", self.run.folder / where)
        done = self.run.run(*ONE, *overrides, where=where).done
        folder = self.run.folder / where / "seed-0/de/hard1"
        return folder, json.loads((folder / "decision.json").read_bytes()), [d.split("/")[-1] for d in done]


@pytest.fixture(scope="module")
def made() -> dict[str, Runs]:
    return {}


@pytest.fixture
def runs(
    tiny: Callable[[str], Any], made: dict[str, Runs], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Runs]:
    def of(task: str) -> Runs:
        if task not in made:
            run, folder = tiny(task), tmp_path_factory.mktemp("acceptance") / task
            shutil.copytree(run.folder, folder)
            made[task] = Runs(type(run)(folder, task))
        return made[task]

    return of


def prints(run: Any, *overrides: str) -> dict[str, str]:
    return {
        s.id: json.dumps(fingerprint(s, s.inputs, {}), sort_keys=True)
        for s in make_plan(run.resolved(*overrides).config)
    }


@pytest.mark.parametrize("key", OPTIONS)
def test_fingerprints(tiny: Callable[[str], Any], key: str) -> None:
    """At its default an option is not in a fingerprint; set, it changes the stages that read it and no others."""
    run, name = tiny("ner"), key.split(".")[-1]
    plain = prints(run, "selftrain.rounds=1")
    if key != "source_filter":
        assert not any(f'{name}"' in text for text in plain.values())
    changed = prints(run, "selftrain.rounds=1", f"selftrain.{key}={OPTIONS[key]}")
    others = {i.rpartition("/")[2] for i in plain if plain[i] != changed[i]}
    assert others == ({"soft1", "hard1"} if key == "diversity" else {"hard1"})


def test_options_do_nothing_by_default(runs: Callable[[str], Runs]) -> None:
    _, record, done = runs("ner").again()
    assert done == []
    assert "options" not in record


@pytest.mark.parametrize("task", ["ner", "classification"])
def test_balanced_acceptance(runs: Callable[[str], Runs], task: str) -> None:
    own = runs(task)
    _, before, _ = own.again()
    for rule in ("class-balanced", "source-distribution"):
        folder, record, done = own.again(f"selftrain.accept={rule}")
        assert done == ["hard1"]
        found = record["options"]["accept"]
        assert found["rule"] == rule
        assert record["accepted"] == before["accepted"] - found["dropped"]
        assert sum(found["per_class"].values()) == found["dropped"] == record["rejected"].get("above-class-share", 0)
        assert record["accepted"] + sum(record["rejected"].values()) == record["items"]
        targets = load_file(folder / "decision.safetensors")["target.targets"]
        assert (targets >= 0).sum() == record["accepted"]


def test_outside_is_drawn_down(runs: Callable[[str], Runs]) -> None:
    own = runs("ner")
    for rule in ("fixed:0.0", "fixed:0.5"):
        alpha = f"selftrain.alpha.rule={rule}"
        (_, before, _), (folder, record, _) = own.again(alpha), own.again(alpha, "selftrain.outside=source-ratio")
        was, now = ({n: c["accepted"] for n, c in r["classes"].items()} for r in (before, record))
        assert {n: k for n, k in now.items() if n != "O"} == {n: k for n, k in was.items() if n != "O"}
        text = (folder.parents[3] / "train.conll").read_text("utf-8")
        tags = [line.split("\t")[1] for line in text.splitlines() if line]
        outside, entity = tags.count("O"), sum(k for n, k in now.items() if n != "O")
        assert now["O"] == min(was["O"], entity * outside // (len(tags) - outside))
        assert record["options"]["outside"]["dropped"] == was["O"] - now["O"]
        assert record["rejected"].get("outside-drawn-down", 0) == was["O"] - now["O"]


def is_pool(store: TokenStore) -> bool:
    return store.task != "text" and len(store) == 24 and store.item_labels.max() < 0


def test_calibration_and_class_alphas(runs: Callable[[str], Runs]) -> None:
    folder, record, done = runs("classification").again(
        "selftrain.alpha.calibrate=temperature", "selftrain.alpha.per_class=true", "selftrain.alpha.rule=fixed:0.2"
    )
    assert done == ["hard1"]
    options = record["options"]
    assert options["calibrate"]["items"] == 24
    assert options["calibrate"]["nll_after"] <= options["calibrate"]["nll_before"]
    assert set(options["per_class"]) == {"negative", "positive"}
    temperature, alphas = stored_scale(folder, ("negative", "positive"))
    assert temperature == options["calibrate"]["value"]
    assert alphas is not None
    assert alphas.tolist() == [options["per_class"][n]["alpha"] for n in ("negative", "positive")]
    assert stored_scale(None, ()) == (1.0, None)
    arrays = load_file(folder / "decision.safetensors")
    kept, label = arrays["target.targets"] >= 0, arrays["target.label"]
    limit = alphas[label].astype(np.float32)
    assert (kept == ((arrays["target.agree"] > 0) & (arrays["target.confidence"] > limit))).all()
    store = next(s for s in map(TokenStore.open, sorted((folder.parents[2] / "store").iterdir())) if is_pool(s))
    logits = predict_logits(load_task_model(folder.parent / "soft1"), ItemView(store)).double().numpy() / temperature
    share = np.exp(logits - logits.max(-1, keepdims=True))
    expected = (share / share.sum(-1, keepdims=True)).max(-1).min(0)
    np.testing.assert_allclose(arrays["target.confidence"], expected, rtol=1e-5)
    predict(folder, ["das Buch über Wien gut fein ."], abstain=True)


def test_consistency_is_repeatable(runs: Callable[[str], Runs]) -> None:
    own = runs("ner")
    overrides = ("selftrain.consistency=3", "selftrain.alpha.rule=fixed:0.0")
    (first, record, _), (second, _, _) = own.again(*overrides), own.again(*overrides)
    one, other = (load_file(f / "decision.safetensors") for f in (first, second))
    assert all((one[k] == other[k]).all() for k in one)
    dropped = int((one["target.reason"] == Reason.INCONSISTENT).sum())
    assert record["options"]["consistency"] == {"passes": 3, "dropped": dropped}
    assert dropped > 0, "a student of a few steps is not steady"


def test_agreed_source_filter(runs: Callable[[str], Runs]) -> None:
    own = runs("ner")
    (plain, before, _), (folder, record, _) = own.again(), own.again("selftrain.source_filter=agreed")
    assert json.loads((folder / "stage.json").read_bytes())["inputs"]["first"] == "seed-0/de/finetune"
    correct, agreed = (load_file(f / "decision.safetensors")["source.keep"] for f in (plain, folder))
    assert (agreed >= correct).all(), "never removes more than the student's word alone"
    found = record["options"]["source_filter"]
    assert record["source"]["removed"] == found["contradicted_and_doubted"]
    assert before["source"]["removed"] <= found["contradicted_and_doubted"] + found["contradicted_only"]


def test_first_teacher_of_later_rounds(tiny: Callable[[str], Any]) -> None:
    for overrides, teacher in (((), "seed-0/de/finetune"), (("btf.on=false",), "seed-0/baseline")):
        config = tiny("ner").resolved("selftrain.source_filter=agreed", "selftrain.rounds=2", *overrides).config
        hard = [s for s in make_plan(config) if s.kind == "hard"]
        assert [s.inputs["first"] for s in hard] == [teacher, teacher]


def test_bagged_voters(runs: Callable[[str], Runs]) -> None:
    """They learn something else, and disagree no less."""
    own = runs("classification")
    (_, before, _), (_, record, done) = own.again(), own.again("selftrain.diversity=bootstrap")
    assert done == ["soft1", "hard1"]
    assert record["voter_agreement"] <= before["voter_agreement"]
    weighted = own.again("selftrain.diversity=bootstrap", "selftrain.hard.source_weight=0")[2]
    assert weighted == ["soft1", "hard1"]


def test_report_says_what_options_did(runs: Callable[[str], Runs]) -> None:
    folder, _, _ = runs("ner").again("selftrain.accept=class-balanced", "selftrain.consistency=1")
    page = (folder.parents[2] / "report.html").read_text("utf-8")
    assert "1 passes with dropout took" in page
    assert "accept = class-balanced took" in page


@pytest.mark.parametrize(
    ("task", "overrides", "message"),
    [
        ("classification", ("selftrain.outside=source-ratio",), "no O in classification"),
        ("ner", ("selftrain.accept=class-balanced", "selftrain.target_filter=sentence"), "target_filter"),
        ("ner", ("selftrain.diversity=bootstrap", "selftrain.soft.combine=mean"), "per-voter"),
    ],
)
def test_combinations_that_do_not_fit(
    tiny: Callable[[str], Any], task: str, overrides: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        load_recipe(tiny(task).recipe, overrides)


def test_tokenizer_is_beside_the_model(runs: Callable[[str], Runs]) -> None:
    assert Tokenizer.from_folder(runs("ner").again()[0]).vocab_size > 0
