"""The same labelled sentences and reviews, written in every format of docs/data-formats.md."""

import bz2
import csv
import gzip
import io
import json
import lzma
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow
from pyarrow import ipc, parquet

PEOPLE = ("Ann", "Bob", "Cid", "Dan", "Eve", "Flo", "Gil", "Zoë")
PLACES = ("Oslo", "Bonn", "São Paulo", "Graz", "Lund")
VERBS = {"en": "visited", "de": "besuchte"}
TAGS = ("O", "B-LOC", "I-LOC", "B-PER", "I-PER")
CLASSES = ("1", "5")


class Sentence(NamedTuple):
    """A text, its words with their tags in BIO, and its entities as (start, end, type)."""

    text: str
    words: tuple[str, ...]
    tags: tuple[str, ...]
    entities: tuple[tuple[int, int, str], ...]


def sentences(language: str, count: int) -> list[Sentence]:
    """A function of the arguments; some texts have characters beyond the first 65,536."""
    made = []
    for i in range(count):
        person, place = f"{PEOPLE[i % 8]} {PEOPLE[(i + 3) % 8]}son", PLACES[i % 5]
        face = "🙂 " if i % 7 == 0 else ""
        text = f"{face}{person} {VERBS[language]} {place}, w{i % 17}."
        at = text.index(place)
        entities = ((len(face), len(face) + len(person), "PER"), (at, at + len(place), "LOC"))
        town = place.split()
        words = [*face.split(), *person.split(), VERBS[language], *town, ",", f"w{i % 17}", "."]
        tags = [*("O" for _ in face.split()), "B-PER", "I-PER", "O", "B-LOC", *("I-LOC" for _ in town[1:]), *"OOO"]
        made.append(Sentence(text, tuple(words), tuple(tags), entities))
    return made


def ends_marked(tags: Sequence[str], end: str, single: str) -> list[str]:
    """The same entities in BIOES ("E", "S") or BILOU ("L", "U")."""
    marked = []
    for tag, following in zip(tags, [*tags[1:], "O"], strict=True):
        last = tag != "O" and following != f"I-{tag[2:]}"
        letter = (single if tag[0] == "B" else end) if last else tag[0]
        marked.append("O" if tag == "O" else f"{letter}{tag[1:]}")
    return marked


Write = Callable[[Path, list[Sentence]], Path]


def columns(name: str, line: Callable[[str, str, str], str], scheme: Callable[[Sequence[str]], Any] = list) -> Write:
    def write_columns(folder: Path, rows: list[Sentence]) -> Path:
        blocks = [
            "".join(line(str(i), *pair) + "\n" for i, pair in enumerate(zip(s.words, scheme(s.tags), strict=True), 1))
            for s in rows
        ]
        return saved(folder / name, "\n".join(blocks).encode())

    return write_columns


def write(path: Path, content: str | bytes, encoding: str = "utf-8") -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode(encoding))
    return path


def saved(path: Path, data: bytes) -> Path:
    pack = {".gz": gzip.compress, ".xz": lzma.compress, ".bz2": bz2.compress}.get(path.suffix, bytes)
    return write(path, pack(data))


def by_line(name: str, form: Callable[[Any], Any]) -> Callable[[Path, list[Any]], Path]:
    """JSON lines, or one list where the name ends in .json."""

    def write(folder: Path, rows: list[Any]) -> Path:
        values = [form(row) for row in rows]
        if name.endswith(".json"):
            return saved(folder / name, json.dumps(values, ensure_ascii=False, indent=1).encode())
        return saved(folder / name, "".join(json.dumps(value) + "\n" for value in values).encode())

    return write


def units(text: str, position: int) -> int:
    """As JavaScript counts characters."""
    return len(text[:position].encode("utf-16-le")) // 2


def prodigy(s: Sentence) -> Any:
    spans = [{"start": b, "end": e, "label": x, "token_start": 0} for b, e, x in s.entities]
    return {"text": s.text, "_task_hash": len(s.text), "spans": spans, "answer": "accept"}


def label_studio(s: Sentence) -> Any:
    values = [
        {"start": units(s.text, b), "end": units(s.text, e), "text": s.text[b:e], "labels": [x]}
        for b, e, x in s.entities
    ]
    kept, cancelled = [{"type": "labels", "value": value} for value in values], {"was_cancelled": True, "result": []}
    return {"id": 1, "data": {"text": s.text}, "annotations": [cancelled, {"was_cancelled": False, "result": kept}]}


def doccano_relations(s: Sentence) -> Any:
    entities = [{"id": 1, "label": x, "start_offset": b, "end_offset": e} for b, e, x in s.entities]
    return {"text": s.text, "entities": entities, "relations": []}


def of_predict(s: Sentence) -> Any:
    entities = [{"start": b, "end": e, "label": x, "text": s.text[b:e], "score": 0.5} for b, e, x in s.entities]
    return {"line": 1, "text": s.text, "entities": entities}


