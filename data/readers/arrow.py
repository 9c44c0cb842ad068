"""Parquet files, and the Arrow files that `save_to_disk` of the library datasets writes; needs pyarrow."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from ... import ConfigError, DataError
from .example import Examples
from .jsonl import ObjectReader, class_names, named, names_of_features
from .problems import Problems
from .table import RowReader

ROWS = 4096
"""Rows that are turned into Python's objects at a time."""


def read_arrow(
    path: str | Path,
    *,
    language: str = "",
    encoding: str = "utf-8",
    text: str = "text",
    label: str | None = "label",
    pair: str | None = None,
    id: str | None = None,
    words: str = "words",
    tags: str = "tags",
    scheme: str = "auto",
    repair: bool = False,
    labels: Sequence[str] | None = None,
    label_map: Mapping[str, str | None] | None = None,
    tag_names: Sequence[str] = (),
    require_labels: bool = False,
) -> Examples:
    """Examples of a parquet file, a folder of them, or a folder of `save_to_disk`; fields are read as in `read_jsonl`.

    Labels that are whole numbers take their names from the files' own metadata (`ClassLabel`) where `tag_names` has
    none. Lines in messages are rows, counted from 1 over all files of a folder.

    Raises:
        ConfigError: pyarrow is not installed.
        DataError: no such file, one that pyarrow cannot read, or all faults of the rows, the first 20 listed.
    """
    problems, counts = Problems(), Counter[str]()
    fields = {"text": text, "label": label, "pair": pair, "id": id, "words": words, "tags": tags, "language": None}
    tables = list(_tables(Path(path)))
    names = _all_names(Path(path), tables)
    if tag_names:
        names = dict.fromkeys((label or "", tags), tuple(tag_names))
    maker = RowReader(str(path), language, labels, label_map, problems, counts)
    return ObjectReader(maker, fields, names, require_labels).read(_rows(str(path), tables), scheme, repair)


def first_rows(path: str | Path, count: int) -> list[dict[str, Any]]:
    """The first rows, their numbers by their names where the metadata have them; raises what `read_arrow` does."""
    tables = list(_tables(Path(path)))
    names = _all_names(Path(path), tables)
    rows = [row for _, row in islice(_rows(str(path), tables), count)]
    return [{field: named(value, names.get(field, ())) for field, value in row.items()} for row in rows]


def object_rows(path: str | Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Number, from 1, and fields of every row; raises what `read_arrow` does."""
    return _rows(str(path), list(_tables(Path(path))))


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
