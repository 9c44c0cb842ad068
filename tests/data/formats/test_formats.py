"""What users have, in every format, by the way that they go: init, check, run, evaluate, predict.

Every format makes the store of the plainest one, to the byte, so that runs of all of them end in the same weights.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import written as files

from xlt_engine import ConfigError, DataError
from xlt_engine.data import Tokenizer, build_store, train_wordpiece
from xlt_engine.engine import evaluate_files, load_recipe, predict_file
from xlt_engine.engine.preflight.checker import check
from xlt_engine.engine.preflight.init_writer import init_recipe
from xlt_engine.engine.reading.read_file import read_file
from xlt_engine.engine.recipe.config import RunConfig
from xlt_engine.engine.runs.runner import run
from xlt_engine.model import Encoder, EncoderConfig, LinearHead, MaskedLM, TaskModel, load_task_model, save_model

COUNT = 24
NAMES = {"text": "text", "label": "label", "words": "words", "tags": "tags", "token_column": 0, "header": True}
"""What columns and fields are called where nothing else is said; the models here know others."""


class World(NamedTuple):
    """An encoder that knows the words, and a finished run: its model, and what it gives on the plainest file."""

    encoder: Path
    model: Path
    content: dict[str, bytes]
    scores: dict[str, float]
    predicted: list[Any]


def recipe_of(
    folder: Path, source: Path, rows: list[Any], encoder: Path | None = None, *tests: Path, **options: Any
) -> RunConfig:
    """What `init` writes for a file, looked at by `check`."""
    unlabelled = folder / "de.txt"
    unlabelled.write_text("".join(row.text + "\n" for row in rows), "utf-8")
    languages: Any = {"language": "en", "target_languages": ["de"]}
    result = init_recipe(source, [unlabelled], tests, model=encoder, folder=folder, **languages, **options)
    (folder / "xlt.toml").write_text(result.text, "utf-8")
    report = check(folder / "xlt.toml", rate=1e10)
    assert report.ok, report.render()
    return load_recipe(folder / "xlt.toml").config


def write_encoder(folder: Path, text: list[str], size: int) -> Path:
    tokenizer = train_wordpiece(text, size)
    folder.mkdir()
    save_model(MaskedLM(Encoder(EncoderConfig(tokenizer.vocab_size, 16, 1, 2, 32, 40))), folder)
    tokenizer.save(folder)
    return folder


def content(folder: Path, config: RunConfig, encoder: Path) -> dict[str, bytes]:
    """The files of the store of a recipe's training file; its examples are named by their order, not by their line."""
    examples = [replace(e, id=str(i)) for i, e in enumerate(read_file(config, config.source.train, language="en"))]
    options: Any = {"folder": folder / "store", "task": config.task, "labels": config.labels, "max_length": 32}
    build_store(examples, Tokenizer.from_folder(encoder), **options)
    return {path.name: path.read_bytes() for path in (folder / "store").iterdir()}


def predicted(model: Path, file: Path, out: Path, **options: Any) -> list[Any]:
    predict_file(model, file, out, output_format="jsonl", **options)
    lines = [json.loads(line) for line in out.read_text("utf-8").splitlines()]
    # The rest of a line is what the file had, or where it was read.
    return [[line[key] for key in ("confidence", "agree")] for line in lines]


def columns_of(names: dict[str, Any]) -> dict[str, Any]:
    """The options of `predict_file` for the names of a reader."""
    of = {"text": "text_column", "words": "words_column", "token_column": "token_column", "header": "header"}
    return {option: names[name] for name, option in of.items()}


def hard_student(folder: Path) -> Path:
    """The last stage of a run of the folder's recipe."""
    short = [f"{table}.epochs=1" for table in ("btf", "finetune", "selftrain.soft", "selftrain.hard")]
    more = ["selftrain.rounds=1", 'selftrain.alpha.rule="fixed:0.1"', "max_length=32"]
    run(folder / "xlt.toml", run_dir=folder / "runs", overrides=[*short, *more])
    return folder / "runs" / "seed-0" / "de" / "hard1"


def make_world(
    folder: Path, rows: Callable[[str, int], list[Any]], formats: dict[str, Any], chosen: list[str]
) -> World:
    text = [row.text for language in ("en", "de") for row in rows(language, COUNT)]
    encoder = write_encoder(folder / "encoder", text, 160)
    places = [folder / language for language in ("en", "de", "plain")]
    for place in places:
        place.mkdir()
    source = formats[chosen[0]](places[0], rows("en", COUNT))
    test = formats[chosen[1]](places[1], rows("de", COUNT))
    recipe_of(folder, source, rows("de", COUNT), encoder, test)
    model = hard_student(folder)
    plain = formats[next(iter(formats))](places[2], rows("en", COUNT))
    config = recipe_of(places[2], plain, rows("de", COUNT), encoder)
    return World(
        encoder,
        model,
        content(places[2], config, encoder),
        evaluate_files(model, [plain], **NAMES).scores[0].metrics,
        predicted(model, plain, folder / "out.jsonl", **columns_of(NAMES)),
    )


