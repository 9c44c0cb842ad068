"""Soft labels of several teachers: those of other seeds, finished model folders, and labels from outside.

What is averaged is what a single teacher would hand on: probabilities, or logits where the loss compares logits. Sums
are made in fp32 in a fixed order: the teachers of the seeds as the run lists them, then the folders as the recipe does,
then labels from outside.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ... import ConfigError, ModelError
from ...data import ItemView, Tokenizer, TokenStore
from ...model import FolderInfo, load_task_model, read_info
from ...tasks import per_word
from ..evaluation.inference import Reduction, predict_items
from ..plan import Stage, digest
from ..recipe.config import RunConfig
from ..storage.files import sha256_file
from ..storage.stage_files import refuse_changed
from .context import Context
from .datasets import Datasets
from .outside import outside_digests, outside_labels


@dataclass(frozen=True)
class FolderTeacher:
    """A finished model folder as a teacher.

    Attributes:
        classes: int [C], where each class of the run stands among the folder's.
        data: the recipe's files as the folder's tokenizer sees them; None where it is the run's own.
    """

    path: Path
    classes: np.ndarray
    data: Datasets | None


def check_teacher(
    config: RunConfig, labels: Sequence[str], path: Path, run_tokenizer: Tokenizer | None
) -> tuple[FolderInfo, Tokenizer]:
    """What a teacher's folder says of itself, and its tokenizer.

    Args:
        run_tokenizer: the run's tokenizer; None where it is still to be made.

    Raises:
        ModelError: it holds no model of this task with these labels.
        ConfigError: the student learns all sub-tokens, and the folder has others.
    """
    info, tokenizer = read_info(path), Tokenizer.from_folder(path)
    if info.task != config.task:
        what = "holds no tagger or classifier" if info.task is None else f"was trained for {info.task}"
        raise ModelError(f"{path}: {what}, the task is {config.task}; teachers must have learned the same task")
    if info.labels is None or set(info.labels) != set(labels):
        raise ModelError(
            f"{path}: its labels are {', '.join(info.labels or ())}, the run's are {', '.join(labels)}; teachers must "
            "have the same ones"
        )
    if misfit := tokenizer.misfit(info.config.vocab_size):
        raise ModelError(f"{path}: {misfit}")
    all_tokens = per_word(config.task) and config.selftrain.soft.positions == "all"
    if all_tokens and run_tokenizer is not None and not _as_own(config, info, tokenizer, run_tokenizer):
        raise ConfigError(
            f'selftrain.soft.positions is "all", but {path} cuts words into other sub-tokens; use "first"'
        )
    return info, tokenizer


def _as_own(config: RunConfig, info: FolderInfo, tokenizer: Tokenizer, run_tokenizer: Tokenizer) -> bool:
    """Whether the folder's model reads the run's own token stores."""
    alike = tokenizer.fingerprint == run_tokenizer.fingerprint
    return alike and info.config.max_length >= config.max_length


def folder_teachers(context: Context) -> list[FolderTeacher]:
    """The teachers that the recipe names by folder.

    Raises:
        ModelError, ConfigError: one cannot be a teacher here, or is a stage of a run and has changed since.
    """
    config, teachers = context.config, list[FolderTeacher]()
    for path in config.selftrain.soft.teacher_folders:
        if path not in context.opened:
            labels = context.data.labels
            refuse_changed(path)
            info, tokenizer = check_teacher(config, labels, path, context.tokenizer)
            assert info.labels is not None
            data = None
            if not _as_own(config, info, tokenizer, context.tokenizer):
                data = context.data.as_read_by(tokenizer, info.config.max_length)
            classes = np.array([info.labels.index(label) for label in labels])
            context.opened[path] = FolderTeacher(path, classes, data)
        teachers.append(context.opened[path])
    return teachers


def teacher_stores(context: Context, stage: Stage) -> dict[str, TokenStore]:
    """By role, the text as the tokenizers of a soft stage's folders see it, where these are others."""
    return {
        f"target.folder-{i}": teacher.data.target_pool(*context.config.targets_of(stage.targets))
        for i, teacher in enumerate(folder_teachers(context))
        if teacher.data is not None
    }


def teacher_digests(context: Context, stage: Stage) -> dict[str, str]:
    """By role, what a soft stage's folders hold, whatever their path."""
    paths = context.config.selftrain.soft.teacher_folders
    for path in paths:
        key = _digest_key(path)
        if key not in context.digests:
            names = ["config.json", "xlt.json", *sorted(p.name for p in path.glob("*.safetensors"))]
            hashes = {n: sha256_file(path / n) for n in names if (path / n).is_file()}
            hashes["tokenizer"] = Tokenizer.from_folder(path).fingerprint
            context.digests[key] = digest(hashes)
    return {f"teacher.folder-{i}": context.digests[_digest_key(path)] for i, path in enumerate(paths)}


def _digest_key(path: Path) -> str:
    return f"teacher {path}"


