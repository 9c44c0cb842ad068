"""`rank-sources`: overlap by hand, opinions of models against their own predictions, the order, bad input."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from xlt_engine import ConfigError, DataError, ModelError
from xlt_engine.data import Tokenizer, read_text, train_wordpiece
from xlt_engine.engine import predict
from xlt_engine.engine.lab.studies.rank_sources import average_ranks, rank_sources
from xlt_engine.engine.vocabulary.texts import count_words, overlap, words_in
from xlt_engine.model import Encoder, EncoderConfig, LinearHead, TaskModel, save_model

TARGET = ["rot blau rot .", "rot grau gelb , 12"]
NEAR = ["blau rot weiss lila", "rot braun"]
FAR = ["red white green", "red purple one"]


def write(path: Path, lines: list[str]) -> Path:
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return path


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_wordpiece([*TARGET, *NEAR, *FAR] * 3, 60)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, list[Path]]:
    return {"near": [write(tmp_path / "near.txt", NEAR)], "far": [write(tmp_path / "far.txt", FAR)]}


def classifier(folder: Path, tokenizer: Tokenizer, seed: int, labels: tuple[str, ...], task: str) -> Path:
    folder.mkdir()
    config = EncoderConfig(tokenizer.vocab_size, 16, 1, 2, 32, 24, initializer_range=0.5)
    head = LinearHead(16, len(labels), seed=seed, initializer_range=2.0)
    save_model(TaskModel(Encoder(config, seed=seed), head, task, labels), folder)
    tokenizer.save(folder)
    return folder


def test_overlap_by_hand(tokenizer: Tokenizer, tmp_path: Path) -> None:
    texts = {name: read_text(write(tmp_path / name, lines)) for name, lines in (("t", TARGET), ("n", NEAR))}
    assert words_in(texts["t"]) == 6  # points and numbers are no words
    target, near = (count_words(text, tokenizer, 100, 0, "x") for text in texts.values())
    assert target.words == {"rot": 3, "blau": 1, "grau": 1, "gelb": 1}
    found = overlap(target, near)
    assert (found.word_types, found.word_tokens) == (2 / 4, 4 / 6)
    pieces = {name: [tokenizer.encode_texts([w])[0].ids[1:-1] for w in text.words] for name, text in
              (("t", target), ("n", near))}  # fmt: skip
    known = {piece for word in pieces["n"] for piece in word}
    weighted = [(p, n) for word, n in zip(pieces["t"], target.words.values(), strict=True) for p in word]
    assert found.piece_tokens == pytest.approx(sum(n for p, n in weighted if p in known) / sum(n for _, n in weighted))
    assert found.piece_types == pytest.approx(len({p for p, _ in weighted} & known) / len({p for p, _ in weighted}))
    assert target.fertility == pytest.approx(sum(n for _, n in weighted) / 6)
    assert target.unknown == 0
    strange = count_words(read_text(write(tmp_path / "s", ["щука rot"])), tokenizer, 100, 0, "x")
    assert (strange.unknown, strange.words.total()) == (0.5, 2)
    assert tokenizer.unk_id not in strange.pieces
    assert count_words(texts["t"], tokenizer, 2, 0, "x").words.total() == 2


def test_equal_values_share_their_ranks() -> None:
    assert average_ranks([3.0, 1.0, 3.0, 2.0]).tolist() == [3.5, 1, 3.5, 2]


def test_order_by_overlap(tokenizer: Tokenizer, files: dict[str, list[Path]], tmp_path: Path) -> None:
    target = [write(tmp_path / "target.txt", TARGET)]
    found = rank_sources(target, dict(reversed(files.items())), tokenizer)
    assert [c.name for c in found.candidates] == ["near", "far"]
    assert found.ordered_by == ("word_tokens", "piece_tokens")
    assert (found.words, found.items) == (6, 0)
    assert [c.place for c in found.candidates] == [1, 2]
    assert found.candidates[0].agreement is None
    text = found.render()
    assert "it is not validated" in text
    assert "confident" not in text
    assert found.as_dict()["validated_on_real_languages"] is False


@pytest.mark.parametrize("task", ["classification", "ner"])
def test_opinions_are_those_of_predict(tokenizer: Tokenizer, files: Any, tmp_path: Path, task: str) -> None:
    labels = ("O", "B-A", "I-A") if task == "ner" else ("a", "b", "c")
    sources = files | {"third": files["near"]}
    models = {n: classifier(tmp_path / n, tokenizer, i, labels, task) for i, n in enumerate(sources)}
    target = [write(tmp_path / "target.txt", TARGET)]
    found = rank_sources(target, sources, tokenizer, models=models, sample=5)
    assert found.ordered_by == ("word_tokens", "piece_tokens", "agreement", "confidence")
    said: dict[str, list[tuple[str, float]]] = {}
    for name, folder in models.items():
        out: list[Any] = predict(folder, TARGET, raw=True)
        flat = [(p.label, p.confidence) for p in out] if task != "ner" else [
            pair for p in out for pair in zip(p.labels, p.confidences, strict=True)]  # fmt: skip
        said[name] = flat
    for candidate in found.candidates:
        mine = said[candidate.name]
        shares = []
        for other in (n for n in said if n != candidate.name):
            both = [
                (a, b) for (a, _), (b, _) in zip(mine, said[other], strict=True) if task != "ner" or {a, b} != {"O"}
            ]
            shares.append(sum(a == b for a, b in both) / len(both))
        own = [c for label, c in mine if task != "ner" or label != "O"]
        assert candidate.agreement == pytest.approx(np.mean(shares))
        assert candidate.confidence == (pytest.approx(np.mean(own)) if own else None)
    assert "agree, confident" in found.render()


def test_bad_input(tokenizer: Tokenizer, files: dict[str, list[Path]], tmp_path: Path) -> None:
    target = [write(tmp_path / "target.txt", TARGET)]
    with pytest.raises(ConfigError, match="1 sources; an order needs at least two"):
        rank_sources(target, {"near": files["near"]}, tokenizer)
    with pytest.raises(ConfigError, match="models of fr, which are no sources; they are near, far"):
        rank_sources(target, files, tokenizer, models={"fr": tmp_path})
    with pytest.raises(ConfigError, match="one model has nobody to agree with"):
        rank_sources(target, files, tokenizer, models={"near": tmp_path})
    with pytest.raises(DataError, match="the text of the target has no words"):
        rank_sources([write(tmp_path / "numbers.txt", ["1 2 3"])], files, tokenizer)
    with pytest.raises(DataError, match="nowhere.txt: no such file"):
        rank_sources([tmp_path / "nowhere.txt"], files, tokenizer)
    models = {n: classifier(tmp_path / n, tokenizer, 0, (n, "x"), "classification") for n in files}
    with pytest.raises(ModelError, match="compare models of one task"):
        rank_sources(target, files, tokenizer, models=models)
