"""xlt-engine: zero-shot cross-lingual transfer without parallel corpora.

Importing this package loads neither torch nor any room of the house; the names below are resolved on first use.
"""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .data import pack
    from .engine import predict, run, train
    from .model import load_classifier, load_encoder, load_masked_lm, load_tagger, save_model

__version__ = "0.2.0"


class XltError(Exception):
    """Base of every error that the package raises on purpose; `exit_code` is what the command line returns.

    `told`: another process of the same run reports it to the user.
    """

    exit_code = 1
    told = False


class ConfigError(XltError):
    """A recipe, an option or an argument is wrong."""

    exit_code = 2


class DataError(XltError):
    """An input file is wrong; the message starts with `file:line:` where a line is to blame."""

    exit_code = 3


class ModelError(XltError):
    """A model folder or a checkpoint is wrong."""

    exit_code = 4


class StorageError(XltError):
    """The disk is full, read-only or failing."""

    exit_code = 5


class RunInUseError(XltError):
    """Another process holds the run folder."""

    exit_code = 6


class DivergedError(XltError):
    """A loss, gradient, weight or teacher probability is not finite."""

    exit_code = 7


class OutOfMemoryError(XltError):
    """A step does not fit into memory."""

    exit_code = 8


class PeerLostError(XltError):
    """Another process of a run on several has ended, or does not answer."""

    exit_code = 9


class Interrupted(XltError):
    """The run was asked to stop and has saved a checkpoint; `exit_code` is 128 plus the signal's number."""

    def __init__(self, signal: int) -> None:
        super().__init__(f"stopped by signal {signal}; the same command goes on from here")
        self.signal = signal
        self.exit_code = 128 + signal

    def __reduce__(self) -> tuple[type[Interrupted], tuple[int]]:
        return Interrupted, (self.signal,)


def lazy_names(package: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` of a package whose public names are imported on first use.

    Which names those are, and of which modules, its file says once, to type checkers and to this: by what it imports
    `if TYPE_CHECKING`. No public name is that of a module, which would replace it.
    """

    @cache
    def module_of() -> dict[str, str]:
        loader: Any = sys.modules[package].__loader__
        blocks = [part for part in ast.parse(loader.get_source(package)).body if isinstance(part, ast.If)]
        imports = [line for block in blocks for line in block.body if isinstance(line, ast.ImportFrom)]
        return {alias.name: f".{line.module}" for line in imports for alias in line.names}

    def resolve(name: str) -> Any:
        if name not in module_of():
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(module_of()[name], package), name)
        setattr(sys.modules[package], name, value)
        return value

    return resolve, lambda: sorted({*vars(sys.modules[package]), *module_of()})


__all__ = [
    "ConfigError",
    "DataError",
    "DivergedError",
    "Interrupted",
    "ModelError",
    "OutOfMemoryError",
    "PeerLostError",
    "RunInUseError",
    "StorageError",
    "XltError",
    "__version__",
    "load_classifier",
    "load_encoder",
    "load_masked_lm",
    "load_tagger",
    "pack",
    "predict",
    "run",
    "save_model",
    "train",
]

__getattr__, __dir__ = lazy_names(__name__)
