"""Compiles the Triton kernels for a GPU on a machine without one, and prints what came of them as JSON lines.

    python tests/kernels/compile_for_gpu.py [90 | 80]     the compute capability, 90 by default

Every operation is called on CPU tensors of realistic shape (bf16; for 9.0 fp16 and fp32 too) with the launch replaced
by Triton's own warm-up, which specialises and compiles as a launch would; what the operations return means nothing. Run
by `tests/kernels/test_compile_for_gpu.py`. Not with TRITON_INTERPRET=1, which compiles nothing.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction

from xlt_engine import kernels
from xlt_engine.kernels import dispatch

TYPES = (torch.bfloat16, torch.float16, torch.float32)


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


def operations(dtype: torch.dtype) -> Iterator[tuple[str, Callable[[], Tensor | tuple[Any, ...]]]]:
    """Name and call of each operation; what they return is driven backward."""

    def make(*shape: int) -> Tensor:
        return torch.randn(shape).to(dtype).requires_grad_()

    def wide(*shape: int) -> Tensor:
        return torch.randn(shape).requires_grad_()

    target = torch.randint(1003, (300,))
    for mode in ("store", "recompute"):
        if (mode, dtype) == ("store", torch.float16):
            continue
        given = (make(300, 768), make(1003, 768), wide(1003), target)
        yield f"linear_cross_entropy {mode}", lambda g=given, m=mode: kernels.linear_cross_entropy(*g, mode=m)
        frozen = (make(300, 768), given[1].detach(), None, target)
        yield f"linear_cross_entropy {mode} frozen", lambda g=frozen, m=mode: kernels.linear_cross_entropy(*g, mode=m)
    yield "dropout", lambda: kernels.dropout(make(300, 768), 0.1, seed=3)
    for p in (0.0, 0.1) if dtype == torch.bfloat16 else (0.1,):
        rows = (make(300, 768), make(300, 768), wide(768), wide(768))
        yield "layer_norm", lambda r=rows, p=p: kernels.dropout_residual_layer_norm(*r, eps=1e-12, p=p, seed=3)
        tables = (make(1003, 768), make(512, 768), make(2, 768), wide(768), wide(768))
        ids = (torch.randint(1003, (300,)), torch.arange(300), torch.zeros(300, dtype=torch.int64))
        yield (
            "embedding",
            lambda i=ids, t=tables, p=p: kernels.embedding_layer_norm(*i, *t, eps=1e-12, p=p, seed=3),
        )
        voters = (make(300, 768), make(3, 704, 768), make(3, 704), make(3, 768, 704), make(3, 768))
        yield "voter_mlp", lambda v=voters, p=p: kernels.voter_mlp(*v, p=p, seed=3)
        for longest in (24, 128, 256) if p else (64,):
            qkv = make(longest + 20, 3, 12, 64)
            cu = torch.tensor([0, 20, longest + 20])
            yield (
                f"attention {longest}",
                lambda q=qkv, c=cu, n=longest, p=p: kernels.packed_attention(q, c, n, p=p, seed=3),
            )
    yield "linear_gelu", lambda: kernels.linear_gelu(make(300, 768), make(3072, 768), make(3072))
    logits, teacher, gold = make(3, 300, 9), torch.rand(300, 9).softmax(-1), torch.randint(9, (300,))
    for kind in ("mse", "kl") if dtype == torch.bfloat16 else ("ce",):
        for combine in ("per-voter", "mean"):
            yield (
                f"soft_label_loss {kind} {combine}",
                lambda k=kind, c=combine: kernels.soft_label_loss(logits, teacher, kind=k, combine=c),
            )
    yield (
        "soft_label_loss logits",
        lambda: kernels.soft_label_loss(logits, teacher, kind="logits", weights=torch.rand(300)),
    )
    yield "voter_cross_entropy", lambda: kernels.voter_cross_entropy(logits, gold)
    yield "votes", lambda: kernels.votes(logits.detach())


def resources(cubin: bytes) -> dict[str, int]:
    """Registers a thread and bytes of stack, which is where spilled registers go, from Triton's own cuobjdump."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        said = subprocess.run(
            [tool, "--dump-resource-usage", file.name], check=True, capture_output=True, text=True
        ).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+)", said)
    assert found, said
    return {"registers": int(found[1]), "stack": int(found[2])}


def main(capability: int) -> None:
    """Prints one line for each kernel that was compiled."""
    compiled: dict[str, str] = {}
    triton.runtime.driver.set_active(Driver(capability))
    launch = JITFunction.run
    context = {"operation": "", "dtype": ""}

    def compile_only(self: Any, *args: Any, grid: Any, warmup: bool = False, **options: Any) -> Any:
        kernel = launch(self, *args, grid=grid, warmup=True, **options)
        if kernel.hash not in compiled:
            compiled[kernel.hash] = self.fn.__name__
            ptx = kernel.asm["ptx"]
            facts = {
                **context,
                "kernel": self.fn.__name__,
                "warps": kernel.metadata.num_warps,
                "shared": kernel.metadata.shared,
                "matrix_units": "wgmma.mma_async" in ptx or "mma.sync" in ptx,
                "wgmma": "wgmma.mma_async" in ptx,
                "dots": "tt.dot" in kernel.asm["ttir"],
                **resources(kernel.asm["cubin"]),
            }
            sys.stdout.write(json.dumps(facts) + "\n")
        return kernel

    JITFunction.run = compile_only
    dispatch._obstacle = lambda device: None  # type: ignore[assignment]
    with dispatch.using("triton"):
        for dtype in TYPES if capability >= 90 else TYPES[:1]:
            for name, call in operations(dtype):
                context.update(operation=name, dtype=str(dtype).removeprefix("torch."))
                result = call()
                if isinstance(result, Tensor):
                    result.sum().backward()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 90)
