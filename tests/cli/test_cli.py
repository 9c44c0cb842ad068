import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from xlt_engine import __version__

COMMANDS = ("run", "init", "check", "predict", "evaluate", "report", "info", "env", "bench", "corpus", "ablate")
COMMANDS += ("thresholds", "why", "verify", "probe", "extend-vocabulary", "export", "tables")
SENTENCE = b"Anna lives in Paris\n"


def weights(folder: Path) -> dict[str, str]:
    """Hash of the weights, decisions and scores of every stage."""
    kept = ("model.safetensors", "decision.safetensors", "scores.json")
    paths = sorted(p for p in folder.glob("seed-*/**/*") if p.name in kept)
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in paths}


def assert_error(answer: Any, code: int, *parts: str) -> None:
    assert answer.code == code, answer
    assert answer.err.startswith("error: ")
    assert answer.err.count("\n") == 1, "an error is one line"
    assert "Traceback" not in answer.err
    for part in parts:
        assert part in answer.err


def test_help_of_every_command_loads_no_torch() -> None:
    program = """
import sys
from xlt_engine.cli import main
for command in [[], *([c] for c in sys.argv[1:])]:
    try:
        main([*command, "--help"])
    except SystemExit as end:
        assert end.code == 0, command
heavy = [m for m in ("torch", "numpy", "tokenizers", "safetensors") if m in sys.modules]
light = ("xlt_engine", "xlt_engine.cli", "xlt_engine.untrusted", "xlt_engine.engine", "xlt_engine.engine.commands")
heavy += [m for m in sys.modules if m.startswith("xlt_engine") and m not in light and not m.startswith(light[-1])]
assert not heavy, heavy
"""
    command = [sys.executable, "-c", program, *COMMANDS]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Usage: ") == 1 + len(COMMANDS)


def test_the_list_of_commands_is_complete(cli: Any) -> None:
    answer = cli()
    assert answer.code == 2
    listed = answer.err.split("Commands:")[1].split("\n")
    assert tuple(sorted(line.split()[0] for line in listed if line.strip())) == tuple(sorted(COMMANDS))
    assert cli("--version").out == f"xlt-engine, version {__version__}\n"


