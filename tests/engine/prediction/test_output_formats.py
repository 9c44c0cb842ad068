"""What `predict` writes: entities with offsets, every format, and that `evaluate` reads those with labels."""

import gzip
import json
import lzma
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from xlt_engine import ConfigError, DataError
from xlt_engine.engine import Predictor, Progress, evaluate_files, predict_file
from xlt_engine.engine.prediction import file_predictor
from xlt_engine.engine.storage.run_warning import RunWarning

LINES = ["Anna lives in Paris", "Carl saw London today", "the city of Oslo is old", "a good book about Berlin"] * 3
ODD = "  Anna\u00a0saw\t(Oslo),  old.\u3000Carl "
INPUT = f"{ODD}\n\nthe city of Oslo 🎉 is old\r\n{LINES[0]}\n"


def written(folder: Path, tmp_path: Path, form: Any, text: str = INPUT, **more: Any) -> list[str]:
    (tmp_path / "in.txt").write_bytes(text.encode())
    predict_file(folder, tmp_path / "in.txt", tmp_path / "out", output_format=form, **more)
    return (tmp_path / "out").read_text().splitlines()


def test_entities_have_the_characters_of_the_line(folders: dict[str, Path], tmp_path: Path) -> None:
    values = [json.loads(line) for line in written(folders["ner"], tmp_path, "entities")]
    lines = INPUT.replace("\r", "").split("\n")
    assert [(v["line"], v["text"]) for v in values] == [(1, ODD), (3, lines[2]), (4, lines[3])]
    entities = [(v["text"], e) for v in values for e in v["entities"]]
    assert len(entities) > 2
    for text, entity in entities:
        assert set(entity) == {"start", "end", "label", "text", "score"}
        assert text[entity["start"] : entity["end"]] == entity["text"] == entity["text"].strip()
        assert entity["label"] == "PER"
        assert 0 < entity["score"] <= 1


def test_entities_are_those_of_the_tags(folders: dict[str, Path]) -> None:
    predictor = Predictor(folders["ner"])
    texts, words = predictor.tag(LINES[:4]), predictor.tag([line.split() for line in LINES[:4]])
    assert texts == words
    for one in texts:
        starts = sum(label.startswith("B-") for label in one.labels if label)
        inside = [w for w, label in zip(one.words, one.labels, strict=True) if label != "O"]
        assert (len(one.entities), " ".join(e.text for e in one.entities).split()) == (starts, inside)


def test_an_entity_with_a_withheld_word_is_withheld(folders: dict[str, Path]) -> None:
    for one in Predictor(folders["ner"], abstain=True, alpha=0.4).tag(LINES):
        kept = {w for w, label in zip(one.words, one.labels, strict=True) if label}
        assert all(set(e.text.split()) <= kept for e in one.entities)
    assert not any(one.entities for one in Predictor(folders["ner"], abstain=True, alpha=1.0).tag(LINES))


def test_spacy_tsv_and_brat_say_the_same_entities(folders: dict[str, Path], tmp_path: Path) -> None:
    values = [json.loads(line) for line in written(folders["ner"], tmp_path, "entities")]
    expected = [[e["start"], e["end"], e["label"]] for v in values for e in v["entities"]]
    spacy = [json.loads(line) for line in written(folders["ner"], tmp_path, "spacy")]
    assert [text for text, _ in spacy] == [v["text"] for v in values]
    assert [e for _, about in spacy for e in about["entities"]] == expected
    header, *rows = [line.split("\t") for line in written(folders["ner"], tmp_path, "tsv")]
    assert header == ["line", "start", "end", "label", "text", "score", "sentence"]
    assert [[int(r[1]), int(r[2]), r[3]] for r in rows if r[1]] == expected
    sentences = [(v["line"], v["text"].replace("\t", " ")) for v in values]
    assert list(dict.fromkeys((int(r[0]), r[6]) for r in rows)) == sentences

    predict_file(folders["ner"], tmp_path / "in.txt", tmp_path / "doc.ann", output_format="brat")
    text = (tmp_path / "doc.txt").read_bytes().decode()
    assert text == INPUT.replace("\r", "")
    lines = (tmp_path / "doc.ann").read_text().splitlines()
    assert len(lines) == len(expected)
    for number, line in enumerate(lines, 1):
        name, place, entity = line.split("\t", 2)
        kind, start, end = place.split()
        assert (name, kind, text[int(start) : int(end)]) == (f"T{number}", "PER", entity)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["doc.ann", "doc.txt", "in.txt", "out"]


