import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from seqeval.metrics import classification_report, f1_score

from xlt_engine import ConfigError, DataError, ModelError
from xlt_engine.data import Example, Tokenizer, read_conll, train_wordpiece
from xlt_engine.engine import evaluate, evaluate_files, predict
from xlt_engine.model import Encoder, EncoderConfig, LinearHead, TaskModel, save_model

TAGS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
EN = "Anna B-PER\nsaw O\nParis B-LOC\n\nCarl B-PER\nGustav I-PER\nis O\nold O\n"
DE = "Anna B-PER\nsah O\nWien B-LOC\n"
LONG = "\n".join(["Anna B-PER", "saw O"] * 12) + "\n"
TEXT = "text\tlabel\nAnna saw Paris\tgood\nold Carl\tbad\nold old\tbad\n"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_wordpiece([EN.replace("\n", " "), DE.replace("\n", " ")] * 2, 60)


def make_model(tokenizer: Tokenizer, task: str = "ner") -> TaskModel:
    """Random weights of a seed with which some entities are found."""
    labels = TAGS if task == "ner" else ("bad", "good")
    config = EncoderConfig(tokenizer.vocab_size, 16, 1, 2, 32, max_positions=20, initializer_range=0.5)
    head = LinearHead(16, len(labels), seed=4, initializer_range=0.5)
    return TaskModel(Encoder(config, seed=3), head, task, labels)


@pytest.fixture
def folder(tokenizer: Tokenizer, tmp_path: Path) -> Path:
    for name, data in (("en", EN), ("de", DE), ("long", LONG)):
        (tmp_path / f"{name}.conll").write_text(data)
    save_model(make_model(tokenizer), tmp_path / "model")
    tokenizer.save(tmp_path / "model")
    return tmp_path


def labels_of(model: TaskModel, tokenizer: Tokenizer, examples: list[Example]) -> list[list[str]]:
    found = predict(model, [e.words or () for e in examples], tokenizer=tokenizer, raw=True)
    return [list(f.labels) for f in found]  # type: ignore[union-attr, arg-type]


def test_scores_are_those_of_the_predictions(folder: Path, tokenizer: Tokenizer) -> None:
    files = [folder / "en.conll", folder / "de.conll", folder / "long.conll"]
    model = make_model(tokenizer)
    values = []
    result = evaluate_files(folder / "model", files, ["en", "de", "fr"])
    for file, row in zip(files, result.scores, strict=True):
        examples = read_conll(file)
        gold = [list(e.labels or ()) for e in examples]
        predicted = labels_of(model, tokenizer, examples)
        expected = 100 * f1_score(gold, predicted, zero_division=0)
        assert row.metrics["entity_f1"] == pytest.approx(expected, rel=1e-12)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            report = classification_report(gold, predicted, output_dict=True, zero_division=0)
        types = {name: own for name, own in report.items() if " " not in name}
        assert set(row.classes) == set(types)
        for name, own in types.items():
            shares = {"precision": own["precision"], "recall": own["recall"], "f1": own["f1-score"]}
            theirs = {key: 100 * value for key, value in shares.items()} | {"support": own["support"]}
            assert row.classes[name] == pytest.approx(theirs, rel=1e-12)
        assert (row.examples, row.items) == (len(examples), sum(map(len, gold)))
        assert row.long == sum(len(e.ids) > 20 for e in tokenizer.encode_words([e.words or () for e in examples]))
        values.append(expected)
    assert result.scores[2].long > 0
    assert len(set(values)) > 1
    assert result.transfer.gap == pytest.approx({"de": values[0] - values[1], "fr": values[0] - values[2]}, rel=1e-12)
    assert result.transfer.average_all == pytest.approx(np.mean(values), rel=1e-12)
    assert result.transfer.average_targets == pytest.approx(np.mean(values[1:]), rel=1e-12)
    assert result.transfer.std_all == pytest.approx(np.std(values), rel=1e-12)


def test_the_table_and_the_json(folder: Path) -> None:
    alone = evaluate_files(folder / "model", [folder / "en.conll"])
    assert (alone.transfer, alone.as_dict()["transfer"]) == (None, None)
    assert len(alone.render().splitlines()) == 2 + 2 + len(alone.scores[0].classes)
    result = evaluate_files(folder / "model", [folder / "en.conll", folder / "de.conll", folder / "de.conll"])
    value = json.loads(json.dumps(result.as_dict(), allow_nan=False))
    assert ([s["name"] for s in value["scores"]], value["metric"]) == (["en", "de", "de (2)"], "entity_f1")
    assert value["transfer"]["gap"]["de"] == value["transfer"]["gap"]["de (2)"]
    lines = result.render().splitlines()
    assert f"standard deviation over targets {result.transfer.std_targets:.2f}, with source" in lines[-1]
    assert lines[0].split() == [*result.scores[0].metrics, "gap", "examples", "words", "long"]
    assert lines[1].split() == ["en", *(f"{v:.2f}" for v in result.scores[0].metrics.values()), "2", "7", "0"]
    assert f"{value['transfer']['gap']['de']:.2f}" in lines[2].split()
    assert "transfer gap" in lines[-1]
    start = lines.index("") + 1
    assert lines[start].split() == ["type", "precision", "recall", "f1", "support"]
    shown = [line.split() for line in lines[start + 1 : lines.index("", start)]]
    expected = [[n, *v.values()] for s in result.scores for n, v in s.classes.items()]
    assert [line[-5:] for line in shown] == [[n, *(f"{x:.2f}" for x in v[:3]), str(v[3])] for n, *v in expected]
    assert [line[0] for line in shown if len(line) > 5] == ["en", "de", "de"]


