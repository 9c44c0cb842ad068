"""Recipes for strangers' files: what is guessed, what is refused, and that the result runs as it is."""

import json
import tomllib
from collections.abc import Callable
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from xlt_engine import ConfigError, DataError
from xlt_engine.data import train_wordpiece
from xlt_engine.engine import estimate, predict
from xlt_engine.engine.preflight.checker import check
from xlt_engine.engine.preflight.init_files import pretokenised
from xlt_engine.engine.preflight.init_writer import InitResult, for_folder, for_new_encoder, init_recipe, learning_rate
from xlt_engine.engine.preflight.languages import language_of
from xlt_engine.engine.pseudolabels.diagnostics import slow_learning_rate
from xlt_engine.engine.reading.read_file import read_file
from xlt_engine.engine.recipe.load import load_recipe
from xlt_engine.engine.runs.runner import run
from xlt_engine.model import Encoder, EncoderConfig, MaskedLM, save_model

PEOPLE = ("Ann", "Bob", "Cid", "Dan", "Eve", "Flo", "Gil", "Hal")
PLACES = ("Oslo", "Bonn", "Rome", "Graz", "Lund")
VERBS = {"en": "visited", "de": "besuchte", "fr": "visitait"}


def rows(language: str, count: int) -> list[list[tuple[str, str]]]:
    """Tagged sentences, a function of the arguments."""
    found = []
    for i in range(count):
        words = (PEOPLE[i % 8], f"{PEOPLE[(i + 3) % 8]}son", VERBS[language], PLACES[i % 5], f"w{i % 17}", ".")
        found.append(list(zip(words, ("B-PER", "I-PER", "O", "B-LOC", "O", "O"), strict=True)))
    return found


def conll(path: Path, language: str, count: int = 40, line: Callable[[str, str, int], str] | None = None) -> Path:
    show = line or (lambda word, tag, i: f"{word} {tag}")
    blocks = ["\n".join(show(word, tag, i) for i, (word, tag) in enumerate(s)) for s in rows(language, count)]
    path.write_text("\n\n".join(blocks) + "\n", "utf-8")
    return path


def plain(path: Path, language: str, count: int = 60) -> Path:
    path.write_text("".join(" ".join(w for w, _ in s[:-1]) + ".\n" for s in rows(language, count)), "utf-8")
    return path


def load(result: InitResult, folder: Path) -> Any:
    """The configuration that the recipe's text stands for, read from a file in `folder`."""
    (folder / "xlt.toml").write_text(result.text, "utf-8")
    return load_recipe(folder / "xlt.toml").config


def recipe(folder: Path, train: Path, *tests: Path, **options: Any) -> Any:
    """The configuration that `init` writes for a training file and German text, in which `check` finds no error."""
    de = plain(folder / "de.txt", "de")
    config = load(init_recipe(train, [de], tests, folder=folder, **options), folder)
    report = check(folder / "xlt.toml", rate=1e10)
    assert report.ok, report.render()
    return config


def test_tagging_in_columns(tmp_path: Path) -> None:
    train, de, test = conll(tmp_path / "train.conll", "en"), plain(tmp_path / "de.txt", "de"), tmp_path / "de.conll"
    result = init_recipe(train, [de], [conll(test, "de", 20)], folder=tmp_path)
    config = load(result, tmp_path)
    assert (config.task, config.labels) == ("ner", ("O", "B-LOC", "I-LOC", "B-PER", "I-PER"))
    assert (config.source.language, config.source.train, config.source.general) == ("src", train, (train,))
    assert [(t.language, t.unlabelled, t.test, t.general) for t in config.targets] == [("de", (de,), test, (de,))]
    assert (config.reader.split, config.model.new is None) == ("punctuation", False)
    assert (config.prediction, config.selftrain.word_pooling) == ("valid", 0.6)  # of the preset best
    assert any("train.conll" in note and "--language" in note for note in result.notes)
    assert not Path(tomllib.loads(result.text)["source"]["train"]).is_absolute()


