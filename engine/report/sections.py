"""The parts of the page: HTML from what a run has left on disk."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ...tasks import has_spans, shown_task
from ..storage.files import read_json
from ..storage.text import counted, percent, some
from ..summary.seeds import Stat, Step, mean, stat
from ..summary.stage_folders import made_from
from ..summary.stage_table import Json, StageKey, StageScore, or_dash, row_key, step_between, target_rows
from .page import folded, folds, heading, note, table, ups
from .parts import Run, accepted_share, alphas
from .svg import clean

_LISTED = 15
"""Confusions of a model, at most."""
FEW = 3
"""With fewer seeds nothing is said about their noise."""


def reading(run: Run) -> list[str]:
    """What happened, in sentences made from the numbers; stages that hurt are named."""
    out: list[str] = []
    steps = run.result.trail
    if len(steps) > 1:
        out += _read_whole(run, steps)
        out += _read_steps(run, steps)
    if stages := run.result.stages:
        labels = "more than scoring" if any("uses_target_labels" in s.marks for s in stages) else "scoring only"
        out.append(f"Target labels were used for {labels}.")
    if 0 < len(run.result.seeds) < 3 and steps:
        few = "One seed shows" if len(run.result.seeds) == 1 else "Two seeds show"
        out.append(f"{few} what happened here, not what others would give.")
    unscored = [t for t in run.summary["targets"] if t not in run.result.targets]
    if unscored:
        out.append(f"No scores for {', '.join(unscored)}: no labelled test set, or its stages have not finished.")
    open_stages = [s["folder"] for s in run.summary["stages"] if not s["finished"]]
    if open_stages:
        out.append(f"Not finished: {some(open_stages, 3)}. Start the run again to continue it.")
    return out or ["Nothing has been scored yet."]


def unclear(step: Step) -> bool:
    """Whether a step is within two standard errors of zero, or cannot be told for want of seeds."""
    if step.stat.std is None or step.stat.n < 3:
        return True
    return abs(step.stat.mean) <= 2 * step.stat.std / math.sqrt(step.stat.n)


def _read_whole(run: Run, steps: Sequence[StageScore]) -> list[str]:
    first, last = steps[0], steps[-1]
    whole = step_between(last.values, first.values, first.stage)
    if not whole:
        return []
    verb = "rose" if whole.stat.mean > 0 else "fell" if whole.stat.mean < 0 else "did not move,"
    many = len(run.result.targets) > 1
    over = "averaged over targets and seeds" if many else "averaged over seeds" if whole.stat.n > 1 else "in one seed"
    ends = f" from {first.average.mean:.1f} to {last.average.mean:.1f}" if first.average and last.average else ""
    return [
        f"From {first.label} to {last.label}, {run.metric} {verb}{ends}: {whole} points {over}"
        f", {ups(whole)} {'(target, seed) pairs' if many else 'seeds'}."
    ]


def _read_steps(run: Run, steps: Sequence[StageScore]) -> list[str]:
    out = []
    if btf := next((s for s in steps if s.arm == "btf" and s.step), None):
        assert btf.step
        out.append(f"Bilingual task fitting (BTF): {btf.step} points ({ups(btf.step)}).")
    students = [s for s in steps if s.arm == "selftrain"]
    teachers = [s for s in steps if s.arm != "selftrain"]
    if students and teachers and (whole := step_between(students[-1].values, teachers[-1].values, "teacher")):
        doubt = "; this is within the noise of these seeds" if len(run.result.seeds) >= FEW and unclear(whole) else ""
        out.append(
            f"Self-training ({students[0].label} to {students[-1].label}) on top of its first "
            f"teacher: {whole} points ({ups(whole)}){doubt}."
        )
    hurt = [f"{s.label} ({s.step}, {ups(s.step)})" for s in steps if s.step and s.step.stat.mean < 0]
    if hurt:
        out.append(f"Lowered the score on average: {'; '.join(hurt)}.")
    return out


def class_section(run: Run) -> str:
    """A table for each language that was scored, the first one open; empty without one."""
    rows = [r for r in run.summary["rows"] if r.get("classes") and r["metric"] == run.result.metric]
    sources = [s for s in (run.result.source, *run.result.more_sources) if s]
    tables = {}
    for language in dict.fromkeys([*run.result.targets, *sources]):
        if html := _table(run, language, rows) + _confusion(run, language):
            tables[language] = html
    if not tables:
        return ""
    return f"<h3>Each {shown_task(run.summary['task']).kind} by itself</h3>{folds(tables.items())}"


def _table(run: Run, language: str, rows: Sequence[Json]) -> str:
    """Means over seeds, and for the source over the models of all targets; the last stage first."""
    is_target = language in run.result.targets
    here = target_rows(rows, [language]) if is_target else [r for r in rows if r["language"] == language]
    labels = {row_key(r): r["label"] for r in here}
    stages = sorted(labels)
    names = sorted({name for r in here for name in r["classes"]})
    if not names:
        return ""
    trail = {s.key for s in run.result.trail}
    last = next((key for key in reversed(stages) if key in trail), stages[-1])
    earlier = [stage for stage in stages if stage != last]
    header = ["", "support", *(f"{what}, {labels[last]}" for what in ("precision", "recall", "F1"))]
    header += [f"F1, {labels[stage]}" for stage in earlier]
    lines = []
    for name in names:
        cells = [_of(here, last, name, what) for what in ("precision", "recall", "f1")]
        cells += [_of(here, key, name, "f1") for key in earlier]
        support = next(r["classes"][name]["support"] for r in here if name in r["classes"])
        lines.append([name, f"{support:,}", *map(or_dash, cells)])
    return table(header, lines, dense=True)


def _of(rows: Sequence[Json], key: StageKey, name: str, what: str) -> Stat | None:
    """A class that a model neither met nor predicted has no entry, and no score."""
    classes = [r["classes"] for r in rows if row_key(r) == key]
    return stat(one[name][what] for one in classes if name in one)


def _confusion(run: Run, language: str) -> str:
    """What the model that the run names for a target takes for what; empty for other languages."""
    answer = run.answers.get(language)
    if answer is None:
        return ""
    scores = read_json(answer.folder / "scores.json").get("scores") or ()
    rows = [s for s in scores if (s["language"], s["metric"]) == (language, run.result.metric)]
    if not rows:
        return ""
    if "confusion" not in rows[0]:
        return note(f"No table of confusions: {answer.stage} was scored before they were counted.")
    counts: dict[str, dict[str, int]] = rows[0]["confusion"]
    task = shown_task(run.summary["task"])
    what = f"{task.units.capitalize()} by {task.kind}"
    pairs = sorted(((n, g, p) for g, row in counts.items() for p, n in row.items() if g != p), reverse=True)
    lines = [[g, p, f"{n:,}", percent(n / sum(counts[g].values()))] for n, g, p in pairs[:_LISTED]]
    caption = f"{what}: the most frequent confusions of {answer.stage}, {len(lines)} of {len(pairs):,}"
    return f"<p>{clean(caption)}.</p>{table(['gold', 'predicted', 'times', 'share of gold'], lines, dense=True)}"


def decision_table(run: Run) -> str:
    """One line per decision: threshold, what was accepted and why not, what the source lost."""
    decided = dict(sorted(run.decisions.items()))
    decisions = list(decided.values())
    gold = run.decides("precision_if_gold")
    header = ["target", "round", "seed", "α", "items", "accepted"]
    columns = [[pair or "-" for pair, _, _ in decided], *([str(key[i]) for key in decided] for i in (1, 2))]
    columns.append([alphas([(0, d)]) or "-" for d in decisions])
    columns.append([counted(d.get("items")) for d in decisions])
    columns.append([percent(accepted_share(d)) for d in decisions])
    if run.decides("coverage_entity"):
        header += ["of O", "of entities"]
        columns += [[percent(d.get(key)) for d in decisions] for key in ("coverage_o", "coverage_entity")]
    if gold:
        outside = ", with\u00a0O" if has_spans(run.summary["task"]) else ""
        header.append(f"precision{outside}\u00a0†")
        columns.append([percent(d.get("precision_if_gold")) for d in decisions])
    for reason in dict.fromkeys(reason for d in run.decisions.values() for reason in d.get("rejected") or {}):
        header.append(reason.replace("-", " "))
        columns.append([counted((d.get("rejected") or {}).get(reason)) for d in decisions])
    header.append("source removed")
    sources = [d.get("source") or {} for d in decisions]
    columns.append([percent((s.get("removed") or 0) / s["items"] if s.get("items") else None) for s in sources])
    rules = " and ".join(sorted({str(d.get("rule")) for d in decisions if d.get("rule")}))
    text = f"Threshold rule: {rules or 'not recorded'}. "
    if any(d.get("at_edge") for d in decisions):
        text += "α with *: at the edge of the grid, so the rule found no bend inside it. "
    if gold:
        text += "†: needs target gold labels; for looking at only, nothing was chosen by it. "
    text += "Source removed: the student no longer reproduced their labels; on clean data forgetting, not noise."
    return table(header, list(zip(*columns, strict=True)), dense=True) + note(text)


def quality_section(run: Run) -> str:
    """Pseudo-labels by class, of each target and round; means over seeds."""
    parts = []
    for pair in run.pairs:
        for number in run.rounds:
            found = [d for _, d in run.cell(pair, number)]
            if found and all(d.get("classes") for d in found):
                parts.append(folded(f"{pair}, round {number}", _by_class(found)))
    if not parts:
        return ""
    text = (
        "By predicted class: unlabelled items, how many the filter accepts, and on the labelled target file †, which "
        "nothing was chosen by, how many of the accepted are right (precision) and how many of each class are found "
        "(recall). ECE: mean distance of confidence and accuracy."
    )
    return f"<h3>Quality of the pseudo-labels</h3>{''.join(parts)}{note(text)}"


def _by_class(found: Sequence[Json]) -> str:
    gold = [d["classes_if_gold"] for d in found if d.get("classes_if_gold")]
    total = mean(d["items"] for d in found)
    accepted = mean(d["accepted"] for d in found)
    lines = []
    for name in found[0]["classes"]:
        items, kept = (mean(d["classes"][name][k] for d in found) for k in ("items", "accepted"))
        line = [name, f"{items:,.0f}", percent(items / total if total else None), f"{kept:,.0f}"]
        line += [percent(kept / items if items else None), percent(kept / accepted if accepted else None)]
        if gold:
            right, taken, there = (sum(c[name][k] for c in gold) for k in ("correct", "accepted", "gold"))
            line += [percent(right / taken if taken else None), percent(right / there if there else None)]
        lines.append(line)
    header = ["class", "items", "share", "accepted", "of class", "share of accepted"]
    header += ["precision\u00a0†", "recall\u00a0†"] if gold else []
    errors = [f"{k} {100 * mean(e):.1f}" for k in ("source", "target") if (e := _calibration_errors(found, k))]
    return table(header, lines, dense=True) + (note(f"ECE in points: {', '.join(errors)}") if errors else "")


def _calibration_errors(found: Sequence[Json], which: str) -> list[float]:
    """The expected calibration error of each decision that has the bins."""
    errors = []
    for d in found:
        if bins := (d.get("calibration") or {}).get(which):
            total = sum(b["count"] for b in bins)
            errors.append(sum(b["count"] * abs(b["confidence"] - b["accuracy"]) for b in bins) / total)
    return errors


THRESHOLDS = "thresholds.json"
SENTENCES, VERSION = "sentences.json", 1
"""Left in the run folder by `engine/lab/studies/sentences.py`."""
KINDS = {
    "least-sure": ("Least sure", "Unlabelled, with the lowest confidence in a word; dotted: rejected."),
    "changed": ("Read differently by the stages", "Unlabelled, with the most changes of a type or class; outlined."),
    "errors": ("Errors against gold", "From the test file: the most frequent confusions of the final model."),
}
_MARKS = {"wrong": "wrong", "missed": "not so predicted", "rejected": "rejected", "changed": ""}
_COLOURS = 6
"""Of entity types, `.k0` and so on in the page's style."""


