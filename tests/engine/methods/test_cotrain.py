"""Co-training and self-training by picks as stages of a run."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from xlt_engine import Interrupted
from xlt_engine.data import Tokenizer, pack
from xlt_engine.engine import estimate, run
from xlt_engine.engine.runs.graph import chosen_stages
from xlt_engine.engine.summary.stage_table import aggregate
from xlt_engine.model import load_task_model

from ..conftest import Watch

ON = (
    *("cotrain.on=true", "cotrain.iterations=3", "cotrain.threshold=0.55", "cotrain.lr=2e-2", "cotrain.epochs=8"),
    *("cotrain.batch_size=8", "selftrain.on=false", "btf.on=false", "checkpoint.seconds=60"),
)
BOTH = 'cotrain.modes=["co", "self-a"]'
TEXTS = SOURCE = 24
LIMIT = 8
CROSSED = [("de/co2a", "co1b", "co1a"), ("de/co2b", "co1a", "co1b"), ("de/co3a", "de/co2b", "de/co2a")]
OWN = [("de/self2a", "co1a", "co1a"), ("de/self3a", "de/self2a", "de/self2a")]


class Made:
    """A finished run with two encoders, of two vocabularies."""

    def __init__(self, run: Any) -> None:
        self.run, self.folder = run, run.folder / "run" / "seed-0"
        self.second = f'cotrain.model="{run.second_encoder()}"'
        self.result = run.run(*ON, BOTH, self.second)

    def record(self, stage: str, file: str = "picks") -> dict[str, Any]:
        return json.loads((self.folder / stage / f"{file}.json").read_bytes())

    def arrays(self, stage: str) -> dict[str, np.ndarray]:
        return load_file(self.folder / stage / "picks.safetensors")

    def says(self, stage: str) -> tuple[np.ndarray, np.ndarray]:
        """Classes and confidences of a stage's model on the unlabelled text, in fp64, with its own tokenizer."""
        model, tokenizer = load_task_model(self.folder / stage).double(), Tokenizer.from_folder(self.folder / stage)
        texts = (self.run.folder / "de.txt").read_text("utf-8").splitlines()
        with torch.inference_mode():
            logits = model(pack([e.ids for e in tokenizer.encode_texts(texts, max_length=16)]))[0]
        power = (logits - logits.amax(-1, keepdim=True)).exp()
        probability = power / power.sum(-1, keepdim=True)
        return probability.argmax(-1).numpy(), probability.amax(-1).numpy()


@pytest.fixture(scope="module")
def co(tiny_once: Any) -> Made:
    return Made(tiny_once("classification"))


@pytest.mark.parametrize(("stage", "teacher", "previous"), CROSSED + OWN)
def test_picks_are_the_teachers_confident_ones(co: Made, stage: str, teacher: str, previous: str) -> None:
    """Model a learns what b is sure of, from b's pool, and the other way round; alone it learns from itself."""
    record, arrays = co.record(stage), co.arrays(stage)
    predicted, confidence = co.says(teacher)
    before = np.full(TEXTS, -100) if "1" in previous else co.arrays(previous)["labels"]
    candidates = set(np.flatnonzero((before == -100) & (confidence > 0.55)).tolist())
    chosen = arrays["chosen"].tolist()
    assert len(candidates) > 0
    assert record["teacher"] == f"seed-0/{teacher}"
    assert record["candidates"] == len(candidates)
    assert set(chosen) <= candidates
    assert record["picked"] == len(chosen) == min(LIMIT, len(candidates))
    expected = before.copy()
    expected[chosen] = predicted[chosen]
    assert arrays["labels"].tolist() == expected.tolist()
    assert record["pool"] == int((before == -100).sum())
    assert record["remaining"] == record["pool"] - len(chosen)
    assert record["labels"] == int((expected != -100).sum())
    assert sum(record["classes"].values()) == len(chosen)


def test_the_two_models_differ(co: Made) -> None:
    """Or else nobody could tell crossed picks from one's own."""
    (a, _), (b, _) = co.says("co1a"), co.says("co1b")
    assert (a != b).any()
    own = co.says("co1a")[0]
    labels = co.arrays("de/co2a")["labels"]
    assert (labels[labels != -100] != own[labels != -100]).any()