def test_every_value_has_a_reason(tmp_path: Path) -> None:
    train, de = conll(tmp_path / "en.conll", "en"), plain(tmp_path / "de.txt", "de")
    result = init_recipe(train, [de], folder=tmp_path, language="en")
    values = [line for line in result.text.splitlines() if "=" in line and not line.startswith("#")]
    assert len(values) > 30
    assert [line for line in values if len(line.split("  # ")[1]) <= 5] == []


def test_init_then_check_then_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    conll(tmp_path / "train.conll", "en")
    plain(tmp_path / "de.txt", "de")
    conll(tmp_path / "de.conll", "de", 20)
    monkeypatch.chdir(tmp_path)
    result = init_recipe("train.conll", ["de.txt"], ["de.conll"])
    Path("xlt.toml").write_text(result.text, "utf-8")
    report = check(rate=1e10)
    assert report.ok, report.render()
    assert "learning-rate-too-small" not in [w.name for w in report.warnings]
    finished = run(overrides=["selftrain.rounds=1"])
    scores = [r for r in finished.summary["rows"] if r["language"] == "de" and r["metric"] == "entity_f1"]
    assert {r["stage"] for r in scores} == {"zero-shot", "btf", "soft1", "hard1"}
    # Both languages share names and places, so that a model that learnt anything finds most of them.
    assert max(r["value"] for r in scores) > 50


def test_the_share_of_whole_texts_is_measured(tmp_path: Path) -> None:
    """Against a count of the tokens, with an encoder of few positions and with a new one that has enough."""
    folder = tmp_path / "model"
    tokenizer = train_wordpiece(["abcdefghijklmnopqrstuvwxyz ABCDEFGHIJKLMNOPQRSTUVWXYZ 0123456789 ."], 140)
    config = EncoderConfig(tokenizer.vocab_size, 16, 1, 2, 32, max_positions=32)
    save_model(MaskedLM(Encoder(config, seed=0), seed=0), folder)
    tokenizer.save(folder)
    train = conll(tmp_path / "en.conll", "en")
    long = tmp_path / "de.txt"
    texts = [" ".join(["x y"] * (3 + i % 20)) for i in range(100)]
    long.write_text("".join(f"{text}\n" for text in texts), "utf-8")
    result = init_recipe(train, [long], model=folder, folder=tmp_path)
    assert load(result, tmp_path).max_length == 32
    whole = sum(2 + 2 * (3 + i % 20) <= 32 for i in range(100))
    sizes = [len(e.ids) for e in tokenizer.encode_words([[w for w, _ in s] for s in rows("en", 40)])]
    share = 100 * sum(n <= 32 for n in sizes) / 40
    line = next(x for x in result.text.splitlines() if x.startswith("max_length"))
    assert 0 < whole < 100
    assert f"{whole}.0% of the de texts" in line
    assert (f"{share:.1f}%" if share < 100 else "100%") + " of the en texts" in line
    assert any(
        "longer than 32 tokens, where they are cut, are" in n and f"{100 - whole}.0% of the de" in n
        for n in result.notes
    )
    line = next(x for x in init_recipe(train, [long], folder=tmp_path).text.splitlines() if x.startswith("max_length"))
    assert "whole are 100% of the en texts, 100% of the de texts" in line


def test_several_targets_by_their_names(tmp_path: Path) -> None:
    files = [plain(tmp_path / name, name[-6:-4]) for name in ("news.de.txt", "more.de.txt", "unlabelled-fr.txt")]
    tests = [conll(tmp_path / f"test.{x}.conll", x, 10) for x in ("fr", "en", "de")]
    result = init_recipe(conll(tmp_path / "train.en.conll", "en"), files, tests, folder=tmp_path)
    config = load(result, tmp_path)
    assert (config.source.language, config.source.test) == ("en", tests[1])
    found = [(t.language, t.unlabelled, t.test) for t in config.targets]
    assert found == [("de", tuple(files[:2]), tests[2]), ("fr", tuple(files[2:]), tests[0])]
    assert not any("name" in note for note in result.notes)


