"""Texts with entities as characters: the same sentences in every format give the same words and tags."""

from __future__ import annotations

import gzip
import json
import re
import sys
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from written import Sentence, label_studio, of_predict, prodigy

from xlt_engine import ConfigError, DataError
from xlt_engine.data import Example, ReaderOptions, read_examples
from xlt_engine.data.readers.spans import ENTITY_COLUMNS, SpansReader
from xlt_engine.engine.preflight.init_files import sniff

TEXTS = ["Angela Merkel besucht Paris, sagt die dpa.", "Heute nicht.", "🙂 In São Paulo: Lula."]
WORDS = [("Angela", "Merkel", "besucht", "Paris", ",", "sagt", "die", "dpa", "."), ("Heute", "nicht", ".")]
WORDS += [("🙂", "In", "São", "Paulo", ":", "Lula", ".")]
TAGS = [("B-PER", "I-PER", "O", "B-LOC", "O", "O", "O", "B-ORG", "O"), ("O", "O", "O")]
TAGS += [("O", "O", "B-LOC", "I-LOC", "O", "B-PER", "O")]
ENTITIES = [((0, 13, "PER"), (22, 27, "LOC"), (38, 41, "ORG")), (), ((5, 14, "LOC"), (16, 20, "PER"))]
SENTENCES = [Sentence(*one) for one in zip(TEXTS, WORDS, TAGS, ENTITIES, strict=True)]
EXPECTED = list(zip(WORDS, TAGS, strict=True))


def doccano(text: str, spans: Any) -> Any:
    return {"id": 5, "text": text, "label": spans}


