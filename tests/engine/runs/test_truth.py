"""The truth world through the engine: the recipe, what the hidden labels say, and that training never sees them."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import random
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from xlt_engine import ConfigError, DataError
from xlt_engine.engine import RunResult, load_recipe, run
from xlt_engine.engine.report.sections.truth import in_words
from xlt_engine.engine.report.write import write_report
from xlt_engine.engine.runs.synthetic_stats import (
    RoundItems,
    alpha_regret,
    at_least,
    difference,
    label_quality,
    noise_filter,
    repeated_errors,
    wilson,
)

SIZES = {"general": 60, "control": 40, "train": 60, "unlabelled": 110, "test": 30}
SMALLEST = (
    *(f"world.{name}_sentences={n}" for name, n in SIZES.items()),
    "world.label_noise=0.3",
    "world.anchors=0.7",
    "max_length=128",
    "model.new.vocab_size=300",
    "model.new.hidden_size=24",
    "model.new.num_layers=1",
    "model.new.num_heads=2",
    "model.new.intermediate_size=32",
    "pretrain.epochs=1",
    "btf.epochs=1",
    "finetune.epochs=10",
    "finetune.batch_size=8",
    "finetune.lr=1e-2",
    "training.freeze_embeddings=false",
    "selftrain.rounds=2",
    "selftrain.soft.epochs=8",
    "selftrain.soft.batch_size=8",
    "selftrain.soft.lr=2e-2",
    "selftrain.hard.epochs=1",
    "selftrain.hard.batch_size=8",
    "selftrain.alpha.rule=fixed:0.1",
)


@pytest.fixture(scope="module")
def smallest(tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    """The smallest truth world, run to its end."""
    return run("truth-world", run_dir=tmp_path_factory.mktemp("truth") / "run", overrides=SMALLEST)


def truth_of(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "truth.json").read_bytes()))


def world_of(folder: Path) -> Path:
    [found] = (folder / "world").iterdir()
    return found


def tags_of(path: Path) -> list[list[str]]:
    blocks = path.read_text(encoding="utf-8").split("\n\n")
    return [[line.split("\t")[1] for line in block.splitlines()] for block in blocks if block]


# -- arithmetic of a run, done again -----------------------------------------------------------------------------


def test_labels_against_the_hidden_ones(smallest: RunResult) -> None:
    """Counted from the files in plain Python: no word is cut, so that items are the words in order."""
    folder, found = smallest.folder, truth_of(smallest.folder)
    names = json.loads((folder / "seed-0/fake/hard1/xlt.json").read_bytes())["labels"]
    gold = [tag for item in tags_of(world_of(folder) / "hidden.fake.conll") for tag in item]
    [entry] = found["runs"]
    assert (entry["seed"], entry["target"], len(entry["rounds"])) == (0, "fake", 2)
    for number, told in enumerate(entry["rounds"], 1):
        saved = load_file(folder / f"seed-0/fake/hard{number}/decision.safetensors")
        soft = load_file(folder / f"seed-0/fake/soft{number}/soft_labels.safetensors")["targets"]
        label = [names[i] for i in saved["target.label"]]
        teacher = [names[i] for i in soft.argmax(axis=1)]
        kept = [i >= 0 for i in saved["target.targets"]]
        assert len(gold) == len(label) == len(teacher) == len(kept)
        for part, chosen in (("all", lambda tag: True), ("entity", lambda tag: tag != "O")):
            table = told["labels"] if part == "all" else told["labels"]["entity"]
            for name, labels, mask in (("teacher", teacher, None), ("student", label, None), ("accepted", label, kept)):
                own = [i for i, tag in enumerate(labels) if chosen(tag) and (mask is None or mask[i])]
                right = sum(labels[i] == gold[i] for i in own)
                assert (table[name]["right"], table[name]["of"]) == (right, len(own)), (number, part, name)
                assert table[name]["value"] == (pytest.approx(right / len(own)) if own else None)
            own = [i for i, tag in enumerate(teacher) if chosen(tag)]
            best = sorted(own, key=lambda i: (-float(soft[i].max()), i))[: table["accepted"]["of"]]
            assert table["teacher_most_confident"]["right"] == sum(teacher[i] == gold[i] for i in best)
            if table["gain"] is not None:
                assert table["gain"]["value"] == pytest.approx(table["accepted"]["value"] - table["teacher"]["value"])
                low, high = table["gain"]["interval"]
                assert low <= table["gain"]["value"] <= high
    assert entry["rounds"][0]["labels"]["accepted"]["of"] > 0


def test_removal_against_the_planted_errors(smallest: RunResult) -> None:
    folder, found = smallest.folder, truth_of(smallest.folder)
    record = json.loads((world_of(folder) / "world.json").read_bytes())
    wrong = {entry["sentence"] for entry in record["noise"]}
    assert found["world"]["planted"] == len(wrong) > 5
    present = set(range(SIZES["train"]))
    for number, told in enumerate(found["runs"][0]["rounds"], 1):
        kept = load_file(folder / f"seed-0/fake/hard{number}/decision.safetensors")["source.keep"]
        gone = {i for i in present if not kept[i]}
        assert told["source"]["in_play"] == len(present)
        assert told["source"]["noisy"] == len(present & wrong)
        assert told["source"]["removed"] == len(gone)
        assert told["source"]["clean_dropped"]["right"] == len(gone - wrong)
        if gone and present & wrong:
            precision = len(gone & wrong) / len(gone)
            assert told["source"]["precision"]["value"] == pytest.approx(precision)
            assert told["source"]["recall"]["value"] == pytest.approx(len(gone & wrong) / len(present & wrong))
            assert told["source"]["lift"] == pytest.approx(precision / (len(present & wrong) / len(present)))
        present -= gone
    every = found["runs"][0]["source"]
    assert every["removed"] == SIZES["train"] - len(present)
    assert every["recall"]["right"] == len(wrong - present)


def test_answers_follow_from_the_runs(smallest: RunResult) -> None:
    found = truth_of(smallest.folder)
    [entry], told = found["runs"], found["answers"]
    rows = {(r["stage"], r["metric"]): r["value"] for r in smallest.summary["rows"] if r["language"] == "fake"}
    assert entry["scores"]["baseline"] == pytest.approx(rows["zero-shot", "entity_f1"])
    assert entry["scores"]["hard2"] == pytest.approx(rows["hard2", "entity_f1"])
    gain = rows["btf", "entity_f1"] - rows["zero-shot", "entity_f1"]
    assert told["btf_gain"]["values"] == [pytest.approx(gain)]
    assert told["control_gain"] is None
    assert told["clean_dropped"]["mean"] == pytest.approx(entry["source"]["clean_dropped"]["value"])
    first, last = (r["labels"]["entity"]["student"]["value"] for r in entry["rounds"])
    assert told["drift_of_student"]["mean"] == pytest.approx(last - first)


def test_report_has_the_answers(smallest: RunResult) -> None:
    page = smallest.report.read_text("utf-8")
    assert ">Truth</h2>" in page
    for line in in_words(truth_of(smallest.folder)):
        assert line.split(";")[0].replace("'", "'") in page.replace("&#x27;", "'")
    assert page.count("Does source removal catch planted errors?") == 1


# -- who may see what --------------------------------------------------------------------------------------------


def test_training_cannot_see_the_hidden_labels(smallest: RunResult, tmp_path: Path) -> None:
    """The same run beside gold labels that are shuffled in each sentence: all is the same but what is said of it."""
    other = tmp_path / "run"
    shutil.copytree(smallest.folder / "world", other / "world")
    hidden = world_of(other) / "hidden.fake.conll"
    mixer, blocks = random.Random(1), []
    for block in hidden.read_text("utf-8").strip().split("\n\n"):
        words, tags = zip(*(line.split("\t") for line in block.splitlines()), strict=True)
        blocks.append("".join(f"{w}\t{t}\n" for w, t in zip(words, mixer.sample(tags, len(tags)), strict=True)))
    text = "\n".join(blocks).replace("\tI-", "\tB-")
    hidden.write_text(text, encoding="utf-8")
    record = json.loads((hidden.parent / "world.json").read_bytes())
    record["files"][hidden.name] = hashlib.sha256(text.encode()).hexdigest()
    record["noise"] = record["noise"][:2]
    del record["sha256"]
    (hidden.parent / "world.json").write_text(json.dumps(record), encoding="utf-8")
    again = run("truth-world", run_dir=other, overrides=SMALLEST)
    compared = 0
    for stage in sorted(smallest.folder.glob("seed-0/**/stage.json")):
        place = stage.parent.relative_to(smallest.folder)
        for name in ("model.safetensors", "decision.safetensors", "soft_labels.safetensors", "scores.json"):
            if (stage.parent / name).exists():
                assert (stage.parent / name).read_bytes() == (other / place / name).read_bytes(), (place, name)
                compared += 1
    assert compared > 15
    assert [r["value"] for r in again.summary["rows"]] == [r["value"] for r in smallest.summary["rows"]]
    one, two = truth_of(smallest.folder), truth_of(other)
    assert two["world"]["planted"] == 2
    labels = [t["runs"][0]["rounds"][0]["labels"]["accepted"] for t in (one, two)]
    assert labels[0]["of"] == labels[1]["of"]
    assert labels[0]["right"] != labels[1]["right"]


def test_no_recipe_names_the_hidden_files(smallest: RunResult) -> None:
    hashes = json.loads((smallest.folder / "run.json").read_bytes())["hashes"]
    assert len(hashes) > 6
    assert not any("hidden" in path or "lexicon" in path for path in hashes)
    assert "hidden." not in (smallest.folder / "config.toml").read_text("utf-8")


def test_a_changed_hidden_file_is_an_error(smallest: RunResult, tmp_path: Path) -> None:
    shutil.copytree(smallest.folder, tmp_path / "run")
    with (world_of(tmp_path / "run") / "hidden.fake.conll").open("a", encoding="utf-8") as stream:
        stream.write("x\tO\n\n")
    with pytest.raises(DataError, match=r"hidden\.fake\.conll:1: missing, or changed"):
        run("truth-world", run_dir=tmp_path / "run", overrides=SMALLEST)


# -- recipes -----------------------------------------------------------------------------------------------------


def test_all_problems_of_the_table_at_once() -> None:
    wrong = ["world.anchors=2", "world.label_noise=-1", "world.word_ordr=1", "world.test_sentences=0"]
    with pytest.raises(ConfigError) as caught:
        load_recipe("truth-world", wrong)
    for part in ("world.anchors", "world.label_noise", "did you mean word_order", "world.test_sentences"):
        assert part in str(caught.value)
    with pytest.raises(ConfigError, match=r"unlabelled_sentences: is 10 and must be above"):
        load_recipe("truth-world", ["world.unlabelled_sentences=10"])
    with pytest.raises(ConfigError) as caught:
        load_recipe("demo", ["world.anchors=0.1", "world.text=x.conll"])
    assert "world.anchors: is a knob of the truth world" in str(caught.value)
    assert "world.text: is a knob of the truth world" in str(caught.value)


def test_the_demo_makes_what_it_made(tmp_path: Path) -> None:
    """Its folder's name is a hash of its configuration, and decides whether older runs are gone on with."""
    from xlt_engine.engine.runs.synthetic_data import settled

    config = settled(load_recipe("demo").config, tmp_path)
    assert config.source.train is not None
    assert config.source.train.parent.name == "4dff9d1e0d0265e3"
    assert [t.language for t in config.targets] == ["de", "es"]