def test_a_closed_pipe_is_no_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    program = "from xlt_engine.cli import main; main(['run', '--help'])"
    done = subprocess.run(
        [sys.executable, "-c", program], stdout=writer, stderr=subprocess.PIPE, text=True, timeout=60, check=False
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


def test_usage_errors(cli: Any, files: Path) -> None:
    assert_error(cli("run", "--seeds", "a"), 2, "whole numbers", "xlt-engine run --help")
    assert_error(cli("run", "--seeds", "0,-1"), 2, "whole numbers")
    assert_error(cli("run", "demo", "--set", "seeds=[-1]"), 2, "seeds.0: -1 given, expected at least 0")
    assert_error(cli("walk"), 2, "walk")
    assert_error(cli("run", "--stage", "dance"), 2, "dance")
    assert_error(cli("evaluate", files), 2, "DATA")
    assert_error(cli("predict", files, files / "de.txt", "--alpha", "2"), 2, "alpha")


def test_run_prints_table_and_report(finished: Any) -> None:
    answer = finished.answer
    assert answer.code == 0, answer.err
    *table, report, _, model, why, command = answer.out.rstrip("\n").split("\n")
    assert report == f"report: {finished.folder / 'report.html'}"
    assert model.startswith(f"model for de: {finished.folder / 'seed-0/de'}")
    assert why.startswith("  ")
    assert command == f"  xlt-engine predict {finished.folder / 'models/de'} new.txt"
    assert (finished.folder / "report.html").stat().st_size > 1000
    text = "\n".join(table)
    assert "soft 1" in text
    assert "hard 1" in text
    assert "seed-0/de/btf: " in answer.err
    status = json.loads((finished.folder / "status.json").read_text())
    assert (status["state"], status["exit_code"], status["resumable"]) == ("done", 0, False)


def test_a_second_run_has_nothing_to_do(cli: Any, finished: Any) -> None:
    before = weights(finished.folder)
    arguments = ("run", finished.files / "tiny.toml", "--run-dir", finished.folder, "--quiet")
    answer = cli(*arguments)
    assert answer.code == 0
    assert answer.out.startswith("all 5 stages are up to date\n")
    assert answer.err == ""
    summary = json.loads(cli(*arguments, "--json").out)
    assert summary["rows"]
    assert weights(finished.folder) == before


def test_report_is_made_again(cli: Any, finished: Any) -> None:
    (finished.folder / "report.html").unlink()
    (finished.folder / "summary.json").unlink()
    answer = cli("report", finished.folder)
    assert answer.code == 0
    assert answer.out.split("\n\n")[0] in finished.answer.out
    assert (finished.folder / "report.html").exists()
    assert (finished.folder / "summary.json").exists()
    assert "<mark" in (finished.folder / "report.html").read_text("utf-8")
    assert cli("report", finished.folder, "--no-sentences").code == 0
    assert "<mark" not in (finished.folder / "report.html").read_text("utf-8")
    assert not (finished.folder / "sentences.json").exists()
    assert_error(cli("report", finished.files), 3, "not a run folder")


def test_overrides_seeds_and_stages(cli: Any, finished: Any, tmp_path: Path) -> None:
    recipe = finished.files / "tiny.toml"
    answer = cli(
        *("run", recipe, "--run-dir", tmp_path, "--stage", "btf", "--seeds", "3,4", "--quiet"),
        *("--set", "btf.batch_size=10", "--precision", "bf16"),
    )
    assert answer.code == 0, answer.err
    assert sorted(p.parent.parent.parent.name for p in tmp_path.glob("*/de/*/stage.json")) == ["seed-3", "seed-4"]
    assert not list(tmp_path.glob("*/de/finetune"))
    config = (tmp_path / "config.toml").read_text()
    assert "batch_size = 10  # --set" in config
    assert 'precision = "bf16"' in config


def test_dry_run_trains_nothing(cli: Any, finished: Any, tmp_path: Path) -> None:
    arguments = ("run", finished.files / "tiny.toml", "--run-dir", tmp_path / "run", "--dry-run")
    answer = cli(*arguments)
    assert answer.code == 0, answer.err
    assert "hard1" in answer.out
    plan, of_target = (
        [s["id"] for s in json.loads(cli(*arguments, "--json", *more).out)["stages"]]
        for more in ((), ("--target", "de"))
    )
    assert plan == of_target
    assert set(plan) > {"seed-0/pretrain", "seed-0/de/hard1"}
    assert not (tmp_path / "run").exists()
    for command in (arguments, arguments[:-1], ("check", arguments[1])):
        answer = cli(*command, "--target", "fr")
        assert answer.code == 2
        assert "no target 'fr'; its targets are de" in answer.out + answer.err


def test_init_check_run(cli: Any, files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(files)
    arguments = ("init", "--source", "train.conll", "--unlabelled", "de.txt", "--test", "test.de.conll")
    answer = cli(*arguments)
    assert answer.code == 0, answer.err
    assert "wrote xlt.toml" in answer.out
    assert_error(cli(*arguments), 2, "--force")
    assert cli(*arguments, "--force").code == 0
    checked = cli("check", "--json")
    assert (checked.code, json.loads(checked.out)["ok"]) == (0, True), checked


def test_check_reports_errors(cli: Any, files: Path) -> None:
    recipe = files / "tiny.toml"
    recipe.write_text(recipe.read_text().replace("epochs = 15", "epoch = 15").replace('"test.de.conll"', '"no.conll"'))
    answer = cli("check", recipe)
    assert answer.code == 2
    text = answer.out + answer.err
    assert "epochs" in text
    assert f"{recipe}:" in text
    assert "Traceback" not in text


def test_wrong_recipes(cli: Any, files: Path, tmp_path: Path) -> None:
    assert_error(cli("run", tmp_path / "none.toml"), 2, "none.toml")
    recipe = files / "tiny.toml"
    assert_error(cli("run", recipe, "--run-dir", tmp_path / "run", "--set", "btf.epoch=1"), 2, "epochs")
    (files / "train.conll").write_text("Anna B-PER\nlives\n")
    assert_error(cli("run", recipe, "--run-dir", tmp_path / "run", "--quiet"), 3, "train.conll:2")
    status = json.loads((tmp_path / "run" / "status.json").read_text())
    assert (status["state"], status["exit_code"]) == ("failed", 3)
    assert "train.conll:2" in status["reason"]


def test_a_run_folder_in_use(cli: Any, finished: Any) -> None:
    from xlt_engine.engine.storage.run_folder import RunDir

    with RunDir(finished.folder):
        answer = cli("run", finished.files / "tiny.toml", "--run-dir", finished.folder, "--quiet")
    assert_error(answer, 6, "in use")


def test_predict(cli: Any, finished: Any, tmp_path: Path) -> None:
    answer = cli("predict", finished.model, data=SENTENCE)
    assert (answer.code, answer.err) == (0, "")
    rows = [line.split("\t") for line in answer.out.splitlines()]
    assert [row[0] for row in rows] == [*SENTENCE.decode().split(), ""]
    assert all(0 <= float(row[1]) <= 1 for row in rows[:-1])
    value = json.loads(cli("predict", finished.model, "-", "--json", data=SENTENCE).out)
    assert value["tags"] == [row[2] for row in rows[:-1]]
    (entities,) = cli("predict", finished.model, "-", "--entities", data=SENTENCE).out.splitlines()
    for entity in json.loads(entities)["entities"]:
        assert SENTENCE.decode()[entity["start"] : entity["end"]] == entity["text"]

    source, out = finished.files / "test.de.conll", tmp_path / "out.conll"
    assert cli("predict", finished.model, source, "--out", out).code == 0
    given, found = source.read_text().split("\n"), out.read_text().split("\n")
    assert [" ".join(line.split(" ")[:2]) for line in found] == given


def test_predict_abstains_with_the_alpha_of_the_stage(cli: Any, finished: Any) -> None:
    stored = cli("predict", finished.model, "--abstain", data=SENTENCE)
    assert stored.code == 0
    assert "alpha 0.2 (from stage.json)" in stored.err
    never = cli("predict", finished.model, "--abstain", "--alpha", "1", data=SENTENCE)
    assert [line.split("\t")[2] for line in never.out.splitlines() if line] == ["_"] * 4


def test_predict_takes_the_model_of_a_run(cli: Any, finished: Any) -> None:
    answer = cli("predict", finished.folder, "--language", "de", data=SENTENCE)
    assert answer.err == f"model for de: {finished.model}\n"
    assert answer.out == cli("predict", finished.model, data=SENTENCE).out
    assert cli("predict", finished.folder, "--language", "de", "--quiet", data=SENTENCE).err == ""
    assert_error(cli("predict", finished.folder, data=SENTENCE), 2, "de (seed-0/de/hard1)")
    assert_error(cli("predict", finished.folder, "--language", "xx", data=SENTENCE), 2, "de (seed-0/de/hard1)")
    assert_error(cli("predict", finished.model, "--language", "de", data=SENTENCE), 2, "not the folder of a run")


@pytest.mark.parametrize("form", ["conll", "jsonl"])
def test_evaluate_reads_what_predict_writes(cli: Any, finished: Any, tmp_path: Path, form: str) -> None:
    out = tmp_path / f"out.{form}"
    assert cli("predict", finished.model, finished.files / "de.txt", "--format", form, "--out", out).code == 0
    found = json.loads(cli("evaluate", finished.model, out, "--json").out)
    assert found["scores"][0]["metrics"]["entity_f1"] == 100


def test_predict_errors(cli: Any, finished: Any, tmp_path: Path) -> None:
    assert_error(cli("predict", tmp_path / "none", data=SENTENCE), 4, "none")
    assert_error(cli("predict", finished.folder / "seed-0" / "de" / "btf", data=SENTENCE), 4, "fine-tune it first")
    assert_error(cli("predict", finished.model, data=b"Anna O\nParis O\n\xff O\n"), 3, "<stdin>:3:1")
    assert_error(cli("predict", finished.model, data=b""), 3, "<stdin>")
    assert_error(cli("predict", finished.model, "--out", tmp_path / "no" / "out", data=SENTENCE), 5, "out")
    assert_error(cli("predict", finished.model, "--alpha", "0.5", data=SENTENCE), 2, "abstain")
    assert_error(cli("predict", finished.model, "--input-format", "tsv", data=b"text\na\n"), 2, "tsv")
    assert_error(cli("predict", finished.model, "--encoding", "klingon", finished.files / "de.txt"), 2, "klingon")


def test_errors_name_the_options_of_the_command(cli: Any, finished: Any, tmp_path: Path) -> None:
    """Where a command has one; a key of a recipe is for those who have a recipe."""
    model, out = finished.folder / "seed-0/de/hard1", tmp_path / "no" / "y"
    path = tmp_path / "a.jsonl"
    path.write_text('{"tokens": ["Anna"], "ner_tags": ["O"]}\n')
    fix = "perhaps --words-column tokens)"
    assert_error(cli("evaluate", model, path), 3, fix)
    path.write_text('{"words": ["Anna"], "ner tags": ["O"]}\n')
    assert_error(cli("evaluate", model, path), 3, "perhaps --tags-column 'ner tags')")
    path.write_bytes('{"words": ["Jürg"], "tags": ["O"]}\n'.encode("latin-1"))
    assert_error(cli("evaluate", model, path), 3, "it looks like latin-1: set --encoding latin-1, or convert")
    spans = tmp_path / "b.json"
    spans.write_text('[{"text": "Anna", "spans": [[0, 2, "PER"]]}]')
    assert_error(cli("evaluate", model, spans), 3, "set --cut-spans expand ('Anna') or --cut-spans drop")
    assert_error(
        cli("predict", model, path, "--out", out), 5, f"cannot write {out}: there is no folder {out.parent}; make"
    )


def test_evaluate_gives_the_scores_of_the_run(cli: Any, finished: Any) -> None:
    files = [finished.files / "test.en.conll", finished.files / "test.de.conll"]
    arguments = ("evaluate", finished.model, *files, "--language", "en", "--language", "de")
    found = json.loads(cli(*arguments, "--json").out)
    expected = json.loads((finished.model / "scores.json").read_text())["scores"]
    for score in found["scores"]:
        assert score["metrics"] == {r["metric"]: r["value"] for r in expected if r["language"] == score["name"]}
    assert found["scores"][0]["metrics"]["entity_f1"] > 0
    assert "transfer gap" in cli(*arguments).out
    assert_error(cli(*arguments[:-2]), 2, "2 files but 1 languages")
    assert_error(cli("evaluate", finished.model, finished.files / "de.txt"), 3, "without labels")


def test_info_and_env(cli: Any, finished: Any) -> None:
    value = json.loads(cli("info", finished.model, "--json").out)
    assert (value["stage"], value["pair"], value["voters"], value["alpha"]) == ("seed-0/de/hard1", "de", 3, 0.2)
    lines = cli("info", finished.model).out.splitlines()
    assert "labels: O, B-LOC, I-LOC, B-PER, I-PER" in lines
    assert "marks: -" in lines
    assert {"layout: bert", "problems: -", "files:", "special_tokens:"} <= set(lines)
    assert_error(cli("info", finished.files), 4, "config.json")
    assert_error(cli("info", finished.folder), 2, "de (seed-0/de/hard1)")
    assert json.loads(cli("env", "--json").out)["xlt-engine"] == __version__
    assert f"xlt-engine: {__version__}" in cli("env").out.splitlines()


@pytest.mark.parametrize(("number", "step"), [(signal.SIGINT, 2), (signal.SIGTERM, 80)])
@pytest.mark.fault(4)
def test_a_signal_stops_a_run_that_then_goes_on(
    cli: Any, finished: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, step: int
) -> None:
    from xlt_engine.engine import Progress

    seen = []

    def count(self: Progress, done: int, total: int, loss: float, tokens: int, lr: float) -> None:
        seen.append(done)
        if len(seen) == step:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(Progress, "step", count)
    arguments = ("run", finished.files / "tiny.toml", "--run-dir", tmp_path, "--quiet")
    assert_error(cli(*arguments), 128 + number, f"stopped by signal {int(number)}")
    assert len(seen) == step
    status = json.loads((tmp_path / "status.json").read_text())
    assert (status["state"], status["exit_code"], status["resumable"]) == ("stopped", 128 + number, True)
    assert status["stage"].startswith("seed-0/")
    assert cli(*arguments).code == 0
    assert weights(tmp_path) == weights(finished.folder)


def test_a_signal_ends_other_commands_at_once(cli: Any, finished: Any, tmp_path: Path, monkeypatch: Any) -> None:
    from xlt_engine.engine import Predictor

    def interrupted(self: Predictor, sentences: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Predictor, "tag", interrupted)
    answer = cli("predict", finished.model, finished.files / "de.txt", "--out", tmp_path / "out")
    assert (answer.code, answer.out, answer.err) == (130, "", "")
    assert [path.name for path in tmp_path.iterdir()] == [".out.part"]  # which the same command goes on with


def test_a_bug_says_so(cli: Any, finished: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import xlt_engine.engine as engine

    def broken(folder: Path) -> None:
        raise KeyError("x")

    monkeypatch.setattr(engine, "describe_model", broken)
    answer = cli("info", finished.model)
    assert answer.code == 1
    assert "Traceback" in answer.err
    assert answer.err.splitlines()[-1].startswith("error: this is a bug")