def test_languages_that_names_do_not_tell(tmp_path: Path) -> None:
    train, gold = conll(tmp_path / "a1.conll", "en"), conll(tmp_path / "gold.conll", "de", 10)
    german = conll(tmp_path / "x.de.conll", "de", 10)
    one, two = plain(tmp_path / "b1.txt", "de"), plain(tmp_path / "c1.txt", "fr")
    for unlabelled, tests, named, expected in (
        ([one], [gold], None, [("tgt", gold)]),
        ([one, two], [], None, [("tgt1", None), ("tgt2", None)]),
        ([one, two], [gold], ["de", "fr"], [("de", gold), ("fr", None)]),
        ([one], [german], None, [("de", german)]),
    ):
        options = {"language": "en", "target_languages": named} if named else {}
        config = load(init_recipe(train, unlabelled, tests, folder=tmp_path, **options), tmp_path)
        assert [(t.language, t.test) for t in config.targets] == expected


def test_language_codes() -> None:
    names = "de.txt train.de.conll test_fr.tsv German-News.txt esp.testa it.txt.xz data/nl/train.txt nl/train.fr.txt"
    assert [language_of(Path("/abc") / n) for n in names.split()] == ["de", "de", "fr", "de", "es", "it", "nl", "fr"]
    assert [language_of(Path("/abc") / n) for n in ("train.conll", "model.txt", "xyz/test.txt")] == [None] * 3


def stars(path: Path, **others: object) -> Path:
    """Reviews as shops give them away, with stars as numbers with a point."""
    texts = [f"this was number {i} for me" for i in range(40)]
    lines = [{**others, "reviewText": text, "overall": float(i % 5)} for i, text in enumerate(texts)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    return path


def commented(sentence: list[tuple[str, str]]) -> str:
    body = "".join(f"{i}\t{word}\t{tag}\t-\t-\n" for i, (word, tag) in enumerate(sentence, 1))
    return f"# sent_id = 7\n# text = {' '.join(word for word, _ in sentence)}\n{body}\n"


DATA = "label\ttext\n" + "".join(f"{'ab'[i % 2]}\tsome text {i} here\n" for i in range(40))
DOMAINS = "domain,verdict,comment\n" + "".join(f"books,{('good', 'bad')[i % 2]},number {i} for me\n" for i in range(40))
COMMENTS = "".join(map(commented, rows("en", 40)))


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("en.data", DATA, {"source.reader.format": "tsv", "labels": ("a", "b"), "pooling": "mean"}),
        ("en.csv", DOMAINS, {"labels": ("bad", "good"), "reader.label": "verdict"}),
        ("en.iob2", COMMENTS, {"task": "ner", "reader.token_column": 1, "reader.label_column": 2}),
    ],
    ids=["a table under another name", "a constant column", "comments between sentences"],
)
def test_what_a_training_file_tells(tmp_path: Path, name: str, content: str, expected: dict[str, object]) -> None:
    (tmp_path / name).write_text(content, "utf-8")
    config = recipe(tmp_path, tmp_path / name)
    assert {key: attrgetter(key)(config) for key in expected} == expected
    assert len(read_file(config, tmp_path / name, language="en")) == 40


def test_label_columns_that_are_named(tmp_path: Path) -> None:
    train = stars(tmp_path / "en.jsonl", helpful_vote=0, domain="books")
    for label in ("", "overall"):
        config = recipe(tmp_path, train, label_column=label)
        assert (config.labels, config.reader.label) == (("0", "1", "2", "3", "4"), "overall")
    with pytest.raises(ConfigError, match=r"en\.jsonl: no column or field 'nonsense' that may hold labels"):
        recipe(tmp_path, train, label_column="nonsense")
    with pytest.raises(DataError, match=r"one label only in 'domain' \(books\); .* give --label-column"):
        recipe(tmp_path, train, label_column="domain")