def test_a_run_without_a_truth_world_has_no_truth(tiny: Any) -> None:
    made = tiny("ner")
    result = made.run("selftrain.on=false", "arms.baseline=false")
    stale = result.folder / "truth.json"
    assert not stale.exists()
    stale.write_text("{}", encoding="utf-8")
    made.run("selftrain.on=false", "arms.baseline=false")
    assert not stale.exists()
    assert ">Truth</h2>" not in result.report.read_text("utf-8")


def test_half_a_run_is_told_as_far_as_it_got(smallest: RunResult, tmp_path: Path) -> None:
    for name in ("world", "store", "tokenizer", "seed-0"):
        shutil.copytree(smallest.folder / name, tmp_path / "run" / name)
    for name in ("soft2", "hard2"):
        shutil.rmtree(tmp_path / "run/seed-0/fake" / name)
    run("truth-world", run_dir=tmp_path / "run", overrides=(*SMALLEST, "selftrain.rounds=1"))
    whole, half = (truth_of(x)["runs"][0] for x in (smallest.folder, tmp_path / "run"))
    assert half["rounds"] == whole["rounds"][:1]
    run("truth-world", run_dir=tmp_path / "run", overrides=(*SMALLEST, "selftrain.on=false"))
    found = truth_of(tmp_path / "run")
    assert found["runs"][0]["rounds"] == []
    assert found["answers"]["regret"] is None
    assert found["answers"]["btf_gain"] is not None
    assert "Does BTF help?" in write_report(tmp_path / "run").read_text("utf-8")


