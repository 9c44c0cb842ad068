"""XLM-R, DistilBERT and LaBSE-like folders of transformers: states, losses, gradients, round trips, strictness."""

import copy
import dataclasses
import json

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional

from xlt_engine import ModelError
from xlt_engine.kernels import linear_cross_entropy
from xlt_engine.model import (
    Encoder,
    EncoderConfig,
    LinearHead,
    MaskedLM,
    MlpHead,
    Pooler,
    TaskModel,
    VoterHeads,
    load_encoder,
    load_encoder_config,
    load_masked_lm,
    load_pooler,
    load_task_model,
    read_info,
    save_model,
)
from xlt_engine.model.folder import views
from xlt_engine.model.headers import shapes_of
from xlt_engine.model.layouts import LAYOUTS

from .conftest import CLASSES

VOCABULARY, HIDDEN = 97, 32
LABELS = ("O", "B-PER", "I-PER", "B-Ort")
SHAPE = dict(vocab_size=VOCABULARY, num_hidden_layers=3, num_attention_heads=4, hidden_size=HIDDEN)
BERT = dict(SHAPE, intermediate_size=64, max_position_embeddings=40)
IDS = dict(pad_token_id=0, bos_token_id=1, eos_token_id=2, cls_token_id=1, sep_token_id=2, mask_token_id=3)
PRE_NORM = dict(SHAPE, intermediate_size=48, max_position_embeddings=40, **IDS)
ROPE = {"rope_type": "default", "rope_theta": 250.0}
SETTINGS = {
    "bert": BERT,
    "xlm-roberta": dict(BERT, type_vocab_size=1, layer_norm_eps=1e-5, max_position_embeddings=42),
    "distilbert": dict(SHAPE, hidden_dim=64, max_position_embeddings=40),
    # A window of 3 to each side: sequences are shorter than it, longer, and longer than both sides together.
    "modernbert": dict(PRE_NORM, local_attention=6, num_hidden_layers=4),
    "modernbert-biases": dict(
        PRE_NORM,
        local_attention=4,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        rope_parameters={
            "sliding_attention": {"rope_type": "default", "rope_theta": 160_000.0},
            "full_attention": {"rope_type": "default", "rope_theta": 500.0},
        },
        **dict.fromkeys(("norm_bias", "attention_bias", "mlp_bias", "classifier_bias"), True),
        decoder_bias=False,
        hidden_activation="silu",
    ),
    "eurobert": dict(PRE_NORM, num_key_value_heads=2),
    "eurobert-biases": dict(
        PRE_NORM, attention_bias=True, mlp_bias=True, tie_word_embeddings=True, rope_parameters=ROPE
    ),
}
# The layers of multilingual BERT, fewer of them.
WIDE = {"bert-wide": dict(vocab_size=1200, num_hidden_layers=4)}
wide_too = pytest.mark.parametrize("reference", [*SETTINGS, *WIDE], indirect=True)
LENGTHS = (7, 2, 13, 7, 9)


def randomise(model):
    """Biases and LayerNorms away from 0 and 1, and wide matrices, so that a swapped tensor shows."""
    with torch.no_grad():
        for name, value in model.named_parameters():
            if value.dim() == 1:
                value.add_(torch.randn(value.shape) * 0.1)
            elif "word_embeddings" not in name:
                value.mul_(2.0)
    return model.eval()


def theirs_of(transformers, kind, suffix, **values):
    config = CLASSES[kind.removesuffix("-biases").removesuffix("-wide")]
    torch.manual_seed(3)
    made = getattr(transformers, config + "Config")(**(SETTINGS | WIDE)[kind], **values)
    return randomise(getattr(transformers, config + suffix)(made))


@pytest.fixture(scope="module", params=list(SETTINGS))
def reference(request, transformers, tmp_path_factory):
    model = theirs_of(transformers, request.param, "ForMaskedLM")
    folder = tmp_path_factory.mktemp("reference")
    model.save_pretrained(folder)
    return request.param, model, folder


