"""`targets.N.pseudo_labels`: labels of another model as a teacher in soft stages and as a voter in hard ones."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from xlt_engine.data import ItemView, Tokenizer, TokenStore
from xlt_engine.engine import check, predict, predict_file
from xlt_engine.engine.evaluation.inference import predict_logits
from xlt_engine.engine.summary.stage_table import aggregate, table_cells
from xlt_engine.model import load_task_model

from ..conftest import DE, Tiny, sentence

NEW = ("checkpoint.seconds=60", "pretrain.epochs=0.4", "arms.baseline=false", "selftrain.rounds=1")


def given(recipe: Tiny, name: str = "llm.jsonl") -> str:
    return f"targets.0.pseudo_labels={json.dumps(str(recipe.folder / name))}"


SURE = 0.8


def tagged(number: int, **more: Any) -> dict[str, Any]:
    words, tags = zip(*sentence(DE, number), strict=True)
    return {"line": number, "words": words, "tags": tags} | more


def as_lines(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


@pytest.fixture(scope="module")
def world(tiny_once: Callable[[str], Tiny]) -> Tiny:
    """A run that is told the gold tags of every other unlabelled sentence, first with a confidence, and of the test."""
    recipe = tiny_once("ner")
    rows = [tagged(n, confidence=[SURE] * len(sentence(DE, n))) for n in range(0, 12, 2)]
    rows += [tagged(n) for n in (*range(12, 24, 2), *range(40, 52))]
    rows[2]["tags"] = [None, *rows[2]["tags"][1:]]
    as_lines(recipe.folder / "llm.jsonl", rows)
    recipe.run(*NEW, given(recipe))
    return recipe


def stage(world: Tiny, name: str) -> Path:
    return world.folder / "run" / "seed-0" / name


def said(world: Tiny, store: TokenStore, labels: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Class (-1: none) and confidence of every item, line by line of de.txt; of equal texts the last one counts."""
    lines = [json.loads(line) for line in (world.folder / "llm.jsonl").read_text("utf-8").splitlines()]
    told = {" ".join(line["words"]): line for line in lines}
    assert len({bool(line.get("confidence")) for line in told.values()}) == 2
    classes, sure = [], []
    for example in range(len(store)):
        for word in store.items(example)[1]:
            line = told.get(" ".join(w for w, _ in sentence(DE, example)), {})
            tag = line["tags"][word] if line else None
            classes.append(-1 if tag is None else labels.index(tag))
            sure.append(line["confidence"][word] if tag and "confidence" in line else 1.0)
    return np.array(classes), np.array(sure)


def test_a_teacher_of_soft_stages(world: Tiny) -> None:
    store, teacher = world.store(), load_task_model(stage(world, "de/finetune"))
    classes, sure = said(world, store, teacher.labels)
    ours = predict_logits(teacher, ItemView(store)).double().softmax(-1).mean(0).numpy()
    count = len(teacher.labels)
    theirs = np.repeat(((1 - sure) / (count - 1))[:, None], count, axis=1)
    theirs[np.arange(len(classes)), classes] = sure
    expected = np.where((classes >= 0)[:, None], (ours + theirs) / 2, ours)
    saved = load_file(stage(world, "de/soft1") / "soft_labels.safetensors")["targets"]
    assert np.allclose(saved, expected, atol=1e-6)


def test_a_voter_of_hard_stages(world: Tiny) -> None:
    store, student = world.store(), load_task_model(stage(world, "de/soft1"))
    classes, sure = said(world, store, student.labels)
    voters = predict_logits(student, ItemView(store)).argmax(-1).numpy()
    saved = load_file(stage(world, "de/hard1") / "decision.safetensors")
    record = json.loads((stage(world, "de/hard1") / "decision.json").read_text("utf-8"))
    known = classes >= 0
    assert record["outside"]["items"] == known.sum()
    label = saved["target.label"]
    assert record["outside"]["agreement"] == pytest.approx((label == classes)[known].mean())
    agree = (voters == voters[0]).all(axis=0)
    assert record["voter_agreement"] == pytest.approx(agree.mean())
    assert np.array_equal(saved["target.agree"] > 0, agree & (~known | (classes == label)))
    assert (saved["target.targets"][known & (label != classes)] < 0).all()
    assert (saved["target.confidence"] <= sure + 1e-6).all()


