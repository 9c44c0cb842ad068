"""A format of task files is parsed in `data/readers/` alone: a second parser would answer the same file otherwise."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PARSERS = ("csv", "xml", "pyarrow", "spacy")
"""Modules that parse files of examples."""
READ_OTHER_THINGS = {
    "data/augment/code_switch.py": "dictionaries",
    "data/corpus/wiki_dump.py": "dumps of a wiki",
    "data/corpus/wiki_source.py": "tables of titles",
    "data/store/store.py": "its own manifest and ids",
    "data/synthetic/demo_world.py": "its own record",
    "data/tokenizer/wrapper.py": "tokenizer.json",
    "engine/commands/options.py": "a value of its own messages",
    "engine/corpus/merge.py": "its own counts",
    "engine/corpus/report.py": "its own record",
    "engine/plan/stage.py": "settings as JSON values",
    "engine/report/svg.py": "escapes text that it writes",
    "engine/report/tracking/export.py": "writes tables",
    "engine/stages/hard.py": "writes curves",
    "engine/storage/files.py": "records",
    "engine/storage/run_folder.py": "records",
    "engine/training/checkpoint.py": "its own manifest",
    "engine/training/distributed.py": "messages between processes",
    "untrusted.py": "JSON files of models",
}
"""File -> what it parses, which is no file of examples."""


def parsers(source: str) -> list[str]:
    """What of a module parses a format: imports of parsers, JSON and cells between tabs that are taken apart."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.split(".")[0] in PARSERS]
        elif isinstance(node, ast.ImportFrom):
            found += [str(node.module)] if not node.level and str(node.module).split(".")[0] in PARSERS else []
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            tab = bool(node.args) and isinstance(node.args[0], ast.Constant) and node.args[0].value == "\t"
            json = isinstance(node.func.value, ast.Name) and node.func.value.id == "json"
            if (json and node.func.attr in ("load", "loads", "JSONDecoder")) or (tab and node.func.attr != "join"):
                found.append(ast.unparse(node.func))
    return found


def test_formats_are_parsed_by_readers_alone() -> None:
    files = [p for part in ("kernels", "model", "data", "engine") for p in sorted((ROOT / part).rglob("*.py"))]
    found = {
        name: what
        for path in [*files, *sorted(ROOT.glob("*.py"))]
        if not (name := path.relative_to(ROOT).as_posix()).startswith("data/readers/")
        and (what := parsers(path.read_text("utf-8")))
    }
    assert {name: what for name, what in found.items() if name not in READ_OTHER_THINGS} == {}
    assert set(READ_OTHER_THINGS) <= set(found), "these parse nothing any more"
    assert len([path for path in (ROOT / "data" / "readers").glob("*.py") if parsers(path.read_text("utf-8"))]) > 4


@pytest.mark.parametrize(
    "planted",
    [
        "import csv\nrows = list(csv.reader(lines))",
        "def rows(path):\n    from pyarrow import parquet\n    return parquet.read_table(path)",
        "from xml.parsers import expat",
        "objects = [json.loads(line) for line in lines]",
        "cells = [line.split('\\t') for line in lines]",
        "word, _, tag = line.rpartition('\\t')",
    ],
)
def test_a_second_parser_is_found(planted: str) -> None:
    assert parsers(planted)
    assert not parsers("from ...data import read_examples\nfound = read_examples(path, task='ner')")
