from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from xlt_engine.kernels import dispatch, soft_label_loss, voter_cross_entropy

Check = Callable[..., None]
OPTIONS = [
    (kind, combine, temperature)
    for kind in ("mse", "logits", "kl", "ce")
    for combine in ("per-voter", "mean")
    for temperature in ((1.0, 2.5, 0.5) if kind != "logits" else (2.0,))
]
REDUCTIONS = ("sum", "mean", "none")
SHAPES = [
    (1, 1, 2),
    (3, 127, 9),
    (2, 129, 4),
    (2, 513, 3),
    (4, 5, 33),
    (2, 3, 100),
    (17, 9, 2),
    (2, 2, 1024),
    (2, 7, 64),
]


def item_losses(z: Tensor, teacher: Tensor, kind: str, combine: str, temperature: float) -> Tensor:
    """[K] by the definition, in the dtype of `z`."""
    if kind == "logits":
        views, target = z, teacher
    else:
        e = ((z - z.amax(-1, keepdim=True).detach()) / temperature).exp()
        views = e / e.sum(-1, keepdim=True)
        raised = teacher ** (1 / temperature)
        target = teacher if temperature == 1.0 else raised / raised.sum(-1, keepdim=True)
    if combine == "mean":
        views = views.mean(0, keepdim=True)
    if kind in ("mse", "logits"):
        distances = ((views - target) ** 2).mean(-1)
    else:
        distances = -(target * views.log()).sum(-1) * temperature**2
        if kind == "kl":
            distances = distances + (target * target.log()).sum(-1) * temperature**2
    return distances.mean(0)


def reduced(per_item: Tensor, weights: Tensor | None, counted: Tensor, reduction: str) -> Tensor:
    mass = counted.double() if weights is None else counted * weights.double()
    losses = torch.where(counted, per_item, 0.0) * (1.0 if weights is None else weights.double())
    if reduction == "none":
        return losses
    return losses.sum() / (mass.sum() if reduction == "mean" else 1.0)


def problem(generator: torch.Generator, voters: int, items: int, classes: int) -> tuple[Tensor, ...]:
    logits = torch.randn(voters, items, classes, generator=generator) * 2
    teacher = (torch.randn(items, classes, generator=generator) * 2).softmax(-1)
    weights = torch.rand(items, generator=generator) * torch.randint(1, 3, (items,), generator=generator)
    return logits, teacher, weights


def compare(
    as_good_as: Check, loss: Callable[[Tensor], Tensor], logits: Tensor, truth: Tensor, expected: Tensor
) -> tuple[Tensor, Tensor]:
    """Value and gradient of `loss` against an fp64 truth; the allowance is the error of the reference path.

    The gradient is measured by voter: an item whose teacher a voter has nearly met has no digits left in any fp32.
    """
    upstream = torch.rand(expected.shape, generator=torch.Generator().manual_seed(5)) + 0.5
    (gradient_truth,) = torch.autograd.grad(expected, truth, upstream.double())
    found = []
    for mode in ("triton", "reference"):
        with dispatch.using(mode):
            given = logits.detach().clone().requires_grad_()
            value = loss(given)
            (gradient,) = torch.autograd.grad(value, given, upstream.to(value.device))
            found.append((value.detach(), gradient))
    as_good_as(found[0][0], found[1][0], expected)
    as_good_as(found[0][1].flatten(1), found[1][1].flatten(1), gradient_truth.flatten(1))
    return found[0]


