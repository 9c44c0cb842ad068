"""A configuration as TOML, each value with a comment that says where it came from."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Mapping
from typing import Any

from .schema import dotted, toml_key
from .toml_lines import Key


def dump_toml(config: Any, origins: Mapping[str, str]) -> str:
    """The text of a recipe that `load_recipe` reads back to an equal configuration.

    Values that are None are left out: absence is how TOML says it.
    """
    lines: list[str] = []
    _table(lines, _parts(config), (), origins)
    return "\n".join(lines).strip("\n") + "\n"


def _table(lines: list[str], values: Mapping[str, Any], path: Key, origins: Mapping[str, str]) -> None:
    inner: list[tuple[str, Any]] = []
    for name, value in values.items():
        if value is None:
            continue
        if _is_table(value) or (isinstance(value, tuple) and value and all(map(_is_table, value))):
            inner.append((name, value))
            continue
        origin = origins.get(dotted((*path, name)), "")
        lines.append(f"{_key(name)} = {toml_value(value)}" + (f"  # {origin}" if origin else ""))
    for name, value in inner:
        here = (*path, name)
        header = ".".join(_key(str(part)) for part in here if isinstance(part, str))
        if isinstance(value, tuple):
            for number, part in enumerate(value):
                lines += ["", f"[[{header}]]"]
                _table(lines, _parts(part), (*here, number), origins)
        else:
            lines += ["", f"[{header}]"]
            _table(lines, _parts(value), here, origins)


def _is_table(value: Any) -> bool:
    return isinstance(value, dict) or (dataclasses.is_dataclass(value) and not isinstance(value, type))


def _parts(value: Any) -> Mapping[str, Any]:
    if isinstance(value, dict):
        return value
    parts = {toml_key(field): getattr(value, field.name) for field in dataclasses.fields(value)}
    one = [toml_key(field) for field in dataclasses.fields(value) if "key" in field.metadata]
    return parts | {key: parts[key][0] for key in one if len(parts[key]) == 1}


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _string(name)


def toml_value(value: Any) -> str:
    """A value as recipes write it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str):
        return _string(value)
    if isinstance(value, os.PathLike):
        return _string(os.fspath(value))
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(toml_value, value))}]"
    raise TypeError(f"{type(value).__name__} has no form in a recipe")


def _string(text: str) -> str:
    """JSON's escapes are TOML's, except that TOML wants DEL escaped too."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
