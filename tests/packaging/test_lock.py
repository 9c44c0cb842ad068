"""The lock file of a release holds what constraints.txt pins for the core and the extra "corpus", with hashes."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BY_DEVICE = {"torch", "triton"}


def pins(text: str) -> dict[str, str]:
    """Version by normalised name."""
    found = re.findall(r"^([A-Za-z0-9_.-]+)==([^ ;\n]+)", text, re.M)
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in found}


def test_the_lock_has_the_pinned_versions_and_a_hash_of_each() -> None:
    lock = (ROOT / "requirements.lock").read_text("utf-8")
    locked = pins(lock)
    needed = pins((ROOT / "constraints.txt").read_text("utf-8").split('# The extra "datasets"')[0])
    assert {name: locked.get(name) for name in needed.keys() - BY_DEVICE} == {
        name: version for name, version in needed.items() if name not in BY_DEVICE
    }
    assert not BY_DEVICE & locked.keys()
    lines = lock.replace("\\\n", " ").splitlines()
    entries = [line for line in lines if line and not line.startswith("#")]
    assert len(entries) == len(locked)
    assert all(re.fullmatch(r"\S+==\S+(\s+--hash=sha256:[0-9a-f]{64})+", entry) for entry in entries)
    assert "://" not in lock


def test_the_build_tool_is_the_locked_one() -> None:
    project = (ROOT / "pyproject.toml").read_text("utf-8")
    locked = pins((ROOT / "requirements.lock").read_text("utf-8"))
    assert f'requires = ["setuptools=={locked["setuptools"]}"]' in project
