"""The Triton kernels as a GPU that is not there would get them: registers, spills, shared memory, matrix units."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import compiled_budgets
import pytest

import xlt_engine
from xlt_engine.kernels import dispatch

PARTS = (("9.0", "bf16", ("loss, recomputed",), True), ("8.0", "bf16", ("votes", "optimizer"), False))
"""A part of what `compiled_budgets.py` compiles: all of it would take a quarter of an hour."""


@pytest.fixture(scope="module", autouse=True)
def _fresh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing is taken from the cache of another run, and the package is this one."""
    folder = tmp_path_factory.mktemp("triton")
    (folder / "xlt_engine").symlink_to(Path(xlt_engine.__file__).parent)
    path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_CACHE_DIR", str(folder / "cache"))
        patch.setenv("PYTHONPATH", path)
        yield


@pytest.mark.skipif(not dispatch._has_triton, reason="triton is not installed")
@pytest.mark.skipif(dispatch._interpreted, reason="TRITON_INTERPRET=1: kernels are interpreted, not compiled")
@pytest.mark.parametrize(("capability", "dtype", "families", "products"), PARTS)
def test_kernels_keep_their_budgets(capability: str, dtype: str, families: tuple[str, ...], products: bool) -> None:
    rows = compiled_budgets.compile_part(capability, dtype, families)
    assert len({row["kernel"] for row in rows}) >= 4
    assert any(row["products"] for row in rows) == products
    assert list(compiled_budgets.violations(rows)) == []


def row(**changes: Any) -> dict[str, Any]:
    """A kernel within every limit."""
    kernel = {"capability": "9.0", "dtype": "bf16", "kernel": "votes.votes", "operation": "votes", "warps": 4}
    kernel |= {"registers": 64, "stack": 0, "shared": 8192, "products": False, "units": None}
    return kernel | changes


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, ""),
        ({"stack": 8}, "8 bytes of registers spilled, 0 allowed"),
        ({"capability": "8.9", "shared": 102_400}, "102400 bytes of shared memory, 101376 there are"),
        ({"registers": 129}, "129 registers leave room for 3 programs of 4"),
        ({"registers": 128}, ""),
        ({"products": True, "units": "mma.sync"}, "products by mma.sync, not wgmma"),
        ({"products": True, "units": "wgmma"}, ""),
        ({"products": True, "units": "mma.sync", "operation": "attention 24, inference"}, ""),
        ({"products": True, "units": "mma.sync", "capability": "8.0"}, ""),
        ({"products": True, "units": None, "operation": "attention 24"}, "products by None"),
        ({"products": True, "dtype": "fp32", "registers": 255}, ""),
    ],
)
def test_what_is_beyond_a_limit(changes: dict[str, Any], said: str) -> None:
    found = list(compiled_budgets.violations([row(**changes)]))
    assert len(found) == bool(said)
    assert not said or said in found[0]


def test_the_summary_has_the_largest_of_each_kernel() -> None:
    rows = [row(registers=60), row(registers=70, stack=4), row(kernel="gelu.gelu"), row(units="wgmma")]
    first, second = compiled_budgets.summary(rows)
    assert (first["kernel"], first["specialisations"]) == ("gelu.gelu", 1)
    assert (second["kernel"], second["specialisations"], second["registers"], second["stack"]) == (
        "votes.votes",
        3,
        70,
        4,
    )
    assert second["units"] == ["wgmma"]


def test_a_part_is_replaced_and_the_others_stay(tmp_path: Path) -> None:
    file = tmp_path / "budgets.json"
    for capability, registers in (("8.0", 60), ("9.0", 70), ("8.0", 80)):
        compiled_budgets.add_part(file, capability, "bf16", [row(capability=capability, registers=registers)])
    parts = json.loads(file.read_text())["parts"]
    assert [(p["capability"], p["kernels"][0]["registers"]) for p in parts] == [("9.0", 70), ("8.0", 80)]
