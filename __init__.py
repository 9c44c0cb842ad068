"""xlt-engine: zero-shot cross-lingual transfer without parallel corpora.

Importing this package loads neither torch nor any room of the house; the names below are resolved on first use.

Exceptions::

    XltError              exit code 1
      ConfigError         2   a recipe or an option is wrong
      DataError           3   an input file is wrong
      ModelError          4   a model folder or checkpoint is wrong
      StorageError        5   the disk is full, read-only or failing
      RunInUseError       6   another process holds the run folder
      DivergedError       7   the loss or a gradient is not finite
      OutOfMemoryError    8   a step does not fit into memory
      PeerLostError       9   another process of the run has ended or does not answer
      Interrupted         130 or 143, after SIGINT or SIGTERM and a clean checkpoint
"""

from __future__ import annotations

from typing import Any

__version__ = "0.2.0.dev0"


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


_LAZY = {
    "run": "xlt_engine.engine",
    "train": "xlt_engine.engine",
    "predict": "xlt_engine.engine",
    "load_encoder": "xlt_engine.model",
    "load_masked_lm": "xlt_engine.model",
    "load_tagger": "xlt_engine.model",
    "load_classifier": "xlt_engine.model",
    "save_model": "xlt_engine.model",
    "pack": "xlt_engine.data",
}

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
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        import importlib

        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'xlt_engine' has no attribute {name!r}")
