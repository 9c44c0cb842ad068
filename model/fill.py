"""The tensors of a folder against those of a model: each is used, left out by name, or reported."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import torch

from .. import ModelError
from ..untrusted import listed
from . import names
from .encoder import Encoder
from .layouts import POSITION_IDS
from .tasks import MaskedLM, Pooler, TaskModel
from .weights import Stored, read, scan

AnyModel = Encoder | MaskedLM | TaskModel | Pooler
M = TypeVar("M", Encoder, MaskedLM, TaskModel, Pooler)


@dataclass(slots=True)
class Match:
    """What `match` found.

    Attributes:
        found: name in the model's layout -> the tensor of the file.
        copies: second copies of a tensor, with the name of the first; their values must be equal.
        problems: everything that does not fit, in sentences.
    """

    found: dict[str, Stored] = field(default_factory=dict)
    copies: list[tuple[Stored, str]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def match(model: AnyModel, tensors: Iterable[Stored], others: tuple[str, ...]) -> Match:
    """Compares headers with a model, which may be on the meta device; no weights are read.

    Args:
        others: how the names of known tensors begin that the model has no use for.
    """
    layout, views = model.config.layout, names.views(model)
    tied = isinstance(model, MaskedLM)
    result = Match()
    found, problems = result.found, result.problems
    for stored in tensors:
        name = layout.bare(stored.name)
        if name == POSITION_IDS or (name not in views and name.startswith(others)):
            continue
        if tied and (name == layout.decoder or (name == layout.decoder_bias and name in found)):
            name = names.WORD_EMBEDDING if name == layout.decoder else name
            result.copies.append((stored, name))
        elif name in found:
            problems.append(f"twice: {found[name]} and {stored}")
        elif name in views:
            found[name] = stored
        else:
            problems.append(f"unexpected: {stored}")
            continue
        problems += _misfit(stored, views[name].shape)
    problems += [f"missing: {name} {list(view.shape)}" for name, view in views.items() if name not in found]
    if problems and tied and not any(name.startswith(layout.heads["masked-lm"]) for name in found):
        problems.append(
            f"the folder has no masked-LM head; take the checkpoint that {layout.classes}ForMaskedLM was saved to"
        )
    return result


def filled(make: Callable[[], M], root: Path, *, others: tuple[str, ...]) -> M:
    """The model that `make` lays out, with the tensors of a folder.

    It is laid out without memory first and compared with the headers of the files, so that a configuration which asks
    for more than the files hold takes no room.

    Raises:
        ModelError: tensors are missing, unexpected, of another shape, or unequal copies; the first 20 are listed.
    """
    tensors = scan(root)
    with torch.device("meta"):
        matched = match(make(), tensors, others)
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


def _misfit(stored: Stored, shape: torch.Size) -> list[str]:
    if not stored.is_float:
        return [f"not a float: {stored} has dtype {stored.dtype}"]
    return [] if stored.shape == tuple(shape) else [f"shape: {stored}, expected {list(shape)}"]
