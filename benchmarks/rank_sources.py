"""How well `rank-sources` orders candidate languages, on made languages whose zero-shot scores are known.

    python benchmarks/rank_sources.py --work FOLDER --json benchmarks/results/rank-sources.json

The target is the demo's English. Candidates are fake languages of the truth world, made of the same sentences with
other knobs; their hidden labels are the labelled source text. One encoder is pre-trained on general text and unlabelled
task text of all of them, one model is fine-tuned on each candidate, and its score on the target's test file is the
truth that the parts of the ranking are compared with, by Spearman's rank correlation. Nothing of the truth enters the
ranking.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import made

from xlt_engine.data import TruthFiles, TruthKnobs, make_truth_world
from xlt_engine.engine import run
from xlt_engine.engine.lab.studies.rank_sources import OPINIONS, OVERLAPS, Ranking, average_ranks, rank_sources
from xlt_engine.engine.storage.files import atomic_write_json

TRAIN = 600
KNOBS: dict[str, dict[str, float]] = {
    "a60": {"anchors": 0.6},
    "a40-order80": {"anchors": 0.4, "word_order": 0.8},
    "a30": {"anchors": 0.3, "affixes": 0.2},
    "letters50": {"anchors": 0.1, "letter_overlap": 0.5},
    "nothing": {"anchors": 0.0, "word_order": 0.3},
}
"""The candidates. Overlap alone does not decide: word order leaves no trace in it."""
SIZES: dict[str, Any] = {
    "general_sentences": 600,
    "control_sentences": 1,
    "train_sentences": TRAIN,
    "unlabelled_sentences": TRAIN + 300,
    "test_sentences": 400,
    "label_noise": 0.0,
}
COMMON = """
name = "rank"
task = "ner"
device = "cpu"
threads = 1
max_length = 64
[btf]
on = false
[selftrain]
on = false
[pretrain]
lr = 2e-3
epochs = 10
batch_size = 64
[finetune]
lr = 1e-3
epochs = 5
batch_size = 32
[training]
freeze_embeddings = true
freeze_layers = 0
"""
NEW = """
[model.new]
vocab_size = 2500
hidden_size = 64
num_layers = 2
num_heads = 4
intermediate_size = 256
initializer_range = 0.04
"""


def make_worlds(seed: int, folder: Path) -> dict[str, TruthFiles]:
    """A world for each candidate; the source of all, here the target, is the same text."""
    worlds = {}
    for name, knobs in KNOBS.items():
        worlds[name] = make_truth_world(TruthKnobs(seed=seed, **SIZES, **knobs), folder / name, targets=("fake",))
    assert len({world.test["en"].read_bytes() for world in worlds.values()}) == 1
    return worlds


def labelled(world: TruthFiles, folder: Path, name: str) -> Path:
    """The labelled source text of a candidate: the first sentences of what the world hides."""
    sentences = world.hidden["fake"].read_text("utf-8").split("\n\n")[:TRAIN]
    path = folder / f"{name}.conll"
    path.write_text("\n\n".join(sentences) + "\n", encoding="utf-8")
    return path


def texts(world: TruthFiles, language: str) -> str:
    """The files to pre-train on, as TOML has them."""
    return json.dumps([str(world.general[language]), str(world.unlabelled[language])])


def pretrained(worlds: dict[str, TruthFiles], folder: Path) -> Path:
    """An encoder for the target and all candidates."""
    tables = [f'[source]\nlanguage = "en"\ntrain = "{next(iter(worlds.values())).test["en"]}"']
    tables[0] += f"\ngeneral = {texts(next(iter(worlds.values())), 'en')}"
    for name, world in worlds.items():
        tables.append(f'[[targets]]\nlanguage = "{name}"\ngeneral = {texts(world, "fake")}')
    recipe = folder / "pretrain.toml"
    recipe.write_text("\n".join([COMMON, NEW, *tables]) + "\n", encoding="utf-8")
    run(recipe, stage="pretrain", run_dir=folder / "pretrain")
    return folder / "pretrain" / "seed-0" / "pretrain"


def finetuned(name: str, world: TruthFiles, train: Path, encoder: Path, folder: Path) -> tuple[Path, float]:
    """The model fine-tuned on a candidate, and its zero-shot score on the target."""
    recipe = folder / f"{name}.toml"
    tables = f"""
