"""Compiles the Triton kernels as training and inference launch them, and prints what came of each as a line of JSON.

    python benchmarks/gpu/specialisations.py [--capability 9.0 --shared BYTES] [--dtype NAME ...] [--family NAME ...]

Without --capability for the GPU of this machine, into Triton's cache, where later processes find it. With it, and the
shared memory that a program may have there, no GPU is needed. The operations are called at the sizes of multilingual
BERT on CPU tensors whose memory is never touched, with the launch replaced by Triton's own warm-up, which specialises
and compiles as a launch would (types, alignment, divisibility, tiles); matrix products are left out, and what the
operations return means nothing. Not with TRITON_INTERPRET=1, which compiles nothing.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction

from xlt_engine import kernels
from xlt_engine.kernels import dispatch
from xlt_engine.kernels.fused import linear_cross_entropy as loss
from xlt_engine.kernels.fused.launch import shared_memory

Call = tuple[str, Callable[[], Any]]
"""A name, and what makes its launches; a tensor that comes back is driven backward."""

TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
VOCABULARY, SIZE, INNER, HEADS, POSITIONS = 119_547, 768, 3072, 12, 512
TOKENS, VOTERS, WIDTH = 320, 3, 704
"""Tokens are no compile-time constant, nor specialised: few do."""


class Driver:
    """As much of a Triton driver as compiling needs."""

    def __init__(self, capability: int) -> None:
        self.target = GPUTarget("cuda", capability, 32)

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int = 0) -> int:
        return 0


class Maker:
    """Inputs of a type whose memory is not touched; LayerNorms stay in fp32, as in training."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype

    def __call__(self, *shape: int) -> Tensor:
        return torch.empty(shape, dtype=self.dtype).requires_grad_()

    def norm(self) -> tuple[Tensor, Tensor]:
        return torch.empty(SIZE).requires_grad_(), torch.empty(SIZE).requires_grad_()


def _inference(call: Callable[..., Any], *args: Any, **options: Any) -> None:
    with torch.no_grad():
        call(*args, **options)


def _loss(mode: str, make: Maker) -> Iterator[Call]:
    """Both tiles of the loss: many rows and few; the vocabulary is not specialised."""
    if (mode, make.dtype) == ("store", torch.float16):
        return
    for rows in (614, 48):
        inputs = make(rows, SIZE), make(VOCABULARY, SIZE), make(VOCABULARY), torch.zeros(rows, dtype=torch.int64)
        yield f"N {rows}", partial(kernels.linear_cross_entropy, *inputs, mode=mode)


def _norms(make: Maker) -> Iterator[Call]:
    inputs, add = (make(TOKENS, SIZE), make(TOKENS, SIZE), *make.norm()), kernels.dropout_residual_layer_norm
    yield "layer norm", partial(add, *inputs, eps=1e-12, p=0.1, seed=3, x_bias=make(SIZE))
    yield "layer norm without dropout", partial(add, *inputs, eps=1e-12, x_bias=make(SIZE))
    yield "layer norm of a head", partial(add, inputs[0], None, *inputs[2:], eps=1e-12)
    yield "layer norm, inference", partial(_inference, add, *inputs, eps=1e-12)
    yield "norm without a bias", lambda: kernels.residual_norm(*inputs[:3], None, eps=1e-5)[1]
    yield "RMS norm", lambda: kernels.residual_norm(*inputs[:3], None, eps=1e-5, rms=True)[1]
    ids = (torch.zeros(TOKENS, dtype=torch.int64),) * 3
    tables = make(VOCABULARY, SIZE), make(POSITIONS, SIZE), make(2, SIZE)
    embed = partial(kernels.embedding_layer_norm, *ids, *tables, *make.norm(), eps=1e-12)
    frozen = [*(t.detach() for t in tables), *(t.detach() for t in make.norm())]
    yield "embedding", partial(embed, p=0.1, seed=3)
    yield "embedding, frozen", partial(kernels.embedding_layer_norm, *ids, *frozen, eps=1e-12, p=0.1, seed=3)
    yield "embedding, inference", partial(_inference, embed)


