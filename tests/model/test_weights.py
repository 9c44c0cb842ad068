"""Crafted and damaged safetensors files."""

import json
import random
import struct

import pytest
import torch

from xlt_engine import ModelError
from xlt_engine.model import Encoder, load_encoder, save_model


@pytest.fixture
def folder(tiny, tmp_path):
    save_model(Encoder(tiny, seed=1), tmp_path)
    return tmp_path


def craft(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(shape=(1,), span=(0, 4), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(span)}


CRAFTED = {
    "empty file": b"",
    "seven bytes": b"\x01" * 7,
    "header longer than the file": struct.pack("<Q", 100) + b"{}",
    "header of 2**63 bytes": struct.pack("<Q", 2**63) + b"{}",
    "not JSON": craft(b"{]"),
    "not UTF-8": craft(b'{"\xff": 1}'),
    "not an object": craft(b"[]"),
    "deeply nested": craft(b"[" * 100_000),
    "huge integer": craft(b'{"a": {"dtype":"F32","shape":[' + b"9" * 5000 + b'],"data_offsets":[0,4]}}'),
    "entry is a list": craft({"a": []}),
    "no shape": craft({"a": {"dtype": "F32", "data_offsets": [0, 4]}}, b"0000"),
    "negative size": craft({"a": entry((-1,), (0, 4))}, b"0000"),
    "boolean size": craft({"a": entry((True,), (0, 4))}, b"0000"),
    "fractional offset": craft({"a": entry((1,), (0, 4.0))}, b"0000"),
    "three offsets": craft({"a": entry((1,), (0, 4, 8))}, b"0000"),
    "reversed offsets": craft({"a": entry((1,), (4, 0))}, b"0000"),
    "product overflows": craft({"a": entry((2**40, 2**40), (0, 4))}, b"0000"),
    "unknown dtype": craft({"a": entry(dtype="F8_E4M3")}, b"0000"),
    "overlap": craft({"a": entry(), "b": entry((1,), (2, 6))}, b"000000"),
    "hole": craft({"a": entry(), "b": entry((1,), (8, 12))}, b"0" * 12),
    "starts late": craft({"a": entry((1,), (4, 8))}, b"0" * 8),
    "trailing bytes": craft({"a": entry()}, b"0" * 5),
    "missing bytes": craft({"a": entry()}, b"000"),
}


@pytest.mark.parametrize("case", CRAFTED)
@pytest.mark.fault(23)
def test_crafted_file(folder, case):
    (folder / "model.safetensors").write_bytes(CRAFTED[case])
    with pytest.raises(ModelError, match="copy or download the file again") as caught:
        load_encoder(folder)
    assert str(folder / "model.safetensors") in str(caught.value)


@pytest.mark.fault(23)
def test_every_truncation_is_caught(folder):
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    draw = random.Random(0)
    for size in [0, 1, 8, 9, len(whole) - 1, *(draw.randrange(len(whole)) for _ in range(40))]:
        path.write_bytes(whole[:size])
        with pytest.raises(ModelError, match="copy or download the file again"):
            load_encoder(folder)


@pytest.mark.fault(23)
def test_damaged_headers_are_refused_or_change_nothing(folder):
    """A flipped bit of the header either is refused or leaves names, shapes and values as they were."""
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    expected = load_encoder(folder).state_dict()
    length = 8 + int.from_bytes(whole[:8], "little")
    draw = random.Random(0)
    refused = 0
    for _ in range(300):
        damaged = bytearray(whole)
        damaged[draw.randrange(length)] ^= 1 << draw.randrange(8)
        path.write_bytes(damaged)
        try:
            values = load_encoder(folder).state_dict()
        except ModelError:
            refused += 1
        else:
            assert values.keys() == expected.keys()
            assert all(torch.equal(values[name], expected[name]) for name in expected)
    assert refused > 250
