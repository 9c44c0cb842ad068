"""Whether steps got slower on a CPU: another checkout against this one, one thread, step by step in turn.

    git worktree add ../before COMMIT
    python benchmarks/before_after.py ../before --shape small --repeats 12 --json benchmarks/results/before-after.json

A process each, with its own package and its own `step_bench/`; both get the same sentences (`common.load_sentences`,
so XLT_DATA may hold real ones). CPU seconds of each step; "times" is before over now, above 1 where this one is faster.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click

HERE = Path(__file__).resolve().parents[1]


def serve() -> None:
    """Answers a line of JSON with one: {"task": ...} makes the steps, {"step": number} runs one."""
    import torch
    from common import load_sentences
    from step_bench.bench import TEACHER
    from step_bench.sides import Ours
    from step_bench.work import ORDERS, SHAPES, TASKS, make_work

    torch.set_num_threads(1)
    texts, side = load_sentences()[0], None
    for line in sys.stdin:
        asked = json.loads(line)
        if task := asked.get("task"):
            factor, batches = (1, 1) if TASKS[task].trains else TEACHER["cpu"]
            config = SHAPES[asked["shape"]]
            steps = [
                step
                for order in ORDERS
                for step in make_work(
                    task,
                    texts,
                    order,
                    vocabulary=config.vocab_size,
                    repeats=asked["repeats"],
                    batch_size=32 * factor,
                    batches=batches,
                )
            ]
            side = Ours(task, config, torch.device("cpu"), asked["precision"])
            side.load([[steps[0][0][:2]], *steps])
            answer: dict[str, Any] = {"tokens": [sum(r.length for rows in step for r in rows) for step in steps]}
        else:
            assert side is not None
            began = time.process_time()
            side.step(asked["step"])
            answer = {"seconds": time.process_time() - began}
        print(json.dumps(answer), flush=True)


@contextmanager
def server(checkout: Path, links: Path) -> Iterator[Any]:
    """A process of this file over the package and the benchmark of `checkout`; calling it asks and waits."""
    (links / "xlt_engine").symlink_to(checkout, target_is_directory=True)
    paths = os.pathsep.join(map(str, (links, checkout / "benchmarks")))
    command = [sys.executable, "-P", __file__, "--serve"]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}, **pipes) as process:

        def ask(**values: Any) -> Any:
            process.stdin.write(json.dumps(values) + "\n")
            process.stdin.flush()
            if not (line := process.stdout.readline()):
                raise click.ClickException(f"the process of {checkout} ended; its error stands above")
            return json.loads(line)

        yield ask
        process.stdin.close()


def compare(before: Any, now: Any, task: str, repeats: int, **how: str) -> dict[str, Any]:
    """Milliseconds of both over the same steps of a task, and their ratio step by step."""
    from xlt_engine.engine.bench.harness import quantiles

    tokens = [ask(task=task, repeats=repeats, **how)["tokens"] for ask in (before, now)]
    if tokens[0] != tokens[1]:
        raise click.ClickException(f"{task}: the two checkouts make other batches; their times do not compare")
    seconds: dict[Any, list[float]] = {before: [], now: []}
    for number in range(2 * repeats + 1):
        for ask in (before, now) if number % 2 else (now, before):
            seconds[ask].append(ask(step=number)["seconds"])
    first, second = seconds[before][1:], seconds[now][1:]
    return {
        "before_ms": quantiles([1e3 * s for s in first]),
        "now_ms": quantiles([1e3 * s for s in second]),
        "times": quantiles([a / b for a, b in zip(first, second, strict=True)]),
    }


@click.command()
@click.argument("checkout", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--shape", default="small", show_default=True, help="Of step_bench.")
@click.option("--precision", default="fp32", show_default=True, help="Of both.")
@click.option("--repeats", default=12, show_default=True, type=click.IntRange(2), help="Steps of each order.")
@click.option("--json", "json_file", type=click.Path(path_type=Path, dir_okay=False))
def main(checkout: Path, shape: str, precision: str, repeats: int, json_file: Path | None) -> None:
    """Times the steps of CHECKOUT and of this checkout in turn."""
    from common import made
    from step_bench.work import TASKS

    from xlt_engine.engine.storage.run_folder import git_commit

    command = f"python benchmarks/before_after.py BEFORE --shape {shape} --precision {precision} --repeats {repeats}"
    result = {"made": made(command, [], trained=False), "before": git_commit(checkout), "shape": shape, "tasks": {}}
    with ExitStack() as held:
        links = [Path(held.enter_context(TemporaryDirectory())) for _ in range(2)]
        checkouts = checkout.resolve(), HERE
        before, now = (held.enter_context(server(c, link)) for c, link in zip(checkouts, links, strict=True))
        for task in TASKS:
            result["tasks"][task] = row = compare(before, now, task, repeats, shape=shape, precision=precision)
            times, old, new = row["times"], row["before_ms"]["p50"], row["now_ms"]["p50"]
            spread = f"{times['p20']:.3f} to {times['p80']:.3f}"
            click.echo(f"{task}: {old:.1f} ms before, {new:.1f} now: {times['p50']:.3f} times ({spread})")
            if json_file is not None:
                json_file.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    serve() if sys.argv[1:] == ["--serve"] else main()
