import copy
import json
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from xlt_engine import ConfigError, DataError, DivergedError, ModelError
from xlt_engine.data import Tokenizer, pack, train_wordpiece
from xlt_engine.data.batches.rows import cut_windows
from xlt_engine.engine import Prediction, Predictor, TagPrediction, chosen_model, predict
from xlt_engine.engine.evaluation.valid_tags import TagDecoder
from xlt_engine.engine.prediction.model_folder import precision_of
from xlt_engine.engine.pseudolabels.refine import of_same_word, of_shared_words, pooled
from xlt_engine.model import TaskModel, load_task_model

LINES = ["Anna lives in Paris", "Carl saw London today", "the city of Oslo is old", "a good book about Berlin"] * 3
TAGS = ("O", "B-PER", "I-PER")
CLASSES = ("good", "bad", "fair")
SENTENCES = [line.split() for line in LINES[:4]] + [["Anna"], ["Anna", "saw", "Anna"] * 2]


@pytest.fixture(scope="module")
def tokenizer(tagger_folder: Path) -> Tokenizer:
    return Tokenizer.from_folder(tagger_folder)


@pytest.fixture(scope="module")
def tagger(tagger_folder: Path) -> TaskModel:
    return load_task_model(tagger_folder)


@pytest.fixture(scope="module")
def classifier(classifier_folder: Path) -> TaskModel:
    return load_task_model(classifier_folder)


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


def test_tags_are_the_most_probable_of_the_mean(tagger: TaskModel, tokenizer: Tokenizer) -> None:
    found = tags(tagger, tokenizer, SENTENCES, raw=True)
    seen = set()
    for words, one in zip(SENTENCES, found, strict=True):
        each = of_words(tagger, tokenizer, words)
        mean = each.mean(axis=0)
        assert (one.words, one.labels) == (tuple(words), tuple(TAGS[i] for i in mean.argmax(axis=-1)))
        np.testing.assert_allclose(one.confidences, mean.max(axis=-1), rtol=2e-5)
        assert one.agree == tuple((each.argmax(-1) == each.argmax(-1)[0]).all(axis=0))
        seen |= {*one.labels} | {*one.agree}
    assert seen == {True, False, *TAGS}


def test_tags_are_valid_unless_raw(tagger: TaskModel, tokenizer: Tokenizer) -> None:
    pairs = list(zip(tags(tagger, tokenizer, SENTENCES, raw=True), tags(tagger, tokenizer, SENTENCES), strict=True))
    for raw, one in pairs:
        mean = of_words(tagger, tokenizer, list(one.words)).mean(axis=0)
        assert all(t != "I-PER" or b in TAGS[1:] for b, t in zip(("O", *one.labels), one.labels, strict=False))
        chosen = [mean[w, TAGS.index(str(label))] for w, label in enumerate(one.labels)]
        np.testing.assert_allclose(one.confidences, chosen, rtol=2e-5)
        assert one.agree == raw.agree
    assert any(raw.labels == one.labels for raw, one in pairs)
    assert any(raw.labels != one.labels for raw, one in pairs)


def test_a_tag_that_validity_changes_is_withheld(tagger: TaskModel, tokenizer: Tokenizer) -> None:
    raw = tags(tagger, tokenizer, SENTENCES, abstain=True, alpha=0.0, raw=True)
    valid = tags(tagger, tokenizer, SENTENCES)
    for one, alone, full in zip(tags(tagger, tokenizer, SENTENCES, abstain=True, alpha=0.0), raw, valid, strict=True):
        kept = [a if a == f else None for a, f in zip(alone.labels, full.labels, strict=True)]
        assert list(one.labels) == kept


def test_classes_and_pairs(classifier: TaskModel, tokenizer: Tokenizer) -> None:
    texts, pairs = LINES[:4], [None, "Anna saw Oslo", None, "old"]
    found = predict(classifier, texts, pairs=pairs, tokenizer=tokenizer)
    for text, pair, one in zip(texts, pairs, found, strict=True):
        assert isinstance(one, Prediction)
        encoded = tokenizer.encode_texts([text], [pair])[0]
        segments = [int(encoded.second is not None and t >= encoded.second) for t in range(len(encoded.ids))]
        mean = probabilities(classifier, encoded.ids, [0], segments).mean(axis=0)[0]
        assert (one.label, list(one.probabilities)) == (CLASSES[mean.argmax()], list(CLASSES))
        np.testing.assert_allclose(list(one.probabilities.values()), mean, rtol=2e-5)
        assert one.confidence == max(one.probabilities.values())


