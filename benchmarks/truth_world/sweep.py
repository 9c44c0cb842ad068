"""The truth world over its knobs and three seeds: the numbers of docs/truth-world.md.

    python benchmarks/truth_world --work FOLDER                     # about 50 minutes of one core; goes on where it was
    python benchmarks/truth_world --work FOLDER --only base --seeds 0
    python benchmarks/tables.py                                     # tables and figure

A case is a world of other knobs, or recipe.toml with other settings. Seed s is a world of its own and a run of its own.
What one world's runs share is trained once.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from common import made

from xlt_engine.engine import run
from xlt_engine.engine.plan import NUMERICS, digest
from xlt_engine.engine.storage.files import atomic_write_json

from .judge import judge
from .world import Knobs, make_world

RESULTS = Path(__file__).resolve().parents[1] / "results" / "truth-world.json"
COMMAND = "python benchmarks/truth_world --work FOLDER"
CONTROL, ONE_ROUND = ("arms.control=true",), ("selftrain.rounds=1",)
ALPHAS = ("0.51", "0.9", "0.99")


@dataclass(frozen=True)
class Case:
    """What differs from the default: knobs of the world, and settings of the recipe."""

    name: str
    overrides: tuple[str, ...] = ONE_ROUND
    knobs: dict[str, float] = field(default_factory=dict)


def cases() -> list[Case]:
    """In the order in which they are run; the first ones answer most."""
    found = [Case("base", CONTROL), Case("voters=1", (*CONTROL, "selftrain.voters=1"))]
    found.append(Case("noise=0.3", knobs={"label_noise": 0.3}))
    for shift in ("0.0", "1.0", "0.5"):
        name, knobs = f"shift={shift}", {"label_shift": float(shift)}
        found.append(Case(name, knobs=knobs))
        found += [Case(f"{name} alpha={a}", (*ONE_ROUND, f"selftrain.alpha.rule=fixed:{a}"), knobs) for a in ALPHAS]
    found.append(Case("noise=0.0", knobs={"label_noise": 0.0}))
    knobs = ("anchors=0.0", "word_order=0.8", "anchors=0.6", "letter_overlap=0.5", "domain_shift=0.5", "affixes=0.6")
    pairs = (knob.split("=") for knob in knobs)
    return found + [Case(f"{name}={value}", knobs={name: float(value)}) for name, value in pairs]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder of the worlds and their runs, 20 MB each")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", metavar="CASE", choices=[case.name for case in cases()])
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    chosen = [case for case in cases() if options.only is None or case.name in options.only]
    sweep(options.work, chosen, options.seeds, options.results)


def sweep(work: Path, chosen: Sequence[Case], seeds: Sequence[int], file: Path) -> None:
    """Runs what is missing in the results, and adds each case as soon as it is there."""
    results: dict[str, Any] = json.loads(file.read_bytes()) if file.exists() else {"cases": {}}
    if results.get("made", {}).get("numerics") != NUMERICS:
        results = {"cases": {}}
    for case in chosen:
        for seed in seeds:
            key = f"{case.name}/{seed}"
            began, spent = time.time(), time.process_time()
            if results["cases"].get(key, {}).get("stamp") == stamp(case, seed):
                continue
            found = one(work, case, seed)
            took = {"seconds": round(time.time() - began, 1), "cpu_seconds": round(time.process_time() - spent, 1)}
            results["cases"][key] = rounded(found) | {"stamp": stamp(case, seed)} | took
            every = sorted({int(name.rpartition("/")[2]) for name in results["cases"]})
            atomic_write_json(file, {"made": made(COMMAND, every), "cases": results["cases"]}, indent=None)
            print(f"{key}: {found['run']['scores']}, {took['cpu_seconds']} s", flush=True)


def stamp(case: Case, seed: int) -> str:
    """What a result hangs on: the world, the recipe and what overrides it."""
    recipe = Path(__file__).with_name("recipe.toml").read_text("utf-8")
    return digest({"knobs": asdict(Knobs(seed=seed, **case.knobs)), "recipe": recipe, "overrides": case.overrides})


def one(work: Path, case: Case, seed: int) -> dict[str, Any]:
    """Makes the world of a case, runs the method in it and reads the hidden labels."""
    knobs = Knobs(seed=seed, **case.knobs)
    home = work / digest(asdict(knobs))
    world = make_world(knobs, home / "world")
    folder, others = home / case.name.replace(" ", "-"), [path.parent for path in sorted(home.glob("*/run.json"))]
    run(world.recipe, run_dir=folder, seeds=[seed], overrides=case.overrides, reuse=others, jobs=1)
    return {"knobs": asdict(knobs), "measured": world.measured, "run": judge(folder, world)}


def rounded(value: Any) -> Any:
    """The same with five decimals, which is more than anything here is worth."""
    if isinstance(value, dict):
        return {k: rounded(v) for k, v in value.items()}
    if isinstance(value, list):
        return [rounded(v) for v in value]
    return round(value, 5) if isinstance(value, float) and abs(value) > 1e-5 else value
