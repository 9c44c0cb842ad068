"""Texts with entities as characters: what Prodigy, doccano, Label Studio, spaCy, brat and `predict` write."""

from __future__ import annotations

import json
import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ... import ConfigError, DataError
from ...untrusted import clip, quoted
from .example import OUTSIDE
from .jsonl import JsonReader, json_lines, json_value
from .lines import check_label, is_packed, open_file, plain_suffix, read_lines
from .packed import refuse_bomb
from .plain import word_pattern
from .problems import Problems, setting
from .reader import Found, Head, Piece
from .tagged import TaggedSentence

LISTS = ("spans", "entities", "label", "labels", "annotations")
"""Fields that hold the entities of a text."""
ENTITY_COLUMNS = ("line", "start", "end", "label", "text", "score", "sentence")
"""Of a table of entities as `predict` writes it."""
_NUMBER = re.compile(r"[0-9]{1,18}")
CUTS = ("error", "expand", "drop")
_STARTS, _ENDS, _LABELS = ("start", "start_offset"), ("end", "end_offset"), ("label", "labels", "type")


class Span(NamedTuple):
    """Characters `start` to `end` (exclusive) of a text."""

    start: int
    end: int
    label: str


@dataclass(frozen=True)
class _Annotated:
    """A text and its entities, None where it has no labels."""

    line: int
    text: str
    spans: list[Span] | None
    id: str | None = None


