"""Stages and the options of self-training, each by what it does: lineage, pools, filters, mixes and losses."""

from __future__ import annotations

import csv
import json
import shutil
from collections import Counter
from copy import copy
from functools import partialmethod
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from xlt_engine import ConfigError, DataError
from xlt_engine.data import ItemView, TokenStore
from xlt_engine.engine.evaluation.inference import predict_logits
from xlt_engine.engine.pseudolabels.filters import Reason, decide, source_consistency
from xlt_engine.engine.pseudolabels.refine import (
    match_prior,
    of_same_word,
    of_shared_words,
    pooled,
    word_forms,
    words_of_texts,
)
from xlt_engine.engine.stages.round_decision import earlier_records
from xlt_engine.kernels import votes
from xlt_engine.model import load_encoder, load_task_model
from xlt_engine.model.weights import tensors_hash

FAST = "checkpoint.seconds=60"


class Finished:
    """A finished run of the tiny recipe; `again` copies it and makes what the overrides change."""

    def __init__(self, run: Any) -> None:
        self.run, self.count = run, 0
        self.run.run(FAST, where="base")
        self.base = Result(run, "base", [])

    def again(self, *overrides: str) -> Result:
        self.count += 1
        where = f"again-{self.count}"
        shutil.copytree(self.run.folder / "base", self.run.folder / where)
        done = self.run.run(FAST, *overrides, where=where).done
        return Result(self.run, where, [d.split("/")[-1] for d in done])


class Result:
    """A run's results, by the short names of its stages."""

    def __init__(self, run: Any, where: str, done: list[str]) -> None:
        self.run, self.where, self.done = run, where, done

    def path(self, name: str) -> Path:
        own = name if name in ("pretrain", "baseline") else f"de/{name}"
        return Path(self.run.folder / self.where / "seed-0" / own)

    def json(self, name: str, file: str) -> dict[str, Any]:
        return json.loads((self.path(name) / f"{file}.json").read_bytes())

    stage = partialmethod(json, file="stage")
    trace = partialmethod(json, file="trace")
    decision = partialmethod(json, file="decision")

    def arrays(self, name: str) -> dict[str, np.ndarray]:
        return load_file(self.path(name) / "decision.safetensors")

    def soft_labels(self, name: str) -> np.ndarray:
        return load_file(self.path(name) / "soft_labels.safetensors")["targets"]

    def encoder_hash(self, name: str) -> str:
        return tensors_hash(dict(load_encoder(self.path(name)).named_parameters()))

    def store(self, *, labelled: bool, count: int) -> TokenStore:
        return self.run.store(count, self.where, labelled=labelled)


@pytest.fixture(scope="module")
def ner(tiny_once: Any) -> Finished:
    return Finished(tiny_once("ner"))


@pytest.fixture(scope="module")
def texts(tiny_once: Any) -> Finished:
    return Finished(tiny_once("classification"))


def test_lineage(ner: Finished) -> None:
    """Every student starts from the base, every hard stage from its soft student; stage.json proves it by hashes."""
    base = ner.base
    btf, pretrain = base.encoder_hash("btf"), base.encoder_hash("pretrain")
    assert btf != pretrain
    starts = {n: base.stage(n)["encoder_at_start"] for n in ("baseline", "btf", "finetune", "soft1", "soft2")}
    assert starts == {"baseline": pretrain, "btf": pretrain, "finetune": btf, "soft1": btf, "soft2": btf}
    for number in (1, 2):
        assert base.stage(f"hard{number}")["encoder_at_start"] == base.encoder_hash(f"soft{number}")
    ends = [
        base.encoder_hash(n) for n in ("pretrain", "baseline", "btf", "finetune", "soft1", "hard1", "soft2", "hard2")
    ]
    assert len(set(ends)) == 8


def test_heads(ner: Finished) -> None:
    """A linear teacher; students with voters whose head is fresh in each round, and kept from soft to hard."""
    models = {n: load_task_model(ner.base.path(n)) for n in ("finetune", "soft1", "hard1", "soft2")}
    assert {n: m.head.num_voters for n, m in models.items()} == {"finetune": 1, "soft1": 3, "hard1": 3, "soft2": 3}

    def distance(a: str, b: str) -> float:
        x, y = (torch.cat([p.detach().flatten() for p in models[n].head.parameters()]) for n in (a, b))
        return float((x - y).norm() / y.norm())

    assert 0 < distance("hard1", "soft1") < 0.5 * distance("soft2", "hard1")


