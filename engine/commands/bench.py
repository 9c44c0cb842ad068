"""`bench`: speed on this machine."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click

from ... import XltError
from .console import write
from .options import DEVICES


@click.group()
def bench() -> None:
    """Measure speed on this machine."""


@bench.command()
@click.option("--json", "json_file", type=click.Path(path_type=Path, dir_okay=False), help="Where every number goes.")
@click.option("--op", "operations", multiple=True, metavar="NAME", help="This operation only; repeatable.")
@click.option("--quick", is_flag=True, help="The most important shapes only; on a CPU tiny ones.")
@click.option("--check", is_flag=True, help="Errors against fp64 only, no clocks.")
@click.option("--device", type=DEVICES, default="auto", show_default=True)
def kernels(json_file: Path | None, operations: tuple[str, ...], quick: bool, check: bool, device: str) -> None:
    """Time, memory and error of every kernel, against plain torch and torch.compile.

    Ends with code 1 where an error against fp64 is above its bound. On a CPU: the reference path against eager torch,
    at reduced shapes.
    """
    from ..bench.kernels import bench_kernels, own_failures, render

    say = partial(write, err=True)
    result = bench_kernels(operations, quick=quick, check=check, device=device, json_file=json_file, say=say)
    write(render(result))
    if failed := own_failures(result):
        raise XltError(f"{len(failed)} rows of this package failed: {'; '.join(failed)}")
