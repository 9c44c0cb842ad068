"""Files as data sets are published: Webis-CLS-10 (Prettenhofer and Stein 2010), XNLI (Conneau et al. 2018)."""

from __future__ import annotations

from collections.abc import Iterator
from xml.parsers import expat

from ... import DataError
from ...untrusted import clip, quoted
from .example import Example
from .problems import Problems
from .reader import Piece, Reader

ROOT, ITEM = "items", "item"
TEXT, RATING = "text", "rating"


class WebisReader(Reader):
    """Product reviews in XML, `train.review`, `test.review` or `unlabeled.review`: `<items>` with an `<item>` for each.

    An item's `<text>` is the text and its `<rating>` the label: 1 to 5 stars, `4.0` as `4`. Other fields (headline,
    title, date, reviewer) are ignored, in whichever order they come. Reviews without text are counted as `blank`. The
    file is read as a stream, in its `encoding` whatever its XML declaration says; document type declarations, and with
    them entities, are refused.
    """

    takes = ("language", "encoding", "label", "labels", "label_map", "require_labels")

    def pieces(self) -> Iterator[Piece]:
        for number, fields in self._items():
            cells = {"text": fields.get(TEXT, "")}
            rating = fields.get(RATING, "").strip()
            if not cells["text"].strip():
                self.counts["blank"] += 1
                continue
            if self.options.label is not None and (rating or self.options.require_labels):
                cells["label"] = rating.removesuffix(".0")
            yield number, fields, self.row(number, cells)

    def _items(self) -> Iterator[tuple[int, dict[str, str]]]:
        """The fields of each item by name, with the line on which it starts."""
        reviews = _Reviews(self.path, self.problems)
        for _, line in self.lines():
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


CLASSES = ("contradiction", "entailment", "neutral")
COLUMNS = {
    ("sentence1", "sentence2", "gold_label"): "XNLI's own files, and those of MultiNLI",
    ("premise", "hypo", "label"): "the translated training files (XNLI-MT)",
}
_NAMES = {"contradictory": "contradiction"}
_UNDECIDED = "-"


class XnliReader(Reader):
    """The sentence pairs of a file of XNLI: `xnli.dev.tsv`, `xnli.test.tsv`, `multinli.train.de.tsv`.

    Which of the two layouts a file has, its header says. Of files with a column `language`, which hold all languages,
    one is read, or all with "". The translated files' `contradictory` becomes `contradiction`. Pairs on which the
    annotators did not agree (`-`) are counted as `dropped`, and kept where the labels are not read.
    """

    takes = ("language", "encoding", "label")

    def pieces(self) -> Iterator[Piece]:
        path, problems, language = self.path, self.problems, self.options.language
        lines, some = self.lines(), False
        number, header = next(lines, (1, ""))
        names = header.split("\t")
        columns = [names.index(name) for name in _layout(f"{path}:{number}", names)]
        spoken = names.index("language") if "language" in names else None
        needed = max(columns) if spoken is None else max(*columns, spoken)
        for number, line in lines:
            cells = line.split("\t")
            if not line.strip():
                self.counts["blank"] += 1
            elif not needed < len(cells) <= len(names):  # MultiNLI leaves empty columns out at the end of a row
                what = f"{len(cells)} columns, but the header has {len(names)}"
                problems.add(f"{path}:{number}", what, "give every row the columns of the header")
            elif spoken is None or not language or cells[spoken] == language:
                first, second, given = (cells[column] for column in columns)
                found = None if self.options.label is None else _class(f"{path}:{number}", given.strip(), problems)
                if found == _UNDECIDED:
                    self.counts["dropped"] += 1
                elif not (first.strip() and second.strip()):
                    problems.add(f"{path}:{number}", "one of the two sentences is empty", "fill it or remove the row")
                else:
                    some, name = True, f"{self.stem}:{number}"
                    yield number, line, Example(name, language, None, first, second, found, path, number)
        if spoken is not None and language and not some and not problems.count:
            raise DataError(f"{path}:1: no row of the language {language!r}; XNLI names languages as en, de, zh")


def _layout(place: str, names: list[str]) -> tuple[str, ...]:
    for wanted in COLUMNS:
        if set(wanted) <= set(names):
            return wanted
    known = "; or ".join(f"{', '.join(wanted)} ({what})" for wanted, what in COLUMNS.items())
    raise DataError(f"{place}: is no file of XNLI; its header must have the columns {known}")


def _class(place: str, given: str, problems: Problems) -> str:
    found = _NAMES.get(given, given)
    if found not in (*CLASSES, _UNDECIDED):
        problems.add(place, f"unknown class {quoted(given)}", f"the classes are {', '.join(CLASSES)}")
    return found
