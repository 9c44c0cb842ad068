"""`[source.reader]` and `[targets.N.reader]`: each file of a recipe read in its own way."""

import csv
import io
from dataclasses import fields, replace
from pathlib import Path

import pytest

from xlt_engine import DataError
from xlt_engine.data import Tokenizer, train_wordpiece
from xlt_engine.engine.preflight.check_data import read_all
from xlt_engine.engine.preflight.checker import check
from xlt_engine.engine.reading.read_file import read_file
from xlt_engine.engine.recipe.config import LanguageReaderConfig, ReaderConfig, RunConfig, reader_of
from xlt_engine.engine.recipe.config.files import recipe_files
from xlt_engine.engine.recipe.load import RecipeError, load_recipe
from xlt_engine.engine.runs.runner import run
from xlt_engine.engine.stages.datasets import Datasets

PEOPLE = ("Ann", "Bob", "Cid", "Dan", "Eve", "Flo", "Gil", "Hal")
PLACES = ("Köln", "Bonn", "Münster", "Graz", "Lünen")
# German as in CoNLL 2003 (latin-1, five columns, IOB1), Danish as in PAN-X (UTF-8), all plain text in UTF-8.
RECIPE = """\
task = "ner"
max_length = 16
threads = 1
model.new = {vocab_size = 200, hidden_size = 8, num_layers = 1, num_heads = 1, intermediate_size = 16}
reader = {format = "conll", unlabelled_format = "text"}
source = {language = "en", train = "eng.train", general = ["eng.train"]}
training.freeze_layers = 0
btf.epochs = 1
finetune.epochs = 1
selftrain = {rounds = 1, soft.lr = 1e-2, hard.lr = 1e-2}
[[targets]]
language = "de"
unlabelled = ["wiki.de"]
general = ["wiki.de"]
test = "deu.testb"
[targets.reader]
encoding = "latin-1"
unlabelled_encoding = "utf-8"
[[targets]]
language = "da"
unlabelled = ["wiki.da"]
general = ["wiki.da"]
test = "da.test"
"""


def rows(verb: str, start: int, count: int) -> list[list[tuple[str, str]]]:
    numbers = range(start, start + count)
    return [[(PEOPLE[i % 8], "PER"), (verb, "O"), (PLACES[i % 5], "LOC"), (f"no{i}", "O"), (".", "O")] for i in numbers]


