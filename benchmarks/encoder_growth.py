"""How the gain of each stage grows with the encoder: one point of the table of benchmarks/results/encoder-growth.json.

    XLT_DATA=DATA python benchmarks/encoder_growth.py --work FOLDER                    # the weights of assets/encoder
    XLT_DATA=DATA python benchmarks/encoder_growth.py --work FOLDER --commit 965fa6f   # those of an earlier part

The weights of a part have a constant rate. A tenth of a part more with a falling one finishes them, on a side branch
(`assets/encoder` stays as it is); then the recipe wikineural runs from them, and the probe looks for the translations
of xSID's test sentences. Killed, the same command goes on. `--seeds` are those of the recipe; `--set` and `--reuse` go
to its run, too.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import statistics
import subprocess
from pathlib import Path
from typing import Any

from common import made

from xlt_engine.engine import run
from xlt_engine.engine.lab.studies.probe import probe
from xlt_engine.engine.storage.files import read_json, sha256_file

ROOT = Path(__file__).resolve().parent.parent
ENCODER, RESULT = ROOT / "assets" / "encoder", ROOT / "benchmarks" / "results" / "encoder-growth.json"
FINISH = ("training.warmup=0.005", "training.decay=1", "pretrain.epochs=0.08")
STAGES = ("zero-shot", "btf", "soft1", "hard1")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for weights and runs")
    parser.add_argument("--commit", help="whose assets/encoder; the present one when absent")
    parser.add_argument("--finished", action="store_true", help="the weights are those of the last part of all")
    parser.add_argument("--seeds", default="0", help="of the recipe, such as 0,1,2")
    parser.add_argument("--set", dest="overrides", action="append", default=[], help="key=value for the recipe")
    parser.add_argument("--reuse", type=Path, action="append", default=[], help="run folder with stages to take over")
    options = parser.parse_args()
    seeds = [int(seed) for seed in options.seeds.split(",")]
    options.work.mkdir(parents=True, exist_ok=True)
    start = _weights(options.commit, options.work / "begun")
    encoder = start if options.finished else _finished(start, options.work / "finished")
    point = _point(start, encoder, seeds, options)
    result = read_json(RESULT) or {"shape": "growth", "points": []}
    rest = [one for one in result["points"] if one["million_tokens"] != point["million_tokens"]]
    result["points"] = sorted([*rest, point], key=lambda one: float(one["million_tokens"]))
    RESULT.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(json.dumps({name: point[name] for name in ("million_tokens", "accuracy", "retrieval", "scores")}, indent=1))


def _weights(commit: str | None, folder: Path) -> Path:
    """The encoder as a commit has it, with the recipe of now."""
    if not folder.exists():
        shutil.copytree(ENCODER, folder)
        for name in ("model.safetensors", "log.tsv") if commit else ():
            command = ["git", "-C", str(ROOT), "show", f"{commit}:assets/encoder/{name}"]
            (folder / name).write_bytes(subprocess.run(command, check=True, capture_output=True).stdout)
    return folder


def _finished(start: Path, work: Path) -> Path:
    """The stage folder of a tenth of a part with a falling rate."""
    result = run(start / "recipe.toml", stage="pretrain", seeds=[99], overrides=FINISH, run_dir=work)
    return result.folder / "seed-99" / "pretrain"


def _point(start: Path, encoder: Path, seeds: list[int], options: argparse.Namespace) -> dict[str, Any]:
    """What is measured of one encoder."""
    *_, (_, _, seen, _, _, said) = csv.reader((start / "log.tsv").open(encoding="utf-8"), delimiter="\t")
    tokens, names = float(seen), said.split()
    accuracy = {name: float(value) for name, value in zip(names[::2], names[1::2], strict=True)}
    if encoder != start:
        trace = read_json(encoder / "trace.json")
        tokens += sum(trace["tokens"]) / 1e6
        accuracy = {name: value["accuracy"] for name, value in trace["held_out"][-1].items() if name != "step"}
    overrides = [f"model.path={encoder}", *options.overrides]
    result = run(
        "wikineural", seeds=seeds, overrides=overrides, run_dir=options.work / "wikineural", reuse=options.reuse
    )
    command = ["python benchmarks/encoder_growth.py --work FOLDER", *(f"--set {o}" for o in options.overrides)]
    command += [f"--commit {options.commit}"] if options.commit else []
    return {
        "made": made(f"XLT_DATA=DATA {' '.join(command)} --seeds {options.seeds}", seeds),
        "sha256": sha256_file(encoder / "model.safetensors"),
        "million_tokens": round(tokens, 1),
        "accuracy": accuracy,
        "retrieval": {language: _retrieval(encoder, language, options.work) for language in ("de", "nl")},
        "scores": _scores(result.summary),
    }


def _retrieval(encoder: Path, language: str, work: Path) -> list[float]:
    """By layer, the embeddings first, the share of sentences whose translation is the nearest (CSLS, both ways)."""
    sides = []
    for name in ("en", language):
        path = Path(os.environ["XLT_DATA"]) / f"cls/xsid-intents/{name}/test.tsv"
        with path.open(encoding="utf-8", newline="") as file:
            sides.append([row["text"] for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)])
    pairs = work / f"en-{language}.tsv"
    pairs.write_text("".join(f"{a}\t{b}\n" for a, b in zip(*sides, strict=True)), encoding="utf-8")
    layers = probe(encoder, pairs).as_dict()["layers"]
    return [round(statistics.fmean(way["accuracy"] for way in layer["csls"].values()), 4) for layer in layers]


def _scores(summary: dict[str, Any]) -> dict[str, dict[str, list[float]]]:
    """Language -> stage -> scores, a seed each."""
    found: dict[str, dict[str, list[float]]] = {}
    for row in sorted(summary["rows"], key=lambda row: int(row["seed"])):
        if row["metric"] == summary["metric"] and row["stage"] in STAGES:
            found.setdefault(row["language"], {}).setdefault(row["stage"], []).append(round(row["value"], 2))
    return found


if __name__ == "__main__":
    main()
