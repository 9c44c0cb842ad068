"""The token store: content, cuts, damage, publishing, keys."""

import errno
import json
import os
import random
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from tokenizers import models, pre_tokenizers

from xlt_engine import ConfigError, DataError, StorageError
from xlt_engine.data import Example, Tokenizer, TokenStore, build_store, store_key, train_wordpiece
from xlt_engine.data.store.store import content_hash

LABELS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
WORDS = ["Anna", "wohnt", "in", "Köln", ",", "sagt", "Paul", "Unwahrscheinlichkeit", "", "\u200b", "日本"]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_wordpiece([" ".join(WORDS)] * 3, 90)


def sentences(seed: int, count: int) -> list[Example]:
    draw = random.Random(seed)
    out = []
    for i in range(count):
        words = tuple(draw.choices(WORDS, k=draw.randint(1, 12)))
        labels = None if i % 7 == 3 else tuple(draw.choices(LABELS, k=len(words)))
        out.append(Example(f'"{i}"\u2028', "de", words, None, None, labels, "de.conll", 5 * i + 1))
    return out


def texts(pairs: bool) -> list[Example]:
    rows = [("Anna wohnt in Köln", "Paul", "yes"), ("Paul sagt", None, None), ("Köln , Köln", "in Köln", "no")]
    return [
        Example(f"t{i}", "de", None, text, pair if pairs else None, label, "de.tsv", i + 2)
        for i, (text, pair, label) in enumerate(rows)
    ]


def build(
    examples: Sequence[Example], tokenizer: Tokenizer, folder: Path, task: str = "ner", **kwargs: Any
) -> TokenStore:
    options: dict[str, Any] = {"labels": LABELS, "max_length": 10, **kwargs}
    return build_store(iter(examples), tokenizer, folder=folder, task=task, **options)


@pytest.mark.parametrize("max_length", [4, 10, 500])
def test_tagging_round_trip(tokenizer: Tokenizer, tmp_path: Path, max_length: int) -> None:
    examples = sentences(0, 5000)
    build(examples, tokenizer, tmp_path / "s", max_length=max_length)
    store = TokenStore.open(tmp_path / "s", verify=True)
    encoded = tokenizer.encode_words([e.words or () for e in examples], max_length=max_length)
    assert (len(store), store.example_ids) == (len(examples), [e.id for e in examples])
    assert (store.task, store.label_names, store.max_length) == ("ner", tuple(LABELS), max_length)
    for i, (example, e) in enumerate(zip(examples, encoded, strict=True)):
        assert example.words is not None
        gold = [-100] * len(example.words) if example.labels is None else [LABELS.index(t) for t in example.labels]
        positions, words = store.items(i)
        assert store.ids(i).tolist() == e.ids
        assert (positions.tolist(), words.tolist()) == (e.positions, e.words)
        assert (store.gold(i).tolist(), store.labels(i).tolist()) == (gold, [gold[w] for w in e.words])
        assert (store.segments(i).tolist(), store.num_words[i]) == ([0] * len(e.ids), len(example.words))
        assert store.lengths[i] == len(e.ids) <= max_length
    assert store.cut == {
        "sequences": sum(e.cut_tokens > 0 for e in encoded),
        "tokens": sum(e.cut_tokens for e in encoded),
        "words": sum(e.cut for e in encoded),
        "empty_words": sum(e.empty for e in encoded),
    }
    assert store.num_words.sum() == len(store.item_words) + store.cut["words"] + store.cut["empty_words"]
    assert (store.cut["words"] > 0) == (max_length < 500)
    assert (store.token_ids.dtype, store.item_labels.dtype) == (np.uint16, np.int16)
    assert store.second is None
    assert not (tmp_path / "s" / "second.npy").exists()


@pytest.mark.parametrize("pairs", [False, True])
def test_classification_round_trip(tokenizer: Tokenizer, tmp_path: Path, pairs: bool) -> None:
    examples = texts(pairs)
    store = build(examples, tokenizer, tmp_path / "s", "classification", labels=["no", "yes"], max_length=5)
    encoded = tokenizer.encode_texts([e.text or "" for e in examples], [e.pair for e in examples], max_length=5)
    for i, e in enumerate(encoded):
        assert store.ids(i).tolist() == e.ids
        start = len(e.ids) if e.second is None else e.second
        assert store.segments(i).tolist() == [int(t >= start) for t in range(len(e.ids))]
        assert [part.tolist() for part in store.items(i)] == [[0], [0]]
    assert [store.labels(i).tolist() for i in range(3)] == [[1], [-100], [0]]
    assert (store.gold(0).tolist(), store.item_labels.dtype) == ([1], np.int32)
    assert (store.second is not None) == pairs
    assert store.cut["sequences"] == sum(e.cut_tokens > 0 for e in encoded) > 0


