from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import xlt_engine
from xlt_engine.kernels import dispatch

SCRIPT = Path(__file__).with_name("compile_for_gpu.py")
# Bytes of shared memory that one program may have: A100, H100.
SHARED = {80: 163 << 10, 90: 227 << 10}


@pytest.fixture(scope="module", params=[90, 80])
def compiled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[int, list[Any]]:
    """What the compiler made of every kernel, for one compute capability."""
    if not dispatch._has_triton:
        pytest.skip("triton is not installed")
    if dispatch._interpreted:
        pytest.skip("TRITON_INTERPRET=1: kernels are interpreted, not compiled")
    folder = tmp_path_factory.mktemp("triton")
    (folder / "xlt_engine").symlink_to(Path(xlt_engine.__file__).parent)
    environment = {**os.environ, "TRITON_CACHE_DIR": str(folder / "cache"), "PYTHONPATH": str(folder)}
    ran = subprocess.run(
        [sys.executable, str(SCRIPT), str(request.param)], capture_output=True, text=True, env=environment, timeout=600
    )
    assert ran.returncode == 0, ran.stderr
    return request.param, [json.loads(line) for line in ran.stdout.splitlines()]


def test_every_kernel_compiles_and_fits(compiled: tuple[int, list[Any]]) -> None:
    """16-bit kernels spill no register on 9.0; on 8.0, for which tiles were not chosen, little."""
    capability, kernels = compiled
    assert len({k["kernel"] for k in kernels}) > 15
    assert [k for k in kernels if k["shared"] > SHARED[capability]] == []
    allowed = 0 if capability >= 90 else 512
    assert [k for k in kernels if k["stack"] > allowed and k["dtype"] != "float32"] == []


def test_16_bit_products_run_on_the_matrix_units(compiled: tuple[int, list[Any]]) -> None:
    """On 9.0 by warp group, except for tiles of short sequences, which are too small for one."""
    capability, kernels = compiled
    products = [k for k in kernels if k["dots"] and k["dtype"] != "float32"]
    assert len(products) > 3
    for kernel in products:
        small = capability < 90 or kernel["operation"] == "attention 24"
        assert kernel["matrix_units" if small else "wgmma"], kernel
