"""The core of docs/design.md runs alone: without the annexes' folders the demo's recipe ends in the same bits."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

import xlt_engine
from xlt_engine.data.synthetic import demo_world
from xlt_engine.engine import load_recipe
from xlt_engine.engine.recipe.toml_dump import dump_toml
from xlt_engine.engine.runs.synthetic_data import settled

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = Path(xlt_engine.__file__).parent
SIZES = {"general": 300, "control": 300, "train": 200, "unlabelled": 400, "test": 100}
"""Sentences of the world, a tenth of the demo's."""
SHORT = (
    *("pretrain.epochs=1", "btf.epochs=1", "finetune.epochs=2", "selftrain.rounds=1", "threads=1", "seeds=[0]"),
    *("selftrain.soft.epochs=1", "selftrain.hard.epochs=0.5", "selftrain.alpha.rule=fixed:0.1"),
)
COMMAND = (
    "import sys; from xlt_engine.engine import run; run(sys.argv[1], run_dir=sys.argv[2], seeds=[0], targets=['de'])"
)


def core_rooms() -> list[str]:
    """The rooms that docs/design.md names in its section on the core."""
    text = (ROOT / "docs" / "design.md").read_text("utf-8")
    section = text.partition("## The core\n")[2].partition("The others are annexes")[0]
    return re.findall(r"`([a-z/]+)`", section)


def core_alone(folder: Path) -> Path:
    """A copy of the package that has the core's rooms alone; the folder to import it from."""
    for room in ("", *core_rooms()):
        (folder / "xlt_engine" / room).mkdir(parents=True)
        for path in (PACKAGE / room).iterdir():
            if path.is_file() and path.suffix in (".py", ".tsv", ".toml"):
                shutil.copy(path, folder / "xlt_engine" / room)
        for below in ("fused", "optimizer", "config", "recipes"):  # folders that are no room of their own
            if (PACKAGE / room / below).is_dir() and room:
                shutil.copytree(PACKAGE / room / below, folder / "xlt_engine" / room / below)
    return folder


def bits(run: Path) -> dict[str, str]:
    """By file, the hash of everything that a run has found out, but for times."""
    names = ("*.safetensors", "scores.json", "curve.csv", "fingerprint.json", "decision.json", "tokenizer.json")
    files = sorted(path for name in names for path in run.glob(f"seed-*/**/{name}"))
    return {str(path.relative_to(run)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def made(recipe: Path, run: Path, path: Path | None) -> dict[str, str]:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    command = [sys.executable, "-c", COMMAND, str(recipe), str(run)]
    done = subprocess.run(command, env=environment, cwd=run.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return bits(run)


def test_the_core_alone_gives_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = partial(demo_world.WorldConfig, **{f"{name}_sentences": count for name, count in SIZES.items()})
    monkeypatch.setattr(demo_world, "WorldConfig", small)
    alone = core_alone(tmp_path / "alone")
    assert not any(
        (alone / "xlt_engine" / "engine" / name).exists() for name in ("report", "methods", "lab", "commands")
    )
    config = replace(settled(load_recipe("demo", SHORT).config, tmp_path), world=None)
    recipe = tmp_path / "demo.toml"
    recipe.write_text(dump_toml(config, {}), encoding="utf-8")
    whole, core = made(recipe, tmp_path / "whole", None), made(recipe, tmp_path / "core", alone)
    assert len(whole) > 20
    assert core == whole
    assert (tmp_path / "whole" / "report.html").exists()
    assert not (tmp_path / "core" / "report.html").exists()
