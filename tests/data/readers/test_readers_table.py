"""TSV, CSV, JSON lines, plain text, and the choice between the readers."""

import csv
import json
import lzma
import random
from pathlib import Path
from typing import Any

import pytest
from written import write

from xlt_engine import ConfigError, DataError
from xlt_engine.data import read_examples, read_jsonl, read_text, read_tsv

ODD = ["a\u2028b", "c\x0cd", "e\u0085f", "g\rh", 'an "unbalanced quote', '"', "x, y", "\u00a0z", "e\u0301", "ﬁ", "日本"]


UNNAMED = "tags are whole numbers without names; name them in their order, reader.tag_names"


def json_lines(path: Path, *rows: Any) -> Path:
    return write(path, "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_tsv_round_trip(tmp_path: Path, end: str, mark: str) -> None:
    path = write(tmp_path / "a.tsv", mark + end.join(["label\ttext", *(f"c\t{t}" for t in ODD)]) + end)
    examples = read_tsv(path, language="de")
    assert ([e.text for e in examples], {e.labels for e in examples}) == (ODD, {"c"})
    assert [e.id for e in examples[:2]] == ["a:2", "a:3"]
    assert examples[1] == examples[1].__class__("a:3", "de", None, ODD[1], None, "c", str(path), 3)


def test_csv_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    texts = [*ODD, "two\nlines", "after"]
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file, quoting=csv.QUOTE_ALL).writerows([["text", "label"], *([t, "x"] for t in texts)])
    examples = read_tsv(path)
    assert ([e.text for e in examples], [e.line for e in examples[-2:]]) == (texts, [len(ODD) + 2, len(ODD) + 4])
    renamed = read_examples(path.rename(tmp_path / "a.dat"), task="classification", format="csv")
    assert [e.text for e in renamed] == texts


@pytest.mark.fault(31)
def test_a_long_field(tmp_path: Path) -> None:
    """Longer than the module `csv` takes by itself."""
    text = 200_000 * "a "
    path = write(tmp_path / "a.csv", f'text,label\n"{text}",x\n')
    assert [e.text for e in read_examples(path, task="classification")] == [text]


