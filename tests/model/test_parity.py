"""The encoder and the masked LM against transformers, on padded batches with attention masks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional

from xlt_engine.model import Encoder, MaskedLM, load_encoder, load_masked_lm

TINY = dict(
    vocab_size=97,
    hidden_size=32,
    num_hidden_layers=3,
    num_attention_heads=4,
    intermediate_size=64,
    max_position_embeddings=40,
)
WIDE = dict(vocab_size=1200, num_hidden_layers=4)  # the layers of multilingual BERT, fewer of them
LENGTHS = (7, 2, 13, 7, 9)


@pytest.fixture(scope="module", params=[TINY, WIDE], ids=["tiny", "mbert"])
def reference(request, transformers, tmp_path_factory):
    torch.manual_seed(3)
    model = transformers.BertForMaskedLM(transformers.BertConfig(**request.param)).eval()
    with torch.no_grad():  # biases and LayerNorms away from 0 and 1, so that a swapped one shows
        for name, value in model.named_parameters():
            if value.dim() == 1:
                value.add_(torch.randn(value.shape) * 0.1)
            elif "word_embeddings" not in name:
                value.mul_(2.0)
    folder = tmp_path_factory.mktemp("reference")
    model.save_pretrained(folder)
    return model, folder


def padded_inputs(seqs):
    ids = torch.nn.utils.rnn.pad_sequence(seqs, batch_first=True)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(s) for s in seqs], batch_first=True)
    segments = torch.zeros_like(ids)
    for i, s in enumerate(seqs):
        segments[i, len(s) // 2 : len(s)] = 1
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": segments}, mask.bool()


def test_hidden_states(reference, sequences, packed, error):
    model, folder = reference
    seqs = sequences(LENGTHS, model.config.vocab_size)
    inputs, keep = padded_inputs(seqs)
    with torch.no_grad():
        expected = model.bert(**inputs).last_hidden_state[keep]
        actual = load_encoder(folder)(packed(seqs)).hidden
    assert error(actual, expected) <= 1e-5


def test_masked_lm_logits(reference, sequences, packed, error):
    model, folder = reference
    seqs = sequences(LENGTHS, model.config.vocab_size)
    inputs, keep = padded_inputs(seqs)
    with torch.no_grad():
        expected = model(**inputs).logits[keep]
    ours = load_masked_lm(folder)
    rows = torch.tensor([0, 5, 6, 8, 30])
    assert error(ours.logits(packed(seqs)), expected) <= 1e-5
    assert error(ours.logits(packed(seqs), rows), expected[rows]) <= 1e-5


def test_gradients(reference, sequences, packed, error):
    model, folder = reference
    seqs = sequences(LENGTHS, model.config.vocab_size)
    items = [1, 4, 8, 15, 23, 37]
    batch = packed(seqs, items)
    targets = batch.token_ids.flip(0)[items]
    inputs, keep = padded_inputs(seqs)
    model.zero_grad()
    functional.cross_entropy(model(**inputs).logits[keep][items], targets).backward()
    ours = load_masked_lm(folder)
    logits = functional.linear(ours.transform(batch), ours.decoder_weight, ours.decoder_bias)
    functional.cross_entropy(logits, targets).backward()
    expected = {name: p.grad for name, p in model.named_parameters()}
    fused = ours.encoder.layers
    for i, layer in enumerate(fused):
        prefix = f"bert.encoder.layer.{i}."
        parts = [prefix + f"attention.self.{part}." for part in ("query", "key", "value")]
        pairs = [
            (layer.qkv_weight, torch.cat([expected[part + "weight"] for part in parts])),
            (layer.qkv_bias, torch.cat([expected[part + "bias"] for part in parts])),
            (layer.output_weight, expected[prefix + "attention.output.dense.weight"]),
            (layer.attention_norm_weight, expected[prefix + "attention.output.LayerNorm.weight"]),
            (layer.attention_norm_bias, expected[prefix + "attention.output.LayerNorm.bias"]),
            (layer.up_weight, expected[prefix + "intermediate.dense.weight"]),
            (layer.up_bias, expected[prefix + "intermediate.dense.bias"]),
            (layer.down_weight, expected[prefix + "output.dense.weight"]),
            (layer.output_norm_weight, expected[prefix + "output.LayerNorm.weight"]),
        ]
        for parameter, gradient in pairs:
            assert error(parameter.grad, gradient) <= 1e-4
    embeddings, prefix = ours.encoder.embeddings, "bert.embeddings."
    # transformers drops the pad row's gradient of the look-up, not that of the decoder; the batch has no pad token
    assert error(embeddings.word.grad, expected[prefix + "word_embeddings.weight"]) <= 1e-4
    assert error(embeddings.position.grad, expected[prefix + "position_embeddings.weight"]) <= 1e-4
    assert error(embeddings.segment.grad, expected[prefix + "token_type_embeddings.weight"]) <= 1e-4
    assert error(embeddings.norm_weight.grad, expected[prefix + "LayerNorm.weight"]) <= 1e-4
    assert error(ours.dense_weight.grad, expected["cls.predictions.transform.dense.weight"]) <= 1e-4
    assert error(ours.norm_bias.grad, expected["cls.predictions.transform.LayerNorm.bias"]) <= 1e-4
    assert error(ours.decoder_bias.grad, expected["cls.predictions.bias"]) <= 1e-4


def test_fresh_weights_have_the_distribution_of_transformers(tiny):
    ours = dict(MaskedLM(Encoder(tiny, seed=5), seed=6).state_dict())
    for name, value in ours.items():
        if "norm_weight" in name:
            assert bool((value == 1).all()), name
        elif name.endswith("bias"):
            assert bool((value == 0).all()), name
        else:
            rows = value[1:] if name.endswith("word") else value
            assert 0.017 < float(rows.std()) < 0.023, name
    assert bool((ours["encoder.embeddings.word"][0] == 0).all())


def test_pretraining_checkpoint_of_transformers(transformers, tmp_path: Path, sequences, packed, error):
    """A BertForPreTraining folder has pooler and next-sentence head, which both loaders leave out."""
    model = transformers.BertForPreTraining(transformers.BertConfig(**TINY)).eval()
    model.save_pretrained(tmp_path)
    seqs = sequences((6,), 97)
    inputs, keep = padded_inputs(seqs)
    with torch.no_grad():
        expected = model(**inputs).prediction_logits[keep]
    assert error(load_masked_lm(tmp_path).logits(packed(seqs)), expected) <= 1e-5
