"""What holds for every operation: registration, compilation, autocast, CUDA graphs, streams, and equal bits.

The operators are found by watching what the cases call, so that one without a case is noticed. The last tests need a
GPU.
"""

import importlib
import pkgutil
import shutil
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from xlt_engine.kernels import dispatch, fused

from ..helpers import Device, DType
from .cases import CASES, Case, Inputs

every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
Operator = Any


@pytest.fixture(autouse=True)
def _no_compiled_code() -> Iterator[None]:
    yield
    torch._dynamo.reset()


@pytest.fixture
def cuda(device: Device) -> torch.device:
    if device.type != "cuda":
        pytest.skip("needs a CUDA device")
    return torch.device("cuda", torch.cuda.current_device())


def upstream_of(result: Tensor) -> Tensor:
    """A gradient that is neither 1 nor the same everywhere."""
    values = torch.linspace(0.7, -1.3, result.numel(), dtype=torch.float32, device=result.device)
    return values.to(result.dtype).view(result.shape)


def tensors_of(result: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]


def step(
    case: Case,
    inputs: Inputs,
    call: Callable[..., Any] | None = None,
    upstream: Callable[[Tensor], Tensor] = upstream_of,
) -> list[Tensor]:
    """Results, gradients, and what was written to buffers."""
    results = tensors_of((call or case.call)(**inputs))
    leaves = [tensor for tensor in inputs.values() if tensor.requires_grad]
    gradients = torch.autograd.grad(results[0], leaves, upstream(results[0])) if leaves else ()
    return [*(r.detach() for r in results), *gradients, *(inputs[name].clone() for name in case.buffers)]


def assert_equal(actual: list[Tensor], expected: list[Tensor]) -> None:
    """Equal to the bit."""
    assert_near(actual, expected, 0.0)


def assert_near(actual: list[Tensor], expected: list[Tensor], relative: float) -> None:
    """By the Frobenius norm of each tensor; integers are equal."""
    assert len(actual) == len(expected)
    for number, (a, b) in enumerate(zip(actual, expected, strict=True)):
        assert (a.dtype, a.shape) == (b.dtype, b.shape), f"result {number}"
        slack = relative if a.is_floating_point() else 0.0
        a, b = a.cpu().double(), b.cpu().double()
        error = float((a - b).norm())
        assert error <= slack * float(b.norm()), f"result {number} differs by {error:.2e}"


