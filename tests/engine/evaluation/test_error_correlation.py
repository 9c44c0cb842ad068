"""Whether two models err on the same items: against sklearn, and in a run with co-training and self-training."""

import warnings
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score, matthews_corrcoef

from xlt_engine.engine import predict
from xlt_engine.engine.evaluation.per_example import error_correlation


@pytest.mark.parametrize("seed", range(20))
def test_phi_and_kappa_are_those_of_others(seed: int) -> None:
    rng = np.random.default_rng(seed)
    first, noise = rng.random(200) < rng.uniform(0.1, 0.9), rng.random(200) < 0.3
    second = np.where(noise, rng.random(200) < 0.5, first)
    found = error_correlation(first, second.astype(np.uint8))
    assert found["phi"] == pytest.approx(matthews_corrcoef(first, second), rel=1e-12)
    assert found["phi"] == pytest.approx(np.corrcoef(first, second)[0, 1], rel=1e-12)
    assert found["kappa"] == pytest.approx(cohen_kappa_score(first, second), rel=1e-12)
    assert tuple(found[f"{who}_wrong"] for who in ("both", "first", "second")) == (
        (first & second).sum(),
        first.sum(),
        second.sum(),
    )


def test_the_ends() -> None:
    """The same errors, opposite ones, independent ones; and models that cannot correlate."""
    wrong = [1, 1, 0, 0]

    def both(*pair: list[int]) -> tuple[float | None, float | None]:
        found = error_correlation(*pair)
        return found["phi"], found["kappa"]

    assert both(wrong, wrong) == (1.0, 1.0)
    assert both(wrong, [0, 0, 1, 1]) == (-1.0, -1.0)
    assert both(wrong, [1, 0, 1, 0]) == (0.0, 0.0)
    assert both(wrong, [0, 0, 0, 0]) == (None, 0.0)
    assert both([0, 0], [0, 0]) == (None, None)
    assert error_correlation([0, 0], [0, 0])["both_wrong"] == 0


ON = (
    *("cotrain.on=true", "cotrain.iterations=3", "cotrain.threshold=0.5", "cotrain.lr=1e-2", "cotrain.epochs=2"),
    *("cotrain.batch_size=8", "selftrain.on=false", "btf.on=false", "checkpoint.seconds=60"),
)
PAIRS = {
    ("de/co2a", "co1b", "teacher"),
    ("de/co2b", "co1a", "teacher"),
    ("de/co3a", "de/co2b", "teacher"),
    ("de/co3b", "de/co2a", "teacher"),
    ("de/self2a", "co1a", "teacher"),
    ("de/self3a", "de/self2a", "teacher"),
    ("de/co2a", "de/self2a", "self-training"),
    ("de/co3a", "de/self3a", "self-training"),
}


def test_a_run_with_both(tiny: Any) -> None:
    run = tiny("classification")
    result = run.run(*ON, 'cotrain.modes=["co", "self-a"]')
    lines = (run.folder / "test-de.tsv").read_text("utf-8").splitlines()[1:]
    texts, gold = zip(*(line.split("\t") for line in lines), strict=True)
    wrong = {}
    for stage in {name for pair in PAIRS for name in pair[:2]}:
        said = predict(run.folder / "run" / "seed-0" / stage, list(texts))
        wrong[stage.rpartition("/")[2]] = [p.label != g for p, g in zip(said, gold, strict=True)]  # type: ignore[union-attr]
    found = {(p["first"], p["second"], p["relation"]): p for p in result.summary["error_correlations"]}
    assert set(found) == {(a.rpartition("/")[2], b.rpartition("/")[2], relation) for a, b, relation in PAIRS}
    numbers = []
    for (first, second, _), pair in found.items():
        assert (pair["language"], pair["seed"], pair["count"]) == ("de", 0, len(gold))
        assert (pair["first_wrong"], pair["second_wrong"]) == (sum(wrong[first]), sum(wrong[second]))
        if pair["phi"] is not None:
            numbers.append(pair["phi"])
            assert pair["phi"] == pytest.approx(matthews_corrcoef(wrong[first], wrong[second]), rel=1e-9)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                kappa = cohen_kappa_score(wrong[first], wrong[second])
            assert pair["kappa"] == pytest.approx(kappa, rel=1e-9)
    assert len(numbers) > 2


def test_one_method_alone_has_nothing_to_compare(tiny: Any) -> None:
    run = tiny("classification")
    result = run.run(*ON, "cotrain.iterations=2")
    assert result.summary["error_correlations"] == []
