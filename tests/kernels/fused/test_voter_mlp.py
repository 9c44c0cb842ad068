"""voter_mlp on the Triton path, against a loop over separate networks in fp64."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from xlt_engine.kernels import voter_mlp

from ..helpers import AsGoodAs, Device, DType, Generator, check_all, doubles, exact_gelu, mask_of, with_gradients

pytest.importorskip("triton")
WIDTHS = [37, 48, 43]
SIZE, WIDEST, VOTERS = 24, max(WIDTHS), len(WIDTHS)


def problem(
    rows: int, device: Device, dtype: DType, generator: Generator
) -> tuple[list[Tensor], list[list[Tensor]], Tensor]:
    """x and the padded, stacked weights; the separate weights of each network; an upstream gradient."""
    x, upstream = (torch.randn(s, generator=generator).to(dtype) for s in ((rows, SIZE), (VOTERS, rows, SIZE)))
    shapes = [(VOTERS, WIDEST, SIZE), (VOTERS, WIDEST), (VOTERS, SIZE, WIDEST), (VOTERS, SIZE)]
    stacked = [torch.zeros(s, dtype=dtype) for s in shapes]
    separate = []
    for m, width in enumerate(WIDTHS):
        shapes = [(width, SIZE), (width,), (SIZE, width), (SIZE,)]
        parts = [(torch.randn(s, generator=generator) / 4).to(dtype) for s in shapes]
        stacked[0][m, :width], stacked[1][m, :width], stacked[2][m, :, :width], stacked[3][m] = parts
        separate.append([p.to(device) for p in parts])
    return [t.to(device).requires_grad_() for t in (x, *stacked)], separate, upstream


def loop(tensors: list[Tensor], mask: Tensor, activation: Callable[[Tensor], Tensor]) -> Tensor:
    """Separate networks on x, one after the other."""
    x, *flat = tensors
    outputs = []
    for m, width in enumerate(WIDTHS):
        w1, b1, w2, b2 = flat[4 * m : 4 * m + 4]
        hidden = activation(functional.linear(x, w1, b1)) * mask[:, m, :width].to(x)
        outputs.append(functional.linear(hidden, w2, b2))
    return torch.stack(outputs)


def padded(out: Tensor, d_x: Tensor, *rest: Tensor) -> list[Tensor]:
    """Results of the loop as those of the stacked networks."""
    shapes = [(VOTERS, WIDEST, SIZE), (VOTERS, WIDEST), (VOTERS, SIZE, WIDEST)]
    d_w1, d_b1, d_w2 = (torch.zeros(s).to(d_x) for s in shapes)
    for m, width in enumerate(WIDTHS):
        d_w1[m, :width], d_b1[m, :width], d_w2[m, :, :width] = rest[4 * m : 4 * m + 3]
    return [out, d_x, d_w1, d_b1, d_w2, torch.stack(rest[3::4])]


@pytest.mark.parametrize("rows", [1, 129])
@pytest.mark.parametrize(("seed", "p"), [(None, 0.3), (11, 0.3), (-(2**40), 0.0)])
def test_equals_a_loop_over_separate_networks(
    rows: int, seed: int | None, p: float, device: Device, dtype: DType, generator: Generator, as_good_as: AsGoodAs
) -> None:
    """The same mask as the reference: rows K, columns M * D. Padding gets exactly zero."""
    tensors, separate, upstream = problem(rows, device, dtype, generator)
    given = None if seed is None else torch.tensor(seed, device=device)
    ours = with_gradients(lambda *t: voter_mlp(*t, p=p, seed=given, site=6), tensors, upstream)
    mask = mask_of((rows, VOTERS * WIDEST), p, seed, 6).view(rows, VOTERS, WIDEST)
    flat = [tensors[0], *(p.requires_grad_() for parts in separate for p in parts)]
    native, truth = (
        padded(*with_gradients(lambda *t, a=activation: loop([*t], mask, a), leaves, upstream))
        for leaves, activation in ((flat, functional.gelu), (doubles(flat), exact_gelu))
    )
    check_all(as_good_as, *([t.flatten(0, -2) for t in results] for results in (ours, native, truth)))
    d_w1, d_b1, d_w2 = ours[2:5]
    for m, width in enumerate(WIDTHS):
        assert not any(bool(padding.any()) for padding in (d_w1[m, width:], d_b1[m, width:], d_w2[m, :, width:]))


def test_strided_and_without_gradients(device: Device, dtype: DType, generator: Generator) -> None:
    tensors, _, _ = problem(20, device, dtype, generator)
    expected = voter_mlp(*tensors, p=0.2, seed=4, site=1)
    strided = [t.detach().transpose(0, -1).contiguous().transpose(0, -1) for t in tensors]
    assert not strided[0].is_contiguous()
    with torch.no_grad():
        assert torch.equal(voter_mlp(*tensors, p=0.2, seed=4, site=1), expected)
    torch.testing.assert_close(voter_mlp(*strided, p=0.2, seed=4, site=1), expected, rtol=2e-2, atol=2e-3)


def test_no_rows_and_wrong_arguments(device: Device, dtype: DType, generator: Generator) -> None:
    tensors, _, upstream = problem(0, device, dtype, generator)
    out, *gradients = with_gradients(lambda *t: voter_mlp(*t, p=0.2, seed=4), tensors, upstream)
    assert out.shape == (VOTERS, 0, SIZE)
    assert not any(bool(g.any()) for g in gradients)
    with pytest.raises(ValueError, match="fit together"):
        voter_mlp(*tensors[:3], tensors[3].transpose(1, 2), tensors[4])
    for seed in (None, 1):
        with pytest.raises(ValueError, match="dropout probability"):
            voter_mlp(*tensors, p=1.0, seed=seed)
