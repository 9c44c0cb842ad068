"""Packed batches: what `pack` promises, and that an encoder cannot tell in which company a sequence travels."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from xlt_engine import DataError
from xlt_engine.data import BatchSize, Example, PackedBatch, PairBatches, TokenStore, build_store, pack, train_wordpiece
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


LABELS = ["A", "B", "A", "C", "B", "A", "A"]


def store(folder: Path, language: str, labels: list[str]) -> TokenStore:
    lines = [f"{language}{i} " + "x " * (i + 1) for i in range(len(labels))]
    tokenizer = train_wordpiece([f"{x}{i} x" for x in ("en", "de", "fr") for i in range(9)], 80)
    examples = [
        Example(f"{language}-{i}", language, None, line, None, label, "made", i)
        for i, (line, label) in enumerate(zip(lines, labels, strict=True))
    ]
    return build_store(
        examples, tokenizer, folder=folder / language, task="classification", labels=("A", "B", "C"), max_length=16
    )


@pytest.fixture
def three(tmp_path: Path) -> list[TokenStore]:
    return [store(tmp_path, language, LABELS) for language in ("en", "de", "fr")]


def batches(stores: list[TokenStore], *, batch_size: int = 10, epochs: float = 2) -> PairBatches:
    return PairBatches(stores[0], stores[1:], batch_size=batch_size, epochs=epochs, seed=3)


def test_each_group_is_a_text_its_translations_and_texts_of_other_classes(three: list[TokenStore]) -> None:
    """Two languages: 5 texts a group, so that a step of 10 sequences has 2 of them; 7 originals make 4 steps."""
    found = batches(three)
    assert len(found) == 8
    middle = []
    for step in range(len(found)):
        groups = found[step]
        assert len(groups) == (2 if step % 4 < 3 else 1)
        assert [g.example_ids[0] for g in groups] == found.anchors(step).tolist()
        names = found.names(step)
        assert found.sizes(step) == [BatchSize.of(g) for g in groups]
        for i, group in enumerate(groups):
            own, anchor = names[5 * i : 5 * i + 5], int(group.example_ids[0])
            middle.append(anchor)
            assert own[:3] == [f"en-{anchor}", f"de-{anchor}", f"fr-{anchor}"]
            assert all(name.startswith("en-") for name in own[3:])
            assert len(set(own)) == 5
            numbers = [int(name.split("-")[1]) for name in own]
            assert group.labels.tolist() == ["ABC".index(LABELS[n]) for n in numbers]
            assert group.labels[0] == group.labels[1] == group.labels[2]
            assert not set(group.labels[3:].tolist()) & {int(group.labels[0])}
            assert group.weights.tolist() == [2.0, 0.0, 0.0, 0.0, 0.0]
            starts = group.cu_seqlens.tolist()
            texts = [group.token_ids[a:b].tolist() for a, b in zip(starts, starts[1:], strict=False)]
            stores = [*three, three[0], three[0]]
            assert texts == [s.ids(n).tolist() for s, n in zip(stores, numbers, strict=True)]
            assert group.item_index.tolist() == starts[:-1]
    assert sorted(middle[:7]) == sorted(middle[7:]) == list(range(7))
    assert middle[:7] != middle[7:]


def test_steps_depend_on_their_number_alone(three: list[TokenStore]) -> None:
    first, second = batches(three), batches(three)
    later = [second.names(step) for step in reversed(range(8))][::-1]
    assert [first.names(step) for step in range(8)] == later
    chosen = {tuple(first.negatives(4 * epoch, 0).tolist()) for epoch in range(20)}
    assert len(chosen) > 1
    with pytest.raises(IndexError):
        first[8]


def test_too_few_texts_of_other_classes(tmp_path: Path) -> None:
    stores = [store(tmp_path, language, ["A", "A", "A", "B"]) for language in ("en", "de", "fr")]
    found = batches(stores, batch_size=1, epochs=1)
    assert len(found) == 4
    sizes = {int(g.example_ids[0]): len(g.example_ids) for step in range(4) for g in found[step]}
    assert (sizes, found.negatives(0, 0).tolist()) == ({0: 4, 1: 4, 2: 4, 3: 5}, [3])


def test_one_class_has_nothing_to_push_away(tmp_path: Path) -> None:
    stores = [store(tmp_path, language, ["A", "A"]) for language in ("en", "de")]
    pytest.raises(DataError, batches, stores).match("of one class")
