"""The files that a recipe names, and how each is read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

from .languages import Format, LanguageReaderConfig, ReaderConfig, SourceConfig, TargetConfig
from .run import RunConfig

LABELLED = ("train", "dev", "test", "few-shot", "translation", "original", "translated-train", "translated-test")
"""Roles of labelled files."""
TESTS = ("test", "translated-test")
SCORED = (*TESTS, "dev")
"""Roles of files that are for scoring only."""


@dataclass(frozen=True)
class DataFile:
    """A file that a recipe names: under which key, in which role, for which language.

    Roles are those of `LABELLED`, "unlabelled", "general", "control" and "pairs".
    """

    key: tuple[str | int, ...]
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

    @property
    def encoding_key(self) -> str:
        """The key that sets the encoding of this file and of no other role or language."""
        own = "reader.unlabelled_encoding" if self.unlabelled else "reader.encoding"
        return f"{self.table}.{own}" if self.table else own


def reader_of(config: RunConfig, path: Path, language: str = "", *, unlabelled: bool = False) -> FileReader:
    """How a file of a recipe is read: by the `reader` table of the language that names it, else by [reader].

    Args:
        language: whose table it is where several name the file, as those of XNLI do.
        unlabelled: it is read for its text. A training file is a labelled file all the same.
    """
    naming = [(name, table) for name, table in named_tables(config) if path in _files(table)]
    name, table = next((x for x in naming if x[1].language == language), naming[0] if naming else ("", None))
    training = any(path == source.train for source in config.sources)
    settings = config.reader if table is None else merged(config.reader, table.reader)
    return FileReader(settings, name, unlabelled and not training)


def merged(reader: ReaderConfig, own: LanguageReaderConfig | None) -> ReaderConfig:
    """[reader] with the keys that a language has itself."""
    names = [f.name for f in fields(reader)]
    given = {name: getattr(own, name) for name in names if getattr(own, name, None) is not None}
    return ReaderConfig(**{name: getattr(reader, name) for name in names} | given)


def all_readers(config: RunConfig) -> list[ReaderConfig]:
    """The settings of each language, sources first."""
    return [merged(config.reader, table.reader) for table in config.tables]


def named_tables(config: RunConfig) -> Iterator[tuple[str, SourceConfig | TargetConfig]]:
    """The tables of the languages with their keys: "source" or "source.0", "targets.0"."""
    for key, source in zip(config.source_keys, config.sources, strict=True):
        yield ".".join(map(str, key)), source
    yield from ((f"targets.{i}", target) for i, target in enumerate(config.targets))


def _files(table: SourceConfig | TargetConfig) -> list[Path]:
    values = [getattr(table, f.name) for f in fields(table)]
    return [x for value in values for x in (value if isinstance(value, tuple) else (value,)) if isinstance(x, Path)]


def recipe_files(config: RunConfig) -> list[DataFile]:
    """All files that a recipe's run reads, in its order."""
    source = config.source
    found = []
    tables: list[tuple[tuple[str | int, ...], SourceConfig | TargetConfig]] = []
    tables += zip(config.source_keys, config.sources, strict=True)
    for key, table in tables:
        roles = ((role, getattr(table, role)) for role in ("train", "dev", "test"))
        found += [DataFile((*key, role), role, table.language, path) for role, path in roles if path is not None]
    tables += [(("targets", i), target) for i, target in enumerate(config.targets)]
    for key, table in tables:
        if isinstance(table, TargetConfig) and table.test is not None:
            found.append(DataFile((*key, "test"), "test", table.language, table.test))
        if isinstance(table, TargetConfig) and table.labelled is not None:
            found.append(DataFile((*key, "labelled"), "few-shot", table.language, table.labelled))
        if isinstance(table, TargetConfig):
            found += _translated_files(key, table, source.language)
        for role in ("unlabelled", "general", *(["control"] if config.arms.control else [])):
            paths = getattr(table, role)
            found += [DataFile((*key, role, i), role, table.language, path) for i, path in enumerate(paths)]
    if config.contrastive.on:
        key = ("contrastive", "translations")
        found += [DataFile((*key, x), "translation", x, path) for x, path in config.contrastive.translations.items()]
        if config.contrastive.originals is not None:
            path = config.contrastive.originals
            found.append(DataFile(("contrastive", "originals"), "original", source.language, path))
    return found


def _translated_files(key: tuple[str | int, ...], table: TargetConfig, source: str) -> list[DataFile]:
    found = [DataFile((*key, "pairs", i), "pairs", table.language, path) for i, path in enumerate(table.pairs)]
    if table.translated_train is not None:
        key_of = (*key, "translated_train")
        found.append(DataFile(key_of, "translated-train", table.language, table.translated_train))
    if table.translated_test is not None:
        found.append(DataFile((*key, "translated_test"), "translated-test", source, table.translated_test))
    return found