class Watch(TorchDispatchMode):
    """Collects the calls of this package's operators, with copies of their arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Operator, tuple[Any, ...], dict[str, Any]]] = []

    def __torch_dispatch__(self, func: Operator, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.namespace == "xlt":
            self.calls.append((func, tree_map(_copy, args), tree_map(_copy, kwargs)))
        return func(*args, **kwargs)


def _copy(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    wanted = value.requires_grad and torch.is_grad_enabled()
    return value.detach().clone().requires_grad_(wanted)


@cache
def calls_of(
    case: Case, device: Device, dtype: DType = torch.float32
) -> list[tuple[Operator, tuple[Any, ...], dict[str, Any]]]:
    with Watch() as watch:
        step(case, case.tensors(device, dtype))
    return watch.calls


@every_case
def test_operators_are_registered_soundly(case: Case, device: Device, dtype: DType) -> None:
    """torch.library.opcheck: schema, autograd registration, fake tensors, and AOT dispatch with symbolic sizes."""
    calls = calls_of(case, device, dtype)
    for operator in {call[0] for call in calls}:
        func, args, kwargs = next(call for call in calls if call[0] is operator)
        torch.library.opcheck(func, args, kwargs)


def test_every_operator_has_a_case(device: Device) -> None:
    for module in pkgutil.walk_packages(fused.__path__, f"{fused.__name__}."):
        importlib.import_module(module.name)
    registered = {name.split(".")[0] for name in torch._C._dispatch_get_all_op_names() if name.startswith("xlt::")}
    called = {call[0].name().split(".")[0] for case in CASES for call in calls_of(case, device)}
    assert len(registered) > 1
    assert registered == called


@every_case
def test_compiled_without_a_break_is_equal(case: Case, device: Device, dtype: DType) -> None:
    expected = step(case, case.tensors(device, dtype))
    compiled = torch.compile(case.call, fullgraph=True, backend="aot_eager")
    assert_equal(step(case, case.tensors(device, dtype), compiled), expected)
    # Other values, the same program.
    other = [step(case, case.tensors(device, dtype, seed=2), call) for call in (compiled, None)]
    assert_equal(*other)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # inductor scripts a module of its own
@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="needs a C++ compiler")
def test_inductor_takes_the_operators_in_one_graph(device: Device) -> None:
    """Several operations in one compiled function, with ordinary torch between them."""
    chosen = [case for case in CASES if case.name in ("layer-norm", "linear-gelu", "mlm", "attention-dropout", "votes")]
    assert len(chosen) == 5

    def together(inputs: list[Inputs]) -> Tensor:
        total = torch.zeros((), device=device)
        for case, given in zip(chosen, inputs, strict=True):
            first = tensors_of(case.call(**given))[0]
            total = total + (first.float() * 0.01).exp().sum()
        return total

    inputs = [case.tensors(device) for case in chosen]
    leaves = [tensor for given in inputs for tensor in given.values() if tensor.requires_grad]
    expected = torch.autograd.grad(together(inputs), leaves)
    actual = torch.autograd.grad(torch.compile(together, fullgraph=True)(inputs), leaves)
    assert_near(list(actual), list(expected), 1e-5)


@every_case
def test_autocast_gives_what_the_reference_gives(case: Case, device: Device) -> None:
    """The same types, and values as near to those of fp32 as bf16 allows."""
    with torch.autocast(device.type, torch.bfloat16):
        actual = step(case, case.tensors(device))
        with dispatch.using("reference"):
            expected = step(case, case.tensors(device))
    exact = step(case, case.tensors(device))
    assert [a.dtype for a in actual] == [b.dtype for b in expected]
    assert_near([a.to(b.dtype) for a, b in zip(actual, exact, strict=True)], exact, 0.02)


@every_case
def test_runs_are_equal_to_the_bit(case: Case, device: Device, dtype: DType) -> None:
    first = step(case, case.tensors(device, dtype))
    for _ in range(99 if device.type == "cuda" else 2):
        assert_equal(step(case, case.tensors(device, dtype)), first)


def spread(tensor: Tensor) -> Tensor:
    """The same values, with a stride of 2 in the last dimension and the others in reverse order."""
    if tensor.dim() == 0:
        return tensor
    reverse = tuple(range(tensor.dim() - 1))[::-1]
    room = torch.zeros((*(tensor.shape[i] for i in reverse), 2 * tensor.shape[-1]), dtype=tensor.dtype)
    view = room.to(tensor.device)[..., ::2].permute(*reverse, tensor.dim() - 1)
    assert view.shape == tensor.shape
    return view.copy_(tensor.detach()).requires_grad_(tensor.requires_grad)


@every_case
def test_strides_change_nothing(case: Case, device: Device) -> None:
    """Inputs and upstream gradient that are not contiguous."""
    inputs = case.tensors(device)
    expected = step(case, inputs)
    strided = {name: tensor if name in case.buffers else spread(tensor) for name, tensor in inputs.items()}
    for name in case.buffers:
        strided[name] = case.tensors(device)[name]
    # Torch's own products round differently for other strides.
    assert_near(step(case, strided, upstream=lambda result: spread(upstream_of(result))), expected, 1e-5)


@every_case
def test_a_graph_can_be_walked_twice_but_not_differentiated_twice(case: Case, device: Device) -> None:
    inputs = case.tensors(device)
    leaves = [tensor for tensor in inputs.values() if tensor.requires_grad]
    if not leaves:
        pytest.skip("nothing to differentiate")
    result = tensors_of(case.call(**inputs))[0]
    upstream = upstream_of(result)
    once, again = (torch.autograd.grad(result, leaves, upstream, retain_graph=True) for _ in range(2))
    assert_equal(list(again), list(once))
    if case.second_order:
        return
    scaled = upstream.requires_grad_()

    def twice() -> None:
        first = torch.autograd.grad(result, leaves, scaled, create_graph=True)
        total = torch.stack([g.float().square().sum() for g in first]).sum()
        torch.autograd.grad(total, leaves)

    with pytest.raises(RuntimeError):
        twice()


def warm_up(case: Case, inputs: Inputs) -> None:
    """Compile the kernels and fill the allocator, on a stream of its own as capture wants it."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):
            step(case, inputs)
    torch.cuda.current_stream().wait_stream(stream)


def fill(target: Inputs, source: Inputs) -> None:
    with torch.no_grad():
        for name, tensor in target.items():
            tensor.copy_(source[name])


@every_case
def test_cuda_graphs_replay_with_new_inputs(case: Case, cuda: torch.device, dtype: DType) -> None:
    """A captured forward and backward, replayed with other inputs and another seed, equals the eager step."""
    static = case.tensors(cuda, dtype)
    warm_up(case, static)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = step(case, static)
    for seed in (2, 3):
        fill(static, case.tensors(cuda, dtype, seed=seed))
        graph.replay()
        assert_equal(results, step(case, case.tensors(cuda, dtype, seed=seed)))


@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
@every_case
def test_nothing_waits_for_the_device(case: Case, cuda: torch.device) -> None:
    inputs = case.tensors(cuda)
    warm_up(case, inputs)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step(case, inputs)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@every_case
def test_work_goes_to_the_current_stream(case: Case, cuda: torch.device) -> None:
    """The inputs arrive late on a second stream: a launch on any other would read the stale ones."""
    expected = step(case, case.tensors(cuda))
    late = case.tensors(cuda)
    inputs = case.tensors(cuda, seed=2)
    warm_up(case, inputs)
    fill(inputs, case.tensors(cuda, seed=2))
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(200_000_000)
        fill(inputs, late)
        actual = step(case, inputs)
    stream.synchronize()
    assert_equal(actual, expected)


@every_case
def test_a_device_that_is_not_the_current_one(case: Case, cuda: torch.device) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two CUDA devices")
    assert cuda.index == 0
    actual = step(case, case.tensors(torch.device("cuda", 1)))
    assert all(tensor.device.index == 1 for tensor in actual)
    assert_equal(actual, step(case, case.tensors(cuda)))
