"""An exported folder, opened as others open it, against the model that it was made of."""

from __future__ import annotations

import importlib.util
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ... import ModelError
from ...model import Encoder, TaskModel, load_task_model
from ...model.folder import views
from ...tasks import task_of
from .sample import Padded
from .write import BODY, plain_head

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
