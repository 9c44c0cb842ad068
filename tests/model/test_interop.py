"""Task models that transformers has no class for, and what its folders leave out; the rest: test_layouts.py."""

import json

import pytest
import torch

from xlt_engine import ModelError
from xlt_engine.model import Encoder, LinearHead, TaskModel, VoterHeads, load_pooler, load_task_model, save_model

LABELS = ("O", "B-PER", "I-PER", "B-Ort")
SMALL = dict(vocab_size=97, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64)


@pytest.mark.parametrize("head", ["voters", "unpooled"])
def test_a_head_that_transformers_lacks_promises_nothing(tiny, tmp_path, head):
    """No names of labels, which a freshly drawn classifier would give out; folders of older versions have them."""
    heads = VoterHeads(32, 4) if head == "voters" else LinearHead(32, 4)
    parts = {"task": "ner"} if head == "voters" else {"task": "classification"}
    model = TaskModel(Encoder(tiny, seed=1), heads, labels=LABELS, **parts)
    save_model(model, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["architectures"] == ["BertModel"]
    assert not {"id2label", "label2id", "classifier_dropout"} & set(config)
    assert load_task_model(tmp_path).labels == LABELS
    older = config | {"id2label": {str(i): label for i, label in enumerate(LABELS)}}
    (tmp_path / "config.json").write_text(json.dumps(older))
    assert load_task_model(tmp_path).labels == LABELS


@pytest.mark.parametrize("kind", ["TokenClassification", "SequenceClassification"])
def test_a_task_model_of_transformers_without_names_of_labels(transformers, tmp_path, kind):
    config = transformers.BertConfig(**SMALL, num_labels=3, classifier_dropout=0.4)
    getattr(transformers, "BertFor" + kind)(config).save_pretrained(tmp_path)
    table = json.loads((tmp_path / "config.json").read_text())
    table.pop("id2label", None)
    (tmp_path / "config.json").write_text(json.dumps(table))
    model = load_task_model(tmp_path)
    assert model.task == ("ner" if kind == "TokenClassification" else "classification")
    assert model.labels == ("LABEL_0", "LABEL_1", "LABEL_2")
    assert model.head.dropout == 0.4


def test_pooler_of_a_checkpoint(transformers, tmp_path, folder):
    theirs = transformers.BertModel(transformers.BertConfig(**SMALL))
    theirs.save_pretrained(tmp_path / "base")
    assert torch.equal(load_pooler(tmp_path / "base").dense_weight, theirs.pooler.dense.weight)
    with pytest.raises(ModelError, match=r"missing: pooler\.dense\.weight \[32, 32\]"):
        load_pooler(folder)


def test_a_folder_that_reads_prompts_names_the_version_that_does(tiny, tmp_path):
    save_model(TaskModel(Encoder(tiny, seed=1), LinearHead(32, 4), "classification", LABELS), tmp_path)
    own = json.loads((tmp_path / "xlt.json").read_text())
    for change in ({"prompt": "{text} {mask}"}, {"head": {"kind": "cloze", "dropout": 0.0, "pieces": [[7], [8]]}}):
        (tmp_path / "xlt.json").write_text(json.dumps(own | change))
        with pytest.raises(ModelError, match=r"xlt\.json: it reads texts in a prompt, .* 1558c56"):
            load_task_model(tmp_path)
