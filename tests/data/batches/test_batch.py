"""Packed batches: what `pack` promises, and that an encoder cannot tell in which company a sequence travels."""

from collections.abc import Callable

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
    assert (batch.positions.tolist(), batch.segments.tolist()) == ([0, 1, 2, 0, 1, 0, 1, 2, 3], [0] * 7 + [1] * 2)
    assert batch.cu_seqlens.tolist() == [0, 3, 5, 9]
    assert (batch.max_seqlen, batch.num_tokens, batch.num_targets) == (4, 9, 3)
    assert batch.item_index.tolist() == [0, 3, 5]
    assert batch.item_example.tolist() == batch.example_ids.tolist() == [0, 1, 2]
    assert (batch.labels, batch.soft_targets, batch.weights) == (None, None, None)
    kinds = {name: getattr(batch, name).dtype for name in ("token_ids", "positions", "segments", "item_index")}
    assert (set(kinds.values()), batch.cu_seqlens.dtype) == ({torch.int64}, torch.int32)


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
    assert (batch.token_ids[batch.item_index].tolist(), batch.item_example.tolist()) == ([7, 8, 9], [0, 2, 2])
    assert (batch.example_ids.tolist(), batch.labels.tolist()) == ([30, 10, 20], [4, -100, 1])
    assert batch.soft_targets.tolist() == [[0.25, 0.75], [1.0, 0.0], [0.5, 0.5]]
    assert (batch.weights.tolist(), batch.num_targets) == ([0.5, 1.0, 2.0], 2)


@pytest.mark.parametrize("sequences", [[], [[2, 3], []]])
def test_nothing_to_pack(sequences: list[list[int]]) -> None:
    pytest.raises(ValueError, pack, sequences).match("at least one sequence, and none may be empty")


def encoder() -> Encoder:
    shape = EncoderConfig(VOCABULARY, HIDDEN, 2, 4, 64, 24, dropout=0.1, attention_dropout=0.1, initializer_range=0.2)
    return Encoder(shape, seed=3)


def compositions(count: int) -> list[list[list[int]]]:
    """Ways to cut and order `count` sequences into batches."""
    whole, mixed = list(range(count)), np.random.default_rng(5).permutation(count).tolist()
    return [[whole], [[i] for i in whole], [whole[::-1]], [mixed[:3], mixed[3:4], mixed[4:]], [whole + whole]]


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).norm() / b.norm())


def pack_items(sequences: list[list[int]]) -> PackedBatch:
    return pack(sequences, items=[range(len(s)) for s in sequences])


TAGS = ("O", "B-X", "I-X")
MODELS: dict[str, Callable[[], torch.nn.Module]] = {
    "encoder": encoder,
    "masked-lm": lambda: MaskedLM(encoder(), seed=1),
    "tagger": lambda: TaskModel(encoder(), LinearHead(HIDDEN, 3, 0.1, seed=1), "ner", TAGS),
    "voters": lambda: TaskModel(encoder(), VoterHeads(HIDDEN, 3, (20, 24, 28), 0.1, seed=1), "ner", TAGS),
}


@pytest.mark.parametrize("kind", MODELS)
def test_packed_equals_any_composition(kind: str) -> None:
    """Without dropout the result of a sequence does not depend on the batch it is in: 1e-5 relative in fp32."""
    sequences, model = random_sequences(7, 9), MODELS[kind]()

    def outputs(batch: PackedBatch) -> torch.Tensor:
        result = model(batch)
        return result.hidden if kind == "encoder" else result.movedim(-2, 0)

    with torch.no_grad():
        expected = [outputs(pack_items([s])) for s in sequences]
        for members in (members for cut in compositions(len(sequences)) for members in cut):
            rows = outputs(pack_items([sequences[i] for i in members]))
            for i, part in zip(members, rows.split([len(sequences[i]) for i in members]), strict=True):
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
