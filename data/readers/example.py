"""One labelled or unlabelled example, as the readers deliver it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

OUTSIDE = "O"
"""Tag of a word that is no part of an entity."""


@dataclass(frozen=True, slots=True)
class Example:
    """A sentence, a sentence pair or a list of words, with its labels where they are known.

    Exactly one of `words` (tagging) and `text` (classification, plain text) is set. The strings are those of the
    file: no Unicode normalisation is applied, since the tokenizer of the checkpoint brings its own.

    Attributes:
        id: stable name of the example: the file's own id column, else `<file stem>:<line>`.
        language: language code, `""` where none was given.
        words: the words of a tagged sentence.
        text: the text, or the first text of a pair.
        pair: the second text of a pair.
        labels: one tag per word, or the class; None where the example has no label.
        file: path of the file it came from, as it was given to the reader.
        line: line of the file on which the example starts, counted from 1.
    """

    id: str
    language: str
    words: tuple[str, ...] | None
    text: str | None
    pair: str | None
    labels: tuple[str, ...] | str | None
    file: str
    line: int

    @property
    def plain(self) -> str:
        """The words with spaces between them, or the text without the second one of a pair."""
        return str(self.text) if self.words is None else " ".join(self.words)

    @property
    def tags(self) -> tuple[str, ...]:
        """The tag of each word, or the one class; empty without labels."""
        return (self.labels,) if isinstance(self.labels, str) else self.labels or ()


class Examples(list[Example]):
    """What a reader returns: the examples, and how many rows it skipped or changed.

    Attributes:
        counts: of `blank` lines, `docstart` lines, `comment` lines, tags `repaired`, rows `dropped` by a label map,
            `nested` (1 where a column of inner entities was left out); only what occurred.
    """

    def __init__(self, examples: Iterable[Example] = (), counts: Mapping[str, int] | None = None) -> None:
        super().__init__(examples)
        self.counts = {name: count for name, count in (counts or {}).items() if count}
