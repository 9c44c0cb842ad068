"""Texts with entities as characters: what Prodigy, doccano, Label Studio, spaCy, brat and `predict` write."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ... import ConfigError, DataError
from ...untrusted import clip, quoted
from .example import OUTSIDE, Example, Examples
from .jsonl import json_lines, json_value
from .lines import LabelSet, check_label, file_stem, finish, is_packed, open_file, plain_suffix, read_lines
from .packed import refuse_bomb
from .plain import word_pattern
from .problems import Problems, setting

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


def read_spans(
    path: str | Path,
    *,
    language: str = "",
    encoding: str = "utf-8",
    text: str = "text",
    id: str | None = None,
    split: str = "punctuation",
    cut_spans: str = "error",
    labels: Sequence[str] | None = None,
    require_labels: bool = False,
) -> Examples:
    """Tagged sentences of a file of texts with entities, counted in characters from 0, the end exclusive.

    JSON lines or one JSON list, in which several texts on a line are counted on from it. A text is an object with the
    field `text`, or `data` that has it, or a list `[text, {"entities": [...]}]`. Its entities are the list under
    `spans`, `entities`, `label` or `labels`, or the `result` of Label Studio's `annotations`; an entity is `[start,
    end, label]` or an object with `start`, `end` (or `start_offset`, `end_offset`), `label` and perhaps `text`, which
    is then compared. What an annotator did not accept (`answer`) is left out, as `rejected`. A file `NAME.ann` is
    brat's, whose text is `NAME.txt`, a sentence a line (of `NAME.ann.gz` it is `NAME.txt.gz`); one that begins with the
    names `ENTITY_COLUMNS` is a table of entities, whose rows with one `line` are of one sentence. A file `NAME.spacy`
    is a `DocBin` of spaCy, whose lines are documents; only their texts and entities are taken.

    The texts are cut into words as plain text is. White space at the ends of an entity is no part of it.

    Args:
        text: name of the field with the text.
        id: name of a field with unique ids; `<file stem>:<line>` otherwise.
        split: how a text becomes words, as `word_pattern` takes it.
        cut_spans: what an entity is that begins or ends within a word: an "error", the whole words ("expand"), or
            nothing ("drop"); the last two are counted, as `cut`.
        labels: the tags that may occur.
        require_labels: refuse a text without a list of entities.

    Raises:
        ConfigError: unknown encoding or `cut_spans`; spaCy is not installed.
        DataError: all faults of the file, the first 20 listed by line; entities that overlap are a fault.
    """
    if cut_spans not in CUTS:
        raise ConfigError(f"unknown cut_spans {cut_spans!r}; choose from {', '.join(CUTS)}")
    problems, counts, stem = Problems(), Counter[str](), file_stem(path)
    examples, word = [], word_pattern(split)
    known = None if labels is None else LabelSet(labels)
    for one in _texts_of(path, encoding)(str(path), encoding, {"text": text, "id": id}, problems, counts):
        place = f"{path}:{one.line}"
        if require_labels and one.spans is None:
            problems.add(place, f"no list of entities; the fields that may hold it: {', '.join(LISTS)}", "label it")
            continue
        words = [Span(match.start(), match.end(), match[0]) for match in word.finditer(one.text)]
        if not words:
            problems.add(place, "empty text", "fill the field or remove the row")
            continue
        tags = None
        if one.spans is not None:
            tags = _tags(place, one.text, words, one.spans, cut_spans, problems, counts)
            for tag in sorted(set(tags)):
                check_label(place, tag, known, problems)
        forms = tuple(w.label for w in words)
        name = one.id or f"{stem}:{one.line}"
        examples.append(Example(name, language, forms, None, None, tags, str(path), one.line))
    return finish(path, examples, counts, problems)


def _tags(
    place: str,
    text: str,
    words: Sequence[Span],
    spans: Sequence[Span],
    cut_spans: str,
    problems: Problems,
    counts: Counter[str],
) -> tuple[str, ...]:
    """The tags of a text's words, in BIO."""
    tags, owner = [OUTSIDE] * len(words), list[Span | None]([None] * len(words))
    starts, ends = [word.start for word in words], [word.end for word in words]
    for span in sorted(set(spans)):
        inside = text[span.start : span.end]
        start = span.start + len(inside) - len(inside.lstrip())
        end = span.end - len(inside) + len(inside.rstrip())
        covered = range(bisect_right(ends, start), bisect_left(starts, end))
        named = f"{span.label} at {span.start}-{span.end} {quoted(inside)}"
        if not covered:
            problems.add(place, f"{named} holds no word", "correct its place, or remove it")
            continue
        first, last = words[covered[0]], words[covered[-1]]
        if first.start < start or last.end > end:
            counts["cut"] += 1
            if cut_spans == "error":
                whole = text[first.start : last.end]
                both = f"{setting('cut_spans', 'expand')} ({quoted(whole)}) or {setting('cut_spans', 'drop')}"
                fix = f"correct its place, or set {both}"
                problems.add(place, f"{named} ends within a word", fix)
            if cut_spans != "expand":
                continue
        if taken := next((owner[i] for i in covered if owner[i] is not None), None):
            what = f"{named} overlaps {taken.label} at {taken.start}-{taken.end}"
            problems.add(place, what, "keep one of the two: a word has one tag")
            continue
        for i in covered:
            owner[i] = span
            tags[i] = ("B-" if i == covered[0] else "I-") + span.label
    return tuple(tags)


def _texts_of(path: str | Path, encoding: str) -> Callable[..., Iterator[_Annotated]]:
    """What reads the texts of a file."""
    by_name = {".ann": _brat, ".spacy": _doc_bin}.get(plain_suffix(path))
    return by_name or (_table if is_table(path, encoding) else _json_texts)


def _json_texts(
    path: str, encoding: str, names: Mapping[str, str | None], problems: Problems, counts: Counter[str]
) -> Iterator[_Annotated]:
    for number, value in _values(path, encoding, problems, counts):
        place = f"{path}:{number}"
        if isinstance(value, list) and len(value) == 2 and isinstance(value[1], dict):
            value = {str(names["text"]): value[0], **value[1]}  # spaCy's (text, annotations)
        if not isinstance(value, dict):
            problems.add(place, f"a JSON {type(value).__name__}, not an object", "give one object for each text")
            continue
        if value.get("answer", "accept") != "accept" or value.get("is_confirmed") is False:
            counts["rejected"] += 1
            continue
        data = value["data"] if isinstance(value.get("data"), dict) else value
        text, name = data.get(names["text"]), None if names["id"] is None else value.get(names["id"])
        if not isinstance(text, str):
            strings = ", ".join(repr(key) for key, one in data.items() if isinstance(one, str)) or "none"
            what = f"no text in field {names['text']!r}; fields with a text: {clip(strings)}"
            problems.add(place, what, "name the field with reader.text")
            continue
        entries = _entries(place, value, problems)
        spans = None if entries is None else [s for entry in entries if (s := _span(place, text, entry, problems))]
        yield _Annotated(number, text, spans, None if name is None else str(name))


def text_objects(path: str, encoding: str, text: str, problems: Problems) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line and fields of every text of such a file, whatever its entities; its text alone where it is no object."""
    texts = _texts_of(path, encoding)
    if texts is not _json_texts:
        yield from ((one.line, {text: one.text}) for one in texts(path, encoding, {}, problems, Counter()))
        return
    for number, value in _values(path, encoding, problems, Counter()):
        if isinstance(value, dict) and isinstance(value.get("data"), dict):
            value = {text: value["data"].get(text)}
        elif not isinstance(value, dict):
            value = {text: value[0] if isinstance(value, list) and value else None}
        yield number, value


def _values(path: str, encoding: str, problems: Problems, counts: Counter[str]) -> Iterator[tuple[int, Any]]:
    """The values of a file with one on each line, or of one list."""
    for number, line in json_lines(path, read_lines(path, encoding, problems), problems):
        if not line.strip():
            counts["blank"] += 1
        elif (value := json_value(f"{path}:{number}", line, problems)) is not None:
            yield number, value


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


def _brat(
    path: str, encoding: str, names: Mapping[str, str | None], problems: Problems, counts: Counter[str]
) -> Iterator[_Annotated]:
    """The lines of a text file, each with the entities of the `.ann` file beside it that lie in it."""
    spans: list[tuple[int, Span, str | None]] = []
    for number, line in read_lines(path, encoding, problems):
        cells = line.split("\t", 2)
        if not line.startswith("T"):
            counts["other annotations"] += bool(line.strip())
            continue
        match = re.fullmatch(r"(\S+) ([0-9]{1,18}) ([0-9]{1,18})", cells[1]) if len(cells) > 1 else None
        if match is None:
            what = f"{quoted(line)} is not an entity in one piece"
            problems.add(f"{path}:{number}", what, "write T1, a tab, 'TYPE START END', a tab, its text")
            continue
        said = (cells[2] if len(cells) > 2 else "") or None
        spans.append((number, Span(int(match[2]), int(match[3]), match[1]), said))
    spans.sort(key=lambda numbered: numbered[1])
    packing = Path(path).suffix if is_packed(path) else ""
    beside, begin, at = Path(path).with_name(f"{file_stem(path)}.txt{packing}"), 0, 0
    for number, line in read_lines(beside, encoding, problems):
        end, inside = begin + len(line), []
        while at < len(spans) and spans[at][1].start < end:
            where, span, said = spans[at]
            at += 1
            found = line[max(0, span.start - begin) : span.end - begin]
            if span.start < begin or span.end > end:
                what = f"{span.label} at {span.start}-{span.end} does not lie in one line of {beside.name}"
                problems.add(f"{path}:{where}", what, "correct its place")
            elif said is not None and found != said:
                what = f"{span.label} at {span.start}-{span.end} is {quoted(found)}, not {quoted(said)}"
                fix = "correct its place; line ends of two characters (CR LF) and a BOM are not counted here"
                problems.add(f"{path}:{where}", what, fix)
            else:
                inside.append(Span(span.start - begin, span.end - begin, span.label))
        if line.strip():
            yield _Annotated(number, line, inside)
        begin = end + 1
    for where, span, _ in spans[at:]:
        what = f"{span.label} at {span.start}-{span.end} lies beyond the end of {beside.name}"
        problems.add(f"{path}:{where}", what, "correct its place")


def is_table(path: str | Path, encoding: str) -> bool:
    """Whether a file begins with the names of `ENTITY_COLUMNS`."""
    return next((line for _, line in read_lines(path, encoding, Problems())), "").split("\t") == list(ENTITY_COLUMNS)


def _table(
    path: str, encoding: str, names: Mapping[str, str | None], problems: Problems, counts: Counter[str]
) -> Iterator[_Annotated]:
    lines = read_lines(path, encoding, problems)
    next(lines)
    sentences: dict[str, _Annotated] = {}
    for number, line in lines:
        cells = line.split("\t")
        place = f"{path}:{number}"
        if len(cells) != len(ENTITY_COLUMNS) or not (all(map(_NUMBER.fullmatch, cells[1:3])) or not any(cells[1:4])):
            problems.add(place, f"not the columns {', '.join(ENTITY_COLUMNS)}", "give every row all of them")
            continue
        sentence = sentences.setdefault(cells[0], _Annotated(number, cells[6], []))
        if sentence.text != cells[6]:
            problems.add(place, f"another sentence than line {sentence.line} has", "give each sentence its own `line`")
            continue
        if not cells[1]:
            continue
        entity = {"start": int(cells[1]), "end": int(cells[2]), "label": cells[3], "text": cells[4]}
        span = _span(place, sentence.text, entity, problems)
        if span is not None and sentence.spans is not None:
            sentence.spans.append(span)
    yield from sentences.values()


def _doc_bin(
    path: str, encoding: str, names: Mapping[str, str | None], problems: Problems, counts: Counter[str]
) -> Iterator[_Annotated]:
    """The documents of spaCy's `DocBin`, which is msgpack in zlib, read by spaCy itself."""
    try:
        from spacy.tokens import DocBin
        from spacy.vocab import Vocab
    except ImportError as error:
        raise ConfigError(f"{path}: needs spaCy: pip install spacy, or save its texts as JSON lines") from error
    with open_file(path) as file:
        packed = file.read()
    try:
        refuse_bomb(packed)
        documents = list(DocBin().from_bytes(packed).get_docs(Vocab()))
    except Exception as error:  # of zlib, msgpack and spaCy, each with classes of its own
        raise DataError(f"{path}: spaCy cannot read it: {clip(str(error))}; save it with DocBin.to_disk") from error
    for number, document in enumerate(documents, 1):
        place, text = f"{path}:{number}", document.text
        entries = [[one.start_char, one.end_char, one.label_] for one in document.ents]
        spans = [s for entry in entries if (s := _span(place, text, entry, problems))]
        yield _Annotated(number, text, spans if document.has_annotation("ENT_IOB") else None)
