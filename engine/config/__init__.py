"""The settings of a recipe, as frozen dataclasses: one for each table."""

from .augment import AugmentConfig
from .base import ModelConfig, NewEncoderConfig, OptimiserConfig, TaskConfig
from .cloze import ClozeConfig
from .languages import SourceConfig, TargetConfig
from .run import (
    AlphaConfig,
    ArmsConfig,
    BtfConfig,
    CheckpointConfig,
    FinetuneConfig,
    HardConfig,
    PerformanceConfig,
    PretrainConfig,
    ReaderConfig,
    RunConfig,
    SelfTrainConfig,
    SoftConfig,
)
from .transfer import ContrastiveConfig, CotrainConfig
from .world import WorldTable

__all__ = [
    "AlphaConfig",
    "ArmsConfig",
    "AugmentConfig",
    "BtfConfig",
    "CheckpointConfig",
    "ClozeConfig",
    "ContrastiveConfig",
    "CotrainConfig",
    "FinetuneConfig",
    "HardConfig",
    "ModelConfig",
    "NewEncoderConfig",
    "OptimiserConfig",
    "PerformanceConfig",
    "PretrainConfig",
    "ReaderConfig",
    "RunConfig",
    "SelfTrainConfig",
    "SoftConfig",
    "SourceConfig",
    "TargetConfig",
    "TaskConfig",
    "WorldTable",
]
