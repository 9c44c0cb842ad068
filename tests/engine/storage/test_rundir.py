"""The run folder: whole files, modes, full disks, the lock, status and events."""

import errno
import json
import math
import os
import resource
import signal
import socket
import stat
import subprocess
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from xlt_engine import ConfigError, DataError, RunInUseError, StorageError
from xlt_engine.engine.storage import faults, files
from xlt_engine.engine.storage import run_folder as rundir
from xlt_engine.engine.storage.run_folder import RunDir, environment, git_commit
from xlt_engine.engine.storage.text import clock, percent, size_text, some, time_text


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
@pytest.mark.fault(27)
def test_modes_follow_the_umask(tmp_path: Path, mask: int) -> None:
    old = os.umask(mask)
    try:
        files.atomic_write_text(tmp_path / "a.txt", "x")
        with files.new_folder(tmp_path / "f") as folder:
            (folder / "inner").mkdir()
            (folder / "inner" / "b").write_text("x")
            (folder / "inner" / "b").chmod(0o600)
        with RunDir(tmp_path / "run") as run:
            run.event("x")
    finally:
        os.umask(old)
    for path in ("a.txt", "f/inner/b", "run/events.jsonl", "run/.lock"):
        assert stat.S_IMODE((tmp_path / path).stat().st_mode) == 0o666 & ~mask


def test_a_file_is_old_or_new_whenever_the_writer_is_killed(tmp_path: Path, in_child: Callable[..., int]) -> None:
    path, seen, codes = tmp_path / "a.json", [], list[int]()
    while 0 not in codes:
        files.atomic_write_text(path, "old")
        codes.append(in_child(lambda: files.atomic_write_text(path, "new"), fault=f"file.*:{len(codes) + 1}:kill"))
        seen.append(path.read_text())
        files.sweep(tmp_path)
        assert os.listdir(tmp_path) == ["a.json"]
    assert (codes, set(seen)) == ([-signal.SIGKILL] * 4 + [0], {"old", "new"})


def test_a_folder_is_old_or_new_whenever_the_writer_is_killed(tmp_path: Path, in_child: Callable[..., int]) -> None:
    final, seen = tmp_path / "f", []

    def publish(text: str) -> None:
        with files.new_folder(final, replace=True) as folder:
            (folder / "x").write_text(text)

    for number in range(1, 20):
        publish("old")
        code = in_child(lambda: publish("new"), fault=f"*:{number}:kill")
        files.sweep(tmp_path)
        assert os.listdir(tmp_path) == ["f"]
        seen.append((final / "x").read_text())
        if code == 0:
            break
    assert seen == ["old", "old", "new", "new", "new", "new"]


@pytest.mark.parametrize("action", ["enospc", "eio", "raise"])
@pytest.mark.parametrize("number", [1, 2])
def test_a_failed_write_leaves_the_old_file_alone(tmp_path: Path, monkeypatch: Any, action: str, number: int) -> None:
    path = tmp_path / "a"
    files.atomic_write_text(path, "old")
    monkeypatch.setenv(faults.VARIABLE, f"file.*:{number}:{action}")
    pytest.raises(RuntimeError if action == "raise" else StorageError, files.atomic_write_text, path, "new").match("a")
    assert (os.listdir(tmp_path), path.read_text()) == (["a"], "old")


def test_messages_of_full_disks_say_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(faults.VARIABLE, "file.begin:1:enospc")
    with pytest.raises(
        StorageError, match=r"cannot write .*/a: No space left on device \(.* free, 3 bytes needed\); free"
    ) as e:
        files.atomic_write_bytes(tmp_path / "a", b"new")
    assert e.value.exit_code == 5
    advice = {"EDQUOT": "quota", "EFBIG": "ulimit", "EROFS": "read-only", "EIO": "system log", "ENOENT": "vanished"}
    advice |= {"EACCES": "writable", "ELOOP": "delete the link", "EISDIR": "can be written"}
    for name, words in advice.items():
        code = getattr(errno, name)
        assert words in str(files.storage_error(tmp_path, code, os.strerror(code)))
    with pytest.raises(StorageError, match=r"a store needs 1000000 TB in .*, but .* are free"):
        files.require_free_space(tmp_path / "not" / "yet", 10**18, "a store")
    files.require_free_space(tmp_path / "not" / "yet", 1, "a store")


