"""A stage that fails by itself takes what needs it out of the run, and nothing else; its advice is followed."""

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from xlt_engine.engine import ConsoleProgress, StagesFailedError, answers

SEEDS = (0, 1, 2)


@pytest.fixture
def runs(tiny: Any) -> tuple[Any, float, int]:
    """A finished run of three seeds, and a threshold above every confidence of one of them alone."""
    run = tiny("ner")
    run.run("selftrain.rounds=1", seeds=SEEDS)
    highest = {}
    for seed in SEEDS:
        saved = load_file(run.folder / f"run/seed-{seed}/de/hard1/decision.safetensors")
        highest[seed] = float(saved["target.confidence"][saved["target.agree"] > 0].max())
    lowest, second, _ = sorted(highest.values())
    assert lowest < second
    return run, (lowest + second) / 2, min(highest, key=highest.__getitem__)


def test_other_pairs_go_on_and_the_advice_helps(runs: tuple[Any, float, int]) -> None:
    run, alpha, seed = runs
    failing, others = f"seed-{seed}/de/hard1", {f"seed-{s}/de/hard1" for s in SEEDS if s != seed}
    with pytest.raises(StagesFailedError, match=f"^{failing}: none of ") as caught:
        run.run("selftrain.rounds=2", f'selftrain.alpha.rule="fixed:{alpha!r}"', seeds=SEEDS)
    assert caught.value.exit_code == 3
    result = caught.value.result
    assert others <= set(result.done)
    (failure,) = result.summary["failed"]
    left_out = [f"seed-{seed}/de/soft2", f"seed-{seed}/de/hard2"]
    assert (failure["folder"], failure["exit_code"], failure["left_out"]) == (failing, 3, left_out)
    status = json.loads((run.folder / "run" / "status.json").read_bytes())
    assert (status["state"], status["exit_code"], status["stage"]) == ("failed", 3, failing)
    assert f"{failing} has failed" in Path(result.report).read_text("utf-8")
    assert answers(result.folder)["de"].folder.is_dir()

    advice = re.search(r'no item is above \S+; (\S+ = "fixed:\S+") would accept (\d+) of (\d+)\.', str(caught.value))
    assert advice
    after = run.run("selftrain.rounds=1", advice[1], seeds=(seed,))
    assert after.summary["failed"] == []
    assert not (run.folder / "run" / "failed.json").exists()
    decision = run.json("de/hard1/decision.json", seed=seed)
    assert (decision["accepted"], decision["items"]) == (int(advice[2]), int(advice[3]))


def test_other_seeds_go_on_where_one_leaves_the_numbers(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fault strikes in the first stage that trains, which all others of its seed need."""
    run = tiny("ner")
    monkeypatch.setenv("XLT_FAULT", "loop.loss:5:nan")
    with pytest.raises(StagesFailedError, match="^seed-0/pretrain: step 4: loss nan") as caught:
        run.run("selftrain.rounds=1", seeds=(0, 1))
    assert caught.value.exit_code == 7
    done, (failure,) = caught.value.result.done, caught.value.result.summary["failed"]
    assert {stage.split("/")[0] for stage in done} == {"seed-1"}
    assert {stage.split("/")[0] for stage in failure["left_out"]} == {"seed-0"}
    assert answers(caught.value.result.folder)["de"].folder.is_dir()


def test_progress_of_the_whole_run(tiny: Any) -> None:
    """Every line of a stage says which one of how many it is; once one was made, also how long the rest takes."""
    stream, run = io.StringIO(), tiny("classification")
    run.run("selftrain.rounds=1", stage="finetune")
    run.run("selftrain.rounds=1", progress=ConsoleProgress(stream))
    lines = [line for line in stream.getvalue().splitlines() if "; stage " in line]
    assert [re.sub(r"about \d+ s", "about _ s", line.partition("; ")[2]) for line in lines] == [
        "stage 5 of 6",
        "stage 6 of 6, about _ s left",
    ]
