"""What the laboratory has left in a run for its page: other rules' thresholds, and trust without target labels."""

from __future__ import annotations

from .... import DataError
from ...storage.files import read_json
from ..page import bullets, folded, heading, note, table, warning
from ..parts import Run
from ..stage_table import METRIC_NAMES
from ..svg import clean

THRESHOLDS, TRUST = "thresholds.json", "trust.json"


def thresholds_section(run: Run) -> str:
    """What other rules would have chosen; empty where nobody has compared them."""
    study = read_json(run.folder / THRESHOLDS)
    if not study:
        return ""
    parts = []
    for entry in study["tables"]:
        css = ["control" if line[0] == "best by gold" else "" for line in entry["lines"]]
        parts.append(f"<p>{clean(entry['title'])}</p>{table(entry['header'], entry['lines'], css=css, dense=True)}")
    parts.append(note(". ".join(study["notes"]) + "."))
    return "<h3>What other rules would have chosen</h3>" + folded(f"{len(study['tables'])} tables", "".join(parts))


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
    boxes = "".join(warning(w["name"], f"<div>{clean(w['message'])}</div>") for w in trust["warnings"])
    title = f"{heading('Trust without target labels')}<p>{clean(metric)} in points.</p>"
    return f"{title}{boxes}{table(page['header'], page['lines'])}{bullets(page['notes'])}"