def blocks(sentences: list[list[tuple[str, str]]], line: str) -> str:
    def tag(name: str, letter: str) -> str:
        return name if name == "O" else f"{letter}-{name}"

    return "".join("".join(line.format(w, tag(t, "B"), tag(t, "I")) + "\n" for w, t in s) + "\n" for s in sentences)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The recipe with its files."""
    (tmp_path / "xlt.toml").write_text(RECIPE, "utf-8")
    (tmp_path / "eng.train").write_text(blocks(rows("sees", 0, 40), "{0} NNP I-NP {2}"), "utf-8")
    german = "-DOCSTART- -X- -X- -X- O\n\n" + blocks(rows("sieht", 100, 20), "{0} lemma NE I-NC {2}")
    (tmp_path / "deu.testb").write_bytes(german.encode("latin-1"))
    (tmp_path / "da.test").write_text(blocks(rows("ser", 200, 20), "da:{0}\t{1}"), "utf-8")
    for language, verb in (("de", "sieht"), ("da", "ser")):
        text = "".join(" ".join(w for w, _ in s) + " Öl\n" for s in rows(verb, 300, 50))
        (tmp_path / f"wiki.{language}").write_text(text, "utf-8")
    return tmp_path


def config_of(folder: Path, *overrides: str) -> RunConfig:
    return load_recipe(folder / "xlt.toml", overrides).config


def test_each_file_gives_its_own_words(folder: Path) -> None:
    config = config_of(folder)
    german, danish = (read_file(config, folder / name) for name in ("deu.testb", "da.test"))
    assert german[0].words == ("Eve", "sieht", "Köln", "no100", ".")
    assert danish[0].words == ("Ann", "ser", "Köln", "no200", ".")
    assert german[0].labels == danish[0].labels == ("B-PER", "O", "B-LOC", "O", "O")
    for name in ("wiki.de", "wiki.da"):
        assert str(read_file(config, folder / name, unlabelled=True, task="text")[0].text).endswith("Köln no300 . Öl")


def test_check_takes_the_recipe(folder: Path) -> None:
    report = check(folder / "xlt.toml", rate=1e10)
    assert report.ok, report.render()
    assert [(f.role, f.language, f.examples) for f in report.files if f.role == "test"] == [
        ("test", "de", 20),
        ("test", "da", 20),
    ]


def test_keys_default_to_those_of_the_recipe(folder: Path) -> None:
    config = config_of(folder, "reader.repair=true", "source.reader.format=jsonl", "targets.1.reader.label_map={a='b'}")
    assert {f.name for f in fields(LanguageReaderConfig(**{}))} == {f.name for f in fields(ReaderConfig)}  # type: ignore[arg-type]
    source, german, danish = (
        reader_of(config, folder / name).settings for name in ("eng.train", "deu.testb", "da.test")
    )
    assert source == replace(config.reader, format="jsonl")
    assert german == replace(config.reader, encoding="latin-1", unlabelled_encoding="utf-8")
    assert danish == replace(config.reader, label_map={"a": "b"})
    assert reader_of(config, folder / "of no language").settings == config.reader


@pytest.mark.parametrize(
    ("name", "unlabelled", "encoding", "key"),
    [
        ("eng.train", False, "utf-8", "source.reader.encoding"),
        ("eng.train", True, "utf-8", "source.reader.encoding"),  # a labelled file, whatever it is read for
        ("deu.testb", False, "latin-1", "targets.0.reader.encoding"),
        ("wiki.de", True, "utf-8", "targets.0.reader.unlabelled_encoding"),
        ("wiki.da", True, "utf-8", "targets.1.reader.unlabelled_encoding"),
        ("other", True, "utf-8", "reader.unlabelled_encoding"),
    ],
)
def test_encoding_and_its_key(folder: Path, name: str, unlabelled: bool, encoding: str, key: str) -> None:
    reader = reader_of(config_of(folder), folder / name, unlabelled=unlabelled)
    assert (reader.encoding, reader.setting("encoding", "")) == (encoding, key)


def test_text_has_the_encoding_of_labelled_files_where_it_is_not_told(folder: Path) -> None:
    config = config_of(folder, "reader.encoding=cp1252")
    assert reader_of(config, folder / "wiki.da", unlabelled=True).encoding == "cp1252"


def test_a_file_of_several_languages_is_read_as_the_one_that_is_meant(folder: Path) -> None:
    config = config_of(folder, "targets.1.test=deu.testb")
    path = folder / "deu.testb"
    assert config.targets[1].test == (Path.cwd() / "deu.testb")
    config = replace(config, targets=(config.targets[0], replace(config.targets[1], test=path)))
    assert reader_of(config, path, "da").setting("encoding", "") == "targets.1.reader.encoding"
    assert reader_of(config, path, "de").setting("encoding", "") == "targets.0.reader.encoding"
    assert reader_of(config, path, "en").setting("encoding", "") == "targets.0.reader.encoding"


def test_wrong_encodings_are_one_line_each_in_check(folder: Path) -> None:
    """The German test file as UTF-8, the Danish text as latin-1: many lines of each are wrong."""
    overrides = ("targets.0.reader.encoding=utf-8", "targets.1.reader.unlabelled_encoding=latin-1")
    report = check(folder / "xlt.toml", overrides, rate=1e10)
    first = (
        'byte 0xf6 is not utf-8; it looks like latin-1: set targets.0.reader.encoding = "latin-1", or convert it to '
        "UTF-8"
    )
    second = (
        "the file is UTF-8, but is read as latin-1; it looks like utf-8: set targets.1.reader.unlabelled_encoding = "
        '"utf-8"'
    )
    assert {(p.where, p.message) for p in report.problems} == {
        (f"{folder}/deu.testb:5:2", first),
        (f"{folder}/wiki.da:1:10", second),
    }
    assert len(report.problems) == 2
    assert report.exit_code == DataError.exit_code


def test_a_wrong_encoding_is_one_line_in_a_run(folder: Path) -> None:
    with pytest.raises(DataError) as caught:
        run(folder / "xlt.toml", run_dir=folder / "run", overrides=("targets.0.reader.encoding=utf-8",))
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith(f"{folder}/deu.testb:5:2: byte 0xf6 is not utf-8; ")
    assert 'set targets.0.reader.encoding = "latin-1"' in text
    assert not list((folder / "run").glob("seed-*/**/model.safetensors"))


def test_a_store_is_named_by_how_its_files_are_read(folder: Path) -> None:
    """The same bytes in another encoding, or of another split, are another store; other languages' keys are not."""
    tokenizer = train_wordpiece(["Köln MÃ¼nster"] * 3, 80)
    path = folder / "deu.testb"

    def name(*overrides: str) -> str:
        data = Datasets(config_of(folder, *overrides), tokenizer, folder / "store")
        return data.scored(path, "de").folder.name

    plain = name()
    assert name("targets.0.reader.encoding=cp1252") != plain
    assert name("targets.0.reader.token_column=1") != plain
    assert name("reader.repair=true") != plain
    assert name("targets.1.reader.encoding=latin-1", "targets.0.reader.repair=false") == plain


def test_models_cut_text_as_their_own_target_does(folder: Path) -> None:
    only = ("arms.baseline=false", "selftrain.on=false", "pretrain.epochs=1")
    split = "targets.1.reader.split=whitespace"
    result = run(folder / "xlt.toml", run_dir=folder / "run", overrides=(*only, split))
    found = {x: (result.folder / "seed-0" / x / "finetune" / "xlt.json").read_text("utf-8") for x in ("de", "da")}
    assert '"punctuation"' in found["de"]
    assert '"whitespace"' in found["da"]


