"""report.html: one page of tables and figures, made from what a run has left on disk."""

from .write import write_report

__all__ = ["write_report"]