def outdated(run: Run, name: str, content: Json, command: str) -> str:
    """A remark on what was worked out from stages that have been made or scored again since; empty where none have."""
    before, now = content.get("made_from") or {}, made_from(run.folder)
    other = sorted(stage for stage in before.keys() | now.keys() if before.get(stage) != now.get(stage))
    return note(f"Left out: {name} was made before {some(other, 3)} changed; {command} makes it anew.") if other else ""


def thresholds_section(run: Run) -> str:
    """What other rules would have chosen; empty where nobody has compared them."""
    study = read_json(run.folder / THRESHOLDS)
    if not study:
        return ""
    title = "<h3>What other rules would have chosen</h3>"
    if old := outdated(run, THRESHOLDS, study, "xlt-engine report"):
        return title + old
    parts = []
    for entry in study["tables"]:
        css = ["control" if line[0] == "best by gold" else "" for line in entry["lines"]]
        parts.append(f"<p>{clean(entry['title'])}</p>{table(entry['header'], entry['lines'], css=css, dense=True)}")
    parts.append(note(". ".join(study["notes"]) + "."))
    return title + folded(f"{len(study['tables'])} tables", "".join(parts))


def sentences_section(run: Run) -> str:
    """The sentences of each target; why there are none where there are none."""
    title = heading("Sentences for looking")
    path = run.folder / SENTENCES
    content = read_json(path, None)
    if not content:
        reason = "cannot be read" if path.exists() else "is not there"
        return title + note(f"Left out: {SENTENCES} {reason}. xlt-engine report makes it, unless told --no-sentences.")
    try:
        if old := outdated(run, SENTENCES, content, "xlt-engine report"):
            return title + old
        targets = [_target(name, seen) for name, seen in content["targets"].items()]
    except (KeyError, TypeError, ValueError, AttributeError):
        return title + note(f"Left out: {SENTENCES} is not of this version; xlt-engine report makes it anew.")
    about = (
        "Chosen for what they show, one way or the other: not a sample, and no share of anything can be read from "
        "them. xlt-engine why RUN tells all about one, by the name below it. They quote the data: xlt-engine report "
        "--no-sentences makes a page without them."
    )
    return f"{title}{note(about)}{folds(targets)}"


