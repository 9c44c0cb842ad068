"""Many processes, one run: how they find each other, what they tell each other, and what happens when one is lost.

A `ProcessGroup` of one process does nothing, and does it at once. In a larger one every process walks the same plan and
computes its share; process 0 alone writes, and says what came of it.
"""

from __future__ import annotations

import contextlib
import datetime
import faulthandler
import hashlib
import json
import os
import re
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ... import ConfigError, DivergedError, Interrupted, PeerLostError, XltError
from ..storage.files import plain

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import Store

T = TypeVar("T")
TIMEOUT = 300.0
"""Seconds after which a process that does not answer counts as lost."""
ALONE_TIMEOUT = 7200.0
"""Seconds that the others wait while process 0 works alone, as when it reads the files. A death is seen at once."""
GRACE = 10.0
"""Seconds that a step on a GPU may take to end after this process was told to stop; torchrun kills it after 30."""
BUCKET = 1 << 23
"""Numbers in one message: 32 MB of fp32, enough for the full bandwidth, and little memory."""
LATE = 60.0
"""Seconds after which a file of process 0 that is not seen is taken for missing."""
STOP_EVERY = 16
"""Steps on GPUs between two questions whether any process was told to stop: the question holds up the host."""


class ProcessGroup:
    """The processes of a run, as one of them sees it.

    Attributes:
        rank: number of this process; 0 writes and speaks.
        size: number of processes.
        timeout: seconds after which a silent process is lost.
        stop_every: steps between two agreements on whether to stop.
    """

    def __init__(self, rank: int = 0, size: int = 1, *, timeout: float = TIMEOUT, stop_every: int = 1) -> None:
        self.rank, self.size, self.timeout, self.stop_every = rank, size, timeout, stop_every
        self.should_stop: Callable[[], int] = lambda: 0
        self._device = torch.device("cpu")
        self._alone = False
        self._patient: dist.ProcessGroup | None = None
        self._store: Store | None = None

    @property
    def is_rank_zero(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return self.rank == 0

    def share(self, count: int) -> range:
        """Which of `count` parts this process computes: every `size`-th, so that the order is that of one process."""
        return range(self.rank, count, self.size)

    def micro_batch(self, asked: int, batch_size: int) -> int:
        """Sequences in one forward pass: as wanted, else what gives every process a part of the batch (0: all)."""
        return asked or (-(-batch_size // self.size) if self.size > 1 else 0)

    def all_reduce_max(self, *values: int) -> list[int]:
        """The largest of each value over all processes. All must ask at the same place, but for work done alone."""
        if self.size == 1 or self._alone:
            return [value if self.is_rank_zero else 0 for value in values]
        shared = torch.tensor(values, dtype=torch.int64)
        with self._peers():
            dist.all_reduce(shared, dist.ReduceOp.MAX)
        return [int(value) for value in shared.tolist()]

    def rank_zero_only(self, action: Callable[[], T]) -> T:
        """What `action`, called in process 0 alone, returns (a JSON value) or raises, in every process.

        Raises:
            XltError: of the class and with the message that process 0 has raised.
        """
        if self.size == 1:
            return action()
        assert not self._alone, "the others do not hear what is said while one works alone"
        if not self.is_rank_zero:
            faulthandler.cancel_dump_traceback_later()
            heard = self._hear()
            if "error" in heard:
                raise _error(heard)
            value: T = heard["value"]
            return value
        try:
            with self._working_alone():
                result = action()
        except XltError as error:
            self._say(_described(error))
            raise
        self._say({"value": result})
        return result

    def rank_zero_first(self, action: Callable[[], T]) -> T:
        """`action` in process 0, then in all others, which find the files that it has made."""
        if self.size == 1:
            return action()
        results: list[T] = []
        self.rank_zero_only(lambda: results.append(action()) if self.is_rank_zero else None)
        if not results:
            with self._working_alone():
                results.append(action())
        return results[0]

    def differing(self, value: str) -> list[int]:
        """The processes whose value is not that of process 0."""
        if self.size == 1:
            return []
        mine = torch.frombuffer(bytearray(hashlib.sha256(value.encode()).digest()), dtype=torch.uint8)
        every = [torch.empty_like(mine) for _ in range(self.size)]
        with self._peers():
            dist.all_gather(every, mine)
        return [rank for rank, other in enumerate(every) if not torch.equal(other, every[0])]

    def all_reduce_sum(self, tensors: Sequence[Tensor]) -> None:
        """Replaces fp32 tensors of one device by their sums over all processes, the same bits in each."""
        pending: list[tuple[Any, Tensor, list[Tensor]]] = []
        for bucket in _buckets(tensors):
            flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
            with self._peers():
                pending.append((dist.all_reduce(flat, async_op=True), flat, bucket))
        for work, flat, bucket in pending:
            with self._peers():
                work.wait()
            parts = torch.split(flat, [tensor.numel() for tensor in bucket])
            torch._foreach_copy_(bucket, [part.view_as(t) for part, t in zip(parts, bucket, strict=True)])

    def visible(self, path: Path) -> Path:
        """`path`, once a file that process 0 has written is seen from here: network file systems are seconds late."""
        limit = time.monotonic() + LATE
        while not self.is_rank_zero and not path.exists() and time.monotonic() < limit:
            time.sleep(0.05)
        return path

    def wait(self, event: torch.cuda.Event) -> None:
        """Waits for the device; a step that never ends, since another process has died in it, is an error."""
        if self.size == 1:
            event.synchronize()
            return
        limit, asked = time.monotonic() + self.timeout, False
        while not event.query():  # type: ignore[no-untyped-call]
            if not asked and self.should_stop():
                asked, limit = True, min(limit, time.monotonic() + GRACE)
            if time.monotonic() > limit:
                raise self._lost("a step on the device does not end")
            time.sleep(0.0002)

    @contextlib.contextmanager
    def _working_alone(self) -> Iterator[None]:
        self._alone = True
        faulthandler.cancel_dump_traceback_later()
        try:
            yield
        finally:
            self._alone = False

    def _say(self, message: Mapping[str, Any]) -> None:
        data = torch.frombuffer(bytearray(json.dumps(plain(message)).encode()), dtype=torch.uint8)
        with self._peers():
            dist.broadcast(torch.tensor([len(data)]), 0, group=self._patient)
            dist.broadcast(data, 0, group=self._patient)

    def _hear(self) -> dict[str, Any]:
        length = torch.zeros(1, dtype=torch.int64)
        with self._peers():
            dist.broadcast(length, 0, group=self._patient)
            data = torch.empty(int(length), dtype=torch.uint8)
            dist.broadcast(data, 0, group=self._patient)
        message: dict[str, Any] = json.loads(bytes(data.tolist()))
        return message

    @contextlib.contextmanager
    def _peers(self) -> Iterator[None]:
        """Turns what torch raises where a process is gone, plain RuntimeErrors, into a PeerLostError."""
        try:
            yield
        except RuntimeError as error:
            raise self._lost(_first_sentence(error)) from error
        self._watch()

    def _watch(self) -> None:
        """Has the stacks of this process printed, should it not meet the others again, just before they give it up."""
        if sys.__stderr__ is not None:
            with contextlib.suppress(OSError, ValueError):  # where it is closed
                faulthandler.dump_traceback_later(0.9 * self.timeout, file=sys.__stderr__)

    def _lost(self, seen: str) -> PeerLostError:
        reasons = self._reasons() or [f"one has ended, or has not answered within {self.timeout:.0f} s ({seen})"]
        return PeerLostError(
            f"process {self.rank} of {self.size} has lost another: {'; '.join(reasons)}. "
            "The same command goes on from the last checkpoint"
        )

    def _reasons(self) -> list[str]:
        """The errors that other processes have left behind, if any has and they can still be read."""
        errors: list[str] = []
        if self._store is not None:
            with contextlib.suppress(RuntimeError):
                self._store.set_timeout(datetime.timedelta(seconds=5))
                for rank in range(self.size):
                    if rank != self.rank and self._store.check([f"error/{rank}"]):
                        errors.append(f"process {rank}: {self._store.get(f'error/{rank}').decode()}")
        return errors

    def join(self, device: torch.device) -> None:
        """Meets the other processes, at the address in the environment.

        Raises:
            PeerLostError: not all have come in time.
            ConfigError: the environment is not that of torchrun.
        """
        # Not there in a torch without torch.distributed, which serves one process.
        from torch.distributed.distributed_c10d import PrefixStore
        from torch.distributed.rendezvous import rendezvous

        self._device, patience = device, datetime.timedelta(seconds=self.timeout)
        if device.type == "cuda":
            # Without this NCCL ends the process by itself, before it can say why.
            os.environ.setdefault("TORCH_NCCL_ASYNC_ERROR_HANDLING", "0")
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        try:
            store, _, _ = next(rendezvous("env://", timeout=patience))
            self._store = PrefixStore("xlt", store)
            dist.init_process_group(backend, store=store, rank=self.rank, world_size=self.size, timeout=patience)
            self._patient = dist.new_group(backend="gloo", timeout=datetime.timedelta(seconds=ALONE_TIMEOUT))
        except ValueError as error:
            raise ConfigError(f"{error}; start several processes with torchrun") from error
        except RuntimeError as error:
            raise PeerLostError(
                f"process {self.rank}: not all {self.size} processes have met within {self.timeout:.0f} s: {error}"
            ) from error

    def leave(self, error: BaseException | None) -> None:
        """Parts from the others: after all of them where all is well, else at once, with the reason left behind."""
        faulthandler.cancel_dump_traceback_later()
        if isinstance(error, Interrupted | DivergedError):
            error.told = True  # by the first process, which has come to the same
        if error is None or isinstance(error, Interrupted):
            with contextlib.suppress(RuntimeError):
                dist.barrier(group=self._patient)
        elif self._store is not None and not isinstance(error, PeerLostError):
            with contextlib.suppress(RuntimeError):
                self._store.set(f"error/{self.rank}", f"{type(error).__name__}: {error}")
        # What waits for a lost process on a GPU would wait here for ever; such a process must end.
        if not (isinstance(error, PeerLostError) and self._device.type == "cuda"):
            dist.destroy_process_group()


def sum_gradients(
    processes: ProcessGroup, parameters: Collection[nn.Parameter], loss: Tensor, valid: int | Tensor
) -> Tensor:
    """Adds up a step's gradients in place over all processes, and its loss, which it returns.

    A weight that no process uses keeps no gradient, as with one process; where only this one had no part in a step, its
    gradients are zero. Which weights are in use is agreed on in every step: one without a masked word uses no head for
    masked words.

    Args:
        loss: this process's part, a scalar on the device.
        valid: targets of the whole step; the same in every process.
    """
    if processes.size == 1 or valid == 0:
        return loss
    flags = processes.all_reduce_max(*(int(p.grad is not None) for p in parameters))
    gradients = []
    for parameter in (p for p, flag in zip(parameters, flags, strict=True) if flag):
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        gradients.append(parameter.grad)
    total = loss.detach().float().reshape(1)
    processes.all_reduce_sum([total, *gradients])
    return total.reshape(())


@contextlib.contextmanager
def joined(device: str, timeout: float = TIMEOUT, should_stop: Callable[[], int] = lambda: 0) -> Iterator[ProcessGroup]:
    """The processes that torchrun started; this one alone where it started none.

    Args:
        device: of the recipe: "auto", "cpu" or "cuda". Processes on GPUs take the one of their local number.
        timeout: seconds after which a process that does not answer is lost.
        should_stop: see `run`.
    """
    rank, size = _number("RANK", 0), _number("WORLD_SIZE", 1)
    if size == 1 or "RANK" not in os.environ:
        yield ProcessGroup()
        return
    if not dist.is_available():
        raise ConfigError(f"WORLD_SIZE = {size}, but this torch was built without torch.distributed")
    on = torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")
    if on.type == "cuda":
        local = _number("LOCAL_RANK", 0)
        if local >= torch.cuda.device_count():
            count = torch.cuda.device_count()
            raise ConfigError(f"process {local} of this machine has no GPU, there are {count}; lower --nproc-per-node")
        torch.cuda.set_device(local)
    processes = ProcessGroup(rank, size, timeout=timeout, stop_every=STOP_EVERY if on.type == "cuda" else 1)
    processes.should_stop = should_stop
    processes.join(on)
    try:
        yield processes
    except BaseException as error:
        processes.leave(error)
        raise
    processes.leave(None)


def _number(name: str, default: int) -> int:
    value = os.environ.get(name, str(default))
    if not value.isdecimal():
        raise ConfigError(f"{name}={value} in the environment is not a number; start several processes with torchrun")
    return int(value)


def _first_sentence(error: RuntimeError) -> str:
    """What torch says, without its own file and line before, and without advice after."""
    return re.sub(r"^\[\S+\] ", "", str(error).splitlines()[0]).split(". ")[0]


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    bucket: list[Tensor] = []
    for tensor in tensors:
        bucket.append(tensor)
        if sum(part.numel() for part in bucket) >= BUCKET:
            yield bucket
            bucket = []
    if bucket:
        yield bucket


def _described(error: XltError) -> dict[str, Any]:
    number = error.signal if isinstance(error, Interrupted) else 0
    return {"error": type(error).__name__, "message": str(error), "signal": number}


def _error(message: Mapping[str, Any]) -> XltError:
    """The error that process 0 has described; it has been told to the user there."""
    if message["error"] == Interrupted.__name__:
        return Interrupted(message["signal"])
    classes = {kind.__name__: kind for kind in XltError.__subclasses__()}
    error = classes.get(message["error"], XltError)(message["message"])
    error.told = True
    return error
