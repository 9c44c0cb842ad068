"""How well target scores are estimated without target labels: predicted against true, over finished runs.

    python benchmarks/trust.py demo=runs/demo intents=runs/xs --cache trust-cache --json trust.json
    python benchmarks/trust.py --cases benchmarks/results/trust.json --json trust.json

Every run is `DATA_SET=FOLDER` and has labelled target test files; `--cases` takes those of an earlier result, with
their signals. The shift of the estimate and the width of its interval are fitted on all data sets but one and judged
on that one; then the same by target language. What came of this: `engine/lab/studies/trust_estimate.py`.
"""

from __future__ import annotations

import argparse
import json
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from common import made
from numpy.typing import ArrayLike, NDArray
from trust_methods import METHODS, published_estimates

from xlt_engine.engine.lab.studies import trust_estimate as cot
from xlt_engine.engine.lab.studies.trust import trust
from xlt_engine.engine.report import svg

SHIFTS = np.linspace(0, 1.5, 76)
TEACHERS = ("baseline", "btf")
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Case:
    """One (data set, target, stage) of one run, means over its seeds.

    Attributes:
        metric: "accuracy" or "entity_f1".
        alpha: what each choice of the threshold loses (`alphas`).
        teacher: of a self-trained model: source score and transport scores of the first teacher of its lineage.
        predicted: by what other groups gave.
    """

    data: str
    run: str
    target: str
    stage: str
    label: str
    arm: str
    order: int
    metric: str
    seeds: int
    source: float
    source_transport: float
    target_transport: float
    methods: dict[str, float | None]
    true: float
    alpha: dict[str, float] | None = None
    teacher: cot.Transport | None = None
    predicted: cot.Estimate | None = None

    @property
    def transport(self) -> cot.Transport:
        return cot.Transport(self.source, self.source_transport, self.target_transport)

    @property
    def self_trained(self) -> bool:
        return self.arm == "selftrain"

    def estimate(self, shift: float, width: float) -> cot.Estimate:
        return cot.calibrated_estimate(self.transport, self.teacher, shift=shift, width=width)

    @property
    def scale(self) -> float:
        """What the interval's width is a multiple of."""
        return cot.interval_scale(self.transport, self.teacher)


Predict = Callable[[Case, float, float], cot.Estimate]


def cases_of(data: str, folder: Path, sample: int, cache: Path) -> list[Case]:
    """The cases of a run, read from the cache where they are there."""
    kept = cache / f"{data}-{folder.resolve().name}.json"
    if not kept.exists():
        cache.mkdir(parents=True, exist_ok=True)
        found = asdict(trust(folder, sample=sample))
        others = published_estimates(folder, sample)
        for stage in found["stages"]:
            stage["methods"] = others[stage["target"], stage["stage"]]
        kept.write_text(json.dumps(found), encoding="utf-8")
    report: dict[str, Any] = json.loads(kept.read_text("utf-8"))
    return [
        Case(
            data=data,
            run=folder.name,
            metric=report["metric"],
            **{k: s[k] for k in ("target", "stage", "label", "arm", "order", "methods", "true")},
            seeds=len(s["seeds"]),
            source=s["source_score"],
            source_transport=s["source_transport"],
            target_transport=s["target_transport"],
        )
        for s in report["stages"]
        if s["true"] is not None
    ]


def read_cases(result: dict[str, Any]) -> list[Case]:
    """The cases of an earlier result; what was predicted and joined is left behind."""
    kept = {f.name for f in fields(Case)} - {"teacher", "predicted"}
    return [Case(**{k: v for k, v in c.items() if k in kept}) for c in result["cases"]]


def head(runs: Sequence[Path], earlier: dict[str, Any] | None) -> dict[str, Any]:
    """How the signals of the cases were made: here, by these runs, or as the earlier result says."""
    if earlier and not runs:
        return earlier["made"]
    found = {json.loads(p.read_bytes())["numerics"] for r in runs for p in r.glob("seed-*/**/fingerprint.json")}
    if earlier:
        before = earlier["made"]["numerics"]
        found |= set(before) if isinstance(before, list) else {before}
    numerics = sorted(found)
    command = "python benchmarks/trust.py DATA_SET=RUN ... --cache CACHE --json FILE"
    return made(command, ()) | {"numerics": numerics[0] if len(numerics) == 1 else numerics}