@pytest.mark.parametrize(("kind", "combine", "temperature"), OPTIONS)
def test_every_option(
    kind: str,
    combine: str,
    temperature: float,
    device: torch.device,
    dtype: torch.dtype,
    generator: torch.Generator,
    as_good_as: Check,
) -> None:
    logits, teacher, weights = problem(generator, 3, 37, 9)
    logits = logits.to(device, dtype)
    # Not normalised: what the definition does with such a teacher holds too.
    teacher = teacher * (torch.rand(37, 1, generator=generator) + 0.5)
    options: dict[str, Any] = {"kind": kind, "combine": combine, "temperature": temperature}
    for reduction in REDUCTIONS:
        truth = logits.detach().cpu().double().requires_grad_()
        per_item = item_losses(truth, teacher.double(), kind, combine, temperature)
        expected = reduced(per_item, weights, torch.ones(37, dtype=torch.bool), reduction)
        compare(
            as_good_as,
            lambda z, reduction=reduction: soft_label_loss(  # type: ignore[misc]
                z,
                teacher.to(device),
                weights=weights.to(device),
                reduction=reduction,
                **options,
            ),
            logits,
            truth,
            expected,
        )


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("combine", ["per-voter", "mean"])
def test_every_edge(
    shape: tuple[int, int, int],
    combine: str,
    device: torch.device,
    dtype: torch.dtype,
    generator: torch.Generator,
    as_good_as: Check,
) -> None:
    logits, teacher, _ = problem(generator, *shape)
    logits = logits.to(device, dtype)
    kind, reduction = ("kl", "mean") if combine == "mean" else ("mse", "sum")
    truth = logits.detach().cpu().double().requires_grad_()
    per_item = item_losses(truth, teacher.double(), kind, combine, 1.0)
    expected = reduced(per_item, None, torch.ones(shape[1], dtype=torch.bool), reduction)
    compare(
        as_good_as,
        lambda z: soft_label_loss(z, teacher.to(device), kind=kind, combine=combine, reduction=reduction),
        logits,
        truth,
        expected,
    )


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("weighted", [False, True])
def test_voter_cross_entropy(
    reduction: str,
    weighted: bool,
    device: torch.device,
    dtype: torch.dtype,
    generator: torch.Generator,
    as_good_as: Check,
) -> None:
    logits, _, weights = problem(generator, 3, 133, 9)
    logits = logits.to(device, dtype)
    target = torch.randint(0, 9, (133,), generator=generator)
    target[::5] = -7
    target[1], target[2] = 8, 0
    valid = target != -7
    truth = logits.detach().cpu().double().requires_grad_()
    per_item = -torch.stack([truth[:, k].log_softmax(-1)[:, int(c) * int(c > 0)].mean() for k, c in enumerate(target)])
    chosen = weights if weighted else None
    expected = reduced(per_item, chosen, valid, reduction)
    _, gradient = compare(
        as_good_as,
        lambda z: voter_cross_entropy(
            z,
            target.to(device),
            weights=None if chosen is None else chosen.to(device),
            ignore_index=-7,
            reduction=reduction,
        ),
        logits,
        truth,
        expected,
    )
    assert not gradient[:, ~valid].any()
    assert gradient[:, valid].any(-1).all()


