"""The laboratory: what a run says about its method, with and without target labels."""

from .ablate import AblationResult, ablate
from .rows import describe_rows
from .survey import Forecast, plan_ablation

__all__ = ["AblationResult", "Forecast", "ablate", "describe_rows", "plan_ablation"]
