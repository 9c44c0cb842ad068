"""Tables with one example a row: TSV and CSV."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path

from ...untrusted import listed, quoted
from .example import Example, Examples
from .lines import LONGEST_LINE, LabelSet, check_label, file_stem, finish, map_label, plain_suffix, read_lines
from .problems import Problems, setting

_Cells = list[str]
DELIMITERS = (",", ";", "\t", "|")
"""What stands between the columns of CSV files."""
csv.field_size_limit(LONGEST_LINE)  # of the module, for the whole process; its own is 131,072 characters


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
    delimiter: str = ",",
    quoting: bool | None = None,
    header: bool = True,
    labels: Sequence[str] | None = None,
    label_map: Mapping[str, str | None] | None = None,
    require_labels: bool = False,
) -> Examples:
    """Texts or pairs of a table.

    In TSV a quote is a character like any other and a row is a line. A file whose name ends in `.csv` has CSV quoting,
    in which a quoted field may hold line breaks. Labels have no white space around them.

    Args:
        text: name of the column with the text.
        label: name of the column with the class; where the file has no such column the examples have no labels.
        pair: name of the column with the second text.
        id: name of a column with unique ids; `<file stem>:<line>` otherwise.
        language_field: name of a column with the language; rows of another than `language` are left out, as `foreign`.
        delimiter: between the columns of CSV; those of TSV have tabs.
        quoting: CSV quoting; by the name of the file where None.
        header: whether the first row names the columns; their names are else their numbers from 0, "0" for the first.
        labels: the classes that may occur, after `label_map`.
        label_map: new class for each class of the file; None drops the row, counted as `dropped`.
        require_labels: refuse a file without the label column.

    Raises:
        ConfigError: unknown encoding.
        DataError: all faults of the file, the first 20 listed by line.
    """
    problems, counts = Problems(), Counter[str]()
    is_csv = plain_suffix(path) == ".csv" if quoting is None else quoting
    lines = read_lines(path, encoding, problems)
    number, first, rows = open_table(str(path), lines, delimiter if is_csv else "", header, problems)
    names = {"text": text, "label": label, "pair": pair, "id": id, "language": language_field}
    columns = _header(f"{path}:{number}", first, names, require_labels, problems)
    maker = RowReader(str(path), language, labels, label_map, problems, counts)
    examples = []
    for number, cells in rows:
        if not any(cells):
            counts["blank"] += 1
        elif len(cells) != len(first):
            what = f"{len(cells)} columns, but the {'header' if header else 'first row'} has {len(first)}"
            problems.add(f"{path}:{number}", what, "give every row the same columns")
        else:
            example = maker.example(number, {role: cells[column] for role, column in columns.items()})
            examples += [example] if example else []
    return finish(path, examples, counts, problems)


def open_table(
    name: str, lines: Iterator[tuple[int, str]], delimiter: str, header: bool, problems: Problems
) -> tuple[int, _Cells, Iterator[tuple[int, _Cells]]]:
    """Line and names of the columns, which are numbers from 0 without a header, and the rows with their lines.

    Args:
        delimiter: of CSV, with its quoting; "" for TSV.

    Raises:
        DataError: the header is one column, and holds another delimiter.
    """
    begin = next(lines, None)
    lines = lines if begin is None else chain([begin], lines)
    widths = {sign: num_columns(begin[1], sign) for sign in DELIMITERS} if begin and header else {}
    other = next((sign for sign, width in widths.items() if width > 1), "")
    if begin and other and widths[delimiter or "\t"] == 1:
        form = "" if delimiter else 'reader.format = "csv" and '
        what = f"one column, {quoted(begin[1])}, in which {quoted(other)} may stand between columns"
        problems.add(f"{name}:{begin[0]}", what, f"set {form}{setting('delimiter', other)} or rename it")
        problems.raise_if_any()
    rows = _csv_rows(name, lines, delimiter, problems) if delimiter else ((n, line.split("\t")) for n, line in lines)
    number, first = next(rows, (1, []))
    if header:
        return number, first, rows
    return number, [str(i) for i in range(len(first))], chain([(number, first)], rows)


def num_columns(line: str, delimiter: str) -> int:
    """Columns of a line of CSV."""
    try:
        return len(next(csv.reader([line], delimiter=delimiter), []))
    except csv.Error:
        return 1


def _csv_rows(
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
            own = role in ("text", "label", "pair")
            problems.add(place, what, f"name it with reader.{role}" if own else "name the right column")
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
        self.path, self.language = path, language
        self.label_map = None if label_map is None else {old.strip(): new for old, new in label_map.items()}
        self.labels = None if labels is None else LabelSet(labels)
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
            label = map_label(place, label.strip(), self.label_map, self.problems)
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
