"""Operations on ever new shapes must leave nothing behind: a cache entry for each shape fragments the heap."""

import pytest
import torch
from torch.backends import mkldnn

from xlt_engine.kernels import linear_gelu, linear_glu, voter_mlp


@pytest.mark.skipif(not mkldnn.is_available(), reason="this torch has no oneDNN")
@pytest.mark.parametrize("gradient", [True, False], ids=["training", "inference"])
def test_gelu_makes_no_primitive_for_a_shape(gradient: bool, capfd: pytest.CaptureFixture[str]) -> None:
    """oneDNN keeps a compiled primitive for every shape it has seen."""
    weight, bias = torch.randn(8, 6, requires_grad=gradient), torch.zeros(8, requires_grad=gradient)
    back = torch.randn(2, 6, 8, requires_grad=gradient)
    with mkldnn.verbose(mkldnn.VERBOSE_ON_CREATION):
        for rows in (3, 5):
            out = linear_gelu(torch.randn(rows, 6), weight, bias).sum()
            out = out + linear_glu(torch.randn(rows, 6), weight, bias, "gelu").sum()
            both = weight.expand(2, 8, 6), bias.expand(2, 8)
            out = out + voter_mlp(torch.randn(rows, 6), *both, back, torch.zeros(2, 6), p=0.1, seed=1, site=0).sum()
            if gradient:
                out.backward()
    assert "eltwise" not in capfd.readouterr().out