def brat(folder: Path, rows: list[Sentence]) -> Path:
    saved(folder / "train.txt", "".join(s.text + "\n" for s in rows).encode())
    begin, lines = 0, list[str]()
    for s in rows:
        lines += [f"T{len(lines)}\t{x} {begin + b} {begin + e}\t{s.text[b:e]}" for b, e, x in s.entities]
        begin += len(s.text) + 1
    return saved(folder / "train.ann", "\n".join(lines).encode())


def doc_bin(folder: Path, rows: list[Sentence]) -> Path:
    import spacy
    from spacy.tokens import DocBin

    blank, documents = spacy.blank("en"), list[Any]()
    for s in rows:
        document = blank(s.text)
        document.ents = [document.char_span(b, e, x, alignment_mode="strict") for b, e, x in s.entities]
        documents.append(document)
    DocBin(docs=documents).to_disk(folder / "train.spacy")
    return folder / "train.spacy"


def entity_table(folder: Path, rows: list[Sentence]) -> Path:
    lines = ["line\tstart\tend\tlabel\ttext\tscore\tsentence"]
    lines += [f"{n}\t{b}\t{e}\t{x}\t{s.text[b:e]}\t0.5\t{s.text}" for n, s in enumerate(rows) for b, e, x in s.entities]
    return saved(folder / "train.tsv", "\n".join(lines).encode())


def numbered(s: Sentence) -> Any:
    return {"tokens": s.words, "ner_tags": [TAGS.index(tag) for tag in s.tags]}


def with_info(write: Callable[[Path, list[Any]], Path], field: str, names: Sequence[str]) -> Any:
    """The file beside what the library datasets says of it."""

    def both(folder: Path, rows: list[Any]) -> Path:
        (folder / "dataset_info.json").write_text(json.dumps({"features": features(field, names)}))
        return write(folder, rows)

    return both


def features(field: str, names: Sequence[str]) -> Any:
    classes = {"names": list(names), "_type": "ClassLabel"}
    return {field: {"feature": classes, "_type": "Sequence"} if field in ("ner_tags", "upos") else classes}


def as_arrow(kind: str, form: Callable[[Any], Any], field: str, names: Sequence[str]) -> Any:
    """A parquet file, a folder of two, or a folder of `save_to_disk`."""

    def write(folder: Path, rows: list[Any]) -> Path:
        metadata = {"huggingface": json.dumps({"info": {"features": features(field, names)}})}
        table = pyarrow.Table.from_pylist([form(row) for row in rows]).replace_schema_metadata(metadata)
        if kind == "parquet":
            parquet.write_table(table, folder / "train.parquet")
            return folder / "train.parquet"
        place = folder / "train"
        place.mkdir()
        for i, part in enumerate((table.slice(0, 5), table.slice(5))):
            if kind == "folder":
                parquet.write_table(part, place / f"{i}.parquet")
            else:
                with ipc.new_stream(str(place / f"data-{i}.arrow"), part.schema) as stream:
                    stream.write_table(part)
        return place

    return write


TAGGED: dict[str, Any] = {
    "conll": columns("train.conll", lambda i, word, tag: f"{word}\t{tag}"),
    "conll of spaces, Windows": columns("train.iob", lambda i, word, tag: f"{word} {tag}\r"),
    "conll of four columns in IOB1": columns(
        "train.txt", lambda i, word, tag: f"{i} {word} {tag} _", lambda tags: [t.replace("B-", "I-") for t in tags]
    ),
    "conll in BIOES, gz": columns("train.conll.gz", lambda i, w, tag: f"{w}\t{tag}", lambda t: ends_marked(t, *"ES")),
    "conll in BILOU, xz": columns("train.conll.xz", lambda i, w, tag: f"{w}\t{tag}", lambda t: ends_marked(t, *"LU")),
    "conll, bz2": columns("train.bio.bz2", lambda i, word, tag: f"{word}\t{tag}"),
    "words and tags": by_line("train.jsonl", lambda s: {"words": s.words, "tags": s.tags}),
    "words and tags of predict": by_line(
        "train.jsonl", lambda s: {"line": 1, "words": s.words, "tags": s.tags, "confidence": [0.5] * len(s.words)}
    ),
    "numbers": with_info(by_line("train.jsonl", numbered), "ner_tags", TAGS),
    "parquet": as_arrow("parquet", numbered, "ner_tags", TAGS),
    "folder of parquet": as_arrow("folder", numbered, "ner_tags", TAGS),
    "save_to_disk": as_arrow("arrow", numbered, "ner_tags", TAGS),
    "Prodigy": by_line("train.jsonl", prodigy),
    "doccano": by_line("train.jsonl", lambda s: {"id": 1, "text": s.text, "label": s.entities}),
    "doccano with relations, a list": by_line("train.json", doccano_relations),
    "Label Studio": by_line("train.json", label_studio),
    "spaCy": by_line("train.jsonl", lambda s: [s.text, {"entities": s.entities}]),
    "entities of predict": by_line("train.jsonl", of_predict),
    "table of entities": entity_table,
    "brat": brat,
    "DocBin": doc_bin,
}


