"""`extend-vocabulary`: rows, biases and logits of old ids to the bit; the folder in transformers and in a run."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import linear

from xlt_engine import ConfigError, DataError, ModelError
from xlt_engine.data import Tokenizer, pack, train_wordpiece
from xlt_engine.engine.vocabulary.extend import extend_vocabulary
from xlt_engine.model import (
    Encoder,
    EncoderConfig,
    LinearHead,
    MaskedLM,
    TaskModel,
    load_encoder,
    load_masked_lm,
    read_info,
    save_model,
)

OLD = ["the house stands in the city", "the old tree is green", "houses and cities, trees"] * 4
NEW = ["nyumba ya zamani iko mjini", "mti wa zamani ni kijani", "nyumba sita na miji sita, miti"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "model"
    tokenizer = train_wordpiece(OLD, 100)
    # Two rows more than ids, as in checkpoints whose table is padded.
    model = MaskedLM(Encoder(EncoderConfig(tokenizer.vocab_size + 2, 16, 2, 2, 32, 24), seed=3), seed=4)
    with torch.no_grad():
        for value in model.parameters():
            value += 0.1 * torch.randn(value.shape, generator=torch.Generator().manual_seed(len(value)))
    save_model(model, place)
    tokenizer.save(place)
    (tmp_path / "new.txt").write_text("\n".join(NEW * 4) + "\n", "utf-8")
    return place


def test_old_ids_are_what_they_were(folder: Path, tmp_path: Path) -> None:
    report = extend_vocabulary(folder, [tmp_path / "new.txt"], tmp_path / "out", add=50)
    before, after = load_masked_lm(folder), load_masked_lm(tmp_path / "out")
    old, new = Tokenizer.from_folder(folder), Tokenizer.from_folder(tmp_path / "out")
    size = old.vocab_size
    assert report.rows == after.config.vocab_size == new.vocab_size == size + report.added
    assert torch.equal(after.decoder_weight[:size], before.decoder_weight[:size])
    assert torch.equal(after.decoder_bias[:size], before.decoder_bias[:size])
    others = {n: p for n, p in before.named_parameters() if not n.endswith(("embeddings.word", "decoder_bias"))}
    assert all(torch.equal(dict(after.named_parameters())[n], p) for n, p in others.items())
    ids = [old.encode_texts([text])[0].ids for text in OLD[:3]]
    assert ids == [new.encode_texts([text])[0].ids for text in OLD[:3]]
    batch = pack(ids)
    with torch.inference_mode():
        assert torch.equal(after.encoder(batch).hidden, before.encoder(batch).hidden)
        # Of matrices of one size: with another number of columns a library may add up in another order.
        logits = [linear(m.transform(batch), m.decoder_weight[:size], m.decoder_bias[:size]) for m in (before, after)]
        assert torch.equal(*logits)
        torch.testing.assert_close(after.logits(batch)[:, :size], before.logits(batch)[:, :size])
    assert "btf.freeze_embeddings = false" in report.render()
    assert report.fertility < report.fertility_before
    assert (read_info(tmp_path / "out").extra or {})["first_id"] == size


def test_new_rows_are_means_of_their_parts(folder: Path, tmp_path: Path) -> None:
    extend_vocabulary(folder, [tmp_path / "new.txt"], tmp_path / "out", add=50)
    before, after = load_masked_lm(folder), load_masked_lm(tmp_path / "out")
    old, new = Tokenizer.from_folder(folder), Tokenizer.from_folder(tmp_path / "out")
    (word,) = new.encode_texts(["sita"])[0].ids[1:-1]
    parts = old.encode_texts(["sita"])[0].ids[1:-1]
    assert len(parts) > 1
    for mine, theirs in ((after.decoder_weight, before.decoder_weight), (after.decoder_bias, before.decoder_bias)):
        expected = np.mean(theirs.detach().numpy()[parts].astype(np.float64), axis=0)
        np.testing.assert_allclose(mine.detach().numpy()[word], expected, rtol=1e-6, atol=1e-7)
    noisy, again = tmp_path / "noisy", tmp_path / "again"
    for place in (noisy, again):
        extend_vocabulary(folder, [tmp_path / "new.txt"], place, add=50, noise=0.1, seed=7)
    moved = load_encoder(noisy).word_embedding - load_encoder(tmp_path / "out").word_embedding
    assert torch.equal(load_encoder(noisy).word_embedding, load_encoder(again).word_embedding)
    assert moved[: old.vocab_size].abs().max() == 0
    assert 0.08 < float(moved[old.vocab_size :].detach().std()) < 0.12
    assert torch.equal(load_masked_lm(noisy).decoder_bias, after.decoder_bias)


def test_transformers_opens_it(folder: Path, tmp_path: Path) -> None:
    extend_vocabulary(folder, [tmp_path / "new.txt"], tmp_path / "out", add=50)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers import AutoModelForMaskedLM, AutoTokenizer

        theirs = AutoModelForMaskedLM.from_pretrained(tmp_path / "out").eval()
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    ours, own = load_masked_lm(tmp_path / "out"), Tokenizer.from_folder(tmp_path / "out")
    for text in (NEW[0], OLD[0]):
        ids = own.encode_texts([text])[0].ids
        assert tokenizer(text)["input_ids"] == ids
        with torch.inference_mode():
            expected = theirs(torch.tensor([ids])).logits[0]
            np.testing.assert_allclose(ours.logits(pack([ids])).numpy(), expected.numpy(), rtol=1e-4, atol=1e-5)


def test_a_run_goes_on_from_it(tiny: Callable[..., Any]) -> None:
    recipe = tiny("ner")
    recipe.run("pretrain.epochs=0.4", stage="pretrain")
    made = recipe.folder / "run" / "seed-0" / "pretrain"
    (recipe.folder / "sw.txt").write_text("\n".join(NEW * 4) + "\n", "utf-8")
    extend_vocabulary(made, [recipe.folder / "sw.txt"], recipe.folder / "longer", add=20)
    text = recipe.recipe.read_text("utf-8")
    start, end = text.index("[model.new]"), text.index("[source]")
    recipe.recipe.write_text(text[:start] + '[model]\npath = "longer"\n' + text[end:], "utf-8")
    recipe.run("selftrain.on=false", "arms.baseline=false", where="longer-run")
    assert recipe.stage("de/finetune", where="longer-run")["steps"] > 0


def test_bad_input(folder: Path, tmp_path: Path) -> None:
    text = [tmp_path / "new.txt"]
    with pytest.raises(ConfigError, match="model: is there already; give the name of a new folder"):
        extend_vocabulary(folder, text, folder, add=5)
    pytest.raises(ConfigError, extend_vocabulary, folder, text, tmp_path / "out", add=5, noise=-1).match("noise is -1")
    with pytest.raises(DataError, match="no such file"):
        extend_vocabulary(folder, [tmp_path / "nowhere.txt"], tmp_path / "out", add=5)
    task = TaskModel(load_encoder(folder), LinearHead(16, 2), "ner", ("O", "B-X"))
    save_model(task, tmp_path / "task")
    with pytest.raises(ModelError, match="holds a model for ner; extend the encoder that it was fine-tuned from"):
        extend_vocabulary(tmp_path / "task", text, tmp_path / "out", add=5)
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".tmp-*"))
