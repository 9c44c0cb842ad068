"""The [reader] table, and those of single languages: how files are read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields, make_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_type_hints

from ...config_fields import option

if TYPE_CHECKING:
    from .languages import SourceConfig, TargetConfig
    from .run import RunConfig

Format = Literal["auto", "conll", "tsv", "csv", "jsonl", "text", "xnli", "webis-cls", "marc"]


@dataclass(frozen=True, kw_only=True)
class ReaderConfig:
    """How files are read; `auto` goes by the file's ending."""

    format: Format = option("auto", "format of labelled files")
    unlabelled_format: Format = option("auto", "format of unlabelled files; labels found there are dropped")
    encoding: str = option("utf-8", "character encoding of the files")
    unlabelled_encoding: str = option("", "character encoding of unlabelled files; `encoding` when empty")
    token_column: int = option(0, "CoNLL: column of the token")
    label_column: int = option(-1, "CoNLL: column of the tag")
    scheme: Literal["auto", "iob1", "bio"] = option("auto", "CoNLL: tag scheme of the files")
    repair: bool = option(False, "tags: read an I- that nothing opened as B-, as conlleval does")
    words: str = option("words", "JSONL: field of the words")
    tags: str = option("tags", "JSONL: field of the tags")
    text: str = option("text", "table or JSONL: field of the text")
    pair: str = option("", "table or JSONL: field of the second text")
    label: str = option("label", "table or JSONL: field of the label")
    split: Literal["punctuation", "whitespace"] = option(
        "punctuation", "NER: how a line of unlabelled plain text becomes words; whitespace if it is tokenised already"
    )
    label_map: dict[str, str] = field(
        default_factory=dict, metadata={"help": "label in the file -> label of the task; an empty string drops the row"}
    )


if TYPE_CHECKING:

    class LanguageReaderConfig:
        """The keys of `ReaderConfig`, each None where a language has the recipe's."""

        def __init__(self, **keys: Any) -> None: ...

else:
    # Made of the other's fields, so that a key has one home.
    LanguageReaderConfig = make_dataclass(
        "LanguageReaderConfig",
        [
            (f.name, get_type_hints(ReaderConfig)[f.name] | None, option(None, f.metadata["help"]))
            for f in fields(ReaderConfig)
        ],
        frozen=True,
        kw_only=True,
    )


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
    naming = [(name, table) for name, table in _tables(config) if path in _files(table)]
    name, table = next((x for x in naming if x[1].language == language), naming[0] if naming else ("", None))
    training = any(path == source.train for source in config.all_sources)
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


def _tables(config: RunConfig) -> Iterator[tuple[str, SourceConfig | TargetConfig]]:
    yield "source", config.source
    yield from ((f"sources.{i}", source) for i, source in enumerate(config.sources))
    yield from ((f"targets.{i}", target) for i, target in enumerate(config.targets))


def _files(table: SourceConfig | TargetConfig) -> list[Path]:
    values = [getattr(table, f.name) for f in fields(table)]
    return [x for value in values for x in (value if isinstance(value, tuple) else (value,)) if isinstance(x, Path)]