@pytest.mark.parametrize("header", [True, False])
def test_a_word_in_a_row_is_no_text(tmp_path: Path, header: bool) -> None:
    de, train = plain(tmp_path / "de.txt", "de"), tmp_path / "en.csv"
    body = [f"{word},{'NV'[len(word) % 2]},{tag}" for sentence in rows("en", 30) for word, tag in sentence]
    train.write_text("\n".join([*["Word,POS,Tag"] * header, *body, ""]).replace("B-", "").replace("I-", ""), "utf-8")
    with pytest.raises(DataError, match=r"en\.csv: '.*' has one word in a row, .* as a column file"):
        init_recipe(train, [de], folder=tmp_path, header=header)


@pytest.mark.parametrize("kind", ["csv", "classes", "ner"])
@pytest.mark.parametrize("tested", [True, False])
def test_unlabelled_files_have_no_say_in_the_labels(tmp_path: Path, kind: str, tested: bool) -> None:
    """The usual set: train and test with labels under a name of their own, and target text without that column."""
    suffix = "csv" if kind == "csv" else "jsonl"

    def write(name: str, labelled: bool) -> Path:
        found: list[dict[str, object]] = []
        for number, sentence in enumerate(rows("en", 40)):
            words, tags = map(list, zip(*sentence, strict=True))
            text = f"{' '.join(words)} {number}".replace(",", "")
            one = {"tokens": words} if kind == "ner" else {"review": text}
            of = {"ner": tags} if kind == "ner" else {"sentiment": ("good", "bad")[number % 2]}
            found.append(one | of if labelled else one)
        path = tmp_path / f"{name}.{suffix}"
        lines = [json.dumps(row) for row in found]
        if kind == "csv":
            lines = [",".join(found[0]), *(",".join(map(str, row.values())) for row in found)]
        path.write_text("\n".join([*lines, ""]), "utf-8")
        return path

    tests = [write("test.de", True)] if tested else []
    config = load(init_recipe(write("train.en", True), [write("de", False)], tests, folder=tmp_path), tmp_path)
    assert (config.reader.tags if kind == "ner" else config.reader.label) == ("ner" if kind == "ner" else "sentiment")
    assert config.targets[0].reader is None
    report = check(tmp_path / "xlt.toml", rate=1e10)
    assert report.ok, report.render()


def test_a_test_file_of_another_task(tmp_path: Path) -> None:
    train, de = conll(tmp_path / "en.conll", "en"), plain(tmp_path / "de.txt", "de")
    with pytest.raises(DataError, match=r"test\.de\.jsonl: looks like classification, and .* like ner; give a test"):
        init_recipe(train, [de], [stars(tmp_path / "test.de.jsonl")], folder=tmp_path)


def test_a_test_file_with_other_names(tmp_path: Path) -> None:
    train, test = tmp_path / "en.csv", tmp_path / "test.de.tsv"
    train.write_text("utterance,intent\n" + "".join(f"say {i} now,{'ab'[i % 2]}\n" for i in range(40)), "utf-8")
    test.write_text("label\ttext\n" + "".join(f"{'ab'[i % 2]}\tsag {i} jetzt\n" for i in range(20)), "utf-8")
    config = recipe(tmp_path, train, test)
    (reader,) = (t.reader for t in config.targets)
    assert (config.reader.text, config.reader.label) == ("utterance", "intent")
    assert (reader.text, reader.label) == ("text", "label")


def test_tags_that_need_repair(tmp_path: Path) -> None:
    """IOB1 needs no setting: the reader sees it. BIO with an I- that nothing opened does."""
    for b, i, repair in (("B-", "I-", False), ("B-LOC", "I-LOC", True)):
        train = conll(tmp_path / "en.conll", "en", line=lambda word, tag, _, b=b, i=i: f"{word} {tag.replace(b, i)}")
        assert recipe(tmp_path, train).reader.repair == repair
    assert any("repair" in note for note in init_recipe(train, [tmp_path / "de.txt"], folder=tmp_path).notes)


