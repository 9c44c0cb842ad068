from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from xlt_engine.kernels import adamw_step, dispatch, gradient_norm

BETAS, EPS = (0.9, 0.999), 1e-8
# One element, less than a round, a chunk, a chunk and a part of one, none, a scalar.
SHAPES = [(1,), (3, 67), (8192,), (2, 4099), (0, 4), ()]
RATES, DECAYS = (2e-2, 5e-2), (0.1, 0.0, 0.1)


class Weights:
    """Weights with moments, steps and, every other one, a 16-bit copy; three groups, of two rates and two decays."""

    def __init__(self, device: torch.device, generator: torch.Generator, half: torch.dtype | None = None) -> None:
        def normal(shape: tuple[int, ...]) -> Tensor:
            return torch.randn(shape, generator=generator)

        self.weights = [normal(s).to(device).requires_grad_() for s in SHAPES]
        self.first = [(0.1 * normal(s)).to(device) for s in SHAPES]
        self.second = [normal(s).square().to(device) * 0.1 for s in SHAPES]
        self.steps = [torch.tensor(float(i % 3), device=device) for i in range(len(SHAPES))]
        self.copies = [
            w.detach().to(half) if half is not None and i % 2 == 0 else None for i, w in enumerate(self.weights)
        ]
        self.rates = [torch.tensor(rate, device=device) for rate in RATES]
        self.group = [i % 3 for i in range(len(SHAPES))]
        self.truth = [[t.detach().cpu().double() for t in c] for c in (self.weights, self.first, self.second)]
        self.counted = [int(s) for s in self.steps]

    def gradients(self, generator: torch.Generator, half: torch.dtype | None) -> list[Tensor]:
        """In 16 bits where there is a copy."""
        made = [torch.randn(s, generator=generator) for s in SHAPES]
        return [
            g.to(w.device, torch.float32 if copy is None or half is None else half)
            for g, w, copy in zip(made, self.weights, self.copies, strict=True)
        ]

    def step(self, gradients: list[Tensor], **options: Any) -> None:
        adamw_step(
            self.weights, gradients, self.first, self.second, self.steps, self.copies,
            [self.rates[g % 2] for g in self.group], [DECAYS[g] for g in self.group],
            betas=BETAS, eps=EPS, **options,
        )  # fmt: skip

    def expect(self, gradients: list[Tensor], scale: float = 1.0) -> None:
        """The same step by the definition, in fp64."""
        beta1, beta2 = BETAS
        for i, (w, m, v) in enumerate(zip(*self.truth, strict=True)):
            g = gradients[i].detach().cpu().double() * scale
            rate, decay = float(self.rates[self.group[i] % 2]), DECAYS[self.group[i]]
            self.counted[i] += 1
            m.mul_(beta1).add_((1 - beta1) * g)
            v.mul_(beta2).add_((1 - beta2) * g.square())
            corrected = m / (1 - beta1 ** self.counted[i]), (v / (1 - beta2 ** self.counted[i])).sqrt()
            w.copy_(w * (1 - rate * decay) - rate * corrected[0] / (corrected[1] + EPS))

    def check(self) -> None:
        """Relative error of each tensor, and of a step's length for the weights; copies are the weights rounded."""
        for ours, truth in zip((self.weights, self.first, self.second), self.truth, strict=True):
            for a, b in zip(ours, truth, strict=True):
                assert float((a.detach().cpu().double() - b).norm()) <= 1e-6 * float(b.norm())
        assert [int(s) for s in self.steps] == self.counted
        for weight, copy in zip(self.weights, self.copies, strict=True):
            assert copy is None or torch.equal(copy, weight.detach().to(copy.dtype))


@pytest.fixture(params=["kernels", "reference"])
def _path(request: pytest.FixtureRequest, _kernels_and_poison: None) -> Iterator[None]:
    with dispatch.using("triton" if request.param == "kernels" else "reference"):
        yield


HALVES = [None, torch.bfloat16, torch.float16]


