"""Tables with one example a row: TSV, CSV and JSON lines."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...untrusted import clip, listed, quoted
from .conll import TaggedSentence, resolve_tags
from .example import Example, Examples
from .lines import check_label, file_stem, finish, map_label, plain_suffix, read_lines
from .problems import Problems

_Cells = list[str]


def read_tsv(
    path: str | Path,
    *,
    language: str = "",
    encoding: str = "utf-8",
    text: str = "text",
    label: str | None = "label",
    pair: str | None = None,
    id: str | None = None,
    language_field: str | None = None,
    delimiter: str | None = None,
    quoting: bool | None = None,
    labels: Sequence[str] | None = None,
    label_map: Mapping[str, str | None] | None = None,
    require_labels: bool = False,
) -> Examples:
    """Texts or pairs of a table with a header row.

    In TSV a quote is a character like any other and a row is a line. A file whose name ends in `.csv` has commas and
    CSV quoting, in which a quoted field may hold line breaks.

    Args:
        text: name of the column with the text.
        label: name of the column with the class; where the file has no such column the examples have no labels.
        pair: name of the column with the second text.
        id: name of a column with unique ids; `<file stem>:<line>` otherwise.
        language_field: name of a column with the language; rows of another than `language` are left out, as `foreign`.
        delimiter: between the columns; "," with CSV quoting, else a tab.
        quoting: CSV quoting; by the name of the file where None.
        labels: the classes that may occur, after `label_map`.
        label_map: new class for each class of the file; None drops the row, counted as `dropped`.
        require_labels: refuse a file without the label column.

    Raises:
        ConfigError: unknown encoding.
        DataError: all faults of the file, the first 20 listed by line.
    """
    problems, counts = Problems(), Counter[str]()
    quoted = plain_suffix(path) == ".csv" if quoting is None else quoting
    lines = read_lines(path, encoding, problems)
    separator = delimiter or ("," if quoted else "\t")
    rows = csv_rows(str(path), lines, separator, problems) if quoted else _tsv_rows(lines, separator)
    number, header = next(rows, (1, []))
    names = {"text": text, "label": label, "pair": pair, "id": id, "language": language_field}
    columns = _header(f"{path}:{number}", header, names, require_labels, problems)
    maker = RowReader(str(path), language, labels, label_map, problems, counts)
    examples = []
    for number, cells in rows:
        if not any(cells):
            counts["blank"] += 1
        elif len(cells) != len(header):
            what = f"{len(cells)} columns, but the header has {len(header)}"
            problems.add(f"{path}:{number}", what, "give every row the columns of the header")
        else:
            example = maker.example(number, {role: cells[column] for role, column in columns.items()})
            examples += [example] if example else []
    return finish(path, examples, counts, problems)


def _tsv_rows(lines: Iterator[tuple[int, str]], delimiter: str) -> Iterator[tuple[int, _Cells]]:
    return ((number, line.split(delimiter)) for number, line in lines)


def csv_rows(
    path: str, lines: Iterator[tuple[int, str]], delimiter: str, problems: Problems
) -> Iterator[tuple[int, _Cells]]:
    """Records with the line on which each starts."""
    last = 0

    def text() -> Iterator[str]:
        nonlocal last
        for number, line in lines:
            last = number
            yield line + "\n"

    reader = csv.reader(text(), delimiter=delimiter, strict=True)
    while True:
        start = last + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            problems.add(
                f"{path}:{start}", f"malformed CSV: {error}", "quote the field and double the quotes inside it"
            )
            if last < start:
                return
            continue
        yield start, cells


def _header(
    place: str, header: _Cells, names: Mapping[str, str | None], require_labels: bool, problems: Problems
) -> dict[str, int]:
    """Column number of each role that the file has."""
    for twice in sorted(column for column, count in Counter(header).items() if count > 1):
        problems.add(place, f"column {quoted(twice)} occurs twice", "rename one of them")
    columns = {}
    for role, name in names.items():
        if name is None:
            continue
        if name in header:
            columns[role] = header.index(name)
        elif role != "label" or require_labels:
            what = f"no column {name!r} for {role}; the columns are {listed(header, quoted) or 'none'}"
            problems.add(place, what, f"name the {role} column")
    problems.raise_if_any()
    return columns


class RowReader:
    """Cells by role to examples."""

    def __init__(
        self,
        path: str,
        language: str,
        labels: Sequence[str] | None,
        label_map: Mapping[str, str | None] | None,
        problems: Problems,
        counts: Counter[str],
    ) -> None:
        self.path, self.language, self.label_map = path, language, label_map
        self.labels = None if labels is None else dict.fromkeys(labels)
        self.problems, self.counts = problems, counts
        self.stem = file_stem(path)
        self._ids: dict[str, int] = {}

    def example(self, number: int, cells: Mapping[str, str]) -> Example | None:
        """The example of a row; None where it is faulty, dropped or of another language."""
        place = f"{self.path}:{number}"
        faults = self.problems.count
        if "language" in cells and cells["language"] != self.language:
            self.counts["foreign"] += 1
            return None
        for role in cells:
            if not cells[role].strip():
                self.problems.add(place, f"empty {role}", "fill the field or remove the row")
        if self.problems.count > faults:
            return None
        label = cells.get("label")
        if label is not None:
            label = map_label(place, label, self.label_map, self.problems)
            if label is None:
                self.counts["dropped"] += 1
                return None
            if self.problems.count == faults:
                check_label(place, label, self.labels, self.problems)
        name = self.name(place, number, cells.get("id"))
        return Example(name, self.language, None, cells["text"], cells.get("pair"), label, self.path, number)

    def name(self, place: str, number: int, given: str | None) -> str:
        """The id of a row, checked to be the only one of its kind."""
        if given is None:
            return f"{self.stem}:{number}"
        if given in self._ids:
            what = f"id {quoted(given)} is already on line {self._ids[given]}"
            self.problems.add(place, what, "make the ids unique")
        self._ids.setdefault(given, number)
        return given


def read_jsonl(
    path: str | Path,
    *,
    language: str = "",
    encoding: str = "utf-8",
    text: str = "text",
    label: str | None = "label",
    pair: str | None = None,
    id: str | None = None,
    language_field: str | None = None,
    words: str = "words",
    tags: str = "tags",
    scheme: str = "auto",
    repair: bool = False,
    labels: Sequence[str] | None = None,
    label_map: Mapping[str, str | None] | None = None,
    require_labels: bool = False,
) -> Examples:
    """Examples of a file with one JSON object a line.

    An object with the field `words` is a tagged sentence: lists of strings in `words` and, where labelled, in `tags`;
    schemes as in `read_conll`. Any other has strings in `text` and, where labelled, in `label`. A label that is absent
    or null is unknown, and may be a whole number. Other fields are ignored.

    Args:
        text: name of the field with the text.
        label: name of the field with the class.
        pair: name of the field with the second text.
        id: name of a field with unique ids; `<file stem>:<line>` otherwise.
        language_field: name of a field with the language; rows of another than `language` are left out, as `foreign`.
        words: name of the field with the words.
        tags: name of the field with the tags.
        scheme: of the tags: "auto", "iob1" or "bio".
        repair: read an invalid `I-` of BIO as `B-`; counted as `repaired`.
        labels: the labels that may occur, after conversion.
        label_map: new class for each class of the file; None drops the row, counted as `dropped`.
        require_labels: refuse an example without a label.

    Raises:
        ConfigError: unknown encoding.
        DataError: all faults of the file, the first 20 listed by line.
    """
    problems, counts = Problems(), Counter[str]()
    fields = {"text": text, "label": label, "pair": pair, "id": id, "words": words, "tags": tags}
    fields |= {"language": language_field}
    maker = RowReader(str(path), language, labels, label_map, problems, counts)
    rows: list[Example | tuple[str, TaggedSentence]] = []
    for number, line in read_lines(path, encoding, problems):
        if line.strip():
            row = _json_row(maker, number, line, fields, require_labels)
            rows += [row] if row else []
        else:
            counts["blank"] += 1
    sentences = [row[1] for row in rows if isinstance(row, tuple)]
    counts["repaired"] += resolve_tags(str(path), sentences, scheme=scheme, repair=repair, problems=problems)
    for sentence in sentences:
        for tag in sorted(set(sentence.tags or ())):
            check_label(f"{path}:{sentence.lines[0]}", tag, maker.labels, problems)
    examples = [row[1].example(row[0], language, str(path)) if isinstance(row, tuple) else row for row in rows]
    return finish(path, examples, counts, problems)


def _json_row(
    maker: RowReader, number: int, line: str, fields: Mapping[str, str | None], require_labels: bool
) -> Example | tuple[str, TaggedSentence] | None:
    """The example of a line, or its id and tagged sentence; None where it is faulty or dropped."""
    place, problems = f"{maker.path}:{number}", maker.problems
    row = json_object(place, line, problems)
    if row is None:
        return None
    values = {role: row[name] for role, name in fields.items() if name is not None and row.get(name) is not None}
    if type(values.get("label")) is int:
        values["label"] = str(values["label"])
    wanted = "tags" if "words" in values else "label"
    if require_labels and wanted not in values:
        problems.add(place, f"no field {fields[wanted]!r}", "label the example")
        return None
    if "words" in values:
        sentence = _json_words(place, number, values, problems)
        return (maker.name(place, number, values.get("id")), sentence) if sentence else None
    values.pop("tags", None)
    required = ["text", *(role for role in ("pair", "id", "language") if fields[role] is not None)]
    return maker.example(number, values) if _strings(place, values, required, fields, problems) else None


def json_object(place: str, line: str, problems: Problems) -> dict[str, Any] | None:
    """The object of a line, refused where JSON is lenient: NaN, duplicate keys, lone surrogates."""

    def constant(name: str) -> None:
        raise ValueError(f"{name} is not JSON")

    def unique(items: list[tuple[str, Any]]) -> dict[str, Any]:
        table = dict(items)
        if len(table) < len(items):
            twice = next(key for key, count in Counter(key for key, _ in items).items() if count > 1)
            raise ValueError(f"the key {quoted(twice)} occurs twice")
        return table

    try:
        value = json.loads(line, parse_constant=constant, object_pairs_hook=unique)
        if not isinstance(value, dict):
            raise ValueError(f"a JSON {type(value).__name__}, not an object")
        if "\\u" in line:  # nothing else can hold half a character
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        problems.add(place, "a lone surrogate in a string", "repair the text")
    except (ValueError, RecursionError) as error:
        problems.add(place, f"not a usable JSON object: {clip(str(error))}", "write one object a line")
    else:
        return value
    return None


def _strings(
    place: str,
    values: Mapping[str, Any],
    required: Sequence[str],
    fields: Mapping[str, str | None],
    problems: Problems,
) -> bool:
    """Whether the fields of a row are there and are strings."""
    faults = problems.count
    for role in required:
        if role not in values:
            problems.add(place, f"no field {fields[role]!r} for {role}", "give the field, or name the right one")
    for role, value in values.items():
        if not isinstance(value, str):
            what = f"field {fields[role]!r} holds a {type(value).__name__}, not a string"
            problems.add(place, what, "give a string")
    return problems.count == faults


def _json_words(place: str, number: int, values: Mapping[str, Any], problems: Problems) -> TaggedSentence | None:
    for role in ("words", "tags"):
        value = values.get(role, [])
        if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
            problems.add(place, f"{role} is not a list of non-empty strings", "give a list of strings")
            return None
    words, tags = values["words"], values.get("tags")
    if not words or (tags is not None and len(tags) != len(words)):
        count = "no" if tags is None else str(len(tags))
        problems.add(place, f"{len(words)} words and {count} tags", "give at least one word, and one tag per word")
        return None
    if not isinstance(values.get("id", ""), str):
        problems.add(place, f"id is a {type(values['id']).__name__}, not a string", "give a string")
        return None
    return TaggedSentence(list(words), None if tags is None else list(tags), [number] * len(words))
