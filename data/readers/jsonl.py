"""JSON lines, and what else comes as objects with named fields."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...untrusted import clip, listed, quoted
from .example import Example, Examples
from .lines import check_label, finish, read_lines, stream
from .problems import Problems, setting
from .table import RowReader
from .tagged import TaggedSentence, resolve_tags

_BETWEEN = re.compile(r"[ \t\r\n,]*")


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
    tag_names: Sequence[str] = (),
    require_labels: bool = False,
) -> Examples:
    """Examples of a file with one JSON object a line, or of one JSON list.

    An object with the field `words` is a tagged sentence: lists of strings in `words` and, where labelled, in `tags`.
    Any other has strings in `text` and, where labelled, in `label`. A label that is absent or null is unknown. Other
    fields are ignored. Labels may be whole numbers: tags then need their names, from `tag_names` or from the
    `dataset_info.json` that the library datasets leaves beside its files; a class without one is its number.

    Args:
        text: name of the field with the text.
        label: name of the field with the class.
        pair: name of the field with the second text.
        id: name of a field with unique ids; `<file stem>:<line>` otherwise.
        language_field: name of a field with the language; rows of another than `language` are left out, as `foreign`.
        words: name of the field with the words.
        tags: name of the field with the tags.
        scheme: of the tags, see `resolve_tags`.
        repair: read an invalid `I-` of BIO as `B-`; counted as `repaired`.
        labels: the labels that may occur, after conversion.
        label_map: new class for each class of the file; None drops the row, counted as `dropped`.
        tag_names: the names of labels that are whole numbers, from 0.
        require_labels: refuse an example without a label.

    Raises:
        ConfigError: unknown encoding.
        DataError: all faults of the file, the first 20 listed by line.
    """
    problems, counts = Problems(), Counter[str]()
    fields = {"text": text, "label": label, "pair": pair, "id": id, "words": words, "tags": tags}
    maker = RowReader(str(path), language, labels, label_map, problems, counts)
    names = class_names(Path(path).parent) if not tag_names else dict.fromkeys((label or "", tags), tuple(tag_names))
    reader = ObjectReader(maker, fields | {"language": language_field}, names, require_labels)
    return reader.read(json_objects(path, encoding, problems, counts), scheme, repair)


def stream_jsonl(
    path: str | Path, *, encoding: str, text: str = "text", pair: str | None = None, words: str = "words"
) -> Iterator[Example]:
    """The texts, or words, of such a file an example at a time, its labels unread; faults are raised at the end."""
    problems, counts = Problems(), Counter[str]()
    fields = {"text": text, "pair": pair, "words": words} | dict.fromkeys(("label", "id", "tags", "language"))
    reader = ObjectReader(RowReader(str(path), "", None, None, problems, counts), fields, {}, False)
    read = (reader.example(number, row) for number, row in json_objects(path, encoding, problems, counts))
    examples = (one[1].example(one[0], "", str(path)) if isinstance(one, tuple) else one for one in read if one)
    return stream(path, examples, counts, problems)


def json_objects(
    path: str | Path, encoding: str, problems: Problems, counts: Counter[str]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a file with one on each line, or of one list, with its number."""
    for number, line in json_lines(str(path), read_lines(path, encoding, problems), problems):
        if not line.strip():
            counts["blank"] += 1
        elif (row := json_object(f"{path}:{number}", line, problems)) is not None:
            yield number, row


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


