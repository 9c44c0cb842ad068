"""A configuration as TOML, each value with a comment that says where it came from."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

from .schema import dotted, toml_key
from .toml_parse import Key


def dump_toml(config: Any, origins: Mapping[str, str]) -> str:
    """The text of a recipe that `load_recipe` reads back to an equal configuration.

    Values that are None are left out: absence is how TOML says it.
    """
    return "\n".join(_table(config, (), origins)).strip("\n") + "\n"


def _table(table: Any, path: Key, origins: Mapping[str, str]) -> Iterator[str]:
    """The lines of a table: its values, then the tables in it."""
    inner: list[tuple[str, Key, Any]] = []
    for name, value in _parts(table):
        here = (*path, name)
        header = ".".join(_key(part) for part in here if isinstance(part, str))
        if isinstance(value, tuple) and value and all(map(_is_table, value)):
            inner += [(f"[[{header}]]", (*here, number), part) for number, part in enumerate(value)]
        elif _is_table(value):
            inner.append((f"[{header}]", here, value))
        else:
            origin = origins.get(dotted(here), "")
            yield f"{_key(name)} = {toml_value(value)}" + (f"  # {origin}" if origin else "")
    for header, here, value in inner:
        yield from ("", header, *_table(value, here, origins))


def _is_table(value: Any) -> bool:
    return isinstance(value, dict) or dataclasses.is_dataclass(value)


def _parts(table: Any) -> Iterator[tuple[str, Any]]:
    """Name and value of what a table has; of an array that may be one table and is, that table."""
    if isinstance(table, dict):
        yield from table.items()
        return
    for field in dataclasses.fields(table):
        value = getattr(table, field.name)
        if value is not None:
            yield toml_key(field), value[0] if "key" in field.metadata and len(value) == 1 else value


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _string(name)


def toml_value(value: Any) -> str:
    """A value as recipes write it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(toml_value, value))}]"
    return _string(os.fspath(value))


def _string(text: str) -> str:
    """JSON's escapes are TOML's, except that TOML wants DEL escaped too."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
