"""What a file looks like: encoding, format, columns, task. For `init` only: a run goes by its recipe."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from ... import DataError
from ...data import Example, guess_format, read_examples, reader_options
from ...data.readers.arrow import first_rows
from ...data.readers.conll import CONLLU, is_beside, outer_column
from ...data.readers.encodings import MIXED, WrongEncoding
from ...data.readers.jsonl import class_names, json_lines
from ...data.readers.lines import plain_suffix, read_lines
from ...data.readers.problems import Problems
from ...data.readers.spans import text_objects
from ...data.readers.table import DELIMITERS, num_columns
from ...untrusted import quoted

LINES = 2000
"""Lines that are looked at for the format."""

_PLAIN_TAGS = ("upos", "pos_tags", "pos", "tags", "labels", "xpos")
"""Names of fields whose strings are a tag for each word, whatever they are."""
_TAG = re.compile(r"O|[A-Z]-\S+")
_LABEL_NAMES = (
    *("label", "labels", "class", "category", "intent", "sentiment"),
    *("stars", "star_rating", "rating", "overall", "score", "target", "y"),
)
_TEXT_NAMES = (
    "text",
    "sentence",
    "review",
    "utterance",
    "content",
    "body",
    "sentence1",
    "text_a",
    "premise",
    "question",
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
LONGEST_NAME = 60
"""Characters of a column's name."""


@dataclass(frozen=True)
class FileFacts:
    """What one file is.

    Attributes:
        format: "conll", "conllu", "tsv", "csv", "jsonl", "spans", "arrow" or "text".
        encoding: of the whole file; "ascii" where most others read it alike.
        options: keys of the `reader` table that it needs, where they differ from the defaults.
        task: "ner", "tag" or "classification"; None where the file has no labels.
        lines: the first lines.
        note: what a person should know of the way it is read.
    """

    path: Path
    format: str
    encoding: str
    options: dict[str, Any] = field(default_factory=dict)
    task: str | None = None
    lines: tuple[str, ...] = ()
    note: str = ""


def sniff(path: Path, header: bool = True, label: str = "", encoding: str = "") -> FileFacts:
    """Looks at a file.

    Args:
        header: whether tables begin with the names of their columns.
        label: the column or field of the labels, where the file has one of this name; found where empty.
        encoding: of the file, where it is not UTF-8; found where empty.

    Raises:
        WrongEncoding: it is in no encoding that can be told, or in two, or a few of its lines are damaged.
        DataError: it cannot be read.
    """
    if guess_format(path, task="text") == "arrow":
        return FileFacts(path, "arrow", "ascii", *_fields(path, first_rows(path, 200), label))
    if plain_suffix(path) == ".spacy":
        texts = [str(row["text"]) for _, row in text_objects(str(path), "utf-8", "text", Problems())]
        return FileFacts(path, "spans", "ascii", task="ner", lines=tuple(texts[:LINES]))
    encoding, text = _decode(path, encoding)
    lines = text[:LINES]
    filled = [line for line in lines if line.strip()]
    if not filled:
        raise DataError(f"{path}: the file is empty; give one with text")
    kind = _format(path, filled)
    options: dict[str, Any] = {}
    task, note = None, ""
    if kind == "conll":
        options, task, note = _columns(path, [line for line in filled if not line.startswith(("-DOCSTART-", "#"))])
    elif kind == "conllu":
        options, task = _of_conllu(filled)
    elif kind == "spans":
        task = "ner"
    elif kind == "jsonl":
        objects = islice(json_lines(str(path), enumerate(filled, 1), Problems()), 200)
        options, task = _fields(path, [row for _, line in objects if (row := _object(line))], label)
    elif kind == "webis-cls":
        task = "classification"
    elif kind in ("tsv", "csv"):
        delimiter = find_delimiter(lines, "," if kind == "csv" else "\t")
        kind = "tsv" if (kind, delimiter) == ("tsv", "\t") else "csv"
        rows = _records(path, lines, delimiter) if kind == "csv" else [line.split("\t") for line in lines]
        options, task = _header(path, rows, header, label)
        options |= {"delimiter": delimiter} if (kind, delimiter) not in (("tsv", "\t"), ("csv", ",")) else {}
    return FileFacts(path, kind, encoding, options, task, tuple(lines), note)


