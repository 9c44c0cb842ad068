"""JSON lines, and what else comes as objects with named fields."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from ... import DataError
from ...tasks import per_word
from ...untrusted import clip, listed, quoted
from .example import Example
from .problems import Problems, setting
from .reader import PREDICTED, Found, Head, Labelled, Piece, Reader, Record
from .table import changed, find_columns
from .tagged import TAG_LIKE, TaggedSentence

_BETWEEN = re.compile(r"[ \t\r\n,]*")
_PLAIN_TAGS = ("upos", "pos_tags", "pos", "tags", "labels", "xpos")
"""Names of fields whose strings are a tag for each word, whatever they are."""
_OBJECTS = 200
"""That are looked at for what their fields hold."""


class JsonReader(Reader):
    """A file with one JSON object a line, or one JSON list.

    An object with the field `words` is a tagged sentence: lists of strings in `words` and, where labelled, in `tags`.
    Any other has strings in `text` and, where labelled, in `label`. A label that is absent or null is unknown. Other
    fields are ignored. Labels may be whole numbers: tags then need their names, from `tag_names` or from the
    `dataset_info.json` that the library datasets leaves beside its files; a class without one is its number.
    """

    takes: ClassVar[tuple[str, ...]] = (
        *("language", "encoding", "text", "label", "pair", "id", "language_field", "words", "tags", "scheme", "repair"),
        *("labels", "label_map", "tag_names", "require_labels"),
    )

    def objects(self) -> Iterator[tuple[int, dict[str, Any] | None]]:
        """Line and fields of each object; None for a blank line."""
        for number, line in json_lines(self.path, self.lines(), self.problems):
            if not line.strip():
                yield number, None
            elif (row := json_object(f"{self.path}:{number}", line, self.problems)) is not None:
                yield number, row

    def class_names(self) -> dict[str, tuple[str, ...]]:
        """Field -> names of its labels, where the file may have their numbers."""
        return class_names(Path(self.path).parent)

    def pieces(self) -> Iterator[Piece]:
        options = self.options
        self._fields = {"text": options.text, "pair": options.pair, "words": options.words}
        if not self.task:
            self._fields |= {"label": options.label, "id": options.id, "tags": options.tags}
            self._fields["language"] = options.language_field
        names = dict.fromkeys((options.label or "", options.tags or ""), tuple(options.tag_names))
        self._names = names if options.tag_names or self.task else self.class_names()
        for number, row in self.objects():
            if row is None:
                self.counts["blank"] += 1
                yield number, None, None
            else:
                yield self._to_label(number, row) if self.task else (number, row, self._labelled(number, row))

    def write(self, record: Record, labelled: Labelled | None) -> str:
        """The object with more fields."""
        if labelled is None:
            return "\n" if record.raw is None else json_line(record.raw)
        return json_line(record.raw | labelled.fields("predicted", self.options.words))

    def _to_label(self, number: int, row: dict[str, Any]) -> Piece:
        """Words or a text; where the text is empty, the fields with no label."""
        place, options, tagger = f"{self.path}:{number}", self.options, per_word(self.task)
        self.refuse_taken(place, "field", [name for name in (*PREDICTED, "agree", "probabilities") if name in row])
        words = row.get(options.words) if tagger else None
        columns = {"text": options.text} | ({"pair": options.pair} if options.pair else {})
        texts = [row.get(name, 0) for name in columns.values()]  # 0 is no text, but no empty one
        name, language = f"{self.stem}:{number}", options.language
        if not words and any(text is None or (isinstance(text, str) and not text.strip()) for text in texts):
            self.counts["without_text"] += 1
            return number, row | dict.fromkeys(PREDICTED), None
        if isinstance(words, list) and words and all(isinstance(word, str) and word for word in words):
            return number, row, Example(name, language, tuple(words), None, None, None, self.path, number)
        if not (tagger and options.words in row) and all(isinstance(text, str) for text in texts[: 1 if tagger else 2]):
            text, pair = texts[0], None if tagger else [*texts, None][1]
            return number, row, Example(name, language, None, text, pair, None, self.path, number)
        named = " and ".join(f"{name!r} (reader.{role})" for role, name in columns.items())
        what, fix = f"no text in {named}", "give the field, or name the right one"
        if tagger:
            what = f"no list of words in {options.words!r} (reader.words), and no {options.text!r} (reader.text)"
            fix = "give one of them, or name the right one"
        others = {name: row[name] for name in columns.values() if not isinstance(row.get(name, ""), str)}
        if others and not (tagger and options.words in row):
            name, value = next(iter(others.items()))
            what, fix = f"field {name!r} holds a {type(value).__name__}, not a string", "give a string"
        self.problems.add(place, what, fix)
        return number, row, None

    def _labelled(self, number: int, row: Mapping[str, Any]) -> Example | TaggedSentence | None:
        """The example of an object; None where it is faulty or dropped."""
        place, fields = f"{self.path}:{number}", self._fields
        values = {role: row[name] for role, name in fields.items() if name is not None and row.get(name) is not None}
        role = "tags" if "words" in values else "label"
        if self.options.require_labels and role not in values:
            self._no_label(place, role, row)
            return None
        if "words" in values:
            values["tags"] = self._named("tags", values)
            return self._tagged(place, number, values)
        values.pop("tags", None)
        if isinstance(stars := values.get("label"), float) and stars.is_integer():
            values["label"] = int(stars)
        if type(values.get("label")) is int:
            values["label"] = str(self._named("label", values))
        return self.row(number, values) if self._strings(place, values) else None

    def _named(self, role: str, values: Mapping[str, Any]) -> Any:
        return named(values.get(role), self._names.get(self._fields[role] or "", ()))

    def _no_label(self, place: str, role: str, row: Mapping[str, Any]) -> None:
        """Says which field may be meant."""
        fix = "label the example"
        if role == "label" and (lists := [key for key, value in row.items() if isinstance(value, list) and value]):
            fix += f", or name the field of the words (perhaps {setting('words', lists[0])})"
        elif others := [key for key, value in row.items() if isinstance(value, list if role == "tags" else str | int)]:
            others = [key for key in others if key not in (*self._fields.values(), "agree", "confidence")]
            fix += f", or name the field (perhaps {setting(role, others[-1])})" if others else ""
        what = f"no field {self._fields[role]!r} (fields: {listed(row)})"
        self.problems.add(place, what, fix)

    def _strings(self, place: str, values: Mapping[str, Any]) -> bool:
        """Whether the fields of a row are there and are strings."""
        faults, fields = self.problems.count, self._fields
        for role in ("text", *(role for role in ("pair", "id", "language") if fields.get(role) is not None)):
            if role not in values:
                fix = f"give the field, or name it with reader.{role}" if role in ("text", "pair") else "give the field"
                self.problems.add(place, f"no field {fields[role]!r} for {role}", fix)
        for role, value in values.items():
            if not isinstance(value, str):
                what = f"field {fields[role]!r} holds a {type(value).__name__}, not a string"
                self.problems.add(place, what, "give a string")
        return self.problems.count == faults

    def _tagged(self, place: str, number: int, values: Mapping[str, Any]) -> TaggedSentence | None:
        """A sentence of lists of words and tags."""
        words, tags = values["words"], values.get("tags")
        if isinstance(tags, list) and any(type(tag) is int for tag in tags):
            fix = 'name them in their order, reader.tag_names = ["O", "B-PER", ...], '
            fix += "or put dataset_info.json beside the file"
            self.problems.add(place, "tags are whole numbers without names", fix)
            return None
        for role, value in (("words", words), ("tags", tags or [])):
            if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
                self.problems.add(place, f"{role} is not a list of non-empty strings", "give a list of strings")
                return None
        if not words or (tags is not None and len(tags) != len(words)):
            count = "no" if tags is None else str(len(tags))
            self.problems.add(
                place, f"{len(words)} words and {count} tags", "give at least one word, and one tag per word"
            )
            return None
        if not isinstance(values.get("id", ""), str):
            self.problems.add(place, f"id is a {type(values['id']).__name__}, not a string", "give a string")
            return None
        name = self.name(place, number, values.get("id"))
        return TaggedSentence(name, list(words), None if tags is None else list(tags), [number] * len(words))

    @classmethod
    def probe(cls, head: Head) -> Found | None:
        """The first line begins an object; what its fields hold."""
        if not head.filled or not re.match(r"\s*\{\s*([\"}]|$)", head.filled[0]):
            return None
        return Found("jsonl", {}, None) if head.few else cls.columns(head)

    @classmethod
    def columns(cls, head: Head) -> Found:
        """What the fields of the first objects hold."""
        lines = (line for _, line in json_lines(str(head.path), enumerate(head.filled, 1), Problems()))
        rows = [row for _, line in zip(range(_OBJECTS), lines, strict=False) if (row := _object(line))]
        return find_fields(head, rows, class_names(Path(head.path).parent))


def find_fields(head: Head, rows: Sequence[Mapping[str, Any]], names: Mapping[str, Sequence[str]]) -> Found:
    """Names of the fields of some objects.

    Args:
        names: of labels that are numbers, by their field.

    Raises:
        DataError: there is no object, or as `find_columns`.
    """
    if not rows:
        raise DataError(f"{head.path}:1: not a JSON object; write one object a line")
    lists = [k for k, v in rows[0].items() if isinstance(v, list) and v]
    words = [k for k in lists if all(isinstance(x, str) for x in rows[0][k])]
    tags = [k for k in words if all(TAG_LIKE.fullmatch(str(x)) for row in rows for x in row.get(k) or ())]
    tags += [k for k in lists if all(type(x) is int for x in rows[0][k])]
    words = [k for k in words if k not in tags]
    plain = _plain_tags(rows, lists, names)
    if plain and set(tags) <= set(plain) and (others := [k for k in words if k not in plain]):
        found = {"words": _prefer(others, ("words", "tokens")), "tags": _prefer(plain, _PLAIN_TAGS)}
        return Found("jsonl", changed(found), "tag")
    if words:
        found = {"words": _prefer(words, ("words", "tokens"))}
        found |= {"tags": _prefer(tags, ("tags", "ner_tags", "labels"))} if tags else {}
        return Found("jsonl", changed(found), "ner" if tags else None)
    strings = [k for k, v in rows[0].items() if isinstance(v, str) or type(v) is int]
    strings += [k for k in rows[0] if k not in strings and all(_is_whole(row.get(k)) for row in rows)]  # 5.0 stars
    options, task = find_columns(head, strings, {k: [str(row.get(k, "")) for row in rows] for k in strings})
    return Found("jsonl", options, task)


def _is_whole(value: Any) -> bool:
    return value is None or type(value) is int or (isinstance(value, float) and value.is_integer())


def _plain_tags(
    rows: Sequence[Mapping[str, Any]], lists: Sequence[str], names: Mapping[str, Sequence[str]]
) -> list[str]:
    """Fields with a tag for each word that mark no entity: numbers whose names say so, or strings."""
    plain = []
    for key in lists:
        values = {value for row in rows for value in row.get(key) or () if isinstance(value, str | int)}
        numbers = bool(names.get(key)) and all(type(value) is int for value in values)
        kinds = names[key] if numbers else values
        strings = key in _PLAIN_TAGS and all(isinstance(value, str) for value in values)
        if (numbers or strings) and not any(TAG_LIKE.fullmatch(str(kind)) for kind in kinds):
            plain.append(key)
    return plain


def _prefer(names: Sequence[str], usual: Sequence[str]) -> str:
    return next((name for name in usual if name in names), names[0])


def _object(line: str) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def json_line(value: Any) -> str:
    """A JSON value in one line."""
    return json.dumps(value, ensure_ascii=False) + "\n"


def json_lines(name: str, lines: Iterable[tuple[int, str]], problems: Problems) -> Iterator[tuple[int, str]]:
    """The lines as they are; from where a list of objects begins, each of its items instead of lines.

    An item's number is that of the line where it begins, or a later one, so that each has its own.
    """
    numbered = iter(lines)
    for number, line in numbered:
        if re.match(r"\s*\[\s*(\{|$)", line):  # spaCy's lines begin with a text
            rest = "\n".join([line, *(text for _, text in numbered)])
            yield from _items(name, number, rest, problems)
            return
        yield number, line


def _items(name: str, number: int, text: str, problems: Problems) -> Iterator[tuple[int, str]]:
    position, counted, last = text.index("[") + 1, 0, 0
    while True:
        gap = _BETWEEN.match(text, position)
        assert gap is not None  # it may be empty
        begin = gap.end()
        number, counted = number + text.count("\n", counted, begin), begin
        if text.startswith("]", begin):
            return
        try:
            _, position = STRICT.raw_decode(text, begin)
        except (ValueError, RecursionError) as error:
            problems.add(f"{name}:{number}", f"not usable JSON: {clip(str(error))}", "export the file again")
            return
        last = max(number, last + 1)
        yield last, text[begin:position]


def class_names(folder: Path) -> dict[str, tuple[str, ...]]:
    """Field -> names of its classes, by the `dataset_info.json` of a folder; empty where there is none."""
    try:
        return names_of_features(json.loads((folder / "dataset_info.json").read_bytes()))
    except (OSError, ValueError, RecursionError):
        return {}


def names_of_features(info: Any) -> dict[str, tuple[str, ...]]:
    """Field -> names of its classes, by the metadata of the library datasets; fields without names are left out."""
    features = info.get("features") if isinstance(info, dict) else None
    names = {}
    for field, feature in (features if isinstance(features, dict) else {}).items():
        while isinstance(feature, list | dict) and "names" not in feature:  # the classes of words
            feature = feature.get("feature") if isinstance(feature, dict) else next(iter(feature), None)
        known = feature.get("names") if isinstance(feature, dict) else None
        if isinstance(known, list) and all(isinstance(name, str) for name in known):
            names[field] = tuple(known)
    return names


def named(value: Any, names: Sequence[str]) -> Any:
    """A label, or a list of them, by its name where it is a number that has one."""
    if isinstance(value, list):
        return [named(x, names) for x in value]
    return names[value] if type(value) is int and 0 <= value < len(names) else value


def _constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _unique(items: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(items)
    if len(table) < len(items):
        twice = next(key for key, count in Counter(key for key, _ in items).items() if count > 1)
        raise ValueError(f"the key {quoted(twice)} occurs twice")
    return table


STRICT = json.JSONDecoder(parse_constant=_constant, object_pairs_hook=_unique)
"""Raises ValueError where Python's JSON is lenient: NaN, duplicate keys."""


def refuse_half_characters(value: Any, text: str) -> None:
    """Raises UnicodeEncodeError where a string of the value has a lone surrogate, which only an escape can give it."""
    if "\\u" in text:
        json.dumps(value, ensure_ascii=False).encode("utf-8")


def json_object(place: str, line: str, problems: Problems) -> dict[str, Any] | None:
    """The object of a line, refused where JSON is lenient: NaN, duplicate keys, lone surrogates."""
    value = json_value(place, line, problems)
    if value is None or isinstance(value, dict):
        return value
    what = f"not a usable JSON object: a JSON {type(value).__name__}, not an object"
    problems.add(place, what, "write one object a line")
    return None


def json_value(place: str, line: str, problems: Problems) -> Any:
    """The value of a line, refused as by `json_object`; None where it is faulty."""
    try:
        value = STRICT.decode(line)
        refuse_half_characters(value, line)
        if value is None:
            raise ValueError("null")
    except UnicodeEncodeError:
        problems.add(place, "a lone surrogate in a string", "repair the text")
    except (ValueError, RecursionError) as error:
        problems.add(place, f"not a usable JSON object: {clip(str(error))}", "write one object a line")
    else:
        return value
    return None
