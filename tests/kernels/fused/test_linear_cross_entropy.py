from __future__ import annotations

import importlib
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from xlt_engine.kernels import linear_cross_entropy

Error = Callable[[Tensor, Tensor], float]
MODES = ["store", "recompute"]
# Ragged in every dimension, H beyond a block of it, one row, fewer classes than a tile.
SIZES = [(1, 5, 3), (17, 1003, 40), (129, 259, 100), (127, 517, 160)]


class Problem:
    """Tensors of one problem, rounded to the tested precision, so that every computation starts from the same ones."""

    def __init__(
        self,
        rows: int,
        vocabulary: int,
        size: int,
        generator: torch.Generator,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        *,
        bias: bool = True,
        spread: float = 2.0,
    ) -> None:
        def draw(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator)

        self.dtype, self.device, self.vocabulary = dtype, device, vocabulary
        self.hidden = draw(rows, size).to(dtype)
        self.weight = (draw(vocabulary, size) * spread / size**0.5).to(dtype)
        self.bias = draw(vocabulary) if bias else None
        self.target = torch.randint(vocabulary, (rows,), generator=generator)
        self.target[rows // 2 :: 5] = self.target[0]
        self.target[3::7] = -100
        self.target[rows - 1] = vocabulary - 1
        self.weights = torch.rand(rows, generator=generator) + 0.1
        self.upstream = draw(rows)

    def leaves(self, dtype: torch.dtype, device: torch.device | str) -> list[Tensor | None]:
        """Hidden, matrix, bias; the bias keeps fp32 at least."""
        found = (self.hidden.to(dtype), self.weight.to(dtype), self.bias)
        wide = dtype if dtype == torch.float64 else torch.float32
        return [
            None if t is None else t.to(wide if t is self.bias else t.dtype).to(device).clone().requires_grad_()
            for t in found
        ]

    def drive(self, loss: Tensor, leaves: list[Tensor | None]) -> list[Tensor]:
        upstream = self.upstream.to(loss) if loss.dim() else torch.tensor(-1.7).to(loss)
        loss.backward(upstream)
        return [loss.detach(), *(t.grad for t in leaves if t is not None and t.grad is not None)]

    def plain(self, dtype: torch.dtype, device: torch.device | str, reduction: str, weighted: bool) -> list[Tensor]:
        """Loss and gradients of torch's own computation: logits in `dtype`, the loss in fp32 or better."""
        leaves = self.leaves(dtype, device)
        hidden, weight, bias = leaves
        assert hidden is not None
        assert weight is not None
        logits = functional.linear(hidden, weight)
        logits = logits if dtype == torch.float64 else logits.float()
        if bias is not None:
            logits = logits + bias
        target = self.target.to(device)
        loss = functional.cross_entropy(logits, target, reduction="none")
        scale = self.weights.to(loss) if weighted else torch.ones_like(loss)
        loss = loss * scale
        if reduction != "none":
            loss = loss.sum() / ((scale * (target != -100)).sum() if reduction == "mean" else 1.0)
        return self.drive(loss, leaves)

    def ours(self, reduction: str, weighted: bool, mode: str, frozen: bool = False) -> list[Tensor]:
        leaves = self.leaves(self.dtype, self.device)
        hidden, weight, bias = leaves
        assert hidden is not None
        assert weight is not None
        weight.requires_grad_(not frozen)
        loss = linear_cross_entropy(
            hidden,
            weight,
            bias,
            self.target.to(self.device),
            weights=self.weights.to(self.device) if weighted else None,
            reduction=reduction,
            mode="auto" if self.dtype == torch.float16 else mode,
        )
        return self.drive(loss, leaves)


def check(
    problem: Problem,
    as_good_as: Callable[..., None],
    reduction: str = "sum",
    weighted: bool = False,
    mode: str = "store",
) -> None:
    found = problem.ours(reduction, weighted, mode)
    plain = problem.plain(problem.dtype, problem.device, reduction, weighted)
    truth = problem.plain(torch.float64, "cpu", reduction, weighted)
    assert len(found) == len(plain) == len(truth) == 3 + (problem.bias is not None)
    for ours, native, true in zip(found, plain, truth, strict=True):
        as_good_as(ours, native, true)
    assert found[0].dtype == torch.float32
    assert not found[1][(problem.target == -100).to(problem.device)].any()


@pytest.mark.parametrize("mode", MODES)
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
    device: torch.device,
    dtype: torch.dtype,
    generator: torch.Generator,
    as_good_as: Callable[..., None],
) -> None:
    check(Problem(*size, generator, dtype, device, bias=bias), as_good_as, reduction, weighted, mode)