@pytest.fixture
def text(sequences):
    """Random token ids without a pad token: XLM-R's is 1, and its positions would skip it."""
    return [ids.clamp(min=2) for ids in sequences(LENGTHS, VOCABULARY)]


def gradients_of(model):
    """Of every tensor, by the name that it has in a file."""
    gradients = copy.deepcopy(model)
    for value, own in zip(gradients.parameters(), model.parameters(), strict=True):
        value.data = torch.zeros_like(own) if own.grad is None else own.grad
    return views(gradients)


def padded_inputs(kind, seqs):
    pad = 1 if kind == "xlm-roberta" else 0
    ids = torch.nn.utils.rnn.pad_sequence(seqs, batch_first=True, padding_value=pad)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(s) for s in seqs], batch_first=True)
    inputs = {"input_ids": ids, "attention_mask": mask}
    if kind.startswith("bert"):
        inputs["token_type_ids"] = torch.zeros_like(ids)
        for row, s in zip(inputs["token_type_ids"], seqs, strict=True):
            row[len(s) // 2 : len(s)] = 1
    return inputs, mask.bool()


def test_the_shapes_of_a_layout_are_those_of_its_models(reference):
    config = load_encoder_config(reference[2])
    with torch.device("meta"):
        encoder = Encoder(config, seed=None)
        models = {"encoder": encoder, "masked-lm": MaskedLM(encoder, seed=None)}
        if "pooler" in config.layout.heads:
            models["pooler"] = Pooler(config, seed=None)
    for part, model in models.items():
        expected = [(name, tuple(view.shape)) for name, view in views(model).items()]
        assert list(shapes_of(config, part).items()) == expected, part


@wide_too
def test_hidden_states(reference, text, packed, error):
    kind, model, folder = reference
    inputs, keep = padded_inputs(kind, text)
    with torch.no_grad():
        expected = model.base_model(**inputs).last_hidden_state[keep]
        # The batch has segments 0 and 1, which reach the model only where it has them.
        assert error(load_encoder(folder)(packed(text)).hidden, expected) <= 1e-5


@wide_too
def test_masked_lm_logits_and_loss(reference, text, packed, error):
    kind, model, folder = reference
    inputs, keep = padded_inputs(kind, text)
    items = [1, 4, 8, 15, 23, 37]
    batch = packed(text, items)
    targets = batch.token_ids.flip(0)[items]
    labels = torch.full_like(inputs["input_ids"], -100)
    places = keep.nonzero()[items]
    labels[places[:, 0], places[:, 1]] = targets
    with torch.no_grad():
        output = model(**inputs, labels=labels)
        ours = load_masked_lm(folder)
        assert error(ours.logits(batch), output.logits[keep]) <= 1e-5
        assert error(ours.logits(batch, batch.item_index), output.logits[keep][items]) <= 1e-5
        loss = linear_cross_entropy(ours.transform(batch), ours.decoder_weight, ours.decoder_bias, targets) / len(items)
    assert float(loss) == pytest.approx(float(output.loss), rel=1e-5)


@wide_too
def test_gradient_of_every_tensor(reference, text, packed, error):
    kind, model, folder = reference
    inputs, keep = padded_inputs(kind, text)
    items = [1, 4, 8, 15, 23, 37]
    batch = packed(text, items)
    targets = batch.token_ids.flip(0)[items]
    model.zero_grad()
    functional.cross_entropy(model(**inputs).logits[keep][items], targets).backward()
    ours = load_masked_lm(folder)
    logits = functional.linear(ours.transform(batch), ours.decoder_weight, ours.decoder_bias)
    functional.cross_entropy(logits, targets).backward()
    found = gradients_of(ours)
    layout = ours.config.layout
    expected = {layout.bare(name): p.grad for name, p in model.named_parameters()}
    # The matrix has two names, of which named_parameters gives one.
    if layout.decoder in expected and layout.word_embedding not in expected:
        expected[layout.word_embedding] = expected.pop(layout.decoder)
    assert found.keys() == expected.keys()
    largest = max(float(g.abs().max()) for g in expected.values())
    for name, gradient in expected.items():
        if name.endswith(("key.bias", "k_lin.bias")):  # zero but for rounding: softmax does not see it
            assert float(found[name].abs().max()) <= 1e-6 * largest
        else:
            assert error(found[name], gradient) <= 1e-4, name


def test_saved_as_transformers_saves_it(reference, transformers, tmp_path, text, error):
    kind, model, folder = reference
    save_model(load_masked_lm(folder), tmp_path)
    theirs, ours = load_file(folder / "model.safetensors"), load_file(tmp_path / "model.safetensors")
    assert {n: (v.shape, v.dtype) for n, v in ours.items()} == {n: (v.shape, v.dtype) for n, v in theirs.items()}
    assert all(torch.equal(value, ours[name]) for name, value in theirs.items())
    before, after = (json.loads((f / "config.json").read_text()) for f in (folder, tmp_path))
    assert {key: before[key] for key in after if key in before} == {key: after[key] for key in after if key in before}
    assert after["architectures"] == before["architectures"]
    again, info = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path, output_loading_info=True)
    assert type(again) is type(model)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    inputs, _ = padded_inputs(kind, text)
    with torch.no_grad():
        assert torch.equal(again.eval()(**inputs).logits, model(**inputs).logits)
        base = transformers.AutoModel.from_pretrained(tmp_path).eval()
        assert torch.equal(base(**inputs).last_hidden_state, model.base_model(**inputs).last_hidden_state)