def test_a_world_of_a_classification_file(tmp_path: Path) -> None:
    words = {"p": ("good", "fine", "superb"), "n": ("bad", "poor", "awful"), "o": ("old", "grey", "late")}
    names = ["Anna", "Berta", "Carl", "Dora", "Emil", "Frida", "Gustav", "Hanna"]
    rows = [
        f"{a} said that {b} is {word} .\t{kind}"
        for a, b in itertools.permutations(names, 2)
        for kind, group in words.items()
        for word in group
    ]
    (tmp_path / "given.tsv").write_text("review\tstars\n" + "\n".join(rows) + "\n", encoding="utf-8")
    (tmp_path / "general.txt").write_text("\n".join(f"On day {n} it rained ." for n in range(300)), encoding="utf-8")
    kept = [o for o in SMALLEST if "noise" not in o]
    own = [
        "task=classification",
        f"world.text={tmp_path / 'given.tsv'}",
        f"world.general={tmp_path / 'general.txt'}",
        "reader.text=review",
        "reader.label=stars",
        "world.label_noise=0.2",
        "world.domain_shift=0.2",
        "selftrain.rounds=1",
    ]
    result = run("truth-world", run_dir=tmp_path / "run", overrides=[*kept, *own])
    found = truth_of(result.folder)
    labels = found["runs"][0]["rounds"][0]["labels"]
    assert "entity" not in labels
    # 22 of the 110 texts are of the other domain, and nobody knows their labels.
    assert labels["student"]["of"] == 88
    assert found["runs"][0]["rounds"][0]["source"]["noisy"] == found["world"]["planted"] > 0
    # The same command goes on from the user's files, and finds all done.
    assert run("truth-world", run_dir=tmp_path / "run", overrides=[*kept, *own]).done == ()