class SpansReader(JsonReader):
    """Tagged sentences of a file of texts with entities, counted in characters from 0, the end exclusive.

    JSON lines or one JSON list, in which several texts on a line are counted on from it. A text is an object with the
    field `text`, or `data` that has it, or a list `[text, {"entities": [...]}]`. Its entities are the list under
    `spans`, `entities`, `label` or `labels`, or the `result` of Label Studio's `annotations`; an entity is `[start,
    end, label]` or an object with `start`, `end` (or `start_offset`, `end_offset`), `label` and perhaps `text`, which
    is then compared. What an annotator did not accept (`answer`) is left out, as `rejected`. A file `NAME.ann` is
    brat's, whose text is `NAME.txt`, a sentence a line (of `NAME.ann.gz` it is `NAME.txt.gz`); one that begins with the
    names `ENTITY_COLUMNS` is a table of entities, whose rows with one `line` are of one sentence. A file `NAME.spacy`
    is a `DocBin` of spaCy, whose lines are documents; only their texts and entities are taken.

    The texts are cut into words as plain text is. White space at the ends of an entity is no part of it; entities that
    overlap are a fault. To be labelled, a text comes back as an object with its own fields, whatever its entities.
    """

    takes = ("language", "encoding", "text", "id", "split", "cut_spans", "labels", "require_labels")

    def pieces(self) -> Iterator[Piece]:
        if self.task:
            yield from super().pieces()
            return
        options = self.options
        if options.cut_spans not in CUTS:
            raise ConfigError(f"unknown cut_spans {options.cut_spans!r}; choose from {', '.join(CUTS)}")
        word = word_pattern(options.split)
        for one in self._texts():
            place = f"{self.path}:{one.line}"
            if options.require_labels and one.spans is None:
                fields = ", ".join(LISTS)
                self.problems.add(place, f"no list of entities; the fields that may hold it: {fields}", "label it")
                continue
            words = [Span(match.start(), match.end(), match[0]) for match in word.finditer(one.text)]
            if not words:
                self.problems.add(place, "empty text", "fill the field or remove the row")
                continue
            tags = None if one.spans is None else self._tags(place, one.text, words, one.spans)
            forms, name = [word.label for word in words], one.id or f"{self.stem}:{one.line}"
            yield one.line, one, TaggedSentence(name, forms, tags, [one.line] * len(forms))

    def resolve(self, sentences: Sequence[TaggedSentence]) -> None:
        for sentence in sentences:
            for tag in sorted(set(sentence.tags or ())):
                check_label(f"{self.path}:{sentence.lines[0]}", tag, self._labels, self.problems)

    def objects(self) -> Iterator[tuple[int, dict[str, Any] | None]]:
        """Line and fields of every text, whatever its entities; its text alone where it is no object."""
        texts, text = self._texts, self.options.text
        if texts != self._json_texts:
            yield from ((one.line, {text: one.text}) for one in texts())
            return
        for number, value in self._values():
            if isinstance(value, dict) and isinstance(value.get("data"), dict):
                value = {text: value["data"].get(text)}
            elif not isinstance(value, dict):
                value = {text: value[0] if isinstance(value, list) and value else None}
            yield number, value

    @classmethod
    def probe(cls, head: Head) -> Found | None:
        """The file is a table of entities, or its first text, as JSON, has a list of them and not words with tags."""
        lines = ((number, line) for number, line in enumerate(head.lines, 1) if line.strip())
        _, first = next(json_lines(str(head.path), lines, Problems()), (1, ""))
        if first.split("\t") == list(ENTITY_COLUMNS) or re.match(r"\s*\[\s*[\[\"]", first):
            return Found("spans", {}, "ner")
        try:
            value = json.loads(first) if first.lstrip().startswith("{") else {}
        except (ValueError, RecursionError):
            return None
        lists = [value[name] for name in LISTS if isinstance(value.get(name), list)]
        spans = any(not all(isinstance(entry, str | int) for entry in one) or not one for one in lists)
        return Found("spans", {}, "ner") if spans or isinstance(value.get("data"), dict) else None

    def _tags(self, place: str, text: str, words: Sequence[Span], spans: Sequence[Span]) -> list[str]:
        """The tags of a text's words, in BIO."""
        cut_spans = self.options.cut_spans
        tags, owner = [OUTSIDE] * len(words), list[Span | None]([None] * len(words))
        starts, ends = [word.start for word in words], [word.end for word in words]
        for span in sorted(set(spans)):
            inside = text[span.start : span.end]
            start = span.start + len(inside) - len(inside.lstrip())
            end = span.end - len(inside) + len(inside.rstrip())
            covered = range(bisect_right(ends, start), bisect_left(starts, end))
            named = f"{span.label} at {span.start}-{span.end} {quoted(inside)}"
            if not covered:
                self.problems.add(place, f"{named} holds no word", "correct its place, or remove it")
                continue
            first, last = words[covered[0]], words[covered[-1]]
            if first.start < start or last.end > end:
                self.counts["cut"] += 1
                if cut_spans == "error":
                    whole = text[first.start : last.end]
                    both = f"{setting('cut_spans', 'expand')} ({quoted(whole)}) or {setting('cut_spans', 'drop')}"
                    fix = f"correct its place, or set {both}"
                    self.problems.add(place, f"{named} ends within a word", fix)
                if cut_spans != "expand":
                    continue
            if taken := next((owner[i] for i in covered if owner[i] is not None), None):
                what = f"{named} overlaps {taken.label} at {taken.start}-{taken.end}"
                self.problems.add(place, what, "keep one of the two: a word has one tag")
                continue
            for i in covered:
                owner[i] = span
                tags[i] = ("B-" if i == covered[0] else "I-") + span.label
        return tags

    @property
    def _texts(self) -> Callable[[], Iterator[_Annotated]]:
        """What reads the texts of the file."""
        by_name = {".ann": self._brat, ".spacy": self._doc_bin}.get(plain_suffix(self.path))
        if by_name:
            return by_name
        first = next(read_lines(self.path, self.options.encoding, Problems()), (0, ""))[1]
        return self._table if first.split("\t") == list(ENTITY_COLUMNS) else self._json_texts

    def _json_texts(self) -> Iterator[_Annotated]:
        options = self.options
        for number, value in self._values():
            place = f"{self.path}:{number}"
            if isinstance(value, list) and len(value) == 2 and isinstance(value[1], dict):
                value = {options.text: value[0], **value[1]}  # spaCy's (text, annotations)
            if not isinstance(value, dict):
                what = f"a JSON {type(value).__name__}, not an object"
                self.problems.add(place, what, "give one object for each text")
                continue
            if value.get("answer", "accept") != "accept" or value.get("is_confirmed") is False:
                self.counts["rejected"] += 1
                continue
            data = value["data"] if isinstance(value.get("data"), dict) else value
            text, name = data.get(options.text), None if options.id is None else value.get(options.id)
            if not isinstance(text, str):
                strings = ", ".join(repr(key) for key, one in data.items() if isinstance(one, str)) or "none"
                what = f"no text in field {options.text!r}; fields with a text: {clip(strings)}"
                self.problems.add(place, what, "name the field with reader.text")
                continue
            entries = _entries(place, value, self.problems)
            spans = None if entries is None else _spans(place, text, entries, self.problems)
            yield _Annotated(number, text, spans, None if name is None else str(name))

    def _values(self) -> Iterator[tuple[int, Any]]:
        """The values of a file with one on each line, or of one list."""
        for number, line in json_lines(self.path, self.lines(), self.problems):
            if not line.strip():
                self.counts["blank"] += 1
            elif (value := json_value(f"{self.path}:{number}", line, self.problems)) is not None:
                yield number, value

    def _brat(self) -> Iterator[_Annotated]:
        """The lines of a text file, each with the entities of the `.ann` file beside it that lie in it."""
        spans: list[tuple[int, Span, str | None]] = []
        for number, line in self.lines():
            cells = line.split("\t", 2)
            if not line.startswith("T"):
                self.counts["other annotations"] += bool(line.strip())
                continue
            match = re.fullmatch(r"(\S+) ([0-9]{1,18}) ([0-9]{1,18})", cells[1]) if len(cells) > 1 else None
            if match is None:
                what = f"{quoted(line)} is not an entity in one piece"
                self.problems.add(f"{self.path}:{number}", what, "write T1, a tab, 'TYPE START END', a tab, its text")
                continue
            said = (cells[2] if len(cells) > 2 else "") or None
            spans.append((number, Span(int(match[2]), int(match[3]), match[1]), said))
        spans.sort(key=lambda numbered: numbered[1])
        packing = Path(self.path).suffix if is_packed(self.path) else ""
        beside, begin, at = Path(self.path).with_name(f"{self.stem}.txt{packing}"), 0, 0
        for number, line in read_lines(beside, self.options.encoding, self.problems):
            end, inside = begin + len(line), []
            while at < len(spans) and spans[at][1].start < end:
                where, span, said = spans[at]
                at += 1
                found = line[max(0, span.start - begin) : span.end - begin]
                if span.start < begin or span.end > end:
                    what = f"{span.label} at {span.start}-{span.end} does not lie in one line of {beside.name}"
                    self.problems.add(f"{self.path}:{where}", what, "correct its place")
                elif said is not None and found != said:
                    what = f"{span.label} at {span.start}-{span.end} is {quoted(found)}, not {quoted(said)}"
                    fix = "correct its place; line ends of two characters (CR LF) and a BOM are not counted here"
                    self.problems.add(f"{self.path}:{where}", what, fix)
                else:
                    inside.append(Span(span.start - begin, span.end - begin, span.label))
            if line.strip():
                yield _Annotated(number, line, inside)
            begin = end + 1
        for where, span, _ in spans[at:]:
            what = f"{span.label} at {span.start}-{span.end} lies beyond the end of {beside.name}"
            self.problems.add(f"{self.path}:{where}", what, "correct its place")

    def _table(self) -> Iterator[_Annotated]:
        lines = self.lines()
        next(lines)
        sentences: dict[str, _Annotated] = {}
        for number, line in lines:
            cells = line.split("\t")
            place = f"{self.path}:{number}"
            numbers = all(map(_NUMBER.fullmatch, cells[1:3])) or not any(cells[1:4])
            if len(cells) != len(ENTITY_COLUMNS) or not numbers:
                self.problems.add(place, f"not the columns {', '.join(ENTITY_COLUMNS)}", "give every row all of them")
                continue
            sentence = sentences.setdefault(cells[0], _Annotated(number, cells[6], []))
            if sentence.text != cells[6]:
                what = f"another sentence than line {sentence.line} has"
                self.problems.add(place, what, "give each sentence its own `line`")
                continue
            if not cells[1]:
                continue
            entity = {"start": int(cells[1]), "end": int(cells[2]), "label": cells[3], "text": cells[4]}
            span = _span(place, sentence.text, entity, self.problems)
            if span is not None and sentence.spans is not None:
                sentence.spans.append(span)
        yield from sentences.values()

    def _doc_bin(self) -> Iterator[_Annotated]:
        """The documents of spaCy's `DocBin`, which is msgpack in zlib, read by spaCy itself."""
        try:
            from spacy.tokens import DocBin
            from spacy.vocab import Vocab
        except ImportError as error:
            what = "needs spaCy: pip install spacy, or save its texts as JSON lines"
            raise ConfigError(f"{self.path}: {what}") from error
        with open_file(self.path) as file:
            packed = file.read()
        try:
            refuse_bomb(packed)
            documents = list(DocBin().from_bytes(packed).get_docs(Vocab()))
        except Exception as error:  # of zlib, msgpack and spaCy, each with classes of its own
            what = f"spaCy cannot read it: {clip(str(error))}; save it with DocBin.to_disk"
            raise DataError(f"{self.path}: {what}") from error
        for number, document in enumerate(documents, 1):
            place, text = f"{self.path}:{number}", document.text
            entries = [[one.start_char, one.end_char, one.label_] for one in document.ents]
            spans = _spans(place, text, entries, self.problems)
            yield _Annotated(number, text, spans if document.has_annotation("ENT_IOB") else None)


