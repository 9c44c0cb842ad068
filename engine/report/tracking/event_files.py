"""`report --tensorboard`: scalars of a run as TensorBoard's event files, written without TensorBoard.

A file is a sequence of TFRecords: length (uint64), masked CRC-32C of the length, data, masked CRC-32C of the data, all
little-endian. The data is a protocol buffer `Event` (tensorflow/core/util/event.proto) with `wall_time` (field 1,
double), `step` (2, int64), and `file_version` (3, string) or `summary` (5), whose every `value` (1) has `tag` (1) and
`simple_value` (2, float).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path

from ...storage.files import atomic_write_bytes, storage_errors
from ..parts import Run
from ..stage_table import Json, is_score
from ..summary import TRANSLATE_TEST

EVENTS = "events.out.tfevents.0.xlt-engine"
Scalar = tuple[str, int, float]
"""Tag, step and value."""


def write_events(run: Run, folder: Path) -> None:
    """Write one event file for each stage, in a folder of the stage's name.

    A stage has `loss`, `lr`, `grad_norm` and `tokens` of every step, and at its last step its scores, as
    `entity_f1/de`, and what its decision chose.

    Raises:
        StorageError: the disk refuses.
    """
    created = run.info.get("created")
    wall_time = datetime.fromisoformat(created).timestamp() if created else 0.0
    traces = {stage["folder"]: trace for stage, trace in run.traces}
    for stage in run.summary["stages"]:
        name = stage["folder"]
        if scalars := list(_scalars(run, name, traces.get(name) or {})):
            path = folder / name / EVENTS
            with storage_errors(path.parent, "create"):
                path.parent.mkdir(parents=True, exist_ok=True)
            atomic_write_bytes(path, event_file(scalars, wall_time))


def _scalars(run: Run, stage: str, trace: Json) -> Iterator[Scalar]:
    steps = trace.get("steps") or [0]
    for tag in ("loss", "lr", "grad_norm", "tokens"):
        yield from ((tag, step, value) for step, value in zip(steps, trace.get(tag) or (), strict=False))
    for row in (row for row in run.summary["rows"] if row["model"] == stage):
        suffix = f" ({TRANSLATE_TEST})" if row["arm"] == TRANSLATE_TEST else ""
        yield f"{row['metric']}/{row['language']}{suffix}", steps[-1], row["value"]
        if row["role"] == "target":
            yield from ((tag, steps[-1], row[tag]) for tag in ("alpha", "accepted", "removed"))


def event_file(scalars: Iterable[Scalar], wall_time: float) -> bytes:
    """The bytes of an event file, a record for each scalar that is a finite number; `wall_time` in seconds."""
    head = _double(1, wall_time)
    events = [head + _bytes(3, b"brain.Event:2")]
    for tag, step, value in dict.fromkeys(scalars):
        if is_score(value):
            scalar = _bytes(1, tag.encode()) + b"\x15" + struct.pack("<f", value)
            events.append(head + b"\x10" + _varint(step) + _bytes(5, _bytes(1, scalar)))
    return b"".join(map(_record, events))


def _record(data: bytes) -> bytes:
    length = struct.pack("<Q", len(data))
    return length + _masked_crc(length) + data + _masked_crc(data)


def _masked_crc(data: bytes) -> bytes:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _CRC[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def _crc_of_byte(byte: int) -> int:
    for _ in range(8):
        byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
    return byte


_CRC = [_crc_of_byte(byte) for byte in range(256)]


def _double(field: int, value: float) -> bytes:
    return _varint(field << 3 | 1) + struct.pack("<d", value)


def _bytes(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])
