from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from xlt_engine.kernels import dispatch, dropout

SHAPES = [(7,), (1, 1), (37, 767), (3, 4100), (5, 3, 8), (0, 4)]
SEEDS = [5, -3, 2**62 + 12345]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("site", [0, 1, 1_000_001])
def test_drops_what_the_reference_drops(
    shape: tuple[int, ...], seed: int, site: int, device: torch.device, dtype: torch.dtype, generator: torch.Generator
) -> None:
    x = torch.randn(shape, generator=generator).to(device, dtype)
    with dispatch.using("reference"):
        expected = dropout(x.cpu().float(), 0.13, seed=seed, site=site).to(dtype)
    for given in (seed, torch.tensor(seed, device=device)):
        assert torch.equal(dropout(x, 0.13, seed=given, site=site).cpu(), expected)


def test_backward_replays_the_mask_on_strided_tensors(device: torch.device, dtype: torch.dtype, generator: Any) -> None:
    x = torch.randn(65, 40, generator=generator).to(device, dtype).requires_grad_()
    upstream = torch.randn(40, 65, generator=generator).to(device, dtype)
    out = dropout(x.t(), 0.4, seed=9, site=3)
    (gradient,) = torch.autograd.grad(out, x, upstream)
    mask = (out != 0).t()
    torch.testing.assert_close(gradient, (upstream.float().t() * mask / 0.6).to(dtype), rtol=1e-2, atol=0)
    assert 0.5 < float(mask.float().mean()) < 0.7


def test_the_expectation_is_kept(device: torch.device, relative_error: Callable[[Tensor, Tensor], float]) -> None:
    out = dropout(torch.ones(300, 1000, device=device), 0.1, seed=1, site=2)
    assert relative_error(out.mean(), torch.tensor(1.0)) < 5 * (0.1 / 0.9 / 300_000) ** 0.5
