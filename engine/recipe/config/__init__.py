"""The settings of a recipe, as frozen dataclasses: one for each table."""

from .files import FileReader, merged, reader_of
from .languages import LanguageReaderConfig, ReaderConfig, SourceConfig, TargetConfig
from .run import ModelConfig, RunConfig
from .stages import MaskedLmConfig, SelfTrainConfig, StageConfig, StageTraining

__all__ = ["FileReader", "LanguageReaderConfig", "MaskedLmConfig", "ModelConfig", "ReaderConfig", "RunConfig"]
__all__ += ["SelfTrainConfig", "SourceConfig", "StageConfig", "StageTraining", "TargetConfig", "merged", "reader_of"]
