"""The text that a vocabulary is for, and the pieces that a tokenizer makes of its words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

from ... import ConfigError
from ...data import Example, Tokenizer, guess_format, read_examples, reader_options, rng_for
from ...data.readers.plain import words_of
from ..reading.read_file import read_file
from ..recipe.config.files import LABELLED, recipe_files
from ..recipe.load import load_recipe
from ..runs.synthetic_data import settled

_RECIPE = "config.toml"


def read_texts(files: Sequence[str | Path], encoding: str = "utf-8", text: str = "text") -> list[Example]:
    """The examples of all files; labels of tables are not read.

    Args:
        files: plain text, columns, tables or JSON lines, by their names or, for columns, their first lines.
        text: table or JSON lines: column of the text.

    Raises:
        DataError: a file is missing or wrong.
    """
    examples: list[Example] = []
    for file in files:
        kind = guess_format(file, task="ner", encoding=encoding)  # columns are known by their tags, too
        values: dict[str, Any] = {"text": text, "label": None}
        options = {name: values[name] for name in reader_options(kind) if name in values}
        examples += read_examples(file, task="text", format=kind, encoding=encoding, **options)
    return examples


def run_of(stage: Path) -> Path | None:
    """The folder of the run that a stage's folder lies in; None where it lies in none."""
    return next((p for p in stage.resolve().parents if (p / _RECIPE).is_file()), None)


def run_texts(stage: Path, roles: Sequence[str] = (*LABELLED, "unlabelled")) -> Iterator[Example]:
    """The examples of the run that a stage's folder lies in: of files in these roles, with their languages.

    Uncut, each file once for each language that it is read for.

    Raises:
        ConfigError: the folder lies in no run.
        DataError: a file is gone or wrong.
    """
    root = run_of(stage)
    if root is None:
        raise ConfigError(f"{stage}: lies in no run folder; say with --text what to read")
    config = settled(load_recipe(root / _RECIPE).config, root)
    files = [f for f in recipe_files(config) if f.role in roles]
    for path, language, labelled in dict.fromkeys((f.path, f.language, f.labelled) for f in files):
        for example in read_file(config, path, unlabelled=not labelled, language=language):
            yield replace(example, language=language)


_CHUNK = 2000


def word_pieces(examples: Sequence[Example], tokenizer: Tokenizer, most: int, seed: int) -> tuple[float, float]:
    """Of the first `most` words with a letter, of the examples in a seeded order: pieces a word, and the unknown share.

    Raises:
        ModelError: the tokenizer does not mark the start of a word.
    """
    order = rng_for(seed, "words").permutation(len(examples))
    words = list(islice((word for i in order for word in _words(examples[i])), most))
    pieces = unknown = 0
    for a in range(0, len(words), _CHUNK):
        (encoded,) = tokenizer.encode_words([words[a : a + _CHUNK]])
        for start, end in pairwise([*encoded.positions, len(encoded.ids) - 1]):
            pieces += end - start
            unknown += tokenizer.unk_id in encoded.ids[start:end]
    return pieces / max(1, len(words)), unknown / max(1, len(words))


def _words(example: Example) -> Iterator[str]:
    words = example.words if example.words is not None else words_of(f"{example.text or ''} {example.pair or ''}")
    return (word for word in words if any(map(str.isalpha, word)))
