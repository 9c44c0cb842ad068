"""Tables (docs/truth-world.md, docs/results.md) and figure (docs/truth-world.svg) of the truth world's results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Any

from common import markdown

from xlt_engine.engine.report.svg import GREY, Key, Panel, figure, padded_range, standalone
from xlt_engine.engine.summary.seeds import paired_step, stat

from .sweep import ALPHAS

WIDTH, FEW = 880, 5
SHIFTS, NOISES = ("0.0", "0.5", "1.0"), ("noise=0.0", "base", "noise=0.3")

Json = dict[str, Any]
Read = Callable[[Json], Any]


class Results:
    """The runs of each case, by seed."""

    def __init__(self, results: Json) -> None:
        self.cases: dict[str, dict[int, Json]] = {}
        for key, entry in results["cases"].items():
            name, _, seed = key.rpartition("/")
            self.cases.setdefault(name, {})[int(seed)] = entry

    def values(self, case: str, read: Read) -> list[float]:
        """One value per seed, in the order of the seeds; those that are None left out."""
        found = [read(entry) for _, entry in sorted(self.cases.get(case, {}).items())]
        return [v for v in found if v is not None]

    def cell(self, case: str, read: Read, factor: float = 1, digits: int = 1) -> str:
        """Mean ± deviation over the seeds; with how many, where some have no value."""
        values = [factor * v for v in self.values(case, read)]
        found = stat(values)
        if found is None:
            return "-"
        some = f", n = {found.n}" if found.n < len(self.cases[case]) else ""
        return f"{found.mean:.{digits}f}" + ("" if found.std is None else f" ± {found.std:.{digits}f}") + some

    def step(self, case: str, before: Read, after: Read, factor: float = 1) -> str:
        """Paired difference over the seeds, and in how many it is above zero."""
        one, other = self.values(case, before), self.values(case, after)
        step = paired_step([factor * (b - a) for a, b in zip(one, other, strict=False)], "")
        return "-" if step is None or len(one) != len(other) else f"{step} ({step.up}/{step.stat.n})"


def score(stage: str) -> Read:
    return lambda entry: entry["run"]["scores"].get(stage)


def labels(number: int, which: str, key: str = "value") -> Read:
    """A share among labels other than O of round `number`, from 1."""

    def read(entry: Json) -> Any:
        rounds = entry["run"]["rounds"]
        found = rounds[number - 1]["labels"][which] if len(rounds) >= number else None
        return None if found is None else found[key]

    return read


def label_regret(entry: Json) -> Any:
    """What alpha of round 1 loses in F1 of the accepted labels other than O."""
    return entry["run"]["rounds"][0]["threshold"]["regret"]


def source(number: int, *keys: str) -> Read:
    """A value of the removal in round `number`; of all rounds together with 0."""

    def read(entry: Json) -> Any:
        rounds = entry["run"]["rounds"]
        value: Any = entry["run"]["source"] if number == 0 else rounds[number - 1]["source"]
        for key in keys:
            value = None if value is None else value[key]
        return value

    return read


def all_tables(results: Json) -> str:
    """The answers, and the tables with their titles."""
    found = Results(results)
    return "\n\n".join([answers(found), by_knob(found), by_noise(found)])


def answers(found: Results) -> str:
    """The questions that the truth world was made for, each with its answer in a line."""
    zero, btf, hard = score("baseline"), score("method"), score("hard1")

    def share(which: str) -> str:
        return found.cell("base", labels(1, which), 100)

    def removal(key: str, case: str = "base") -> str:
        return found.cell(case, source(1, key, "value"), 100)

    shifts, regret = (", ".join(parts) for parts in (SHIFTS, (cell_of(regrets(found, shift)) for shift in SHIFTS)))
    more = found.step("base", labels(1, "teacher"), labels(1, "accepted"), 100)
    lines = [
        [
            "Does BTF help?",
            f"{found.step('base', zero, btf)} over fine-tuning alone; as much general text gives "
            f"{found.step('base', zero, score('control'))}",
        ],
        [
            "Are accepted labels more precise than the teacher's?",
            f"{share('accepted')} against {share('teacher')} per cent, {more}; as many of the teacher's "
            f"most confident: {share('teacher_most_confident')}",
        ],
        [
            "Does source removal find planted errors?",
            f"{removal('recall')} per cent of them, lift {found.cell('base', source(1, 'lift'), digits=2)}; it drops "
            f"{removal('clean_dropped')} per cent of the clean sentences, too",
        ],
        [
            "Do voters slow the drift?",
            f"after three rounds {found.cell('base', score('hard3'))} with three, "
            f"{found.cell('voters=1', score('hard3'))} with one; of round 2's wrong labels round 3 accepts "
            f"{found.cell('base', repeated(3), 100)} and {found.cell('voters=1', repeated(3), 100)} per cent again",
        ],
        [f"Alpha's regret as labels shift ({shifts})?", f"{regret} points against the best of four fixed thresholds"],
        [
            "Does self-training help at all?",
            f"{found.step('base', btf, hard)} in its first round",
        ],
    ]
    return markdown(["question", "answer"], lines)


def drawing(results: Json) -> str:
    """The figure, a panel for each table that it can show."""
    found = Results(results)
    panels = [knob_panel(found), noise_panel(found), voter_panel(found), shift_panel(found)]
    drawn = figure(
        [panel for panel in panels if panel],
        title="The truth world",
        description="Means over seeds of the tables on this page.",
        columns=1,
        keys=[Key("zero-shot", GREY, "bar"), Key("BTF", 0, "bar"), Key("hard 1", 2, "bar")],
    )
    return standalone(drawn)


def titled(title: str, header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    return f"**{title}**\n\n{markdown(header, lines)}"


def shown(found: Results) -> list[str]:
    """The cases that differ in a knob, not in a threshold or in the number of voters."""
    names = [c for c in found.cases if "alpha" not in c and c not in ("voters=1", "shift=0.0")]
    first = ["base", "noise=0.0", "noise=0.3", "shift=0.5", "shift=1.0"]
    return [c for c in first if c in names] + [c for c in names if c not in first]


def by_knob(found: Results) -> str:
    header = ["world", "BTF - zero-shot", "hard 1 - BTF"]
    lines = [
        [
            case,
            found.step(case, score("baseline"), score("method")),
            found.step(case, score("method"), score("hard1")),
        ]
        for case in shown(found)
    ]
    return titled("Entity F1 on the target's test text", header, lines)


def by_noise(found: Results) -> str:
    header = ["world", "rounds", "wrong", "removed", "recall", "lift", "clean dropped"]
    parts = [("noise=0.0", 1), ("base", 1), ("noise=0.3", 1), ("base", 2), ("base", 0)]
    lines = []
    for case, number in parts:
        if case not in found.cases:
            continue
        # Where hardly an error is left, shares of them say nothing.
        few = fmean(found.values(case, source(number, "noisy"))) < FEW
        recall = found.cell(case, source(number, "recall", "value"), 100)
        lines.append(
            [
                case,
                str(number) if number else "all",
                *(found.cell(case, source(number, key), digits=0) for key in ("noisy", "removed")),
                *(["-"] * 2 if few else [recall, found.cell(case, source(number, "lift"), digits=2)]),
                found.cell(case, source(number, "clean_dropped", "value"), 100),
            ]
        )
    return titled("Source sentences removed, of 1,500, against the planted errors", header, lines)


def repeated(number: int) -> Read:
    def read(entry: Json) -> Any:
        found = entry["run"]["rounds"][number - 1]["repeated_errors"]
        return None if found is None else found["value"]

    return read


def regrets(found: Results, shift: str) -> list[float]:
    """Best test score of any threshold that was tried, minus that of the chosen one, per seed that has them all."""
    case, others = f"shift={shift}", [f"shift={shift} alpha={a}" for a in ALPHAS]
    every = [found.cases.get(name, {}) for name in (case, *others)]
    seeds = sorted(set.intersection(*(set(e) for e in every)))
    scores = [[e[s]["run"]["scores"]["hard1"] for e in every] for s in seeds]
    return [max(row) - row[0] for row in scores]


def cell_of(values: Sequence[float]) -> str:
    return str(stat(values) or "-")


def _mean(found: Results, case: str, read: Read, factor: float = 1) -> float:
    values = found.values(case, read)
    return factor * fmean(values) if values else float("nan")


def knob_panel(found: Results) -> Panel | None:
    names = shown(found)
    short = {"word_order": "order", "letter_overlap": "letters", "domain_shift": "domain"}
    ticks = [
        (float(i), short.get(n.split("=")[0], n.split("=")[0]) + n[n.find("=") :] * ("=" in n))
        for i, n in enumerate(names)
    ]
    panel = Panel("entity F1 on the target", (-0.6, len(names) - 0.4), (0, 100), x_ticks=ticks, width=WIDTH, height=240)
    for i, case in enumerate(names):
        for j, (stage, name) in enumerate((("baseline", "zero-shot"), ("method", "BTF"), ("hard1", "hard 1"))):
            value, left = _mean(found, case, score(stage)), i - 0.39 + 0.26 * j
            panel.bar((left + 0.01, 0), (left + 0.25, value), (GREY, 0, 2)[j], tip=f"{case}, {name}: {value:.1f}")
            panel.label(left + 0.13, value, f"{value:.0f}", dy=-4)
    return panel


def noise_panel(found: Results) -> Panel | None:
    names = [n for n in NOISES if n in found.cases]
    ticks = [(float(i), {"base": "noise=0.1"}.get(n, n)) for i, n in enumerate(names)]
    panel = Panel("removed in round 1, per cent", (-0.6, len(names) - 0.4), (0, 112), x_ticks=ticks, width=WIDTH)
    for i, case in enumerate(names):
        for j, (key, name) in enumerate((("recall", "of wrong"), ("clean_dropped", "of clean"))):
            value, left = _mean(found, case, source(1, key, "value"), 100), i - 0.35 + 0.35 * j
            if value == value:
                panel.bar((left + 0.01, 0), (left + 0.34, value), j, tip=f"{case}, {name}: {value:.1f} %")
                panel.label(left + 0.17, value, f"{name} {value:.0f}", dy=-4)
    return panel


def voter_panel(found: Results) -> Panel | None:
    if "voters=1" not in found.cases:
        return None
    reads = [(c, w, n) for c in ("base", "voters=1") for w in ("student", "accepted") for n in (1, 2, 3)]
    values = {key: _mean(found, key[0], labels(key[2], key[1]), 100) for key in reads}
    rounds = [(float(n), f"round {n}") for n in (1, 2, 3)]
    panel = Panel(
        "precision of labels, per cent", (0.8, 3.9), padded_range(list(values.values())), x_ticks=rounds, width=WIDTH
    )
    for which in ("student", "accepted"):
        lines = [[(float(n), values[c, which, n]) for n in (1, 2, 3)] for c in ("base", "voters=1")]
        for series, line in enumerate(lines):
            above = line[-1][1] >= lines[1 - series][-1][1]
            panel.line(line, series, dashed=which == "student")
            text, place = f"{which}, {('3 voters', '1 voter')[series]}", -2 if above else 10
            panel.label(3.0, line[-1][1], text, anchor="start", dx=6, dy=place, css=f"small t{series}")
    return panel


def shift_panel(found: Results) -> Panel | None:
    names = [s for s in SHIFTS if f"shift={s}" in found.cases]
    if not names:
        return None
    lines = {
        "by labels": [(float(s), _mean(found, f"shift={s}", label_regret, 100)) for s in names],
        "by test score": [(float(s), fmean(r) if (r := regrets(found, s)) else float("nan")) for s in names],
    }
    values = [y for line in lines.values() for _, y in line]
    ticks = [(float(s), s) for s in names]
    span = padded_range(values, zero=True, pad=0.12)
    panel = Panel("regret of α, points", (-0.05, 1.05), span, "label_shift", x_ticks=ticks, width=WIDTH)
    for series, (name, line) in enumerate(lines.items()):
        panel.line(line, series)
        for x, y in line:
            panel.point(x, y, series, tip=f"{name}, shift {x}: {y:.1f}")
        panel.label(line[0][0], line[0][1], name, anchor="start", dx=8, dy=-8, css=f"small t{series}")
    return panel
