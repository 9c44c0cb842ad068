"""A recipe's files as examples: whole, or an example at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ...data import OUTSIDE, Example, ReaderOptions, guess_format, read_examples, reader_options
from ...data.readers.formats import MULTILINGUAL, open_reader
from ...data.readers.plain import word_pattern
from ...data.readers.problems import naming
from ...data.store.seen import text_key
from ...tasks import has_spans, per_word
from ..recipe.config import FileReader, RunConfig, reader_of


def read_file(
    config: RunConfig, path: Path, *, unlabelled: bool = False, task: str | None = None, language: str = ""
) -> list[Example]:
    """The examples of a recipe's file, read as `reader_of` says.

    With `unlabelled`, labels are dropped; for NER plain text is split into words. With `task` "text" everything
    becomes plain text. `language` is the one to read where a file of XNLI or MARC has several.
    """
    task = task or config.task
    reader = reader_of(config, path, language, unlabelled=unlabelled)
    settings, encoding = reader.settings, reader.encoding
    options = {key: value for key, value in vars(settings).items() if not key.endswith(("encoding", "format"))}
    if reader.unlabelled:
        # A target's labels must decide nothing, not even which rows a label map drops.
        options |= {"label": None, "cut_spans": "drop"}
    options |= {
        "pair": settings.pair or None,
        "label_map": {old: new or None for old, new in settings.label_map.items()} or None,
        "require_labels": not unlabelled,
        "split_words": per_word(task) and settings.split == "punctuation",
    }
    with naming(reader.setting):
        kind = file_format(config, path, reader)
        options |= {"language": language} if kind in MULTILINGUAL else {}
        taken = {name: options[name] for name in reader_options(kind) if name in options}
        examples = read_examples(path, task=config.task, format=kind, encoding=encoding, **taken)
    return [_unlabelled(e, task, settings.split) for e in examples] if unlabelled else examples


STREAMED = ("text", "jsonl")
"""Formats of which `stream_file` holds an example at a time."""


def stream_file(
    config: RunConfig,
    path: Path,
    *,
    task: str | None = None,
    language: str = "",
    note: Callable[[str], None] = lambda text: None,
) -> Iterator[Example]:
    """As `read_file` of unlabelled text, an example at a time where the format is one of `STREAMED`."""
    task, reader, refused = task or config.task, reader_of(config, path, language, unlabelled=True), Counter[str]()
    settings, encoding = reader.settings, reader.encoding
    with naming(reader.setting):
        kind = file_format(config, path, reader)
        examples: Iterable[Example]
        if kind in STREAMED:
            cut, pair = per_word(task) and settings.split == "punctuation", settings.pair or None
            fields: dict[str, Any] = {"text": settings.text, "pair": pair, "words": settings.words}
            unread = ReaderOptions(encoding=encoding, split_words=cut, label=None, tags=None, **fields)
            examples = open_reader(path, kind, unread).stream()
        else:
            examples = read_file(config, path, unlabelled=True, task=task, language=language)
        if settings.check_language:
            from ...data.corpus.language_id import of_language

            examples = of_language(examples, language, refused)
        yield from (_unlabelled(example, task, settings.split) for example in examples)
    if refused:
        found = ", ".join(f"{count:,} {code}" for code, count in refused.most_common(5))
        note(f"{path.name}: {refused.total():,} texts of other languages than {language} left out ({found})")


def file_format(config: RunConfig, path: Path, reader: FileReader) -> str:
    """The format that a recipe's file is read in; "auto" goes by its name and its first lines."""
    if reader.format != "auto":
        return reader.format
    return guess_format(path, task=config.task, encoding=reader.encoding)


def _unlabelled(example: Example, task: str, split: str) -> Example:
    words = example.words
    if per_word(task) and words is None:
        words = tuple(word_pattern(split).findall(str(example.text)))
    return replace(example, labels=None, words=words, text=None if words is not None else example.text)


def label_set(examples: Iterable[Example], task: str) -> tuple[str, ...]:
    """All labels in a fixed order. For NER: `O`, then B- and I- of each type, whether or not both occur."""
    if not has_spans(task):
        return tuple(sorted({tag for e in examples for tag in (e.tags if per_word(task) else (str(e.labels),))}))
    types = sorted({tag[2:] for e in examples for tag in (e.labels or ()) if tag != OUTSIDE})
    return (OUTSIDE, *(f"{prefix}-{name}" for name in types for prefix in "BI"))


def differ_by_case(labels: Iterable[str]) -> list[str]:
    """The labels that are another one but for upper and lower case, beside each other."""
    folded = sorted(labels, key=lambda label: (label.casefold(), label))
    many = Counter(map(str.casefold, folded))
    return [label for label in folded if many[label.casefold()] > 1]


def first_of_each(examples: Sequence[Example]) -> np.ndarray:
    """Positions of the examples with texts that no earlier one of the language has: task text has repeats.

    White space does not count, so that BTF and self-training, which reads words, take the same text for a repeat.
    """
    first: dict[tuple[str, str, str], int] = {}
    for position, example in enumerate(examples):
        first.setdefault(text_key(example), position)
    return np.array(list(first.values()), dtype=np.int64)
