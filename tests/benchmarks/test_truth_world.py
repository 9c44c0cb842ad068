"""The truth world: what its text hides, what is said of a run in it, and that no run can see it."""

import math
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from scipy.stats import binom
from truth_world.judge import judge
from truth_world.language import FakeLanguage
from truth_world.stats import RoundItems, alpha_regret, difference, noise_filter, repeated_errors
from truth_world.sweep import cases, stamp
from truth_world.text import quotas, shifted
from truth_world.world import Knobs, World, make_world, open_world

from xlt_engine import ConfigError, DataError
from xlt_engine.engine import run
from xlt_engine.engine.recipe.load import load_recipe
from xlt_engine.engine.storage.files import read_json

SMALL = Knobs(
    seed=3,
    anchors=0.7,
    label_noise=0.3,
    general_sentences=60,
    control_sentences=40,
    train_sentences=60,
    unlabelled_sentences=110,
    test_sentences=30,
)
FAST = (
    *("max_length=128", "model.new.vocab_size=300", "model.new.hidden_size=24", "model.new.num_layers=1"),
    *("model.new.num_heads=2", "model.new.intermediate_size=32", "pretrain.epochs=1", "btf.epochs=1"),
    *("finetune.epochs=10", "finetune.batch_size=8", "finetune.lr=1e-2", "training.freeze_embeddings=false"),
    *("selftrain.rounds=2", "selftrain.soft.epochs=8", "selftrain.soft.batch_size=8", "selftrain.soft.lr=2e-2"),
    *("selftrain.hard.epochs=1", "selftrain.hard.batch_size=8", "selftrain.alpha.rule=fixed:0.1"),
)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(SMALL, tmp_path_factory.mktemp("truth") / "world")


@pytest.fixture(scope="module")
def folder(world: World) -> Path:
    return run(world.recipe, run_dir=world.folder.parent / "run", overrides=FAST, jobs=1).folder


def conll(path: Path) -> list[list[tuple[str, str]]]:
    """CoNLL without the package's reader."""
    blocks = path.read_text(encoding="utf-8").split("\n\n")
    return [[(line.split("\t")[0], line.split("\t")[1]) for line in b.splitlines()] for b in blocks if b]


# -- the world ---------------------------------------------------------------------------------------------------


def test_a_hand_checked_language() -> None:
    """Three letters: what stands for each is read off once, and a sentence is written with it by hand."""
    language = FakeLanguage(["abc", "Cab", "b2!"], seed=5)
    a, b, c = (language.letters[letter] for letter in "abc")
    assert len({a, b, c}) == 3
    assert language.letters == {"a": "г", "b": "ւ", "c": "ա"}
    words = {"abc": a + b + c, "Cab": c.upper() + a + b, "b2!": b + "2!", "(cb),": f"({c}{b}),", "1990": "1990"}
    assert {word: language.word(word) for word in words} == words
    few, many = (FakeLanguage(["abc"], seed=2, anchors=share) for share in (0.2, 0.5))
    every = [x + y + z for x in "abcdefgh" for y in "aeiou" for z in "lmnrst"]
    small, large = ({w for w in every if x.is_anchor(w)} for x in (few, many))
    assert small < large
    for found, anchors in ((small, 0.2), (large, 0.5)):
        assert binom.ppf(1e-4, 240, anchors) <= len(found) <= binom.ppf(1 - 1e-4, 240, anchors)


def test_entities_stay_whole_in_another_order() -> None:
    words, tags = ["Anna", "Lee", "saw", "old", "Rome", "."], ["B-PER", "I-PER", "O", "O", "B-LOC", "O"]
    language = FakeLanguage(words, seed=1, anchors=1.0, word_order=1.0)
    rank = {w: language._unit("order", w) for w in ("anna", "saw", "old", "rome")}
    chunks = {"anna": [0, 1], "saw": [2], "old": [3], "rome": [4]}
    expected = [i for w in sorted(rank, key=rank.__getitem__) for i in chunks[w]] + [5]
    assert language.order(words, tags) == expected != list(range(6))


def test_the_hidden_labels_and_the_planted_errors_are_what_is_recorded(world: World, tmp_path: Path) -> None:
    text = (world.folder / "task.fake.unlabelled.txt").read_text("utf-8").splitlines()
    assert [" ".join(w for w, _ in sentence) for sentence in conll(world.hidden)] == text
    clean = make_world(replace(SMALL, label_noise=0.0), tmp_path / "clean")
    name, changes = "task.en.train.conll", []
    for number, (right, wrong) in enumerate(zip(conll(clean.folder / name), conll(world.folder / name), strict=True)):
        first = next((i for i, (a, b) in enumerate(zip(right, wrong, strict=True)) if a != b), None)
        if first is not None:
            changes.append((number, first, right[first][1][2:], wrong[first][1][2:]))
    assert changes == [(w.sentence, w.word, w.right, w.wrong) for w in world.noise]
    assert len(changes) > 5
    same = {p.name for p in clean.folder.iterdir()} - {name, "world.json"}
    assert all((clean.folder / x).read_bytes() == (world.folder / x).read_bytes() for x in same)