def with_teachers(cases: list[Case]) -> list[Case]:
    """Each self-trained case with the last stage before self-training of the same run and target as first teacher."""
    first: dict[tuple[str, str, str], Case] = {}
    for c in sorted((c for c in cases if c.arm in TEACHERS), key=lambda c: c.order):
        first[c.data, c.run, c.target] = c
    return [replace(c, teacher=first[c.data, c.run, c.target].transport) if c.self_trained else c for c in cases]


def fit_shift(cases: list[Case]) -> float:
    """The shift of the smallest mean absolute error, every data set counting the same."""
    names = [c.data for c in cases]
    weights = np.array([1 / names.count(n) for n in names])
    errors = [weights @ [abs(c.estimate(s, 0).value - c.true) for c in cases] for s in SHIFTS]
    return float(SHIFTS[int(np.argmin(errors))])


def conformal_quantile(scores: ArrayLike, groups: Sequence[str], level: float) -> float:
    """The bound that a case of a new group stays below with probability `level`, groups being exchangeable.

    Lee, Barber and Willett 2023 (arXiv 2306.06342): each of K groups has the weight 1 / (K + 1) in equal shares for its
    cases, and the rest, which is the new group's, lies at infinity. So K groups give no level above K / (K + 1).

    Args:
        scores: float [n], what is to be bounded.
        groups: name of each one's group.

    Returns:
        One of the scores; infinity where the level cannot be had.
    """
    values = np.asarray(scores, dtype=np.float64)
    count = Counter(groups)
    share = np.array([1 / (count[g] * (len(count) + 1)) for g in groups])
    order = np.argsort(values, kind="stable")
    reached = np.flatnonzero(np.cumsum(share[order]) >= level - 1e-9)
    return float(values[order][reached[0]]) if reached.size else math.inf


def fit_width(cases: list[Case], group: str, level: float | None = None) -> float:
    """The conformal width: each case judged with a shift fitted without its group.

    Args:
        level: the highest that so many groups give where absent.
    """
    groups, ratios = [str(getattr(c, group)) for c in cases], np.zeros(len(cases))
    for name in set(groups):
        shift = fit_shift([c for c, g in zip(cases, groups, strict=True) if g != name])
        for i, c in enumerate(cases):
            if groups[i] == name:
                ratios[i] = abs(c.estimate(shift, 0).value - c.true) / c.scale
    most = len(set(groups)) / (len(set(groups)) + 1)
    return conformal_quantile(ratios, groups, most if level is None else level)


def held_out(cases: list[Case], group: str) -> list[Case]:
    """The cases with the estimate that shift and width fitted on all other groups give."""
    found = []
    for name in sorted({getattr(c, group) for c in cases}):
        others = [c for c in cases if getattr(c, group) != name]
        shift, width = fit_shift(others), fit_width(others, group)
        found += [replace(c, predicted=c.estimate(shift, width)) for c in cases if getattr(c, group) == name]
    return found


def summary(cases: list[Case]) -> dict[str, Any]:
    """Error and coverage of predicted cases, over all, self-trained or not, and by data set."""

    def of(some: list[Case]) -> dict[str, float]:
        pairs = [(c.predicted, c.true) for c in some if c.predicted is not None]
        held = [p.low <= t <= p.high for p, t in pairs]
        shown = [p.narrow for p, _ in pairs]
        return {
            "cases": len(pairs),
            "mae": float(np.mean([abs(p.value - t) for p, t in pairs])),
            "bias": float(np.mean([p.value - t for p, t in pairs])),
            "held": sum(held),
            "half_width": float(np.mean([(p.high - p.low) / 2 for p, _ in pairs])),
            "shown": sum(shown),
            "shown_held": sum(h for h, s in zip(held, shown, strict=True) if s),
        }

    found = {"all": of(cases), "self-trained": of([c for c in cases if c.self_trained])}
    found["not self-trained"] = of([c for c in cases if not c.self_trained])
    return found | {n: of([c for c in cases if c.data == n]) for n in sorted({c.data for c in cases})}


