"""Every file of a finished run is damaged, one at a time: the same command ends in the same bits, and says so.

`XLT_DAMAGE=all` damages every file in every way; by default one file of each kind is damaged in one, some in all.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest

from xlt_engine import DataError, ModelError, StorageError
from xlt_engine.engine import Predictor, evaluate_files, verify_run, write_report
from xlt_engine.engine.runs.stage_state import State, state
from xlt_engine.engine.storage.files import sha256_file, write_sealed_json
from xlt_engine.engine.storage.stage_files import write_decided

from ..conftest import Watch

ALL = os.environ.get("XLT_DAMAGE") == "all"
OPTIONS = () if ALL else ("selftrain.rounds=1", "arms.baseline=false")
DERIVED = ("run.json", "config.toml", "status.json", "summary.json", "report.html", "README.md")
"""Written again by every start, from what is verified."""
FOUR = ("stage.json", "model.safetensors", "scores.json", "decision.json")
LOG = ("events.jsonl", ".lock")
TIMES = ("seconds", "cpu_seconds", "warnings", "checksum")


def flip(path: Path) -> None:
    """One bit, at a place that depends on the file's name."""
    data = bytearray(path.read_bytes())
    place = crc32(str(path.name).encode()) % max(1, 8 * len(data))
    data[place // 8] ^= 1 << place % 8
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def zero(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


DAMAGES: tuple[Callable[[Path], None], ...] = (flip, cut, zero, Path.unlink)


def results(run: Path) -> dict[str, str]:
    """Everything a run has found out and what it is made from, by file, without times and warnings."""
    found = {}
    for path in sorted(p for part in ("seed-*", "store", "tokenizer") for p in run.glob(f"{part}/**/*") if p.is_file()):
        data = path.read_bytes()
        if path.name == "stage.json":
            record = {key: value for key, value in json.loads(data).items() if key not in TIMES}
            data = json.dumps(record, sort_keys=True).encode()
        found[str(path.relative_to(run))] = hashlib.sha256(data).hexdigest()
    summary = json.loads((run / "summary.json").read_bytes())
    rows = [{key: value for key, value in row.items() if key not in TIMES} for row in summary["rows"]]
    return found | {"summary.json": json.dumps(rows)}


def victims(run: Path) -> Iterator[tuple[Path, Callable[[Path], None]]]:
    """The files to damage, with the damage; by default one file of each name in each part of the run."""
    files = [p.relative_to(run) for p in sorted(run.rglob("*")) if p.is_file() and "models" not in p.parts]
    kinds = {(p.parts[0], p.name): p for p in files if ALL or p.suffix != ".svg"}
    for number, path in enumerate(files if ALL else kinds.values()):
        for damage in DAMAGES if ALL or path.name in FOUR else (DAMAGES[number % 4],):
            yield path, damage


@pytest.fixture(scope="module")
def run(tiny_once: Any) -> Any:
    """A finished run."""
    made = tiny_once("ner")
    made.run(*OPTIONS)
    made.run(*OPTIONS)
    return made


@pytest.mark.fault(20, 21, 22)
def test_nothing_is_silent(run: Any) -> None:
    home, verdicts = run.folder / "run", dict[str, str]()
    expected = results(home)
    for number, (path, damage) in enumerate(victims(home)):
        where = run.folder / f"damaged-{number}"
        shutil.copytree(home, where, symlinks=True)
        damage(where / path)
        name, heard = f"{path} {damage.__name__}", Watch()
        kept = path.name in (*DERIVED, *LOG) or path.suffix == ".svg"
        assert kept or verify_run(where).exit_code in (3, 4), name
        run.run(*OPTIONS, where=where.name, progress=heard)
        assert results(where) == expected, name
        named = [w for w in heard.warnings if path.name in w.message and "Look at the disk" in w.message]
        assert kept or named, f"{name}: silent"
        assert not verify_run(where).damaged, name
        verdicts[name] = "; ".join(w.message for w in named)
        shutil.rmtree(where)
    assert len(verdicts) > 40


def again(run: Any, where: str) -> tuple[tuple[str, ...], list[str]]:
    """The stages that the same command makes, and the names of its warnings."""
    heard = Watch()
    return run.run(*OPTIONS, where=where, progress=heard).done, [w.name for w in heard.warnings if "disk" in w.message]


def copied(run: Any, where: str) -> Path:
    shutil.copytree(run.folder / "run", run.folder / where, symlinks=True)
    return Path(run.folder / where)


@pytest.mark.fault(20, 21, 22)
def test_what_is_made_anew_and_what_stays(run: Any) -> None:
    """Lost weights cost their stage alone, lost scores no training; the warning stays in `stage.json`."""
    for name, made in (("model.safetensors", ("seed-0/de/btf",)), ("trace.json", ("seed-0/de/btf",))):
        home = copied(run, f"lost-{name}")
        (home / "seed-0/de/btf" / name).unlink()
        assert again(run, home.name) == (made, ["damaged"])
        record = json.loads((home / "seed-0/de/btf/stage.json").read_bytes())
        assert record["warnings"][0]["values"] == {"files": {name: "is missing"}}
        assert again(run, home.name) == ((), [])
    home = copied(run, "lost-scores")
    for name in ("scores.json", "items.safetensors"):
        (home / "seed-0/de/soft1" / name).unlink()
    assert again(run, home.name) == ((), ["damaged"])


def test_what_learned_from_other_weights_is_made_anew(run: Any) -> None:
    """As where a stage is made anew on a machine with other bits: what learned from it is no result of it any more."""
    home = copied(run, "other-bits")
    path = home / "seed-0/de/finetune"
    data, record = (path / "model.safetensors").read_bytes(), json.loads((path / "stage.json").read_bytes())
    (path / "model.safetensors").write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    record["hashes"]["model.safetensors"] = sha256_file(path / "model.safetensors")
    write_sealed_json(path / "stage.json", record)
    found = verify_run(home)
    assert [one.path for one in found.damaged] == ["seed-0/de/soft1/stage.json"]
    heard = Watch()
    done = run.run(*OPTIONS, where=home.name, progress=heard).done
    assert done[0] == "seed-0/de/soft1"
    assert [w.name for w in heard.warnings if w.name == "inputs-changed"]
    assert not verify_run(home).damaged


def test_models_that_are_not_what_the_stage_wrote_are_refused(run: Any) -> None:
    home = copied(run, "refused")
    folder = home / "seed-0/de/finetune"
    for name in ("model.safetensors", "tokenizer.json", "fingerprint.json", "xlt.json"):
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[:-2] + bytes([data[-2] ^ 1]) + data[-1:])
        for use in (lambda: Predictor(folder), lambda: evaluate_files(folder, [run.folder / "test-de.conll"])):
            with pytest.raises(ModelError, match=rf"{name} has changed since it was written; copy the folder again"):
                use()
        (folder / name).write_bytes(data)
    assert Predictor(folder).max_length == 16
    (folder / "scores.json").write_text('{"scores": []}', "utf-8")
    with pytest.raises(DataError, match=r"finetune/scores\.json has changed.*run the whole recipe again"):
        write_report(home)


def test_what_was_decided_is_a_part_of_the_state(tmp_path: Path) -> None:
    folder, stamp = tmp_path / "hard1", {"kind": "hard"}
    folder.mkdir()
    (folder / "fingerprint.json").write_text(json.dumps(stamp), "utf-8")
    write_decided(folder, "decision.json", {"alpha": 0.5}, b"data")
    assert state(tmp_path, "hard1", stamp) == State(finished=False)
    problems = {"decision.safetensors": "has changed since it was written", "decision.json": "is damaged"}
    for name, problem in problems.items():
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data + b" ")
        assert state(tmp_path, "hard1", stamp).damaged == {name: problem}
        (folder / name).write_bytes(data)
    assert state(tmp_path, "hard1", {"kind": "soft"}).damaged == {}  # what was begun goes as a whole


