"""The text that a vocabulary is for, and how much of its words and pieces another one has, at equal size."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

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
_Name = TypeVar("_Name", str, int)


@dataclass(frozen=True)
class Words:
    """The words of a text, each with at least one letter, and their pieces; counts are of tokens.

    Attributes:
        unknown: share of the words with an unknown piece.
        fertility: pieces for each word.
    """

    words: Counter[str]
    pieces: Counter[int]
    unknown: float
    fertility: float


@dataclass(frozen=True)
class Overlap:
    """Shares of the target's words and pieces that a candidate's text has: of the different ones, and of all."""

    word_types: float
    word_tokens: float
    piece_types: float
    piece_tokens: float


def words_in(examples: Iterable[Example]) -> int:
    """Number of words with a letter."""
    return sum(1 for example in examples for _ in _words(example))


def count_words(examples: Sequence[Example], tokenizer: Tokenizer, most: int, seed: int, language: str) -> Words:
    """The first `most` words of the examples in a seeded order, and the pieces that a tokenizer makes of them.

    Raises:
        ModelError: the tokenizer does not mark the start of a word.
    """
    counts: Counter[str] = Counter()
    left = most
    for i in rng_for(seed, "overlap", language).permutation(len(examples)):
        taken = list(_words(examples[i]))[:left]
        counts.update(taken)
        left -= len(taken)
        if not left:
            break
    pieces: Counter[int] = Counter()
    unknown = 0
    for word, ids in _pieces(list(counts), tokenizer):
        for piece in ids:
            pieces[piece] += counts[word]
        unknown += counts[word] * (tokenizer.unk_id in ids)
    total = max(1, counts.total())
    fertility = pieces.total() / total
    for special in tokenizer.special_ids:
        pieces.pop(special, None)
    return Words(counts, pieces, unknown / total, fertility)


def overlap(target: Words, candidate: Words) -> Overlap:
    """How much of the target the candidate covers."""
    return Overlap(*_covered(target.words, candidate.words), *_covered(target.pieces, candidate.pieces))


def _covered(target: Counter[_Name], other: Counter[_Name]) -> tuple[float, float]:
    shared = [name for name in target if name in other]
    return len(shared) / max(1, len(target)), sum(target[name] for name in shared) / max(1, target.total())


def _words(example: Example) -> Iterable[str]:
    words = example.words if example.words is not None else words_of(f"{example.text or ''} {example.pair or ''}")
    return (word for word in words if any(map(str.isalpha, word)))


def _pieces(words: list[str], tokenizer: Tokenizer) -> Iterable[tuple[str, list[int]]]:
    """The ids of each word by itself; a word without one is left out."""
    for a in range(0, len(words), _CHUNK):
        chunk = words[a : a + _CHUNK]
        (encoded,) = tokenizer.encode_words([chunk])
        ends = [*encoded.positions[1:], len(encoded.ids) - 1]
        for index, start, end in zip(encoded.words, encoded.positions, ends, strict=True):
            yield chunk[index], encoded.ids[start:end]