@pytest.fixture(scope="module")
def tagger(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("ner"), files.sentences, files.TAGGED, ["Prodigy", "parquet"])


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("cls"), files.reviews, files.CLASSIFIED, ["json lines", "csv, gz"])


def reads_the_same(
    world: World, folder: Path, file: Path, rows: list[Any], *, labels: bool = True, header: bool = True
) -> None:
    """`labels`: whether `predict` takes the format."""
    config = recipe_of(folder, file, rows, world.encoder, header=header)
    assert content(folder, config, world.encoder) == world.content
    names = {name: getattr(config.reader, name) for name in [*NAMES, "label_column"]}
    kind = (config.source.reader.format if config.source.reader else None) or "auto"
    assert evaluate_files(world.model, [file], file_format=kind, **names).scores[0].metrics == world.scores
    if labels:
        assert predicted(world.model, file, folder / "out", input_format=kind, **columns_of(names)) == world.predicted


@pytest.mark.parametrize("form", files.TAGGED)
def test_tagged(tagger: World, tmp_path: Path, form: str) -> None:
    if form == "DocBin":
        pytest.importorskip("spacy", reason="spaCy writes these files and reads them, and is not installed")
    file = files.TAGGED[form](tmp_path, files.sentences("en", COUNT))
    reads_the_same(tagger, tmp_path, file, files.sentences("de", COUNT), labels=form != "words and tags of predict")


@pytest.mark.parametrize("form", files.CLASSIFIED)
def test_classified(classifier: World, tmp_path: Path, form: str) -> None:
    file = files.CLASSIFIED[form](tmp_path, files.reviews("en", COUNT))
    header, labels = form != "tsv without names", form != "webis-cls"
    reads_the_same(classifier, tmp_path, file, files.reviews("de", COUNT), labels=labels, header=header)


def refused(folder: Path, name: str, text: str) -> str:
    """What `init` says of a training file."""
    (folder / name).write_text(text, "utf-8")
    (folder / "de.txt").write_text("Ein Text.\n" * 30, "utf-8")
    caught = pytest.raises(DataError, init_recipe, folder / name, [folder / "de.txt"], language="en", folder=folder)
    return str(caught.value)


