"""What `trust` is fitted to and how it did (docs/trust.md); a test refits it from `benchmarks/results/trust.json`."""

from __future__ import annotations

from dataclasses import dataclass

UNSEEN_SHIFT = 0.48
"""How much more a model loses than the transport tells, relative to what it tells."""
FLOOR = 0.2
"""Half the width of an interval is `WIDTH * (FLOOR + loss)`. Set, not fitted."""
WIDTH = 0.43
"""The conformal quantile at `LEVEL` of the errors over `FLOOR + loss`, each data set judged by what the others gave."""
DATA_SETS = 7
LEVEL = DATA_SETS / (DATA_SETS + 1)
"""Share of intervals that is to hold the truth: the highest that conformal prediction gives from so few data sets."""
WIDEST = 0.4
"""An interval that is wider from end to end, as it is shown, is no estimate."""


@dataclass(frozen=True)
class Held:
    """How intervals did on data sets that they were not fitted on.

    Attributes:
        data_sets: with cases of this kind.
        cases: (data set, target language, stage); `shown` of them had an interval narrow enough, and `held` of these
            had the truth in it.
        error: mean absolute error of the shown estimates, in points; 0 where none is shown.
    """

    data_sets: int
    cases: int
    shown: int
    held: int
    error: float


RECORD = {
    ("accuracy", False): Held(data_sets=2, cases=23, shown=10, held=9, error=3.8),
    ("accuracy", True): Held(data_sets=2, cases=16, shown=4, held=4, error=5.1),
    ("entity_f1", False): Held(data_sets=5, cases=28, shown=22, held=22, error=4.1),
    ("entity_f1", True): Held(data_sets=3, cases=16, shown=8, held=8, error=8.0),
}
"""By metric ("accuracy", "entity_f1") and whether the model is self-trained."""


def track_record(metric: str, self_trained: bool) -> str:
    """A sentence on how intervals did for models of a kind, on data sets that they were not fitted on."""
    found, kind = RECORD[metric, self_trained], "self-trained" if self_trained else "not self-trained"
    return (
        f"{kind} models of {found.data_sets} data sets that it was not fitted on: {found.held} of {found.shown} "
        f"intervals held the truth, mean error {found.error:.1f} points; no estimate for "
        f"{found.cases - found.shown} more"
    )