def test_csv_errors(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", 'text,label\na,x\n"b" c,x\nd,x\n"open,x\ne,x\n')
    caught = pytest.raises(DataError, read_tsv, path)
    assert [line.split(": ")[0] for line in str(caught.value).split("\n")] == [f"{path}:3", f"{path}:5"]
    assert "malformed CSV" in str(caught.value)


def test_columns_by_name(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", "key\tpremise\thypothesis\tgold\nk1\ta\tb\tyes\nk2\tc\td\tno\n")
    examples = read_tsv(path, text="premise", pair="hypothesis", label="gold", id="key")
    assert [(e.id, e.text, e.pair, e.labels) for e in examples] == [("k1", "a", "b", "yes"), ("k2", "c", "d", "no")]
    assert read_tsv(path, text="premise", label=None)[0].labels is None
    assert read_tsv(path, text="premise")[0].labels is None
    with pytest.raises(DataError, match=r":1: no column 'label' for label; the columns are 'key', 'premise'"):
        read_tsv(path, text="premise", require_labels=True)
    caught = pytest.raises(DataError, read_tsv, path, pair="second")
    assert str(caught.value).count("no column") == 2
    write(path, "id\ttext\nk\ta\nl\tb\nk\tc\n")
    pytest.raises(DataError, read_tsv, path, id="id").match(r":4: id 'k' is already on line 2")


def test_tsv_errors(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", "text\tlabel\na\n\nb\tx\ty\n \tx\nc\t\nd\tx\ne\tz\n")
    caught = pytest.raises(DataError, read_tsv, path, labels=["x"])
    lines = str(caught.value).split("\n")
    assert [line.split(": ")[0] for line in lines] == [f"{path}:{n}" for n in (2, 4, 5, 6, 8)]
    said = ("1 columns", "3 columns", "empty text", "empty label", "unknown label 'z'")
    assert [what in line and "; " in line for line, what in zip(lines, said, strict=True)] == [True] * 5
    pytest.raises(DataError, read_tsv, write(path, "text\ttext\na\tb\n")).match("column 'text' occurs twice")
    pytest.raises(DataError, read_tsv, write(path, "")).match(r":1: no column 'text' for text; the columns are none")
    pytest.raises(DataError, read_tsv, write(path, "text\tlabel\n\t\n")).match(r"no examples \(skipped: 1 blank\)")
    pytest.raises(DataError, read_tsv, write(path, b"text\nca\xe9\n")).match(r":2:3: byte 0xe9 is not utf-8")


def test_label_map(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", "text\tlabel\n" + "".join(f"t{i}\t{i % 5 + 1}\n" for i in range(50)))
    stars: dict[str, str | None] = {"1": "neg", "2": "neg", "3": None, "4": "pos", "5": "pos"}
    examples = read_tsv(path, label_map=stars, labels=["neg", "pos"])
    assert ([e.labels for e in examples[:4]], len(examples)) == (["neg", "neg", "pos", "pos"], 40)
    assert examples.counts == {"dropped": 10}
    del stars["5"]
    with pytest.raises(DataError, match=r":6: label '5' is not in label_map; it maps 1, 2, 3, 4; add this label"):
        read_tsv(path, label_map=stars)
    with pytest.raises(DataError, match=r"no examples \(skipped: 50 dropped\)"):
        read_tsv(path, label_map=dict.fromkeys("12345"))


def test_jsonl_round_trip(tmp_path: Path) -> None:
    draw = random.Random(0)
    rows = [{"text": t, "label": draw.choice("ab"), "other": [1, None, {"x": 2.5}]} for t in [*ODD, "new\nline"]]
    path = tmp_path / "a.jsonl"
    for ascii_only in (True, False):
        write(path, "\ufeff" + "\n\n".join(json.dumps(r, ensure_ascii=ascii_only) for r in rows))
        examples = read_jsonl(path, language="fr")
        assert [(e.text, e.labels) for e in examples] == [(r["text"], r["label"]) for r in rows]
        assert [e.line for e in examples] == list(range(1, 2 * len(rows), 2))
        assert examples.counts == {"blank": len(rows) - 1}


def test_jsonl_words_and_pairs(tmp_path: Path) -> None:
    path = json_lines(
        tmp_path / "a.jsonl",
        {"words": ["New York", "\u2028"], "tags": ["I-LOC", "O"], "id": "s1"},
        {"words": ["a"], "id": "s2", "tags": None},
    )
    first, second = read_jsonl(path, id="id")
    assert (first.id, first.words, first.labels) == ("s1", ("New York", "\u2028"), ("B-LOC", "O"))
    assert (second.id, second.words, second.labels, second.line) == ("s2", ("a",), None, 2)
    pytest.raises(DataError, read_jsonl, path, scheme="bio").match(r":1: I-LOC does not continue")
    assert read_jsonl(path, scheme="bio", repair=True).counts == {"repaired": 1}
    pytest.raises(DataError, read_jsonl, path, labels=["O"]).match(r":1: unknown label 'B-LOC'")
    pytest.raises(DataError, read_jsonl, path, require_labels=True).match(r":2: no field 'tags' .*; label the example")
    json_lines(path, {"a": "x", "b": "y", "text": 3}, {"a": "x", "b": "y", "label": None})
    assert [(e.text, e.pair) for e in read_jsonl(path, text="a", pair="b")] == [("x", "y")] * 2


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ('{"text": "a", "score": NaN}', "NaN is not JSON"),
        ('{"text": "a", "score": -Infinity}', "-Infinity is not JSON"),
        ('{"text": "a", "text": "b"}', "the key 'text' occurs twice"),
        ('{"text": "a", "x": {"k": 1, "k": 2}}', "the key 'k' occurs twice"),
        ('{"text": "a"', "not a usable JSON object"),
        ('["a"]', "a JSON list, not an object"),
        ('{"text": "' + "\\ud800" + '"}', "a lone surrogate"),
        ('{"text": ' + "[" * 100_000 + "]" * 100_000 + "}", "not a usable JSON object"),
        ('{"text": ' + "9" * 5000 + "}", "not a usable JSON object"),
        ('{"label": "x"}', "no field 'text' for text"),
        ('{"text": null}', "no field 'text' for text"),
        ('{"text": 3}', "field 'text' holds a int, not a string"),
        ('{"text": "a", "label": 1.5}', "field 'label' holds a float, not a string"),
        ('{"text": " "}', "empty text"),
        ('{"words": []}', "0 words and no tags"),
        ('{"words": ["a", "b"], "tags": ["O"]}', "2 words and 1 tags"),
        ('{"words": "ab"}', "words is not a list of non-empty strings"),
        ('{"words": ["a", ""]}', "words is not a list of non-empty strings"),
        ('{"words": ["a"], "tags": [0]}', UNNAMED),
        ('{"words": ["a"], "tags": ["PER"]}', "unknown tag 'PER'"),
    ],
)
@pytest.mark.fault(33)
def test_jsonl_errors(tmp_path: Path, row: str, what: str) -> None:
    path = json_lines(tmp_path / "a.jsonl", {"text": "fine"}, row, {"text": "fine"})
    caught = pytest.raises(DataError, read_jsonl, path)
    message = str(caught.value)
    assert message.startswith(f"{path}:2: ")
    assert what in message
    assert "; " in message


def test_jsonl_ids(tmp_path: Path) -> None:
    path = json_lines(tmp_path / "a.jsonl", {"text": "a", "id": "k"}, {"text": "b"}, {"text": "c", "id": "k"})
    caught = pytest.raises(DataError, read_jsonl, path, id="id")
    assert [line.split("; ")[0] for line in str(caught.value).split("\n")] == [
        f"{path}:2: no field 'id' for id",
        f"{path}:3: id 'k' is already on line 1",
    ]
    json_lines(path, {"words": ["a"], "id": 3})
    pytest.raises(DataError, read_jsonl, path, id="id").match(r":1: id is a int, not a string")


def test_text(tmp_path: Path) -> None:
    body = "\n".join(["", *ODD, "  ", "", " end "])
    path = write(tmp_path / "de.txt.xz", lzma.compress(body.encode()))
    examples = read_text(path, language="de")
    assert [e.text for e in examples] == [*ODD, " end "]
    assert (examples[0].id, examples[0].line, examples[0].labels) == ("de:2", 2, None)
    assert examples.counts == {"blank": 3}
    split = read_text(write(tmp_path / "a.txt", "Dr. Müller-Lüdenscheidt's (3.5 %), l'eau …\n"), split_words=True)
    expected = ("Dr", ".", "Müller-Lüdenscheidt's", "(", "3.5", "%", ")", ",", "l'eau", "…")
    assert (split[0].words, split[0].text) == (expected, None)


def test_choice_of_reader(tmp_path: Path) -> None:
    tagged = write(tmp_path / "a.txt", "Bonn\tB-LOC\nliegt\tO\n")
    assert read_examples(tagged, task="ner")[0].labels == ("B-LOC", "O")
    assert read_examples(tagged, task="text")[0].text == "Bonn\tB-LOC"
    plain = write(tmp_path / "b.txt", "take vitamin B-12\nor not .\n")
    assert read_examples(plain, task="ner")[0].words == ("take", "vitamin", "B-12")
    assert read_examples(plain, task="classification", language="en")[1].text == "or not ."
    table = write(tmp_path / "c.TSV", "review\nfine\n")
    assert read_examples(table, task="classification", text="review")[0].text == "fine"
    rows = json_lines(tmp_path / "d.ndjson", {"text": "fine"})
    assert read_examples(rows, task="classification")[0].text == "fine"
    assert read_examples(rows, task="text", format="text")[0].text == '{"text": "fine"}'
    with pytest.raises(ConfigError, match="unknown format 'xml'; choose from conll"):
        read_examples(rows, task="text", format="xml")
    with pytest.raises(ConfigError, match="format tsv has no option 'txt'; did you mean 'text'"):
        read_examples(table, task="classification", txt="review")


def test_a_header_that_another_delimiter_cuts(tmp_path: Path) -> None:
    """One column with everything in it is no text, and the message says which setting is meant."""
    semicolons = write(tmp_path / "a.csv", '"id";"text";"label"\n1;a, b;x\n')
    caught = pytest.raises(DataError, read_tsv, semicolons, text="id;text;label")
    what = """one column, '"id";"text";"label"', in which ';' may stand between columns"""
    assert str(caught.value) == f'{semicolons}:1: {what}; set reader.delimiter = ";" or rename it'
    assert [(e.text, e.labels) for e in read_tsv(semicolons, delimiter=";")] == [("a, b", "x")]
    commas = write(tmp_path / "a.tsv", "text,label\na,x\n")
    pytest.raises(DataError, read_tsv, commas).match(r'set reader\.format = "csv" and reader\.delimiter = ","')
    assert read_tsv(write(tmp_path / "b.csv", "text\na; b\n"))[0].text == "a; b"
    assert read_tsv(write(tmp_path / "c.csv", "a; b\n"), text="0", header=False)[0].text == "a; b"


def test_white_space_around_labels(tmp_path: Path) -> None:
    table = write(tmp_path / "a.csv", "text,label\na,pos \nb,pos\nc,\u00a0neg\n")
    objects = json_lines(tmp_path / "a.jsonl", *({"text": "a", "label": x} for x in ("pos\t", "pos", " neg")))
    for path in (table, objects):
        examples = read_examples(path, task="classification", labels=("neg", "pos"))
        assert [e.labels for e in examples] == ["pos", "pos", "neg"]
        mapped = read_examples(path, task="classification", label_map={"pos ": "good", "neg": None})
        assert [e.labels for e in mapped] == ["good", "good"]
    tagged = write(tmp_path / "a.conll", "Ulm\tB-LOC \n")
    assert read_examples(tagged, task="ner")[0].labels == ("B-LOC",)


@pytest.mark.parametrize("indent", [None, 2])
def test_one_json_list(tmp_path: Path, indent: int | None) -> None:
    rows = [{"text": f"a\n{i}", "label": "xy"[i % 2], "more": [{"a": "]"}]} for i in range(30)]
    path = write(tmp_path / "a.json", "\n" + json.dumps(rows, indent=indent))
    examples = read_examples(path, task="classification")
    assert [(e.text, e.labels) for e in examples] == [(row["text"], row["label"]) for row in rows]
    assert len({e.line for e in examples}) == 30
    words = write(tmp_path / "b.json", json.dumps([{"words": ["Ulm"], "tags": ["B-LOC"]}], indent=indent))
    assert read_examples(words, task="ner")[0].labels == ("B-LOC",)
    path.write_text('[{"text": "a"},\n {"text": "b", "text": "c"},\n {"text": ]')
    with pytest.raises(DataError, match=r"a\.json:2: not usable JSON: the key 'text' occurs twice"):
        read_examples(path, task="classification")
