"""A real BERT checkpoint, all-MiniLM-L6-v2, in the folder that XLT_MINILM names."""

import os

import pytest
import torch

from xlt_engine.model import load_encoder, load_pooler


@pytest.mark.skipif(not os.environ.get("XLT_MINILM"), reason="XLT_MINILM is not set")
def test_hidden_states_pooler_and_gradients(transformers, sequences, packed, error):
    folder = os.environ["XLT_MINILM"]
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
