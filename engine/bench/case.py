"""What a benchmark of one operation consists of: cases, the ways to compute each, and random inputs of a fixed seed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from ...data import derive_seed, rng_for
from .measure import Run, Tensors

DROPOUT = 0.1
SEED, SITE = 20231004, 3

Forward = Callable[[float], Tensor]
"""A forward pass with this dropout probability."""

Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class Sizes:
    """How large the cases are: "full" as in mBERT, "reduced" for a CPU, "tiny" to try the code."""

    name: str
    hidden: int
    inner: int
    heads: int
    vocabularies: tuple[int, ...]
    rows: tuple[int, ...]
    wide_rows: tuple[int, ...]
    tokens: tuple[int, ...]
    items: tuple[int, ...]
    sequences: tuple[int, ...]


# The first of each list is the one that matters most; it is measured first.
SIZES = {
    "full": Sizes(
        "full",
        hidden=768,
        inner=3072,
        heads=12,
        vocabularies=(119_547, 250_002, 256_000),  # mBERT, XLM-R, mmBERT
        rows=(614, 1_229, 4_915, 300, 10_000),
        wide_rows=(614, 4_915),
        tokens=(8_192, 4_096, 16_384, 1_024),
        items=(1_000_000, 100_000),
        sequences=(32, 128),
    ),
    "reduced": Sizes("reduced", 192, 768, 3, (20_011, 40_009), (64, 256), (64,), (2_048, 512), (20_000,), (32,)),
    "tiny": Sizes("tiny", 64, 96, 1, (131, 257), (33,), (17,), (40,), (300,), (3,)),
}


@dataclass(frozen=True)
class Call:
    """A way to compute a case, ready to run.

    Attributes:
        run: forward and backward, with dropout where the operation has it; what is timed.
        check: the same without dropout, whose results are compared with the truth; None when `run` has no dropout.
        truth: what this call should have computed, where that is not the truth of the case.
        comparable: whether there is a truth for it at all.
    """

    run: Run
    check: Run | None = None
    truth: Callable[[], Tensors] | None = None
    comparable: bool = True


@dataclass(frozen=True)
class Variant:
    """A named way to compute a case; `make` raises where this machine does not have it.

    Attributes:
        own: whether it is this package's kernel path, the one that the others are compared with.
        path: the mode of `kernels.dispatch.using` while it runs; None leaves it as it is.
        note: what a reader must know to compare it.
        plain: whether it is plain torch, which is all that a CPU is compared with.
        rival: whether it computes what the operation does, by other means.
    """

    name: str
    make: Callable[[], Call]
    own: bool = False
    path: str | None = None
    note: str = ""
    plain: bool = False
    rival: bool = True


@dataclass(frozen=True)
class Problem:
    """A case with its inputs on the device.

    Attributes:
        truth: the results in fp64.
        flops, moved: the operations and the bytes of memory traffic that no implementation can avoid.
    """

    variants: tuple[Variant, ...]
    truth: Callable[[], Tensors]
    flops: float
    moved: float


@dataclass(frozen=True)
class Setting:
    """Where the inputs are made, and in which type."""

    device: torch.device
    dtype: torch.dtype

    def normal(
        self, *shape: int, key: str, std: float = 1.0, grad: bool = False, dtype: torch.dtype | None = None
    ) -> Tensor:
        """Random numbers that depend on `key` alone; never zeros, on which matrix products run faster."""
        generator = torch.Generator(self.device).manual_seed(derive_seed(SEED, key))
        x = torch.randn(*shape, generator=generator, device=self.device, dtype=torch.float32).mul_(std)
        return x.to(self.dtype if dtype is None else dtype).requires_grad_(grad)

    def integers(self, below: int, *shape: int, key: str) -> Tensor:
        generator = torch.Generator(self.device).manual_seed(derive_seed(SEED, key))
        return torch.randint(below, shape, generator=generator, device=self.device)


@dataclass(frozen=True)
class Case:
    """One operation at one shape. Cases of rank 0 are the ones to have when there is time for few."""

    op: str
    shape: dict[str, int | str]
    rank: int
    build: Callable[[Setting], Problem]

    @property
    def name(self) -> str:
        """The shape in words."""
        sizes = {key: f"{value:,}" if isinstance(value, int) else value for key, value in self.shape.items()}
        return ", ".join(f"{key} {value}" for key, value in sizes.items())


def differentiate(forward: Forward, inputs: Mapping[str, Tensor], p: float, upstream: Tensor | None = None) -> Run:
    """Forward, and the gradients of what requires one, as tensors of their own; forward alone where nothing does."""
    leaves = {name: value for name, value in inputs.items() if value.requires_grad}

    def run() -> Tensors:
        if not leaves:
            with torch.no_grad():
                return {"out": forward(p)}
        out = forward(p)
        gradients = torch.autograd.grad(out, list(leaves.values()), upstream)
        return {"out": out.detach()} | {f"d_{name}": g for name, g in zip(leaves, gradients, strict=True)}

    return run


def call(
    forward: Forward,
    inputs: Mapping[str, Tensor],
    *,
    upstream: Tensor | None = None,
    p: float = 0.0,
    truth: Callable[[], Tensors] | None = None,
    comparable: bool = True,
) -> Call:
    """A `Call` from a forward pass; with dropout when `p` is positive."""
    check = differentiate(forward, inputs, 0.0, upstream) if p > 0 and comparable else None
    return Call(differentiate(forward, inputs, p, upstream), check, truth, comparable)


def compiled(function: Function) -> Function:
    """What torch.compile makes of it for these very shapes."""
    return cast(Function, torch.compile(function, dynamic=False))


def both_paths(make: Callable[[], Call]) -> tuple[Variant, Variant]:
    """This package's operation as it is dispatched, and its plain-torch reference."""
    return Variant("xlt-engine", make, own=True), Variant("reference", make, path="reference")