@pytest.mark.parametrize(
    ("task", "form", "suffix"),
    [("ner", "conll", "conll"), ("ner", "jsonl", "jsonl"), ("ner", "same", "conll")]
    + [("classification", form, form) for form in ("tsv", "jsonl")],
)
def test_evaluate_reads_what_predict_writes(folders: Any, tmp_path: Path, task: str, form: Any, suffix: str) -> None:
    (tmp_path / "in.txt").write_text(INPUT.replace("\r", ""))
    out = tmp_path / f"out.{suffix}"
    predict_file(folders[task], tmp_path / "in.txt", out, output_format=form)
    result = evaluate_files(folders[task], [out], repair=True)
    assert [score.examples for score in result.scores] == [3]
    # `evaluate` scores the tag of each word alone, so the agreement is not whole where that is not valid.
    raw = tmp_path / f"raw.{suffix}"
    predict_file(folders[task], tmp_path / "in.txt", raw, output_format=form, raw=True)
    (score,) = evaluate_files(folders[task], [raw], repair=True).scores
    assert score.metrics[result.metric] == 100
    if task == "ner":
        evaluate_files(folders[task], [out])


@pytest.mark.parametrize(
    ("form", "name"),
    [("same", "out.txt"), ("spacy", "out"), ("brat", "out.ann"), ("entities", "out.jsonl")]
    + [(form, f"out.{form}") for form in ("conll", "jsonl", "tsv")],
)
def test_another_model_scores_the_same_on_every_format(folders: Any, tmp_path: Path, form: Any, name: str) -> None:
    (tmp_path / "in").write_text("".join(f"{line}\n" for line in [ODD, "", *LINES]))
    predict_file(folders["ner"], tmp_path / "in", tmp_path / name, output_format=form)
    (score,) = evaluate_files(folders["other"], [tmp_path / name], ["de"]).scores
    # What the words and tags themselves give, as the reader of column files has them.
    tagged = Predictor(folders["ner"]).tag([ODD, *LINES])
    rows = ["\n".join(f"{w}\t{t}" for w, t in zip(one.words, one.labels, strict=True)) for one in tagged]
    (tmp_path / "gold.conll").write_text("\n\n".join(rows) + "\n")
    (gold,) = evaluate_files(folders["other"], [tmp_path / "gold.conll"], ["de"]).scores
    assert 0 < gold.metrics["entity_f1"] < 100
    assert (score.metrics, score.classes, score.items) == (gold.metrics, gold.classes, gold.items)


JSON, HEADER = "a.jsonl", "line\tstart\tend\tlabel\ttext\tscore\tsentence\n"


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        (JSON, '{"text": "Anna", "entities": [[9, 12, "PER"]]}', ":1: PER at 9-12 of 4 characters is no part of it"),
        (JSON, '{"text": "Anna", "entities": []}\n{"text": "Anna"}', ":2: no list of entities"),
        (JSON, '["Anna", {"entities": [[0, 4, "PER"], [2, 4, "PER"]]}]', ":1: PER at 2-4 'na' ends within a word"),
        ("a.tsv", f"{HEADER}1\tx\t4\tPER\tAnna\t1\tAnna", ":2: not the columns"),
        ("a.ann", "T1\tPER 0 1;3 4\tAnna", ":1: .* is not an entity in one piece"),
    ],
)
def test_faults_of_files_of_entities(folders: Any, tmp_path: Path, name: str, data: str, message: str) -> None:
    (tmp_path / name).write_text(f"{data}\n")
    (tmp_path / "a.txt").write_text("Anna\n")
    pytest.raises(DataError, evaluate_files, folders["ner"], [tmp_path / name]).match(re.escape(name) + message)


NAMES = {"text": "body", "pair": "more", "label": "class", "words": "tokens", "tags": "ner", "label_map": {"1": "good"}}


def test_a_folder_keeps_the_names_of_fields(folders: dict[str, Path], tmp_path: Path) -> None:
    for task, row in (("ner", {"tokens": ["Anna"], "ner": ["O"]}), ("classification", {"body": "Anna", "more": "b"})):
        folder, train, out = tmp_path / task, tmp_path / "train.jsonl", tmp_path / "out.jsonl"
        shutil.copytree(folders[task], folder)
        about = json.loads((folder / "xlt.json").read_bytes()) | {"extra": {"reader": NAMES}}
        (folder / "xlt.json").write_text(json.dumps(about))
        train.write_text(json.dumps(row | ({} if task == "ner" else {"class": 1})) + "\n")
        assert evaluate_files(folder, [train]).scores[0].examples == 1
        predict_file(folder, train, out, output_format="jsonl")
        assert set(row) < set(json.loads(out.read_text()))
        assert evaluate_files(folder, [out]).scores[0].examples == 1
    (tmp_path / "train.csv").write_text("body,more,class\nAnna,Oslo,1\n")
    assert evaluate_files(folder, [tmp_path / "train.csv"]).scores[0].examples == 1
    predict_file(folder, tmp_path / "train.csv", tmp_path / "out.csv")
    predict_file(folder, tmp_path / "train.csv", tmp_path / "out.tsv", output_format="tsv")
    assert (tmp_path / "out.tsv").read_text().startswith("body\tmore\tclass\tconfidence\n")
    assert evaluate_files(folder, [tmp_path / "out.tsv"]).scores[0].metrics["accuracy"] == 100
    pytest.raises(DataError, predict_file, folder, tmp_path / "train.csv", text_column="text").match("no column 'text'")


