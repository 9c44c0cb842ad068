"""The tables of README.md and docs/*.md that hold measured numbers, and their figures, from `benchmarks/results/`.

    python benchmarks/tables.py            # writes them anew
    python benchmarks/tables.py --check    # exits with 1 and a diff where a page or a figure is not what its file says

A table stands between `<!-- table: NAME -->` and `<!-- /table: NAME -->`; NAME is a file, FILE/PART, or a table that
tables_measured.py names. Under it stands how it was made, and above it that it is stale, where its file's numerics
version is not that of the code.
"""

from __future__ import annotations

import argparse
import difflib
import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import growth_figure
import step_figure
from tables_measured import TABLES, markdown
from truth_world.tables import drawing as truth_world_drawing

from xlt_engine.engine.plan import NUMERICS
from xlt_engine.engine.report.parts import Run
from xlt_engine.engine.report.parts import trail as report_trail
from xlt_engine.engine.report.svg import standalone
from xlt_engine.engine.summary.seeds import Stat, Step
from xlt_engine.engine.summary.stage_table import aggregate

Json = dict[str, Any]
ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
BLOCK = re.compile(r"<!-- table: (?P<name>\S+) -->\n(?P<body>.*?)<!-- /table: (?P=name) -->\n", re.DOTALL)
SHOWN = ("xlt-engine", "torch", "transformers")
LONG_NAMES = {
    "zero-shot": "zero-shot: fine-tuned, no BTF",
    "control": "control: BTF on general text",
    "btf": "BTF, then fine-tuned",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 where something differs")
    options = parser.parse_args()
    wanted = {page: render_page(page.read_text("utf-8"), page.parent) for page in PAGES} | figures()
    changed = {path: text for path, text in wanted.items() if path.read_text("utf-8") != text}
    for path, text in changed.items():
        name = path.relative_to(ROOT).as_posix()
        old, new = path.read_text("utf-8").splitlines(keepends=True), text.splitlines(keepends=True)
        if options.check:
            sys.stdout.writelines(difflib.unified_diff(old, new, name, f"{name} as its files say"))
        else:
            path.write_text(text, encoding="utf-8")
            print(f"{name} written")
    sys.exit(1 if options.check and changed else 0)


def figures() -> dict[Path, str]:
    """The pictures of the pages. That of the demo stays as it is while its scores are a transcribed table."""
    found = {
        "truth-world.svg": truth_world_drawing(load("truth-world")),
        "encoder-curve.svg": growth_figure.curve(ROOT / "assets" / "encoder" / "log.tsv"),
        "step-time.svg": step_figure.drawing(load("step-time-mbert"), load("step-time-small")),
    }
    demo = load("demo")
    if demo["shape"] == "trail":
        found["demo-trail.svg"] = trail_figure(demo)
    return {ROOT / "docs" / name: text for name, text in found.items()}


def trail_figure(values: Json) -> str:
    """The report's picture of the scores after each stage."""
    run = Run(Path(), values, {}, aggregate(values), {}, {}, "", {}, [])
    picture = report_trail(run)
    assert picture is not None
    return standalone(picture.svg)


def load(file: str) -> Json:
    """A results file by its name without ending."""
    values: Json = json.loads((RESULTS / f"{file}.json").read_text("utf-8"))
    return values


def render_page(text: str, folder: Path) -> str:
    """The page with every block made anew; `folder` is where it lies, for links."""
    return BLOCK.sub(
        lambda m: f"<!-- table: {m['name']} -->\n{block(m['name'], folder)}<!-- /table: {m['name']} -->\n", text
    )


def block(name: str, folder: Path) -> str:
    """What stands between the markers of a table."""
    file, _, part = name.partition("/")
    files, maker = TABLES.get(name, ((file,), None))
    contents = [load(name) for name in files]
    table = maker(*contents) if maker else SHAPES[contents[0]["shape"]](contents[0], part)
    made = [made_of(values) for values in contents]
    above = list(dict.fromkeys(text for text in map(stale, made) if text))
    below = [provenance(one, file, folder) for one, file in zip(made, files, strict=True)]
    return "\n\n".join([*above, table, *below]) + "\n"


def made_of(values: Json) -> Json:
    """How a file was made: its own words, or what the step benchmark notes of its environment."""
    if "made" in values:
        own = [t for t in values.get("tables", {}).values() if "numerics" in t["columns"]]
        found = sorted({row[-1] for table in own for row in table["rows"]} - {None})
        return values["made"] | ({"numerics": found} if own else {})
    where = values["environment"]
    return {
        "command": f"python benchmarks/step.py --shape {values['shape']} --repeats {values['repeats']}",
        "commit": values.get("commit") or where["commit"],
        "versions": where["versions"],
        "machine": f"{where['cpu']}, {where['threads']} thread",
        "numerics": None,
        "seeds": [],
        "transcribed": False,
    }


def stale(made: Json) -> str:
    """The sentence that says so, where the code of today would end in other digits; else nothing."""
    every = made["numerics"] if isinstance(made["numerics"], list) else [made["numerics"]]
    old = " and ".join(str(number) for number in every if number not in (None, NUMERICS))
    if not old:
        return ""
    which = "in part made with" if isinstance(made["numerics"], list) else "made with"
    return f"*Stale: {which} numerics {old}; today's code is numerics {NUMERICS} and gives other digits.*"


def provenance(made: Json, file: str, folder: Path) -> str:
    """One line: command, commit, file; of scores seeds and numerics, of times the versions and the machine."""
    path, scores = RESULTS / f"{file}.json", isinstance(made["numerics"], int)
    facts = [f"Made by `{made['command']}`"] if made["command"] else []
    if made["seeds"] and "--seeds" not in made["command"]:
        facts.append(f"seed{'s' * (len(made['seeds']) > 1)} {', '.join(map(str, made['seeds']))}")
    facts += [f"{name} {made['versions'][name]}" for name in SHOWN if made["versions"].get(name) and not scores]
    facts += [f"{'transcribed from ' * made['transcribed']}commit {short(made['commit'])}"] if made["commit"] else []
    facts += [f"numerics {made['numerics']}"] if scores else []
    facts += [made["machine"]] if made["machine"] and not scores else []
    return "; ".join([*facts, f"[{path.name}]({Path(os.path.relpath(path, folder)).as_posix()})"]) + "."


def short(commits: str) -> str:
    """Commits as people write them, with what follows the hash ("-dirty") kept."""
    return re.sub(r"\b([0-9a-f]{7})[0-9a-f]{33}\b", r"\1", commits)


def columns(values: Json, part: str) -> str:
    """A table whose cells are in the file as they are printed; numbers in a column `numerics` are of the rows."""
    table = values["tables"][part] if part else values
    return markdown(table["columns"], [["" if cell is None else str(cell) for cell in row] for row in table["rows"]])


def trail(values: Json, _: str) -> str:
    """The stages of a run over seeds: scores, paired steps, source, wall and CPU seconds of one seed."""
    found = aggregate(values)
    timed = any(stage.cpu_seconds for stage in found.stages)
    header = ["stage", *found.targets, *(["average"] if len(found.targets) > 1 else []), "step", "up"]
    header += [f"source ({found.source})", "seconds", *(["CPU s"] if timed else [])]
    lines = []
    for stage in found.stages:
        line = [
            LONG_NAMES.get(stage.stage, stage.label),
            *(_text(stage.targets.get(t)) for t in found.targets),
        ]
        line += [_text(stage.average)] if len(found.targets) > 1 else []
        line += [_text(stage.step), f"{stage.step.up}/{stage.step.stat.n}" if stage.step else "", _text(stage.source)]
        line += [_seconds(stage.seconds), *([_seconds(stage.cpu_seconds)] if timed else [])]
        lines.append(line)
    return markdown(header, lines)


def _text(value: Stat | Step | None) -> str:
    return "" if value is None else str(value)


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.0f}"


SHAPES: dict[str, Callable[[Json, str], str]] = {"columns": columns, "trail": trail}


if __name__ == "__main__":
    main()
