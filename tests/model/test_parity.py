"""Fresh weights, and a checkpoint of pre-training, against transformers; the layers are in test_layouts.py."""

import torch

from xlt_engine.model import Encoder, MaskedLM, load_masked_lm

SIZES = dict(vocab_size=97, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=64)


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


def test_pretraining_checkpoint_of_transformers(transformers, tmp_path, sequences, packed, error):
    """A BertForPreTraining folder has pooler and next-sentence head, which both loaders leave out."""
    model = transformers.BertForPreTraining(transformers.BertConfig(**SIZES)).eval()
    model.save_pretrained(tmp_path)
    (ids,) = sequences((6,), 97)
    batch = packed([ids])
    with torch.no_grad():
        expected = model(input_ids=ids[None], token_type_ids=batch.segments[None]).prediction_logits[0]
    assert error(load_masked_lm(tmp_path).logits(batch), expected) <= 1e-5