def test_texts_of_one_call_know_of_each_other(classifier: TaskModel, tagger: TaskModel, tokenizer: Tokenizer) -> None:
    """Texts of others with their words, words of the same word elsewhere; what is refined is told by test_refine.py."""
    alone, found = (predict(classifier, LINES, tokenizer=tokenizer, word_pooling=w) for w in (0.0, 0.6))
    plain, given = (np.array([list(one.probabilities.values()) for one in many]) for many in (alone, found))
    words = [sorted(set(tokenizer.encode_texts([line])[0].ids[1:-1])) for line in LINES]
    texts = np.repeat(np.arange(len(LINES)), [len(w) for w in words])
    expected = pooled(plain, of_shared_words(plain, texts, np.concatenate(words)), 0.6)
    np.testing.assert_allclose(given, expected, rtol=1e-5)
    assert np.abs(given - plain).max() > 0.01
    assert [one.label for one in found] == [CLASSES[p.argmax()] for p in expected]
    sentences = [line.split() for line in LINES]
    every = [word for words in sentences for word in words]
    plain = np.concatenate([of_words(tagger, tokenizer, words).mean(axis=0) for words in sentences])
    forms = np.array([every.index(word) for word in every])
    expected = pooled(plain, of_same_word(plain, forms), 0.6)
    one = tags(tagger, tokenizer, sentences, word_pooling=0.6, raw=True)
    assert [tag for s in one for tag in s.labels] == [tagger.labels[p.argmax()] for p in expected]
    np.testing.assert_allclose([c for s in one for c in s.confidences], expected.max(axis=1), rtol=1e-4)
    assert len(set(every)) < len(every)


@pytest.mark.parametrize("alpha", [0.0, 0.4, 0.6, 1.0])
def test_abstaining_is_the_strict_policy(tagger: TaskModel, tokenizer: Tokenizer, alpha: float) -> None:
    predictor = Predictor(tagger, tokenizer=tokenizer, abstain=True, alpha=alpha, raw=True)
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
    withheld = [f.label is None for f in found]  # type: ignore[union-attr]
    assert (withheld, {*withheld}) == ([not f.agree for f in found], {True, False})


def test_long_sentences_are_read_in_windows(tagger: TaskModel, tokenizer: Tokenizer) -> None:
    words = [word for line in LINES for word in line.split()]
    predictor = Predictor(tagger, tokenizer=tokenizer, raw=True)
    one = predictor.tag([words])[0]
    assert len(one.labels) == len(words)
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


def test_words_without_tokens_keep_their_place(tagger: TaskModel, tokenizer: Tokenizer) -> None:
    one, nothing, blank = tags(tagger, tokenizer, [["Anna", "\u200b", " ", "Oslo"], [], ["\u200b"]])
    plain = tags(tagger, tokenizer, [["Anna", "Oslo"]])[0]
    assert ((one.labels[0], one.labels[3]), one.labels[1:3]) == (plain.labels, ("O", "O"))
    assert (one.confidences[1:3], one.agree[1:3]) == ((0.0, 0.0), (False, False))
    assert (nothing.labels, blank.labels) == ((), ("O",))
    predictor = Predictor(tagger, tokenizer=tokenizer, abstain=True, alpha=0.0)
    assert predictor.tag([["\u200b"]])[0].labels == (None,)
    assert (predictor.counts["abstained"], predictor.counts["no_token"]) == (1, 1)


def test_nothing_in_nothing_out(tagger: TaskModel, classifier: TaskModel, tokenizer: Tokenizer) -> None:
    assert [predict(model, [], tokenizer=tokenizer) for model in (tagger, classifier)] == [[], []]


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
    with pytest.raises(ModelError, match=r"stage\.json:1: cannot be read as JSON.*copy the folder again"):
        Predictor(tmp_path, abstain=True)


