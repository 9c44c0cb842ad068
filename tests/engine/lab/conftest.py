"""A finished run for the files that look at one."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def tiny_files() -> Any:
    """The module that writes the files of the tiny recipes."""
    spec = spec_from_file_location("tiny_files", Path(__file__).parents[1] / "conftest.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Where the run of a file lies, once a test has made it."""
    return [tmp_path_factory.mktemp("made")]


@pytest.fixture
def folder(tiny: Callable[[str], Any], made: list[Path], tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A run of the tiny recipe with the file's `SETTINGS`, if it has any: a copy, for a test to change."""
    home = made[0] / "ner"
    if not home.exists():
        run = tiny("ner")
        shutil.copytree(run.folder, home)
        type(run)(home, "ner").run(*getattr(request.module, "SETTINGS", ()))
    shutil.copytree(home / "run", tmp_path / "copy")
    return tmp_path / "copy"
