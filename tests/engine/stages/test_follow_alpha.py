"""Who follows alpha from the command line to the mask that trains passes few frames and files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


def test_alpha_can_be_followed(tiny: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[3] / "benchmarks")
    from follow_alpha import FILES, FRAMES, follow

    recipe = tiny("ner")
    words = ["run", str(recipe.recipe), "--stage", "selftrain", "--quiet", "--set", "selftrain.rounds=1"]
    frames, files = follow(*words, "--run-dir", str(recipe.folder / "run"))
    assert frames[0][0] == "main"
    assert frames[-1] == ("choose_threshold", "engine/pseudolabels/thresholds.py")
    assert len(frames) <= FRAMES, frames
    assert {"engine/recipe/config/stages.py", "engine/stages/hard.py", "engine/pseudolabels/filters.py"} <= files.keys()
    assert len(files) <= FILES, files
