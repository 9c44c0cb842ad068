"""Text of any length: repeats left out of a stream, packed files, folders and patterns, one language only."""

import gzip
import json
import random
import sys
import types
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from xlt_engine import ConfigError, DataError
from xlt_engine.data import Example, read_examples
from xlt_engine.data.readers import packed
from xlt_engine.data.store import seen
from xlt_engine.data.store.seen import SeenTexts, Tally, unrepeated
from xlt_engine.engine.reading.read_file import first_of_each, read_file, stream_file
from xlt_engine.engine.recipe.config import RunConfig
from xlt_engine.engine.recipe.load import RecipeError, load_recipe


def example(text: str, pair: str | None = None) -> Example:
    return Example("", "de", None, text, pair, None, "a.txt", 1)


def test_as_with_all_texts_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """With runs so small that they are merged, and go to the disk, many times."""
    for name, size in (("BATCH", 7), ("SPILL", 40), ("LARGEST", 100)):
        monkeypatch.setattr(seen, name, size)
    draw = random.Random(0)
    texts = [
        example(f"Satz {draw.randrange(400)}" + " " * draw.randrange(3), draw.choice((None, "a", "b")))
        for _ in range(2000)
    ]
    expected = [texts[i] for i in first_of_each(texts)]
    counts = np.zeros(2, dtype=int)
    kept = list(unrepeated(iter(texts), lambda read, new: counts.__iadd__((read, new))))
    assert [id(e) for e in kept] == [id(e) for e in expected]
    assert counts.tolist() == [2000, len(expected)]
    assert len(expected) > 800


def test_runs_stay_few() -> None:
    runs = SeenTexts()
    for start in range(0, 64_000, 1000):
        assert runs.add(np.arange(start, start + 1000, dtype=np.uint64)).all()
    assert not runs.add(np.arange(64_000, dtype=np.uint64)).any()
    assert len(runs._runs) < 8


def test_every_million_is_told() -> None:
    told: list[str] = []
    tally = Tally(told.append, "de.txt")
    for _ in range(5):
        tally(400_000, 300_000)
    assert [line.split(" texts, ")[0] for line in told] == ["de.txt: 1,200,000", "de.txt: 2,000,000"]
    assert "25.0 % of them repeats" in told[1]


def recipe(folder: Path, unlabelled: Any, more: str = "", task: str = "ner") -> RunConfig:
    (folder / "xlt.toml").write_text(
        f'name = "a"\ntask = "{task}"\n[model]\npath = "m"\n[source]\ntrain = "t.conll"\n'
        f'[[targets]]\nlanguage = "de"\nunlabelled = {json.dumps(unlabelled)}\n{more}',
        "utf-8",
    )
    return load_recipe(folder / "xlt.toml").config


def test_folders_and_patterns(tmp_path: Path) -> None:
    texts = tmp_path / "texts" / "deep"
    texts.mkdir(parents=True)
    files = [texts.parent / "a.txt", texts / "b.txt.gz", texts / "c.jsonl"]
    files[0].write_text("Ein Satz.\n")
    files[1].write_bytes(gzip.compress(b"Noch ein Satz.\n"))
    files[2].write_text(json.dumps({"text": "Angela, in Paris.", "label": [3], "tags": 1}) + "\n")
    (texts / ".hidden").write_text("x")
    assert recipe(tmp_path, ["texts"]).targets[0].unlabelled == tuple(files)
    config = recipe(tmp_path, ["texts/*.txt", "texts/deep/[bc].*"])
    assert config.targets[0].unlabelled == tuple(files)
    read = [e.words for path in files for e in stream_file(config, path, language="de")]
    assert read == [("Ein", "Satz", "."), ("Noch", "ein", "Satz", "."), ("Angela", ",", "in", "Paris", ".")]
    with pytest.raises(RecipeError, match=r'unlabelled\.0: "none-\*\.txt" given, but there is no such file'):
        recipe(tmp_path, ["none-*.txt"])
    files[0].write_text("\n\n")
    with pytest.raises(DataError, match=r"a\.txt: no examples \(skipped: 2 blank\)"):
        list(stream_file(config, files[0], language="de"))


