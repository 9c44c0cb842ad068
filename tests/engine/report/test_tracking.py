"""What leaves a run for other tools: tables, event files that TensorBoard itself reads, and a run beside another."""

import csv
import json
import statistics
import sys
from pathlib import Path
from typing import Any

import pytest

from xlt_engine import ConfigError, DataError
from xlt_engine.engine.report.parts import load_run
from xlt_engine.engine.report.tracking.compare import compare_runs, render_comparison
from xlt_engine.engine.report.tracking.export import event_file, write_csv, write_events
from xlt_engine.engine.summary.stage_folders import read_decision

from ..conftest import score_in
from .test_report import make_classification_run, make_ner_run


@pytest.fixture(scope="module")
def ner(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_ner_run(tmp_path_factory.mktemp("runs") / "ner", seeds=2)


def read(path: Path) -> Any:
    return json.loads(path.read_bytes())


def test_tables_hold_what_the_stage_folders_hold(ner: Path, tmp_path: Path) -> None:
    write_csv(load_run(ner), tmp_path / "new" / "csv")
    files = (tmp_path / "new" / "csv").iterdir()
    tables = {path.stem: list(csv.DictReader(path.read_text("utf-8").splitlines())) for path in files}
    assert sorted(tables) == ["losses", "scores", "thresholds"]
    losses = [float(row["loss"]) for row in tables["losses"] if (row["seed"], row["pair"]) == ("1", "es")]
    stages = ["control-btf", "control", "btf", "finetune", "soft1", "hard1", "soft2", "hard2"]
    assert losses == [v for stage in stages for v in read(ner / "seed-1" / "es" / stage / "trace.json")["loss"]]
    scored = {(row["model"], row["language"], row["metric"]): float(row["value"]) for row in tables["scores"]}
    for path in ner.glob("seed-*/**/scores.json"):
        for score in read(path)["scores"]:
            key = (path.parent.relative_to(ner).as_posix(), score["language"], score["metric"])
            assert scored.pop(key) == score["value"]
    assert scored == {}
    curve = read_decision(ner / "seed-0" / "de" / "soft2", "de")
    own = [row for row in tables["thresholds"] if (row["seed"], row["pair"], row["round"]) == ("0", "de", "2")]
    for side, name in (("source", "curve"), ("target", "target_curve")):
        lines = [row for row in own if row["side"] == side]
        assert [float(row["accuracy"]) for row in lines] == curve[name]["accuracy"]
        assert [float(row["threshold"]) for row in lines] == curve[name]["thresholds"]
        assert {row["alpha"] for row in lines} == {str(curve["alpha"])}
        assert lines[0]["second_difference"] == "", "null is an empty cell"


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard reads in a folder."""
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = reader.EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_tensorboard_reads_the_events(ner: Path, tmp_path: Path) -> None:
    write_events(load_run(ner), tmp_path)
    shown = scalars(tmp_path / "seed-1" / "de" / "hard2")
    trace = read(ner / "seed-1" / "de" / "hard2" / "trace.json")
    assert [step for step, _ in shown["loss"]] == trace["steps"]
    assert [value for _, value in shown["loss"]] == pytest.approx(trace["loss"], rel=1e-7)
    scores = {f"{s['metric']}/{s['language']}": s["value"] for s in read(ner / "seed-1/de/hard2/scores.json")["scores"]}
    assert scores == pytest.approx({tag: shown[tag][0][1] for tag in scores}, rel=1e-7)
    assert {shown[tag][0][0] for tag in scores} == {trace["steps"][-1]}
    assert len(list(tmp_path.rglob("*tfevents*"))) == len(list(ner.rglob("trace.json")))


def test_what_is_no_finite_number_is_left_out_and_equal_scalars_are_equal_bytes(tmp_path: Path) -> None:
    made = [("loss", 1, 0.5), ("loss", 2**31, 0.25), ("nan", 1, float("nan")), ("none", 1, None)]
    first, again = (event_file(made, 1.5e9) for _ in range(2))  # type: ignore[arg-type]
    assert first == again
    (tmp_path / "events.out.tfevents.1").write_bytes(first)
    assert scalars(tmp_path) == {"loss": [(1, 0.5), (2**31, 0.25)]}


def test_without_tensorboard_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard.compat.proto.event_pb2", None)
    with pytest.raises(ConfigError, match=r"pip install 'xlt-engine\[tensorboard\]', or take --csv"):
        event_file([("loss", 1, 0.5)], 0.0)


def test_two_runs_are_compared_by_seed_and_target(ner: Path, tmp_path: Path) -> None:
    other = make_ner_run(tmp_path / "other", seeds=3)
    for path in other.glob("seed-*/es/hard1/scores.json"):
        seed = int(path.parts[-4].removeprefix("seed-"))
        rows = read(path)["scores"]
        for row in rows:
            row["value"] += (2.0 + seed) * (row["language"] == "es")
        path.write_text(json.dumps({"scores": rows}), "utf-8")
    recipe = 'name = "demo"\n[btf]\nlr = 0.003\n[[targets]]\nlanguage = "de"\nx = 1\n'
    (other / "config.toml").write_text(recipe, "utf-8")
    before = {path: path.stat().st_mtime_ns for path in (*ner.rglob("*"), *other.rglob("*"))}
    result = compare_runs(ner, other)
    assert before == {path: path.stat().st_mtime_ns for path in (*ner.rglob("*"), *other.rglob("*"))}, "it only reads"

    for stage in result.stages:
        name = {"zero-shot": "baseline", "btf": "finetune"}.get(stage.stage, stage.stage)
        differences = [
            score_in(other / place, target, "entity_f1") - score_in(ner / place, target, "entity_f1")
            for target in ("de", "es")
            for seed in (0, 1)
            for place in [f"seed-{seed}/" + (name if name == "baseline" else f"{target}/{name}")]
        ]
        assert stage.difference.stat.mean == pytest.approx(statistics.fmean(differences))
        assert stage.difference.stat.std == pytest.approx(statistics.stdev(differences))
        assert stage.targets["es"].stat.mean == pytest.approx(statistics.fmean(differences[2:]))
    assert {stage.stage for stage in result.stages} >= {"zero-shot", "control", "btf", "soft1", "hard2"}
    new = {"targets.de.language": (None, "de"), "targets.de.x": (None, 1)}
    assert result.settings == {"btf.lr": (0.0015, 0.003), **new}
    text = render_comparison(result)
    assert "B - A, es" in text
    assert "btf.lr" in text
    assert "not the same test texts" not in text
    assert json.loads(json.dumps(result.as_dict()))["settings"]["btf.lr"] == [0.0015, 0.003]


def test_what_cannot_be_compared_is_said(ner: Path, tmp_path: Path) -> None:
    other = make_ner_run(tmp_path / "other", seeds=2)
    path = other / "seed-1" / "es" / "hard1" / "stage.json"
    path.write_text(json.dumps(read(path) | {"scored_on": {"es": "another text"}}), "utf-8")
    for stage in other.glob("seed-*/*/hard2/scores.json"):
        stage.unlink()
    result = compare_runs(ner, other)
    assert {s.stage: s.other_tests for s in result.stages if s.other_tests} == {"hard1": ("es",)}
    assert result.alone == (("hard 2",), ())
    text = render_comparison(result)
    assert "not the same test texts, or votes counted otherwise: es" in text
    assert "in A alone: hard 2" in text
    with pytest.raises(DataError, match="scored by entity F1, .* by accuracy; give two runs of one task"):
        compare_runs(ner, make_classification_run(tmp_path / "reviews"))
    with pytest.raises(DataError, match="not a run folder"):
        compare_runs(ner, tmp_path)
