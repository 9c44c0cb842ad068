"""The study of threshold rules: equal to `choose_threshold`, draws against a plain loop, regret by hand."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from xlt_engine import DataError
from xlt_engine.data import derive_seed
from xlt_engine.engine import choose_threshold
from xlt_engine.engine.lab.studies.thresholds import (
    COMPARED,
    GoldSweep,
    bootstrap_alphas,
    compare_rules,
    example_sweep,
    study_thresholds,
)
from xlt_engine.engine.pseudolabels.thresholds import count_above, uniform_grid
from xlt_engine.engine.recipe.config.stages import AlphaConfig
from xlt_engine.engine.stages.decision_files import LabelledVotes

GRID, ALPHA = uniform_grid(3, step=0.02), AlphaConfig(step=0.02)


def items(seed: int = 0, count: int = 3000) -> LabelledVotes:
    """Words of 200 sentences, surer where right; some disagree, one is not a number, some lie at thresholds."""
    draws = np.random.default_rng(seed)
    confidence = draws.uniform(0.4, 1.0, count).astype(np.float32)
    correct = draws.random(count) < 0.4 + 0.6 * confidence**4
    agree = draws.random(count) < 0.9
    confidence[7] = np.nan
    confidence[10:30] = GRID[:20]  # exactly at a threshold: not above it
    return LabelledVotes(confidence, agree, correct, np.sort(draws.integers(0, 200, count)))


def direct(found: LabelledVotes, rule: str, rows: np.ndarray | None = None, **limits: float) -> Any:
    part = slice(None) if rows is None else rows
    options: dict[str, Any] = {"min_kept": 20, **limits}
    return choose_threshold(
        found.confidence[part], found.correct[part], rule=rule, grid=GRID, agree=found.agree[part], **options
    )


@pytest.mark.parametrize(("scale", "limits"), [(1.0, {}), (1.0, {"min_share": 0.4}), (0.5, {})])
def test_equal_to_direct_calls(scale: float, limits: dict[str, float]) -> None:
    """With a share that must stay, and with confidences that do not reach the grid, too."""
    found = replace(items(), confidence=items().confidence * np.float32(scale))
    for result in compare_rules(found, replace(ALPHA, **limits), 3, draws=5):
        choice = direct(found, result.rule, **limits)
        assert (result.alpha, result.at_edge) == (choice.alpha, choice.at_edge)
        passed = found.agree & (found.confidence > np.float32(choice.alpha))
        assert result.source_coverage == passed.mean()
        assert result.source_accuracy == (found.correct[passed].mean() if passed.any() else None)
        assert result.regret is result.target_f1 is result.target_coverage is None


def test_sweep_sums_to_the_curve() -> None:
    found = items(1)
    kept, correct = example_sweep(found, GRID)
    usable = found.agree & np.isfinite(found.confidence)
    assert (kept.sum(axis=0) == count_above(found.confidence[usable], GRID)).all()
    assert (correct.sum(axis=0) == count_above(found.confidence[usable & found.correct], GRID)).all()
    limit = np.float32(GRID[10])
    one = (found.example == 17) & usable & (found.confidence > limit)
    assert kept[17, 10] == one.sum()


@pytest.mark.parametrize(("scale", "limits"), [(1.0, {}), (1.0, {"min_share": 0.4}), (0.5, {})])
def test_draws_against_a_plain_loop(scale: float, limits: dict[str, float]) -> None:
    """The same draws of sentences, each made in full and given to `choose_threshold`; the median, too, is that."""
    found = items(2)
    found = replace(found, confidence=found.confidence * np.float32(scale))
    assert (direct(found, "slope").index is None) == (scale < 1)
    assert (direct(found, "slope").alpha != direct(found, "slope", **limits).alpha) == bool(limits)
    alphas, edges = bootstrap_alphas(found, replace(ALPHA, **limits), 3, COMPARED, draws=6, seed=3)
    draws = np.random.default_rng(derive_seed(3, "threshold-study"))
    for i in range(6):
        sentences = draws.integers(200, size=200)
        rows = np.concatenate([np.flatnonzero(found.example == s) for s in sentences])
        for j, rule in enumerate(COMPARED):
            choice = direct(found, rule, rows, **limits)
            assert (alphas[i, j], edges[i, j]) == (choice.alpha, choice.at_edge), (i, rule)


def test_fixed_rules_do_not_spread_and_noisy_ones_do() -> None:
    results = {r.rule: r for r in compare_rules(items(3, 600), ALPHA, 3, draws=60)}
    assert results["fixed:0.9"].low == results["fixed:0.9"].high == 0.9
    assert results["second-difference"].high - results["second-difference"].low > 0.04


def test_regret_by_hand() -> None:
    """Entity labels: at the thresholds 4, 2, 1 kept and 2, 2, 1 right, of 4 there are: F1 1/2, 2/3, 2/5."""
    gold = GoldSweep.from_record(
        {
            "by_threshold_if_gold": {
                "thresholds": [0.6, 0.8, 0.9],
                "kept": {"O": [9, 9, 9], "B": [3, 1, 1], "I": [1, 1, 0]},
                "correct": {"O": [9, 9, 9], "B": [1, 1, 1], "I": [1, 1, 0]},
            },
            "classes_if_gold": {"O": {"gold": 90}, "B": {"gold": 3}, "I": {"gold": 1}},
        }
    )
    assert gold.label_f1 == pytest.approx([1 / 2, 2 / 3, 2 / 5])
    assert gold.precision == pytest.approx([1 / 2, 1, 1])
    (result,) = compare_rules(items(), ALPHA, 3, rules=["fixed:0.9"], gold=gold, draws=2)
    assert result.target_f1 == pytest.approx(2 / 5)
    assert result.regret == pytest.approx(2 / 3 - 2 / 5)
    assert result.target_precision == 1
    (between,) = compare_rules(items(), ALPHA, 3, rules=["fixed:0.7"], gold=gold, draws=2)
    assert between.target_f1 is between.regret is between.target_precision is None, "nobody counted there"
    assert GoldSweep.from_record({"by_threshold_if_gold": None}) is None


def test_target_coverage_counts_agreement() -> None:
    target = (np.array([0.95, 0.95, 0.5], dtype=np.float32), np.array([True, False, True]))
    (result,) = compare_rules(items(), ALPHA, 3, rules=["fixed:0.9"], target=target, draws=2)
    assert result.target_coverage == pytest.approx(1 / 3)


def test_study_of_entities(tiny: Any) -> None:
    """Alpha from words tagged as entities, a share of which must stay, is found again."""
    run = tiny("ner")
    longer = ("finetune.epochs=20", "selftrain.soft.epochs=60", "selftrain.soft.lr=1e-2", "selftrain.rounds=1")
    alpha = ("rule=slope", "items=entities", "min_kept=1", "min_share=0.9")
    run.run(*longer, *(f"selftrain.alpha.{part}" for part in alpha))
    (study,) = study_thresholds(run.folder / "run", rules=["slope"], draws=10)
    record = run.json("de/hard1/decision.json")
    assert (study.results[0].alpha, study.results[0].at_edge) == (record["alpha"], record["at_edge"])


@pytest.mark.parametrize(("task", "rule"), [("ner", "fixed:0.2"), ("classification", "second-difference")])
def test_study_of_a_run(tiny: Any, task: str, rule: str) -> None:
    """What the run decided is found again."""
    run, rules = tiny(task), [*COMPARED, "fixed:0.2"]
    run.run(f"selftrain.alpha.rule={rule}", "selftrain.alpha.min_kept=2")
    folder = run.folder / "run"
    studies = study_thresholds(folder, rules=rules, draws=10)
    assert [(s.pair, s.round, s.seed) for s in studies] == [("de", 1, 0), ("de", 2, 0)]
    for study in studies:
        record = run.json(f"de/{study.stage}/decision.json")
        by_rule = {r.rule: r for r in study.results}
        assert by_rule[rule].alpha == study.alpha == record["alpha"]
        assert by_rule[rule].at_edge == record["at_edge"]
        counted = [r.target_f1 for r in study.results if r.target_f1 is not None]
        assert by_rule[rule].target_f1 in counted
        assert max(counted) <= study.oracle["f1"]
        stored = load_file(folder / "seed-0/de" / study.stage / "decision.safetensors")
        assert stored["alpha.correct"].sum() <= stored["alpha.example"].size


def test_no_decisions(tiny: Any) -> None:
    run = tiny("ner")
    run.run("selftrain.on=false")
    with pytest.raises(DataError, match="no hard stage"):
        study_thresholds(run.folder / "run")
