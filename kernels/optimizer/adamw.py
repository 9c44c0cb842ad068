"""AdamW over all weights of a model (arXiv 1711.05101), and the norm of their gradients that clips it.

The Triton kernels are in `fused/optimizer/adamw.py`. Here is the reference, which is also what runs on CPUs: torch's
fused AdamW, after a pass that scales the gradients, and before one that rounds the copies.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from ..checks import misfit
from ..dispatch import use_triton

Rate = Tensor | float


def gradient_norm(gradients: Sequence[Tensor]) -> Tensor:
    """The Euclidean norm of all gradients together, in one pass; never waits for the device.

    Args:
        gradients: of any shapes, on one device; fp32, or of one 16-bit type, or both.

    Returns:
        A scalar, fp32 (fp64 for fp64 gradients); not finite where any gradient is not.
    """
    with torch.no_grad():
        if gradients and _for_kernels(gradients):
            from ..fused.optimizer.adamw import gradient_norm as fused

            norm: Tensor = fused([g.detach().contiguous() for g in gradients])
            return norm
        wide = [g if g.dtype == torch.float64 else g.float() for g in gradients]
        return torch.nn.utils.get_total_norm(wide)


def adamw_step(
    weights: Sequence[Tensor],
    gradients: Sequence[Tensor],
    first: Sequence[Tensor],
    second: Sequence[Tensor],
    steps: Sequence[Tensor],
    copies: Sequence[Tensor | None],
    rates: Sequence[Rate],
    decays: Sequence[float],
    *,
    betas: tuple[float, float],
    eps: float,
    scale: Tensor | None = None,
    skip: Tensor | None = None,
) -> None:
    """One step of AdamW on all weights, in place; nothing waits for the device.

    With g the gradient times `scale`, m and v the moments, t the step: `m += (1 - beta1)(g - m)`,
    `v += (1 - beta2)(g^2 - v)`, `w -= rate (decay w + m / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + eps))`.

    Every sequence has an entry for each weight, of its shape where it is not a scalar.

    Args:
        weights: fp32, contiguous, on one device.
        gradients: fp32 or 16 bits. Those in the weights' type may be scaled in place.
        first: the moments, like the weight.
        second: the moments, like the weight.
        steps: fp32 scalars on the device, how many steps a weight has had before.
        copies: what the new weight is rounded into, 16 bits and contiguous; None for none.
        rates: learning rates; tensors on the device where a CUDA graph is to be replayed at other rates.
        decays: weight decays.
        betas: of the two moments.
        eps: added to the root of the second moment.
        scale: fp32 scalar on the device: one over the loss scale, times what clips.
        skip: fp32 scalar on the device; where it is 1, nothing changes, whatever the gradients hold.

    Raises:
        ValueError: the sequences do not fit together, or what is to be written is not contiguous.
    """
    _check(weights, gradients, first, second, steps, copies, (rates, decays))
    if not weights:
        return
    groups, group_of = _groups(rates, decays)
    with torch.no_grad():
        if _for_kernels([*gradients, *(c for c in copies if c is not None)], weights):
            from ..fused.optimizer.adamw import adamw_step as fused

            device = weights[0].device
            fused(
                *([t.detach() for t in column] for column in (weights, first, second, steps)),
                [c.detach() for c in copies if c is not None],
                [c is not None for c in copies],
                [g.detach().contiguous() for g in gradients],
                torch.stack([torch.as_tensor(rate, dtype=torch.float32, device=device) for rate, _ in groups]),
                [decay for _, decay in groups],
                group_of,
                *betas,
                eps,
                scale,
                skip,
            )
            return
        wide = [g.to(w.dtype).contiguous() for g, w in zip(gradients, weights, strict=True)]
        if scale is not None:
            torch._foreach_mul_(wide, scale)
        for number, (rate, decay) in enumerate(groups):
            members = [i for i, group in enumerate(group_of) if group == number]
            adamw(
                [weights[i] for i in members],
                [wide[i] for i in members],
                [first[i] for i in members],
                [second[i] for i in members],
                [],
                [steps[i] for i in members],
                fused=True,
                found_inf=skip,
                amsgrad=False,
                beta1=betas[0],
                beta2=betas[1],
                lr=rate,
                weight_decay=decay,
                eps=eps,
                maximize=False,
            )
        pairs = [(c, w) for c, w in zip(copies, weights, strict=True) if c is not None]
        if pairs:
            torch._foreach_copy_([c for c, _ in pairs], [w for _, w in pairs])


def _groups(rates: Sequence[Rate], decays: Sequence[float]) -> tuple[list[tuple[Rate, float]], list[int]]:
    """Pairs of a rate and a decay, and the number of its pair for each weight."""
    groups: list[tuple[Rate, float]] = []
    numbers = []
    for rate, decay in zip(rates, decays, strict=True):
        known = [n for n, (r, d) in enumerate(groups) if r is rate and d == decay]
        if not known:
            groups.append((rate, decay))
        numbers.append(known[0] if known else len(groups) - 1)
    return groups, numbers


def _for_kernels(read: Sequence[Tensor], weights: Sequence[Tensor] = ()) -> bool:
    """Whether Triton runs: for fp32 weights, beside which there is one 16-bit type."""
    half = {t.dtype for t in read} - {torch.float32}
    right = half <= {torch.float16, torch.bfloat16} and len(half) <= 1
    return right and all(w.dtype == torch.float32 for w in weights) and use_triton(read[0], torch.float32)


def _check(
    weights: Sequence[Tensor],
    gradients: Sequence[Tensor],
    first: Sequence[Tensor],
    second: Sequence[Tensor],
    steps: Sequence[Tensor],
    copies: Sequence[Tensor | None],
    rest: Sequence[Sequence[object]],
) -> None:
    columns = (gradients, first, second, steps, copies, *rest)
    if any(len(column) != len(weights) for column in columns):
        raise ValueError(
            f"{len(weights)} weights, and {', '.join(str(len(c)) for c in columns)} of what goes with them"
        )
    for weight, gradient, m, v, step, copy in zip(weights, gradients, first, second, steps, copies, strict=True):
        like = [t for t in (gradient, m, v, copy) if t is not None]
        if any(t.shape != weight.shape for t in like) or step.dim():
            raise misfit(weight=weight, gradient=gradient, first=m, second=v, step=step, copy=copy)
        if copy is not None and copy.dtype not in (torch.float16, torch.bfloat16):
            raise ValueError(f"the copy of a weight has 16 bits, got {copy.dtype}")
        if not all(t.is_contiguous() for t in (weight, m, v, copy) if t is not None):
            raise ValueError("weights, moments and copies must be contiguous: they are written in place")
