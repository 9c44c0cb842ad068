"""Scores of a model on labelled examples or files, and what transfer costs it."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ... import ConfigError, DataError, ModelError
from ...data import Example, Tokenizer, TokenStore, build_store, guess_format, read_examples, reader_options
from ...data.readers.lines import file_stem
from ...data.readers.problems import LISTED
from ...model import TaskModel
from ...tasks import per_word, task_of
from ...untrusted import listed, quoted
from ..evaluation.inference import Poll, score
from ..evaluation.metrics import ClassTable, TransferSummary, transfer_gap
from ..storage.text import text_table
from ..training.device import Precision
from .model_folder import Device, ModelLike, OpenModel, open_model
from .predictor import Predictor
from .words import Split


@dataclass(frozen=True)
class Score:
    """One file, or one language, in points (0-100).

    Attributes:
        name: language, or where none was given the file's name; what tables call it.
        metrics: for NER `entity_f1`, `precision`, `recall` (as conlleval counts) and `entity_f1_strict`; for
            others `accuracy` and `macro_f1`.
        examples: sentences or texts; `items` words or texts.
        long: examples beyond the maximum length: sentences read in windows, or texts of classification that were cut.
        classes: of each entity type, or class, that occurs or was predicted.
    """

    name: str
    file: str
    metrics: dict[str, float]
    examples: int
    items: int
    long: int
    classes: ClassTable


@dataclass(frozen=True)
class EvaluationResult:
    """Scores, the first of which is the source's; `transfer` compares the headline metric and needs a second one."""

    task: str
    metric: str
    max_length: int
    scores: tuple[Score, ...]
    transfer: TransferSummary | None

    def as_dict(self) -> dict[str, Any]:
        """All of it as JSON values."""
        return asdict(self)

    def render(self) -> str:
        """A table for a terminal."""
        names = list(self.scores[0].metrics)
        unit = task_of(self.task).units
        rows = [["", *names, "gap", "examples", unit, "long"]]
        for i, s in enumerate(self.scores):
            gap = f"{self.transfer.gap[s.name]:.2f}" if self.transfer and i else ""
            values = [f"{s.metrics[name]:.2f}" for name in names]
            rows.append([s.name, *values, gap, f"{s.examples}", f"{s.items}", f"{s.long}"])
        lines = [*text_table(rows, rule="none"), "", *self._class_lines()]
        if t := self.transfer:
            lines += [
                "",
                f"{self.metric}: average of targets {t.average_targets:.2f}, with source {t.average_all:.2f}",
                f"transfer gap {t.mean_gap:.2f}, standard deviation over targets {t.std_targets:.2f}, "
                f"with source {t.std_all:.2f}",
            ]
        return "\n".join(lines)

    def _class_lines(self) -> list[str]:
        """Each entity type, or class, of each file, in columns."""
        heads = ("precision", "recall", "f1", "support")
        rows = [["", task_of(self.task).kind.split()[-1], *heads]]
        for s in self.scores:
            for i, (name, values) in enumerate(s.classes.items()):
                shown = [f"{values[head]:.2f}" for head in heads[:3]]
                rows.append(["" if i else s.name, name, *shown, f"{values['support']:.0f}"])
        return text_table(rows, right=range(2, 6), rule="none")


def evaluate(
    model: ModelLike,
    examples: Sequence[Example],
    *,
    tokenizer: Tokenizer | None = None,
    max_length: int | None = None,
    device: Device = "auto",
    precision: Precision = "auto",
    poll: Poll = lambda: None,
) -> EvaluationResult:
    """Scores labelled examples, one score per language; the first language to occur is the source.

    Labels are matched by name. The scores are those of `inference.score`: most probable class of the voters' mean
    probability (or what the recipe of a stage folder has as `prediction`); as in `predict`, a sentence of NER beyond
    the maximum length is read in windows, a text of classification is cut.

    Args:
        model: a task model, or its folder; a stage folder of a run gives the scores that the run gave.
        tokenizer: the model's; needed with a model in memory.
        max_length: in tokens; as for `predict` where absent.
        precision: of a folder's model, as for `predict`.
        poll: called between batches.

    Raises:
        ConfigError: no tokenizer, no such device, or a length that the model cannot read.
        DataError: there are no examples, or one has no label or does not fit the task.
        ModelError: the folder is damaged, or the examples have labels that the model does not know.
    """
    groups: dict[str, list[Example]] = {}
    for example in examples:
        groups.setdefault(example.language, []).append(example)
    if not groups:
        raise DataError("there are no examples to score on; give at least one")
    named = [(language, "", members) for language, members in groups.items()]
    opened = open_model(model, tokenizer, max_length=max_length, device=device, precision=precision)
    return _evaluate(opened, named, poll)