@pytest.mark.fault(19)
def test_a_vanished_folder_is_a_storage_error_and_is_not_made_again(tmp_path: Path) -> None:
    with RunDir(tmp_path / "run") as run:
        for name in os.listdir(run.path):
            (run.path / name).unlink()
        run.path.rmdir()
        pytest.raises(StorageError, run.write_status, "running").match(r"run/status.json: No such file.*vanished")
        assert not run.path.exists()


def test_sweeping_leaves_everything_else(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for name in (".tmp-x", ".trash-y", "keep.tmp-z", f".old-{'0' * 32}-back", f".old-{'0' * 32}-there"):
        (tmp_path / "a" / name).mkdir()
        (tmp_path / "a" / name / "file").write_text(name)
    (tmp_path / "a" / "there").mkdir()
    (tmp_path / ".tmp-file").write_text("x")
    (tmp_path / ".tmp-link").symlink_to(tmp_path / "a" / "there")
    assert len(files.sweep(tmp_path)) == 6
    assert (sorted(os.listdir(tmp_path / "a")), os.listdir(tmp_path)) == (["back", "keep.tmp-z", "there"], ["a"])


def test_plain_values() -> None:
    import numpy as np

    value = {"a": (1, float("nan")), 2: Path("p"), "n": np.float32(0.5), "v": np.arange(2), "i": float("-inf")}
    assert files.plain(value) == {"a": [1, None], "2": "p", "n": 0.5, "v": [0, 1], "i": None}
    pytest.raises(TypeError, files.plain, object()).match("object has no JSON form")


def test_a_wrong_fault_plan_is_a_configuration_error(monkeypatch: pytest.MonkeyPatch) -> None:
    for plan in ("x", "x:0:kill", "x:1:explode", "x:one:kill"):
        monkeypatch.setenv(faults.VARIABLE, plan)
        pytest.raises(ConfigError, faults.fault, "anything").match("expected <point>")


def test_faults_count_passages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(faults.VARIABLE, "a.*:3:nan")
    assert [faults.fault(point) for point in ("a.x", "b.x", "a.y", "a.x", "a.x")] == [False, False, False, True, False]


@pytest.mark.fault(10)
def test_the_second_process_is_told_who_holds_the_folder(tmp_path: Path, in_child: Callable[..., int]) -> None:
    path = tmp_path / "run"

    def second() -> None:
        with pytest.raises(RunInUseError, match=rf"process {parent} on {socket.gethostname()}, started 20") as caught:
            RunDir(path).acquire()
        assert caught.value.exit_code == 6

    parent = os.getpid()
    with RunDir(path) as run:
        run.write_status("running")
        assert in_child(second) == 0
        pytest.raises(RunInUseError, RunDir(path / ".." / "run").acquire).match("in use by this process")
        assert in_child(second) == 0, "the failed attempts must not have dropped the lock"
    assert in_child(lambda: RunDir(path).acquire()) == 0
    with RunDir(path) as run:
        assert run.held
    assert not run.held


def test_a_killed_holder_leaves_no_lock_and_its_leftovers_are_swept(tmp_path: Path, in_child: Any) -> None:
    def work() -> None:
        run = RunDir(tmp_path)
        run.acquire()
        run.event("started")
        os.write(run._log or 0, b'{"kind": "half')
        (tmp_path / "seed-0").mkdir()
        (tmp_path / "seed-0" / ".tmp-btf").mkdir()
        os.kill(os.getpid(), signal.SIGKILL)

    assert in_child(work) == -signal.SIGKILL
    with RunDir(tmp_path) as run:
        assert os.listdir(tmp_path / "seed-0") == []
        run.event("again")
        assert [event["kind"] for event in run.events()] == ["started", "again"]


@pytest.mark.fault(11)
def test_a_file_system_without_locks_gets_an_owner_file(tmp_path: Path, monkeypatch: Any, in_child: Any) -> None:
    def no_locks(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    def second(expected: type[Exception] | None) -> int:
        def work() -> None:
            warnings.simplefilter("ignore")
            if expected is None:
                RunDir(tmp_path).acquire()
                return
            pytest.raises(expected, RunDir(tmp_path).acquire).match(f"process {owner['pid']} on {owner['host']}")

        return in_child(work)

    monkeypatch.setattr(rundir.fcntl, "lockf", no_locks)
    run = RunDir(tmp_path)
    with pytest.warns(RuntimeWarning, match="without locks"):
        run.acquire()
    owner = json.loads((tmp_path / ".owner").read_text())
    assert second(RunInUseError) == 0
    run.write_status("running")
    run.release()
    assert not (tmp_path / ".owner").exists()
    gone = subprocess.Popen(["true"])
    gone.wait()
    stale = [{"pid": gone.pid, "host": socket.gethostname()}, {"pid": 1, "host": "elsewhere", "heartbeat": 1.0}]
    for values in stale:
        (tmp_path / ".owner").write_text(json.dumps({**owner, **values}))
        assert second(None) == 0
    owner = {**owner, "host": "elsewhere"}
    (tmp_path / ".owner").write_text(json.dumps(owner))
    assert second(RunInUseError) == 0


def test_status_is_complete_and_readable(tmp_path: Path) -> None:
    def written(run: RunDir, state: str, **more: Any) -> dict[str, Any]:
        run.write_status(state, **more)
        return json.loads((tmp_path / "status.json").read_bytes())

    with RunDir(tmp_path) as run:
        going = {"state": "running", "exit_code": None, "stage": "seed-0/de/btf", "step": 3, "resumable": True}
        assert going.items() <= written(run, "running", stage="seed-0/de/btf", step=3).items()
        assert written(run, "done", exit_code=0)["resumable"] is False
        failed = {"exit_code": 7, "reason": "loss is nan", "pid": os.getpid()}
        assert failed.items() <= written(run, "failed", exit_code=7, reason="loss is nan").items()


def test_events_are_lines_of_json(tmp_path: Path) -> None:
    with RunDir(tmp_path) as run:
        run.event("step", loss=float("nan"), lr=0.5, names=("é", "\u2028"), where=tmp_path)
        run.event("end")
        pytest.raises(AssertionError, run.event, "step", time=3)
    lines = (tmp_path / "events.jsonl").read_bytes().split(b"\n")
    assert len(lines) == 3
    first, second = (json.loads(line) for line in lines[:2])
    assert (first["kind"], first["loss"], first["lr"], first["names"]) == ("step", None, 0.5, ["é", "\u2028"])
    assert second["monotonic"] >= first["monotonic"]
    assert abs(second["time"] - first["time"]) < 60


@pytest.mark.fault(16)
def test_a_full_disk_costs_the_log_one_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with RunDir(tmp_path) as run:
        run.event("a")
        monkeypatch.setenv(faults.VARIABLE, "event.write:1:enospc")
        with pytest.warns(RuntimeWarning, match="events.jsonl: No space left on device; the run goes on"):
            run.event("b")
        monkeypatch.setenv(faults.VARIABLE, "event.write:2:eio")
        run.event("c")
        run.event("d")
        assert (run.events_lost, [event["kind"] for event in run.events()]) == (2, ["a", "c"])


def test_half_an_event_is_taken_back(tmp_path: Path, in_child: Callable[..., int]) -> None:
    def work() -> None:
        with RunDir(tmp_path) as run:
            run.event("a")
            size = (tmp_path / "events.jsonl").stat().st_size
            limits = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, limits[1]))
            with pytest.warns(RuntimeWarning, match="the run goes on"):
                run.event("b")
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            run.event("c")
            assert run.events_lost == 1

    assert in_child(work) == 0
    assert [event["kind"] for event in RunDir(tmp_path).events()] == ["a", "c"]


