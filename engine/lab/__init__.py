"""The laboratory: what a run says about its method, with and without target labels."""

from .ablation.ablate import AblationResult, ablate, ablate_all, plan_all
from .ablation.rows import describe_rows
from .ablation.survey import Forecast, plan_ablation
from .paper.tables import paper_tables, render_tables

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
