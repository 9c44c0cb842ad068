"""A run that is killed at any moment and started again ends in the same bits as one that was left alone.

The trials run in one helper process (this file as a script), which loads torch once and forks for every start of the
run. `XLT_KILLS` sets the number of random kills (6 by default; above that also of classification).
"""

import contextlib
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

KILLS = int(os.environ.get("XLT_KILLS", "6"))
STAGES = ("pretrain", "baseline", "de/btf", "de/finetune", "de/soft1", "de/hard1", "de/soft2", "de/hard2")
PATIENCE = 600.0


def result_hashes(folder: Path) -> dict[str, str]:
    """Everything a run has found out, by file; times, which no two runs share, left out."""
    found = {}
    for path in sorted(folder.glob("seed-*/**/*")):
        data = path.read_bytes() if path.is_file() else b""
        if path.name == "stage.json":
            record = json.loads(data)
            del record["seconds"], record["cpu_seconds"], record["checksum"]
            data = json.dumps(record, sort_keys=True).encode()
        found[str(path.relative_to(folder))] = hashlib.sha256(data).hexdigest()
    rows = json.loads((folder / "summary.json").read_bytes())["rows"]
    for row in rows:
        del row["seconds"], row["cpu_seconds"]
    found["summary.json"] = hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()
    return found


class Trials:
    """Starts a recipe in forked processes of a process that has loaded torch already."""

    def __init__(self, recipe: Path, folder: Path, seed: int) -> None:
        self.recipe, self.folder, self.random = recipe, folder, random.Random(seed)
        self.struck: Counter[str] = Counter()
        self.with_checkpoint = 0

    def start(self, run_dir: Path, fault: str = "", trace: Path | None = None) -> int:
        """Forks a process that makes the run; returns its id."""
        pid = os.fork()
        if pid:
            return pid
        code = 1
        try:
            code = self._child(run_dir, fault, trace)
        finally:
            sys.stderr.flush()
            os._exit(code)

    def _child(self, run_dir: Path, fault: str, trace: Path | None) -> int:
        from xlt_engine import XltError
        from xlt_engine.engine import run
        from xlt_engine.engine.storage import faults

        received: list[int] = []
        signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))
        if fault:
            os.environ[faults.VARIABLE] = fault
        if trace is not None:
            os.environ[faults.VARIABLE] = "none:1:kill"
            log = open(trace, "a", encoding="utf-8")  # noqa: SIM115
            faults._strike = lambda point, plan: bool(log.write(point + "\n")) and False
        try:
            run(self.recipe, run_dir=run_dir, should_stop=lambda: received[0] if received else 0)
        except XltError as error:
            sys.stderr.write("" if received else f"{type(error).__name__}: {error}\n")
            return error.exit_code
        finally:
            if trace is not None:
                log.close()
        return 0

    def finish(self, run_dir: Path, **more: Any) -> None:
        code = self.wait(self.start(run_dir, **more))
        assert code == 0, f"the run ended with {code}"

    @staticmethod
    def wait(pid: int) -> int:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    def stop_in(self, run_dir: Path, stage: str, number: int, longest: float) -> int | None:
        """Sends a signal a random time after the run has come to a stage; None where the run was faster."""
        pid = self.start(run_dir)
        limit = time.monotonic() + PATIENCE
        while not begun(run_dir, stage) and time.monotonic() < limit:
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                assert os.waitstatus_to_exitcode(status) == 0
                return None
            time.sleep(0.002)
        time.sleep(self.random.uniform(0, longest))
        os.kill(pid, number)
        code = self.wait(pid)
        if code == 0:
            return None
        where = place(run_dir)
        self.struck[where] += 1
        self.with_checkpoint += any((run_dir / "seed-0" / where / "checkpoint").glob("step-*"))
        return code


def begun(run_dir: Path, stage: str) -> bool:
    return (run_dir / "seed-0" / stage / "fingerprint.json").exists()


def place(run_dir: Path) -> str:
    """The stage that a run is in, by its folders."""
    open_stages = [s for s in STAGES if begun(run_dir, s) and not finished(run_dir, s)]
    return open_stages[0] if open_stages else "between"


def finished(run_dir: Path, stage: str) -> bool:
    return (run_dir / "seed-0" / stage / "stage.json").exists()


def durations(run_dir: Path) -> dict[str, float]:
    """How long each stage took, from the run's events."""
    found: dict[str, float] = {}
    for line in (run_dir / "events.jsonl").read_text("utf-8").splitlines():
        event = json.loads(line)
        sign = {"begin": -1, "end": 1}.get(event["kind"], 0)
        if sign:
            stage = event["stage"].removeprefix("seed-0/")
            found[stage] = found.get(stage, 0.0) + sign * event["monotonic"]
    return found