class Review(NamedTuple):
    """A text with its class."""

    text: str
    label: str


def reviews(language: str, count: int) -> list[Review]:
    """Half of either class, a function of the arguments."""
    words = {"en": ("dull and bad", "fine and good"), "de": ("öde und mies", "fein und gut")}[language]
    return [Review(f'The "{PLACES[i % 5]}" book, part {i}, is {words[i % 2]}.', CLASSES[i % 2]) for i in range(count)]


def table(name: str, header: Sequence[str], row: Callable[[Review], Sequence[str]]) -> Any:
    """A TSV, or a CSV with quotes."""

    def write(folder: Path, rows: list[Review]) -> Path:
        out, lines = io.StringIO(), [*([header] if header else []), *map(row, rows)]
        if ".csv" in name:
            csv.writer(out).writerows(lines)
        else:
            out.write("".join("\t".join(cells) + "\n" for cells in lines))
        return saved(folder / name, out.getvalue().encode())

    return write


def webis(folder: Path, rows: list[Review]) -> Path:
    text = "".join(f"<item><rating>{r.label}.0</rating><text>{r.text}</text></item>\n" for r in rows)
    return saved(folder / "train.review", f"<items>\n{text}</items>".encode())


CLASSIFIED: dict[str, Any] = {
    "tsv": table("train.tsv", ("label", "text"), lambda r: (r.label, r.text)),
    "tsv with other names": table("train.tsv", ("id", "verdict", "said"), lambda r: (r.text[:30], r.label, r.text)),
    "tsv without names": table("train.tsv", (), lambda r: (r.label, r.text)),
    "csv, gz": table("train.csv.gz", ("sentence", "category"), lambda r: (r.text, r.label)),
    "json lines": by_line("train.jsonl", lambda r: {"text": r.text, "label": r.label}),
    "json lines with an answer": by_line(
        "train.jsonl", lambda r: {"text": r.text, "answer": "accept", "_task_hash": 7, "label": r.label}
    ),
    "numbers": with_info(
        by_line("train.jsonl", lambda r: {"text": r.text, "label": CLASSES.index(r.label)}), "label", CLASSES
    ),
    "parquet": as_arrow("parquet", lambda r: {"text": r.text, "label": CLASSES.index(r.label)}, "label", CLASSES),
    "marc": by_line("train.jsonl", lambda r: {"review_body": r.text, "stars": r.label, "language": "en"}),
    "webis-cls": webis,
}

PARTS = ("DET", "NOUN", "PROPN", "PUNCT", "VERB")
OF_PARTS = {"DET": ["the", "a"], "NOUN": ["cat", "dog", "house"], "PROPN": ["Ann", "Bob"], "VERB": ["sees", "eats"]}


def parts_of_speech(count: int, shift: int) -> list[Sentence]:
    """Sentences with a tag for each word and no entities."""
    made = []
    for i in range(shift, count + shift):
        tags = ["DET", "NOUN", "VERB", "PROPN"] if i % 2 else ["PROPN", "VERB", "DET", "NOUN"]
        words = [*(OF_PARTS[tag][(i * i + k) % len(OF_PARTS[tag])] for k, tag in enumerate(tags)), f"w{i}", "."]
        made.append(Sentence(" ".join(words), tuple(words), (*tags, "NOUN", "PUNCT"), ()))
    return made


def conllu(folder: Path, rows: list[Sentence]) -> Path:
    text = ""
    for s in rows:
        numbered_rows = enumerate(zip(s.words, s.tags, strict=True), 1)
        first, *rest = [f"{k}\t{w}\t_\t{t}\t{t}-x\t_\t0\tdep\t_\t_\n" for k, (w, t) in numbered_rows]
        both, empty = "1-2\tboth\t" + "\t".join("_" * 8) + "\n", "1.1\tempty\t_\tX" + "\t_" * 6 + "\n"
        text += f"# text = {s.text}\n{both}{first}{empty}{''.join(rest)}\n"
    return saved(folder / "train.conllu", text.encode())


def indexed(s: Sentence) -> Any:
    return {"tokens": s.words, "upos": [PARTS.index(tag) for tag in s.tags]}


PLAIN: dict[str, Any] = {
    "conllu": conllu,
    "conll": TAGGED["conll"],
    "strings": by_line("train.jsonl", lambda s: {"tokens": s.words, "upos": s.tags}),
    "numbers": with_info(by_line("train.ndjson", indexed), "upos", PARTS),
    "parquet": as_arrow("parquet", indexed, "upos", PARTS),
}
