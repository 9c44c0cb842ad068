import importlib
from typing import Any

import pytest
import torch

from xlt_engine.kernels import linear_cross_entropy

from ..helpers import AsGoodAs, Device, DType, Error, Generator, all_equal, check_all
from ..losses import Problem

ops = importlib.import_module("xlt_engine.kernels.fused.linear_cross_entropy")
each_mode = pytest.mark.parametrize("mode", ["store", "recompute"])
# Ragged in every dimension, H beyond a block of it, one row, fewer classes than a tile.
SIZES = [(1, 5, 3), (17, 1003, 40), (129, 259, 100), (127, 517, 160)]


def check(
    problem: Problem, as_good_as: AsGoodAs, reduction: str = "sum", weighted: bool = False, mode: str = "store"
) -> None:
    found, truth = problem.ours(reduction, weighted, mode), problem.truth(reduction, weighted)
    assert len(found) == len(truth) == 3 + (problem.bias is not None)
    check_all(as_good_as, found, problem.plain(problem.dtype, problem.device, reduction, weighted), truth)
    assert found[0].dtype == torch.float32
    assert not found[1][(problem.target == -100).to(problem.device)].any()


@each_mode
@pytest.mark.parametrize(
    ("size", "reduction", "weighted", "bias"),
    [
        (SIZES[0], "sum", False, True),
        (SIZES[1], "mean", True, True),
        (SIZES[1], "none", False, False),
        (SIZES[2], "none", True, True),
        (SIZES[3], "mean", False, True),
        (SIZES[3], "sum", True, False),
    ],
)
def test_equals_the_plain_computation(
    size: tuple[int, int, int],
    reduction: str,
    weighted: bool,
    bias: bool,
    mode: str,
    device: Device,
    dtype: DType,
    generator: Generator,
    as_good_as: AsGoodAs,
) -> None:
    check(Problem(*size, generator, dtype, device, bias=bias), as_good_as, reduction, weighted, mode)


@each_mode
def test_at_the_hidden_size_of_bert(mode: str, device: Device, dtype: DType, generator: Any, as_good_as: Any) -> None:
    check(Problem(70, 301, 768, generator, dtype, device), as_good_as, "mean", True, mode)


@each_mode
@pytest.mark.parametrize("spread", [1e-3, 60.0, 6000.0])
def test_nearly_constant_large_and_huge_logits(
    spread: float, mode: str, device: Device, generator: Generator, as_good_as: AsGoodAs
) -> None:
    """Over 30 nats between a class and the target: such rows are repaired, others in their tile left as they were."""
    problem = Problem(33, 600, 48, generator, device=device, spread=spread)
    problem.hidden[::3] *= 1e-3
    problem.hidden[:16] *= 1e-3  # a whole block of rows without a need for repair, beside others in its tile
    check(problem, as_good_as, "sum", False, mode)


@each_mode
def test_certain_and_impossible_targets(mode: str, device: Device, generator: Generator, relative_error: Error) -> None:
    """Losses of 1e-6 and of 60 keep their relative precision: nothing is subtracted from one."""
    problem = Problem(16, 40, 16, generator, device=device, spread=0.1)
    problem.weight[:, 0] = 0.0
    problem.weight[7, 0] = 1.0
    problem.hidden[:8, 0], problem.hidden[8:, 0] = 17.0, 60.0
    problem.target[:] = 7
    problem.target[8:] = 8
    found = problem.ours("none", False, mode)
    truth = problem.truth("none")
    assert truth[0][:8].max() < 1e-4
    assert truth[0][8:].min() > 50
    for rows in (slice(0, 8), slice(8, 16)):
        for ours, true in zip(found[:2], truth[:2], strict=True):
            assert relative_error(ours[rows].cpu(), true[rows]) < 1e-5


@each_mode
def test_chunks_of_the_vocabulary_and_of_its_tiles_make_no_difference(
    mode: str, device: Device, dtype: DType, generator: Generator, as_good_as: AsGoodAs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ops, "CHUNK_BYTES", 1)
    monkeypatch.setattr(ops, "SETTLE_T", 2)
    check(Problem(40, 700, 24, generator, dtype, device), as_good_as, "sum", True, mode)


