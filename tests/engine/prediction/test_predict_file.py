import csv
import gzip
import io
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from xlt_engine import ConfigError, DataError, StorageError
from xlt_engine.engine import predict, predict_file
from xlt_engine.engine.prediction import file_predictor

LINES = ["Anna lives in Paris", "Carl saw London today", "the city of Oslo is old", "a good book about Berlin"] * 3
CLASSES = ("good", "bad", "fair")
CONLL = "-DOCSTART- X O\n\nAnna NNP B-PER\nsaw VBD O\n\n\nOslo NNP B-LOC\n"


def test_conll_gets_two_columns_and_keeps_its_lines(tagger_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "a.conll").write_text(CONLL)
    predict_file(tagger_folder, tmp_path / "a.conll", tmp_path / "out.conll")
    first, second = predict(tagger_folder, [["Anna", "saw"], ["Oslo"]])
    expected = CONLL.splitlines()
    for line, one, word in ((2, first, 0), (3, first, 1), (6, second, 0)):
        expected[line] += f" {one.confidences[word]:.4f} {one.labels[word]}"
    assert (tmp_path / "out.conll").read_text().splitlines() == expected
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["a.conll", "out.conll"]


def labelled(model: Path, path: Path, text: str, **options: Any) -> str:
    """What `predict` writes for a file."""
    path.write_bytes(text.encode())
    predict_file(model, path, path.with_name("out"), **options)
    return path.with_name("out").read_text("utf-8")


def test_conll_with_tabs_and_abstentions(tagger_folder: Path, tmp_path: Path) -> None:
    text = "\ufeffAnna Maria\tO\r\nsaw\tO\r\n"
    out = labelled(tagger_folder, tmp_path / "a.conll", text, abstain=True, alpha=1.0)
    cells = [line.split("\t") for line in out.split("\n")]
    assert [[*c[:2], *c[3:]] for c in cells] == [["Anna Maria", "O", "_"], ["saw", "O", "_"], [""]]


def test_comments_of_a_column_file_are_copied(tagger_folder: Path, tmp_path: Path) -> None:
    text = labelled(tagger_folder, tmp_path / "a.conll", "# doc1\nAnna O\nsaw O\n\n# doc2\n# O\n")
    lines = [line.split(" ") for line in text.split("\n")][:6]
    assert [line[0] for line in lines] == ["#", "Anna", "saw", "", "#", "#"]
    assert [len(line) for line in lines] == [2, 4, 4, 1, 2, 4]