def _activations(make: Maker) -> Iterator[Call]:
    inputs = make(TOKENS, SIZE), make(INNER, SIZE), make(INNER)
    yield "linear_gelu", partial(kernels.linear_gelu, *inputs)
    yield "linear_gelu, inference", partial(_inference, kernels.linear_gelu, *inputs)
    yield "linear_glu, GELU", partial(kernels.linear_glu, inputs[0], make(2 * WIDTH, SIZE), None, "gelu")
    yield "linear_glu, SiLU", partial(kernels.linear_glu, inputs[0], make(2 * WIDTH, SIZE), make(2 * WIDTH), "silu")
    shapes = (VOTERS, WIDTH, SIZE), (VOTERS, WIDTH), (VOTERS, SIZE, WIDTH), (VOTERS, SIZE)
    voters = make(TOKENS, SIZE), *(make(*shape) for shape in shapes)
    yield "voter_mlp", partial(kernels.voter_mlp, *voters, p=0.1, seed=3)
    yield "voter_mlp, inference", partial(_inference, kernels.voter_mlp, *voters)


def _dropout(make: Maker) -> Iterator[Call]:
    yield "dropout", partial(kernels.dropout, make(TOKENS, SIZE), 0.1, seed=3)


def _attention(make: Maker) -> Iterator[Call]:
    """By the longest sequence: tiles of 16, 32, 64 and 128, and the long way; layers of ModernBERT's two kinds.

    Where sequences are many and short, those of up to 64 tokens have a launch apart, and that of 128 has another half.
    """
    for longest in (16, 24, 64, 128, 256):
        inputs = make(longest + 16, 3, HEADS, 64), torch.tensor([0, 16, longest + 16], dtype=torch.int32), longest
        yield f"attention {longest}", partial(kernels.packed_attention, *inputs, p=0.1, seed=3)
        yield f"attention {longest}, inference", partial(_inference, kernels.packed_attention, *inputs)
        for kind, window in (("rotary", None), ("rotary, window", 64)) if longest == 256 else ():
            turned = partial(kernels.packed_attention, *inputs, rotary=torch.empty(longest + 16, 64), window=window)
            yield f"attention {longest}, {kind}", turned
    many = make(TOKENS, 3, HEADS, 64), torch.zeros(65, dtype=torch.int32), 128
    yield "attention 128, many short", partial(kernels.packed_attention, *many, p=0.1, seed=3)
    turned = partial(
        kernels.packed_attention, *inputs[:2], max_seqlen=128, rotary=torch.empty(longest + 16, 64), window=64
    )
    yield "attention 128, rotary, window", turned
    yield "attention 256, rotary, window, inference", partial(_inference, partial(turned, max_seqlen=256))


def _votes(make: Maker) -> Iterator[Call]:
    """Nine classes, whose rows are no power of two, in one program and in many; two classes."""
    for classes, items in ((9, 300), (9, 8192), (2, 300)):
        shape = f"{classes} classes, {items} items"
        logits, teacher, weights = make(VOTERS, items, classes), torch.empty(items, classes), torch.empty(items)
        target = torch.zeros(items, dtype=torch.int64)
        yield f"soft labels, {shape}", partial(kernels.soft_label_loss, logits, teacher)
        yield f"hard labels, {shape}", partial(kernels.voter_cross_entropy, logits, target, weights=weights)
        if items == 300:
            yield f"votes, {shape}", partial(_inference, kernels.votes, logits)


def _optimizer(make: Maker) -> Iterator[Call]:
    """With copies of the type; in fp32 with none. On CPU memory, which alone can have an address."""
    sizes = (3 * SIZE, SIZE), (SIZE,)
    copied = make.dtype != torch.float32
    weights, first, second = ([torch.empty(size) for size in sizes] for _ in range(3))
    gradients = [torch.empty(size, dtype=make.dtype) for size in sizes]
    copies = [torch.empty(size, dtype=make.dtype) if copied else None for size in sizes]
    steps, rate = [torch.zeros(()) for _ in sizes], torch.zeros(())
    update = partial(kernels.adamw_step, weights, gradients, first, second, steps, copies, [rate] * 2, [0.01, 0.0])
    numbers = {"betas": (0.9, 0.999), "eps": 1e-8, "scale": torch.ones(()), "skip": torch.zeros(())}
    yield "gradient norm", partial(kernels.gradient_norm, gradients)
    yield "AdamW", partial(update, **numbers)