@pytest.mark.parametrize("half", HALVES, ids=str)
@pytest.mark.usefixtures("_path")
def test_steps_equal_the_definition(half: torch.dtype | None, device: torch.device, generator: torch.Generator) -> None:
    """Three steps at changing rates, the second of them skipped with gradients that are no numbers."""
    w = Weights(device, generator, half)
    scale = torch.tensor(0.3, device=device)
    for step in range(3):
        gradients = w.gradients(generator, half)
        given = [g.clone() for g in gradients]
        skip = torch.tensor(float(step == 1), device=device)
        for rate in w.rates:
            rate.mul_(0.7)
        if step == 1:
            before = [t.detach().clone() for t in (*w.weights, *w.first, *w.second, *w.steps)]
            w.step([g.fill_(torch.nan) for g in gradients], scale=scale, skip=skip)
            after = [t.detach() for t in (*w.weights, *w.first, *w.second, *w.steps)]
            assert all(torch.equal(a, b) for a, b in zip(after, before, strict=True))
            continue
        w.step(gradients, scale=scale, skip=skip)
        w.expect(given, 0.3)
        w.check()


@pytest.mark.usefixtures("_path")
def test_first_and_late_steps_are_corrected(device: torch.device, generator: torch.Generator) -> None:
    """1 - 0.999 ** t has few digits in fp32 where t is small."""
    w = Weights(device, generator)
    w.first, w.second = ([torch.zeros_like(t) for t in several] for several in (w.first, w.second))
    w.truth[1:] = [[torch.zeros_like(t) for t in several] for several in w.truth[1:]]
    for i, count in enumerate((0, 1, 2, 70_000, 0, 2**24 - 2)):
        w.steps[i].fill_(count)
        w.counted[i] = count
    gradients = w.gradients(generator, None)
    w.expect([g.clone() for g in gradients])
    before = [t.detach().cpu().double() for t in w.weights]
    w.step(gradients)
    w.check()
    for ours, truth, start in zip(w.weights, w.truth[0], before, strict=True):
        moved = float((truth - start).norm())
        # Half an ulp of a weight, of the step's length.
        slack = 1e-6 * moved + 6e-8 * float(truth.norm())
        assert float((ours.detach().cpu().double() - truth).norm()) <= slack


@pytest.mark.parametrize("half", HALVES, ids=str)
@pytest.mark.usefixtures("_path")
def test_norm_is_that_of_all(half: torch.dtype | None, device: torch.device, generator: torch.Generator) -> None:
    gradients = Weights(device, generator, half).gradients(generator, half)
    truth = torch.cat([g.detach().cpu().double().flatten() for g in gradients]).norm()
    norm = gradient_norm(gradients)
    assert (norm.shape, norm.dtype) == ((), torch.float32)
    assert abs(float(norm) - float(truth)) <= 3e-6 * float(truth)
    for place, value in ((0, torch.inf), (3, torch.nan)):
        spoiled = [g.clone() for g in gradients]
        spoiled[place].view(-1)[-1] = value
        assert not gradient_norm(spoiled).isfinite()


@pytest.mark.usefixtures("_path")
def test_tensors_that_are_not_aligned(device: torch.device, generator: torch.Generator) -> None:
    """Slices that begin four bytes after a multiple of 16, and a gradient with strides."""
    w = Weights(device, generator)
    for column in (w.weights, w.first, w.second):
        for i, tensor in enumerate(column):
            room = torch.zeros(tensor.numel() + 1, device=device)
            column[i] = room[1:].view(tensor.shape).copy_(tensor.detach())
    gradients = [g.mT.contiguous().mT if g.dim() == 2 else g for g in w.gradients(generator, None)]
    w.expect([g.clone() for g in gradients])
    w.step(gradients)
    w.check()


@pytest.mark.parametrize("change", ["count", "shape", "strides", "step", "copy"])
def test_what_does_not_fit_is_refused(change: str, device: torch.device, generator: torch.Generator) -> None:
    w = Weights(device, generator)
    gradients = w.gradients(generator, None)
    if change == "count":
        w.first.pop()
    elif change == "shape":
        gradients[1] = gradients[1][:, :5]
    elif change == "strides":
        w.second[1] = w.second[1].mT.contiguous().mT
    elif change == "copy":
        w.copies[1] = torch.zeros_like(w.first[1])
    else:
        w.steps[1] = torch.ones(3)
    with pytest.raises(ValueError, match="weight"):
        w.step(gradients)


def test_nothing_to_do() -> None:
    adamw_step([], [], [], [], [], [], [], [], betas=BETAS, eps=EPS)
    assert float(gradient_norm([])) == 0.0
