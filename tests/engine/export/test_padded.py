"""The padded model that graphs are made of, against the packed one; and a graph of a ModernBERT in onnxruntime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from xlt_engine.data import pack
from xlt_engine.engine.export.onnx_graph import OnnxModel, write_onnx
from xlt_engine.engine.export.padded import PaddedModel
from xlt_engine.engine.export.sample import rectangle
from xlt_engine.model import Encoder, EncoderConfig, PredictionHead, PreNorm, TaskModel, VoterHeads

LENGTHS = (5, 19, 2, 11)
PARTS: dict[str, dict[str, Any]] = {
    "bert": {},
    "modernbert": {"pre_norm": PreNorm((1e4, 500.0, 1e4), (None, 3, 2), 2), "num_segments": 0},
    "eurobert": {
        "pre_norm": PreNorm(
            (1e4,) * 3, (None,) * 3, 1, rms=True, activation="silu", embedding_norm=False, transform=False, tied=False
        ),
        "num_segments": 0,
        "dropout": 0.0,
    },
}


def make(layout: str, head: str, pooling: str) -> TaskModel:
    config = EncoderConfig(97, 32, 3, 2, 48, 40, initializer_range=0.3, model_type=layout, **PARTS[layout])
    heads = {"voters": lambda: VoterHeads(32, 3, (20, 24)), "prediction": lambda: PredictionHead(config, 3, seed=4)}
    task = "ner" if pooling == "words" else "classification"
    model = TaskModel(Encoder(config), heads[head](), task, "abc", pooling="cls" if task == "ner" else pooling)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if value.dim() == 1 and not name.startswith("head.in_"):
                value += 0.3 * torch.randn(value.shape, generator=generator)
    return model


@pytest.mark.parametrize("pooling", ["words", "cls", "mean"])
@pytest.mark.parametrize(
    ("layout", "head"),
    [
        ("bert", "voters"),
        ("modernbert", "prediction"),
        ("modernbert", "voters"),
        ("eurobert", "voters"),
        ("eurobert", "prediction"),
    ],
)
def test_padding_changes_nothing(layout: str, head: str, pooling: str) -> None:
    model = make(layout, head, pooling)
    _equal(model, pooling)


def test_the_mean_of_the_tokens_logits() -> None:
    _equal(make("eurobert", "prediction", "late"), "late")


def _equal(model: TaskModel, pooling: str) -> None:
    generator = torch.Generator().manual_seed(2)
    ids = [torch.randint(1, 97, (n,), generator=generator).tolist() for n in LENGTHS]
    batch = pack(ids, items=[range(n) for n in LENGTHS]) if pooling == "words" else pack(ids)
    texts = rectangle(batch, 0)
    with torch.no_grad():
        mean, votes = PaddedModel(model)(*texts.inputs(model).values())
        ours = model(batch).log_softmax(-1)
    assert votes.isfinite().all()
    for theirs, expected in zip((mean, *votes), (ours.exp().mean(0).log(), *ours), strict=True):
        torch.testing.assert_close(texts.items(theirs), expected, rtol=1e-4, atol=0)


@pytest.mark.filterwarnings("ignore")
def test_a_graph_of_windows(tmp_path: Path) -> None:
    """Of other lengths than it was made with, beyond both sides of a window too."""
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model = make("modernbert", "prediction", "words")
    write_onnx(model, tmp_path / "model.onnx")
    for lengths in (LENGTHS, (3,), (1, 40)):
        batch = pack([list(range(1, n + 1)) for n in lengths], items=[range(n) for n in lengths])
        assert OnnxModel(model, tmp_path / "model.onnx", 0).compare(rectangle(batch, 0)) < 1e-4