def test_encodings(tmp_path: Path) -> None:
    train, de = conll(tmp_path / "en.conll", "en"), tmp_path / "de.txt"
    for encoding, text in (("latin-1", "Käse aus Köln\nTür in Ulm\n"), ("cp1252", "Käse – „Köln“\n")):
        de.write_bytes(text.encode(encoding) * 20)
        (reader,) = (t.reader for t in load(init_recipe(train, [de], folder=tmp_path), tmp_path).targets)
        assert (reader.encoding, reader.unlabelled_encoding) == (None, encoding)
    assert check(tmp_path / "xlt.toml", rate=1e10).ok
    assert pretokenised(["Ann sees Bob .", "Yes , he said ."])
    assert not pretokenised(["Ann sees Bob.", "Yes, he said."])
    assert not pretokenised(["no punctuation", "at all"])


def test_an_encoding_for_each_language_and_kind_of_file(tmp_path: Path) -> None:
    """Column files in latin-1, text in UTF-8: the recipe says so, and reads the same words."""
    train, de, test, fr = (tmp_path / x for x in ("en.conll", "de.txt", "de.conll", "fr.txt"))
    conll(train, "en")
    de.write_text("Käse aus Köln\nTür in Ulm\n" * 20, "utf-8")
    test.write_bytes("Köln B-LOC\nfährt O\n\n".encode("latin-1") * 5)
    fr.write_bytes("où est l’été\nla tête\n".encode("cp1252") * 20)
    config = load(init_recipe(train, [de, fr], [test], folder=tmp_path), tmp_path)
    assert config.reader.encoding == "utf-8"
    assert config.source.reader is None
    assert [e.words for e in read_file(config, test, language="de")][0] == ("Köln", "fährt")
    assert read_file(config, de, unlabelled=True, task="text")[0].text == "Käse aus Köln"
    assert read_file(config, fr, unlabelled=True, task="text")[0].text == "où est l’été"
    assert check(tmp_path / "xlt.toml", rate=1e10).ok
    other = tmp_path / "more.de.txt"
    other.write_bytes("Käse aus Köln\n".encode("latin-1") * 20)
    caught = pytest.raises(DataError, init_recipe, train, [de, other], [test], folder=tmp_path)
    assert str(caught.value).count("\n") == 0
    assert f"{de} is utf-8, {other} is latin-1" in str(caught.value)


def test_encodings_that_cannot_be_told(tmp_path: Path) -> None:
    """Text that is no Western language and not UTF-8, and UTF-8 with a damaged line, are not read as latin-1."""
    train, de = conll(tmp_path / "en.conll", "en"), tmp_path / "de.txt"
    de.write_bytes("где этот дом\n".encode("koi8-r") * 20)
    caught = pytest.raises(DataError, init_recipe, train, [de], folder=tmp_path)
    expected = "byte 0xc7 is not utf-8; it looks like neither UTF-8 nor latin-1: set reader.encoding"
    assert str(caught.value) == f"{de}:1:1: {expected}"
    de.write_bytes("Käse\n".encode() * 20 + b"M\xfcnchen\n")
    caught = pytest.raises(DataError, init_recipe, train, [de], folder=tmp_path)
    assert str(caught.value).startswith(f"{de}:21:2: byte 0xfc is not utf-8, but line 1 is in UTF-8: correct the line")
    (target,) = load(init_recipe(train, [de], folder=tmp_path, encoding="mixed"), tmp_path).targets
    assert (target.reader.encoding, target.reader.unlabelled_encoding) == (None, "mixed")


def test_labels_that_only_a_test_file_has(tmp_path: Path) -> None:
    train, de, test = conll(tmp_path / "en.conll", "en"), plain(tmp_path / "de.txt", "de"), tmp_path / "de.conll"
    test.write_text("Linux B-MISC\n. O\n\n" * 5, "utf-8")
    result = init_recipe(train, [de], [test], folder=tmp_path)
    assert load(result, tmp_path).labels[-2:] == ("B-MISC", "I-MISC")
    assert any("only in test files: B-MISC" in note for note in result.notes)
    report = check(tmp_path / "xlt.toml", rate=1e10)
    assert report.ok
    assert "unseen-label" in [w.name for w in report.warnings]


