"""The options of `ablate`, and of `run --reuse`."""

import json
from pathlib import Path
from typing import Any


def test_ablate(cli: Any, finished: Any, tmp_path: Path) -> None:
    home = tmp_path / "ablation"
    given = (finished.files / "tiny.toml", "--rows", "no-st,trail-soft1", "--run-dir", home, "--jobs", "1")
    plan = json.loads(cli("ablate", *given, "--dry-run", "--json", "--reuse", finished.folder).out)
    assert (plan["planned"], plan["shared"]) == (5 + 3 + 4, 5 + 3 + 4), "all of it is in the finished run"
    answer = cli("ablate", *given, "--reuse", finished.folder)
    assert answer.code == 0, answer.err
    assert "3 rows, 12 stages, 5 of them distinct, 5 are there; jobs: 1" in answer.err
    assert "row 3 of 3 is complete: " in answer.err
    assert answer.out.endswith(f"report: {home / 'ablation.md'}\n")
    assert "minus ours" in answer.out
    values = json.loads(cli("ablate", *given, "--quiet", "--json").out)
    assert [row["name"] for row in values["rows"]] == ["ours", "no-st", "trail-soft1"]


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


def test_tables(cli: Any, finished: Any, tmp_path: Path) -> None:
    answer = cli("tables", "conll", finished.folder, "--out", tmp_path / "out")
    assert answer.code == 0, answer.err
    assert "| ours | paper | 76.88 | 78.38 | 82.08 | 79.11 |" in answer.out
    assert answer.out.strip() == (tmp_path / "out" / "tables.md").read_text("utf-8").strip()
    values = json.loads(cli("tables", "conll", finished.folder, "--json").out)
    assert values == json.loads((tmp_path / "out" / "tables.json").read_bytes())
    scores = json.loads((finished.folder / "seed-0/de/finetune/scores.json").read_bytes())["scores"]
    score = next(s["value"] for s in scores if (s["language"], s["metric"]) == ("de", "entity_f1"))
    rows = {row["name"]: row for table in values["tables"] for row in table["rows"]}
    assert rows["no-st"]["here"]["de"]["seeds"] == {"0": score}
    wrong = cli("tables", "cls", finished.folder)
    assert (wrong.code, wrong.out) == (3, "")
    assert "is a run of ner" in wrong.err
    assert cli("tables", "cls", tmp_path / "none").code == 2