def _entries(place: str, value: Mapping[str, Any], problems: Problems) -> list[Any] | None:
    """The entities of a text as the file has them; None where it has no list of them."""
    made = value.get("annotations")
    if isinstance(made, list):  # Label Studio: what each annotator made of it
        done = [one for one in made if isinstance(one, dict) and not one.get("was_cancelled")]
        if len(done) > 1:
            what = f"{len(done)} annotations of one text"
            problems.add(place, what, "keep one of them")
        result = done[0].get("result") if done else None
        return [one for one in result if isinstance(one, dict) and "value" in one] if isinstance(result, list) else None
    return next((value[name] for name in LISTS if isinstance(value.get(name), list)), None)


def _spans(place: str, text: str, entries: Iterable[Any], problems: Problems) -> list[Span]:
    return [span for entry in entries if (span := _span(place, text, entry, problems))]


def _span(place: str, text: str, entry: Any, problems: Problems) -> Span | None:
    """An entity, in characters of Python; None where it is faulty."""
    said = None
    if isinstance(entry, list) and len(entry) >= 3:
        start, end, label = entry[:3]
    elif isinstance(entry, dict):
        entry = entry["value"] if isinstance(entry.get("value"), dict) else entry
        start, end, label = (
            next((entry[name] for name in names if name in entry), None) for names in (_STARTS, _ENDS, _LABELS)
        )
        said = entry.get("text")
        label = label[0] if isinstance(label, list) and len(label) == 1 else label
    else:
        start = end = label = None
    if not (type(start) is int and type(end) is int and isinstance(label, str) and re.fullmatch(r"\S+", label)):
        what = f"{quoted(entry)} is not an entity"
        problems.add(place, what, "give start, end and one label without white space")
        return None
    if isinstance(said, str) and text[start:end] != said:
        # JavaScript, which Label Studio counts in, has two units for a character beyond the first 65,536.
        units = text.encode("utf-16-le")
        start, end = (len(units[: 2 * place_].decode("utf-16-le", "ignore")) for place_ in (start, end))
    if not 0 <= start < end <= len(text) or (isinstance(said, str) and text[start:end] != said):
        what = f"{label} at {start}-{end} of {len(text)} characters"
        what += f" is {quoted(text[start:end])}, not {quoted(said)}" if isinstance(said, str) else " is no part of it"
        problems.add(place, what, "correct its place; it counts characters from 0, the end exclusive")
        return None
    return Span(start, end, label)
