"""Tokenizers that end the process of the library that reads them, or that lie elsewhere."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers

from xlt_engine import ModelError
from xlt_engine.data import Tokenizer, train_wordpiece
from xlt_engine.data.tokenizer.files import MAX_ID


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    train_wordpiece(["Anna wohnt in Köln"] * 3, 60).save(folder)
    return folder


def change(folder: Path, spoil: Callable[[Any], object]) -> None:
    state = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    spoil(state)
    (folder / "tokenizer.json").write_text(json.dumps(state), "utf-8")


SPOILT: dict[str, Callable[[Any], object]] = {
    "word": lambda state: state["model"]["vocab"].update(x=2 * 10**9),
    "added": lambda state: state["added_tokens"].append({**state["added_tokens"][0], "content": "x", "id": 2 * 10**9}),
    "just beyond": lambda state: state["model"]["vocab"].update(x=MAX_ID + 1),
}


@pytest.mark.parametrize("case", SPOILT)
def test_absurd_ids_never_reach_the_library(folder: Path, case: str) -> None:
    """The library allocates as many rows as the largest id, and ends the process: hence one of its own."""
    change(folder, SPOILT[case])
    code = (
        "import sys\nfrom xlt_engine import ModelError\nfrom xlt_engine.data import Tokenizer\n"
        "try: Tokenizer.from_folder(sys.argv[1])\nexcept ModelError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, folder], capture_output=True, text=True, timeout=300, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "is beyond 4194303; the vocabulary file is damaged" in done.stdout
    assert f"{folder / 'tokenizer.json'}: id" in done.stdout


def test_the_largest_id_is_read(folder: Path) -> None:
    change(folder, lambda state: state["model"]["vocab"].update(x=MAX_ID))
    assert Tokenizer.from_folder(folder).vocab_size == MAX_ID + 1


class Panic(BaseException):
    """As the library's `PanicException`, which is no Exception."""


@pytest.mark.parametrize("method", ["post_process", "encode", "to_str"])
@pytest.mark.fault(36)
def test_panics_while_a_folder_is_opened(folder: Path, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    class Panicking:
        def __init__(self, inner: Any) -> None:
            self.__dict__["inner"] = inner

        def __getattr__(self, name: str) -> Any:
            if name == method:
                raise Panic("index out of bounds")
            return getattr(self.inner, name)

    whole = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    monkeypatch.setattr(tokenizers, "Tokenizer", type("Fake", (), {"from_file": lambda _: Panicking(whole)}))
    pytest.raises(ModelError, Tokenizer.from_folder, folder).match(r"tokenizer\.json: .*index out of bounds")
    monkeypatch.setattr(tokenizers.Tokenizer, "from_file", lambda _: signal.raise_signal(signal.SIGINT))
    pytest.raises(KeyboardInterrupt, Tokenizer.from_folder, folder)


def test_errors_of_the_library_while_it_encodes(folder: Path) -> None:
    """A bare Exception: no unknown token in the vocabulary, which WordPiece needs for what it does not know."""
    opened = Tokenizer.from_folder(folder)
    opened._inner.model = tokenizers.models.WordPiece({"a": 0}, unk_token="?")
    for encode in (lambda: opened.encode_texts(["ß"]), lambda: opened.encode_words([["ß"]])):
        pytest.raises(ModelError, encode).match("the tokenizers library cannot use")


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "vocab.txt", "special_tokens_map.json"])
def test_links_out_of_the_folder(folder: Path, tmp_path: Path, name: str) -> None:
    if name == "vocab.txt":
        opened = Tokenizer.from_folder(folder)
        (folder / name).write_text("".join(f"{opened.token(i)}\n" for i in range(opened.vocab_size)), "utf-8")
        (folder / "tokenizer.json").unlink()
    elif name == "special_tokens_map.json":
        (folder / name).write_text("{}", "utf-8")
    Tokenizer.from_folder(folder)
    (folder / name).rename(tmp_path / "elsewhere")
    (folder / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ModelError, match=f"{name}: links to .*elsewhere, outside the folder; refused"):
        Tokenizer.from_folder(folder)
    (folder / name).unlink()
    (tmp_path / "elsewhere").rename(folder / "inside")
    (folder / name).symlink_to("inside")
    Tokenizer.from_folder(folder)


def test_a_snapshot_of_the_cache_of_hugging_face(folder: Path, tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "cache" / "blobs", tmp_path / "cache" / "snapshots" / "1a2b"
    for made in (blobs, snapshot):
        made.mkdir(parents=True)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).rename(blobs / name)
        (snapshot / name).symlink_to(Path("..", "..", "blobs", name))
    Tokenizer.from_folder(snapshot)


def test_a_vocabulary_with_a_long_piece_twice(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.txt").write_text(("x" * 10**6 + "\n") * 2, "utf-8")
    with pytest.raises(ModelError, match=r"vocab\.txt:2: .* is already on line 1") as caught:
        Tokenizer.from_folder(folder)
    assert len(str(caught.value)) < 1000
