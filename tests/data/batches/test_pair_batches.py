from __future__ import annotations

from pathlib import Path

import pytest

from xlt_engine import DataError
from xlt_engine.data import BatchSize, Example, PairBatches, TokenStore, build_store, train_wordpiece

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
    assert sizes == {0: 4, 1: 4, 2: 4, 3: 5}
    assert found.negatives(0, 0).tolist() == [3]


def test_one_class_has_nothing_to_push_away(tmp_path: Path) -> None:
    stores = [store(tmp_path, language, ["A", "A"]) for language in ("en", "de")]
    pytest.raises(DataError, batches, stores).match("of one class")
