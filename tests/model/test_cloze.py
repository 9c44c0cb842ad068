"""The cloze head against transformers' masked-LM logits at the mask, its gradients, its folder."""

import json

import pytest
import torch

from xlt_engine import ModelError
from xlt_engine.model import (
    ClozeHead,
    ClozeModel,
    LinearHead,
    TaskModel,
    cloze_model,
    load_masked_lm,
    load_task_model,
    read_info,
    save_model,
)

PIECES = ((5, 9), (7,), (11, 40, 6))
LABELS = ("a", "b", "c")
MASKS = (3, 8, 21)


@pytest.fixture
def reference(transformers, tmp_path):
    torch.manual_seed(1)
    config = transformers.BertConfig(
        vocab_size=97, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        max_position_embeddings=40,
    )  # fmt: skip
    model = transformers.BertForMaskedLM(config).eval()
    with torch.no_grad():
        for value in model.parameters():
            value.add_(torch.randn(value.shape) * 0.2)
    model.save_pretrained(tmp_path / "theirs")
    return model, tmp_path / "theirs"


def expected(model, seqs, masks):
    """The mean of each class's masked-LM logits, one text at a time."""
    out, start = [], 0
    for ids, mask in zip(seqs, masks, strict=True):
        segments = (torch.arange(len(ids)) >= len(ids) // 2).long()[None]
        logits = model(input_ids=ids[None], token_type_ids=segments).logits[0, mask - start]
        out.append(torch.stack([logits[list(own)].mean() for own in PIECES]))
        start += len(ids)
    return torch.stack(out)


def test_logits_and_gradients(reference, sequences, packed, error):
    model, folder = reference
    seqs = sequences((7, 9, 12), 97)
    ours = cloze_model(load_masked_lm(folder), PIECES, LABELS, prompt="{text} {mask}")
    logits = ours(packed(seqs, MASKS))
    theirs = expected(model, seqs, MASKS)
    assert logits.shape == (1, 3, 3)
    assert error(logits[0], theirs) <= 1e-5
    targets = torch.tensor([2, 0, 1])
    torch.nn.functional.cross_entropy(logits[0], targets).backward()
    torch.nn.functional.cross_entropy(theirs, targets).backward()
    # The embedding is tied: what reaches it as decoder and as input is one gradient.
    for mine, name in (
        (ours.encoder.word_embedding, "bert.embeddings.word_embeddings.weight"),
        (ours.head.decoder_bias, "cls.predictions.bias"),
        (ours.head.dense_weight, "cls.predictions.transform.dense.weight"),
        (ours.head.norm_bias, "cls.predictions.transform.LayerNorm.bias"),
        (ours.encoder.layers[0].up_weight, "bert.encoder.layer.0.intermediate.dense.weight"),
    ):
        assert error(mine.grad, dict(model.named_parameters())[name].grad) <= 1e-4, name
    assert torch.equal(ours(packed(seqs, MASKS), seed=3).detach(), ours(packed(seqs, MASKS), seed=3).detach())


def test_folder(reference, sequences, packed, transformers, same, tmp_path):
    model, folder = reference
    ours = cloze_model(load_masked_lm(folder), PIECES, LABELS, prompt="{text} It was {mask}.")
    save_model(ours, tmp_path / "ours", extra={"seed": 1})
    info = read_info(tmp_path / "ours")
    assert (info.head, info.pieces, info.prompt, info.labels) == ("cloze", PIECES, "{text} It was {mask}.", LABELS)
    again = load_task_model(tmp_path / "ours")
    assert isinstance(again, ClozeModel)
    assert (again.prompt, again.head.pieces) == (ours.prompt, PIECES)
    assert same(again, ours)
    seqs = sequences((7, 9, 12), 97)
    assert torch.equal(again(packed(seqs, MASKS)), ours(packed(seqs, MASKS)))
    # It still is a masked language model, for this package and for transformers.
    assert same(load_masked_lm(tmp_path / "ours"), load_masked_lm(folder))
    theirs = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "ours").eval()
    with torch.no_grad():
        assert torch.equal(theirs(seqs[0][None]).logits, model(seqs[0][None]).logits)


def test_a_prompt_without_the_head(masked, tmp_path):
    model = TaskModel(masked.encoder, LinearHead(32, 2), "classification", ("a", "b"), prompt="{text} {mask}")
    save_model(model, tmp_path / "m")
    assert load_task_model(tmp_path / "m").prompt == "{text} {mask}"
    with pytest.raises(ModelError, match="a prompt is for classification with pooling 'cls'"):
        TaskModel(masked.encoder, LinearHead(32, 2), "ner", ("O", "B-X"), prompt="{text} {mask}")


@pytest.mark.parametrize(
    ("change", "key"),
    [
        (lambda own: own["head"].pop("pieces"), "head.pieces"),
        (lambda own: own["head"].update(pieces=[[5], [7]]), "head.pieces"),
        (lambda own: own["head"].update(pieces=[[5], [], [7]]), "head.pieces"),
        (lambda own: own["head"].update(pieces=[[5], [97], [7]]), "head.pieces"),
        (lambda own: own["head"].update(kind="linear"), "head.pieces"),
        (lambda own: own.pop("prompt"), "prompt"),
        (lambda own: own.update(prompt=3), "prompt"),
    ],
)
def test_damaged_folders(masked, tmp_path, change, key):
    save_model(cloze_model(masked, PIECES, LABELS, prompt="{text} {mask}"), tmp_path / "m")
    own = json.loads((tmp_path / "m" / "xlt.json").read_text())
    change(own)
    (tmp_path / "m" / "xlt.json").write_text(json.dumps(own))
    with pytest.raises(ModelError, match=f"xlt.json: {key} is missing or not valid"):
        load_task_model(tmp_path / "m")


def test_head_alone(tiny):
    with pytest.raises(ModelError, match="not ids of words for every class"):
        ClozeHead(tiny, [[1], []])
    with pytest.raises(ModelError, match="call the model, not its head"):
        ClozeHead(tiny, [[1], [2]])(torch.zeros(1, 32))
