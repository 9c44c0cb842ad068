"""Planted errors, all found in one pass with their places; warnings about data; nothing written, nothing trained."""

import json
import re
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from xlt_engine import DataError, ModelError
from xlt_engine.data import Example, train_wordpiece
from xlt_engine.engine import load_recipe
from xlt_engine.engine.prediction.scoring import _check_labels
from xlt_engine.engine.preflight.check_data import (
    coverage,
    label_faults,
    label_warnings,
    leak_warnings,
    read_all,
    repeat_warnings,
)
from xlt_engine.engine.preflight.checker import CheckReport, check
from xlt_engine.engine.preflight.init_files import sniff
from xlt_engine.engine.recipe.config.files import recipe_files
from xlt_engine.model import Encoder, EncoderConfig, MaskedLM, save_model

RECIPE = """\
task = "ner"
max_length = 16

[model.new]
vocab_size = 150
hidden_size = 24
num_layers = 2
num_heads = 2
intermediate_size = 40

[source]
language = "en"
train = "en.conll"
general = ["en.conll"]

[[targets]]
language = "de"
unlabelled = ["de.txt"]
test = "de.conll"
general = ["de.txt"]

[pretrain]
epochs = 40

[training]
freeze_layers = 0

[finetune]
lr = 1e-2

[selftrain.soft]
lr = 1e-2

[selftrain.hard]
lr = 1e-2
"""
PEOPLE = ("Ann", "Bob", "Cid", "Dan", "Eve", "Flo", "Gil", "Hal")
PLACES = ("Oslo", "Bonn", "Rome", "Graz", "Lund")


