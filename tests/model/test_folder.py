"""Folders: what is saved is what is loaded, in today's and in older layouts."""

import errno
import os
import shutil
import stat

import pytest
import torch
from safetensors.torch import load_file

from xlt_engine import ConfigError, ModelError, StorageError
from xlt_engine.model import (
    Encoder,
    LinearHead,
    MlpHead,
    Pooler,
    TaskModel,
    VoterHeads,
    load_classifier,
    load_encoder,
    load_encoder_config,
    load_masked_lm,
    load_tagger,
    read_info,
    save_model,
)

LABELS = ("O", "B-PER", "I-PER", "B-Ort")


def test_masked_lm_round_trip(masked, folder, same):
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
def test_task_model_round_trip(tiny, tmp_path, head, pooling, sequences, packed, disturb, same):
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


def test_saving_over_a_linked_file_leaves_the_other_checkpoint_alone(masked, folder, tmp_path, same):
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
    with pytest.raises(StorageError, match=r"model\.safetensors: No space left on device.*; free disk space"):
        save_model(masked, tmp_path)


def test_folder_that_cannot_be_made(masked, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be made"):
        save_model(masked, tmp_path / "file" / "model")


def test_old_names_prefix_and_position_ids(masked, folder, edit, same):
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


def test_sharded_folder(masked, folder, shard, same):
    shard(folder)
    assert same(load_masked_lm(folder), masked)


def test_snapshot_of_a_hugging_face_cache(masked, folder, tmp_path, same):
    snapshot = tmp_path / "models--x" / "snapshots" / "0123"
    blobs = tmp_path / "models--x" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for path in folder.iterdir():
        shutil.copy(path, blobs / ("b-" + path.name))
        (snapshot / path.name).symlink_to(f"../../blobs/b-{path.name}")
    assert same(load_masked_lm(snapshot), masked)
