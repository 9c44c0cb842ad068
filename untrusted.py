"""What every room needs where it reads what strangers wrote: short quotes, and files that lie where they seem to."""

from __future__ import annotations

import json
import re
import reprlib
from collections.abc import Callable, Collection
from itertools import islice
from pathlib import Path
from typing import Any

from . import ModelError

LONGEST_QUOTE = 200
"""Characters of a text of a file that a message repeats."""
MOST_NAMES = 20
"""Names of a list that a message repeats."""

_AGAIN = "copy or download the file again"
# All but tab and line break that a terminal takes for a command, or that turns the order of what follows, and halves
# of characters, which no terminal can be sent.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")

_repr = reprlib.Repr()
_repr.maxstring = _repr.maxother = LONGEST_QUOTE
_repr.maxlist = _repr.maxtuple = _repr.maxdict = MOST_NAMES
_repr.maxlevel = 3


def clip(text: str, most: int = LONGEST_QUOTE) -> str:
    """A text for a message, cut if it is long."""
    return text if len(text) <= most else f"{text[:most]}... ({len(text):,} characters)"


def quoted(value: object) -> str:
    """`repr` for a message, cut if it is long."""
    try:
        return _repr.repr(value)
    except ValueError:  # Python refuses to write whole numbers of over 4,300 digits
        return "a number of thousands of digits"


def listed(names: Collection[Any], form: Callable[[Any], str] = str, sign: str = ", ") -> str:
    """Names for a message, the first 20 and how many more there are."""
    shown = [clip(form(name)) for name in islice(names, MOST_NAMES)]
    more = [f"and {len(names) - MOST_NAMES:,} more"] if len(names) > MOST_NAMES else []
    return sign.join([*shown, *more])


def printable(text: str) -> str:
    """A text for a terminal: what would command it, or turn the direction of writing, is escaped as JSON has it."""
    return _CONTROL.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def inside(folder: Path, name: str) -> Path:
    """The path of a file of a model folder.

    A link may lead to another place of the same folder, or to the `blobs` of the Hugging Face cache entry that the
    folder is a snapshot of.

    Raises:
        ModelError: the name or the link leads elsewhere, or there is no such file.
    """
    if not name or Path(name).is_absolute() or ".." in Path(name).parts:
        raise ModelError(f"{folder}: the file name {quoted(name)} leads out of the folder; refused")
    path = folder / name
    try:
        root, target = folder.resolve(), path.resolve(strict=True)
    except FileNotFoundError as error:
        raise ModelError(f"{path}: no such file; {_AGAIN}") from error
    except (OSError, ValueError, RuntimeError) as error:  # too long, a NUL, links in a circle
        raise ModelError(f"{folder}: the file name {quoted(name)} cannot be used ({error}); {_AGAIN}") from error
    homes = [root, *([root.parent.parent / "blobs"] if root.parent.name == "snapshots" else [])]
    if not any(target.is_relative_to(home) for home in homes):
        raise ModelError(f"{path}: links to {target}, outside the folder; refused, copy the file instead")
    return path


def read_object(folder: Path, name: str) -> dict[str, Any]:
    """The JSON object in a file of a model folder.

    Raises:
        ModelError: there is no such file, it lies elsewhere, or it holds anything else.
    """
    path = inside(folder, name)
    try:
        value = json.loads(path.read_bytes().decode("utf-8-sig"))
    except json.JSONDecodeError as error:
        raise ModelError(f"{path}:{error.lineno}: not valid JSON ({error.msg}); {_AGAIN}") from error
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror}); {_AGAIN}") from error
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path}: not valid JSON ({clip(str(error))}); {_AGAIN}") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path}: holds a JSON {type(value).__name__}, not an object; {_AGAIN}")
    return value