def evaluate_files(
    model: ModelLike,
    files: Sequence[str | Path],
    languages: Sequence[str] = (),
    *,
    device: Device = "auto",
    precision: Precision = "auto",
    tokenizer: Tokenizer | None = None,
    max_length: int | None = None,
    file_format: str = "auto",
    encoding: str = "utf-8",
    split: Split | None = None,
    poll: Poll = lambda: None,
    **reader: Any,
) -> EvaluationResult:
    """Scores labelled files, one score each; the first is the source.

    Args:
        model: as for `evaluate`, and so the arguments not named here.
        languages: of the files, in order; the file's name where absent.
        file_format: as of `read_examples`; "auto" goes by the file's name and first lines.
        encoding: of the files.
        split: where the text of files of entities is cut into words; as for `predict` where absent.
        reader: options of the reader (`text`, `label`, `scheme`, `label_map`, ...); each file takes those it knows.
            Where absent, columns, fields and label map are as in the model's training files.

    Raises:
        ConfigError: not as many languages as files, or as `evaluate`.
        DataError: a file cannot be read or has no labels; with file and line.
        ModelError: as `evaluate`.
    """
    if languages and len(languages) != len(files):
        raise ConfigError(
            f"{len(files)} files but {len(languages)} languages; give one for each file, in order, or none"
        )
    if not files:
        raise ConfigError("there is no file to score on; give at least one")
    opened = open_model(model, tokenizer, max_length=max_length, device=device, precision=precision)
    task, named = opened.model.task, []
    options = {"require_labels": True, "split": split or opened.split} | opened.names
    options |= {name: value for name, value in reader.items() if value is not None}
    for i, file in enumerate(files):
        language = languages[i] if languages else ""
        kind = guess_format(file, task=task, encoding=encoding) if file_format == "auto" else file_format
        if kind == "text":
            raise DataError(f"{file}:1: plain text without labels; give a labelled file")
        taken = {name: value for name, value in options.items() if name in reader_options(kind)}
        found = read_examples(file, task=task, format=kind, language=language, encoding=encoding, **taken)
        named.append((language, str(file), list(found)))
    return _evaluate(opened, named, poll)


def store_of(opened: OpenModel | Predictor, examples: Sequence[Example], folder: Path) -> TokenStore:
    """The examples as the model reads them, with all of their words or texts."""
    about: dict[str, Any] = {"task": opened.model.task, "labels": opened.model.labels, "max_length": opened.max_length}
    return build_store(examples, opened.tokenizer, folder=folder / "store", whole=True, **about)


def _evaluate(opened: OpenModel, named: Sequence[tuple[str, str, list[Example]]], poll: Poll) -> EvaluationResult:
    model, scores = opened.model, []
    tagger = per_word(model.task)
    for name, (_, file, examples) in zip(_names(named), named, strict=True):
        _check_labels(model, examples)
        with tempfile.TemporaryDirectory(prefix="xlt-evaluate-") as folder:
            store = store_of(opened, examples, Path(folder))
            scored = score(model, store, poll=poll, prediction=opened.prediction)
            items = int(np.sum(store.num_words)) if tagger else len(store)
            long = int(store.long.sum()) if tagger else store.cut["sequences"]
            scores.append(Score(name, file, scored.points, len(store), items, long, scored.classes))
    metric = task_of(model.task).metric
    targets = {s.name: s.metrics[metric] for s in scores[1:]}
    transfer = transfer_gap(scores[0].metrics[metric], targets) if targets else None
    return EvaluationResult(model.task, metric, opened.max_length, tuple(scores), transfer)


def _names(named: Sequence[tuple[str, str, list[Example]]]) -> list[str]:
    """A name for each group, all different: the language, else the file's; with a number where it comes again."""
    out: list[str] = []
    for language, file, _ in named:
        name = language or (file_stem(file) if file else "?")
        number, unique = 2, name
        while unique in out:
            number, unique = number + 1, f"{name} ({number})"
        out.append(unique)
    return out


def _check_labels(model: TaskModel, examples: Sequence[Example]) -> None:
    """Labels are matched by name; the first examples with one that the model does not know are listed."""
    faults: list[str] = []
    known = set(model.labels)
    for example in examples:
        if example.labels is None:
            raise DataError(f"{example.file}:{example.line}: no label to score with; label the example or leave it out")
        labels = (example.labels,) if isinstance(example.labels, str) else example.labels
        if unknown := sorted(set(labels) - known):
            faults.append(f"{example.file}:{example.line}: the model has no label {listed(unknown, quoted)}")
    if faults:
        more = [f"... {len(faults)} examples in all, the first {LISTED} listed"] if len(faults) > LISTED else []
        advice = f"its labels are {listed(model.labels)}; rename the labels of the file, or train a model on them"
        raise ModelError("\n".join([*faults[:LISTED], *more, advice]))