def test_misreadings_are_errors(tmp_path: Path) -> None:
    """What was read without a word, and was wrong: each says what to write."""
    reviews = files.reviews("en", 40)
    answers = [
        {"text": r.text, "_task_hash": i, "answer": ("accept", "reject")[i % 3 == 0]} for i, r in enumerate(reviews)
    ]
    lines = "".join(json.dumps(row) + "\n" for row in answers)
    assert "found no labels; give" in (said := refused(tmp_path, "a.jsonl", lines))
    assert "--label-column NAME" in said
    rows = "".join(f"{r.text}\t{r.label}\n" for r in reviews)
    assert "looks like data" in (said := refused(tmp_path, "b.tsv", rows))
    assert said.endswith("add a row of names, or give --no-header")
    verdicts = "text\tlabel\n" + "".join(f"{r.text}\t{a['answer']}\n" for r, a in zip(reviews, answers, strict=True))
    assert "'label' are accept, reject, which says" in (said := refused(tmp_path, "c.tsv", verdicts))
    assert said.endswith("give --label-column label")
    config = recipe_of(tmp_path, tmp_path / "c.tsv", reviews, label_column="label")
    assert config.labels == ("accept", "reject")
    texts = "target\tverdict\n" + "".join(f"{r.text}\t{r.label}\n" for r in reviews)
    assert "'target' has 40 values in 40 rows" in (said := refused(tmp_path, "d.tsv", texts))
    assert "name the right column" in said
    config = recipe_of(tmp_path, tmp_path / "d.tsv", reviews, label_column="verdict")
    assert (config.reader.text, config.reader.label, config.labels) == ("target", "verdict", files.CLASSES)
    one = "text\tlabel\n" + "".join(f"{r.text}\t1\n" for r in reviews)
    assert "one label only (1)" in refused(tmp_path, "e.tsv", one)
    numbers = "".join(json.dumps(files.numbered(s)) + "\n" for s in files.sentences("en", 9))
    assert 'reader.tag_names = ["O", ' in refused(tmp_path, "f.jsonl", numbers)


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an encoder, and a finished run of the recipe that `init` writes for CoNLL-U (task `tag`)."""
    folder, rows = tmp_path_factory.mktemp("tag"), files.parts_of_speech(COUNT, 0)
    encoder = write_encoder(folder / "encoder", [row.text for row in rows], 120)
    (folder / "de").mkdir()
    test = files.conllu(folder / "de", files.parts_of_speech(9, 50))
    recipe_of(folder, files.conllu(folder, rows), files.parts_of_speech(COUNT, 30), encoder, test)
    short = ["btf.epochs=1", "selftrain.hard.epochs=1", "selftrain.rounds=1", "max_length=32"]
    short += [f"{table}.{key}" for table in ("selftrain.soft", "finetune") for key in ("epochs=6", "lr=0.01")]
    run(folder / "xlt.toml", run_dir=folder / "runs", overrides=[*short, 'selftrain.alpha.rule="fixed:0.1"'])
    return folder


def test_plain_tags_of_every_format_give_the_same_store(parts: Path, tmp_path: Path) -> None:
    stores = []
    for form, write in files.PLAIN.items():
        folder = tmp_path / form
        folder.mkdir()
        file, rows = write(folder, files.parts_of_speech(COUNT, 0)), files.parts_of_speech(COUNT, 30)
        config = recipe_of(folder, file, rows, parts / "encoder")
        assert (config.task, config.labels) == ("tag", files.PARTS)
        assert 'task = "tag"  # one tag per word, no entities' in (folder / "xlt.toml").read_text("utf-8")
        stores.append(content(folder, config, parts / "encoder"))
    assert all(store == stores[0] for store in stores)


def test_scores_are_those_of_the_words_counted_again(parts: Path) -> None:
    model, test, out = parts / "runs/seed-0/de/hard1", parts / "de" / "train.conllu", parts / "out.conllu"
    predict_file(model, test, out)
    gold = [tag for s in files.parts_of_speech(9, 50) for tag in s.tags]
    before, after = (path.read_text("utf-8").split("\n") for path in (test, out))
    words = [k for k, line in enumerate(before) if line[:1].isdigit() and line[1] == "\t"]
    others = [[line for k, line in enumerate(text) if k not in words] for text in (before, after)]
    assert others[0] == others[1]
    said = [after[k].split("\t")[3] for k in words]
    right = sum(g == p for g, p in zip(gold, said, strict=True))
    f1 = []
    for name in sorted({*gold, *said}):
        both = sum(g == p == name for g, p in zip(gold, said, strict=True))
        f1.append(200 * both / (gold.count(name) + said.count(name)))
    (score,) = evaluate_files(model, [test]).scores
    assert score.metrics == pytest.approx({"accuracy": 100 * right / len(gold), "macro_f1": sum(f1) / len(f1)})
    assert score.items == len(gold)
    rows = json.loads((model / "scores.json").read_text("utf-8"))["scores"]
    ran = {row["metric"]: row["value"] for row in rows if row["language"] == "de"}
    assert ran == pytest.approx(score.metrics)
    for name in ("tsv", "entities", "spacy", "brat"):
        with pytest.raises(ConfigError, match=f"format {name} is not for tag"):
            predict_file(model, test, parts / "out.ann", output_format=name)  # type: ignore[arg-type]


def test_transformers_gives_the_same_tags(parts: Path) -> None:
    transformers = pytest.importorskip("transformers")
    stage = parts / "runs/seed-0/de/finetune"
    pipeline: Any = transformers.pipeline("token-classification", str(stage))
    out = parts / "text.jsonl"
    predict_file(stage, parts / "de.txt", out, output_format="jsonl")
    for line in map(json.loads, out.read_text("utf-8").splitlines()[:6]):
        pieces = {piece["start"]: piece["entity"] for piece in pipeline(" ".join(line["words"]), ignore_labels=[])}
        starts = [sum(len(word) + 1 for word in line["words"][:k]) for k in range(len(line["words"]))]
        assert [pieces[start] for start in starts] == line["tags"]


@pytest.mark.parametrize(
    ("labels", "task"),
    [("NOUN VERB", "tag")]
    + [(x, "ner") for x in ("O B-PER I-PER", "O S-PER B-PER E-PER", "O PER", "I-PER I-LOC", "LABEL_0 LABEL_1")],
)
def test_task_of_a_transformers_folder_goes_by_its_labels(tmp_path: Path, labels: str, task: str) -> None:
    encoder = Encoder(EncoderConfig(8, 16, 1, 2, 32, 40))
    save_model(TaskModel(encoder, LinearHead(16, len(labels.split()), 0.1), "ner", labels.split()), tmp_path)
    (tmp_path / "xlt.json").unlink()
    assert load_task_model(tmp_path).task == task


def test_rules_of_entities_are_refused(parts: Path) -> None:
    for key in ('selftrain.alpha.items="entities"', 'selftrain.target_filter="entity"', 'reader.scheme="bio"'):
        pytest.raises(ConfigError, load_recipe, parts / "xlt.toml", [key]).match(key.split("=")[0])
