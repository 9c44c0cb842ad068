"""The system calls by which this process changes files, each handed to a hook that makes it, or does not.

Python's own calls are seen: `os.*`, and `open` for writing, whose buffers go through a raw file of ours. What
safetensors writes by itself is one call of the name `native`.
"""

import builtins
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

PATHS = ("unlink", "remove", "rmdir", "mkdir", "rename", "replace", "link")
HANDLES = ("write", "pwrite", "ftruncate", "fsync")

Hook = Callable[[str, str, Callable[[], Any], Callable[[], Any]], Any]
"""From a call's name, its path, the call, and half of it (the call itself where it has no half) to its result."""


class _Raw(io.FileIO):
    """A file opened for writing, whose writes are seen."""

    hook: Hook
    where = ""

    def write(self, data: Any, /) -> int:
        view = memoryview(data).cast("B")
        whole, half = lambda: io.FileIO.write(self, view), lambda: io.FileIO.write(self, view[: len(view) // 2])
        written: int = self.hook("write", self.where, whole, half)
        return written


def watch(folder: str | os.PathLike[str], hook: Hook) -> None:
    """From now on, and for good, `hook` makes the calls of this process that change something below `folder`."""
    root = os.path.realpath(folder)
    real: dict[str, Callable[..., Any]] = {name: getattr(os, name) for name in (*PATHS, *HANDLES, "open")}
    really_open = io.open

    def inside(path: Any, directory: int | None = None) -> str:
        """The absolute path where it is below the folder, else ""."""
        text = os.fsdecode(path)
        if directory is not None:
            text = os.path.join(os.readlink(f"/proc/self/fd/{directory}"), text)
        text = os.path.abspath(text)
        return text if (text + "/").startswith(root + "/") else ""

    def of_path(name: str) -> Callable[..., Any]:
        def call(path: Any, *more: Any, **options: Any) -> Any:
            def act() -> Any:
                return real[name](path, *more, **options)

            target = "" if isinstance(path, int) else inside(path, options.get("dir_fd", options.get("src_dir_fd")))
            if not target:
                return act()
            pair = "\0" + inside(more[0]) if name in ("rename", "replace", "link") else ""
            return hook({"remove": "unlink", "replace": "rename"}.get(name, name), target + pair, act, act)

        return call

    def of_handle(name: str) -> Callable[..., Any]:
        def call(handle: Any, *more: Any) -> Any:
            def act() -> Any:
                return real[name](handle, *more)

            number = handle if isinstance(handle, int) else handle.fileno()
            target = inside(os.readlink(f"/proc/self/fd/{number}"))
            if not target:
                return act()
            half = act
            if name in ("write", "pwrite"):
                data = bytes(more[0])
                half = lambda: real[name](handle, data[: len(data) // 2], *more[1:])  # noqa: E731
            return hook("write" if name == "pwrite" else name, target, act, half)

        return call

    def os_open(path: Any, flags: int, *more: Any, **options: Any) -> Any:
        def act() -> Any:
            return real["open"](path, flags, *more, **options)

        target = inside(path, options.get("dir_fd")) if flags & (os.O_CREAT | os.O_TRUNC) else ""
        return hook("create", target, act, act) if target and not os.path.exists(target) else act()

    def open_file(file: Any, mode: str = "r", buffering: int = -1, *more: Any, **options: Any) -> Any:
        if isinstance(file, int) or not set(mode) & set("wxa+") or not (target := inside(file)):
            return really_open(file, mode, buffering, *more, **options)

        def act() -> _Raw:
            return _Raw(target, mode.replace("b", "").replace("t", ""))

        raw = hook("create", target, act, act)
        raw.hook, raw.where = hook, target
        buffered = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        return buffered if "b" in mode else io.TextIOWrapper(buffered, *more, **options)

    for name in PATHS:
        setattr(os, name, of_path(name))
    for name in HANDLES:
        setattr(os, name, of_handle(name))
    os.open = os_open  # type: ignore[assignment]
    builtins.open = io.open = open_file  # type: ignore[assignment]
    _watch_safetensors(inside, hook)


def _watch_safetensors(inside: Callable[[Any], str], hook: Hook) -> None:
    import safetensors.torch

    save = safetensors.torch.save_file

    def save_file(tensors: Any, path: Any, *more: Any) -> None:
        def act() -> None:
            save(tensors, path, *more)

        def half() -> None:
            save(tensors, path, *more)
            data = Path(path).read_bytes()
            Path(path).write_bytes(data[: len(data) // 2])

        if inside(path):
            hook("native", inside(path), act, half)
        else:
            act()

    safetensors.torch.save_file = save_file
