"""The options of `ablate`, and of `run --reuse`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def test_ablate(cli: Any, finished: Any, tmp_path: Path) -> None:
    home = tmp_path / "ablation"
    given = (finished.files / "tiny.toml", "--rows", "no-st,trail-soft1", "--run-dir", home, "--jobs", "1")
    plan = json.loads(cli("ablate", *given, "--dry-run", "--json", "--reuse", finished.folder).out)
    assert (plan["planned"], plan["shared"]) == (5 + 3 + 4, 5 + 3 + 4), "all of it is in the finished run"
    answer = cli("ablate", *given, "--reuse", finished.folder, "--samples", "20")
    assert answer.code == 0, answer.err
    assert "3 rows, 12 stages, 5 of them distinct, 5 are there; jobs: 1" in answer.err
    assert "row 3 of 3 is complete: " in answer.err
    assert answer.out.endswith(f"report: {home / 'ablation.html'}\n")
    assert "minus ours" in answer.out
    values = json.loads(cli("ablate", *given, "--quiet", "--json", "--samples", "20").out)
    assert [row["name"] for row in values["rows"]] == ["ours", "no-st", "trail-soft1"]
    assert values["bootstrap"]["samples"] == 20


def test_ablate_says_what_is_wrong(cli: Any, finished: Any) -> None:
    recipe = finished.files / "tiny.toml"
    answer = cli("ablate", recipe, "--rows", "no-vn")
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.startswith("error: --rows no-vn: there is no such row or group; did you mean no-vm?")
    assert cli("ablate", recipe, "--seeds", "x").code == 2
    assert "there is no such folder" in cli("ablate", recipe, "--reuse", finished.files / "none").err
    assert "mbert-wiki" in cli("ablate", "--list").out


def test_run_takes_over(cli: Any, finished: Any, tmp_path: Path) -> None:
    recipe = finished.files / "tiny.toml"
    answer = cli("run", recipe, "--run-dir", tmp_path / "other", "--reuse", finished.folder)
    assert answer.out.startswith("all 5 stages are up to date\n")
    assert "seed-0/de/hard1: taken over from " in answer.err