def test_a_model_folder(tmp_path: Path) -> None:
    train, de, model = conll(tmp_path / "en.conll", "en"), plain(tmp_path / "de.txt", "de"), tmp_path / "model"
    tokenizer = train_wordpiece([*train.read_text().split("\n"), *de.read_text().split("\n")], 200)
    encoder = Encoder(EncoderConfig(tokenizer.vocab_size, 32, 4, 2, 64, 40))
    model.mkdir()
    save_model(MaskedLM(encoder), model)
    tokenizer.save(model)
    config = recipe(tmp_path, train, model=model)
    assert (config.model.path, config.model.new, config.btf.on) == (model, None, True)
    assert 16 <= config.max_length <= 40
    assert (config.training.freeze_layers, config.btf.freeze_layers) == (1, 0)
    assert check(tmp_path / "xlt.toml", rate=1e10).warnings == []
    save_model(encoder, model)
    assert not recipe(tmp_path, train, model=model).btf.on
    notes = init_recipe(train, [de], model=model, folder=tmp_path).notes
    assert any("masked-language-model head" in note for note in notes)


@pytest.mark.parametrize(("kind", "pooler"), [("Bert", True), ("Bert", False), ("XLMRoberta", True)])
def test_classifiers_of_init_open_in_transformers(tmp_path: Path, kind: str, pooler: bool) -> None:
    """Zero-shot and fine-tuned, with equal logits, wherever the checkpoint has what their classifier reads."""
    table = tmp_path / "en.tsv"
    texts = [f"{PEOPLE[i % 8]} {'likes' if i % 2 else 'hates'} {PLACES[i % 5]}" for i in range(40)]
    table.write_text("text\tlabel\n" + "".join(f"{t}\t{'ab'[i % 2]}\n" for i, t in enumerate(texts)), "utf-8")
    de, tokenizer = plain(tmp_path / "de.txt", "de"), train_wordpiece(texts, 120)
    sizes = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)
    sizes |= dict(type_vocab_size=1 + (kind == "Bert"), max_position_embeddings=42, initializer_range=0.1)
    shape = getattr(transformers, f"{kind}Config")(vocab_size=tokenizer.vocab_size, pad_token_id=0, **sizes)
    getattr(transformers, f"{kind}Model")(shape, add_pooling_layer=pooler).save_pretrained(tmp_path / "model")
    tokenizer.save(tmp_path / "model")
    config = load(init_recipe(table, [de], model=tmp_path / "model", folder=tmp_path), tmp_path)
    wanted = ("linear", "pooler" if pooler else "cls") if kind == "Bert" else ("mlp", "cls")
    assert (config.finetune.head, config.pooling, config.btf.on) == (*wanted, False)
    if not pooler:
        return
    few = ["finetune.epochs=1", "selftrain.rounds=0"]
    run(tmp_path / "xlt.toml", run_dir=tmp_path / "run", overrides=few)
    stages = sorted((tmp_path / "run" / "seed-0").rglob("stage.json"))
    assert stages
    for stage in stages:
        theirs = transformers.AutoModelForSequenceClassification.from_pretrained(stage.parent).eval()
        library = transformers.AutoTokenizer.from_pretrained(stage.parent)
        assert library.model_max_length == (42 if kind == "Bert" else 41)
        with torch.no_grad():
            shares = theirs(**library(texts, return_tensors="pt", padding=True)).logits.softmax(-1)
        for text, share, ours in zip(texts, shares, predict(stage.parent, texts), strict=True):
            names = {theirs.config.id2label[i]: float(value) for i, value in enumerate(share)}
            assert ours.probabilities == pytest.approx(names, abs=1e-5), text


