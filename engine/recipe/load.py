"""Recipes: one TOML file (or a packaged name) and `--set` options become a checked configuration, and that TOML again.

All problems come at once, each with file, line, key and what would be right.
"""

from __future__ import annotations

import copy
import dataclasses
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from ... import ConfigError, ModelError
from ...untrusted import clip
from .checks import run_problems
from .config import RunConfig
from .config.presets import left_open
from .config.removed import removal
from .hub import cached_model, is_name
from .schema import Builder, dotted, nearest, show, toml_key
from .toml_dump import dump_toml
from .toml_parse import LONGEST, Key, TooLargeError, key_lines, parse_toml

LISTED = 100
"""Problems of a recipe that are written out."""


class Problem(NamedTuple):
    """One thing that is wrong in a recipe: where ("recipe.toml:12" or "--set a.b=v"), which key, what."""

    where: str
    key: str
    message: str

    def __str__(self) -> str:
        where, message = clip(self.where, 2000), clip(self.message, 2000)
        return f"{where}: {clip(self.key)}: {message}" if self.key else f"{where}: {message}"


class RecipeError(ConfigError):
    """All problems of a recipe.

    Attributes:
        problems: options first, then in the order of the lines.
        partial: a configuration in which what has a problem is replaced or left out, to look for problems in the
            data with; None if there is too little to make one.
    """

    def __init__(self, problems: Sequence[Problem], partial: Any = None) -> None:
        self.problems = tuple(problems)
        self.partial = partial
        head = [] if len(problems) == 1 else [f"{len(problems)} problems in the recipe:"]
        more = [f"... and {len(problems) - LISTED} more"] if len(problems) > LISTED else []
        super().__init__("\n  ".join([*head, *map(str, problems[:LISTED]), *more]))


@dataclass(frozen=True)
class Resolved:
    """A recipe as it will be used.

    Attributes:
        config: the configuration.
        origins: key ("targets.0.language") -> "recipe.toml:12", "recipe demo (packaged):12", "--set" or "default".
        names: key of the folder of a model ("model.path") -> its name in the Hugging Face cache, where that led to
            the folder.
    """

    config: RunConfig
    origins: dict[str, str]
    names: dict[str, str] = dataclasses.field(default_factory=dict)

    def dump(self) -> str:
        """The resolved recipe as TOML with origins as comments."""
        return dump_toml(self.config, self.origins)


def load_recipe(
    source: str | Path | None = None, overrides: Sequence[str] = (), *, cls: type[Any] = RunConfig
) -> Resolved:
    """Read, override and check a recipe.

    Args:
        source: a file, the name of a packaged recipe, or None for `xlt.toml` here, else the packaged `demo`.
        overrides: `key=value` as given to `--set`, values in TOML, bare strings allowed, later ones win.
        cls: the dataclass to build.

    Raises:
        ConfigError: there is no such recipe, it is not TOML, or (`RecipeError`) all that is wrong in it.
    """
    raw, places, problems = _read(source, overrides)
    wrong: list[tuple[Key, str]] = []
    checks = run_problems if issubclass(cls, RunConfig) else lambda _: ()
    builder = Builder(lambda key, message: wrong.append((key, message)), places.folder, cls, checks)
    whole = copy.deepcopy(raw)
    preset = {c.key: _apply(whole, c.key.split("."), c.value) for c in left_open(raw) if issubclass(cls, RunConfig)}
    config = builder.build(whole)
    if isinstance(config, RunConfig) and config.model.name and config.model.path is None:
        try:
            model = dataclasses.replace(config.model, path=cached_model(config.model.name))
            config = dataclasses.replace(config, model=model)
            builder.names[("model", "path")] = str(model.name)
        except ModelError as error:
            wrong.append((("model", "name"), str(error)))
    wrong.sort(key=lambda item: places.line(item[0]))
    problems += [Problem(places.where(key), dotted(key), message) for key, message in wrong]
    if problems:
        raise RecipeError(problems, config)
    names = {dotted(key): name for key, name in builder.names.items()}
    origins = _origins(config, raw, places) | dict.fromkeys(preset, f"preset {raw.get('preset')}")
    return Resolved(config, origins, names)