def plain_and_compiled(
    forward: Forward, inputs: Mapping[str, Tensor], *, upstream: Tensor | None = None, p: float = 0.0
) -> tuple[Variant, Variant]:
    """Eager torch, and the same through torch.compile; with dropout the latter's masks cannot be switched off."""

    def compile_() -> Call:
        return call(compiled(forward), inputs, upstream=upstream, p=p, comparable=p == 0)

    return (
        Variant("torch eager", lambda: call(forward, inputs, upstream=upstream, p=p), plain=True),
        Variant("torch.compile", compile_),
    )


def compare(
    ours: Forward,
    plain: Callable[..., Tensor],
    inputs: Mapping[str, Tensor],
    *,
    upstream: Tensor | None = None,
    p: float = 0.0,
    others: tuple[Variant, ...] = (),
    flops: float = 0.0,
    moved: float,
) -> Problem:
    """An operation beside plain torch: `plain(p, *inputs)`, which is the truth in fp64 and without dropout."""
    variants = (
        *both_paths(lambda: call(ours, inputs, upstream=upstream, p=p)),
        *plain_and_compiled(lambda p: plain(p, *inputs.values()), inputs, upstream=upstream, p=p),
        *others,
    )
    return Problem(variants, in_double(partial(plain, 0.0), inputs, upstream), flops, moved)


def in_double(
    forward: Callable[..., Tensor], inputs: Mapping[str, Tensor], upstream: Tensor | None = None
) -> Callable[[], Tensors]:
    """The truth: `forward` of the inputs in fp64, and its gradients."""

    def compute() -> Tensors:
        wide = {name: x.detach().double().requires_grad_(x.requires_grad) for name, x in inputs.items()}
        up = None if upstream is None else upstream.double()
        return differentiate(lambda _: forward(*wide.values()), wide, 0.0, up)()

    return compute


def lengths(kind: str, count: int, *, scale: str = "full") -> list[int]:
    """Sequence lengths of a fixed draw, special tokens included.

    "conll" is like sentences of news (mean 25, at most 128), "review" like product reviews (mean 180, cut at 256); both
    are lognormal. Other scales than "full" and "reduced" are cut at 12.
    """
    median, sigma, most = {"conll": (22.0, 0.5, 128), "review": (185.0, 0.6, 256)}[kind]
    most = most if scale in SIZES and scale != "tiny" else 12
    drawn = rng_for(SEED, "lengths", kind).lognormal(0.0, sigma, count) * median
    return [int(min(max(round(x), 5), most)) for x in drawn]
