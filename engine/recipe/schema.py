"""From the tables of a recipe to frozen dataclasses by their annotations, with all problems at once.

Annotations: bool, int, float, str, Path, Literal, dataclasses, `X | None` and other unions, tuple[X, ...],
tuple[X, Y], dict[str, X]. Field metadata: `min`, `max` (inclusive), `above`, `below` (exclusive), `key` (`toml_key`). A
dataclass may have `problems() -> list[(key, message)]`, about fields that are right by themselves.
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

from .config.each import PLACEHOLDER
from .config.removed import removal
from .toml_lines import Key

Report = Callable[[Key, str], None]
Checks = Callable[[Any], Iterable[tuple[str, str]]]

_WRONG: Any = object()
_LIMITS: dict[str, tuple[str, Callable[[Any, Any], bool]]] = {
    "min": ("at least", operator.ge),
    "max": ("at most", operator.le),
    "above": ("greater than", operator.gt),
    "below": ("less than", operator.lt),
}
_VARIABLE = re.compile(r"\$\{([^}]*)\}")


class Builder:
    """Builds dataclasses from tables.

    What has a problem is reported and replaced by its default or left out, so that a faulty recipe still gives a
    configuration to check the rest with; it must not be used unless nothing was reported.

    Args:
        report: hears of every problem, with the key path and the message.
        folder: for a key path, the folder that its relative file paths start from.
        root: the dataclass of the whole recipe, to find the right place of a misplaced key.
        values: what `{name}` in a path stands for, by name.
        checks: what is wrong between the tables of a whole recipe, beside what each says of itself.
    """

    def __init__(
        self,
        report: Report,
        folder: Callable[[Key], Path],
        root: type[Any],
        values: Mapping[str, str] | None = None,
        checks: Checks = lambda _: (),
    ) -> None:
        self._tell = report
        self._folder = folder
        self._root = root
        self._values = values or {}
        self._checks = checks
        self._reported: list[Key] = []

    def build(self, cls: type[Any], raw: Mapping[str, Any]) -> Any:
        """An instance of `cls`; None if the problems leave nothing to make one from."""
        built = self._table(cls, raw, ())
        return None if built is _WRONG else _with_floats(built)

    def _report(self, path: Key, message: str) -> None:
        self._reported.append(path)
        self._tell(path, message)

    def _table(self, cls: type[Any], raw: Mapping[str, Any], path: Key) -> Any:
        hints = get_type_hints(cls)
        fields = {toml_key(field): field for field in dataclasses.fields(cls)}
        values: dict[str, Any] = {}
        meant = {nearest(key, fields) for key in raw if key not in fields}
        for key in raw:
            if key not in fields:
                self._report((*path, key), self._unknown(key, fields, path))
        for name, field in fields.items():
            if name in raw:
                values[name] = self._value(hints[field.name], raw[name], (*path, name), field.metadata)
            elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
                values[name] = _WRONG
                if name not in meant:
                    self._report((*path, name), f"missing{_help(field.metadata)}")
        right = {fields[name].name: value for name, value in values.items() if value is not _WRONG}
        required = {f.name for f in fields.values() if f.default is f.default_factory is dataclasses.MISSING}
        if not required <= right.keys():
            return _WRONG
        try:
            built = cls(**right)
        except ValueError as error:
            self._report(path, str(error))
            return _WRONG
        whole = [(parse_key(key), message) for key, message in self._checks(built)] if not path else []
        cross = [*whole, *_cross_problems(built, raw, path)]
        for place, message in [problem for problem in cross if not self._touched(problem[0])]:
            self._report(place, message)
        return built

    def _touched(self, key: Key) -> bool:
        """Whether a key, something in it or something around it has a problem already: what follows is no news."""
        return any(key[: len(other)] == other[: len(key)] for other in self._reported)

    def _unknown(self, key: str, fields: Mapping[str, Any], path: Key) -> str:
        if told := removal(dotted((*path, key))):
            return told
        near = nearest(key, fields)
        if near is None:
            elsewhere = [place for place in places(self._root) if place[-1] == key]
            if elsewhere:
                return f"unknown key in {_table_name(path)}; did you mean {' or '.join(map(dotted, elsewhere[:3]))}?"
        hint = f"did you mean {near}?" if near else f"the keys are {', '.join(fields)}"
        return f"unknown key in {_table_name(path)}; {hint}"

    def _value(self, kind: Any, raw: Any, path: Key, limits: Mapping[str, Any]) -> Any:
        """`raw` as the annotation `kind`, or a marker (after a report) that there is no use for it."""
        origin, args = get_origin(kind), get_args(kind)
        if origin is tuple and "key" in limits and isinstance(raw, dict):
            return (self._table(args[0], raw, path),)
        if origin in (Union, types.UnionType):
            return self._union([arm for arm in args if arm is not type(None)], raw, path, limits)
        if not _fits(kind, raw):
            return self._misfit(path, raw, f"{describe(kind)}{_quote_hint(kind, raw)}")
        if origin is Literal:
            return (
                raw if any(raw == arm and type(raw) is type(arm) for arm in args) else self._no_choice(args, raw, path)
            )
        if origin is tuple:
            parts = self._tuple(args, raw, path, limits)
            if parts or "key" not in limits:
                return parts
            return (
                _WRONG if self._touched(path) else self._wrong(path, "empty; give at least one table, or leave it out")
            )
        if origin is dict:
            parts = {key: self._value(args[1], part, (*path, key), limits) for key, part in raw.items()}
            return {key: part for key, part in parts.items() if part is not _WRONG}
        if dataclasses.is_dataclass(kind):
            assert isinstance(kind, type)
            return self._table(kind, raw, path)
        if kind is Path:
            return self._path(raw, path)
        if kind is float:
            raw = float(raw)
        return self._limited(raw, path, limits) if kind in (int, float) else raw

    def _union(self, arms: list[Any], raw: Any, path: Key, limits: Mapping[str, Any]) -> Any:
        fitting = [arm for arm in arms if _fits(arm, raw)]
        if len(fitting) > 1:  # such as str | Literal, or two dataclasses: the first that has nothing to say
            for arm in fitting:
                trial = Builder(lambda *_: None, self._folder, self._root, self._values)
                value = trial._value(arm, raw, path, limits)
                if not trial._reported:
                    return value
        if fitting:
            return self._value(fitting[0], raw, path, limits)
        hint = next((_quote_hint(arm, raw) for arm in arms if _quote_hint(arm, raw)), "")
        return self._misfit(path, raw, f"{' or '.join(map(describe, arms))}{hint}")

    def _tuple(self, args: tuple[Any, ...], raw: list[Any], path: Key, limits: Mapping[str, Any]) -> Any:
        if len(args) == 2 and args[1] is Ellipsis:
            kinds: Iterable[Any] = [args[0]] * len(raw)
        elif len(raw) == len(args):
            kinds = args
        else:
            return self._wrong(path, f"{len(raw)} elements given, expected {len(args)}")
        parts = [
            self._value(kind, part, (*path, i), limits) for i, (kind, part) in enumerate(zip(kinds, raw, strict=True))
        ]
        if any(part is _WRONG for part in parts):
            self._reported.append(path)  # the places of what is left have shifted
        return tuple(part for part in parts if part is not _WRONG)

    def _path(self, raw: str, path: Key) -> Any:
        names = _VARIABLE.findall(raw)
        unset = [name for name in names if not os.environ.get(name)]
        if unset:
            which = ", ".join(dict.fromkeys(unset))
            advice = f"export {unset[0]}=FOLDER, or write the path out"
            return self._wrong(path, f"{show(raw)} given, but the environment variable {which} is not set; {advice}")
        if not raw:
            return self._wrong(path, "empty path; leave the key out, or name a file")
        if unknown := [name for name in PLACEHOLDER.findall(raw) if name not in self._values]:
            near = nearest(unknown[0], self._values)
            hint = f"did you mean {{{near}}}?" if near else f'add {unknown[0]} = ["..."] to the table [each]'
            return self._wrong(path, f"{show(raw)} given, but [each] has no {unknown[0]}; {hint}")
        text = PLACEHOLDER.sub(lambda match: self._values[match[1]], raw)
        text = os.path.expanduser(_VARIABLE.sub(lambda match: os.environ[match[1]], text))
        return Path(os.path.normpath(self._folder(path) / text))

    def _limited(self, raw: Any, path: Key, limits: Mapping[str, Any]) -> Any:
        if isinstance(raw, float) and not math.isfinite(raw):
            return self._wrong(path, f"{raw} given, expected a finite number")
        given = [(words, limits[name], holds) for name, (words, holds) in _LIMITS.items() if name in limits]
        if all(holds(raw, limit) for _, limit, holds in given):
            return raw
        return self._wrong(
            path, f"{raw} given, expected {' and '.join(f'{words} {limit}' for words, limit, _ in given)}"
        )

    def _no_choice(self, choices: tuple[Any, ...], raw: Any, path: Key) -> Any:
        if told := removal(f"{dotted(path)} = {show(raw)}"):
            return self._wrong(path, told)
        near = nearest(str(raw), map(str, choices))
        hint = f"; did you mean {show(near)}?" if near else ""
        self._report(path, f"{show(raw)} given, expected {_or(choices)}{hint}")
        return _WRONG if near is None else next(choice for choice in choices if str(choice) == near)

    def _misfit(self, path: Key, raw: Any, expected: str) -> Any:
        """Reports a value of the wrong type, or that the table that once stood here has gone."""
        for key in raw if isinstance(raw, dict) else ():
            if told := removal(dotted((*path, key))):
                return self._wrong((*path, key), told)
        return self._wrong(path, f"{show(raw)} given, expected {expected}")

    def _wrong(self, path: Key, message: str) -> Any:
        self._report(path, message)
        return _WRONG


def _cross_problems(built: Any, given: Mapping[str, Any], path: Key) -> Iterator[tuple[Key, str]]:
    """What `built` and those of its tables that the recipe left out say about themselves."""
    own = getattr(built, "problems", None)
    for key, message in own() if callable(own) else []:
        yield path + parse_key(key), message
    for field in dataclasses.fields(built):
        value = getattr(built, field.name)
        if toml_key(field) not in given and dataclasses.is_dataclass(value):
            yield from _cross_problems(value, {}, (*path, field.name))


def _with_floats(config: Any) -> Any:
    """`config` with whole numbers as floats where annotations say so: 3 and 3.0 must not differ in a fingerprint."""
    if isinstance(config, tuple):
        return tuple(map(_with_floats, config))
    if not dataclasses.is_dataclass(config) or isinstance(config, type):
        return config
    hints, changes = get_type_hints(type(config)), {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        accepts = (hints[field.name], *get_args(hints[field.name]))
        if type(value) is int and float in accepts and int not in accepts:
            changes[field.name] = float(value)
        elif (inner := _with_floats(value)) is not value and inner != ():
            changes[field.name] = inner
    return dataclasses.replace(config, **changes) if changes else config


def nearest(name: str, names: Iterable[str]) -> str | None:
    """The one of `names` that `name` was probably meant to be."""
    plain, given = {other.lower().replace("-", "_"): other for other in names}, name.lower().replace("-", "_")
    near = difflib.get_close_matches(given, plain, n=len(plain) or 1, cutoff=0.6)
    # Equal letters in order favour short names (eps for epoks), edits relative to the length do not.
    return plain[min(near, key=lambda other: _edits(given, other) / max(len(given), len(other)))] if near else None


def _edits(one: str, other: str) -> int:
    """Levenshtein distance."""
    row = list(range(len(other) + 1))
    for i, letter in enumerate(one, 1):
        last, row[0] = row[0], i
        for j, wanted in enumerate(other, 1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (letter != wanted))
    return row[-1]


def dotted(path: Key) -> str:
    """A key path as people write it: `targets.0.language`."""
    return ".".join(map(str, path))


def parse_key(text: str) -> Key:
    """The inverse of `dotted`; a part that is a number is an index."""
    return tuple(int(part) if part.isdecimal() else part for part in text.split(".") if part)


def table_class(kind: Any) -> type[Any] | None:
    """The dataclass in an annotation such as `X`, `X | None` or `tuple[X, ...]`."""
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return kind
    return next((found for arm in get_args(kind) if (found := table_class(arm))), None)


def toml_key(field: dataclasses.Field[Any]) -> str:
    """How recipes spell a field: its name, or its `key`, a table that may also be an array of such tables."""
    return str(field.metadata.get("key", field.name))


def places(cls: type[Any], path: Key = ()) -> Iterator[Key]:
    """The key paths of all values below a dataclass; elements of arrays of tables are numbered 0."""
    hints = get_type_hints(cls)
    for field in dataclasses.fields(cls):
        inner = table_class(hints[field.name])
        here = (*path, toml_key(field))
        if inner is None:
            yield here
        else:
            several = get_origin(hints[field.name]) is tuple and "key" not in field.metadata
            yield from places(inner, (*here, 0) if several else here)


def show(raw: Any) -> str:
    """A value as it would stand in a recipe, cut if long."""
    if isinstance(raw, bool):
        return "true" if raw else "false"
    if isinstance(raw, dict):
        return "a table"
    if isinstance(raw, list):
        return "an array"
    text = f'"{raw}"' if isinstance(raw, str) else str(raw)
    return text if len(text) <= 60 else text[:57] + "..."


def describe(kind: Any) -> str:
    """What an annotation wants, in words."""
    origin, args = get_origin(kind), get_args(kind)
    if origin is Literal:
        return _or(args)
    if origin in (Union, types.UnionType):
        return " or ".join(describe(arm) for arm in args if arm is not type(None))
    if origin is tuple:
        return f"an array of which each element is {describe(args[0])}"
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "a string", Path: "a path"}
    return words.get(kind, "a table")


def _or(choices: tuple[Any, ...]) -> str:
    shown = [show(choice) for choice in choices]
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} or {shown[-1]}"


def _fits(kind: Any, raw: Any) -> bool:
    """Whether a TOML value has the right type for an annotation, whatever its content."""
    origin = get_origin(kind)
    if origin is Literal:
        return isinstance(raw, str) or any(type(raw) is type(arm) for arm in get_args(kind))
    if origin is tuple:
        return isinstance(raw, list)
    if origin is dict or dataclasses.is_dataclass(kind):
        return isinstance(raw, dict)
    if isinstance(raw, bool):
        return kind is bool
    accepted: dict[Any, tuple[type, ...]] = {bool: (bool,), int: (int,), float: (int, float), str: (str,), Path: (str,)}
    if kind not in accepted:
        raise TypeError(f"recipes have no rule for {kind}")
    return isinstance(raw, accepted[kind])


def _quote_hint(kind: Any, raw: Any) -> str:
    if get_origin(kind) is tuple and not isinstance(raw, dict | list):
        return f": write [{show(raw)}]"
    if kind in (str, Path) and not isinstance(raw, dict | list):
        return f': write "{show(raw)}" with quotes'
    return ""


def _help(metadata: Mapping[str, Any]) -> str:
    return f": {metadata['help']}" if metadata.get("help") else ""


def _table_name(path: Key) -> str:
    return f"[{dotted(path)}]" if path else "the recipe"
