"""Whole training and inference steps against transformers, on this machine.

All sides of a task take the same sequences, in one process and in turns; before any clock runs, losses and gradients of
this package and of transformers are compared. Results are on the disk after every set of lengths.
"""

from __future__ import annotations

import gc
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch

from xlt_engine import ConfigError, XltError
from xlt_engine.engine.bench.harness import (
    FAILURES,
    MIB,
    in_turns,
    launches,
    quantiles,
    reason,
    synchronise,
    timed,
    write,
)
from xlt_engine.engine.training.device import choose_device
from xlt_engine.engine.training.device import deterministic as equal_bits

from .flops import encoder_flops, head_flops, step_flops
from .options import Options, record
from .peer import Peer
from .peers import PEERS, ModernBert
from .sides import OURS, Ours, Side, worst_difference
from .table import headline
from .trace import STEPS, WARM_UP, trace
from .work import KINDS, ORDERS, SHAPES, TASKS, WINDOW, Drawn, Row, Step, Texts, draw_texts, make_store, make_work

Result = dict[str, Any]
Say = Callable[[str], None]

TOLERANCE = {"cpu": 1e-4, "cuda": 1e-3}
"""Relative difference of losses and gradients in fp32 above which nothing is timed; kernels sum in another order."""
REPEATS = {"mbert": 2, "small": 5, "tiny": 1}
GPU_REPEATS, QUICK_GPU_REPEATS = 12, 4
TEACHER = {"cpu": (1, 4), "cuda": (8, 5)}
"""For teacher inference: how many times larger a batch is, and batches of a repeat. A GPU wants 32,768 tokens."""
IDLE = {"cpu": (1, 4), "cuda": (40, 100)}
"""Steps before the idle share is measured, in which graphs are captured, and steps in all."""
COMPILED = ("compiled", "liger")
COMPILE_SECONDS = 45.0
SMALL = 2
"""Steps of a few sequences before those that are timed: they make what is made once."""

_CAUGHT: tuple[type[Exception], ...] = (*FAILURES, XltError)


def bench_step(
    tasks: Sequence[str] = (),
    *,
    quick: bool = False,
    device: str = "auto",
    precision: str | None = None,
    shape: str | None = None,
    batch_size: int | None = None,
    repeats: int | None = None,
    peers: Sequence[str] = tuple(PEERS),
    seconds: float | None = None,
    texts: Mapping[str, Texts] | None = None,
    trace_folder: Path | None = None,
    json_file: Path | None = None,
    deterministic: bool = False,
    say: Say = lambda line: None,
) -> Result:
    """Time steps of this package and of its rivals; the result is what `--json` writes.

    Args:
        tasks: names from `TASKS`; all when empty.
        quick: one set of lengths and fewer repeats; on a CPU a tiny model, which shows only that it runs.
        device: "auto", "cpu" or "cuda".
        precision: "fp32", "bf16" or "fp16"; bf16 on a GPU and fp32 on a CPU when absent.
        shape: a name from `SHAPES`; mBERT's on a GPU and a smaller one on a CPU when absent.
        batch_size: sequences of a step; 32, of the tiny model 4, when absent.
        repeats: timed steps of each variant.
        peers: names from `PEERS`.
        seconds: nothing long is begun near the end of this time.
        texts: sequences to use in place of random ones, by a name for them and by language.
        trace_folder: where Chrome traces of a few steps of this package go; also measures where their time goes.
        json_file: written again and again, so that a run that is cut off leaves what it had.
        deterministic: as the setting of a recipe; what it costs is the difference to a run without.
        say: receives a line for a person now and then.

    Raises:
        ConfigError: an unknown name, or a device that is not there.
        StorageError: a file cannot be written.
    """
    _known("task", tasks, TASKS)
    _known("peer", peers, PEERS)
    _known("shape", [shape] if shape else [], SHAPES)
    with equal_bits(deterministic, device):  # before anything uses CUDA
        where = choose_device(device)
        cuda = where.type == "cuda"
        name = shape or ("mbert" if cuda else "tiny" if quick else "small")
        options = Options(
            where,
            name,
            precision or ("bf16" if cuda else "fp32"),
            quick,
            batch_size or (4 if name == "tiny" else 32),
            repeats or ((QUICK_GPU_REPEATS if quick else GPU_REPEATS) if cuda else REPEATS[name]),
            tuple(peers),
            time.monotonic() + (float("inf") if seconds is None else seconds),
            trace_folder,
            deterministic,
        )
        bench = _Bench(options, texts or _random(options), json_file, say)
        return bench.run([task for task in TASKS if not tasks or task in tasks])


