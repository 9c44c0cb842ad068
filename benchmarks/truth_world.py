"""The truth world over its knobs and three seeds: the numbers of docs/truth-world.md.

    python benchmarks/truth_world.py --work FOLDER        # about 50 minutes of one core; goes on where it was cut off
    python benchmarks/tables.py                           # tables and figure

A case is the packaged recipe `truth-world` with other knobs. Seed s is a world of its own (`world.seed = s`) and a run
of its own (`seeds = [s]`). Cases that differ from another one in self-training only start from a copy of its folder.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import made

from xlt_engine.engine import load_recipe, run
from xlt_engine.engine.plan import NUMERICS, digest
from xlt_engine.engine.storage.files import atomic_write_json

RESULTS = Path(__file__).resolve().parent / "results" / "truth-world.json"
ONE_ROUND = ("selftrain.rounds=1",)
ALPHAS = ("0.51", "0.9", "0.99")


@dataclass(frozen=True)
class Case:
    """What differs from the recipe, and the case whose finished stages it can begin with."""

    name: str
    overrides: tuple[str, ...] = ()
    like: str = ""


def cases() -> list[Case]:
    """In the order in which they are run; the first ones answer most."""
    found = [Case("base", ("arms.control=true",))]
    found.append(Case("voters=1", ("arms.control=true", "selftrain.voters=1"), "base"))
    found.append(Case("noise=0.3", ("world.label_noise=0.3", *ONE_ROUND), "base"))
    for shift in ("0.0", "1.0", "0.5"):
        name = f"shift={shift}"
        own = (f"world.label_shift={shift}", *ONE_ROUND)
        found.append(Case(name, own, "base" if shift == "0.0" else ""))
        found += [Case(f"{name} alpha={a}", (*own, f"selftrain.alpha.rule=fixed:{a}"), name) for a in ALPHAS]
    found.append(Case("noise=0.0", ("world.label_noise=0.0", *ONE_ROUND), "base"))
    knobs = ("anchors=0.0", "word_order=0.8", "anchors=0.6", "letter_overlap=0.5", "domain_shift=0.5", "affixes=0.6")
    return found + [Case(knob, (f"world.{knob}", *ONE_ROUND)) for knob in knobs]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder of the runs; about 20 MB each")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    sweep(options.work, options.seeds, options.results)


def sweep(work: Path, seeds: Sequence[int], file: Path) -> None:
    """Runs what is missing in the results, and adds each case as soon as it is there."""
    results: dict[str, Any] = json.loads(file.read_bytes()) if file.exists() else {"cases": {}}
    if results.get("made", {}).get("numerics") != NUMERICS:
        results = {"cases": {}}
    for case in cases():
        for seed in seeds:
            overrides = (f"world.seed={seed}", f"seeds=[{seed}]", *case.overrides)
            stamp = digest({"recipe": load_recipe("truth-world", overrides).dump()})
            key = f"{case.name}/{seed}"
            if results["cases"].get(key, {}).get("stamp") == stamp:
                continue
            folder = work / key.replace(" ", "-").replace("/", "-")
            if case.like and not folder.exists():
                shutil.copytree(work / f"{case.like.replace(' ', '-')}-{seed}", folder)
            began, spent = time.time(), time.process_time()
            done = run("truth-world", run_dir=folder, overrides=overrides)
            truth = json.loads((folder / "truth.json").read_bytes())
            results["cases"][key] = {
                "stamp": stamp,
                "overrides": list(overrides),
                "seconds": round(time.time() - began, 1),
                "cpu_seconds": round(time.process_time() - spent, 1),
                "stages": list(done.done),
                "knobs": truth["world"]["knobs"],
                "measured": rounded(truth["world"]["measured"]),
                "voters": truth["voters"],
                "run": rounded(truth["runs"][0]),
            }
            every = sorted({int(name.rpartition("/")[2]) for name in results["cases"]})
            head = made("python benchmarks/truth_world.py --work FOLDER", every)
            atomic_write_json(file, {"made": head, "cases": results["cases"]}, indent=None)
            print(f"{key}: {results['cases'][key]['cpu_seconds']} s", flush=True)


def rounded(value: Any) -> Any:
    """The same with five decimals, which is more than anything here is worth."""
    if isinstance(value, dict):
        return {k: rounded(v) for k, v in value.items()}
    if isinstance(value, list):
        return [rounded(v) for v in value]
    return round(value, 5) if isinstance(value, float) and abs(value) > 1e-5 else value


if __name__ == "__main__":
    main()
