"""One round of self-training under other settings of the soft stage and of alpha, from the same teacher.

    python benchmarks/one_round.py truth-world demo --json benchmarks/results/one-round.json
    XLT_DATA=DATA python benchmarks/one_round.py wikiann --json benchmarks/results/one-round.json

The question: why does a small student lose the source in the soft stage, and gain so little? Every variant differs from
the recipe in what its row says; stages that are the same are made once. Scores are means over targets and seeds.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common import made

from xlt_engine.engine import load_recipe, run

SOFT, ALPHA = "selftrain.soft", "selftrain.alpha"
ENTITIES = (f'{ALPHA}.items="entities"', f"{ALPHA}.min_share=0.5")
FITTED = ('selftrain.restore="finetuned"',)
VARIANTS: dict[str, tuple[float, tuple[str, ...]]] = {
    "the recipe": (1, ()),
    "half the soft epochs": (0.5, ()),
    "twice the soft epochs": (2, ()),
    "from the fine-tuned encoder": (1, FITTED),
    "from the fine-tuned encoder, half the soft epochs": (0.5, FITTED),
    "alpha from entities, half of them at least": (1, ENTITIES),
    "alpha 0": (1, (f'{ALPHA}.rule="fixed:0"',)),
}
"""Name -> factor of the soft epochs, and what else is set."""


def overrides(recipe: str, variant: str) -> list[str]:
    """The settings of a variant of a recipe, as `--set` takes them."""
    factor, more = VARIANTS[variant]
    epochs = load_recipe(recipe).config.selftrain.soft.epochs
    return ["selftrain.rounds=1", f"{SOFT}.epochs={factor * epochs:g}", *more]


def measured(folder: Path) -> dict[str, Any]:
    """What a finished run says: scores by seed, target and stage, and the decisions."""
    scores, decisions = [], []
    for path in sorted(folder.glob("seed-*/*/*/scores.json")):
        seed, target, stage = path.parts[-4:-1]
        for row in json.loads(path.read_bytes())["scores"]:
            if row["metric"] in ("entity_f1", "accuracy") and stage in ("finetune", "soft1", "hard1"):
                side = "target" if row["language"] == target else "source"
                scores.append({"seed": seed, "target": target, "stage": stage, "side": side, "value": row["value"]})
        if stage == "hard1":
            record = json.loads((path.parent / "decision.json").read_bytes())
            kept = {key: record["source"][key] for key in ("items", "kept")}
            decisions.append({"alpha": record["alpha"], "coverage_entity": record["coverage_entity"], "source": kept})
    return {"scores": scores, "decisions": decisions}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="+")
    parser.add_argument("--variant", action="append", choices=list(VARIANTS), help="default: all")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--runs", type=Path, default=Path("runs/one-round"), help="one folder a variant; all are kept")
    parser.add_argument("--json", type=Path, help="rows of other recipes that the file has stay in it")
    options = parser.parse_args()
    seeds = [int(seed) for seed in options.seeds.split(",")]
    rows: list[dict[str, Any]] = []
    if options.json and options.json.exists():
        rows = [r for r in json.loads(options.json.read_bytes())["rows"] if r["recipe"] not in options.recipes]
    for recipe in options.recipes:
        earlier: list[Path] = []
        for variant in options.variant or VARIANTS:
            folder = options.runs / recipe / variant.replace(" ", "-")
            run(recipe, run_dir=folder, overrides=overrides(recipe, variant), seeds=seeds, reuse=earlier)
            earlier.append(folder)
            rows.append({"recipe": recipe, "variant": variant, "seeds": seeds} | measured(folder))
            print(recipe, variant, means(rows[-1]["scores"]), flush=True)
    if options.json:
        result = {"made": made("python benchmarks/one_round.py", seeds), "rows": rows}
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def means(scores: Sequence[dict[str, Any]]) -> dict[str, float]:
    """The mean score of each stage and side, over targets and seeds, points."""
    keys = [(stage, side) for stage in ("finetune", "soft1", "hard1") for side in ("target", "source")]
    values = {key: [s["value"] for s in scores if (s["stage"], s["side"]) == key] for key in keys}
    return {f"{stage}, {side}": round(statistics.fmean(v), 1) for (stage, side), v in values.items() if v}


if __name__ == "__main__":
    main()
