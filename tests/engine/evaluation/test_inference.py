"""Passes over a store: the same results however they are cut, and a GPU that never waits for the host.

Without a GPU its part is played by tensors without values, on the device "meta": whatever asks for one fails.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from xlt_engine import OutOfMemoryError
from xlt_engine.data import ItemView, TokenStore, inference_batches, inference_tokens, pack
from xlt_engine.engine.evaluation.inference import (
    packed_votes,
    predict_batches,
    predict_items,
    predict_logits,
    predict_votes,
)
from xlt_engine.engine.stages.context import Context
from xlt_engine.engine.storage.run_warning import RunWarning
from xlt_engine.engine.training.out_of_memory import PassRetry
from xlt_engine.kernels import dispatch, votes
from xlt_engine.model import Encoder, EncoderConfig, TaskModel, VoterHeads

NO_MEMORY = "DefaultCPUAllocator: can't allocate memory: you tried to allocate 12 bytes"
LABELS = ("O", "B-X", "I-X")
gpu = pytest.mark.gpu
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def stored(lengths: Sequence[int]) -> TokenStore:
    """Random sentences of so many tokens, each of which but the first and the last is an item; in memory."""
    rng, counts = np.random.default_rng(1), np.array(lengths) - 2
    arrays: dict[str, Any] = {
        "token_ids": rng.integers(5, 60, size=sum(lengths)).astype(np.uint16),
        "offsets": np.concatenate([[0], np.cumsum(lengths)]),
        "item_offsets": np.concatenate([[0], np.cumsum(counts)]),
        "item_positions": np.concatenate([np.arange(1, n + 1) for n in counts]).astype(np.int32),
        "item_words": np.concatenate([np.arange(n) for n in counts]).astype(np.int32),
        "num_words": counts,
    }
    manifest: dict[str, Any] = {"task": "ner", "labels": LABELS, "max_length": 32, "cut": {}, "tokenizer": ""}
    return TokenStore(Path(), manifest, arrays)


def tagger(pooling: str = "cls") -> TaskModel:
    config = EncoderConfig(60, 32, 2, 2, 48, max_positions=32, initializer_range=0.2)
    head = VoterHeads(32, 3, (20, 21, 22), seed=2, initializer_range=0.4)
    task = "ner" if pooling == "cls" else "classification"
    return TaskModel(Encoder(config, seed=3), head, task, LABELS, pooling=pooling)


def full(model: nn.Module, tokens: int) -> list[int]:
    """From now on more than so many tokens do not fit; returns what is tried."""
    tried: list[int] = []

    def count(_: nn.Module, inputs: Any) -> None:
        tried.append(inputs[0].num_tokens)
        if tried[-1] > tokens:
            raise RuntimeError(NO_MEMORY)

    model.register_forward_pre_hook(count)
    return tried


def test_how_many_tokens_go_at_once() -> None:
    view, model = ItemView(stored([5, 9, 7])), tagger()
    tried = full(model, 100)
    predict_logits(model, view)
    predict_logits(model, view, tokens=9)
    assert tried == [21, 5, 7, 9]
    assert (inference_tokens("cpu"), inference_tokens("cuda")) == (4096, 32768)
    assert [len(rows) for _, rows in inference_batches(view, token_budget=12)] == [8, 7]


def test_a_pass_whose_size_was_asked_for_is_not_halved() -> None:
    model = tagger()
    full(model, 20)
    with pytest.raises(OutOfMemoryError, match=r"3 sequences, 21 tokens, the longest has 9; set inference_tokens = 10"):
        predict_logits(model, ItemView(stored([5, 9, 7])), tokens=30)


@pytest.mark.parametrize(("budget", "fits"), [(1, 4096), (90, 4096), (4096, 4096), (90, 40), (4096, 31)])
def test_results_do_not_depend_on_the_cut(budget: int, fits: int) -> None:
    """Against each sentence by itself: asked for small, or halved because memory does not suffice."""
    lengths = np.random.default_rng(0).integers(3, 31, size=40).tolist()
    store, model = stored(lengths), tagger()
    with torch.inference_mode():
        alone = torch.cat([model(pack([store.ids(i)], items=[store.items(i)[0]])) for i in range(40)], dim=1)
    tried = full(model, fits)
    retry = PassRetry()
    logits = predict_logits(model, ItemView(store), tokens=budget, retry=retry)
    assert (logits - alone).norm() <= 1e-6 * alone.norm()
    counted, expected = predict_votes(model, ItemView(store), tokens=budget, retry=retry), votes(alone)
    assert torch.equal(counted.label, expected.label)
    assert torch.equal(counted.agree, expected.agree)
    assert bool(retry.limit) == (max(tried) > fits)


def test_what_did_not_fit_is_halved_said_and_not_tried_again() -> None:
    model, heard = tagger(), list[RunWarning]()
    tried, retry = full(model, 30), PassRetry(report=heard.append)
    predict_logits(model, ItemView(stored([10] * 8)), tokens=80, retry=retry)
    assert tried == [80, 40, 20, 20, 20, 20]
    assert [(w.name, w.values["tokens"]) for w in heard] == [("inference-halved", 40), ("inference-halved", 20)]
    assert "8 sequences (80 tokens, the longest has 10)" in heard[0].message
    tried.clear()
    predict_logits(model, ItemView(stored([10] * 8)), tokens=40, retry=retry)
    assert tried == [20] * 4


def test_a_single_sequence_cannot_be_halved() -> None:
    model = tagger()
    full(model, 8)
    with pytest.raises(OutOfMemoryError, match="1 sequences, 9 tokens, the longest has 9; lower max_length"):
        predict_logits(model, ItemView(stored([5, 9, 7])))
    model.register_forward_pre_hook(lambda *_: (_ for _ in ()).throw(RuntimeError("another")), prepend=True)
    with pytest.raises(RuntimeError, match="another"):
        predict_logits(model, ItemView(stored([5, 9, 7])))


@pytest.mark.parametrize("asked", [0, 80])
def test_the_stages_of_a_run_say_what_did_not_fit_once(asked: int) -> None:
    config, nothing = SimpleNamespace(inference_tokens=asked, precision="fp32"), cast(Any, None)
    context = Context(cast(Any, config), nothing, nothing, nothing, torch.device("cpu"))
    model, view = tagger(), ItemView(stored([10] * 8))
    full(model, 40)
    if asked:
        with pytest.raises(OutOfMemoryError, match="set inference_tokens = 40"):
            predict_votes(model, view, **context.passes)
        return
    for _ in range(2):
        predict_votes(model, view, **context.passes)
    assert [warning.name for warning in context.warnings] == ["inference-halved"]


class Event:
    """In place of CUDA's, in the order in which they are recorded; a log of what the host waits for, and when."""

    log: list[str]
    made: int

    def __init__(self) -> None:
        self.number = Event.made
        Event.made += 1

    def record(self) -> None:
        Event.log.append(f"sent {self.number}")

    def synchronize(self) -> None:
        Event.log.append(f"read {self.number}")