def test_shares_of_classes_by_hand(tmp_path: Path) -> None:
    shares = {"": 0.2, "A": 0.1, "B": 0.3, "C": 0.4}
    # A, the rarest, gets 4/7 of the 0.8 that have an entity, B 2/7, C 1/7.
    assert shifted(shares, 1.0) == pytest.approx({"": 0.2, "A": 3.2 / 7, "B": 1.6 / 7, "C": 0.8 / 7})
    assert quotas(10, {"A": 0.55, "B": 0.26, "C": 0.19}) == {"A": 5, "B": 3, "C": 2}
    moved = make_world(replace(SMALL, label_noise=0.0, label_shift=1.0), tmp_path / "w")
    one, other = (
        Counter(tag[2:] for sentence in conll(path) for _, tag in sentence if tag[0] == "B")
        for path in (moved.folder / "task.en.train.conll", moved.hidden)
    )
    distance = sum(abs(one[k] / one.total() - other[k] / other.total()) for k in one | other) / 2
    assert moved.measured["prior_distance"] == pytest.approx(distance)
    assert distance > 0.2


def test_a_world_is_refused_where_it_is_another_or_was_changed(world: World, tmp_path: Path) -> None:
    assert open_world(world.folder) == make_world(SMALL, world.folder) == world
    with pytest.raises(DataError, match="another configuration"):
        make_world(Knobs(), world.folder)
    changed = make_world(SMALL, tmp_path / "w")
    with changed.hidden.open("a", encoding="utf-8") as stream:
        stream.write("x\tO\n\n")
    with pytest.raises(DataError, match=r"hidden\.fake\.conll:1: missing, or changed"):
        open_world(changed.folder)
    with pytest.raises(ConfigError, match=r"anchors must lie.*test_sentences must be"):
        replace(SMALL, anchors=1.5, test_sentences=0)


# -- a run in it -------------------------------------------------------------------------------------------------


def test_no_run_can_see_the_hidden_labels(world: World) -> None:
    """Its recipe names files beside it; none is of the hidden labels or the record of what was planted."""
    text = world.recipe.read_text("utf-8")
    named = {path.name for path in world.folder.iterdir() if f'"{path.name}"' in text}
    assert {path.name for path in world.folder.iterdir()} - named == {world.hidden.name, "world.json", "recipe.toml"}
    assert load_recipe(world.recipe).config.source.train == world.folder / "task.en.train.conll"


def test_labels_and_removal_counted_from_the_files(world: World, folder: Path) -> None:
    """In plain Python: no word is cut, so that items are the words in order."""
    found = judge(folder, world)
    gold = [tag for sentence in conll(world.hidden) for _, tag in sentence]
    names = read_json(folder / "seed-0/fake/hard1/xlt.json")["labels"]
    present, wrong = set(range(60)), {error.sentence for error in world.noise}
    for told in found["rounds"]:
        number = told["round"]
        saved = load_file(folder / f"seed-0/fake/hard{number}/decision.safetensors")
        soft = load_file(folder / f"seed-0/fake/soft{number}/soft_labels.safetensors")["targets"]
        label, teacher = ([names[i] for i in x] for x in (saved["target.label"], soft.argmax(axis=1)))
        kept = [i for i, target in enumerate(saved["target.targets"]) if target >= 0 and label[i] != "O"]
        own = [i for i, tag in enumerate(teacher) if tag != "O"]
        best = sorted(own, key=lambda i: (-float(soft[i].max()), i))[: len(kept)]
        for name, labels, chosen in (
            ("teacher", teacher, own),
            ("teacher_most_confident", teacher, best),
            ("student", label, [i for i, tag in enumerate(label) if tag != "O"]),
            ("accepted", label, kept),
        ):
            right = sum(labels[i] == gold[i] for i in chosen)
            assert (told["labels"][name]["right"], told["labels"][name]["of"]) == (right, len(chosen)), (number, name)
        gone = {i for i in present if not saved["source.keep"][i]}
        source = told["source"]
        counts = (len(present), len(present & wrong), len(gone), len(gone & wrong), len(gone - wrong))
        assert counts == (
            *(source[key] for key in ("in_play", "noisy", "removed")),
            *(source[key]["right"] for key in ("recall", "clean_dropped")),
        )
        present -= gone
    assert len(found["rounds"]) == 2
    assert found["rounds"][0]["labels"]["accepted"]["of"] > 0
    assert found["source"]["removed"] == 60 - len(present)
    rows = read_json(folder / "summary.json")["rows"]
    rows = {(r["stage"], r["language"]): r["value"] for r in rows if r["metric"] == "entity_f1"}
    stages = (("baseline", "zero-shot"), ("method", "btf"), ("soft1", "soft1"), ("hard2", "hard2"))
    assert [found["scores"][name] for name, _ in stages] == [rows[stage, "fake"] for _, stage in stages]


