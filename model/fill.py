"""The tensors of a folder into a model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch

from .. import ModelError
from ..untrusted import listed
from . import names
from .encoder import Encoder
from .headers import scan
from .match import match
from .tasks import MaskedLM, Pooler, TaskModel
from .weights import read

AnyModel = Encoder | MaskedLM | TaskModel | Pooler
M = TypeVar("M", Encoder, MaskedLM, TaskModel, Pooler)


def filled(make: Callable[[], M], root: Path, *, others: tuple[str, ...]) -> M:
    """The model that `make` lays out, with the tensors of a folder.

    It is laid out without memory first and compared with the headers of the files, so that a configuration which asks
    for more than the files hold takes no room.

    Raises:
        ModelError: tensors are missing, unexpected, of another shape, or unequal copies; the first 20 are listed.
    """
    tensors = scan(root)
    with torch.device("meta"):
        plan = make()
    shapes = {name: tuple(view.shape) for name, view in names.views(plan).items()}
    matched = match(plan.config.layout, shapes, tensors, others, tied=isinstance(plan, MaskedLM))
    if matched.problems:
        problems = listed(matched.problems, sign="\n  ")
        raise ModelError(f"{root}: the tensors do not fit config.json:\n  {problems}")
    model = make()
    views, layout = names.views(model), model.config.layout
    for stored, value in read(matched.found.values()):
        views[layout.bare(stored.name)].copy_(value)
    for stored, value in read(stored for stored, _ in matched.copies):
        first = next(name for other, name in matched.copies if other is stored)
        if not torch.equal(value.to(torch.float32), views[first]):
            raise ModelError(
                f"{stored} differs from {matched.found[first]}; only a decoder tied to the embedding is supported"
            )
    return model