def _target(name: str, seen: Json) -> tuple[str, str]:
    """What the fold of a target is called, and what is in it."""
    groups = [group for group in seen["groups"] if group["kind"] in KINDS]
    types = sorted({s["type"] for g in groups for e in g["sentences"] for r in e["readings"] for s in r["spans"]})
    parts = [_group(name, group, types) for group in groups]
    parts += [note(f"Left out: {'; '.join(seen['missing'])}.")] if seen["missing"] else []
    count = sum(len(group["sentences"]) for group in groups)
    return f"{name}: {count} sentences", "".join(parts)


def _group(language: str, group: Json, types: list[str]) -> str:
    title, about = KINDS[group["kind"]]
    shown = "".join(_sentence(entry, language, types) for entry in group["sentences"])
    return f'<h4>{clean(title)} <span class="note">{clean(about)}</span></h4>{shown}'


def _sentence(entry: Json, language: str, types: list[str]) -> str:
    spoken = f' lang="{clean(language)}"' if language.isalpha() else ""
    lines = "".join(
        f'<dt>{clean(reading["by"])}</dt><dd{spoken} dir="auto">{_read(entry["words"], reading, types)}</dd>'
        for reading in entry["readings"]
    )
    place = " · ".join(clean(text) for text in (entry["name"], entry["remark"]) if text)
    return f'<div class="said"><dl>{lines}</dl><small>{place}</small></div>'


def _read(words: list[str], reading: Json, types: list[str]) -> str:
    """The words with what a model, or gold, says of them: spans of them, or one class of the text."""
    if "label" in reading:
        return f"{_marked('', reading['label'], reading, 0)} {clean(' '.join(words))}"
    out, at = [], 0
    for span in reading["spans"]:
        out += [clean(word) for word in words[at : span["start"]]]
        at = span["end"]
        out.append(_marked(" ".join(words[span["start"] : at]), span["type"], span, types.index(span["type"])))
    return " ".join([*out, *(clean(word) for word in words[at:])])


def _marked(text: str, name: str, said: Json, colour: int) -> str:
    sure = said["confidence"]
    parts = [name, "" if sure is None else f"{sure:.3f}", _MARKS.get(said["mark"], "")]
    css = f"k{colour % _COLOURS}" + (f" {clean(said['mark'])}" if said["mark"] in _MARKS else "")
    label = clean(" ".join(part for part in parts if part))
    return f'<mark class="{css}">{clean(text)}{" " * bool(text)}<small>{label}</small></mark>'
