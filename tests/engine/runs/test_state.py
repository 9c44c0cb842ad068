"""The one answer to whether a stage is up to date: fresh, outdated by what, damaged where."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from xlt_engine.engine.plan import digest
from xlt_engine.engine.runs.stage_state import INPUTS, state
from xlt_engine.engine.storage.files import atomic_write_json, sha256_file, write_sealed_json

WANTED = {"identity": 2, "kind": "soft", "selftrain.cap": 0}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A run with two finished stages, the second made from the first."""
    for name, inputs in (("first", {}), ("second", {"first": "weights"})):
        folder = tmp_path / name
        folder.mkdir()
        atomic_write_json(folder / "fingerprint.json", WANTED)
        (folder / "model.safetensors").write_text(name, "utf-8")
        hashes = {path.name: sha256_file(path) for path in folder.iterdir()}
        inputs = {stage: sha256_file(tmp_path / stage / "model.safetensors") for stage in inputs}
        write_sealed_json(folder / "stage.json", {"fingerprint": digest(WANTED), "hashes": hashes, INPUTS: inputs})
    return tmp_path


@pytest.mark.parametrize(
    ("wanted", "changed", "outdated"),
    [
        (WANTED, (), ""),
        (WANTED | {"selftrain.cap": 7}, ("selftrain.cap",), "selftrain.cap changed"),
        (WANTED | {"selftrain.voters": 3}, ("selftrain.voters",), "selftrain.voters changed"),
        (WANTED | {"identity": 3}, ("identity",), "an earlier version named its settings otherwise"),
    ],
)
def test_by_what_it_should_have_been_made_from(
    home: Path, wanted: dict[str, Any], changed: tuple[str, ...], outdated: str
) -> None:
    found = state(home, "second", wanted)
    assert (found.finished, found.changed, found.outdated, found.fresh) == (True, changed, outdated, not changed)
    # The same of what was only begun, which is no result but can be gone on with.
    (home / "second" / "stage.json").unlink()
    begun = state(home, "second", wanted)
    assert (begun.finished, begun.changed, begun.fresh) == (False, changed, False)


def test_by_files_and_inputs(home: Path) -> None:
    assert state(home, "second").fresh
    record = home / "first" / "stage.json"
    write_sealed_json(record, {"fingerprint": digest(WANTED), "hashes": {"model.safetensors": "others"}})
    other = state(home, "second", WANTED)
    assert (other.inputs, other.fresh) == (("first",), False)
    assert other.outdated == "first has other weights than it was made from"
    (home / "second" / "model.safetensors").write_text("bits", "utf-8")
    assert state(home, "second").damaged == {"model.safetensors": "has changed since it was written"}
    assert state(home, "second", WANTED, hashed=False).damaged == {}
    assert not state(home, "third", WANTED).finished
