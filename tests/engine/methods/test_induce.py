"""`augment.code_switch.induce`: the dictionary that the fitted model gives, and what fine-tuning makes of it."""

import hashlib
import json
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from xlt_engine import Interrupted
from xlt_engine.data import Tokenizer, pack
from xlt_engine.engine import estimate
from xlt_engine.engine.methods import induce
from xlt_engine.model import load_encoder

INDUCE = "augment.code_switch.induce=true"


@pytest.fixture(scope="module", autouse=True)
def few_words() -> Iterator[None]:
    """So little text has few words that occur often, and a model so small no clear pairs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(induce, "COUNT", 2)
        patch.setattr(induce, "MARGIN", -1.0)
        yield


SHORT = ("pretrain.epochs=0.4", "selftrain.rounds=0.5", "augment.code_switch.rate=1")


@pytest.fixture(scope="module", params=["ner", "classification"])
def finished(few_words: None, request: pytest.FixtureRequest, tiny_once: Any) -> Any:
    recipe = tiny_once(request.param)
    recipe.run("checkpoint.seconds=60", *SHORT, INDUCE, where="run")
    return recipe


def place(recipe: Any, where: str = "run", stage: str = "de/finetune") -> Path:
    return recipe.folder / where / "seed-0" / stage


def sentences(recipe: Any) -> tuple[list[list[str]], list[list[str]]]:
    """The words of the source training text and of the target's text, read by hand."""
    if recipe.task == "ner":
        blocks = (recipe.folder / "train.conll").read_text("utf-8").strip().split("\n\n")
        source = [[line.split("\t")[0] for line in block.splitlines()] for block in blocks]
    else:
        lines = (recipe.folder / "train.tsv").read_text("utf-8").splitlines()[1:]
        source = [line.split("\t")[0].split(" ") for line in lines]
    return source, [line.split(" ") for line in (recipe.folder / "de.txt").read_text("utf-8").splitlines()]


def states(recipe: Any, text: list[list[str]]) -> dict[str, np.ndarray]:
    """The mean last state of each word with a letter that occurs twice, one sentence after the other."""
    encoder, tokenizer = (
        load_encoder(place(recipe, stage="de/btf")),
        Tokenizer.from_folder(recipe.folder / "run/tokenizer"),
    )
    counts = Counter(word for words in text for word in words)
    found: dict[str, list[np.ndarray]] = {}
    for words in text:
        (encoded,) = tokenizer.encode_words([words], max_length=16)
        hidden = encoder(pack([encoded.ids])).hidden.detach().double().numpy()
        for n, word in enumerate(encoded.words):
            end = encoded.positions[n + 1] if n + 1 < len(encoded.positions) else len(encoded.ids) - 1
            if counts[words[word]] >= 2 and re.search("[^\\W\\d_]", words[word]):
                found.setdefault(words[word], []).append(hidden[encoded.positions[n] : end].mean(0))
    return {word: np.mean(rows, axis=0) for word, rows in found.items()}


def naive_pairs(source: dict[str, np.ndarray], target: dict[str, np.ndarray]) -> dict[tuple[str, str], float]:
    """Mutual best pairs by CSLS with ten neighbours."""
    x, y = (np.array(list(side.values())) for side in (source, target))
    x, y = (z - z.mean(0) for z in (x, y))
    cosine = np.array([[a @ b / np.linalg.norm(a) / np.linalg.norm(b) for b in y] for a in x])
    near = [np.array([np.sort(row)[::-1][:10].mean() for row in table]) for table in (cosine, cosine.T)]
    score = 2 * cosine - near[0][:, None] - near[1][None, :]
    return {
        (a, b): float(score[i, j])
        for i, a in enumerate(source)
        for j, b in enumerate(target)
        if score[i, j] == score[i].max() == score[:, j].max() and a != b
    }