def same(expected: dict[str, str], run_dir: Path) -> None:
    found = result_hashes(run_dir)
    different = sorted(k for k in expected.keys() | found.keys() if expected.get(k) != found.get(k))
    assert not different, f"{run_dir.name}: other content in {different}"


def random_stops(
    trials: Trials, expected: dict[str, str], count: int, number: int, seconds: dict[str, float]
) -> dict[str, Any]:
    """Stops runs `count` times in all, each stage in turn, and lets each run come to its end when its last is done."""
    code, stopped, run_index = {signal.SIGKILL: -signal.SIGKILL, signal.SIGTERM: 128 + number}[number], 0, 0
    trials.struck, trials.with_checkpoint = Counter(), 0
    while stopped < count:
        run_dir = trials.folder / f"stopped-{number}-{run_index}"
        run_index += 1
        for stage in STAGES:
            if stopped == count or finished(run_dir, stage):
                continue
            result = trials.stop_in(run_dir, stage, number, seconds[stage])
            if result is None:
                break
            assert result == code, f"ended with {result} after signal {number}"
            stopped += 1
            if number == signal.SIGTERM:
                status = json.loads((run_dir / "status.json").read_bytes())
                assert (status["state"], status["exit_code"], status["resumable"]) == ("stopped", code, True)
        trials.finish(run_dir)
        same(expected, run_dir)
    return {"struck": dict(trials.struck), "with_checkpoint": trials.with_checkpoint}


