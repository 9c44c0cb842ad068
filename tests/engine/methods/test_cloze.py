"""`finetune.head = "cloze"`: rows with and without training, resume, rounds after it, and what is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from xlt_engine import ConfigError, DataError, Interrupted, ModelError
from xlt_engine.data import Tokenizer, pack
from xlt_engine.engine import check, describe_model, estimate, evaluate_files, predict
from xlt_engine.engine.methods.cloze import read_verbaliser, verbaliser_pieces
from xlt_engine.engine.storage.files import sha256_file
from xlt_engine.model import load_masked_lm, load_task_model, read_info, save_model

from ..conftest import score_in

WORDS = "positive\tgood, fine\nnegative\tbad\n"
SHORT = ("selftrain.rounds=1", "pretrain.epochs=0.4")
TEMPLATE = "{text} It was {mask}."


def with_words(tiny: Any, lines: str = WORDS) -> tuple[Any, tuple[str, ...]]:
    recipe = tiny("classification")
    (recipe.folder / "words.tsv").write_text(lines, "utf-8")
    return recipe, (
        'finetune.head="cloze"',
        f'cloze.verbaliser=["{recipe.folder / "words.tsv"}"]',
        "model.new.vocab_size=300",
    )


def logits_at_masks(folder: Path, text: str) -> np.ndarray:
    """Class logits of one text by the masked language model alone, float64."""
    tokenizer, model = Tokenizer.from_folder(folder), load_masked_lm(folder)
    ids = tokenizer.encode_texts([TEMPLATE.replace("{text}", text).replace("{mask}", "[MASK]")], max_length=16)[0].ids
    with torch.inference_mode():
        (row,) = model.logits(pack([ids]), torch.tensor([ids.index(tokenizer.mask_id)])).double().numpy()
    piece = {word: tokenizer.encode_texts([word])[0].ids[1] for word in ("good", "fine", "bad")}
    return np.array([row[piece["bad"]], (row[piece["good"]] + row[piece["fine"]]) / 2])  # negative, positive


def test_a_run(tiny: Any) -> None:
    recipe, options = with_words(tiny)
    more = (*SHORT, *options, "finetune.lr=4e-3", "finetune.epochs=30", "checkpoint.seconds=60")
    recipe.run(*more)
    root = recipe.folder / "run" / "seed-0"
    # Without training: the masked language model's own weights, and its own answers.
    for name, base in (("cloze", "pretrain"), ("de/cloze-btf", "de/btf")):
        record = recipe.stage(name)
        assert (record["steps"], record["kind"], record["arm"]) == (0, "cloze", "cloze")
        trained = recipe.stage("baseline" if name == "cloze" else "de/finetune")
        assert record["encoder_at_start"] == trained["encoder_at_start"]
        text = "das Buch über Oslo gut ."
        (found,) = predict(root / name, [text])
        scores = logits_at_masks(root / base, text)
        expected = np.exp(scores) / np.exp(scores).sum()
        assert [found.probabilities[n] for n in ("negative", "positive")] == pytest.approx(expected, abs=1e-6)
    assert recipe.stage("cloze")["inputs"] == {"base": "seed-0/pretrain"}
    # With training the head moves, too, and the model is scored as it is read by `evaluate`.
    assert recipe.stage("de/finetune")["steps"] > 0
    before, after = load_masked_lm(root / "de/btf"), load_task_model(root / "de/finetune")
    assert (read_info(root / "de/finetune").head, after.prompt) == ("cloze", TEMPLATE)
    assert not torch.equal(before.dense_weight, after.head.dense_weight)
    assert not torch.equal(before.decoder_weight, after.encoder.word_embedding)
    (scored,) = evaluate_files(root / "de/finetune", [recipe.folder / "test-de.tsv"]).scores
    assert scored.metrics["accuracy"] == score_in(root / "de/finetune", "de", "accuracy")
    assert score_in(root / "de/finetune", "en", "accuracy") > 80
    facts = describe_model(root / "de/finetune")
    assert (facts["problems"], facts["head"], facts["prompt"]) == ([], "cloze", TEMPLATE)
    # The students have other heads, and read the same masks.
    info = read_info(root / "de/hard1")
    assert (info.head, info.prompt) == ("voters", TEMPLATE)
    rows = {r["stage"]: r["arm"] for r in recipe.run(*more).summary["rows"]}
    assert rows["cloze"] == rows["cloze-btf"] == "cloze"
    report = (recipe.folder / "run" / "report.html").read_text("utf-8")
    assert "cloze, no training" in report


def test_resume_and_fingerprints(tiny: Any) -> None:
    recipe, options = with_words(tiny)
    quick = (*options, "selftrain.on=false", "btf.on=false", "pretrain.epochs=0.4")
    recipe.run(*quick)
    polls = iter([0] * 12)
    with pytest.raises(Interrupted):
        recipe.run(*quick, where="cut", should_stop=lambda: next(polls, 15))
    recipe.run(*quick, where="cut")
    first, second = (recipe.folder / w / "seed-0/baseline/model.safetensors" for w in ("run", "cut"))
    assert sha256_file(first) == sha256_file(second)
    assert not recipe.run(*quick).done
    # Other words, another template: the stages that read them are made again, and no others.
    (recipe.folder / "words.tsv").write_text(WORDS.replace(", fine", ""), "utf-8")
    assert recipe.run(*quick).done == ("seed-0/baseline", "seed-0/cloze")
    assert recipe.run(*quick, 'cloze.template="{mask}: {text}"').done == ("seed-0/baseline", "seed-0/cloze")


def test_estimate_and_check(tiny: Any) -> None:
    recipe, options = with_words(tiny)
    plan = {s.id: s for s in estimate(recipe.recipe, overrides=[*SHORT, *options], rate=1e9).stages}
    assert (plan["seed-0/cloze"].steps, plan["seed-0/cloze"].trainable) == (0, 0)
    recipe.run(*SHORT, *options, stage="finetune")
    model = load_task_model(recipe.folder / "run/seed-0/de/finetune")
    assert plan["seed-0/de/finetune"].trainable == sum(p.numel() for p in model.parameters())
    assert check(recipe.recipe, options, rate=1e9).ok
    (recipe.folder / "words.tsv").write_text("positive\tgood\n", "utf-8")
    found = check(recipe.recipe, options, rate=1e9)
    assert any("no words for 'negative'; add a line" in p.message for p in found.problems)


def test_base_without_a_head(tiny: Any) -> None:
    recipe, options = with_words(tiny)
    recipe.run("pretrain.epochs=0.4", "model.new.vocab_size=300", stage="pretrain")
    base = recipe.folder / "run/seed-0/pretrain"
    save_model(load_masked_lm(base).encoder, recipe.folder / "bare")
    Tokenizer.from_folder(base).save(recipe.folder / "bare")
    recipe.take_model("bare")
    quick = (*options[:2], "btf.on=false", "selftrain.on=false")
    with pytest.raises(ModelError, match="the folder has no masked-LM head"):
        recipe.run(*quick, where="other")
    assert any("no masked-LM head" in p.message for p in check(recipe.recipe, quick, rate=1e9).problems)


def test_words_of_classes(tiny: Any, tmp_path: Path) -> None:
    recipe, options = with_words(tiny)
    recipe.run("pretrain.epochs=0.4", "model.new.vocab_size=300", stage="pretrain")
    tokenizer = Tokenizer.from_folder(recipe.folder / "run/seed-0/pretrain")
    more = tmp_path / "de.tsv"
    more.write_text("positive\tgut\n", "utf-8")
    both = recipe.resolved(options[0], f'cloze.verbaliser=["{recipe.folder / "words.tsv"}", "{more}"]').config
    ids = {w: tokenizer.encode_texts([w])[0].ids[1] for w in ("good", "fine", "gut", "bad")}
    labels = ("negative", "positive")
    assert verbaliser_pieces(both, labels, tokenizer) == ((ids["bad"],), (ids["good"], ids["fine"], ids["gut"]))
    more.write_text("positive\tgoodgut, bad\nneutral\told\n", "utf-8")
    with pytest.raises(ConfigError) as caught:
        verbaliser_pieces(both, labels, tokenizer)
    message = str(caught.value)
    pieces = " ".join(str(tokenizer.token(i)) for i in tokenizer.encode_texts(["goodgut"])[0].ids[1:-1])
    assert f"{more}:1: 'goodgut' is not one piece of the vocabulary but {pieces}; take another word" in message
    assert "'bad' stands for " in message
    assert f"{more}:2: 'neutral' is no label; they are negative, positive" in message
    more.write_text("positive good\n\npositive\tgood,\n", "utf-8")
    with pytest.raises(DataError, match=r"de.tsv:1: is not a class, a tab and words(.|\n)*de.tsv:3: is not a class"):
        read_verbaliser([more])
