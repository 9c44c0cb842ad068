"""Parquet and Arrow files as the library datasets writes them, built here of pyarrow alone; integer tags elsewhere."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import ipc, parquet

from xlt_engine import DataError
from xlt_engine.data import file_hash, read_examples

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


@pytest.mark.parametrize("feature", [{"feature": CLASSES, "_type": "Sequence"}, [CLASSES]])
def test_parquet_files_and_folders(tmp_path: Path, feature: Any) -> None:
    parquet.write_table(table(ROWS, feature), tmp_path / "a.parquet")
    assert content(tmp_path / "a.parquet") == EXPECTED
    (tmp_path / "split").mkdir()
    for number, row in enumerate(ROWS):
        parquet.write_table(table([row], feature), tmp_path / "split" / f"{number}.parquet")
    assert content(tmp_path / "split") == EXPECTED


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