def as_lines(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return path


def as_list(path: Path, rows: list[Any]) -> Path:
    path.write_text(json.dumps(rows, ensure_ascii=False, indent=1), "utf-8")
    return path


def content(examples: list[Example]) -> list[Any]:
    return [(e.words, e.labels) for e in examples]


def test_brat(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\n".join([TEXTS[0], "", *TEXTS[1:]]) + "\n", "utf-8")
    third = len(TEXTS[0]) + len(TEXTS[1]) + 3
    lines = ["T2\tLOC 22 27\tParis", "T1\tPER 0 13\tAngela Merkel", "R1\tin Arg1:T1 Arg2:T2", "T3\tORG 38 41\tdpa"]
    lines += [f"T{n}\t{x} {third + s} {third + e}\t" for n, (s, e, x) in enumerate(ENTITIES[2], 4)]
    (tmp_path / "a.ann").write_text("\n".join(lines) + "\n", "utf-8")
    examples = read_examples(tmp_path / "a.ann", task="ner")
    assert (content(examples), [e.line for e in examples]) == (EXPECTED, [1, 3, 4])
    for name in ("a.ann", "a.txt"):
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress((tmp_path / name).read_bytes()))
    assert content(read_examples(tmp_path / "a.ann.gz", task="ner")) == EXPECTED
    (tmp_path / "a.ann").write_text(
        "T1\tPER 38 52\tdpa.\n\nHeute nich\nT2\tPER 0 5;7 9\tAngel\nT3\tLOC 900 901\tx\n", "utf-8"
    )
    caught = pytest.raises(DataError, read_examples, tmp_path / "a.ann", task="ner")
    faults = str(caught.value).split("\n")
    assert [fault.split(": ")[0].split(".ann:")[1] for fault in faults] == ["4", "1", "5"]


@pytest.mark.parametrize("ends", ["\r\n", "\n"])
def test_what_brat_says_of_an_entity_is_compared(tmp_path: Path, ends: str) -> None:
    """brat counts a line end of two characters as two; without its own text the labels would be those of neighbours."""
    text = ends.join(("张三在北京。", "李四去上海。", ""))
    places = [(match.start(), match.end()) for word in ("李四", "上海") for match in re.finditer(word, text)]
    lines = [f"T{n}\tPER {start} {end}\t{text[start:end]}\n" for n, (start, end) in enumerate(places)]
    (tmp_path / "a.txt").write_bytes(text.encode())
    (tmp_path / "a.ann").write_text("".join(lines), "utf-8")
    if ends == "\n":
        assert [e.labels for e in read_examples(tmp_path / "a.ann", task="ner", split="characters")][1] == tuple(
            ("B-PER", "I-PER", "O", "B-PER", "I-PER", "O")
        )
        return
    with pytest.raises(DataError, match=r"a\.ann:1: PER at 8-10 is '四去', not '李四'; correct its place; line ends"):
        read_examples(tmp_path / "a.ann", task="ner", split="characters")


def test_texts_of_one_line_have_lines_of_their_own(tmp_path: Path) -> None:
    rows = list(map(label_studio, SENTENCES))
    (tmp_path / "a.json").write_text(json.dumps(rows), "utf-8")
    examples = read_examples(tmp_path / "a.json", task="ner")
    assert [(e.id, e.line) for e in examples] == [(f"a:{n}", n) for n in range(1, len(TEXTS) + 1)]


def test_a_table_of_entities_is_compared(tmp_path: Path) -> None:
    path, names = tmp_path / "a.tsv", "\t".join(ENTITY_COLUMNS)
    row = "1\t0\t4\tPER\tAnna\t0.9\tAnna lives here."
    path.write_text(f"{names}\n{row}\n", "utf-8")
    assert read_examples(path, task="ner")[0].labels == ("B-PER", "O", "O", "O")
    moved = row.replace("0\t4", "5\t10")
    path.write_text(f"{names}\n{row}\n{moved}\n", "utf-8")
    with pytest.raises(DataError, match=r"a\.tsv:3: PER at 5-10 of 16 characters is 'lives', not 'Anna'"):
        read_examples(path, task="ner")
    path.write_text(f"{names}\n{row}\n{row.replace('Anna lives', 'Anna stays')}\n", "utf-8")
    pytest.raises(DataError, read_examples, path, task="ner").match(r"a\.tsv:3: another sentence than line 2 has")


def test_doc_bin_of_spacy(tmp_path: Path) -> None:
    """As spaCy itself writes it; an entity of its words may end within a word of ours."""
    library = pytest.importorskip("spacy", reason="spaCy is not installed")
    kept, nlp = library.tokens.DocBin(), library.blank("de")
    for text, spans in [*zip(TEXTS, ENTITIES, strict=True), ("Ein US$-Konto.", [(4, 7, "MON")]), ("Nein.", None)]:
        document = nlp(text)
        if spans is not None:
            document.ents = [document.char_span(*span) for span in spans]
        kept.add(document)
    kept.to_disk(tmp_path / "a.spacy")
    examples = read_examples(tmp_path / "a.spacy", task="ner", cut_spans="drop")
    assert (content(examples)[:3], [e.line for e in examples]) == (EXPECTED, [1, 2, 3, 4, 5])
    assert examples[4].labels is None
    with pytest.raises(DataError, match=r"a\.spacy:5: no list of entities"):
        read_examples(tmp_path / "a.spacy", task="ner", cut_spans="drop", require_labels=True)
    (tmp_path / "a.spacy").write_bytes((tmp_path / "a.spacy").read_bytes()[:-9])
    pytest.raises(DataError, read_examples, tmp_path / "a.spacy", task="ner").match(r"a\.spacy: spaCy cannot read it")


def test_doc_bin_of_a_stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With what of spaCy's interface is used; the stand-in's file is JSON."""

    class DocBin:
        def from_bytes(self, packed: bytes) -> DocBin:
            self.rows = json.loads(zlib.decompress(packed))
            return self

        def get_docs(self, vocab: Any) -> Iterator[Any]:
            for text, spans in self.rows:
                ents = [SimpleNamespace(start_char=s, end_char=e, label_=x) for s, e, x in spans or []]
                labelled = spans is not None
                yield SimpleNamespace(text=text, ents=ents, has_annotation=lambda name, known=labelled: known)

    path = tmp_path / "a.spacy"
    rows = [*zip(TEXTS, ENTITIES, strict=True), ("Nein.", None), ("Hamburger", [(0, 7, "LOC")])]
    path.write_bytes(zlib.compress(json.dumps(rows).encode()))
    for name in ("spacy", "spacy.tokens", "spacy.vocab"):
        monkeypatch.setitem(sys.modules, name, None)
    pytest.raises(ConfigError, read_examples, path, task="ner").match(r"a\.spacy: needs spaCy: pip install spacy")
    monkeypatch.setitem(sys.modules, "spacy.tokens", SimpleNamespace(DocBin=DocBin))
    monkeypatch.setitem(sys.modules, "spacy.vocab", SimpleNamespace(Vocab=dict))
    examples = read_examples(path, task="ner", cut_spans="expand")
    assert content(examples) == [*EXPECTED, (("Nein", "."), None), (("Hamburger",), ("B-LOC",))]
    assert examples.counts == {"cut": 1}
    assert [row for _, row in SpansReader(path, ReaderOptions(text="said"), task="ner").objects()][1] == {
        "said": TEXTS[1]
    }
    assert ((facts := sniff(path)).format, facts.task) == ("spans", "ner")
    path.write_bytes(zlib.compress(json.dumps([(" " * 3_000_000, [])]).encode()))
    pytest.raises(DataError, read_examples, path, task="ner").match("it unpacks to over 200 times its size")
    path.write_bytes(zlib.compress(json.dumps([("Ein Haus.", [(0, 3, "A B")])]).encode()))
    pytest.raises(DataError, read_examples, path, task="ner").match(r":1: .* is not an entity")


def test_what_is_left_out(tmp_path: Path) -> None:
    rows = list(map(prodigy, SENTENCES))
    rows[0]["answer"], rows[1]["answer"] = "reject", "ignore"
    examples = read_examples(as_lines(tmp_path / "a.jsonl", rows), task="ner")
    assert (content(examples), examples.counts) == (EXPECTED[2:], {"rejected": 2})
    unlabelled = as_lines(tmp_path / "b.jsonl", [rows[2], {"text": "Nein."}])
    assert content(read_examples(unlabelled, task="ner"))[1] == (("Nein", "."), None)
    with pytest.raises(DataError, match=r"b\.jsonl:2: no list of entities; the fields that may hold it: spans, "):
        read_examples(unlabelled, task="ner", require_labels=True)


def test_an_entity_that_cuts_a_word(tmp_path: Path) -> None:
    path = as_lines(tmp_path / "a.jsonl", [doccano("Im Hamburger Hafen", [(3, 10, "LOC"), (13, 19, "LOC")])])
    caught = pytest.raises(DataError, read_examples, path, task="ner")
    assert "13-19 of 18 characters is no part of it" in str(caught.value)
    as_lines(path, [doccano("Im Hamburger Hafen ", [(3, 10, "LOC"), (13, 19, "LOC")])])
    with pytest.raises(DataError, match=r":1: LOC at 3-10 'Hamburg' ends within a word; .*\"expand\" \('Hamburger'\)"):
        read_examples(path, task="ner")
    for how, expected in (("expand", ("O", "B-LOC", "B-LOC")), ("drop", ("O", "O", "B-LOC"))):
        examples = read_examples(path, task="ner", cut_spans=how)
        assert (examples[0].labels, examples.counts) == (expected, {"cut": 1})
    pytest.raises(ConfigError, read_examples, path, task="ner", cut_spans="widen").match("unknown cut_spans 'widen'")


@pytest.mark.parametrize(
    ("spans", "fault"),
    [
        ([(0, 13, "PER"), (7, 13, "PER")], "PER at 7-13 'Merkel' overlaps PER at 0-13; keep one of the two"),
        ([(21, 22, "LOC")], "LOC at 21-22 ' ' holds no word"),
        ([(3, 3, "LOC")], "LOC at 3-3 of 42 characters is no part of it"),
        ([(0, 6)], r"\[0, 6\] is not an entity; give start, end and one label"),
        ([("0", 6, "PER")], "is not an entity"),
        ([(0, 6, "TWO WORDS")], "one label without white space"),
    ],
)
def test_faults(tmp_path: Path, spans: Any, fault: str) -> None:
    path = as_lines(tmp_path / "a.jsonl", [doccano(TEXTS[1], []), doccano(TEXTS[0], spans)])
    pytest.raises(DataError, read_examples, path, task="ner").match(f"a.jsonl:2: .*{fault}")


def test_faults_of_the_rest(tmp_path: Path) -> None:
    wrong = of_predict(SENTENCES[0])
    wrong["entities"][1]["text"] = "Berlin"
    twice = label_studio(SENTENCES[0])
    twice["annotations"][0]["was_cancelled"] = False
    rows = [wrong, twice, {"content": "x", "spans": []}, 5, {"text": " ", "spans": []}]
    caught = pytest.raises(DataError, read_examples, as_list(tmp_path / "a.json", rows), task="ner")
    faults = str(caught.value)
    assert "LOC at 22-27 of 42 characters is 'Paris', not 'Berlin'" in faults
    assert "2 annotations of one text; keep one of them" in faults
    assert "no text in field 'text'; fields with a text: 'content'" in faults
    assert "a JSON int, not an object" in faults
    assert "empty text" in faults
    (tmp_path / "a.json").write_text('[{"text": "a", "spans": []},\n {"text": "\\ud800", "spans": []}]')
    pytest.raises(DataError, read_examples, tmp_path / "a.json", task="ner").match(r"a\.json:2: a lone surrogate in a")
    (tmp_path / "a.json").write_text('[{"text": "a", "spans": []},\n {"text": ]', "utf-8")
    with pytest.raises(DataError, match=r"a\.json:2: not usable JSON: .*export the file again"):
        read_examples(tmp_path / "a.json", task="ner")


def test_a_long_list_and_a_long_text_take_linear_time(tmp_path: Path) -> None:
    """Copies of the rest of the file for each text, or a look at every word for each entity, would take hours."""
    path, started = tmp_path / "a.json", time.process_time()
    as_list(path, [of_predict(SENTENCES[0])] * 20_000)
    assert len(read_examples(path, task="ner")) == 20_000
    words = 100_000
    as_list(path, [doccano("ab " * words, [(3 * i, 3 * i + 2, "X") for i in range(words)])])
    assert read_examples(path, task="ner")[0].labels == ("B-X",) * words
    assert time.process_time() - started < 60
