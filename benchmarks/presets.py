"""What the preset `best` gains over the paper's recipe and over fine-tuning alone: benchmarks/results/presets.json.

    XLT_DATA=DATA python benchmarks/presets.py --work FOLDER                          # every data set, three seeds
    XLT_DATA=DATA python benchmarks/presets.py --work FOLDER --only marc --seeds 0    # a part, kept beside the others

The rows mbert, paper and best of `xlt-engine ablate`, which share what they have in common. CPU seconds are those of
all stages that a row stands on. Beside them, of the row best, what its run hands out without a label of the target: the
score of that model (`together`: where `predict --word-pooling 0.6` labels the file as a whole), the highest of all its
stages, that of the model that the first round learned from, and the warnings. Killed, the same command goes on. `--set`
goes to every recipe.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from common import made

from xlt_engine.engine import Prediction, TagPrediction, load_recipe, predict
from xlt_engine.engine.evaluation.metrics import accuracy, entity_f1
from xlt_engine.engine.lab.ablation.ablate import ablate
from xlt_engine.engine.reading.read_file import read_file
from xlt_engine.engine.recipe.config import RunConfig
from xlt_engine.engine.storage.files import read_json, sha256_file
from xlt_engine.engine.summary.answer import choose_models
from xlt_engine.engine.summary.stage_folders import run_stages
from xlt_engine.engine.summary.stage_table import SIDE_ARMS, target_rows

RESULT = Path(__file__).resolve().parent / "results" / "presets.json"
DATA_SETS = ("wikineural", "wikiann", "xsid-slots", "xsid-intents", "marc", "xed")
ROWS = ("mbert", "paper", "best")
WORD_POOLING = 0.6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for the runs")
    parser.add_argument("--only", default=",".join(DATA_SETS), help="recipes")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--set", dest="overrides", action="append", default=[], help="key=value for every recipe")
    options = parser.parse_args()
    more = "".join(f" --set {one}" for one in options.overrides)
    result = read_json(RESULT) or {"shape": "presets", "points": []}
    for recipe in options.only.split(","):
        points = _points(recipe, options)
        result["points"] = [one for one in result["points"] if one["recipe"] != recipe] + points
        seeds = sorted({one["seed"] for one in result["points"]})
        result["made"] = made(f"XLT_DATA=DATA python benchmarks/presets.py --work FOLDER{more}", seeds)
        result["points"].sort(key=lambda one: (DATA_SETS.index(one["recipe"]), one["target"], one["seed"]))
        RESULT.write_text(_dump(result), encoding="utf-8")
        print(f"{recipe}: {len(points)} pairs in {RESULT.name}", flush=True)


def _points(recipe: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """For each pair of target and seed the score of each row, with the CPU seconds of one seed."""
    seeds = [int(seed) for seed in options.seeds.split(",")]
    found = ablate(recipe, rows=ROWS, seeds=seeds, run_dir=options.work / recipe, overrides=options.overrides)
    if found.failed:
        raise next(iter(found.failed.values()))
    rows = {row["name"]: row for row in found.values["rows"] if row["name"] in ROWS}
    spent = {name: _cpu_seconds(found.folder / row["folder"]) / len(seeds) for name, row in rows.items()}
    config = load_recipe(recipe, options.overrides).config
    about = {
        "recipe": recipe,
        "metric": found.values["metric"],
        "sha256": sha256_file(config.model.path / "model.safetensors"),
    }
    pairs = [(target, seed) for target in found.values["targets"] for seed in seeds]
    return [
        about
        | {"target": target, "seed": seed}
        | {name: round(row["values"][target][str(seed)], 2) for name, row in rows.items()}
        | _handed_out(found.folder / rows["best"]["folder"], config, target, seed)
        | {"cpu_seconds": {name: round(value) for name, value in spent.items()}}
        for target, seed in pairs
    ]


def _handed_out(run: Path, config: RunConfig, target: str, seed: int) -> dict[str, Any]:
    """Of the trail of one target and seed the model that the run hands out, beside the others of it."""
    summary = read_json(run / "summary.json")
    rows = [row for row in target_rows(summary["rows"], [target]) if row["arm"] not in SIDE_ARMS]
    rows = [row for row in rows if row["seed"] == seed and row["metric"] == summary["metric"]]
    scores = {row["model"]: round(row["value"], 2) for row in sorted(rows, key=lambda row: int(row["order"]))}
    answer = choose_models(run, [stage for stage in run_stages(run) if stage["seed"] == seed], [target])[target]
    folders = {stage for stage in scores if stage.startswith(f"seed-{seed}/")}
    warned = {warning["name"] for warning in summary["warnings"] if warning["folder"] in folders}
    return {
        "handed_out": scores[answer.stage],
        "together": round(_together(answer.folder, config, target), 2),
        "highest": max(scores.values()),
        "before": next(iter(scores.values())),
        "warnings": sorted(warned),
    }


def _together(model: Path, config: RunConfig, target: str) -> float:
    """The score of a model on its target's test file, labelled as a whole."""
    path = next(one.test for one in config.targets if one.language == target)
    assert path is not None
    examples = [one for one in read_file(config, path, language=target) if one.labels is not None]
    found = predict(model, [one.words or one.text or "" for one in examples], word_pooling=WORD_POOLING)
    gold = [one.labels for one in examples]
    if config.task == "classification":
        return accuracy(gold, [one.label for one in found if isinstance(one, Prediction)])
    tags = [[str(tag) for tag in one.labels] for one in found if isinstance(one, TagPrediction)]
    return entity_f1([list(one or ()) for one in gold], tags).f1


def _cpu_seconds(run: Path) -> float:
    return sum(stage["cpu_seconds"] for stage in read_json(run / "summary.json")["stages"])


def _dump(result: dict[str, Any]) -> str:
    """JSON with a line for each pair."""
    points = ",\n  ".join(json.dumps(one, ensure_ascii=False) for one in result["points"])
    head = "".join(f' "{key}": {json.dumps(result[key])},\n' for key in ("shape", "made"))
    return f'{{\n{head} "points": [\n  {points}\n ]\n}}\n'


if __name__ == "__main__":
    main()
