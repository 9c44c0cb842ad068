"""How many pairs of an induced dictionary are right, where the truth is known: the truth world's own bijection.

    python benchmarks/induced_dictionary.py --work FOLDER        # about a minute of one core for each seed

World and encoder are those of the recipe `truth-world`, after bilingual task fitting. Words with an ending count as the
word itself. Writes benchmarks/results/induced-dictionary.json; tables.py makes the table of docs/truth-world.md of it.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from common import made

from xlt_engine.data.augment.induced import csls, frequent_words, mutual_pairs, words_of
from xlt_engine.engine import load_recipe, run
from xlt_engine.engine.methods.induce import COUNT, WORDS, word_states
from xlt_engine.engine.runs.prepare import make_context
from xlt_engine.engine.runs.synthetic_data import settled
from xlt_engine.engine.stages.context import Context
from xlt_engine.engine.storage.files import atomic_write_json
from xlt_engine.engine.storage.run_folder import RunDir
from xlt_engine.engine.training.progress import Progress
from xlt_engine.model import load_encoder

RESULTS = Path(__file__).resolve().parent / "results" / "induced-dictionary.json"
MARGINS = (0.0, 0.1, 0.2, 0.3)
ENDING = 2
"""Letters of the longest ending (data/synthetic/truth_language.py)."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder of the runs; about 10 MB each")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    rows = [row for seed in options.seeds for row in measure(options.work / f"world-{seed}", seed)]
    head = made("python benchmarks/induced_dictionary.py --work FOLDER", options.seeds)
    atomic_write_json(RESULTS, {"made": head, "recipe": "truth-world", "rows": rows})


def measure(folder: Path, seed: int) -> list[dict[str, Any]]:
    """Pairs and right ones of a world, for every layer and margin, before and after fitting."""
    overrides = (f"world.seed={seed}", f"seeds=[{seed}]", "world.label_noise=0")
    run("truth-world", stage="btf", run_dir=folder, overrides=overrides)
    with RunDir(folder) as home:
        config = settled(load_recipe("truth-world", overrides).config, folder)
        context = make_context(config, home, Progress())
        return [
            row | {"seed": seed, "stage": name}
            for name, stage in (("pretrain", "pretrain"), ("btf", "fake/btf"))
            for row in compare(context, folder / f"seed-{seed}" / stage)
        ]


def compare(context: Context, model: Path) -> list[dict[str, Any]]:
    source = context.config.source
    (target,) = context.config.targets
    assert source.train is not None
    files = ((source.train, *source.unlabelled), source.language), (target.unlabelled, target.language)
    texts = [[words_of(e) for e in context.data.sentences(*each)] for each in files]
    words = [frequent_words(sentences, WORDS, COUNT) for sentences in texts]
    lines = (target.unlabelled[0].parent / f"lexicon.{target.language}.tsv").read_text("utf-8").splitlines()
    truth = dict(line.split("\t") for line in lines)
    encoder = load_encoder(model)
    found = []
    for layer in range(encoder.config.num_layers + 1):
        states = [word_states(context, encoder, layer, s, w) for s, w in zip(texts, words, strict=True)]
        scores = csls(*states)
        for margin in MARGINS:
            pairs = [(words[0][p.source], words[1][p.target]) for p in mutual_pairs(scores, margin)]
            changed = [(a, b) for a, b in pairs if a != b]
            right = sum(means(b, truth[a]) for a, b in changed)
            found.append({"layer": layer, "margin": margin, "pairs": len(changed), "right": right})
    there = sum(any(means(b, truth[a]) for b in words[1]) and truth[a] != a for a in words[0])
    chance = float(np.mean([sum(means(b, truth[a]) for b in words[1]) / len(words[1]) for a in words[0]]))
    sizes = {"words": [len(w) for w in words], "there": there, "chance": chance}
    return [row | sizes for row in found]


def means(word: str, translation: str) -> bool:
    """Whether a word of the fake language is the translation, with an ending or without one, at the start or inside."""
    one, other = word.lower(), translation.lower()
    return one.startswith(other) and len(one) - len(other) <= ENDING


if __name__ == "__main__":
    main()
