"""Whole steps on a GPU in bf16: this package against transformers, eager and compiled, on the same batches.

    python benchmarks/gpu_step.py --json FILE [--seconds N] [--dry]

Sides, batches and the check that both compute the same are those of `step.py`; weights are random, lengths are those of
`xlt-engine bench kernels`. One process, variants interleaved. The file is written after every task and set of variants.
"""

from __future__ import annotations

import argparse
import gc
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from common import CLS, SEP, SPECIAL, VOCABULARY, Sentence, environment, quantiles, timed
from sides import CLASSES, OPTIMISER, SHAPES, Ours, Row, Transformers, worst_difference
from step import make_work
from torch import Tensor, nn

from xlt_engine.data import PackedBatch, rng_for
from xlt_engine.data.batch import pack
from xlt_engine.engine.bench_case import lengths
from xlt_engine.engine.bench_measure import FAILURES, MIB, reason
from xlt_engine.engine.loop import Loop
from xlt_engine.engine.objectives import SoftLabels
from xlt_engine.engine.precision import computing_in
from xlt_engine.model import EncoderConfig, TaskModel, VoterHeads
from xlt_engine.model.heads import default_voter_widths

TASKS = ("btf", "ner", "soft", "teacher")
KINDS = ("conll", "review")
ORDERS = ("random", "sorted")
KEPT = 0.8  # share of the teacher's probability that the label keeps; the rest is spread over the classes
COMPILE_SECONDS = 45
TINY = EncoderConfig(
    vocab_size=VOCABULARY, hidden_size=32, num_layers=4, num_heads=2, intermediate_size=64, max_positions=256
)


def soft_targets(row: Row) -> np.ndarray:
    """[K, C] probabilities around the labels, as of a teacher."""
    spread = np.full((len(row.targets), CLASSES), (1 - KEPT) / CLASSES, dtype=np.float32)
    spread[np.arange(len(row.targets)), row.targets] += KEPT
    return spread


class Packed(Ours):
    """This package, with the soft-label step of self-training as a further task; in bf16 from `start` on."""

    def __init__(self, task: str, config: EncoderConfig, device: torch.device) -> None:
        super().__init__("ner" if task == "soft" else task, config, device)
        self.task = task
        if task == "soft":
            head = VoterHeads(config.hidden_size, CLASSES, seed=1)
            labels = [str(i) for i in range(CLASSES)]
            self.model = TaskModel(self.model.encoder, head, "ner", labels).to(device)
            self.objective = SoftLabels()

    def start(self) -> None:
        """fp32 weights behind 16-bit copies, as the engine's stages and its inference have them."""
        if self.task == "teacher":
            self.lent = ExitStack()
            self.lent.enter_context(computing_in(self.model, "bf16"))
        else:
            self.loop = Loop(self.model, self.source, self.objective, optimiser=OPTIMISER, seed=0, precision="bf16")

    def prepare(self, batches: Sequence[Sequence[Row]]) -> list[PackedBatch]:
        if self.task != "soft":
            return super().prepare(batches)
        return [
            pack(
                [r.ids for r in rows], items=[r.positions for r in rows], soft_targets=[soft_targets(r) for r in rows]
            ).to(self.device)
            for rows in batches
        ]


class _Student(nn.Module):
    """transformers' encoder with a module for each voter, and the soft-label loss over unpadded words."""

    def __init__(self, bert: nn.Module, size: int) -> None:
        super().__init__()
        self.bert = bert
        self.heads = nn.ModuleList(
            nn.Sequential(
                *(nn.Linear(size, d), nn.GELU(), nn.Dropout(0.1), nn.Linear(d, size), nn.Linear(size, CLASSES))
            )
            for d in default_voter_widths(size)
        )

    def forward(self, input_ids: Tensor, attention_mask: Tensor, soft: Tensor) -> dict[str, Tensor]:
        hidden = self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        logits = torch.stack([head(hidden) for head in self.heads]).float()
        counted = soft.sum(-1)  # 0 where there is no word
        distance = (logits.softmax(-1) - soft).square().mean(-1).mean(0)
        return {"loss": (distance * counted).sum() / counted.sum()}


