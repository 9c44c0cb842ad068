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

_NAMES = {
    "augment.code_switch": ("code_switched", "read_dictionary"),
    "batches.batch": ("PackedBatch", "pack"),
    "batches.buckets": ("BatchSize", "Bucket", "choose_buckets", "pad_step", "pad_to_bucket", "padding_share"),
    "batches.sampling": ("derive_seed", "epoch_counts", "few_per_class", "rng_for"),
    "batches.rows": (
        *("ItemView", "Row", "Rows", "inference_batches", "inference_tokens", "row_batches", "window_rows"),
    ),
    "batches.sources": ("MlmBatches", "Part", "TaskBatches"),
    "readers.example": ("OUTSIDE", "Example", "Examples"),
    "readers.formats": (
        *("guess_format", "read_conll", "read_examples", "read_jsonl", "read_text", "read_tsv", "reader_options"),
    ),
    "readers.reader": ("ReaderOptions",),
    "store.build": ("build_store",),
    "store.store": ("Corpus", "TokenStore", "file_hash", "store_key", "unigram_entropy"),
    "synthetic.demo_world": ("WorldConfig", "WorldFiles", "make_world"),
    "tokenizer.wordpiece": ("train_wordpiece",),
    "tokenizer.wrapper": ("EncodedText", "EncodedWords", "Tokenizer"),
}
"""Public names by the module that defines them. No public name is that of a module, which would replace it."""

__getattr__, __dir__ = _lazy_names(__name__, _NAMES)
