"""Windows over long sentences: which word which window decides, and how stores that keep sentences whole are read."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from xlt_engine.data import (
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
from xlt_engine.data.batches.windows import cut_windows

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
    return [
        Example(
            f"e{i}",
            "en",
            tuple(rng.choice(WORDS) for _ in range(n)),
            None,
            None,
            tuple(rng.choices(LABELS, k=n)),
            "f",
            i,
        )
        for i, n in enumerate(counts)
    ]


def build(given: list[Example], tokenizer: Tokenizer, folder: Path, *, whole: bool, length: int = LENGTH) -> TokenStore:
    return build_store(given, tokenizer, folder=folder, task="ner", labels=LABELS, max_length=length, whole=whole)


def test_a_store_for_scoring_keeps_sentences_whole(tokenizer: Tokenizer, tmp_path: Path) -> None:
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
    with pytest.raises(AssertionError, match="stores for scoring"):
        TaskBatches([Part(ItemView(store), np.arange(5))], batch_size=2, epochs=1, seed=0)


@pytest.mark.parametrize("budget", [20, 100_000])
@pytest.mark.parametrize("parts", [1, 2])
def test_every_word_of_a_long_sentence_is_read_once(
    tokenizer: Tokenizer, tmp_path: Path, budget: int, parts: int
) -> None:
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