def test_encoder_alone_round_trip(reference, transformers, tmp_path, same):
    kind, model, folder = reference
    encoder = load_encoder(folder)
    save_model(encoder, tmp_path)
    assert same(load_encoder(tmp_path), encoder)
    assert load_encoder_config(tmp_path) == encoder.config == load_encoder_config(folder)
    again, info = transformers.AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert {name.split(".")[0] for name in info["missing_keys"]} <= {"pooler"}
    assert not info["unexpected_keys"]
    state = again.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in views(encoder).items())


@pytest.mark.parametrize("kind", ["bert", "xlm-roberta"])
def test_pooler(transformers, tmp_path, kind, text, packed, error):
    """A folder as LaBSE's: the bare encoder with its pooler."""
    model = theirs_of(transformers, kind, "Model")
    model.save_pretrained(tmp_path)
    inputs, _ = padded_inputs(kind, text)
    batch = packed(text)
    with torch.no_grad():
        hidden = load_encoder(tmp_path)(batch, rows=batch.item_index).hidden
        assert error(load_pooler(tmp_path)(hidden), model(**inputs).pooler_output) <= 1e-5


@pytest.mark.parametrize("suffix", ["ForTokenClassification", "ForSequenceClassification"])
@pytest.mark.parametrize("kind", list(SETTINGS))
def test_task_models_in_and_out(transformers, tmp_path, kind, suffix, text, packed, error):
    """A task model of transformers loads; saved again it is the same file for transformers."""
    model = theirs_of(transformers, kind, suffix, id2label=dict(enumerate(LABELS)))
    model.save_pretrained(tmp_path / "theirs")
    ours = load_task_model(tmp_path / "theirs")
    assert ours.labels == LABELS
    before_norm = ours.config.pre_norm is not None
    expected = 0.2 if kind == "distilbert" and suffix == "ForSequenceClassification" else 0.0 if before_norm else 0.1
    assert ours.head.dropout == expected
    tagging = suffix == "ForTokenClassification"
    batch = packed(text, range(sum(LENGTHS)) if tagging else None)
    inputs, keep = padded_inputs(kind, text)
    with torch.no_grad():
        logits = model(**inputs).logits
        assert error(ours(batch)[0], logits[keep] if tagging else logits) <= 1e-5
    save_model(ours, tmp_path / "ours")
    again, info = getattr(transformers, "AutoModel" + suffix).from_pretrained(
        tmp_path / "ours", output_loading_info=True
    )
    assert type(again) is type(model)
    assert again.config.id2label == dict(enumerate(LABELS))
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    with torch.no_grad():
        assert torch.equal(again.eval()(**inputs).logits, logits)
    again.train()
    assert {m.p for m in again.modules() if isinstance(m, torch.nn.Dropout)} <= {0.0 if before_norm else 0.1, expected}


