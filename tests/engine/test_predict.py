from __future__ import annotations

import csv
import io
import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from xlt_engine import ConfigError, DataError, DivergedError, ModelError, StorageError
from xlt_engine.data import Tokenizer, pack, train_wordpiece
from xlt_engine.engine import Prediction, Predictor, TagPrediction, predict, predict_file
from xlt_engine.engine import predict_file as predict_file_function
from xlt_engine.engine.windows import cut_windows
from xlt_engine.model import Encoder, EncoderConfig, LinearHead, TaskModel, VoterHeads, save_model

LINES = ["Anna lives in Paris", "Carl saw London today", "the city of Oslo is old", "a good book about Berlin"] * 3
TAGS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
CLASSES = ("good", "bad", "fair")
SENTENCES = [line.split() for line in LINES[:4]] + [["Anna"], ["Anna", "saw", "Anna"] * 2]
module = sys.modules["xlt_engine.engine.predict_file"]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_wordpiece(LINES, 60, min_frequency=1)


def make_model(tokenizer: Tokenizer, task: str, voters: int = 3, positions: int = 24) -> TaskModel:
    labels = TAGS if task == "ner" else CLASSES
    config = EncoderConfig(tokenizer.vocab_size, 16, 1, 2, 32, positions, initializer_range=0.5)
    if voters == 1:
        head: LinearHead | VoterHeads = LinearHead(16, len(labels), seed=5, initializer_range=0.8)
    else:
        head = VoterHeads(16, len(labels), (12, 13, 14)[:voters], seed=5, initializer_range=0.8)
    return TaskModel(Encoder(config, seed=3), head, task, labels)


@pytest.fixture(scope="module")
def tagger(tokenizer: Tokenizer) -> TaskModel:
    return make_model(tokenizer, "ner")


@pytest.fixture(scope="module")
def classifier(tokenizer: Tokenizer) -> TaskModel:
    return make_model(tokenizer, "classification")


