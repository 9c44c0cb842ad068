"""How much the stages of co-training and of contrastive adaptation train, for `estimate`."""

from __future__ import annotations

import numpy as np

from ...data import ItemView, MlmBatches, PairBatches, Part, TaskBatches, TokenStore
from ..plan import Stage
from ..stages.context import Context
from ..stages.mixture import labelled_examples
from .cotrain_pools import pick_limit

Work = tuple[list[np.ndarray], MlmBatches | TaskBatches | PairBatches | None, list[int], bool]
"""See `estimate_work.stage_work`."""


def transfer_work(context: Context, stage: Stage, stores: dict[str, TokenStore]) -> Work:
    """As `estimate_work.stage_work`, for the stages of this folder."""
    optimiser = stage.optimiser
    if stage.kind == "semantic":
        originals = stores["originals"]
        translations = [store for role, store in stores.items() if role.startswith("translation.")]
        batches = PairBatches(originals, translations, batch_size=optimiser.batch_size, epochs=optimiser.epochs, seed=0)
        lengths = [originals.lengths, *(store.lengths for store in translations)]
        # Each original is in the middle once, and about as often in the company of another for each language.
        return lengths, batches, [len(originals) * (1 + len(translations)), *map(len, translations)], False
    parts = [store for role, store in stores.items() if role != "dev"]
    chosen = [labelled_examples(store) if i == 0 or stage.kind == "align" else None for i, store in enumerate(parts)]
    if stage.kind == "cotrain" and stage.round > 1:
        table = context.config.cotrain
        limit = pick_limit(len(labelled_examples(parts[0])), table.parts)
        left = None if limit is None else limit * (stage.round - 1)
        for i, store in enumerate(parts[1:], start=1):
            most = min(len(store), table.cap or len(store), len(store) if left is None else left)
            chosen[i] = np.arange(most)
            left = None if left is None else left - most
    picked = [examples for examples in chosen if examples is not None]
    total = TaskBatches(
        [Part(ItemView(store), examples) for store, examples in zip(parts, picked, strict=True)],
        batch_size=optimiser.batch_size,
        epochs=optimiser.epochs,
        seed=0,
        micro_batch=optimiser.fixed_micro_batch,
    )
    lengths = [store.lengths[examples] for store, examples in zip(parts, picked, strict=True)]
    return lengths, total, [len(part) for part in lengths], stage.kind == "cotrain" and stage.round > 1