def test_examples_are_grouped_by_language(folder: Path, tokenizer: Tokenizer) -> None:
    examples = [*read_conll(folder / "de.conll", language="de"), *read_conll(folder / "en.conll", language="en")]
    result = evaluate(make_model(tokenizer), examples, tokenizer=tokenizer)
    assert [s.name for s in result.scores] == ["de", "en"]
    by_file = evaluate_files(folder / "model", [folder / "de.conll", folder / "en.conll"], ["de", "en"])
    assert [s.metrics for s in result.scores] == [s.metrics for s in by_file.scores]


@pytest.mark.fault(38)
def test_labels_are_matched_by_name(folder: Path, tokenizer: Tokenizer) -> None:
    model, head, order = make_model(tokenizer), LinearHead(16, 5), [3, 0, 4, 2, 1]
    with torch.no_grad():
        head.weight.copy_(model.head.weight[order])
        head.bias.copy_(model.head.bias[order])
    other = TaskModel(model.encoder, head, "ner", [TAGS[i] for i in order])
    examples = [*read_conll(folder / "en.conll"), *read_conll(folder / "long.conll")]
    first, second = (evaluate(m, examples, tokenizer=tokenizer) for m in (model, other))
    assert first.scores[0].metrics["entity_f1"] > 0
    assert first.scores == second.scores


def test_the_length_of_a_stage_is_used(folder: Path) -> None:
    (folder / "model" / "fingerprint.json").write_text('{"max_length": 8}')
    result = evaluate_files(folder / "model", [folder / "long.conll"])
    assert result.max_length == 8
    assert evaluate_files(folder / "model", [folder / "long.conll"], max_length=12).max_length == 12


def test_classification(tokenizer: Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text(TEXT)
    model = make_model(tokenizer, "classification")
    result = evaluate_files(model, [tmp_path / "a.tsv"], tokenizer=tokenizer)
    found = [p.label for p in predict(model, ["Anna saw Paris", "old Carl", "old old"], tokenizer=tokenizer)]  # type: ignore[union-attr]
    right = sum(a == b for a, b in zip(found, ["good", "bad", "bad"], strict=True))
    assert result.metric == "accuracy"
    assert result.scores[0].metrics["accuracy"] == pytest.approx(100 * right / 3, rel=1e-12)
    assert (result.scores[0].examples, result.scores[0].items) == (3, 3)

    (tmp_path / "b.tsv").write_text(TEXT.replace("text\tlabel", "body\tclass"))
    renamed = evaluate_files(model, [tmp_path / "b.tsv"], tokenizer=tokenizer, text="body", label="class")
    assert renamed.scores[0].metrics == result.scores[0].metrics


def test_unknown_labels_are_listed_with_their_lines(folder: Path) -> None:
    (folder / "x.conll").write_text("Anna B-PER\n\nMars B-PLANET\n" + "\nMars B-ORB\n" * 25)
    caught = pytest.raises(ModelError, evaluate_files, folder / "model", [folder / "x.conll"])
    lines = str(caught.value).splitlines()
    assert (lines[0], len(lines)) == (f"{folder / 'x.conll'}:3: the model has no label 'B-PLANET'", 22)
    assert lines[-2] == "... 26 examples in all, the first 20 listed"
    assert "O, B-PER" in lines[-1]


def test_invalid_tags_are_read_with_repair_and_iob1_as_said(folder: Path) -> None:
    path = folder / "orphan.conll"
    path.write_text("Anna B-PER\nCarl B-PER\nsaw O\nParis I-LOC\n")
    with pytest.raises(DataError, match=r"orphan\.conll:4: I-LOC does not continue .* set reader.repair = true"):
        evaluate_files(folder / "model", [path])
    for option in ({"repair": True}, {"scheme": "iob1"}):
        (score,) = evaluate_files(folder / "model", [path], **option).scores  # type: ignore[arg-type]
        assert {name: row["support"] for name, row in score.classes.items() if row["support"]} == {"LOC": 1, "PER": 2}


def test_wrong_input(folder: Path, tokenizer: Tokenizer) -> None:
    model, bare, plain = folder / "model", folder / "bare.conll", folder / "plain.txt"
    bare.write_text("Anna\nsaw\n")
    plain.write_text("Anna saw Paris\n")
    for files, error, what in (
        ([], ConfigError, "no file"),
        ([folder / "none.conll"], DataError, "no such file"),
        ([bare], DataError, r"bare\.conll:1: no label column"),
        ([plain], DataError, r"plain\.txt:1: plain text without labels"),
    ):
        pytest.raises(error, evaluate_files, model, files).match(what)
    with pytest.raises(ConfigError, match="1 files but 2 languages"):
        evaluate_files(model, [folder / "en.conll"], ["en", "de"])
    pytest.raises(DataError, evaluate, model, []).match("no examples")
    pytest.raises(DataError, evaluate, model, read_conll(bare)).match(r"bare\.conll:1: no label to score with")
    pytest.raises(ConfigError, evaluate, make_model(tokenizer), read_conll(bare)).match("needs tokenizer")