def test_a_row_with_nan(tagger_folder: Path, tmp_path: Path) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rows = [{"words": ["Anna", "NaN"], "price": float("nan")}, {"words": ["saw"], "price": 1.5}]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    predict_file(tagger_folder, tmp_path / "a.parquet", tmp_path / "out.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text("utf-8").splitlines()]
    assert [(line["words"], line["price"]) for line in lines] == [(["Anna", "NaN"], None), (["saw"], 1.5)]


@pytest.mark.parametrize("column", [2, -3])
def test_a_column_that_is_not_there(tagger_folder: Path, tmp_path: Path, column: int) -> None:
    (tmp_path / "a.conll").write_text("Anna O\n", "utf-8")
    with pytest.raises(
        DataError, match=rf"a\.conll:1: no column {column}; name that of the words: reader.token_column"
    ):
        predict_file(tagger_folder, tmp_path / "a.conll", tmp_path / "out", token_column=column)


def test_plain_text_for_a_tagger(tagger_folder: Path, tmp_path: Path) -> None:
    rows = labelled(tagger_folder, tmp_path / "a.txt", "Anna saw Oslo.\n\nCarl\n").split("\n")
    assert [row.split("\t")[0] for row in rows] == ["Anna", "saw", "Oslo", ".", "", "Carl", "", ""]


def test_plain_text_for_a_classifier(classifier_folder: Path, tmp_path: Path) -> None:
    lines = [LINES[0], "", "with\ta tab", LINES[1]]
    texts = [line for line in lines if line]
    found = dict(zip(texts, predict(classifier_folder, texts), strict=True))
    expected = [f"{found[x].label}\t{found[x].confidence:.4f}\t{x}" if x else "" for x in lines]
    assert labelled(classifier_folder, tmp_path / "a.txt", "\n".join(lines)).split("\n") == [*expected, ""]


def test_tables(classifier_folder: Path, tmp_path: Path) -> None:
    rows = [["id", "text"], ["1", 'say "Oslo", twice'], ["2", "line\nbreak"], ["3", "Anna"]]
    with (tmp_path / "a.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    predict_file(classifier_folder, tmp_path / "a.csv", tmp_path / "out.csv")
    found = predict(classifier_folder, [r[1] for r in rows[1:]])
    with (tmp_path / "out.csv").open(newline="") as file:
        out = list(csv.reader(file))
    assert ([r[:2] for r in out], out[0][2:]) == (rows, ["predicted", "confidence"])
    assert [r[2:] for r in out[1:]] == [[f.label, f"{f.confidence:.4f}"] for f in found]  # type: ignore[union-attr]

    (tmp_path / "a.tsv").write_text('body\tmore\nsay "Oslo\tAnna\n\nold\tCarl\n')
    predict_file(classifier_folder, tmp_path / "a.tsv", tmp_path / "out", text_column="body", pair_column="more")
    found = predict(classifier_folder, ['say "Oslo', "old"], pairs=["Anna", "Carl"])
    cells = [line.split("\t") for line in (tmp_path / "out").read_text().split("\n")]
    assert (cells[0], cells[2]) == (["body", "more", "predicted", "confidence"], [""])
    assert [cells[1][2], cells[3][2]] == [f.label for f in found]  # type: ignore[union-attr]


def test_json_lines(tagger_folder: Path, classifier_folder: Path, tmp_path: Path) -> None:
    text = '{"id": 7, "words": ["Anna", "saw"]}\n\n{"text": "Oslo, old"}\n'
    first, blank, second, end = labelled(tagger_folder, tmp_path / "a.jsonl", text).split("\n")
    assert (blank, end, json.loads(second)["words"]) == ("", "", ["Oslo", ",", "old"])
    first, (one,) = json.loads(first), predict(tagger_folder, [["Anna", "saw"]])
    assert (first["id"], first["predicted"], first["agree"]) == (7, list(one.labels), list(one.agree))
    assert first["confidence"] == pytest.approx(one.confidences, rel=1e-4)

    text = labelled(classifier_folder, tmp_path / "b.jsonl", '{"text": "Anna ü"}\n', abstain=True, alpha=1.0)
    value = json.loads(text)
    assert (value["text"], value["predicted"]) == ("Anna ü", None)
    assert sum(value["probabilities"].values()) == pytest.approx(1, rel=1e-5)


def test_any_input_as_json(tagger_folder: Path, classifier_folder: Path, tmp_path: Path) -> None:
    text = labelled(tagger_folder, tmp_path / "a.conll", CONLL, output_format="jsonl")
    values = [json.loads(line) for line in text.splitlines()]
    assert [(v["line"], v["words"], len(v["tags"])) for v in values] == [(3, ["Anna", "saw"], 2), (7, ["Oslo"], 1)]
    value = json.loads(labelled(classifier_folder, tmp_path / "a.tsv", "text\nAnna\n", output_format="jsonl"))
    assert (value["line"], value["text"], value["label"] in CLASSES) == (2, "Anna", True)


def test_chunks_do_not_change_the_result(tagger_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "\n".join("".join(f"{w} O\n" for w in line.split()) for line in LINES)
    (tmp_path / "a.conll").write_text(text)
    predict_file(tagger_folder, tmp_path / "a.conll", tmp_path / "whole")
    monkeypatch.setattr(file_predictor, "CHUNK_RECORDS", 2)
    predict_file(tagger_folder, tmp_path / "a.conll", tmp_path / "parts")
    whole, parts = ((tmp_path / n).read_text().split("\n") for n in ("whole", "parts"))
    assert len(whole) == len(parts)
    for a, b in zip(whole, parts, strict=True):
        assert a.split()[:2] + a.split()[3:] == b.split()[:2] + b.split()[3:]
        assert [float(x) for x in a.split()[2:3]] == pytest.approx([float(x) for x in b.split()[2:3]], rel=1e-3)


def test_a_pooled_file_is_one_chunk(classifier_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.txt").write_text("\n".join(LINES) + "\n")
    monkeypatch.setattr(file_predictor, "CHUNK_RECORDS", 2)
    predict_file(classifier_folder, tmp_path / "a.txt", tmp_path / "out", word_pooling=0.6)
    whole = predict(classifier_folder, LINES, word_pooling=0.6)
    found = [line.split("\t") for line in (tmp_path / "out").read_text().splitlines()]
    assert found == [[p.label, f"{p.confidence:.4f}", line] for p, line in zip(whole, LINES, strict=True)]


def _standard(monkeypatch: pytest.MonkeyPatch, data: object) -> io.BytesIO:
    out = io.BytesIO()
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=data))
    monkeypatch.setattr(sys, "stdout", SimpleNamespace(buffer=out, isatty=lambda: False))
    return out


def test_a_stream_is_answered_while_it_runs(classifier_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_predictor, "CHUNK_RECORDS", 4)
    behind = []

    def stream() -> Iterator[bytes]:
        for n in range(40):
            behind.append(n - out.getvalue().count(b"\n"))
            yield b"Anna saw Oslo\n"

    lines = stream()
    out = _standard(monkeypatch, SimpleNamespace(readline=lambda limit: next(lines, b"")))
    predict_file(classifier_folder, "-")
    assert out.getvalue().count(b"\n") == 40
    assert max(behind) <= 5


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"Anna B-PER\nsaw O\n", 2),
        (b"Anna S-PER\nNew B-LOC\nYork E-LOC\n", 3),
        (b"# id 1\nAnna S-PER\n", 2),
        (b"Anna saw\n", 3),
        (b'{"words": ["Anna"]}\n', 1),
    ],
    ids=["conll", "bioes", "comment", "text", "jsonl"],
)
def test_standard_input_is_looked_at(tagger_folder: Path, monkeypatch: Any, data: bytes, expected: int) -> None:
    out = _standard(monkeypatch, io.BytesIO(data))
    predict_file(tagger_folder, "-")
    assert out.getvalue().count(b"\n") == expected