class Padded(Transformers):
    """transformers under bf16 autocast; at its `best` with SDPA, fused AdamW and torch.compile (which a CPU skips)."""

    best_name = "transformers, SDPA, torch.compile, fused AdamW"

    def __init__(self, task: str, config: EncoderConfig, device: torch.device, best: bool) -> None:
        with device:
            super().__init__("ner" if task == "soft" else task, config, device)
            self.task = task
            if task == "soft":
                self.model = _Student(self.model.bert, config.hidden_size).to(device)
        self.name = self.best_name if best else "transformers, eager"
        inner: Any = self.model.bert if task == "soft" else self.model
        inner.set_attn_implementation("sdpa" if best else "eager")
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.optimiser = torch.optim.AdamW(self.parameters, lr=OPTIMISER.lr, fused=True if best else None)
        self.run: Any = torch.compile(self.model, dynamic=True) if best and device.type == "cuda" else self.model

    def start(self) -> None:
        """Autocast is a matter of each step."""

    def prepare(self, batches: Sequence[Sequence[Row]]) -> list[dict[str, Tensor]]:
        made = super().prepare(batches)
        if self.task == "soft":
            for rows, batch in zip(batches, made, strict=True):
                del batch["labels"]
                soft = np.zeros((*batch["input_ids"].shape, CLASSES), dtype=np.float32)
                for i, row in enumerate(rows):
                    soft[i, row.positions] = soft_targets(row)
                batch["soft"] = torch.from_numpy(soft).to(self.device)
        return made

    def step(self, prepared: list[dict[str, Tensor]]) -> None:
        if self.task == "teacher":
            with torch.inference_mode(), torch.autocast(self.device.type, torch.bfloat16):
                for batch in prepared:
                    self.run(**batch)
            return
        (batch,) = prepared
        with torch.autocast(self.device.type, torch.bfloat16):
            loss = self.run(**batch)["loss"]
        loss.backward()
        loss.item()
        torch.nn.utils.clip_grad_norm_(self.parameters, OPTIMISER.clip)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)


def sentences(kind: str, count: int, scale: str) -> dict[str, list[Sentence]]:
    """Random ids, with lengths of this kind, for the two languages that `make_work` draws from."""
    found = {}
    for language in ("en", "de"):
        rng = rng_for(0, "gpu step", kind, language)
        found[language] = [_sentence(n, rng) for n in rng.permutation(lengths(kind, count, scale=scale))]
    return found


def _sentence(length: int, rng: np.random.Generator) -> Sentence:
    ids = np.concatenate([[CLS], rng.integers(SPECIAL, VOCABULARY, length - 2), [SEP]])
    positions = np.flatnonzero(rng.random(length - 2) < 0.8) + 1
    positions = positions if len(positions) else np.array([1])
    return Sentence(ids, positions, rng.integers(CLASSES, size=len(positions)))


