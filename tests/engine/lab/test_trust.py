"""Trust reports of a run: measurements against plain numpy, what they read and what they do not, choice and warning."""

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from xlt_engine import DataError
from xlt_engine.engine import write_report
from xlt_engine.engine.lab.studies import trust_estimate
from xlt_engine.engine.lab.studies.finished_run import FinishedRun
from xlt_engine.engine.lab.studies.trust import (
    StageTrust,
    TrustReport,
    measure_transport,
    predicted_harm,
    render_trust,
    trust,
    write_trust,
)
from xlt_engine.engine.lab.studies.trust_estimate import (
    RECORD,
    Estimate,
    Transport,
    calibrated_estimate,
    transport_accuracy,
    transport_f1,
)
from xlt_engine.engine.storage.files import read_json

from ..conftest import score_in


@pytest.fixture(scope="module", params=["ner", "classification"])
def folder(request: Any, tiny_once: Any) -> Path:
    """A run of one round on two seeds."""
    return Path(tiny_once(request.param).run("selftrain.rounds=1", "seeds=[0,1]").folder)


def test_transport_against_numpy(folder: Path) -> None:
    """Source score and transport of one stage, from its votes."""
    run = FinishedRun.open(folder)
    stage = next(s for s in run.stages if s.stage == "soft1")
    held_out = run.source_held_out()
    assert held_out[1] == "test"
    source, target = run.votes(stage, held_out[0]), run.votes(stage, run.pool("de"))
    labels = run.model(stage).labels
    found = measure_transport(source, target, labels)
    assert found.score == pytest.approx(score_in(stage.folder, "en", run.summary["metric"]) / 100)
    p, q = (v.votes.mean_probability.numpy() for v in (source, target))
    prior = np.bincount(source.gold, minlength=len(labels)) / source.gold.size
    if source.store.task == "ner":
        assert found.target == pytest.approx(transport_f1(q, prior, 0), abs=2e-3)
    else:
        assert found.target == pytest.approx(transport_accuracy(q, prior), abs=1e-6)
        assert found.source == pytest.approx(transport_accuracy(p, prior), abs=1e-6)
    reported = next(s for s in trust(folder).stages if s.stage == "soft1")
    models = [run.votes(s, run.pool("de")) for s in run.stages if s.stage == "soft1"]
    assert reported.voters_agree == pytest.approx(np.mean([v.votes.agree.numpy().mean() for v in models]))


def test_report_of_a_run(folder: Path) -> None:
    report = trust(folder)
    run = FinishedRun.open(folder)
    assert [(s.target, s.stage, s.seeds) for s in report.stages] == [
        ("de", name, (0, 1)) for name in ("zero-shot", "btf", "soft1", "hard1")
    ]
    for s in report.stages:
        rows = [r["value"] for r in run.summary["rows"] if r["language"] == "de" and r["stage"] == s.stage]
        metric = [
            r["value"]
            for r in run.summary["rows"]
            if (r["language"], r["stage"], r["metric"]) == ("de", s.stage, run.summary["metric"])
        ]
        assert len(rows) > len(metric) == 2
        assert s.true == pytest.approx(np.mean(metric) / 100)
        if s.estimate is not None:
            assert 0 <= s.estimate.low <= s.estimate.value <= s.estimate.high <= s.estimate.low + 0.4
    text = render_trust(report)
    assert "held out" in text
    assert max(map(len, text.splitlines()[:8])) < 110


def test_the_estimate_of_a_student_uses_its_first_teacher(folder: Path) -> None:
    """Each seed's estimate anew from signals that are measured here, with those of its own seed's BTF model."""
    run, report = FinishedRun.open(folder), trust(folder)
    held_out = run.source_held_out()
    each: dict[tuple[str, int], Any] = {}
    for s in run.stages:
        source, target = run.votes(s, held_out[0]), run.votes(s, run.pool("de"))
        each[s.stage, s.seed] = measure_transport(source, target, run.model(s).labels)
    assert len({t for (name, _), t in each.items() if name == "btf"}) == 2
    for row in report.stages:
        student = row.stage in ("soft1", "hard1")
        found = [calibrated_estimate(each[row.stage, n], each["btf", n] if student else None) for n in (0, 1)]
        value, low, high = (np.mean([getattr(f, end) for f in found]) for end in ("value", "low", "high"))
        if high - low > 0.4:
            assert row.estimate is None
        else:
            assert (row.estimate.value, row.estimate.low, row.estimate.high) == pytest.approx((value, low, high))


def test_target_labels_change_nothing_but_the_comparison(folder: Path, tmp_path: Path) -> None:
    """With the gold of the target's test file overwritten, all estimates stay; `truth=False` reads none of it."""
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    before = trust(folder)
    run = FinishedRun.open(copy)
    test = run.store(run.stages[0].record["scored_on"]["de"].split()[0])
    for name in ("labels.npy", "word_labels.npy"):
        if (test.folder / name).exists():
            array = np.load(test.folder / name, allow_pickle=False)
            np.save(test.folder / name, np.zeros_like(array), allow_pickle=False)
    after = trust(copy)
    hidden = trust(copy, truth=False)
    for a, b, c in zip(before.stages, after.stages, hidden.stages, strict=True):
        assert replace(a, true=None) == replace(b, true=None) == c


