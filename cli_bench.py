"""The `bench` commands of the command line: their options."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import click

from xlt_engine import XltError

_FILE = click.Path(path_type=Path, dir_okay=False)
_FOLDER = click.Path(path_type=Path, file_okay=False)
_DEVICE = click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
_JSON = click.option("--json", "json_file", type=_FILE, help="Where every number goes.")

_STEP_OPTIONS = [
    _JSON,
    click.option(
        "--task",
        "tasks",
        multiple=True,
        type=click.Choice(["btf", "finetune", "soft", "hard", "teacher"]),
        help="This step only; repeatable.",
    ),
    click.option("--quick", is_flag=True, help="One set of lengths, few repeats; on a CPU a tiny model."),
    _DEVICE,
    click.option(
        "--precision", type=click.Choice(["fp32", "bf16", "fp16"]), help="[default: bf16 on a GPU, else fp32]"
    ),
    click.option(
        "--shape",
        type=click.Choice(["mbert", "small", "tiny"]),
        help="Model.  [default: mbert on a GPU; on a CPU small, tiny with --quick]",
    ),
    click.option("--batch-size", type=click.IntRange(1), help="Sequences in a step.  [default: 32]"),
    click.option("--repeats", type=click.IntRange(1), help="Timed steps of each variant."),
    click.option(
        "--peer",
        "peers",
        multiple=True,
        type=click.Choice(["eager", "tuned", "liger", "modernbert"]),
        help="Compare with this only; repeatable.",
    ),
    click.option("--alone", is_flag=True, help="Compare with nothing."),
    click.option("--deterministic", is_flag=True, help="As for a run; what it costs is the difference to one without."),
    click.option("--seconds", type=click.FloatRange(min=0), help="Begin nothing long near the end of this time."),
    click.option(
        "--trace", "trace_folder", type=_FOLDER, help="Profile this package's steps: Chrome traces, and shares of time."
    ),
]


def add_bench(group: click.Group) -> None:
    """Give a group of commands the group `bench`."""

    @group.group()
    def bench() -> None:
        """Measure speed on this machine."""

    @bench.command()
    @_JSON
    @click.option("--op", "operations", multiple=True, metavar="NAME", help="This operation only; repeatable.")
    @click.option("--quick", is_flag=True, help="The most important shapes only; on a CPU tiny ones.")
    @_DEVICE
    def kernels(json_file: Path | None, operations: tuple[str, ...], quick: bool, device: str) -> None:
        """Time, memory and error of every kernel, against plain torch, torch.compile and other libraries.

        On a CPU: the reference path against eager torch, at reduced shapes.
        """
        from xlt_engine.engine.bench.kernels import bench_kernels, own_failures
        from xlt_engine.engine.bench.table import render

        say = partial(click.echo, err=True)
        result = bench_kernels(operations, quick=quick, device=device, json_file=json_file, say=say)
        click.echo(render(result))
        if failed := own_failures(result):
            raise XltError(f"{len(failed)} rows of this package failed: {'; '.join(failed)}")

    def step(peers: tuple[str, ...], alone: bool, **values: Any) -> None:
        """Whole steps against transformers: BTF, fine-tuning, soft, hard and teacher inference.

        Tokens a second, share of the device's peak (MFU), memory, launches, and how long a step waits for its batch.
        On a CPU: a smaller model in fp32, on the reference path.
        """
        from xlt_engine.engine.bench.step import bench_step, own_failures
        from xlt_engine.engine.bench.step_table import render

        chosen: dict[str, Any] = {"peers": peers} if peers or alone else {}
        result = bench_step(**values, **chosen, say=partial(click.echo, err=True))
        click.echo(render(result))
        if failed := own_failures(result):
            raise XltError(f"{len(failed)} tasks of this package failed: {'; '.join(failed)}")

    for option in reversed(_STEP_OPTIONS):
        step = option(step)
    bench.command("step")(step)