def test_dictionary_is_that_of_the_fitted_model(finished: Any) -> None:
    record = json.loads((place(finished) / "dictionary.json").read_bytes())
    expected = naive_pairs(*(states(finished, text) for text in sentences(finished)))
    found = {(e["source"], e["target"]): e["score"] for e in record["entries"]}
    assert expected
    assert found.keys() == expected.keys()
    assert all(found[pair] == pytest.approx(expected[pair], abs=1e-4) for pair in expected)
    assert [e["score"] for e in record["entries"]] == sorted(found.values(), reverse=True)
    lines = (place(finished) / "dictionary.tsv").read_text("utf-8").splitlines()
    assert lines == [f"{e['source']}\t{e['target']}" for e in record["entries"]]
    hashes = {"dictionary.tsv": hashlib.sha256((place(finished) / "dictionary.tsv").read_bytes()).hexdigest()}
    assert record["hashes"] == hashes
    stage = finished.stage("de/finetune")
    assert stage["hashes"].items() >= hashes.items()
    assert record["pairs"] == len(lines)


def test_fine_tuning_learns_the_mixed_texts_without_a_mark(finished: Any) -> None:
    dictionary = dict(line.split("\t") for line in (place(finished) / "dictionary.tsv").read_text("utf-8").splitlines())
    switched = sum(any(w in dictionary or w.lower() in dictionary for w in words) for words in sentences(finished)[0])
    record = finished.stage("de/finetune")
    assert switched > 0
    assert (record["examples"], record["mixed_examples"]) == (24, switched)
    assert record["steps"] == 2 * -(-(24 + switched) // 8)
    assert not any(record[f"uses_{mark}"] for mark in ("dictionary", "target_labels"))
    baseline = finished.stage("baseline")
    assert baseline["steps"] == 6
    assert "mixed_examples" not in baseline
    assert not (place(finished, stage="baseline") / "dictionary.tsv").exists()


def test_goes_on_with_the_same_dictionary(finished: Any) -> None:
    """Cut off in fine-tuning and continued: the same bits. A dictionary that was changed is made anew."""
    given = ("checkpoint.seconds=0", *SHORT, INDUCE)
    seen = 0

    def stop() -> int:
        nonlocal seen
        seen += any((place(finished, "cut") / "checkpoint").glob("step-*2"))
        return 15 if seen == 1 else 0

    with pytest.raises(Interrupted):
        finished.run(*given, where="cut", stage="seed-0/de/finetune", should_stop=stop)
    shutil.copytree(finished.folder / "cut", finished.folder / "changed")
    finished.run(*given, where="cut", stage="seed-0/de/finetune")
    for name in ("dictionary.tsv", "dictionary.json", "model.safetensors"):
        assert (place(finished, "cut") / name).read_bytes() == (place(finished) / name).read_bytes()
    file = place(finished, "changed") / "dictionary.tsv"
    file.write_text(file.read_text("utf-8") + "a\tb\n", "utf-8")
    finished.run(*given, where="changed", stage="seed-0/de/finetune")
    for name in ("dictionary.tsv", "dictionary.json", "model.safetensors"):
        assert (file.parent / name).read_bytes() == (place(finished) / name).read_bytes()
    warnings = json.loads((file.parent / "stage.json").read_bytes())["warnings"]
    assert warnings[0]["name"] == "damaged"
    assert "dictionary.tsv has changed" in warnings[0]["message"]


def test_without_a_pair_the_source_is_learned_as_it_is(finished: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(induce, "MARGIN", 3.9)
    given = (*SHORT, INDUCE)
    finished.run(*given, where="none", stage="seed-0/de/finetune")
    record = finished.stage("de/finetune", "none")
    assert (record["mixed_examples"], record["steps"]) == (0, 6)
    assert "no-induced-pairs" in [w["name"] for w in record["warnings"]]
    assert (place(finished, "none") / "dictionary.tsv").read_bytes() == b""


def test_plan_and_fingerprints(tiny: Any) -> None:
    recipe = tiny("ner")
    off, on = (recipe.plan("arms.control=true", *more) for more in ((), (INDUCE,)))
    assert off.keys() == on.keys()
    assert {name for name in on if on[name] != off[name]} == {"de/finetune", "de/control"}
    assert on["de/finetune"].additions == ("induce",)
    assert on["de/finetune"].settings["augment.code_switch.rate"] == 0.5
    without = recipe.plan("btf.on=false", INDUCE)
    assert without["de/mixed"].inputs == {"base": "seed-0/pretrain"}
    assert without["de/soft1"].inputs["teacher"] == "seed-0/de/mixed"
    costs = [estimate(recipe.resolved(*more), stage="finetune", rate=1e9).stages for more in ((), (INDUCE,))]
    read = [{s.id: s.read for s in stages}["seed-0/de/finetune"] for stages in costs]
    assert read[1] > read[0]