def read_sample(facts: FileFacts, task: str, options: Mapping[str, Any]) -> list[Example]:
    """All examples of a file, read as the run will read it.

    Raises:
        DataError: what is wrong with it.
    """
    chosen = {name: options[name] for name in reader_options(facts.format) if name in options}
    encoding = "utf-8" if facts.encoding == "ascii" else facts.encoding
    return read_examples(facts.path, task=task, format=facts.format, encoding=encoding, **chosen)


def pretokenised(lines: Sequence[str]) -> bool:
    """Whether text has spaces before its punctuation, so that white space alone gives the words."""
    marked = [line for line in lines if re.search(r"[.,;:!?](\s|$)", line)]
    apart = [line for line in marked if re.search(r"\s[.,;:!?](\s|$)", line) and not re.search(r"\w[,;](\s|$)", line)]
    return len(apart) * 2 > len(marked)


def _decode(path: Path, said: str) -> tuple[str, list[str]]:
    """The encoding and the lines of a whole file."""
    encoding, problems = "utf-8", Problems()
    try:
        lines = [line for _, line in read_lines(path, encoding, problems)]
    except WrongEncoding as error:
        if error.likely in ("", "ascii", encoding, MIXED) and not said:
            raise
        encoding = said or error.likely
        lines = [line for _, line in read_lines(path, encoding, problems)]
    problems.raise_if_any()
    return "ascii" if all(map(str.isascii, lines)) else encoding, lines


def _format(path: Path, lines: Sequence[str]) -> str:
    suffix = plain_suffix(path)
    if suffix in (".review", ".tsv") and (kind := guess_format(path, task="ner")) != "tsv":
        return kind
    if suffix in (".jsonl", ".ndjson", ".json", ".ann") or _object(lines[0]) is not None:
        return "spans" if guess_format(path, task="ner") == "spans" else "jsonl"
    first = [line for line in lines if not line.startswith(("-DOCSTART-", "#"))][:50]
    tagged = [any(_TAG.fullmatch(cell) for cell in line.split()[1:]) and len(line.split()) < 12 for line in first]
    if tagged and sum(tagged) * 10 >= len(tagged) * 9:
        return "conll"
    words = [line for line in lines if not is_beside(line)]
    if suffix == ".conllu" or (words and all(re.match(rf"\d+(\t[^\t]+){{{len(CONLLU) - 1}}}$", w) for w in words)):
        return "conllu"
    if suffix in (".conll", ".iob", ".iob2", ".bio"):
        return "conll"
    if suffix in (".tsv", ".csv"):
        return suffix[1:]
    tabs = {line.count("\t") for line in first}
    return "tsv" if len(tabs) == 1 and tabs != {0} and len(first) > 1 else "text"


def _columns(path: Path, lines: Sequence[str]) -> tuple[dict[str, Any], str | None, str]:
    """Token and tag column of a column file, and what is to be said of them."""
    rows = [line.split("\t") if "\t" in line else line.split() for line in lines]
    width = len(rows[0])
    rows = [row for row in rows if len(row) == width]
    options: dict[str, Any] = {}
    if width == 1:
        return options, None, ""
    tags = [i for i in range(width) if all(_TAG.fullmatch(row[i].strip()) for row in rows)]
    chosen, note = width + outer_column(lines) if width - 1 in tags else tags[-1] if tags else width - 1, ""
    if chosen != width - 1:
        options["label_column"] = chosen
    if chosen in tags[:-1]:
        note = (
            f"{path}: tags in columns {chosen} and {tags[-1]}, from 0: those of the outer entities, {chosen}, are read"
        )
        note += "; reader.label_column chooses"
    if width > 2 and all(row[0].strip().isdigit() for row in rows):
        options["token_column"] = 1
    if not any(_TAG.fullmatch(cell) for row in rows for cell in row[1:]):
        plain = [i for i in range(1, width) if i != options.get("token_column") and _few([row[i] for row in rows])]
        if plain:
            return options | ({} if plain[-1] == width - 1 else {"label_column": plain[-1]}), "tag", ""
    # Without tags the reader's message says which line is not one.
    return options, "ner", note