def conll(verb: str, start: int, count: int) -> str:
    """Sentences of five words, a blank line after each: sentence n starts on line 6 (n - start) + 1."""
    found = []
    for i in range(start, start + count):
        rows = [(PEOPLE[i % 8], "B-PER"), (verb, "O"), (PLACES[i % 5], "B-LOC"), (f"no{i}", "O"), (".", "O")]
        found.append("".join(f"{word}\t{tag}\n" for word, tag in rows) + "\n")
    return "".join(found)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A recipe and data without faults."""
    (tmp_path / "xlt.toml").write_text(RECIPE, "utf-8")
    (tmp_path / "en.conll").write_text(conll("sees", 0, 40), "utf-8")
    (tmp_path / "de.conll").write_text(conll("sieht", 100, 20), "utf-8")
    (tmp_path / "de.txt").write_text("".join(f"{PEOPLE[i % 8]} sieht Haus{i} .\n" for i in range(50)), "utf-8")
    return tmp_path


def look(folder: Path, *overrides: str) -> CheckReport:
    return check(folder / "xlt.toml", overrides, rate=1e10)


def names(report: CheckReport) -> list[str]:
    return [warning.name for warning in report.warnings]


def edit(file: Path, line: int, new: str | bytes) -> None:
    """Replaces a line, from 1."""
    lines = file.read_bytes().split(b"\n")
    lines[line - 1] = new if isinstance(new, bytes) else new.encode()
    file.write_bytes(b"\n".join(lines))


def with_model(folder: Path, texts: list[str], size: int, make: Any = MaskedLM, rows: int | None = None) -> None:
    """The recipe begins with a model folder: a new encoder, with a tokenizer of the texts."""
    tokenizer, model = train_wordpiece(texts, size), folder / "model"
    model.mkdir()
    save_model(make(Encoder(EncoderConfig(rows or tokenizer.vocab_size, 24, 2, 2, 40, 24))), model)
    tokenizer.save(model)
    start, end = RECIPE.index("[model.new]"), RECIPE.index("[source]")
    (folder / "xlt.toml").write_text(RECIPE[:start] + '[model]\npath = "model"\n' + RECIPE[end:], "utf-8")


def test_a_sound_recipe_has_no_problems(folder: Path) -> None:
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    report = look(folder)
    assert (report.ok, report.exit_code, report.problems, report.warnings) == (True, 0, [], [])
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    found = [(f.role, f.language, f.examples) for f in report.files]
    german = [("test", "de", 20), ("unlabelled", "de", 50), ("general", "de", 50)]
    assert found == [("train", "en", 40), ("general", "en", 40), *german]
    assert (report.files[0].labels, len(report.estimate.stages)) == ({"LOC": 40, "PER": 40}, 8)
    text = report.render()
    assert "no errors, 0 warnings" in text
    assert "seed-0/de/soft1" in text
    assert json.loads(json.dumps(report.as_dict()))["ok"] is True


def test_ten_planted_errors_in_one_pass(folder: Path) -> None:
    recipe = folder / "xlt.toml"
    text = RECIPE.replace("epochs = 40", "epoch = 40")  # 1: unknown key
    text = text.replace("[finetune]\nlr = 1e-2", '[finetune]\nlr = "high"')  # 2: wrong type
    text = text.replace("[selftrain.soft]\nlr = 1e-2", "[selftrain.soft]\nlr = -1e-2")  # 3: out of range
    text = text.replace("freeze_layers = 0", "freeze_layers = 5")  # 4: more than the encoder has
    text = text.replace("max_length = 16", "max_length = 4")  # 5: out of range
    text = text.replace('language = "en"', 'language = "en"\ntest = "gone.conll"')  # 6: no such file
    text += '\n[[targets]]\nlanguage = "fr"\nunlabelled = ["fr.txt"]\ntest = "fr.conll"\ngeneral = ["fr.conll"]\n'
    recipe.write_text(text, "utf-8")
    edit(folder / "de.txt", 7, b"Eve sieht M\xfcnchen .")  # 7: not UTF-8
    edit(folder / "de.conll", 9, "Bonn\tB-CITY")  # 8: a label that the training file does not have
    (folder / "fr.txt").write_text("\n \n\n", "utf-8")  # 9: an empty language
    (folder / "fr.conll").write_text(conll("voit", 200, 9), "utf-8")
    edit(folder / "fr.conll", 14, "voit")  # 10: a column is missing
    edit(folder / "fr.conll", 21, "Rome\tS-LOC")  # 11: not a BIO tag
    report = look(folder)
    lines = text.split("\n")

    def at(start: str) -> str:
        return f"{recipe}:{next(i for i, line in enumerate(lines, 1) if line.startswith(start))}"

    expected = {
        (at("epoch = "), "epochs"),
        (at('lr = "high"'), "expected a number"),
        (at("lr = -1e-2"), "greater than 0"),
        (at("freeze_layers = 5"), "2 layers"),
        (at("max_length"), "at least 8"),
        (at('test = "gone.conll"'), "no such file"),
        (f"{folder / 'de.txt'}:7:12", "not utf-8; it looks like latin-1: set targets.0.reader.unlabelled_encoding"),
        (f"{folder / 'de.conll'}:9", "'B-CITY' (1 times) is not among the labels"),
        (at('unlabelled = ["fr.txt"]'), "no examples"),
        (f"{folder / 'fr.conll'}:14", "1 columns"),
        (f"{folder / 'fr.conll'}:21", "unknown tag 'S-LOC'"),
    }
    for where, what in expected:
        assert [p for p in report.problems if p.where == where and what in p.message], (where, what)
    assert {p.where for p in report.problems} == {where for where, _ in expected}
    assert (len(report.problems), report.ok, report.exit_code, report.estimate) == (11, False, 2, None)
    assert "11 errors:" in report.render()
    assert all(re.search(r":\d+$", p.where) for p in report.problems)
    # What can be looked at is looked at in spite of the errors.
    assert report.files[0].examples == 40
    assert {row.language for row in report.coverage} >= {"en"}


def test_exit_codes_by_kind(folder: Path) -> None:
    edit(folder / "de.conll", 9, "Bonn B-LOC x")
    assert (look(folder).exit_code, look(folder, "model.new.num_heads=5").exit_code) == (3, 2)
    assert look(folder, "btf.lr=0").exit_code == 2


def test_recipes_that_cannot_be_read(folder: Path) -> None:
    (folder / "xlt.toml").write_text("task = \n", "utf-8")
    report = look(folder)
    assert [(p.where, p.code) for p in report.problems] == [(f"{folder / 'xlt.toml'}:1", 2)]
    assert "not looked at" in report.render()
    assert check(folder / "none.toml").exit_code == 2
    (folder / "xlt.toml").write_text('task = "parsing"\n', "utf-8")
    assert {p.code for p in look(folder).problems} == {2}


def test_options_are_named_as_the_place(folder: Path) -> None:
    report = look(folder, "source.test=gone.conll", "training.freeze_layers=9")
    assert {p.where for p in report.problems} == {"--set source.test=gone.conll", "--set training.freeze_layers=9"}


def test_general_text_that_is_missing(folder: Path) -> None:
    (folder / "xlt.toml").write_text(RECIPE.replace('general = ["de.txt"]\n', ""), "utf-8")
    report = look(folder)
    assert ["targets.0.general: is missing for de" in p.message for p in report.problems] == [True]
    (folder / "xlt.toml").write_text(RECIPE.replace('general = ["de.txt"]', 'general = "de.txt"'), "utf-8")
    assert ["targets.0.general" in p.message for p in look(folder).problems] == [True]


@pytest.mark.fault(39)
def test_test_text_in_training_is_reported_with_lines(folder: Path) -> None:
    # Sentence 5 of the file, on line 31, is "Bob sieht Oslo no105 ."; spaces do not count.
    (folder / "de.txt").write_text("Eve sieht Haus.\nx y z .\nBob sieht Oslo  no105.\n", "utf-8")
    report = look(folder)
    leaks = [w for w in report.warnings if w.name == "test-text-in-training"]
    assert [(w.values["count"], w.values["total"], w.values["lines"]) for w in leaks] == [(1, 20, [[31, 3]])]
    assert leaks[0].message.startswith(f"{folder / 'de.conll'}:31: 1 of 20")
    assert report.ok


def test_repeated_text_and_unseen_labels(folder: Path) -> None:
    (folder / "de.txt").write_text("Eve sieht Haus .\nFlo sieht Haus .\n" * 10, "utf-8")
    report = look(folder, 'labels=["O", "B-PER", "I-PER", "B-LOC", "I-LOC", "B-ORG", "I-ORG"]')
    assert "repeated-text" in names(report)
    assert [w.values["labels"] for w in report.warnings if w.name == "unseen-label"] == [["B-ORG", "I-ORG"]]
    assert report.ok
    assert any("has no O" in str(p) for p in look(folder, 'labels=["B-PER", "B-LOC"]').problems)


def test_contradicting_labels_of_a_classification(folder: Path) -> None:
    rows = [f"{'good' if i % 2 else 'bad'}\tword{i} text\n" for i in range(30)] + ["good\tword4 text\n"]
    (folder / "en.tsv").write_text("label\ttext\n" + "".join(rows), "utf-8")
    text = RECIPE.replace('"ner"', '"classification"').replace("en.conll", "en.tsv").replace('test = "de.conll"\n', "")
    (folder / "xlt.toml").write_text(text, "utf-8")
    report = look(folder)
    assert report.ok, report.render()
    assert [w.values["lines"] for w in report.warnings if w.name == "contradicting-labels"] == [[[6, 32]]]
    assert any("no test file for de" in note for note in report.notes)
    assert report.files[0].labels == {"bad": 15, "good": 16}


def test_settings_that_cannot_learn(folder: Path) -> None:
    report = look(folder, "finetune.lr=1e-6", "selftrain.hard.lr=1e-6", "selftrain.voters=1")
    found = {(w.name, w.values.get("stage")) for w in report.warnings}
    assert ("learning-rate-too-small", "seed-0/baseline") in found
    assert ("learning-rate-too-small", "seed-0/de/hard1") in found
    assert ("single-voter", None) in found
    assert len(found) == 3
    assert "encoder-frozen" in names(look(folder, "training.freeze_layers=2"))


def test_tokenizer_coverage_per_language(folder: Path) -> None:
    with_model(folder, [f"{' '.join(PEOPLE)} sees {' '.join(PLACES)} no . 90123456789 x80"] * 3, 90)
    (folder / "de.txt").write_text("Ünd Ähm Öl sees\nAnn sees ß Bonn\n", "utf-8")
    report = look(folder, "max_length=9")
    english, german = ({row.language: row for row in report.coverage}[language] for language in ("en", "de"))
    assert english.unknown == 0
    assert german.unknown > 0.01
    assert min(english.cut, english.longest - 9, english.fertility - 1) > 0
    unknown = [w for w in report.warnings if w.name == "unknown-tokens"]
    assert [w.values["language"] for w in unknown] == ["de"]
    assert "cut-by-maximum-length" in names(report)


def test_long_test_sentences_are_read_in_windows_and_not_cut(folder: Path) -> None:
    """Four sentences joined to one of more than 20 tokens: of training text it is cut, of test text it is not."""
    with_model(folder, [(folder / name).read_text("utf-8") for name in ("en.conll", "de.txt")], 150)
    joined = conll("sieht", 100, 4).replace("\n\n", "\n") + "\n"
    found = {}
    for name in ("en.conll", "de.conll"):
        text = (folder / name).read_text("utf-8")
        (folder / name).write_text(text + joined, "utf-8")
        found[name] = look(folder, "max_length=20")
        (folder / name).write_text(text, "utf-8")
    assert "cut-by-maximum-length" in names(found["en.conll"])
    assert "cut-by-maximum-length" not in names(found["de.conll"])
    assert {row.language: row.longest > 20 for row in found["de.conll"].coverage} == {"en": False, "de": True}
    assert {row.language: row.cut for row in found["de.conll"].coverage} == {"en": 0, "de": 0}


def test_model_folders_that_do_not_fit(folder: Path) -> None:
    with_model(folder, ["Ann Bob Cid Dan Eve sees Oslo"] * 3, 60, make=lambda encoder: encoder, rows=30)
    report = look(folder)
    messages = [p.message for p in report.problems]
    assert any("different checkpoints" in m for m in messages)
    assert any("cls.predictions" in m or "masked" in m for m in messages), messages
    assert (report.exit_code, {p.where for p in report.problems}) == (4, {f"{folder / 'xlt.toml'}:5"})
    assert not any("masked" in p.message for p in look(folder, "btf.on=false").problems)


def test_unlabelled_text_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten times the text takes hardly more memory, and what is said of it is what lists of it give."""
    monkeypatch.setattr("xlt_engine.data.store.seen.BATCH", 64)
    (tmp_path / "xlt.toml").write_text(RECIPE, "utf-8")
    (tmp_path / "en.conll").write_text(conll("sees", 0, 40), "utf-8")
    (tmp_path / "de.conll").write_text(conll("sieht", 9000, 20), "utf-8")
    tokenizer = train_wordpiece([f"{name} sieht no ." for name in (*PEOPLE, *PLACES)], 150)
    peaks = []
    for count in (400, 4000):
        numbers = [n - n % 5 if n % 3 else n for n in range(count)]
        lines = [f"{PEOPLE[n % 8]} sieht {PLACES[n % 5]} no{n + 8000} .\n" for n in numbers]
        (tmp_path / "de.txt").write_text("".join(lines), "utf-8")
        config = load_recipe(tmp_path / "xlt.toml").config
        tracemalloc.start()
        texts, faults = read_all(config, recipe_files(config))
        said = [*leak_warnings(texts), *repeat_warnings(texts)]
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert not faults
    assert peaks[1] < 1.5 * peaks[0]
    kept = {file: list(examples) for file, examples in texts.items()}
    assert said == [*leak_warnings(kept), *repeat_warnings(kept)]
    assert coverage(config, texts, tokenizer) == coverage(config, kept, tokenizer)
    leak, repeats = said
    sentences = [f"{PEOPLE[n % 8]} sieht {PLACES[n % 5]} no{n} .\n" for n in range(9000, 9020)]
    first = [(6 * i + 1, lines.index(text) + 1) for i, text in enumerate(sentences) if text in lines]
    assert first
    assert leak.values["lines"] == [list(pair) for pair in first]
    assert repeats.values == {"count": count - len(set(lines)), "total": count}


