"""MARC, the Multilingual Amazon Reviews Corpus (Keung et al. 2020), as it is published: JSON lines, or CSV."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from .example import Examples
from .lines import plain_suffix
from .readers_table import read_jsonl, read_tsv

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

    Args:
        path: `.xz` and `.gz` are unpacked.
        language: the reviews to read, by the field `language`, all of them with ""; written into the examples.
        encoding: of the file.
        label: None leaves the stars out, so that they decide nothing.
        labels: the classes that may occur, after `label_map`.
        label_map: new class for each number of stars; None drops the review, counted as `dropped`.
        require_labels: refuse a review without stars.

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
