from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any

import pytest

ENCODER = Path(__file__).resolve().parents[2] / "assets" / "mini-encoder"
PLACES = ["Paris", "London", "Berlin", "Oslo"]
FILES = ("de.control.txt", "de.report.json", "de.report.md", "de.txt")


@pytest.fixture
def raw(files: Path) -> Path:
    """German text in which one sentence in three names a place of the training set, and the table of titles."""
    text = [
        f"Im Jahr {i} besuchte der Minister {PLACES[i % 4] if i % 3 == 0 else 'eine kleine Stadt'} und sprach lange."
        for i in range(300)
    ]
    (files / "raw.de.txt").write_text("\n".join(text) + "\n", encoding="utf-8")
    (files / "titles.tsv").write_text("".join(f"{place}\t{place}\n" for place in PLACES), encoding="utf-8")
    return files


def command(raw: Path, *more: str) -> list[str | Path]:
    given = ("--entities", raw / "train.conll", "--titles", raw / "titles.tsv", "--text", raw / "raw.de.txt")
    return ["corpus", *given, "--language", "de", "--out", raw / "corpus" / "de.txt", *more]


def test_a_corpus_without_dumps(cli: Any, raw: Path) -> None:
    answer = cli(*command(raw, "--workers", "2"))
    assert answer.code == 0, answer
    assert "100 sentences in `de.txt` (de)" in answer.out
    assert "going" not in answer.err
    assert "9 entities, 4 with a title" in answer.err
    assert sorted(p.name for p in (raw / "corpus").iterdir()) == sorted(FILES)
    got = (raw / "corpus" / "de.txt").read_text("utf-8").splitlines()
    assert len(got) == 100
    assert all(any(place in line for place in PLACES) for line in got)
    control = (raw / "corpus" / "de.control.txt").read_text("utf-8").splitlines()
    assert len(control) == 100
    assert sum(any(place in line for place in PLACES) for line in control) < 60
    again = cli(*command(raw, "--quiet"))
    assert (again.code, again.err) == (0, "")
    assert again.out.startswith("the corpus is up to date\n")


def test_json(cli: Any, raw: Path) -> None:
    answer = cli(*command(raw, "--json", "--quiet", "--cap", "7", "--no-control", "--seed", "3"))
    values = json.loads(answer.out)
    assert values["selected"]["sentences"] == 7
    assert values["settings"]["seed"] == 3
    assert "control" not in values


def test_every_option_reaches_the_configuration(cli: Any, raw: Path) -> None:
    flags = (
        "--source-language en --min-chars 5 --max-chars 300 --no-split --no-language-check --boundaries words "
        "--inflection --no-redirects --keep-disambiguation --no-first-letter --strip-qualifier --quiet --json "
        "--encoding latin-1"
    )
    answer = cli(*command(raw, *flags.split(), "--exclude", str(raw / "test.de.conll")))
    settings = json.loads(answer.out)["settings"]
    rules = {"redirects": False, "max_redirects": 8, "disambiguation": False, "first_letter": False}
    expected = {"source_language": "en", "min_chars": 5, "max_chars": 300, "boundaries": "words", "inflection": True}
    expected |= {"split": False, "language_check": False, "target_aliases": False, "encoding": "latin-1"}
    expected |= {"exclude": [str(raw / "test.de.conll")], "rules": rules | {"strip_qualifier": True}}
    assert {name: settings[name] for name in expected} == expected


def test_selection_without_titles(cli: Any, raw: Path) -> None:
    given = ("--text", raw / "raw.de.txt", "--out", raw / "o.txt", "--language", "de", "--cap", "50", "--quiet")
    answer = cli("corpus", "--entities", raw / "train.conll", "--select", "overlap", *given)
    assert answer.code == 0, answer
    assert all(any(p in line for p in PLACES) for line in (raw / "o.txt").read_text("utf-8").splitlines())
    task = raw / "task.txt"
    task.write_text("eine kleine Stadt\n", encoding="utf-8")
    answer = cli("corpus", "--select", "tfidf", "--task-text", task, *given)
    assert answer.code == 0, answer
    assert sum("kleine Stadt" in line for line in (raw / "o.txt").read_text("utf-8").splitlines()) == 50


def test_errors(cli: Any, raw: Path) -> None:
    answer = cli("corpus", "--entities", raw / "train.conll", "--out", raw / "o.txt")
    assert answer.code == 2
    assert answer.err == (
        "error: no text to select from: give --text or --target-dump\n"
        "no way from entities to titles: give --titles, or --source-dump with --langlinks or --wikidata; "
        "or select without titles, by --select overlap or tfidf\n"
        "no file name says the language of the text; give --language\n"
    )
    answer = cli("corpus", "--text", raw / "raw.de.txt")
    assert answer.code == 2
    assert "--out" in answer.err
    (raw / "titles.tsv").write_text("Paris\n", encoding="utf-8")
    answer = cli(*command(raw))
    assert answer.code == 3
    assert "titles.tsv:1: 1 columns; write the source title, a tab and the target title" in answer.err


def test_killed_from_outside_and_given_again(process: Any, cli: Any, raw: Path) -> None:
    """SIGTERM to the command while two workers are at it: code 143, and the same command ends the work."""
    text = (raw / "raw.de.txt").read_text("utf-8")
    (raw / "raw.de.txt").write_text(text * 1200, encoding="utf-8")
    started = process(*command(raw, "--workers", "2"))
    work = raw / "corpus" / ".de.txt.work"
    while not list(work.glob("piece-*.bin")) and started.poll() is None:
        time.sleep(0.05)
    started.send_signal(signal.SIGTERM)
    out, err = started.communicate(timeout=600)
    assert started.returncode == 143, err
    assert "stopped by signal 15; the same command goes on from here" in err
    assert list(work.glob("piece-*.bin"))
    assert cli(*command(raw, "--quiet")).code == 0
    assert len((raw / "corpus" / "de.txt").read_text("utf-8").splitlines()) == 100
    assert not work.exists()


def test_corpus_and_control_in_one_run(cli: Any, raw: Path) -> None:
    """The paper's MBERT-wiki row beside the method's."""
    assert cli(*command(raw, "--quiet", "--cap", "12")).code == 0
    corpus = raw / "corpus"
    lines = [
        f'targets.0.unlabelled=["{corpus / "de.txt"}"]',
        f'targets.0.control=["{corpus / "de.control.txt"}"]',
        f'source.control=["{raw / "general.en.txt"}"]',
        "arms.control=true",
    ]
    sets = [part for line in lines for part in ("--set", line)]
    answer = cli("run", raw / "tiny.toml", "--stage", "finetune", *sets, "--run-dir", corpus / "run", "--quiet")
    assert answer.code == 0, answer
    rows = json.loads((corpus / "run" / "summary.json").read_text("utf-8"))["rows"]
    assert {"btf", "control"} <= {row["stage"] for row in rows if row["language"] == "de"}
    head, tail = (raw / "tiny.toml").read_text("utf-8").split("[model.new]")
    given = f'{head}[model]\npath = "{ENCODER}"\n[source]{tail.partition("[source]")[2]}'
    (raw / "none.toml").write_text("\n".join(x for x in given.split("\n") if not x.startswith("general")), "utf-8")
    answer = cli("run", raw / "none.toml", "--set", "arms.control=true", "--run-dir", corpus / "no")
    assert answer.code == 2
    assert "no general text for en, de; give control or general" in answer.err
