"""`why`: the story of one example, against the files of the run and its models asked one by one."""

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save

from xlt_engine import DataError
from xlt_engine.data import ItemView, TokenStore, pack
from xlt_engine.engine import write_report
from xlt_engine.engine.evaluation.inference import predict_logits
from xlt_engine.engine.lab.studies.example_story import Fate, _fate, example_story, render_story
from xlt_engine.engine.lab.studies.finished_run import FinishedRun
from xlt_engine.engine.pseudolabels.filters import Reason
from xlt_engine.engine.storage.files import read_json, sha256_file, write_sealed_json
from xlt_engine.engine.storage.stage_files import write_decided
from xlt_engine.model import load_task_model

LABELS = ("O", "B-LOC", "I-LOC", "B-PER", "I-PER")


def plant(folder: Path, stage: str, **changes: dict[int, int]) -> None:
    """Overwrites entries of a decision's arrays, `__` in a name standing for the point."""
    path = folder / f"seed-0/de/{stage}/decision.safetensors"
    arrays = {k: v.copy() for k, v in load_file(path).items()}
    for name, entries in changes.items():
        for index, value in entries.items():
            arrays[name.replace("__", ".")][index] = value
    write_decided(path.parent, "decision.json", read_json(path.with_suffix(".json")), save(arrays))
    record = read_json(path.with_name("stage.json"))
    record["hashes"] |= {file.name: sha256_file(file) for file in (path, path.with_suffix(".json"))}
    write_sealed_json(path.with_name("stage.json"), record)


def test_target_example_as_the_files_have_it(folder: Path, made: list[Path]) -> None:
    """Words from the text file; label, confidence, agreement and reason of each word from the decision's arrays."""
    run = FinishedRun.open(folder)
    store = run.pool("de")
    start = int(store.item_offsets[5])
    plant(folder, "hard1", target__reason={start: int(Reason.DISAGREE), start + 1: -1}, target__agree={start: 0})
    story = example_story(folder, "de:5")
    line = (made[0] / "ner/de.txt").read_text("utf-8").splitlines()[5]
    assert story.words == tuple(line.replace(".", " .").split())
    assert (story.name, story.example, story.line) == ("de:5", "de:6", 6)
    assert Path(str(story.file)).name == "de.txt"
    assert story.role == "target"
    assert story.gold is None
    first = story.rounds[0]
    assert (first.stage, first.number, first.labeller, first.alpha) == ("hard1", 1, "soft1", 0.2)
    assert first.items[0].outcome == "voters-disagree"
    assert first.items[0].agree is False
    assert first.items[1].outcome == "not-in-pool"
    for stage, found in zip(("hard1", "hard2"), story.rounds, strict=True):
        arrays = load_file(folder / f"seed-0/de/{stage}/decision.safetensors")
        for k, fate in enumerate(found.items):
            if arrays["target.reason"][start + k] >= 0:
                assert fate.label == LABELS[arrays["target.label"][start + k]]
                assert fate.confidence == pytest.approx(float(arrays["target.confidence"][start + k]))