def test_text_takes_words_and_texts(tokenizer: Tokenizer, tmp_path: Path) -> None:
    examples = [*sentences(0, 3), *texts(False), *sentences(1, 2)]
    store = build(examples, tokenizer, tmp_path / "s", "text", labels=(), max_length=50)
    spoken = [e.text if e.text is not None else " ".join(e.words or ()) for e in examples]
    assert [ids.tolist() for ids in store] == [e.ids for e in tokenizer.encode_texts(spoken, max_length=50)]
    assert store.item_labels is None
    assert store.labels(0).tolist() == store.items(0)[0].tolist() == []
    assert store.num_words.tolist() == [0] * len(examples)


def test_wide_vocabulary(tmp_path: Path) -> None:
    for size, dtype in ((2**16, np.uint16), (2**16 + 1, np.uint32)):
        vocab = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "[MASK]": 4, "a": size - 1}
        inner = tokenizers.Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
        inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        example = Example("x", "", None, "a a", None, None, "f", 1)
        store = build([example], Tokenizer(inner), tmp_path / str(size), "text", max_length=9)
        assert (store.token_ids.dtype, store.ids(0).tolist()) == (dtype, [2, size - 1, size - 1, 3])


def test_faulty_examples_are_all_named(tokenizer: Tokenizer, tmp_path: Path) -> None:
    examples = sentences(0, 3000)
    bad = [(0, "PER"), (7, "LOC"), (2900, "B-PERS")]
    for i, label in bad:
        words = examples[i].words
        assert words is not None
        examples[i] = Example("b", "de", words, None, None, (label,) * len(words), "de.conll", 5 * i + 1)
    caught = pytest.raises(DataError, build, examples, tokenizer, tmp_path / "s")
    expected = [f"de.conll:{5 * i + 1}: unknown label '{name}'; the labels are O, B-PER" for i, name in bad]
    assert all(line.startswith(e) for line, e in zip(str(caught.value).split("\n"), expected, strict=True))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("task", "words", "text", "labels", "what"),
    [
        ("ner", None, "a", None, "no words"),
        ("ner", (), None, (), "no words"),
        ("ner", ("a", "b"), None, ("O",), "2 words but not as many tags"),
        ("ner", ("a",), None, "O", "1 words but not as many tags"),
        ("classification", ("a",), None, None, "no text"),
        ("classification", None, "a", ("O",), "a list of labels"),
        ("classification", None, "a", "P", "unknown label 'P'"),
        ("text", (), None, None, "neither text nor words"),
    ],
)
def test_examples_that_do_not_fit(
    tokenizer: Tokenizer, tmp_path: Path, task: str, words: Any, text: Any, labels: Any, what: str
) -> None:
    example = Example("x", "", words, text, None, labels, "f", 3)
    caught = pytest.raises(DataError, build, [example], tokenizer, tmp_path / "s", task)
    assert str(caught.value).startswith(f"f:3: {what}")
    assert "; " in str(caught.value)


def test_wrong_arguments(tokenizer: Tokenizer, tmp_path: Path) -> None:
    for task, options, what in (
        ("pos", {}, "unknown task 'pos'; choose from ner"),
        ("ner", {"labels": []}, "give at least one label"),
        ("ner", {"labels": ["O", "O"]}, "none twice"),
        ("ner", {"max_length": 3}, "max_length 3"),
    ):
        pytest.raises(ConfigError, build, sentences(0, 1), tokenizer, tmp_path / "s", task, **options).match(what)
    pytest.raises(DataError, build, [], tokenizer, tmp_path / "s").match("there are no examples")


def test_same_content_same_bytes(tokenizer: Tokenizer, tmp_path: Path) -> None:
    first = build(sentences(0, 50), tokenizer, tmp_path / "a")
    again = build(sentences(0, 50), tokenizer, tmp_path / "b")
    other = build(sentences(1, 50), tokenizer, tmp_path / "c")
    for name in os.listdir(first.folder):
        assert (first.folder / name).read_bytes() == (again.folder / name).read_bytes()
    assert first.content_hash == again.content_hash != other.content_hash


