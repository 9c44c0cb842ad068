"""How many stages are made side by side, and what keeps a folder to one run; tests/faults/test_jobs.py has the rest."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from xlt_engine import ConfigError, DataError, Interrupted, OutOfMemoryError, RunInUseError, StorageError
from xlt_engine.data import build_store
from xlt_engine.engine import StagesFailedError
from xlt_engine.engine.preflight.cost import estimate_plan
from xlt_engine.engine.runs import jobs
from xlt_engine.engine.runs.graph import make_plan
from xlt_engine.engine.runs.jobs import choose_jobs
from xlt_engine.engine.runs.prepare import make_context
from xlt_engine.engine.runs.workers import Workers, portable
from xlt_engine.engine.storage import run_folder
from xlt_engine.engine.storage.run_folder import RunDir

from ..conftest import Watch


@pytest.fixture
def asked(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """From a recipe's overrides and what is asked for to the number of jobs, with four cores."""
    run, notes = tiny("ner"), Watch()
    (run.folder / "run").mkdir()
    monkeypatch.setattr(jobs, "cores", lambda: 4)

    def choose(number: int | None, *overrides: str, seeds: tuple[int, ...] = (0, 1), **more: Any) -> int:
        config = run.resolved(*overrides).config
        context = make_context(config, RunDir(run.folder / "run"), notes)
        for name, value in more.items():
            setattr(context, name, value)
        return choose_jobs(context, make_plan(config, seeds), number, resume=True)

    choose.notes, choose.run = notes, run  # type: ignore[attr-defined]
    return choose


def test_by_the_cores_and_the_graph(asked: Any) -> None:
    assert asked(None) == 1, "torch takes every core"
    assert asked(None, "threads=1") == 4
    assert asked(None, "threads=2") == 2
    assert asked(None, "threads=8") == 1
    assert asked(3, "threads=8") == 3
    chain = ("threads=1", "arms.baseline=false", "selftrain.rounds=1")
    assert asked(None, *chain, seeds=(0,)) == 1, "each stage needs the one before it"
    assert asked(None, *chain) == 4


def test_under_torchrun_there_is_one(asked: Any) -> None:
    class Two:
        size = 2

    assert asked(None, "threads=1", processes=Two()) == 1
    with pytest.raises(ConfigError, match="^--jobs is for a run of one process"):
        asked(2, "threads=1", processes=Two())


def test_memory_lowers_the_number_with_a_word(asked: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    config = asked.run.resolved("threads=1").config
    context = make_context(config, RunDir(asked.run.folder / "run"), Watch())
    sizes = sorted(stage.memory for stage in estimate_plan(context, make_plan(config, (0, 1)), rate=1.0).stages)
    for free, number in ((sum(sizes[-3:]), 3), (sum(sizes[-3:]) - 1, 2), (sizes[-1], 1), (0, 1)):
        monkeypatch.setattr(jobs, "free_memory", lambda free=free: free)
        assert asked(4, "threads=1") == number
        assert asked.notes.lines[-1].startswith(f"--jobs {number} instead of 4: the largest 4 stages need about 1.9 GB")
    said = len(asked.notes.lines)
    monkeypatch.setattr(jobs, "free_memory", lambda: None)
    assert asked(4, "threads=1") == 4
    assert len(asked.notes.lines) == said
    assert asked.run.folder.exists()


def test_errors_travel() -> None:
    """By their public class and with their words; what is not the package's brings its traceback."""
    import pickle

    failed = StagesFailedError([{"reason": "a", "exit_code": 7}], None)  # type: ignore[arg-type]
    storage = StorageError("full")
    for error, kind in ((failed, DataError), (storage, StorageError), (OutOfMemoryError("x"), OutOfMemoryError)):
        copy = pickle.loads(pickle.dumps(portable(error)))
        assert (type(copy), str(copy)) == (kind, str(error))
    copy = pickle.loads(pickle.dumps(portable(Interrupted(15))))
    assert (copy.exit_code, copy.signal, str(copy)) == (143, 15, str(Interrupted(15)))
    try:
        raise RuntimeError("no such kernel")
    except RuntimeError as error:
        copy = pickle.loads(pickle.dumps(portable(error)))
    assert (type(copy), str(copy)) == (RuntimeError, "no such kernel")
    assert "test_errors_travel" in copy.__notes__[0]


def nothing(should_stop: Callable[[], int], tell: Callable[..., None]) -> Callable[[str], object]:
    """What a worker begins with that never gets to work."""
    return lambda task: None


def test_a_process_that_ends_by_itself_names_its_task() -> None:
    workers = Workers[str](1, nothing)
    workers._start()
    (process,) = workers._members.values()
    process.kill()
    process.join()
    workers.give("seed-0/x")
    ((lost, answer),) = workers.answers()
    assert lost == "seed-0/x"
    assert isinstance(answer.error, OutOfMemoryError)
    assert str(answer.error).startswith("seed-0/x: the process that made it was killed by signal 9")
    assert workers.stop() == []


WORKER = """
import sys, time
from pathlib import Path
from xlt_engine.engine.storage.run_folder import share
share(Path(sys.argv[1]))
print("there", flush=True)
time.sleep(float(sys.argv[2]))
"""


def test_a_run_waits_for_the_workers_of_one_that_was_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def worker(seconds: float) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", WORKER, tmp_path, str(seconds)]
        started = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert started.stdout.readline() == "there\n"
        return started

    with RunDir(tmp_path):
        one = worker(1.0)  # beside the one that holds the folder
    begun = time.monotonic()
    with RunDir(tmp_path):
        assert one.poll() is not None or time.monotonic() - begun > 0.2
    one.communicate()
    with worker(600.0) as other:
        monkeypatch.setattr(run_folder, "_LINGER_SECONDS", 0.1)
        with pytest.raises(RunInUseError, match="is in use by workers of a run that has ended"), RunDir(tmp_path):
            pass
        other.kill()


def test_a_store_that_two_processes_build_stays_that_of_the_first(tiny: Any, tmp_path: Path) -> None:
    run = tiny("ner")
    (run.folder / "run").mkdir()
    context = make_context(run.resolved().config, RunDir(run.folder / "run"), Watch())
    examples = list(context.data.sentences([run.folder / "de.txt"], "de"))
    options: dict[str, Any] = {"folder": tmp_path / "s", "task": "text", "max_length": 16}
    first = build_store(examples, context.tokenizer, **options)
    file = next(path for path in first.folder.iterdir() if path.suffix == ".npy")
    before = file.stat().st_ino
    second = build_store(examples, context.tokenizer, **options)
    assert (file.stat().st_ino, second.content_hash) == (before, first.content_hash)
    file.write_bytes(b"damaged")
    build_store(examples, context.tokenizer, **options)
    assert file.stat().st_ino != before
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []
