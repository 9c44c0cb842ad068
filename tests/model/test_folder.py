"""Folders: round trips here and with transformers, and every way in which one can be wrong."""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat

import pytest
import torch
from safetensors.torch import load_file, save_file
from xlt_engine import ConfigError, ModelError, StorageError
from xlt_engine.model import (
    Encoder,
    LinearHead,
    MaskedLM,
    MlpHead,
    Pooler,
    TaskModel,
    VoterHeads,
    load_classifier,
    load_encoder,
    load_encoder_config,
    load_masked_lm,
    load_pooler,
    load_tagger,
    load_task_model,
    read_info,
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


def disturb(model):
    """Gives every parameter, biases too, values that a mix-up would show; the voters' padding stays zero."""
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if not name.startswith(("head.in_", "head.out_weight")):
                value.add_(torch.randn(value.shape, generator=generator) * 0.1)
    return model


@pytest.fixture
def masked(tiny):
    return disturb(MaskedLM(Encoder(tiny, seed=1)))


@pytest.fixture
def folder(masked, tmp_path):
    save_model(masked, tmp_path / "model")
    return tmp_path / "model"


def edit(folder, change, name="model.safetensors"):
    """Rewrites the weights after `change(tensors)`."""
    tensors = load_file(folder / name)
    change(tensors)
    save_file({key: value.contiguous() for key, value in tensors.items()}, folder / name)


def edit_json(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def shard(folder):
    """Splits the weights over two files with an index."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    keys = sorted(tensors)
    parts = {"part-1.safetensors": keys[::2], "part-2.safetensors": keys[1::2]}
    for file, members in parts.items():
        save_file({key: tensors[key] for key in members}, folder / file)
    mapping = {key: file for file, members in parts.items() for key in members}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": mapping}))
    return mapping


def complete(info):
    """Whether transformers found exactly the tensors that it looked for."""
    return not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))


def same(a, b):
    first, second = a.state_dict(), b.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def test_masked_lm_round_trip(masked, folder):
    assert same(load_masked_lm(folder), masked)
    assert same(load_encoder(folder), masked.encoder)
    assert load_encoder_config(folder) == masked.config
    assert read_info(folder).kind == "masked-lm"
    assert load_masked_lm(folder).decoder_weight is not masked.decoder_weight


def test_loading_leaves_the_global_generator_alone(folder):
    before = torch.get_rng_state()
    load_masked_lm(folder)
    assert torch.equal(before, torch.get_rng_state())


def heads():
    return [LinearHead(32, 4, 0.3), MlpHead(32, 4, 0.2), VoterHeads(32, 4, dropout=0.25)]


@pytest.mark.parametrize("head", heads(), ids=lambda head: head.kind)
@pytest.mark.parametrize("pooling", ["ner", "cls", "pooler", "mean"])
def test_task_model_round_trip(tiny, tmp_path, head, pooling, sequences, packed):
    task = "ner" if pooling == "ner" else "classification"
    pooling = "cls" if pooling == "ner" else pooling
    pooler = Pooler(tiny, seed=3) if pooling == "pooler" else None
    model = disturb(TaskModel(Encoder(tiny, seed=1), head, task, LABELS, pooling=pooling, pooler=pooler))
    save_model(model, tmp_path, extra={"stage": "soft1", "alpha": 0.9})
    load, wrong = (load_tagger, load_classifier) if task == "ner" else (load_classifier, load_tagger)
    again = load(tmp_path)
    assert same(again, model)
    assert (again.task, again.labels, again.pooling) == (task, LABELS, pooling)
    assert (again.head.kind, again.head.dropout) == (head.kind, head.dropout)
    assert getattr(again.head, "widths", None) == getattr(head, "widths", None)
    batch = packed(sequences((5, 8), 97))
    assert torch.equal(again(batch, seed=4), model(batch, seed=4))
    assert read_info(tmp_path).extra == {"stage": "soft1", "alpha": 0.9}
    assert same(load_encoder(tmp_path), model.encoder)
    with pytest.raises(ModelError, match=f"holds a model for {task}"):
        wrong(tmp_path)


def test_voters_are_stored_one_by_one_without_padding(tiny, tmp_path):
    model = TaskModel(Encoder(tiny), VoterHeads(32, 4, widths=(20, 24)), "ner", LABELS)
    save_model(model, tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    assert stored["voters.0.dense_in.weight"].shape == (20, 32)
    assert stored["voters.0.dense_out.weight"].shape == (32, 20)
    assert stored["voters.1.dense_in.bias"].shape == (24,)
    assert torch.equal(stored["voters.0.dense_in.weight"], model.head.in_weight[0, :20])
    assert bool((load_tagger(tmp_path).head.in_weight[0, 20:] == 0).all())


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_read_back_as_fp32(masked, tmp_path, dtype):
    save_model(masked, tmp_path, dtype=dtype)
    full = sum(value.numel() for value in masked.state_dict().values()) * 2
    assert full < (tmp_path / "model.safetensors").stat().st_size < full + 20_000
    again = load_masked_lm(tmp_path).state_dict()
    for name, value in masked.state_dict().items():
        assert again[name].dtype == torch.float32
        assert torch.equal(again[name], value.to(getattr(torch, dtype)).float()), name


def test_half_precision_that_would_overflow(masked, tmp_path):
    masked.dense_weight.data[0, 0] = 1e6
    with pytest.raises(ModelError, match=r"transform\.dense\.weight does not fit F16"):
        save_model(masked, tmp_path, dtype="float16")
    with pytest.raises(ConfigError, match="unknown dtype 'int8'"):
        save_model(masked, tmp_path, dtype="int8")


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_file_modes_follow_the_umask(masked, tmp_path, umask):
    before = os.umask(umask)
    try:
        save_model(masked, tmp_path / "m")
    finally:
        os.umask(before)
    for name in ("config.json", "model.safetensors", "xlt.json"):
        assert stat.S_IMODE((tmp_path / "m" / name).stat().st_mode) == 0o666 & ~umask


def test_saving_over_a_linked_file_leaves_the_other_checkpoint_alone(masked, folder, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    os.link(folder / "model.safetensors", other / "model.safetensors")
    (other / "config.json").symlink_to(folder / "config.json")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    masked.dense_bias.data.add_(1.0)
    save_model(masked, other)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert same(load_masked_lm(other), masked)


def test_same_weights_give_the_same_bytes(masked, folder, tmp_path):
    save_model(load_masked_lm(folder), tmp_path / "again")
    for path in folder.iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()


def test_full_disk(masked, tmp_path, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match=r"model\.safetensors: cannot be written \(No space left on device\); free"):
        save_model(masked, tmp_path)


def test_folder_that_cannot_be_made(masked, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be made"):
        save_model(masked, tmp_path / "file" / "model")


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
def test_transformers_opens_a_linear_task_model(transformers, tiny, tmp_path, kind, sequences, packed, error):
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


def test_old_names_prefix_and_position_ids(masked, folder):
    def old(tensors):
        for name in list(tensors):
            value = tensors.pop(name)
            name = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
            tensors[name.replace("cls.predictions.bias", "cls.predictions.decoder.bias")] = value
        tensors["bert.embeddings.position_ids"] = torch.arange(40)[None]
        tensors["cls.predictions.decoder.weight"] = tensors["bert.embeddings.word_embeddings.weight"].clone()
        tensors["cls.seq_relationship.weight"] = torch.ones(2, 32)
        tensors["bert.pooler.dense.weight"] = torch.ones(32, 32)

    edit(folder, old)
    assert same(load_masked_lm(folder), masked)
    assert same(load_encoder(folder), masked.encoder)
    edit(folder, lambda t: [t.update({n.removeprefix("bert."): t.pop(n)}) for n in list(t)])
    assert same(load_masked_lm(folder), masked)


@pytest.mark.parametrize(
    ("alias", "first"),
    [
        ("cls.predictions.decoder.weight", "bert.embeddings.word_embeddings.weight"),
        ("cls.predictions.decoder.bias", "cls.predictions.bias"),
    ],
)
def test_a_second_copy_must_be_equal(masked, folder, alias, first):
    edit(folder, lambda t: t.update({alias: t[first].clone()}))
    assert same(load_masked_lm(folder), masked)
    edit(folder, lambda t: t[alias].view(-1)[5].add_(1))
    with pytest.raises(ModelError, match=rf"{alias} .*differs from {first}"):
        load_masked_lm(folder)
    edit(folder, lambda t: t.update({alias: t[alias][:-1].clone()}))
    with pytest.raises(ModelError, match=rf"shape: {alias} \[96.*expected \[97"):
        load_masked_lm(folder)


def test_sharded_folder(masked, folder):
    shard(folder)
    assert same(load_masked_lm(folder), masked)


def test_each_tensor_dropped_in_turn(folder):
    tensors = load_file(folder / "model.safetensors")
    for name in tensors:
        save_file({k: v for k, v in tensors.items() if k != name}, folder / "model.safetensors")
        with pytest.raises(ModelError) as caught:
            load_masked_lm(folder)
        missing = f"missing: {name.removeprefix('bert.')} {list(tensors[name].shape)}"
        assert str(caught.value).splitlines()[1:] == ["  " + missing]


def test_each_tensor_reshaped_in_turn(folder):
    tensors = load_file(folder / "model.safetensors")
    for name, value in tensors.items():
        wrong = torch.zeros(value.shape[0] + 1, *value.shape[1:])
        save_file(tensors | {name: wrong}, folder / "model.safetensors")
        with pytest.raises(ModelError) as caught:
            load_masked_lm(folder)
        message = str(caught.value)
        assert f"shape: {name} {list(wrong.shape)} in {folder}" in message
        assert f"expected {list(value.shape)}" in message


def test_all_misfits_are_listed_at_once(folder):
    def spoil(tensors):
        del tensors["bert.encoder.layer.1.output.dense.bias"]
        tensors["bert.embeddings.LayerNorm.weight"] = torch.ones(31)
        tensors["bert.embeddings.LayerNorm.bias"] = torch.ones(32, dtype=torch.int32)
        tensors["bert.encoder.layer.3.output.dense.bias"] = torch.ones(32)
        tensors["surprise"] = torch.ones(2, 2)

    edit(folder, spoil)
    with pytest.raises(ModelError) as caught:
        load_encoder(folder)
    message = str(caught.value)
    for part in (
        "missing: encoder.layer.1.output.dense.bias [32]",
        "shape: bert.embeddings.LayerNorm.weight [31]",
        "not a float: bert.embeddings.LayerNorm.bias [32]",
        "unexpected: bert.encoder.layer.3.output.dense.bias [32]",
        "unexpected: surprise [2, 2]",
        str(folder / "model.safetensors"),
    ):
        assert part in message


def test_one_tensor_under_two_names(folder):
    name = "embeddings.LayerNorm.bias"
    edit(folder, lambda t: t.update({name: t["bert." + name].clone()}))
    with pytest.raises(ModelError, match=r"twice: .*embeddings\.LayerNorm\.bias"):
        load_encoder(folder)


def test_folder_without_the_wanted_head(tiny, masked, folder, tmp_path):
    save_model(masked.encoder, tmp_path / "encoder")
    with pytest.raises(ModelError, match="no masked-LM head"):
        load_masked_lm(tmp_path / "encoder")
    with pytest.raises(ModelError, match=r"holds no tagger or classifier \(masked-lm\)"):
        load_task_model(folder)
    save_model(TaskModel(Encoder(tiny), MlpHead(32, 4), "ner", LABELS), tmp_path / "tagger")
    with pytest.raises(ModelError, match="unexpected: classifier"):
        load_masked_lm(tmp_path / "tagger")


def test_missing_folder_and_missing_files(folder, tmp_path):
    with pytest.raises(ModelError, match="nowhere: no such model folder"):
        load_encoder(tmp_path / "nowhere")
    (folder / "config.json").rename(folder / "kept")
    with pytest.raises(ModelError, match=r"config\.json: no such file"):
        load_encoder(folder)
    (folder / "kept").rename(folder / "config.json")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"no model\.safetensors"):
        load_encoder(folder)


class Trap:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def test_pickles_are_refused_and_not_run(folder, tmp_path):
    mark = tmp_path / "touched"
    (folder / "model.safetensors").unlink()
    torch.save({"x": Trap(str(mark))}, folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"pytorch_model\.bin.*convert it to safetensors"):
        load_encoder(folder)
    assert not mark.exists()


@pytest.mark.parametrize("escape", ["../outside.safetensors", "absolute", "sub/../../outside.safetensors"])
def test_index_that_leads_out_of_the_folder(folder, tmp_path, escape):
    shutil.copy(folder / "model.safetensors", tmp_path / "outside.safetensors")
    mapping = shard(folder)
    name = str(tmp_path / "outside.safetensors") if escape == "absolute" else escape
    mapping["bert.embeddings.LayerNorm.bias"] = name
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": mapping}))
    with pytest.raises(ModelError, match="leads out of the folder"):
        load_encoder(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "part-1.safetensors"])
def test_links_that_lead_out_of_the_folder(folder, tmp_path, name):
    if name.startswith("part"):
        shard(folder)
    (folder / name).rename(tmp_path / name)
    (folder / name).symlink_to(tmp_path / name)
    with pytest.raises(ModelError, match="outside the folder; refused"):
        load_encoder(folder)


def test_snapshot_of_a_hugging_face_cache(masked, folder, tmp_path):
    snapshot = tmp_path / "models--x" / "snapshots" / "0123"
    blobs = tmp_path / "models--x" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for path in folder.iterdir():
        shutil.copy(path, blobs / ("b-" + path.name))
        (snapshot / path.name).symlink_to(f"../../blobs/b-{path.name}")
    assert same(load_masked_lm(snapshot), masked)


def test_index_that_does_not_fit_its_files(folder):
    mapping = shard(folder)
    index = folder / "model.safetensors.index.json"
    moved = mapping | {"bert.embeddings.LayerNorm.bias": "part-1.safetensors", "ghost": "part-2.safetensors"}
    index.write_text(json.dumps({"weight_map": moved}))
    with pytest.raises(ModelError, match=r"ghost is not in part-2\.safetensors"):
        load_encoder(folder)
    index.write_text(json.dumps({"weight_map": mapping | {"ghost": "part-3.safetensors"}}))
    with pytest.raises(ModelError, match=r"part-3\.safetensors: no such file"):
        load_encoder(folder)
    for broken in ("[]", "{", '{"weight_map": {"a": 1}}', '{"weight_map": []}', '{"weight_map": {"a": ""}}'):
        index.write_text(broken)
        with pytest.raises(ModelError):
            load_encoder(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "format 2, this version reads 1"),
        ({"kind": "other"}, "kind is missing or not valid"),
        ({"task": "parsing"}, "task is missing or not valid"),
        ({"pooling": None}, "pooling"),
        ({"labels": "O"}, "labels"),
        ({"labels": ["O", "X", "Y", "Z"]}, r"are not those of config\.json"),
        ({"head": {"kind": "deep", "dropout": 0.1}}, r"head\.kind"),
        ({"head": {"kind": "linear", "dropout": 2}}, r"head\.dropout"),
        ({"head": {"kind": "voters", "dropout": 0.1, "widths": [0]}}, r"head\.widths"),
        ({"head": None}, r"head\.kind"),
    ],
)
def test_xlt_json_that_is_not_valid(tiny, tmp_path, changes, message):
    save_model(TaskModel(Encoder(tiny), LinearHead(32, 4), "ner", LABELS), tmp_path)
    edit_json(tmp_path / "xlt.json", **changes)
    with pytest.raises(ModelError, match=message):
        load_task_model(tmp_path)


@pytest.mark.parametrize("table", [{"0": "a", "2": "b"}, {"0": 1}, ["a"]])
def test_label_table_that_is_not_valid(tiny, tmp_path, table):
    save_model(TaskModel(Encoder(tiny), LinearHead(32, 4), "ner", LABELS), tmp_path)
    edit_json(tmp_path / "config.json", id2label=table)
    with pytest.raises(ModelError, match=r"config\.json: .*id2label"):
        load_task_model(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "\x00", '{"vocab_size": 97}', '{"a": 1, "a": 2}'])
def test_config_that_is_not_valid(folder, text):
    (folder / "config.json").write_text(text)
    with pytest.raises(ModelError, match=r"config\.json"):
        load_encoder(folder)
