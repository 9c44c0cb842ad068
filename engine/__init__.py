"""Configuration, the one loop, stages, pseudo-labels, decisions, metrics, checkpoints, run folder and report."""

from .check import check, check_all
from .check_report import render_checks
from .config import OptimiserConfig, RunConfig
from .corpus.build import build_corpus
from .corpus.config import CorpusConfig
from .corpus.report import CorpusReport
from .decisions import Decision, decide, source_consistency
from .describe import describe_environment, describe_model
from .estimate import estimate, estimate_all
from .estimate_report import render_estimates
from .evaluate import EvaluationResult, evaluate, evaluate_files
from .init_recipe import init_recipe
from .loop import Loop, StepResult, Trace, train
from .metrics import accuracy, entity_f1, macro_f1
from .predict import Prediction, Predictor, TagPrediction, predict
from .predict_file import predict_file
from .progress import ConsoleProgress, Progress
from .recipe import load_recipe, variants
from .report import write_report
from .run import RunResult, run, run_all
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
