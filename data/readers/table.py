"""Tables with one example a row: TSV and CSV, and what a stranger's columns hold."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

from ... import DataError
from ...untrusted import listed, quoted
from .lines import LONGEST_LINE, plain_suffix
from .problems import Problems, setting
from .reader import NO_WORDS, PREDICTED, Found, Head, Labelled, Lines, Piece, Reader, Record

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


_Cells = list[str]
DELIMITERS = (",", ";", "\t", "|")
"""What stands between the columns of CSV files."""
LONGEST_NAME = 60
"""Characters of a column's name."""
csv.field_size_limit(LONGEST_LINE)  # of the module, for the whole process; its own is 131,072 characters


class TableReader(Reader):
    """Texts or pairs of a table.

    In TSV a quote is a character like any other and a row is a line. A file whose name ends in `.csv` has CSV quoting,
    in which a quoted field may hold line breaks. Labels have no white space around them. Where the file has no column
    of the labels the examples have none.
    """

    takes = (
        *("language", "encoding", "text", "label", "pair", "id", "language_field", "delimiter", "quoting", "header"),
        *("labels", "label_map", "require_labels"),
    )
    delimiter = ""

    def pieces(self) -> Iterator[Piece]:
        options = self.options
        if plain_suffix(self.path) == ".csv" if options.quoting is None else options.quoting:
            self.delimiter = options.delimiter
        number, first, rows = open_table(self.path, self.lines(), self.delimiter, options.header, self.problems)
        columns = self._columns(f"{self.path}:{number}", first)
        if options.header:
            yield number, [*first, *PREDICTED], None
        for number, cells in rows:
            if not any(cells):
                self.counts["blank"] += 1
                yield number, [], None
            elif len(cells) != len(first):
                what = f"{len(cells)} columns, but the {'header' if options.header else 'first row'} has {len(first)}"
                self.problems.add(f"{self.path}:{number}", what, "give every row the same columns")
            elif self.task and not all(cells[column].strip() for column in columns.values()):
                self.counts["without_text"] += 1
                yield number, [*cells, "", ""], None
            else:
                example = self.row(number, {role: cells[column] for role, column in columns.items()})
                yield number, cells, example

    def _columns(self, place: str, header: _Cells) -> dict[str, int]:
        """Column number of each role that the file has."""
        options = self.options
        names = {"text": options.text, "label": options.label, "pair": options.pair}
        names |= {"id": options.id, "language": options.language_field}
        if self.task:
            names = {role: names[role] for role in ("text", "pair")}
        for twice in sorted(column for column, count in Counter(header).items() if count > 1):
            if not self.task or twice in names.values():
                self.problems.add(place, f"column {quoted(twice)} occurs twice", "rename one of them")
        columns = {}
        for role, name in names.items():
            if name is None:
                continue
            if name in header:
                columns[role] = header.index(name)
            elif role != "label" or options.require_labels:
                what = f"no column {name!r} for {role}; the columns are {listed(header, quoted) or 'none'}"
                own = role in ("text", "label", "pair")
                self.problems.add(place, what, f"name it with reader.{role}" if own else "name the right column")
        if self.task:
            self.refuse_taken(place, "column", [name for name in PREDICTED if name in header])
        self.problems.raise_if_any()
        return columns

    def write(self, record: Record, labelled: Labelled | None) -> str:
        """The row with two more columns; an empty one stays empty."""
        cells = record.raw
        if labelled is not None:
            ((_, *more),) = labelled.cells()
            cells = [*cells, *more]
        if not self.delimiter or not cells:
            return "\t".join(cells) + "\n"
        buffer = io.StringIO()
        csv.writer(buffer, delimiter=self.delimiter).writerow(cells)
        return buffer.getvalue().removesuffix("\r\n") + "\n"

    @classmethod
    def probe(cls, head: Head) -> Found | None:
        """By its name, or every line has as many tabs; what its columns hold.

        Raises:
            DataError: the row that should name the columns looks like all the others.
        """
        path, suffix = head.path, plain_suffix(head.path)
        lines = [line for line in head.filled if not line.startswith(NO_WORDS)][:50]
        tabs = {line.count("\t") for line in lines}
        if suffix not in (".tsv", ".csv") and not (len(tabs) == 1 and tabs != {0} and len(lines) > 1):
            return None
        usual = "," if suffix == ".csv" else "\t"
        delimiter = find_delimiter([*head.lines], usual)
        format = "tsv" if usual == delimiter == "\t" else "csv"
        rows = _first_rows(head, delimiter) if format == "csv" else [line.split("\t") for line in head.lines]
        names = rows[0] if head.header else [str(i) for i in range(len(rows[0]))]
        body = [row for row in rows[1 if head.header else 0 :] if len(row) == len(names)]
        if not body:
            what = f"no row has the {len(names)} columns of the first one"
            raise DataError(f"{path}:1: {what}; give all rows the same columns, and close every quote")
        values = {name: [row[i] for row in body] for i, name in enumerate(names)}
        odd = [name for name in names if name in values[name] or len(name) > LONGEST_NAME] if head.header else []
        if odd:
            raise DataError(
                f"{path}:1: the first row looks like data, not like names of columns ({quoted(odd[0])}); add a row of "
                "names, or give --no-header"
            )
        options, task = find_columns(head, names, values)
        options = options if head.header else {"header": False, **options}
        options |= {"delimiter": delimiter} if format == "csv" and delimiter != "," else {}
        return Found(format, options, task)


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


def _first_rows(head: Head, delimiter: str) -> list[_Cells]:
    """The rows of the first lines of a CSV file; the last one may be cut off in the middle of a quoted field."""
    reader = csv.reader(head.lines, delimiter=delimiter)
    try:
        return list(reader)
    except csv.Error as error:
        at, fix = f"{head.path}:{reader.line_num}", "quote the field and double the quotes inside it"
        raise DataError(f"{at}: malformed CSV: {error}; {fix}") from error


def open_table(
    name: str, lines: Lines, delimiter: str, header: bool, problems: Problems
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


def _csv_rows(path: str, lines: Lines, delimiter: str, problems: Problems) -> Iterator[tuple[int, _Cells]]:
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
