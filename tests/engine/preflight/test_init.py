"""Recipes for strangers' files: what is guessed, what is refused, and that the result runs as it is."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from xlt_engine import ConfigError, DataError
from xlt_engine.data import train_wordpiece
from xlt_engine.engine import predict
from xlt_engine.engine.preflight.checker import check
from xlt_engine.engine.preflight.cost import estimate
from xlt_engine.engine.preflight.init_files import pretokenised, sniff
from xlt_engine.engine.preflight.init_settings import for_folder, for_new_encoder, learning_rate
from xlt_engine.engine.preflight.init_writer import InitResult, init_recipe
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
    return [
        [
            (PEOPLE[i % 8], "B-PER"),
            (f"{PEOPLE[(i + 3) % 8]}son", "I-PER"),
            (VERBS[language], "O"),
            (PLACES[i % 5], "B-LOC"),
            (f"w{i % 17}", "O"),
            (".", "O"),
        ]
        for i in range(count)
    ]


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


def test_tagging_in_columns(tmp_path: Path) -> None:
    train, de, test = conll(tmp_path / "train.conll", "en"), plain(tmp_path / "de.txt", "de"), tmp_path / "de.conll"
    conll(test, "de", 20)
    result = init_recipe(train, [de], [test], folder=tmp_path)
    config = load(result, tmp_path)
    assert config.task == "ner"
    assert config.labels == ("O", "B-LOC", "I-LOC", "B-PER", "I-PER")
    assert (config.source.language, config.source.train) == ("src", train)
    assert [(t.language, t.unlabelled, t.test) for t in config.targets] == [("de", (de,), test)]
    assert config.source.general == (train,)
    assert config.targets[0].general == (de,)
    assert config.reader.split == "punctuation"
    assert config.model.new is not None
    assert any("train.conll" in note and "--language" in note for note in result.notes)
    assert not Path(tomllib.loads(result.text)["source"]["train"]).is_absolute()


def test_every_value_has_a_reason(tmp_path: Path) -> None:
    result = init_recipe(
        conll(tmp_path / "en.conll", "en"), [plain(tmp_path / "de.txt", "de")], folder=tmp_path, language="en"
    )
    values = [line for line in result.text.splitlines() if "=" in line and not line.startswith("#")]
    assert len(values) > 30
    for line in values:
        assert len(line.split("  # ")[1]) > 5, line


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
    finished = run()
    scores = [r for r in finished.summary["rows"] if r["language"] == "de" and r["metric"] == "entity_f1"]
    assert {r["stage"] for r in scores} == {"zero-shot", "btf", "soft1", "hard1", "soft2", "hard2"}
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
    train, one, two = (
        conll(tmp_path / "a1.conll", "en"),
        plain(tmp_path / "b1.txt", "de"),
        plain(tmp_path / "c1.txt", "fr"),
    )
    gold = conll(tmp_path / "gold.conll", "de", 10)
    config = load(init_recipe(train, [one], [gold], folder=tmp_path), tmp_path)
    assert [(t.language, t.test) for t in config.targets] == [("tgt", gold)]
    config = load(init_recipe(train, [one, two], folder=tmp_path), tmp_path)
    assert [t.language for t in config.targets] == ["tgt1", "tgt2"]
    config = load(
        init_recipe(train, [one, two], [gold], language="en", target_languages=["de", "fr"], folder=tmp_path), tmp_path
    )
    assert [(t.language, t.test) for t in config.targets] == [("de", gold), ("fr", None)]
    german = conll(tmp_path / "x.de.conll", "de", 10)
    config = load(init_recipe(train, [one], [german], folder=tmp_path), tmp_path)
    assert config.targets[0].language == "de"


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("de.txt", "de"),
        ("train.de.conll", "de"),
        ("test_fr.tsv", "fr"),
        ("German-News.txt", "de"),
        ("esp.testa", "es"),
        ("it.txt.xz", "it"),
        ("data/nl/train.txt", "nl"),
        ("nl/train.fr.txt", "fr"),
        ("train.conll", None),
        ("model.txt", None),
        ("xyz/test.txt", None),
    ],
)
def test_language_codes(tmp_path: Path, name: str, code: str | None) -> None:
    assert language_of(Path("/abc") / name) == code


def test_classification_tables_by_content(tmp_path: Path) -> None:
    body = [
        f"{i}\tthis thing number {i} was {'good' if i % 2 else 'bad'} for me\t{'pos' if i % 2 else 'neg'}"
        for i in range(40)
    ]
    train = tmp_path / "en.tsv"
    train.write_text("id\treview_body\tverdict\n" + "\n".join(body) + "\n", "utf-8")
    result = init_recipe(train, [plain(tmp_path / "de.txt", "de")], folder=tmp_path)
    config = load(result, tmp_path)
    assert (config.task, config.labels) == ("classification", ("neg", "pos"))
    assert (config.reader.text, config.reader.label) == ("review_body", "verdict")
    assert config.pooling == "mean"
    assert check(tmp_path / "xlt.toml", rate=1e10).ok


def stars(path: Path, **others: object) -> Path:
    """Reviews as shops give them away, with stars as numbers with a point."""
    texts = [f"this was number {i} for me" for i in range(40)]
    lines = [{**others, "reviewText": text, "overall": float(i % 5)} for i, text in enumerate(texts)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    return path


def test_stars_with_a_point(tmp_path: Path) -> None:
    de, train = plain(tmp_path / "de.txt", "de"), stars(tmp_path / "en.jsonl", helpful_vote=0)
    for label in ("", "overall"):
        config = load(init_recipe(train, [de], folder=tmp_path, label_column=label), tmp_path)
        assert (config.labels, config.reader.label) == (("0", "1", "2", "3", "4"), "overall")
    assert check(tmp_path / "xlt.toml", rate=1e10).ok
    with pytest.raises(ConfigError, match=r"en\.jsonl: no column or field 'nonsense' that may hold labels"):
        init_recipe(train, [de], folder=tmp_path, label_column="nonsense")


def test_a_constant_column_is_no_label(tmp_path: Path) -> None:
    de, train = plain(tmp_path / "de.txt", "de"), tmp_path / "en.csv"
    rows = [f"books,{('good', 'bad')[i % 2]},this was number {i} for me" for i in range(40)]
    train.write_text("\n".join(["domain,verdict,comment", *rows, ""]), "utf-8")
    config = load(init_recipe(train, [de], folder=tmp_path), tmp_path)
    assert (config.labels, config.reader.label) == (("bad", "good"), "verdict")
    with pytest.raises(DataError, match=r"one label only in 'domain' \(books\); .* give --label-column"):
        init_recipe(train, [de], folder=tmp_path, label_column="domain")


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


def test_comments_between_sentences(tmp_path: Path) -> None:
    lines = []
    for number, sentence in enumerate(rows("en", 30)):
        lines += [f"# sent_id = {number}", "# text = " + " ".join(word for word, _ in sentence)]
        lines += [*(f"{at}\t{word}\t{tag}\t-\t-" for at, (word, tag) in enumerate(sentence, 1)), ""]
    train, de = tmp_path / "en.iob2", plain(tmp_path / "de.txt", "de")
    train.write_text("\n".join(lines), "utf-8")
    config = load(init_recipe(train, [de], folder=tmp_path), tmp_path)
    assert (config.task, config.reader.token_column, config.reader.label_column) == ("ner", 1, 2)
    report = check(tmp_path / "xlt.toml", rate=1e10)
    assert report.ok, report.render()
    assert {row.examples for row in report.files if row.language == "en"} == {30}


def test_tables_under_another_name(tmp_path: Path) -> None:
    train = tmp_path / "en.data"
    train.write_text("label\ttext\n" + "".join(f"{'ab'[i % 2]}\tsome text {i} here\n" for i in range(40)), "utf-8")
    de = plain(tmp_path / "de.txt", "de")
    config = load(init_recipe(train, [de], folder=tmp_path), tmp_path)
    assert config.source.reader is not None
    assert config.source.reader.format == "tsv"
    report = check(tmp_path / "xlt.toml", rate=1e10)
    assert report.ok, report.render()
    # The training file is read by its own format in all stages, so that no label gets into the text.
    assert {row.examples for row in report.files if row.language == "en"} == {40}


def test_csv_and_json_lines(tmp_path: Path) -> None:
    train = tmp_path / "en.csv"
    train.write_text("stars,text\n" + "".join(f'{i % 3},"a text, with {i}"\n' for i in range(30)), "utf-8")
    de = plain(tmp_path / "de.txt", "de")
    config = load(init_recipe(train, [de], folder=tmp_path), tmp_path)
    assert (config.task, config.labels, config.reader.label) == ("classification", ("0", "1", "2"), "stars")
    lines = [{"tokens": [w for w, _ in s], "ner_tags": [t for _, t in s]} for s in rows("en", 30)]
    train = tmp_path / "en.jsonl"
    train.write_text("".join(json.dumps(x) + "\n" for x in lines), "utf-8")
    config = load(init_recipe(train, [de], folder=tmp_path), tmp_path)
    assert (config.task, config.reader.words, config.reader.tags) == ("ner", "tokens", "ner_tags")
    assert check(tmp_path / "xlt.toml", rate=1e10).ok


def annotated(path: Path, count: int) -> Path:
    """What Prodigy exports."""
    lines = []
    for words in rows("en", count):
        text, spans, at = " ".join(word for word, _ in words), [], 0
        for word, tag in words:
            if tag.startswith("B"):
                spans.append({"start": at, "end": at + len(word), "label": tag[2:]})
            elif tag.startswith("I"):
                spans[-1]["end"] = at + len(word)
            at += len(word) + 1
        lines.append({"text": text, "_task_hash": len(text), "spans": spans, "answer": "accept"})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    return path


def test_entities_as_characters(tmp_path: Path) -> None:
    de = plain(tmp_path / "de.txt", "de")
    train = annotated(tmp_path / "en.jsonl", 40)
    config = load(init_recipe(train, [de], folder=tmp_path), tmp_path)
    assert (config.task, config.labels) == ("ner", ("O", "B-LOC", "I-LOC", "B-PER", "I-PER"))
    report = check(tmp_path / "xlt.toml", rate=1e10)
    assert report.ok, report.render()
    # Without the entities nothing is left that could be a label.
    bare = [
        json.loads(line) | {"answer": ("accept", "reject")[i % 2]}
        for i, line in enumerate(train.read_text("utf-8").splitlines())
    ]
    for line in bare:
        del line["spans"]
    train.write_text("".join(json.dumps(line) + "\n" for line in bare), "utf-8")
    with pytest.raises(DataError, match=r"en\.jsonl:1: found no labels"):
        init_recipe(train, [de])


def test_parquet(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    names = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
    table = [{"tokens": [w for w, _ in s], "ner_tags": [names.index(t) for _, t in s]} for s in rows("en", 40)]
    features = {"ner_tags": {"feature": {"names": names, "_type": "ClassLabel"}, "_type": "Sequence"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    import pyarrow

    parquet.write_table(pyarrow.Table.from_pylist(table).replace_schema_metadata(metadata), tmp_path / "en.parquet")
    de = plain(tmp_path / "de.txt", "de")
    config = load(init_recipe(tmp_path / "en.parquet", [de], folder=tmp_path), tmp_path)
    assert (config.task, config.reader.words, config.reader.tags) == ("ner", "tokens", "ner_tags")
    assert config.labels == ("O", "B-LOC", "I-LOC", "B-PER", "I-PER")
    assert check(tmp_path / "xlt.toml", rate=1e10).ok


def test_a_table_without_names(tmp_path: Path) -> None:
    de = plain(tmp_path / "de.txt", "de")
    train = tmp_path / "en.tsv"
    train.write_text("".join(f"{'ab'[i % 2]}\tsome text {i} here\n" for i in range(40)), "utf-8")
    with pytest.raises(DataError, match=r"en\.tsv:1: the first row looks like data.*--no-header"):
        init_recipe(train, [de])
    config = load(init_recipe(train, [de], folder=tmp_path, header=False), tmp_path)
    assert (config.reader.header, config.reader.text, config.reader.label) == (False, "1", "0")
    report = check(tmp_path / "xlt.toml", rate=1e10)
    assert report.ok, report.render()
    assert {row.examples for row in report.files if row.language == "en"} == {40}
    train.write_text("verdict\tsaid\n" + "".join(f"{('accept', 'reject')[i % 2]}\ttext {i}\n" for i in range(40)))
    with pytest.raises(DataError, match="'verdict' are accept, reject, which says what an annotator thought"):
        init_recipe(train, [de])


def test_a_test_file_with_other_names(tmp_path: Path) -> None:
    de = plain(tmp_path / "de.txt", "de")
    train, test = tmp_path / "en.csv", tmp_path / "test.de.tsv"
    train.write_text("utterance,intent\n" + "".join(f"say {i} now,{'ab'[i % 2]}\n" for i in range(40)), "utf-8")
    test.write_text("label\ttext\n" + "".join(f"{'ab'[i % 2]}\tsag {i} jetzt\n" for i in range(20)), "utf-8")
    config = load(init_recipe(train, [de], [test], folder=tmp_path), tmp_path)
    assert (config.reader.text, config.reader.label) == ("utterance", "intent")
    (reader,) = (t.reader for t in config.targets)
    assert reader is not None
    assert (reader.text, reader.label) == ("text", "label")
    report = check(tmp_path / "xlt.toml", rate=1e10)
    assert report.ok, report.render()


def test_columns_in_other_places(tmp_path: Path) -> None:
    de = plain(tmp_path / "de.txt", "de")
    train = conll(tmp_path / "en.conll", "en", line=lambda word, tag, i: f"{i + 1}\t{word}\t{tag}\t_")
    config = load(init_recipe(train, [de], folder=tmp_path), tmp_path)
    assert (config.reader.token_column, config.reader.label_column) == (1, 2)
    assert config.labels == ("O", "B-LOC", "I-LOC", "B-PER", "I-PER")


def test_tag_schemes(tmp_path: Path) -> None:
    de = plain(tmp_path / "de.txt", "de")
    # IOB1 needs no setting: the reader sees it. BIO with an I- that nothing opened needs `repair`.
    iob1 = conll(tmp_path / "en.conll", "en", line=lambda word, tag, i: f"{word} {tag.replace('B-', 'I-')}")
    config = load(init_recipe(iob1, [de], folder=tmp_path), tmp_path)
    assert not config.reader.repair
    assert check(tmp_path / "xlt.toml", rate=1e10).ok
    mixed = conll(tmp_path / "en.conll", "en", line=lambda word, tag, i: f"{word} {tag.replace('B-LOC', 'I-LOC')}")
    result = init_recipe(mixed, [de], folder=tmp_path)
    assert load(result, tmp_path).reader.repair
    assert any("repair" in note for note in result.notes)
    assert check(tmp_path / "xlt.toml", rate=1e10).ok


def test_encodings(tmp_path: Path) -> None:
    train = conll(tmp_path / "en.conll", "en")
    de = tmp_path / "de.txt"
    for encoding, text in (("latin-1", "Käse aus Köln\nTür in Ulm\n"), ("cp1252", "Käse – „Köln“\n")):
        de.write_bytes(text.encode(encoding) * 20)
        (reader,) = (t.reader for t in load(init_recipe(train, [de], folder=tmp_path), tmp_path).targets)
        assert (reader.encoding, reader.unlabelled_encoding) == (None, encoding)
    assert check(tmp_path / "xlt.toml", rate=1e10).ok
    assert sniff(train).encoding == "ascii"


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
    with pytest.raises(DataError) as caught:
        init_recipe(train, [de, other], [test], folder=tmp_path)
    assert str(caught.value).count("\n") == 0
    assert f"{de} is utf-8, {other} is latin-1" in str(caught.value)


def test_encodings_that_cannot_be_told(tmp_path: Path) -> None:
    """Text that is no Western language and not UTF-8, and UTF-8 with a damaged line, are not read as latin-1."""
    train, de = conll(tmp_path / "en.conll", "en"), tmp_path / "de.txt"
    de.write_bytes("где этот дом\n".encode("koi8-r") * 20)
    with pytest.raises(DataError) as caught:
        init_recipe(train, [de], folder=tmp_path)
    expected = "byte 0xc7 is not utf-8; it looks like neither UTF-8 nor latin-1: set reader.encoding"
    assert str(caught.value) == f"{de}:1:1: {expected}"
    de.write_bytes("Käse\n".encode() * 20 + b"M\xfcnchen\n")
    with pytest.raises(DataError) as caught:
        init_recipe(train, [de], folder=tmp_path)
    assert str(caught.value).startswith(f"{de}:21:2: byte 0xfc is not utf-8, but line 1 is in UTF-8: correct the line")
    (target,) = load(init_recipe(train, [de], folder=tmp_path, encoding="mixed"), tmp_path).targets
    assert target.reader is not None
    assert (target.reader.encoding, target.reader.unlabelled_encoding) == (None, "mixed")


def test_labels_that_only_a_test_file_has(tmp_path: Path) -> None:
    test = tmp_path / "de.conll"
    test.write_text("Linux B-MISC\n. O\n\n" * 5, "utf-8")
    result = init_recipe(
        conll(tmp_path / "en.conll", "en"), [plain(tmp_path / "de.txt", "de")], [test], folder=tmp_path
    )
    assert load(result, tmp_path).labels[-2:] == ("B-MISC", "I-MISC")
    assert any("only in test files: B-MISC" in note for note in result.notes)
    report = check(tmp_path / "xlt.toml", rate=1e10)
    assert report.ok
    assert "unseen-label" in [w.name for w in report.warnings]


def test_text_that_is_cut_into_words_already(tmp_path: Path) -> None:
    assert pretokenised(["Ann sees Bob .", "Yes , he said ."])
    assert not pretokenised(["Ann sees Bob.", "Yes, he said."])
    assert not pretokenised(["no punctuation", "at all"])


def test_a_model_folder(tmp_path: Path) -> None:
    train, de = conll(tmp_path / "en.conll", "en"), plain(tmp_path / "de.txt", "de")
    tokenizer = train_wordpiece([*train.read_text().split("\n"), *de.read_text().split("\n")], 200)
    model = tmp_path / "model"
    model.mkdir()
    save_model(MaskedLM(Encoder(EncoderConfig(tokenizer.vocab_size, 32, 4, 2, 64, 40))), model)
    tokenizer.save(model)
    result = init_recipe(train, [de], model=model, folder=tmp_path)
    config = load(result, tmp_path)
    assert config.model.path == model
    assert config.model.new is None
    assert config.btf.on
    assert 16 <= config.max_length <= 40
    assert (config.training.freeze_layers, config.btf.freeze_layers) == (1, 0)
    report = check(tmp_path / "xlt.toml", rate=1e10)
    assert report.ok, report.render()
    assert report.warnings == []
    save_model(Encoder(EncoderConfig(tokenizer.vocab_size, 32, 4, 2, 64, 40)), model)
    result = init_recipe(train, [de], model=model, folder=tmp_path)
    assert not load(result, tmp_path).btf.on
    assert any("masked-language-model head" in note for note in result.notes)
    assert check(tmp_path / "xlt.toml", rate=1e10).ok


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
    (tmp_path / "empty.txt").write_text("", "utf-8")
    with pytest.raises(DataError, match=r"gone\.conll: no such file"):
        init_recipe(tmp_path / "gone.conll", [de])
    with pytest.raises(DataError, match="empty"):
        init_recipe(train, [tmp_path / "empty.txt"])
    with pytest.raises(DataError, match="found no labels"):
        init_recipe(plain(tmp_path / "en.txt", "en"), [de])
    with pytest.raises(ConfigError, match="no unlabelled text"):
        init_recipe(train, [])
    with pytest.raises(ConfigError, match="both look like 'de'"):
        init_recipe(conll(tmp_path / "train.de.conll", "de"), [de])
    with pytest.raises(ConfigError, match="3 target languages for 1"):
        init_recipe(train, [de], target_languages=["de", "fr", "nl"])
    with pytest.raises(ConfigError, match="which language"):
        init_recipe(train, [de], [conll(tmp_path / "fr.conll", "fr"), conll(tmp_path / "de.conll", "de")])
    with pytest.raises(ConfigError, match="second test file for de"):
        init_recipe(train, [de], [conll(tmp_path / "b.de.conll", "de"), conll(tmp_path / "de.conll", "de")])
    bad = tmp_path / "bad.conll"
    bad.write_text(train.read_text() + "\nAnn B-PER extra\n", "utf-8")
    with pytest.raises(DataError, match=rf"bad\.conll:{len(train.read_text().splitlines()) + 2}: 3 columns"):
        init_recipe(bad, [de])


@pytest.mark.parametrize("train", [60, 300, 1500, 12_000])
@pytest.mark.parametrize("words", [3000, 60_000, 600_000, 5_000_000])
def test_settings_can_learn_at_every_size(train: int, words: int) -> None:
    settings = for_new_encoder(train, [train, 2 * train], words)
    tables = settings.tables
    for name, examples in (
        ("finetune", train),
        ("selftrain.soft", min(2 * train, 10_000)),
        ("selftrain.hard", 3 * train),
    ):
        values = {key: value for key, (value, _) in tables[name].items()}
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
    report = check(tmp_path / "xlt.toml", rate=1e10)
    assert report.ok, report.render()
