"""Why batches of about one length cost F1: what a word weighs in them, and fine-tuning with the weights undone.

    XLT_DATA=DATA python benchmarks/batch_order.py --json benchmarks/results/batch-order.json

A step's loss is a mean over its words. Where batches are of about one length (`order = "sorted"`), a step of short
sentences has few words, and each of them weighs more. Two tables:

* of recipes on real data, how unequally words weigh under both orders, and how unequal the languages of a BTF step are;
* on UniversalNER, the recipe `uner` under four variants: both orders as they are; sorted, with every step's loss
  divided by the mean number of words, so that all words weigh the same; and random, with each word divided by the
  length of its sentence, as sorted batches do.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from common import made
from torch import Tensor

from xlt_engine.data import PackedBatch
from xlt_engine.data.batches.sampling import epoch_batches
from xlt_engine.engine import load_recipe, run
from xlt_engine.engine.reading.read_file import read_file
from xlt_engine.engine.stages import finetune as stages
from xlt_engine.engine.training.loop import Loop
from xlt_engine.engine.training.objectives import cross_entropy
from xlt_engine.model import TaskModel

RECIPES = ("uner", "wikineural", "wikiann")
VARIANTS = {
    "random": "random",
    "sorted": "sorted",
    "sorted, equal words": "sorted",
    "random, words by length": "random",
}


def weights_of_words(recipe: str, order: str) -> dict[str, float]:
    """How an epoch's batches treat words, and languages where the recipe has target text."""
    config = load_recipe(recipe).config
    source, target = config.source, config.targets[0]
    assert source.train is not None
    sides = [read_file(config, source.train, unlabelled=True)[: source.cap or None]]
    if target.unlabelled:
        sides.append(read_file(config, target.unlabelled[0], unlabelled=True)[: config.btf.cap or None])
    lengths = np.array([len(e.words or ()) for side in sides for e in side])
    of_target = np.repeat(np.arange(len(sides)), [len(side) for side in sides])
    batches = epoch_batches(lengths, 32, seed=0, epoch=0, sort=order == "sorted")
    totals = np.array([lengths[batch].sum() for batch in batches])
    weight = np.concatenate([np.full(len(b), 1 / n) for b, n in zip(batches, totals, strict=True)])
    length = np.concatenate([lengths[batch] for batch in batches])
    low, high = np.quantile(length, [0.25, 0.75])
    return {
        "words a batch, deviation / mean": float(totals.std() / totals.mean()),
        "weight of a word, shortest / longest quarter of sentences": float(
            weight[length <= low].mean() / weight[length >= high].mean()
        ),
        "share of the target in a step, deviation": float(np.std([of_target[batch].mean() for batch in batches])),
    }


def equal_words(self: Loop, parts: Any, valid: Any, *, plain: Callable[..., Tensor] = Loop.train_step) -> Tensor:
    """A step whose loss is divided by the mean number of words of all steps."""
    steps = range(len(self.batches))
    sizes = [size.items for step in steps for size in self.batches.sizes(step)]  # type: ignore[attr-defined]
    return plain(self, parts, sum(sizes) / len(steps))


def words_by_length(model: TaskModel, batch: PackedBatch, seed: int | Tensor) -> Tensor:
    """Cross entropy in which the words of a sentence weigh one over its length; the mean sentence's weigh 1."""
    sentence = torch.searchsorted(batch.cu_seqlens[1:].contiguous(), batch.item_index, right=True)
    words = torch.bincount(sentence, minlength=len(batch.cu_seqlens) - 1).float()
    weights = words.sum() / (words > 0).sum() / words[sentence]
    return cross_entropy(model, dataclasses.replace(batch, weights=weights), seed)


def fine_tuned(variant: str, seed: int) -> dict[str, float]:
    """Entity F1 by language of the recipe `uner`."""
    order = VARIANTS[variant]
    patches = {
        "sorted, equal words": mock.patch.object(Loop, "train_step", equal_words),
        "random, words by length": mock.patch.object(stages, "cross_entropy", words_by_length),
    }
    with tempfile.TemporaryDirectory() as folder, patches.get(variant, mock.patch.dict({})):
        run("uner", run_dir=folder, overrides=[f'training.order="{order}"'], seeds=[seed])
        rows = json.loads((Path(folder) / f"seed-{seed}" / "baseline" / "scores.json").read_bytes())["scores"]
    return {row["language"]: row["value"] for row in rows if row["metric"] == "entity_f1"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    seeds = [int(seed) for seed in options.seeds.split(",")]
    words = [{"recipe": r, "order": o} | weights_of_words(r, o) for r in RECIPES for o in ("random", "sorted")]
    print(json.dumps(words, indent=1))
    scores = []
    for variant in VARIANTS:
        for seed in seeds:
            scores.append({"variant": variant, "seed": seed, "scores": fine_tuned(variant, seed)})
            print(scores[-1], flush=True)
    if options.json:
        result = {"made": made("python benchmarks/batch_order.py", seeds), "words": words, "scores": scores}
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