@pytest.mark.parametrize("mode", MODES)
def test_at_the_hidden_size_of_bert(
    mode: str,
    device: torch.device,
    dtype: torch.dtype,
    generator: torch.Generator,
    as_good_as: Callable[..., None],
) -> None:
    check(Problem(70, 301, 768, generator, dtype, device), as_good_as, "mean", True, mode)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("spread", [1e-3, 60.0, 6000.0])
def test_nearly_constant_large_and_huge_logits(
    spread: float, mode: str, device: torch.device, generator: torch.Generator, as_good_as: Callable[..., None]
) -> None:
    """Over 30 nats between a class and the target: such rows are repaired, others in their tile left as they were."""
    problem = Problem(33, 600, 48, generator, device=device, spread=spread)
    problem.hidden[::3] *= 1e-3
    problem.hidden[:16] *= 1e-3  # a whole block of rows without a need for repair, beside others in its tile
    check(problem, as_good_as, "sum", False, mode)


@pytest.mark.parametrize("mode", MODES)
def test_certain_and_impossible_targets(
    mode: str, device: torch.device, generator: torch.Generator, relative_error: Error
) -> None:
    """Losses of 1e-6 and of 60 keep their relative precision: nothing is subtracted from one."""
    problem = Problem(16, 40, 16, generator, device=device, spread=0.1)
    problem.weight[:, 0] = 0.0
    problem.weight[7, 0] = 1.0
    problem.hidden[:8, 0], problem.hidden[8:, 0] = 17.0, 60.0
    problem.target[:] = 7
    problem.target[8:] = 8
    found = problem.ours("none", False, mode)
    truth = problem.plain(torch.float64, "cpu", "none", False)
    assert truth[0][:8].max() < 1e-4
    assert truth[0][8:].min() > 50
    for rows in (slice(0, 8), slice(8, 16)):
        for ours, true in zip(found[:2], truth[:2], strict=True):
            assert relative_error(ours[rows].cpu(), true[rows]) < 1e-5


