import pytest
import torch

from xlt_engine import ModelError
from xlt_engine.model import Encoder, EncoderOutput, LinearHead, Pooler, TaskModel, VoterHeads

LABELS = ("O", "B-PER", "I-PER")


@pytest.fixture
def encoder(tiny):
    return Encoder(tiny, seed=1)


def test_tagger_reads_the_items(encoder, sequences, packed, error):
    batch = packed(sequences((5, 9), 97), items=[1, 2, 6, 10])
    model = TaskModel(encoder, VoterHeads(32, 3, seed=2), "ner", LABELS)
    expected = model.head(encoder(batch).hidden[[1, 2, 6, 10]])
    assert model(batch).shape == (3, 4, 3)
    assert error(model(batch), expected) <= 1e-5


def test_cls_pooler_and_mean(encoder, sequences, packed, error):
    batch = packed(sequences((5, 9, 1), 97))
    head, pooler = LinearHead(32, 2, seed=2), Pooler(encoder.config, seed=3)
    with torch.no_grad():
        pooler.dense_bias.fill_(0.3)
    hidden = encoder(batch).hidden
    first = hidden[[0, 5, 14]]
    mean = torch.stack([hidden[0:5].mean(0), hidden[5:14].mean(0), hidden[14]])
    for pooling, expected in (
        ("cls", first),
        ("pooler", torch.tanh(first @ pooler.dense_weight.T + 0.3)),
        ("mean", mean),
    ):
        own = pooler if pooling == "pooler" else None
        model = TaskModel(encoder, head, "classification", ("a", "b"), pooling=pooling, pooler=own)
        assert error(model.features(batch), expected) <= 1e-5
        assert error(model(batch), head(expected)) <= 1e-5


def test_mean_has_a_gradient_and_follows_the_items(encoder, sequences, packed, error):
    seqs = sequences((5, 9, 3), 97)
    model = TaskModel(encoder, LinearHead(32, 2), "classification", ("a", "b"), pooling="mean")
    features = model.features(packed(seqs, items=[14, 0]))
    assert error(features[0], encoder(packed([seqs[2]])).hidden.mean(0)) <= 1e-5
    weights = torch.arange(64.0).view(2, 32)
    (features * weights).sum().backward()
    gradient = encoder.embeddings.norm_weight.grad.clone()
    encoder.zero_grad()
    means = torch.stack([encoder(packed([s])).hidden.mean(0) for s in (seqs[2], seqs[0])])
    (means * weights).sum().backward()
    assert error(gradient, encoder.embeddings.norm_weight.grad) <= 1e-4


def test_the_mean_of_16_bit_states_is_rounded_once(encoder, sequences, packed, error, monkeypatch):
    batch = packed(sequences((300, 40), 97))
    hidden = torch.randn(340, 32, generator=torch.Generator().manual_seed(3)).add(1.0).bfloat16()
    monkeypatch.setattr(Encoder, "forward", lambda self, *a, **b: EncoderOutput(hidden))
    model = TaskModel(encoder, LinearHead(32, 2), "classification", ("a", "b"), pooling="mean")
    features = model.features(batch)
    assert features.dtype == torch.bfloat16
    exact = torch.stack([hidden[:300].double().mean(0), hidden[300:].double().mean(0)])
    assert ((features.double() - exact).abs() / exact.abs()).max() <= 2**-8


def test_composition_does_not_change_the_logits(encoder, sequences, packed, error):
    seqs = sequences((5, 9, 3, 9), 97)
    model = TaskModel(encoder, VoterHeads(32, 3, seed=2), "classification", LABELS)
    alone = torch.cat([model(packed([s])) for s in seqs], dim=1)
    assert error(model(packed(seqs)), alone) <= 1e-5


def test_dropout_is_on_exactly_when_a_seed_is_passed(encoder, sequences, packed):
    batch = packed(sequences((5, 9), 97))
    model = TaskModel(encoder, VoterHeads(32, 3, seed=2), "ner", LABELS)
    for mode in (model.train(), model.eval()):
        assert torch.equal(mode(batch), model(batch))
        assert torch.equal(mode(batch, seed=5), model(batch, seed=5))
    assert not torch.equal(model(batch, seed=5), model(batch))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "parsing"}, "unknown task 'parsing'"),
        ({"pooling": "max"}, "unknown pooling 'max'"),
        ({"task": "ner", "pooling": "mean"}, "is for classification"),
        ({"pooling": "pooler"}, "needs the checkpoint's pooler"),
        ({"labels": ("a", "b", "c")}, "the head has 2 classes"),
        ({"labels": ("a", "a")}, "the head has 2 classes"),
        ({"head": LinearHead(24, 2)}, "reads 24 values, the encoder has 32"),
    ],
)
def test_parts_that_do_not_fit(encoder, changes, message):
    parts = {"head": LinearHead(32, 2), "task": "classification", "labels": ("a", "b"), "pooling": "cls"} | changes
    with pytest.raises(ModelError, match=message):
        TaskModel(encoder, **parts)
