"""Folders of ours in transformers, and folders of transformers here."""

from __future__ import annotations

import json

import pytest
import torch

from xlt_engine import ModelError
from xlt_engine.model import (
    Encoder,
    LinearHead,
    Pooler,
    TaskModel,
    VoterHeads,
    load_classifier,
    load_pooler,
    load_tagger,
    load_task_model,
    save_model,
)

LABELS = ("O", "B-PER", "I-PER", "B-Ort")
SMALL = dict(
    vocab_size=97,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=64,
    max_position_embeddings=40,
)


def complete(info):
    """Whether transformers found exactly the tensors that it looked for."""
    return not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))


def test_transformers_opens_a_masked_lm(transformers, masked, folder, sequences, packed, error):
    ids = sequences((7,), 97)
    batch = packed(ids)
    inputs = {"input_ids": ids[0][None], "token_type_ids": batch.segments[None]}
    theirs, info = transformers.AutoModelForMaskedLM.from_pretrained(folder, output_loading_info=True)
    assert complete(info)
    with torch.no_grad():
        assert error(theirs.eval()(**inputs).logits[0], masked.logits(batch)) <= 1e-5
        base = transformers.AutoModel.from_pretrained(folder).eval()
        assert error(base(**inputs).last_hidden_state[0], masked.encoder(batch).hidden) <= 1e-5


def test_transformers_opens_an_encoder(transformers, masked, tmp_path, sequences, packed, error):
    save_model(masked.encoder, tmp_path)
    ids = sequences((7,), 97)
    batch = packed(ids)
    base, info = transformers.AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert set(info["missing_keys"]) == {"pooler.dense.weight", "pooler.dense.bias"}
    assert not info["unexpected_keys"]
    with torch.no_grad():
        theirs = base.eval()(input_ids=ids[0][None], token_type_ids=batch.segments[None])
        assert error(theirs.last_hidden_state[0], masked.encoder(batch).hidden) <= 1e-5


@pytest.mark.parametrize("kind", ["TokenClassification", "SequenceClassification"])
def test_transformers_opens_a_linear_task_model(transformers, tiny, tmp_path, kind, sequences, packed, error, disturb):
    tagging = kind == "TokenClassification"
    parts = {"task": "ner"} if tagging else {"task": "classification", "pooling": "pooler"}
    pooler = None if tagging else Pooler(tiny)
    model = disturb(TaskModel(Encoder(tiny, seed=1), LinearHead(32, 4), labels=LABELS, pooler=pooler, **parts))
    save_model(model, tmp_path)
    ids = sequences((7,), 97)
    batch = packed(ids, items=range(7) if tagging else None)
    theirs, info = getattr(transformers, "AutoModelFor" + kind).from_pretrained(tmp_path, output_loading_info=True)
    assert complete(info)
    assert theirs.config.id2label == dict(enumerate(LABELS))
    assert theirs.config.classifier_dropout == 0.1
    with torch.no_grad():
        logits = theirs.eval()(input_ids=ids[0][None], token_type_ids=batch.segments[None]).logits
        assert error(model(batch)[0], logits[0] if tagging else logits) <= 1e-5


@pytest.mark.parametrize("head", ["voters", "unpooled", "prompt"])
def test_a_head_that_transformers_lacks_promises_nothing(tiny, tmp_path, head):
    """No names of labels, which a freshly drawn classifier would give out; folders of older versions have them."""
    heads = VoterHeads(32, 4) if head == "voters" else LinearHead(32, 4)
    parts = {"task": "ner"} if head == "voters" else {"task": "classification"}
    parts |= {"prompt": "{text} [MASK]"} if head == "prompt" else {}
    model = TaskModel(Encoder(tiny, seed=1), heads, labels=LABELS, **parts)
    save_model(model, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["architectures"] == ["BertModel"]
    assert not {"id2label", "label2id", "classifier_dropout"} & set(config)
    assert load_task_model(tmp_path).labels == LABELS
    older = config | {"id2label": {str(i): label for i, label in enumerate(LABELS)}}
    (tmp_path / "config.json").write_text(json.dumps(older))
    assert load_task_model(tmp_path).labels == LABELS


@pytest.mark.parametrize("labels", [LABELS, None], ids=["named", "unnamed"])
@pytest.mark.parametrize("kind", ["TokenClassification", "SequenceClassification"])
def test_task_models_of_transformers_load(transformers, tmp_path, kind, labels, sequences, packed, error):
    named = {"id2label": dict(enumerate(labels))} if labels else {"num_labels": 3}
    config = transformers.BertConfig(**SMALL, **named, classifier_dropout=0.4)
    theirs = getattr(transformers, "BertFor" + kind)(config).eval()
    theirs.save_pretrained(tmp_path)
    if not labels:
        table = json.loads((tmp_path / "config.json").read_text())
        table.pop("id2label", None)
        (tmp_path / "config.json").write_text(json.dumps(table))
    tagging = kind == "TokenClassification"
    model = load_tagger(tmp_path) if tagging else load_classifier(tmp_path)
    assert model.labels == (labels or ("LABEL_0", "LABEL_1", "LABEL_2"))
    assert model.head.dropout == 0.4
    ids = sequences((7,), 97)
    batch = packed(ids, items=range(7) if tagging else None)
    with torch.no_grad():
        logits = theirs(input_ids=ids[0][None], token_type_ids=batch.segments[None]).logits
    assert error(model(batch)[0], logits[0] if tagging else logits) <= 1e-5


def test_pooler_of_a_checkpoint(transformers, tmp_path, folder):
    theirs = transformers.BertModel(transformers.BertConfig(**SMALL))
    theirs.save_pretrained(tmp_path / "base")
    assert torch.equal(load_pooler(tmp_path / "base").dense_weight, theirs.pooler.dense.weight)
    with pytest.raises(ModelError, match=r"missing: pooler\.dense\.weight \[32, 32\]"):
        load_pooler(folder)