# -- the measures themselves -------------------------------------------------------------------------------------


def test_wilson_by_hand() -> None:
    """Newcombe (1998), table I: 81 of 263 and 15 of 148; and the ends."""
    assert wilson(81, 263) == pytest.approx([0.2553, 0.3662], abs=1e-4)
    assert wilson(15, 148) == pytest.approx([0.0624, 0.1605], abs=1e-4)
    assert wilson(0, 20) == pytest.approx([0.0, 0.1611], abs=1e-4)
    assert wilson(0, 0) is None


def test_chance_of_as_many_hits_by_counting() -> None:
    marked, total, drawn = {0, 1, 2}, 7, 4
    ways = list(itertools.combinations(range(total), drawn))
    for hits in range(4):
        expected = sum(len(marked & set(w)) >= hits for w in ways) / len(ways)
        assert at_least(hits, len(marked), drawn, total) == pytest.approx(expected)


def test_noise_filter_by_hand() -> None:
    noisy = np.array([1, 1, 1, 0, 0, 0, 0, 0, 0, 1], dtype=bool)
    in_play = np.array([1, 1, 1, 1, 1, 1, 1, 1, 1, 0], dtype=bool)
    removed = np.array([1, 1, 0, 1, 0, 0, 0, 0, 0, 1], dtype=bool)
    found = noise_filter(noisy, in_play, removed, 0)
    assert (found["in_play"], found["noisy"], found["removed"]) == (9, 3, 3)
    assert found["precision"]["value"] == pytest.approx(2 / 3)
    assert found["recall"]["value"] == pytest.approx(2 / 3)
    assert found["clean_dropped"]["value"] == pytest.approx(1 / 6)
    assert found["lift"] == pytest.approx(2.0)
    assert found["lift_interval"][0] <= 2 <= found["lift_interval"][1]
    assert found["p_value"] == pytest.approx((math.comb(3, 2) * 6 + 1) / math.comb(9, 3))
    nothing = noise_filter(np.zeros(5, bool), np.ones(5, bool), np.zeros(5, bool), 0)
    assert nothing["lift"] is None
    assert nothing["recall"]["value"] is None
    assert nothing["clean_dropped"]["value"] == 0


def items_of(gold: Sequence[int], label: Sequence[int], kept: Sequence[int], **more: Any) -> RoundItems:
    count = len(gold)
    fields: dict[str, Any] = {
        "item": np.arange(count),
        "example": np.arange(count) // 2,
        "gold": np.array(gold),
        "teacher": np.array(label),
        "teacher_confidence": np.linspace(0.9, 0.1, count),
        "label": np.array(label),
        "agree": np.ones(count, dtype=bool),
        "confidence": np.linspace(0.95, 0.15, count, dtype=np.float32),
        "kept": np.array(kept, dtype=bool),
    }
    return RoundItems(**(fields | more))


