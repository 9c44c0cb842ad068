"""Sentence pairs for translation language modelling: files, positions, and what a step holds."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from xlt_engine import DataError
from xlt_engine.data import (
    Corpus,
    Example,
    MlmBatches,
    Tokenizer,
    TokenStore,
    build_store,
    pack,
    read_pairs,
    train_wordpiece,
)
from xlt_engine.data.store.store import pair_positions
from xlt_engine.model import Encoder, EncoderConfig, MaskedLM, save_model

EN = ["red house", "a green tree stands", "the river runs slowly here", "blue"]
DE = ["rotes Haus hier", "ein Baum", "der Fluss", "blau blau blau blau"]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_wordpiece([*EN, *DE], 80)


def texts(lines: list[str], pairs: list[str] | None = None) -> list[Example]:
    second = [None] * len(lines) if pairs is None else pairs
    name = "p" if pairs else "m"
    return [
        Example(f"{name}{i}", "x", None, a, b, None, "f", 1) for i, (a, b) in enumerate(zip(lines, second, strict=True))
    ]


def store(folder: Path, tokenizer: Tokenizer, examples: list[Example]) -> TokenStore:
    return build_store(examples, tokenizer, folder=folder, task="text", max_length=64)


def test_files(tmp_path: Path) -> None:
    good = tmp_path / "en-de.tsv"
    good.write_text("\ufeffa house\tein Haus\n\n  two \t zwei\n", "utf-8")
    found = read_pairs(good, language="de")
    assert [(e.id, e.text, e.pair, e.language, e.labels, e.line) for e in found] == [
        ("en-de:1", "a house", "ein Haus", "de", None, 1),
        ("en-de:3", "two", "zwei", "de", None, 3),
    ]
    bad = tmp_path / "bad.tsv"
    bad.write_text("a\tb\nalone\na\tb\tc\n\tb\n", "utf-8")
    caught = pytest.raises(DataError, read_pairs, bad)
    lines = str(caught.value).splitlines()
    assert [line.split(" ")[0] for line in lines] == [f"{bad}:{n}:" for n in (2, 3, 4)]
    pytest.raises(DataError, read_pairs, tmp_path / "missing.tsv").match("no such file")
    (tmp_path / "empty.tsv").write_text("\n\n", "utf-8")
    pytest.raises(DataError, read_pairs, tmp_path / "empty.tsv").match("no examples")


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        ([2, 7, 8, 3, 9, 3], [0, 1, 2, 3, 0, 1]),  # BERT: [CLS] a a [SEP] b [SEP]
        ([2, 7, 3, 3, 9, 9, 9, 3], [0, 1, 2, 3, 0, 1, 2, 3]),  # XLM-R: <s> a </s></s> b b b </s>
        ([2, 7, 8, 3], [0, 1, 2, 3]),
    ],
)
def test_positions_begin_again_at_the_second_sentence(ids: list[int], expected: list[int]) -> None:
    assert pair_positions(np.array(ids), 3).tolist() == expected


@pytest.mark.parametrize("reset", [True, False])
def test_what_a_step_holds(tokenizer: Tokenizer, tmp_path: Path, reset: bool) -> None:
    """Both sentences in one sequence, with two segments and, with `reset`, positions of their own; all is masked."""
    mono = store(tmp_path / "m", tokenizer, texts(EN))
    pairs = store(tmp_path / "p", tokenizer, texts(EN, DE))
    special = np.zeros(tokenizer.vocab_size, dtype=bool)
    special[list(tokenizer.special_ids)] = True
    corpora = [Corpus([mono]), Corpus([pairs], separator=tokenizer.sep_id if reset else None)]
    options = {"special": special, "mask_id": tokenizer.mask_id, "batch_size": 5, "seed": 7, "rate": 0.4}
    batches = MlmBatches(corpora, epochs=30, counts=[4, 6], micro_batch=2, **options)
    first, second = (tokenizer.encode_texts(lines) for lines in (EN, DE))
    expected = {}
    for i in range(len(EN)):
        a, b = first[i].ids, second[i].ids[1:]
        places = [*range(len(a)), *(range(len(b)) if reset else range(len(a), len(a) + len(b)))]
        expected[f"p{i}"] = (a + b, [0] * len(a) + [1] * len(b), places)
        expected[f"m{i}"] = (a, [0] * len(a), list(range(len(a))))
    drawn: Counter[str] = Counter()
    sides: Counter[int] = Counter()
    assert len(batches) == 30 * 2
    late, early = batches[41], batches[3]
    assert [b.token_ids.tolist() for b in batches[41]] == [b.token_ids.tolist() for b in late]
    assert [b.positions.tolist() for b in batches[3]] == [b.positions.tolist() for b in early]
    for step in range(len(batches)):
        names = iter(batches.names(step))
        for batch in batches[step]:
            assert batch.labels is not None
            restored = batch.token_ids.clone()
            restored[batch.item_index] = batch.labels
            for a, b in zip(batch.cu_seqlens[:-1].tolist(), batch.cu_seqlens[1:].tolist(), strict=True):
                name = next(names)
                drawn[name] += 1
                columns = (restored[a:b], batch.segments[a:b], batch.positions[a:b])
                assert tuple(column.tolist() for column in columns) == expected[name]
                masked = [i for i in batch.item_index.tolist() if a <= i < b]
                assert not special[restored[masked].numpy()].any()
                if name[0] == "p":
                    sides.update(batch.segments[masked].tolist())
    # 4 texts once an epoch; 6 draws of 4 pairs: each once or twice.
    assert ({drawn[f"m{i}"] for i in range(4)}, sum(drawn[f"p{i}"] for i in range(4))) == ({30}, 180)
    assert all(30 < drawn[f"p{i}"] < 60 for i in range(4))
    count = {
        0: sum(drawn[f"p{i}"] * (len(first[i].ids) - 2) for i in range(4)),
        1: sum(drawn[f"p{i}"] * (len(second[i].ids) - 2) for i in range(4)),
    }
    for side, tokens in count.items():
        # Within five standard deviations of 0.4 of the side's tokens.
        assert abs(sides[side] - 0.4 * tokens) < 5 * (0.24 * tokens) ** 0.5


def test_reset_positions_reach_the_encoder_as_in_transformers(tokenizer: Tokenizer, tmp_path: Path) -> None:
    from transformers import BertForMaskedLM

    config = EncoderConfig(tokenizer.vocab_size, 16, 2, 2, 32, 64)
    model = MaskedLM(Encoder(config, seed=3), seed=4)
    save_model(model, tmp_path)
    pairs = Corpus([store(tmp_path / "p", tokenizer, texts(EN, DE))], separator=tokenizer.sep_id)
    ids, segments, places = pairs.ids(1), pairs.segments(1), pairs.positions(1)
    assert segments is not None
    assert places is not None
    batch = pack([ids], [segments], items=[np.arange(len(ids))], positions=[places])
    with torch.no_grad():
        found = model.logits(batch, batch.item_index)
        other = BertForMaskedLM.from_pretrained(tmp_path).eval()
        inputs = [torch.from_numpy(np.asarray(x, dtype=np.int64))[None] for x in (ids, segments, places)]
        wanted = other(input_ids=inputs[0], token_type_ids=inputs[1], position_ids=inputs[2]).logits[0]
        plain = other(input_ids=inputs[0], token_type_ids=inputs[1]).logits[0]
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)
    assert (wanted - plain).abs().max() > 1e-4
