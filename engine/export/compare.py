"""The run's own text in padded form, and an exported folder, opened as others open it, against its model on that."""

from __future__ import annotations

import importlib.util
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ... import ConfigError, ModelError
from ...data import Example, ItemView, PackedBatch, TokenStore, inference_batches
from ...model import Encoder, TaskModel, load_task_model
from ...model.folder import views
from ...tasks import per_word, task_of
from ..prediction.predictor import Predictor
from ..reading.read_file import first_of_each
from ..vocabulary.texts import read_texts, run_texts
from .write import BODY, plain_head

COMPARED = 64
"""So many texts, evenly spaced, are read by the exported model and by ours."""
TEXTS = 4000
"""So many texts, evenly spaced, at most; a linear head learns from them."""


@dataclass(frozen=True)
class Padded:
    """The texts that are compared, as a rectangle: `ids`, `mask` and `segments` are int64 [B, L]."""

    batch: PackedBatch
    ids: Tensor
    mask: Tensor
    segments: Tensor

    def inputs(self, model: TaskModel) -> dict[str, Tensor]:
        """What the model's layout reads, by the names that transformers has for it."""
        inputs = {"input_ids": self.ids, "attention_mask": self.mask}
        return inputs | ({"token_type_ids": self.segments} if model.config.num_segments > 1 else {})

    def spread(self, values: Tensor) -> Tensor:
        """Values of the packed tokens, [T, ...], in the rectangle, with zeros beside them."""
        out = values.new_zeros(*self.mask.shape, *values.shape[1:])
        out[self.mask.bool()] = values
        return out

    def items(self, values: Tensor) -> Tensor:
        """Of values in the rectangle, [B, L, C] or one for each text, [B, C], those of the items, [K, C]."""
        batch = self.batch
        if values.dim() == 2:
            return values[batch.item_example]
        return values[batch.item_example, batch.item_index - batch.cu_seqlens[batch.item_example]]


def read_sample(
    predictor: Predictor, source: Path, texts: Sequence[str | Path], encoding: str, text: str
) -> list[Example]:
    """At most `TEXTS` different texts without labels: of the files, else the unlabelled ones of the stage's run.

    Raises:
        ConfigError: there is no text, or no file is named and the folder lies in no run.
    """
    examples = read_texts(texts, encoding, text) if texts else list(run_texts(source, ("train", "unlabelled")))
    if not examples:
        raise ConfigError("there is no text; give some with --text")
    examples = [examples[i] for i in first_of_each(examples)]
    examples = [replace(e, labels=None) for e in examples[:: -(-len(examples) // TEXTS)]]
    if per_word(predictor.task):
        return [e if e.words is not None else replace(e, words=predictor.words(e.plain), text=None) for e in examples]
    return [replace(e, words=None, text=e.plain) for e in examples]


def padded(store: TokenStore, padding: int) -> Padded:
    """`COMPARED` texts of a store, evenly spaced."""
    chosen = np.unique(np.linspace(0, len(store) - 1, COMPARED).round().astype(np.int64))
    ((batch, _),) = inference_batches(ItemView(store), chosen, token_budget=2**31)
    return rectangle(batch, padding)


def rectangle(batch: PackedBatch, padding: int) -> Padded:
    """The sequences of a batch below each other."""
    lengths = batch.cu_seqlens.diff()
    mask = (torch.arange(batch.max_seqlen) < lengths[:, None]).long()
    made = Padded(batch, torch.full_like(mask, padding), mask, torch.zeros_like(mask))
    made.ids[mask.bool()], made.segments[mask.bool()] = batch.token_ids, batch.segments
    return made


BOUND = 1e-4
"""The largest difference between logits, in units of the largest logit where that is above 1."""
_REOPEN = """
import sys, torch, transformers
from safetensors.torch import load_file, save_file
folder, kind, work = sys.argv[1:]
opened = getattr(transformers, kind).from_pretrained(folder, trust_remote_code=True, output_loading_info=True)
wrong = {name for key in ("missing_keys", "unexpected_keys", "mismatched_keys") for name in opened[1][key]}
if wrong:
    sys.exit(f"these tensors do not fit: {sorted(map(str, wrong))}")
with torch.inference_mode():
    logits = opened[0].eval()(**load_file(f"{work}/inputs")).logits
save_file({"logits": logits.contiguous()}, f"{work}/logits")
"""


def compare(folder: Path, model: TaskModel, texts: Padded, *, code: bool) -> tuple[float, str]:
    """The largest difference between the logits of the folder and of the model, and who read the folder.

    That is transformers in a fresh process; where it is not installed, this engine's encoder, with the head of
    `modeling_xlt.py` where the folder has one.

    Args:
        code: the folder has `modeling_xlt.py`, whose logits are log-probabilities of the voters' mean.

    Raises:
        ModelError: they differ by more than `BOUND`, or the folder cannot be opened.
    """
    with torch.inference_mode():
        logits = model(texts.batch)
        ours = logits.log_softmax(-1).logsumexp(0) - math.log(len(logits)) if code else logits[0]
        if importlib.util.find_spec("transformers"):
            return largest_difference(_reopen(folder, model, texts), ours), "transformers"
        theirs = _with_head(folder, model, texts) if code else load_task_model(folder)(texts.batch)[0]
    return largest_difference(theirs, ours), "this engine's encoder, since transformers is not installed"


def largest_difference(theirs: Tensor, ours: Tensor) -> float:
    """Between logits; a ModelError where it is more than `BOUND`."""
    difference = float((theirs - ours).abs().max())
    if not difference <= BOUND * max(1.0, float(ours.abs().max())):
        raise ModelError(f"its logits differ from ours by {difference:.2g}; nothing was written, please report this")
    return difference


def _reopen(folder: Path, model: TaskModel, texts: Padded) -> Tensor:
    """The items' logits in a process of its own, which copies no code into the user's cache."""
    with tempfile.TemporaryDirectory(prefix="xlt-reopen-") as work:
        save_file(texts.inputs(model), f"{work}/inputs")
        quiet = {"HF_MODULES_CACHE": work, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
        command = [sys.executable, "-P", "-c", _REOPEN, str(folder), task_of(model.task).auto_class, work]
        done = subprocess.run(command, env=os.environ | quiet, capture_output=True, text=True, check=False)
        if done.returncode:
            last = done.stderr.strip().splitlines()[-1:] or ["no message"]
            raise ModelError(f"transformers cannot open it: {last[0]}; nothing was written, please report this")
        return texts.items(load_file(f"{work}/logits")["logits"])


def _with_head(folder: Path, model: TaskModel, texts: Padded) -> Tensor:
    """The logits of the folder's weights in our encoder, and in plain torch."""
    tensors = load_file(folder / "model.safetensors")
    encoder, head = Encoder(model.config, seed=None), plain_head(model, tensors)
    for name, value in views(encoder).items():
        value.copy_(tensors[BODY + name])
    return texts.items(head(texts.spread(encoder(texts.batch).hidden), texts.mask))
