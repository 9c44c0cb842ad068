"""`selftrain.soft.loss = "kl"` with a temperature, from the recipe to the first step's loss."""

from typing import Any

import numpy as np
import pytest

from xlt_engine.data import ItemView, Part, TaskBatches, derive_seed
from xlt_engine.engine.evaluation.inference import predict_logits
from xlt_engine.engine.stages.models import new_head
from xlt_engine.model import TaskModel, load_encoder, load_task_model

SPREAD = "model.new.initializer_range=0.5"
"""A student that disagrees with its teacher: between equals a divergence is rounding."""
SHORT = ("checkpoint.seconds=60", "arms.baseline=false", "model.new.dropout=0", "selftrain.rounds=0.5", SPREAD)


def softmax(logits: np.ndarray) -> np.ndarray:
    powers: np.ndarray = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def first_loss(recipe: Any, temperature: float) -> float:
    """In float64: mean over texts and voters of T^2 KL(teacher^T || student^T), for the first batch."""
    folder, config = recipe.folder / "run" / "seed-0" / "de", recipe.resolved(*SHORT).config
    store, seed = recipe.store(), derive_seed(0, "soft", 1, "batches")
    batches = TaskBatches([Part(ItemView(store), np.arange(len(store)))], batch_size=8, epochs=1, seed=seed)
    texts = np.concatenate([batch.example_ids.numpy() for batch in batches[0]])
    teacher = predict_logits(load_task_model(folder / "finetune"), ItemView(store)).double().numpy()[0, texts]
    encoder = load_encoder(folder / "btf")
    head = new_head(config, "voters", encoder, 2, derive_seed(0, "soft", 1, "head"))
    student = TaskModel(encoder, head, "classification", ("negative", "positive"))
    logits = predict_logits(student, ItemView(store)).double().numpy()[:, texts]
    t = softmax(teacher / temperature)
    divergence = (t * (np.log(t) - np.log(softmax(logits / temperature)))).sum(-1)
    assert divergence.shape == (3, 8)
    return float(divergence.mean() * temperature**2)


@pytest.mark.parametrize("temperature", [2.0, 0.5])
def test_first_step(tiny: Any, temperature: float) -> None:
    recipe = tiny("classification")
    recipe.run(*SHORT, "selftrain.soft.loss=kl", f"selftrain.soft.temperature={temperature}")
    loss = recipe.json("de/soft1/trace.json")["loss"][0]
    assert loss == pytest.approx(first_loss(recipe, temperature), rel=2e-5)
    assert loss != pytest.approx(first_loss(recipe, 1.0), rel=1e-2)