def key_places(source: str | Path | None, overrides: Sequence[str]) -> Callable[[Key], str]:
    """Where a key of a recipe stands, or the table around it: `recipe.toml:12`, or the option that gave it."""
    return _read(source, overrides)[1].where


def model_names(source: str | Path | None, overrides: Sequence[str]) -> list[str]:
    """The names of models in a recipe, whatever else is in it: not those of folders that are there."""
    raw, places, _ = _read(source, overrides)
    names: list[str] = []
    for key in (("model", "name"), ("cotrain", "model")):
        value: Any = raw
        for part in key:
            value = value.get(part) if isinstance(value, dict) else None
        if isinstance(value, str) and is_name(value):
            names += [value] if key[0] == "model" or not (places.folder(key) / value).exists() else []
    return names


def packaged_recipes() -> dict[str, str]:
    """Name -> text of the recipes that come with the package."""
    folder = resources.files(__package__.partition(".")[0]) / "data" / "recipes"
    files = sorted((file for file in folder.iterdir() if file.name.endswith(".toml")), key=lambda file: file.name)
    return {file.name.removesuffix(".toml"): file.read_text("utf-8") for file in files}


def _find(source: str | Path | None) -> tuple[Path | None, str, str]:
    """File (None if packaged), label for messages, and text of a recipe."""
    if source is None:
        source = Path("xlt.toml") if Path("xlt.toml").is_file() else "demo"
    packaged = packaged_recipes()
    if isinstance(source, str) and source in packaged:
        return None, f"recipe {source} (packaged)", packaged[source]
    path = Path(source)
    if isinstance(source, str) and not path.is_file() and path.suffix != ".toml" and "/" not in source:
        near = nearest(source, packaged)
        hint = f"did you mean {near}? " if near else ""
        raise ConfigError(
            f"there is no recipe {source!r}; {hint}the packaged ones are {', '.join(packaged)}; "
            "a recipe of your own is given as a path, such as ./xlt.toml"
        )
    try:
        with open(path, "rb") as file:
            data = file.read(LONGEST + 1)
        if len(data) > LONGEST:
            raise ConfigError(f"{path}: a recipe has up to {LONGEST >> 10} kB; is this another file?")
        return path, str(path), data.decode("utf-8-sig")
    except OSError as error:
        raise ConfigError(f"cannot read the recipe {path}: {error.strerror}; give the path of a TOML file") from error
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(
            f"{path}:{line}: byte {data[error.start]:#04x} is not UTF-8; save the recipe as UTF-8"
        ) from None


def _read(source: str | Path | None, overrides: Sequence[str]) -> tuple[dict[str, Any], _Places, list[Problem]]:
    """Tables with the options in them, where keys came from, and what is wrong with options.

    Raises:
        ConfigError: there is no such recipe, or it is not TOML.
    """
    path, label, text = _find(source)
    raw = _parse(text, label)
    problems: list[Problem] = []
    options: list[tuple[Key, str]] = []
    for option in overrides:
        changed = copy.deepcopy(raw)
        try:
            options.append((_apply(changed, *_parse_override(option)), option))
            raw = changed
        except ValueError as error:
            problems.append(Problem(f"--set {clip(option)}", "", str(error)))
    return raw, _Places(label, path.absolute().parent if path else Path.cwd(), key_lines(text), options), problems


def _parse(text: str, label: str) -> dict[str, Any]:
    try:
        return parse_toml(text)
    except tomllib.TOMLDecodeError as error:
        message, _, place = str(error).partition(" (at ")
        line = place.removeprefix("line ").split(",")[0] if place.startswith("line") else str(text.count("\n") + 1)
        raise ConfigError(f"{label}:{line}: not valid TOML: {message}") from None
    except TooLargeError as error:
        raise ConfigError(f"{label}:{error.line}: {error}; no recipe needs it") from None


