import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from xlt_engine import DataError
from xlt_engine.engine.summary.seeds import Stat, Step, paired_step, stat
from xlt_engine.engine.summary.stage_folders import find_stages
from xlt_engine.engine.summary.stage_table import aggregate, stage_table
from xlt_engine.engine.summary.summary import build_summary, write_summary

from .identities import STAGES, identity

# (stage folder, seed) -> score on de, es and on the source by the de and the es model
SCORES = {
    ("baseline", 0): (50.0, 40.0, 90.0, 90.0),
    ("baseline", 1): (54.0, 42.0, 91.0, 91.0),
    ("control", 0): (49.0, 41.0, 88.0, 87.0),
    ("control", 1): (53.0, 43.0, 88.5, 87.5),
    ("finetune", 0): (70.0, 60.0, 95.0, 94.0),
    ("finetune", 1): (72.0, 61.0, 95.5, 94.5),
    ("soft1", 0): (71.0, 59.0, 80.0, 81.0),
    ("soft1", 1): (74.0, 63.0, 82.0, 83.0),
    ("hard1", 0): (73.0, 62.5, 85.0, 86.0),
    ("hard1", 1): (75.0, 62.0, 84.0, 85.0),
}
NAMES = {"baseline": "zero-shot", "control": "control", "finetune": "btf", "soft1": "soft1", "hard1": "hard1"}


