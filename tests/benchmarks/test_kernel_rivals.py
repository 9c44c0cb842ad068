"""The rivals of the kernels: found when asked for, and computing what the operations do."""

from typing import Any

import kernel_rivals as rivals
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from xlt_engine.engine.bench import kernels as bench
from xlt_engine.engine.bench.case import SIZES, Setting, ways
from xlt_engine.engine.bench.cases import cases_of
from xlt_engine.engine.bench.harness import errors

AT = Setting(torch.device("cpu"), torch.float32)


def library(file: str, name: str) -> Any:
    """Plain torch in place of Liger's functions."""
    gates = {"geglu": functional.gelu, "swiglu": functional.silu}
    functions: dict[str, Any] = {
        "fused_linear_cross_entropy": lambda h, w, t, b, *_: functional.cross_entropy(
            h @ w.t() + b, t, reduction="sum"
        ),
        "layer_norm": lambda x, w, b, eps: functional.layer_norm(x, x.shape[-1:], w, b, eps),
        "fused_add_rms_norm": lambda x, r, w, eps: (functional.rms_norm(x + r, x.shape[-1:], w, eps), x + r),
        "experimental.embedding": lambda table, ids: table[ids],
    }
    return functions.get(file) or (lambda first, gate: gates[file](first) * gate)


@pytest.mark.parametrize("operation", [name for name in rivals.RIVALS if name != "packed_attention"])  # GPUs only
def test_what_a_rival_is_given_is_the_operation(operation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the libraries' functions replaced by plain torch, results and gradients are those of the truth."""
    monkeypatch.setattr(rivals, "_liger", library)
    compared = 0
    for case in cases_of(operation, SIZES["tiny"]):
        problem = case.build(AT)
        for name, find, _ in rivals.RIVALS[operation](AT, case.shape):
            if name == "Cut Cross Entropy":
                continue
            call = ways(problem.inputs, problem.upstream, problem.p)(find, True)()
            found = errors((call.check or call.run)(), problem.truth())
            assert {"out", *(f"d_{n}" for n, x in problem.inputs.items() if x.requires_grad)} == set(found)
            assert all(error["frobenius"] < 2e-6 for error in found.values()), (case.name, name)
            compared += 1
    assert compared


def test_the_rivals_are_rows_on_a_gpu_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "RIVALS", rivals.RIVALS)
    (case, *_) = cases_of("residual_norm", SIZES["tiny"])[1:]
    side = bench._Bench(torch.device("cpu"), quick=True, check=False)
    problem = case.build(AT)
    assert "Liger" not in {v.name for v in side._variants(case, problem)}
    side.cuda = True
    assert {v.name for v in side._variants(case, problem) if v.rival} >= {"torch.compile", "Liger"}


def test_peers_are_looked_up_when_they_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> Any:
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(rivals, "import_module", absent)
    for ask in (
        lambda: rivals.liger_loss(None),
        rivals.cut_cross_entropy,
        lambda: rivals.liger_layer_norm(1e-12),
        rivals.liger_embedding,
    ):
        with pytest.raises(ImportError, match="liger_kernel|cut_cross_entropy"):
            ask()
    with pytest.raises(NotImplementedError, match="CUDA"):
        rivals.flash_attention(torch.tensor([0, 3]), 3)


@pytest.mark.parametrize("has_bias", [True, False])
def test_cut_cross_entropy_of_both_kinds(has_bias: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    def exact(e: Tensor, c: Tensor, targets: Tensor, bias: Tensor | None = None, **options: Any) -> Tensor:
        seen.update(options, bias=bias)
        return e.sum()

    def release(e: Tensor, c: Tensor, targets: Tensor, **options: Any) -> Tensor:
        seen.update(options)
        return e.sum()

    class Module:
        linear_cross_entropy = staticmethod(exact if has_bias else release)

    monkeypatch.setattr(rivals, "import_module", lambda name: Module)
    loss, knows = rivals.cut_cross_entropy()
    assert knows is has_bias
    loss(torch.ones(2, 3), torch.ones(4, 3), torch.ones(4), torch.tensor([0, 1]))
    assert seen["reduction"] == "sum"
    assert seen["impl"] == ("cce_exact" if has_bias else "cce")
    assert (seen["bias"] is not None) if has_bias else (seen["filter_eps"] is None)


def test_torch_chunked_loss_is_asked_for_the_sum() -> None:
    if not hasattr(torch.nn, "LinearCrossEntropyOptions"):
        with pytest.raises(ImportError, match="has no"):
            rivals.torch_chunked_loss()
        return
    hidden, weight, bias = AT.normal(5, 8, key="h"), AT.normal(11, 8, key="w"), AT.normal(11, key="b")
    target = AT.integers(11, 5, key="t")
    found = rivals.torch_chunked_loss()(hidden, weight, bias, target)
    torch.testing.assert_close(found, functional.cross_entropy(hidden @ weight.t() + bias, target, reduction="sum"))
