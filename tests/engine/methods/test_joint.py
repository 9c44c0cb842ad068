"""`selftrain.mlm_weight`: masked words learned beside self-training, in one loop, each loss by its own targets."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch import Tensor

from xlt_engine import ConfigError, Interrupted, ModelError
from xlt_engine.data import JointBatches, PackedBatch, pack
from xlt_engine.data.batches.batch import MASKED, cut
from xlt_engine.engine import estimate
from xlt_engine.engine.methods.joint import Joint
from xlt_engine.engine.runs.graph import make_plan
from xlt_engine.engine.training.config import OptimizerConfig
from xlt_engine.engine.training.loop import Loop
from xlt_engine.engine.training.objectives import SoftLabels, cross_entropy
from xlt_engine.model import Encoder, EncoderConfig, MaskedLM, TaskModel, VoterHeads

WEIGHT = 0.3
STILL = OptimizerConfig(lr=1e-2, clip=0, weight_decay=0, warmup=0)


class Steps(list[list[PackedBatch]]):
    """A batch source: a list of steps."""


def sequences(seed: int, count: int, classes: int) -> list[dict[str, Any]]:
    rng, rows = np.random.default_rng(seed), []
    for _ in range(count):
        length = int(rng.integers(3, 12))
        items = np.arange(1, length - 1)
        labels = rng.integers(classes, size=len(items))
        labels[rng.random(len(items)) < 0.4] = -100
        soft = rng.dirichlet(np.ones(3), size=len(items)).astype(np.float32)
        ids = [2, *rng.integers(5, 40, size=length - 2).tolist(), 3]
        rows.append({"ids": ids, "items": items, "labels": labels, "soft": soft})
    return rows


def whole(rows: Sequence[dict[str, Any]], kind: str) -> PackedBatch:
    name = "soft" if kind == "soft" else "labels"
    targets = {"soft_targets" if kind == "soft" else "labels": [r[name] for r in rows]}
    return pack([r["ids"] for r in rows], items=[r["items"] for r in rows], **targets)


def models() -> tuple[TaskModel, MaskedLM]:
    """A tagger with three voters, and a masked LM on its encoder; fp64, no dropout, the same at every call."""
    config = EncoderConfig(40, 16, 2, 2, 32, 20, dropout=0.0, attention_dropout=0.0, initializer_range=0.1)
    encoder = Encoder(config, seed=1)
    head = VoterHeads(16, 3, (12, 13, 14), 0.0, seed=2, initializer_range=0.5)
    model, masked = TaskModel(encoder, head, "ner", ("O", "B-X", "I-X")), MaskedLM(encoder, seed=3)
    model.add_module("masked_lm", masked)
    return model.double(), masked


def gradients(model: TaskModel) -> Tensor:
    named = sorted(model.named_parameters())
    return torch.cat([torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for _, p in named])


def reference(task: PackedBatch, masked: PackedBatch, kind: str) -> tuple[float, Tensor]:
    """Loss and gradient: mean over the task's own targets, plus the weight times the mean over the masked tokens."""
    model, lm = models()
    logits = model(task)
    if kind == "soft":
        assert task.soft_targets is not None
        losses = (logits.softmax(-1) - task.soft_targets.double()).square().mean(-1).mean(0)
    else:
        every = [torch.nn.functional.cross_entropy(v, task.labels, reduction="none") for v in logits]
        losses = torch.stack(every).mean(0)[task.labels != -100]
    losses.mean().backward()
    total, found = float(losses.detach().mean()), gradients(model)
    model, lm = models()
    known = masked.labels != -100
    loss = torch.nn.functional.cross_entropy(lm.logits(masked, masked.item_index)[known], masked.labels[known])
    loss.backward()
    return total + WEIGHT * float(loss.detach()), found + WEIGHT * gradients(model)


