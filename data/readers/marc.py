"""MARC, the Multilingual Amazon Reviews Corpus (Keung et al. 2020), as it is published: JSON lines, or CSV."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from .example import Examples
from .jsonl import read_jsonl
from .lines import plain_suffix
from .table import read_tsv

TEXT, STARS, LANGUAGE = "review_body", "stars", "language"


def read_marc(
    path: str | Path,
    *,
    language: str = "",
    encoding: str = "utf-8",
    label: str | None = "label",
    labels: Sequence[str] | None = None,
    label_map: Mapping[str, str | None] | None = None,
    require_labels: bool = False,
) -> Examples:
    """The reviews of `dataset_de_train.json` (an object a line), or of `train.csv`, which holds all languages.

    `review_body` is the text and `stars` the label, "1" to "5".

    The arguments are those of `read_webis_cls`, but only the reviews of `language` are read, by their field of that
    name, or all of them with "".

    Raises:
        ConfigError: unknown encoding.
        DataError: no review of the language; or faulty ones, the first 20 listed by line.
    """
    read = read_tsv if plain_suffix(path) == ".csv" else read_jsonl
    return read(
        path,
        language=language,
        encoding=encoding,
        text=TEXT,
        label=STARS if label is not None else None,
        language_field=LANGUAGE if language else None,
        labels=labels,
        label_map=label_map,
        require_labels=require_labels,
    )
