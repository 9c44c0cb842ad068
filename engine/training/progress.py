"""What a run tells the outside: nothing, or lines on a terminal."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TextIO

from ... import ConfigError
from ...untrusted import printable
from ..storage.run_warning import RunWarning
from ..storage.text import clock, time_text


class Progress:
    """Receives what happens in a run; this base class ignores it. Subclass it to show or record progress."""

    def note(self, text: str) -> None:
        """A line for a person."""

    def warning(self, warning: RunWarning) -> None:
        """A named finding."""

    def turn_to(self, stage: str) -> None:
        """What follows is of this stage; several may run side by side."""

    def position(self, number: int, total: int, left: Callable[[], float | None]) -> None:
        """The next stage is the `number`-th of `total`; `left()`: about so many seconds of the run, None if unknown."""

    def begin(self, stage: str, total: int, done: int) -> None:
        """A stage starts (or goes on) with `done` of `total` optimiser steps."""

    def step(self, done: int, total: int, loss: float, tokens: int, lr: float) -> None:
        """One optimiser step over `tokens` tokens has ended; `loss` is per target, `lr` the rate of the first group."""

    def scored(self, stage: str, scores: Sequence[Mapping[str, Any]]) -> None:
        """A stage that ends has these scores, each with what `scores.json` has: `language`, `metric`, `value` ..."""

    def begin_reading(self, name: str, total: int) -> None:
        """Reading of about `total` bytes starts, or goes on."""

    def read(self, done: int, total: int, new: int) -> None:
        """`done` of about `total` bytes have been read, `new` of them since `begin_reading`."""

    def end(self, stage: str, text: str) -> None:
        """A stage, or reading, has ended."""


def load_progress(name: str) -> Progress:
    """The listener that `module:Class` names, made without arguments; a module may lie in the working directory.

    Raises:
        ConfigError: no such module or class, or it is not one of `Progress`.
    """
    module, _, attribute = name.partition(":")
    if not module or not attribute:
        raise ConfigError(f"--progress {name}: give module:Class, such as my_progress:Tracker for my_progress.py here")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        kind = getattr(importlib.import_module(module), attribute)
    except ImportError as error:
        raise ConfigError(f"--progress {name}: {error}; install it, or call from the folder of {module}.py") from error
    except AttributeError as error:
        raise ConfigError(f"--progress {name}: {error}; give the name of a class of that module") from error
    if not (isinstance(kind, type) and issubclass(kind, Progress)):
        raise ConfigError(f"--progress {name}: is not a subclass of xlt_engine.engine.Progress; make it one")
    return kind()


@dataclass
class _Stage:
    """What the console shows of a stage, or of a file that is read."""

    name: str = ""
    started: float = 0.0
    shown: float = 0.0
    tokens: int = 0
    first: int = 0
    bar: Any = None
    place: Callable[[], str] = str


class ConsoleProgress(Progress):
    """A bar on a terminal, plain lines every `interval` seconds elsewhere."""

    def __init__(self, stream: TextIO | None = None, *, interval: float = 15.0) -> None:
        self._stream = stream or sys.stderr or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - stderr is closed
        self._interval = interval
        self._stages = dict[str, _Stage]()
        self._now = _Stage()

    def _line(self, text: str) -> None:
        """A terminal that is closed, a pipe without a reader or a full disk costs lines, and no run."""
        with contextlib.suppress(OSError):
            others = [stage.bar for stage in self._stages.values() if stage.bar is not None]
            for bar in others:
                bar.clear()
            self._stream.write(printable(text) + "\n")
            self._stream.flush()
            for bar in others:
                bar.refresh()

    def _bar(self, name: str, total: int, **options: Any) -> Any:
        """A bar of a terminal; None elsewhere."""
        if not self._stream.isatty():
            return None
        from tqdm import tqdm

        return tqdm(total=total, desc=printable(name), file=self._stream, leave=False, **options)

    def turn_to(self, stage: str) -> None:
        self._now = self._stages.setdefault(stage, _Stage(stage))

    def note(self, text: str) -> None:
        self._line(text)

    def warning(self, warning: RunWarning) -> None:
        others = any(stage.started for stage in self._stages.values() if stage is not self._now)
        self._line(f"warning: {f'{self._now.name}: ' if others else ''}{warning.name}: {warning.message}")

    def position(self, number: int, total: int, left: Callable[[], float | None]) -> None:
        def place() -> str:
            seconds = left()
            return f"; stage {number} of {total}" + ("" if seconds is None else f", about {time_text(seconds)} left")

        self._now.place = place

    def begin(self, stage: str, total: int, done: int) -> None:
        self._line(f"{stage}: {total} steps" + (f", going on at step {done}" if done else "") + self._now.place())
        now = self._now
        now.name, now.tokens, now.first = stage, 0, done
        now.started = now.shown = time.monotonic()
        now.bar = self._bar(stage, total, initial=done, unit="step")

    def step(self, done: int, total: int, loss: float, tokens: int, lr: float) -> None:
        stage, now = self._now, time.monotonic()
        stage.tokens += tokens
        rate = stage.tokens / max(now - stage.started, 1e-9)
        if stage.bar is not None:
            stage.bar.set_postfix_str(f"loss {loss:.4g}, {rate:,.0f} tokens/s", refresh=False)
            stage.bar.update(1)
        elif now - stage.shown >= self._interval:
            stage.shown = now
            left = (now - stage.started) / max(1, done - stage.first) * (total - done)
            self._line(f"{stage.name}: step {done}/{total}, loss {loss:.4g}, {rate:,.0f} tokens/s, {clock(left)} left")

    def begin_reading(self, name: str, total: int) -> None:
        self._now.name = name
        self._now.started = self._now.shown = time.monotonic()
        self._now.bar = self._bar(name, total, unit="B", unit_scale=True)
        if self._now.bar is None:
            self._line(f"{name}: {total / 1e6:,.0f} MB")

    def read(self, done: int, total: int, new: int) -> None:
        file, now = self._now, time.monotonic()
        if file.bar is not None:
            file.bar.total = total
            # What an earlier run has read is no speed of this one.
            file.bar.initial = file.bar.n = done - new
            file.bar.update(new)
        elif now - file.shown >= self._interval:
            file.shown = now
            rate = max(1, new) / max(now - file.started, 1e-9)
            left = max(0, total - done) / rate
            self._line(
                f"{file.name}: {done / 1e6:,.0f} of {total / 1e6:,.0f} MB, {rate / 1e6:.1f} MB/s, {clock(left)} left"
            )

    def end(self, stage: str, text: str) -> None:
        if self._now.bar is not None:
            self._now.bar.close()
            self._now.bar = None
        self._now.started = 0.0
        self._line(f"{stage}: {text}")
