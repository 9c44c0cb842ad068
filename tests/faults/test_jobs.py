"""`run --jobs 2`: the bits, the messages and the codes of one process, whatever ends a worker or its parent."""

import json
import os
import re
import shutil
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from kill import two_targets
from starts import Alone, Starts, children, state, status, until


class Pair(Alone):
    """Two targets, whose stages can run side by side; test_ablate.py has two seeds."""

    def arguments(self, place: Path, jobs: int = 2) -> list[str]:
        return [*super().arguments(place), "--set", "threads=1", "--jobs", str(jobs)]


@pytest.fixture(scope="module")
def pair(start: Starts, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """The recipe, and a run of it in one process."""
    folder = tmp_path_factory.mktemp("pair")
    run = Pair(two_targets(folder), folder / "alone")
    started = start(*run.arguments(run.folder, jobs=1))
    assert started.wait() == 0, started.text()
    return run


def events(place: Path) -> Counter[str]:
    """What `events.jsonl` says, less times and numbers of this start."""
    found = [json.loads(line) for line in (place / "events.jsonl").read_text("utf-8").splitlines()]
    keys = ("kind", "stage", "step", "loss", "scores")
    return Counter(json.dumps({k: e.get(k) for k in keys}, sort_keys=True) for e in found)


def test_the_same_files_with_two_jobs(start: Starts, pair: Pair, tmp_path: Path) -> None:
    run = start(*pair.arguments(tmp_path))
    until(lambda: len(children(run.pid)) >= 3, "two workers, and what watches their resources")
    assert run.wait() == 0, run.text()
    assert pair.differing(tmp_path) == []
    assert (status(tmp_path), events(tmp_path)) == (("done", 0, False), events(pair.folder))
    one, other = ({p.relative_to(f) for f in (x,) for p in x.rglob("*")} for x in (pair.folder, tmp_path))
    assert one == other
    for stage in ("seed-0/de/hard1", "seed-0/nl/hard1"):
        assert f"\n{stage}: alpha " in run.text()
    shown = [line.split(":")[0] for line in run.text().splitlines() if " steps; stage " in line]
    assert sorted(shown) == sorted({*shown})
    again = start(*pair.arguments(tmp_path))
    assert (again.wait(), "stages are up to date" in again.text("out")) == (0, True)


@pytest.mark.fault(1)
def test_killed_workers(start: Starts, pair: Pair, tmp_path: Path) -> None:
    """In a step, then in a save: the stage is named, the other worker saves, and the same command goes on.

    Pre-training, of 9 steps, is made in the run's own process, since nothing can be made beside it.
    """
    for point in ("loop.loss:10:kill", "checkpoint.*:40:kill"):
        run = start(*pair.arguments(tmp_path), fault=point, forked=[])
        assert run.wait() == 8, run.text()
        last = run.text().splitlines()[-1]
        assert last.startswith("error: seed-")
        assert last.count("seed-") == 1
        assert ": the process that made it was killed by signal 9, perhaps for want of memory; nothing else" in last
        assert status(tmp_path) == ("failed", 8, True)
    pair.goes_on(start, tmp_path, forked=[])


@pytest.mark.fault(1, 13)
def test_a_killed_parent_leaves_nobody_in_its_folder(start: Starts, pair: Pair, tmp_path: Path) -> None:
    """The next run starts at once, waits for the workers of the first, and ends in the same bits."""
    run = start(*pair.arguments(tmp_path), "--set", "btf.epochs=500")
    until(lambda: len(list(tmp_path.glob("seed-*/*/btf/checkpoint"))) == 2, "two stages amid their training")
    workers = children(run.pid)
    os.kill(run.pid, signal.SIGKILL)
    assert run.wait() == -signal.SIGKILL
    again = start(*pair.arguments(tmp_path), forked=[])
    until(lambda: all(state(worker) in ("", "Z") for worker in workers), f"the end of {workers}")
    assert again.wait() == 0, again.text()
    assert pair.differing(tmp_path) == []


@pytest.mark.fault(4, 8)
def test_signals_to_all(start: Starts, pair: Pair, tmp_path: Path) -> None:
    """As Ctrl-C on a terminal: the workers get it, too, and it is the parent who decides; then the parent alone."""
    saved = set[Path]()
    for number in (signal.SIGINT, signal.SIGTERM):
        run = start(*pair.arguments(tmp_path), "--set", "btf.epochs=500", forked=[])

        def amid(before: frozenset[Path] = frozenset(saved)) -> bool:
            new = set(tmp_path.glob("seed-*/*/btf/checkpoint/step-*")) - before
            return len({step.parent for step in new}) == 2

        until(amid, "two stages amid their training")
        workers = children(run.pid)
        for pid in (run.pid, *(workers if number == signal.SIGINT else ())):
            os.kill(pid, number)
        assert run.wait() == 128 + number, run.text()
        assert f"stopped by signal {int(number)}; the same command goes on from here" in run.text()
        assert "Traceback" not in run.text()
        assert status(tmp_path) == ("stopped", 128 + number, True)
        until(lambda workers=workers: all(state(w) in ("", "Z") for w in workers), "their end")  # type: ignore[misc]
        saved = set(tmp_path.glob("seed-*/*/btf/checkpoint/step-*"))
        assert len({step.parent for step in saved}) == 2
    pair.goes_on(start, tmp_path, forked=[])


def _alike(text: str, place: Path) -> str:
    """Without the run's folder and the room on the disk, which others use too."""
    return re.sub(r"[\d.]+ GB free", "GB free", text.replace(str(place), ""))


@pytest.mark.fault(14, 50)
def test_failing_workers(start: Starts, pair: Pair, tmp_path: Path) -> None:
    """In the last step of a stage of 6; the other worker's has 5: the code, message and status of one process."""
    for point, code in {
        "checkpoint.begin:5:enospc": 5,
        "loop.loss:6:oom": 8,
        "loop.loss:6:raise": 1,
        "loop.loss:6:nan": 7,
    }.items():
        said = list[Any]()
        for jobs in (1, 2):
            place = tmp_path / str(jobs) / str(code)
            shutil.copytree(pair.folder, place, symlinks=True)
            for stage in ("de/finetune", "de/soft1", "de/hard1", "nl/hard1"):
                shutil.rmtree(place / "seed-0" / stage)
            run = start(*pair.arguments(place, jobs), fault=point, forked=[])
            assert run.wait() == code, run.text()
            values = json.loads((place / "status.json").read_bytes())
            text = [_alike(line, place) for line in run.text().splitlines() if line.startswith("error:")]
            keys = ("state", "exit_code", "reason", "stage")
            said.append((text, {k: _alike(str(values[k]), place) for k in keys}))
        assert "seed-0/de/finetune" in said[0][0][0] + said[0][1]["stage"]
        assert said[0] == said[1]
        pair.goes_on(start, place, forked=[])


def test_a_stage_that_fails_by_its_data(start: Starts, pair: Pair, tmp_path: Path) -> None:
    """What does not need it goes on; the list of failures is that of one process."""
    lists = list[bytes]()
    for jobs in (1, 2):
        place = tmp_path / str(jobs)
        run = start(*pair.arguments(place, jobs), "--set", "selftrain.alpha.rule=fixed:0.999999", forked=[])
        assert run.wait() == 3, run.text()
        lists.append((place / "failed.json").read_bytes() + run.text().splitlines()[-1].encode())
    assert (lists[0], lists[0].count(b"exit_code")) == (lists[1], 2)
