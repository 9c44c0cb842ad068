"""The page around the pictures: its style, its tables, and the cards at the top."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

from ..summary.answer import command
from ..summary.seeds import Step
from ..summary.stage_table import (
    METRIC_NAMES,
    SIDE_ARMS,
    aggregate,
    or_dash,
    step_between,
    table_caption,
    table_cells,
)
from .parts import Run, mean, mean_curve
from .svg import clean, style

_CSS = """
:root{--ink:#1f2328;--muted:#59636e;--line:#d8dde3;--paper:#fff;--tint:#f5f7f9;--good:#00664b;--bad:#a63e00;--accent:#005a8f;
--k0:#d5e8f7;--k1:#fbe2d3;--k2:#d3efe5;--k3:#f3dff0;--k4:#f7eac4;--k5:#e4e3f5}
@media screen and (prefers-color-scheme:dark){:root{--ink:#e6edf3;--muted:#9da7b1;--line:#333b45;--paper:#14181d;
--tint:#1c2229;--good:#3ccb9f;--bad:#ff8f57;--accent:#5bb0ea;
--k0:#173b54;--k1:#56321e;--k2:#14473b;--k3:#4b2b46;--k4:#4c3c12;--k5:#353160}}
*{box-sizing:border-box}html{color-scheme:light dark}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,
"Helvetica Neue",Arial,sans-serif}
main{max-width:1000px;margin:0 auto;padding:32px 24px 64px}
h1{font-size:28px;line-height:1.2;margin:0}
h2{font-size:20px;margin:44px 0 8px;padding-top:14px;border-top:1px solid var(--line)}
h3{font-size:16px;margin:28px 0 4px}h4{font-size:15px;margin:20px 0 4px}
h4 .note{font-weight:400}p{margin:6px 0 12px;max-width:76ch}
p.note{max-width:none}.sub,figcaption,.note{color:var(--muted);font-size:14px}
.sub{margin:6px 0 20px}.cards{display:flex;flex-wrap:wrap;gap:12px;margin:20px 0}
.card{flex:1 1 200px;min-width:0;background:var(--tint);border:1px solid var(--line);border-radius:8px;
padding:12px 16px}
.card b{display:block;font-size:26px;line-height:1.3;font-variant-numeric:tabular-nums}.card .up{color:var(--good)}
.card .down{color:var(--bad)}.answers .card{flex-basis:100%;overflow-wrap:anywhere}
.card pre{margin:8px 0 0;white-space:pre-wrap}
.card small{color:var(--muted);font-size:13px}.card .what{font-weight:600}
ul{padding-left:20px;margin:8px 0;max-width:80ch}li{margin:5px 0}
.scroll{overflow-x:auto}table{border-collapse:collapse;font-size:14px;font-variant-numeric:tabular-nums;margin:8px 0}
th,td{padding:5px 8px;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap}
th:first-child,td:first-child{text-align:left;padding-left:0}
thead th{border-bottom:2px solid var(--ink);vertical-align:bottom;white-space:normal}
td.text{text-align:left;white-space:normal}tr.control td{color:var(--muted)}tr.last td{font-weight:600}
.dense th,.dense td{padding:4px 7px;font-size:13px}.dense td:first-child,.dense th:first-child{padding-left:0}
.warning{border-left:4px solid var(--bad);background:var(--tint);padding:8px 14px;margin:8px 0;font-size:15px}
.warning b{color:var(--bad)}figure{margin:14px 0 28px;overflow-x:auto}
figure svg{max-width:100%;min-width:560px;height:auto}
pre{background:var(--tint);border:1px solid var(--line);border-radius:6px;padding:12px;overflow-x:auto;
font-size:13px;line-height:1.45}
nav{display:flex;flex-wrap:wrap;gap:4px 18px;font-size:14px}a{color:var(--accent)}
.said{border-left:3px solid var(--line);padding:2px 0 2px 12px;margin:12px 0}.said>small{color:var(--muted)}
.said dl{display:grid;grid-template-columns:minmax(72px,max-content) 1fr;gap:6px 14px;margin:0}
dt{color:var(--muted);font-size:13px;padding-top:3px}dd{margin:0;line-height:1.9;overflow-wrap:anywhere}
mark{color:inherit;background:var(--k0);border-radius:4px;padding:2px 5px}mark small{font-size:11px;font-weight:600}
.k1{background:var(--k1)}.k2{background:var(--k2)}.k3{background:var(--k3)}.k4{background:var(--k4)}.k5{background:var(--k5)}
.wrong{outline:2px solid var(--bad)}.missed{outline:2px dashed var(--bad)}.rejected{outline:2px dotted var(--muted)}
.changed{outline:2px solid var(--accent)}
.wrong,.missed,.rejected,.changed{margin:0 2px;-webkit-box-decoration-break:clone;box-decoration-break:clone}
code{font-size:.92em}details{margin:10px 0}summary{cursor:pointer;font-weight:600}
@media (max-width:700px){main{padding:20px 14px}.said dl{grid-template-columns:1fr;gap:2px}dt{padding-top:6px}
th:first-child,td:first-child{position:sticky;left:0;background:var(--paper)}}
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


def folded(title: str, body: str, *, opened: bool = False) -> str:
    """HTML that opens when its title is clicked."""
    start = '<details open="">' if opened else "<details>"
    return f"{start}<summary>{clean(title)}</summary>{body}</details>"


def heading(title: str) -> str:
    """A heading that `contents` lists."""
    return f'<h2 id="{re.sub("[^a-z]+", "-", title.lower())}">{clean(title)}</h2>'


def contents(body: str) -> str:
    """Links to the headings of the page's body."""
    links = "".join(f'<a href="#{name}">{title}</a>' for name, title in re.findall('<h2 id="([^"]*)">(.*?)</h2>', body))
    return f'<nav aria-label="Contents">{links}</nav>'


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
            rose = f"{ups(change)} seeds" if change.stat.n > 1 else "one seed"
            more += f' → {clean(steps[-1].label)}; <span class="{css}">{clean(str(change))}</span>, {rose}'
        what = f'<span class="what">{clean(f"{target}: {run.metric}")}</span>'
        out.append(f'<div class="card">{what}<b>{clean(line)}</b><small>{more}</small></div>')
    return f'<div class="cards">{"".join(out)}</div>' if out else ""


def curve_distance(decision: dict[str, Any]) -> float:
    """Mean absolute difference of source and target accuracy over common thresholds; NaN without gold."""
    if not (decision.get("curve") and decision.get("target_curve")):
        return math.nan
    a, b = (dict(mean_curve([decision[k]], "accuracy")) for k in ("curve", "target_curve"))
    return mean(abs(a[x] - b[x]) for x in a.keys() & b.keys())


def ups(step: Step) -> str:
    """How many of the pairs of a step rose, in words."""
    return f"up in {step.up} of {step.stat.n}"
