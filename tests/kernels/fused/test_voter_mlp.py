"""voter_mlp on the Triton path, against a loop over separate networks in fp64."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from xlt_engine.kernels import dispatch, dropout, voter_mlp

pytest.importorskip("triton")

AsGood = Callable[..., None]
WIDTHS = [37, 48, 43]
SIZE, WIDEST, VOTERS = 24, max(WIDTHS), len(WIDTHS)


def problem(
    rows: int, device: torch.device, dtype: torch.dtype, generator: torch.Generator
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


def run(tensors: list[Tensor], upstream: Tensor, **options: float | int | Tensor | None) -> list[Tensor]:
    out = voter_mlp(*tensors, **options)  # type: ignore[arg-type]
    return [out, *torch.autograd.grad(out, tensors, upstream.to(out.device, out.dtype))]


def loop(x: Tensor, separate: list[list[Tensor]], upstream: Tensor, mask: Tensor, *, exact: bool) -> list[Tensor]:
    """Output and gradients of separate networks, padded as the stacked ones are; in fp64 on the CPU where `exact`."""

    def cast(given: Tensor) -> Tensor:
        return given.detach().cpu().double() if exact else given.detach().to(x.device, x.dtype)

    x, mask, upstream = cast(x).requires_grad_(), cast(mask), cast(upstream)
    separate = [[cast(p).requires_grad_() for p in parts] for parts in separate]
    outputs = []
    for m, (w1, b1, w2, b2) in enumerate(separate):
        pre = functional.linear(x, w1, b1)
        hidden = pre * torch.special.erfc(-pre / 2**0.5) / 2 if exact else functional.gelu(pre)
        outputs.append(functional.linear(hidden * mask[:, m, : WIDTHS[m]], w2, b2))
    out = torch.stack(outputs)
    flat = [x, *(p for parts in separate for p in parts)]
    d_x, *rest = torch.autograd.grad(out, flat, upstream)
    padded = [torch.zeros(VOTERS, WIDEST, SIZE), torch.zeros(VOTERS, WIDEST), torch.zeros(VOTERS, SIZE, WIDEST)]
    d_w1, d_b1, d_w2 = (t.to(x) for t in padded)
    for m, width in enumerate(WIDTHS):
        d_w1[m, :width], d_b1[m, :width], d_w2[m, :, :width] = rest[4 * m : 4 * m + 3]
    return [out.detach(), d_x, d_w1, d_b1, d_w2, torch.stack(rest[3::4])]


@pytest.mark.parametrize("rows", [1, 129])
@pytest.mark.parametrize(("seed", "p"), [(None, 0.3), (11, 0.3), (-(2**40), 0.0)])
def test_equals_a_loop_over_separate_networks(
    rows: int,
    seed: int | None,
    p: float,
    device: torch.device,
    dtype: torch.dtype,
    generator: torch.Generator,
    as_good_as: AsGood,
) -> None:
    """The same mask as the reference: rows K, columns M * D. Padding gets exactly zero."""
    tensors, separate, upstream = problem(rows, device, dtype, generator)
    given = None if seed is None else torch.tensor(seed, device=device)
    ours = run(tensors, upstream, p=p, seed=given, site=6)
    with dispatch.using("reference"):
        mask = dropout(torch.ones(rows, VOTERS * WIDEST, dtype=torch.float64), p, seed=seed, site=6)
    mask = mask.view(rows, VOTERS, WIDEST)
    native, truth = (loop(tensors[0], separate, upstream, mask, exact=exact) for exact in (False, True))
    for actual, plain, true in zip(ours, native, truth, strict=True):
        as_good_as(actual.flatten(0, -2), plain.flatten(0, -2), true.flatten(0, -2))
    d_w1, d_b1, d_w2 = ours[2:5]
    for m, width in enumerate(WIDTHS):
        assert not d_w1[m, width:].any()
        assert not d_b1[m, width:].any()
        assert not d_w2[m, :, width:].any()


def test_strided_and_without_gradients(device: torch.device, dtype: torch.dtype, generator: torch.Generator) -> None:
    tensors, _, _ = problem(20, device, dtype, generator)
    expected = voter_mlp(*tensors, p=0.2, seed=4, site=1)
    strided = [t.detach().transpose(0, -1).contiguous().transpose(0, -1) for t in tensors]
    assert not strided[0].is_contiguous()
    with torch.no_grad():
        assert torch.equal(voter_mlp(*tensors, p=0.2, seed=4, site=1), expected)
    torch.testing.assert_close(voter_mlp(*strided, p=0.2, seed=4, site=1), expected, rtol=2e-2, atol=2e-3)


def test_same_bits_compiled_and_again(device: torch.device, dtype: torch.dtype, generator: torch.Generator) -> None:
    tensors, _, upstream = problem(33, device, dtype, generator)
    seed = torch.tensor(9, device=device)

    def function(*given: Tensor) -> Tensor:
        return voter_mlp(*given, p=0.2, seed=seed, site=1)

    def step(call: Callable[..., Tensor]) -> list[Tensor]:
        out = call(*tensors)
        return [out, *torch.autograd.grad(out, tensors, upstream.to(device))]

    first, compiled = step(function), torch.compile(function, fullgraph=True, backend="aot_eager")
    for again in (step(function), step(compiled)):
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_no_rows_and_wrong_arguments(device: torch.device, dtype: torch.dtype, generator: torch.Generator) -> None:
    tensors, _, upstream = problem(0, device, dtype, generator)
    out, *gradients = run(tensors, upstream, p=0.2, seed=4)
    assert out.shape == (VOTERS, 0, SIZE)
    assert not any(bool(g.any()) for g in gradients)
    with pytest.raises(ValueError, match="fit together"):
        voter_mlp(*tensors[:3], tensors[3].transpose(1, 2), tensors[4])
    for seed in (None, 1):
        with pytest.raises(ValueError, match="dropout probability"):
            voter_mlp(*tensors, p=1.0, seed=seed)
