"""A finished run, or one run for each seed, as `benchmarks/results/NAME.json`, from which tables.py makes a table.

    python benchmarks/record.py runs/demo --name demo
    python benchmarks/record.py runs/s0 runs/s1 runs/s2 --name wikineural     # a run folder for each seed
    python benchmarks/record.py runs/ablation-wikiann --name ablation-wikiann # what `xlt-engine ablate` wrote

Scores, seconds and decisions are those that the run itself recorded; nothing of its data and no absolute path is kept.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common import machine_of

from xlt_engine import DataError
from xlt_engine.engine.lab.ablation.rows import GROUPS, ROWS
from xlt_engine.engine.storage.files import read_json
from xlt_engine.engine.summary.stage_folders import read_decision

Json = dict[str, Any]
RESULTS = Path(__file__).resolve().parent / "results"
RECIPES = Path(__file__).resolve().parent.parent / "data" / "recipes"
ROW = ("arm", "stage", "label", "order", "pair", "seed", "language", "role", "metric", "value", "count")
MARKS = ("uses_target_labels", "uses_dictionary")
STAGE = ("arm", "stage", "kind", "order", "pair", "seed", "seconds", "cpu_seconds")
COVERAGE = ("alpha", "accepted", "items", "coverage_entity", "coverage_o", "precision_if_gold")
_ORIGIN = re.compile(r"recipe (?P<packaged>\S+) \(packaged\):\d+|(?P<file>.+):\d+")
_ABSOLUTE = re.compile(r"""(["'])/[^"']*/([^"'/]+)/?\1""")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="finished run folders, or one of `xlt-engine ablate`")
    parser.add_argument("--name", required=True, help="of the file in benchmarks/results")
    options = parser.parse_args()
    file = RESULTS / f"{options.name}.json"
    file.write_text(dump(record(options.runs)), encoding="utf-8")
    print(f"{file.name}; now: python benchmarks/tables.py")


def record(folders: Sequence[Path]) -> Json:
    """The content of a results file.

    Raises:
        DataError: a folder is no finished run, or the runs are not one recipe's with different seeds.
    """
    if len(folders) == 1 and (folders[0] / "ablation.json").exists():
        return _ablation(folders[0])
    parts = [_one_run(folder) for folder in folders]
    first = parts[0]
    for folder, part in zip(folders[1:], parts[1:], strict=True):
        differing = [key for key in part["same"] if part["same"][key] != first["same"][key]]
        if differing:
            raise DataError(
                f"{folder.name}: another {', '.join(differing)} than in {folders[0].name}: not the same run"
            )
    seeds = [seed for part in parts for seed in part["seeds"]]
    if len(set(seeds)) < len(seeds):
        raise DataError(f"seeds {', '.join(map(str, seeds))}: a seed is in more than one of the runs")
    made = first["same"]["made"] | {
        "command": _command(folders[0], "run", sorted(seeds), _overrides(folders[0])),
        "commit": ", ".join(dict.fromkeys(part["commit"] for part in parts)),
        "seeds": sorted(seeds),
    }
    order = sorted((row for part in parts for row in part["rows"]), key=lambda r: (r["order"], r["seed"]))
    spent = sorted((stage for part in parts for stage in part["stages"]), key=lambda s: (s["order"], s["seed"]))
    return {"shape": "trail", "made": made, **first["same"]["about"], "rows": order, "stages": spent}


def _one_run(folder: Path) -> Json:
    """What one run folder has: what must be the same in all runs of a table, and what is joined."""
    info, summary = read_json(folder / "run.json"), read_json(folder / "summary.json")
    state = read_json(folder / "status.json").get("state")
    open_stages = [s["folder"] for s in summary.get("stages") or () if not s["finished"]]
    if not summary.get("rows") or state != "done" or open_stages:
        raise DataError(f"{folder.name}: no finished run ({state or 'no status.json'}); run it to its end first")
    rows = [r for r in summary["rows"] if r["metric"] == summary["metric"]]
    about = {key: summary[key] for key in ("name", "task", "metric", "source", "sources", "targets")}
    return {
        "same": {"about": about, "made": _made(folder, info, summary["stages"]), "settings": _settings(folder)},
        "commit": info.get("git") or "unknown",
        "seeds": sorted({row["seed"] for row in rows}),
        "rows": [{key: r[key] for key in ROW} | {m: True for m in MARKS if r[m]} for r in rows],
        "stages": [_stage(folder, stage) for stage in summary["stages"]],
    }


def _made(folder: Path, info: Json, stages: Sequence[Json]) -> Json:
    """Versions, machine and numerics of a run."""
    numerics = {read_json(folder / s["folder"] / "fingerprint.json").get("numerics") for s in stages if s["finished"]}
    if len(numerics) != 1 or None in numerics:
        raise DataError(
            f"{folder.name}: stages of numerics {sorted(map(str, numerics))}; run it again with one version"
        )
    return {
        "versions": info["versions"],
        "machine": machine_of(info),
        "numerics": numerics.pop(),
        "transcribed": False,
    }


def _stage(folder: Path, stage: Json) -> Json:
    """One stage: its seconds, and what its decision accepted and removed."""
    result = {key: stage[key] for key in STAGE}
    decision = read_decision(folder / stage["folder"], stage["pair"] or "")
    if not decision:
        return result
    found = {key: decision.get(key) for key in COVERAGE}
    source = decision.get("source") or {}
    return result | found | {"source_items": source.get("items"), "source_removed": source.get("removed")}


def _ablation(folder: Path) -> Json:
    """The content of ablation.json, with where its rows were made."""
    values = read_json(folder / "ablation.json")
    runs = [folder / row["folder"] for row in values["rows"] if (folder / row["folder"] / "summary.json").exists()]
    made = []
    for run in runs:
        info, stages = read_json(run / "run.json"), read_json(run / "summary.json")["stages"]
        made.append(_made(run, info, stages) | {"commit": info.get("git") or "unknown"})
    if any(one["numerics"] != made[0]["numerics"] for one in made):
        raise DataError(f"{folder.name}: rows of several numerics versions; run the ablation again")
    own = ROWS[runs[0].name].overrides
    groups = [
        [group["name"]] if group["name"] in GROUPS else [row for row in group["rows"] if row != group["reference"]]
        for group in values["groups"]
    ]
    names = ",".join(name for group in groups for name in group)
    overrides = [override for override in _overrides(runs[0]) if override not in own]
    command = _command(runs[0], "ablate", values["seeds"], overrides, f" --rows {names}")
    commit = ", ".join(dict.fromkeys(one["commit"] for one in made))
    rows = [{k: v for k, v in row.items() if k not in ("folder", "overrides")} for row in values["rows"]]
    head = made[0] | {"command": command, "commit": commit, "seeds": values["seeds"]}
    return {"shape": "ablation", "made": head} | values | {"rows": rows}


def _settings(folder: Path) -> list[str]:
    """The resolved recipe without its seeds and without where each value came from."""
    lines = (folder / "config.toml").read_text("utf-8").splitlines()
    return [line.split("  # ")[0] for line in lines if not line.startswith("seeds = ")]


def _overrides(folder: Path) -> list[str]:
    """The `KEY=VALUE` of `--set`, from the comments of config.toml; of a path its last part."""
    found, table, array, count = [], "", "", -1
    for line in (folder / "config.toml").read_text("utf-8").splitlines():
        name = line.strip("[]")
        if line.startswith("[["):
            array, count = name, count + 1 if name == array else 0
            table = f"{array}.{count}."
        elif line.startswith("["):
            inside = array and name.startswith(f"{array}.")
            table = f"{array}.{count}{name.removeprefix(array)}." if inside else f"{name}."
        elif line.endswith("  # --set"):
            key, _, value = line.removesuffix("  # --set").partition(" = ")
            found.append(f"{table}{key}=" + _ABSOLUTE.sub(r"\1\2\1", value).strip('"'))
    return [override for override in found if not override.startswith("seeds=")]


def _command(folder: Path, verb: str, seeds: Sequence[int], overrides: Sequence[str], more: str = "") -> str:
    """The command line that makes such a run again."""
    first = (folder / "config.toml").read_text("utf-8").splitlines()[0]
    match = _ORIGIN.fullmatch(first.partition("  # ")[2])
    packaged = match["packaged"] if match else None
    recipe = packaged or (Path(match["file"]).name if match else read_json(folder / "run.json")["name"])
    own_data = packaged and "XLT_DATA" in (RECIPES / f"{packaged}.toml").read_text("utf-8")
    parts = ["XLT_DATA=DATA"] if own_data else []
    parts += [f"xlt-engine {verb} {recipe} --seeds {','.join(map(str, seeds))}{more}"]
    return " ".join([*parts, *(f"--set {shlex.quote(override)}" for override in overrides)])


def dump(values: Json) -> str:
    """JSON with a line for each row of a list, so that changes can be read."""
    parts = []
    for key, value in values.items():
        rows = isinstance(value, list) and value and isinstance(value[0], dict | list)
        text = "[\n  " + ",\n  ".join(_line(row) for row in value) + "\n ]" if rows else _line(value)
        parts.append(f" {_line(key)}: {text}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def _line(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


if __name__ == "__main__":
    main()
