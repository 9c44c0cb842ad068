"""report.html, one page that shows a run to somebody who was not there, and a card for each model that it hands out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from ...tasks import shown_task
from ..storage.files import atomic_write_text, delete, read_json, storage_errors
from ..storage.names import CARD, FINISHED
from ..storage.stage_files import weights_hash
from ..storage.text import counted, some
from ..summary.answer import link_models
from ..summary.stage_table import METRIC_NAMES, Json, is_score
from .page import (
    answer_cards,
    bullets,
    cards,
    contents,
    failed,
    folded,
    heading,
    note,
    page,
    score_tables,
    table,
    warning,
)
from .parts import Figure, Run, languages, load_run, losses, thresholds, trail
from .sections import (
    class_section,
    decision_table,
    quality_section,
    reading,
    sentences_section,
    thresholds_section,
)
from .svg import clean, standalone

_MACHINE = ("git", "command", "platform", "machine", "cpu", "cpu_capability", "device", "precision", "kernels", "cuda")
"""Keys of `run.json` that the page shows."""
FILL_IN = "FILL-IN"
_USED = {
    "uses_target_labels": "labels of the target language",
    "uses_dictionary": "a dictionary",
}


def write_report(folder: str | Path) -> Path:
    """Write `summary.json`, `report.html`, `figures/*.svg`, `models/*` and model cards; returns the page's path.

    A run that is not finished is reported as far as it got. Figures left by an earlier report are removed.

    Raises:
        DataError: the folder is not a run, or one of its JSON files is damaged.
        StorageError: the disk refuses.
    """
    run = load_run(folder)
    figures = [made for draw in (trail, languages, thresholds, losses) if (made := draw(run))]
    place = run.folder / "figures"
    with storage_errors(place):
        place.mkdir(exist_ok=True)
        for old in place.glob("*.svg"):
            old.unlink()
    for figure in figures:
        atomic_write_text(place / f"{figure.name}.svg", standalone(figure.svg))
    link_models(run.folder, run.answers)
    write_cards(run)
    target = run.folder / "report.html"
    atomic_write_text(target, render(run, figures))
    return target


def render(run: Run, figures: Sequence[Figure]) -> str:
    """The page as text."""
    drawn = {figure.name: _figure(figure) for figure in figures}
    parts = [heading("What happened"), bullets(reading(run)), _warnings(run)]
    parts += [heading("Scores"), drawn.get("trail", ""), drawn.get("languages", "")]
    parts += [score_tables(run), class_section(run), sentences_section(run)]
    if run.decisions:
        parts += [heading("Thresholds and pseudo-labels"), drawn.get("thresholds", "")]
        parts += ["<h3>Decisions</h3>", decision_table(run), quality_section(run), thresholds_section(run)]
    if "loss" in drawn:
        parts += [heading("Training"), drawn["loss"]]
    parts += [heading("Settings and provenance"), _provenance(run)]
    body = "\n".join(p for p in parts if p)
    top = [_header(run), answer_cards(run), failed(run), cards(run), contents(body)]
    return page(f"{run.summary['name']}: report", "\n".join([*(p for p in top if p), body]))


def _header(run: Run) -> str:
    s, state, (reason, *_) = run.summary, run.status.get("state"), str(run.status.get("reason") or "").split("\n")
    facts = [
        shown_task(s["task"]).title,
        f"{s['source'] or 'source'} → {', '.join(s['targets']) or 'no target'}",
        f"seed{'s' * (len(s['seeds']) > 1)} {', '.join(map(str, s['seeds']))}" if s["seeds"] else "",
        s["created"],
        f"state: {state}{f': {reason}' if reason else ''}" if state and state not in ("done", "running") else "",
    ]
    return f'<h1>{clean(s["name"])}</h1>\n<p class="sub">{clean(" · ".join(str(f) for f in facts if f))}</p>'


def _warnings(run: Run, most: int = 2) -> str:
    """A box per warning name: its messages with the stages they came from, folded after `most`."""
    grouped: dict[str, dict[str, list[str]]] = {}
    for w in run.summary["warnings"]:
        messages = grouped.setdefault(str(w.get("name")), {})
        messages.setdefault(str(w.get("message")), []).append(str(w.get("folder") or "run"))
    boxes = []
    for name, messages in grouped.items():
        lines = [
            f'<div>{clean(text)} <span class="note">({clean(some(where, 4))})</span></div>'
            for text, where in messages.items()
        ]
        more = folded(f"{len(lines) - most} more", "".join(lines[most:])) if len(lines) > most else ""
        boxes.append(warning(name, "".join(lines[:most]) + more))
    return f"{heading('Warnings')}{''.join(boxes)}" if boxes else ""


def _figure(figure: Figure) -> str:
    caption = figure.caption[:1].upper() + figure.caption[1:]
    return (
        f'<figure id="{clean(figure.name)}"><h3>{clean(figure.title)}</h3>{figure.svg}'
        f"<figcaption>{clean(caption)} <code>figures/{clean(figure.name)}.svg</code></figcaption></figure>"
    )


def _provenance(run: Run) -> str:
    out = [
        '<p class="note">Every number on this page follows from <code>summary.json</code> and the stage folders beside '
        "it.</p>"
    ]
    if run.settings:
        out.append(folded("Settings (config.toml)", f"<pre>{clean(run.settings)}</pre>"))
    machine = {key: run.info[key] for key in (*_MACHINE, "threads", "created") if run.info.get(key) is not None}
    facts = (run.summary["versions"] or {}) | machine | (run.info.get("hashes") or {})
    if facts:
        lines = [[key, str(value)] for key, value in facts.items()]
        out.append(folded("Versions and inputs", table(["what", "value"], lines, text=1)))
    lines = []
    for stage in run.summary["stages"]:
        weights = weights_hash(read_json(run.folder / stage["folder"] / "stage.json")) or "-"
        spent = [f"{s:.1f}" if isinstance(s, int | float) else "-" for s in (stage["seconds"], stage["cpu_seconds"])]
        state = "done" if stage["finished"] else "not finished"
        lines.append([stage["folder"], stage["action"], state, counted(stage["steps"]), *spent, weights[:16]])
    if lines:
        header = ["folder", "stage", "state", "steps", "seconds", "CPU seconds", "weights (hash)"]
        out.append(folded(f"Stages ({len(lines)})", table(header, lines)))
    if any(r["metric"] == "entity_f1" for r in run.summary["rows"]):
        strict = "strict entity F1 also rejects spans that do not begin with a B tag."
        out.append(note(f"Entity F1 is that of conlleval; {strict}"))
    return "\n".join(out)


def write_cards(run: Run) -> None:
    """Writes the card of each model that the run names, and removes those of models that it no longer names.

    A card whose licence was filled in belongs to who did so, and stays. None has the place or the time of the run.
    """
    named = {answer.stage for answer in run.answers.values()}
    for stage in run.summary["stages"]:
        path = run.folder / stage["folder"] / CARD
        before = path.read_text("utf-8", errors="replace") if path.exists() else FILL_IN
        text = card(run, stage) if stage["folder"] in named else ""
        if (FILL_IN not in before and before.startswith("---")) or text == before:
            continue
        if text:
            atomic_write_text(path, text)
        else:
            delete(path)


def card(run: Run, stage: Json) -> str:
    """The card of a stage's model."""
    folder, summary = run.folder / stage["folder"], run.summary
    record, labels = read_json(folder / FINISHED), read_json(folder / "xlt.json").get("labels") or []
    languages = [language for language, answer in run.answers.items() if answer.stage == stage["folder"]]
    sources = summary["sources"] or [summary["source"]]
    front = {
        "language": [str(language) for language in [*languages, *sources] if language],
        "license": FILL_IN,
        "library_name": "xlt-engine",
        "tags": [shown_task(summary["task"]).pipeline, "cross-lingual"],
    }
    used = [name for mark, name in _USED.items() if record.get(mark)]
    unused = [name for mark, name in _USED.items() if not record.get(mark)]
    parts = [
        "---\n" + "".join(f"{key}: {json.dumps(value, ensure_ascii=False)}\n" for key, value in front.items()) + "---",
        f"# {summary['name']}: {', '.join(languages)}",
        f"Labels text in {', '.join(languages)}; learned from labelled text in {', '.join(map(str, sources))} and "
        f"unlabelled text, by {stage['label']} of the recipe `{summary['name']}`, seed {stage['seed']} "
        "(arXiv 2310.04726).",
        *(f"Why this model for {language}: {run.answers[language].reason}." for language in languages),
        "```\nxlt-engine predict FOLDER new.txt\n```",
        f"## Labels\n\n{', '.join(f'`{label}`' for label in labels)}",
        f"## Scores\n\n{_scores(folder)}",
        f"## What it used\n\nUsed: {', '.join(used) or '-'}. Not used: {', '.join(unused) or '-'}.",
        f"## Made by\n\n{_versions(run, record)}",
        "## Licence\n\nTo be filled in, here and at the top: that of the encoder that training began with, and of the "
        "texts it learned.",
    ]
    return "\n\n".join(parts) + "\n"


def _scores(folder: Path) -> str:
    rows = [row for row in read_json(folder / "scores.json").get("scores") or () if is_score(row["value"])]
    if not rows:
        return "There was no test file."
    lines = ["| language | | score | points | test items |", "|---|---|---|---|---|"]
    for row in rows:
        metric = METRIC_NAMES.get(row["metric"], row["metric"])
        lines.append(f"| {row['language']} | {row['role']} | {metric} | {row['value']:.1f} | {row['count']} |")
    return "\n".join(lines)


def _versions(run: Run, record: Json) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in run.summary["versions"].items())
    weights = weights_hash(record) or "-"
    return f"{versions}. Fingerprint `{record.get('fingerprint')}`; SHA-256 of the weights `{weights}`."
