"""How well a masked language model predicts words of text that training does not see."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from ...data import Corpus, MlmBatches, TokenStore
from ...kernels.products import linear
from ...model import MaskedLM

POINTS = 20
_ROWS, _SENTENCES = 256, 64


def split_off(stores: Mapping[str, TokenStore], count: int) -> tuple[dict[str, Corpus], dict[str, Corpus]]:
    """The text of each language in two parts: what is learned, and up to `count` sentences at equal distances.

    A sentence that the text has twice may be in both. At most half of a text is held out.
    """
    learned, held = {}, {}
    for name, store in stores.items():
        size = min(count, len(store) // 2)
        out = np.arange(size) * len(store) // max(size, 1)
        learned[name] = Corpus(store, np.setdiff1d(np.arange(len(store)), out))
        if size:
            held[name] = Corpus(store, out)
    return learned, held


class HeldOut:
    """Loss and accuracy of the masked tokens of held-out sentences, at equal distances on the way, and at the end.

    The masks are the same each time, so that the numbers of one run compare.

    Args:
        texts: by language.
        total: steps of the training.
        batches: `special`, `mask_id` and `rate`, as `MlmBatches` takes them.
    """

    def __init__(self, texts: Mapping[str, Corpus], *, total: int, **batches: Any) -> None:
        self._texts, self._total, self._batches = texts, total, batches

    def due(self, step: int) -> bool:
        """Whether the weights after so many steps are measured."""
        return bool(self._texts) and (
            step == self._total or step * POINTS // self._total > (step - 1) * POINTS // self._total
        )

    def measure(self, model: MaskedLM) -> dict[str, dict[str, float]]:
        """By language: mean loss in nats and accuracy, 0 to 1, of the masked tokens, in the precision of the model."""
        return {name: self._measure(model, text) for name, text in self._texts.items()}

    @torch.no_grad()
    def _measure(self, model: MaskedLM, text: Corpus) -> dict[str, float]:
        batches = MlmBatches([text], batch_size=_SENTENCES, epochs=1, seed=0, **self._batches)
        device, bias = model.decoder_weight.device, model.decoder_bias
        sums = torch.zeros(3, dtype=torch.float64, device=device)
        for step in range(len(batches)):
            for batch in batches[step]:
                moved = batch.to(device)
                assert moved.labels is not None
                hidden = model.transform(moved)
                for rows, labels in zip(torch.split(hidden, _ROWS), torch.split(moved.labels, _ROWS), strict=True):
                    logits = linear(rows, model.decoder_weight).float()
                    logits = logits if bias is None else logits + bias.float()
                    loss = torch.nn.functional.cross_entropy(logits, labels, reduction="sum")
                    hits = (logits.argmax(1) == labels).sum()
                    sums += torch.stack([loss.double(), hits.double(), hits.new_tensor(len(labels)).double()])
        loss, hits, count = sums.tolist()
        return {"loss": loss / count, "accuracy": hits / count}
