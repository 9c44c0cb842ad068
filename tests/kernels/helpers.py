"""What several files of this room need: types, formulas that share no code with the kernels, results with gradients."""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from xlt_engine.kernels import dispatch, dropout

AsGoodAs = Callable[..., None]
Error = Callable[[Tensor, Tensor], float]
Device, DType, Generator = torch.device, torch.dtype, torch.Generator


def doubles(tensors: Iterable[Tensor]) -> list[Tensor]:
    """Leaves of the same values in fp64 on the CPU."""
    return [t.detach().cpu().double().requires_grad_() for t in tensors]


def with_gradients(function: Callable[..., Tensor], leaves: Sequence[Tensor], upstream: Tensor) -> list[Tensor]:
    """The result, and the gradient of every leaf."""
    out = function(*leaves)
    return [out.detach(), *torch.autograd.grad(out, list(leaves), upstream.to(out.device, out.dtype))]


def all_equal(actual: Iterable[Tensor], expected: Iterable[Tensor]) -> bool:
    """To the bit."""
    return all(torch.equal(a, b) for a, b in zip(actual, expected, strict=True))


def check_all(check: AsGoodAs, *results: Iterable[Tensor]) -> None:
    """Ours, those of plain torch and those in fp64, tensor by tensor."""
    for several in zip(*results, strict=True):
        check(*several)


def mask_of(shape: Sequence[int], p: float, seed: int | None, site: int) -> Tensor:
    """0, or the scale of what is kept, fp64 on the CPU."""
    with dispatch.using("reference"):
        return dropout(torch.ones(tuple(shape), dtype=torch.float64), p, seed=seed, site=site)


def boundaries(lengths: Sequence[int], device: Device | str = "cpu", dtype: DType = torch.int32) -> Tensor:
    return torch.tensor([0, *lengths]).cumsum(0).to(device, dtype)


def normed(total: Tensor, weight: Tensor, bias: Tensor | None, eps: float, rms: bool = False) -> Tensor:
    centred = total if rms else total - total.mean(-1, keepdim=True)
    scaled = centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt() * weight
    return scaled if bias is None else scaled + bias


def exact_gelu(x: Tensor) -> Tensor:
    """x Phi(x), with erfc so that the negative tail keeps its digits."""
    return x * torch.special.erfc(-x / 2**0.5) / 2
