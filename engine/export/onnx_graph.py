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
from torch import Tensor, nn
from torch.nn import functional

from ... import ConfigError
from ...data import PackedBatch, pack
from ...kernels import rotary_table
from ...model import Encoder, TaskModel
from ...model.layers import Embeddings, FinalNorm, Layer, PreNormEmbeddings, PreNormLayer, Seed
from ...tasks import per_word
from ..prediction.predictor import Predictor
from ..storage.files import atomic_write_json
from .compare import largest_difference
from .sample import Padded, rectangle
from .write import label_names, plain_head, plain_tensors, save_tokenizer


class PaddedModel(nn.Module):
    """The encoder's weights, read row by row, and the head of `modeling_xlt.py`."""

    def __init__(self, model: TaskModel) -> None:
        super().__init__()
        self.encoder, self.head = model.encoder, plain_head(model, plain_tensors(model))

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Log-probabilities of the voters' mean and of each voter, [B, L, C] and [M, B, L, C], of texts without L.

        Args:
            input_ids: int64 [B, L], as are the others.
            attention_mask: 1 where there is text, which begins each row.
            token_type_ids: for layouts with a table of segments.
        """
        embeddings = self.encoder.embeddings
        if isinstance(embeddings, PreNormEmbeddings):
            hidden = _pre_norm_encoder(self.encoder, input_ids, attention_mask.bool()[:, None, None])
        else:
            hidden = _embed(embeddings, input_ids, token_type_ids)
            hidden_keys = (1.0 - attention_mask[:, None, None].to(hidden.dtype)) * torch.finfo(hidden.dtype).min
            for layer in self.encoder.layers:
                assert isinstance(layer, Layer)
                hidden = _layer(layer, hidden, hidden_keys)
        votes = self.head.votes(hidden, attention_mask)
        return self.head.mean(votes), votes


def _embed(tables: Embeddings, ids: Tensor, segments: Tensor | None) -> Tensor:
    positions = torch.arange(ids.shape[1], device=ids.device) + tables.offset
    total = functional.embedding(ids, tables.word) + functional.embedding(positions, tables.position)
    total = total + (tables.segment[0] if segments is None else functional.embedding(segments, tables.segment))
    return functional.layer_norm(total, total.shape[-1:], tables.norm_weight, tables.norm_bias, tables.eps)


def _layer(layer: Layer, hidden: Tensor, hidden_keys: Tensor) -> Tensor:
    rows, length, size = hidden.shape
    qkv = functional.linear(hidden, layer.qkv_weight, layer.qkv_bias)
    q, k, v = qkv.view(rows, length, 3, layer.heads, size // layer.heads).permute(2, 0, 3, 1, 4).unbind(0)
    context = functional.scaled_dot_product_attention(q, k, v, attn_mask=hidden_keys)
    context = context.transpose(1, 2).reshape(rows, length, size)
    attended = hidden + functional.linear(context, layer.output_weight, layer.output_bias)
    norm = layer.attention_norm_weight, layer.attention_norm_bias, layer.eps
    attended = functional.layer_norm(attended, (size,), *norm)
    inner = functional.gelu(functional.linear(attended, layer.up_weight, layer.up_bias))
    out = attended + functional.linear(inner, layer.down_weight, layer.down_bias)
    return functional.layer_norm(out, (size,), layer.output_norm_weight, layer.output_norm_bias, layer.eps)


def _pre_norm_encoder(encoder: Encoder, ids: Tensor, keys: Tensor) -> Tensor:
    """`keys` [B, 1, 1, L] is true where there is text."""
    embeddings, final = encoder.embeddings, encoder.final
    hidden = functional.embedding(ids, embeddings.word)
    if isinstance(embeddings, PreNormEmbeddings) and embeddings.parts.embedding_norm:
        hidden = _norm(embeddings, "norm", hidden)
    positions = torch.arange(ids.shape[1], device=ids.device)
    distance = (positions[:, None] - positions).abs()
    for layer in encoder.layers:
        assert isinstance(layer, PreNormLayer)
        seen = keys if layer.window is None else keys & (distance <= layer.window)
        # A padded row sees nothing that is text beyond its window, and would be NaN: it sees itself.
        hidden = _pre_norm_layer(layer, hidden, seen | (distance == 0), positions)
    assert final is not None
    return _norm(final, "norm", hidden)


def _pre_norm_layer(layer: PreNormLayer, hidden: Tensor, seen: Tensor, positions: Tensor) -> Tensor:
    rows, length, size = hidden.shape
    normed = hidden if layer.normalised else _norm(layer, "attention_norm", hidden)
    qkv, keys = functional.linear(normed, layer.qkv_weight, layer.qkv_bias), layer.parts.key_heads
    heads = qkv.view(rows, length, layer.heads + 2 * keys, size // layer.heads).transpose(1, 2)
    q, k, v = torch.split(heads, [layer.heads, keys, keys], 1)
    table = rotary_table(positions, size // layer.heads, layer.base)
    k, v = (x.repeat_interleave(layer.heads // keys, 1) for x in (_turn(k, table), v))
    context = functional.scaled_dot_product_attention(_turn(q, table), k, v, attn_mask=seen)
    context = context.transpose(1, 2).reshape(rows, length, size)
    hidden = hidden + functional.linear(context, layer.output_weight, layer.output_bias)
    gate, value = functional.linear(_norm(layer, "mlp_norm", hidden), layer.up_weight, layer.up_bias).chunk(2, -1)
    activation = functional.gelu if layer.parts.activation == "gelu" else functional.silu
    return hidden + functional.linear(activation(gate) * value, layer.down_weight, layer.down_bias)


def _turn(x: Tensor, table: Tensor) -> Tensor:
    """Queries or keys [B, heads, L, d] turned by their positions."""
    cosine, sine = table.chunk(2, -1)
    first, second = x.chunk(2, -1)
    return torch.cat((first * cosine - second * sine, second * cosine + first * sine), -1)


def _norm(part: PreNormEmbeddings | PreNormLayer | FinalNorm, name: str, x: Tensor) -> Tensor:
    weight, bias = getattr(part, f"{name}_weight"), getattr(part, f"{name}_bias")
    if part.rms:
        return functional.rms_norm(x, x.shape[-1:], weight, part.eps)
    return functional.layer_norm(x, x.shape[-1:], weight, bias, part.eps)


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
        """The largest difference to the logits of the model itself; a ModelError where it is above `BOUND`."""
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