def test_a_folder_computes_in_16_bits_where_asked(tagger: TaskModel, tokenizer: Tokenizer, tagger_folder: Path) -> None:
    by_hand = copy.deepcopy(tagger)
    for name, parameter in by_hand.named_parameters():
        parameter.data = parameter.data if "norm" in name else parameter.data.bfloat16()
    read = [Predictor(tagger_folder, precision=name, raw=True) for name in ("bf16", "fp32")]  # type: ignore[arg-type]
    sizes: dict[int, set[int]] = {0: set(), 1: set()}
    for number, predictor in enumerate(read):
        predictor.model.register_forward_pre_hook(lambda _, args, n=number: sizes[n].add(len(args[0].token_ids)))
    read.append(Predictor(by_hand, tokenizer=tokenizer, raw=True))
    ours, exact, expected = ([one.confidences for one in p.tag(SENTENCES * 9)] for p in read)
    assert [p.dtype for p in read[0].model.parameters()] == [p.dtype for p in by_hand.parameters()]
    assert ours == expected
    assert ours != exact
    (padded,), (tokens,) = sizes[0], sizes[1]
    assert (tokens, padded) == (846, 27 * 32)  # five binary digits: oneDNN would compile for each number
    automatic = Predictor(tagger_folder, device="cpu")
    assert {p.dtype for p in automatic.model.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("asked", "trained", "device", "chosen"),
    [
        *[("auto", trained, "cpu", "fp32") for trained in (None, "fp32", "bf16")],
        *[("auto", trained, "cuda", trained) for trained in ("fp32", "bf16", "fp16")],
        *[("auto", trained, "cuda", "bf16") for trained in (None, "auto", 3)],
        ("fp32", "bf16", "cuda", "fp32"),
        ("bf16", "fp32", "cpu", "bf16"),
    ],
)
def test_auto_is_what_the_stage_was_scored_in(
    monkeypatch: pytest.MonkeyPatch, asked: Any, trained: object, device: str, chosen: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    assert precision_of(asked, trained, device) == chosen


def test_wrong_arguments(tagger: TaskModel, classifier: TaskModel, tokenizer: Tokenizer, tmp_path: Path) -> None:
    for model, items, options, what in (
        (tagger, ["a"], {"alpha": 0.5}, "give abstain too"),
        (tagger, ["a"], {"abstain": True, "alpha": 1.5}, "from 0 to 1"),
        (tagger, ["a"], {"word_pooling": 1.5}, "a weight from 0 to 1"),
        (tagger, ["a"], {"word_pooling": 0.5, "abstain": True}, "asks each voter"),
        (tagger, ["a"], {"tokenizer": None}, "needs tokenizer"),
        (tagger, ["a"], {"max_length": 25}, "24 positions"),
        (tagger, ["a"], {"pairs": ["b"]}, "pairs are for classification"),
        (tagger, ["a"], {"task": "classification"}, "the model is for ner, not for classification; ask for its own"),
        (classifier, [["a"]], {}, "one is a list"),
    ):
        pytest.raises(ConfigError, predict, model, items, **{"tokenizer": tokenizer} | options).match(what)
    assert predict(tagger, ["a"], task="ner", tokenizer=tokenizer) == predict(tagger, ["a"], tokenizer=tokenizer)
    pytest.raises(DataError, predict, classifier, ["a\ud800"], tokenizer=tokenizer).match("lone surrogate")
    pytest.raises(ModelError, predict, tmp_path / "nothing", ["a"]).match("no such model folder")
    with pytest.raises(TypeError, match="'splt' is none of tokenizer, abstain"):
        predict(tagger, SENTENCES, tokenizer=tokenizer, splt="whitespace")


def test_damaged_models(tagger: TaskModel, tokenizer: Tokenizer) -> None:
    larger, model = train_wordpiece(LINES + ["zyx wvu qqq"], 90, min_frequency=1), copy.deepcopy(tagger)
    pytest.raises(ModelError, predict, model, ["a"], tokenizer=larger).match("different checkpoints")
    with torch.no_grad():
        model.encoder.word_embedding.fill_(float("nan"))
    pytest.raises(DivergedError, predict, model, ["Anna"], tokenizer=tokenizer).match("damaged")


def stage(run: Path, folder: str, kind: str, order: int, arm: str | None = "selftrain", **more: Any) -> Path:
    path = run / folder
    path.mkdir(parents=True)
    pair = more.get("pair")
    record = {"kind": kind, "stage": path.name, "order": order, "arm": arm, "seed": int(folder[5]), "pair": pair}
    (path / "stage.json").write_text(json.dumps(record))
    return path


def test_the_last_self_trained_stage_of_the_lowest_seed(tmp_path: Path) -> None:
    stage(tmp_path, "seed-0/pretrain", "pretrain", 0, None)
    stage(tmp_path, "seed-0/zero", "finetune", 10, "baseline")
    for seed in (1, 0):
        stage(tmp_path, f"seed-{seed}/de/btf", "btf", 30, None, pair="de")
        stage(tmp_path, f"seed-{seed}/de/finetune", "finetune", 31, "btf", pair="de")
        stage(tmp_path, f"seed-{seed}/de/soft1", "soft", 100, pair="de")
        stage(tmp_path, f"seed-{seed}/de/hard1", "hard", 150, pair="de")
    fine = stage(tmp_path, "seed-0/es/finetune", "finetune", 31, "btf", pair="es")
    (tmp_path / "seed-0" / "es" / "soft1").mkdir()  # unfinished
    (tmp_path / "run.json").write_text('{"targets": ["de", "es", "fr"]}')
    assert (chosen_model(tmp_path, "de"), chosen_model(tmp_path, "es")) == (tmp_path / "seed-0/de/hard1", fine)
    assert chosen_model(tmp_path, "fr") == tmp_path / "seed-0/zero"
    listed = r"de \(seed-0/de/hard1\), es \(seed-0/es/finetune\), fr \(seed-0/zero\)"
    pytest.raises(ConfigError, chosen_model, tmp_path, "it").match(f"no finished model for 'it'; there are {listed}")
    pytest.raises(ConfigError, Predictor, tmp_path).match(f"is a run with models for {listed}; give one of them")


def test_what_is_no_run(tmp_path: Path) -> None:
    pytest.raises(ConfigError, chosen_model, tmp_path, "de").match("is not the folder of a run")


LABELS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")


def valid(tags: list[str]) -> bool:
    before = ["O", *tags]
    return all(t[0] != "I" or b in (f"B-{t[2:]}", t) for b, t in zip(before, tags, strict=False))


def decoded(
    labels: tuple[str, ...], sentences: list[np.ndarray], seen: list[np.ndarray] | None = None
) -> list[list[str]]:
    mean = np.concatenate(sentences)
    starts = [0, *np.cumsum([len(s) for s in sentences]).tolist()]
    read = np.ones(len(mean), dtype=bool) if seen is None else np.concatenate(seen)
    tags = TagDecoder(labels).decode(mean.argmax(axis=1), mean, read, starts)
    return [[labels[i] for i in tags[a:b]] for a, b in zip(starts, starts[1:], strict=False)]


@pytest.mark.parametrize("seed", range(6))
def test_sentences_are_valid_and_the_best_of_all_valid_ones(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = tuple(rng.permutation(LABELS))
    lengths = [0, *rng.integers(1, 5, size=40), 0]
    sentences = [rng.dirichlet(np.full(5, 0.4), size=n).astype(np.float32) for n in lengths]
    changed = 0
    for mean, tags in zip(sentences, decoded(labels, sentences), strict=True):
        raw = [labels[i] for i in mean.argmax(axis=1)]
        assert valid(tags)
        assert len(tags) == len(raw)
        assert tags == raw or not valid(raw)
        changed += tags != raw
        scores = np.log(np.maximum(mean.astype(float), 1e-300))
        ways = (p for p in product(range(5), repeat=len(mean)) if valid([labels[i] for i in p]))
        best = max(sum(scores[w, i] for w, i in enumerate(p)) for p in ways)
        assert sum(scores[w, labels.index(t)] for w, t in enumerate(tags)) == pytest.approx(best)
    assert changed > 5


def test_even_certainty_of_something_invalid_gives_something_valid() -> None:
    sure = np.eye(5, dtype=np.float32)[[2, 4, 2, 0, 2]]
    (tags,) = decoded(LABELS, [sure])
    assert valid(tags)
    assert tags[3] == "O"


def test_a_word_that_the_model_has_not_read_is_outside() -> None:
    mean = np.eye(5, dtype=np.float32)[[1, 0, 2]]
    mean[1] = 0
    (tags,) = decoded(LABELS, [mean], [np.array([True, False, True])])
    assert tags[1] == "O"
    assert valid(tags)


def test_tags_of_iob1_stay() -> None:
    mean = np.eye(3, dtype=np.float32)[[1, 1, 0, 1]]
    assert decoded(("O", "I-PER", "I-LOC"), [mean]) == [["I-PER", "I-PER", "O", "I-PER"]]