def test_soft_labels_are_the_teachers(ner: Finished) -> None:
    base = ner.base
    store = base.store(labelled=False, count=24)
    for teacher, student in (("finetune", "soft1"), ("hard1", "soft2")):
        logits = predict_logits(load_task_model(base.path(teacher)), ItemView(store))
        expected = logits.double().softmax(-1).mean(0).numpy()
        stored = base.soft_labels(student)
        assert stored.shape == expected.shape
        assert np.linalg.norm(stored - expected) < 1e-6 * np.linalg.norm(expected)
        assert np.abs(stored.sum(1) - 1).max() < 1e-6


@pytest.mark.parametrize("task", ["ner", "texts"])
def test_labels_are_corrected_by_the_whole_text(task: str, request: pytest.FixtureRequest) -> None:
    """The teacher's mean and each voter by itself; what is labelled votes as it is."""
    finished = request.getfixturevalue(task)
    result = finished.again("selftrain.word_pooling=0.6", "selftrain.source_prior=0.75", "selftrain.rounds=1")
    store, gold = result.store(labelled=False, count=24), result.store(labelled=True, count=24).item_labels
    outside = 0 if task == "ner" else None

    def corrected(p: np.ndarray) -> np.ndarray:
        ids = [store.ids(i) for i in range(len(store))]
        forms = word_forms((own, store.items(i)[0]) for i, own in enumerate(ids)) if task == "ner" else None
        says = of_shared_words(p, *words_of_texts(ids)) if forms is None else of_same_word(p, forms)
        return match_prior(pooled(p, says, 0.6), np.bincount(gold, minlength=p.shape[1]) / len(gold), 0.75, outside)

    def voters(name: str) -> np.ndarray:
        logits = predict_logits(load_task_model(result.path(name)), ItemView(store))
        return logits.double().softmax(-1).numpy()

    taught, plain = result.soft_labels("soft1"), voters("finetune").mean(0)
    expected = corrected(plain)
    assert np.linalg.norm(taught - expected) < 1e-6 * np.linalg.norm(expected) < 0.1 * np.linalg.norm(plain - expected)
    each, arrays = np.stack([corrected(p) for p in voters("soft1")]), result.arrays("hard1")
    np.testing.assert_allclose(arrays["target.confidence"], each.max(2).min(0), rtol=1e-5)
    agree = (each.argmax(2) == each.argmax(2)[0]).all(0)
    assert (arrays["target.agree"] == agree).all()
    assert (arrays["target.label"] == each.mean(0).argmax(1))[agree].all()


@pytest.mark.parametrize("task", ["ner", "texts"])
def test_source_is_removed_for_good(task: str, request: pytest.FixtureRequest) -> None:
    result = request.getfixturevalue(task).again("selftrain.rounds=4", "selftrain.hard.lr=0.03")
    kept = [result.arrays(f"hard{n}")["source.keep"].astype(bool) for n in (1, 2, 3, 4)]
    for before, after in zip(kept, kept[1:], strict=False):
        assert not (after & ~before).any()
    assert kept[0].sum() < len(kept[0])
    for number in (2, 3, 4):
        gone = ~kept[number - 2]
        reasons = result.arrays(f"hard{number}")["source.reason"]
        assert (reasons[gone] == Reason.REMOVED_BEFORE).all()
        record = result.decision(f"hard{number}")["source"]
        assert record["items"] == kept[number - 2].sum()
        assert record["kept"] == kept[number - 1].sum() == result.stage(f"hard{number}")["source_examples"]
        assert result.stage(f"hard{number}")["removed"] == (~kept[number - 1]).sum()


