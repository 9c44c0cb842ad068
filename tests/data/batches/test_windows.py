"""Windows over long sentences: which word which window decides, and how stores that keep sentences whole are read."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from xlt_engine.data import (
    Corpus,
    Example,
    ItemView,
    Part,
    TaskBatches,
    Tokenizer,
    TokenStore,
    build_store,
    inference_batches,
    train_wordpiece,
    window_rows,
)
from xlt_engine.data.batches.rows import cut_windows

WORDS = ["red", "green", "blue", "house", "tree", "river", "runs", "stands", "slowly", "here", "reeeeeeeeeeeeeeeeeed"]
LABELS = ("O", "B-X", "I-X")
LENGTH = 12


def test_every_word_is_decided_once_by_the_window_with_most_context() -> None:
    rng = random.Random(4)
    for _ in range(300):
        room = rng.randint(2, 20)
        pieces = [rng.choice([1, 1, 1, 2, 3, 30]) for _ in range(rng.randint(1, 40))]
        starts = [sum(pieces[:i]) for i in range(len(pieces))]
        total = sum(pieces)
        spans = cut_windows(starts, total, room)
        decided = [word for _, members in spans for word in members]
        assert sorted(decided) == list(range(len(starts)))
        begins = [begin for begin, _ in spans]
        assert begins == sorted(set(begins))
        assert set(begins) <= set(starts)
        if total <= room:
            assert len(spans) == 1
        for begin, members in spans:
            for word in members:
                start, end = starts[word], starts[word] + pieces[word]
                assert begin <= start < begin + room

                holding = [b for b in begins if b <= start < b + room]
                context = {
                    b: min(start - b if b else total, b + room - end if b + room < total else total) for b in holding
                }
                assert context[begin] == max(context.values())


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    """Its pieces are letters, so that the last word is longer than a window."""
    return train_wordpiece([" ".join(WORDS)] * 3, 36)


def examples(*counts: int) -> list[Example]:
    rng = random.Random(3)
    made = []
    for i, n in enumerate(counts):
        words = tuple(rng.choice(WORDS) for _ in range(n))
        made.append(Example(f"e{i}", "en", words, None, None, tuple(rng.choices(LABELS, k=n)), "f", i))
    return made


def build(given: list[Example], tokenizer: Tokenizer, folder: Path, *, whole: bool, length: int = LENGTH) -> TokenStore:
    return build_store(given, tokenizer, folder=folder, task="ner", labels=LABELS, max_length=length, whole=whole)


def test_a_whole_store_keeps_sentences_as_they_are(tokenizer: Tokenizer, tmp_path: Path) -> None:
    given = examples(1, 9, 2, 30, 1)
    store = build(given, tokenizer, tmp_path / "whole", whole=True)
    for i, (example, encoded) in enumerate(
        zip(given, tokenizer.encode_words([e.words or () for e in given]), strict=True)
    ):
        assert store.ids(i).tolist() == encoded.ids
        assert [x.tolist() for x in store.items(i)] == [encoded.positions, encoded.words]
        assert store.labels(i).tolist() == [LABELS.index(t) for t in example.labels or ()]
    assert store.long.tolist() == [n > LENGTH for n in store.lengths] != [False] * 5
    assert store.cut == {"sequences": 0, "tokens": 0, "words": 0, "empty_words": 0}
    cut = build(given, tokenizer, tmp_path / "cut", whole=False)
    assert (store.whole, cut.whole, cut.long.any()) == (True, False, False)
    assert store.content_hash != cut.content_hash


@pytest.mark.parametrize("budget", [20, 100_000])
@pytest.mark.parametrize("parts", [1, 2])
def test_every_word_of_a_long_sentence_is_read_once(tokenizer: Any, tmp_path: Path, budget: int, parts: int) -> None:
    """Each window is a stretch of its sentence between [CLS] and [SEP]; each item is the first token of its word."""
    store = build(examples(1, 9, 2, 30, 1, 17), tokenizer, tmp_path / "s", whole=True)
    items, tokens, sequences = [], [], 0
    for part in range(parts):
        for batch, rows in inference_batches(ItemView(store), token_budget=budget, part=part, parts=parts):
            assert batch.max_seqlen <= LENGTH
            items += rows.tolist()
            tokens += batch.token_ids[batch.item_index].tolist()
            ends = batch.cu_seqlens.tolist()
            for number, (a, b) in enumerate(zip(ends, ends[1:], strict=False)):
                ids = batch.token_ids[a:b].tolist()
                body = " ".join(map(str, store.ids(int(batch.example_ids[number])).tolist()[1:-1]))
                assert (ids[0], ids[-1]) == (tokenizer.cls_id, tokenizer.sep_id)
                assert f" {' '.join(map(str, ids[1:-1]))} " in f" {body} "
                assert batch.positions[a:b].tolist() == list(range(b - a))
                sequences += 1
    assert sorted(items) == list(range(int(store.item_offsets[-1])))
    expected = np.concatenate([store.ids(i)[store.items(i)[0]] for i in range(len(store))])
    assert np.array(tokens)[np.argsort(items)].tolist() == expected.tolist()
    assert sequences > len(store) + 4


def test_short_sentences_are_read_in_the_same_batches_as_before(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """Without a long sentence a store for scoring gives, batch by batch, what a store that cuts gives."""
    given = examples(*range(1, 10), *range(9, 0, -1))
    stores = [build(given, tokenizer, tmp_path / str(w), whole=w, length=400) for w in (False, True)]
    for chosen in (None, np.array([7, 3, 12])):
        a, b = ([*inference_batches(ItemView(s), chosen, token_budget=60)] for s in stores)
        assert len(a) == len(b) > 1
        for (one, rows), (other, places) in zip(a, b, strict=True):
            assert rows.tolist() == places.tolist()
            for name in ("token_ids", "positions", "segments", "cu_seqlens", "item_index", "example_ids"):
                assert torch.equal(getattr(one, name), getattr(other, name))


def test_a_window_that_decides_nothing_is_not_read() -> None:
    """Two words, each longer than the room of 4 tokens: one window each, none for what lies inside them."""
    rows = window_rows([0, *range(10, 30), 1], [1, 11], 6, first=5)
    assert [r.ids.tolist() for r in rows] == [[0, 10, 11, 12, 13, 1], [0, 20, 21, 22, 23, 1]]  # type: ignore[union-attr]
    assert [(list(r.positions), list(r.items)) for r in rows] == [([1], [5]), ([1], [6])]


@pytest.mark.parametrize("micro_batch", [0, 2])
def test_training_learns_every_word_once_an_epoch_where_prediction_decides_it(
    tokenizer: Tokenizer, tmp_path: Path, micro_batch: int
) -> None:
    """Word by word the tokens around it, its place and its label are those of the sequence that scoring reads."""
    store = build(examples(1, 9, 2, 30, 1, 17), tokenizer, tmp_path / "s", whole=True)
    view, labels = ItemView(store), np.asarray(store.item_labels)
    expected = {}
    for batch, rows in inference_batches(view):
        ends = batch.cu_seqlens.tolist()
        for item, place in zip(rows.tolist(), batch.item_index.tolist(), strict=True):
            a = max(x for x in ends if x <= place)
            expected[item] = (batch.token_ids[a : ends[ends.index(a) + 1]].tolist(), place - a)
    numbered = Part(view, np.arange(len(store)), labels=np.arange(len(labels)), weights=labels.astype(np.float32))
    batches = TaskBatches([numbered], batch_size=3, epochs=2, seed=5, micro_batch=micro_batch)
    learned: list[list[int]] = [[], []]
    for step in range(len(batches)):
        made, names = batches[step], iter(batches.names(step))
        assert [(len(b.token_ids), b.max_seqlen, len(b.item_index)) for b in made] == [
            (size.tokens, size.longest, size.items) for size in batches.sizes(step)
        ]
        for batch in made:
            ends = batch.cu_seqlens.tolist()
            for a, b, example in zip(ends, ends[1:], batch.example_ids.tolist(), strict=False):
                assert next(names) == store.example_ids[example]
                inside = (batch.item_index >= a) & (batch.item_index < b)
                for place, item in zip(batch.item_index[inside], batch.labels[inside], strict=True):
                    assert (batch.token_ids[a:b].tolist(), int(place) - a) == expected[int(item)]
                learned[2 * step // len(batches)] += batch.labels[inside].tolist()
            assert batch.weights.tolist() == labels[batch.labels.numpy()].tolist()
    assert [sorted(epoch) for epoch in learned] == [list(range(len(labels)))] * 2


def test_a_window_without_a_label_is_not_learned(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """Of a long sentence whose middle word alone is accepted, one window is left; a short sentence stays."""
    store = build(examples(31, 1), tokenizer, tmp_path / "s", whole=True)
    labels = np.full(int(store.item_offsets[-1]), -100)
    labels[15] = 1
    batches = TaskBatches([Part(ItemView(store), np.arange(2), labels=labels)], batch_size=8, epochs=1, seed=0)
    assert sorted(batches.names(0)) == ["e0", "e1"]
    assert sum(batch.num_targets for batch in batches[0]) == 1


def test_masked_words_see_every_token_of_a_long_text_once(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """In pieces of about one length, as few as it takes; a choice of texts is a choice of whole ones."""
    given = [
        Example(f"t{i}", "en", None, " ".join([WORDS[i % 5]] * n), None, None, "f", i) for i, n in enumerate([1, 40, 3])
    ]
    built = [
        build_store(given, tokenizer, folder=tmp_path / str(w), task="text", max_length=LENGTH, whole=w)
        for w in (True, False)
    ]
    store, cut = built
    corpus = Corpus(store, np.array([1, 2]))
    pieces = [corpus.ids(i).tolist() for i in range(len(corpus))]
    assert [len(p) for p in pieces] == corpus.lengths.tolist()
    assert all(len(corpus.segments(i)) == len(p) for i, p in enumerate(pieces))
    of_long = [p for i, p in enumerate(pieces) if corpus.name(i) == "t1"]
    body = store.ids(1).tolist()[1:-1]
    assert [token for p in of_long for token in p[1:-1]] == body
    assert {(p[0], p[-1]) for p in pieces} == {(tokenizer.cls_id, tokenizer.sep_id)}
    assert len(of_long) == -(-len(body) // (LENGTH - 2)) > 3
    assert max(map(len, of_long)) - min(map(len, of_long)) <= 1
    assert max(map(len, pieces)) <= LENGTH
    assert [Corpus(cut).ids(i).tolist() for i in range(3)] == [cut.ids(i).tolist() for i in range(3)]