def test_run_info_names_versions_and_machine(tmp_path: Path) -> None:
    with RunDir(tmp_path) as run:
        run.write_config("task = 'ner'\n")
        run.write_run_info(seeds=(0, 1), hashes={"train": "ab"}, git_folder=tmp_path, recipe="demo")
    info = json.loads((tmp_path / "run.json").read_text())
    assert set(info["versions"]) == {"xlt-engine", "torch", "tokenizers", "safetensors", "numpy", "python"}
    assert (info["seeds"], info["hashes"], info["recipe"], info["git"]) == ([0, 1], {"train": "ab"}, "demo", None)
    assert info["threads"] == environment()["threads"]
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists() and "model name" in cpuinfo.read_text():
        assert f"model name\t: {info['cpu']}" in map(str.rstrip, cpuinfo.read_text().splitlines())
    assert (tmp_path / "config.toml").read_text() == "task = 'ner'\n"
    assert git_commit(tmp_path) is None


def test_a_run_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match="cannot create .*file/run: Not a directory"):
        RunDir(tmp_path / "file" / "run").acquire()


def test_the_commit_is_read_without_git(tmp_path: Path) -> None:
    """A branch in a file, packed, or none; a further work tree. What the repository names as a program is not run."""
    commit, other = "0123456789abcdef0123456789abcdef01234567", "f" * 40
    git, marker = tmp_path / "tree" / ".git", tmp_path / "ran"
    (git / "refs" / "heads").mkdir(parents=True)
    (git / "config").write_text(f"[core]\n\tfsmonitor = touch {marker}; false\n")
    (git / "HEAD").write_text("ref: refs/heads/main\n")
    inner = tmp_path / "tree" / "a" / "b"
    inner.mkdir(parents=True)
    assert git_commit(inner) is None
    (git / "packed-refs").write_text(
        f"# pack-refs with: peeled\n{other} refs/heads/x\n{commit} refs/heads/main\n^{other}\n"
    )
    assert git_commit(inner) == commit
    (git / "refs" / "heads" / "main").write_text(f"{other}\n")
    assert git_commit(inner) == other
    (git / "HEAD").write_text(f"{commit}\n")
    assert git_commit(inner) == commit
    (git / "worktrees" / "w").mkdir(parents=True)
    (git / "worktrees" / "w" / "HEAD").write_text("ref: refs/heads/main\n")
    (git / "worktrees" / "w" / "commondir").write_text("../..\n")
    work = tmp_path / "work"
    work.mkdir()
    (work / ".git").write_text(f"gitdir: {git / 'worktrees' / 'w'}\n")
    assert git_commit(work) == other
    for head in ("ref: refs/../../secret", "ref: secret", "hello", ""):
        (git / "HEAD").write_text(head)
        assert git_commit(inner) is None
    assert not marker.exists()


