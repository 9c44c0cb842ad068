"""A task model as an ONNX graph on padded text, and such a graph in the place of the model."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ... import ConfigError
from ...data import PackedBatch, pack
from ...model import TaskModel
from ...model.layers import Seed
from ...tasks import per_word
from ..prediction.predictor import Predictor
from ..storage.files import atomic_write_json
from .compare import largest_difference
from .padded import PaddedModel
from .sample import Padded, rectangle
from .write import label_names, save_tokenizer

FILE = "model.onnx"
OUTPUTS = ("logits", "voters")
_NEEDED = ("onnx", "onnxruntime", "onnxscript")
_LARGEST = 1 << 30
"""Bytes of weights that lie in the graph's own file, which cannot have 2 GiB; `model.onnx.data` has more."""


def need_onnx() -> None:
    """Raises a ConfigError where what the graph is made and checked with is not installed."""
    if missing := [name for name in _NEEDED if not find_spec(name)]:
        raise ConfigError(f"--to onnx needs {', '.join(missing)}; run pip install 'xlt-engine[onnx]'")


def write_onnx(model: TaskModel, path: Path) -> None:
    """Writes the graph of `PaddedModel`: int64 [B, L] in, `OUTPUTS` out, any B, and any L that the model reads."""
    inputs = rectangle(pack([[0, 0, 0]] * 2), 0).inputs(model)
    axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length", max=model.config.max_length)}
    with _quiet(), torch.no_grad():
        torch.onnx.export(
            PaddedModel(model).eval(),
            tuple(inputs.values()),
            path,
            input_names=list(inputs),
            output_names=list(OUTPUTS),
            dynamic_shapes=(axes,) * len(inputs),
            external_data=sum(value.nbytes for value in model.parameters()) > _LARGEST,
            dynamo=True,
            verbose=False,
        )


def quantise(graph: Path, path: Path) -> None:
    """Writes the graph with weights of products and the word embedding in 8 bits; activations as they come."""
    from onnxruntime.quantization import quantize_dynamic

    with _quiet():
        quantize_dynamic(graph, path, use_external_data_format=graph.with_name(f"{FILE}.data").exists())


def describe(predictor: Predictor, folder: Path) -> None:
    """The tokenizer, and `config.json` with the classes and how `predict` cuts texts."""
    model, tokenizer = predictor.model, predictor.tokenizer
    about = {"task": model.task, "max_length": predictor.max_length}
    about |= {"split": predictor.split} if per_word(model.task) else {"pooling": model.pooling}
    config = model.config.to_hf() | label_names(model) | {"pad_token_id": tokenizer.pad_id, "xlt": about}
    atomic_write_json(folder / "config.json", config)
    save_tokenizer(model, tokenizer, folder)


class OnnxModel(TaskModel):
    """A graph of `write_onnx`, in onnxruntime on the CPU: the voters' log-probabilities of a packed batch, [M, K, C].

    Args:
        model: what the graph was made of.
        padding: token id beside the texts.
    """

    def __init__(self, model: TaskModel, graph: Path, padding: int) -> None:
        super().__init__(
            model.encoder, model.head, model.task, model.labels, pooling=model.pooling, pooler=model.pooler
        )
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = torch.get_num_threads(), 3
        self._session: Any = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        self._padding = padding

    def forward(self, batch: PackedBatch, seed: Seed = None) -> Tensor:  # type: ignore[override]
        """As of a task model, without dropout."""
        return self.outputs(rectangle(batch, self._padding))[1]

    def outputs(self, texts: Padded) -> tuple[Tensor, Tensor]:
        """Both outputs of the graph at the items of the texts, [K, C] and [M, K, C]."""
        values = {name: value.numpy() for name, value in texts.inputs(self).items()}
        logits, voters = map(torch.from_numpy, self._session.run(OUTPUTS, values))
        return texts.items(logits), torch.stack([texts.items(voter) for voter in voters])

    def compare(self, texts: Padded) -> float:
        """The largest difference to the logits of the model itself.

        Raises:
            ModelError: it is above `BOUND`.
        """
        with torch.inference_mode():
            ours = super().forward(texts.batch).log_softmax(-1)
            mean, voters = self.outputs(texts)
            return max(largest_difference(voters, ours), largest_difference(mean, ours.exp().mean(0).log()))


@contextmanager
def _quiet() -> Iterator[None]:
    """What the exporter and the quantiser say of themselves is nothing that a user could act on."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
