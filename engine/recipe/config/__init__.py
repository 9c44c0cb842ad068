"""The settings of a recipe, as frozen dataclasses: one for each table."""

from .files import FileReader, merged, reader_of
from .languages import LanguageReaderConfig, ReaderConfig, SourceConfig, TargetConfig
from .run import ModelConfig, RunConfig
from .stages import BtfConfig, MaskedLmConfig, SelfTrainConfig, StageConfig, StageTraining, TrainingConfig

__all__ = [
    "BtfConfig",
    "FileReader",
    "LanguageReaderConfig",
    "MaskedLmConfig",
    "ModelConfig",
    "ReaderConfig",
    "RunConfig",
    "SelfTrainConfig",
    "SourceConfig",
    "StageConfig",
    "StageTraining",
    "TargetConfig",
    "TrainingConfig",
    "merged",
    "reader_of",
]
