"""Fields of the dataclasses that a recipe is read into: a default or none, a line of help, and limits."""

from __future__ import annotations

from dataclasses import field
from typing import Any


def option(default: Any, help: str, **limits: Any) -> Any:
    """A key with a default; `help` is what `init` and error messages say of it, `limits` what `schema` checks.

    `decides=False` says that the key does not identify a stage of its table: its result is the same, or something else
    identifies it.
    """
    return field(default=default, metadata={"help": help, **limits})


def required(help: str, **limits: Any) -> Any:
    """A key that must be given."""
    return field(metadata={"help": help, **limits})
