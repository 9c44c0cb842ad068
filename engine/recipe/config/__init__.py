"""The settings of a recipe, as frozen dataclasses: one for each table."""

from .files import FileReader, merged, reader_of
from .languages import LanguageReaderConfig, ReaderConfig, SourceConfig, TargetConfig
from .run import ArmsConfig, CheckpointConfig, ModelConfig, NewEncoderConfig, RunConfig
from .stages import (
    AlphaConfig,
    AugmentConfig,
    BtfConfig,
    ClozeConfig,
    FinetuneConfig,
    HardConfig,
    MaskedLmConfig,
    PretrainConfig,
    SelfTrainConfig,
    SoftConfig,
)
from .training import StageConfig, StageTraining, TrainingConfig
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
    "FileReader",
    "FinetuneConfig",
    "HardConfig",
    "LanguageReaderConfig",
    "MaskedLmConfig",
    "ModelConfig",
    "NewEncoderConfig",
    "PretrainConfig",
    "ReaderConfig",
    "RunConfig",
    "SelfTrainConfig",
    "SoftConfig",
    "SourceConfig",
    "StageConfig",
    "StageTraining",
    "TargetConfig",
    "TrainingConfig",
    "WorldTable",
    "merged",
    "reader_of",
]
