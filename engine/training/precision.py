"""Mixed precision: fp32 weights that the optimiser updates, and 16-bit copies that the model computes with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def computes_in_16_bits(name: str) -> bool:
    """Whether a parameter has a 16-bit copy: all but LayerNorms, whose statistics and scales stay fp32."""
    return "norm" not in name


def compute_in(model: nn.Module, precision: str) -> None:
    """Gives a model that does not train 16-bit weights for good, but to its norms; in fp32 it stays as it is."""
    if (dtype := DTYPES[precision]) != torch.float32:
        for name, parameter in model.named_parameters():
            if computes_in_16_bits(name):
                parameter.data = parameter.data.to(dtype)


@contextmanager
def computing_in(model: nn.Module, precision: str) -> Iterator[None]:
    """Lends the model 16-bit copies of its weights for a block of code, such as a pass over a test set."""
    originals = {parameter: parameter.data for parameter in model.parameters()}
    compute_in(model, precision)
    try:
        yield
    finally:
        for parameter, data in originals.items():
            parameter.data = data


class MasterWeights:
    """The weights behind a model while it trains.

    In fp32 they are the model's own parameters. In bf16 and fp16 the model's parameters become 16-bit copies;
    gradients of several micro-batches are added up in fp32, and the optimiser updates the fp32 weights and rounds them
    into the copies. `restore` gives the model its fp32 weights back, those of frozen parameters untouched.

    Attributes:
        trainable: fp32 parameters for the optimiser, by the model's names.
        copies: the model's 16-bit parameter of each fp32 one that has one.
    """

    def __init__(self, model: nn.Module, precision: str) -> None:
        named = dict(model.named_parameters())
        self.trainable: dict[str, nn.Parameter] = {n: p for n, p in named.items() if p.requires_grad}
        self.copies: dict[nn.Parameter, nn.Parameter] = {}
        self._lent: list[tuple[nn.Parameter, Tensor]] = []
        dtype = DTYPES[precision]
        if dtype == torch.float32:
            return
        for name, parameter in named.items():
            if not computes_in_16_bits(name):
                continue
            data = parameter.data
            if parameter.requires_grad:
                master = nn.Parameter(data)
                self.trainable[name] = master
                self.copies[master] = parameter
            self._lent.append((parameter, data))
            parameter.grad = None
            parameter.data = data.to(dtype)

    def accumulate(self) -> None:
        """Adds the gradients of a micro-batch to those of the fp32 weights."""
        fresh, old, new = [], [], []
        for master, copy in self.copies.items():
            if copy.grad is None:
                continue
            if master.grad is None:
                master.grad = copy.grad.float()
            else:
                old.append(master.grad)
                new.append(copy.grad)
            fresh.append(copy)
        if old:
            torch._foreach_add_(old, [g.float() for g in new])
        for copy in fresh:
            copy.grad = None

    def gradients(self) -> dict[nn.Parameter, Tensor]:
        """By fp32 weight: its gradient, or the 16-bit one of its copy where that was not accumulated."""
        found = {p: self.copies.get(p, p).grad if p.grad is None else p.grad for p in self.trainable.values()}
        return {parameter: gradient for parameter, gradient in found.items() if gradient is not None}

    def clear(self) -> None:
        """Drops the gradients."""
        for parameter in (*self.trainable.values(), *self.copies.values()):
            parameter.grad = None

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Takes over weights by name, in the model's copies too."""
        with torch.no_grad():
            for name, parameter in self.trainable.items():
                parameter.copy_(tensors[name])
            for master, copy in self.copies.items():
                copy.copy_(master)

    def restore(self) -> None:
        """Gives the model its fp32 weights; this object is of no use after it."""
        masters = {id(copy): master for master, copy in self.copies.items()}
        for parameter, data in self._lent:
            parameter.grad = None
            parameter.data = masters[id(parameter)].data if id(parameter) in masters else data
        self.copies, self._lent = {}, []


class LossScaler:
    """Dynamic loss scaling for fp16 (arXiv 1710.03740): all on the device, the host reads it when it likes.

    The loss is multiplied by `scale`; where a gradient overflows, the step is skipped and the scale halved; after
    `INTERVAL` steps without overflow it doubles.
    """

    INITIAL, GROWTH, BACKOFF, INTERVAL = 65536.0, 2.0, 0.5, 2000

    def __init__(self, device: torch.device) -> None:
        self.scale = torch.full((), self.INITIAL, dtype=torch.float32, device=device)
        self.good_steps = torch.zeros((), dtype=torch.int32, device=device)
        self.skipped_in_a_row = torch.zeros((), dtype=torch.int32, device=device)

    def inverse(self) -> Tensor:
        """What gradients are multiplied by, fp32 on the device."""
        return self.scale.double().reciprocal().float()

    def update(self, skipped: Tensor) -> None:
        """Moves the scale after a step that was skipped (1) or not (0)."""
        torch._amp_update_scale_(self.scale, self.good_steps, skipped, self.GROWTH, self.BACKOFF, self.INTERVAL)
        self.skipped_in_a_row.add_(1).mul_(skipped.to(torch.int32))

    def state(self) -> dict[str, Tensor]:
        """For a checkpoint."""
        return {"scale": self.scale, "good_steps": self.good_steps, "skipped_in_a_row": self.skipped_in_a_row}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """From a checkpoint."""
        for name, tensor in self.state().items():
            tensor.copy_(tensors[name])
