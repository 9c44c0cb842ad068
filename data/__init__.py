"""Files to examples to token stores to packed batches.

Importing this package loads none of its modules, and so no torch: a public name is resolved on first use.
"""

import typing

from .. import lazy_names as _lazy_names

if typing.TYPE_CHECKING:
    from .augment.code_switch import code_switched, read_dictionary
    from .batches.batch import PackedBatch, pack
    from .batches.buckets import BatchSize, Bucket, choose_buckets, pad_step, pad_to_bucket, padding_share
    from .batches.rows import ItemView, Row, Rows, inference_batches, inference_tokens, row_batches, window_rows
    from .batches.sampling import derive_seed, epoch_counts, few_per_class, rng_for
    from .batches.sources import MlmBatches, Part, TaskBatches
    from .readers.example import OUTSIDE, Example, Examples
    from .readers.formats import (
        guess_format,
        read_conll,
        read_examples,
        read_jsonl,
        read_text,
        read_tsv,
        reader_options,
    )
    from .readers.reader import ReaderOptions
    from .store.build import build_store
    from .store.store import Corpus, TokenStore, file_hash, store_key, unigram_entropy
    from .synthetic.demo_world import WorldConfig, WorldFiles, make_world
    from .tokenizer.wordpiece import train_wordpiece
    from .tokenizer.wrapper import EncodedText, EncodedWords, Tokenizer

__all__ = [
    "BatchSize",
    "Bucket",
    "Corpus",
    "EncodedText",
    "EncodedWords",
    "Example",
    "Examples",
    "ItemView",
    "MlmBatches",
    "OUTSIDE",
    "PackedBatch",
    "Part",
    "ReaderOptions",
    "Row",
    "Rows",
    "TaskBatches",
    "TokenStore",
    "Tokenizer",
    "WorldConfig",
    "WorldFiles",
    "build_store",
    "choose_buckets",
    "code_switched",
    "derive_seed",
    "epoch_counts",
    "few_per_class",
    "file_hash",
    "guess_format",
    "inference_batches",
    "inference_tokens",
    "make_world",
    "pack",
    "pad_step",
    "pad_to_bucket",
    "padding_share",
    "read_conll",
    "read_dictionary",
    "read_examples",
    "read_jsonl",
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

__getattr__, __dir__ = _lazy_names(__name__)