@pytest.mark.fault(21)
def test_damage_is_found(tokenizer: Tokenizer, tmp_path: Path) -> None:
    whole = build(sentences(0, 200), tokenizer, tmp_path / "s").folder
    names = sorted(os.listdir(whole))
    assert len(names) == 10
    copy = tmp_path / "copy"
    for name in names:
        content = (whole / name).read_bytes()
        flipped = bytearray(content)
        flipped[len(flipped) - 2] ^= 1
        for damaged, verify in ((None, False), (content[:-1], False), (b"", False), (bytes(flipped), True)):
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(whole, copy)
            (copy / name).unlink()
            if damaged is not None:
                (copy / name).write_bytes(damaged)
            pytest.raises(DataError, TokenStore.open, copy, verify=verify).match("build it again")


def edit(folder: Path, **changes: Any) -> None:
    manifest = json.loads((folder / "store.json").read_bytes())
    manifest.update(changes)
    manifest["sha256"] = content_hash(manifest)
    (folder / "store.json").write_text(json.dumps(manifest), encoding="utf-8")


def test_manifest_that_does_not_fit(tokenizer: Tokenizer, tmp_path: Path) -> None:
    folder = build(sentences(0, 20), tokenizer, tmp_path / "s").folder
    original = (folder / "store.json").read_bytes()
    edit(folder, format=99)
    pytest.raises(DataError, TokenStore.open, folder).match("format 99, not 1")
    altered = original.replace(b'"max_length": 10', b'"max_length": 11')
    (folder / "store.json").write_bytes(altered)
    pytest.raises(DataError, TokenStore.open, folder).match("changed since it was written")


def test_an_old_store_gives_way_only_to_a_finished_one(tokenizer: Tokenizer, tmp_path: Path) -> None:
    old = build(sentences(0, 30), tokenizer, tmp_path / "s").content_hash

    def breaking() -> Iterator[Example]:
        yield from sentences(1, 3000)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_store(breaking(), tokenizer, folder=tmp_path / "s", task="ner", labels=LABELS, max_length=10)
    assert TokenStore.open(tmp_path / "s", verify=True).content_hash == old
    assert len(build(sentences(1, 31), tokenizer, tmp_path / "s")) == 31
    assert os.listdir(tmp_path) == ["s"]


@pytest.mark.parametrize(
    ("code", "advice"),
    [(errno.ENOSPC, "free disk space"), (errno.EROFS, "for writing"), (errno.EIO, "the disk reports a failure")],
)
def test_failing_disk(tokenizer: Tokenizer, tmp_path: Path, monkeypatch: Any, code: int, advice: str) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fail)
    pytest.raises(StorageError, build, sentences(0, 3), tokenizer, tmp_path / "s").match(advice)
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="file descriptors have no names here")
def test_everything_reaches_the_disk_before_the_name(tokenizer: Tokenizer, tmp_path: Path, monkeypatch: Any) -> None:
    order: list[str] = []
    fsync, rename = os.fsync, Path.rename

    def noted(descriptor: int) -> None:
        order.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        fsync(descriptor)

    def renamed(path: Path, target: Path) -> Path:
        order.append("rename")
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", noted)
    monkeypatch.setattr(Path, "rename", renamed)
    store = build(sentences(0, 3), tokenizer, tmp_path / "s")
    monkeypatch.undo()
    temporary = f".tmp-s-{os.getpid()}"
    assert order[-4:] == ["store.json", temporary, "rename", tmp_path.name]
    assert set(order[:-4]) == set(os.listdir(store.folder)) - {"store.json"}


def test_key_follows_the_content(tokenizer: Tokenizer, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_bytes(b"a O\n")
    two.write_bytes(b"b O\n")
    settings = {"task": "ner", "labels": LABELS, "max_length": 128}
    key = store_key([one, two], tokenizer, settings)
    assert len(key) == 32
    other = train_wordpiece(["some other text"], 90)
    different = [store_key(files, tokenizer, settings) for files in ([two, one], [one])]
    different += [store_key([one, two], other, settings)]
    for change in ({"max_length": 127}, {"labels": LABELS[::-1]}):
        different.append(store_key([one, two], tokenizer, settings | change))
    assert len({key, *different}) == 6
    two.touch()
    assert store_key([one, two], tokenizer, dict(reversed(settings.items()))) == key
    two.write_bytes(b"b O\r\n")
    assert store_key([one, two], tokenizer, settings) != key
    pytest.raises(DataError, store_key, [tmp_path / "three"], tokenizer, settings).match("three: cannot be read")