class ObjectReader:
    """Objects with named fields to examples.

    Args:
        fields: role -> name of the field; None where the role is not there.
        class_names: field -> names of its labels, where the file may have their numbers.
    """

    def __init__(
        self,
        maker: RowReader,
        fields: Mapping[str, str | None],
        class_names: Mapping[str, Sequence[str]],
        require_labels: bool,
    ) -> None:
        self.maker, self.fields, self.class_names, self.require_labels = maker, fields, class_names, require_labels

    def read(self, objects: Iterable[tuple[int, Mapping[str, Any]]], scheme: str, repair: bool) -> Examples:
        """The examples of numbered objects.

        Raises:
            DataError: all faults, the first 20 listed by line.
        """
        maker = self.maker
        rows = [row for number, one in objects if (row := self.example(number, one)) is not None]
        sentences = [row[1] for row in rows if isinstance(row, tuple)]
        maker.counts["repaired"] += resolve_tags(
            maker.path, sentences, scheme=scheme, repair=repair, problems=maker.problems
        )
        for sentence in sentences:
            for tag in sorted(set(sentence.tags or ())):
                check_label(f"{maker.path}:{sentence.lines[0]}", tag, maker.labels, maker.problems)
        examples = [
            row[1].example(row[0], maker.language, maker.path) if isinstance(row, tuple) else row for row in rows
        ]
        return finish(maker.path, examples, maker.counts, maker.problems)

    def example(self, number: int, row: Mapping[str, Any]) -> Example | tuple[str, TaggedSentence] | None:
        """The example of an object, or its id and tagged sentence; None where it is faulty or dropped."""
        maker, fields = self.maker, self.fields
        place, problems = f"{maker.path}:{number}", maker.problems
        values = {role: row[name] for role, name in fields.items() if name is not None and row.get(name) is not None}
        role = "tags" if "words" in values else "label"
        if self.require_labels and role not in values:
            self._no_label(place, role, row)
            return None
        if "words" in values:
            values["tags"] = self._named("tags", values)
            sentence = _tagged(place, number, values, problems)
            return (maker.name(place, number, values.get("id")), sentence) if sentence else None
        values.pop("tags", None)
        if isinstance(stars := values.get("label"), float) and stars.is_integer():
            values["label"] = int(stars)
        if type(values.get("label")) is int:
            values["label"] = str(self._named("label", values))
        required = ["text", *(role for role in ("pair", "id", "language") if fields[role] is not None)]
        return maker.example(number, values) if _strings(place, values, required, fields, problems) else None

    def _named(self, role: str, values: Mapping[str, Any]) -> Any:
        return named(values.get(role), self.class_names.get(self.fields[role] or "", ()))

    def _no_label(self, place: str, role: str, row: Mapping[str, Any]) -> None:
        """Says which field may be meant."""
        fix = "label the example"
        if role == "label" and (lists := [key for key, value in row.items() if isinstance(value, list) and value]):
            fix += f", or name the field of the words (perhaps {setting('words', lists[0])})"
        elif others := [key for key, value in row.items() if isinstance(value, list if role == "tags" else str | int)]:
            others = [key for key in others if key not in (*self.fields.values(), "agree", "confidence")]
            fix += f", or name the field (perhaps {setting(role, others[-1])})" if others else ""
        what = f"no field {self.fields[role]!r} (fields: {listed(row)})"
        self.maker.problems.add(place, what, fix)


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
            fix = f"give the field, or name it with reader.{role}" if role in ("text", "pair") else "give the field"
            problems.add(place, f"no field {fields[role]!r} for {role}", fix)
    for role, value in values.items():
        if not isinstance(value, str):
            what = f"field {fields[role]!r} holds a {type(value).__name__}, not a string"
            problems.add(place, what, "give a string")
    return problems.count == faults


def _tagged(place: str, number: int, values: Mapping[str, Any], problems: Problems) -> TaggedSentence | None:
    """A sentence of lists of words and tags."""
    words, tags = values["words"], values.get("tags")
    if isinstance(tags, list) and any(type(tag) is int for tag in tags):
        fix = (
            'name them in their order, reader.tag_names = ["O", "B-PER", ...], or put dataset_info.json beside the file'
        )
        problems.add(place, "tags are whole numbers without names", fix)
        return None
    for role, value in (("words", words), ("tags", tags or [])):
        if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
            problems.add(place, f"{role} is not a list of non-empty strings", "give a list of strings")
            return None
    if not words or (tags is not None and len(tags) != len(words)):
        count = "no" if tags is None else str(len(tags))
        problems.add(place, f"{len(words)} words and {count} tags", "give at least one word, and one tag per word")
        return None
    if not isinstance(values.get("id", ""), str):
        problems.add(place, f"id is a {type(values['id']).__name__}, not a string", "give a string")
        return None
    return TaggedSentence(list(words), None if tags is None else list(tags), [number] * len(words))
