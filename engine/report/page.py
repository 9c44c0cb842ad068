"""The page around the pictures: its style, its tables, and the cards at the top."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from importlib import resources

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
from .parts import Run
from .svg import clean, style


def page(title: str, body: str) -> str:
    """A complete HTML document without scripts and without references to anything outside it."""
    css = resources.files(__package__).joinpath("page.css").read_text("utf-8")
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8"/>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1"/>\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}"/>\n'
        f"<title>{clean(title)}</title>\n<style>\n{css}{style()}</style>\n</head>\n"
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


def folds(parts: Iterable[tuple[str, str]]) -> str:
    """Titles and what they fold, the first one open."""
    return "".join(folded(title, body, opened=i == 0) for i, (title, body) in enumerate(parts))


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
        "Gap: source minus target of the same model, mean over targets. Labels: target labels used for anything but "
        "scoring. Seconds: on the wall, and of the processor, of the stage and what it needs that is not scored, one "
        "seed, all targets."
    )
    beside = {s.arm for s in result.stages} & set(SIDE_ARMS)
    if "control" in beside:
        text += " Control: BTF on general text instead of task text, compared with zero-shot."
    if beside - {"control"}:
        text += (
            " Arms beside the trail (co-training, alignment): the first step is from zero-shot, later ones within it."
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


def ups(step: Step) -> str:
    """How many of the pairs of a step rose, in words."""
    return f"up in {step.up} of {step.stat.n}"
