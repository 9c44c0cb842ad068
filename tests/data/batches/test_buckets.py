"""Static shapes: padding changes neither loss nor gradient, and the buckets are the best there are.

With XLT_KERNELS=triton TRITON_INTERPRET=1 the same tests run through the Triton kernels.
"""

from collections.abc import Callable
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from xlt_engine.data import BatchSize, Bucket, PackedBatch, choose_buckets, pack, pad_step, pad_to_bucket, padding_share
from xlt_engine.data.batches.buckets import ITEM_MULTIPLE, TOKEN_MULTIPLE, find_bucket, pad_to_few_sizes
from xlt_engine.engine.training.objectives import cross_entropy, masked_lm, soft_labels
from xlt_engine.kernels import attention_plan, packed_attention
from xlt_engine.model import Encoder, EncoderConfig, LinearHead, MaskedLM, TaskModel, VoterHeads

VOCABULARY, HIDDEN, CLASSES = 61, 32, 3
LENGTHS = (5, 1, 17, 9)
LABELS = ("a", "b", "c")


def encoder() -> Encoder:
    config = EncoderConfig(
        *(VOCABULARY, HIDDEN, 2, 2, 48), max_positions=20, dropout=0.1, attention_dropout=0.1, initializer_range=0.2
    )
    return Encoder(config, seed=1)


def tagger() -> nn.Module:
    return TaskModel(encoder(), VoterHeads(HIDDEN, CLASSES, (20, 21), seed=2, initializer_range=0.5), "ner", LABELS)


def classifier(pooling: str) -> nn.Module:
    return TaskModel(encoder(), LinearHead(HIDDEN, CLASSES, seed=2), "classification", LABELS, pooling=pooling)


def batch(targets: str, *, weights: bool = False, lengths: tuple[int, ...] = LENGTHS) -> PackedBatch:
    """Random tokens; every token but the first has a target, or the first alone (`sequences`)."""
    rng = np.random.default_rng(7)
    items = [np.arange(n)[min(1, n - 1) :] if targets != "sequences" else np.array([0]) for n in lengths]
    top = VOCABULARY if targets == "tokens" else CLASSES
    given: dict[str, Any] = {"labels": [rng.integers(top, size=len(i)) for i in items]}
    if targets == "soft":
        given = {"soft_targets": [rng.dirichlet(np.ones(CLASSES), len(i)).astype(np.float32) for i in items]}
    else:
        given["labels"][0][:1] = -100
    if weights:
        given["weights"] = [rng.random(len(i)).astype(np.float32) + 0.5 for i in items]
    sequences = [rng.integers(5, VOCABULARY, size=n).tolist() for n in lengths]
    return pack(sequences, items=items, example_ids=[31, 7, 8, 5], **given)


def bucket_for(given: PackedBatch, tokens: int, items: int = 5, sequences: int = 9) -> Bucket:
    size = BatchSize.of(given)
    return Bucket(size.tokens + tokens, size.sequences + sequences, size.items + items, 18)


def gradients(
    model: nn.Module, objective: Callable[..., Tensor], given: PackedBatch
) -> tuple[float, dict[str, Tensor]]:
    model.zero_grad()
    loss = objective(model, given, 5) / given.num_targets
    loss.backward()
    return float(loss.detach()), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