def test_a_run_of_before_stays_readable(run: Any) -> None:
    """Records without a hash of themselves, vocabularies without hashes, stages without those of their inputs."""
    home = copied(run, "before")
    for path in [*home.glob("seed-*/**/*.json"), home / "tokenizer" / "fingerprint.json"]:
        record = json.loads(path.read_bytes())
        for key in ("checksum", "inputs_sha256", "" if path.name == "stage.json" else "hashes"):
            record.pop(key, None)
        path.write_text(json.dumps(record), "utf-8")
    for path in home.glob("seed-*/**/stage.json"):
        record = json.loads(path.read_bytes())
        names = record["hashes"].keys() - {"fingerprint.json"}
        record["hashes"] = {name: sha256_file(path.parent / name) for name in names}
        path.write_text(json.dumps(record), "utf-8")
    assert not verify_run(home).damaged
    assert again(run, home.name) == ((), [])
    (home / "seed-0/de/hard1/fingerprint.json").write_text("{}", "utf-8")
    assert again(run, home.name) == ((), ["damaged"])


def test_links_are_not_followed(run: Any, tmp_path: Path) -> None:
    home, precious = copied(run, "links"), tmp_path / "precious"
    precious.write_text("mine", "utf-8")
    for name in (".lock", "events.jsonl"):
        (home / name).unlink()
        (home / name).symlink_to(precious)
        with pytest.raises(StorageError, match=f"{name}: .*symbolic link.*delete the link"):
            run.run(*OPTIONS, where=home.name)
        (home / name).unlink()
    stage = home / "seed-0/de/soft1"
    for name in ("stage.json", "tokenizer.json"):
        (stage / name).unlink()
    (stage / "tokenizer.json").symlink_to(precious)
    assert again(run, home.name)[0] == ("seed-0/de/soft1",)
    assert precious.read_text("utf-8") == "mine"
    assert not (stage / "tokenizer.json").is_symlink()


def test_a_run_may_be_at_work(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What vanishes between a look at a folder and one into it is no damage, and ends nothing."""
    home, vanished, scandir = copied(run, "at-work"), list[str](), os.scandir
    hidden, checkpoint = "seed-0/de/.trash-1/old", "seed-0/de/soft1/checkpoint"
    for name in (hidden, f"{checkpoint}/.trash-2", f"{checkpoint}/step-7", f"{checkpoint}/step-8"):
        (home / name).mkdir(parents=True)

    def vanishing(path: Any) -> Any:
        if not isinstance(path, int) and Path(path).name in (".trash-1", ".trash-2", "step-8"):
            vanished.append(Path(path).name)
            shutil.rmtree(path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", vanishing)
    assert [one.path for one in verify_run(home).damaged] == [f"{checkpoint}/step-7"]
    assert vanished == ["step-8"]
    (home / checkpoint / "step-8").mkdir()
    write_report(home)
    assert len((home / "report.html").read_text("utf-8")) > 10_000
