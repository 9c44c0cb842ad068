"""Model folders whose configuration asks for the memory of the machine, and files with headers that go on and on."""

import json
import struct
import time
import tracemalloc
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from xlt_engine import ModelError
from xlt_engine.engine.recipe.config.run import NewEncoderConfig
from xlt_engine.engine.recipe.config.stages import SelfTrainConfig
from xlt_engine.model import Encoder, EncoderConfig, TaskModel, VoterHeads, load_encoder, load_task_model, read_info
from xlt_engine.model import save_model as save
from xlt_engine.model.config import LIMITS
from xlt_engine.model.info import MOST_VOTERS
from xlt_engine.model.layers import Initialiser


@contextmanager
def refused(match, seconds=20.0):
    """A ModelError within ten times the 2 CPU seconds and the 500 MB that a hostile folder may take."""
    tracemalloc.start()
    began = time.process_time()
    with pytest.raises(ModelError, match=match) as caught:
        yield caught
    assert time.process_time() - began < seconds
    assert tracemalloc.get_traced_memory()[1] < 500e6
    tracemalloc.stop()
    assert len(str(caught.value)) < 20_000


@pytest.fixture
def folder(tiny, tmp_path):
    encoder = Encoder(tiny, seed=1)
    save(TaskModel(encoder, VoterHeads(tiny.hidden_size, 2, (6, 7), seed=1), "classification", "ab"), tmp_path)
    return tmp_path


def change(folder, name, **values):
    file = Path(folder, name)
    file.write_text(json.dumps(json.loads(file.read_text("utf-8")) | values), "utf-8")


NAMES = {
    "num_hidden_layers": "num_layers",
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "intermediate_size": "intermediate_size",
    "max_position_embeddings": "max_positions",
    "type_vocab_size": "num_segments",
}


@pytest.mark.parametrize("key", NAMES)
@pytest.mark.parametrize("beyond", [10**7, 2**62, 10**4000])
def test_sizes_have_limits_that_the_error_names(folder, key, beyond):
    change(folder, "config.json", **{key: beyond})
    with refused(rf"config\.json: {key} is \d.*expected a positive integer of at most {LIMITS[NAMES[key]]:,}"):
        load_encoder(folder)


@pytest.mark.parametrize("key", ["num_hidden_layers", "vocab_size", "intermediate_size", "max_position_embeddings"])
def test_an_encoder_within_the_limits_takes_no_room_that_the_file_does_not_hold(folder, key, monkeypatch):
    """No byte is allocated before the comparison: on a machine with endless memory this would be seen by nothing."""
    change(folder, "config.json", **{key: LIMITS[NAMES[key]]})
    made = []
    normal = Initialiser.normal
    monkeypatch.setattr(Initialiser, "normal", lambda self, *shape: made.append(normal(self, *shape)) or made[-1])
    for load in (load_encoder, load_task_model):
        with refused("the tensors do not fit config.json") as caught:
            load(folder)
        assert str(caught.value).count("\n") <= 21
    assert made
    assert all(value.is_meta for value in made)


def test_voters_have_limits(folder):
    head = json.loads((folder / "xlt.json").read_text("utf-8"))["head"]
    for widths in ([6] * 10**6, [10**9, 7], [2**62, 7]):
        change(folder, "xlt.json", head=head | {"widths": widths})
        with refused(rf"xlt\.json: head\.widths .*up to {MOST_VOTERS} widths, each up to 262,144"):
            load_task_model(folder)
    change(folder, "xlt.json", head=head | {"widths": [LIMITS["intermediate_size"]] * MOST_VOTERS})
    with refused("the tensors do not fit config.json"):
        load_task_model(folder)


def test_labels_without_end(folder):
    labels = [f"l{i}" for i in range(100_000)]
    change(folder, "config.json", id2label={str(i): label for i, label in enumerate(labels)})
    with refused("its labels, a, b, are not those of config.json, l0, l1, .* and 99,980 more"):
        load_task_model(folder)
    change(folder, "config.json", id2label=None)
    change(folder, "xlt.json", labels=labels)
    with refused("the tensors do not fit config.json"):
        load_task_model(folder)


def write_header(folder, header):
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text)


@pytest.mark.parametrize("size", [1, 2**47, 0])
def test_a_shape_of_nine_hundred_thousand_numbers(folder, size):
    entry = {"dtype": "F32", "shape": [size] * 900_000, "data_offsets": [0, 0 if size == 0 else 4]}
    write_header(folder, {"a": entry})
    with (folder / "model.safetensors").open("ab") as file:
        file.write(b"\0" * entry["data_offsets"][1])
    with refused("more than 8 axes|cannot be read"):
        load_encoder(folder)


def test_tensors_without_end(folder):
    write_header(folder, {f"t{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(200_000)})
    with refused("200,000 tensors, and 65,536 are read at most"):
        load_encoder(folder)
    write_header(folder, {f"t{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(60_000)})
    with refused("the tensors do not fit config.json"):
        load_encoder(folder)


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b", "../model.safetensors", "/etc/passwd", "", "é" * 3000])
def test_an_index_with_file_names_that_are_none(folder, name):
    (folder / "model.safetensors").rename(folder / "other")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}), "utf-8")
    with refused("the file name|no such file") as caught:
        load_encoder(folder)
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize("text", ["1" * 5000, "[" * 10**5, '{"a":', "\ufeff{", '"' + "a" * 10**6])
@pytest.mark.parametrize("name", ["config.json", "xlt.json"])
def test_json_that_is_no_object(folder, name, text):
    (folder / name).write_text(text, "utf-8")
    with refused(rf"{name}:?\d*: (not valid JSON|holds a JSON)"):
        read_info(folder)


def test_links_in_a_circle(folder):
    (folder / "config.json").unlink()
    (folder / "config.json").symlink_to("config.json")
    with refused("config.json"):
        load_encoder(folder)


def test_a_model_is_filled_as_ever(folder, tiny):
    """Laid out twice, read once: the buffers that no file holds have their values, too."""
    model = load_task_model(folder)
    assert not any(value.is_meta for value in (*model.parameters(), *model.buffers()))
    assert model.head.widths == (6, 7)
    config = EncoderConfig(
        vocab_size=50, hidden_size=16, num_layers=1, num_heads=2, intermediate_size=32, model_type="distilbert",
        num_segments=0,
    )  # fmt: skip
    save(Encoder(config, seed=1), folder / "distil")
    assert torch.equal(load_encoder(folder / "distil").embeddings.segment, torch.zeros(1, 16))


def test_recipes_have_the_limits_of_models():
    fields = NewEncoderConfig.__dataclass_fields__
    assert {
        name: fields[name].metadata["max"] for name in fields if "max" in fields[name].metadata and name in LIMITS
    } == {name: limit for name, limit in LIMITS.items() if name in fields}
    fields = SelfTrainConfig.__dataclass_fields__
    assert fields["voters"].metadata["max"] == MOST_VOTERS
    assert fields["widths"].metadata["max"] == LIMITS["intermediate_size"]
