"""Configuration, the one loop, stages, pseudo-labels, decisions, metrics, checkpoints, run folder and report.

Importing this package loads none of its modules: a public name is resolved on first use.
"""

import typing

from .. import lazy_names as _lazy_names

if typing.TYPE_CHECKING:
    from .corpus.build import build_corpus
    from .corpus.config import CorpusConfig
    from .corpus.report import CorpusReport
    from .evaluation.metrics import accuracy, entity_f1, macro_f1
    from .prediction.file_predictor import predict_file
    from .prediction.predictor import Entity, Prediction, Predictor, TagPrediction, predict
    from .prediction.scoring import EvaluationResult, evaluate, evaluate_files
    from .preflight.checker import check
    from .preflight.cost import estimate
    from .preflight.describe import describe_environment, describe_model
    from .preflight.init_writer import init_recipe
    from .pseudolabels.filters import Decision, decide, source_consistency
    from .pseudolabels.thresholds import ThresholdChoice, choose_threshold
    from .recipe.config import RunConfig
    from .recipe.load import load_recipe
    from .report.write import write_report
    from .runs.runner import RunResult, StagesFailedError, run
    from .runs.verify import Verification, verify_run
    from .summary.answer import Answer, answers, chosen_model
    from .summary.stage_table import stage_table
    from .summary.summary import write_summary
    from .training.config import OptimizerConfig
    from .training.loop import Loop, StepResult, Trace, train
    from .training.progress import ConsoleProgress, Progress

__all__ = [
    "Answer",
    "ConsoleProgress",
    "CorpusConfig",
    "CorpusReport",
    "Decision",
    "Entity",
    "EvaluationResult",
    "Loop",
    "OptimizerConfig",
    "Prediction",
    "Predictor",
    "Progress",
    "RunConfig",
    "RunResult",
    "StagesFailedError",
    "StepResult",
    "TagPrediction",
    "ThresholdChoice",
    "Trace",
    "Verification",
    "accuracy",
    "answers",
    "build_corpus",
    "check",
    "choose_threshold",
    "chosen_model",
    "decide",
    "describe_environment",
    "describe_model",
    "entity_f1",
    "estimate",
    "evaluate",
    "evaluate_files",
    "init_recipe",
    "load_recipe",
    "macro_f1",
    "predict",
    "predict_file",
    "run",
    "source_consistency",
    "stage_table",
    "train",
    "verify_run",
    "write_report",
    "write_summary",
]

__getattr__, __dir__ = _lazy_names(__name__)
