"""BERT-family encoder on packed batches, heads, and weights in the Hugging Face folder layout.

Importing this package loads none of its modules, and so no torch: a public name is resolved on first use.
"""

import typing

from .. import lazy_names as _lazy_names

if typing.TYPE_CHECKING:
    from .config import EncoderConfig
    from .encoder import Encoder, EncoderOutput
    from .folder import (
        head_of_transformers,
        load_classifier,
        load_encoder,
        load_masked_lm,
        load_pooler,
        load_tagger,
        load_task_model,
        save_model,
    )
    from .heads import Head, LinearHead, MlpHead, PredictionHead, VoterHeads, default_voter_widths
    from .info import FolderInfo, load_encoder_config, read_info
    from .layers import PackedInput
    from .layout import PreNorm
    from .tasks import MaskedLM, Pooler, TaskModel

__all__ = [
    "Encoder",
    "EncoderConfig",
    "EncoderOutput",
    "FolderInfo",
    "Head",
    "LinearHead",
    "MaskedLM",
    "MlpHead",
    "PackedInput",
    "Pooler",
    "PreNorm",
    "PredictionHead",
    "TaskModel",
    "VoterHeads",
    "default_voter_widths",
    "head_of_transformers",
    "load_classifier",
    "load_encoder",
    "load_encoder_config",
    "load_masked_lm",
    "load_pooler",
    "load_tagger",
    "load_task_model",
    "read_info",
    "save_model",
]

__getattr__, __dir__ = _lazy_names(__name__)