def own_failures(result: Result) -> list[str]:
    """The tasks that this package could not do."""
    return [f"{task}: {entry['reason']}" for task, entry in result["tasks"].items() if entry.get("broken")]


def _known(what: str, names: Sequence[str], known: Mapping[str, Any]) -> None:
    for name in names:
        if name not in known:
            raise ConfigError(f"there is no {what} {name!r}; choose from {', '.join(known)}")


def _random(options: Options) -> dict[str, Texts]:
    count = WINDOW * options.batch_size * (TEACHER["cuda"][0] if options.cuda else 1)
    scale = "tiny" if options.shape == "tiny" else "full"
    kinds = KINDS[:1] if options.quick else KINDS
    return {k: draw_texts(k, count, vocabulary=options.config.vocab_size, scale=scale) for k in kinds}


class _Bench:
    """All tasks, one after another, as long as there is time."""

    def __init__(self, options: Options, texts: Mapping[str, Texts], json_file: Path | None, say: Say) -> None:
        self.options, self.texts, self.json_file, self.say = options, texts, json_file, say
        self.result = record(options, texts)
        self.held: Counter[str] = Counter()
        self.step_peak = 0
        self.uncounted = int(options.cuda)  # the first step of a set of lengths, for its sizes' sake

    def run(self, tasks: Sequence[str]) -> Result:
        for note in self.result["notes"]:
            self.say(note)
        began = time.monotonic()
        for task in tasks:
            entry: Result = {"text": TASKS[task].text, "rows": {}, "failed": {}, "warm_up_s": {}}
            self.result["tasks"][task] = entry
            if self._left() < 10:
                entry["reason"] = "no time left"
                continue
            try:
                self._task(task, entry)
            except _CAUGHT as error:
                entry |= {"reason": reason(error), "broken": True}
                self.say(f"{task}: {entry['reason']}")
            self._write()
            gc.collect()
            if self.options.cuda:
                torch.cuda.empty_cache()
        self.result |= {"complete": True, "seconds": time.monotonic() - began}
        self._write()
        return self.result

    def _left(self) -> float:
        return self.options.deadline - time.monotonic()

    def _write(self) -> None:
        write(self.result, self.json_file)

    def _work(self, task: str) -> dict[str, list[Step]]:
        factor, batches = TEACHER[self.options.device.type] if not TASKS[task].trains else (1, 1)
        return {
            f"{kind}, {order}": make_work(
                task,
                texts,
                order,
                vocabulary=self.options.config.vocab_size,
                repeats=self.options.repeats + self.uncounted,
                batch_size=self.options.batch_size * factor,
                batches=batches,
            )
            for kind, texts in self.texts.items()
            for order in ORDERS
        }

    def _task(self, task: str, entry: Result) -> None:
        """On a GPU, what is not compiled comes first, so that it is there if time runs out."""
        options = self.options
        work = self._work(task)
        few = next(iter(work.values()))[0][0][:4]
        steps = [[few[:2]], [few], *(step for steps in work.values() for step in steps)]
        self.held.clear()
        with self._holding(OURS):
            ours = Ours(task, options.config, options.device, options.precision)
        sides: list[Side] = [ours]
        late = [name for name in options.peers if options.cuda and name in COMPILED]
        for names in ([name for name in options.peers if name not in late], late):
            before = len(sides)
            for name in names:
                if names is late and self._left() < COMPILE_SECONDS:
                    entry["failed"][PEERS[name][0].name] = "no time left to compile"
                else:
                    sides += self._peer(name, task, entry, ours, steps)
            if names is not late:
                self._load(ours, entry, steps)
            if names is not late or len(sides) > before:
                self._measure(task, entry, sides, work)
        ours.close()
        if self._left() > 10:
            self._alone(task, entry, ours)

    def _load(self, ours: Ours, entry: Result, steps: Sequence[Step]) -> None:
        """On a GPU all steps are run until each of their sizes is a graph; replays allocate nothing any more."""
        began = time.perf_counter()
        if self.options.cuda:
            torch.cuda.reset_peak_memory_stats()
        with self._holding(OURS):
            ours.load(steps)
            for index in [*range(len(steps))] * 3 if self.options.cuda else range(SMALL):
                ours.step(index)
            synchronise(self.options.device)
        if self.options.cuda:
            self.step_peak = torch.cuda.max_memory_allocated() - torch.cuda.memory_allocated()
        entry["warm_up_s"][OURS] = time.perf_counter() - began

    def _peer(self, name: str, task: str, entry: Result, ours: Ours, steps: Sequence[Step]) -> list[Side]:
        """The first of a name's variants that works; the first one of BERT's architecture is compared with ours."""
        for kind in PEERS[name]:
            if task not in kind.tasks:
                continue
            began, label = time.perf_counter(), kind.name
            try:
                with self._holding(label):
                    peer = kind(task, self.options.config, self.options.device, self.options.precision)
                    if "difference_fp32" not in entry and not isinstance(peer, ModernBert):
                        self._check(peer, ours, steps[1][0], entry)
                    peer.load(steps)
                    for index in range(SMALL):
                        peer.step(index)
                    synchronise(self.options.device)
            except _Differs:
                raise
            except FAILURES as error:
                entry["failed"][label] = reason(error)
                continue
            self.held[peer.name] = self.held[label]
            entry["warm_up_s"][peer.name] = time.perf_counter() - began
            return [peer]
        return []

    def _check(self, peer: Peer, ours: Ours, rows: Sequence[Row], entry: Result) -> None:
        entry["difference_fp32"] = found = worst_difference(peer, ours, rows)
        if not found <= TOLERANCE[self.options.device.type]:
            raise _Differs(f"{peer.name} and this package differ by {found:.1e}; nothing was timed")

    @contextmanager
    def _holding(self, name: str) -> Iterator[None]:
        """Counts what is allocated in the block, and stays, as held by this side."""
        before = torch.cuda.memory_allocated() if self.options.cuda else 0
        yield
        self.held[name] += (torch.cuda.memory_allocated() if self.options.cuda else 0) - before

    def _measure(self, task: str, entry: Result, sides: list[Side], work: Mapping[str, list[Step]]) -> None:
        first = SMALL
        for key, steps in work.items():
            found: dict[str, list[tuple[float, float]]] = {side.name: [] for side in sides}
            for number in range(len(steps)):
                for side in in_turns(sides, number):
                    run = partial(side.step, first + number)
                    found[side.name].append(timed(run, self.options.device))
            counted = {name: pairs[self.uncounted :] for name, pairs in found.items()}
            seconds = {name: [pair[self.options.clock] for pair in pairs] for name, pairs in counted.items()}
            entry["rows"][key] = rows = self._rows(task, steps[self.uncounted :], seconds)
            for side in sides:
                rows[side.name]["wall_ms"] = quantiles([pair[1] * 1e3 for pair in counted[side.name]])
                rows[side.name]["memory_mib"] = self._memory(side, first + _largest(steps))
            line = headline(task, key, rows)
            self.result["headlines"] = [h for h in self.result["headlines"] if h.split(":")[0] != line.split(":")[0]]
            self.result["headlines"].append(line)
            self.say(line)
            self._write()
            first += len(steps)
        entry["launches"] = {s.name: launches(partial(s.step, SMALL), self.options.device) for s in sides}

    def _rows(self, task: str, steps: Sequence[Step], seconds: Mapping[str, list[float]]) -> dict[str, Result]:
        """What the times of each side mean; medians over the repeats, since a compiler may start again in one."""
        flat = [[row for rows in step for row in rows] for step in steps]
        tokens = [sum(row.length for row in rows) for rows in flat]
        flops = [step_flops(task, self.options.config, rows) for rows in flat]
        peak = self.result["ceilings"]["matmul_tflops"] * 1e12
        own = seconds[OURS]
        found = {}
        for name, times in seconds.items():
            ratios = [s / o for s, o in zip(times, own, strict=True)]
            found[name] = {
                "ms": quantiles([s * 1e3 for s in times]),
                "raw_ms": [s * 1e3 for s in times],
                "tokens_per_second": median(t / s for t, s in zip(tokens, times, strict=True)),
                "sequences_per_second": median(len(r) / s for r, s in zip(flat, times, strict=True)),
                "mfu": median(f / s / peak for f, s in zip(flops, times, strict=True)),
                "times_ours": quantiles(ratios) | {"total": sum(times) / sum(own)},
            }
        found[OURS] |= {"tokens": tokens, "flops": flops, "padded_tokens": [_padded(step) for step in steps]}
        return found

    def _memory(self, side: Side, index: int) -> dict[str, float] | None:
        """MiB that the side holds between steps, and the peak above that in the step with the most padded tokens.

        For this package the peak over all steps while their graphs were made: what a replay uses is in their pool.
        """
        if not self.options.cuda:
            return None
        step = self.step_peak
        if side.name != OURS:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            side.step(index)
            torch.cuda.synchronize()
            step = torch.cuda.max_memory_allocated() - before
        held = self.held[side.name]
        return {"held": held / MIB, "step": step / MIB, "peak": (held + step) / MIB}

    def _alone(self, task: str, entry: Result, ours: Ours) -> None:
        """What concerns this package only: how long a run waits for its batches, and where the time of a step goes.

        Of the teacher a pass over all of a store as a run makes it, batches and results included.
        """
        options = self.options
        warm, total = IDLE[options.device.type]
        for kind, texts in self.texts.items():

            def source(steps: int, texts: Texts = texts) -> Drawn:
                size, vocabulary = options.batch_size, options.config.vocab_size
                return Drawn(task, texts, vocabulary=vocabulary, batch_size=size, steps=steps)

            if TASKS[task].trains:
                entry.setdefault("idle", {})[kind] = ours.idle(source(total), warm)
            else:
                entry.setdefault("pass", {})[kind] = self._pass(ours, texts)
            if options.trace is not None:
                steps = source(STEPS + WARM_UP) if TASKS[task].trains else None
                if steps is None:
                    ours.load(self._work(task)[f"{kind}, {ORDERS[0]}"][:1])
                file = options.trace / f"{task}-{kind}.json"
                entry.setdefault("trace", {})[kind] = trace(ours, steps, file)
                ours.close()
            self._write()

    def _pass(self, ours: Ours, texts: Texts) -> Result:
        """The second pass: the first one compiles. All sentences on a GPU, on a CPU as many as a repeat has."""
        few, batches = TEACHER[self.options.device.type]
        chosen = texts[TASKS["teacher"].languages[0]]
        store = make_store(chosen if self.options.cuda else chosen[: few * batches * self.options.batch_size])
        ours.label(store)
        seconds = timed(partial(ours.label, store), self.options.device)[self.options.clock]
        items, tokens = len(store.item_positions), int(store.lengths.sum())
        flops = encoder_flops(ours.config, store.lengths.tolist(), items, trains=False)
        flops += head_flops("teacher", ours.config, items)
        mfu, rate = flops / seconds / self.result["ceilings"]["matmul_tflops"] / 1e12, tokens / seconds
        found = {"tokens": tokens, "seconds": seconds, "tokens_per_second": rate, "mfu": mfu}
        text = f"votes on {len(store)} sentences of a store, {rate:,.0f} tok/s, MFU {100 * mfu:.0f} %"
        return found | {"headline": text}


class _Differs(RuntimeError):
    """Two sides do not compute the same."""


def _padded(step: Step) -> int:
    return sum(max(row.length for row in rows) * len(rows) for rows in step)


def _largest(steps: Sequence[Step]) -> int:
    return max(range(len(steps)), key=lambda i: max(max(r.length for r in rows) * len(rows) for rows in steps[i]))
