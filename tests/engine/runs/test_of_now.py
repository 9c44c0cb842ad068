"""Numbers of a run are of its stages and its test files of now, whatever has been corrected, removed or made again."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from xlt_engine.engine import write_report
from xlt_engine.engine.lab.studies.finished_run import FinishedRun
from xlt_engine.engine.lab.studies.sentences import write_for_page
from xlt_engine.engine.lab.studies.thresholds import study_thresholds
from xlt_engine.engine.report.parts import load_run

SETTINGS = ("selftrain.rounds=1", "finetune.epochs=10", "selftrain.soft.epochs=15", "selftrain.alpha.rule=fixed:0.3")


def gold_tags(test: Path) -> list[str]:
    return [line.split("\t")[1] for line in test.read_text("utf-8").splitlines() if line]


def shown(home: Any) -> dict[str, Any]:
    return load_run(home.folder / "run").decisions["de", 1, 0]


def assert_of(home: Any, test: Path) -> None:
    """What is shown of the decision, against the soft student's votes on the file, counted here."""
    gold, decision = gold_tags(test), shown(home)
    run = FinishedRun.open(home.folder / "run")
    soft = next(s for s in run.stages if s.stage == "soft1")
    labels, voted = run.model(soft).labels, run.votes(soft, run.store(soft.record["scored_on"]["de"]))
    names = [labels[i] for i in voted.votes.label.tolist()]
    above = voted.votes.agree.numpy() & (voted.votes.min_confidence.numpy() > np.float32(0.3))
    right = np.array([a == b for a, b in zip(names, gold, strict=True)])
    assert decision["precision_if_gold"] == pytest.approx(right[above].mean())
    assert {n: c["gold"] for n, c in decision["classes_if_gold"].items() if c["gold"]} == Counter(gold)
    kept, thresholds = decision["target_curve"]["kept"], decision["target_curve"]["thresholds"]
    confidence = voted.votes.min_confidence.numpy()[voted.votes.agree.numpy()]
    assert kept == [int((confidence > np.float32(t)).sum()) for t in thresholds]
    assert sum(b["count"] for b in decision["calibration"]["target"]) == len(gold)
    # The study: alpha lies below the grid, and what it accepts is counted at alpha itself.
    (study,) = study_thresholds(home.folder / "run", rules=["fixed:0.3"], draws=2)
    chosen = above & np.array([name != "O" for name in names])
    found = 2 * (chosen & right).sum() / (chosen.sum() + sum(tag != "O" for tag in gold))
    assert study.results[0].target_f1 == pytest.approx(found)


def test_a_test_file_that_is_corrected_removed_or_comes_later(tiny: Any) -> None:
    home = tiny("ner")
    test, text = home.folder / "test-de.conll", home.recipe.read_text("utf-8")
    without = text.replace('test = "test-de.conll"\n', "")
    home.recipe.write_text(without, "utf-8")
    home.run(*SETTINGS)
    assert shown(home)["precision_if_gold"] is shown(home)["target_curve"] is None
    decision = (home.folder / "run/seed-0/de/hard1/decision.json").read_bytes()
    home.recipe.write_text(text, "utf-8")
    assert home.run(*SETTINGS).done == ()
    assert_of(home, test)
    test.write_text("\n\n".join(test.read_text("utf-8").split("\n\n")[6:]).replace("B-LOC", "B-PER"), "utf-8")
    assert home.run(*SETTINGS).done == ()
    assert_of(home, test)
    home.recipe.write_text(without, "utf-8")
    home.run(*SETTINGS)
    assert shown(home)["classes_if_gold"] is shown(home)["calibration"]["target"] is None
    (study,) = study_thresholds(home.folder / "run", draws=2)
    assert study.oracle is None
    assert decision == (home.folder / "run/seed-0/de/hard1/decision.json").read_bytes()


def page(folder: Path) -> str:
    return write_report(folder).read_text("utf-8")


def test_estimates_rules_and_sentences_of_other_stages_are_left_out(tiny: Any) -> None:
    home = tiny("ner")
    home.run(*SETTINGS)
    folder = home.folder / "run"
    write_for_page(folder)
    text = page(folder)
    assert "best by gold" in text
    assert "Left out: " not in text.replace("Left out: no", "")
    home.run(*SETTINGS, "finetune.lr=1e-3")
    text = page(folder)
    for name, command in (("thresholds.json", "report"), ("sentences.json", "report")):
        assert f"Left out: {name} was made before seed-0/baseline, " in text
        assert f"xlt-engine {command} makes it anew" in text
    assert "best by gold" not in text
    write_for_page(folder)
    assert "best by gold" in page(folder)
    # Another test file: `true` and `error` are those of before.
    test = home.folder / "test-de.conll"
    test.write_text(test.read_text("utf-8").replace("B-LOC", "B-PER"), "utf-8")
    home.run(*SETTINGS, "finetune.lr=1e-3", before_report=write_for_page)
    text = (folder / "report.html").read_text("utf-8")
    assert "best by gold" in text