def test_a_result_hangs_on_world_recipe_and_settings() -> None:
    """A name and a stamp for each case; those that differ in self-training alone share a world."""
    every = cases()
    assert len({case.name for case in every}) == len({stamp(case, 0) for case in every}) == len(every)
    assert stamp(every[0], 0) != stamp(every[0], 1)


# -- the measures ------------------------------------------------------------------------------------------------


def test_removal_by_hand() -> None:
    noisy = np.array([1, 1, 1, 0, 0, 0, 0, 0, 0, 1], dtype=bool)
    in_play = np.array([1, 1, 1, 1, 1, 1, 1, 1, 1, 0], dtype=bool)
    removed = np.array([1, 1, 0, 1, 0, 0, 0, 0, 0, 1], dtype=bool)
    found = noise_filter(noisy, in_play, removed, 0)
    assert (found["in_play"], found["noisy"], found["removed"]) == (9, 3, 3)
    assert found["precision"]["value"] == found["recall"]["value"] == pytest.approx(2 / 3)
    assert found["clean_dropped"]["value"] == pytest.approx(1 / 6)
    # Wilson's interval of 2 of 3: (p + z²/2n ± z √(p(1-p)/n + z²/4n²)) / (1 + z²/n).
    assert found["recall"]["interval"] == pytest.approx([0.2077, 0.9385], abs=1e-4)
    assert found["lift"] == pytest.approx(2.0)
    assert found["lift_interval"][0] < 2 < found["lift_interval"][1]
    assert found["p_value"] == pytest.approx((math.comb(3, 2) * 6 + 1) / math.comb(9, 3))
    nothing = noise_filter(np.zeros(5, bool), np.ones(5, bool), np.zeros(5, bool), 0)
    assert (nothing["lift"], nothing["recall"]["value"], nothing["clean_dropped"]["value"]) == (None, None, 0)


def test_the_bootstrap_draws_sentences() -> None:
    """One sentence holds all errors: whether it is drawn decides, and the interval is wide. Spread out it is not."""
    right, every = np.arange(400) >= 40, np.ones(400, dtype=bool)
    together = difference(np.arange(400) // 40, (right, every), (every, every), 3)
    apart = difference(np.arange(400) % 10, (right, every), (every, every), 3)
    assert together["value"] == apart["value"] == pytest.approx(-0.1)
    assert apart["interval"] == pytest.approx([-0.1, -0.1])
    assert together["interval"] == pytest.approx([-binom.ppf(0.975, 10, 0.1) / 10, 0.0])
    assert difference(np.arange(400), (right, ~every), (every, every), 3) is None


def items_of(gold: Any, label: Any, **more: Any) -> RoundItems:
    count = len(gold)
    fields: dict[str, Any] = dict.fromkeys(("item", "example"), np.arange(count)) | {"gold": np.array(gold)}
    fields |= dict.fromkeys(("teacher", "label"), np.array(label)) | {"outside": 0}
    fields |= dict.fromkeys(("agree", "kept"), np.ones(count, dtype=bool))
    fields |= dict.fromkeys(("confidence", "teacher_confidence"), np.ones(count, dtype=np.float32))
    return RoundItems(**(fields | more))


def test_repeated_errors_by_hand() -> None:
    before = items_of([0, 0, 0, 0], [1, 1, 2, 0])
    after = items_of([0, 0, 0, 0], [1, 2, 2, 0], kept=np.array([1, 1, 0, 1], dtype=bool))
    # Three wrong ones were accepted: the first again, the second with another label, the third not.
    assert repeated_errors(before, after) == {"right": 1, "of": 3, "value": pytest.approx(1 / 3)}


def test_regret_by_trying_every_threshold() -> None:
    rng = np.random.default_rng(5)
    count, grid = 300, [0.5, 0.6, 0.7, 0.8, 0.9]
    gold, label = rng.integers(3, size=count), rng.integers(3, size=count)
    label[: count // 2] = gold[: count // 2]
    confidence, agree = rng.random(count).astype(np.float32), rng.random(count) < 0.9
    confidence[label == gold] **= 0.3
    scores = {}
    for t in grid:
        kept = [i for i in range(count) if agree[i] and label[i] > 0 and confidence[i] > np.float32(t)]
        right = sum(label[i] == gold[i] for i in kept)
        precision, recall = right / len(kept), right / int((gold > 0).sum())
        scores[t] = 2 * precision * recall / (precision + recall)
    found = alpha_regret(items_of(gold, label, confidence=confidence, agree=agree), 0.8, grid)
    best = max(scores, key=scores.__getitem__)
    assert found == pytest.approx(
        {"f1": scores[0.8], "oracle": best, "oracle_f1": scores[best], "regret": scores[best] - scores[0.8]}
    )