def _parse_override(option: str) -> tuple[list[str], Any]:
    """Key names and value of `a.b=v`; ValueError says what is wrong with it."""
    name, sign, text = option.partition("=")
    try:
        below: Any = parse_toml(f"{name} = 0") if sign else {}
    except tomllib.TOMLDecodeError:
        below = {}
    names: list[str] = []
    while isinstance(below, dict) and len(below) == 1:
        [(part, below)] = below.items()
        names.append(part)
    if below != 0:
        raise ValueError("expected key=value, such as --set finetune.lr=2e-5")
    try:
        document = parse_toml(f"value = {text}")
    except tomllib.TOMLDecodeError:
        document = {}
    return names, document["value"] if len(document) == 1 else text.strip()


def _apply(raw: dict[str, Any], names: Sequence[str], value: Any) -> Key:
    """Put an override into the tables and return its key path; ValueError says why it does not fit."""
    here: Any = raw
    key: list[str | int] = []
    for number, name in enumerate(names):
        part: str | int = name
        done, last = dotted(tuple(key)), number == len(names) - 1
        if isinstance(here, list):
            if not name.isdecimal():
                raise ValueError(f"{done} is an array: give an index, such as {done}.0")
            part = int(name)
            if part > len(here):
                raise ValueError(f"{done} has {len(here)} entries: the index is one of 0 to {len(here)}")
            if part == len(here):
                here.append({})
        elif isinstance(here, dict):
            if part not in here:
                here[part] = [] if not last and names[number + 1].isdecimal() else {}
        else:
            raise ValueError(removal(".".join(names)) or f"{done} is {show(here)}, which has no keys")
        key.append(part)
        if last:
            here[part] = value
        here = here[part]
    return tuple(key)


@dataclass(frozen=True)
class _Places:
    """Which line or option a key came from.

    Attributes:
        label: of the recipe, for messages.
        beside: where relative paths in the recipe start; packaged recipes are read as if they lay here.
        lines: as of `key_lines`.
        options: key and text of each option, later ones win.
    """

    label: str
    beside: Path
    lines: Mapping[Key, int]
    options: Sequence[tuple[Key, str]]

    def option(self, key: Key) -> str | None:
        """The last option that gave the value at `key`, or a table around it, or made the table at `key`."""
        for changed, text in reversed(self.options):
            if changed == key[: len(changed)] or (key not in self.lines and changed[: len(key)] == key):
                return text
        return None

    def line(self, key: Key) -> int:
        """The line of `key` or of the table around it; 0 for what an option gave, 1 for what nothing gave."""
        if self.option(key) is not None:
            return 0
        prefixes = (key[:length] for length in range(len(key), 0, -1))
        return next((self.lines[prefix] for prefix in prefixes if prefix in self.lines), 1)

    def where(self, key: Key) -> str:
        """For messages: `recipe.toml:12` or `--set a.b=v`."""
        option = self.option(key)
        return f"{self.label}:{self.line(key)}" if option is None else f"--set {clip(option)}"

    def origin(self, key: Key) -> str:
        """For the record, of a key that was given."""
        changed = any(changed[: len(key)] == key for changed, _ in self.options)
        return "--set" if changed or self.option(key) is not None else f"{self.label}:{self.line(key)}"

    def folder(self, key: Key) -> Path:
        """Where relative paths start: beside the recipe, or here for options."""
        return self.beside if self.option(key) is None else Path.cwd()


def _origins(config: Any, raw: Any, places: _Places, path: Key = ()) -> dict[str, str]:
    """The origin of every value below `config`; `raw` is the table it was built from, None where it is a default."""
    result: dict[str, str] = {}
    for field in dataclasses.fields(config):
        value, key = getattr(config, field.name), toml_key(field)
        here, below = (*path, key), raw.get(key) if isinstance(raw, dict) else None
        if isinstance(value, tuple) and "key" in field.metadata and not isinstance(below, list):
            (value,) = value
        if dataclasses.is_dataclass(value):
            result |= _origins(value, below, places, here)
        elif isinstance(value, tuple) and value and all(map(dataclasses.is_dataclass, value)):
            for number, part in enumerate(value):
                result |= _origins(part, below[number] if below else None, places, (*here, number))
        else:
            result[dotted(here)] = "default" if below is None else places.origin(here)
    return result
