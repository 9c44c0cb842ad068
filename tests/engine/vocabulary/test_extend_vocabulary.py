"""`extend-vocabulary`: rows, biases and logits of old ids to the bit; the folder in transformers and in a run."""

import json
import random
import shutil
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
import torch
from tokenizers import models, normalizers, pre_tokenizers, processors, trainers
from torch.nn.functional import linear

from xlt_engine import ConfigError, DataError, ModelError
from xlt_engine.data import Tokenizer, pack, train_wordpiece
from xlt_engine.data.tokenizer.resize import prune_vocabulary
from xlt_engine.engine import evaluate_files, predict
from xlt_engine.engine.prediction.model_folder import open_model
from xlt_engine.engine.prediction.predictor import Predictor
from xlt_engine.engine.prediction.stage_record import stored_alpha
from xlt_engine.engine.vocabulary import prune
from xlt_engine.engine.vocabulary.extend import extend_vocabulary
from xlt_engine.engine.vocabulary.prune import prune_model
from xlt_engine.engine.vocabulary.texts import read_texts, run_texts
from xlt_engine.model import (
    Encoder,
    EncoderConfig,
    LinearHead,
    MaskedLM,
    TaskModel,
    load_encoder,
    load_masked_lm,
    load_task_model,
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
    theirs = of_transformers("AutoModelForMaskedLM", tmp_path / "out").eval()
    tokenizer = of_transformers("AutoTokenizer", tmp_path / "out")
    ours, own = load_masked_lm(tmp_path / "out"), Tokenizer.from_folder(tmp_path / "out")
    for text in (NEW[0], OLD[0]):
        ids = own.encode_texts([text])[0].ids
        assert tokenizer(text)["input_ids"] == ids
        with torch.inference_mode():
            expected = theirs(torch.tensor([ids])).logits[0]
            np.testing.assert_allclose(ours.logits(pack([ids])).numpy(), expected.numpy(), rtol=1e-4, atol=1e-5)


def test_a_run_goes_on_from_it(tiny: Any) -> None:
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


SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def of_transformers(kind: str, folder: Path) -> Any:
    """What the library opens in a folder, without what it warns of."""
    with warnings.catch_warnings(action="ignore"):
        import transformers

        return getattr(transformers, kind).from_pretrained(folder)


TEXT = ["the house stands in the old city", "old trees and green houses", "cities, towns: 3½ trees"] * 3
OTHER = ["a village near the lake", "lakes, rivers and villages", "the rivers stand still"] * 3


WORDS = sorted({w.strip(",:") for line in TEXT + OTHER for w in line.split()})


@pytest.fixture(scope="module")
def _folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("export")


@pytest.fixture
def tagged(tiny: Any, _folder: Path) -> Any:
    """A run of a tagger, made once."""
    made = tiny("ner")
    if not (_folder / "ner" / "run").exists():
        shutil.copytree(made.folder, _folder / "ner")
        type(made)(_folder / "ner", "ner").run("selftrain.rounds=1")
    return type(made)(_folder / "ner", "ner")


def wordpiece(vocab: list[str], last: bool = False) -> Tokenizer:
    """Of these pieces, after the special tokens, or before them."""
    names = {piece: i for i, piece in enumerate([*vocab, *SPECIAL] if last else [*SPECIAL, *vocab])}
    inner = tokenizers.Tokenizer(models.WordPiece(names, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.add_special_tokens(SPECIAL)
    return Tokenizer(inner)


def unigram(lines: list[str]) -> Tokenizer:
    """With the parts and the special ids of XLM-R's, `<mask>` at the end."""
    inner = tokenizers.Tokenizer(models.Unigram())
    inner.normalizer = normalizers.NFKC()
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme="always")]
    )
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(vocab_size=110, special_tokens=special, unk_token="<unk>", show_progress=False)
    inner.train_from_iterator(lines, trainer)
    inner.add_special_tokens(["<mask>"])
    inner.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return Tokenizer(inner)


def classifier(folder: Path, tokenizer: Tokenizer, **layout: Any) -> Path:
    """A classifier of random weights in a new folder, with more rows than ids."""
    shape = EncoderConfig(tokenizer.vocab_size + 3, 16, 2, 2, 32, 64, **layout)
    model = TaskModel(Encoder(shape, seed=3), LinearHead(16, 2, 0.1, seed=4), "classification", ("no", "yes"))
    with torch.no_grad():
        for value in model.parameters():
            value += 0.3 * torch.randn(value.shape, generator=torch.Generator().manual_seed(len(value)))
    save_model(model, folder)
    tokenizer.save(folder, segments=shape.num_segments > 1)
    return folder


