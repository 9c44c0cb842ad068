"""What a benchmark of one operation consists of: shapes, the ways to compute it, and random inputs of a fixed seed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, TypeVar, cast

import torch
from torch import Tensor

from ...data import derive_seed, rng_for
from .harness import Run, Tensors

DROPOUT = 0.1
SEED, SITE = 20231004, 3
MASKS: dict[str, Any] = {"seed": SEED, "site": SITE}
"""The key of our operations' dropout masks."""

Shape = dict[str, Any]
Forward = Callable[..., Tensor]
"""`forward(p, *inputs)`: a forward pass with this dropout probability."""
Rival = tuple[str, Callable[[], Forward], str]
"""A name, what finds the way to compute it, which raises where it is absent, and a note."""
Function = TypeVar("Function", bound=Callable[..., Any])


class Sizes(NamedTuple):
    """How large the cases are: "full" as in mBERT, "reduced" for a CPU, "tiny" to try the code."""

    name: str
    hidden: int
    inner: int
    heads: int
    layers: int
    vocabularies: tuple[int, ...]
    rows: tuple[int, ...]
    wide_rows: tuple[int, ...]
    tokens: tuple[int, ...]
    items: tuple[int, ...]
    sequences: tuple[int, ...]
    window: tuple[int, int, int]
    """Sequences, tokens of each, and the window."""


# The first of each list is the one that matters most; it is measured first. Vocabularies of mBERT, XLM-R and mmBERT.
SIZES = {
    "full": Sizes(
        *("full", 768, 3072, 12, 12, (119_547, 250_002, 256_000), (614, 1_229, 4_915, 300, 10_000), (614, 4_915)),
        *((8_192, 4_096, 16_384, 1_024), (1_000_000, 100_000), (32, 128), (8, 1024, 64)),
    ),
    "reduced": Sizes(
        *("reduced", 192, 768, 3, 2, (20_011, 40_009), (64, 256), (64,), (2_048, 512), (20_000,), (32,), (2, 512, 64)),
    ),
    "tiny": Sizes("tiny", 64, 96, 1, 1, (131, 257), (33,), (17,), (40,), (300,), (3,), (2, 12, 3)),
}


class Call(NamedTuple):
    """A way to compute a case, ready to run.

    Attributes:
        run: forward and backward, with dropout where the operation has it; what is timed.
        check: the same without dropout, whose results are compared with the truth; None when `run` has no dropout.
        comparable: whether there is a truth for it at all.
    """

    run: Run
    check: Run | None = None
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


class Problem(NamedTuple):
    """A case with its inputs on the device.

    Attributes:
        truth: the results in fp64.
        inputs, upstream, p: what a rival computes from: by name, the gradient of the result, the dropout probability.
        flops, moved: the operations and the bytes of memory traffic that no implementation can avoid.
    """

    variants: tuple[Variant, ...]
    truth: Callable[[], Tensors]
    inputs: Tensors
    upstream: Tensor | None = None
    p: float = 0.0
    flops: float = 0.0
    moved: float = 0.0


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
        """Random ids."""
        generator = torch.Generator(self.device).manual_seed(derive_seed(SEED, key))
        return torch.randint(below, shape, generator=generator, device=self.device)

    def leaves(self, shapes: Mapping[str, tuple[int, ...]], std: float = 1.0, *, grad: bool = True) -> Tensors:
        """Inputs by name."""
        return {name: self.normal(*shape, key=name, std=std, grad=grad) for name, shape in shapes.items()}


@dataclass(frozen=True)
class Case:
    """One operation at one shape. Cases of rank 0 are the ones to have when there is time for few."""

    op: str
    shape: Shape
    rank: int
    make: Callable[[Setting, Shape], Problem]

    @property
    def name(self) -> str:
        """The shape in words."""
        return ", ".join(f"{key} {f'{v:,}' if isinstance(v, int) else v}" for key, v in self.shape.items())

    def build(self, at: Setting) -> Problem:
        """Its inputs, and the ways to compute it."""
        return self.make(at, self.shape)


def differentiate(
    forward: Callable[[float], Tensor], inputs: Mapping[str, Tensor], p: float, upstream: Tensor | None = None
) -> Run:
    """Forward, and the gradients of what requires one, as tensors of their own; forward alone where nothing does."""
    leaves = {name: value for name, value in inputs.items() if value.requires_grad}

    def run() -> Tensors:
        if not leaves:
            with torch.no_grad():
                return {"out": forward(p)}
        out = forward(p)
        gradients = torch.autograd.grad(out, list(leaves.values()), upstream, allow_unused=True)
        found = {f"d_{name}": g for name, g in zip(leaves, gradients, strict=True) if g is not None}
        return {"out": out.detach()} | found

    return run


def compiled(function: Function) -> Function:
    """What torch.compile makes of it for these very shapes."""
    return cast(Function, torch.compile(function, dynamic=False))


def both_paths(make: Callable[[], Call]) -> tuple[Variant, Variant]:
    """This package's operation as it is dispatched, and its plain-torch reference."""
    return Variant("xlt-engine", make, own=True), Variant("reference", make, path="reference")


Ways = Callable[[Callable[[], Forward], bool], Callable[[], Call]]


def ways(inputs: Tensors, upstream: Tensor | None = None, p: float = 0.0) -> Ways:
    """From what finds a forward pass of these inputs, and whether there is a truth for it, to what makes its call."""

    def of(find: Callable[[], Forward], comparable: bool = True) -> Callable[[], Call]:
        def make() -> Call:
            forward = find()

            def run(p: float) -> Run:
                return differentiate(lambda p: forward(p, *inputs.values()), inputs, p, upstream)

            return Call(run(p), run(0.0) if p and comparable else None, comparable)

        return make

    return of


def of_torch(plain: Forward, of: Ways, comparable: bool = True) -> tuple[Variant, Variant]:
    """Eager torch, and the same through torch.compile, which has a truth where there is no dropout."""
    eager = Variant("torch eager", of(lambda: plain, True), plain=True)
    return eager, Variant("torch.compile", of(lambda: compiled(plain), comparable))


def compare(
    ours: Forward,
    plain: Forward,
    inputs: Tensors,
    *,
    upstream: Tensor | None = None,
    p: float = 0.0,
    others: Sequence[Variant] = (),
    **least: float,
) -> Problem:
    """An operation beside plain torch, which is the truth in fp64 and without dropout; `least`: flops and moved."""
    of = ways(inputs, upstream, p)
    variants = (*both_paths(of(lambda: ours, True)), *of_torch(plain, of, p == 0), *others)
    return Problem(variants, in_double(partial(plain, 0.0), inputs, upstream), inputs, upstream, p, **least)


def in_double(forward: Forward, inputs: Tensors, upstream: Tensor | None = None) -> Callable[[], Tensors]:
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
