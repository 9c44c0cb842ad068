"""What leaves a run for other tools: tidy tables (`report --csv`) and TensorBoard's event files (`--tensorboard`)."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path

from .... import ConfigError
from ...storage.files import atomic_write_bytes, atomic_write_text, storage_errors
from ...summary.stage_table import Json, is_score
from ..parts import Run

EVENTS = "events.out.tfevents.0.xlt-engine"
Scalar = tuple[str, int, float]
"""Tag, step and value."""


def write_csv(run: Run, folder: Path) -> None:
    """Write `scores.csv`, `losses.csv` and `thresholds.csv`.

    Columns are the fields of docs/summary-schema.md, numbers have all their digits, and a cell is empty for null.
    """
    with storage_errors(folder, "create"):
        folder.mkdir(parents=True, exist_ok=True)
    scores = ({key: value for key, value in row.items() if key != "classes"} for row in run.summary["rows"])
    tables = {"scores": scores, "losses": _losses(run), "thresholds": _thresholds(run)}
    for name, rows in tables.items():
        atomic_write_text(folder / f"{name}.csv", _text(rows))


def _losses(run: Run) -> Iterator[Json]:
    for stage, trace in run.traces:
        place = {key: stage[key] for key in ("seed", "pair", "stage", "round")}
        yield from (place | line for line in _lines(trace, "steps", "step"))


def _thresholds(run: Run) -> Iterator[Json]:
    """The curves of the labelled source and, where there is a test file, of the target; `alpha` is what was chosen."""
    for (pair, number, seed), decision in run.decisions.items():
        chosen = {"alpha": decision.get("alpha"), "rule": decision.get("rule")}
        for name, side in (("curve", "source"), ("target_curve", "target")):
            place = {"seed": seed, "pair": pair, "round": number, "side": side} | chosen
            yield from (place | line for line in _lines(decision.get(name) or {}, "thresholds", "threshold"))


def _lines(columns: Json, many: str, one: str) -> Iterator[Json]:
    """A line for each place in parallel lists; the list called `many` is the field `one`."""
    lists = {one if name == many else name: values for name, values in columns.items()}
    return (dict(zip(lists, values, strict=True)) for values in zip(*lists.values(), strict=True))


def _text(rows: Iterable[Json]) -> str:
    lines = list(rows)
    text = io.StringIO()
    writer = csv.DictWriter(text, dict.fromkeys(key for line in lines for key in line), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def write_events(run: Run, folder: Path) -> None:
    """Write one event file for each stage, in a folder of the stage's name.

    A stage has `loss`, `lr`, `grad_norm` and `tokens` of every step, and at its last step its scores, as
    `entity_f1/de`, and what its decision chose.

    Raises:
        ConfigError: the package tensorboard is not installed.
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
        yield f"{row['metric']}/{row['language']}", steps[-1], row["value"]
        if row["role"] == "target":
            yield from ((tag, steps[-1], row[tag]) for tag in ("alpha", "accepted", "removed"))


def event_file(scalars: Iterable[Scalar], wall_time: float) -> bytes:
    """The bytes of an event file, a record for each scalar that is a finite number; `wall_time` in seconds.

    In memory, where torch's SummaryWriter would write in place, with the time and the process in the file and its name.

    Raises:
        ConfigError: the package tensorboard is not installed.
    """
    try:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.record_writer import RecordWriter
    except ImportError as error:
        advice = "pip install 'xlt-engine[tensorboard]', or take --csv"
        raise ConfigError(f"--tensorboard needs the package tensorboard: {advice}") from error
    events = [Event(wall_time=wall_time, file_version="brain.Event:2")]
    for tag, step, value in dict.fromkeys(scalars):
        if is_score(value):
            summary = Summary(value=[Summary.Value(tag=tag, simple_value=value)])
            events.append(Event(wall_time=wall_time, step=step, summary=summary))
    file = io.BytesIO()
    for event in events:
        RecordWriter(file).write(event.SerializeToString())
    return file.getvalue()
