"""BERT-family encoder on packed batches, heads, and weights in the Hugging Face folder layout."""

from .cloze import ClozeHead, ClozeModel, cloze_model
from .config import EncoderConfig
from .encoder import Encoder, EncoderOutput, PackedInput
from .folder import (
    FolderInfo,
    head_of_transformers,
    load_classifier,
    load_encoder,
    load_encoder_config,
    load_masked_lm,
    load_pooler,
    load_tagger,
    load_task_model,
    read_info,
    save_model,
)
from .heads import Head, LinearHead, MlpHead, VoterHeads, default_voter_widths
from .tasks import MaskedLM, Pooler, TaskModel

__all__ = [
    "ClozeHead",
    "ClozeModel",
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
    "TaskModel",
    "VoterHeads",
    "cloze_model",
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