FAMILIES: dict[str, Callable[[Maker], Iterator[Call]]] = {
    "loss, stored": partial(_loss, "store"),
    "loss, recomputed": partial(_loss, "recompute"),
    "attention": _attention,
    "norms": _norms,
    "votes": _votes,
    "activations": _activations,
    "dropout": _dropout,
    "optimizer": _optimizer,
}
"""The slowest to compile first."""


def name_of(function: Callable[..., Any]) -> str:
    """File and function, without what all of them say."""
    file = function.__module__.rpartition(".")[2]
    return f"{file.removesuffix('_kernels')}.{function.__name__.strip('_').removesuffix('_kernel')}"


def resources(cubin: bytes) -> dict[str, int]:
    """Registers a thread, and bytes of stack, which is where spilled registers go, by Triton's own tool."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [tool, "--dump-resource-usage", file.name]
        said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    usage = re.search(r"REG:(\d+) STACK:(\d+)", said)
    assert usage, said
    return {"registers": int(usage[1]), "stack": int(usage[2])}


def pretend(limit: int) -> None:
    """CPU tensors have a GPU's shared memory, and no products: those take minutes there, and launch nothing of ours."""
    loss.shared_memory = lambda x: limit
    loss.product = lambda a, b: a.new_empty(a.shape[0], b.shape[1], dtype=torch.float32)
    loss.product_into = loss.add_product = lambda *_: None


def compile_all(families: list[str], types: list[str]) -> None:
    """Prints a line for each kernel that was compiled."""
    compiled: set[str] = set()
    launch, context = JITFunction.run, {"family": "", "operation": "", "dtype": ""}

    def compile_only(self: Any, *args: Any, grid: Any, warmup: bool = False, **options: Any) -> Any:
        kernel = launch(self, *args, grid=grid, warmup=True, **options)
        if kernel.hash not in compiled:
            compiled.add(kernel.hash)
            ptx, metadata = kernel.asm["ptx"], kernel.metadata
            facts = {
                **context,
                "kernel": name_of(self.fn),
                "warps": metadata.num_warps,
                "stages": metadata.num_stages,
                "shared": metadata.shared,
                "products": "tt.dot" in kernel.asm["ttir"],
                "units": "wgmma" if "wgmma.mma_async" in ptx else "mma.sync" if "mma.sync" in ptx else None,
                **resources(kernel.asm["cubin"]),
            }
            sys.stdout.write(json.dumps(facts) + "\n")
            sys.stdout.flush()
        return kernel

    JITFunction.run = compile_only
    dispatch._obstacle = lambda device: None  # type: ignore[assignment]
    with dispatch.using("triton"):
        for family in families:
            for name in types:
                for operation, call in FAMILIES[family](Maker(TYPES[name])):
                    context.update(family=family, operation=operation, dtype=name)
                    result = call()
                    if isinstance(result, Tensor) and result.requires_grad:
                        result.backward(torch.empty_like(result))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--capability", help="of a GPU that need not be there")
    parser.add_argument("--shared", type=int, help="its bytes of shared memory for a program")
    parser.add_argument("--dtype", dest="types", nargs="+", choices=list(TYPES), default=list(TYPES))
    parser.add_argument("--family", dest="families", nargs="+", choices=list(FAMILIES), default=list(FAMILIES))
    arguments = parser.parse_args()
    if arguments.capability is None:
        pretend(shared_memory(torch.empty(0, device="cuda")))
    else:
        triton.runtime.driver.set_active(Driver(int(arguments.capability.replace(".", ""))))
        pretend(arguments.shared)
    compile_all(arguments.families, arguments.types)


if __name__ == "__main__":
    main()
