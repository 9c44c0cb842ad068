"""What the laboratory leaves in a run folder before its page is written."""

from __future__ import annotations

from pathlib import Path

from ...report.sections import SENTENCES
from ...storage.files import delete
from .sentences import write_sentences
from .thresholds import write_thresholds


def write_for_page(folder: Path, *, quoting: bool = True) -> None:
    """Other rules' thresholds and, unless the page shall quote no data, sentences to look at."""
    write_thresholds(folder)
    if quoting:
        write_sentences(folder)
    else:
        delete(folder / SENTENCES)