@each_mode
def test_tiles_of_ignored_rows_alone(mode: str, device: Device, dtype: DType, generator: Any, monkeypatch: Any) -> None:
    """Two of four row tiles have nothing that counts, and in them nothing that is a number."""
    monkeypatch.setattr(ops, "choose_tile", lambda *_: ops.Tile(16, 64, 32, 4, 2))
    problem = Problem(60, 131, 40, generator, dtype, device)
    few = Problem(60, 131, 40, generator, dtype, device)
    problem.target[16:32] = problem.target[48:] = -100
    kept = [*range(16), *range(32, 48)]
    few.__dict__ |= problem.__dict__ | {name: getattr(problem, name)[kept] for name in ("hidden", "target", "upstream")}
    problem.hidden[16:32] = problem.hidden[48:] = float("nan")
    for whole, part in zip(problem.ours("none", False, mode), few.ours("none", False, mode), strict=True):
        expected = part
        if whole.shape[0] == 60:
            expected = torch.zeros_like(whole)
            expected[kept] = part
        torch.testing.assert_close(whole, expected, rtol=1e-2 if dtype != torch.float32 else 1e-5, atol=1e-6)


@each_mode
@pytest.mark.parametrize("rows", [0, 4])
def test_no_row_that_counts(mode: str, rows: int, device: Device) -> None:
    """Ignored rows may hold anything, and all gradients are zeros."""
    hidden = torch.full((rows, 3), float("nan"), device=device, requires_grad=True)
    weight, bias = (torch.ones(s, device=device, requires_grad=True) for s in ((7, 3), (7,)))
    for reduction in ("sum", "mean", "none"):
        target = torch.full((rows,), -100, device=device)
        loss = linear_cross_entropy(hidden, weight, bias, target, reduction=reduction, mode=mode)
        gradients = torch.autograd.grad(loss.sum(), (hidden, weight, bias))
        for tensor in (loss, *gradients):
            assert torch.equal(tensor, torch.zeros_like(tensor))


@each_mode
def test_rows_that_are_not_numbers_but_ignored_change_nothing(mode: str, device: Device, generator: Generator) -> None:
    problem = Problem(20, 31, 8, generator, device=device)
    clean = problem.ours("mean", True, mode)
    problem.hidden[problem.target == -100] = float("nan")
    assert all_equal(problem.ours("mean", True, mode), clean)


@each_mode
@pytest.mark.filterwarnings("ignore:All-NaN slice encountered")  # by the interpreter
def test_a_target_that_is_no_class_makes_its_loss_not_a_number(mode: str, device: Device, generator: Generator) -> None:
    problem = Problem(6, 31, 8, generator, device=device)
    problem.target[:] = torch.tensor([1, 31, 2, -1, 3, 4])
    leaves = [t.detach() for t in problem.leaves()]
    leaves[0].requires_grad_()
    loss = linear_cross_entropy(*leaves, problem.target.to(device), mode=mode, reduction="none")
    assert loss.isnan().tolist() == [False, True, False, True, False, False]


@each_mode
def test_a_class_that_is_not_a_number_shows_in_the_loss(mode: str, device: Any, dtype: DType, generator: Any) -> None:
    """A GPU's minimum and maximum drop what is not a number, which Triton's interpreter does not do."""
    problem = Problem(20, 31, 8, generator, dtype, device)
    problem.target[problem.target == 3] = 4
    problem.bias[3] = float("nan")
    loss = problem.ours("none", False, mode)[0].cpu()
    assert torch.equal(loss.isnan(), problem.target != -100)


@each_mode
def test_a_frozen_matrix_costs_no_gradient_and_changes_no_other(
    mode: str, device: Device, dtype: DType, generator: Generator
) -> None:
    problem = Problem(40, 300, 16, generator, dtype, device)
    all_of_them = problem.ours("sum", False, mode)
    frozen = problem.ours("sum", False, mode, frozen=True)
    assert len(frozen) == 3
    assert all_equal(frozen, [all_of_them[0], all_of_them[1], all_of_them[3]])


