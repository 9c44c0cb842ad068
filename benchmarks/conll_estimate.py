"""How long `conll-paper` would take on one H200: an estimate from counted operations and bytes, not a measurement.

    python benchmarks/conll_estimate.py

Steps are those of the recipe for one target language and one seed, operations those of `step_bench/flops.py` at
lengths like CoNLL's. What is assumed stands in `ASSUMED`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import mean

import torch
from step_bench.flops import step_flops
from step_bench.sides import Ours
from step_bench.work import SHAPES, TASKS, draw_texts, make_work

from xlt_engine.engine import load_recipe

SOURCE, TARGET = 14_041, 60_000  # without the 946 document markers that Table 2 of the paper counts
ASSUMED = {
    "product": 790e12,  # operations per second of a large bf16 product
    "copy": 4.3e12,  # bytes per second of a large copy
    "efficiency": 0.4,  # share of `product` that products of some 900 rows reach
    "inference": 0.6,  # the same for 32,768 tokens
    "kernels": 400,  # small kernels of a step
    "kernel": 2.5e-6,  # seconds of each that nothing else hides, as nodes of a graph
    "fixed": 60.0,  # seconds for reading, tokenising, saving, scoring and the first compilation
}
BYTES = 32
"""Of a weight that trains in bf16: its gradient (2 written, 2 read for the norm), and AdamW in one pass over gradient,
weight, moments and 16-bit copy (14 read, 14 written): `kernels/fused/optimizer/adamw.py`."""
PASSES = 4
"""Over the target text without gradients: soft labels of two rounds, votes of the hard stage, and the tests."""


@dataclass(frozen=True)
class Cost:
    """What a step of a stage costs."""

    flops: float
    tokens: float
    weights: int

    @property
    def seconds(self) -> float:
        products = self.flops / (ASSUMED["product"] * ASSUMED["efficiency"])
        return products + self.weights * BYTES / ASSUMED["copy"] + ASSUMED["kernels"] * ASSUMED["kernel"]


def cost(task: str) -> Cost:
    """At mBERT's shape, over 50 batches of 32 sentences."""
    config = SHAPES["mbert"]
    texts = draw_texts("conll", 1600, vocabulary=config.vocab_size)
    work = make_work(task, texts, "random", vocabulary=config.vocab_size, repeats=50, batch_size=32, batches=1)
    steps = [[row for rows in step for row in rows] for step in work]
    with torch.device("meta"):
        parameters = Ours(task, SHAPES["mbert"], torch.device("meta")).model.parameters()
    weights = sum(p.numel() for p in parameters if p.requires_grad) if TASKS[task].trains else 0
    return Cost(
        mean(step_flops(task, config, rows) for rows in steps),
        mean(sum(r.length for r in rows) for rows in steps),
        weights,
    )


def main() -> None:
    config = load_recipe("conll-paper").config
    soft, hard = config.selftrain.soft, config.selftrain.hard
    stages = [
        ("btf", "btf", 2 * TARGET, config.btf.epochs, config.btf.batch_size),
        ("finetune", "finetune", SOURCE, config.finetune.epochs, config.finetune.batch_size),
        ("baseline", "finetune", SOURCE, config.finetune.epochs, config.finetune.batch_size),
        ("soft1", "soft", TARGET, soft.epochs, soft.batch_size),
        ("hard1, at most", "hard", SOURCE + TARGET, hard.epochs, hard.batch_size),
        ("soft2, at most", "soft", TARGET, soft.epochs, soft.batch_size),
    ]
    costs = {task: cost(task) for task in ("btf", "finetune", "soft", "hard", "teacher")}
    total, steps_in_all = ASSUMED["fixed"], 0
    print(f"{'stage':16}{'steps':>8}{'TFLOP':>8}{'ms':>7}{'s':>7}")
    for name, task, sentences, epochs, batch in stages:
        steps, found = round(math.ceil(sentences / batch) * epochs), costs[task]
        total, steps_in_all = total + steps * found.seconds, steps_in_all + steps
        print(f"{name:16}{steps:8,}{found.flops / 1e12:8.3f}{found.seconds * 1e3:7.2f}{steps * found.seconds:7.0f}")
    teacher = costs["teacher"]
    read = PASSES * TARGET / 32 * teacher.flops / (ASSUMED["product"] * ASSUMED["inference"])
    total += read
    print(f"{'teacher passes':16}{'':8}{'':8}{'':7}{read:7.0f}\n{'the rest':16}{'':23}{ASSUMED['fixed']:7.0f}")
    print(f"{'in all':16}{steps_in_all:8,}{'':15}{total:7.0f}")
    for task, found in costs.items():
        rate = found.flops / found.tokens / 1e6
        print(f"{task}: {found.tokens:.0f} tokens, {rate:.0f} MFLOP a token, {found.weights:,} weights train")


if __name__ == "__main__":
    main()
