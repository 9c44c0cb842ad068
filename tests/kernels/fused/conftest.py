"""The Triton kernels, on a GPU or under Triton's interpreter on the CPU.

`XLT_KERNELS=triton TRITON_INTERPRET=1 pytest tests/kernels` runs them on the CPU; on a machine with a CUDA device plain
`pytest -m gpu tests/kernels` runs the same tests there, in bf16 and fp16 too.
"""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from xlt_engine.kernels import dispatch

INTERPRETED = dispatch._has_triton and dispatch._interpreted


NO_DEVICE = pytest.mark.skip(reason="no CUDA device, and not XLT_KERNELS=triton TRITON_INTERPRET=1")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """`device`: where the kernels run. `dtype`: fp32 on the interpreter, whose 16-bit arithmetic is not a GPU's."""
    on_cuda = not INTERPRETED
    if "device" in metafunc.fixturenames:
        marks = [pytest.mark.gpu] * on_cuda + [NO_DEVICE] * (on_cuda and not torch.cuda.is_available())
        metafunc.parametrize("device", [pytest.param(torch.device("cuda" if on_cuda else "cpu"), marks=marks)], ids=str)
    if "dtype" in metafunc.fixturenames:
        several = on_cuda and torch.cuda.is_available()
        types = [torch.float32, torch.float16, torch.bfloat16] if several else [torch.float32]
        metafunc.parametrize("dtype", types, ids=lambda d: str(d).removeprefix("torch."))


@pytest.fixture(autouse=True)
def _kernels_and_poison(_reference_path: None) -> Iterator[None]:
    """The Triton path, and memory that is NaN (or the largest integer) until something is written."""
    if not (INTERPRETED or torch.cuda.is_available()):
        yield
        return
    with dispatch.using("triton"):
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = True
        assert torch.empty(3).isnan().all()
        yield
        torch.use_deterministic_algorithms(False)


@pytest.fixture
def as_good_as() -> Callable[..., None]:
    """Asserts that a result is as near to the truth as torch's own computation in the same precision."""

    def check(actual: Tensor, native: Tensor, truth: Tensor, *, factor: float = 2.0) -> None:
        """Frobenius norm, and the worst row by its own norm; no absolute slack.

        16-bit results may have `factor` times the error of `native`, the plain torch computation in their dtype. fp32
        results may have a relative error of 1e-5, or `factor` times the native one where that is more.
        """
        assert actual.shape == truth.shape
        assert actual.dtype == native.dtype
        assert bool(actual.isfinite().all()), "unwritten or overflowed elements"
        floor = 1e-5 if actual.dtype == torch.float32 else 0.0
        ours, plain, true = (t.detach().cpu().double() for t in (actual, native, truth))
        assert true.norm() > 0, "a zero reference cannot tell right from wrong"
        for axis in ("all", "rows"):
            if axis == "rows" and true.dim() < 2:
                continue
            flat = [t.reshape(1, -1) if axis == "all" else t.reshape(-1, t.shape[-1]) for t in (ours, plain, true)]
            size = flat[2].norm(dim=1)
            counted = size > 0
            assert not flat[0][~counted].any(), "a row that must be zero is not"
            error = ((flat[0] - flat[2]).norm(dim=1) / size)[counted].max()
            allowed = ((flat[1] - flat[2]).norm(dim=1) / size)[counted].max() * factor
            assert error <= max(float(allowed), floor), f"{axis}: relative error {error:.2e}, allowed {allowed:.2e}"

    return check
