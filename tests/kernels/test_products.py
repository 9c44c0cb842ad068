"""Products of fp32 on a CPU, by either library, against fp64; and which library a processor gets."""

import importlib
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from xlt_engine.kernels import linear_cross_entropy, linear_gelu, linear_glu, products, voter_mlp

cross_entropy = importlib.import_module("xlt_engine.kernels.linear_cross_entropy")
Error = Callable[[Tensor, Tensor], float]


@pytest.fixture(params=["torch", "onednn", "onednn, weights by torch"])
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The path, for products of any size, with the calls of oneDNN in `calls`."""
    name = request.param.partition(",")[0]
    chosen = products.Products(name, "test", 0, request.param == "onednn")
    monkeypatch.setattr(products, "products_path", lambda: chosen)
    monkeypatch.setattr(cross_entropy, "products_path", lambda: chosen)
    monkeypatch.setattr(products, "_LEAST_SIDE", 2)
    return str(request.param)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Rows, columns and depth of each product that oneDNN made."""
    made, call = list[tuple[int, ...]](), products._onednn

    def counting(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        made.append((*x.shape, weight.shape[0]))
        return call(x, weight, bias)

    monkeypatch.setattr(products, "_onednn", counting)
    return made


def compare(operation: Callable[..., Tensor], tensors: list[Tensor], error: Error, bound: float = 1e-6) -> None:
    """Value and all gradients of fp32 against those of fp64, which no library but torch's multiplies."""
    ours = [t.clone().requires_grad_() for t in tensors]
    truth = [t.double().requires_grad_() for t in tensors]
    out, expected = operation(*ours), operation(*truth)
    upstream = torch.linspace(-1, 2, out.numel()).view(out.shape)
    out.backward(upstream)
    expected.backward(upstream.double())
    assert error(out, expected) < bound
    for a, b in zip(ours, truth, strict=True):
        assert a.grad is not None
        assert b.grad is not None
        assert error(a.grad, b.grad) < bound
    with torch.no_grad():
        assert torch.equal(operation(*ours), out)


@pytest.mark.parametrize("rows", [2, 61, 64, 193])
@pytest.mark.parametrize("has_bias", [True, False])
def test_linear(library: str, rows: int, has_bias: bool, calls: Any, generator: Any, relative_error: Error) -> None:
    shapes = [(rows, 24), (40, 24), (40,)][: 2 + has_bias]
    compare(products.linear, [torch.randn(*s, generator=generator) for s in shapes], relative_error)
    assert len(calls) == {"torch": 0, "onednn": 4, "onednn, weights by torch": 3}[library]


def test_strides_and_writing_in_place(library: str, generator: torch.Generator, relative_error: Error) -> None:
    x, weight = torch.randn(24, 61, generator=generator), torch.randn(24, 40, generator=generator)
    residual = torch.randn(61, 40, generator=generator)
    compare(lambda a, b, r: products.linear(a.t(), b.t()).add_(r), [x, weight, residual], relative_error)
    compare(lambda a, b: products.linear(a.t(), b.t()).exp_().t(), [x / 20, weight], relative_error, 3e-6)


def test_operations_with_products(library: str, generator: torch.Generator, relative_error: Error) -> None:
    x, w = torch.randn(61, 24, generator=generator), torch.randn(3, 36, 24, generator=generator) / 4
    b1, w2 = torch.randn(3, 36, generator=generator), torch.randn(3, 24, 36, generator=generator) / 4
    compare(linear_gelu, [x, w[0], b1[0]], relative_error)
    compare(lambda *t: linear_glu(*t, "silu"), [x, w[0], b1[0]], relative_error)
    compare(voter_mlp, [x, w, b1, w2, torch.randn(3, 24, generator=generator)], relative_error)


@pytest.mark.parametrize("chunk", [1 << 24, 16 * 111])
def test_linear_cross_entropy(
    library: str,
    chunk: int,
    calls: list[object],
    generator: torch.Generator,
    relative_error: Error,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In one chunk and in several; rows that are ignored are none of them."""
    monkeypatch.setattr(cross_entropy, "_CHUNK_ELEMENTS", chunk)
    target = torch.randint(111, (69,), generator=generator)
    target[::9] = -100
    tensors = [torch.randn(*shape, generator=generator) for shape in ((69, 24), (111, 24), (111,))]
    compare(lambda h, w, b: linear_cross_entropy(h, w / 4, b, target, reduction="none"), tensors, relative_error)
    compare(lambda h, w, b: linear_cross_entropy(h, w / 4, b, target).view(1), tensors, relative_error)
    assert bool(calls) == (library != "torch")


def test_sizes_are_few(library: str, calls: list[tuple[int, ...]], generator: torch.Generator) -> None:
    weight = torch.randn(40, 24, generator=generator).requires_grad_()
    for rows in range(512, 1024):
        products.linear(torch.randn(rows, 24, generator=generator), weight).sum().backward()
    most = {"torch": 0, "onednn": 34, "onednn, weights by torch": 17}[library]
    assert len(set(calls)) == most


def test_what_stays_with_torch(library: str, calls: list[object], generator: torch.Generator) -> None:
    x, weight = torch.randn(61, 24, generator=generator), torch.randn(40, 24, generator=generator)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(products.linear(x, weight), functional.linear(x, weight))
    for dtype in (torch.bfloat16, torch.float64):
        assert torch.equal(
            products.linear(x.to(dtype), weight.to(dtype)), functional.linear(x.to(dtype), weight.to(dtype))
        )
    assert products.linear(x.view(1, 61, 24), weight).shape == (1, 61, 40)
    assert products.linear(x[:1], weight).shape == (1, 40)
    assert not calls


def test_small_products_stay_with_torch(calls: list[object], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "products_path", lambda: products.Products("onednn", "test"))
    products.linear(torch.ones(1023, 128), torch.ones(256, 128))
    products.linear(torch.ones(8192, 256), torch.ones(31, 256))
    assert not calls
    products.linear(torch.ones(1024, 128), torch.ones(256, 128))
    assert calls


@pytest.mark.parametrize(("rows", "columns"), [(0, 40), (1, 40), (61, 1), (640, 40)])
def test_16_bits_without_gradients(rows: int, columns: int, calls: list[object], generator: torch.Generator) -> None:
    """The bias rides in the product, and the bits are torch's."""
    x, weight, bias = (torch.randn(*s, generator=generator).bfloat16() for s in ((rows, 24), (columns, 24), (columns,)))
    weight.requires_grad_()
    expected = functional.linear(x, weight, bias)
    assert torch.equal(products.linear(x, weight, bias), expected)
    assert not calls
    with torch.no_grad():
        assert torch.equal(products.linear(x, weight, bias), expected)
        products.linear(x, weight)
    assert len(calls) == (rows > 0 and products.products_in_16_bits(x))


ZEN_4 = frozenset({"avx2", "avx512f", "avx512_bf16"})


@pytest.mark.parametrize(
    ("asked", "vendor", "flags", "available", "expected"),
    [
        ("", "GenuineIntel", ZEN_4 | {"avx_vnni"}, True, ("torch", True)),
        ("", "", frozenset(), True, ("torch", True)),
        ("", "AuthenticAMD", {"avx2"}, True, ("torch", True)),
        ("", "AuthenticAMD", ZEN_4, True, ("onednn", False)),
        ("", "AuthenticAMD", ZEN_4 | {"avx_vnni"}, True, ("onednn", True)),
        ("", "AuthenticAMD", ZEN_4 | {"avx_vnni"}, False, ("torch", True)),
        ("torch", "AuthenticAMD", ZEN_4 | {"avx_vnni"}, True, ("torch", True)),
        ("onednn", "GenuineIntel", frozenset(), True, ("onednn", True)),
    ],
)
def test_choice(asked: str, vendor: str, flags: frozenset[str], available: bool, expected: tuple[str, bool]) -> None:
    chosen = products.choose_products(asked, vendor, frozenset(flags), available)
    assert (chosen.library, chosen.of_weights) == expected
    assert chosen.reason


def test_wishes_that_cannot_be_met() -> None:
    with pytest.raises(ValueError, match="XLT_PRODUCTS must be torch or onednn, got 'mkl'"):
        products.choose_products("mkl", "", frozenset(), True)
    with pytest.raises(RuntimeError, match="XLT_PRODUCTS=onednn, but torch .* has no product by oneDNN"):
        products.choose_products("onednn", "", frozenset(), False)


def test_the_environment_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XLT_PRODUCTS", "onednn")
    code = "from xlt_engine.kernels.products import products_path; print(products_path().library)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "onednn\n"
