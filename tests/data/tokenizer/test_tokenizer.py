"""The tokenizer wrapper: places of words, cuts, loading, errors."""

import json
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from tokenizers import models
from transformers import AutoTokenizer

from xlt_engine import DataError, ModelError
from xlt_engine.data import Tokenizer, train_wordpiece
from xlt_engine.data.tokenizer.files import MAX_ID

TEXT = [
    "Anna Müller wohnt in Köln-Ehrenfeld , sagt sie .",
    "Paul lives in New York (near the river) and doesn't move .",
    "Les élèves de l'école visitent Lyon !",
] * 3


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_wordpiece(TEXT, 150)


def vocab_lines(tokenizer: Tokenizer) -> list[str]:
    return [tokenizer.token(i) or "" for i in range(tokenizer.vocab_size)]


def write_vocab(folder: Path, tokenizer: Tokenizer, end: str = "\n", **config: Any) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "vocab.txt").write_bytes("".join(line + end for line in vocab_lines(tokenizer)).encode())
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")


def random_sentences(seed: int, count: int) -> list[list[str]]:
    draw = random.Random(seed)
    words = [w for line in TEXT for w in line.split()]
    words += ["", "\u200b", " ", "東京都", "xqz" * 40, "a b", "e\u0301", "\u2028"]
    return [[draw.choice(words) for _ in range(draw.randint(0, 14))] for _ in range(count)]


@pytest.mark.parametrize("max_length", [None, 3, 8, 20])
def test_every_word_is_accounted_for(tokenizer: Tokenizer, max_length: int | None) -> None:
    sentences = random_sentences(1, 200)
    encoded = tokenizer.encode_words(sentences, max_length=max_length)
    totals = [0, 0, 0]
    for words, e in zip(sentences, encoded, strict=True):
        singles = [tokenizer.encode_texts([word])[0].ids[1:-1] for word in words]
        body = [i for piece in singles for i in piece]
        room = len(body) if max_length is None else max_length - 2
        assert e.ids == [tokenizer.cls_id, *body[:room], tokenizer.sep_id]
        starts = [1 + sum(len(p) for p in singles[:w]) for w in range(len(words))]
        expected = [(starts[w], w) for w in range(len(words)) if singles[w] and starts[w] <= room]
        assert list(zip(e.positions, e.words, strict=True)) == expected
        assert e.num_words == len(words) == len(e.words) + e.cut + e.empty
        assert (e.empty, e.cut_tokens) == (sum(not piece for piece in singles), len(body) - len(e.ids) + 2)
        totals = [a + b for a, b in zip(totals, (len(e.words), e.cut, e.empty), strict=True)]
    assert totals[0] > 0
    assert totals[2] > 0
    assert (totals[1] > 0) == (max_length is not None)


