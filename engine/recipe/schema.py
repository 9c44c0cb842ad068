"""From the tables of a recipe to frozen dataclasses by their annotations, with all problems at once.

Annotations: bool, int, float, str, Path, Literal, dataclasses, `X | None` and other unions of which one takes a value,
tuple[X, ...], dict[str, X]. Field metadata: `min`, `max` (inclusive), `above`, `below` (exclusive), `key` (`toml_key`),
`hub` (a path that may be the name of a model).
A dataclass may have `problems() -> list[(key, message)]`, about fields that are right by themselves.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import operator
import os
import re
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from ... import ModelError
from ...untrusted import MOST_NAMES, clip
from .config.removed import does_nothing, removal
from .hub import cached_model, is_name
from .toml_parse import Key

Report = Callable[[Key, str], None]
Checks = Callable[[Any], Iterable[tuple[str, str]]]

_WRONG: Any = object()
_MOST_TABLES, _MOST_VALUES = 1000, 20_000  # of an array
_LIMITS: dict[str, tuple[str, Callable[[Any, Any], bool]]] = {
    "min": ("at least", operator.ge),
    "max": ("at most", operator.le),
    "above": ("greater than", operator.gt),
    "below": ("less than", operator.lt),
}
_TYPES: dict[Any, tuple[str, tuple[type, ...]]] = {
    bool: ("true or false", (bool,)),
    int: ("a whole number", (int,)),
    float: ("a number", (int, float)),
    str: ("a string", (str,)),
    Path: ("a path", (str,)),
}
"""Annotation -> its name for people, and the types of values that TOML gives for it."""
_VARIABLE = re.compile(r"\$\{([^}:]*)(?::-([^}]*))?\}")
"""`${NAME}` in a path, or `${NAME:-default}`, as a shell has it."""


class Builder:
    """Builds dataclasses from tables.

    What has a problem is reported and replaced by its default or left out, so that a faulty recipe still gives a
    configuration to check the rest with; it must not be used unless nothing was reported.

    Args:
        report: hears of every problem, with the key path and the message.
        folder: for a key path, the folder that its relative file paths start from.
        root: the dataclass of the whole recipe, to find the right place of a misplaced key.
        checks: what is wrong between the tables of a whole recipe, beside what each says of itself.

    Attributes:
        names: key path -> the name of a model that the path at that key was found by.
    """

    def __init__(self, report: Report, folder: Callable[[Key], Path], root: type[Any], checks: Checks) -> None:
        self._tell, self._folder, self._root, self._checks = report, folder, root, checks
        self._reported: list[Key] = []
        self.names: dict[Key, str] = {}

    def build(self, raw: Mapping[str, Any]) -> Any:
        """An instance of the root; None if the problems leave nothing to make one from."""
        built = self._table(self._root, raw, ())
        return None if built is _WRONG else built

    def _wrong(self, path: Key, message: str) -> Any:
        self._reported.append(path)
        self._tell(path, message)
        return _WRONG

    def _table(self, cls: type[Any], raw: Mapping[str, Any], path: Key) -> Any:
        hints = get_type_hints(cls)
        fields = {toml_key(field): field for field in dataclasses.fields(cls)}
        required = {key for key, f in fields.items() if f.default is f.default_factory is dataclasses.MISSING}
        values: dict[str, Any] = {}
        unknown = [key for key in raw if key not in fields and not does_nothing(dotted((*path, key)), raw[key])]
        meant = {nearest(key, fields) for key in unknown[:MOST_NAMES]}
        for key in unknown[:MOST_NAMES]:
            self._wrong((*path, key), self._unknown(key, fields, path))
        if len(unknown) > MOST_NAMES:
            self._wrong((*path, unknown[MOST_NAMES]), f"one of {len(unknown) - MOST_NAMES} more unknown keys")
        for key, field in fields.items():
            if key in raw:
                values[key] = self._value(hints[field.name], raw[key], (*path, key), field.metadata)
            elif key in required - meant:
                self._wrong((*path, key), f"missing: {field.metadata['help']}")
        right = {key: value for key, value in values.items() if value is not _WRONG}
        if not required <= right.keys():
            return _WRONG
        built = cls(**{fields[key].name: value for key, value in right.items()})
        whole = [(parse_key(key), message) for key, message in self._checks(built)] if not path else []
        for place, message in [*whole, *_cross_problems(built, raw, path)]:
            # What follows from a problem there, in it or around it is no news.
            if not self._touched(place):
                self._wrong(place, message)
        return built

    def _touched(self, key: Key) -> bool:
        """Whether a key, something in it or something around it has a problem already."""
        return any(key[: len(other)] == other[: len(key)] for other in self._reported)

    def _unknown(self, key: str, fields: Mapping[str, Any], path: Key) -> str:
        if told := removal(dotted((*path, key))):
            return told
        table = f"[{dotted(path)}]" if path else "the recipe"
        near = nearest(key, fields)
        elsewhere = [dotted(place) for place in key_paths(self._root) if place[-1] == key]
        if near is not None or elsewhere:
            return f"unknown key in {table}; did you mean {near or ' or '.join(elsewhere[:3])}?"
        return f"unknown key in {table}; the keys are {', '.join(fields)}"

    def _value(self, kind: Any, raw: Any, path: Key, limits: Mapping[str, Any]) -> Any:
        """`raw` as the annotation `kind`, or a marker (after a report) that there is no use for it."""
        origin, args = get_origin(kind), get_args(kind)
        if origin in (Union, types.UnionType):
            kind = next((arm for arm in args if arm is not type(None) and _fits(arm, raw)), kind)
            origin, args = get_origin(kind), get_args(kind)
        if origin is tuple and "key" in limits and isinstance(raw, dict):
            return (self._table(args[0], raw, path),)
        if not _fits(kind, raw):
            return self._misfit(kind, raw, path)
        if origin is Literal:
            return raw if raw in args else self._no_choice(args, raw, path)
        if origin is tuple:
            return self._tuple(args[0], raw, path, limits)
        if origin is dict:
            parts = {key: self._value(args[1], part, (*path, key), limits) for key, part in raw.items()}
            return {key: part for key, part in parts.items() if part is not _WRONG}
        if dataclasses.is_dataclass(kind):
            return self._table(kind, raw, path)  # type: ignore[arg-type]
        if kind is Path:
            return self._path(raw, path, hub=limits.get("hub", False))
        return self._limited(float(raw) if kind is float else raw, path, limits)

    def _tuple(self, kind: Any, raw: list[Any], path: Key, limits: Mapping[str, Any]) -> Any:
        most = _MOST_TABLES if dataclasses.is_dataclass(kind) else _MOST_VALUES
        if len(raw) > most:
            return self._wrong(path, f"{len(raw):,} entries given, expected at most {most:,}")
        parts = [self._value(kind, part, (*path, i), limits) for i, part in enumerate(raw)]
        if limits.get("expand"):
            parts = [one for i, part in enumerate(parts) for one in self._expanded(part, (*path, i))]
        right = tuple(part for part in parts if part is not _WRONG)
        if len(right) < len(parts):
            self._reported.append(path)  # the places of what is left have shifted
        elif "key" in limits and not right:
            self._wrong(path, "empty; give at least one table, or leave it out")
        return right if right or "key" not in limits else _WRONG

    def _path(self, raw: str, path: Key, *, hub: bool) -> Any:
        given = {match[0]: os.environ.get(match[1]) or match[2] for match in _VARIABLE.finditer(raw)}
        unset = [_VARIABLE.sub(r"\1", name) for name, value in given.items() if value is None]
        if unset:
            problem = f"the environment variable {', '.join(unset)} is not set"
            advice = f"export {unset[0]}=FOLDER, or write the path out"
            return self._wrong(path, f"{show(raw)} given, but {problem}; {advice}")
        if not raw or "\0" in raw:
            what = "empty path" if not raw else "a path with a NUL character"
            return self._wrong(path, f"{what}; leave the key out, or name a file")
        text = os.path.expanduser(_VARIABLE.sub(lambda match: given[match[0]] or "", raw))
        folder = Path(os.path.normpath(self._folder(path) / text))
        if not hub or folder.exists() or not is_name(text):
            return folder
        try:
            cached = cached_model(text)
        except ModelError:  # a folder that is still to come, or else said where it is opened
            return folder
        self.names[path] = text
        return cached

    def _expanded(self, part: Any, path: Key) -> list[Any]:
        if part is _WRONG:
            return [part]
        try:
            files = text_files(part)
        except (OSError, ValueError) as error:  # a path that is too long, or has a null
            return [self._wrong(path, f"{show(clip(part.name))} given, which is no path ({clip(str(error))})")]
        what = "a folder without files" if part.is_dir() else "but there is no such file"
        return files or [self._wrong(path, f"{show(part.name)} given, {what}")]

    def _limited(self, raw: Any, path: Key, limits: Mapping[str, Any]) -> Any:
        if isinstance(raw, float) and not math.isfinite(raw):
            return self._wrong(path, f"{raw} given, expected a finite number")
        rules = [(words, limits[name], holds) for name, (words, holds) in _LIMITS.items() if name in limits]
        if all(holds(raw, limit) for _, limit, holds in rules):
            return raw
        expected = " and ".join(f"{words} {limit}" for words, limit, _ in rules)
        return self._wrong(path, f"{show(raw)} given, expected {expected}")

    def _no_choice(self, choices: tuple[Any, ...], raw: Any, path: Key) -> Any:
        if told := removal(f"{dotted(path)} = {show(raw)}"):
            return self._wrong(path, told)
        near = nearest(str(raw), map(str, choices))
        hint = f"; did you mean {show(near)}?" if near else ""
        self._wrong(path, f"{show(raw)} given, expected {_or(choices)}{hint}")
        return _WRONG if near is None else next(choice for choice in choices if str(choice) == near)

    def _misfit(self, kind: Any, raw: Any, path: Key) -> Any:
        """Reports a value of the wrong type, or that the table that once stood here has gone."""
        for key in raw if isinstance(raw, dict) else ():
            if told := removal(dotted((*path, key))):
                return self._wrong((*path, key), told)
        return self._wrong(path, f"{show(raw)} given, expected {describe(kind)}{_quote_hint(kind, raw)}")


def _cross_problems(built: Any, given: Mapping[str, Any], path: Key) -> Iterator[tuple[Key, str]]:
    """What `built` and those of its tables that the recipe left out say about themselves."""
    problems = getattr(built, "problems", list)
    yield from ((path + parse_key(key), message) for key, message in problems())
    for field in dataclasses.fields(built):
        value, key = getattr(built, field.name), toml_key(field)
        if key not in given and dataclasses.is_dataclass(value):
            yield from _cross_problems(value, {}, (*path, key))


def text_files(path: Path) -> list[Path]:
    """The files of a folder, however deep, or of a pattern with `*`, `?` or `[`, in the order of their names.

    Anything else stands for itself, and so does a folder of Arrow files, which is one data set.
    """
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file() and not file.name.startswith("."))
        return [path] if any(file.suffix in (".parquet", ".arrow") for file in files) else files
    if path.exists() or not set("*?[") & set(str(path)):
        return [path]
    root = Path(path.anchor)
    return sorted(file for file in root.glob(str(path.relative_to(root))) if file.is_file())


def nearest(name: str, names: Iterable[str]) -> str | None:
    """The one of `names` that `name` was probably meant to be."""
    plain = {other.lower().replace("-", "_"): other for other in names}
    near = difflib.get_close_matches(name.lower().replace("-", "_"), plain, n=1)
    return plain[near[0]] if near else None


def dotted(path: Key) -> str:
    """A key path as people write it: `targets.0.language`."""
    return ".".join(map(str, path))


def parse_key(text: str) -> Key:
    """The inverse of `dotted`; a part that is a number is an index."""
    return tuple(int(part) if part.isdecimal() else part for part in text.split(".") if part)


def with_value(config: Any, key: Key, value: Any) -> Any:
    """A configuration with another value at a key."""
    first, *rest = key
    if isinstance(first, int):
        inner = with_value(config[first], tuple(rest), value) if rest else value
        return (*config[:first], inner, *config[first + 1 :])
    inner = with_value(getattr(config, first), tuple(rest), value) if rest else value
    return dataclasses.replace(config, **{first: inner})


def toml_key(field: dataclasses.Field[Any]) -> str:
    """How recipes spell a field: its name, or its `key`, a table that may also be an array of such tables."""
    return str(field.metadata.get("key", field.name))


def table_class(kind: Any) -> type[Any] | None:
    """The dataclass in an annotation such as `X`, `X | None` or `tuple[X, ...]`."""
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return kind
    return next((inner for arm in get_args(kind) if (inner := table_class(arm))), None)


def key_paths(cls: type[Any], path: Key = ()) -> Iterator[Key]:
    """The key paths of all values below a dataclass; elements of arrays of tables are numbered 0."""
    hints = get_type_hints(cls)
    for field in dataclasses.fields(cls):
        inner = table_class(hints[field.name])
        here = (*path, toml_key(field))
        if inner is None:
            yield here
        else:
            several = get_origin(hints[field.name]) is tuple and "key" not in field.metadata
            yield from key_paths(inner, (*here, 0) if several else here)


def show(raw: Any) -> str:
    """A value as it would stand in a recipe, cut if long."""
    if isinstance(raw, dict | list):
        return "a table" if isinstance(raw, dict) else "an array"
    text = f'"{raw}"' if isinstance(raw, str) else str(raw).lower() if isinstance(raw, bool) else str(raw)
    return clip(text, 60)


def describe(kind: Any) -> str:
    """What an annotation wants, in words."""
    origin, args = get_origin(kind), get_args(kind)
    if origin is Literal:
        return _or(args)
    if origin in (Union, types.UnionType):
        return " or ".join(describe(arm) for arm in args if arm is not type(None))
    if origin is tuple:
        return f"an array of which each element is {describe(args[0])}"
    return _TYPES[kind][0] if kind in _TYPES else "a table"


def _or(choices: tuple[Any, ...]) -> str:
    *most, last = map(show, choices)
    return f"{', '.join(most)} or {last}" if most else last


def _fits(kind: Any, raw: Any) -> bool:
    """Whether a TOML value has the right type for an annotation, whatever its content."""
    origin = get_origin(kind)
    if origin is Literal:
        return isinstance(raw, str)
    if origin is tuple:
        return isinstance(raw, list)
    if origin is dict or dataclasses.is_dataclass(kind):
        return isinstance(raw, dict)
    return kind in _TYPES and isinstance(raw, _TYPES[kind][1]) and isinstance(raw, bool) == (kind is bool)


def _quote_hint(kind: Any, raw: Any) -> str:
    """How a value that lacks brackets or quotes is written."""
    kinds = (kind, *get_args(kind)) if get_origin(kind) in (Union, types.UnionType) else (kind,)
    if isinstance(raw, dict | list):
        return ""
    if any(get_origin(arm) is tuple for arm in kinds):
        return f": write [{show(raw)}]"
    return f': write "{show(raw)}" with quotes' if str in kinds or Path in kinds else ""
