"""`probe`: states against transformers, the report and its picture, and what is refused."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from xlt_engine import ConfigError, DataError
from xlt_engine.data import Tokenizer, train_wordpiece
from xlt_engine.engine.lab.studies.probe import align, folds_of, probe, text_states
from xlt_engine.model import Encoder, EncoderConfig, load_encoder, save_model

LEFT = ["good", "bad", "old house", "house", "day", "night", "green tree", "water", "city", "year"]
RIGHT = ["gut", "schlecht", "altes Haus", "Haus", "Tag", "Nacht", "grüner Baum", "Wasser", "Stadt", "Jahr"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("model")
    tokenizer = train_wordpiece([*LEFT, *RIGHT] * 3, 90)
    config = EncoderConfig(tokenizer.vocab_size, 16, 3, 2, 32, 24)
    save_model(Encoder(config, seed=4), place)
    tokenizer.save(place)
    (place / "pairs.tsv").write_text("".join(f"{a}\t{b}\n" for a, b in zip(LEFT, RIGHT, strict=True)), "utf-8")
    return place


def test_states_are_those_of_transformers(folder: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers import AutoModel
    theirs = AutoModel.from_pretrained(folder).eval()
    tokenizer = Tokenizer.from_folder(folder)
    states, cut = text_states(load_encoder(folder), tokenizer, LEFT, [0, 1, 3], "x")
    assert cut == 0
    assert set(states) == {0, 1, 3}
    for row, text in enumerate(LEFT):
        ids = torch.tensor([tokenizer.encode_texts([text])[0].ids])
        with torch.no_grad():
            hidden = theirs(ids, output_hidden_states=True).hidden_states
        for layer, found in states.items():
            np.testing.assert_allclose(found[row], hidden[layer][0, 1:-1].mean(dim=0).numpy(), rtol=1e-4, atol=1e-5)


def test_report(folder: Path) -> None:
    report = probe(folder, folder / "pairs.tsv", folds=2, neighbours=3, seed=5)
    assert list(report.layers) == [0, 1, 2, 3]
    assert (report.pairs, report.left, report.right, report.trained_on) == (10, 10, 10, 5)
    assert report.chance.forward.accuracy == pytest.approx(0.1)
    x, y = (text_states(load_encoder(folder), Tokenizer.from_folder(folder), t, [2], "x")[0][2] for t in (LEFT, RIGHT))
    pairs = np.stack([np.arange(10)] * 2, axis=1)
    assert report.layers[2] == align(x, y, pairs, folds_of(pairs, 2, 5), neighbours=3)
    text = report.render()
    assert "not determined by them" in text
    assert "uses parallel data, as an analysis: nothing is trained by it" in text
    values = report.as_dict()
    assert values["uses_parallel_data"] is True
    assert [layer["layer"] for layer in values["layers"]] == [0, 1, 2, 3]
    few = probe(folder, folder / "pairs.tsv", cap=6, folds=2, layers=[3, 0])
    assert (few.pairs, few.in_file, list(few.layers)) == (6, 10, [0, 3])
    assert "6 of 10 pairs, a choice by seed 0" in few.render()


def test_the_same_text_on_both_sides_is_found(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "same.tsv"
    file.write_text("".join(f"{a}\t{a}\n" for a in LEFT) + f"{LEFT[0]}\t{LEFT[1]}\n", "utf-8")
    report = probe(folder, file, layers=[2], folds=2)
    (layer,) = report.layers.values()
    # By chance: of ten texts one has two partners among ten, the others one.
    assert report.chance.forward.accuracy == report.chance.backward.accuracy == pytest.approx(0.11)
    assert layer.cosine.forward.accuracy == layer.csls.backward.accuracy == 1


@pytest.mark.parametrize(
    ("lines", "options", "error", "message"),
    [
        ("good\tgut\nbad\n", {}, DataError, r"pairs.tsv:2: is not a word, a tab and a translation"),
        ("good\tgut\n\u200b\tschlecht\n", {"folds": 2}, DataError, r"pairs.tsv: '\\u200b' gives no token"),
        ("good\tgut\nbad\tschlecht\n", {}, ConfigError, "2 groups without a common text, fewer than 5 folds"),
        (
            "good\tgut\nbad\tschlecht\n",
            {"folds": 2, "layers": [4]},
            ConfigError,
            "layers 4: the encoder has layers 1 to 3",
        ),
    ],
)
def test_bad_input(folder: Path, tmp_path: Path, lines: str, options: dict[str, Any], error: Any, message: str) -> None:
    (tmp_path / "pairs.tsv").write_text(lines, "utf-8")
    with pytest.raises(error, match=message):
        probe(folder, tmp_path / "pairs.tsv", **options)
