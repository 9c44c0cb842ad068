"""The laboratory: what a run says about its method, with and without target labels."""

from .ablate import AblationResult, ablate, ablate_all, plan_all
from .paper_tables import paper_tables, render_tables
from .rows import describe_rows
from .survey import Forecast, plan_ablation

__all__ = [
    "AblationResult",
    "Forecast",
    "ablate",
    "ablate_all",
    "describe_rows",
    "paper_tables",
    "plan_ablation",
    "plan_all",
    "render_tables",
]