def _of_conllu(lines: Sequence[str]) -> tuple[dict[str, Any], str | None]:
    """The first column of tags that is not empty."""
    rows = [line.split("\t") for line in lines if not is_beside(line)]
    for name in ("upos", "xpos"):
        if any(row[CONLLU.index(name) :][:1] not in (["_"], []) for row in rows):
            return {} if name == "upos" else {"tags": name}, "tag"
    return {}, None


def _few(values: Sequence[str]) -> bool:
    """Whether values may be labels, by how few they are."""
    kinds = len(set(values))
    return kinds <= MANY or 3 * kinds <= len(values)


def _fields(path: Path, rows: Sequence[Mapping[str, Any]], label: str) -> tuple[dict[str, Any], str | None]:
    """Names of the fields of objects."""
    if not rows:
        raise DataError(f"{path}:1: not a JSON object; write one object a line")
    lists = [k for k, v in rows[0].items() if isinstance(v, list) and v]
    words = [k for k in lists if all(isinstance(x, str) for x in rows[0][k])]
    tags = [k for k in words if all(_TAG.fullmatch(str(x)) for row in rows for x in row.get(k) or ())]
    tags += [k for k in lists if all(type(x) is int for x in rows[0][k])]
    words = [k for k in words if k not in tags]
    plain = _plain_tags(path, rows, lists)
    if plain and set(tags) <= set(plain) and (others := [k for k in words if k not in plain]):
        return _changed({"words": _prefer(others, ("words", "tokens")), "tags": _prefer(plain, _PLAIN_TAGS)}), "tag"
    if words:
        names = {"words": _prefer(words, ("words", "tokens"))}
        names |= {"tags": _prefer(tags, ("tags", "ner_tags", "labels"))} if tags else {}
        return _changed(names), "ner" if tags else None
    strings = [k for k, v in rows[0].items() if isinstance(v, str) or type(v) is int]
    strings += [k for k in rows[0] if k not in strings and all(_is_whole(row.get(k)) for row in rows)]  # 5.0 stars
    return _text_columns(path, strings, {k: [str(row.get(k, "")) for row in rows] for k in strings}, label)


def _is_whole(value: Any) -> bool:
    return value is None or type(value) is int or (isinstance(value, float) and value.is_integer())


def _plain_tags(path: Path, rows: Sequence[Mapping[str, Any]], lists: Sequence[str]) -> list[str]:
    """Fields with a tag for each word that mark no entity: numbers whose names say so, or strings."""
    names, plain = class_names(path.parent), []
    for key in lists:
        values = {value for row in rows for value in row.get(key) or () if isinstance(value, str | int)}
        numbers = bool(names.get(key)) and all(type(value) is int for value in values)
        kinds = names[key] if numbers else values
        strings = key in _PLAIN_TAGS and all(isinstance(value, str) for value in values)
        if (numbers or strings) and not any(_TAG.fullmatch(str(kind)) for kind in kinds):
            plain.append(key)
    return plain


def _object(line: str) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def find_delimiter(lines: Sequence[str], usual: str) -> str:
    """What stands between the columns of a table: that by which most rows are as wide as the first one."""
    best = (0.5, usual)
    for delimiter in sorted(DELIMITERS, key=usual.__ne__):
        try:
            widths = [len(row) for row in csv.reader(lines, delimiter=delimiter) if row]
        except csv.Error:
            continue
        share = widths.count(widths[0]) / len(widths) if num_columns(lines[0], delimiter) > 1 else 0.0
        best = (share, delimiter) if share > best[0] else best
    return best[1]


def _records(path: Path, lines: Sequence[str], delimiter: str) -> list[list[str]]:
    """The rows of the first lines of a CSV file; the last one may be cut off in the middle of a quoted field."""
    reader = csv.reader(lines, delimiter=delimiter)
    try:
        return list(reader)
    except csv.Error as error:
        at, fix = f"{path}:{reader.line_num}", "quote the field and double the quotes inside it"
        raise DataError(f"{at}: malformed CSV: {error}; {fix}") from error


