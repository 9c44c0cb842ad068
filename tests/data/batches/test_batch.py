"""Packed batches: what `pack` promises, and that an encoder cannot tell in which company a sequence travels."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from xlt_engine.data import PackedBatch, pack
from xlt_engine.model import Encoder, EncoderConfig, LinearHead, MaskedLM, TaskModel, VoterHeads

VOCABULARY, HIDDEN = 50, 32


def random_sequences(seed: int, count: int, longest: int = 17) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [[2, *rng.integers(5, VOCABULARY, size=rng.integers(0, longest - 1)).tolist(), 3] for _ in range(count)]


def test_layout() -> None:
    batch = pack([[2, 7, 3], [2, 3], [2, 8, 9, 3]], [[0, 0, 0], [0, 0], [0, 0, 1, 1]])
    assert batch.token_ids.tolist() == [2, 7, 3, 2, 3, 2, 8, 9, 3]
    assert batch.positions.tolist() == [0, 1, 2, 0, 1, 0, 1, 2, 3]
    assert batch.segments.tolist() == [0] * 7 + [1] * 2
    assert batch.cu_seqlens.tolist() == [0, 3, 5, 9]
    assert (batch.max_seqlen, batch.num_tokens, batch.num_targets) == (4, 9, 3)
    assert batch.item_index.tolist() == [0, 3, 5]
    assert batch.item_example.tolist() == batch.example_ids.tolist() == [0, 1, 2]
    assert batch.labels is None
    assert batch.soft_targets is None
    assert batch.weights is None
    kinds = {name: getattr(batch, name).dtype for name in ("token_ids", "positions", "segments", "item_index")}
    assert set(kinds.values()) == {torch.int64}
    assert batch.cu_seqlens.dtype == torch.int32


def test_items_and_targets_move_with_their_sequence() -> None:
    soft = [np.array([[0.25, 0.75]]), np.zeros((0, 2)), np.array([[1.0, 0.0], [0.5, 0.5]])]
    batch = pack(
        [[2, 7, 3], [2, 3], [2, 8, 9, 3]],
        items=[[1], [], [1, 2]],
        labels=[[4], [], [-100, 1]],
        soft_targets=soft,
        weights=[[0.5], [], [1.0, 2.0]],
        example_ids=[30, 10, 20],
    )
    assert batch.token_ids[batch.item_index].tolist() == [7, 8, 9]
    assert batch.item_example.tolist() == [0, 2, 2]
    assert batch.example_ids.tolist() == [30, 10, 20]
    assert batch.labels is not None
    assert batch.labels.tolist() == [4, -100, 1]
    assert batch.soft_targets is not None
    assert batch.soft_targets.tolist() == [[0.25, 0.75], [1.0, 0.0], [0.5, 0.5]]
    assert batch.weights is not None
    assert batch.weights.tolist() == [0.5, 1.0, 2.0]
    assert batch.num_targets == 2


def test_numpy_and_lists_pack_alike() -> None:
    sequences = random_sequences(1, 6)
    a, b = pack(sequences), pack([np.asarray(s, dtype=np.uint16) for s in sequences])
    assert torch.equal(a.token_ids, b.token_ids)
    assert a.token_ids.dtype == b.token_ids.dtype


@pytest.mark.parametrize("sequences", [[], [[2, 3], []]])
def test_nothing_to_pack(sequences: list[list[int]]) -> None:
    with pytest.raises(ValueError, match="at least one sequence, and none may be empty"):
        pack(sequences)


def test_batch_is_frozen_and_stays_on_its_device() -> None:
    batch = pack([[2, 3]])
    assert batch.to("cpu") is batch
    with pytest.raises(dataclasses.FrozenInstanceError):
        batch.max_seqlen = 3  # type: ignore[misc]


def test_random_batches_keep_their_invariants() -> None:
    for seed in range(20):
        sequences = random_sequences(seed, 1 + seed)
        batch = pack(sequences)
        lengths = [len(s) for s in sequences]
        assert batch.cu_seqlens.diff().tolist() == lengths
        assert batch.max_seqlen == max(lengths)
        assert batch.num_tokens == sum(lengths) == int(batch.cu_seqlens[-1])
        starts = batch.cu_seqlens[:-1].long()
        assert (batch.positions[starts] == 0).all()
        assert int((batch.positions == 0).sum()) == len(sequences)
        for i, sequence in enumerate(sequences):
            assert batch.token_ids[batch.cu_seqlens[i] : batch.cu_seqlens[i + 1]].tolist() == sequence


def encoder(seed: int = 3) -> Encoder:
    config = EncoderConfig(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        num_layers=2,
        num_heads=4,
        intermediate_size=64,
        max_positions=24,
        dropout=0.1,
        attention_dropout=0.1,
        initializer_range=0.2,
        pad_token_id=0,
    )
    return Encoder(config, seed=seed)


def compositions(count: int) -> list[list[list[int]]]:
    """Ways to cut and order `count` sequences into batches."""
    everything = list(range(count))
    shuffled = np.random.default_rng(5).permutation(count).tolist()
    return [
        [everything],
        [[i] for i in everything],
        [everything[::-1]],
        [shuffled[:3], shuffled[3:4], shuffled[4:]],
        [everything + everything],
    ]


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).norm() / b.norm())


def pack_items(sequences: list[list[int]]) -> PackedBatch:
    return pack(sequences, items=[range(len(s)) for s in sequences])


@pytest.mark.parametrize("kind", ["encoder", "masked-lm", "tagger", "voters"])
def test_packed_equals_any_composition(kind: str) -> None:
    """Without dropout the result of a sequence does not depend on the batch it is in: 1e-5 relative in fp32."""
    sequences = random_sequences(7, 9)
    base = encoder()
    if kind == "masked-lm":
        model: torch.nn.Module = MaskedLM(base, seed=1)
    elif kind == "tagger":
        model = TaskModel(base, LinearHead(HIDDEN, 3, 0.1, seed=1), "ner", ("O", "B-X", "I-X"))
    elif kind == "voters":
        model = TaskModel(base, VoterHeads(HIDDEN, 3, (20, 24, 28), 0.1, seed=1), "ner", ("O", "B-X", "I-X"))
    else:
        model = base

    def outputs(batch: PackedBatch) -> torch.Tensor:
        result = model(batch)
        return result.hidden if kind == "encoder" else result.movedim(-2, 0)

    with torch.no_grad():
        expected = [outputs(pack_items([s])) for s in sequences]
        for cut in compositions(len(sequences)):
            for members in cut:
                rows = outputs(pack_items([sequences[i] for i in members]))
                parts = rows.split([len(sequences[i]) for i in members])
                for i, part in zip(members, parts, strict=True):
                    assert relative(part, expected[i]) < 1e-5


def test_gradients_do_not_depend_on_the_composition() -> None:
    sequences, model = random_sequences(8, 7), MaskedLM(encoder(), seed=1)

    def gradient(cut: list[list[int]]) -> torch.Tensor:
        model.zero_grad()
        for members in cut:
            model(pack_items([sequences[i] for i in members])).square().sum().backward()
        return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    expected = gradient([[i] for i in range(7)])
    for cut in compositions(7)[:4]:
        assert relative(gradient(cut), expected) < 1e-5


def test_a_neighbour_leaks_nothing() -> None:
    """Changing one sequence leaves every other one's bits alone."""
    sequences = random_sequences(9, 5)
    changed = [*sequences[:2], [2, *[9] * (len(sequences[2]) - 2), 3], *sequences[3:]]
    model = encoder()
    with torch.no_grad():
        before, after = model(pack(sequences)).hidden, model(pack(changed)).hidden
    a, b = (int(x) for x in pack(sequences).cu_seqlens[2:4])
    outside = torch.ones(len(before), dtype=torch.bool)
    outside[a:b] = False
    assert torch.equal(before[outside], after[outside])
    assert not torch.equal(before[a:b], after[a:b])