def test_kept_and_shown_in_the_report(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    assert not (copy / "trust.json").exists()
    assert "Trust without target labels" not in write_report(copy).read_text("utf-8")
    report = trust(copy)
    write_trust(copy, report)
    assert read_json(copy / "trust.json").items() >= json.loads(json.dumps(asdict(report))).items()
    page = (copy / "report.html").read_text("utf-8")
    assert "Trust without target labels" in page
    assert "Quality of the pseudo-labels" in page
    assert "What other rules would have chosen" in page


def test_too_wide_an_interval_is_no_estimate(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a limit below the widest interval of the run: those above have none, in the file and on the page too."""
    plain = trust(folder)
    widths = {s.stage: s.estimate.high - s.estimate.low for s in plain.stages if s.estimate is not None}
    limit = 0.99 * max(widths.values())
    monkeypatch.setattr(trust_estimate, "WIDEST", limit)
    report = trust(folder)
    none = {s.stage for s in report.stages if s.estimate is None}
    assert none == {s.stage for s in plain.stages if widths.get(s.stage, 1.0) > limit}
    assert none
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    write_trust(copy, report)
    assert read_json(copy / "trust.json").items() >= json.loads(json.dumps(asdict(report))).items()
    assert (copy / "report.html").read_text("utf-8").count("<td>no estimate</td>") == len(none)


def stage(name: str, arm: str, order: int, value: float | None) -> StageTrust:
    estimate = None if value is None else Estimate(value, value - 0.1, value + 0.1)
    label = {"btf": "BTF", "soft1": "soft 1", "hard1": "hard 1"}.get(name, name)
    return StageTrust("de", name, label, arm, order, (0,), estimate, 0.9, 0.9, 0.8, 1.0, None)


def test_warning() -> None:
    """Harm is against the last teacher, never the control; without an estimate of both there is no warning."""
    stages = [
        stage("zero-shot", "baseline", 10, 0.5),
        stage("control", "control", 21, 0.9),
        stage("btf", "btf", 31, 0.7),
        stage("soft1", "selftrain", 100, 0.7),
        stage("hard1", "selftrain", 150, 0.65),
    ]
    (warning,) = predicted_harm(stages)
    assert warning.name == "self-training-hurts"
    assert "hard 1 is estimated at 65, its first teacher (BTF) at 70" in warning.message
    assert warning.values["change"] == pytest.approx(-0.05)
    assert predicted_harm([*stages[:-1], stage("hard1", "selftrain", 150, 0.75)]) == ()
    assert predicted_harm(stages[:3]) == ()
    assert predicted_harm([*stages[:-1], stage("hard1", "selftrain", 150, None)]) == ()
    assert predicted_harm([*stages[:2], stage("btf", "btf", 31, None), *stages[3:]]) == ()


def test_the_screen_says_what_held_and_names_no_estimate() -> None:
    stages = (stage("btf", "btf", 31, 0.7), stage("soft1", "selftrain", 100, None))
    report = TrustReport("made", "entity_f1", "en", "test", stages, ())
    lines = render_trust(report).splitlines()
    soft = next(line for line in lines if line.startswith("de") and "soft" in line)
    assert "no estimate" in soft
    for kind in (False, True):
        held, name = RECORD["entity_f1", kind], "self-trained" if kind else "not self-trained"
        (line,) = [x for x in lines if x.startswith(f"{name} models")]
        assert f"{held.held} of {held.shown} intervals held" in line
        assert f"no estimate for {held.cases - held.shown} more" in line
    assert not any(x.startswith("self-trained") for x in render_trust(replace(report, stages=stages[:1])).splitlines())


def test_the_estimate_by_hand() -> None:
    """0.8 on the source, whose transport says 0.9; 0.6 on the target: scaled 0.5333, loss 0.2667."""
    found = calibrated_estimate(Transport(0.8, 0.9, 0.6), shift=0.5, width=0.25)
    assert found.value == pytest.approx(0.5333 - 0.5 * 0.2667, abs=1e-3)
    assert found.high - found.low == pytest.approx(2 * 0.25 * (0.2 + 0.2667), abs=1e-3)


def test_needs_held_out_source(tiny: Any) -> None:
    run = tiny("classification")
    run.recipe.write_text(run.recipe.read_text().replace('test = "test-en.tsv"\n', ""))
    run.run("selftrain.on=false", "btf.on=false")
    with pytest.raises(DataError, match=r"give source\.dev or source\.test"):
        trust(run.folder / "run")


@pytest.mark.parametrize(
    ("test_file", "alpha", "expected"), [(True, "all", "test"), (True, "dev", "dev"), (False, "all", "dev")]
)
def test_which_source_text_is_held_out(tiny: Any, test_file: bool, alpha: str, expected: str) -> None:
    run = tiny("classification")
    if not test_file:
        run.recipe.write_text(run.recipe.read_text().replace('test = "test-en.tsv"\n', ""))
    run.run("selftrain.rounds=1", "btf.on=false", f"selftrain.alpha.data={alpha}")
    opened = FinishedRun.open(run.folder / "run")
    held_out = opened.source_held_out()
    assert held_out[1] == expected
    own = opened.data.source_dev if expected == "dev" else opened.data.scored(run.folder / "test-en.tsv", "en")
    assert held_out[0].content_hash == own.content_hash


def test_a_run_without_self_training(tiny: Any) -> None:
    """No stage has read the unlabelled text; the recipe says where it is."""
    run = tiny("classification")
    run.run("selftrain.on=false", "btf.on=false")
    report = trust(run.folder / "run")
    assert [s.stage for s in report.stages] == ["zero-shot"]
    assert report.warnings == ()