def write_lines(path: Path, lines: list[str]) -> Path:
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return path


def ids(tokenizer: Tokenizer, text: str) -> list[int]:
    return tokenizer.encode_texts([text])[0].ids


def test_a_stage_predicts_as_it_did(tagged: Any, tmp_path: Path) -> None:
    stage, out = tagged.folder / "run" / "seed-0" / "de" / "hard1", tmp_path / "small"
    report = prune_model(stage, out)
    assert report.rows < report.rows_before
    for file in ("train", "dev", "test-en", "test-de"):
        blocks = (tagged.folder / f"{file}.conll").read_text("utf-8").strip().split("\n\n")
        words = [[line.split("\t")[0] for line in block.split("\n")] for block in blocks]
        assert predict(stage, words) == predict(out, words)
    lines = (tagged.folder / "de.txt").read_text("utf-8").splitlines()
    assert predict(stage, lines, abstain=True) == predict(out, lines, abstain=True)
    assert (open_model(out).max_length, stored_alpha(out)) == (16, stored_alpha(stage))
    scored = evaluate_files(out, [tagged.folder / "test-de.conll"]).scores[0].metrics
    rows = tagged.json("de/hard1/scores.json")["scores"]
    assert scored == {r["metric"]: r["value"] for r in rows if r["language"] == "de"}


def test_the_rows_are_those_of_the_text(tagged: Any, tmp_path: Path) -> None:
    """Pieces by transformers' tokenizer, characters by hand."""
    stage, out = tagged.folder / "run" / "seed-0" / "de" / "hard1", tmp_path / "small"
    theirs = of_transformers("AutoTokenizer", stage)
    text = (tagged.folder / "de.txt").read_text("utf-8")
    for name in ("train", "dev", "test-en", "test-de"):
        table = (tagged.folder / f"{name}.conll").read_text("utf-8")
        text += "".join(line.split("\t")[0] + "\n" for line in table.splitlines())
    expected = set(theirs.tokenize(text)) | set(SPECIAL)
    expected |= {p for c in set(text) for p in (c, "##" + c)} & theirs.get_vocab().keys()
    report = prune_model(stage, out)
    kept = json.loads((out / "tokenizer.json").read_text("utf-8"))["model"]["vocab"]
    assert set(kept) == expected
    assert report.rows == len(expected) == load_task_model(out).config.vocab_size
    assert report.bytes < report.bytes_before
    assert {Path(file).name for file in report.files} == {
        *("train.conll", "dev.conll", "test-en.conll", "test-de.conll", "de.txt")
    }
    before, after = load_task_model(stage), load_task_model(out)
    for piece, row in kept.items():
        old = before.encoder.word_embedding[theirs.get_vocab()[piece]]
        assert torch.equal(after.encoder.word_embedding[row], old), piece


def test_others_open_it(tagged: Any, tmp_path: Path) -> None:
    prune_model(tagged.folder / "run" / "seed-0" / "de" / "finetune", tmp_path / "small")
    theirs = of_transformers("AutoModelForTokenClassification", tmp_path / "small").eval()
    tokenizer = of_transformers("AutoTokenizer", tmp_path / "small")
    text = "die Stadt Wien ist alt ."
    own = ids(Tokenizer.from_folder(tmp_path / "small"), text)
    assert tokenizer(text)["input_ids"] == own
    words = torch.arange(1, len(own) - 1)
    batch = replace(pack([own]), item_index=words)
    with torch.inference_mode():
        ours = load_task_model(tmp_path / "small")(batch)[0]
        torch.testing.assert_close(ours, theirs(torch.tensor([own])).logits[0][1:-1], rtol=1e-4, atol=1e-5)


def test_what_was_unknown_stays_unknown() -> None:
    """Without `ab`, which no token of the text is, the word would be a ##bx, and known."""
    tokenizer = wordpiece(["a", "ab", "##b", "##bx", "c", "unused"])
    lines = ["abx", "cbx", "a"]
    assert [tokenizer.token(i) for i in ids(tokenizer, "abx")[1:-1]] == ["[UNK]"]
    pruned = prune_vocabulary(tokenizer, {i for line in lines for i in ids(tokenizer, line)}, lines)
    assert [tokenizer.token(i) for i in pruned.rows[5:]] == ["a", "ab", "##b", "##bx", "c"]
    for line in lines:
        assert [pruned.rows[i] for i in ids(pruned.tokenizer, line)] == ids(tokenizer, line)
    assert prune_vocabulary(tokenizer, [], [], first=8, more=[10]).rows == (*range(8), 10)


