"""Every file of a finished run is damaged, one at a time: the same command ends in the same bits, and says so.

`XLT_DAMAGE=all` damages every file in every way; by default one file of each kind is damaged in one, some in all.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest

from xlt_engine.engine import Progress, verify_run

ALL = os.environ.get("XLT_DAMAGE") == "all"
OPTIONS = () if ALL else ("selftrain.rounds=1", "arms.baseline=false")
DERIVED = ("run.json", "config.toml", "status.json", "summary.json", "report.html", "README.md")
"""Written again by every start, from what is verified."""
FOUR = ("stage.json", "model.safetensors", "scores.json", "decision.json")
LOG = ("events.jsonl", ".lock")
TIMES = ("seconds", "cpu_seconds", "warnings", "checksum")


def flip(path: Path) -> None:
    """One bit, at a place that depends on the file's name."""
    data = bytearray(path.read_bytes())
    place = crc32(str(path.name).encode()) % max(1, 8 * len(data))
    data[place // 8] ^= 1 << place % 8
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def zero(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


DAMAGES: tuple[Callable[[Path], None], ...] = (flip, cut, zero, Path.unlink)


class Heard(Progress):
    """The warnings of a run."""

    def __init__(self) -> None:
        self.warnings: list[Any] = []

    def warning(self, warning: Any) -> None:
        self.warnings.append(warning)


def results(run: Path) -> dict[str, str]:
    """Everything a run has found out and what it is made from, by file, without times and warnings."""
    found = {}
    for path in sorted(p for part in ("seed-*", "store", "tokenizer") for p in run.glob(f"{part}/**/*") if p.is_file()):
        data = path.read_bytes()
        if path.name == "stage.json":
            record = {key: value for key, value in json.loads(data).items() if key not in TIMES}
            data = json.dumps(record, sort_keys=True).encode()
        found[str(path.relative_to(run))] = hashlib.sha256(data).hexdigest()
    summary = json.loads((run / "summary.json").read_bytes())
    rows = [{key: value for key, value in row.items() if key not in TIMES} for row in summary["rows"]]
    return found | {"summary.json": json.dumps(rows)}


def victims(run: Path) -> Iterator[tuple[Path, Callable[[Path], None]]]:
    """The files to damage, with the damage; by default one file of each name in each part of the run."""
    files = [p.relative_to(run) for p in sorted(run.rglob("*")) if p.is_file() and "models" not in p.parts]
    kinds = {(p.parts[0], p.name): p for p in files if ALL or p.suffix != ".svg"}
    for number, path in enumerate(files if ALL else kinds.values()):
        for damage in DAMAGES if ALL or path.name in FOUR else (DAMAGES[number % 4],):
            yield path, damage


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return {"folder": tmp_path_factory.mktemp("finished")}


@pytest.fixture
def run(finished: dict[str, Any], tiny: Callable[..., Any]) -> Any:
    """A finished run, made once, and what it found out."""
    if "run" not in finished:
        made = type(tiny())(finished["folder"] / "ner", "ner")
        made.run(*OPTIONS)
        made.run(*OPTIONS)
        finished["run"], finished["results"] = made, results(made.folder / "run")
    return finished["run"]


def test_nothing_is_silent(run: Any, finished: dict[str, Any]) -> None:
    expected, home, verdicts = finished["results"], run.folder / "run", dict[str, str]()
    for number, (path, damage) in enumerate(victims(home)):
        where = run.folder / f"damaged-{number}"
        shutil.copytree(home, where, symlinks=True)
        damage(where / path)
        name, heard = f"{path} {damage.__name__}", Heard()
        kept = path.name in (*DERIVED, *LOG) or path.suffix == ".svg"
        assert kept or verify_run(where).exit_code in (3, 4), name
        run.run(*OPTIONS, where=where.name, progress=heard)
        assert results(where) == expected, name
        named = [w for w in heard.warnings if path.name in w.message and "Look at the disk" in w.message]
        assert kept or named, f"{name}: silent"
        assert not verify_run(where).damaged, name
        verdicts[name] = "; ".join(w.message for w in named)
        shutil.rmtree(where)
    assert len(verdicts) > 40
