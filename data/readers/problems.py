"""Collecting every bad row of an input before raising one error."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from ... import ConfigError, DataError
from ...untrusted import clip

LISTED = 20
SAME = 3
"""Places of one cause that have a line each; of a cause that has more, one line names the first and the last."""
_LONGEST = 2000
_SETTING = re.compile(r'(?<![\w.])reader\.(\w+)(?: = ("(?:[^"\\]|\\.)*"|\w+))?')


@dataclass(slots=True)
class _Cause:
    places: list[str] = field(default_factory=list)
    count: int = 0
    last: str = ""


class Problems:
    """Faults of input files, each with its place; raised together, grouped by what is wrong."""

    def __init__(self) -> None:
        self._causes: dict[tuple[str, str], _Cause] = {}
        self.count = 0

    def add(self, place: str, what: str, fix: str) -> None:
        """Note one fault as `place: what; fix`, where place is `file:line` or `file:line:byte`."""
        self.count += 1
        key = clip(what, _LONGEST), clip(fix, _LONGEST)
        if key not in self._causes:
            if len(self._causes) == LISTED:
                return
            self._causes[key] = _Cause()
        cause = self._causes[key]
        cause.count, cause.last = cause.count + 1, place
        if len(cause.places) < SAME:
            cause.places.append(place)

    def raise_if_any(self) -> None:
        """Raise a DataError that lists the first 20 faults or causes, and counts all faults."""
        if not self.count:
            return
        lines, told = list[str](), 0
        for (what, fix), cause in self._causes.items():
            if cause.count > SAME:
                more = f"{cause.count - 1:,} more like it, the last at {cause.last}"
                lines.append(f"{cause.places[0]}: {what}; {fix} ({more})")
                told += cause.count
            else:
                lines += [f"{place}: {what}; {fix}" for place in cause.places][: LISTED - len(lines)]
                told = told + cause.count
            if len(lines) >= LISTED:
                break
        if told < self.count:
            lines.append(f"... {self.count:,} faults in all, the first {len(lines)} listed")
        raise DataError("\n".join(lines))


@contextmanager
def naming(setting: Callable[[str, str], str]) -> Iterator[None]:
    """Errors name the settings of readers as the caller has them, and not as keys of a table [reader].

    Args:
        setting: of a key, and the TOML of the value that a message advises or "", what the message shall say.
    """
    try:
        yield
    except (ConfigError, DataError) as error:
        error.args = (_SETTING.sub(lambda match: setting(match[1], match[2] or ""), str(error)),)
        raise


def setting(key: str, value: str) -> str:
    """A key of [reader] with a value, for the advice of a message; `naming` knows it again."""
    return f"reader.{key} = {json.dumps(clip(value), ensure_ascii=False)}"
