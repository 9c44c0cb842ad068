"""Batch sources: pure functions of the step, exact batch sizes, every example once an epoch."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import torch

from xlt_engine.data import (
    BatchSize,
    Corpus,
    Example,
    ItemView,
    MlmBatches,
    PackedBatch,
    Part,
    Rows,
    TaskBatches,
    Tokenizer,
    TokenStore,
    build_store,
    inference_batches,
    rng_for,
    row_batches,
    train_wordpiece,
    unigram_entropy,
)
from xlt_engine.data.batches.sources import mask_tokens

WORDS = ["red", "green", "blue", "house", "tree", "river", "runs", "stands", "slowly", "here"]
LABELS = ("O", "B-X", "I-X")


def special_of(tokenizer: Tokenizer) -> np.ndarray:
    return np.isin(np.arange(tokenizer.vocab_size), list(tokenizer.special_ids))


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_wordpiece([" ".join(WORDS)] * 3, 40)


def example(name: str, **values: Any) -> Example:
    absent = {"words": None, "text": None, "pair": None, "labels": None}
    return Example(id=name, language="en", file="made", line=1, **(absent | values))


def sentences(count: int, seed: int) -> list[list[str]]:
    rng = np.random.default_rng(seed)
    return [[WORDS[i] for i in rng.integers(len(WORDS), size=rng.integers(1, 9))] for _ in range(count)]


@pytest.fixture(scope="module")
def stores(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> dict[str, TokenStore]:
    folder = tmp_path_factory.mktemp("stores")

    def tagged(name: str, count: int, seed: int) -> TokenStore:
        rng = np.random.default_rng(seed)
        examples = [
            example(f"{name}-{i}", words=tuple(w), labels=tuple(LABELS[j] for j in rng.integers(3, size=len(w))))
            for i, w in enumerate(sentences(count, seed))
        ]
        return build_store(examples, tokenizer, folder=folder / name, task="ner", labels=LABELS, max_length=32)

    def plain(name: str, count: int, seed: int) -> TokenStore:
        examples = [example(f"{name}-{i}", text=" ".join(w)) for i, w in enumerate(sentences(count, seed))]
        return build_store(examples, tokenizer, folder=folder / name, task="text", max_length=32)

    pairs = [
        example(str(i), text=" ".join(a), pair=" ".join(b), labels="ab"[i % 2])
        for i, (a, b) in enumerate(zip(sentences(11, 5), sentences(11, 6), strict=True))
    ]
    return {
        "ner": tagged("ner", 37, 1),
        "more": tagged("more", 10, 2),
        "en": plain("en", 41, 3),
        "de": plain("de", 13, 4),
        "pairs": build_store(
            pairs, tokenizer, folder=folder / "pairs", task="classification", labels=("a", "b"), max_length=32
        ),
    }


def same_batches(a: Sequence[PackedBatch], b: Sequence[PackedBatch]) -> bool:
    return len(a) == len(b) and all(
        torch.equal(x.token_ids, y.token_ids)
        and torch.equal(x.item_index, y.item_index)
        and (x.labels is None or (y.labels is not None and torch.equal(x.labels, y.labels)))
        for x, y in zip(a, b, strict=True)
    )


def mlm(
    stores: dict[str, TokenStore], tokenizer: Tokenizer, names: Sequence[str] = ("en", "de"), **more: object
) -> MlmBatches:
    options = {"batch_size": 8, "epochs": 2, "seed": 5} | more
    corpora = [Corpus(stores[n]) for n in names]
    return MlmBatches(corpora, special=special_of(tokenizer), mask_id=tokenizer.mask_id, **options)


def test_mlm_batches_have_exactly_their_size(stores: dict[str, TokenStore], tokenizer: Tokenizer) -> None:
    """41 and 13 examples, balanced up: 82 an epoch, 10 batches of 8 and one of 2."""
    batches = mlm(stores, tokenizer)
    assert (batches.examples_per_epoch, len(batches)) == ([41, 41], 22)
    for epoch in range(2):
        sizes = sorted(len(batches[s][0].example_ids) for s in range(11 * epoch, 11 * epoch + 11))
        assert sizes == [2] + [8] * 10
    assert [len(mlm(stores, tokenizer, epochs=part)) for part in (0.5, 0.001)] == [round(11 * 0.5), 1]


def test_entropy_of_single_tokens(stores: dict[str, TokenStore], tokenizer: Tokenizer) -> None:
    store, special = stores["en"], special_of(tokenizer)
    counts = Counter(int(t) for i in range(len(store)) for t in store.ids(i) if not special[t])
    total = sum(counts.values())
    expected = sum(n / total * math.log(total / n) for n in counts.values())
    assert unigram_entropy(store, special) == pytest.approx(expected, rel=1e-12)
    assert unigram_entropy(store, np.ones_like(special)) == 0


def test_mlm_epoch_is_balanced(stores: dict[str, TokenStore], tokenizer: Tokenizer) -> None:
    """Every English sentence once, every German one three or four times; the two are told apart by their tokens."""
    batches = mlm(stores, tokenizer, rate=1e-9)
    german = {stores["de"].ids(i).tobytes() for i in range(13)} - {stores["en"].ids(i).tobytes() for i in range(41)}
    seen: Counter[bytes] = Counter()
    for step in range(11):
        (batch,) = batches[step]
        for part in np.split(batch.token_ids.numpy(), batch.cu_seqlens[1:-1].numpy()):
            seen[part.astype(np.uint16).tobytes()] += 1
    assert sum(seen.values()) == 82
    repeats = [stores["de"].ids(i).tobytes() for i in range(13)]
    for key in german:
        assert 3 * repeats.count(key) <= seen[key] <= 4 * repeats.count(key)


def test_mlm_targets_are_the_original_tokens(stores: dict[str, TokenStore], tokenizer: Tokenizer) -> None:
    plain, batches = mlm(stores, tokenizer, rate=1e-9), mlm(stores, tokenizer, rate=0.5)
    for step in range(len(batches)):
        (original,), (batch,) = plain[step], batches[step]
        assert batch.labels is not None
        assert torch.equal(original.token_ids[batch.item_index], batch.labels)
        assert batch.num_targets == len(batch.item_index) > 0
        elsewhere = torch.ones(batch.num_tokens, dtype=torch.bool)
        elsewhere[batch.item_index] = False
        assert torch.equal(original.token_ids[elsewhere], batch.token_ids[elsewhere])
        special = torch.tensor(sorted(tokenizer.special_ids))
        assert not torch.isin(batch.labels, special).any()


def test_mlm_masks_are_dynamic(stores: dict[str, TokenStore], tokenizer: Tokenizer) -> None:
    """Another mask for the same sentence in another epoch."""
    batches, found = mlm(stores, tokenizer, names=("en",), rate=0.5, epochs=6), set()
    for step in range(len(batches)):
        (batch,) = batches[step]
        for place in (batch.example_ids == 3).nonzero().flatten().tolist():
            found.add(tuple((batch.item_index[batch.item_example == place] - batch.cu_seqlens[place]).tolist()))
    assert len(found) > 1


@pytest.mark.parametrize("order", ["forward", "backward", "again"])
def test_sources_are_pure_functions_of_the_step(stores: Any, tokenizer: Tokenizer, order: str) -> None:
    """Resuming at any step, and asking for steps in any order, gives the same batches."""
    part = Part(ItemView(stores["ner"]), np.arange(37), labels=np.asarray(stores["ner"].item_labels))

    def task() -> TaskBatches:
        return TaskBatches([part], batch_size=8, epochs=3, seed=5)

    for make in (lambda: mlm(stores, tokenizer), task):
        source = make()
        steps = list(range(len(source)))
        expected = [source[s] for s in steps]
        again = source if order == "again" else make()
        for step in reversed(steps) if order == "backward" else steps:
            assert same_batches(again[step], expected[step])
        with pytest.raises(IndexError):
            source[len(source)]


def test_micro_batches_hold_the_same_sequences_and_masks(stores: dict[str, TokenStore], tokenizer: Tokenizer) -> None:
    whole, cut = mlm(stores, tokenizer), mlm(stores, tokenizer, micro_batch=3)
    assert len(whole) == len(cut)
    for step in range(len(whole)):
        (big,), small = whole[step], cut[step]
        assert [len(b.example_ids) for b in small[:-1]] == [3] * (len(small) - 1)
        assert torch.equal(torch.cat([b.token_ids for b in small]), big.token_ids)
        assert big.labels is not None
        assert torch.equal(torch.cat([b.labels for b in small if b.labels is not None]), big.labels)
        assert sum(b.num_targets for b in small) == big.num_targets


def test_task_epoch_has_every_example_once_with_its_labels(stores: dict[str, TokenStore]) -> None:
    store = stores["ner"]
    chosen = np.arange(0, 37, 2)
    part = Part(ItemView(store), chosen, labels=np.asarray(store.item_labels))
    batches = TaskBatches([part], batch_size=4, epochs=2, seed=5)
    assert len(batches) == 10
    for epoch in range(2):
        seen = []
        for step in range(5 * epoch, 5 * epoch + 5):
            (batch,) = batches[step]
            for place, example in enumerate(batch.example_ids.tolist()):
                seen.append(example)
                rows = batch.item_example == place
                start = int(batch.cu_seqlens[place])
                assert batch.labels[rows].tolist() == store.labels(example).tolist()
                assert (batch.item_index[rows] - start).tolist() == store.items(example)[0].tolist()
                assert batch.token_ids[start : int(batch.cu_seqlens[place + 1])].tolist() == store.ids(example).tolist()
        assert sorted(seen) == chosen.tolist()


@pytest.mark.parametrize(("balance", "expected"), [("none", [37, 10]), ("up", [37, 37])])
def test_parts_are_mixed(stores: dict[str, TokenStore], balance: str, expected: list[int]) -> None:
    """Labels 0 for every item of the first part, 1 for the second, tell where an example came from."""
    parts = [
        Part(ItemView(stores[n]), np.arange(len(stores[n])), labels=np.full(int(stores[n].item_offsets[-1]), i))
        for i, n in enumerate(("ner", "more"))
    ]
    batches = TaskBatches(parts, batch_size=5, epochs=1, seed=5, balance=balance)
    counts, mixed = [0, 0], 0
    for step in range(len(batches)):
        (batch,) = batches[step]
        origin = [int(batch.labels[batch.item_example == i][0]) for i in range(len(batch.example_ids))]
        counts = [counts[0] + origin.count(0), counts[1] + origin.count(1)]
        mixed += len(set(origin)) == 2
    assert counts == expected
    assert mixed > 0


def test_an_empty_part_is_left_out(stores: dict[str, TokenStore]) -> None:
    full = Part(ItemView(stores["more"]), np.arange(10), labels=np.asarray(stores["more"].item_labels))
    empty = Part(ItemView(stores["ner"]), np.zeros(0, dtype=np.int64), labels=np.asarray(stores["ner"].item_labels))
    alone, both = (TaskBatches(p, batch_size=4, epochs=1, seed=5) for p in ([full], [empty, full]))
    assert all(same_batches(alone[s], both[s]) for s in range(len(alone)))


def test_soft_targets_and_weights_follow_their_items(stores: dict[str, TokenStore]) -> None:
    store = stores["ner"]
    items = int(store.item_offsets[-1])
    numbers = np.arange(items, dtype=np.float32)
    part = Part(ItemView(store), np.arange(37), soft_targets=np.stack([numbers, -numbers], 1), weights=numbers + 0.5)
    batches = TaskBatches([part], batch_size=6, epochs=1, seed=5)
    seen = []
    for step in range(len(batches)):
        (batch,) = batches[step]
        assert batch.weights is not None
        expected = [np.arange(store.item_offsets[i], store.item_offsets[i + 1]) for i in batch.example_ids.tolist()]
        assert batch.soft_targets[:, 0].tolist() == np.concatenate(expected).tolist()
        assert torch.equal(batch.soft_targets[:, 1], -batch.soft_targets[:, 0])
        assert torch.equal(batch.weights, batch.soft_targets[:, 0] + 0.5)
        assert batch.num_targets == len(batch.item_index)
        seen += batch.soft_targets[:, 0].tolist()
    assert sorted(seen) == numbers.tolist()


def test_view_of_all_tokens(stores: dict[str, TokenStore], tokenizer: Tokenizer) -> None:
    store = stores["ner"]
    view = ItemView(store, "all")
    for i in range(len(store)):
        positions = view.positions(i)
        assert len(positions) == view.offsets[i + 1] - view.offsets[i]
        assert not set(store.ids(i)[positions].tolist()) & set(tokenizer.special_ids)
        assert len(positions) == store.lengths[i] - 2
    assert view.offsets[-1] > ItemView(store).offsets[-1]


@pytest.mark.parametrize("mode", ["first", "all"])
@pytest.mark.parametrize("budget", [20, 100, 100_000])
def test_inference_sees_every_item_once(stores: dict[str, TokenStore], mode: str, budget: int) -> None:
    store = stores["ner"]
    view = ItemView(store, mode)  # type: ignore[arg-type]
    tokens, rows = [], []
    for batch, places in inference_batches(view, token_budget=budget):
        assert batch.num_tokens <= budget + batch.max_seqlen
        tokens += batch.token_ids[batch.item_index].tolist()
        rows += places.tolist()
    assert sorted(rows) == list(range(int(view.offsets[-1])))
    expected = np.concatenate([store.ids(i)[view.positions(i)] for i in range(len(store))])
    assert np.array(tokens)[np.argsort(rows)].tolist() == expected.tolist()


@pytest.mark.parametrize(("name", "mode"), [("ner", "first"), ("ner", "all"), ("pairs", "first"), ("pairs", "all")])
def test_a_batch_copied_at_once_is_that_of_its_rows(stores: dict[str, TokenStore], name: str, mode: str) -> None:
    """Every field, for examples in any order."""
    store = stores[name]
    view = ItemView(store, mode)  # type: ignore[arg-type]
    for chosen in (np.arange(len(store)), np.array([9, 2, 5, 0, 10])):
        rows = Rows(view, chosen)
        one_by_one = list(row_batches(rows.lengths, rows.__getitem__, 60))
        at_once = list(inference_batches(view, chosen, token_budget=60))
        assert len(at_once) == len(one_by_one) > 1
        for (batch, items), (other, others) in zip(at_once, one_by_one, strict=True):
            assert np.array_equal(items, others)
            for field in fields(batch):
                value, expected = getattr(batch, field.name), getattr(other, field.name)
                if isinstance(expected, torch.Tensor):
                    assert (value.dtype, value.tolist()) == (expected.dtype, expected.tolist()), field.name
                else:
                    assert value == expected, field.name


def test_inference_of_some_examples(stores: dict[str, TokenStore]) -> None:
    view, chosen = ItemView(stores["ner"]), np.array([3, 11, 30])
    rows = np.concatenate([places for _, places in inference_batches(view, chosen)])
    expected = np.concatenate([np.arange(view.offsets[i], view.offsets[i + 1]) for i in chosen])
    assert sorted(rows.tolist()) == expected.tolist()


def test_pairs_keep_their_segments(stores: dict[str, TokenStore], tokenizer: Tokenizer) -> None:
    store = stores["pairs"]
    part = Part(ItemView(store), np.arange(11), labels=np.asarray(store.item_labels))
    (batch,) = TaskBatches([part], batch_size=11, epochs=1, seed=5)[0]
    for place, example in enumerate(batch.example_ids.tolist()):
        span = slice(int(batch.cu_seqlens[place]), int(batch.cu_seqlens[place + 1]))
        segments = batch.segments[span].tolist()
        assert segments == store.segments(example).tolist()
        first_end = batch.token_ids[span].tolist().index(tokenizer.sep_id)
        assert segments == [0] * (first_end + 1) + [1] * (len(segments) - first_end - 1)
        assert 0 < sum(segments) < len(segments)


def test_corpus_of_a_subset(stores: dict[str, TokenStore]) -> None:
    some = Corpus(stores["en"], np.array([0, 40, 12]))
    expected = [stores["en"].ids(i) for i in (0, 40, 12)]
    assert (len(some), some.lengths.tolist()) == (3, [len(e) for e in expected])
    assert [some.ids(i).tolist() for i in range(3)] == [e.tolist() for e in expected]
    assert [some.name(i) for i in range(3)] == [stores["en"].example_ids[i] for i in (0, 40, 12)]


@pytest.mark.parametrize("micro_batch", [0, 3])
def test_sizes_of_tagging_batches_are_known_without_making_them(stores: Any, micro_batch: int) -> None:
    parts = [
        Part(ItemView(stores[name], mode), np.arange(2, len(stores[name])))
        for name, mode in (("ner", "first"), ("more", "all"))
    ]
    batches = TaskBatches(parts, batch_size=8, epochs=2, seed=3, balance="up", micro_batch=micro_batch)
    for step in range(len(batches)):
        assert batches.sizes(step) == [BatchSize.of(batch) for batch in batches[step]]


@pytest.mark.parametrize("micro_batch", [0, 3])
def test_sizes_of_masked_batches_bound_the_number_of_masked_tokens(
    stores: dict[str, TokenStore], tokenizer: Tokenizer, micro_batch: int
) -> None:
    """Exactly, but for that number, which the bound rarely misses and never by much."""
    batches = mlm(stores, tokenizer, epochs=6, micro_batch=micro_batch)
    missed = []
    for step in range(len(batches)):
        for size, batch in zip(batches.sizes(step), batches[step], strict=True):
            made = BatchSize.of(batch)
            assert size._replace(items=0) == made._replace(items=0)
            missed.append(made.items > size.items)
            assert made.items <= 2 * size.items
    assert len(missed) > 50
    assert np.mean(missed) < 0.08


VOCABULARY, MASK, COUNT = 1000, 4, 200_000
SPECIAL = np.arange(VOCABULARY) < 5


def text(count: int = COUNT, seed: int = 0) -> np.ndarray:
    """Ordinary tokens with a special one in every tenth place."""
    ids = np.random.default_rng(seed).integers(5, VOCABULARY, size=count)
    ids[::10] = np.arange(len(ids[::10])) % 4
    return ids


def masked(ids: np.ndarray, seed: int = 1, **more: float) -> tuple[np.ndarray, np.ndarray]:
    return mask_tokens(ids, SPECIAL, rng_for(seed, "mask", 0), mask_id=MASK, vocab_size=VOCABULARY, **more)


def within(successes: int, trials: int, probability: float) -> bool:
    """Five standard deviations of a binomial count."""
    return abs(successes - trials * probability) < 5 * np.sqrt(trials * probability * (1 - probability))


@pytest.mark.parametrize("rate", [0.05, 0.15, 0.4])
def test_rates(rate: float) -> None:
    ids = text()
    corrupted, targets = masked(ids, rate=rate)
    chosen, total = targets != -100, int((targets != -100).sum())
    assert within(total, int((~SPECIAL[ids]).sum()), rate)
    assert (targets[chosen] == ids[chosen]).all()
    assert (corrupted[~chosen] == ids[~chosen]).all()
    hidden, kept = chosen & (corrupted == MASK), chosen & (corrupted == ids)
    other = chosen & ~hidden & ~kept
    # One random draw in 995 is the original token.
    same = 1 / (VOCABULARY - 5)
    assert within(int(hidden.sum()), total, 0.8)
    assert within(int(kept.sum()), total, 0.1 + 0.1 * same)
    assert within(int(other.sum()), total, 0.1 - 0.1 * same)


def test_special_tokens_are_never_chosen_nor_drawn() -> None:
    ids = text()
    corrupted, targets = masked(ids, rate=1.0, replace_rate=0.0, random_rate=1.0)
    special = SPECIAL[ids]
    assert (targets[special] == -100).all()
    assert (corrupted[special] == ids[special]).all()
    assert (targets[~special] == ids[~special]).all()
    assert not SPECIAL[corrupted[~special]].any()


def test_tokens_are_drawn_uniformly() -> None:
    """Chi-square over the 995 ordinary tokens, against a five-sigma bound."""
    corrupted, _ = masked(np.full(COUNT, 7), rate=1.0, replace_rate=0.0, random_rate=1.0)
    counts = np.bincount(corrupted, minlength=VOCABULARY)[5:]
    expected = COUNT / 995
    assert ((counts - expected) ** 2 / expected).sum() < 994 + 5 * np.sqrt(2 * 994)


def test_same_key_same_masks_and_the_input_stays() -> None:
    ids = text(1000).astype(np.uint16)
    before = ids.copy()
    first, again, other = masked(ids, seed=1), masked(ids, seed=1), masked(ids, seed=2)
    assert first[0].dtype == first[1].dtype == np.int64
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    assert (first[1] != other[1]).any()
    assert (ids == before).all()


def test_mask_does_not_depend_on_the_tokens() -> None:
    """Which places are chosen depends on the key alone, so that resuming needs no state of the text."""
    a, b = masked(np.full(5000, 7))[1], masked(np.full(5000, 8))[1]
    assert ((a != -100) == (b != -100)).all()