def test_a_vocabulary_is_made_anew_where_text_is_read_otherwise(folder: Path) -> None:
    def pieces(where: str, *overrides: str) -> Tokenizer:
        stop = ("arms.baseline=false", "selftrain.on=false", "btf.on=false", "pretrain.epochs=0.01")
        run(folder / "xlt.toml", run_dir=folder / where, overrides=(*stop, *overrides))
        return Tokenizer.from_folder(folder / where / "tokenizer")

    (folder / "wiki.da").write_bytes(b"\x80\xe5\xe6 \xe5\xe6\x80 \x80\xe5\n" * 50)
    first = pieces("run", "targets.1.reader.unlabelled_encoding=cp1252")
    second = pieces("run", "targets.1.reader.unlabelled_encoding=cp1250")
    assert first.fingerprint != second.fingerprint


def test_a_made_world_has_one_way(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="source.reader: is given, but the files of a made world are read in one way"):
        load_recipe("demo", ["source.reader.encoding=latin-1"])
    with pytest.raises(RecipeError, match="unknown key in .targets.0.reader.; did you mean encoding"):
        load_recipe("wikiann", ["targets.0.reader.encodng=latin-1"])


REVIEWS = (
    "<items>\n<item><rating>{}</rating><text>{}</text></item>\n"
    "<item><rating>1.0</rating><text>{}</text></item>\n</items>\n"
)


def test_classification_in_two_published_layouts(tmp_path: Path) -> None:
    """The source as Webis-CLS-10 has it, a target as MARC's CSV of all languages: labels by one label map."""
    (tmp_path / "train.review").write_text(REVIEWS.format("5.0", "good", "bad"), "utf-8")
    buffer = io.StringIO()
    csv.writer(buffer).writerows(
        [["language", "stars", "review_body"], ["de", "3", "naja"], ["fr", "5", "bon"], ["de", "4", "gut"]]
    )
    (tmp_path / "test.csv").write_text(buffer.getvalue(), "utf-8")
    (tmp_path / "xlt.toml").write_text(
        'task = "classification"\n[model]\npath = "x"\n'
        '[reader]\nlabel_map = { 1 = "n", 2 = "n", 3 = "", 4 = "p", 5 = "p" }\n'
        '[source]\ntrain = "train.review"\nreader.format = "webis-cls"\n'
        '[[targets]]\nlanguage = "de"\nunlabelled = ["test.csv"]\ntest = "test.csv"\n'
        'reader = { format = "marc", unlabelled_format = "marc" }\n'
        '[[targets]]\nlanguage = "fr"\nunlabelled = ["test.csv"]\ntest = "test.csv"\n'
        'reader = { format = "marc", unlabelled_format = "marc" }\n',
        "utf-8",
    )
    config = config_of(tmp_path)
    assert [(e.text, e.labels) for e in read_file(config, tmp_path / "train.review")] == [("good", "p"), ("bad", "n")]
    found = read_file(config, tmp_path / "test.csv", language="de")
    assert [(e.text, e.labels) for e in found] == [("gut", "p")]
    found = read_file(config, tmp_path / "test.csv", language="de", unlabelled=True)
    assert [(e.text, e.labels) for e in found] == [("naja", None), ("gut", None)]
    text = read_file(config, tmp_path / "train.review", unlabelled=True, task="text")
    assert [(e.text, e.labels) for e in text] == [("good", None), ("bad", None)]
    texts, faults = read_all(config, recipe_files(config))
    assert not faults
    assert {(f.role, f.language): [e.text for e in examples] for f, examples in texts.items()} == {
        ("train", "en"): ["good", "bad"],
        ("test", "de"): ["gut"],
        ("unlabelled", "de"): ["naja", "gut"],
        ("test", "fr"): ["bon"],
        ("unlabelled", "fr"): ["bon"],
    }


def test_entities_of_unlabelled_text_decide_nothing(folder: Path) -> None:
    text = '{"text": "Im Hamburger Hafen", "spans": [{"start": 3, "end": 10, "label": "LOC"}]}\n'
    for name in ("pool.jsonl", "train.jsonl"):
        (folder / name).write_text(text, "utf-8")
    overrides = [f'source.train="{folder / "train.jsonl"}"', f'targets.0.unlabelled=["{folder / "pool.jsonl"}"]']
    config = config_of(folder, *overrides, "reader.unlabelled_format=spans", "source.reader.format=spans")
    (example,) = read_file(config, folder / "pool.jsonl", unlabelled=True)
    assert (example.words, example.labels) == (("Im", "Hamburger", "Hafen"), None)
    with pytest.raises(DataError, match="LOC at 3-10 'Hamburg' ends within a word"):
        read_file(config, folder / "train.jsonl")
