"""Files that were made to cost time, memory or a traceback: each is an error at once, or read rightly."""

import bz2
import gzip
import json
import lzma
import random
import subprocess
import sys
import time
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import ipc, parquet

from xlt_engine import ConfigError, DataError
from xlt_engine.data import file_hash, read_examples
from xlt_engine.data.readers import lines as lines_module
from xlt_engine.data.readers import packed
from xlt_engine.data.readers.lines import open_file, read_lines
from xlt_engine.data.readers.problems import Problems
from xlt_engine.untrusted import clip, listed, quoted

MANY = 200_000


@contextmanager
def cheap(seconds: float = 20.0) -> Iterator[None]:
    """Ten times the 2 CPU seconds that a hostile file may take."""
    began = time.process_time()
    yield
    assert time.process_time() - began < seconds


def refused(path: Path, task: str = "classification", **options: object) -> str:
    with cheap(), pytest.raises(DataError) as caught:
        read_examples(path, task=task, **options)  # type: ignore[arg-type]
    assert len(str(caught.value)) < 40_000
    return str(caught.value)


def test_hundreds_of_thousands_of_columns(tmp_path: Path) -> None:
    for name, sign in (("a.csv", ","), ("a.tsv", "\t")):
        path = tmp_path / name
        path.write_text(sign.join(f"c{i}" for i in range(MANY)) + "\n", "utf-8")
        assert f"{path}:1: no column 'text' for text; the columns are 'c0', 'c1'" in (said := refused(path))
        assert "and 199,980 more" in said
    path.write_text("\t".join(["x"] * MANY + ["text", "text"]) + "\n", "utf-8")
    assert refused(path).splitlines()[0] == f"{path}:1: column 'text' occurs twice; rename one of them"


