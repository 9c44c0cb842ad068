"""What the laboratory has left in a run for its page: other rules' thresholds, and trust without target labels."""

from __future__ import annotations

from ... import DataError
from ..storage.files import read_json
from .page import table
from .parts import Run
from .stage_table import METRIC_NAMES
from .svg import clean

THRESHOLDS, TRUST = "thresholds.json", "trust.json"


def thresholds_section(run: Run) -> str:
    """What other rules would have chosen; empty where nobody has compared them."""
    study = read_json(run.folder / THRESHOLDS)
    if not study:
        return ""
    parts = ["<h3>What other rules would have chosen</h3>"]
    for entry in study["tables"]:
        css = ["control" if line[0] == "best by gold" else "" for line in entry["lines"]]
        cells = table(entry["header"], entry["lines"], css=css)
        parts.append(f'<p>{clean(entry["title"])}</p><div class="dense">{cells}</div>')
    return "\n".join([*parts, f'<p class="note">{clean(". ".join(study["notes"]))}.</p>'])


def trust_section(run: Run) -> str:
    """The estimates that `xlt-engine trust` has left in the run; empty without them.

    Raises:
        DataError: they are those of another version.
    """
    trust = read_json(run.folder / TRUST)
    if not trust:
        return ""
    if "page" not in trust:
        raise DataError(f"{run.folder / TRUST}:1: of another version; run `xlt-engine trust` again")
    page, metric = trust["page"], METRIC_NAMES.get(trust["metric"], trust["metric"])
    boxes = "".join(
        f'<div class="warning"><b>{clean(w["name"])}</b><div>{clean(w["message"])}</div></div>'
        for w in trust["warnings"]
    )
    notes = "".join(f"<li>{clean(line)}</li>" for line in page["notes"])
    title = f"<h2>Trust without target labels</h2><p>{clean(metric)} in points.</p>"
    return f"{title}{boxes}{table(page['header'], page['lines'])}<ul>{notes}</ul>"