@pytest.mark.parametrize("kind", ["WordPiece", "Unigram"])
def test_any_text_of_kept_pieces_keeps_its_sequence(kind: str) -> None:
    """And a word of kept characters is never unknown, whatever it was cut into."""
    rng = random.Random(5)
    if kind == "Unigram":
        tokenizer = unigram(TEXT + OTHER)
    else:
        words = sorted({w for line in TEXT + OTHER for w in line.replace(",", "").replace(":", "").split()})
        parts = {
            w[i : i + n] if i == 0 else "##" + w[i : i + n] for w in words for n in (1, 2, 4) for i in range(len(w))
        }
        tokenizer = wordpiece(sorted(parts))
    pruned = prune_vocabulary(tokenizer, {i for line in TEXT for i in ids(tokenizer, line)}, TEXT)
    assert pruned.used < len(pruned.rows) < tokenizer.vocab_size
    letters, kept, same = "".join(sorted(set("".join(TEXT)) - set(" ,:½3"))), set(pruned.rows), 0
    for _ in range(400):
        old_word = rng.choice(" ".join(TEXT + OTHER).split())
        text = old_word if rng.random() < 0.3 else "".join(rng.choice(letters) for _ in range(rng.randint(1, 9)))
        before, after = ids(tokenizer, text), [pruned.rows[i] for i in ids(pruned.tokenizer, text)]
        if kept >= set(before):
            same += 1
            assert after == before, text
        if set(text) <= set(letters) and tokenizer.unk_id not in before:
            assert tokenizer.unk_id not in after, text
    assert same > 20


def test_an_unknown_character_costs_what_it_did() -> None:
    """`c ax` (-30) beats `ca` and an unknown x, ten below the lowest score of all (-1 - 40); below -15 it is -26."""
    vocab = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("<mask>", 0.0)]
    vocab += [("c", -15.0), ("ca", -1.0), ("ax", -15.0), ("rare", -30.0), ("▁", -1.0)]
    inner = tokenizers.Tokenizer(models.Unigram(vocab, unk_id=3))
    inner.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer, lines = Tokenizer(inner), ["cax", "ca"]
    assert [tokenizer.token(i) for i in ids(tokenizer, "cax")[1:-1]] == ["▁", "c", "ax"]
    pruned = prune_vocabulary(tokenizer, {i for line in lines for i in ids(tokenizer, line)}, lines)
    for line in lines:
        assert [pruned.rows[i] for i in ids(pruned.tokenizer, line)] == ids(tokenizer, line)


def test_xlm_roberta_and_a_text_of_ones_own(tmp_path: Path) -> None:
    """Positions are counted from the padding's id, which stays; `<mask>` moves from the last place."""
    tokenizer = unigram(TEXT + OTHER)
    layout: dict[str, Any] = {"model_type": "xlm-roberta", "pad_token_id": 1, "num_segments": 1, "position_offset": 2}
    folder = classifier(tmp_path / "model", tokenizer, **layout)
    text = write_lines(tmp_path / "text.txt", TEXT)
    report = prune_model(folder, tmp_path / "out", [text])
    assert (report.texts, report.compared) == (9, 9)
    assert predict(folder, TEXT) == predict(tmp_path / "out", TEXT)
    small = Tokenizer.from_folder(tmp_path / "out")
    assert (small.pad_id, small.unk_id, small.mask_id) == (1, 3, small.vocab_size - 1)
    assert small.vocab_size == report.rows < tokenizer.vocab_size
    assert load_task_model(tmp_path / "out").config.pad_token_id == 1