[model]
path = "{encoder}"
[source]
language = "{name}"
train = "{train}"
[[targets]]
language = "en"
test = "{world.test["en"]}"
"""
    recipe.write_text(COMMON + tables, encoding="utf-8")
    run(recipe, run_dir=folder / name)
    stage = folder / name / "seed-0" / "baseline"
    scores = json.loads((stage / "scores.json").read_bytes())["scores"]
    return stage, next(s["value"] for s in scores if s["language"] == "en" and s["metric"] == "entity_f1")


def one_world(seed: int, folder: Path) -> dict[str, Any]:
    """The ranking of a world, the truth, and how well they agree."""
    folder.mkdir(parents=True, exist_ok=True)
    worlds = make_worlds(seed, folder / "worlds")
    encoder = pretrained(worlds, folder)
    models, sources, truth = {}, {}, {}
    for name, world in worlds.items():
        sources[name] = [labelled(world, folder, name)]
        models[name], truth[name] = finetuned(name, world, sources[name][0], encoder, folder)
    target = [next(iter(worlds.values())).unlabelled["en"]]
    ranking = rank_sources(target, sources, encoder, models=models, sample=600)
    named = ranking.as_dict() | {"target": [path.name for path in target]}
    return {"seed": seed, "truth": truth, "ranking": named, "spearman": correlations(ranking, truth)}


def spearman(a: list[float], b: list[float]) -> float:
    """Spearman's rank correlation; NaN where one side is all equal."""
    first, second = average_ranks(a), average_ranks(b)
    first, second = first - first.mean(), second - second.mean()
    size = float(np.sqrt((first**2).sum() * (second**2).sum()))
    return float((first * second).sum()) / size if size else float("nan")


def correlations(ranking: Ranking, truth: dict[str, float]) -> dict[str, float]:
    """Spearman's correlation of every part, and of the order itself, with the true scores."""
    scores = [truth[c.name] for c in ranking.candidates]
    parts = {name: [c.part(name) for c in ranking.candidates] for name in (*OVERLAPS, *OPINIONS)}
    found = {name: spearman([v if v is not None else -1.0 for v in part], scores) for name, part in parts.items()}
    return found | {"order": spearman([-c.place for c in ranking.candidates], scores)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--work", type=Path, required=True, help="folder for worlds and runs")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--json", type=Path, help="write every number")
    options = parser.parse_args()
    torch.set_num_threads(1)
    started, worlds = time.process_time(), []
    for seed in options.seeds:
        worlds.append(found := one_world(seed, options.work / f"world-{seed}"))
        print(f"world {seed}: truth " + ", ".join(f"{n} {v:.1f}" for n, v in found["truth"].items()))
        print("  order: " + ", ".join(c["name"] for c in found["ranking"]["candidates"]))
        print("  Spearman: " + ", ".join(f"{n} {v:+.2f}" for n, v in found["spearman"].items()))
    means = {n: float(np.mean([w["spearman"][n] for w in worlds])) for n in worlds[0]["spearman"]}
    print("mean: " + ", ".join(f"{n} {v:+.2f}" for n, v in means.items()))
    seconds = time.process_time() - started
    print(f"{seconds:.0f} s of CPU")
    if options.json is not None:
        head = made("python benchmarks/rank_sources.py --work FOLDER --json FILE", options.seeds)
        result = {
            "made": head,
            "knobs": KNOBS,
            "sizes": SIZES,
            "mean_spearman": means,
            "worlds": worlds,
            "cpu_seconds": seconds,
        }
        atomic_write_json(options.json, result)


if __name__ == "__main__":
    main()
