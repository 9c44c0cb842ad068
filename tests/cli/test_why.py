"""`thresholds` and `why` on the command line: text, JSON, exit codes."""

import json
import shutil
from pathlib import Path
from typing import Any


def test_thresholds(cli: Any, finished: Any) -> None:
    answer = cli("thresholds", finished.folder, "--draws", "5")
    assert answer.code == 0, answer.err
    assert "de, round 1: alpha 0.20 by fixed:0.2" in answer.out
    assert "second-difference" in answer.out
    assert "best by gold" in answer.out
    chosen = cli("thresholds", finished.folder, "--rule", "fixed:0.2", "--draws", "5", "--json")
    (study,) = json.loads(chosen.out)
    assert [r["rule"] for r in study["results"]] == ["fixed:0.2"]
    assert study["results"][0]["alpha"] == study["alpha"] == 0.2
    wrong = cli("thresholds", finished.folder, "--rule", "slop")
    assert wrong.code == 2
    assert "did you mean 'slope'?" in wrong.err


def test_why(cli: Any, finished: Any) -> None:
    answer = cli("why", finished.folder, "de:3")
    assert answer.code == 0, answer.err
    assert answer.out.startswith("de:3  (de:4)  unlabelled de, seed 0\n")
    assert str(finished.files / "de.txt") + ", line 4" in answer.out
    story = json.loads(cli("why", finished.folder, "en:0", "--json").out)
    assert (story["role"], story["words"][:2]) == ("source", ["Anna", "lives"])
    assert story["gold"][0] == "B-PER"
    unknown = cli("why", finished.folder, "de:99")
    assert (unknown.code, unknown.out) == (3, "")
    different = set((finished.files / "de.txt").read_text("utf-8").splitlines())
    assert len(different) < 30, "a text that comes again is one example"
    assert f"give de:0 to de:{len(different) - 1}" in unknown.err
    nothing = cli("why", finished.files, "de:0")
    assert nothing.code == 3
    assert "not a run folder" in nothing.err


def test_of_a_run_that_moved_with_its_files(cli: Any, finished: Any, tmp_path: Path, monkeypatch: Any) -> None:
    """`why` finds the line of a file that lies elsewhere now."""
    shutil.copytree(finished.files, tmp_path / "project")
    folder, moved = tmp_path / "elsewhere", tmp_path / "elsewhere/project/run"
    folder.mkdir()
    (tmp_path / "project").rename(folder / "project")
    for name in ("run.json", "config.toml"):
        text = (moved / name).read_text("utf-8")
        assert str(finished.files) in text
        (moved / name).write_text(text.replace(str(finished.files), str(tmp_path / "project")), "utf-8")
    monkeypatch.chdir(folder)
    answer = cli("why", "project/run", "de:3")
    assert f"{folder}/project/de.txt, line 4" in answer.out
