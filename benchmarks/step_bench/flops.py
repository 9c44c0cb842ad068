"""The floating point operations that a step's matrix products need: what MFU counts.

Real tokens only, so that padding, recomputation and rows that nobody reads count for nobody; two operations for a
multiplication and an addition. H hidden size, I inner size, V vocabulary; per layer and token 6 H^2 for query, key
and value, 2 H^2 for the output, 4 H I for the feed-forward part (6 H I with a gate), and per sequence of n tokens 4 H
for each of the n^2 pairs of tokens that see each other, of which a window leaves fewer. The last layer's output and
feed-forward part are needed for the K rows alone that the head reads. A backward pass needs each product twice, for
the gradients of its two factors; once where one of them is frozen.
"""

from __future__ import annotations

from collections.abc import Sequence

from xlt_engine.model import EncoderConfig
from xlt_engine.model.heads import default_voter_widths

from .work import CLASSES, TASKS, Row, frozen_layers


def step_flops(task: str, config: EncoderConfig, rows: Sequence[Row]) -> float:
    """Of one step over these rows, with embeddings and the lowest quarter of the layers frozen."""
    items = sum(len(row.positions) for row in rows)
    encoder = encoder_flops(config, [row.length for row in rows], items, trains=TASKS[task].trains)
    return encoder + head_flops(task, config, items)


def encoder_flops(config: EncoderConfig, lengths: Sequence[int], items: int, *, trains: bool) -> float:
    """Of the layers, forward, and backward if they are trained."""
    size, inner, layers, parts = config.hidden_size, config.intermediate_size, config.num_layers, config.pre_norm
    tokens = sum(lengths)
    projection = 6.0 * size * size * tokens
    first, total = frozen_layers(config), 0.0
    for layer in range(layers):
        window = None if parts is None else parts.windows[layer]
        scores = 4.0 * size * sum(pairs(n, window) for n in lengths)
        rest = (2.0 * size * size + (4.0 if parts is None else 6.0) * size * inner) * (
            items if layer == layers - 1 else tokens
        )
        forward = projection + scores + rest
        total += forward
        if trains and layer >= first:
            # Nothing below the first layer that trains wants a gradient; a norm before it that trains does.
            total += 2 * forward - (projection if layer == first and parts is None else 0.0)
    return total


def pairs(length: int, window: int | None) -> int:
    """Pairs of tokens of a sequence of which one sees the other."""
    if window is None or window >= length:
        return length * length
    return length * (2 * window + 1) - window * (window + 1)


def head_flops(task: str, config: EncoderConfig, items: int) -> float:
    """Of what reads the encoder's rows."""
    size = config.hidden_size
    if task == "btf":
        transform, decoder = 2.0 * size * size, 2.0 * size * config.vocab_size
        return items * (3 * transform + 2 * decoder)  # the decoder is frozen
    if task in ("soft", "hard"):
        return 3.0 * items * sum(4.0 * size * width + 2.0 * size * CLASSES for width in default_voter_widths(size))
    transform = 2.0 * size * size if config.layout.tagger == "prediction" else 0.0
    return (3.0 if TASKS[task].trains else 1.0) * items * (transform + 2.0 * size * CLASSES)
