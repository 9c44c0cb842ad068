"""Parquet files, and the Arrow files that `save_to_disk` of the library datasets writes; needs pyarrow."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

from ... import ConfigError, DataError
from .jsonl import JsonReader, class_names, find_fields, named, names_of_features
from .reader import Found, Head

ROWS = 4096
"""Rows that are turned into Python's objects at a time."""


class ArrowReader(JsonReader):
    """A parquet file, a folder of them, or a folder of `save_to_disk`; fields are read as those of JSON lines.

    Labels that are whole numbers take their names from the files' own metadata (`ClassLabel`) where `tag_names` has
    none. Lines in messages are rows, counted from 1 over all files of a folder.
    """

    takes = tuple(name for name in JsonReader.takes if name != "language_field")

    @cached_property
    def tables(self) -> list[Any]:
        """The open files."""
        return list(_tables(Path(self.path)))

    def class_names(self) -> dict[str, tuple[str, ...]]:
        return _all_names(Path(self.path), self.tables)

    def objects(self) -> Iterator[tuple[int, dict[str, Any]]]:
        rows = _rows(self.path, self.tables)
        return ((number, _as_json(row)) for number, row in rows) if self.task else rows

    @classmethod
    def probe(cls, head: Head) -> Found:
        """What the fields of the first rows hold, their numbers by their names where the metadata have them."""
        tables = list(_tables(Path(head.path)))
        names = _all_names(Path(head.path), tables)
        rows = [row for _, row in islice(_rows(str(head.path), tables), 200)]
        rows = [{field: named(value, names.get(field, ())) for field, value in row.items()} for row in rows]
        return find_fields(head, rows, class_names(Path(head.path).parent))._replace(format="arrow")


def _as_json(row: dict[str, Any]) -> dict[str, Any]:
    """A row as JSON has it: its dates as text, its NaN, which JSON does not have, as null."""
    cleaned: dict[str, Any] = json.loads(json.dumps(row, default=str), parse_constant=lambda _: None)
    return cleaned


def _all_names(path: Path, tables: Sequence[Any]) -> dict[str, tuple[str, ...]]:
    names = class_names(path) if path.is_dir() else {}
    for table in tables:
        names |= _class_names((table.schema_arrow if hasattr(table, "schema_arrow") else table.schema).metadata or {})
    return names


def _class_names(metadata: Mapping[bytes, bytes]) -> dict[str, tuple[str, ...]]:
    try:
        return names_of_features(json.loads(metadata.get(b"huggingface", b"{}")).get("info"))
    except (ValueError, RecursionError, AttributeError):
        return {}


def _tables(path: Path) -> Iterator[Any]:
    """The open files, parquet or Arrow streams, in the order of their names."""
    try:
        import pyarrow
        from pyarrow import ipc, parquet
    except ImportError as error:
        raise ConfigError(f"{path}: needs pyarrow: pip install 'xlt-engine[datasets]'") from error
    files = sorted(p for p in path.iterdir() if p.suffix in (".parquet", ".arrow")) if path.is_dir() else [path]
    if not files:
        raise DataError(f"{path}: holds no .parquet and no .arrow file; give one split of a data set")
    for file in files:
        try:
            yield (
                ipc.open_stream(pyarrow.memory_map(str(file))) if file.suffix == ".arrow" else parquet.ParquetFile(file)
            )
        except FileNotFoundError as error:
            raise DataError(f"{file}: no such file; check the path") from error
        except (OSError, ValueError, pyarrow.ArrowException) as error:
            raise DataError(f"{file}: pyarrow cannot read it: {error}; copy or download it again") from error


def _rows(path: str, tables: Sequence[Any]) -> Iterator[tuple[int, dict[str, Any]]]:
    import pyarrow

    number = 0
    for table in tables:
        try:
            for batch in table.iter_batches(ROWS) if hasattr(table, "iter_batches") else table:
                batch.validate(full=True)  # what pyarrow does not do by itself: offsets may lead out of the memory
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
        except (OSError, ValueError, OverflowError, pyarrow.ArrowException) as error:
            raise DataError(
                f"{path}:{number + 1}: pyarrow cannot read it: {error}; copy or download it again"
            ) from error
