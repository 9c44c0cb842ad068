"""Whole steps against transformers: BTF, fine-tuning, soft, hard and teacher inference (step_bench/).

python benchmarks/step.py --json FILE [--sentences] [--memory] ...

See benchmarks/README.md.
"""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import click
import torch
from common import load_sentences, peak, reset_peak, resident, whole_peak
from step_bench.bench import TEACHER, bench_step, own_failures
from step_bench.peers import PEERS
from step_bench.sides import OURS, Ours, Side
from step_bench.table import render
from step_bench.work import ORDERS, SHAPES, TASKS, make_work

from xlt_engine import XltError

LENGTHS = "sentences"
FILE = click.Path(path_type=Path, dir_okay=False)
FOLDER = click.Path(path_type=Path, file_okay=False)


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--json", "json_file", type=FILE, help="Where every number goes.")
@click.option("--task", "tasks", multiple=True, type=click.Choice(list(TASKS)), help="This step only; repeatable.")
@click.option("--quick", is_flag=True, help="One set of lengths, few repeats; on a CPU a tiny model.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--precision", type=click.Choice(["fp32", "bf16", "fp16"]), help="[default: bf16 on a GPU, else fp32]")
@click.option(
    "--shape",
    type=click.Choice(list(SHAPES)),
    help="Model.  [default: mbert on a GPU; on a CPU small, tiny with --quick]",
)
@click.option("--batch-size", type=click.IntRange(1), help="Sequences in a step.  [default: 32]")
@click.option("--repeats", type=click.IntRange(1), help="Timed steps of each variant.")
@click.option("--threads", type=click.IntRange(1), help="Of torch on a CPU.  [default: torch's own]")
@click.option(
    "--peer", "peers", multiple=True, type=click.Choice(list(PEERS)), help="Compare with this only; repeatable."
)
@click.option("--alone", is_flag=True, help="Compare with nothing.")
@click.option("--deterministic", is_flag=True, help="As for a run; what it costs is the difference to one without.")
@click.option("--seconds", type=click.FloatRange(min=0), help="Begin nothing long near the end of this time.")
@click.option(
    "--trace", "trace_folder", type=FOLDER, help="Profile this package's steps: Chrome traces, and shares of time."
)
@click.option("--sentences", is_flag=True, help="WikiNEuRal's sentences, below XLT_DATA, in place of random ids.")
@click.option("--memory", is_flag=True, help="With --sentences: memory of ours and of the first peer, a process each.")
@click.option("--memory-of", hidden=True)
@click.option("--order", type=click.Choice(ORDERS), default=ORDERS[0], hidden=True)
def main(
    peers: tuple[str, ...],
    alone: bool,
    threads: int | None,
    sentences: bool,
    memory: bool,
    memory_of: str | None,
    order: str,
    **values: Any,
) -> None:
    """Whole steps against transformers: BTF, fine-tuning, soft, hard and teacher inference.

    Tokens a second, share of the device's peak (MFU), memory, launches, and how long a step waits for its batch.
    On a CPU: a smaller model in fp32, on the reference path.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    if memory_of is not None:
        click.echo(json.dumps(_memory_of(memory_of, order, **values)))
        return
    if memory and not sentences:
        raise click.UsageError("--memory is for --sentences")
    if sentences and (values["quick"] or values["shape"] == "tiny"):
        raise click.UsageError("--sentences are not for the tiny model, whose vocabulary is smaller than theirs")
    chosen: tuple[str, ...] = peers if peers or alone else tuple(PEERS)
    texts, source = load_sentences() if sentences else (None, "")
    try:
        result = bench_step(**values, peers=chosen, texts=texts and {LENGTHS: texts}, say=partial(click.echo, err=True))
    except XltError as error:
        raise click.ClickException(str(error)) from error
    if sentences:
        result["data"] = source
        if memory:
            _add_memory(result, chosen, torch.get_num_threads())
        if values["json_file"] is not None:
            values["json_file"].write_text(json.dumps(result, indent=1) + "\n")
        click.echo(source)
    click.echo(render(result))
    if failed := own_failures(result):
        raise click.ClickException(f"{len(failed)} tasks of this package failed: {'; '.join(failed)}")


def _add_memory(result: dict[str, Any], peers: tuple[str, ...], threads: int) -> None:
    """Each side in a process of its own: one long process reuses what an earlier side has freed."""
    for task, entry in result["tasks"].items():
        for order in ORDERS:
            rows = entry["rows"].get(f"{LENGTHS}, {order}", {})
            for side in [OURS, *(name for name in peers if task in PEERS[name][-1].tasks)][:2]:
                options = {"memory-of": side, "order": order, "task": task, "threads": threads}
                options |= {name: result[name] for name in ("precision", "shape", "repeats")}
                options |= {
                    "device": "cpu" if result["device"] == "cpu" else "cuda",
                    "batch-size": result["batch_size"],
                }
                words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
                command = [sys.executable, __file__, *words]
                output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
                measured: dict[str, Any] = json.loads(output.splitlines()[-1])
                if measured["name"] in rows:
                    rows[measured["name"]]["memory_mib"] = measured


def _memory_of(
    side_name: str,
    order: str,
    *,
    tasks: tuple[str, ...],
    device: str,
    precision: str,
    shape: str,
    batch_size: int,
    repeats: int,
    **_: Any,
) -> dict[str, Any]:
    """A small step, so that the optimiser's moments exist, then the one with the most padded tokens; MiB."""
    (task,) = tasks
    where, config = torch.device(device), SHAPES[shape]
    factor, batches = (1, 1) if TASKS[task].trains else TEACHER[where.type]
    work = make_work(
        task,
        load_sentences()[0],
        order,
        vocabulary=config.vocab_size,
        repeats=repeats,
        batch_size=batch_size * factor,
        batches=batches,
    )
    largest = max(work, key=lambda step: max(max(row.length for row in rows) * len(rows) for rows in step))
    kind: Any = Ours if side_name == OURS else PEERS[side_name][-1]
    before = resident()
    side: Side = kind(task, config, where, precision)
    built = resident()
    reset_peak()
    if where.type == "cuda":
        torch.cuda.reset_peak_memory_stats(where)
    side.load([[largest[0][:2]], largest])
    side.step(0)
    side.step(1)
    measured = {"name": side.name, "before": before, "built": built, "peak": peak(), "process": whole_peak()}
    measured["above_built"] = peak() - built
    if where.type == "cuda":
        measured["device_peak"] = torch.cuda.max_memory_allocated(where) / 2**20
    return measured


if __name__ == "__main__":
    main()