def test_from_any_folder_after_a_move(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that was moved twice, seen from elsewhere, knows the file of an example, and its report is written."""
    (tmp_path / "elsewhere").mkdir()
    moved = folder.rename(tmp_path / "elsewhere" / "again")
    monkeypatch.chdir(tmp_path / "elsewhere")
    story = example_story("again", "de:5")
    assert Path(str(story.file)).is_file()
    assert story.line == 6
    (moved / "report.html").unlink()
    write_report("again")
    assert (moved / "report.html").is_file()


def test_voters_are_those_of_the_models(folder: Path) -> None:
    """Each voter's label and confidence, from the stage's model on this sentence alone."""
    story = example_story(folder, "de:3")
    store = FinishedRun.open(folder).pool("de")
    for stage in ("soft1", "hard2"):
        model = load_task_model(folder / f"seed-0/de/{stage}")
        positions, _ = store.items(3)
        with torch.inference_mode():
            logits = model(pack([store.ids(3).tolist()], items=[positions.tolist()]))
        p = torch.softmax(logits, dim=-1)
        for k, opinion in enumerate(story.opinions[stage]):
            assert [v.label for v in opinion.voters] == [LABELS[int(c)] for c in p[:, k].argmax(dim=-1)]
            assert [v.confidence for v in opinion.voters] == pytest.approx(p[:, k].amax(dim=-1).tolist(), abs=1e-5)
            assert opinion.confidence == pytest.approx(float(p[:, k].mean(dim=0).max()), abs=1e-5)
            assert opinion.label == LABELS[int(p[:, k].mean(dim=0).argmax())]


def test_source_example_is_removed_once(folder: Path, made: list[Path]) -> None:
    """A sentence that round 1 contradicts, with its gold from the file, and what round 2 says of it."""
    plant(folder, "hard1", source__reason={4: int(Reason.CONTRADICTED)})
    plant(folder, "hard2", source__reason={4: int(Reason.REMOVED_BEFORE)})
    story = example_story(folder, "en:4")
    assert story.role == "source"
    assert [r.source for r in story.rounds] == ["contradicted", "removed-before"]
    blocks = (made[0] / "ner/train.conll").read_text("utf-8").split("\n\n")
    rows = [line.split("\t") for line in blocks[4].strip().splitlines()]
    assert story.words == tuple(word for word, _ in rows)
    assert story.gold == tuple(tag for _, tag in rows)
    text = render_story(story)
    assert "round 2 (by soft 2, alpha 0.200): had been removed before" in text
    wrong = [w for w, o in enumerate(story.opinions["soft1"]) if o.label != story.gold[w]]
    for w in wrong:
        assert f"{story.words[w]} {story.opinions['soft1'][w].label}, not {story.gold[w]}" in text


def test_text_names_what_matters(folder: Path) -> None:
    store = FinishedRun.open(folder).pool("de")
    start = int(store.item_offsets[0])
    plant(folder, "hard2", target__reason={start: int(Reason.LOW_CONFIDENCE)})
    text = render_story(example_story(folder, "de:0"))
    assert text.startswith("de:0  (de:1)  unlabelled de, seed 0\n")
    assert "round 1: alpha 0.200, by soft 1" in text
    assert max(map(len, text.splitlines())) < 140
    # The word's line has what was compared; all voters of the student stand below, as the model itself says.
    shown = next(line for line in text.splitlines() if "below-threshold" in line)
    lowest = float(load_file(folder / "seed-0/de/hard2/decision.safetensors")["target.confidence"][start])
    assert f"below-threshold {lowest:.3f}" in shown
    logits = predict_logits(load_task_model(folder / "seed-0/de/soft2"), ItemView(store), np.array([0]))[:, start]
    each = [f"{p:.2f}" for p in logits.softmax(-1).amax(-1).tolist()]
    assert len(each) == 3
    assert min(each) == f"{lowest:.2f}"
    voters = text.partition("\nvoters:\n")[2].splitlines()
    soft = next(line for line in voters if line.startswith(f"{shown.split()[0]}: ")).partition("soft 2 ")[2]
    assert sorted(re.findall(r"\d\.\d\d", soft.partition(";")[0])) == sorted(each)


@pytest.mark.parametrize(
    ("confidence", "alpha", "shown"),
    [
        (0.9598, 0.96, "0.9598"),
        (0.9604, 0.96, "0.9604"),
        (0.17, 0.154, "0.170"),
        (0.5, 0.5, "0.500"),
        (0.3, None, "0.300"),
    ],
)
def test_a_confidence_looks_as_it_compares(confidence: float, alpha: float | None, shown: str) -> None:
    assert _fate(Fate("accepted", "O", confidence, True), alpha) == f"accepted {shown}"


@pytest.mark.parametrize(
    ("name", "found"),
    [("de:7", "de:7"), ("de.txt:8", "de:7"), ("de/de:8", "de:7"), ("train.conll:6", "en:1"), ("train:6", "en:1")],
)
def test_names(folder: Path, name: str, found: str) -> None:
    """Position, file and line, and the reader's id; a language before a number is a position, not a file."""
    story = example_story(folder, name)
    assert story.name == found


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("de:24", "de has 24 examples here; give de:0 to de:23"),
        ("train.conll:7", r"nearest are en:1 \(train:6\)"),
        ("??", "give LANGUAGE:NUMBER, with a language of en, de"),
    ],
)
def test_unknown_names_suggest(folder: Path, name: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        example_story(folder, name)


def test_a_name_that_two_languages_have(tiny: Any) -> None:
    run = tiny("ner")
    (run.folder / "again").mkdir()
    (run.folder / "again/train.txt").write_text((run.folder / "de.txt").read_text("utf-8"), encoding="utf-8")
    recipe = run.recipe.read_text().replace('unlabelled = ["de.txt"]', 'unlabelled = ["again/train.txt"]')
    run.recipe.write_text(recipe)
    run.run("selftrain.rounds=1")
    with pytest.raises(DataError, match=r"several .*en:0 \(train:1\), de:0 \(train:1\)"):
        example_story(run.folder / "run", "train:1")
    assert example_story(run.folder / "run", "de/train:1").name == "de:0"


def test_gold_and_text_of_classification(tiny: Any) -> None:
    """Unlabelled rows of a table with labels: gold is shown; once the file is gone, the tokens tell the text."""
    run = tiny("classification")
    table = (run.folder / "test-de.tsv").read_text("utf-8")
    (run.folder / "pool.tsv").write_text(table, encoding="utf-8")
    recipe = run.recipe.read_text().replace('unlabelled = ["de.txt"]', 'unlabelled = ["pool.tsv"]')
    run.recipe.write_text(recipe)
    run.run("selftrain.rounds=1")
    row = table.splitlines()[3].split("\t")
    story = example_story(run.folder / "run", "de:2")
    assert (story.words, story.gold, story.line) == ((row[0],), (row[1],), 4)
    shown = next(line for line in render_story(story).splitlines() if line.startswith(row[0][:20]))
    assert f"  {row[1]}  " in shown
    assert "gold: for looking at only" in render_story(story)
    fate = story.rounds[0].items[0]
    assert f"{fate.outcome} {fate.confidence:.3f}" in render_story(story)
    (run.folder / "pool.tsv").unlink()
    story = example_story(run.folder / "run", "de:2")
    assert story.file is None
    assert story.gold is None
    assert story.words[0].split()[0] in ("das", "[UNK]")
    assert "its file is gone or has changed" in render_story(story)
    json.dumps(asdict(story))


def test_no_such_seed_or_target(folder: Path) -> None:
    with pytest.raises(DataError, match="has no seed 9; it has 0"):
        example_story(folder, "de:1", seed=9)
    with pytest.raises(DataError, match="has no target fr; it has de"):
        example_story(folder, "en:1", target="fr")


def test_words_that_no_token_stands_for(folder: Path) -> None:
    """The store's word numbers, not its item numbers, pick the words."""
    store: TokenStore = FinishedRun.open(folder).pool("de")
    story = example_story(folder, "de:1")
    assert story.seen == tuple(int(w) for w in store.items(1)[1])
    assert np.diff(story.seen).min() >= 1