def test_what_cannot_be_guessed_is_refused(tmp_path: Path) -> None:
    train, de = conll(tmp_path / "en.conll", "en"), plain(tmp_path / "de.txt", "de")
    german, other = conll(tmp_path / "b.de.conll", "de"), conll(tmp_path / "de.conll", "de")
    french, empty, bad = conll(tmp_path / "fr.conll", "fr"), tmp_path / "empty.txt", tmp_path / "bad.conll"
    empty.write_text("", "utf-8")
    bad.write_text(train.read_text() + "\nAnn B-PER extra\n", "utf-8")
    for given, error, what in (
        ((tmp_path / "gone.conll", [de]), DataError, r"gone\.conll: no such file"),
        ((train, [empty]), DataError, "empty"),
        ((plain(tmp_path / "en.txt", "en"), [de]), DataError, "found no labels"),
        ((train, []), ConfigError, "no unlabelled text"),
        ((german, [de]), ConfigError, "both look like 'de'"),
        ((train, [de], [french, other]), ConfigError, "which language"),
        ((train, [de], [german, other]), ConfigError, "second test file for de"),
        ((bad, [de]), DataError, rf"bad\.conll:{len(train.read_text().splitlines()) + 2}: 3 columns"),
    ):
        pytest.raises(error, init_recipe, *given).match(what)
    with pytest.raises(ConfigError, match="3 target languages for 1"):
        init_recipe(train, [de], target_languages=["de", "fr", "nl"])