def record(cases: list[Case]) -> dict[tuple[str, bool], cot.Held]:
    """What the package says on the screen: of held-out cases, by metric and whether the model is self-trained."""
    found = {}
    for key in sorted({(c.metric, c.self_trained) for c in cases}):
        own = [c for c in cases if (c.metric, c.self_trained) == key]
        shown = [(c.predicted, c.true) for c in own if c.predicted is not None and c.predicted.narrow]
        held = sum(p.low <= t <= p.high for p, t in shown)
        error = 100 * float(np.mean([abs(p.value - t) for p, t in shown])) if shown else 0.0
        found[key] = cot.Held(len({c.data for c in own}), len(own), len(shown), held, round(error, 1))
    return found


def method_errors(cases: list[Case]) -> dict[str, dict[str, float]]:
    """Mean absolute error and bias of the estimators as published, over the cases that they can judge."""
    found = {}
    for name in METHODS:
        errors = [v - c.true for c in cases if (v := c.methods.get(name)) is not None]
        if errors:
            found[name] = {"cases": len(errors), "mae": float(np.mean(np.abs(errors))), "bias": float(np.mean(errors))}
    return found


def choices(cases: list[Case]) -> list[dict[str, Any]]:
    """For each run and target what rules for a choice lose against the best stage, by held-out estimates, in shares.

    `chosen` is the stage of the highest estimate, `warned` the teacher where the last stage is estimated below it, else
    the last stage; `shown` says whether both of these two have an estimate that is narrow enough.
    """
    found = []
    for key in sorted({(c.data, c.run, c.target) for c in cases}):
        own = sorted(
            (c for c in cases if (c.data, c.run, c.target) == key and c.arm != "control"), key=lambda c: c.order
        )
        if not any(c.self_trained for c in own):
            continue
        teacher, last = [c for c in own if not c.self_trained][-1], own[-1]
        values = {c.stage: c.predicted for c in own if c.predicted is not None}
        chosen = max(own, key=lambda c: values[c.stage].value)
        best = max(c.true for c in own)
        gain = values[last.stage].value - values[teacher.stage].value
        warned = teacher if gain < 0 else last
        found.append(
            dict(zip(("data", "run", "target"), key, strict=True))
            | {"chosen": chosen.stage, "shown": values[last.stage].narrow and values[teacher.stage].narrow}
            | {"regret_chosen": best - chosen.true, "regret_last": best - last.true}
            | {"regret_teacher": best - teacher.true, "regret_warned": best - warned.true}
            | {"predicted_gain": gain, "true_gain": last.true - teacher.true}
        )
    return found