@each_mode
def test_the_gradient_of_a_tied_matrix_is_added_to_a_buffer(
    mode: str, device: Device, dtype: DType, generator: Generator, relative_error: Error
) -> None:
    problem = Problem(40, 300, 16, generator, dtype, device)
    truth = problem.truth()[2]
    hidden, weight, bias = problem.leaves()
    there = torch.randn(weight.shape, generator=generator).to(device)
    buffer = there.clone()
    mode = "auto" if dtype == torch.float16 else mode
    for _ in range(2):
        loss = linear_cross_entropy(hidden, weight, bias, problem.target.to(device), mode=mode, weight_grad=buffer)
        loss.backward(torch.tensor(-1.7, device=device))
    assert weight.grad is None
    assert relative_error((buffer - there).cpu() / 2, truth) < (1e-5 if dtype == torch.float32 else 5e-3)


def test_inputs_may_be_strided_views_and_targets_short(device: Device, generator: Any, relative_error: Error) -> None:
    problem = Problem(20, 31, 8, generator, device=device)
    truth = problem.truth()
    hidden, weight = torch.zeros(8, 40, device=device)[:, ::2], torch.zeros(8, 62, device=device)[:, ::2]
    leaves = [hidden.t().copy_(problem.hidden).detach(), weight.t().copy_(problem.weight).detach()]
    for leaf in leaves:
        assert not leaf.is_contiguous()
        leaf.requires_grad_()
    loss = linear_cross_entropy(*leaves, problem.bias.to(device), problem.target.int().to(device))
    for gradient, true in zip(problem.drive(loss, leaves)[1:], truth[1:3], strict=True):
        assert relative_error(gradient.cpu(), true) < 1e-5


@each_mode
def test_memory_of_a_mode(mode: str, device: Device, generator: Generator) -> None:
    """No tensor of N x V in recompute mode; one of 2NV (4NV) bytes, and none without gradients, in store mode."""
    problem = Problem(40, 300, 16, generator, device=device)
    target = problem.target.to(device)
    kept = ops.linear_cross_entropy(*problem.leaves(), target, -100, mode == "store", None)[3]
    assert kept.shape == ((40, 512) if mode == "store" else (0, 0))
    assert ops.stores(614, 119_547, torch.bfloat16, "auto")
    assert not ops.stores(614, 119_547, torch.float16, "auto")
    assert not ops.stores(4_915, 119_547, torch.bfloat16, "auto")


@each_mode
def test_runs_are_equal_bit_for_bit_and_backward_may_be_repeated(
    mode: str, device: Device, dtype: DType, generator: Generator
) -> None:
    problem = Problem(130, 301, 32, generator, dtype, device)
    assert all_equal(*(problem.ours("mean", True, mode) for _ in range(2)))
    leaves = problem.leaves()
    loss = linear_cross_entropy(*leaves, problem.target.to(device))
    assert all_equal(*(torch.autograd.grad(loss, leaves, retain_graph=True) for _ in range(2)))


def test_fp16_survives_scaled_gradients(device: Device, generator: Generator, relative_error: Error) -> None:
    """Loss scaling multiplies upstream gradients by 65,536: nothing overflows that fp16 gradients can hold."""
    if device.type == "cpu":
        pytest.skip("16-bit arithmetic is not that of a GPU under the interpreter")
    problem = Problem(64, 300, 32, generator, torch.float16, device)
    truth = problem.truth("mean")
    leaves = problem.leaves()
    loss = linear_cross_entropy(*leaves, problem.target.to(device), reduction="mean")
    found = torch.autograd.grad(loss, leaves, torch.tensor(65_536.0, device=device))
    for gradient, true in zip(found[:2], truth[1:3], strict=True):
        assert relative_error(gradient.cpu().double() / 65_536 * -1.7, true) < 3e-3