class Benchmark:
    """All tasks, one after another, as long as there is time."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.dry, self.file = arguments.dry, arguments.json
        self.device = torch.device("cpu" if self.dry else "cuda")
        self.held: Counter[str] = Counter()
        self.config = TINY if self.dry else SHAPES["mbert"]
        self.deadline = time.monotonic() + arguments.seconds
        self.repeats, self.batch_size = (1, 2) if self.dry else (8, 32)
        scale, count = ("tiny", 120) if self.dry else ("full", 1600)
        self.data = {kind: sentences(kind, count, scale) for kind in (KINDS[:1] if self.dry else KINDS)}
        self.result: dict[str, Any] = {
            "benchmark": "gpu step",
            "complete": False,
            "precision": "bf16 over fp32 weights: 16-bit copies here, autocast in transformers",
            "config": self.config.to_hf(),
            "batch_size": self.batch_size,
            "notes": ["dry: a tiny model on the CPU, and nothing was compiled"] if self.dry else [],
            "environment": environment(torch.get_num_threads(), self.device),
            "tasks": {},
            "headlines": [],
        }

    def write(self) -> None:
        self.file.write_text(json.dumps(self.result, indent=1) + "\n")

    def run(self, tasks: Sequence[str]) -> None:
        for task in tasks:
            if time.monotonic() > self.deadline - 10:
                self.result["tasks"][task] = {"reason": "no time left"}
                continue
            self.result["tasks"][task] = entry = {"rows": {}, "failed": {}}
            try:
                self._task(task, entry)
            except FAILURES as error:
                entry["reason"] = reason(error)
                print(f"{task}: {entry['reason']}", flush=True)
            self.write()
            gc.collect()
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
        self.result["complete"] = True
        self.write()

    def _task(self, task: str, entry: dict[str, Any]) -> None:
        drawn = SimpleNamespace(batch_size=self.batch_size, repeats=self.repeats)
        rows_of = "ner" if task == "soft" else task
        work = {(k, o): make_work(rows_of, self.data[k], o, drawn) for k in self.data for o in ORDERS}
        few = next(iter(work.values()))[0][0][:4]
        self.held = Counter()
        with self._holding(Ours.name):
            sides: list[Any] = [Packed(task, self.config, self.device)]
        eager = self._try(entry, "transformers, eager", lambda: Padded(task, self.config, self.device, False))
        if eager is not None:
            if task != "soft":
                entry["difference_fp32"] = worst_difference(eager, sides[0], few)
                print(f"{task}: sides differ by {entry['difference_fp32']:.1e} in fp32, dropout off", flush=True)
            sides.append(eager)
        sides = [side for side in sides if self._warm(entry, side, few)]
        if not sides or sides[0].name != Ours.name:
            raise RuntimeError(f"this package's step failed: {entry['failed'].get(Ours.name)}")
        self._measure(task, entry, sides, work)
        if not self.dry and time.monotonic() > self.deadline - COMPILE_SECONDS:
            entry["failed"][Padded.best_name] = "no time left to compile"
            return
        made = self._try(entry, Padded.best_name, lambda: Padded(task, self.config, self.device, True))
        if made is not None and self._warm(entry, made, few):
            self._measure(task, entry, [*sides, made], work)

    @contextmanager
    def _holding(self, name: str) -> Iterator[None]:
        """Counts what is allocated in the block, and stays, as held by this side."""
        cuda = self.device.type == "cuda"
        before = torch.cuda.memory_allocated() if cuda else 0
        yield
        self.held[name] += (torch.cuda.memory_allocated() if cuda else 0) - before

    def _try(self, entry: dict[str, Any], name: str, make: Callable[[], Any]) -> Any:
        try:
            with self._holding(name):
                return make()
        except FAILURES as error:
            entry["failed"][name] = reason(error)
            return None

    def _warm(self, entry: dict[str, Any], side: Any, few: Sequence[Row]) -> bool:
        def warm() -> bool:
            side.start()
            for n in (2, 4, 4):
                side.step(side.prepare([few[:n]]))
            return True

        begin = time.perf_counter()
        done = self._try(entry, side.name, warm)
        entry.setdefault("warm_up_s", {})[side.name] = time.perf_counter() - begin
        return done is not None

    def _measure(self, task: str, entry: dict[str, Any], sides: list[Any], work: dict[tuple[str, str], Any]) -> None:
        for (kind, order), steps in work.items():
            seconds: dict[str, list[float]] = {side.name: [] for side in sides}
            for repeat in range(-1, self.repeats):  # the first one is for the shapes' sake, and is not counted
                turn = max(repeat, 0) % len(sides)
                for side in sides[turn:] + sides[:turn]:
                    prepared = side.prepare(steps[repeat])
                    _, wall = timed(lambda side=side, prepared=prepared: side.step(prepared), self.device)
                    if repeat >= 0:
                        seconds[side.name].append(wall)
            tokens = [sum(row.length for batch in step for row in batch) for step in steps]
            ours = seconds[sides[0].name]
            rows = {
                side.name: {
                    "ms": quantiles([s * 1e3 for s in seconds[side.name]]),
                    "raw_ms": [s * 1e3 for s in seconds[side.name]],
                    # medians: a length that makes the compiler start again costs seconds, once
                    "tokens_per_second": median(t / s for t, s in zip(tokens, seconds[side.name], strict=True)),
                    "times_ours": median(s / o for s, o in zip(seconds[side.name], ours, strict=True)),
                    "memory_mib": self._memory(side, steps),
                }
                for side in sides
            }
            entry["rows"][f"{kind}, {order}"] = rows
            self._headline(task, f"{kind}, {order}", rows)
            self.write()

    def _memory(self, side: Any, steps: Any) -> dict[str, float] | None:
        """MiB that the side holds between steps, and the peak above that in the step with the most padded tokens."""
        if self.device.type != "cuda":
            return None
        prepared = side.prepare(max(steps, key=lambda step: max(max(r.length for r in b) * len(b) for b in step)))
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        side.step(prepared)
        torch.cuda.synchronize()
        held, step = self.held[side.name], torch.cuda.max_memory_allocated() - before
        return {"held": held / MIB, "step": step / MIB, "peak": (held + step) / MIB}

    def _headline(self, task: str, what: str, rows: dict[str, Any]) -> None:
        shown = []
        for name, row in rows.items():
            memory = "" if row["memory_mib"] is None else f", {row['memory_mib']['peak']:.0f} MiB"
            shown.append(
                f"{name} {row['tokens_per_second']:,.0f} tok/s{memory}"
                + ("" if name == Ours.name else f" ({row['times_ours']:.2f}x our time)")
            )
        text = f"{task}, {what}: " + "; ".join(shown)
        kept = [line for line in self.result["headlines"] if not line.startswith(f"{task}, {what}: ")]
        self.result["headlines"] = [*kept, text]
        print(text, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS)
    parser.add_argument("--seconds", type=float, default=150.0, help="nothing long is begun near the end of this time")
    parser.add_argument("--dry", action="store_true", help="on the CPU, with a tiny model, nothing compiled")
    arguments = parser.parse_args()
    Benchmark(arguments).run(arguments.tasks)


if __name__ == "__main__":
    main()
