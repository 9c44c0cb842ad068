"""The laboratory: what a run says about its method, with and without target labels."""

from .ablate import AblationResult, ablate, ablate_all, plan_all
from .rows import describe_rows
from .survey import Forecast, plan_ablation

__all__ = ["AblationResult", "Forecast", "ablate", "ablate_all", "describe_rows", "plan_ablation", "plan_all"]
