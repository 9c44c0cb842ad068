import json
import signal
import time
from pathlib import Path
from typing import Any

import pytest

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
        "--no-redirects --keep-disambiguation --no-first-letter --strip-qualifier --quiet --json "
        "--encoding latin-1"
    )
    answer = cli(*command(raw, *flags.split(), "--exclude", str(raw / "test.de.conll")))
    settings = json.loads(answer.out)["settings"]
    assert {name: settings[name] for name in ("source_language", "min_chars", "max_chars", "boundaries")} == {
        "source_language": "en",
        "min_chars": 5,
        "max_chars": 300,
        "boundaries": "words",
    }
    assert [settings[n] for n in ("split", "language_check", "target_aliases")] == [False] * 3
    assert settings["rules"] == {
        "redirects": False,
        "disambiguation": False,
        "first_letter": False,
        "strip_qualifier": True,
    }
    assert settings["exclude"] == [str(raw / "test.de.conll")]
    assert settings["encoding"] == "latin-1"


def test_errors(cli: Any, raw: Path) -> None:
    answer = cli("corpus", "--entities", raw / "train.conll", "--out", raw / "o.txt")
    assert answer.code == 2
    assert answer.err == (
        "error: no text to select from: give --text or --target-dump\n"
        "no way from entities to titles: give --titles, or --source-dump with --langlinks or --wikidata\n"
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
