"""Folders that transformers opens: with the code of the voters beside the weights, or without foreign code."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from pathlib import Path
from string import Template
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ...data import Tokenizer
from ...model import PredictionHead, TaskModel, VoterHeads
from ...model.folder import views
from ...model.headers import SINGLE
from ...model.weights import DTYPES, write
from ...tasks import per_word, task_of
from ..storage.files import atomic_write_json, atomic_write_text


class XltHead(nn.Module):
    """Log-probabilities of the voters' mean, from hidden states [B, L, H]: [B, L, C] for words, [B, C] for texts.

    Args:
        pooling: what is read of a text: "cls", "pooler" (with `activation`), "mean", or "late", which is the mean
            of the tokens' logits; "words" for a tagger.
        kind: "voters" with their `widths`, or one "linear" or "mlp" layer.
    """

    def __init__(
        self, pooling: str, kind: str, hidden_size: int, num_classes: int, widths: list[int], activation: str
    ) -> None:
        super().__init__()
        self.pooling, self.activation = pooling, activation
        self.pooler = nn.Linear(hidden_size, hidden_size) if pooling == "pooler" else None
        if kind == "voters":
            voters = [
                nn.Sequential(
                    nn.Linear(hidden_size, width),
                    nn.GELU(),
                    nn.Linear(width, hidden_size),
                    nn.Linear(hidden_size, num_classes),
                )
                for width in widths
            ]
        else:
            before = [nn.Linear(hidden_size, hidden_size), nn.Tanh()] if kind == "mlp" else []
            voters = [nn.Sequential(*before, nn.Linear(hidden_size, num_classes))]
        self.voters = nn.ModuleList(voters)

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """`mask` [B, L] is 1 where there is text."""
        return self.mean(self.votes(hidden, mask))

    def votes(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """The log-probabilities of each of M voters, [M, B, L, C] or [M, B, C]."""
        weights = mask.unsqueeze(-1).to(hidden.dtype)
        if self.pooling == "mean":
            hidden = (hidden * weights).sum(1) / weights.sum(1)
        elif self.pooling not in ("words", "late"):
            hidden = hidden[:, 0]
        if self.pooler is not None:
            hidden = getattr(torch, self.activation)(self.pooler(hidden))
        logits = [voter(hidden) for voter in self.voters]
        if self.pooling == "late":
            logits = [(one * weights).sum(1) / weights.sum(1) for one in logits]
        return torch.stack([one.log_softmax(-1) for one in logits])

    def mean(self, votes: Tensor) -> Tensor:
        """The logarithm of the mean probability, from those of the voters."""
        return votes.logsumexp(0) - math.log(len(self.voters))


BODY, HEAD = "body.", "head."
"""How the names of tensors begin in a folder with code."""
_CODE = "modeling_xlt"
TOKENIZER = 'PreTrainedTokenizerFast.from_pretrained("{}")'
"""`AutoTokenizer` reads the configuration first, and with it asks to run the model's code."""
_README = """The model of a stage of xlt-engine, for transformers.

```python
from transformers import {auto}, PreTrainedTokenizerFast

model = {auto}.from_pretrained("FOLDER", trust_remote_code=True)  # runs modeling_xlt.py of this folder
tokenizer = {tokenizer}  # needs no code of it; AutoTokenizer would ask for it
```
"""


def write_with_code(model: TaskModel, tokenizer: Tokenizer, folder: Path) -> None:
    """Weights, tokenizer and a `modeling_xlt.py` that computes the very model; it needs `trust_remote_code=True`.

    Its `model_type` is one that transformers does not have: without the code it opens nothing, rather than drawing a
    classifier.
    """
    auto = task_of(model.task).auto_class
    config: dict[str, Any] = {
        "architectures": ["XltModel"],
        "auto_map": {"AutoConfig": f"{_CODE}.XltConfig", auto: f"{_CODE}.XltModel"},
        "dtype": "float32",
        "encoder": model.config.to_hf(),
        "head": head_arguments(model),
        "model_type": "xlt",
        **label_names(model),
    }
    write(plain_tensors(model), folder / SINGLE, DTYPES["float32"])
    atomic_write_json(folder / "config.json", config)
    code = Template(Path(__file__).with_name(f"{_CODE}.txt").read_text("utf-8"))
    atomic_write_text(folder / f"{_CODE}.py", code.substitute(head=inspect.getsource(XltHead)))
    atomic_write_text(folder / "README.md", _README.format(auto=auto, tokenizer=TOKENIZER.format("FOLDER")))
    save_tokenizer(model, tokenizer, folder)


def label_names(model: TaskModel) -> dict[str, Any]:
    """The classes as transformers has them in `config.json`."""
    return {
        "id2label": {str(i): label for i, label in enumerate(model.labels)},
        "label2id": {label: i for i, label in enumerate(model.labels)},
    }


def save_tokenizer(model: TaskModel, tokenizer: Tokenizer, folder: Path) -> None:
    """The tokenizer with what it has to know of the model."""
    tokenizer.save(folder, segments=model.config.num_segments > 1, max_length=model.config.max_length)


def head_arguments(model: TaskModel) -> dict[str, Any]:
    """What `XltHead` is made of."""
    return {
        "pooling": "words" if per_word(model.task) else model.pooling,
        "kind": "linear" if isinstance(model.head, PredictionHead) else model.head.kind,
        "hidden_size": model.config.hidden_size,
        "num_classes": len(model.labels),
        "widths": list(model.head.widths) if isinstance(model.head, VoterHeads) else [],
        "activation": model.config.layout.pooler_activation,
    }


def plain_head(model: TaskModel, tensors: Mapping[str, Tensor]) -> XltHead:
    """The model's head in plain torch, of weights with the names of `plain_tensors`."""
    head = XltHead(**head_arguments(model))
    head.load_state_dict({name.removeprefix(HEAD): value for name, value in tensors.items() if name.startswith(HEAD)})
    if isinstance(model.head, PredictionHead):  # transformers has this head itself, so that no folder needs its code
        head.voters[0] = nn.Sequential(_Prediction(model.head), head.voters[0])
    return head


class _Prediction(nn.Module):
    """What prediction heads have before their last layer."""

    def __init__(self, head: PredictionHead) -> None:
        super().__init__()
        self.head = head

    def forward(self, hidden: Tensor) -> Tensor:
        head = self.head
        inner = functional.gelu(functional.linear(hidden, head.dense_weight, head.dense_bias))
        if head.norm_weight is None:
            return inner
        return functional.layer_norm(inner, inner.shape[-1:], head.norm_weight, head.norm_bias, head.eps)


def plain_tensors(model: TaskModel) -> dict[str, Tensor]:
    """The weights of the model by their names in `modeling_xlt.py`."""
    return {_name(name): value for name, value in views(model).items()}


def _name(name: str) -> str:
    """A tensor of a checkpoint by its name in `modeling_xlt.py`, where heads are sequences of layers."""
    for old, new in (
        ("pooler.dense.", "pooler."),
        ("pre_classifier.", "pooler."),
        (".dense_in.", ".0."),
        (".dense_out.", ".2."),
        ("classifier.dense.", "voters.0.0."),
        ("classifier.out_proj.", "voters.0.2."),
    ):
        name = name.replace(old, new)
    if name.startswith("voters."):
        name = name.replace(".classifier.", ".3.")
    name = name.replace("classifier.", "voters.0.0.") if name.startswith("classifier.") else name
    return (HEAD if name.startswith(("voters.", "pooler.")) else BODY) + name
