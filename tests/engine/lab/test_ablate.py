"""The rows of an ablation: shared stages once, the results of runs by themselves, tables that numpy agrees with."""

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from xlt_engine import ConfigError, DataError, Interrupted
from xlt_engine.engine import load_recipe, run
from xlt_engine.engine.evaluation.per_example import load_items
from xlt_engine.engine.lab.ablation.ablate import ablate, compare_rows, markdown, plain_text
from xlt_engine.engine.lab.ablation.rows import (
    GROUPS,
    ROWS,
    choose,
    describe_rows,
    forecast,
    open_ablation,
    plan_rows,
    render_forecast,
)
from xlt_engine.engine.lab.paper.printed import printed
from xlt_engine.engine.report.tracking.compare import AVERAGE, compare_runs, render_comparison

from ..conftest import score_in, write_tiny

TRAINED = (
    "threads=1",  # results depend on the number, and processes that are started have torch's own
    "finetune.epochs=10",
    "selftrain.soft.epochs=5",
    "selftrain.rounds=1",
    "checkpoint.seconds=600",
)
CHOSEN = ("main", "soft-2")
FORKED = """
import sys
from functools import partialmethod
import torch._dynamo
from xlt_engine.cli import main
from xlt_engine.engine.runs.workers import Workers
Workers.__init__ = partialmethod(Workers.__init__, fork=True)
main(sys.argv[1:])
"""
"""The command line, whose workers are forks that have loaded what they need."""
SEEDS = (0, 1)


