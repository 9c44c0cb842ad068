"""What the laboratory leaves in a run folder for the page of its report."""

from __future__ import annotations

from pathlib import Path

from .... import DataError
from ...report.laboratory import THRESHOLDS, TRUST
from ...report.write import write_report
from ...storage.files import atomic_write_json, delete
from .run_thresholds import study_thresholds
from .study_text import rule_tables, study_notes, trust_lines, trust_notes
from .trust import TrustReport

DRAWS = 100
"""Of the bootstrap, for the page."""


def write_thresholds(folder: str | Path) -> None:
    """Keep in `thresholds.json` what other rules would have chosen; no file where no votes were stored.

    Raises:
        StorageError: the disk refuses.
    """
    path = Path(folder) / THRESHOLDS
    try:
        studies = study_thresholds(folder, draws=DRAWS, recompute=False)
    except DataError:
        studies = []  # nothing has ended, or nothing was decided; the page says so
    if not studies:
        delete(path)
        return
    tables = [{"title": title, "header": header, "lines": lines} for title, header, lines in rule_tables(studies)]
    atomic_write_json(path, {"tables": tables, "notes": study_notes(studies)}, indent=1)


def write_trust(folder: str | Path, report: TrustReport) -> None:
    """Keep the estimates in `trust.json` of the run, and write its report again.

    Raises:
        StorageError: the disk refuses.
    """
    header, lines = trust_lines(report)
    page = {"header": header, "lines": lines, "notes": trust_notes(report)}
    atomic_write_json(Path(folder) / TRUST, report.as_dict() | {"page": page}, indent=1)
    write_thresholds(folder)
    write_report(folder)
