"""The settings of a recipe, as frozen dataclasses: one for each table."""

from .augment import AugmentConfig
from .base import ModelConfig, NewEncoderConfig, StageConfig, TaskConfig
from .cloze import ClozeConfig
from .files import FileReader, merged, reader_of
from .languages import SourceConfig, TargetConfig
from .reader import LanguageReaderConfig, ReaderConfig
from .run import (
    AlphaConfig,
    ArmsConfig,
    BtfConfig,
    CheckpointConfig,
    FinetuneConfig,
    HardConfig,
    PretrainConfig,
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
    "FileReader",
    "FinetuneConfig",
    "HardConfig",
    "LanguageReaderConfig",
    "ModelConfig",
    "NewEncoderConfig",
    "PretrainConfig",
    "ReaderConfig",
    "RunConfig",
    "SelfTrainConfig",
    "SoftConfig",
    "SourceConfig",
    "StageConfig",
    "TargetConfig",
    "TaskConfig",
    "WorldTable",
    "merged",
    "reader_of",
]
