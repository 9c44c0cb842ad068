"""One model has one score: `predict`, `evaluate` and `summary.json` read long test sentences and texts alike."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file
from seqeval.metrics import f1_score

from xlt_engine.data import Tokenizer, TokenStore, read_conll
from xlt_engine.engine import evaluate_files, predict_file
from xlt_engine.engine.summary.stage_folders import read_decision

ONE_ROUND = ("selftrain.rounds=1", "selftrain.soft.epochs=6", "finetune.epochs=6", "btf.on=false")
LONG_WORD = "sanitario" * 6
"""As pieces of the tiny vocabulary longer than a window of 16 tokens (checked below)."""


@pytest.fixture(scope="module")
def run(tiny_once: Any) -> Any:
    """Finished tiny runs by task, whose test files have sentences or texts beyond the 16 tokens of a window."""

    @cache
    def of(task: str) -> Any:
        home = tiny_once(task)
        for path in home.folder.glob("test-*"):
            lengthen(path, task)
        home.run(*ONE_ROUND)
        return home

    return of


def lengthen(path: Path, task: str) -> None:
    """Adds texts of two to eight times a window; among the sentences some around and in a word longer than one."""
    text = path.read_text("utf-8")
    if task != "ner":
        rows = [row.split("\t") for row in text.strip().split("\n")[1:]]
        joined = [f"{' '.join(r[0] for r in rows[i : i + 6])}\t{rows[i][1]}\n" for i in range(0, len(rows), 2)]
        path.write_text(text + "".join(joined), encoding="utf-8")
        return
    blocks = text.strip().split("\n\n")
    word = f"{LONG_WORD}\tO"
    long = ["\n".join(blocks[i : i + 5]) for i in range(0, len(blocks), 2)]
    long += ["\n".join([blocks[0], word, *blocks[1:6]]), "\n".join([*blocks[2:5], word]), word]
    path.write_text("\n\n".join([*blocks, *long]) + "\n", encoding="utf-8")


def headline(home: Any, language: str) -> dict[str, float]:
    """Stage folder -> the value that summary.json has."""
    summary = json.loads((home.folder / "run" / "summary.json").read_bytes())
    metric = summary["metric"]
    folders = {(s["stage"], s["pair"]): s["folder"] for s in summary["stages"]}
    return {
        folders[row["stage"], row["pair"]]: row["value"]
        for row in summary["rows"]
        if (row["language"], row["metric"]) == (language, metric)
    }


def predicted_columns(model: Path, test: Path, out: Path) -> list[list[str]]:
    """The tag that `predict` writes for each word by itself, sentence by sentence."""
    predict_file(model, test, out, raw=True)
    blocks = out.read_text("utf-8").strip().split("\n\n")
    return [[line.split("\t")[-1] for line in block.split("\n")] for block in blocks]


@pytest.mark.parametrize("language", ["en", "de"])
def test_tagging(run: Any, tmp_path: Path, language: str) -> None:
    home, values = run("ner"), []
    test = home.folder / f"test-{language}.conll"
    gold = [list(e.labels or ()) for e in read_conll(test)]
    for folder, value in headline(home, language).items():
        model = home.folder / "run" / folder
        tags = predicted_columns(model, test, tmp_path / "out.conll")
        assert [len(t) for t in tags] == [len(t) for t in gold]
        expected = 100 * f1_score(gold, tags, zero_division=0)
        assert value == pytest.approx(expected, rel=1e-12)
        (score,) = evaluate_files(model, [test]).scores
        assert score.metrics["entity_f1"] == value
        assert score.items == sum(map(len, gold))
        counts = load_file(model / "items.safetensors")[language]
        assert counts[:, 0].tolist() == [starts(t) for t in gold]
        assert counts[:, 1].tolist() == [starts(t) for t in tags]
        # Not the score of the sentences cut: what lies beyond a window's tokens is scored too.
        tokenizer = Tokenizer.from_folder(model)
        assert len(tokenizer.encode_words([[LONG_WORD]])[0].ids) > 16 + 2
        encoded = tokenizer.encode_words([e.words or () for e in read_conll(test)], max_length=16)
        cut = [[x if i in set(e.words) else "O" for i, x in enumerate(t)] for t, e in zip(tags, encoded, strict=True)]
        values.append((expected, 100 * f1_score(gold, cut, zero_division=0)))
    assert len(values) >= 3
    assert any(whole != cut for whole, cut in values)


def starts(tags: list[str]) -> int:
    """Entities in tags as conlleval counts them: any tag but `O` that does not go on with the one before."""
    return sum(
        tag != "O" and (tag[0] == "B" or before == "O" or before[2:] != tag[2:])
        for before, tag in zip(["O", *tags], tags, strict=False)
    )


@pytest.mark.parametrize("language", ["en", "de"])
def test_classification(run: Any, tmp_path: Path, language: str) -> None:
    home = run("classification")
    test = home.folder / f"test-{language}.tsv"
    gold = [line.split("\t")[1] for line in test.read_text("utf-8").strip().split("\n")[1:]]
    for folder, value in headline(home, language).items():
        model = home.folder / "run" / folder
        predictor = predict_file(model, test, tmp_path / "out.tsv")
        assert predictor.counts["cut"] > 0
        found = [line.split("\t")[-2] for line in (tmp_path / "out.tsv").read_text("utf-8").strip().split("\n")[1:]]
        right = sum(a == b for a, b in zip(gold, found, strict=True))
        assert value == pytest.approx(100 * right / len(gold), rel=1e-12)
        (score,) = evaluate_files(model, [test]).scores
        assert score.metrics["accuracy"] == value
        assert score.long == predictor.counts["cut"]


def test_a_decision_looks_at_all_words_of_the_test_file(run: Any) -> None:
    home = run("ner")
    record = read_decision(home.folder / "run/seed-0/de/hard1", "de")
    words = sum(len(e.words or ()) for e in read_conll(home.folder / "test-de.conll"))
    assert sum(c["gold"] for c in record["classes_if_gold"].values()) == words
    assert sum(c["items"] for c in record["classes_if_gold"].values()) == words
    total = record["target_curve"]["kept"][0] / record["target_curve"]["coverage"][0]
    assert total == pytest.approx(words)


def test_training_text_is_cut_and_scored_text_is_whole(run: Any) -> None:
    home = run("ner")
    stores = [TokenStore.open(p.parent) for p in sorted((home.folder / "run" / "store").glob("*/store.json"))]
    assert [s.whole for s in stores].count(True) == 3  # both test files and dev
    assert all(int(s.lengths.max()) <= 16 for s in stores if not s.whole)
    assert max(int(s.lengths.max()) for s in stores if s.whole) > 16
