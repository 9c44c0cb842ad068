"""Configuration, the one loop, stages, pseudo-labels, decisions, metrics, checkpoints, run folder and report."""

from .config import OptimiserConfig, RunConfig
from .decisions import Decision, decide, source_consistency
from .loop import Loop, StepResult, Trace, train
from .metrics import accuracy, entity_f1, macro_f1
from .progress import ConsoleProgress, Progress
from .recipe import load_recipe
from .run import RunResult, run
from .thresholds import ThresholdChoice, choose_threshold

__all__ = [
    "ConsoleProgress",
    "Decision",
    "Loop",
    "OptimiserConfig",
    "Progress",
    "RunConfig",
    "RunResult",
    "StepResult",
    "ThresholdChoice",
    "Trace",
    "accuracy",
    "choose_threshold",
    "decide",
    "entity_f1",
    "load_recipe",
    "macro_f1",
    "run",
    "source_consistency",
    "train",
]
