"""Plain tags (task `tag`): one store from every format, a run, and its scores counted again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from xlt_engine import ConfigError
from xlt_engine.data import Tokenizer, build_store, train_wordpiece
from xlt_engine.engine import evaluate_files, load_recipe, predict_file
from xlt_engine.engine.preflight.checker import check
from xlt_engine.engine.preflight.init_writer import init_recipe
from xlt_engine.engine.reading.read_file import read_file
from xlt_engine.engine.runs.runner import run
from xlt_engine.model import Encoder, EncoderConfig, LinearHead, MaskedLM, TaskModel, load_task_model, save_model

CLASSES = ("DET", "NOUN", "PROPN", "PUNCT", "VERB")
FEATURES = {"upos": {"feature": {"names": list(CLASSES), "_type": "ClassLabel"}, "_type": "Sequence"}}
WORDS = {"DET": ["the", "a"], "NOUN": ["cat", "dog", "house"], "PROPN": ["Ann", "Bob"], "VERB": ["sees", "eats"]}
Sentence = tuple[list[str], list[str]]


def sentences(count: int, shift: int) -> list[Sentence]:
    made = []
    for i in range(shift, count + shift):
        tags = ["DET", "NOUN", "VERB", "PROPN"] if i % 2 else ["PROPN", "VERB", "DET", "NOUN"]
        words = [WORDS[tag][(i * i + k) % len(WORDS[tag])] for k, tag in enumerate(tags)]
        made.append(([*words, f"w{i}", "."], [*tags, "NOUN", "PUNCT"]))
    return made


def conllu(path: Path, rows: list[Sentence]) -> Path:
    text = ""
    for words, tags in rows:
        lines = [
            f"{k}\t{w}\t_\t{t}\t{t}-x\t_\t0\tdep\t_\t_\n"
            for k, (w, t) in enumerate(zip(words, tags, strict=True), start=1)
        ]
        beside = "1-2\tboth\t" + "\t".join("_" * 8) + "\n", "1.1\tempty\t_\tX" + "\t_" * 6 + "\n"
        text += "# text = " + " ".join(words) + "\n" + beside[0] + lines[0] + beside[1] + "".join(lines[1:]) + "\n"
    path.write_text(text, "utf-8")
    return path


def columns(path: Path, rows: list[Sentence]) -> Path:
    path.write_text("".join("".join(f"{w}\t{t}\n" for w, t in zip(*row, strict=True)) + "\n" for row in rows), "utf-8")
    return path


def strings(path: Path, rows: list[Sentence]) -> Path:
    path.write_text("".join(json.dumps({"tokens": w, "upos": t}) + "\n" for w, t in rows), "utf-8")
    return path


def numbers(path: Path, rows: list[Sentence]) -> Path:
    (path.parent / "dataset_info.json").write_text(json.dumps({"features": FEATURES}), "utf-8")
    return strings(path, [(w, [CLASSES.index(x) for x in t]) for w, t in rows])  # type: ignore[misc]


def arrow(path: Path, rows: list[Sentence]) -> Path:
    data = {"tokens": [w for w, _ in rows], "upos": [[CLASSES.index(x) for x in t] for _, t in rows]}
    metadata = {"huggingface": json.dumps({"info": {"features": FEATURES}})}
    parquet.write_table(pyarrow.table(data).replace_schema_metadata(metadata), path)
    return path


FORMATS = {"conllu": conllu, "conll": columns, "jsonl": strings, "ndjson": numbers, "parquet": arrow}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an encoder, and a finished run of the recipe that `init` writes for CoNLL-U."""
    folder = tmp_path_factory.mktemp("tag")
    tokenizer = train_wordpiece([" ".join(w) for w, _ in sentences(24, 0)], 120)
    (folder / "encoder").mkdir()
    save_model(MaskedLM(Encoder(EncoderConfig(tokenizer.vocab_size, 16, 1, 2, 32, 40))), folder / "encoder")
    tokenizer.save(folder / "encoder")
    test = conllu(folder / "test.de.conllu", sentences(9, 50))
    recipe(folder, conllu(folder / "en.conllu", sentences(24, 0)), test)
    short = ["btf.epochs=1", "selftrain.hard.epochs=1", "selftrain.rounds=1", "max_length=32"]
    short += [f"{table}.{key}" for table in ("selftrain.soft", "finetune") for key in ("epochs=6", "lr=0.01")]
    run(folder / "xlt.toml", run_dir=folder / "runs", overrides=[*short, 'selftrain.alpha.rule="fixed:0.1"'])
    return folder


def recipe(folder: Path, source: Path, *tests: Path) -> str:
    """What `init` writes, looked at by `check`."""
    unlabelled = folder / "de.txt"
    unlabelled.write_text("".join(" ".join(w) + "\n" for w, _ in sentences(24, 30)), "utf-8")
    encoder = next(p / "encoder" for p in (folder, folder.parent) if (p / "encoder").exists())
    result = init_recipe(
        source, [unlabelled], tests, model=encoder, folder=folder, language="en", target_languages=["de"]
    )
    (folder / "xlt.toml").write_text(result.text, "utf-8")
    report = check(folder / "xlt.toml", rate=1e10)
    assert report.ok, report.render()
    return result.text


def test_every_format_gives_the_same_store(world: Path) -> None:
    stores: dict[str, dict[str, bytes]] = {}
    for ending, write in FORMATS.items():
        folder = world / ending
        folder.mkdir()
        text = recipe(folder, write(folder / f"en.{ending}", sentences(24, 0)))
        assert 'task = "tag"  # one tag per word, no entities' in text
        config = load_recipe(folder / "xlt.toml").config
        assert config.labels == CLASSES
        examples = [replace(e, id=str(i)) for i, e in enumerate(read_file(config, config.source.train, language="en"))]
        options: Any = {"folder": folder / "store", "task": "tag", "labels": config.labels, "max_length": 32}
        build_store(examples, Tokenizer.from_folder(world / "encoder"), **options)
        stores[ending] = {path.name: path.read_bytes() for path in (folder / "store").iterdir()}
    assert all(store == stores["conllu"] for store in stores.values())


def test_scores_are_those_of_the_words_counted_again(world: Path) -> None:
    model, test, out = world / "runs/seed-0/de/hard1", world / "test.de.conllu", world / "out.conllu"
    predict_file(model, test, out)
    gold = [tag for _, tags in sentences(9, 50) for tag in tags]
    before, after = (path.read_text("utf-8").split("\n") for path in (test, out))
    words = [k for k, line in enumerate(before) if line[:1].isdigit() and line[1] == "\t"]
    assert [line for k, line in enumerate(before) if k not in words] == [
        line for k, line in enumerate(after) if k not in words
    ]
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
            predict_file(model, test, world / "out.ann", output_format=name)  # type: ignore[arg-type]


def test_transformers_gives_the_same_tags(world: Path) -> None:
    transformers = pytest.importorskip("transformers")
    stage = world / "runs/seed-0/de/finetune"
    pipeline: Any = transformers.pipeline("token-classification", str(stage))
    out = world / "text.jsonl"
    predict_file(stage, world / "de.txt", out, output_format="jsonl")
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


def test_rules_of_entities_are_refused(world: Path) -> None:
    for key in ('selftrain.alpha.items="entities"', 'selftrain.target_filter="entity"', 'reader.scheme="bio"'):
        pytest.raises(ConfigError, load_recipe, world / "xlt.toml", [key]).match(key.split("=")[0])
