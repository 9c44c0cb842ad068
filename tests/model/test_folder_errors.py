"""Every way in which a model folder can be wrong."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from xlt_engine import ModelError
from xlt_engine.model import (
    Encoder,
    LinearHead,
    MlpHead,
    TaskModel,
    load_encoder,
    load_masked_lm,
    load_task_model,
    save_model,
)

LABELS = ("O", "B-PER", "I-PER", "B-Ort")


def edit_json(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize(
    ("alias", "first"),
    [
        ("cls.predictions.decoder.weight", "bert.embeddings.word_embeddings.weight"),
        ("cls.predictions.decoder.bias", "cls.predictions.bias"),
    ],
)
def test_a_second_copy_must_be_equal(masked, folder, alias, first, edit, same):
    edit(folder, lambda t: t.update({alias: t[first].clone()}))
    assert same(load_masked_lm(folder), masked)
    edit(folder, lambda t: t[alias].view(-1)[5].add_(1))
    with pytest.raises(ModelError, match=rf"{alias} .*differs from {first}"):
        load_masked_lm(folder)
    edit(folder, lambda t: t.update({alias: t[alias][:-1].clone()}))
    with pytest.raises(ModelError, match=rf"shape: {alias} \[96.*expected \[97"):
        load_masked_lm(folder)


@pytest.mark.fault(37)
def test_each_tensor_dropped_in_turn(folder):
    tensors = load_file(folder / "model.safetensors")
    for name in tensors:
        save_file({k: v for k, v in tensors.items() if k != name}, folder / "model.safetensors")
        with pytest.raises(ModelError) as caught:
            load_masked_lm(folder)
        missing = f"missing: {name.removeprefix('bert.')} {list(tensors[name].shape)}"
        assert str(caught.value).splitlines()[1:] == ["  " + missing]


@pytest.mark.fault(37)
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


def test_all_misfits_are_listed_at_once(folder, edit):
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


def test_one_tensor_under_two_names(folder, edit):
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


@pytest.mark.fault(24)
def test_pickles_are_refused_and_not_run(folder, tmp_path):
    mark = tmp_path / "touched"
    (folder / "model.safetensors").unlink()
    torch.save({"x": Trap(str(mark))}, folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"pytorch_model\.bin.*convert it to safetensors"):
        load_encoder(folder)
    assert not mark.exists()


@pytest.mark.parametrize("escape", ["../outside.safetensors", "absolute", "sub/../../outside.safetensors"])
@pytest.mark.fault(25)
def test_index_that_leads_out_of_the_folder(folder, tmp_path, escape, shard):
    shutil.copy(folder / "model.safetensors", tmp_path / "outside.safetensors")
    mapping = shard(folder)
    name = str(tmp_path / "outside.safetensors") if escape == "absolute" else escape
    mapping["bert.embeddings.LayerNorm.bias"] = name
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": mapping}))
    with pytest.raises(ModelError, match="leads out of the folder"):
        load_encoder(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "part-1.safetensors"])
@pytest.mark.fault(25)
def test_links_that_lead_out_of_the_folder(folder, tmp_path, name, shard):
    if name.startswith("part"):
        shard(folder)
    (folder / name).rename(tmp_path / name)
    (folder / name).symlink_to(tmp_path / name)
    with pytest.raises(ModelError, match="outside the folder; refused"):
        load_encoder(folder)


def test_index_that_does_not_fit_its_files(folder, shard):
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
