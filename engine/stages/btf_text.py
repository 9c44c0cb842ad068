"""The text of bilingual task fitting: which examples of which language, and how many of each make up an epoch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...data import Corpus, TokenStore, epoch_counts
from ..plan import Stage
from ..recipe.config import BtfConfig, TargetConfig
from .context import Context
from .datasets import capped


@dataclass(frozen=True)
class BtfText:
    """What fitting reads.

    Attributes:
        corpora: one for each language; last, where there are any, the sentence pairs.
        counts: of each in an epoch; None where `btf.balance` says it.
    """

    corpora: list[Corpus]
    counts: list[int] | None


def btf_stores(context: Context, stage: Stage, target: TargetConfig) -> dict[str, TokenStore]:
    """The stores that decide the result of a stage of this kind, by role."""
    stores = text_by_language(context, stage, target)
    count = len(stores)
    if stage.settings["text"] == "general":
        stores = [*stores, *context.data.task_text(target)]
    if context.config.btf.sides == "target":
        stores = stores[count - 1 :: count]
    found = {f"text.{i}": store for i, store in enumerate(stores)}
    return found | ({"pairs": context.data.pairs(target)} if "tlm" in stage.settings else {})


def text_by_language(context: Context, stage: Stage, target: TargetConfig) -> list[TokenStore]:
    """Text of each source language, then of the target."""
    data = context.data
    return data.task_text(target) if stage.settings["text"] == "task" else data.control_text(target)


def btf_text(context: Context, stage: Stage, target: TargetConfig) -> BtfText:
    """The examples that fitting reads. The control sees as much text as BTF does: only the kind of text differs."""
    config, table = context.config, context.config.btf
    stores = text_by_language(context, stage, target)
    sizes = [len(store) for store in stores]
    if stage.settings["text"] == "general":
        task = context.data.task_text(target)
        sizes = [min(size, len(store)) for size, store in zip(sizes, task, strict=True)]
    sizes[-1] = min(sizes[-1], table.cap or sizes[-1])
    keys = ["source", *(source.language for source in config.sources), target.language]
    corpora = [
        Corpus([store], capped(len(store), size, stage.seed, key))
        for store, size, key in zip(stores, sizes, keys, strict=True)
    ]
    if table.sides == "target":
        corpora = corpora[-1:]
    if "tlm" not in stage.settings:
        return BtfText(corpora, None)
    counts = pair_counts([len(corpus) for corpus in corpora], table)
    separator = context.tokenizer.sep_id if table.pair_positions == "reset" else None
    return BtfText([*corpora, Corpus([context.data.pairs(target)], separator=separator)], counts)


def pair_counts(sizes: Sequence[int], table: BtfConfig) -> list[int]:
    """Examples of each language in an epoch, as without pairs, then the pairs: `pairs_share` of all of them.

    Args:
        sizes: examples of each language.
    """
    counts = epoch_counts(sizes, mode=table.balance, temperature=table.temperature)
    return [*counts, max(1, round(sum(counts) * table.pairs_share / (1 - table.pairs_share)))]