def put(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.name == "stage.json" and path.parent.name in STAGES:
        value = identity(path.parent.name) | value
    path.write_text(json.dumps(value), encoding="utf-8")


def score(language: str, role: str, value: float, metric: str = "accuracy") -> dict[str, Any]:
    return {"language": language, "role": role, "metric": metric, "value": value, "count": 500}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    put(tmp_path / "run.json", {"name": "small", "task": "classification", "metric": "accuracy", "source": "en"})
    for (name, seed), (de, es, en_de, en_es) in SCORES.items():
        root = tmp_path / f"seed-{seed}"
        if name == "baseline":
            rows = [score("de", "target", de), score("es", "target", es), score("en", "source", en_de)]
            put(root / name / "scores.json", {"scores": rows})
            put(root / name / "stage.json", {"seconds": 5.0, "cpu_seconds": 4.0})
            continue
        for pair, value, source, other in (("de", de, en_de, "es"), ("es", es, en_es, "de")):
            rows = [score(pair, "target", value), score("en", "source", source), score(other, "target", 1.0)]
            rows.append(score(pair, "target", value - 2, "macro_f1"))
            put(root / pair / name / "scores.json", {"scores": rows})
            put(root / pair / name / "stage.json", {"seconds": 10.0 + seed, "cpu_seconds": 20.0 + seed, "steps": 7})
    for seed in (0, 1):
        put(tmp_path / f"seed-{seed}" / "pretrain" / "stage.json", {"seconds": 40.0, "cpu_seconds": 50.0})
        for pair in ("de", "es"):
            put(tmp_path / f"seed-{seed}" / pair / "btf" / "stage.json", {"seconds": 30.0, "cpu_seconds": 31.0})
            decision = {"alpha": 0.9 + 0.01 * seed, "accepted": 120, "source": {"items": 100, "removed": 7}}
            put(tmp_path / f"seed-{seed}" / pair / "soft1" / "decision.json", decision)
    return tmp_path


def test_rows_name_everything(run: Path) -> None:
    summary = build_summary(run)
    assert summary["schema_version"] == 2
    assert (summary["source"], summary["targets"], summary["seeds"]) == ("en", ["de", "es"], [0, 1])
    row = next(r for r in summary["rows"] if r["model"] == "seed-1/de/hard1" and r["metric"] == "accuracy")
    who = {
        "arm": "selftrain",
        "stage": "hard1",
        "label": "hard 1",
        "order": 150,
        "round": 1,
        "model": "seed-1/de/hard1",
    }
    score = {
        "language": "de",
        "role": "target",
        "pair": "de",
        "metric": "accuracy",
        "seed": 1,
        "value": 75.0,
        "count": 500,
    }
    learned = {"alpha": 0.91, "accepted": 120, "accepted_entities": None, "removed": 7}
    marks = [f"uses_{mark}" for mark in ("target_labels", "dictionary")]
    spent = {"seconds": 11.0, "cpu_seconds": 21.0}
    assert row == who | score | learned | dict.fromkeys(marks, False) | spent
    keys = [tuple(r[k] for k in ("arm", "stage", "pair", "language", "metric", "seed")) for r in summary["rows"]]
    assert len(keys) == len(set(keys)) == 2 * 3 + 2 * 2 * 4 * 4
    soft = [r for r in summary["rows"] if r["stage"] == "soft1"]
    assert all(r["alpha"] is None and r["accepted"] is None and r["removed"] is None for r in soft)


def test_source_samples_removed_are_added_up_over_rounds(run: Path) -> None:
    folder = run / "seed-0" / "de"
    put(folder / "hard2" / "scores.json", {"scores": [score("de", "target", 76.0)]})
    put(folder / "hard2" / "stage.json", {"seconds": 1.0})
    put(folder / "hard2" / "decision.json", {"alpha": 0.8, "accepted": 130, "source": {"items": 93, "removed": 5}})
    rows = {r["stage"]: r for r in build_summary(run)["rows"] if r["model"].startswith("seed-0/de/hard")}
    assert (rows["hard1"]["removed"], rows["hard1"]["alpha"]) == (7, 0.9)
    assert (rows["hard2"]["removed"], rows["hard2"]["alpha"], rows["hard2"]["accepted"]) == (12, 0.8, 130)


def test_a_hard_stage_that_learns_no_entity_is_named(run: Path) -> None:
    """In tagging: accepted labels may be O alone."""
    for language, words in (("de", 0), ("es", 3)):
        classes = {"O": {"items": 200, "accepted": 117}, "B-PER": {"items": 9, "accepted": words}}
        put(run / "seed-0" / language / "hard1" / "decision.json", {"alpha": 0.9, "accepted": 117, "classes": classes})
    summary = build_summary(run)
    rows = {r["model"]: r["accepted_entities"] for r in summary["rows"] if r["stage"] == "hard1"}
    assert rows == {"seed-0/de/hard1": 0, "seed-0/es/hard1": 3, "seed-1/de/hard1": None, "seed-1/es/hard1": None}
    (line,) = [x for x in stage_table(summary).splitlines() if x.startswith("hard 1")]
    assert line.startswith("hard 1 (no entity learned from the target: 1 of 4)")


def test_marks_come_from_the_stage(run: Path) -> None:
    put(run / "seed-0" / "de" / "hard1" / "stage.json", {"seconds": 1.0, "uses_target_labels": True})
    result = aggregate(build_summary(run))
    assert [s.stage for s in result.stages if "uses_target_labels" in s.marks] == ["hard1"]
    assert not any("uses_dictionary" in s.marks for s in result.stages)
    lines = stage_table(build_summary(run)).splitlines()
    assert next(line for line in lines if line.startswith("hard 1")).split()[-3:-1] == ["yes", "16"]


def test_aggregation_equals_numpy(run: Path) -> None:
    result = aggregate(build_summary(run))
    assert [s.stage for s in result.stages] == list(NAMES.values())
    table = np.array([[SCORES[name, seed] for seed in (0, 1)] for name in NAMES])  # stage, seed, (de, es, en, en)
    for i, s in enumerate(result.stages):
        for j, target in enumerate(("de", "es")):
            assert_stat(s.targets[target], table[i, :, j])
            assert_stat(s.gaps[target], table[i, :, 2 + j] - table[i, :, j])
        assert_stat(s.average, table[i, :, :2].mean(1))
        assert_stat(s.source, table[i, :, 2:].mean(1))
        with_source = (table[i, :, :2].sum(1) + table[i, :, 2:].mean(1)) / 3
        assert_stat(s.average_with_source, with_source)
        means = table[i, :, :2].mean(0)
        assert s.range_over_targets == pytest.approx(means.max() - means.min(), rel=1e-12)
        before = {0: None, 1: 0, 2: 0, 3: 2, 4: 3}[i]
        if before is None:
            assert s.step is None
            continue
        difference = table[i, :, :2] - table[before, :, :2]
        assert_stat(s.step.stat, difference.ravel())
        assert s.step.up == int((difference > 0).sum())
        assert s.steps["es"].up == int((difference[:, 1] > 0).sum())


def assert_stat(found: Stat | None, values: Any) -> None:
    assert found.n == len(values)
    assert found.mean == pytest.approx(float(np.mean(values)), rel=1e-12)
    assert found.std == pytest.approx(float(np.std(values, ddof=1)), rel=1e-9)


def test_seconds_of_the_table_sum_to_one_seed(run: Path) -> None:
    summary = build_summary(run)
    shown = {s.stage: s.cpu_seconds for s in aggregate(summary).stages}
    assert shown == {"zero-shot": 54.0, "control": 41.0, "btf": 103.0, "soft1": 41.0, "hard1": 41.0}
    shown = {s.stage: s.seconds for s in aggregate(summary).stages}
    assert shown == {"zero-shot": 45.0, "control": 21.0, "btf": 81.0, "soft1": 21.0, "hard1": 21.0}
    assert sum(v or 0 for v in shown.values()) == pytest.approx(sum(s["seconds"] for s in summary["stages"]) / 2)


def test_one_seed_has_no_deviation() -> None:
    assert stat([3.0]) == Stat(3.0, None, 1)
    assert str(Stat(3.0, None, 1)) == "3.0"
    assert stat([]) is paired_step([], "zero-shot") is None


def test_tables_show_the_numbers(run: Path) -> None:
    text = stage_table(build_summary(run))
    line = next(line for line in text.splitlines() if line.startswith("BTF"))
    assert line.split("  ")[0] == "BTF"
    for cell in ("71.0 ± 1.4", "60.5 ± 0.7", "65.8 ± 1.1", "+19.2 ± 1.0", "4/4", "94.8 ± 0.4", "29.0"):
        assert cell in line
    assert max(map(len, text.splitlines())) <= 120


def made(scores: dict[tuple[int, str, str], dict[str, float]]) -> dict[str, Any]:
    """A summary with these scores of seed 0, by order, arm and stage and by language; "en" is the source."""
    rows = [
        {"metric": "entity_f1", "order": order, "arm": arm, "stage": stage, "label": stage, "seed": 0, "count": 9}
        | {"language": language, "value": value, "pair": None if arm == "baseline" or language == "en" else language}
        | {"uses_target_labels": False, "role": "source" if language == "en" else "target"}
        for (order, arm, stage), values in scores.items()
        for language, value in values.items()
    ]
    return {"metric": "entity_f1", "source": "en", "targets": ["de", "nl"], "rows": rows, "stages": [], "name": "made"}


def test_averages_and_gaps_are_of_the_targets_that_all_stages_have() -> None:
    """A run of one target of two: the average would rise where that target falls."""
    summary = made(
        {(10, "baseline", "zero-shot"): {"de": 42.0, "nl": 34.0, "en": 85.0}, (31, "btf", "btf"): {"de": 41.0}}
    )
    found = aggregate(summary)
    assert [s.average for s in found.stages] == [None, None]
    assert [list(s.gaps) for s in found.stages] == [["de"], []]
    assert "average" not in stage_table(summary)
    both = {(10, "baseline", "zero-shot"): {"de": 42.0, "nl": 34.0}, (31, "btf", "btf"): {"de": 41.0, "nl": 36.0}}
    assert [str(s.average) for s in aggregate(made(both)).stages] == ["38.0", "38.5"]
    # An arm beside the trail has no say in which targets those are.
    arm = {(32, "cloze", "cloze"): {"de": 50.0}}
    assert [str(s.average) for s in aggregate(made(both | arm)).stages] == ["38.0", "38.5", "None"]


def test_each_pair_is_compared_with_its_own_stage_before() -> None:
    """Few-shot for one of two targets: the other one's step is from BTF."""
    summary = made(
        {
            (31, "btf", "btf"): {"de": 3.3, "nl": 5.4},
            (32, "few-shot", "few-shot"): {"de": 5.7},
            (100, "selftrain", "soft1"): {"de": 0.0, "nl": 1.5},
        }
    )
    steps = [s.step for s in aggregate(summary).stages]
    assert (str(steps[1]), steps[1].up, steps[1].versus) == ("+2.4", 1, "btf")
    assert steps[2].stat.n == 2
    assert steps[2].stat.mean == pytest.approx((-5.7 - 3.9) / 2)
    assert steps[2].versus == "few-shot, btf"


def test_zero_has_no_minus() -> None:
    assert str(Stat(-0.04, 2.4, 2)) == "0.0 ± 2.4"
    assert str(Step(Stat(-0.04, None, 1), 0, "btf")) == "+0.0"
    assert str(Step(Stat(-0.06, None, 1), 0, "btf")) == "-0.1"


def test_a_score_that_is_missing_or_not_finite_leaves_a_hole(run: Path) -> None:
    (run / "seed-1" / "es" / "hard1" / "scores.json").unlink()
    put(run / "seed-0" / "de" / "hard1" / "scores.json", {"scores": [score("de", "target", float("nan"))]})
    summary = write_summary(run)
    last = aggregate(summary).stages[-1]
    assert (last.targets["de"].n, last.targets["es"].n) == (1, 1)
    assert last.average is None
    assert last.step.stat.n == 2
    assert "NaN" not in (run / "summary.json").read_text("utf-8")


def test_without_run_json_the_rows_say_who_is_who(run: Path) -> None:
    (run / "run.json").unlink()
    summary = build_summary(run)
    assert (summary["source"], summary["targets"], summary["metric"]) == ("en", ["de", "es"], "accuracy")
    assert summary["name"] == run.name


def test_an_unknown_stage_takes_its_identity_from_stage_json(run: Path) -> None:
    own = {"arm": "ablation", "stage": "no-voters", "kind": "hard", "order": 400, "seconds": 3.0}
    put(run / "seed-0" / "de" / "extra" / "stage.json", own)
    put(run / "seed-0" / "de" / "extra" / "scores.json", {"scores": [score("de", "target", 60.0)]})
    last = find_stages(run)[-1]
    assert {k: last[k] for k in own} == own
    assert (last["pair"], last["seed"], last["finished"]) == ("de", 0, True)
    assert aggregate(build_summary(run)).stages[-1].stage == "no-voters"


def test_an_unfinished_stage_is_listed(run: Path) -> None:
    (run / "seed-1" / "de" / "soft2" / "checkpoint").mkdir(parents=True)
    stages = {s["folder"]: s["finished"] for s in find_stages(run)}
    assert stages.pop("seed-1/de/soft2") is False
    assert all(stages.values())


def test_the_plan_of_the_run_says_who_a_stage_is(run: Path) -> None:
    """Also one that has not ended, and one whose `stage.json` an earlier version wrote."""
    info = json.loads((run / "run.json").read_text("utf-8"))
    soft2, hard1 = "seed-0/de/soft2", "seed-0/de/hard1"
    (run / soft2 / "checkpoint").mkdir(parents=True)
    (run / hard1 / "stage.json").write_text('{"arm": "method", "stage": "hard1", "kind": "hard", "seconds": 1.0}')
    with pytest.raises(DataError, match=r"hard1/stage\.json:1: no `order`.*run the recipe again"):
        build_summary(run)
    plan = {path: identity(path.rpartition("/")[2]) for path in (soft2, hard1)}
    put(run / "run.json", info | {"plan": plan})
    stages = {s["folder"]: s for s in find_stages(run)}
    assert {key: stages[soft2][key] for key in plan[soft2]} == plan[soft2]
    assert (stages[hard1]["arm"], stages[hard1]["order"], stages[hard1]["seconds"]) == ("selftrain", 150, 1.0)


def test_bad_folders_and_files_are_data_errors(run: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a run folder"):
        build_summary(tmp_path / "nowhere")
    path = run / "seed-0" / "de" / "soft1" / "scores.json"
    path.write_text('{"scores": [\n', "utf-8")
    with pytest.raises(DataError, match=r"scores\.json:2: cannot be read as JSON"):
        build_summary(run)
    path.write_text("[]", "utf-8")
    with pytest.raises(DataError, match=r"scores\.json:1: expected a JSON object"):
        build_summary(run)


def test_an_empty_run_has_an_empty_table(tmp_path: Path) -> None:
    put(tmp_path / "run.json", {"name": "new"})
    assert stage_table(write_summary(tmp_path)).startswith("no scores yet: no stage has ended that a test file")
    assert json.loads((tmp_path / "summary.json").read_text("utf-8"))["rows"] == []