def test_hard_set_is_kept_source_and_accepted_target(ner: Finished) -> None:
    """Steps, tokens and targets of the hard stage follow from the stored decision."""
    base, arrays = ner.base, ner.base.arrays("hard1")
    source, target = base.store(labelled=True, count=24), base.store(labelled=False, count=24)
    example = np.repeat(np.arange(24), np.diff(target.item_offsets))
    accepted = np.unique(example[arrays["target.targets"] >= 0])
    kept = np.flatnonzero(arrays["source.keep"])
    trace = base.trace("hard1")
    assert len(trace["loss"]) == -(-(len(kept) + len(accepted)) // 8)
    assert sum(trace["tokens"]) == source.lengths[kept].sum() + target.lengths[accepted].sum()
    words = np.diff(source.item_offsets)[kept].sum()
    assert sum(trace["valid"]) == words + (arrays["target.targets"] >= 0).sum()
    counts = base.decision("hard1")["classes"]
    assert sum(c["accepted"] for c in counts.values()) == (arrays["target.targets"] >= 0).sum()


def test_restore_finetuned(ner: Finished) -> None:
    result = ner.again('selftrain.restore="finetuned"')
    assert result.done == ["soft1", "hard1", "soft2", "hard2"]
    finetuned = result.encoder_hash("finetune")
    assert result.stage("soft1")["encoder_at_start"] == result.stage("soft2")["encoder_at_start"] == finetuned


def test_hard_starts_from_the_base(ner: Finished) -> None:
    result = ner.again('selftrain.hard.start="base"')
    assert result.done == ["hard1", "soft2", "hard2"]
    btf = result.encoder_hash("btf")
    assert result.stage("hard1")["encoder_at_start"] == result.stage("hard2")["encoder_at_start"] == btf
    # The decision is the student's all the same.
    assert (result.arrays("hard1")["target.label"] == ner.base.arrays("hard1")["target.label"]).all()


def own_alpha(result: Result, labeller: str, store: TokenStore, examples: np.ndarray) -> float:
    """Eq. 3 and the largest second difference, from the voters' logits on some examples, in numpy."""
    logits = predict_logits(load_task_model(result.path(labeller)), ItemView(store)).double().numpy()
    probability = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    chosen = np.isin(np.repeat(np.arange(len(store)), np.diff(store.item_offsets)), examples)
    best = probability.argmax(axis=-1)
    agree = (best == best[0]).all(axis=0)
    confidence = probability.max(axis=-1).min(axis=0)
    right = best[0] == np.asarray(store.item_labels)
    thresholds = np.round(np.arange(0.51, 0.991, 0.01), 2)
    kept = np.array([(chosen & agree & (confidence > t)).sum() for t in thresholds])
    correct = np.array([(chosen & agree & (confidence > t) & right).sum() for t in thresholds])
    accuracy = np.where(kept >= 1, correct / np.maximum(kept, 1), np.nan)
    bend = accuracy[2:] - 2 * accuracy[1:-1] + accuracy[:-2]
    return float(thresholds[1 + np.nanargmax(bend)])


def test_alpha_of_a_later_round(ner: Finished) -> None:
    """It is chosen on all labelled source text, removed or not; `alphas` has what other data would give."""
    rule = ('selftrain.alpha.rule="second-difference"', "selftrain.alpha.min_kept=1")
    longer = (*rule, "selftrain.soft.epochs=12", "selftrain.soft.lr=1e-2")
    result = ner.again(*longer)
    kept, on_dev = (ner.again(*longer, f'selftrain.alpha.data="{data}"') for data in ("kept", "dev"))
    store, dev = (result.store(labelled=True, count=count) for count in (24, 16))
    left = np.flatnonzero(result.arrays("hard1")["source.keep"])
    assert 0 < len(left) < 24
    expected = {
        "all": own_alpha(result, "soft2", store, np.arange(24)),
        "kept": own_alpha(result, "soft2", store, left),
        "dev": own_alpha(result, "soft2", dev, np.arange(16)),
    }
    assert result.decision("hard2")["alphas"] == expected
    assert expected["all"] != expected["kept"]
    assert result.decision("hard2")["alpha"] == expected["all"]
    assert kept.decision("hard2")["alpha"] == expected["kept"]
    assert kept.decision("hard1")["alpha"] == result.decision("hard1")["alpha"]
    first = on_dev.decision("hard1")
    assert (first["alpha"], first["curve"]) != (result.decision("hard1")["alpha"], result.decision("hard1")["curve"])
    assert first["alpha"] == first["alphas"]["dev"] == own_alpha(result, "soft1", dev, np.arange(16))


def test_alpha_from_entities(ner: Finished, texts: Finished) -> None:
    """Words that the voters tag as part of an entity give the curve, and a share of them must stay."""
    longer = ("finetune.epochs=20", "selftrain.soft.epochs=60", "selftrain.soft.lr=1e-2", "selftrain.rounds=1")
    rule = ('selftrain.alpha.rule="second-difference"', 'selftrain.alpha.items="entities"')
    result = ner.again(*longer, *rule, "selftrain.alpha.min_kept=1", "selftrain.alpha.min_share=0.9")
    store = result.store(labelled=True, count=24)
    probability = (
        predict_logits(load_task_model(result.path("soft1")), ItemView(store)).double().softmax(dim=-1).numpy()
    )
    best = probability.argmax(axis=-1)
    agree = (best == best[0]).all(axis=0)
    label = np.where(agree, best[0], probability.mean(axis=0).argmax(axis=-1))
    confidence = probability.max(axis=-1).min(axis=0)
    entity = label != store.label_names.index("O")
    curve = result.decision("hard1")["curve"]
    kept = [int((entity & agree & (confidence > t)).sum()) for t in curve["thresholds"]]
    assert curve["kept"] == kept
    enough = [t for t, n in zip(curve["thresholds"], kept, strict=True) if n >= 0.9 * entity.sum()]
    assert 1 < len(enough) < len(kept)
    assert result.decision("hard1")["alpha"] in enough
    with pytest.raises(ConfigError, match="entities, which is for tagging"):
        texts.again('selftrain.alpha.items="entities"')


def middle_alpha(base: Result, share: float = 0.5) -> float:
    """A threshold below which about `share` of the agreed items lie."""
    arrays = base.arrays("hard1")
    return float(np.quantile(arrays["target.confidence"][arrays["target.agree"] > 0], share))


@pytest.mark.parametrize("unit", ["token", "entity", "sentence"])
def test_target_filter(ner: Finished, unit: str) -> None:
    """As `decide` has it from the same votes, by the text that the words are from."""
    alpha = middle_alpha(ner.base, 0.1)
    rule = f'selftrain.alpha.rule="fixed:{alpha}"'
    arrays = ner.again(rule, f'selftrain.target_filter="{unit}"', "selftrain.rounds=1").arrays("hard1")
    store = ner.base.store(labelled=False, count=24)
    label, agree, sure = (arrays[f"target.{name}"] for name in ("label", "agree", "confidence"))
    said = SimpleNamespace(label=label, agree=agree > 0, min_confidence=sure, mean_probability=sure[:, None])
    example, labels = np.repeat(np.arange(24), np.diff(store.item_offsets)), store.label_names
    expected = decide(said, alpha, unit=unit, sentence_of_item=example, labels=labels)  # type: ignore[arg-type]
    assert arrays["target.targets"].tolist() == expected.targets.tolist()
    assert 0 < expected.keep.sum() < len(example)


def test_curve_as_csv(texts: Finished) -> None:
    """Its numbers are those of the record, which counts the stored votes."""
    result = texts.again('selftrain.source_filter="none"', "selftrain.rounds=1", 'selftrain.alpha.rule="fixed:0.51"')
    with (result.path("hard1") / "curve.csv").open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    own = ["kept", "correct", "accuracy", "coverage", "recall", "second_difference"]
    assert list(lines[0]) == ["threshold", *own]
    assert [float(line["threshold"]) for line in lines] == [round(0.51 + 0.01 * i, 12) for i in range(49)]
    arrays = result.arrays("hard1")
    record, correct = result.decision("hard1"), (arrays["alpha.agree"] > 0) & (arrays["alpha.correct"] > 0)
    assert [int(line["correct"]) for line in lines] == [
        int((correct & (arrays["alpha.confidence"] > np.float32(line["threshold"]))).sum()) for line in lines
    ]
    for name in own:
        told = [None if line[name] == "" else float(line[name]) for line in lines]
        assert told == record["curve"][name], name
    assert None in record["curve"]["second_difference"]
    stored = result.stage("hard1")["hashes"]["curve.csv"]
    assert stored == sha256((result.path("hard1") / "curve.csv").read_bytes()).hexdigest()


@pytest.mark.parametrize("rule", ["correct", "correct+alpha", "none"])
def test_source_filter(texts: Finished, rule: str) -> None:
    """As `source_consistency` has it from the student's votes on the source."""
    result = texts.again(f'selftrain.source_filter="{rule}"', "selftrain.rounds=1", 'selftrain.alpha.rule="fixed:0.5"')
    arrays, store = result.arrays("hard1"), result.store(labelled=True, count=24)
    counted = votes(predict_logits(load_task_model(result.path("soft1")), ItemView(store)))
    expected = source_consistency(
        counted, store.item_labels, kept=[True] * 24, rule=rule, alpha=0.5, labels=store.label_names
    )
    assert arrays["source.reason"].tolist() == expected.reason.tolist()


def test_the_guard_says_once_what_it_counts_in_every_round(ner: Finished) -> None:
    """Soft students that hardly move contradict the entities of all source sentences, in three rounds."""
    stuck = "selftrain.soft.lr=1e-9", 'selftrain.alpha.rule="fixed:0.0"', "selftrain.rounds=3"
    result = ner.again(*stuck, 'selftrain.target_filter="none"', 'selftrain.restore="base"')
    said: list[str] = []
    for name in ("hard1", "hard2", "hard3"):
        source, arrays = result.decision(name)["source"], result.arrays(name)
        assert source["guarded"] == (arrays["source.reason"] == Reason.KEPT_FOR_CLASS).sum() > 0
        assert {"LOC"} <= source["guarded_per_class"].keys() <= {"LOC", "PER", "O"}
        assert max(source["guarded_per_class"].values()) <= source["guarded"]
        said += [w["values"]["label"] for w in result.stage(name)["warnings"] if w["name"] == "source-class-emptied"]
        if name == "hard1":
            assert set(said) == source["guarded_per_class"].keys()
    assert len(said) == len(set(said))
    # What warns of falling acceptance compares with the best of all rounds before, not with the last one.
    context = SimpleNamespace(folder=lambda stage: result.path(stage.rpartition("/")[2]))
    last = SimpleNamespace(inputs=result.stage("hard3")["inputs"])
    assert earlier_records(context, last) == [result.decision(name) for name in ("hard1", "hard2")]  # type: ignore[arg-type]


@pytest.mark.parametrize(("abandoned", "dropped"), [("round", False), ("drop", True)])
def test_abandoned_samples(texts: Finished, abandoned: str, dropped: bool) -> None:
    """They sit out a round, or leave the unlabelled pool of all later stages."""
    rule = f'selftrain.alpha.rule="fixed:{middle_alpha(texts.base)}"'
    result = texts.again(rule, f'selftrain.abandoned="{abandoned}"', "selftrain.rounds=1.5")
    accepted = int((result.arrays("hard1")["target.targets"] >= 0).sum())
    assert 0 < accepted < 24
    assert result.stage("soft1")["examples"] == 24
    assert result.stage("soft2")["examples"] == (accepted if dropped else 24)
    assert result.arrays("hard1")["target.pool"].sum() == (accepted if dropped else 24)
    pool = result.arrays("hard1")["target.pool"] > 0
    assert sum(result.trace("soft2")["tokens"]) == result.store(labelled=False, count=24).lengths[pool].sum()


def test_a_balanced_mix_repeats_the_smaller_part(texts: Finished) -> None:
    rule = f'selftrain.alpha.rule="fixed:{middle_alpha(texts.base)}"'
    result = texts.again(rule, "selftrain.hard.mix=balanced", "selftrain.rounds=1", "selftrain.alpha.min_kept=1")
    stage, trace = result.stage("hard1"), result.trace("hard1")
    source, target = stage["source_examples"], stage["target_examples"]
    assert source != target
    assert sum(trace["valid"]) == 2 * max(source, target)


@pytest.mark.parametrize("positions", ["first", "all"])
def test_positions_of_the_soft_loss(ner: Finished, positions: str) -> None:
    result = ner.again(f'selftrain.soft.positions="{positions}"', "selftrain.rounds=0.5")
    store = result.store(labelled=False, count=24)
    expected = int(store.item_offsets[-1] if positions == "first" else (store.lengths - 2).sum())
    assert sum(result.trace("soft1")["valid"]) == expected
    assert len(result.soft_labels("soft1")) == expected
    assert (store.lengths - 2).sum() > store.item_offsets[-1]


def test_positions_are_an_option_of_tagging(texts: Finished) -> None:
    result = texts.again('selftrain.soft.positions="all"', "selftrain.rounds=0.5")
    assert sum(result.trace("soft1")["valid"]) == 24


@pytest.mark.parametrize(
    ("stages", "voters"),
    [('["soft", "soft"]', {"soft1": 3, "soft2": 3}), ('["hard", "hard"]', {"hard1": 3, "hard2": 3})],
)
def test_soft_only_and_hard_only(ner: Finished, stages: str, voters: dict[str, int]) -> None:
    """Without a soft stage the teacher itself labels, and the student starts from the base with fresh voters."""
    result = ner.again(f"selftrain.stages={stages}")
    btf = result.encoder_hash("btf")
    for name, count in voters.items():
        assert load_task_model(result.path(name)).head.num_voters == count
        assert result.stage(name)["encoder_at_start"] == btf


@pytest.mark.parametrize("override", ["selftrain.voters=1", "selftrain.voters=2", "selftrain.widths=[8, 10, 12]"])
def test_voters(ner: Finished, override: str) -> None:
    result = ner.again(override, "selftrain.rounds=0.5")
    head = load_task_model(result.path("soft1")).head
    names = [w["name"] for w in result.stage("soft1")["warnings"]]
    if "widths" in override:
        assert head.widths == (8, 10, 12)
    else:
        assert head.num_voters == int(override[-1])
    assert ("single-voter" in names) == (override == "selftrain.voters=1")


@pytest.mark.parametrize("head", ["linear", "mlp", "voters"])
def test_head_of_the_teacher(ner: Finished, head: str) -> None:
    result = ner.again(f'finetune.head="{head}"', "selftrain.on=false")
    assert load_task_model(result.path("finetune")).head.kind == head


def test_caps(ner: Finished) -> None:
    """BTF and self-training see the same choice of target sentences."""
    result = ner.again("btf.cap=10", "selftrain.cap=10", "selftrain.rounds=1")
    assert result.stage("soft1")["examples"] == 10
    assert result.arrays("hard1")["target.pool"].sum() == 10
    assert result.decision("hard1")["items"] < ner.base.decision("hard1")["items"]
    assert result.stage("btf")["examples_per_epoch"] == [24, 24]
    for balance, expected in (("down", [10, 10]), ("temperature", [21, 13])):
        result = ner.again("btf.cap=10", f'btf.balance="{balance}"', "btf.temperature=0.5", "selftrain.on=false")
        assert result.stage("btf")["examples_per_epoch"] == expected


def test_control_arm(ner: Finished) -> None:
    """As much text as BTF, the same seeds, another kind of text; and it is made anew when BTF's text grows."""
    result = ner.again("arms.control=true")
    assert sorted(result.done) == ["control", "control-btf"]
    assert result.stage("control-btf")["examples_per_epoch"] == result.stage("btf")["examples_per_epoch"]
    assert result.trace("control-btf")["loss"] != result.trace("btf")["loss"]
    assert result.trace("control-btf")["lr"] == result.trace("btf")["lr"]
    assert result.stage("control")["encoder_at_start"] == result.encoder_hash("control-btf")
    rows = json.loads((result.run.folder / result.where / "summary.json").read_bytes())["rows"]
    assert Counter(r["arm"] for r in rows)["control"] > 0


def test_frozen_layers(ner: Finished) -> None:
    frozen = ["training.freeze_embeddings=true", "training.freeze_layers=1"]
    trained = ["btf.freeze_embeddings=false", "btf.freeze_layers=0"]
    result = ner.again(*frozen, *trained, "selftrain.on=false")
    assert result.encoder_hash("finetune") == result.encoder_hash("btf")
    with pytest.raises(ConfigError, match="freeze_layers: is 2, but the encoder has 1 layers"):
        ner.again("training.freeze_layers=2")


def test_frozen_embeddings_in_btf(ner: Finished) -> None:
    result = ner.again("btf.freeze_embeddings=true", "selftrain.on=false")
    before, after = load_encoder(result.path("pretrain")), load_encoder(result.path("btf"))
    for name, value in before.named_parameters():
        assert torch.equal(value, after.get_parameter(name)) == name.startswith("embeddings."), name


def test_pooling(texts: Finished) -> None:
    result = texts.again('pooling="mean"', "selftrain.rounds=1")
    assert "btf" not in result.done
    assert load_task_model(result.path("hard1")).pooling == "mean"
    with pytest.raises(ConfigError, match="needs a checkpoint"):
        texts.again('pooling="pooler"')


def test_nothing_accepted_stops_the_run_and_loses_nothing(ner: Finished) -> None:
    with pytest.raises(DataError, match="hard1"):
        ner.again('selftrain.alpha.rule="fixed:0.999999"')
    where = f"again-{ner.count}"
    status = json.loads((ner.run.folder / where / "status.json").read_bytes())
    assert (status["state"], status["exit_code"]) == ("failed", DataError.exit_code)
    done = ner.run.run(FAST, where=where).done
    # What the failed recipe had not reached is still there, and still right.
    assert [d.split("/")[-1] for d in done] == ["hard1"]
    assert Result(ner.run, where, []).trace("hard2") == ner.base.trace("hard2")


def test_model_folder_as_base(ner: Finished) -> None:
    """A recipe that names a folder; another configuration in the folder makes the stages anew."""
    run, folder = ner.run, ner.run.folder / "checkpoint"
    shutil.copytree(ner.base.path("pretrain"), folder)
    own = copy(run)
    own.recipe = Path(shutil.copyfile(run.recipe, run.folder / "named.toml"))
    own.take_model("checkpoint")
    first = own.run(FAST, "selftrain.on=false", where="named")
    assert [d.split("/")[-1] for d in first.done] == ["baseline", "btf", "finetune"]
    result = Result(own, "named", [])
    assert result.stage("btf")["encoder_at_start"] == ner.base.encoder_hash("pretrain")
    assert result.trace("btf")["loss"] == ner.base.trace("btf")["loss"]
    config = json.loads((folder / "config.json").read_bytes())
    (folder / "config.json").write_text(json.dumps(config | {"hidden_dropout_prob": 0.5}), encoding="utf-8")
    (folder / "stage.json").unlink()  # it would say that the folder has changed
    second = own.run(FAST, "selftrain.on=false", where="named")
    assert second.done == first.done


def test_changed_test_file_is_scored_again_without_training(ner: Finished) -> None:
    shutil.copytree(ner.run.folder / "base", ner.run.folder / "rescored")
    test = ner.run.folder / "test-de.conll"
    before, text = Result(ner.run, "rescored", []), test.read_text("utf-8")
    hashes = {n: before.stage(n)["hashes"]["model.safetensors"] for n in ("finetune", "hard2")}
    counts = before.json("hard2", "scores")["scores"]
    try:
        test.write_text("\n\n".join(text.strip().split("\n\n")[:7]) + "\n", encoding="utf-8")
        ner.run.run(FAST, where="rescored")
    finally:
        test.write_text(text, encoding="utf-8")
    after = Result(ner.run, "rescored", [])
    assert {n: after.stage(n)["hashes"]["model.safetensors"] for n in hashes} == hashes
    german = [r["count"] for r in after.json("hard2", "scores")["scores"] if r["language"] == "de"]
    assert {r["count"] for r in counts if r["language"] == "de"} == {12}
    assert set(german) == {7}
    rows = json.loads((ner.run.folder / "rescored" / "summary.json").read_bytes())["rows"]
    assert {r["value"] for r in rows if r["language"] == "de" and r["stage"] == "hard2"} <= {
        r["value"] for r in after.json("hard2", "scores")["scores"]
    }


def test_steps_follow_from_the_recipe(ner: Finished) -> None:
    """24 labelled and 24 unlabelled sentences in batches of 8."""
    steps = {n: ner.base.stage(n)["steps"] for n in ("pretrain", "baseline", "btf", "finetune", "soft1", "soft2")}
    assert steps == {"pretrain": 6, "baseline": 6, "btf": 6, "finetune": 6, "soft1": 3, "soft2": 3}