def test_hundreds_of_thousands_of_keys(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    keys = ", ".join(f'"k{i}": 0' for i in range(MANY))
    path.write_text('{"text": "a", ' + keys + "}\n", "utf-8")
    with cheap():
        assert [example.text for example in read_examples(path, task="classification")] == ["a"]
    path.write_text('{"text": "a", ' + keys + ', "k7": 1}\n', "utf-8")
    assert f"{path}:1: not a usable JSON object: the key 'k7' occurs twice" in refused(path)


def test_halves_of_characters_in_json_are_still_found(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    for line in ('{"text": "\\ud800"}', '{"\\udfff": 1, "text": "a"}', '{"text": "a", "x": [["\\uD83d"]]}'):
        path.write_text(line + "\n", "utf-8")
        assert "a lone surrogate" in refused(path)
    path.write_text('{"text": "\\ud83d\\ude00"}\n', "utf-8")
    assert read_examples(path, task="classification")[0].text == "\U0001f600"


@pytest.mark.parametrize("form", ["tsv", "jsonl", "conll"])
def test_thousands_of_labels(tmp_path: Path, form: str) -> None:
    count, task = 20_000, "ner" if form == "conll" else "classification"
    rows = {
        "tsv": "text\tlabel\n" + "".join(f"a\tB-{i}\n" for i in range(count)),
        "jsonl": "".join(json.dumps({"text": "a", "label": f"B-{i}"}) + "\n" for i in range(count)),
        "conll": "".join(f"a B-{i}\n" for i in range(count)),
    }
    path, labels = tmp_path / f"a.{form}", [f"B-{i}" for i in range(count)]
    path.write_text(rows[form], "utf-8")
    with cheap():
        read_examples(path, task=task, labels=labels)
    said = refused(path, task, labels=[f"B-{i}x" for i in range(count)])
    assert "unknown label 'B-0'; the labels are B-0x, B-1x" in said
    assert f"... {count:,} faults in all, the first 20 listed" in said


def test_a_label_of_a_megabyte_is_not_repeated(tmp_path: Path) -> None:
    for name, text, task in (
        ("a.tsv", "text\tlabel\n" + f"a\t{'l' * MANY}\n" * 20, "classification"),
        ("a.conll", f"a X-{'l' * MANY}\n" * 20, "ner"),
    ):
        (tmp_path / name).write_text(text, "utf-8")
        assert len(refused(tmp_path / name, task, labels=["x"])) < 20_000


PACK: dict[str, Callable[[bytes], bytes]] = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}


@pytest.mark.parametrize("line", [b"\0" * 999, b"a" * 999, b"\n"], ids=["zeros", "one line", "empty lines"])
@pytest.mark.parametrize("suffix", PACK)
def test_a_small_packed_file_does_not_fill_the_memory(tmp_path: Path, suffix: str, line: bytes) -> None:
    path = tmp_path / f"a.txt.{suffix}"
    path.write_bytes(PACK[suffix](line * (9_000_000 // len(line))))
    assert "unpacks to over 200 times its size" in refused(path)


def test_what_a_packed_file_costs(tmp_path: Path) -> None:
    """The command as a whole, in a process of its own, whose largest memory the system has measured."""
    path, block = tmp_path / "a.tsv.gz", b"text\tlabel\n" * 100_000
    with gzip.open(path, "wb", compresslevel=6) as file:
        for _ in range(60):
            file.write(block)
    assert path.stat().st_size < 1 << 20
    code = (
        "import resource, sys\nfrom xlt_engine import DataError\nfrom xlt_engine.data import read_examples\n"
        "try: read_examples(sys.argv[1], task='classification')\nexcept DataError as error: print(error)\n"
        "used, status = resource.getrusage(resource.RUSAGE_SELF), open('/proc/self/status').read()\n"
        # What the system keeps as the largest memory is at first that of the process that it was split from.
        "print(used.ru_utime + used.ru_stime, int(status.split('VmHWM:')[1].split()[0]) >> 10)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True, timeout=600)
    said, seconds, megabytes = *done.stdout.splitlines()[0:1], *map(float, done.stdout.split()[-2:])
    assert "unpacks to over 200 times its size" in said
    assert (seconds < 20, megabytes < 500) == (True, True)


def test_packed_files_of_text_are_read_as_ever(tmp_path: Path) -> None:
    """Several streams, zeros between and behind them, streams cut off; and the start again, for the encoding."""
    draw = random.Random(3)
    text = "".join(f"{draw.random()} ä\n" for _ in range(60_000)).encode()
    for suffix, pack in PACK.items():
        path = tmp_path / f"a.txt.{suffix}"
        path.write_bytes(pack(text) + (b"\0" * 99_996 if suffix != "bz2" else b"") + pack(text[:1000]))
        with open_file(path) as file:
            assert (file.read(), file.seek(0), file.read(5)) == (text + text[:1000], 0, text[:5])
        path.write_bytes(pack(text)[:-5])
        assert "damaged compressed file after byte" in refused(path)
        path.write_bytes(pack(text + b"\xff\n"))
        with pytest.raises(DataError, match="byte 0xff is not utf-8, but line 1 is in UTF-8: correct the line"):
            read_examples(path, task="classification", format="text")


def test_gzip_that_is_damaged_anywhere(tmp_path: Path) -> None:
    """Half a download, a changed byte of the data, of the sum at the end: never another error than ours."""
    path, text = tmp_path / "a.txt.gz", "".join(f"{i * i}\n" for i in range(5000)).encode()
    whole, draw = gzip.compress(text), random.Random(5)
    for _ in range(60):
        place = draw.randrange(10, len(whole))
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << draw.randrange(8)]) + whole[place + 1 :])
        assert "damaged compressed file" in refused(path, format="text")


def test_a_line_has_a_longest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines_module, "LONGEST_LINE", 1000)
    path = tmp_path / "a.txt"
    path.write_bytes(b"a\n" + b"b" * 998 + b"\n")
    assert [number for number, _ in read_lines(path, "utf-8", Problems())] == [1, 2]
    path.write_bytes(b"a\n" + b"b" * 1000 + b"\n")
    assert f"{path}:2: a line of 0 MiB or more; is this a file of text?" in refused(path, format="text")


@pytest.mark.parametrize(
    "name", ["undefined", "utf-8\0", "idna", "punycode", "unicode_escape", "utf-7", "hex", "", "x" * 9999, "\udc80"]
)
def test_encodings_that_are_none(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"a\n")
    with pytest.raises(ConfigError, match="unknown encoding") as caught:
        read_examples(path, task="classification", encoding=name)
    assert len(str(caught.value)) < 500


def test_a_path_with_a_nul(tmp_path: Path) -> None:
    assert "no such file" in refused(tmp_path / "a\0.txt")


@pytest.mark.parametrize("end", ["", '"/>\n</items>\n'])
def test_a_tag_over_many_lines(tmp_path: Path, end: str) -> None:
    """The parser of the library begins a tag that is not whole anew with every piece of text."""
    path = tmp_path / "a.review"
    path.write_text('<items>\n<item a="' + "\n" * 100_000 + end, "utf-8")
    refused(path)


def test_what_messages_repeat() -> None:
    assert (clip("a" * 300), quoted("it's")) == ("a" * 200 + "... (300 characters)", repr("it's"))
    assert len(quoted(["a" * 10**6] * 10**6)) < 5000
    assert (quoted(1 << 10**5), listed(list("abc"))) == ("a number of thousands of digits", "a, b, c")
    assert listed(dict.fromkeys(range(10**6))).endswith(", 18, 19, and 999,980 more")
    problems = Problems()
    problems.add("a:1", "w" * 10**6, "f" * 10**6)
    caught = pytest.raises(DataError, problems.raise_if_any)
    assert len(str(caught.value)) < 5000


def test_the_limits_are_those_that_the_pages_name() -> None:
    page = (Path(__file__).resolve().parents[3] / "docs" / "data-formats.md").read_text("utf-8")
    assert f"{lines_module.LONGEST_LINE >> 20} MiB" in page
    assert f"{packed._RATIO} times" in page


@pytest.mark.parametrize(
    "cells", ["0\t", "\t4", "²\t4", "0\t" + "9" * 5000], ids=["no end", "no start", "two", "digits"]
)
def test_places_of_entities_that_are_no_numbers(tmp_path: Path, cells: str) -> None:
    table, brat = tmp_path / "a.tsv", tmp_path / "b.ann"
    table.write_text("line\tstart\tend\tlabel\ttext\tscore\tsentence\n1\t" + cells + "\tPER\tAnna\t1\tAnna\n", "utf-8")
    assert f"{table}:2: not the columns line, start, end" in refused(table, "ner", format="spans")
    brat.with_suffix(".txt").write_text("Anna\n", "utf-8")
    brat.write_text("T1\tPER " + cells.replace("\t", " ") + "\tAnna\n", "utf-8")
    assert f"{brat}:1:" in refused(brat, "ner")


def test_arrow_files_whose_offsets_names_or_numbers_are_wrong(tmp_path: Path) -> None:
    """Which pyarrow follows out of the memory, or decodes, unless it is asked to look first."""
    data = pyarrow.Table.from_pylist([{"text": "Buch"}, {"text": "gut"}])
    stream, file = tmp_path / "a.arrow", tmp_path / "a.parquet"
    with ipc.new_stream(stream, data.schema) as out:
        out.write_table(data)
    written, offsets = stream.read_bytes(), array("i", [0, 4, 7]).tobytes()
    assert written.count(offsets) == 1
    stream.write_bytes(written.replace(offsets, array("i", [0, 4, 1 << 30]).tobytes()))
    assert f"{stream}:1: pyarrow cannot read it" in refused(stream)
    parquet.write_table(data, file)
    file.write_bytes(file.read_bytes().replace(b"text", b"t\xf4xt"))
    assert f"{file}: pyarrow cannot read it" in refused(file)
    with ipc.new_stream(stream, pyarrow.schema([("time", pyarrow.duration("s"))])) as out:
        out.write_table(pyarrow.table({"time": pyarrow.array([1 << 62], pyarrow.duration("s"))}))
    assert f"{stream}:1: pyarrow cannot read it: Python int too large" in refused(stream)


@pytest.mark.parametrize("name", ["a.txt", "a.tsv", "a.csv", "a.conll"])
def test_lines_that_end_in_cr_alone(tmp_path: Path, name: str) -> None:
    """A whole file would be one text."""
    path = tmp_path / name
    path.write_bytes(b"\xef\xbb\xbflabel text\rpos good\rneg bad\r")
    with pytest.raises(DataError, match="a[.][a-z]*:1: the lines end in CR alone"):
        list(read_lines(path, "utf-8", Problems()))
    path.write_bytes(b"good\rbad\n")
    assert [text for _, text in read_lines(path, "utf-8", Problems())] == ["good\rbad"]


TAGS = ["O", "B-PER", "I-PER"]
ROWS = [{"tokens": ["Angela", "Merkel", "spricht"], "ner_tags": [1, 2, 0]}, {"tokens": ["Nein"], "ner_tags": [0]}]
EXPECTED = [(("Angela", "Merkel", "spricht"), ("B-PER", "I-PER", "O")), (("Nein",), ("O",))]
CLASSES = {"names": TAGS, "_type": "ClassLabel"}
FIELDS = {"words": "tokens", "tags": "ner_tags"}


def table(rows: list[Any], feature: Any, field: str = "ner_tags") -> Any:
    info = {"info": {"features": {field: feature, "tokens": {"feature": {"dtype": "string", "_type": "Value"}}}}}
    return pyarrow.Table.from_pylist(rows).replace_schema_metadata({"huggingface": json.dumps(info)})


def content(path: Path, **options: Any) -> list[Any]:
    return [(e.words, e.labels) for e in read_examples(path, task="ner", **FIELDS, **options)]


def test_save_to_disk(tmp_path: Path) -> None:
    rows = table(ROWS, {"feature": CLASSES}).replace_schema_metadata(None)
    with ipc.new_stream(str(tmp_path / "data-00000-of-00001.arrow"), rows.schema) as writer:
        writer.write_table(rows)
    pytest.raises(DataError, content, tmp_path).match("tags are whole numbers without names")
    assert content(tmp_path, tag_names=TAGS) == EXPECTED
    (tmp_path / "dataset_info.json").write_text(json.dumps({"features": {"ner_tags": {"feature": CLASSES}}}))
    assert content(tmp_path) == EXPECTED
    before = file_hash(tmp_path)
    (tmp_path / "dataset_info.json").write_text("{")
    assert file_hash(tmp_path) != before


def test_classes_and_pairs(tmp_path: Path) -> None:
    rows = [{"text": "gut", "label": 1, "other": "x"}, {"text": "schlecht", "label": 0, "other": None}]
    names = {"names": ["neg", "pos"], "_type": "ClassLabel"}
    parquet.write_table(table(rows, names, "label"), tmp_path / "a.parquet")
    examples = read_examples(tmp_path / "a.parquet", task="classification")
    assert [(e.text, e.labels, e.line) for e in examples] == [("gut", "pos", 1), ("schlecht", "neg", 2)]
    with pytest.raises(DataError, match=r"a\.parquet:2: no field 'other' for pair"):
        read_examples(tmp_path / "a.parquet", task="classification", pair="other")


def test_json_lines_with_numbers(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    with pytest.raises(DataError, match=r"a\.jsonl:1: tags are whole numbers .*reader\.tag_names.*dataset_info\.json"):
        content(path)
    assert content(path, tag_names=TAGS) == EXPECTED
    (tmp_path / "dataset_info.json").write_text(json.dumps({"features": {"ner_tags": [CLASSES]}}))
    assert content(path) == EXPECTED
    path.write_text(json.dumps(ROWS[0] | {"ner_tags": [1, 2, 3]}) + "\n")
    pytest.raises(DataError, content, path).match(r"a\.jsonl:1: tags are whole numbers without names")


def test_files_that_pyarrow_cannot_read(tmp_path: Path) -> None:
    for name in ("a.parquet", "a.arrow"):
        (tmp_path / name).write_bytes(b"PAR1 no such thing")
        pytest.raises(DataError, content, tmp_path / name).match(f"{name}: pyarrow cannot read it")
        pytest.raises(DataError, content, tmp_path / f"b{name}").match(f"b{name}: no such file")
    (tmp_path / "empty").mkdir()
    pytest.raises(DataError, content, tmp_path / "empty").match("empty: cannot be read")


def test_without_pyarrow(tmp_path: Path) -> None:
    code = """
import sys
sys.modules["pyarrow"] = None
from xlt_engine import ConfigError
from xlt_engine.data import read_examples
try:
    read_examples("a.parquet", task="ner")
except ConfigError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert done.stdout == "a.parquet: needs pyarrow: pip install 'xlt-engine[datasets]'\n"
