"""The page around the pictures: its style, its tables, and the plain-language reading at the top."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from .answer import command
from .parts import Run, alphas, mean, mean_curve, percent
from .seeds import Step, stat
from .stage_table import (
    METRIC_NAMES,
    SIDE_ARMS,
    StageScore,
    aggregate,
    or_dash,
    step_between,
    table_caption,
    table_cells,
)
from .svg import clean, style
from .training import accepted_share

_CSS = """
:root{--ink:#1f2328;--muted:#59636e;--line:#d8dde3;--paper:#fff;--tint:#f5f7f9;--good:#00664b;--bad:#a63e00;--accent:#005a8f}
@media screen and (prefers-color-scheme:dark){:root{--ink:#e6edf3;--muted:#9da7b1;--line:#333b45;--paper:#14181d;
--tint:#1c2229;--good:#3ccb9f;--bad:#ff8f57;--accent:#5bb0ea}}
*{box-sizing:border-box}html{color-scheme:light dark}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,
"Helvetica Neue",Arial,sans-serif}
main{max-width:1000px;margin:0 auto;padding:32px 24px 64px}
h1{font-size:28px;line-height:1.2;margin:0}
h2{font-size:20px;margin:44px 0 8px;padding-top:14px;border-top:1px solid var(--line)}
h3{font-size:16px;margin:28px 0 4px}p{margin:6px 0 12px;max-width:76ch}
p.note{max-width:none}.sub,figcaption,.note{color:var(--muted);font-size:14px}
.sub{margin:6px 0 20px}.cards{display:flex;flex-wrap:wrap;gap:12px;margin:20px 0}
.card{flex:1 1 200px;background:var(--tint);border:1px solid var(--line);border-radius:8px;padding:12px 16px}
.card b{display:block;font-size:26px;line-height:1.3;font-variant-numeric:tabular-nums}.card .up{color:var(--good)}
.card .down{color:var(--bad)}.answers .card{flex-basis:100%;overflow-wrap:anywhere}.card pre{margin:8px 0 0}
.card small{color:var(--muted);font-size:13px}.card .what{font-weight:600}
ul{padding-left:20px;margin:8px 0;max-width:80ch}li{margin:5px 0}
.scroll{overflow-x:auto}table{border-collapse:collapse;font-size:14px;font-variant-numeric:tabular-nums;margin:8px 0}
th,td{padding:5px 10px;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap}
th:first-child,td:first-child{text-align:left;padding-left:0}
thead th{border-bottom:2px solid var(--ink);vertical-align:bottom;white-space:normal}
td.text{text-align:left;white-space:normal}tr.control td{color:var(--muted)}tr.last td{font-weight:600}
.dense th,.dense td{padding:4px 8px;font-size:13px}.dense td:first-child,.dense th:first-child{padding-left:0}
.warning{border-left:4px solid var(--bad);background:var(--tint);padding:8px 14px;margin:8px 0;font-size:15px}
.warning b{color:var(--bad)}figure{margin:14px 0 28px}figure svg{max-width:100%;height:auto;display:block}
pre{background:var(--tint);border:1px solid var(--line);border-radius:6px;padding:12px;overflow-x:auto;
font-size:13px;line-height:1.45}
code{font-size:.92em}details{margin:10px 0}summary{cursor:pointer;font-weight:600}
@media (max-width:700px){main{padding:20px 14px}figure .scroll svg{min-width:640px;max-width:none}}
@media print{main{max-width:none;padding:0}figure,tr,.card,.warning{break-inside:avoid}h2,h3{break-after:avoid}
details::details-content{content-visibility:visible;height:auto}pre{white-space:pre-wrap}body{font-size:12px}table{font-size:11px}}
"""


def page(title: str, body: str) -> str:
    """A complete HTML document without scripts and without references to anything outside it."""
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8"/>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1"/>\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}"/>\n'
        f"<title>{clean(title)}</title>\n<style>{_CSS}{style()}</style>\n</head>\n"
        f"<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def table(
    header: Sequence[str],
    lines: Sequence[Sequence[str]],
    *,
    css: Sequence[str] = (),
    text: int = -1,
    dense: bool = False,
) -> str:
    """An HTML table of escaped cells; `css` gives a class per line, `text` the column that may wrap."""
    head = "".join(f'<th scope="col">{clean(cell)}</th>' for cell in header)
    rows = []
    for i, line in enumerate(lines):
        kind = f' class="{css[i]}"' if i < len(css) and css[i] else ""
        tags = ('<td class="text">' if j == text else "<td>" for j in range(len(line)))
        cells = "".join(f"{tag}{clean(cell)}</td>" for tag, cell in zip(tags, line, strict=True))
        rows.append(f"<tr{kind}>{cells}</tr>")
    place = "scroll dense" if dense else "scroll"
    return f'<div class="{place}"><table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'


def note(text: str) -> str:
    """A remark in small print."""
    return f'<p class="note">{clean(text)}</p>'


def folded(title: str, body: str) -> str:
    """HTML that opens when its title is clicked."""
    return f"<details><summary>{clean(title)}</summary>{body}</details>"


def bullets(lines: Iterable[str]) -> str:
    """A list of sentences; empty without one."""
    items = "".join(f"<li>{clean(line)}</li>" for line in lines)
    return f"<ul>{items}</ul>" if items else ""


def warning(name: str, body: str) -> str:
    """A box with a title."""
    return f'<div class="warning"><b>{clean(name)}</b>{body}</div>'


def score_tables(run: Run) -> str:
    """The stage table, the paired steps per target, and the other metrics folded away."""
    result = run.result
    if not result.stages:
        return "<p>No stage has been scored yet.</p>"
    last = result.trail[-1] if result.trail else None
    css = ["control" if s.arm == "control" else "last" if s is last else "" for s in result.stages]
    caption = table_caption(result)
    text = f"{caption[:1].upper()}{caption[1:]}. " + (
        "Step: paired difference to the stage before, over all targets and seeds; up: how many of those pairs rose. "
        "Gap: source minus target of the same model, mean over targets. Parallel: translations or parallel text used. "
        "Labels: target labels used for anything but scoring. Seconds: on the wall, and of the processor, of the stage "
        "and what it needs that is not scored, one seed, all targets."
    )
    beside = {s.arm for s in result.stages} & set(SIDE_ARMS)
    if "control" in beside:
        text += " Control: BTF on general text instead of task text, compared with zero-shot."
    if beside - {"control"}:
        text += (
            " Arms beside the trail (co-training, alignment, translations): the first step is from zero-shot, later "
            "ones within it."
        )
    parts = [note(text), table(*table_cells(result), css=css)]
    if len(result.targets) > 1:
        heads = ["stage", *(f"step, {t}" for t in result.targets), "range over targets", "average with source"]
        lines = []
        for s in result.stages:
            steps = (f"{x} ({x.up}/{x.stat.n})" if (x := s.steps.get(t)) else "-" for t in result.targets)
            spread = "-" if s.range_over_targets is None else f"{s.range_over_targets:.1f}"
            lines.append([s.label, *steps, spread, or_dash(s.average_with_source)])
        parts.append(f"<h3>Steps per target</h3>{table(heads, lines, css=css)}")
    for metric, name in METRIC_NAMES.items():
        other = aggregate(run.summary, metric)
        if metric != result.metric and other.stages:
            parts.append(folded(name, table(*table_cells(other))))
    return "\n".join(parts)


def answer_cards(run: Run) -> str:
    """The model for each target, why it is the one, and the command that uses it."""
    out = []
    for language, answer in run.answers.items():
        what = f'<span class="what">{clean(f"Model for {language}")}</span>: <code>{clean(str(answer.folder))}</code>'
        why = f"<small>{clean(answer.reason)}. Chosen without labels of the target.</small>"
        out.append(f'<div class="card">{what}<br/>{why}<pre>{clean(command(run.folder, language, answer))}</pre></div>')
    return f'<div class="cards answers">{"".join(out)}</div>' if out else ""


def failed(run: Run) -> str:
    """A box for each stage that failed, with what was left out for it."""
    boxes = []
    for failure in run.summary["failed"]:
        left = f"<div>Left out: {clean(', '.join(failure['left_out']))}.</div>" if failure["left_out"] else ""
        boxes.append(warning(f"{failure['folder']} has failed", f"<pre>{clean(failure['reason'])}</pre>{left}"))
    return "".join(boxes)


def cards(run: Run) -> str:
    """First and last score of each target, large."""
    steps, out = run.result.trail, []
    for target in run.result.targets if steps else ():
        first, last = steps[0].targets.get(target), steps[-1].targets.get(target)
        if not (first and last):
            continue
        line, more = f"{first.mean:.1f}", clean(steps[0].label)
        change = step_between(steps[-1].values, steps[0].values, "", target)
        if change and len(steps) > 1:
            line += f" → {last.mean:.1f}"
            css = "up" if change.stat.mean > 0 else "down" if change.stat.mean < 0 else "same"
            rose = f"{_ups(change)} seeds" if change.stat.n > 1 else "one seed"
            more += f' → {clean(steps[-1].label)}; <span class="{css}">{clean(str(change))}</span>, {rose}'
        what = f'<span class="what">{clean(f"{target}: {run.metric}")}</span>'
        out.append(f'<div class="card">{what}<b>{clean(line)}</b><small>{more}</small></div>')
    return f'<div class="cards">{"".join(out)}</div>' if out else ""


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
        header += ["precision\u00a0†", "curve distance\u00a0†"]
        columns.append([percent(d.get("precision_if_gold")) for d in decisions])
        distances = [curve_distance(d) for d in decisions]
        columns.append(["-" if math.isnan(distance) else f"{100 * distance:.1f}" for distance in distances])
    for reason in dict.fromkeys(reason for d in run.decisions.values() for reason in d.get("rejected") or {}):
        header.append(reason.replace("-", " "))
        columns.append([counted((d.get("rejected") or {}).get(reason)) for d in decisions])
    header.append("source removed")
    columns.append([percent(_source_lost(d)) for d in decisions])
    rules = " and ".join(sorted({str(d.get("rule")) for d in decisions if d.get("rule")}))
    text = f"Threshold rule: {rules or 'not recorded'}. "
    if any(d.get("at_edge") for d in decisions):
        text += "α with *: at the edge of the grid, so the rule found no bend inside it. "
    if gold:
        text += (
            "†: needs target gold labels; for looking at only, nothing was chosen by it. Curve distance: mean "
            "difference between the accuracy curves of source and target, in points."
        )
    notes = [text]
    for (pair, number, seed), d in decided.items():
        if cut := (d.get("options") or {}).get("accept"):
            place = f"{pair or '-'}, round {number}, seed {seed}"
            notes.append(f"{place}: accept = {cut['rule']} took {cut['dropped']:,} labels away")
    return table(header, list(zip(*columns, strict=True)), dense=True) + "".join(map(note, notes))


def counted(value: Any) -> str:
    """A whole number with its thousands apart, a dash for anything else."""
    return f"{value:,}" if isinstance(value, int) else "-"


def _source_lost(decision: dict[str, Any]) -> float | None:
    source = decision.get("source") or {}
    return (source.get("removed") or 0) / source["items"] if source.get("items") else None


def curve_distance(decision: dict[str, Any]) -> float:
    """Mean absolute difference of source and target accuracy over common thresholds; NaN without gold."""
    if not (decision.get("curve") and decision.get("target_curve")):
        return math.nan
    a, b = (dict(mean_curve([decision[k]], "accuracy")) for k in ("curve", "target_curve"))
    return mean(abs(a[x] - b[x]) for x in a.keys() & b.keys())


def reading(run: Run) -> list[str]:
    """What happened, in sentences made from the numbers; stages that hurt are named."""
    out: list[str] = []
    steps = run.result.trail
    if len(steps) > 1:
        out += _read_whole(run, steps)
        out += _read_steps(run, steps)
        out += _read_best(steps)
        out += _read_gap(steps)
    control = [s for s in run.result.stages if s.arm == "control"]
    task = [s for s in steps if s.arm == "btf"]
    if control and task and (step := step_between(task[0].values, control[0].values, "control")):
        out.append(f"BTF on task text against the same BTF on general text (control): {step} points ({_ups(step)}).")
    if stages := run.result.stages:
        parallel = "Parallel data" if any(s.uses_parallel_data for s in stages) else "No parallel data"
        labels = "more than scoring" if any(s.uses_target_labels for s in stages) else "scoring only"
        out.append(f"{parallel} was used; target labels were used for {labels}.")
        if any(s.uses_dictionary for s in stages):
            out.append("A dictionary was used for code switching.")
    if 0 < len(run.result.seeds) < 3 and steps:
        few = "One seed" if len(run.result.seeds) == 1 else "Two seeds"
        out.append(f"{few} cannot tell an effect from luck: read every step as an anecdote.")
    unscored = [t for t in run.summary["targets"] if t not in run.result.targets]
    if unscored:
        out.append(f"No scores for {', '.join(unscored)}: no labelled test set, or its stages have not finished.")
    open_stages = [s["folder"] for s in run.summary["stages"] if not s["finished"]]
    if open_stages:
        out.append(f"Not finished: {some(open_stages, 3)}. Start the run again to continue it.")
    return out or ["Nothing has been scored yet."]


def some(items: Sequence[str], most: int) -> str:
    """The first of some names, and how many there are beside them."""
    return ", ".join(items[:most]) + (f" and {len(items) - most} more" if len(items) > most else "")


def _ups(step: Step) -> str:
    return f"up in {step.up} of {step.stat.n}"


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
        f", {_ups(whole)} {'(target, seed) pairs' if many else 'seeds'}."
    ]


def _read_steps(run: Run, steps: Sequence[StageScore]) -> list[str]:
    out = []
    if btf := next((s for s in steps if s.arm == "btf" and s.step), None):
        assert btf.step
        out.append(f"Bilingual task fitting (BTF): {btf.step} points ({_ups(btf.step)}).")
    students = [s for s in steps if s.arm == "selftrain"]
    teachers = [s for s in steps if s.arm != "selftrain"]
    if students and teachers and (whole := step_between(students[-1].values, teachers[-1].values, "teacher")):
        doubt = "; this is within the noise of these seeds" if unclear(whole) else ""
        out.append(
            f"Self-training ({students[0].label} to {students[-1].label}) on top of its first "
            f"teacher: {whole} points ({_ups(whole)}){doubt}."
        )
    hurt = [f"{s.label} ({s.step}, {_ups(s.step)})" for s in steps if s.step and s.step.stat.mean < 0]
    if hurt:
        out.append(f"Lowered the score on average: {'; '.join(hurt)}.")
    single = [
        f"{s.label} on {t} ({step})"
        for s in steps
        for t, step in s.steps.items()
        if step.stat.mean < 0 and s.step and s.step.stat.mean >= 0
    ]
    if single:
        out.append(f"Rose on average but fell in one language: {'; '.join(single)}.")
    vague = [s.label for s in students if s.step and unclear(s.step)]
    if vague and len(run.result.seeds) > 1:
        out.append(f"Single steps within two standard errors of zero: {', '.join(vague)}. Do not read them one by one.")
    return out


def _read_best(steps: Sequence[StageScore]) -> list[str]:
    best = max((s for s in steps if s.average), key=lambda s: s.average.mean if s.average else 0.0, default=None)
    last = steps[-1].average
    if best is None or best.average is None or last is None or best.average.mean < last.mean + 0.05:
        return []
    return [
        f"The best stage on average was {best.label} ({best.average.mean:.1f}), not the last; to choose it "
        "by these scores would be to use target labels."
    ]


def _read_gap(steps: Sequence[StageScore]) -> list[str]:
    first, last = (stat(g.mean for g in s.gaps.values()) for s in (steps[0], steps[-1]))
    a, b = steps[0].source, steps[-1].source
    if not (first and last and a and b):
        return []
    text = f"The transfer gap (source minus target) went from {first.mean:.1f} to {last.mean:.1f} points"
    fall = a.mean - b.mean
    if fall > 0.5 and first.mean > last.mean:
        text += f"; {fall:.1f} points of that come from the source score falling ({a.mean:.1f} to {b.mean:.1f})"
    else:
        text += f"; the source score went from {a.mean:.1f} to {b.mean:.1f}"
    return [text + "."]


def read_decisions(run: Run) -> list[str]:
    """What the filter did, in sentences."""
    found = list(run.decisions.values())
    if not found:
        return []
    picks = [d["alpha"] for d in found if d.get("alpha") is not None]
    edge = sum(bool(d.get("at_edge")) for d in found)
    text = ""
    if picks:
        low, high = f"{min(picks):.2f}", f"{max(picks):.2f}"
        text = f"The threshold α, found on the source, was {low if low == high else f'between {low} and {high}'}"
        text += f" ({edge} of {len(picks)} at the edge of the grid). " if edge else ". "
    text += f"On average the filter accepted {percent(mean(accepted_share(d) for d in found))} of the target items"
    entity, right = (mean(d.get(k) for d in found) for k in ("coverage_entity", "precision_if_gold"))
    text += f", and {percent(entity)} of those predicted as part of an entity" if not math.isnan(entity) else ""
    text += f"; by gold labels {percent(right)} of the accepted were right" if not math.isnan(right) else ""
    out = [text + "."]
    if not math.isnan(lost := mean(map(_source_lost, found))):
        out.append(
            f"A round removed {percent(lost)} of the labelled source samples on average, because the student no longer "
            "reproduced their labels. On clean data this is forgetting, not noise."
        )
    return out
