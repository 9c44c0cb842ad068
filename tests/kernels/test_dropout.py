import pytest
import torch

from xlt_engine.kernels import dropout

SIZE = 400_000


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_what_is_kept_is_scaled(p: float) -> None:
    out = dropout(torch.ones(SIZE), p, seed=5, site=2)
    kept = out != 0
    assert abs(float(kept.float().mean()) - (1 - p)) < 5 * (p * (1 - p) / SIZE) ** 0.5
    assert float(out[kept].min()) == float(out[kept].max()) == pytest.approx(1 / (1 - p), rel=1e-4)


def test_mask_depends_on_seed_and_site_only() -> None:
    x = torch.ones(SIZE)
    masks = [dropout(x, 0.5, seed=s, site=t) != 0 for s, t in ((1, 0), (2, 0), (1, 1), (0, 1))]
    torch.manual_seed(3)
    assert torch.equal(dropout(x, 0.5, seed=1, site=0) != 0, masks[0])
    assert torch.equal(dropout(x, 0.5, seed=torch.tensor(1), site=0) != 0, masks[0])
    for i, a in enumerate(masks):
        for b in masks[:i]:
            assert abs(float((a == b).float().mean()) - 0.5) < 5 * 0.5 / SIZE**0.5


def test_global_random_state_is_left_alone() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    dropout(torch.ones(100), 0.5, seed=1)
    assert torch.equal(torch.get_rng_state(), before)


def test_backward_uses_the_mask_of_forward() -> None:
    x = torch.randn(7, 11, generator=torch.Generator().manual_seed(1)).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda t: dropout(t, 0.4, seed=9, site=3), (x,))
    out = dropout(x, 0.4, seed=9, site=3)
    out.sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad * x, out)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_dtype_is_kept_and_the_mask_does_not_depend_on_it(dtype: torch.dtype) -> None:
    out = dropout(torch.ones(1001, dtype=dtype), 0.3, seed=4)
    assert out.dtype == dtype
    assert torch.equal(out != 0, dropout(torch.ones(1001), 0.3, seed=4) != 0)


def test_identity_without_seed_or_probability() -> None:
    x = torch.ones(5)
    assert dropout(x, 0.5, seed=None) is x
    assert dropout(x, 0.0, seed=1) is x
    assert dropout(x, 1e-9, seed=1) is x


@pytest.mark.parametrize("p", [-0.1, 1.0, float("nan")])
def test_probability_is_checked(p: float) -> None:
    for seed in (1, None):
        with pytest.raises(ValueError, match="probability"):
            dropout(torch.ones(3), p, seed=seed)