class Lab:
    """A tiny recipe, and an ablation of it that has been made in this process."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.recipe = folder, write_tiny(folder)
        self.forecast = forecast(self.recipe, rows=CHOSEN, seeds=SEEDS, overrides=TRAINED, jobs=2)
        self.result = self.ablate("one", jobs=1)
        self.rows = folder / "one" / "rows"

    def ablate(self, where: str, **more: Any) -> Any:
        given = {"rows": CHOSEN, "seeds": SEEDS, "overrides": TRAINED} | more
        return ablate(self.recipe, run_dir=self.folder / where, **given)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(tmp_path_factory.mktemp("lab"))


def records(folder: Path) -> dict[str, dict[str, Any]]:
    """`stage.json` of every stage below, by its path."""
    found = sorted(folder.glob("**/seed-*/**/stage.json"))
    return {str(p.parent.relative_to(folder)): json.loads(p.read_bytes()) for p in found}


def hashes(folder: Path) -> dict[str, Any]:
    """What stages wrote, and what they were made from."""
    return {name: (r["hashes"], r["fingerprint"]) for name, r in records(folder).items()}


def test_shared_stages_are_made_once(lab: Lab) -> None:
    found = records(lab.rows)
    distinct = {(name.split("/", 1)[1], record["fingerprint"]) for name, record in found.items()}
    trained = [name for name, record in found.items() if "reused_from" not in record]
    begun = [
        event["stage"]
        for row in sorted(lab.rows.iterdir())
        for line in (row / "events.jsonl").read_text("utf-8").splitlines()
        if (event := json.loads(line))["kind"] == "begin"
    ]
    assert (lab.result.made, lab.result.before) == (len(distinct), 0)
    assert len(trained) == len(begun) == len(distinct)
    # One seed: 6 of ours, then what -AT, -VM, -BTF, the control and soft-2 add to it; below, all stages of each row.
    assert len(distinct) == len(SEEDS) * (6 + 1 + 2 + 2 + 2 + 1)
    assert len(found) == len(SEEDS) * (6 + 5 + 5 + 4 + 3 + 2 + 5 + 5)
    for name, record in found.items():
        if "reused_from" in record:
            source = Path(record["reused_from"])
            assert (source / "stage.json").exists()
            assert os.path.samefile(source / "model.safetensors", lab.rows / name / "model.safetensors")


def test_the_forecast_counts_what_is_made(lab: Lab) -> None:
    assert lab.forecast["planned"] - lab.forecast["shared"] == lab.result.made
    assert lab.forecast["planned"] == len(records(lab.rows))
    assert f"{lab.result.made} are to make" in render_forecast(lab.forecast)
    again = forecast(lab.recipe, rows=CHOSEN, seeds=SEEDS, overrides=TRAINED, run_dir=lab.folder / "one")
    assert again["planned"] == again["shared"]
    assert again["seconds"] == 0


@pytest.mark.parametrize("row", ["no-at", "no-btf", "mbert-wiki"])
def test_a_row_is_what_run_makes_alone(lab: Lab, row: str) -> None:
    alone = lab.folder / "alone" / row
    run(lab.recipe, run_dir=alone, overrides=(*TRAINED, *ROWS[row].overrides), seeds=SEEDS)
    assert hashes(alone) == hashes(lab.rows / row)
    names = {p.name for p in alone.iterdir()}
    assert names | {"thresholds.json", "sentences.json"} >= {p.name for p in (lab.rows / row).iterdir()} >= names
    one, other = (json.loads((f / "summary.json").read_bytes())["rows"] for f in (alone, lab.rows / row))
    timeless = {"seconds": 0, "cpu_seconds": 0}
    assert [r | timeless for r in one] == [r | timeless for r in other]


@pytest.mark.fault(13)
def test_killed_and_stopped_in_two_processes_and_gone_on_with_in_one(lab: Lab) -> None:
    """The parent of the process that was killed says which row it was; what both make has the bits of one process."""
    home = lab.folder / "killed"
    overrides = [*TRAINED[:-1], "checkpoint.seconds=0"]
    command = [sys.executable, "-c", FORKED, "ablate", lab.recipe, "--rows", "no-at", "--seeds", "0,1", "--quiet"]
    command += ["--run-dir", home, "--jobs", "2", *(f"--set={o}" for o in overrides)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "XLT_FAULT": "checkpoint.*:150:kill"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 8, done.stderr
    assert re.search(r"error: row \S+: seed-\S+: the process that made it was killed by signal 9", done.stderr)
    before, asked = records(home), 0
    assert any(home.glob("rows/*/seed-*/**/checkpoint/step-*"))

    def should_stop() -> int:
        nonlocal asked
        asked += 1
        return signal.SIGTERM if asked > 5 else 0

    given: dict[str, Any] = {"rows": ["no-at"], "overrides": overrides}
    with pytest.raises(Interrupted) as caught:
        lab.ablate(home.name, jobs=2, should_stop=should_stop, **given)
    assert caught.value.exit_code == 143
    status = json.loads((home / "status.json").read_bytes())
    assert (status["state"], status["exit_code"], status["resumable"]) == ("stopped", 143, True)
    assert 0 < len(records(home)) < len(records(lab.rows))
    result = lab.ablate(home.name, jobs=1, **given)
    assert result.before > 0
    for row in ("ours", "no-at"):
        assert hashes(home / "rows" / row) == hashes(lab.rows / row)
    after = records(home)
    assert {n: after[n]["seconds"] for n in before} == {n: r["seconds"] for n, r in before.items()}
    values = {row["name"]: row["values"] for row in lab.result.values["rows"]}
    assert all(row["values"] == values[row["name"]] for row in result.values["rows"])


def scores_by_hand(lab: Lab, row: str, stage: str) -> np.ndarray:
    """Entity F1 on German of each seed, from the files."""
    return np.array([score_in(lab.rows / row / f"seed-{seed}" / stage, "de", "entity_f1") for seed in SEEDS])


LAST = {"no-st": "de/finetune", "mbert": "baseline", "mbert-wiki": "de/control", "soft-2": "de/soft2"}


def test_the_table_against_numpy(lab: Lab) -> None:
    values = lab.result.values
    ours = scores_by_hand(lab, "ours", "de/hard1")
    assert len(set(ours)) > 1
    for row in values["rows"]:
        own = scores_by_hand(lab, row["name"], LAST.get(row["name"], "de/hard1"))
        assert row["targets"]["de"]["mean"] == pytest.approx(own.mean())
        assert row["targets"]["de"]["std"] == pytest.approx(own.std(ddof=1))
        assert row["average"] == row["targets"]["de"]
        assert row["values"]["de"] == {str(s): v for s, v in zip(SEEDS, own, strict=True)}
        if row["name"] == "ours":
            continue
        compared = next(c for c in values["comparisons"] if c["row"] == row["name"])
        assert compared["reference"] == "ours"
        for name in ("de", AVERAGE):
            found = compared["differences"][name]
            assert found["mean"] == pytest.approx((own - ours).mean())
            assert found["std"] == pytest.approx((own - ours).std(ddof=1))
            assert (found["up"], found["n"]) == (int((own > ours).sum()), len(SEEDS))


def test_what_is_printed_equals_the_comparison_of_the_same_runs(lab: Lab) -> None:
    """`report ROWS/ours ROWS/NAME`, which knows by their `run.json` what the rows report."""
    lines = dict[str, list[str]]()
    for line in lab.result.text.splitlines():
        name, *cells = re.split(r"\s{2,}", line.strip())
        lines.setdefault(name, cells)
    for row in lab.result.values["rows"][1:]:
        result = compare_runs(lab.rows / "ours", lab.rows / row["name"])
        shown = render_comparison(result).splitlines()
        (own,) = (line for line in shown if line.startswith(f"rows: ours, {row['name']} "))
        _, first, second, difference, up = re.split(r"\s{2,}", own.strip())
        # de, minus ours, up
        assert lines[row["label"]][:3] == [second, difference, up]
        assert lines["ours"][0] == first
        (found,) = (stage for stage in result.as_dict()["stages"] if stage["stage"] == "reported")
        printed = next(c for c in lab.result.values["comparisons"] if c["row"] == row["name"])
        assert printed["differences"][AVERAGE] == found["difference"]["stat"] | {"up": found["difference"]["up"]}


def test_seconds_of_a_row_and_what_is_new(lab: Lab) -> None:
    rows = {r["name"]: r for r in lab.result.values["rows"]}
    spent = {n: sum(r["seconds"] for r in records(lab.rows / n).values()) / len(SEEDS) for n in ("no-vm", "mbert")}
    assert rows["no-vm"]["seconds"] == pytest.approx(spent["no-vm"])
    assert rows["mbert"]["seconds"] == pytest.approx(spent["mbert"])
    control = records(lab.rows / "mbert-wiki")
    own = [r["seconds"] for n, r in control.items() if "control" in n or "pretrain" in n]
    assert rows["mbert-wiki"]["seconds"] == pytest.approx(sum(own) / len(SEEDS)), "task fitting is not in its lineage"
    assert rows["mbert"]["seconds_new"] < rows["mbert"]["seconds"]
    assert rows["no-st"]["seconds_new"] == 0


def test_outputs(lab: Lab) -> None:
    home = lab.folder / "one"
    assert lab.result.report == home / "ablation.md"
    assert json.loads((home / "ablation.json").read_bytes()) == lab.result.values
    rows = {r["name"]: r for r in lab.result.values["rows"]}
    text = (home / "ablation.md").read_text("utf-8")
    for row in rows.values():
        assert f"| {row['label']} |" in text
        assert f"* {row['label']}: {row['meaning']}" in text
    assert json.loads((home / "status.json").read_bytes())["state"] == "done"


def score_of(rows: np.ndarray) -> float:
    """In points: F1 of the entities (gold, predicted, correct) of sentences, or the share of texts that are right."""
    if rows.ndim == 1:
        return 100.0 * float(np.mean(rows))
    gold, predicted, correct = rows.astype(np.int64).sum(axis=0)
    return 200.0 * correct / (gold + predicted) if gold + predicted else 0.0


@pytest.mark.parametrize("task", ["ner", "classification"])
def test_items_are_what_the_scores_are_made_of(tiny: Any, task: str) -> None:
    found = tiny(task)
    found.run(*TRAINED)
    for stage in ("baseline", "de/finetune", "de/soft1", "de/hard1"):
        folder = found.folder / "run" / "seed-0" / stage
        items = load_items(folder)
        assert items.keys() == {s["language"] for s in found.json(f"{stage}/scores.json")["scores"]} == {"en", "de"}
        main = {"ner": "entity_f1", "classification": "accuracy"}[task]
        for language, rows in items.items():
            assert len(rows) == 12
            value = next(
                s["value"]
                for s in found.json(f"{stage}/scores.json")["scores"]
                if (s["language"], s["metric"]) == (language, main)
            )
            assert score_of(rows) == pytest.approx(value)
        assert "items.safetensors" in found.stage(stage)["hashes"]
    assert load_items(found.folder / "run" / "seed-0" / "de" / "btf") == {}


def test_every_row_fits_every_packaged_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XLT_DATA", "/data")
    for recipe in ("demo", "conll-paper", "cls-paper", "marc", "wikineural"):
        base = load_recipe(recipe).config
        for row in ROWS.values():
            if not row.obstacle(base):
                load_recipe(recipe, row.overrides)
        choice = choose(["all"], base)
        tagging = {name for name, row in ROWS.items() if base.task not in row.tasks}
        assert ({"target-entity", "target-sentence"} <= tagging) == (base.task == "classification")
        general = set() if base.world is not None or recipe.endswith("-paper") else {"mbert-wiki"}
        alone = {"teachers", "no-teachers"} if len(base.seeds) == 1 else set()
        assert choice.left_out.keys() == tagging | general | alone
        assert {row.name for row in choice.rows} == ROWS.keys() - choice.left_out.keys()
        assert choice.rows[0].name == "ours"
    assert {name for group in GROUPS.values() for name in group.rows} == ROWS.keys()
    assert all(group.reference in ROWS for group in GROUPS.values())
    assert all(name in describe_rows() for name in (*ROWS, *GROUPS))


def test_names_of_rows(lab: Lab) -> None:
    config = load_recipe(lab.recipe).config
    assert [r.name for r in choose(["-VM", "no-at"], config).rows] == ["ours", "no-vm", "no-at"]
    assert [g.name for g in choose(["-VM"], config).groups] == ["chosen"]
    assert [r.name for r in choose(["thresholds"], config).rows][:2] == ["auto", "origin"]
    with pytest.raises(ConfigError, match=r"--rows thresold: .* did you mean thresholds\?[^\0]*did you mean -BTF\?"):
        choose(["thresold", "-BFT", "no-vm"], config)
    texts = load_recipe(lab.recipe, ["task=classification"]).config
    with pytest.raises(ConfigError, match="--rows target-entity: is for ner only"):
        choose(["target-entity"], texts)
    with pytest.raises(ConfigError, match="there is no such folder"):
        lab.ablate("nowhere", reuse=[lab.folder / "nothing"])


def test_a_failed_row_leaves_the_others(lab: Lab) -> None:
    untrained = ("checkpoint.seconds=600",)
    result = lab.ablate("failing", jobs=1, rows=["no-at"], seeds=[0], overrides=untrained)
    assert list(result.failed) == ["no-at"]
    assert isinstance(result.failed["no-at"], DataError)
    rows = {r["name"]: r for r in result.values["rows"]}
    assert rows["ours"]["error"] is None
    assert rows["ours"]["average"] is not None
    assert "none of 112 items was accepted" in rows["no-at"]["error"]
    assert rows["no-at"]["average"] is None
    assert "-AT [failed]" in (result.folder / "ablation.md").read_text("utf-8")
    assert json.loads((result.folder / "status.json").read_bytes())["state"] == "failed"


def test_a_stage_of_another_run_is_taken_over(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    ours = lab.rows / "ours"
    found = run(lab.recipe, run_dir=lab.folder / "taken", overrides=TRAINED, seeds=[1], reuse=[ours])
    assert found.done == ()
    assert hashes(lab.folder / "taken") == {n: h for n, h in hashes(ours).items() if n.startswith("seed-1/")}
    stores = sorted(p.name for p in (lab.folder / "taken" / "store").iterdir())
    assert stores
    for name in stores:
        assert os.path.samefile(
            ours / "store" / name / "store.json", lab.folder / "taken" / "store" / name / "store.json"
        )
    anew = run(lab.recipe, run_dir=lab.folder / "anew", overrides=TRAINED, seeds=[1], reuse=[ours], resume=False)
    assert len(anew.done) == 6


def test_without_hard_links(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    monkeypatch.setattr(os, "link", refuse)
    folder = lab.folder / "copied"
    found = run(lab.recipe, run_dir=folder, overrides=TRAINED, seeds=[1], reuse=[lab.rows / "ours"])
    assert found.done == ()
    model = "seed-1/de/soft1/model.safetensors"
    assert not os.path.samefile(folder / model, lab.rows / "ours" / model)
    assert hashes(folder) == {n: h for n, h in hashes(lab.rows / "ours").items() if n.startswith("seed-1/")}


def test_damaged_stages(lab: Lab) -> None:
    """A changed file is not taken over."""
    other, folder = lab.folder / "damaged", lab.folder / "mended"
    shutil.copytree(lab.rows / "ours", other)
    model = other / "seed-1" / "de" / "soft1" / "model.safetensors"
    data = bytearray(model.read_bytes())
    data[-1] ^= 1
    model.write_bytes(data)
    found = run(lab.recipe, run_dir=folder, overrides=TRAINED, seeds=[1], reuse=[other])
    assert found.done == ("seed-1/de/soft1",)
    assert hashes(folder) == {n: h for n, h in hashes(lab.rows / "ours").items() if n.startswith("seed-1/")}


def test_paper_numbers_stand_beside_ours(lab: Lab, tmp_path: Path) -> None:
    """Nothing is trained: the tables of an ablation that has not begun."""
    ablation = open_ablation(lab.recipe, ["main", "thresholds"], [0], ["name=conll-paper"], [], 1)
    plans = plan_rows(ablation, tmp_path)
    values = compare_rows(ablation, plans, tmp_path, {})
    rows = {row["name"]: row for row in values["rows"]}
    assert rows["ours"]["paper"]["points"] == {"de": 76.88, "es": 78.38, "nl": 82.08, "average": 79.11}
    assert rows["no-vm"]["paper"] == {
        "points": {"de": 76.76, "es": 77.51, "nl": 81.39, "average": 78.55},
        "notes": ["vm"],
    }
    assert values["paper_notes"].keys() == {"single", "rounds", "base", "at", "vm", "slips", "auto"}
    for text in (markdown(values), " ".join(plain_text(values).split())):
        assert "paper: de" in text
        assert "76.40" in text
        assert "not that the automatic value is better" in text
    plain = compare_rows(open_ablation(lab.recipe, [], [0], [], [], 1), plans, tmp_path, {})
    assert plain["rows"][0]["paper"] is not None, "the plans are those of the recipe by that name"


def test_a_domain_has_its_own_cells_of_the_paper() -> None:
    """Table 5 by language; the average is that of the domain's cells, since the printed one is over nine."""
    found = printed("cls-paper", "no-vm", "dvd")
    assert found == {"points": {"de": 83.15, "fr": 85.75, "ja": 80.25, AVERAGE: 83.05}, "notes": ["vm", "vm-st"]}
    assert printed("cls-paper", "no-vm") is None, "no domain, no cell"
    assert printed("demo", "no-vm") is None
    assert printed("conll-paper", "voters-2") is None