def every_fault(trials: Trials, expected: dict[str, str]) -> list[str]:
    """Kills once at each named point that the run passes, at one passage chosen at random; returns the points."""
    log = trials.folder / "points.txt"
    trials.finish(trials.folder / "traced", trace=log)
    same(expected, trials.folder / "traced")
    passages = Counter(log.read_text("utf-8").split())
    run_dir, run_index = trials.folder / "faults-0", 0
    for point in sorted(passages):
        # Few passages are left once a run has gone far, so that a late one is looked for in a fresh folder.
        for attempt in range(2):
            number = trials.random.randint(1, max(1, passages[point] // (8 if attempt == 0 else 1)))
            code = trials.wait(trials.start(run_dir, fault=f"{point}:{number}:kill"))
            assert code in (0, -signal.SIGKILL), f"{point}: ended with {code}"
            if code:
                break
            same(expected, run_dir)
            run_index += 1
            run_dir = trials.folder / f"faults-{run_index}"
        else:
            raise AssertionError(f"{point} was not passed {number} times in a fresh run")
    trials.finish(run_dir)
    same(expected, run_dir)
    # Only a run that goes on reads a checkpoint.
    run_dir = trials.folder / "fault-on-reading"
    for fault in ("checkpoint.manifest:3:kill", "checkpoint.read:1:kill"):
        assert trials.wait(trials.start(run_dir, fault=fault)) == -signal.SIGKILL, fault
    trials.finish(run_dir)
    same(expected, run_dir)
    return sorted([*passages, "checkpoint.read"])


def driver(recipe: Path, folder: Path, seed: int, kills: int, faults: bool) -> dict[str, Any]:
    import torch

    import xlt_engine.engine

    torch.set_num_threads(1)
    os.fsync = lambda handle: None  # type: ignore[assignment]
    # A first run loads what torch loads on first use; without it a start would spend its time on that.
    xlt_engine.engine.run(recipe, run_dir=folder / "first")
    trials = Trials(recipe, folder, seed)
    started = time.monotonic()
    trials.finish(folder / "left-alone")
    expected = result_hashes(folder / "left-alone")
    assert {f"seed-0/{s}/model.safetensors" for s in STAGES} <= expected.keys()
    same(expected, folder / "first")
    seconds = durations(folder / "left-alone")
    killed = random_stops(trials, expected, kills, signal.SIGKILL, seconds)
    stopped = random_stops(trials, expected, max(2, kills * 4 // 5), signal.SIGTERM, seconds)
    points = every_fault(trials, expected) if faults else []
    before = {p: p.stat().st_mtime_ns for p in (folder / "left-alone").glob("seed-0/**/*")}
    trials.finish(folder / "left-alone")
    after = {p: p.stat().st_mtime_ns for p in (folder / "left-alone").glob("seed-0/**/*")}
    spent = time.monotonic() - started
    return {"kill": killed, "term": stopped, "points": points, "untouched": before == after, "seconds": spent}


@pytest.mark.parametrize("task", ["ner", "classification"] if KILLS > 6 else ["ner"])
@pytest.mark.fault(1, 3)
def test_stopped_runs_end_in_the_same_bits(tiny: Any, task: str) -> None:
    """kill -9 and SIGTERM at random moments, kill -9 at every named point, and nothing to do when all is done."""
    run = tiny(task)
    run.rewrite(("seconds = 600", "seconds = 0"))
    kills = max(1, round(KILLS / 2))
    arguments = [str(run.recipe), str(run.folder), "7", str(kills), str(int(task == "ner"))]
    limit = PATIENCE + 60 * kills
    done = subprocess.run(
        [sys.executable, __file__, *arguments], capture_output=True, text=True, check=False, timeout=limit
    )
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(done.stdout)
    assert result["untouched"]
    assert sum(result["kill"]["struck"].values()) == kills
    if kills >= 8:  # the test is worth nothing if the kills all come before the first checkpoint
        assert len(result["kill"]["struck"].keys() - {"between"}) >= 4, result
        assert result["kill"]["with_checkpoint"] >= 2, result
    if task == "ner":
        assert {"checkpoint.manifest", "checkpoint.prune", "checkpoint.read"} <= set(result["points"])
        assert {"file.renamed", "publish.renamed", "delete.renamed", "rundir.locked"} <= set(result["points"])


def test_second_process_is_turned_away(tiny: Any) -> None:
    from xlt_engine import RunInUseError
    from xlt_engine.engine import Progress

    run = tiny("classification")
    trials = Trials(run.recipe, run.folder, 0)

    class Second(Progress):
        code: int | None = None

        def end(self, stage: str, text: str) -> None:
            if self.code is None:
                self.code = trials.wait(trials.start(run.folder / "run"))

    second = Second()
    run.run(stage="pretrain", progress=second)
    assert second.code == RunInUseError.exit_code


def expect_redone(run: Any, overrides: list[str], expected: set[str]) -> None:
    result = run.run(*overrides)
    assert {s.removeprefix("seed-0/") for s in result.done} == expected
    assert set(result.done).isdisjoint(result.skipped)


ROUNDS = {"de/soft1", "de/hard1", "de/soft2", "de/hard2"}
FROM_TEACHER = {"de/finetune"} | ROUNDS


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("selftrain.hard.lr=0.001", ROUNDS - {"de/soft1"}),
        ("selftrain.target_filter=none", ROUNDS - {"de/soft1"}),
        ('selftrain.alpha.rule="fixed:0.25"', ROUNDS - {"de/soft1"}),
        ("selftrain.soft.lr=0.001", ROUNDS),
        ("selftrain.voters=2", ROUNDS),
        ("finetune.lr=0.001", {"baseline"} | FROM_TEACHER),
        ("btf.lr=0.002", {"de/btf"} | FROM_TEACHER),
        ("pretrain.lr=0.001", set(STAGES)),
        ("training.warmup=0.2", set(STAGES)),
        ("training.freeze_layers=1", set(STAGES) - {"pretrain"}),
        ("training.keep=best", set(STAGES) - {"pretrain", "de/btf"}),
        ("training.micro_batch=4", set()),
        ("training.micro_batch=auto", set()),
        ("training.recompute=true", set()),
        ("btf.freeze_embeddings=true", {"de/btf"} | FROM_TEACHER),
        ("btf.freeze_layers=0", set()),
        ("performance.buckets=4", set()),
        ("checkpoint.seconds=60", set()),
        ("selftrain.rounds=2.5", {"de/soft3"}),
    ],
)
@pytest.mark.fault(26, 52)
def test_plan_remakes_what_depends_on_a_value(tiny: Any, override: str, expected: set[str]) -> None:
    """By the fingerprints alone, without training."""
    assert tiny("ner").remade(override) == expected


@pytest.mark.fault(26)
def test_changed_value_remakes_its_stages_only(tiny: Any) -> None:
    run = tiny("ner")
    assert {s.removeprefix("seed-0/") for s in run.run().done} == set(STAGES)
    first = result_hashes(run.folder / "run")
    expect_redone(run, [], set())
    expect_redone(run, ["selftrain.hard.lr=0.001"], ROUNDS - {"de/soft1"})
    assert result_hashes(run.folder / "run") != first
    expect_redone(run, ["checkpoint.seconds=60"], ROUNDS - {"de/soft1"})
    assert result_hashes(run.folder / "run") == first
    training = run.folder / "train.conll"
    training.write_text(training.read_text("utf-8").replace("old", "big"), encoding="utf-8")
    expect_redone(run, [], set(STAGES))


def test_signal_on_the_last_step_loses_no_step(tiny: Any) -> None:
    """A stop that arrives while the last step runs finds its checkpoint: no step is done twice."""
    from xlt_engine import Interrupted

    from ..conftest import Watch

    run, watch = tiny("ner"), Watch()
    options: dict[str, Any] = {"stage": "pretrain", "progress": watch}
    with pytest.raises(Interrupted):
        run.run("checkpoint.seconds=600", **options, should_stop=lambda: 15 * (watch.left == 0))
    steps = len(watch.steps)
    run.run("checkpoint.seconds=600", **options)
    assert len(watch.steps) == steps


if __name__ == "__main__":
    with contextlib.redirect_stdout(sys.stderr):
        outcome = driver(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), sys.argv[5] == "1")
    sys.stdout.write(json.dumps(outcome))