@pytest.mark.parametrize("kind", ["soft", "hard"])
@pytest.mark.parametrize(("task_cut", "masked_cut"), [(9, 9), (2, 9), (1, 3)])
def test_gradient_is_the_sum_of_the_two(kind: str, task_cut: int, masked_cut: int) -> None:
    """Whatever the micro-batches, which hold very different numbers of targets."""
    task, masked = whole(sequences(0, 5, 3), kind), whole(sequences(1, 7, 40), "mlm")
    expected_loss, expected = reference(task, masked, kind)
    model, lm = models()
    parts = Steps([cut(task, task_cut)]), Steps([cut(masked, masked_cut)])
    batches = JointBatches(*parts, WEIGHT)  # type: ignore[arg-type]
    objective = Joint(SoftLabels() if kind == "soft" else cross_entropy, lm)
    loop = Loop(model, batches, objective, optimizer=STILL, seed=0)
    result = loop.advance()
    moments = loop.state()[0]
    found = torch.cat(
        [
            (moments[f"optimiser.{name}.exp_avg"] / (1 - STILL.beta1)).flatten()
            if f"optimiser.{name}.exp_avg" in moments
            else torch.zeros_like(p).flatten()
            for name, p in sorted(model.named_parameters())
        ]
    )
    assert float((found - expected).norm() / expected.norm()) < 1e-6  # the weights of the items are fp32
    assert result.loss == pytest.approx(expected_loss, rel=1e-6)
    assert result.valid == task.num_targets + masked.num_targets


def test_a_step_without_masked_tokens_is_the_task_alone() -> None:
    task, rows = whole(sequences(0, 5, 3), "hard"), sequences(1, 2, 40)
    for row in rows:
        row["labels"][:] = -100
    (step,) = JointBatches(Steps([[task]]), Steps([[whole(rows, "mlm")]]), WEIGHT)  # type: ignore[arg-type]
    assert [(b.kind, b.num_targets) for b in step] == [("", task.num_targets), (MASKED, 0)]
    assert step[0].weights is not None
    assert step[0].weights.unique().tolist() == [1.0]


def test_weights_of_items_are_kept() -> None:
    """In proportion."""
    rows = sequences(0, 4, 3)
    given = [np.random.default_rng(i).random(len(r["items"])) for i, r in enumerate(rows)]
    task = pack(
        [r["ids"] for r in rows], items=[r["items"] for r in rows], labels=[r["labels"] for r in rows], weights=given
    )
    (step,) = JointBatches(Steps([[task]]), Steps([[whole(sequences(1, 2, 40), "mlm")]]), WEIGHT)  # type: ignore[arg-type]
    total = sum(b.num_targets for b in step)
    assert step[0].weights is not None
    np.testing.assert_allclose(step[0].weights, np.concatenate(given) * total / task.num_targets, rtol=1e-6)


def test_too_few_masked_batches_are_refused() -> None:
    with pytest.raises(ValueError, match="1 masked batches for 2 steps"):
        JointBatches(Steps([[], []]), Steps([[]]), WEIGHT)  # type: ignore[arg-type]


