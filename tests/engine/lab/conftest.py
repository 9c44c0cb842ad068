"""A finished run for the files that look at one."""

import shutil
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="module")
def made(tiny_once: Any, request: pytest.FixtureRequest) -> list[Path]:
    """Where a run of the tiny recipe lies, with the file's `SETTINGS`, if it has any."""
    recipe = tiny_once("ner")
    recipe.run(*getattr(request.module, "SETTINGS", ()))
    return [recipe.folder.parent]


@pytest.fixture
def folder(made: list[Path], tmp_path: Path) -> Path:
    """A copy of its folder, for a test to change."""
    shutil.copytree(made[0] / "ner" / "run", tmp_path / "copy")
    return tmp_path / "copy"
