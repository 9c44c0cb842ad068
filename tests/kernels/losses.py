"""Problems of the loss kernels, with their losses by the definition in fp64, for both rooms of tests."""

import torch
from torch import Tensor
from torch.nn import functional

from xlt_engine.kernels import linear_cross_entropy

from .helpers import Device, DType, Generator

REDUCTIONS = ("sum", "mean", "none")


def reduced(losses: Tensor, weights: Tensor | None, counted: Tensor, reduction: str) -> Tensor:
    """Losses of items by their weights, without those that do not count."""
    mass = counted.to(losses) if weights is None else counted * weights.to(losses)
    losses = torch.where(counted, losses, 0.0) * (1.0 if weights is None else weights.to(losses))
    return losses if reduction == "none" else losses.sum() / (mass.sum() if reduction == "mean" else 1.0)


def item_losses(z: Tensor, teacher: Tensor) -> Tensor:
    """[K] of the soft-label loss by the definition, in the dtype of `z`."""
    e = (z - z.amax(-1, keepdim=True).detach()).exp()
    return ((e / e.sum(-1, keepdim=True) - teacher) ** 2).mean(-1).mean(0)


class Problem:
    """Of linear_cross_entropy, rounded to the tested precision, so that every computation starts from the same."""

    def __init__(
        self,
        rows: int,
        vocabulary: int,
        size: int,
        generator: Generator,
        dtype: DType = torch.float32,
        device: Device | str = "cpu",
        *,
        bias: bool = True,
        spread: float = 2.0,
    ) -> None:
        def draw(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator)

        self.dtype, self.device, self.vocabulary = dtype, device, vocabulary
        self.hidden = draw(rows, size).to(dtype)
        self.weight = (draw(vocabulary, size) * spread / size**0.5).to(dtype)
        self.bias, self.bias_dtype = draw(vocabulary) if bias else None, torch.float32
        self.target = torch.randint(vocabulary, (rows,), generator=generator)
        self.target[rows // 2 :: 5] = self.target[0]
        self.target[3::7] = -100
        self.target[rows - 1] = vocabulary - 1
        self.weights = torch.rand(rows, generator=generator) + 0.1
        self.upstream = draw(rows)

    def leaves(self, dtype: DType | None = None, device: Device | str | None = None) -> list[Tensor]:
        """Hidden, matrix, and a bias where there is one, in a type of its own; as tested unless told otherwise."""
        dtype, device = dtype or self.dtype, device or self.device
        found = [self.hidden.to(dtype), self.weight.to(dtype)]
        if self.bias is not None:
            found.append(self.bias.to(dtype if dtype == torch.float64 else self.bias_dtype))
        return [t.to(device).clone().requires_grad_() for t in found]

    def drive(self, loss: Tensor, leaves: list[Tensor]) -> list[Tensor]:
        """The loss, and the gradients of what has one."""
        wanted = [t for t in leaves if t.requires_grad]
        upstream = self.upstream.to(loss) if loss.dim() else torch.tensor(-1.7).to(loss)
        return [loss.detach(), *torch.autograd.grad(loss, wanted, upstream)]

    def plain(self, dtype: DType, device: Device | str, reduction: str = "sum", weighted: bool = False) -> list[Tensor]:
        """Loss and gradients of torch's own computation: logits in `dtype`, the loss in fp32 or better."""
        leaves, target = self.leaves(dtype, device), self.target.to(device)
        hidden, weight, *bias = leaves
        logits = functional.linear(hidden, weight, *(b for b in bias if b.dtype == dtype))
        logits = logits if dtype == torch.float64 else logits.float()
        logits = sum((b for b in bias if b.dtype != dtype), logits)
        losses = functional.cross_entropy(logits, target, reduction="none")
        weights = self.weights.to(losses) if weighted else None
        return self.drive(reduced(losses, weights, target != -100, reduction), leaves)

    def truth(self, reduction: str = "sum", weighted: bool = False) -> list[Tensor]:
        return self.plain(torch.float64, "cpu", reduction, weighted)

    def ours(
        self, reduction: str = "sum", weighted: bool = False, mode: str = "auto", frozen: bool = False
    ) -> list[Tensor]:
        leaves = self.leaves()
        leaves[1].requires_grad_(not frozen)
        loss = linear_cross_entropy(
            *leaves[:2],
            None if self.bias is None else leaves[2],
            self.target.to(self.device),
            weights=self.weights.to(self.device) if weighted else None,
            reduction=reduction,
            mode="auto" if self.dtype == torch.float16 else mode,
        )
        return self.drive(loss, leaves)
