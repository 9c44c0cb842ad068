from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from xlt_engine.kernels import embedding_layer_norm
from xlt_engine.kernels.fused.norms import embedding as operators

from ..helpers import AsGoodAs, Device, DType, Generator, all_equal, check_all, doubles, mask_of, normed, with_gradients

Problem = tuple[list[Tensor], list[Tensor]]
SITE = 6
# (rows, H, V, P, G): also tables of one row.
SHAPES = [(1, 129, 1, 1, 1), (40, 33, 11, 16, 2), (129, 24, 40, 7, 3), (5, 767, 300, 5, 2), (3, 1024, 5, 3, 1)]


def problem(shape: tuple[int, ...], generator: Generator, device: Device, dtype: DType = torch.float32) -> Problem:
    """Three lists of ids, with duplicates and both ends of the tables; tables, weight and bias."""
    rows, size, *tables = shape
    ids = [torch.randint(n, (rows,), generator=generator) for n in tables]
    if rows > 20:
        ids[0][5:20] = 3
        ids[0][20], ids[0][21] = 0, tables[0] - 1
    made = [torch.randn(n, size, generator=generator) for n in tables]
    made += [torch.randn(size, generator=generator) for _ in range(2)]
    return [i.to(device) for i in ids], [t.to(device, dtype).requires_grad_() for t in made]


def formula(ids: list[Tensor], tables: list[Tensor], mask: Tensor, eps: float = 1e-12) -> Tensor:
    total = sum(table[i.cpu()] for i, table in zip(ids, tables[:3], strict=True))
    return normed(total, *tables[3:], eps) * mask


def in_torch(ids: list[Tensor], tables: list[Tensor], mask: Tensor) -> Tensor:
    total = sum(functional.embedding(i, table) for i, table in zip(ids, tables[:3], strict=True))
    return functional.layer_norm(total, tables[3].shape, tables[3], tables[4], 1e-12) * mask.to(total)


def check(ids: list[Tensor], tables: list[Tensor], seed: int | None, upstream: Tensor, as_good_as: AsGoodAs) -> None:
    """Output and every gradient against the formula in fp64, no worse than plain torch in the same dtype."""
    mask, upstream = mask_of(upstream.shape, 0.1, seed, SITE), upstream.to(tables[0].dtype)
    call = lambda *t: embedding_layer_norm(*ids, *t, eps=1e-12, p=0.1, seed=seed, site=SITE)  # noqa: E731
    ours = with_gradients(call, tables, upstream)
    native = with_gradients(lambda *t: in_torch(ids, [*t], mask), tables, upstream)
    truth = with_gradients(lambda *t: formula(ids, [*t], mask), doubles(tables), upstream)
    check_all(as_good_as, ours, native, truth)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("seed", [None, 7])
def test_output_and_gradients(shape: Any, seed: Any, device: Any, dtype: Any, generator: Any, as_good_as: Any) -> None:
    ids, tables = problem(shape, generator, device, dtype)
    check(ids, tables, seed, torch.randn(shape[:2], generator=generator) * 3, as_good_as)