SHORT = ("checkpoint.seconds=60", "arms.baseline=false", "model.new.dropout=0")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Runs of one round with three weights of the masked words, which share what comes before."""
    from ..conftest import Tiny

    recipe = Tiny(tmp_path_factory.mktemp("joint") / "ner", "ner")
    recipe.run(*SHORT, "selftrain.rounds=1", where="0")
    for weight in ("0.5", "1"):
        recipe.run(
            *SHORT, "selftrain.rounds=1", f"selftrain.mlm_weight={weight}", where=weight, reuse=[recipe.folder / "0"]
        )
    return recipe


def trace(recipe: Any, where: str, stage: str = "de/soft1") -> dict[str, list[float]]:
    found: dict[str, list[float]] = recipe.json(f"{stage}/trace.json", where)
    return found


def test_first_step_of_a_run(finished: Any) -> None:
    """What is added is the weight times one loss, that of as many words as the base model makes of them."""
    losses = [trace(finished, where)["loss"][0] for where in ("0", "0.5", "1")]
    masked = losses[2] - losses[0]
    assert losses[1] - losses[0] == pytest.approx(masked / 2, rel=1e-5)
    fitted = trace(finished, "0", "de/btf")["loss"]
    assert 0.5 * min(fitted) < masked < 2 * max(fitted)
    assert {len(trace(finished, where)["loss"]) for where in ("0", "0.5", "1")} == {3}
    assert trace(finished, "1")["valid"][0] > trace(finished, "0")["valid"][0]


def test_what_a_stage_leaves(finished: Any) -> None:
    """A task model like any other, with other weights; the head of the masked LM is dropped."""
    for stage in ("de/soft1", "de/hard1"):
        files = [finished.folder / where / "seed-0" / stage / "model.safetensors" for where in ("0", "1")]
        plain, joint = (load_file(f) for f in files)
        assert plain.keys() == joint.keys()
        moved = {name for name in plain if not np.array_equal(plain[name], joint[name])}
        assert any("encoder.layer" in name for name in moved)
        assert finished.stage(stage, "1")["mlm_weight"] == 1.0
        assert "mlm_weight" not in finished.stage(stage, "0")
    assert trace(finished, "1", "de/hard1")["loss"][0] > trace(finished, "0", "de/hard1")["loss"][0] + 0.5


def test_micro_batches_change_nothing(finished: Any) -> None:
    cuts = ("training.micro_batch=3", "selftrain.rounds=0.5", "selftrain.mlm_weight=1")
    finished.run(*SHORT, *cuts, where="parts", reuse=[finished.folder / "0"])
    parts, one = trace(finished, "parts"), trace(finished, "1")
    np.testing.assert_allclose(parts["loss"], one["loss"], rtol=1e-4)
    np.testing.assert_allclose(parts["grad_norm"], one["grad_norm"], rtol=1e-3)
    assert (parts["valid"], parts["tokens"]) == (one["valid"], one["tokens"])


def test_goes_on_to_the_same_bits(finished: Any) -> None:
    given = ("checkpoint.seconds=0", *SHORT[1:], "selftrain.rounds=1", "selftrain.mlm_weight=1")
    place: Path = finished.folder / "cut" / "seed-0" / "de"
    for stage in ("soft1", "hard1"):
        steps = 0

        def stop(stage: str = stage) -> int:
            nonlocal steps
            steps += any((place / stage / "checkpoint").glob("step-*1"))
            return 15 if steps == 1 else 0

        with pytest.raises(Interrupted):
            finished.run(*given, where="cut", reuse=[finished.folder / "0"], should_stop=stop)
        assert not (place / stage / "stage.json").exists()
        (file,) = (place / stage / "checkpoint").glob("step-*1/*.safetensors")
        heads = {name.split(".")[2] for name in load_file(file) if name.startswith("model.masked_lm.")}
        assert heads == {"dense_weight", "dense_bias", "norm_weight", "norm_bias", "decoder_bias"}
    finished.run(*given, where="cut")
    for stage in ("soft1", "hard1"):
        files = [finished.folder / where / "seed-0" / "de" / stage / "model.safetensors" for where in ("cut", "1")]
        assert files[0].read_bytes() == files[1].read_bytes()


def test_data_and_cost(finished: Any) -> None:
    plain, joint = (finished.json("de/soft1/fingerprint.json", where) for where in ("0", "1"))
    assert {k for k in joint if k.startswith("data.")} - {k for k in plain if k.startswith("data.")} == {
        "data.text.0",
        "data.text.1",
    }
    costs = []
    for weight in (0, 1):
        recipe = finished.resolved(*SHORT, "selftrain.rounds=0.5", f"selftrain.mlm_weight={weight}")
        costs.append(next(s for s in estimate(recipe, rate=1e9).stages if s.kind == "soft"))
    without, cost = costs
    record = finished.stage("de/soft1", "1")
    assert cost.steps == without.steps == record["steps"]
    assert cost.tokens == pytest.approx(record["tokens"], rel=0.15)
    assert without.tokens == pytest.approx(finished.stage("de/soft1", "0")["tokens"], rel=0.15)
    tensors = load_file(finished.folder / "1" / "seed-0" / "de" / "soft1" / "model.safetensors")
    head = 16 * 16 + 3 * 16 + len(tensors[next(n for n in tensors if "word_embeddings" in n)])
    assert cost.trainable - without.trainable == head
    assert cost.flops > without.flops


def test_a_negative_weight_is_refused(tiny: Callable[..., Any]) -> None:
    with pytest.raises(ConfigError, match=r"selftrain\.mlm_weight: .*at least 0"):
        tiny("ner").resolved("selftrain.mlm_weight=-1")


def test_off_leaves_fingerprints(tiny: Callable[..., Any]) -> None:
    assert all("mlm" not in s.settings for s in make_plan(tiny("ner").resolved().config))


def test_an_encoder_without_a_masked_lm_head_is_refused_at_once(finished: Any) -> None:
    folder = finished.folder / "0" / "seed-0" / "de" / "finetune"
    place = finished.folder / "headless"
    given = (f'model.path="{folder}"', "btf.on=false", "selftrain.mlm_weight=1")
    text = (finished.folder / "tiny.toml").read_text().replace("[model.new]", "[unused]")
    start, end = text.index("[unused]"), text.index("[source]")
    recipe = finished.folder / "headless.toml"
    recipe.write_text(text[:start] + text[end:])
    from xlt_engine.engine import run

    with pytest.raises(ModelError, match="masked"):
        run(recipe, run_dir=place, overrides=given)
    assert not list(place.glob("seed-0/*/stage.json"))
    assert json.loads((place / "status.json").read_bytes())["exit_code"] == 4
