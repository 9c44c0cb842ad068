"""A model card, `README.md`, in every folder that the run names as a model to take."""

from __future__ import annotations

import json
from pathlib import Path

from ...tasks import shown_task
from ..storage.files import atomic_write_text, delete, read_json
from ..storage.names import CARD, FINISHED
from ..storage.stage_files import weights_hash
from ..summary.stage_table import METRIC_NAMES, Json, is_score
from .parts import Run

FILL_IN = "FILL-IN"
_USED = {
    "uses_parallel_data": "parallel text or translations",
    "uses_target_labels": "labels of the target language",
    "uses_dictionary": "a dictionary",
    "uses_outside_labels": "labels that another model gave target texts",
}


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