@pytest.fixture(scope="module")
def tagger_folder(tagger: TaskModel, tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tagger")
    save_model(tagger, folder)
    tokenizer.save(folder)
    return folder


@pytest.fixture(scope="module")
def classifier_folder(classifier: TaskModel, tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("classifier")
    save_model(classifier, folder)
    tokenizer.save(folder)
    return folder


def probabilities(model: TaskModel, ids: list[int], items: list[int], segments: list[int] | None = None) -> np.ndarray:
    """Every voter's softmax in float64, [M, K, C], of one sequence alone."""
    with torch.no_grad():
        batch = pack([ids], None if segments is None else [segments], items=[items])
        logits = model(batch).double().numpy()
    power = np.exp(logits - logits.max(axis=-1, keepdims=True))
    result: np.ndarray = power / power.sum(axis=-1, keepdims=True)
    return result


def of_words(model: TaskModel, tokenizer: Tokenizer, words: list[str]) -> np.ndarray:
    encoded = tokenizer.encode_words([words])[0]
    return probabilities(model, encoded.ids, encoded.positions)


def tags(model: TaskModel, tokenizer: Tokenizer, sentences: list[list[str]], **more: object) -> list[TagPrediction]:
    found = predict(model, sentences, tokenizer=tokenizer, **more)  # type: ignore[arg-type]
    assert all(isinstance(f, TagPrediction) for f in found)
    return found  # type: ignore[return-value]


@pytest.mark.parametrize("batch_tokens", [8, 4096])
def test_tags_are_the_most_probable_of_the_mean(tagger: TaskModel, tokenizer: Tokenizer, batch_tokens: int) -> None:
    found = tags(tagger, tokenizer, SENTENCES, batch_tokens=batch_tokens)
    seen = set()
    for words, one in zip(SENTENCES, found, strict=True):
        each = of_words(tagger, tokenizer, words)
        mean = each.mean(axis=0)
        assert one.words == tuple(words)
        assert one.labels == tuple(TAGS[i] for i in mean.argmax(axis=-1))
        np.testing.assert_allclose(one.confidences, mean.max(axis=-1), rtol=2e-5)
        assert one.agree == tuple((each.argmax(-1) == each.argmax(-1)[0]).all(axis=0))
        seen |= {*one.labels} | {*one.agree}
    assert {True, False} < seen, "the model must agree on some words and disagree on others"
    assert len(seen) > 4, "the model must give several tags"


def test_classes_and_pairs(classifier: TaskModel, tokenizer: Tokenizer) -> None:
    texts, pairs = LINES[:4], [None, "Anna saw Oslo", None, "old"]
    found = predict(classifier, texts, pairs=pairs, tokenizer=tokenizer)
    for text, pair, one in zip(texts, pairs, found, strict=True):
        assert isinstance(one, Prediction)
        encoded = tokenizer.encode_texts([text], [pair])[0]
        segments = [int(encoded.second is not None and t >= encoded.second) for t in range(len(encoded.ids))]
        mean = probabilities(classifier, encoded.ids, [0], segments).mean(axis=0)[0]
        assert one.label == CLASSES[mean.argmax()]
        assert list(one.probabilities) == list(CLASSES)
        np.testing.assert_allclose(list(one.probabilities.values()), mean, rtol=2e-5)
        assert one.confidence == max(one.probabilities.values())


@pytest.mark.parametrize("alpha", [0.0, 0.4, 0.6, 1.0])
def test_abstaining_is_the_strict_policy(tagger: TaskModel, tokenizer: Tokenizer, alpha: float) -> None:
    predictor = Predictor(tagger, tokenizer=tokenizer, abstain=True, alpha=alpha)
    left_out = 0
    for words, one in zip(SENTENCES, predictor.tag(SENTENCES), strict=True):
        each = of_words(tagger, tokenizer, words)
        choice, least = each.argmax(axis=-1), each.max(axis=-1).min(axis=0)
        kept = (choice == choice[0]).all(axis=0) & (least > alpha)
        assert one.labels == tuple(TAGS[c] if k else None for c, k in zip(choice[0], kept, strict=True))
        np.testing.assert_allclose(one.confidences, least, rtol=2e-5)
        left_out += int((~kept).sum())
    assert predictor.counts["abstained"] == left_out
    assert predictor.notes()[0].startswith(f"no label for {left_out} of {predictor.counts['words']} words")


def test_a_class_is_withheld_where_voters_disagree(classifier: TaskModel, tokenizer: Tokenizer) -> None:
    found = predict(classifier, LINES[:4] + ["Oslo", "old"], tokenizer=tokenizer, abstain=True, alpha=0.0)
    assert [f.label is None for f in found] == [not f.agree for f in found]  # type: ignore[union-attr]


def test_every_word_is_decided_once_by_the_window_with_most_context() -> None:
    rng = random.Random(4)
    for _ in range(300):
        room = rng.randint(2, 20)
        pieces = [rng.choice([1, 1, 1, 2, 3, 30]) for _ in range(rng.randint(1, 40))]
        starts = [sum(pieces[:i]) for i in range(len(pieces))]
        total = sum(pieces)
        spans = cut_windows(starts, total, room)
        decided = [word for _, members in spans for word in members]
        assert sorted(decided) == list(range(len(starts)))
        begins = [begin for begin, _ in spans]
        assert begins == sorted(set(begins))
        assert set(begins) <= set(starts)
        if total <= room:
            assert len(spans) == 1
        for begin, members in spans:
            for word in members:
                start, end = starts[word], starts[word] + pieces[word]
                assert begin <= start < begin + room

                def context(b: int, start: int = start, end: int = end) -> int:
                    return min(
                        start - b if b else total, b + room - end if b + room < total else total  # noqa: B023
                    )

                holding = [b for b in begins if b <= start < b + room]
                assert context(begin) == max(map(context, holding))


def test_long_sentences_are_read_in_windows(tagger: TaskModel, tokenizer: Tokenizer) -> None:
    words = [word for line in LINES for word in line.split()]
    predictor = Predictor(tagger, tokenizer=tokenizer)
    one = predictor.tag([words])[0]
    assert len(one.labels) == len(words)
    assert one.windows > 2
    assert min(one.confidences) > 0
    assert predictor.counts["windowed"] == 1
    assert "read in windows" in predictor.notes()[0]

    # Each word's result is that of one of the windows, each window run alone.
    encoded = tokenizer.encode_words([words])[0]
    body, starts = encoded.ids[1:-1], [p - 1 for p in encoded.positions]
    for begin, members in cut_windows(starts, len(body), 22):
        ids = [tokenizer.cls_id, *body[begin : begin + 22], tokenizer.sep_id]
        mean = probabilities(tagger, ids, [starts[w] - begin + 1 for w in members]).mean(axis=0)
        np.testing.assert_allclose([one.confidences[w] for w in members], mean.max(axis=-1), rtol=2e-5)


def test_without_windows_words_beyond_the_length_are_outside(tagger: TaskModel, tokenizer: Tokenizer) -> None:
    words = [word for line in LINES for word in line.split()]
    predictor = Predictor(tagger, tokenizer=tokenizer, windows=False)
    one = predictor.tag([words])[0]
    kept = tokenizer.encode_words([words], max_length=24)[0]
    assert predictor.counts["cut"] == kept.cut > 0
    mean = probabilities(tagger, kept.ids, kept.positions).mean(axis=0)
    n = len(kept.words)
    np.testing.assert_allclose(one.confidences[:n], mean.max(axis=-1), rtol=2e-5)
    assert set(one.labels[n:]) == {"O"}
    assert set(one.confidences[n:]) == {0.0}


def test_words_without_tokens_keep_their_place(tagger: TaskModel, tokenizer: Tokenizer) -> None:
    one, nothing, blank = tags(tagger, tokenizer, [["Anna", "\u200b", " ", "Oslo"], [], ["\u200b"]])
    plain = tags(tagger, tokenizer, [["Anna", "Oslo"]])[0]
    assert (one.labels[0], one.labels[3]) == plain.labels
    assert one.labels[1:3] == ("O", "O")
    assert one.confidences[1:3] == (0.0, 0.0)
    assert one.agree[1:3] == (False, False)
    assert nothing.labels == ()
    assert blank.labels == ("O",)
    assert tags(tagger, tokenizer, [["\u200b", "Anna"]], abstain=True, alpha=0.0)[0].labels[0] is None


def test_texts_for_a_tagger_are_cut_into_words(tagger: TaskModel, tokenizer: Tokenizer) -> None:
    one = predict(tagger, ["Anna saw (Oslo), old."], tokenizer=tokenizer)[0]
    assert isinstance(one, TagPrediction)
    assert one.words == ("Anna", "saw", "(", "Oslo", ")", ",", "old", ".")


def test_nothing_in_nothing_out(tagger: TaskModel, classifier: TaskModel, tokenizer: Tokenizer) -> None:
    assert predict(tagger, [], tokenizer=tokenizer) == []
    assert predict(classifier, [], tokenizer=tokenizer) == []


def test_alpha_comes_from_the_stage(tagger_folder: Path, tmp_path: Path) -> None:
    assert Predictor(tagger_folder, abstain=True).alpha == 0.9
    assert Predictor(tagger_folder, abstain=True).alpha_from == "default"
    for file in tagger_folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "decision.json").write_text('{"alpha": 0.71}')
    found = Predictor(tmp_path, abstain=True)
    assert (found.alpha, found.alpha_from) == (0.71, "decision.json")
    (tmp_path / "stage.json").write_text('{"alpha": 0.83}')
    found = Predictor(tmp_path, abstain=True)
    assert (found.alpha, found.alpha_from) == (0.83, "stage.json")
    assert Predictor(tmp_path, abstain=True, alpha=0.2).alpha == 0.2
    (tmp_path / "fingerprint.json").write_text('{"max_length": 9}')
    assert Predictor(tmp_path).max_length == 9
    (tmp_path / "stage.json").write_text('{"alpha": ')
    with pytest.raises(ModelError, match=r"stage\.json: cannot be read"):
        Predictor(tmp_path, abstain=True)


def test_wrong_arguments(tagger: TaskModel, classifier: TaskModel, tokenizer: Tokenizer, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="give abstain too"):
        predict(tagger, ["a"], tokenizer=tokenizer, alpha=0.5)
    with pytest.raises(ConfigError, match="from 0 to 1"):
        predict(tagger, ["a"], tokenizer=tokenizer, abstain=True, alpha=1.5)
    with pytest.raises(ConfigError, match="needs tokenizer"):
        predict(tagger, ["a"])
    with pytest.raises(ConfigError, match="24 positions"):
        predict(tagger, ["a"], tokenizer=tokenizer, max_length=25)
    with pytest.raises(ConfigError, match="pairs are for classification"):
        predict(tagger, ["a"], tokenizer=tokenizer, pairs=["b"])
    with pytest.raises(ConfigError, match="one is a list"):
        predict(classifier, [["a"]], tokenizer=tokenizer)
    with pytest.raises(DataError, match="lone surrogate"):
        predict(classifier, ["a\ud800"], tokenizer=tokenizer)
    with pytest.raises(ModelError, match="no such model folder"):
        predict(tmp_path / "nothing", ["a"])


def test_damaged_models(tokenizer: Tokenizer) -> None:
    larger = train_wordpiece(LINES + ["zyx wvu qqq"], 90, min_frequency=1)
    model = make_model(tokenizer, "ner")
    with pytest.raises(ModelError, match="different checkpoints"):
        predict(model, ["a"], tokenizer=larger)
    with torch.no_grad():
        model.encoder.word_embedding.fill_(float("nan"))
    with pytest.raises(DivergedError, match="damaged"):
        predict(model, ["Anna"], tokenizer=tokenizer)


CONLL = "-DOCSTART- X O\n\nAnna NNP B-PER\nsaw VBD O\n\n\nOslo NNP B-LOC\n"


def test_conll_gets_two_columns_and_keeps_its_lines(tagger_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "a.conll").write_text(CONLL)
    predict_file(tagger_folder, tmp_path / "a.conll", tmp_path / "out.conll")
    first, second = predict(tagger_folder, [["Anna", "saw"], ["Oslo"]])
    assert isinstance(first, TagPrediction)
    assert isinstance(second, TagPrediction)
    expected = CONLL.splitlines()
    for line, one, word in ((2, first, 0), (3, first, 1), (6, second, 0)):
        expected[line] += f" {one.labels[word]} {one.confidences[word]:.4f}"
    assert (tmp_path / "out.conll").read_text().splitlines() == expected
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["a.conll", "out.conll"]


def test_conll_with_tabs_and_abstentions(tagger_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "a.conll").write_bytes(b"\xef\xbb\xbfAnna Maria\tO\r\nsaw\tO\r\n")
    found = predict_file(tagger_folder, tmp_path / "a.conll", tmp_path / "out", abstain=True, alpha=1.0)
    lines = (tmp_path / "out").read_text().split("\n")
    assert [line.split("\t")[:3] for line in lines] == [["Anna Maria", "O", "_"], ["saw", "O", "_"], [""]]
    assert found.counts["abstained"] == 2


def test_plain_text_for_a_tagger(tagger_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("Anna saw Oslo.\n\nCarl\n")
    predict_file(tagger_folder, tmp_path / "a.txt", tmp_path / "out")
    blocks = (tmp_path / "out").read_text().split("\n\n")
    assert [[row.split("\t")[0] for row in b.split("\n")] for b in blocks] == [
        ["Anna", "saw", "Oslo", "."],
        ["Carl"],
        [""],
    ]


def test_plain_text_for_a_classifier(classifier_folder: Path, tmp_path: Path) -> None:
    lines = [LINES[0], "", "with\ta tab", LINES[1]]
    (tmp_path / "a.txt").write_text("\n".join(lines))
    predict_file(classifier_folder, tmp_path / "a.txt", tmp_path / "out")
    texts = [line for line in lines if line]
    found = iter(predict(classifier_folder, texts))
    expected = ["" if not x else f"{(p := next(found)).label}\t{p.confidence:.4f}\t{x}" for x in lines]  # type: ignore[union-attr]
    assert (tmp_path / "out").read_text().split("\n") == [*expected, ""]


def test_tables(classifier_folder: Path, tmp_path: Path) -> None:
    rows = [["id", "text"], ["1", 'say "Oslo", twice'], ["2", "line\nbreak"], ["3", "Anna"]]
    with (tmp_path / "a.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    predict_file(classifier_folder, tmp_path / "a.csv", tmp_path / "out.csv")
    found = predict(classifier_folder, [r[1] for r in rows[1:]])
    with (tmp_path / "out.csv").open(newline="") as file:
        out = list(csv.reader(file))
    assert [r[:2] for r in out] == rows
    assert out[0][2:] == ["predicted", "confidence"]
    assert [r[2:] for r in out[1:]] == [[f.label, f"{f.confidence:.4f}"] for f in found]  # type: ignore[union-attr]

    (tmp_path / "a.tsv").write_text('body\tmore\nsay "Oslo\tAnna\n\nold\tCarl\n')
    predict_file(classifier_folder, tmp_path / "a.tsv", tmp_path / "out", text_column="body", pair_column="more")
    found = predict(classifier_folder, ['say "Oslo', "old"], pairs=["Anna", "Carl"])
    cells = [line.split("\t") for line in (tmp_path / "out").read_text().split("\n")]
    assert cells[0] == ["body", "more", "predicted", "confidence"]
    assert cells[2] == [""]
    assert [cells[1][2], cells[3][2]] == [f.label for f in found]  # type: ignore[union-attr]


def test_json_lines(tagger_folder: Path, classifier_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"id": 7, "words": ["Anna", "saw"]}\n\n{"text": "Oslo, old"}\n')
    predict_file(tagger_folder, tmp_path / "a.jsonl", tmp_path / "out")
    lines = (tmp_path / "out").read_text().split("\n")
    assert lines[1] == lines[3] == ""
    first, second = json.loads(lines[0]), json.loads(lines[2])
    one = predict(tagger_folder, [["Anna", "saw"]])[0]
    assert isinstance(one, TagPrediction)
    assert (first["id"], first["predicted"], first["agree"]) == (7, list(one.labels), list(one.agree))
    assert first["confidence"] == pytest.approx(one.confidences, rel=1e-4)
    assert second["words"] == ["Oslo", ",", "old"]

    (tmp_path / "b.jsonl").write_text('{"text": "Anna ü"}\n')
    predict_file(classifier_folder, tmp_path / "b.jsonl", tmp_path / "out", abstain=True, alpha=1.0)
    value = json.loads((tmp_path / "out").read_text())
    assert value["text"] == "Anna ü"
    assert value["predicted"] is None
    assert sum(value["probabilities"].values()) == pytest.approx(1, rel=1e-5)


def test_any_input_as_json(tagger_folder: Path, classifier_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "a.conll").write_text(CONLL)
    predict_file(tagger_folder, tmp_path / "a.conll", tmp_path / "out", as_json=True)
    values = [json.loads(line) for line in (tmp_path / "out").read_text().splitlines()]
    assert [(v["line"], v["words"]) for v in values] == [(3, ["Anna", "saw"]), (7, ["Oslo"])]
    (tmp_path / "a.tsv").write_text("text\nAnna\n")
    predict_file(classifier_folder, tmp_path / "a.tsv", tmp_path / "out", as_json=True)
    assert json.loads((tmp_path / "out").read_text())["line"] == 2


def test_chunks_do_not_change_the_result(
    tagger_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "\n".join("".join(f"{w} O\n" for w in line.split()) for line in LINES)
    (tmp_path / "a.conll").write_text(text)
    predict_file(tagger_folder, tmp_path / "a.conll", tmp_path / "whole")
    monkeypatch.setattr(module, "CHUNK_RECORDS", 2)
    predict_file(tagger_folder, tmp_path / "a.conll", tmp_path / "parts")
    whole, parts = ((tmp_path / n).read_text().split("\n") for n in ("whole", "parts"))
    assert len(whole) == len(parts)
    for a, b in zip(whole, parts, strict=True):
        assert a.split()[:3] == b.split()[:3]
        assert [float(x) for x in a.split()[3:]] == pytest.approx([float(x) for x in b.split()[3:]], rel=1e-3)


def _standard(monkeypatch: pytest.MonkeyPatch, data: object) -> io.BytesIO:
    out = io.BytesIO()
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=data))
    monkeypatch.setattr(sys, "stdout", SimpleNamespace(buffer=out))
    return out


def test_a_stream_is_answered_while_it_runs(classifier_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK_RECORDS", 4)
    behind = []

    def stream() -> Iterator[bytes]:
        for n in range(40):
            behind.append(n - out.getvalue().count(b"\n"))
            yield b"Anna saw Oslo\n"

    out = _standard(monkeypatch, stream())
    predict_file(classifier_folder, "-")
    assert out.getvalue().count(b"\n") == 40
    assert max(behind) <= 5


@pytest.mark.parametrize(
    ("data", "expected"),
    [(b"Anna B-PER\nsaw O\n", 2), (b"Anna saw\n", 3), (b'{"words": ["Anna"]}\n', 1)],
    ids=["conll", "text", "jsonl"],
)
def test_standard_input_is_looked_at(
    tagger_folder: Path, monkeypatch: pytest.MonkeyPatch, data: bytes, expected: int
) -> None:
    out = _standard(monkeypatch, iter(data.splitlines(keepends=True)))
    predict_file(tagger_folder, "-")
    assert out.getvalue().count(b"\n") == expected


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.conll", b"Anna O\nsaw\n", r"a\.conll:2: 1 columns, but the file began with 2"),
        ("a.conll", b"Anna O\n\xff O\n", r"a\.conll:2:1: byte 0xff is not utf-8"),
        ("a.conll", b"", r"a\.conll: nothing to label"),
        ("a.jsonl", b'{"words": ["Anna"]}\n{"words": NaN}\n', r"a\.jsonl:2: not a usable JSON object"),
        ("a.jsonl", b'{"words": []}\n', r"a\.jsonl:1: no list of words"),
        ("a.jsonl", b'{"words": ["a"], "predicted": 1}\n', r"a\.jsonl:1: a field 'predicted' is there already"),
    ],
)
def test_bad_input_for_a_tagger(tagger_folder: Path, tmp_path: Path, name: str, data: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(data)
    (tmp_path / "out").write_text("before")
    with pytest.raises(DataError, match=message):
        predict_file(tagger_folder, tmp_path / name, tmp_path / "out")
    assert (tmp_path / "out").read_text() == "before"
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.tsv", b"text\nAnna\tx\n", r"a\.tsv:2: 2 columns, but the header has 1"),
        ("a.tsv", b"texts\nAnna\n", r"a\.tsv:1: no column 'text'"),
        ("a.tsv", b"text\tpredicted\nAnna\tx\n", r"a\.tsv:1: a column 'predicted' is there already"),
        ("a.csv", b'text\n" "\n', r"a\.csv:2: empty text"),
        ("a.csv", b'text\n"Anna" x\n', r"a\.csv:2: malformed CSV"),
        ("a.jsonl", b'{"text": 3}\n', r"a\.jsonl:1: no text in 'text'"),
        ("a.txt", b"\n\n", r"a\.txt: nothing to label"),
    ],
)
def test_bad_input_for_a_classifier(
    classifier_folder: Path, tmp_path: Path, name: str, data: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=message):
        predict_file(classifier_folder, tmp_path / name, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_other_errors_of_files(tagger_folder: Path, classifier_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("text\nAnna\n")
    with pytest.raises(ConfigError, match="format tsv is not for ner"):
        predict_file(tagger_folder, tmp_path / "a.tsv", tmp_path / "out")
    with pytest.raises(DataError, match="no such file"):
        predict_file(tagger_folder, tmp_path / "b.conll", tmp_path / "out")
    with pytest.raises(StorageError, match="nowhere"):
        predict_file(classifier_folder, tmp_path / "a.tsv", tmp_path / "nowhere" / "out")
    predict_file(classifier_folder, tmp_path / "a.tsv", "/dev/null")
    assert not Path("/dev/null").is_file()


def test_a_link_stays_a_link_and_the_input_may_be_the_output(classifier_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("text\nAnna\n")
    (tmp_path / "link.tsv").symlink_to(tmp_path / "a.tsv")
    predict_file_function(classifier_folder, tmp_path / "a.tsv", tmp_path / "link.tsv")
    assert (tmp_path / "link.tsv").is_symlink()
    assert (tmp_path / "a.tsv").read_text().startswith("text\tpredicted\tconfidence\nAnna\t")