def test_each_iteration_trains_on_the_source_and_all_picks(co: Made) -> None:
    for stage in ("co1a", "co1b", *(s for s, *_ in CROSSED + OWN)):
        picks = 0 if "1" in stage else co.record(stage)["labels"]
        trace = co.record(stage, "trace")
        assert sum(trace["valid"]) == 8 * (SOURCE + picks), stage
        assert co.record(stage, "stage")["source_examples"] == SOURCE


def test_every_iteration_starts_from_the_pretrained_encoder(co: Made) -> None:
    start = {stage: co.record(stage, "stage")["encoder_at_start"] for stage in ("co1a", "de/co2a", "de/co3a", "co1b")}
    assert start["co1a"] == start["de/co2a"] == start["de/co3a"] != start["co1b"]
    first, second = (load_task_model(co.folder / f"co1{m}").encoder.config for m in "ab")
    assert (first.hidden_size, second.hidden_size) == (16, 24)


def test_results_are_in_summary_table_and_report(co: Made) -> None:
    rows = [r for r in co.result.summary["rows"] if r["metric"] == "accuracy" and r["language"] == "de"]
    arms = {(r["arm"], r["stage"]): r for r in rows}
    crossed = {(f"co-{m}", f"co{i}{m}") for m in "ab" for i in (1, 2, 3)}
    assert set(arms) == {("baseline", "zero-shot"), ("self-a", "self2a"), ("self-a", "self3a")} | crossed
    assert arms["co-a", "co2a"]["accepted"] == co.record("de/co2a")["labels"]
    assert arms["co-a", "co2a"]["alpha"] == 0.55
    assert not any(r["uses_target_labels"] for r in rows)
    found = aggregate(co.result.summary)
    assert [s.stage for s in found.trail] == ["zero-shot"]
    versus = {s.stage: s.step.versus for s in found.stages if s.step}
    assert versus["co1a"] == versus["co1b"] == versus["self2a"] == "zero-shot"
    assert (versus["co2a"], versus["co3b"], versus["self3a"]) == ("co1a", "co2b", "self2a")
    assert "co-train 3 b" in co.result.report.read_text("utf-8")


def test_an_interrupted_iteration_goes_on_to_the_same_bits(co: Made, tmp_path: Path) -> None:
    where, watch = tmp_path / "again", Watch()
    shutil.copytree(co.run.folder / "run", where)
    for stage in ("co2b", "co3a", "co3b", "self3a"):
        shutil.rmtree(where / "seed-0/de" / stage)
    stop = {"progress": watch, "should_stop": lambda: 15 * (watch.steps.count("seed-0/de/co2b") >= 3)}
    overrides = [*ON, BOTH, co.second, "checkpoint.seconds=0"]
    with pytest.raises(Interrupted):
        run(co.run.recipe, run_dir=where, overrides=overrides, **stop)  # type: ignore[arg-type]
    assert (where / "seed-0/de/co2b/picks.json").exists()
    assert not (where / "seed-0/de/co2b/stage.json").exists()
    done = run(co.run.recipe, run_dir=where, overrides=overrides).done
    assert done[0] == "seed-0/de/co2b"
    for stage in ("de/co2b", "de/co3a", "de/co3b", "de/self3a"):
        for file in ("model.safetensors", "scores.json"):
            assert (where / "seed-0" / stage / file).read_bytes() == (co.folder / stage / file).read_bytes(), stage
    # More iterations add stages, and remake none.
    more = run(co.run.recipe, run_dir=where, overrides=[*overrides, "cotrain.iterations=4"])
    assert [s.rpartition("/")[2] for s in more.done] == ["co4a", "co4b", "self4a"]
    picks = where / "seed-0/de/co4a/picks.safetensors"
    (picks.parent / "stage.json").unlink()
    data = picks.read_bytes()
    picks.write_bytes(data[:-1] + b"?")
    again = run(co.run.recipe, run_dir=where, overrides=[*overrides, "cotrain.iterations=4"])
    assert again.done == ("seed-0/de/co4a",)
    assert picks.read_bytes() == data


