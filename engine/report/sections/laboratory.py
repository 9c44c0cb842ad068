"""What the laboratory has left in a run for its page: other rules' thresholds, and trust without target labels."""

from __future__ import annotations

from ...storage.files import read_json
from ...storage.text import some
from ...summary.stage_folders import made_from
from ...summary.stage_table import METRIC_NAMES, Json
from ..page import bullets, folded, heading, note, table, warning
from ..parts import Run
from ..svg import clean

THRESHOLDS, TRUST = "thresholds.json", "trust.json"


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