def test_marks_and_rows(world: Tiny) -> None:
    summary = json.loads((world.folder / "run" / "summary.json").read_text("utf-8"))
    marked = {row["stage"]: row["uses_outside_labels"] for row in summary["rows"]}
    assert marked == {"btf": False, "outside-labels": True, "soft1": True, "hard1": True}
    header, lines = table_cells(aggregate(summary))
    assert "outside labels" in header
    row = next(line for line in lines if line[0] == "outside-labels")
    assert row[header.index("de")] == "100.0"
    assert summary["models"]["de"]["stage"].startswith("seed-0/de/")
    page = (world.folder / "run" / "report.html").read_text("utf-8")
    assert "Outside labels name " in page
    before = json.loads((stage(world, "de/soft1") / "stage.json").read_text("utf-8"))["fingerprint"]
    as_lines(world.folder / "other.jsonl", [tagged(0)])
    world.run(*NEW, given(world, "other.jsonl"), stage="seed-0/de/soft1", where="other")
    after = json.loads((world.folder / "other" / "seed-0/de/soft1/stage.json").read_text("utf-8"))
    assert after["fingerprint"] != before
    rows = json.loads((world.folder / "other" / "summary.json").read_text("utf-8"))["rows"]
    assert "outside-labels" not in {row["stage"] for row in rows}  # not of every test text


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"words": ["ein"], "tags": ["B-TOWN"]}, "llm.jsonl:1: unknown label 'B-TOWN'; the labels are O, B-LOC"),
        ({"words": ["ein", "Wort"], "tags": ["O"]}, "llm.jsonl:1: not one of 'tags', confidence and probabilities for"),
        ({"words": ["ein"], "tags": ["O"], "confidence": [1.5]}, "llm.jsonl:1: a confidence is not between 0 and 1"),
        ({"words": ["ein"], "tags": [{"O": 1}]}, "llm.jsonl:1: unknown label \"{'O': 1}\""),
        ({"words": ["ein"], "tags": ["O"], "confidence": ["1"]}, "llm.jsonl:1: a confidence is not a number"),
        ({"words": ["ein"], "tags": ["O"], "probabilities": [[1]]}, "llm.jsonl:1: probabilities are not an object of"),
        ({"words": ["ein"], "tags": ["O"], "probabilities": [{"O": 0.3}]}, "do not add up to 1"),
        ({"tags": ["O"]}, "llm.jsonl:1: no words and no text; give what predict --json writes"),
        ({"words": ["ein", "Wort"], "tags": ["O", "O"]}, "llm.jsonl:1: none of its 1 texts, such as 'ein Wort', is"),
    ],
)
def test_faults(tmp_path: Path, row: Any, message: str) -> None:
    recipe = Tiny(tmp_path, "ner")
    as_lines(tmp_path / "llm.jsonl", [row])
    report = check(recipe.recipe, [given(recipe)], rate=1e10)
    assert not report.ok
    assert message in report.render()
    report = check(recipe.recipe, [given(recipe), 'selftrain.soft.loss="logits"'], rate=1e10)
    assert "is logits, but targets.0.pseudo_labels has probabilities" in report.render()


def test_what_predict_writes(tmp_path: Path) -> None:
    """Another model's probabilities of texts, as `predict --json` writes them."""
    recipe = Tiny(tmp_path, "classification")
    recipe.run(*NEW, "btf.on=false", stage="finetune", where="other")
    other = recipe.folder / "other" / "seed-0" / "baseline"
    predict_file(other, recipe.folder / "de.txt", recipe.folder / "llm.jsonl", output_format="jsonl")
    recipe.run(*NEW, given(recipe), stage="seed-0/de/soft1")
    folder = recipe.folder / "run" / "seed-0" / "de"
    saved = load_file(folder / "soft1" / "soft_labels.safetensors")["targets"]
    lines = [json.loads(line) for line in (recipe.folder / "llm.jsonl").read_text("utf-8").splitlines()]
    teacher, tokenizer = load_task_model(folder / "finetune"), Tokenizer.from_folder(folder / "finetune")
    for line, row in zip(lines, saved, strict=True):
        (said,) = predict(teacher, [line["text"]], tokenizer=tokenizer, max_length=16, task="classification")
        out = np.array([said.probabilities[label] for label in teacher.labels])
        theirs = np.array([line["probabilities"][label] for label in teacher.labels])
        assert np.allclose(row, (out + theirs) / 2, atol=1e-5)
