"""What the frozen part of an encoder makes of a stage's examples, computed once instead of in every epoch."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..data import ItemView, TokenStore, inference_batches, inference_tokens
from ..model import TaskModel
from .files import require_free_space, storage_errors
from .memory import naming_the_batch
from .precision import DTYPES, computing_in


def frozen_states(
    model: TaskModel,
    store: TokenStore,
    examples: np.ndarray,
    *,
    folder: Path,
    precision: str = "fp32",
    tokens: int = 0,
    poll: Callable[[], None] = lambda: None,
) -> Tensor:
    """The states above the frozen layers, [tokens of the store, H]; zeros for examples that were not asked for.

    They depend on weights and examples alone, so that a stage that is cut off and continued computes the same. They
    live in memory as far as there is room and else in a file below `folder` that vanishes with the process.

    Args:
        model: whose encoder has `frozen_eval` on.
        precision: what the model computes in; the states are stored in it.
        tokens: in one forward pass; 0: what suits the device.
        poll: called between batches, so that the pass can be interrupted.

    Raises:
        StorageError: the disk has no room for them.
        OutOfMemoryError: a batch does not fit.
    """
    encoder = model.encoder
    device = next(encoder.parameters()).device
    states = _mapped(folder, int(store.offsets[-1]), encoder.config.hidden_size, DTYPES[precision])
    budget = tokens or inference_tokens(device.type)
    with computing_in(model, precision), torch.inference_mode():
        for batch, _ in inference_batches(ItemView(store), examples, token_budget=budget):
            poll()
            with naming_the_batch(batch):
                found = encoder.frozen_states(batch.to(device)).cpu()
            starts = batch.cu_seqlens.tolist()
            for i, a, b in zip(batch.example_ids.tolist(), starts[:-1], starts[1:], strict=True):
                states[store.offsets[i] : store.offsets[i + 1]] = found[a:b]
    return states


def _mapped(folder: Path, rows: int, columns: int, dtype: torch.dtype) -> Tensor:
    """Zeros in a file without a name, whose room on the disk is taken at once: a page that cannot be written kills."""
    size = rows * columns * dtype.itemsize
    require_free_space(folder, size, "frozen_eval")
    path = folder / f".tmp-{uuid.uuid4().hex}-frozen"
    with storage_errors(path, needed=size):
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(handle, 0, max(size, 1))
            flat = torch.from_file(str(path), shared=True, size=rows * columns, dtype=dtype)
        finally:
            os.close(handle)
            os.unlink(path)
    return flat.view(rows, columns)
