"""One or more sample calls of every public operation, for the tests that hold for all of them.

A new operation, or a new option that takes another way through the kernels, is a new line in `CASES`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from xlt_engine import kernels

Inputs = dict[str, Tensor]
TOKENS, HIDDEN = 37, 24
LENGTHS = (3, 17, 0, 1, 16)


@dataclass(frozen=True)
class Case:
    """A call of one operation.

    Attributes:
        name: of the test.
        inputs: makes fp32 and integer tensors on the CPU, by parameter; floating-point ones get gradients.
        call: the operation on such tensors; its first result is differentiated.
        frozen: floating-point parameters without gradient.
        buffers: parameters that the call or its backward writes to.
        fixed: parameters that keep their dtype in every run.
        second_order: whether a second derivative is defined; where it is not, asking for one must raise.
    """

    name: str
    inputs: Callable[[torch.Generator], Inputs]
    call: Callable[..., Any]
    frozen: tuple[str, ...] = ()
    buffers: tuple[str, ...] = ()
    fixed: tuple[str, ...] = ()
    second_order: bool = False

    def tensors(self, device: torch.device, dtype: torch.dtype = torch.float32, *, seed: int = 1) -> Inputs:
        """The inputs on a device, different for each seed."""
        made = self.inputs(torch.Generator().manual_seed(seed))
        found = {}
        for name, tensor in made.items():
            floating = tensor.is_floating_point()
            found[name] = tensor.to(device, dtype if floating and name not in self.fixed else tensor.dtype)
            found[name].requires_grad_(floating and name not in self.frozen + self.buffers)
        return found


def _normal(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=generator)


def _seed(generator: torch.Generator) -> Tensor:
    return torch.randint(2**62, (1,), generator=generator)


def _dropout(generator: torch.Generator) -> Inputs:
    return {"x": _normal(generator, TOKENS, HIDDEN), "seed": _seed(generator)}


def _affine(generator: torch.Generator) -> Inputs:
    return {"weight": 1 + 0.1 * _normal(generator, HIDDEN), "bias": 0.1 * _normal(generator, HIDDEN)}


def _norm(generator: torch.Generator) -> Inputs:
    tokens = {name: _normal(generator, TOKENS, HIDDEN) for name in ("x", "residual")}
    return tokens | _affine(generator) | {"seed": _seed(generator)}


def _norm_with_bias(generator: torch.Generator) -> Inputs:
    return _norm(generator) | {"x_bias": _normal(generator, HIDDEN)}


def _embedding(generator: torch.Generator) -> Inputs:
    sizes = {"word": 50, "position": 20, "segment": 2}
    tables = {name: _normal(generator, size, HIDDEN) for name, size in sizes.items()}
    names = dict(zip(sizes, ("token_ids", "positions", "segments"), strict=True))
    numbers = {names[name]: torch.randint(size, (TOKENS,), generator=generator) for name, size in sizes.items()}
    return numbers | tables | _affine(generator) | {"seed": _seed(generator)}


def _linear(generator: torch.Generator) -> Inputs:
    width = 41
    matrices = {"x": _normal(generator, TOKENS, HIDDEN), "weight": 0.2 * _normal(generator, width, HIDDEN)}
    return matrices | {"bias": 0.1 * _normal(generator, width)}


def _vocabulary(generator: torch.Generator) -> Inputs:
    target = torch.randint(101, (TOKENS,), generator=generator)
    target[::5] = -100
    return {
        "hidden": _normal(generator, TOKENS, HIDDEN),
        "weight": 0.3 * _normal(generator, 101, HIDDEN),
        "bias": 0.1 * _normal(generator, 101),
        "target": target,
    }


def _weighted_vocabulary(generator: torch.Generator) -> Inputs:
    return _vocabulary(generator) | {"weights": torch.rand(TOKENS, generator=generator)}


def _accumulating_vocabulary(generator: torch.Generator) -> Inputs:
    return _vocabulary(generator) | {"weight_grad": _normal(generator, 101, HIDDEN)}


def _attention(generator: torch.Generator) -> Inputs:
    ends = torch.tensor((0, *LENGTHS)).cumsum(0).int()
    return {"qkv": _normal(generator, sum(LENGTHS), 3, 2, 16), "cu_seqlens": ends, "seed": _seed(generator)}


def _turned(generator: torch.Generator) -> Inputs:
    """One head, and a sequence that fills its tile: the interpreter is slow."""
    rotary = kernels.rotary_table(torch.arange(21) % 16, 16, 100.0)
    return {"qkv": _normal(generator, 21, 3, 1, 16), "cu_seqlens": torch.tensor([0, 16, 21]).int(), "rotary": rotary}


def _gated(generator: torch.Generator) -> Inputs:
    return _linear(generator) | {"weight": _normal(generator, 26, HIDDEN), "bias": _normal(generator, 26)}


def _voters(generator: torch.Generator) -> Inputs:
    return {
        "logits": 2 * _normal(generator, 3, TOKENS, 5),
        "teacher": _normal(generator, TOKENS, 5).softmax(-1),
        "weights": torch.rand(TOKENS, generator=generator),
    }


def _labels(generator: torch.Generator) -> Inputs:
    target = torch.randint(5, (TOKENS,), generator=generator)
    target[::4] = -100
    return {
        "logits": 2 * _normal(generator, 3, TOKENS, 5),
        "target": target,
        "weights": torch.rand(TOKENS, generator=generator),
    }


def _mlp(generator: torch.Generator) -> Inputs:
    voters, width = 3, 13
    shapes = {"w1": (width, HIDDEN), "b1": (width,), "w2": (HIDDEN, width), "b2": (HIDDEN,)}
    made = {name: 0.3 * _normal(generator, voters, *shape) for name, shape in shapes.items()}
    return {"x": _normal(generator, TOKENS, HIDDEN)} | made | {"seed": _seed(generator)}


def _votes(generator: torch.Generator) -> Inputs:
    gold = torch.randint(4, (TOKENS,), generator=generator)
    return {"logits": 3 * torch.nn.functional.one_hot(gold, 4) + _normal(generator, 3, TOKENS, 4)}


def _moments(generator: torch.Generator) -> Inputs:
    made = {name: _normal(generator, TOKENS, HIDDEN) for name in ("gradient", "weight", "first")}
    numbers = {"step": torch.tensor(3.0), "rate": torch.tensor(1e-2), "scale": torch.tensor(0.5)}
    rest = {"second": torch.rand(TOKENS, HIDDEN, generator=generator), "copy": made["weight"].half()}
    return made | rest | numbers | {"skip": torch.tensor(0.0)}


_FP32 = ("weight", "first", "second", "step")


def _adamw(gradient: Tensor, copy: Tensor, rate: Tensor, scale: Tensor, skip: Tensor, **written: Tensor) -> Tensor:
    """With a copy where its type is that of the gradient, if that has 16 bits."""
    rounded = copy if gradient.dtype in (copy.dtype, torch.float32) else None
    columns = ([written[name]] for name in ("first", "second", "step"))
    numbers = {"betas": (0.9, 0.999), "eps": 1e-8, "scale": scale, "skip": skip}
    kernels.adamw_step([written["weight"]], [gradient], *columns, [rounded], [rate], [0.1], **numbers)
    return kernels.gradient_norm([gradient])


_DROP = {"p": 0.2, "site": 3}
_TEACHER = ("teacher", "weights")

CASES = [
    Case("dropout", _dropout, lambda **t: kernels.dropout(**t, **_DROP), second_order=True),
    Case("dropout-int", _dropout, lambda x, seed: kernels.dropout(x, 0.2, seed=7, site=3), second_order=True),
    Case("layer-norm", _norm, lambda **t: kernels.dropout_residual_layer_norm(**t, **_DROP, eps=1e-6)),
    Case(
        "layer-norm-plain",
        _norm,
        lambda x, residual, weight, bias, seed: kernels.dropout_residual_layer_norm(
            x, residual, weight, bias, eps=1e-6
        ),
        frozen=("residual", "bias"),
    ),
    Case("layer-norm-bias", _norm_with_bias, lambda **t: kernels.dropout_residual_layer_norm(**t, **_DROP, eps=1e-6)),
    Case(
        "residual-norm",
        _norm,
        lambda x, residual, weight, bias, seed: kernels.residual_norm(x, residual, weight, bias, eps=1e-6)[::-1],
    ),
    Case(
        "layer-norm-alone",
        _norm,
        lambda residual, **t: kernels.dropout_residual_layer_norm(**t, residual=None, **_DROP, eps=1e-6),
        frozen=("residual",),
    ),
    Case("embedding", _embedding, lambda **t: kernels.embedding_layer_norm(**t, **_DROP, eps=1e-6)),
    Case(
        "embedding-frozen",
        _embedding,
        lambda seed, **t: kernels.embedding_layer_norm(**t, eps=1e-6),
        frozen=("word", "position", "segment"),
    ),
    Case("linear-gelu", _linear, kernels.linear_gelu),
    Case("linear-gelu-bias", _linear, kernels.linear_gelu, frozen=("x", "weight")),
    Case("linear-gelu-inference", _linear, kernels.linear_gelu, frozen=("x", "weight", "bias")),
    Case("linear-glu", _gated, lambda **t: kernels.linear_glu(**t, activation="silu")),
    Case("mlm", _vocabulary, kernels.linear_cross_entropy),
    Case("mlm-frozen", _vocabulary, kernels.linear_cross_entropy, frozen=("weight", "bias")),
    Case(
        "mlm-recompute", _vocabulary, lambda **t: kernels.linear_cross_entropy(**t, mode="recompute", reduction="none")
    ),
    Case(
        "mlm-weighted",
        _weighted_vocabulary,
        lambda **t: kernels.linear_cross_entropy(**t, reduction="mean"),
        frozen=("weights",),
    ),
    Case(
        "mlm-accumulating",
        _accumulating_vocabulary,
        kernels.linear_cross_entropy,
        frozen=("weight",),
        buffers=("weight_grad",),
    ),
    Case("attention", _attention, lambda **t: kernels.packed_attention(**t, max_seqlen=max(LENGTHS))),
    Case("attention-dropout", _attention, lambda **t: kernels.packed_attention(**t, **_DROP, max_seqlen=max(LENGTHS))),
    Case("attention-blocks", _attention, lambda **t: kernels.packed_attention(**t, **_DROP, max_seqlen=65)),
    Case("attention-inference", _attention, lambda **t: kernels.packed_attention(**t, max_seqlen=17), frozen=("qkv",)),
    Case(
        "attention-window",
        _turned,
        lambda **t: kernels.packed_attention(**t, max_seqlen=16, window=5),
        frozen=("rotary",),
    ),
    Case("soft-labels", _voters, kernels.soft_label_loss, frozen=_TEACHER),
    Case(
        "soft-labels-mean",
        _voters,
        lambda logits, teacher, **_: kernels.soft_label_loss(logits, teacher, reduction="mean"),
        frozen=_TEACHER,
    ),
    Case("hard-labels", _labels, kernels.voter_cross_entropy, frozen=("weights",)),
    Case("voter-mlp", _mlp, lambda **t: kernels.voter_mlp(**t, **_DROP)),
    Case(
        "adamw",
        _moments,
        _adamw,
        frozen=("gradient", "rate", "scale", "skip"),
        buffers=(*_FP32, "copy"),
        fixed=(*_FP32, "copy", "rate", "scale", "skip"),
    ),
    Case("votes", _votes, kernels.votes, frozen=("logits",)),
]