@pytest.mark.parametrize("train", [60, 300, 1500, 12_000])
@pytest.mark.parametrize("words", [3000, 60_000, 600_000, 5_000_000])
def test_settings_can_learn_at_every_size(train: int, words: int) -> None:
    settings = for_new_encoder(train, [train, 2 * train], words)
    counts = {"finetune": train, "selftrain.soft": min(2 * train, 10_000), "selftrain.hard": 3 * train}
    for name, examples in counts.items():
        values = {key: value for key, (value, _) in settings.tables[name].items()}
        steps = -(-examples // values["batch_size"]) * values["epochs"]
        assert slow_learning_rate(values.get("head_lr", values["lr"]), steps, init_std=0.04) is None, (name, steps)
    assert settings.model["hidden_size"][0] % settings.model["num_heads"][0] == 0


def test_rates_follow_the_width() -> None:
    assert [learning_rate(h) for h in (64, 96, 768)] == [1e-3, 1e-3, 3e-5]
    assert 3e-5 < learning_rate(384) < learning_rate(192) < 1e-3
    large = for_folder(EncoderConfig(119_547), 20_000, [20_000]).tables
    assert large["training"]["freeze_layers"][0] == 3
    assert large["btf"]["freeze_embeddings"][0] is True


def test_dry_run_of_a_written_recipe(tmp_path: Path) -> None:
    train, de = conll(tmp_path / "en.conll", "en"), plain(tmp_path / "de.txt", "de")
    (tmp_path / "xlt.toml").write_text(init_recipe(train, [de], folder=tmp_path).text, "utf-8")
    kinds = [s.kind for s in estimate(tmp_path / "xlt.toml", rate=1e10).stages]
    assert kinds == ["pretrain", "finetune", "btf", "finetune", "soft", "hard", "soft", "hard"]


def reviews(path: Path, sign: str, labels: str = "ab", names: str = "id,stars,text") -> Path:
    lines = [f"{i}{sign}{labels[i % len(labels)]}{sign}some text, {path.stem} {i}; good" for i in range(40)]
    quoted = (line.replace("some", '"some') + '"' for line in lines)
    path.write_text("\n".join([names.replace(",", sign), *quoted]) + "\n", "utf-8")
    return path


@pytest.mark.parametrize(("sign", "other"), [(";", ","), ("\t", ";"), ("|", ";"), (",", ";")])
def test_the_delimiter_of_each_table(tmp_path: Path, sign: str, other: str) -> None:
    """As Excel writes them in German: no column is taken for the text of all, and the recipe names what is between."""
    train, de = reviews(tmp_path / "en.csv", other), reviews(tmp_path / "de.csv", sign, names="id,note,text")
    test = reviews(tmp_path / "test.de.csv", sign)
    config = load(init_recipe(train, [de], [test], folder=tmp_path), tmp_path)
    assert (config.reader.delimiter, config.reader.label, config.reader.text) == (other, "stars", "text")
    (target,) = config.targets
    assert target.reader.delimiter == sign
    for path, unlabelled in ((de, True), (test, False)):
        examples = read_file(config, path, unlabelled=unlabelled)
        assert [e.text for e in examples][:2] == [f"some text, {path.stem} {i}; good" for i in range(2)]
    assert config.labels == ("a", "b")
    if sign == ";":  # another name for the same
        load(init_recipe(train, [de], [test.rename(tmp_path / "test.de.tsv")], folder=tmp_path), tmp_path)
    assert check(tmp_path / "xlt.toml", rate=1e10).ok


def test_a_nul_in_a_table(tmp_path: Path) -> None:
    train, de = reviews(tmp_path / "en.csv", ","), plain(tmp_path / "de.txt", "de")
    train.write_text(train.read_text().replace("; good", "\0 good"))  # in every row, so that none is left
    with pytest.raises(DataError, match=r"en\.csv:2:\d+: NUL character; remove it \(39 more"):
        init_recipe(train, [de], folder=tmp_path)


def test_where_labels_were_found_and_which_look_alike(tmp_path: Path) -> None:
    train, de = reviews(tmp_path / "en.csv", ",", "123"), plain(tmp_path / "de.txt", "de")
    test = reviews(tmp_path / "test.de.csv", ",", "1234")
    line = next(x for x in init_recipe(train, [de], [test], folder=tmp_path).text.split("\n") if x.startswith("labels"))
    assert line == 'labels = ["1", "2", "3", "4"]  # found in the training file, but \'4\' in test files alone'
    result = init_recipe(reviews(train, ",", "PnpN"), [de], folder=tmp_path)
    assert any(note.startswith("labels that differ by case alone") and "N, n, P, p" in note for note in result.notes)
    load(result, tmp_path)
    (warning,) = (w for w in check(tmp_path / "xlt.toml", rate=1e10).warnings if w.name == "labels-differ-by-case")
    assert warning.values == {"labels": ["N", "n", "P", "p"]}


def test_outer_entities_of_nested_ones(tmp_path: Path) -> None:
    """GermEval 2014: number, word, outer tag, inner tag."""

    def line(word: str, tag: str, i: int) -> str:
        return f"{i + 1}\t{word}\t{tag}\t{'B-LOC' if word == 'Annson' else 'O'}"

    train, de = conll(tmp_path / "en.tsv", "en", line=line), plain(tmp_path / "de.txt", "de")
    train.write_text("#\thttp://en.wikipedia.org/wiki/X\t[2009-10-17]\n" + train.read_text("utf-8"), "utf-8")
    result = init_recipe(train, [de], folder=tmp_path)
    config = load(result, tmp_path)
    assert (config.reader.token_column, config.reader.label_column) == (1, 2)
    assert config.labels == ("O", "B-LOC", "I-LOC", "B-PER", "I-PER")
    assert any("outer entities" in note and "reader.label_column" in note for note in result.notes)
    (tmp_path / "xlt.toml").write_text(result.text.replace("label_column = 2", ""), "utf-8")
    assert "nested-entities" in {w.name for w in check(tmp_path / "xlt.toml", rate=1e10).warnings}


def test_one_json_list(tmp_path: Path) -> None:
    train, de = tmp_path / "en.json", tmp_path / "de.json"
    train.write_text(json.dumps([{"content": f"some text {i}", "label": "ab"[i % 2]} for i in range(40)], indent=1))
    de.write_text(json.dumps([{"content": f"ein Text {i}"} for i in range(40)]))
    config = load(init_recipe(train, [de], folder=tmp_path), tmp_path)
    assert (config.task, config.reader.text, config.reader.label) == ("classification", "content", "label")
    assert check(tmp_path / "xlt.toml", rate=1e10).ok
