from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from xlt_engine.kernels import dispatch


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _reference_path() -> Iterator[None]:
    with dispatch.using("reference"):
        yield


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(20231004)


@pytest.fixture
def relative_error() -> Callable[[Tensor, Tensor], float]:
    """Frobenius norm of the difference over that of the reference, in fp64; no absolute slack."""

    def measure(actual: Tensor, reference: Tensor) -> float:
        assert actual.shape == reference.shape
        truth = reference.detach().double()
        assert truth.norm() > 0, "a zero reference cannot tell right from wrong"
        return float((actual.detach().double() - truth).norm() / truth.norm())

    return measure
