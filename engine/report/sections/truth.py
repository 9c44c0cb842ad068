"""The report's section "Truth": what the hidden labels of a truth world answer (docs/truth-world.md)."""

from __future__ import annotations

from ...storage.files import read_json
from ...storage.names import TRUTH
from ..page import bullets, folded, heading, note, table
from ..parts import Run, percent
from ..stage_table import Json, or_dash

_KNOBS = {
    "anchors": ("words written as in the source, types", "anchor_types"),
    "affixes": ("words that take an ending, types", "ending_types"),
    "word_order": ("pairs of words in another order", "inversions"),
    "label_shift": ("distance of the class shares", "prior_distance"),
    "domain_shift": ("unlabelled text of another domain", "domain_shift"),
}


def truth_section(run: Run) -> str:
    """The section as HTML; empty without a `truth.json`.

    Raises:
        DataError: `truth.json` is damaged.
    """
    truth = read_json(run.folder / TRUTH)
    if not truth:
        return ""
    text = (
        "Gold labels of the unlabelled target text, and the errors planted in the source labels, are known in this "
        "world. They are read here, after the run, and by nothing that trains or chooses. In tagging, labels are those "
        "other than O. Intervals are 95 %: bootstrap over sentences, Wilson for shares."
    )
    title = f"{heading('Truth')}{note(text)}{bullets(in_words(truth))}"
    return "\n".join([title, _rounds(truth), _source(truth), _world(truth, run)])


def in_words(truth: Json) -> list[str]:
    """The answers as sentences."""
    found, runs = truth["answers"], truth["runs"]
    lines = []
    if gain := found["btf_gain"]:
        control = f", with general text instead {_points(found['control_gain'])}" if found["control_gain"] else ""
        lines.append(f"Does BTF help? {_points(gain)} points on the target's test text{control}.")
    if gain := found["accepted_minus_teacher"]:
        same = found["accepted_minus_teacher_same_count"]
        lines.append(
            f"Are accepted labels more precise than the teacher's? {_points(gain, 100)} points in round 1; against as "
            f"many of the teacher's most confident labels {_points(same, 100)}."
        )
    if planted := truth["world"]["planted"]:
        lift = found["noise_lift"]
        if lift:
            caught, dropped = percent(found["noise_recall"]["mean"]), percent(found["clean_dropped"]["mean"])
            lines.append(
                f"Does source removal catch planted errors? {lift['mean']:.2f} times as often as chance; it catches "
                f"{caught} of {planted} and drops {dropped} of the clean source, which is forgetting."
            )
    elif found["clean_dropped"]:
        lines.append(
            f"No errors were planted: the {percent(found['clean_dropped']['mean'])} dropped was all clean source."
        )
    if drift := found["drift_of_student"]:
        accepted = found["drift_of_accepted"]
        last = f", of accepted ones by {_points(accepted, 100)}" if accepted else ""
        lines.append(
            f"Do labels drift? From the first round to the last, precision of the student's labels changes by "
            f"{_points(drift, 100)} points{last}, with {truth['voters']} voter(s). Run again with another "
            "selftrain.voters to compare."
        )
    if regret := found["regret"]:
        edge = sum(bool(_best(r).get("oracle_at_edge")) for r in runs)
        lines.append(
            f"Is alpha right? Accepted labels of round 1 have an F1 {_points(regret, 100, sign=False)} points below "
            f"that of the best threshold; the best one lies at the grid's edge in {edge} of {len(runs)}."
        )
    return lines


def _points(value: Json | None, factor: float = 1, *, sign: bool = True) -> str:
    if value is None:
        return "-"
    text = f"{factor * value['mean']:{'+' if sign else ''}.1f}"
    if value["std"] is not None:
        text += (
            f" ± {factor * value['std']:.1f} ({sum(v > 0 for v in value['values'])} of {len(value['values'])} above 0)"
        )
    return text


def _best(run: Json) -> Json:
    first = run["rounds"][0]["threshold"] if run["rounds"] else None
    return {} if first is None else dict(first.get("entity", first))


def _rounds(truth: Json) -> str:
    header = ["seed", "target", "round", "teacher", "student", "accepted", "accepted - teacher", "teacher, same count"]
    header += ["wrong ones accepted again", "α", "oracle α", "regret"]
    lines = []
    for run in truth["runs"]:
        for entry in run["rounds"]:
            labels, threshold = entry["labels"].get("entity", entry["labels"]), entry["threshold"] or {}
            best, gain = threshold.get("entity", threshold), labels["gain"]
            line = [str(run["seed"]), run["target"], str(entry["round"])]
            line += [_share(labels[name]) for name in ("teacher", "student", "accepted")]
            line.append(gain and f"{100 * gain['value']:+.1f} {_range(gain['interval'], 100, 1)}")
            line += [_share(labels["teacher_most_confident"]), _share(entry["repeated_errors"])]
            line += [x if x is None else f"{x:.2f}" for x in (entry["alpha"], best.get("oracle"))]
            line.append(f"{100 * best['regret']:.1f}" if best else None)
            lines.append([or_dash(cell) for cell in line])
    return f"<h3>Pseudo-labels against the truth</h3>{table(header, lines)}" if lines else ""


def _source(truth: Json) -> str:
    header = ["seed", "target", "rounds", "in play", "wrong", "removed", "precision", "recall", "lift", "p"]
    lines = []
    for run in truth["runs"]:
        for name, s in [*((str(r["round"]), r["source"]) for r in run["rounds"]), ("all", run["source"])]:
            if s is None:
                continue
            line = [str(run["seed"]), run["target"], name, *(f"{s[n]:,}" for n in ("in_play", "noisy", "removed"))]
            line += [f"{_share(s[n])} {_range(s[n]['interval'])}" for n in ("precision", "recall")]
            line.append("-" if s["lift"] is None else f"{s['lift']:.2f} {_range(s['lift_interval'], 1, 2)}")
            line.append("-" if s["p_value"] is None else f"{s['p_value']:.2g}")
            lines.append([*line, f"{_share(s['clean_dropped'])} {_range(s['clean_dropped']['interval'])}"])
    shown = table([*header, "clean dropped"], lines)
    return f"<h3>Removed source examples against the planted errors</h3>{shown}" if lines else ""


def _world(truth: Json, results: Run) -> str:
    knobs, measured = truth["world"]["knobs"], truth["world"]["measured"]
    targets = sorted({run["target"] for run in truth["runs"]})
    lines = [
        [name, f"{knobs[name]:g}", what, *(percent(measured[target][key]) for target in targets)]
        for name, (what, key) in _KNOBS.items()
    ]
    noise = [percent(measured["label_noise"])] * len(targets)
    lines.append(["label_noise", f"{knobs['label_noise']:g}", "source sentences with a wrong label", *noise])
    labels = {stage["stage"]: stage["label"] for stage in results.summary["stages"]}
    scores = [
        [str(run["seed"]), run["target"], labels.get(name, name), "-" if value is None else f"{value:.1f}"]
        for run in truth["runs"]
        for name, value in run["scores"].items()
    ]
    shown = folded("Scores on the target", table(["seed", "target", "stage", "score"], scores))
    return f"<h3>The world</h3>{table(['knob', 'set to', 'measured', *targets], lines, text=2)}{shown}"


def _share(value: Json | None) -> str:
    return "-" if value is None else percent(value["value"])


def _range(interval: list[float] | None, factor: float = 100, digits: int = 0) -> str:
    return "" if interval is None else f"[{factor * interval[0]:.{digits}f}, {factor * interval[1]:.{digits}f}]"