def own_teachers(stage: Stage) -> list[str]:
    """The roles of the run's own teachers of a soft stage, in the order of their seeds."""
    seeds = stage.options.get("teacher_seeds", [stage.seed])
    return ["teacher" if seed == stage.seed else f"teacher-{seed}" for seed in seeds]


def count_teachers(context: Context, stage: Stage) -> int:
    """How many models label the text of a soft stage."""
    return len(own_teachers(stage)) + len(context.config.selftrain.soft.teacher_folders)


def teachers_name(context: Context, stage: Stage) -> str:
    """Who the teachers are, for the checksum of the stored labels; with one teacher its stage's id."""
    names = [stage.inputs[role] for role in own_teachers(stage)]
    digests = teacher_digests(context, stage) | outside_digests(context, stage)
    return " ".join([*names, *digests.values()])


def teach(context: Context, stage: Stage, view: ItemView, pool: np.ndarray, labels: Reduction) -> np.ndarray:
    """The mean of what all teachers of a soft stage say, float32 [items, C]; each is loaded, asked, and dropped.

    Args:
        view: the items of `pool_store`.
        pool: the examples to label.
        labels: what the student shall match, [K, C].
    """
    roles, soft = own_teachers(stage), context.config.selftrain.soft
    configured = soft.teacher_weights or (1.0,) * (1 + len(soft.teacher_folders))
    weights = [configured[0]] * len(roles) + list(configured[1:])
    average = Average()
    for role, weight in zip(roles, weights, strict=False):
        model = context.load_task_model(stage, role)
        average.add(predict_items(model, view, labels, pool, **context.passes).numpy(), weight)
    for teacher, weight in zip(folder_teachers(context), weights[len(roles) :], strict=True):
        context.progress.note(f"{stage.id}: {teacher.path} labels {len(pool)} examples")
        values, known = _of_folder(context, stage, teacher, view, pool, labels)
        average.add(values, weight, known)
    outside = outside_labels(context, stage)
    if outside is not None:
        average.add(outside.probabilities, 1.0, outside.known)
    return average.result()


def _of_folder(
    context: Context,
    stage: Stage,
    teacher: FolderTeacher,
    view: ItemView,
    pool: np.ndarray,
    labels: Reduction,
) -> tuple[np.ndarray, np.ndarray]:
    """What a folder's model says of the items of a view, float32 [items, C], and of which it says anything."""
    theirs = view
    if teacher.data is not None:
        theirs = ItemView(teacher.data.target_pool(*context.config.targets_of(stage.targets)))
    model = load_task_model(teacher.path).to(context.device)
    classes = torch.from_numpy(teacher.classes).to(context.device)
    values = predict_items(
        model, theirs, lambda logits: labels(logits[:, :, classes]), pool, width=len(classes), **context.passes
    ).numpy()
    if theirs is view:
        return values, np.ones(len(values), dtype=bool)
    where = same_items(view.store, theirs.store)
    return values[np.maximum(where, 0)], where >= 0


def same_items(store: TokenStore, other: TokenStore) -> np.ndarray:
    """For each item of a store the number of the same word, or text, in another store, int64 [K]; -1 where it is not.

    Both are of the same examples, made with different tokenizers: a word may have been cut, or may give no token.

    Raises:
        ModelError: the stores are not of the same examples.
    """
    if list(store.example_ids) != list(other.example_ids):
        raise ModelError(f"{other.folder}: has other examples than {store.folder}; this is a bug, please report it")
    span = 1 + max((int(np.max(s.item_words, initial=0)) for s in (store, other)), default=0)
    keys = [np.repeat(np.arange(len(s)), np.diff(s.item_offsets)) * span + s.item_words for s in (store, other)]
    if not len(keys[1]):
        return np.full(len(keys[0]), -1, dtype=np.int64)
    place = np.minimum(np.searchsorted(keys[1], keys[0]), len(keys[1]) - 1)
    return np.where(keys[1][place] == keys[0], place, -1).astype(np.int64)


class Average:
    """A weighted mean in fp32 that is made one by one; an item that a teacher does not know is left to the others."""

    def __init__(self) -> None:
        self._sum: np.ndarray | None = None
        self._mass: np.ndarray | None = None

    def add(self, values: np.ndarray, weight: float = 1.0, known: np.ndarray | None = None) -> None:
        """Adds float32 [K, C], of which the rows in `known` count."""
        share = np.full(len(values), weight, dtype=np.float32)
        if known is not None:
            share[~known] = 0.0
        if self._sum is None or self._mass is None:
            self._sum, self._mass = np.zeros_like(values, dtype=np.float32), np.zeros_like(share)
        self._sum += values * share[:, None]
        self._mass += share

    def result(self) -> np.ndarray:
        """float32 [K, C]; of one teacher alone what it said, to the bit."""
        assert self._sum is not None
        assert self._mass is not None
        mean: np.ndarray = self._sum / self._mass[:, None]
        return mean
