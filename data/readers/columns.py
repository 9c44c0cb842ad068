"""What the columns of a stranger's table hold, or the fields of its objects: by name, else by how much they vary."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from ... import DataError
from ...untrusted import quoted
from .reader import Head

_LABEL_NAMES = (
    *("label", "labels", "class", "category", "intent", "sentiment"),
    *("stars", "star_rating", "rating", "overall", "score", "target", "y"),
)
_TEXT_NAMES = (
    *("text", "sentence", "review", "utterance", "content", "body", "sentence1", "text_a", "premise", "question"),
)
_PAIR_NAMES = ("pair", "sentence2", "text_b", "text2", "hypothesis", "second")
_NO_LABELS = (
    *("id", "guid", "index", "idx", "answer", "split", "fold", "date", "time", "timestamp", "created_at", "updated_at"),
    *("meta", "language", "lang", "annotator", "url", "file", "source"),
)
"""Names of columns that are no label and no text, however few values they have."""
_VERDICTS = {"accept", "reject", "ignore"}
MANY = 10
"""Different labels, up to which it does not matter how few rows have each."""


def few_kinds(values: Sequence[str]) -> bool:
    """Whether values may be labels, by how few they are."""
    kinds = len(set(values))
    return kinds <= MANY or 3 * kinds <= len(values)


def find_columns(
    head: Head, names: Sequence[str], values: Mapping[str, Sequence[str]]
) -> tuple[dict[str, Any], str | None]:
    """The options that say which columns hold the label, the text and the second text; and the task.

    Raises:
        DataError: the only labels to be seen are what an annotator said of the row, or nearly every row has its own.
    """
    sure = head.label if head.label in names else None
    label = sure or next((n for n in names if n.lower() in _LABEL_NAMES), None)
    rest = [n for n in names if n != label and n.lower() not in _NO_LABELS and not n.startswith("_")]
    if label is None and len(rest) > 1:
        varied = [n for n in rest if len(set(values[n])) > 1]
        rare = min(varied, key=lambda n: len(set(values[n])), default=None)
        if rare is not None and len(set(values[rare])) * 3 <= len(values[rare]):
            label = rare
            rest = [n for n in rest if n != rare]
    if label is not None and sure is None:
        _doubt(head.path, label, values[label])
    pair = next((n for n in rest if n.lower() in _PAIR_NAMES), None)
    rest = [n for n in rest if n != pair]
    if not rest:
        return {}, None
    longest = max(rest, key=lambda n: sum(map(len, values[n])))
    text = next((n for n in rest if n.lower() in _TEXT_NAMES), longest)
    if label is not None and _one_word_a_row(values, text):
        what = f"{text!r} has one word in a row, and O is the commonest value of another column, as with tags of words"
        fix = "write the words and their tags (B-PER, I-PER, O) as a column file (.conll)"
        raise DataError(f"{head.path}: {what}; {fix}")
    columns = {"text": text} | ({"label": label} if label else {}) | ({"pair": pair} if pair else {})
    return changed(columns), "classification" if label else None


def _one_word_a_row(values: Mapping[str, Sequence[str]], text: str) -> bool:
    """Whether a table has words as its texts and, beside them, tags."""
    words, count = sum(len(value.split()) == 1 for value in values[text]), len(values[text])
    outside = any("O" in dict(Counter(column).most_common(1)) for column in values.values())
    return outside and 100 * words >= 99 * count


def _doubt(path: Any, name: str, labels: Sequence[str]) -> None:
    """Refuses labels that a person should look at first."""
    kinds, word = sorted(set(labels)), f"if it is right, give --label-column {name}"
    if set(kinds) <= _VERDICTS:
        what = f"the labels of {name!r} are {', '.join(kinds)}, which says what an annotator thought of a row"
        raise DataError(f"{path}: {what}; give a file whose labels are those of the task, or, {word}")
    if not few_kinds(labels):
        what = f"{name!r} has {len(kinds):,} values in {len(labels):,} rows, such as {quoted(kinds[0])}"
        raise DataError(f"{path}: {what}: these do not look like labels; name the right column, or, {word}")


def changed(options: dict[str, Any]) -> dict[str, Any]:
    """Only what is not the reader's default, under which a key has its own name."""
    return {key: name for key, name in options.items() if key != name}