def test_what_is_before_the_padding_stays_where_positions_are_counted_from_it(tmp_path: Path) -> None:
    vocab = [("<s>", 0.0), ("</s>", 0.0), ("rare", -7.0), ("<unk>", 0.0), ("<pad>", 0.0), ("<mask>", 0.0)]
    inner = tokenizers.Tokenizer(
        models.Unigram([*vocab, ("▁", -1.0), ("a", -2.0), ("seldom", -8.0), ("never", -7.5)], unk_id=3)
    )
    inner.pre_tokenizer = pre_tokenizers.Metaspace()
    layout: dict[str, Any] = {"model_type": "xlm-roberta", "pad_token_id": 4, "num_segments": 1, "position_offset": 5}
    folder = classifier(tmp_path / "model", Tokenizer(inner), **layout)
    prune_model(folder, tmp_path / "out", [write_lines(tmp_path / "text.txt", ["a a", "a"])])
    small, config = Tokenizer.from_folder(tmp_path / "out"), load_task_model(tmp_path / "out").config
    assert [small.token(i) for i in range(small.vocab_size)] == [*(name for name, _ in vocab), "▁", "a", "seldom"]
    assert (config.pad_token_id, config.position_offset) == (4, 5)
    assert predict(folder, ["a a"]) == predict(tmp_path / "out", ["a a"])


def test_padding_at_the_end_moves_along(tmp_path: Path) -> None:
    tokenizer = wordpiece(WORDS, last=True)
    folder = classifier(tmp_path / "model", tokenizer, pad_token_id=tokenizer.pad_id)
    report = prune_model(folder, tmp_path / "out", [write_lines(tmp_path / "text.txt", TEXT)])
    small = Tokenizer.from_folder(tmp_path / "out")
    assert load_task_model(tmp_path / "out").config.pad_token_id == small.pad_id == report.rows - 5
    assert report.rows < tokenizer.vocab_size


def test_a_pair_of_texts(tmp_path: Path) -> None:
    tokenizer = wordpiece(WORDS)
    folder = classifier(tmp_path / "model", tokenizer)
    examples = [replace(e, pair=OTHER[0]) for e in read_texts([write_lines(tmp_path / "text.txt", TEXT)])]
    before = prune.prune_for(Predictor(folder), examples)
    assert {tokenizer.token(i) for i in before.rows} >= {"village", "lake", "house"}
    assert "rivers" not in {tokenizer.token(i) for i in before.rows}


def test_nothing_is_written_where_something_differs(tagged: Any, tmp_path: Path, monkeypatch: Any) -> None:
    stage = tagged.folder / "run" / "seed-0" / "de" / "hard1"

    def careless(tokenizer: Tokenizer, used: set[int], lines: Any, **rest: Any) -> Any:
        return prune_vocabulary(tokenizer, sorted(used)[:-1], (), **rest)

    monkeypatch.setattr(prune, "prune_vocabulary", careless)
    pytest.raises(ModelError, prune_model, stage, tmp_path / "small").match("is cut otherwise")
    monkeypatch.undo()
    right = prune.fewer_rows
    monkeypatch.setattr(prune, "fewer_rows", lambda model, rows: right(model, [rows[0], *rows[:-1]]))
    pytest.raises(ModelError, prune_model, stage, tmp_path / "small").match("predicts otherwise")
    assert list(tmp_path.glob("*small*")) == []


def test_refused(tagged: Any, tmp_path: Path) -> None:
    run = tagged.folder / "run" / "seed-0"
    pytest.raises(ModelError, prune_model, run / "de" / "btf", tmp_path / "out").match("holds no tagger or classifier")
    pytest.raises(ConfigError, prune_model, run / "de" / "hard1", run).match("is there already")
    alone = shutil.copytree(run / "de" / "hard1", tmp_path / "alone")
    pytest.raises(ConfigError, prune_model, alone, tmp_path / "out").match("lies in no run folder; say with --text")
    bpe = tokenizers.Tokenizer(models.BPE({n: i for i, n in enumerate([*SPECIAL, "a", "b"])}, [], unk_token="[UNK]"))
    folder = classifier(tmp_path / "bpe", Tokenizer(bpe))
    with pytest.raises(ModelError, match="tokenizer is BPE, and only Unigram and WordPiece"):
        prune_model(folder, tmp_path / "out", [write_lines(tmp_path / "a.txt", ["a b"])])


def test_the_text_of_a_run_has_every_file_once(tagged: Any) -> None:
    found = [e.file for e in run_texts(tagged.folder / "run" / "seed-0" / "de" / "hard1")]
    counts = {Path(name).name: found.count(name) for name in found}
    assert counts == {"train.conll": 24, "dev.conll": 16, "test-en.conll": 12, "test-de.conll": 12, "de.txt": 24}