def test_one_error_is_told_once_and_names_the_key_of_the_file(folder: Path) -> None:
    edit(folder / "xlt.toml", 4, '[model]\npath = "nope"\n[other]')
    text = (folder / "xlt.toml").read_text("utf-8")
    model = text[text.index("[other]") : text.index("[source]")]
    (folder / "xlt.toml").write_text(text.replace(model, "").replace('general = ["de.txt"]\n', ""), "utf-8")
    report = look(folder)
    assert (len(report.problems), report.render().count("no such model folder")) == (1, 1)
    edit(folder / "de.conll", 3, "Bonn\tI-LOC")
    (problem,) = (p for p in look(folder).problems if "I-LOC" in p.message)
    assert problem.message.endswith('set targets.0.reader.repair = true, or targets.0.reader.scheme = "iob1"')
    assert not str(check("no such recipe").problems[0]).endswith(": ")


COUNT = 30_000


def labelled(prefix: str) -> list[Example]:
    return [Example(f"{i}", "en", None, "a", None, f"{prefix}{i}", "a.tsv", i + 1) for i in range(COUNT)]


def test_a_test_file_with_other_labels(tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_text(
        'task = "classification"\n[model.new]\n[source]\nlanguage = "en"\ntrain = "a.tsv"\n'
        '[[targets]]\nlanguage = "de"\nunlabelled = ["de.txt"]\ntest = "b.tsv"\n', "utf-8",
    )  # fmt: skip
    config = load_recipe(tmp_path / "x.toml").config
    texts = {file: labelled(file.path.stem) for file in recipe_files(config) if file.labelled}
    began = time.process_time()
    faults = list(label_faults(config, texts))
    assert time.process_time() - began < 20
    assert len(faults) == 21
    assert "label 'b0' (1 times) is not among the labels of the source training file: a0, a1, a10" in faults[0].message
    assert faults[-1].message == "29,980 more labels are not among the labels of the source training file"
    assert max(len(fault.message) for fault in faults) < 1000
    assert list(label_warnings(config, texts))[0].name == "contradicting-labels"


class Model:
    labels = tuple(f"a{i}" for i in range(COUNT))


def test_scoring_a_file_with_other_labels() -> None:
    began = time.process_time()
    _check_labels(Model(), labelled("a"))  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="30000 examples in all") as caught:
        _check_labels(Model(), labelled("b"))  # type: ignore[arg-type]
    assert time.process_time() - began < 20
    assert len(str(caught.value)) < 5000


def test_a_csv_file_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text,label\n" + '"' + "a" * 200_000 + "\n", "utf-8")
    pytest.raises(DataError, sniff, path).match(r"a\.csv:1: no row has the 2 columns .* close every quote")