@pytest.mark.parametrize("most", [2, 1024])
def test_sums_over_many_programs(
    most: int,
    device: torch.device,
    generator: torch.Generator,
    as_good_as: Check,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Fixed slots, of which each collects several blocks when there are few."""
    from xlt_engine.kernels.fused import soft_label_loss as fused

    monkeypatch.setattr(fused, "_MAX_PROGRAMS", most)
    logits, _, weights = problem(generator, 1, 601, 3)
    logits = logits.to(device)
    target = torch.randint(-1, 3, (601,), generator=generator)
    truth = logits.detach().cpu().double().requires_grad_()
    picked = truth.log_softmax(-1)[0].gather(-1, target.clamp(min=0)[:, None])[:, 0]
    expected = reduced(-picked, weights, target != -1, "mean")

    def loss(z: Tensor) -> Tensor:
        return voter_cross_entropy(z, target.to(device), weights=weights.to(device), ignore_index=-1, reduction="mean")

    compare(as_good_as, loss, logits, truth, expected)
    assert torch.equal(loss(logits), loss(logits))


SIX = [("forward_kernel", (6,)), ("finish_kernel", (1,))]


@pytest.mark.parametrize(("items", "forward"), [(128, [("forward_kernel", (1,))]), (700, SIX)])
def test_launches(
    items: int,
    forward: list[tuple[str, tuple[int, ...]]],
    device: torch.device,
    generator: torch.Generator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from xlt_engine.kernels.fused import soft_label_loss as fused

    launched = []
    for name in ("forward_kernel", "backward_kernel", "finish_kernel"):

        class Counted:
            def __init__(self, kernel: Any, name: str) -> None:
                self.kernel, self.name = kernel, name

            def __getitem__(self, grid: tuple[int, ...]) -> Any:
                launched.append((self.name, grid))
                return self.kernel[grid]

        monkeypatch.setattr(fused.kernels, name, Counted(getattr(fused.kernels, name), name))
    logits, teacher, weights = problem(generator, 2, items, 9)
    logits = logits.to(device).requires_grad_()
    loss = soft_label_loss(logits, teacher.to(device), weights=weights.to(device), reduction="mean")
    assert launched == forward
    loss.backward()
    assert [name for name, _ in launched[len(forward) :]] == ["backward_kernel"]


@pytest.mark.parametrize("temperature", [1.0, 3.0])
@pytest.mark.parametrize("combine", ["per-voter", "mean"])
@pytest.mark.parametrize("kind", ["mse", "kl", "ce"])
def test_saturated_and_constant_logits(kind: str, combine: str, temperature: float, device: torch.device) -> None:
    """Certain voters, a teacher with zeros, logits of 1e4, and logits that are all equal, against fp64."""
    rows = [[1e4, -1e4, 0.0], [200.0, -200.0, 0.0], [7.0, 7.0, 7.0], [-1e4, -1e4, -1e4], [30.0, 0.0, -30.0]]
    logits = torch.tensor([rows, rows[::-1]], device=device)
    teacher = torch.tensor([[1.0, 0, 0], [0, 0, 1.0], [0.5, 0.5, 0], [0, 1.0, 0], [0.2, 0.3, 0.5]], device=device)
    values, gradients = [], []
    for z in (logits.clone(), logits.cpu().double()):
        z.requires_grad_()
        with dispatch.using("triton" if z.dtype == torch.float32 else "reference"):
            value = soft_label_loss(
                z, teacher.to(z), kind=kind, combine=combine, temperature=temperature, reduction="none"
            )
        (gradient,) = torch.autograd.grad(value.sum(), z)
        values.append(value.detach().cpu().double())
        gradients.append(gradient.cpu().double())
    torch.testing.assert_close(*values, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-6)
    assert values[0].abs().max() > 0.1


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_ignored_items_have_exactly_no_gradient(device: torch.device) -> None:
    logits = torch.randn(2, 5, 9, generator=torch.Generator().manual_seed(1)).to(device)
    logits[:, 1] = torch.nan
    logits[0, 3] = torch.inf
    logits.requires_grad_()
    target = torch.tensor([2, -100, 8, -100, 0], device=device)
    loss = voter_cross_entropy(logits, target, reduction="mean")
    loss.backward()
    assert logits.grad is not None
    assert loss.isfinite()
    assert not logits.grad[:, [1, 3]].any()
    assert logits.grad[:, [0, 2, 4]].all()
    for reduction in REDUCTIONS:
        nobody = voter_cross_entropy(logits, torch.full((5,), -100, device=device), reduction=reduction)
        assert not nobody.any()
        assert not torch.autograd.grad(nobody.sum(), logits)[0].any()


def test_weights_of_nothing_and_weights_that_are_not_fp32(device: torch.device, generator: torch.Generator) -> None:
    logits, teacher, _ = problem(generator, 2, 6, 4)
    logits, teacher = logits.to(device).requires_grad_(), teacher.to(device).softmax(-1)
    loss = soft_label_loss(logits, teacher, weights=torch.zeros(6, device=device), reduction="mean")
    loss.backward()
    assert logits.grad is not None
    assert float(loss.detach()) == 0.0
    assert not logits.grad.any()
    wanted = torch.tensor([1, 0, 1, 1, 0, 1], device=device)
    for weights in (wanted.bool(), wanted, wanted.half(), wanted.double()):
        loss = soft_label_loss(logits, teacher, weights=weights, reduction="mean")
        torch.testing.assert_close(
            loss, soft_label_loss(logits[:, wanted.bool()], teacher[wanted.bool()], reduction="mean")
        )


def test_a_class_that_does_not_exist_is_not_a_number(device: torch.device) -> None:
    for wrong in (9, -1):
        target = torch.tensor([2, wrong, 8], device=device)
        losses = voter_cross_entropy(torch.zeros(2, 3, 9, device=device), target, reduction="none")
        assert losses.isnan().tolist() == [False, True, False]


def test_only_the_logits_have_a_gradient(device: torch.device, generator: torch.Generator) -> None:
    logits, teacher, weights = (t.to(device).requires_grad_() for t in problem(generator, 2, 6, 4))
    options: dict[str, Any] = {"weights": weights}
    assert not soft_label_loss(logits.detach(), teacher, **options).requires_grad
    soft_label_loss(logits, teacher, **options).backward()
    assert logits.grad is not None
    assert teacher.grad is None
    assert weights.grad is None


def test_strided_arguments_and_equal_runs(device: torch.device, dtype: torch.dtype, generator: torch.Generator) -> None:
    logits, teacher, weights = problem(generator, 3, 70, 9)
    logits, teacher, weights = logits.to(device, dtype), teacher.to(device), weights.to(device)
    upstream = torch.rand(70, 2, generator=generator).to(device)[:, 0]

    def value_and_gradient(z: Tensor, t: Tensor, w: Tensor, upstream: Tensor) -> tuple[Tensor, Tensor]:
        given = z.detach().requires_grad_()
        losses = soft_label_loss(given, t, kind="kl", weights=w, reduction="none")
        return losses.detach(), torch.autograd.grad(losses, given, upstream)[0]

    expected = value_and_gradient(logits, teacher, weights, upstream.contiguous())
    apart = logits.permute(1, 0, 2).contiguous().permute(1, 0, 2)
    assert not apart.is_contiguous()
    for given in (logits, apart):
        found = value_and_gradient(
            given, teacher.t().contiguous().t(), torch.stack([weights, weights], 1)[:, 0], upstream
        )
        assert torch.equal(found[0], expected[0])
        assert torch.equal(found[1], expected[1])
    given = logits.detach().requires_grad_()
    losses = soft_label_loss(given, teacher, kind="kl", weights=weights, reduction="none")
    (of_sum,) = torch.autograd.grad(losses.sum(), given)
    assert torch.equal(of_sum, value_and_gradient(logits, teacher, weights, torch.ones(70, device=device))[1])


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_no_items(reduction: str, device: torch.device) -> None:
    logits = torch.zeros(2, 0, 3, device=device, requires_grad=True)
    for loss in (
        soft_label_loss(logits, torch.zeros(0, 3, device=device), reduction=reduction),
        voter_cross_entropy(logits, torch.zeros(0, dtype=torch.int64, device=device), reduction=reduction),
    ):
        assert loss.shape == ((0,) if reduction == "none" else ())
        assert not loss.any()
        loss.sum().backward()


def test_more_classes_than_a_tile_holds(device: torch.device, generator: torch.Generator) -> None:
    logits, teacher, _ = (t.to(device) for t in problem(generator, 2, 3, 1025))
    found = soft_label_loss(logits, teacher)
    with dispatch.using("reference"):
        assert torch.equal(found, soft_label_loss(logits, teacher))


def test_operator_contract(device: torch.device, dtype: torch.dtype, generator: torch.Generator) -> None:
    from xlt_engine.kernels.fused.soft_label_loss import soft_label_loss as operator
    from xlt_engine.kernels.fused.soft_label_loss import soft_label_loss_backward as backward

    logits, teacher, weights = (t.to(device) for t in problem(generator, 2, 5, 3))
    logits = logits.to(dtype).requires_grad_()
    options = ("kl", 2.0, "mean")
    torch.library.opcheck(operator, (logits, teacher, weights, *options, "mean", 0))
    target = torch.tensor([0, 1, -1, 2, 2], device=device)
    torch.library.opcheck(operator, (logits, target, None, "class", 1.0, "per-voter", "none", -1))
    one = torch.ones((1,), device=device)
    given = (one[0], logits.detach(), teacher, weights, one, *options, 0)
    torch.library.opcheck(backward, given)


def test_in_one_compiled_graph(device: torch.device, generator: torch.Generator) -> None:
    logits, teacher, weights = (t.to(device) for t in problem(generator, 2, 20, 3))
    target = torch.randint(0, 3, (20,), generator=generator).to(device)
    logits.requires_grad_()

    def loss(z: Tensor) -> Tensor:
        soft = soft_label_loss(z, teacher, weights=weights, reduction="mean")
        return soft + voter_cross_entropy(z, target) * 0.3

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(logits), loss(logits))
    (found,), (expected,) = torch.autograd.grad(compiled(logits), logits), torch.autograd.grad(loss(logits), logits)
    assert torch.equal(found, expected)


@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
def test_captured_in_a_graph_without_waiting_for_the_device(device: torch.device, generator: torch.Generator) -> None:
    if device.type != "cuda":
        pytest.skip("needs a CUDA device")
    first, teacher, weights = (t.to(device) for t in problem(generator, 3, 5000, 9))
    second = problem(generator, 3, 5000, 9)[0].to(device)
    given = first.clone().requires_grad_()

    def step() -> tuple[Tensor, Tensor]:
        loss = soft_label_loss(given, teacher, weights=weights, reduction="mean")
        return loss.detach(), torch.autograd.grad(loss, given)[0]

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        step()
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    for logits in (second, first):
        given.data.copy_(logits)
        graph.replay()
        for found, expected in zip(captured, step(), strict=True):
            assert torch.equal(found, expected)