def test_quality_by_hand() -> None:
    items = items_of([0, 1, 2, 0, 1, 2], [0, 1, 1, 1, 1, 0], [1, 1, 0, 1, 0, 0], teacher=np.array([0, 0, 2, 1, 1, 1]))
    found = label_quality(items, 0, 0)
    assert (found["student"]["right"], found["student"]["of"]) == (3, 6)
    assert (found["accepted"]["right"], found["accepted"]["of"]) == (2, 3)
    assert (found["teacher"]["right"], found["teacher"]["of"]) == (3, 6)
    # The teacher's three most confident labels are the first three: right, wrong, right.
    assert (found["teacher_most_confident"]["right"], found["teacher_most_confident"]["of"]) == (2, 3)
    assert (found["entity"]["student"]["right"], found["entity"]["student"]["of"]) == (2, 4)
    assert (found["entity"]["accepted"]["right"], found["entity"]["accepted"]["of"]) == (1, 2)
    assert (found["entity"]["teacher"]["right"], found["entity"]["teacher"]["of"]) == (2, 4)
    assert found["gain"]["value"] == pytest.approx(2 / 3 - 1 / 2)
    assert found["gain_same_count"]["value"] == pytest.approx(0)


def test_the_bootstrap_draws_sentences() -> None:
    """One sentence holds all errors: whether it is drawn decides, and the interval is wide. Spread out it is not."""
    count = 400
    right, every = np.arange(count) >= 40, np.ones(count, dtype=bool)
    together = difference(np.arange(count) // 40, (right, every), (every, every), 3)
    apart = difference(np.arange(count) % 10, (right, every), (every, every), 3)
    assert together is not None
    assert apart is not None
    assert together["value"] == apart["value"] == pytest.approx(-0.1)
    assert apart["interval"] == pytest.approx([-0.1, -0.1])
    # Binomial(10, 0.1) / 10 is 0 to 0.3 in its middle 95 %.
    assert together["interval"] == pytest.approx([-0.3, 0.0], abs=0.101)
    assert together["interval"][0] <= -0.2
    assert difference(np.arange(count), (right, ~every), (every, every), 3) is None


def test_repeated_errors_by_hand() -> None:
    before = items_of([0, 0, 0, 0], [1, 1, 2, 0], [1, 1, 1, 1])
    after = items_of([0, 0, 0, 0], [1, 2, 2, 0], [1, 1, 0, 1])
    # Three wrong ones were accepted: the first again, the second with another label, the third not.
    assert repeated_errors(before, after) == {"right": 1, "of": 3, "value": pytest.approx(1 / 3)}


def test_regret_by_trying_every_threshold() -> None:
    rng = np.random.default_rng(5)
    count, grid = 300, [0.5, 0.6, 0.7, 0.8, 0.9]
    gold, label = rng.integers(3, size=count), rng.integers(3, size=count)
    label[: count // 2] = gold[: count // 2]
    confidence = rng.random(count).astype(np.float32)
    confidence[label == gold] **= 0.3
    agree = rng.random(count) < 0.9
    items = items_of(gold, label, [1] * count, confidence=confidence, agree=agree)
    found = alpha_regret(items, 0.8, grid, [0.5, None, 0.5, 0.5, 0.5], 0)
    for part, chosen, total in (("all", label >= 0, count), ("entity", label > 0, int((gold > 0).sum()))):
        table = found if part == "all" else found["entity"]
        scores = {}
        for t in grid:
            kept = [i for i in range(count) if agree[i] and chosen[i] and confidence[i] > np.float32(t)]
            right = sum(label[i] == gold[i] for i in kept)
            precision, recall = right / len(kept), right / total
            scores[t] = 2 * precision * recall / (precision + recall)
        assert table["f1"] == pytest.approx(scores[0.8])
        assert table["oracle"] == max(scores, key=scores.__getitem__)
        assert table["regret"] == pytest.approx(max(scores.values()) - scores[0.8])
        assert table["oracle_at_edge"] == (table["oracle"] in (0.5, 0.9))
    distances = []
    for t in (0.5, 0.7, 0.8, 0.9):
        kept = [i for i in range(count) if agree[i] and confidence[i] > np.float32(t)]
        distances.append(abs(0.5 - sum(label[i] == gold[i] for i in kept) / len(kept)))
    assert found["curve_distance"] == pytest.approx(sum(distances) / 4)