def test_all_tokens_equal_and_a_program_walks_over_many_blocks(
    device: Device, dtype: DType, generator: Generator, as_good_as: AsGoodAs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xlt_engine.kernels.fused.norms.layer_norm.MAX_PROGRAMS", 2)
    ids, tables = problem((331, 60, 9, 4, 2), generator, device, dtype)
    ids[0] = ids[0][:1].expand(331)
    check(ids, tables, 3, torch.randn(331, 60, generator=generator), as_good_as)


@pytest.mark.parametrize("seed", [5, -3, 2**62 + 12345])
def test_drops_what_the_reference_drops(seed: int, device: Device, generator: Generator) -> None:
    ids, tables = problem((9, 129, 5, 9, 2), generator, device)
    with torch.no_grad():
        tables[4] += 100
    for given in (seed, torch.tensor(seed, device=device)):
        out = embedding_layer_norm(*ids, *tables, eps=1e-5, p=0.3, seed=given, site=SITE)
        assert torch.equal(out.cpu() != 0, mask_of((9, 129), 0.3, seed, SITE) != 0)


@pytest.mark.parametrize("size", [5, 70_000])
def test_ids_outside_the_table_touch_nothing(size: int, device: Device, generator: Generator) -> None:
    ids = torch.tensor([-1, 0, size, size - 1, -70_000, 65_536 * 4 + 2, 2**31 + 1, -1, size, 1], device=device)
    values = torch.ones(10, 3, device=device)
    gradient = operators.table_gradient(values, ids, size)
    assert gradient.any(1).nonzero().flatten().tolist() == [0, 1, size - 1]
    assert (gradient[[0, 1, size - 1]] == 1).all(), "each is there once"
    _, tables = problem((1, 8, 5, 5, 5), generator, device)
    for place in range(3):
        # Between rows that would show.
        rows = functional.pad(tables[place].detach(), (0, 0, 1, 1), value=torch.nan)
        tables[place] = rows[1:-1].requires_grad_()
    wrong = torch.tensor([0, 5, -1, 4, 2**40], device=device)
    right = torch.tensor([0, 1, 2, 4, 3], device=device)
    for place in range(3):
        ids = [right] * place + [wrong] + [right] * (2 - place)
        out = embedding_layer_norm(*ids, *tables, eps=1e-5)
        padded = [t.detach().cpu().double() for t in tables]
        padded[place] = torch.cat([padded[place], torch.zeros(1, 8).double()])
        known = [i if i is not wrong else torch.tensor([0, 5, 5, 4, 5]) for i in ids]
        expected = formula(known, padded, torch.ones(()).double(), 1e-5)
        torch.testing.assert_close(out.cpu().double(), expected, rtol=1e-5, atol=1e-6)
        (gradient,) = torch.autograd.grad(out, tables[place], torch.randn(5, 8, generator=generator).to(device))
        assert gradient.any(1).tolist() == [True, False, False, False, True]


@pytest.mark.parametrize("needed", range(5))
def test_gradients_are_made_only_where_needed(needed: int, device: Device, dtype: DType, generator: Generator) -> None:
    ids, tables = problem((23, 40, 30, 12, 2 + needed % 2), generator, device, dtype)
    upstream = torch.randn(23, 40, generator=generator).to(device, dtype)
    results = []
    for alone in (True, False):
        leaves = [t.detach().clone().requires_grad_(i == needed or not alone) for i, t in enumerate(tables)]
        embedding_layer_norm(*ids, *leaves, eps=1e-5, p=0.1, seed=2).backward(upstream)
        results.append([t.grad for t in leaves])
    assert [g is not None for g in results[0]] == [i == needed for i in range(5)]
    assert torch.equal(results[0][needed], results[1][needed])
    frozen = [t.detach() for t in tables]
    assert not embedding_layer_norm(*ids, *frozen, eps=1e-5).requires_grad


def test_what_is_not_needed_is_not_allocated(device: Device, generator: Generator) -> None:
    ids, tables = problem((5, 8, 7, 6, 2), generator, device)
    plain = [t.detach() for t in tables]
    seed = torch.tensor([3, 0], device=device)
    forward, backward = operators.embedding_layer_norm, operators.embedding_backward
    out, mean, rstd = forward(*ids, *plain, seed, 1e-5, 0.1, 0, False)
    assert (mean.numel(), rstd.numel()) == (0, 0)
    _, mean, rstd = forward(*ids, *plain, seed, 1e-5, 0.1, 0, True)
    sizes = [56, 48, 16, 8, 8]
    for i in range(4):
        found = backward(out, ids, plain[:3], plain[3], mean, rstd, seed, 0.1, 0, [i == j for j in range(4)])
        made = [i == 0, i == 1, i == 2, i == 3, i == 3]
        assert [t.numel() for t in found] == [s * m for s, m in zip(sizes, made, strict=True)]


def test_strided_tables_and_other_ids(device: Device, dtype: DType, generator: Generator) -> None:
    ids, tables = problem((24, 16, 30, 24, 2), generator, device, dtype)
    flat = [t.detach() for t in tables]
    strided = [functional.pad(t, (2, 3))[..., 2:-3] for t in flat]
    odd = [torch.stack([i, i], 1)[:, 0].to(torch.int32).view(4, 6) for i in ids]
    results = []
    for given, leaves in ((ids, flat), (odd, strided)):
        for t in leaves:
            t.requires_grad_()
        out = embedding_layer_norm(*given, *leaves, eps=1e-5, p=0.1, seed=2).reshape(24, 16)
        results.append((out, *torch.autograd.grad(out, leaves, out.new_ones(1).expand_as(out))))
    assert all_equal(*results)


def test_extreme_values(device: Device, generator: Generator, as_good_as: AsGoodAs) -> None:
    ids, tables = problem((30, 48, 30, 30, 2), generator, device)
    with torch.no_grad():
        tables[0][:10] *= 1e15
        tables[0][10:20] += 1000
    check(ids, tables, 3, torch.randn(30, 48, generator=generator), as_good_as)


def test_no_rows(device: Device, dtype: DType, generator: Generator) -> None:
    ids, tables = problem((0, 24, 4, 3, 3), generator, device, dtype)
    out = embedding_layer_norm(*ids, *tables, eps=1e-5, p=0.1, seed=1)
    found = torch.autograd.grad(out, tables, torch.empty_like(out))
    assert out.shape == (0, 24)
    assert [g.shape for g in found] == [t.shape for t in tables]
    assert not any(bool(g.any()) for g in found)


def test_equal_runs_give_equal_bits(device: Device, dtype: DType, generator: Generator) -> None:
    ids, tables = problem((129, 24, 20, 40, 2), generator, device, dtype)
    call = lambda *t: embedding_layer_norm(*ids, *t, eps=1e-5, p=0.1, seed=2)  # noqa: E731
    upstream = torch.randn(129, 24, generator=generator)
    first, *runs = (with_gradients(call, tables, upstream) for _ in range(100 if device.type == "cuda" else 2))
    assert all(all_equal(run, first) for run in runs)
