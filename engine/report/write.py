"""report.html: one page that shows a run to somebody who was not there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from ..storage.files import atomic_write_text, read_json, storage_errors
from .by_class import class_section
from .cotrain import common_errors, iterations
from .laboratory import thresholds_section, trust_section
from .page import cards, decision_table, page, read_decisions, reading, score_tables, table
from .parts import Figure, Run, languages, load_run, thresholds, trail
from .pseudo_labels import quality_section
from .stage_table import METRIC_NAMES
from .svg import clean, standalone
from .training import calibration, classes, losses, quality, seconds
from .truth import truth_section

__all__ = ["write_report"]

_FIGURES: tuple[Callable[[Run], Figure | None], ...] = (
    trail,
    languages,
    iterations,
    thresholds,
    quality,
    classes,
    calibration,
    losses,
    seconds,
)
_SECTIONS = (
    ("Scores", ("trail", "languages", "iterations")),
    ("Thresholds and pseudo-labels", ("thresholds", "pseudo-labels", "classes", "calibration")),
    ("Training", ("loss", "seconds")),
)


def write_report(folder: str | Path) -> Path:
    """Write `summary.json`, `report.html` and `figures/*.svg` into a run folder; returns the page's path.

    A run that is not finished is reported as far as it got. Figures left by an earlier report are removed.

    Raises:
        DataError: the folder is not a run, or one of its JSON files is damaged.
        StorageError: the disk refuses.
    """
    run = load_run(folder)
    figures = {f.name: f for make in _FIGURES if (f := make(run))}
    place = run.folder / "figures"
    with storage_errors(place):
        place.mkdir(exist_ok=True)
        for old in place.glob("*.svg"):
            if old.stem not in figures:
                old.unlink()
    for figure in figures.values():
        atomic_write_text(place / f"{figure.name}.svg", standalone(figure.svg))
    target = run.folder / "report.html"
    atomic_write_text(target, render(run, figures))
    return target


def render(run: Run, figures: dict[str, Figure]) -> str:
    """The page as text."""
    parts = [_header(run), cards(run), "<h2>What happened</h2>", _list(reading(run)), _warnings(run)]
    tables = {"Scores": score_tables, "Thresholds and pseudo-labels": _decisions}
    for title, names in _SECTIONS:
        body = "\n".join([_figure(figures[n]) for n in names if n in figures])
        if title in tables:
            body += tables[title](run)
        if title == "Scores":
            body += common_errors(run) + class_section(run)
        if body:
            lead = _list(read_decisions(run)) if names[0] == "thresholds" else ""
            parts += [f"<h2>{title}</h2>", lead, body]
    parts += [trust_section(run), truth_section(run)]
    parts += ["<h2>Settings and provenance</h2>", _provenance(run)]
    return page(f"{run.summary['name']}: report", "\n".join(p for p in parts if p))


def _decisions(run: Run) -> str:
    if not run.decisions:
        return ""
    return f"<h3>Decisions</h3>{decision_table(run)}{quality_section(run)}{thresholds_section(run)}"


def _header(run: Run) -> str:
    s = run.summary
    task = {"ner": "named entity recognition", "classification": "text classification"}.get(s["task"], s["task"])
    route = f"{s['source'] or 'source'} → {', '.join(s['targets']) or 'no target'}"
    seeds = f"seed{'s' * (len(s['seeds']) > 1)} {', '.join(map(str, s['seeds']))}" if s["seeds"] else ""
    state = run.status.get("state")
    reason = f": {run.status['reason']}" if run.status.get("reason") else ""
    facts = [
        task,
        route,
        seeds,
        s["created"],
        f"state: {state}{reason}" if state and state not in ("done", "running") else "",
    ]
    return f'<h1>{clean(s["name"])}</h1>\n<p class="sub">{clean(" · ".join(str(f) for f in facts if f))}</p>'


def _list(lines: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{clean(line)}</li>' for line in lines)}</ul>" if lines else ""


def _warnings(run: Run, most: int = 2) -> str:
    """A box per warning name: its messages with the stages they came from, folded after `most`."""
    grouped: dict[str, dict[str, list[str]]] = {}
    for w in run.summary["warnings"]:
        messages = grouped.setdefault(str(w.get("name")), {})
        messages.setdefault(str(w.get("message")), []).append(str(w.get("folder") or "run"))
    boxes = []
    for name, messages in grouped.items():
        lines = [
            f'<div>{clean(text)} <span class="note">({clean(_some(where))})</span></div>'
            for text, where in messages.items()
        ]
        more = f"<details><summary>{len(lines) - most} more</summary>{''.join(lines[most:])}</details>"
        shown = "".join(lines[:most]) + (more if len(lines) > most else "")
        boxes.append(f'<div class="warning"><b>{clean(name)}</b>{shown}</div>')
    return f"<h2>Warnings</h2>{''.join(boxes)}" if boxes else ""


def _some(items: Sequence[str], most: int = 4) -> str:
    return ", ".join(items[:most]) + (f" and {len(items) - most} more" if len(items) > most else "")


def _figure(figure: Figure) -> str:
    caption = figure.caption[:1].upper() + figure.caption[1:]
    return (
        f'<figure id="{clean(figure.name)}"><h3>{clean(figure.title)}</h3><div class="scroll">{figure.svg}</div>'
        f"<figcaption>{clean(caption)} <code>figures/{clean(figure.name)}.svg</code></figcaption></figure>"
    )


def _provenance(run: Run) -> str:
    out = [
        '<p class="note">Every number on this page follows from <code>summary.json</code> and the stage folders beside '
        "it.</p>"
    ]
    if run.settings:
        out.append(f"<details><summary>Settings (config.toml)</summary><pre>{clean(run.settings)}</pre></details>")
    facts = [[k, str(v)] for k, v in (run.summary["versions"] or {}).items()]
    facts += [
        [k, str(run.info[k])]
        for k in (
            "git",
            "command",
            "platform",
            "machine",
            "cpu",
            "cpu_capability",
            "device",
            "kernels",
            "cuda",
            "threads",
            "created",
        )
        if run.info.get(k) is not None
    ]
    facts += [[k, str(v)] for k, v in (run.info.get("hashes") or {}).items()]
    if facts:
        out.append(
            f"<details><summary>Versions and inputs</summary>{table(['what', 'value'], facts, text=1)}</details>"
        )
    lines = []
    for stage in run.summary["stages"]:
        hashes = read_json(run.folder / stage["folder"] / "stage.json").get("hashes") or {}
        weights = next((str(v) for k, v in hashes.items() if k.endswith("model.safetensors")), "-")
        spent = [f"{s:.1f}" if isinstance(s, int | float) else "-" for s in (stage["seconds"], stage["cpu_seconds"])]
        state = "done" if stage["finished"] else "not finished"
        steps = f"{stage['steps']:,}" if isinstance(stage["steps"], int) else "-"
        lines.append([stage["folder"], stage["action"], state, steps, *spent, weights[:16]])
    if lines:
        header = ["folder", "stage", "state", "steps", "seconds", "CPU seconds", "weights (hash)"]
        out.append(f"<details><summary>Stages ({len(lines)})</summary>{table(header, lines)}</details>")
    metrics = [m for m in METRIC_NAMES if any(r["metric"] == m for r in run.summary["rows"])]
    if "entity_f1" in metrics:
        out.append(
            '<p class="note">Entity F1 is that of conlleval; strict entity F1 also rejects spans that do not begin '
            "with a B tag.</p>"
        )
    return "\n".join(out)