@pytest.mark.parametrize(
    ("model", "name", "data", "message"),
    [
        ("tagger", "a.conll", b"Anna O\nsaw\n", ":2: 1 columns, but the file began with 2"),
        ("tagger", "a.conll", b"Anna O\n\xff O\n", ":2:1: byte 0xff is not utf-8"),
        ("tagger", "a.conll", b"", ": nothing to label"),
        ("tagger", "a.jsonl", b'{"words": ["Anna"]}\n{"words": NaN}\n', ":2: not a usable JSON object"),
        ("tagger", "a.jsonl", b'{"words": []}\n', ":1: no list of words"),
        ("tagger", "a.jsonl", b'{"words": ["a"], "predicted": 1}\n', ":1: a field 'predicted' is there already"),
        ("classifier", "a.tsv", b"text\nAnna\tx\n", ":2: 2 columns, but the header has 1"),
        ("classifier", "a.tsv", b"texts\nAnna\n", ":1: no column 'text'"),
        ("classifier", "a.tsv", b"text\tpredicted\nAnna\tx\n", ":1: a column 'predicted' is there already"),
        ("classifier", "a.csv", b'text\n" "\n', ": nothing to label"),
        ("classifier", "a.csv", b"text;n\nAnna;1\n", ":1: one column, 'text;n', .* set reader.delimiter = \";\""),
        ("classifier", "a.csv", b'text\n"Anna" x\n', ":2: malformed CSV"),
        ("classifier", "a.jsonl", b'{"text": 3}\n', ":1: field 'text' holds a int, not a string"),
        ("classifier", "a.jsonl", b'{"txt": "a"}\n', ":1: no text in 'text'"),
        ("tagger", "a.jsonl", b'{"text": 3.5}\n', ":1: field 'text' holds a float, not a string"),
        ("classifier", "a.txt", b"\n\n", ": nothing to label"),
    ],
)
def test_bad_input(request: Any, tmp_path: Path, model: str, name: str, data: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(data)
    (tmp_path / "out").write_text("before")
    with pytest.raises(DataError, match=name + message):
        predict_file(request.getfixturevalue(f"{model}_folder"), tmp_path / name, tmp_path / "out")
    assert ((tmp_path / "out").read_text(), len(list(tmp_path.iterdir()))) == ("before", 2)


def test_a_header_alone_is_not_printed(
    classifier_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.csv").write_text("n,text\n")
    out = _standard(monkeypatch, io.BytesIO())
    with pytest.raises(DataError, match="nothing to label"):
        predict_file(classifier_folder, tmp_path / "a.csv")
    assert out.getvalue() == b""


def test_rows_without_text_keep_their_place(classifier_folder: Path, tmp_path: Path) -> None:
    """One of 50,000 rows of a survey has no comment: the others have their labels."""
    (tmp_path / "a.csv").write_text("n;text\n1;good book\n2; \n3;bad; book\n".replace("bad; book", '"bad; book"'))
    predictor = predict_file(classifier_folder, tmp_path / "a.csv", tmp_path / "out.csv", delimiter=";")
    header, *rows = csv.reader(io.StringIO((tmp_path / "out.csv").read_text()), delimiter=";")
    assert header == ["n", "text", "predicted", "confidence"]
    labels = [p.label for p in predict(classifier_folder, ["good book", "bad; book"], task="classification")]
    assert [row[:3] for row in rows] == [["1", "good book", labels[0]], ["2", " ", ""], ["3", "bad; book", labels[1]]]
    assert [note for note in predictor.notes() if "without text" in note] == [
        "rows without text: 1; their labels are left empty"
    ]
    (tmp_path / "a.json").write_text('[{"text": "good book"},\n{"text": null}, {"text": ""}]')
    assert predict_file(classifier_folder, tmp_path / "a.json", tmp_path / "out").counts["without_text"] == 2
    written = [json.loads(line) for line in (tmp_path / "out").read_text().splitlines()]
    assert [row["predicted"] for row in written] == [labels[0], None, None]


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    """Said before the model, which is not there either, is looked for."""
    what = "no/y.txt: there is no folder .*no; make it"
    with pytest.raises(StorageError, match=what):
        predict_file(tmp_path / "no model", tmp_path / "a.txt", tmp_path / "no" / "y.txt")


def test_other_errors_of_files(tagger_folder: Path, classifier_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("text\nAnna\n")
    with pytest.raises(ConfigError, match="format tsv is not for ner"):
        predict_file(tagger_folder, tmp_path / "a.tsv", tmp_path / "out")
    pytest.raises(DataError, predict_file, tagger_folder, tmp_path / "b.conll", tmp_path / "out").match("no such file")
    with pytest.raises(StorageError, match="nowhere"):
        predict_file(classifier_folder, tmp_path / "a.tsv", tmp_path / "nowhere" / "out")


def test_a_link_stays_a_link_and_the_input_may_be_the_output(classifier_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("text\nAnna\n")
    (tmp_path / "link.tsv").symlink_to(tmp_path / "a.tsv")
    predict_file(classifier_folder, tmp_path / "a.tsv", tmp_path / "link.tsv")
    assert (tmp_path / "link.tsv").is_symlink()
    assert (tmp_path / "a.tsv").read_text().startswith("text\tpredicted\tconfidence\nAnna\t")


def test_a_pipe_with_a_name_is_written_to_and_not_replaced(classifier_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("text\nAnna\n")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        predict_file(classifier_folder, tmp_path / "a.tsv", pipe)
        assert pipe.is_fifo()
        assert os.read(reader, 4096).startswith(b"text\tpredicted\tconfidence\nAnna\t")
    finally:
        os.close(reader)


def test_packed_texts_with_entities(tagger_folder: Path, tmp_path: Path) -> None:
    rows = '{"text": "Anna saw Oslo", "spans": []}\n'
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(rows.encode()))
    predict_file(tagger_folder, tmp_path / "a.jsonl.gz", tmp_path / "packed")
    assert (tmp_path / "packed").read_text("utf-8") == labelled(tagger_folder, tmp_path / "a.jsonl", rows)