@pytest.mark.parametrize("max_length", [4, 7, 8, 13, 64])
def test_pairs_are_cut_as_the_library_cuts(tokenizer: Tokenizer, max_length: int, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    library = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    library.enable_truncation(max_length, strategy="longest_first")
    draw = random.Random(max_length)
    words = [w for line in TEXT for w in line.split()]
    pairs = [tuple(" ".join(draw.choices(words, k=draw.randint(1, 9))) for _ in range(2)) for _ in range(60)]
    ours = tokenizer.encode_texts([a for a, _ in pairs], [b for _, b in pairs], max_length=max_length, offsets=True)
    for (first, second), mine in zip(pairs, ours, strict=True):
        theirs = library.encode(first, second)
        assert (mine.ids, mine.second, mine.offsets) == (theirs.ids, theirs.type_ids.index(1), theirs.offsets)
        library.no_truncation()
        assert mine.cut_tokens == len(library.encode(first, second).ids) - len(mine.ids)
        library.enable_truncation(max_length, strategy="longest_first")


def test_texts_with_and_without_pair(tokenizer: Tokenizer) -> None:
    alone, pair = tokenizer.encode_texts(["Anna", "Anna"], [None, "Paul"])
    assert alone.second is None
    assert (pair.second, pair.ids) == (len(alone.ids), alone.ids + tokenizer.encode_texts(["Paul"])[0].ids[1:])
    assert alone.offsets is None
    text = "Les élèves"
    encoded = tokenizer.encode_texts([text], offsets=True)[0]
    assert encoded.offsets[0] == encoded.offsets[-1] == (0, 0)
    assert "".join(text[a:b] for a, b in encoded.offsets) == "Lesélèves"


def test_wrong_input(tokenizer: Tokenizer) -> None:
    assert (tokenizer.encode_words([]), tokenizer.encode_texts([])) == ([], [])
    assert tokenizer.encode_texts([""])[0].ids == [tokenizer.cls_id, tokenizer.sep_id]
    words, texts = tokenizer.encode_words, tokenizer.encode_texts
    pytest.raises(DataError, words, [["a"], ["b", "\ud800"]]).match("item 1 holds a lone surrogate")
    pytest.raises(DataError, texts, ["x\udfff"]).match("item 0 holds a lone surrogate")
    pytest.raises(DataError, words, [[1]]).match("item 0 holds a int")
    pytest.raises(DataError, texts, ["a", "b"], ["c"]).match("2 texts but 1 pairs")
    pytest.raises(DataError, words, [["a"]], max_length=2).match("max_length 2 leaves no room")


def test_save_and_load(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    loaded = Tokenizer.from_folder(tmp_path)
    assert (loaded.fingerprint, loaded.special_ids) == (tokenizer.fingerprint, (0, 1, 2, 3, 4))
    library = AutoTokenizer.from_pretrained(tmp_path)
    both = library("Anna lives", "in Lyon !")
    ours = tokenizer.encode_texts(["Anna lives"], ["in Lyon !"])[0]
    assert (both["input_ids"], both["token_type_ids"].index(1)) == (ours.ids, ours.second)
    assert (library.mask_token_id, library.pad_token_id) == (tokenizer.mask_id, tokenizer.pad_id)


def test_stored_truncation_and_padding_are_ignored(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    library = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    library.enable_truncation(4)
    library.enable_padding(length=50)
    library.save(str(tmp_path / "tokenizer.json"))
    loaded = Tokenizer.from_folder(tmp_path)
    assert loaded.fingerprint == tokenizer.fingerprint
    assert loaded.encode_texts(TEXT[:1])[0].ids == tokenizer.encode_texts(TEXT[:1])[0].ids


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_vocab_txt_gives_the_same_ids(tokenizer: Tokenizer, tmp_path: Path, end: str) -> None:
    write_vocab(tmp_path, tokenizer, end, do_lower_case=False)
    loaded = Tokenizer.from_folder(tmp_path)
    assert (loaded.vocab_size, vocab_lines(loaded)) == (tokenizer.vocab_size, vocab_lines(tokenizer))
    assert loaded.encode_texts(TEXT, TEXT) == tokenizer.encode_texts(TEXT, TEXT)
    assert loaded.special_ids == tokenizer.special_ids


def test_vocab_txt_settings(tokenizer: Tokenizer, tmp_path: Path) -> None:
    write_vocab(tmp_path, tokenizer, do_lower_case=True)
    lower = Tokenizer.from_folder(tmp_path)
    write_vocab(tmp_path, tokenizer, do_lower_case=True, strip_accents=False)
    accents = Tokenizer.from_folder(tmp_path)
    assert lower.encode_texts(["ÉLÈVES"])[0].ids == lower.encode_texts(["eleves"])[0].ids
    assert accents.encode_texts(["ÉLÈVES"])[0].ids == tokenizer.encode_texts(["élèves"])[0].ids
    assert len({lower.fingerprint, accents.fingerprint, tokenizer.fingerprint}) == 3


def test_special_tokens_by_name(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    text = (tmp_path / "tokenizer.json").read_text("utf-8").replace("[MASK]", "[HOLE]")
    (tmp_path / "tokenizer.json").write_text(text, encoding="utf-8")
    (tmp_path / "tokenizer_config.json").unlink()
    with pytest.raises(ModelError, match=r"tokenizer.json: .*no mask token .*mask_token in tokenizer_config.json"):
        Tokenizer.from_folder(tmp_path)
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"mask_token": {"content": "[HOLE]"}}), "utf-8")
    assert Tokenizer.from_folder(tmp_path).mask_id == tokenizer.mask_id


@pytest.mark.fault(36)
def test_largest_id_counts_not_the_number_of_entries() -> None:
    vocab = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "[MASK]": 4, "a": 900}
    inner = tokenizers.Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    assert (inner.get_vocab_size(), Tokenizer(inner).vocab_size) == (6, 901)
    inner = tokenizers.Tokenizer(models.WordPiece({**vocab, "b": 4_000_000_000}, unk_token="[UNK]"))
    pytest.raises(ModelError, Tokenizer, inner).match("id 4000000000 is beyond")


@pytest.mark.fault(36)
def test_folders_that_cannot_be_used(tokenizer: Tokenizer, tmp_path: Path) -> None:
    def refused(what: str) -> None:
        pytest.raises(ModelError, Tokenizer.from_folder, tmp_path).match(what)

    refused("neither tokenizer.json nor vocab.txt")
    path, config = tmp_path / "tokenizer.json", tmp_path / "tokenizer_config.json"
    tokenizer.save(tmp_path)
    whole = path.read_bytes()
    for damaged in (b"", b"{", whole[: len(whole) // 2], b"\xff" + whole, b"[1]"):
        path.write_bytes(damaged)
        refused(r"tokenizer.json:(\d+:)? (not valid JSON|holds a JSON list)")
    path.write_bytes(whole)
    config.write_bytes(b"[]")
    refused(r"tokenizer_config.json: holds a JSON list")
    config.write_bytes(b"{")
    refused(r"tokenizer_config.json:1: not valid JSON")
    for file in (path, config):
        file.unlink()
    for text, what in (
        (b"[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\na\n", "vocab.txt:7: 'a' is already on line 6"),
        (b"[PAD]\n[UNK]\n[SEP]\n", r"no cls token '\[CLS\]'"),
        (b"[PAD]\n\xff\n", "vocab.txt: cannot be read"),
    ):
        (tmp_path / "vocab.txt").write_bytes(text)
        refused(what)


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

    def interrupted(_: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(tokenizers.Tokenizer, "from_file", interrupted)
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
