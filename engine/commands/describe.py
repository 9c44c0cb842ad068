"""`info` and `env`: facts about a model folder and about this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from .options import JSON, MODEL


@click.command()
@MODEL
@JSON
def info(model: Path, as_json: bool) -> None:
    """Say what a model folder is."""
    from .. import describe_model

    _print(describe_model(model), as_json)


@click.command()
@JSON
def env(as_json: bool) -> None:
    """Versions, devices and the kernels' path: what a bug report needs."""
    from .. import describe_environment

    _print(describe_environment(), as_json)


def _print(facts: dict[str, Any], as_json: bool) -> None:
    """One fact a line, or JSON."""
    lines = (f"{name}: {_text(value)}".replace(": \n", ":\n", 1) for name, value in facts.items())
    click.echo(json.dumps(facts, indent=2) if as_json else "\n".join(lines))


def _text(value: Any) -> str:
    if value is None or value in ("", [], {}):
        return "-"
    if isinstance(value, list):
        parts = [str(part) for part in value]
        return "".join(f"\n  {part}" for part in parts) if any(" " in part for part in parts) else ", ".join(parts)
    if isinstance(value, dict) and any(isinstance(part, dict) for part in value.values()):
        return "".join(f"\n  {name}: {_text(part)}" for name, part in value.items())
    return json.dumps(value) if isinstance(value, dict) else str(value)