def test_options(co: Made, tmp_path: Path) -> None:
    """One encoder with two seeds, all candidates, a cap, all targets' text, weights that go on."""
    own = ["cotrain.parts=0", "cotrain.cap=10", "cotrain.pool=all", "cotrain.restart=previous", "cotrain.iterations=2"]
    result = run(co.run.recipe, run_dir=tmp_path / "run", overrides=[*ON, *own], reuse=[co.run.folder / "run"])
    folder = tmp_path / "run" / "seed-0"
    records = {s: json.loads((folder / s / "stage.json").read_bytes()) for s in ("co1a", "co1b", "co2a", "co2b")}
    assert "reused_from" in records["co1a"]
    assert records["co1a"]["encoder_at_start"] == records["co1b"]["encoder_at_start"]
    assert records["co1a"]["hashes"]["model.safetensors"] != records["co1b"]["hashes"]["model.safetensors"]
    assert records["co2a"]["encoder_at_start"] != records["co1a"]["encoder_at_start"]
    picks = json.loads((folder / "co2a" / "picks.json").read_bytes())
    assert (picks["pool"], picks["limit"], picks["picked"]) == (10, None, picks["candidates"])
    assert all(r["pair"] is None for r in result.summary["rows"] if r["stage"].startswith("co"))


def test_nobody_is_confident(co: Made, tmp_path: Path) -> None:
    run(co.run.recipe, run_dir=tmp_path, overrides=[*ON, "cotrain.threshold=1", "cotrain.iterations=2"])
    record = json.loads((tmp_path / "seed-0/de/co2a/stage.json").read_bytes())
    assert "no-picks" in [w["name"] for w in record["warnings"]]
    assert (record["picked"], record["labels"]) == (0, 0)


def test_plan(tiny: Any) -> None:
    run = tiny("classification")
    stages = run.plan(*ON, 'cotrain.model="other"', BOTH)
    assert list(stages) == [
        *("pretrain", "baseline", "co1a", "co1b", "de/co2a", "de/co2b", "de/co3a", "de/co3b"),
        *("de/self2a", "de/self3a"),
    ]
    assert stages["co1b"].inputs == {}
    base = "seed-0/pretrain"
    assert stages["de/co2a"].inputs == {"base": base, "teacher": "seed-0/co1b", "previous": "seed-0/co1a"}
    assert stages["de/co3a"].inputs == {"base": base, "teacher": "seed-0/de/co2b", "previous": "seed-0/de/co2a"}
    assert stages["de/self3a"].inputs["teacher"] == stages["de/self3a"].inputs["previous"] == "seed-0/de/self2a"
    assert list(run.plan(*ON, 'cotrain.modes=["self-b"]'))[2:] == ["self1b", "de/self2b", "de/self3b"]
    assert list(run.plan(*ON, "cotrain.pool=all"))[2:] == ["co1a", "co1b", "co2a", "co2b", "co3a", "co3b"]
    assert {s.kind for s in chosen_stages(run.resolved(*ON).config, stage="cotrain")} == {"pretrain", "cotrain"}


@pytest.mark.parametrize(
    ("override", "changed"),
    [
        ("cotrain.iterations=5", {"de/co4a", "de/co4b", "de/co5a", "de/co5b"}),
        ("cotrain.threshold=0.8", {"de/co2a", "de/co2b", "de/co3a", "de/co3b"}),
        ("cotrain.epochs=3", {"co1a", "co1b", "de/co2a", "de/co2b", "de/co3a", "de/co3b"}),
        ("cotrain.on=false", set()),
        ("contrastive.on=true", {"la"}),
    ],
)
def test_what_a_setting_remakes(tiny: Any, override: str, changed: set[str]) -> None:
    before = (*ON, "btf.on=true", "selftrain.on=true")
    assert tiny("classification").remade(override, before=before) == changed


def test_estimate_counts_what_was_run(co: Made) -> None:
    """Steps are exact where nothing is picked, and bounds elsewhere; each encoder has its own size."""
    found = {s.id: s for s in estimate(co.run.recipe, overrides=[*ON, BOTH, co.second], rate=1e9).stages}
    for stage in ("co1a", "co1b", *(s for s, *_ in CROSSED + OWN)):
        steps, cost = len(co.record(stage, "trace")["steps"]), found[f"seed-0/{stage}"]
        assert cost.at_most == ("1" not in stage)
        assert steps == cost.steps or (cost.at_most and steps < cost.steps)
    assert found["seed-0/co1b"].trainable > found["seed-0/co1a"].trainable