@pytest.mark.parametrize(
    ("kind", "named"),
    [
        *(("modernbert", name) for name in ("cls", "mean")),
        *((kind, name) for kind in ("eurobert", "eurobert-biases") for name in ("bos", "mean", "late")),
    ],
)
def test_what_a_classifier_reads(transformers, tmp_path, kind, named, text, packed, error):
    """By `classifier_pooling`: logits, and the gradient of every tensor, those of the head too."""
    model = theirs_of(transformers, kind, "ForSequenceClassification", num_labels=4, classifier_pooling=named)
    model.save_pretrained(tmp_path / "theirs")
    ours, labels = load_task_model(tmp_path / "theirs"), torch.tensor([0, 1, 2, 3, 1])
    assert (ours.head.kind, ours.pooling) == ("prediction", "cls" if named == "bos" else named)
    inputs, _ = padded_inputs(kind, text)
    logits, expected = ours(packed(text))[0], model(**inputs).logits
    assert error(logits, expected) <= 1e-5
    for each in (logits, expected):
        torch.nn.functional.cross_entropy(each, labels).backward()
    theirs = {ours.config.layout.bare(name): p.grad for name, p in model.named_parameters()}
    for name, gradient in gradients_of(ours).items():
        assert error(gradient, theirs[name]) <= 1e-4, name
    save_model(ours, tmp_path / "ours")
    again = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "ours").eval()
    assert (type(again), again.config.classifier_pooling) == (type(model), named)
    with torch.no_grad():
        assert torch.equal(again(**inputs).logits, expected)
    values = json.loads((tmp_path / "theirs" / "config.json").read_text()) | {"classifier_pooling": "last"}
    (tmp_path / "theirs" / "config.json").write_text(json.dumps(values))
    with pytest.raises(ModelError, match=f"no head here is that of {type(model).__name__} with pooling 'last'"):
        load_task_model(tmp_path / "theirs")
    with pytest.raises(ModelError, match="pooling 'late' is for a prediction head, not for 'linear'"):
        TaskModel(ours.encoder, LinearHead(HIDDEN, 4), "classification", LABELS, pooling="late")


@pytest.mark.parametrize("pooling", ["cls", "pooler", "mean"])
@pytest.mark.parametrize("head", [LinearHead, MlpHead, VoterHeads])
def test_own_heads_round_trip(reference, tmp_path, head, pooling, text, packed, disturb, same):
    kind, _, folder = reference
    encoder = load_encoder(folder)
    pooler = Pooler(encoder.config, seed=3) if pooling == "pooler" else None
    parts = dict(pooling=pooling, pooler=pooler)
    model = disturb(TaskModel(encoder, head(HIDDEN, 4, dropout=0.3), "classification", LABELS, **parts))
    save_model(model, tmp_path)
    again = load_task_model(tmp_path)
    assert same(again, model)
    assert torch.equal(again(packed(text), seed=4), model(packed(text), seed=4))
    assert read_info(tmp_path).config.model_type == kind.removesuffix("-biases")


