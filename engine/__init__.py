"""Configuration, the one loop, stages, pseudo-labels, decisions, metrics, checkpoints, run folder and report.

Importing this package loads none of its modules: a public name is resolved on first use.
"""

import importlib
import typing

if typing.TYPE_CHECKING:
    from .check_report import render_checks
    from .checker import check, check_all
    from .config import OptimiserConfig, RunConfig
    from .corpus.build import build_corpus
    from .corpus.config import CorpusConfig
    from .corpus.report import CorpusReport
    from .cost import estimate, estimate_all
    from .decisions import Decision, decide, source_consistency
    from .describe import describe_environment, describe_model
    from .estimate_report import render_estimates
    from .file_predictor import predict_file
    from .init_writer import init_recipe
    from .loop import Loop, StepResult, Trace, train
    from .metrics import accuracy, entity_f1, macro_f1
    from .predictor import Prediction, Predictor, TagPrediction, predict
    from .progress import ConsoleProgress, Progress
    from .recipe import load_recipe, variants
    from .report import write_report
    from .runner import RunResult, run, run_all
    from .scoring import EvaluationResult, evaluate, evaluate_files
    from .summary import stage_table, write_summary
    from .thresholds import ThresholdChoice, choose_threshold

__all__ = [
    "ConsoleProgress",
    "CorpusConfig",
    "CorpusReport",
    "Decision",
    "EvaluationResult",
    "Loop",
    "OptimiserConfig",
    "Prediction",
    "Predictor",
    "Progress",
    "RunConfig",
    "RunResult",
    "StepResult",
    "TagPrediction",
    "ThresholdChoice",
    "Trace",
    "accuracy",
    "build_corpus",
    "check",
    "check_all",
    "choose_threshold",
    "decide",
    "describe_environment",
    "describe_model",
    "entity_f1",
    "estimate",
    "estimate_all",
    "evaluate",
    "evaluate_files",
    "init_recipe",
    "load_recipe",
    "macro_f1",
    "predict",
    "predict_file",
    "render_checks",
    "render_estimates",
    "run",
    "run_all",
    "source_consistency",
    "stage_table",
    "train",
    "variants",
    "write_report",
    "write_summary",
]

_NAMES = {
    "check_report": ("render_checks",),
    "checker": ("check", "check_all"),
    "config": ("OptimiserConfig", "RunConfig"),
    "corpus.build": ("build_corpus",),
    "corpus.config": ("CorpusConfig",),
    "corpus.report": ("CorpusReport",),
    "cost": ("estimate", "estimate_all"),
    "decisions": ("Decision", "decide", "source_consistency"),
    "describe": ("describe_environment", "describe_model"),
    "estimate_report": ("render_estimates",),
    "file_predictor": ("predict_file",),
    "init_writer": ("init_recipe",),
    "loop": ("Loop", "StepResult", "Trace", "train"),
    "metrics": ("accuracy", "entity_f1", "macro_f1"),
    "predictor": ("Prediction", "Predictor", "TagPrediction", "predict"),
    "progress": ("ConsoleProgress", "Progress"),
    "recipe": ("load_recipe", "variants"),
    "report": ("write_report",),
    "runner": ("RunResult", "run", "run_all"),
    "scoring": ("EvaluationResult", "evaluate", "evaluate_files"),
    "summary": ("stage_table", "write_summary"),
    "thresholds": ("ThresholdChoice", "choose_threshold"),
}
"""Public names by the module that defines them. No public name is that of a module, which would replace it."""

_MODULES = {name: module for module, names in _NAMES.items() for name in names}


def __getattr__(name: str) -> typing.Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(f".{_MODULES[name]}", __name__), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
