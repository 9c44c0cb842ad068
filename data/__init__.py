"""Files to examples to token stores to packed batches."""

from __future__ import annotations

from .batch import PackedBatch, pack
from .buckets import BatchSize, Bucket, choose_buckets, pad_step, pad_to_bucket, padding_share
from .code_switch import code_switched, read_dictionary
from .corpora import Corpus, unigram_entropy
from .demo_world import WorldConfig, WorldFiles, make_world
from .example import OUTSIDE, Example, Examples
from .few_shot import few_per_class
from .inference_batches import inference_batches, inference_tokens, row_batches
from .joint_batches import JointBatches
from .pair_batches import PairBatches
from .prompt import Prompt
from .readers import guess_format, read_examples, read_text, reader_options
from .readers_conll import read_conll
from .readers_table import read_jsonl, read_tsv
from .sampling import epoch_counts, rng_for
from .seeding import derive_seed
from .sentence_pairs import read_pairs
from .sources import ItemView, MlmBatches, Part, TaskBatches
from .store import TokenStore, file_hash, store_key
from .tokenizer import EncodedText, EncodedWords, Tokenizer
from .truth_config import TruthKnobs
from .truth_world import TruthFiles, make_truth_world, open_truth_world
from .windows import Row, window_rows
from .wordpiece import train_wordpiece

__all__ = [
    "BatchSize",
    "Bucket",
    "Corpus",
    "EncodedText",
    "EncodedWords",
    "Example",
    "Examples",
    "ItemView",
    "JointBatches",
    "MlmBatches",
    "OUTSIDE",
    "PackedBatch",
    "PairBatches",
    "Part",
    "Prompt",
    "Row",
    "TaskBatches",
    "TokenStore",
    "Tokenizer",
    "TruthFiles",
    "TruthKnobs",
    "WorldConfig",
    "WorldFiles",
    "choose_buckets",
    "code_switched",
    "derive_seed",
    "epoch_counts",
    "few_per_class",
    "file_hash",
    "guess_format",
    "inference_batches",
    "inference_tokens",
    "make_truth_world",
    "make_world",
    "open_truth_world",
    "pack",
    "pad_step",
    "pad_to_bucket",
    "padding_share",
    "read_conll",
    "read_dictionary",
    "read_examples",
    "read_jsonl",
    "read_pairs",
    "read_text",
    "read_tsv",
    "reader_options",
    "rng_for",
    "row_batches",
    "store_key",
    "train_wordpiece",
    "unigram_entropy",
    "window_rows",
]