class Watch(TorchDispatchMode):
    """Fails at a copy between host and device that would wait; what comes from the device is all ones."""

    def __init__(self) -> None:
        super().__init__()
        self.pinned: list[Tensor] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = kwargs or {}, func.name().split(".")[0]
        if name == "aten::pin_memory":
            self.pinned.append(args[0].clone())
            return self.pinned[-1]
        if name not in ("aten::to", "aten::_to_copy", "aten::copy_"):
            return func(*args, **kwargs)
        source, target = args[::-1][:2] if name == "aten::copy_" else (args[0], kwargs.get("device"))
        there = getattr(target, "device", target) or source.device
        if source.device == there:
            return func(*args, **kwargs)
        waits = not kwargs.get("non_blocking", False)
        pageable = source.device.type == "cpu" and not any(source is tensor for tensor in self.pinned)
        if waits or pageable:
            raise AssertionError(f"{name} from {source.device} to {there} waits")
        return func(*args, **kwargs) if there.type == "meta" else torch.ones(source.shape, dtype=source.dtype)


@contextmanager
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch, pooling: str = "cls") -> Iterator[TaskModel]:
    """A model on a GPU that is not there, with the kernels' path; every launch of it is logged."""
    monkeypatch.setattr(dispatch, "_decide", lambda *key: True)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    Event.log, Event.made = [], 0
    model = tagger(pooling).to("meta")
    model.register_forward_pre_hook(lambda *_: Event.log.append("run"))
    with Watch():
        yield model


REDUCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "votes": packed_votes,
    "logits": lambda logits: logits.transpose(0, 1).flatten(1),
    "mean": lambda logits: votes(logits).mean_probability.argmax(-1, keepdim=True),
}


@pytest.mark.parametrize(
    ("reduction", "precision", "pooling"),
    [*((name, "bf16", "cls") for name in REDUCTIONS), ("votes", "fp32", "cls"), ("votes", "fp16", "mean")],
)
def test_no_batch_waits_for_the_device(reduction: str, precision: str, pooling: str, monkeypatch: Any) -> None:
    """The host reads what came two batches ago, once it has launched this one; and the rest at the end."""
    width = {"votes": 6, "logits": 9}.get(reduction, 1)
    with as_on_a_gpu(monkeypatch, pooling) as model:
        view = ItemView(stored([10] * 20))
        predict_items(model, view, REDUCTIONS[reduction], width=width, tokens=40, precision=precision)
    launched = [entry for number in range(5) for entry in ("run", f"sent {number}", f"read {number - 2}")]
    in_time = [entry for entry in launched if "-" not in entry]
    assert Event.log == [*in_time, "read 3", "read 4", "sent 5", "read 5"]


@pytest.mark.parametrize(
    "waiting",
    [
        lambda logits: logits[0] + float(logits.sum()),
        lambda logits: logits[0][logits[0, :, 0] > 0],
        lambda logits: logits[0].cpu(),
        lambda logits: logits[0] + torch.ones(3).to(logits.device, non_blocking=True),
        lambda logits: logits[0] + len(logits.nonzero()),
    ],
)
def test_the_watch_sees_what_waits(waiting: Callable[[Tensor], Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    with as_on_a_gpu(monkeypatch) as model, pytest.raises((AssertionError, RuntimeError)):
        predict_items(model, ItemView(stored([10] * 4)), waiting, width=3)


@gpu
@needs_gpu
@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_pass_on_the_device_waits_for_no_batch(precision: str) -> None:
    """And gives what the CPU gives."""
    store, model = stored([10, 20, 30, 9] * 64), tagger()
    expected = predict_logits(model, ItemView(store), precision=precision)
    model.to("cuda")
    predict_logits(model, ItemView(store), tokens=400, precision=precision)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = predict_logits(model, ItemView(store), tokens=400, precision=precision)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert (found - expected).norm() <= (1e-4 if precision == "fp32" else 3e-2) * expected.norm()


@gpu
@needs_gpu
def test_a_pass_that_fills_the_device_goes_on_in_halves() -> None:
    """An allocation of more than this process may have in the first batch, half of which fits."""
    store, model, room = stored([10] * 64), tagger(), 256 << 20
    items = int(store.item_offsets[-1])
    expected = predict_logits(model, ItemView(store))
    model.to("cuda")
    retry = PassRetry()

    def greedy(logits: Tensor) -> Tensor:
        torch.empty(3 * room // 2 * logits.shape[1] // items, dtype=torch.uint8, device="cuda")
        return logits.transpose(0, 1).flatten(1)

    share = (torch.cuda.memory_reserved() + room) / torch.cuda.get_device_properties("cuda").total_memory
    torch.cuda.set_per_process_memory_fraction(share)
    try:
        found = predict_batches(model, inference_batches(ItemView(store)), (items, 9), greedy, retry=retry)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert retry.limit == 320
    assert (found.view(-1, 3, 3).transpose(0, 1) - expected).norm() <= 1e-4 * expected.norm()
