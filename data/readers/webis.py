"""The reviews of Webis-CLS-10 (Prettenhofer and Stein 2010) as they are published: XML files of product reviews."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from xml.parsers import expat

from ...untrusted import clip
from .example import Example, Examples
from .lines import finish, read_lines
from .problems import Problems
from .table import RowReader

ROOT, ITEM = "items", "item"
TEXT, RATING = "text", "rating"


def read_webis_cls(
    path: str | Path,
    *,
    language: str = "",
    encoding: str = "utf-8",
    label: str | None = "label",
    labels: Sequence[str] | None = None,
    label_map: Mapping[str, str | None] | None = None,
    require_labels: bool = False,
) -> Examples:
    """The reviews of `train.review`, `test.review` or `unlabeled.review`: `<items>` with an `<item>` for each.

    An item's `<text>` is the text and its `<rating>` the label: 1 to 5 stars, `4.0` as `4`. Other fields (headline,
    title, date, reviewer) are ignored, in whichever order they come. Reviews without text are counted as `blank`. The
    file is read as a stream; document type declarations, and with them entities, are refused.

    Args:
        encoding: of the file, whatever its XML declaration says.
        label: None leaves the ratings out, so that they decide nothing.
        labels: the classes that may occur, after `label_map`.
        label_map: new class for each number of stars; None drops the review, counted as `dropped`.
        require_labels: refuse a review without a rating.

    Raises:
        ConfigError: unknown encoding.
        DataError: the file is no such XML; or faulty reviews, the first 20 listed by line.
    """
    problems, counts = Problems(), Counter[str]()
    maker = RowReader(str(path), language, labels, label_map, problems, counts)
    examples: list[Example] = []
    for number, fields in _items(str(path), read_lines(path, encoding, problems), problems):
        cells = {"text": fields.get(TEXT, "")}
        rating = fields.get(RATING, "").strip()
        if not cells["text"].strip():
            counts["blank"] += 1
            continue
        if label is not None and (rating or require_labels):
            cells["label"] = rating.removesuffix(".0")
        example = maker.example(number, cells)
        examples += [example] if example else []
    return finish(path, examples, counts, problems)


def _items(path: str, lines: Iterator[tuple[int, str]], problems: Problems) -> Iterator[tuple[int, dict[str, str]]]:
    """The fields of each item by name, with the line on which it starts."""
    reviews = _Reviews(path, problems)
    for _, line in lines:
        reviews.parse(line + "\n")
        yield from reviews.taken()
    reviews.end()
    yield from reviews.taken()


class _Reviews:
    """Items as they end, from text as it comes. What is no such XML ends the reading, with the faults so far."""

    def __init__(self, path: str, problems: Problems) -> None:
        self._path, self._problems = path, problems
        self._parser = expat.ParserCreate("utf-8")
        self._parser.buffer_text = True
        self._parser.StartDoctypeDeclHandler = self._doctype
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = self._characters
        self._open: list[str] = []
        self._fields: dict[str, list[str]] = {}
        self._line = 0
        self._done: list[tuple[int, dict[str, str]]] = []
        self._held: list[bytes] = []
        self._size = self._fed = self._again = 0

    def parse(self, text: str) -> None:
        """Reads on. The parser begins a tag that is not whole anew, so that text is held back until it is as long."""
        self._held.append(text.encode("utf-8"))
        self._size += len(self._held[-1])
        if self._size >= self._again:
            self._feed()

    def end(self) -> None:
        """Refuses a file that is not whole."""
        self._feed()
        self._parse(b"", True)

    def _feed(self) -> None:
        data, self._held, self._size = b"".join(self._held), [], 0
        self._parse(data)
        self._fed += len(data)
        self._again = self._fed - self._parser.CurrentByteIndex

    def _parse(self, data: bytes, last: bool = False) -> None:
        try:
            self._parser.Parse(data, last)
        except expat.ExpatError as error:
            inside = f" inside <{clip(self._open[-1])}>" if self._open else ""
            what = "it ends" if last and inside else expat.ErrorString(error.code)
            self._refuse(f"{what}{inside}", error.lineno)

    def taken(self) -> list[tuple[int, dict[str, str]]]:
        """The items that have ended since the last call."""
        done, self._done = self._done, []
        return done

    def _refuse(self, what: str, line: int | None = None) -> None:
        place = f"{self._path}:{line or self._parser.CurrentLineNumber}"
        self._problems.add(place, f"is no review file of Webis-CLS-10: {what}", "give the file as it is published")
        self._problems.raise_if_any()

    def _doctype(self, name: str, system: str | None, public: str | None, internal: bool) -> None:
        self._refuse("it has a document type declaration, and entities are not read")

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        depth = len(self._open)
        wanted = (ROOT, ITEM)[depth] if depth < 2 else ""
        if wanted and name != wanted:
            self._refuse(f"<{clip(name)}> where <{wanted}> belongs")
        if depth > 1 and (name in (ROOT, ITEM) or self._open[-1] in (TEXT, RATING)):
            self._refuse(f"<{clip(name)}> inside <{clip(self._open[-1])}>")
        if depth == 1:
            self._fields, self._line = {}, self._parser.CurrentLineNumber
        if depth == 2 and name in (TEXT, RATING):
            if name in self._fields:
                self._refuse(f"an item with two <{name}>")
            self._fields[name] = []
        self._open.append(name)

    def _end(self, name: str) -> None:
        self._open.pop()
        if len(self._open) == 1:
            self._done.append((self._line, {field: "".join(parts) for field, parts in self._fields.items()}))

    def _characters(self, text: str) -> None:
        if len(self._open) == 3 and self._open[-1] in self._fields:
            self._fields[self._open[-1]].append(text)
        elif len(self._open) < 3 and text.strip():
            self._refuse("text outside the fields of an item")
