import dataclasses

import pytest
import torch

from xlt_engine import ConfigError, ModelError
from xlt_engine.data import pack
from xlt_engine.kernels import linear_cross_entropy
from xlt_engine.model import Encoder, EncoderConfig, MaskedLM, layers


def sizes(parameters):
    return sum(p.numel() for p in parameters)


@pytest.fixture
def encoder(tiny):
    return spread(Encoder(tiny, seed=1))


def spread(module):
    """Weights ten times as large, so that attention is not uniform and an error shows."""
    with torch.no_grad():
        for value in module.parameters():
            if value.dim() > 1:
                value.mul_(10.0)
    return module


def test_any_composition_gives_the_same_states(encoder, sequences, packed, error):
    seqs = sequences((5, 9, 1, 9, 14, 3), 97)
    alone = [encoder(packed([s])).hidden for s in seqs]
    for order in ([0, 1, 2, 3, 4, 5], [4, 2, 0, 5, 3, 1], [3, 1], [5, 4, 5]):
        whole = encoder(packed([seqs[i] for i in order])).hidden
        assert error(whole, torch.cat([alone[i] for i in order])) <= 1e-5


@pytest.mark.parametrize("rows", [[0, 4, 17], [17, 3, 3], [], list(range(23))])
def test_rows_are_those_of_the_full_result(encoder, sequences, packed, error, rows):
    batch = packed(sequences((5, 9, 9), 97))
    index = torch.tensor(rows, dtype=torch.int64)
    part = encoder(batch, rows=index).hidden
    assert part.shape == (len(rows), 32)
    if rows:
        assert error(part, encoder(batch).hidden[index]) <= 1e-6


def test_rows_have_the_gradients_of_the_full_result(encoder, sequences, packed, error):
    batch = packed(sequences((5, 9, 9), 97))
    rows = torch.tensor([2, 11, 20])
    weights = torch.randn(3, 32, generator=torch.Generator().manual_seed(0))
    (encoder(batch).hidden[rows] * weights).sum().backward()
    full = {name: p.grad.clone() for name, p in encoder.named_parameters()}
    encoder.zero_grad()
    (encoder(batch, rows=rows).hidden * weights).sum().backward()
    for name, p in encoder.named_parameters():
        assert error(p.grad, full[name]) <= 1e-5, name


def test_dropout_is_a_function_of_the_seed(encoder, sequences, packed):
    batch = packed(sequences((5, 9), 97))
    assert torch.equal(encoder(batch).hidden, encoder(batch).hidden)
    assert torch.equal(encoder(batch, seed=3).hidden, encoder(batch, seed=3).hidden)
    assert not torch.equal(encoder(batch, seed=3).hidden, encoder(batch, seed=4).hidden)
    assert not torch.equal(encoder(batch, seed=3).hidden, encoder(batch).hidden)


@pytest.mark.parametrize("field", ["dropout", "attention_dropout"])
def test_either_dropout_alone_acts(tiny, sequences, packed, field):
    batch = packed(sequences((5, 9), 97))
    both = dataclasses.replace(tiny, dropout=0.0, attention_dropout=0.0)
    still = spread(Encoder(both, seed=1))
    assert torch.equal(still(batch, seed=3).hidden, still(batch, seed=4).hidden)
    one = spread(Encoder(dataclasses.replace(both, **{field: 0.1}), seed=1))
    assert not torch.equal(one(batch, seed=3).hidden, one(batch, seed=4).hidden)


def test_dropout_sites_are_told_apart(tiny, sequences, packed, monkeypatch):
    seen = []
    for name in ("embedding_layer_norm", "packed_attention", "dropout_residual_layer_norm"):
        original = getattr(layers, name)
        spied = lambda *a, f=original, **more: seen.append(more["site"]) or f(*a, **more)  # noqa: E731
        monkeypatch.setattr(layers, name, spied)
    Encoder(tiny)(packed(sequences((5,), 97)), seed=1)
    assert seen == list(range(10))


def test_initialisation_is_a_function_of_the_seed_and_leaves_the_global_generator_alone(tiny):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first, second, third = Encoder(tiny, seed=7), Encoder(tiny, seed=7), Encoder(tiny, seed=8)
    assert torch.equal(before, torch.get_rng_state())
    for (name, a), b, c in zip(first.named_parameters(), second.parameters(), third.parameters(), strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a, c) == ("norm" in name or name.endswith("bias"))


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_freezing_keeps_nothing_below(tiny, sequences, packed, count):
    model = MaskedLM(Encoder(tiny, seed=1))
    model.encoder.freeze(True, count)
    inputs = []
    for layer in model.encoder.layers:
        layer.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    batch = packed(sequences((5, 9), 97))
    loss = linear_cross_entropy(
        model.transform(batch, seed=2), model.decoder_weight, model.decoder_bias, batch.token_ids[:2]
    )
    loss.backward()
    assert [x.grad_fn is None for x in inputs] == [i <= count for i in range(3)]
    for name, p in model.encoder.named_parameters():
        below = name.startswith("embeddings.") or int(name.split(".")[1]) < count
        assert (p.grad is None) == below == (not p.requires_grad), name
    assert model.decoder_weight is model.encoder.word_embedding
    assert model.decoder_weight.grad is None
    assert model.decoder_bias.grad is not None


def test_freezing_can_be_undone(encoder):
    encoder.freeze(True, 3)
    assert not any(p.requires_grad for p in encoder.parameters())
    encoder.freeze(False, 0)
    assert all(p.requires_grad for p in encoder.parameters())


@pytest.mark.parametrize("layers", [-1, 4])
def test_freezing_layers_that_are_not_there(encoder, layers):
    with pytest.raises(ConfigError, match=f"cannot freeze {layers} layers: the encoder has 3"):
        encoder.freeze(True, layers)


def test_sequence_longer_than_the_position_table(encoder, sequences, packed):
    with pytest.raises(ModelError, match="41 tokens, the model has 40 positions"):
        encoder(packed(sequences((3, 41), 97)))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("token_ids", 97, "token id 97 is outside the model's table of 97 rows"),
        ("token_ids", -1, "token id -1"),
        ("segments", 2, "segment 2"),
        ("positions", 40, "position 40"),
    ],
)
def test_ids_outside_their_table(encoder, sequences, packed, field, value, message):
    batch = packed(sequences((3, 5), 97))
    ids = getattr(batch, field).clone()
    ids[4] = value
    with pytest.raises(ModelError, match=message):
        encoder(dataclasses.replace(batch, **{field: ids}))


def test_multilingual_bert_has_the_published_number_of_parameters():
    """177.9 M in encoder and pooler; 63.8 M of them train when the embeddings and three layers are frozen."""
    with torch.device("meta"):
        encoder = Encoder(EncoderConfig(vocab_size=119547), seed=None)
    pooler = 768 * 768 + 768
    encoder.freeze(True, 3)
    assert round((sizes(encoder.parameters()) + pooler) / 1e6, 1) == 177.9
    assert round(sizes(p for p in encoder.parameters() if p.requires_grad) / 1e6, 1) == 63.8


def test_plain_torch_waits_for_no_batch_on_a_device() -> None:
    """On "meta" tensors have no values: a batch that was sent there knows its lengths all the same."""
    encoder = Encoder(EncoderConfig(64, 16, 2, 2, 32, 16), seed=0).to("meta")
    batch = pack([[2, 5, 3], [2, 6, 7, 8, 3]]).to("meta")
    encoder(batch, seed=7).hidden.sum().backward()
    assert encoder.word_embedding.grad is not None