def test_streams_give_what_readers_give(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("Ein Satz, oder zwei.\n\nUnd: noch einer.\n", "utf-8")
    rows = [{"text": "Ein Satz", "label": "x"}, {"words": ["Zwei", "Wörter"], "tags": ["O", "O"]}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    config = recipe(tmp_path, ["a.txt", "a.jsonl"])
    for path in config.targets[0].unlabelled:
        for task in ("text", "ner"):
            whole = read_file(config, path, unlabelled=True, task=task)
            assert list(stream_file(config, path, task=task)) == whole
            assert {e.labels for e in whole} == {None}


def test_one_language(tmp_path: Path) -> None:
    lines = [
        "Der Hund schläft heute nicht im Haus.",
        "The dog does not sleep in the house today.",
        "Wir gehen morgen ins Kino.",
    ]
    (tmp_path / "a.txt").write_text("".join(f"{line}\n" for line in lines), "utf-8")
    config, told = recipe(tmp_path, ["a.txt"], "[reader]\ncheck_language = true\n"), list[str]()
    (path,) = config.targets[0].unlabelled
    kept = list(stream_file(config, path, task="text", language="de", note=told.append))
    assert [e.line for e in kept] == [1, 3]
    assert told == ["a.txt: 1 texts of other languages than de left out (1 en)"]
    pytest.raises(ConfigError, list, stream_file(config, path, task="text", language="xx")).match("does not know 'xx'")


def test_zst(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a stand-in with the interface of zstandard; its streams are zlib's, of which some lie end to end."""
    path = tmp_path / "a.txt.zst"
    text = "".join(f"Satz Nummer {i}\n" for i in range(3000))
    path.write_bytes(zlib.compress(text.encode()) + zlib.compress(b"Ende\n"))
    for name in ("compression.zstd", "zstandard"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError, match=r"need zstandard: pip install 'xlt-engine\[zst\]'"):
        read_examples(path, task="text")
    module = types.ModuleType("zstandard")
    module.ZstdDecompressor = lambda: types.SimpleNamespace(decompressobj=zlib.decompressobj)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "zstandard", module)
    assert "".join(f"{e.text}\n" for e in read_examples(path, task="text")) == text + "Ende\n"
    path.write_bytes(path.read_bytes()[:400])
    pytest.raises(DataError, read_examples, path, task="text").match("damaged compressed file")


def test_zst_by_the_library(tmp_path: Path) -> None:
    """Two frames end to end; one whose last block comes with the few bytes of a last read; a cut and a bomb."""
    library = pytest.importorskip("zstandard", reason="zstandard is not installed")
    lines = [f"Satz Nummer {i} {i * i}\n" for i in range(50_000)]
    pack, path = library.ZstdCompressor().compress, tmp_path / "a.txt.zst"

    def read(data: bytes) -> str:
        path.write_bytes(data)
        return "".join(f"{e.text}\n" for e in read_examples(path, task="text"))

    assert read(pack("".join(lines[:9000]).encode()) + pack(b"Ende\n")) == "".join(lines[:9000]) + "Ende\n"
    texts = ("".join(lines[:count]) for count in range(len(lines), 0, -100))
    text = next(x for x in texts if 0 < 200 * (len(pack(x.encode())) % packed._CHUNK) < len(x) % (1 << 17))
    assert len(text) > packed._HARMLESS
    assert read(pack(text.encode())) == text
    for wrong, said in ((pack(text.encode())[:-9], "damaged"), (pack(b"a" * (1 << 22)), "unpacks to over 200 times")):
        pytest.raises(DataError, read, wrong).match(said)