def test_a_pair_in_a_table(folders: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text('{"a": "Anna", "b": "old\\tcity"}\n')
    options: Any = {"text_column": "a", "pair_column": "b", "output_format": "tsv"}
    predict_file(folders["classification"], tmp_path / "in.jsonl", tmp_path / "out.tsv", **options)
    header, row = [line.split("\t") for line in (tmp_path / "out.tsv").read_text().splitlines()]
    assert (header, row[:2]) == (["text", "pair", "label", "confidence"], ["Anna", "old city"])
    assert evaluate_files(folders["classification"], [tmp_path / "out.tsv"], pair="pair").scores[0].examples == 1


def test_formats_that_do_not_fit(folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="format entities is not for classification; give --format same, jsonl, tsv"):
        written(folders["classification"], tmp_path, "entities")
    pytest.raises(ConfigError, written, folders["ner"], tmp_path, "brat").match(r"give --out NAME\.ann")


class Listener(Progress):
    def __init__(self) -> None:
        self.seen: list[Any] = []

    def warning(self, warning: RunWarning) -> None:
        self.seen.append(warning.name)

    def begin_reading(self, name: str, total: int) -> None:
        self.seen.append(total)

    def read(self, done: int, total: int, new: int) -> None:
        self.seen.append((done, new))

    def end(self, stage: str, text: str) -> None:
        self.seen.append(text)


@pytest.mark.parametrize("standard", [False, True])
def test_progress_of_a_file(folders: dict[str, Path], tmp_path: Path, monkeypatch: Any, standard: bool) -> None:
    quick, slow, size = Listener(), Listener(), sum(len(line) + 1 for line in LINES)
    written(folders["ner"], tmp_path, "conll", "".join(f"{line}\n" for line in LINES), progress=quick)
    monkeypatch.setattr(file_predictor, "PATIENCE", -1.0)
    monkeypatch.setattr(file_predictor, "CHUNK_RECORDS", 6)  # of standard input five lines are read to tell the format
    with (tmp_path / "in.txt").open() as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        predict_file(folders["ner"], "-" if standard else tmp_path / "in.txt", tmp_path / "out", progress=slow)
    last = sum(len(line) + 1 for line in LINES[6:])
    assert (quick.seen, slow.seen) == ([], [size, (size, last), "12 texts labelled"])


def test_progress_of_a_packed_file(folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its bytes on the disk are what is counted, and they end where the file does."""
    monkeypatch.setattr(file_predictor, "PATIENCE", -1.0)
    openers: dict[str, Any] = {"in.txt.gz": gzip.open, "in.txt.xz": lzma.open}
    for name, opener in openers.items():
        with opener(tmp_path / name, "wb") as file:
            file.write("".join(f"{line}\n" for line in LINES * 100).encode())
        listener, size = Listener(), (tmp_path / name).stat().st_size
        predict_file(folders["ner"], tmp_path / name, tmp_path / "out", progress=listener)
        total, *read, said = listener.seen
        assert (total, said) == (size, "1,200 texts labelled")
        assert ([done for done, _ in read], read[-1][0]) == (sorted(done for done, _ in read), size)


def test_raw_text_for_a_model_of_tokenised_text(folders: dict[str, Path], tmp_path: Path) -> None:
    listener = Listener()
    written(folders["ner"], tmp_path, "conll", "Anna, Carl saw Oslo.\n", split="whitespace", progress=listener)
    assert listener.seen == ["raw-text"]
    for text, split in (("Anna , Carl saw Oslo .\n", "whitespace"), ("Anna, Carl saw Oslo.\n", "punctuation")):
        predictor = Predictor(folders["ner"], split=split)  # type: ignore[arg-type]
        predictor.tag([text])
        assert predictor.warnings == []


@pytest.mark.parametrize(
    "text", ["北京是中国的首都。", "ประเทศไทยสวยงามมาก", "東京は日本の首都であり、人口が最も多い都市である。"]
)
def test_scripts_without_spaces(folders: dict[str, Path], text: str) -> None:
    for split in ("punctuation", "whitespace"):
        with pytest.raises(ConfigError, match="would be one word.*--split characters"):
            Predictor(folders["ner"], split=split).tag([text])  # type: ignore[arg-type]
    (one,) = Predictor(folders["ner"], split="characters").tag([text])
    assert "".join(one.words) == text
    assert len(one.words) > len(text) / 2
    (mixed,) = Predictor(folders["ner"], split="characters").tag(["北京2008年 New-York, ok"])
    assert mixed.words == ("北", "京", "2008", "年", "New-York", ",", "ok")
    # Text that comes cut into words, and a foreign name in other text, are as they were.
    Predictor(folders["ner"]).tag(["北京 是 中国 的 首都 。"])
    Predictor(folders["ner"]).tag([f"Anna lives in the city of Oslo, that is Oslo and not {text}"])