CASES: dict[str, tuple[Callable[[], nn.Module], Any, str, bool]] = {
    "masked-lm": (lambda: MaskedLM(encoder()), masked_lm, "tokens", False),
    "tags": (tagger, cross_entropy, "classes", False),
    "tags-weighted": (tagger, cross_entropy, "classes", True),
    "soft": (tagger, soft_labels, "soft", False),
    "soft-weighted": (tagger, soft_labels, "soft", True),
    "texts-cls": (lambda: classifier("cls"), cross_entropy, "sequences", False),
    "texts-mean": (lambda: classifier("mean"), cross_entropy, "sequences", False),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("padding", [0, 1, 41])
def test_padding_changes_neither_loss_nor_gradient(name: str, padding: int) -> None:
    """In fp32 with dropout on: the loss, and every parameter's gradient relative to its own size."""
    make, objective, targets, weights = CASES[name]
    model, given = make(), batch(targets, weights=weights)
    padded = pad_to_bucket(given, bucket_for(given, padding))
    assert padded.num_targets == given.num_targets
    assert (padded.weights is not None) == (weights or targets == "soft")
    loss, found = gradients(model, objective, padded)
    expected_loss, expected = gradients(model, objective, given)
    assert loss == pytest.approx(expected_loss, rel=1e-6)
    assert found.keys() == expected.keys()
    size = float(torch.stack([g.norm() for g in expected.values()]).norm())
    for parameter, gradient in expected.items():
        error = float((found[parameter] - gradient).norm())
        # A key's bias moves all scores of a query alike: its gradient is zero but for rounding.
        assert error <= 1e-6 * max(float(gradient.norm()), 0.1 * size), parameter


@pytest.mark.parametrize("padding", [0, 1, 18, 19, 41])
def test_shapes_are_those_of_the_bucket_and_padding_has_sequences_of_its_own(padding: int) -> None:
    given = batch("soft")
    bucket = bucket_for(given, padding)
    padded = pad_to_bucket(given, bucket)
    assert Bucket(*BatchSize.of(padded)) == bucket
    tokens, items, sequences = BatchSize.of(given)[:3]
    for name in ("token_ids", "positions", "segments"):
        assert torch.equal(getattr(padded, name)[:tokens], getattr(given, name)), name
        assert getattr(padded, name).dtype == getattr(given, name).dtype
    assert torch.equal(padded.cu_seqlens[: items + 1], given.cu_seqlens)
    assert padded.cu_seqlens.dtype == given.cu_seqlens.dtype
    lengths = padded.cu_seqlens.diff()[items:]
    assert int(lengths.max()) <= bucket.longest
    assert int(lengths.sum()) == padding
    used = -(-padding // bucket.longest)
    assert lengths.tolist()[used:] == [0] * (bucket.sequences - items - used)
    places = [np.arange(int(n)) for n in lengths]
    assert padded.positions[tokens:].tolist() == np.concatenate(places).tolist()
    assert padded.item_index[sequences:].tolist() == [0] * 5
    assert (padded.weights.tolist(), padded.example_ids.tolist()) == ([1.0] * sequences + [0.0] * 5, [31, 7, 8, 5])


def test_a_batch_that_does_not_fit_is_refused() -> None:
    given = batch("classes")
    tokens, sequences, items, longest = BatchSize.of(given)
    exact = Bucket(tokens, sequences, items, longest)
    assert torch.equal(pad_to_bucket(given, exact).token_ids, given.token_ids)
    for place in range(4):
        smaller = list(exact)
        smaller[place] -= 1
        pytest.raises(ValueError, pad_to_bucket, given, Bucket(*smaller)).match("does not fit")
    # One token of padding needs a sequence.
    pytest.raises(ValueError, pad_to_bucket, given, Bucket(tokens + 1, sequences, items, longest)).match("does not fit")
    pad_to_bucket(given, Bucket(tokens + 1, sequences + 1, items, longest))


def test_micro_batches_of_a_step_get_one_bucket_or_none() -> None:
    first, second = batch("classes"), batch("classes", lengths=(3, 2, 4, 1))
    small, large = bucket_for(second, 3), bucket_for(first, 10)
    sizes = {BatchSize.of(padded) for padded in pad_step([first, second], [small, large])}
    assert sizes == {BatchSize(*large)}
    assert {BatchSize.of(padded) for padded in pad_step([second], [small, large])} == {BatchSize(*small)}
    assert pad_step([first, second], [small]) == [first, second]
    assert pad_step([first], []) == [first]


def test_few_sizes_change_no_logits() -> None:
    model, sizes = tagger().double(), set[tuple[int, int]]()
    for tokens in range(33, 65):
        given = batch("classes", lengths=(17, 16, *[1] * (tokens - 33)))
        padded = pad_to_few_sizes(given)
        size, real = BatchSize.of(padded), BatchSize.of(given)
        assert real.tokens <= size.tokens <= real.tokens * 17 / 16
        assert real.items <= size.items <= real.items * 17 / 16
        sizes.add((size.tokens, size.items))
        with torch.no_grad():
            torch.testing.assert_close(model(padded)[:, : real.items], model(given), rtol=1e-12, atol=0)
    assert {tokens for tokens, _ in sizes} == set(range(34, 65, 2))
    assert {items for _, items in sizes} == {31, *range(32, 64, 2)}


def test_attention_takes_sequences_of_no_tokens() -> None:
    """At the end, as padding has them, and in between; with gradients and without."""
    starts = torch.tensor([0, 5, 5, 6, 23, 32, 32, 32], dtype=torch.int32)
    full = torch.tensor([0, 5, 6, 23, 32], dtype=torch.int32)
    qkv = torch.randn(32, 3, 2, 8, generator=torch.Generator().manual_seed(3))
    found: list[list[Tensor]] = []
    for boundaries in (starts, full):
        x, plan = qkv.clone().requires_grad_(), attention_plan(boundaries)
        out = packed_attention(x, boundaries, 17, p=0.2, seed=4, site=1, plan=plan)
        plain = packed_attention(qkv, boundaries, 17, p=0.2, seed=4, site=1, plan=plan)
        found.append([out.detach(), plain, *torch.autograd.grad(out.square().sum(), x)])
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)
        assert bool(one.isfinite().all())


def drawn(seed: int, count: int, batch_size: int = 8) -> list[BatchSize]:
    """Batches of sequences of similar lengths, as a sorted window has them."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        lengths = rng.integers(3, rng.integers(6, 129), size=batch_size)
        found.append(BatchSize(int(lengths.sum()), batch_size, int(lengths.sum() * 0.6), int(lengths.max())))
    return found


@pytest.mark.parametrize("most", [1, 2, 3, 8])
def test_every_batch_fits_and_there_are_no_more_buckets_than_asked_for(most: int) -> None:
    sizes = drawn(1, 300)
    buckets = choose_buckets(sizes, most)
    assert len(buckets) == most
    assert all(find_bucket([size], buckets) is not None for size in sizes)
    assert all(b.tokens % TOKEN_MULTIPLE == 0 and b.items % ITEM_MULTIPLE == 0 for b in buckets)
    assert [b.tokens for b in buckets] == sorted({b.tokens for b in buckets})
    assert all(any(find_bucket([size], buckets) == b for size in sizes) for b in buckets)
    assert choose_buckets(sizes[::-1], most) == buckets


@pytest.mark.parametrize("most", [1, 2, 3, 4])
@pytest.mark.parametrize("seed", range(4))
def test_the_choice_of_edges_pads_least(seed: int, most: int) -> None:
    """Against all choices, for few different sizes; items and lengths are alike, so that tokens alone decide."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(1, 9, size=25) * TOKEN_MULTIPLE - rng.integers(0, TOKEN_MULTIPLE, size=25)
    sizes = [BatchSize(int(n), 4, 1, 200) for n in tokens]

    def computed(edges: tuple[int, ...]) -> int:
        return sum(min(edge for edge in edges if edge >= size.tokens) for size in sizes)

    edges = sorted({-(-size.tokens // TOKEN_MULTIPLE) * TOKEN_MULTIPLE for size in sizes})
    choices = [(*low, edges[-1]) for n in range(most) for low in combinations(edges[:-1], n)]
    chosen = tuple(bucket.tokens for bucket in choose_buckets(sizes, most))
    assert computed(chosen) == min(map(computed, choices))


def test_large_batches_have_few_candidates_for_edges() -> None:
    sizes = [BatchSize(tokens, 64, 10, 100) for tokens in range(100, 60_000, 17)]
    buckets = choose_buckets(sizes, 8)
    assert len(buckets) == 8
    assert all(b.tokens % (8 * TOKEN_MULTIPLE) == 0 for b in buckets)


def test_choices_at_the_edge() -> None:
    assert choose_buckets([]) == ()
    assert choose_buckets([BatchSize(64, 2, 16, 33)] * 3) == (Bucket(64, 2, 16, 33),)
    assert choose_buckets([BatchSize(63, 2, 17, 40)]) == (Bucket(64, 3, 32, 40),)
    assert padding_share([], ()) == 0.0
    assert padding_share([BatchSize(60, 1, 1, 60)], ()) == 0.0
    assert padding_share([BatchSize(48, 1, 1, 48)], choose_buckets([BatchSize(48, 1, 1, 48)])) == pytest.approx(0.25)
    pytest.raises(ValueError, choose_buckets, [BatchSize(1, 1, 1, 1)], 0).match("at least one")


def test_a_bucket_fits_every_batch_below_its_edge() -> None:
    """Fewer tokens need more sequences of padding: the largest number decides, not that of the largest batch."""
    few, many = BatchSize(70, 2, 1, 10), BatchSize(128, 9, 1, 30)
    (bucket,) = choose_buckets([few, many], 1)
    assert bucket == Bucket(128, 9, 16, 30)
    assert bucket.fits(few)
    (bucket,) = choose_buckets([few, many._replace(sequences=2)], 1)
    assert bucket == Bucket(128, 4, 16, 30)