def test_a_sealed_record_notices_every_changed_byte(tmp_path: Path) -> None:
    """Every bit of every byte, but for those that leave no JSON; a record of before is read as it is."""
    path = tmp_path / "record.json"
    files.write_sealed_json(path, {"alpha": 0.25, "größe": [1, None, "x"], "checksum": "old"})
    data = path.read_bytes()
    assert files.read_json(path)["alpha"] == 0.25
    for place in range(8 * len(data)):
        changed = bytearray(data)
        changed[place // 8] ^= 1 << place % 8
        path.write_bytes(changed)
        pytest.raises(DataError, files.read_json, path).match(r"record\.json:.*; run the stage again")
        assert files.read_json(path, None) == {}
    path.write_text(json.dumps({"alpha": 0.5}), "utf-8")
    assert files.read_json(path) == {"alpha": 0.5}


def test_sizes_and_times() -> None:
    sizes = [size_text(n) for n in (0, 999, 1500, 12_345_678, 10**15)]
    assert sizes == ["0 bytes", "999 bytes", "1.5 kB", "12.3 MB", "1000 TB"]
    assert [size_text(n, memory=True) for n in (3 * 2**20, 850 * 2**20, 3 * 2**29)] == ["3 MiB", "850 MiB", "1.5 GiB"]
    assert [time_text(x) for x in (3, 600, 36_000)] == ["3 s", "10 min", "10.0 h"]
    assert [clock(x) for x in (5.4, 65, 3723)] == ["0:05", "1:05", "1:02:03"]


def test_shares_and_lists() -> None:
    shares = [percent(x) for x in (0, 0.001, 0.5, 0.999, 1, None, math.nan)]
    assert shares == ["0 %", "0.1 %", "50 %", "99.9 %", "100 %", "-", "-"]
    assert (some("abc", 3), some("abcde", 3, "; ")) == ("a, b, c", "a; b; c and 2 more")
