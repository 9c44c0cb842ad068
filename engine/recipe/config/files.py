"""The files that a recipe names, and how each is read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path

from ..toml_parse import Key
from .languages import Format, LanguageReaderConfig, ReaderConfig, SourceConfig, TargetConfig
from .run import RunConfig

LABELLED = ("train", "dev", "test", "few-shot")
"""Roles of labelled files."""
SCORED = ("test", "dev")
"""Roles of files that are for scoring only."""


@dataclass(frozen=True)
class DataFile:
    """A file that a recipe names: under which key, in which role, for which language.

    Roles are those of `LABELLED`, "unlabelled", "general" and "control".
    """

    key: Key
    role: str
    language: str
    path: Path

    @property
    def labelled(self) -> bool:
        """Whether its labels are read."""
        return self.role in LABELLED


@dataclass(frozen=True)
class FileReader:
    """How one file of a recipe is read.

    Attributes:
        settings: the keys of [reader], with those of the file's own table in their place.
        table: the table that names the file, as "targets.0"; "" where none does.
        unlabelled: whether the file is read for its text alone, with the `unlabelled_` keys.
    """

    settings: ReaderConfig
    table: str = ""
    unlabelled: bool = False

    @property
    def format(self) -> Format:
        """Of the file; "auto" goes by its name."""
        return self.settings.unlabelled_format if self.unlabelled else self.settings.format

    @property
    def encoding(self) -> str:
        """Of the file."""
        other = self.settings.unlabelled_encoding if self.unlabelled else ""
        return other or self.settings.encoding

    def setting(self, key: str, value: str) -> str:
        """For messages: what sets a key of this file and of no other language, for `naming`."""
        own = "unlabelled_" if self.unlabelled and key in ("encoding", "format") else ""
        table = f"{self.table}." if self.table else ""
        return f"{table}reader.{own}{key}" + (f" = {value}" if value else "")


def reader_of(config: RunConfig, path: Path, language: str = "", *, unlabelled: bool = False) -> FileReader:
    """How a file of a recipe is read: by the `reader` table of the language that names it, else by [reader].

    Args:
        language: whose table it is where several name the file, as those of XNLI do.
        unlabelled: it is read for its text. A training file is a labelled file all the same.
    """
    tables = config.language_tables.items()
    naming = [(".".join(map(str, key)), table) for key, table in tables if path in _files(table)]
    name, table = next((x for x in naming if x[1].language == language), naming[0] if naming else ("", None))
    training = any(path == source.train for source in config.sources)
    settings = config.reader if table is None else merged(config.reader, table.reader)
    return FileReader(settings, name, unlabelled and not training)


def merged(reader: ReaderConfig, own: LanguageReaderConfig | None) -> ReaderConfig:
    """[reader] with the keys that a language has itself."""
    return replace(reader, **{name: value for name, value in vars(own or reader).items() if value is not None})


def _files(table: SourceConfig | TargetConfig) -> list[Path]:
    values = [getattr(table, f.name) for f in fields(table)]
    return [x for value in values for x in (value if isinstance(value, tuple) else (value,)) if isinstance(x, Path)]


def recipe_files(config: RunConfig) -> list[DataFile]:
    """All files that a recipe's run reads, in its order."""
    tables, files = config.language_tables, list[DataFile]()
    for key, table in tables.items():
        if isinstance(table, SourceConfig):
            files += _named(key, table, ("train", "dev", "test"))
    texts = ("unlabelled", "general", *(("control",) if config.arms.control else ()))
    for key, table in tables.items():
        labelled = () if isinstance(table, SourceConfig) else ("test", "labelled")
        files += _named(key, table, (*labelled, *texts))
    return files


def _named(key: Key, table: SourceConfig | TargetConfig, names: Iterable[str]) -> Iterator[DataFile]:
    """The files of some keys of a table."""
    for name in names:
        value = getattr(table, name)
        role = "few-shot" if name == "labelled" else name
        if isinstance(value, tuple):
            yield from (DataFile((*key, name, i), role, table.language, path) for i, path in enumerate(value))
        elif value is not None:
            yield DataFile((*key, name), role, table.language, value)