@pytest.mark.parametrize("mode", MODES)
def test_chunks_of_the_vocabulary_and_of_its_tiles_make_no_difference(
    mode: str,
    device: torch.device,
    dtype: torch.dtype,
    generator: torch.Generator,
    as_good_as: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = importlib.import_module("xlt_engine.kernels.fused.linear_cross_entropy")
    monkeypatch.setattr(module, "CHUNK_BYTES", 1)
    monkeypatch.setattr(module, "SETTLE_T", 2)
    check(Problem(40, 700, 24, generator, dtype, device), as_good_as, "sum", True, mode)


@pytest.fixture
def use_tile(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Another tile for every call."""
    ops = importlib.import_module("xlt_engine.kernels.fused.linear_cross_entropy")
    return lambda *tile: monkeypatch.setattr(ops, "choose_tile", lambda *_: ops.Tile(*tile))


@pytest.mark.parametrize("mode", MODES)
def test_tiles_of_ignored_rows_alone(
    mode: str,
    device: torch.device,
    dtype: torch.dtype,
    generator: torch.Generator,
    use_tile: Callable[..., None],
) -> None:
    """Two of four row tiles have nothing that counts, and in them nothing that is a number."""
    use_tile(16, 64, 32, 4, 2)
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


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("rows", [0, 4])
def test_no_row_that_counts(mode: str, rows: int, device: torch.device) -> None:
    """Ignored rows may hold anything, and all gradients are zeros."""
    hidden = torch.full((rows, 3), float("nan"), device=device, requires_grad=True)
    weight, bias = (torch.ones(s, device=device, requires_grad=True) for s in ((7, 3), (7,)))
    for reduction in ("sum", "mean", "none"):
        target = torch.full((rows,), -100, device=device)
        loss = linear_cross_entropy(hidden, weight, bias, target, reduction=reduction, mode=mode)
        gradients = torch.autograd.grad(loss.sum(), (hidden, weight, bias))
        for tensor in (loss, *gradients):
            assert torch.equal(tensor, torch.zeros_like(tensor))


def test_rows_that_are_not_numbers_but_ignored_change_nothing(device: torch.device, generator: torch.Generator) -> None:
    problem = Problem(20, 31, 8, generator, device=device)
    clean = [problem.ours("mean", True, mode) for mode in MODES]
    problem.hidden[problem.target == -100] = float("nan")
    for mode, before in zip(MODES, clean, strict=True):
        for a, b in zip(problem.ours("mean", True, mode), before, strict=True):
            assert torch.equal(a, b)


@pytest.mark.filterwarnings("ignore:All-NaN slice encountered")  # by the interpreter
def test_a_target_that_is_no_class_makes_its_loss_not_a_number(
    device: torch.device, generator: torch.Generator
) -> None:
    problem = Problem(6, 31, 8, generator, device=device)
    problem.target[:] = torch.tensor([1, 31, 2, -1, 3, 4])
    hidden, weight, bias = (None if t is None else t.detach() for t in problem.leaves(torch.float32, device))
    assert hidden is not None
    assert weight is not None
    for mode in MODES:
        loss = linear_cross_entropy(
            hidden.requires_grad_(), weight, bias, problem.target.to(device), mode=mode, reduction="none"
        )
        assert loss.isnan().tolist() == [False, True, False, True, False, False]


@pytest.mark.parametrize("mode", MODES)
def test_a_class_that_is_not_a_number_shows_in_the_loss(
    mode: str, device: torch.device, dtype: torch.dtype, generator: torch.Generator
) -> None:
    """A GPU's minimum and maximum drop what is not a number, which Triton's interpreter does not do."""
    problem = Problem(20, 31, 8, generator, dtype, device)
    assert problem.bias is not None
    problem.target[problem.target == 3] = 4
    problem.bias[3] = float("nan")
    loss = problem.ours("none", False, mode)[0].cpu()
    assert torch.equal(loss.isnan(), problem.target != -100)


@pytest.mark.parametrize("mode", MODES)
def test_a_frozen_matrix_costs_no_gradient_and_changes_no_other(
    mode: str, device: torch.device, dtype: torch.dtype, generator: torch.Generator
) -> None:
    problem = Problem(40, 300, 16, generator, dtype, device)
    all_of_them = problem.ours("sum", False, mode)
    frozen = problem.ours("sum", False, mode, frozen=True)
    assert len(frozen) == 3
    for a, b in zip(frozen, [all_of_them[0], all_of_them[1], all_of_them[3]], strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("mode", MODES)
def test_the_gradient_of_a_tied_matrix_is_added_to_a_buffer(
    mode: str, device: torch.device, dtype: torch.dtype, generator: torch.Generator, relative_error: Error
) -> None:
    problem = Problem(40, 300, 16, generator, dtype, device)
    truth = problem.plain(torch.float64, "cpu", "sum", False)[2]
    hidden, weight, bias = problem.leaves(dtype, device)
    assert hidden is not None
    assert weight is not None
    there = torch.randn(weight.shape, generator=generator).to(device)
    buffer = there.clone()
    mode = "auto" if dtype == torch.float16 else mode
    for _ in range(2):
        loss = linear_cross_entropy(hidden, weight, bias, problem.target.to(device), mode=mode, weight_grad=buffer)
        loss.backward(torch.tensor(-1.7, device=device))
    assert weight.grad is None
    assert relative_error((buffer - there).cpu() / 2, truth) < (1e-5 if dtype == torch.float32 else 5e-3)


def test_inputs_may_be_strided_views_and_targets_short(
    device: torch.device, generator: torch.Generator, relative_error: Error
) -> None:
    problem = Problem(20, 31, 8, generator, device=device)
    truth = problem.plain(torch.float64, "cpu", "sum", False)
    hidden = torch.zeros(8, 40, device=device)
    hidden[:, ::2] = problem.hidden.t().to(device)
    weight = torch.zeros(8, 62, device=device)
    weight[:, ::2] = problem.weight.t().to(device)
    hidden.requires_grad_()
    weight.requires_grad_()
    assert problem.bias is not None
    bias = problem.bias.to(device)
    loss = linear_cross_entropy(hidden[:, ::2].t(), weight[:, ::2].t(), bias, problem.target.int().to(device))
    loss.backward(torch.tensor(-1.7, device=device))
    assert hidden.grad is not None
    assert weight.grad is not None
    assert relative_error(hidden.grad[:, ::2].t().cpu(), truth[1]) < 1e-5
    assert relative_error(weight.grad[:, ::2].t().cpu(), truth[2]) < 1e-5


@pytest.mark.parametrize("mode", MODES)
def test_memory_of_a_mode(mode: str, device: torch.device, generator: torch.Generator) -> None:
    """No tensor of N x V in recompute mode; one of 2NV (4NV) bytes, and none without gradients, in store mode."""
    ops = importlib.import_module("xlt_engine.kernels.fused.linear_cross_entropy")
    problem = Problem(40, 300, 16, generator, device=device)
    hidden, weight, bias = (t for t in problem.leaves(torch.float32, device))
    assert hidden is not None
    target = problem.target.to(device)
    kept = ops.linear_cross_entropy(hidden, weight, bias, target, -100, mode == "store", None)[3]
    assert kept.shape == ((40, 512) if mode == "store" else (0, 0))
    assert ops.stores(614, 119_547, torch.bfloat16, "auto")
    assert not ops.stores(614, 119_547, torch.float16, "auto")
    assert not ops.stores(4_915, 119_547, torch.bfloat16, "auto")


@pytest.mark.parametrize("mode", MODES)
def test_runs_are_equal_bit_for_bit_and_backward_may_be_repeated(
    mode: str, device: torch.device, dtype: torch.dtype, generator: torch.Generator
) -> None:
    problem = Problem(130, 301, 32, generator, dtype, device)
    first, second = (problem.ours("mean", True, mode) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    leaves = problem.leaves(dtype, device)
    hidden, weight, bias = leaves
    assert hidden is not None
    assert weight is not None
    loss = linear_cross_entropy(hidden, weight, bias, problem.target.to(device))
    inputs = [t for t in leaves if t is not None]
    once = torch.autograd.grad(loss, inputs, retain_graph=True)
    again = torch.autograd.grad(loss, inputs)
    assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))


def test_operators_are_registered_in_full(device: torch.device, generator: torch.Generator) -> None:
    ops = importlib.import_module("xlt_engine.kernels.fused.linear_cross_entropy")
    problem = Problem(9, 31, 8, generator, device=device)
    target = problem.target.to(device)
    for store in (True, False):
        hidden, weight, bias = problem.leaves(torch.float32, device)
        torch.library.opcheck(ops.linear_cross_entropy, (hidden, weight, bias, target, -100, store, None))
        saved = ops.linear_cross_entropy(hidden, weight, bias, target, -100, store, None)
        args = [t if t is None else t.detach() for t in (hidden, weight, bias, target, *saved)]
        grad = torch.ones(9, device=device)
        for need, buffer in (([True] * 3, None), ([True, False, False], None), ([True, True, False], weight)):
            given = None if buffer is None else torch.zeros_like(buffer.detach())
            torch.library.opcheck(ops.linear_cross_entropy_backward, (grad, *args, -100, need, given))


def test_compiles_into_one_graph(device: torch.device, generator: torch.Generator) -> None:
    problem = Problem(9, 31, 8, generator, device=device)
    target = problem.target.to(device)

    def step(hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return linear_cross_entropy(hidden.tanh(), weight, bias, target, reduction="mean")

    results = []
    for function in (step, torch.compile(step, fullgraph=True, backend="aot_eager")):
        leaves = [t for t in problem.leaves(torch.float32, device) if t is not None]
        results.append(torch.autograd.grad(function(*leaves), leaves))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_fp16_survives_scaled_gradients(
    device: torch.device, generator: torch.Generator, relative_error: Error
) -> None:
    """Loss scaling multiplies upstream gradients by 65,536: nothing overflows that fp16 gradients can hold."""
    if device.type == "cpu":
        pytest.skip("16-bit arithmetic is not that of a GPU under the interpreter")
    problem = Problem(64, 300, 32, generator, torch.float16, device)
    truth = problem.plain(torch.float64, "cpu", "mean", False)
    hidden, weight, bias = problem.leaves(torch.float16, device)
    assert hidden is not None
    assert weight is not None
    loss = linear_cross_entropy(hidden, weight, bias, problem.target.to(device), reduction="mean")
    loss.backward(torch.tensor(65_536.0, device=device))
    for gradient, true in ((hidden.grad, truth[1]), (weight.grad, truth[2])):
        assert gradient is not None
        assert relative_error(gradient.cpu().double() / 65_536 * -1.7, true) < 3e-3