def _header(path: Path, rows: Sequence[Sequence[str]], header: bool, label: str) -> tuple[dict[str, Any], str | None]:
    """Names of the columns of a table.

    Raises:
        DataError: the row that should name the columns looks like all the others.
    """
    names = rows[0] if header else [str(i) for i in range(len(rows[0]))]
    body = [row for row in rows[1 if header else 0 :] if len(row) == len(names)]
    if not body:
        what = f"no row has the {len(names)} columns of the first one"
        raise DataError(f"{path}:1: {what}; give all rows the same columns, and close every quote")
    values = {name: [row[i] for row in body] for i, name in enumerate(names)}
    odd = [name for name in names if name in values[name] or len(name) > LONGEST_NAME] if header else []
    if odd:
        raise DataError(
            f"{path}:1: the first row looks like data, not like names of columns ({quoted(odd[0])}); add a row of "
            "names, or give --no-header"
        )
    options, task = _text_columns(path, names, values, label)
    return options if header else {"header": False, **options}, task


def _text_columns(
    path: Path, names: Sequence[str], values: Mapping[str, Sequence[str]], said: str
) -> tuple[dict[str, Any], str | None]:
    """Which columns hold the label, the text and the second text: by name, else by how much they vary.

    Raises:
        DataError: the only labels to be seen are what an annotator said of the row, or nearly every row has its own.
    """
    sure = said if said in names else None
    label = sure or next((n for n in names if n.lower() in _LABEL_NAMES), None)
    rest = [n for n in names if n != label and n.lower() not in _NO_LABELS and not n.startswith("_")]
    if label is None and len(rest) > 1:
        varied = [n for n in rest if len(set(values[n])) > 1]
        rare = min(varied, key=lambda n: len(set(values[n])), default=None)
        if rare is not None and len(set(values[rare])) * 3 <= len(values[rare]):
            label = rare
            rest = [n for n in rest if n != rare]
    if label is not None and sure is None:
        _doubt(path, label, values[label])
    pair = next((n for n in rest if n.lower() in _PAIR_NAMES), None)
    rest = [n for n in rest if n != pair]
    if not rest:
        return {}, None
    longest = max(rest, key=lambda n: sum(map(len, values[n])))
    text = next((n for n in rest if n.lower() in _TEXT_NAMES), longest)
    if label is not None and _one_word_a_row(values, text):
        what = f"{text!r} has one word in a row, and O is the commonest value of another column, as with tags of words"
        raise DataError(f"{path}: {what}; write the words and their tags (B-PER, I-PER, O) as a column file (.conll)")
    columns = {"text": text} | ({"label": label} if label else {}) | ({"pair": pair} if pair else {})
    return _changed(columns), "classification" if label else None


def _one_word_a_row(values: Mapping[str, Sequence[str]], text: str) -> bool:
    """Whether a table has words as its texts and, beside them, tags."""
    words, count = sum(len(value.split()) == 1 for value in values[text]), len(values[text])
    outside = any("O" in dict(Counter(column).most_common(1)) for column in values.values())
    return outside and 100 * words >= 99 * count


def _doubt(path: Path, name: str, labels: Sequence[str]) -> None:
    """Refuses labels that a person should look at first."""
    kinds, word = sorted(set(labels)), f"if it is right, give --label-column {name}"
    if set(kinds) <= _VERDICTS:
        what = f"the labels of {name!r} are {', '.join(kinds)}, which says what an annotator thought of a row"
        raise DataError(f"{path}: {what}; give a file whose labels are those of the task, or, {word}")
    if not _few(labels):
        what = f"{name!r} has {len(kinds):,} values in {len(labels):,} rows, such as {quoted(kinds[0])}"
        raise DataError(f"{path}: {what}: these do not look like labels; name the right column, or, {word}")


def _prefer(names: Sequence[str], usual: Sequence[str]) -> str:
    return next((name for name in usual if name in names), names[0])


def _changed(options: dict[str, Any]) -> dict[str, Any]:
    """Only what is not the reader's default, under which a key has its own name."""
    return {key: name for key, name in options.items() if key != name}
