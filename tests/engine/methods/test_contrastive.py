"""Contrastive adaptation: its loss by hand and in fp64, and its stage in a run."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from xlt_engine import Interrupted
from xlt_engine.data import pack, pad_to_bucket
from xlt_engine.data.batches.buckets import BatchSize, choose_buckets
from xlt_engine.engine import check
from xlt_engine.engine.methods.contrastive import LabelAlignment
from xlt_engine.engine.plan import fingerprint
from xlt_engine.model import Encoder, EncoderConfig, LinearHead, TaskModel

from ..conftest import Watch

ON = (
    *("contrastive.on=true", "contrastive.lr=2e-2", "contrastive.batch_size=8"),
    *("selftrain.on=false", "btf.on=false", "checkpoint.seconds=60"),
)


def stand_in(features: Tensor, logits: Tensor) -> Any:
    """A model whose head reads these features and says these logits."""
    return SimpleNamespace(features=lambda batch, seed: features, read=lambda x, batch, seed: logits[None])


def batch_of(labels: list[int]) -> Any:
    return pack([[1]] * len(labels), labels=[[y] for y in labels])


def test_label_alignment_by_hand() -> None:
    """Three texts at right angles, classes 0, 0, 1, temperature 1, no opinion on the classes: 3 log 2.

    x1 = (1, 0), x2 = (0, 1), x3 = (-1, 0). Anchor x1: log(e^0 + e^-1) - 0; anchor x2: log(e^0 + e^0) - 0; x3 is alone.
    """
    features = torch.tensor([[5.0, 0.0], [0.0, 0.1], [-1.0, 0.0]], dtype=torch.float64)
    model = stand_in(features, torch.zeros(3, 2, dtype=torch.float64))
    contrast = math.log(1 + math.exp(-1)) + math.log(2)
    found = LabelAlignment(1.0, 0.5)(model, batch_of([0, 0, 1]), 0)
    assert found.item() == pytest.approx(3 * math.log(2) + 0.5 * contrast, rel=1e-12)
    assert contrast == pytest.approx(0.3133 + 0.6931, abs=1e-4)
    without = LabelAlignment(1.0, 0.0)(model, batch_of([0, 0, 1]), 0)
    assert without.item() == pytest.approx(3 * math.log(2), rel=1e-12)


def small_model(dtype: torch.dtype = torch.float64) -> TaskModel:
    config = EncoderConfig(30, 8, 1, 2, 16, 12, dropout=0.0, attention_dropout=0.0)
    head = LinearHead(8, 3, 0.0, seed=1)
    return TaskModel(Encoder(config, seed=1), head, "classification", ("A", "B", "C")).to(dtype)


def test_loss_and_gradients_of_a_model_in_fp64() -> None:
    """Against the equations, from the encoder's own [CLS] states; padding of a static shape changes nothing."""
    model, tau, weight = small_model(), 0.2, 0.7
    labels = torch.tensor([0, 1, 0, 1, 2])
    texts = [[2, 5, 6], [2, 7], [2, 8, 9, 10], [2, 11, 5], [2, 4]]
    batch = pack(texts, labels=[[int(y)] for y in labels])
    objective = LabelAlignment(tau, weight)
    h = model.encoder(batch, rows=batch.item_index).hidden
    logits = h @ model.head.weight.T + model.head.bias
    expected = torch.nn.functional.cross_entropy(logits, labels, reduction="sum")
    z = h / h.norm(dim=1, keepdim=True)
    s = z @ z.T / tau

    def term(i: int, j: int) -> Tensor:
        return torch.log(sum(s[i, k].exp() for k in range(5) if k != i)) - s[i, j]

    expected = expected + weight * (term(0, 2) + term(2, 0) + term(1, 3) + term(3, 1))
    parameters = [p for p in model.parameters() if p.requires_grad]
    wanted = torch.autograd.grad(expected, parameters, allow_unused=True)
    bucket = choose_buckets([BatchSize.of(batch)])[0]
    for given in (batch, pad_to_bucket(batch, bucket)):
        found = objective(model, given, 0)
        assert found.item() == pytest.approx(expected.item(), rel=1e-10)
        for a, b in zip(torch.autograd.grad(found, parameters, allow_unused=True), wanted, strict=True):
            assert (a is None) == (b is None)
            if a is not None and b is not None:
                assert torch.allclose(a, b, rtol=1e-8, atol=1e-12)


def test_a_batch_of_single_classes_is_cross_entropy() -> None:
    model = small_model(torch.float32)
    batch = pack([[2, 5], [2, 6], [2, 7]], labels=[[0], [1], [2]])
    found = LabelAlignment(0.01, 1.0)(model, batch, 0)
    assert found.item() == pytest.approx(LabelAlignment(0.01, 0.0)(model, batch, 0).item())
    gradients = torch.autograd.grad(found, [p for p in model.parameters() if p.requires_grad], allow_unused=True)
    assert all(bool(g.isfinite().all()) for g in gradients if g is not None)


def test_it_runs_and_is_reported(tiny: Any) -> None:
    run = tiny("classification")
    result = run.run(*ON)
    assert [s.rpartition("/")[2] for s in result.done] == ["pretrain", "baseline", "la"]
    assert run.stage("la")["source_examples"] == 24
    assert sum(run.json("la/trace.json")["valid"]) == 2 * 24
    assert "label alignment" in result.report.read_text("utf-8")
    plain = run.run(*ON, "contrastive.weight=0", where="plain")
    loss = [run.json("la/trace.json", where)["loss"] for where in ("run", "plain")]
    # The same texts and masks: what is more is the contrast.
    assert loss[0][0] > loss[1][0]
    assert plain.done[-1] == "seed-0/la"
    assert check(run.recipe, ON, rate=1e9).ok
    assert run.run(*ON).done == ()


def test_an_interrupted_stage_goes_on_to_the_same_bits(tiny: Any) -> None:
    run = tiny("classification")
    run.run(*ON)
    watch = Watch()
    stop = {"progress": watch, "should_stop": lambda: 15 * (watch.steps.count("seed-0/la") == 3)}
    with pytest.raises(Interrupted):
        run.run(*ON, where="cut", **stop)
    assert run.run(*ON, where="cut").done == ("seed-0/la",)
    assert run.weights("la") == run.weights("la", "cut")


def test_memory_cuts_only_what_the_loss_allows(tiny: Any) -> None:
    """Halving on the way would change what is compared."""
    plans = {value: tiny("classification").plan(*ON, f"training.micro_batch={value}") for value in ("auto", "4")}
    assert {value: plan["la"].training.micro_batch for value, plan in plans.items()} == {"auto": 0, "4": 4}
    assert plans["auto"]["la"].inputs == {"base": "seed-0/pretrain"}


def test_how_alignment_is_cut_decides_its_result(tiny: Any) -> None:
    """Other stages are the same in parts; here texts are compared within theirs."""
    plans = [tiny("classification").plan(*ON, f"training.micro_batch={n}") for n in (0, 4)]
    stamps = [{name: fingerprint(stage, {}, {}) for name, stage in plan.items()} for plan in plans]
    assert {name for name in stamps[0] if stamps[0][name] != stamps[1][name]} == {"la"}
