"""What the laboratory has left in a run for its page: other rules' thresholds, trust without labels, sentences."""

from __future__ import annotations

from ...storage.files import read_json
from ...storage.text import some
from ...summary.stage_folders import made_from
from ...summary.stage_table import METRIC_NAMES, Json
from ..page import bullets, folded, folds, heading, note, table, warning
from ..parts import Run
from ..svg import clean

THRESHOLDS, TRUST = "thresholds.json", "trust.json"
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


def trust_section(run: Run) -> str:
    """The estimates that `xlt-engine trust` has left in the run; empty without them."""
    trust = read_json(run.folder / TRUST)
    if not trust:
        return ""
    title = heading("Trust without target labels")
    if old := outdated(run, TRUST, trust, "xlt-engine trust"):
        return title + old
    page, metric = trust["page"], METRIC_NAMES.get(trust["metric"], trust["metric"])
    boxes = "".join(warning(w["name"], f"<div>{clean(w['message'])}</div>") for w in trust["warnings"])
    shown = table(page["header"], page["lines"]) + bullets(page["notes"])
    return f"{title}<p>{clean(metric)} in points.</p>{boxes}{shown}"


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