def test_each_tensor_dropped_and_one_too_many(reference, tmp_path, edit):
    _, _, source = reference
    save_model(load_masked_lm(source), tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    layout = load_encoder_config(tmp_path).layout
    for name, value in tensors.items():
        edit(tmp_path, lambda t, name=name: [t.clear(), t.update({k: v for k, v in tensors.items() if k != name})])
        with pytest.raises(ModelError) as caught:
            load_masked_lm(tmp_path)
        missing = f"missing: {name.removeprefix(layout.prefix)} {list(value.shape)}"
        lines = str(caught.value).splitlines()[1:]
        assert lines[0] == "  " + missing
        # The decoder of EuroBERT is all of its masked-LM head.
        assert not lines[1:] or (name.startswith("lm_head.") and "has no masked-LM head" in lines[1])
    for surplus in ("surprise.weight", layout.prefix + "encoder.layer.9.output.dense.bias", "lm_head.scale.bias"):
        edit(tmp_path, lambda t, name=surplus: [t.clear(), t.update({**tensors, name: torch.ones(2, 2)})])
        with pytest.raises(ModelError, match=f"unexpected: {surplus}"):
            load_masked_lm(tmp_path)


def test_another_layouts_names_are_not_taken(reference, tmp_path):
    """A config.json that names the wrong layout: every tensor is listed, none is guessed."""
    kind, _, source = reference
    save_model(load_encoder(source), tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    other = "bert" if kind == "distilbert" else "distilbert"
    keys = LAYOUTS[other].keys
    own = load_encoder_config(source).layout.keys
    values |= {keys[field]: values[own[field]] for field in keys if field in own}
    values |= {"model_type": other, "tie_word_embeddings": True}
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(ModelError, match=r"unexpected: ((encoder|transformer)\.layer|layers)\.0"):
        load_encoder(tmp_path)


def test_a_second_copy_of_the_decoder_must_be_equal(reference, tmp_path, edit, same):
    _, _, source = reference
    model = load_masked_lm(source)
    save_model(model, tmp_path)
    layout = model.config.layout
    first = layout.prefix + layout.word_embedding
    if model.decoder is not None:  # EuroBERT's is no copy
        assert not torch.equal(model.decoder, model.encoder.word_embedding)
        return
    edit(tmp_path, lambda t: t.update({layout.decoder: t[first].clone()}))
    assert same(load_masked_lm(tmp_path), model)
    edit(tmp_path, lambda t: t[layout.decoder].view(-1)[5].add_(1))
    with pytest.raises(ModelError, match=f"{layout.decoder} .*differs from .*{layout.word_embedding}"):
        load_masked_lm(tmp_path)


def test_the_last_position_and_the_one_after(reference, sequences, packed, error):
    kind, model, folder = reference
    encoder = load_encoder(folder)
    assert encoder.config.max_length == 40
    (whole,) = [ids.clamp(min=2) for ids in sequences((40,), VOCABULARY)]
    inputs, _ = padded_inputs(kind, [whole])
    with torch.no_grad():
        assert error(encoder(packed([whole])).hidden, model.base_model(**inputs).last_hidden_state[0]) <= 1e-5
    with pytest.raises(ModelError, match="41 tokens, the model has 40 positions; lower max_length"):
        encoder(packed([torch.full((41,), 5)]))


def test_a_missing_segment_table_is_no_weight(text, packed):
    with_table = EncoderConfig(VOCABULARY, 32, 2, 4, 64, 40)
    config = dataclasses.replace(with_table, num_segments=0, model_type="distilbert")
    encoder, other = Encoder(config, seed=1), Encoder(with_table, seed=1)
    assert {n for n, _ in other.named_parameters()} - {n for n, _ in encoder.named_parameters()} == {
        "embeddings.segment"
    }
    assert encoder.state_dict().keys() == dict(encoder.named_parameters()).keys()
    encoder(packed(text)).hidden.sum().backward()
    assert encoder.embeddings.segment.grad is None
    assert not encoder.embeddings.segment.any()
    assert MaskedLM(encoder).state_dict().keys() == dict(MaskedLM(encoder).named_parameters()).keys()


def test_head_dropout_that_the_file_leaves_out(transformers, tmp_path):
    """transformers then takes its own default: 0.2 in DistilBERT's classifier, else the encoder's."""
    for kind, expected in (("distilbert", 0.2), ("xlm-roberta", 0.1)):
        theirs_of(transformers, kind, "ForSequenceClassification", num_labels=2).save_pretrained(tmp_path / kind)
        file = tmp_path / kind / "config.json"
        values = json.loads(file.read_text())
        key = LAYOUTS[kind].head_dropout["classification"][0]
        values.pop(key, None)
        file.write_text(json.dumps(values))
        assert load_task_model(tmp_path / kind).head.dropout == expected
        file.write_text(json.dumps(values | {key: 1.5}))
        with pytest.raises(ModelError, match=f"{key} is 1.5, expected one in"):
            load_task_model(tmp_path / kind)
