"""`sentences.json`: against the text files, the decisions' arrays and the models, sentence by sentence."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from seqeval.metrics.sequence_labeling import get_entities

from xlt_engine.data import TokenStore
from xlt_engine.engine import predict, write_report
from xlt_engine.engine.lab.studies.sentences import (
    MOST_WORDS,
    Items,
    frequent_errors,
    sentences,
    windowed,
    write_sentences,
)
from xlt_engine.engine.pseudolabels.filters import Reason
from xlt_engine.engine.report.sections import SENTENCES

SETTINGS = ("finetune.epochs=8", "selftrain.soft.epochs=6", "selftrain.hard.epochs=3", "selftrain.alpha.rule=fixed:0.8")
LABELS = ("O", "B-LOC", "I-LOC", "B-PER", "I-PER")


def groups_of(folder: Path) -> dict[str, list[dict[str, Any]]]:
    content = sentences(folder)["targets"]["de"]
    assert content["stage"] == "seed-0/de/hard2"
    return {group["kind"]: group["sentences"] for group in content["groups"]}


def number_of(entry: dict[str, Any]) -> int:
    """The line of the file, from 0, which is the position in the store of a file without repeats."""
    return int(entry["name"].rpartition(":")[2]) - 1


def test_words_are_those_of_the_files(folder: Path, made: list[Path]) -> None:
    lines = (made[0] / "ner/de.txt").read_text("utf-8").splitlines()
    groups = groups_of(folder)
    assert groups.keys() == {"least-sure", "changed", "errors"}
    shown = [entry for kind in ("least-sure", "changed") for entry in groups[kind]]
    assert len(shown) >= 3
    for entry in shown:
        assert entry["words"] == lines[number_of(entry)].replace(".", " .").split()


def _blocks(path: Path) -> list[tuple[int, list[list[str]]]]:
    """The sentences of a table, each with its first line."""
    found, line = [], 1
    for block in path.read_text("utf-8").rstrip("\n").split("\n\n"):
        rows = [row.split("\t") for row in block.split("\n")]
        found.append((line, rows))
        line += len(rows) + 1
    return found


def _entities(tags: list[str]) -> list[list[Any]]:
    return [[kind, start, end + 1] for kind, start, end in get_entities(tags)]


def test_words_come_from_the_tokens_where_the_files_are_gone(folder: Path, made: list[Path]) -> None:
    before = groups_of(folder)
    moved = made[0] / "ner/de.txt"
    kept = moved.read_text("utf-8")
    moved.write_text("ganz etwas anderes\n" * 30, "utf-8")
    try:
        after = groups_of(folder)
    finally:
        moved.write_text(kept, "utf-8")
    assert [e["name"] for e in after["least-sure"]] == [e["name"] for e in before["least-sure"]]
    assert "ganz" not in json.dumps(after)
    assert [len(e["words"]) for e in after["least-sure"]] == [len(e["words"]) for e in before["least-sure"]]


def decision_of(folder: Path) -> tuple[TokenStore, dict[str, np.ndarray]]:
    arrays = load_file(folder / "seed-0/de/hard2/decision.safetensors")
    for place in (folder / "store").iterdir():
        store = TokenStore.open(place)
        unlabelled = store.task == "ner" and (np.asarray(store.item_labels) < 0).all()
        if unlabelled and int(store.item_offsets[-1]) == len(arrays["target.label"]):
            return store, arrays
    raise AssertionError("the store of the unlabelled text")


def test_the_least_sure_by_a_plain_loop(folder: Path) -> None:
    store, arrays = decision_of(folder)
    lowest = {}
    for n in range(len(store)):
        part = slice(int(store.item_offsets[n]), int(store.item_offsets[n + 1]))
        if not (arrays["target.reason"][part] >= 0).all() or not arrays["target.label"][part].any():
            continue
        lowest[n] = float(arrays["target.confidence"][part].min())
    groups = groups_of(folder)
    worst = min(lowest, key=lambda n: lowest[n])
    assert number_of(groups["least-sure"][0]) == worst
    assert groups["least-sure"][0]["remark"] == f"lowest {lowest[worst]:.3f}, alpha 0.80"
    for entry in groups["least-sure"]:
        at = int(store.item_offsets[number_of(entry)])
        tags = [LABELS[label] for label in arrays["target.label"][at : at + len(entry["words"])]]
        (reading,) = entry["readings"]
        assert reading["by"] == "soft 2"
        assert [list(span.values())[:3] for span in reading["spans"]] == _entities(tags)
        for span in reading["spans"]:
            part = slice(at + span["start"], at + span["end"])
            assert span["confidence"] == pytest.approx(float(arrays["target.confidence"][part].min()), abs=1e-4)
            assert (span["mark"] == "rejected") is bool((arrays["target.reason"][part] != Reason.KEPT).any())


def test_errors_are_those_of_the_model(folder: Path, made: list[Path]) -> None:
    """What the final model predicts on the words of the file, through `predict`; gold from the file."""
    test = {n: rows for n, rows in _blocks(made[0] / "ner/test-de.conll")}
    words = [[word for word, _ in rows] for rows in test.values()]
    predictions = predict(folder / "seed-0/de/hard2", words)
    final = dict(zip(test, ([*found.labels] for found in predictions), strict=True))  # type: ignore[union-attr]
    errors = groups_of(folder)["errors"]
    assert errors
    for entry in errors:
        line = number_of(entry) + 1
        said = [[list(span.values())[:3] for span in reading["spans"]] for reading in entry["readings"]]
        assert said == [_entities([tag for _, tag in test[line]]), _entities(final[line])]
        wrong = [list(span.values())[:3] for span in entry["readings"][1]["spans"] if span["mark"]]
        assert wrong == [span for span in said[1] if span not in said[0]]


def test_what_is_missing_or_damaged_is_left_out_with_the_reason(folder: Path) -> None:
    for path in folder.rglob("predicted.safetensors"):
        path.unlink()
    (folder / "seed-0/de/soft1/soft_labels.safetensors").write_bytes(b"short")
    content = sentences(folder)["targets"]["de"]
    assert any("before predictions" in reason for reason in content["missing"])
    assert {g["kind"] for g in content["groups"]} == {"least-sure"}
    (folder / "seed-0/de/hard2/decision.safetensors").write_bytes(b"short")
    content = sentences(folder)["targets"]["de"]
    assert content["groups"] == []
    assert any("decision.safetensors has changed" in reason for reason in content["missing"])
    shutil.rmtree(folder / "seed-0")
    write_sentences(folder)
    assert not (folder / SENTENCES).exists()


def test_texts_have_their_class(tiny: Any) -> None:
    run = tiny("classification")
    run.run("selftrain.rounds=1")
    folder = run.folder / "run"
    groups = {g["kind"]: g["sentences"] for g in sentences(folder)["targets"]["de"]["groups"]}
    lines = (run.folder / "de.txt").read_text("utf-8").splitlines()
    for entry in groups["least-sure"]:
        assert entry["words"] == [lines[number_of(entry)]]
        assert entry["readings"][0]["label"] in ("negative", "positive")
    write_sentences(folder)
    text = write_report(folder).read_text("utf-8")
    assert "Texts by class" in text
    assert lines[number_of(groups["least-sure"][0])] in text


class Lengths:
    """As much of a store as a choice needs: sentences of these numbers of words, no special tokens."""

    def __init__(self, counts: list[int]) -> None:
        self.item_offsets = np.concatenate([[0], np.cumsum(counts)])
        self.lengths = np.array(counts)

    def __len__(self) -> int:
        return len(self.lengths)


def test_a_choice_differs_in_its_labels_where_it_can() -> None:
    items = Items(Lengths([2, 2, 2, 2]))  # type: ignore[arg-type]
    labels = np.array([0, 1, 0, 1, 0, 2, 0, 1])
    every = np.ones(4, dtype=bool)
    assert items.best(every, np.array([0.1, 0.2, 0.3, 0.4]), labels, 2) == [0, 2]
    assert items.best(every, np.array([0.1, 0.2, 0.3, 0.0]), labels, 3) == [3, 2, 0]
    assert items.best(np.array([True, True, False, False]), np.zeros(4), labels, 2) == [0, 1]


def test_the_most_frequent_confusion_comes_first() -> None:
    items = Items(Lengths([3, 3, 3]))  # type: ignore[arg-type]
    gold = np.array([0, 1, 2, 1, 1, 0, 2, 0, 0])
    said = np.array([0, 2, 1, 2, 1, 0, 1, 0, 0])
    assert items.readable(np.array([True, False, True])).tolist() == [True, False, True]
    # (1, 2) and (2, 1) occur twice each; the second sentence shows the first alone, the third the other alone.
    assert frequent_errors(items, gold, said, ["O", "LOC", "PER"], 3) == [1, 2]
    assert frequent_errors(items, gold, said, ["O", "LOC", "LOC"], 3) == []


def test_a_long_sentence_is_cut_around_what_is_marked() -> None:
    span = {"type": "PER", "start": 100, "end": 102, "mark": "wrong", "confidence": None}
    other = span | {"start": 0, "end": 1, "mark": ""}
    words = [f"w{i}" for i in range(300)]
    cut = windowed({"words": words, "readings": [{"by": "x", "spans": [other, span]}]})
    assert len(cut["words"]) == MOST_WORDS + 2
    (kept,) = cut["readings"][0]["spans"]
    assert cut["words"][kept["start"] : kept["end"]] == ["w100", "w101"]
    assert cut["words"][0] == cut["words"][-1] == "…"