def regrets(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean losses of the rules of `choices` in points: over pairs, over data sets, where both estimates are shown."""
    names = ("chosen", "last", "teacher", "warned")

    def of(some: list[dict[str, Any]]) -> dict[str, float]:
        return {"pairs": len(some)} | {
            n: round(100 * float(np.mean([c[f"regret_{n}"] for c in some])), 2) for n in names
        }

    by_data = {n: of([c for c in found if c["data"] == n]) for n in sorted({c["data"] for c in found})}
    return {
        "all pairs": of(found),
        "mean over data sets": {n: round(float(np.mean([v[n] for v in by_data.values()])), 2) for n in names},
        "shown": of([c for c in found if c["shown"]]),
    } | by_data


def readings(cases: list[Case]) -> dict[str, dict[str, Any]]:
    """Three readings of a student's loss, each fitted without the data set: whose source score it is counted from."""
    literal = [
        replace(c, source=c.teacher[0], source_transport=c.teacher[1], teacher=None) if c.teacher else c for c in cases
    ]
    given = {
        "its own": [replace(c, teacher=None) for c in cases],
        "the teacher's, in estimate and interval": literal,
        "the teacher's, in the interval": cases,
    }
    return {
        name: {"width": fit_width(some, "data")} | summary(held_out(some, "data"))["self-trained"]
        for name, some in given.items()
    }


def alphas(cases: list[Case]) -> dict[str, Any]:
    """Label F1 lost against the best threshold of the grid: by the estimate, as used, and at the lowest one.

    Of cases of an earlier result alone: `trust` no longer prefers a threshold, since the lowest one was better.
    """
    names = ("preferred", "used", "lowest")
    found: dict[str, Any] = {}
    for data in sorted({c.data for c in cases}):
        own = [c.alpha for c in cases if c.data == data and c.alpha and "regret_used" in c.alpha]
        if own:
            found[data] = {"decisions": len(own)} | {n: float(np.mean([a[f"regret_{n}"] for a in own])) for n in names}
    if found:
        found["mean over data sets"] = {n: float(np.mean([v[n] for v in found.values()])) for n in names}
    return found


def drawing(result: dict[str, Any]) -> str:
    """The figure of a results file."""
    return draw([Case(**case | {"predicted": cot.Estimate(**case["predicted"])}) for case in result["cases"]])


def draw(cases: list[Case]) -> str:
    """Predicted against true, each case with its interval; beside it ATC, the best known of the plain estimators."""
    names = sorted({c.data for c in cases})
    panels = []
    for title, method in (("estimate, its data set left out", ""), ("thresholded confidence (ATC)", "thresholded")):
        panel = svg.Panel(title, (0, 100), (0, 100), "true score", "predicted", width=450, height=420)
        panel.rule((0, 0), (100, 100))
        for c in cases:
            draw_case(panel, c, c.methods.get(method) if method else None, names.index(c.data))
        panels.append(panel)
    keys = [svg.Key(n, svg.colour(i), svg.shape_name(i)) for i, n in enumerate(names)]
    text = f"{len(cases)} cases of {len(names)} data sets; the diagonal is a perfect prediction"
    picture = svg.figure(panels, title="Predicted against true scores", description=text, columns=2, keys=keys)
    return svg.standalone(picture)


def draw_case(panel: svg.Panel, case: Case, guess: float | None, series: int) -> None:
    """One marker; without a guess of another method, the estimate, with its interval where that is narrow enough."""
    true, found = 100 * case.true, case.predicted
    if guess is None and found is not None:
        guess = found.value
        if found.narrow:
            panel.line([(true, 100 * found.low), (true, 100 * found.high)], svg.GREY, thin=True)
    if guess is not None:
        tip = f"{case.data}, {case.target}, {case.label}: true {true:.1f}, predicted {100 * guess:.1f}"
        panel.point(true, 100 * guess, svg.colour(series), shape=series, tip=tip)


def results(cases: list[Case]) -> dict[str, Any]:
    """All that the page is made from."""
    cases = with_teachers(cases)
    by_data, by_language = held_out(cases, "data"), held_out(cases, "target")
    shipped = [replace(c, predicted=c.estimate(cot.UNSEEN_SHIFT, cot.WIDTH)) for c in cases]
    sets = len({c.data for c in cases})
    chosen = choices(by_data)
    return {
        "constants": {
            "shift": fit_shift(cases),
            "width": fit_width(cases, "data"),
            "floor": cot.FLOOR,
            "data_sets": sets,
            "width_at_80": fit_width(cases, "data", 0.8),
        },
        "record": [{"metric": m, "self_trained": s} | asdict(h) for (m, s), h in record(by_data).items()],
        "left_out_data_set": summary(by_data),
        "left_out_language": summary(by_language),
        "shipped_constants": summary(shipped),
        "readings": readings(cases),
        "methods": method_errors(cases),
        "regrets": regrets(chosen),
        "choices": chosen,
        "alphas": alphas(cases),
        "cases": [asdict(c) for c in by_data],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", nargs="*", metavar="DATA_SET=FOLDER")
    parser.add_argument("--cases", type=Path, help="result whose cases are fitted again, beside those of the runs")
    parser.add_argument("--sample", type=int, default=1000)
    parser.add_argument("--cache", type=Path, default=Path("trust-cache"))
    parser.add_argument("--json", type=Path, default=Path("trust.json"))
    given = parser.parse_args()
    earlier = json.loads(given.cases.read_bytes()) if given.cases else None
    runs = [(data, Path(folder)) for data, _, folder in (entry.partition("=") for entry in given.runs)]
    cases = read_cases(earlier) if earlier else []
    for data, folder in runs:
        cases += cases_of(data, folder, given.sample, given.cache)
    if not cases:
        parser.error("give runs, or --cases")
    result = {"made": head([folder for _, folder in runs], earlier)} | results(cases)
    given.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({k: v for k, v in result.items() if k != "cases"}, indent=1))


if __name__ == "__main__":
    main()
