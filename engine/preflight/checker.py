"""`check`: everything that is wrong with a recipe, its data and its model, in one pass and before any training."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ... import ConfigError, DataError, ModelError, XltError
from ...data import OUTSIDE, Example, Tokenizer, train_wordpiece
from ...model import EncoderConfig, load_encoder, load_encoder_config, load_masked_lm, load_pooler
from ..pseudolabels.diagnostics import single_voter, slow_learning_rate
from ..recipe.config import RunConfig
from ..recipe.config.files import DataFile, recipe_files
from ..recipe.load import RecipeError, Variant, load_recipe, packaged_recipes, variants
from ..recipe.toml_lines import Key, key_lines
from ..runs.graph import chosen_stages
from ..runs.prepare import make_context, stage_tables, with_world
from ..stages.context import Context
from ..stages.teachers import check_teacher
from ..storage.run_folder import RunDir
from ..storage.run_warning import RunWarning
from ..training.device import choose_device
from ..training.progress import Progress
from .check_data import (
    Fault,
    coverage,
    known_labels,
    label_faults,
    label_warnings,
    leak_warnings,
    read_all,
    repeat_warnings,
)
from .check_report import CheckProblem, CheckReport, FileRow
from .cost import estimate_plan
from .estimate_report import size_text

LEAK = "test-text-in-training"


def check(
    recipe: str | Path | None = None,
    overrides: Sequence[str] = (),
    *,
    targets: Sequence[str] = (),
    strict: bool = False,
    rate: float | None = None,
) -> CheckReport:
    """Looks at a recipe, all its files and its model. Trains nothing and writes in a temporary folder only.

    Args:
        recipe: as `load_recipe` takes it.
        overrides: `key=value` strings, as `--set` takes them.
        targets: as `run` takes them, for the cost; all files are looked at.
        strict: count test text in the training text as an error.
        rate: as for `estimate`.
    """
    report = CheckReport()
    config: RunConfig | None = None
    try:
        config = load_recipe(recipe, overrides).config
    except RecipeError as error:
        report.problems += [
            CheckProblem(p.where, f"{p.key}: {p.message}" if p.key else p.message, error.exit_code)
            for p in error.problems
        ]
        config = error.partial
    except ConfigError as error:
        where, _, message = str(error).partition(": ")
        report.problems.append(CheckProblem(where, message, error.exit_code))
    if config is None:
        report.notes.append("the data was not looked at, since the recipe does not say enough; correct it first")
        return report
    with tempfile.TemporaryDirectory(prefix="xlt-") as folder:
        _Checker(report, config, _Places(recipe, overrides), Path(folder)).run(rate, targets)
    if strict:
        leaks = [w for w in report.warnings if w.name == LEAK]
        report.warnings = [w for w in report.warnings if w.name != LEAK]
        for where, _, message in (w.message.partition(": ") for w in leaks):
            report.problems.append(CheckProblem(where, message, DataError.exit_code))
    return report


def check_all(
    recipe: str | Path | None = None,
    overrides: Sequence[str] = (),
    *,
    targets: Sequence[str] = (),
    rate: float | None = None,
) -> dict[str, CheckReport]:
    """Looks at every run that a recipe stands for; name -> what was found, as `check` does."""
    try:
        chosen = variants(recipe, overrides)
    except ConfigError:  # `check` says which
        chosen = [Variant("", tuple(overrides))]
    found: dict[str, CheckReport] = {}
    for name, options in chosen:
        found[name] = check(recipe, options, targets=targets, rate=rate)
        estimate = found[name].estimate
        rate = rate if estimate is None else estimate.rate
    return found


class _Places:
    """Where a recipe's keys stand, for messages about what they name."""

    def __init__(self, recipe: str | Path | None, overrides: Sequence[str]) -> None:
        if recipe is None:
            recipe = Path("xlt.toml") if Path("xlt.toml").is_file() else "demo"
        packaged = packaged_recipes()
        self._given = [(option.partition("=")[0].strip(), option) for option in overrides]
        if isinstance(recipe, str) and recipe in packaged:
            self._label, text = f"recipe {recipe} (packaged)", packaged[recipe]
        else:
            self._label, text = str(recipe), Path(recipe).read_text("utf-8-sig")
        self._lines = key_lines(text)

    def __call__(self, *key: str | int) -> str:
        """`xlt.toml:7`, the line of the key or of the table around it, or the option that gave it."""
        names = [".".join(map(str, key[:n])) for n in range(len(key), 0, -1)]
        for name, option in reversed(self._given):
            if name in names:
                return f"--set {option}"
        prefixes: Iterable[Key] = (key[:n] for n in range(len(key), 0, -1))
        return f"{self._label}:{next((self._lines[p] for p in prefixes if p in self._lines), 1)}"


class _Checker:
    """One pass over a recipe; fills a report."""

    def __init__(self, report: CheckReport, config: RunConfig, places: _Places, folder: Path) -> None:
        self.report, self.config, self.places, self.folder = report, config, places, folder
        self.texts: dict[DataFile, list[Example]] = {}

    def run(self, rate: float | None, targets: Sequence[str]) -> None:
        """Files, labels, model, settings; then, if all is well, the cost."""
        self.config = with_world(self.config, self.folder)
        files = recipe_files(self.config)
        self.texts, faults = read_all(self.config, files)
        self._add_faults([*faults, *label_faults(self.config, self.texts)])
        self.report.files += [self._row(file) for file in files]
        self.report.warnings += [
            *leak_warnings(self.texts),
            *repeat_warnings(self.texts),
            *label_warnings(self.config, self.texts),
        ]
        self._scored()
        self._settings()
        tokenizer = self._model()
        context = self._context() if self.report.ok else None
        if context is not None:
            tokenizer = context.tokenizer
            self._cost(context, rate, targets)
        elif tokenizer is None and self.config.model.new is not None and self.texts:
            tokenizer = self._attempt(self._train_tokenizer, "model", "new", "vocab_size")
        if tokenizer is not None:
            rows, warnings = coverage(self.config, self.texts, tokenizer)
            self.report.coverage += rows
            self.report.warnings += warnings
        if self.report.estimate is None:
            self.report.notes.append("steps, memory and time are estimated once the errors are corrected")

    def _add(self, where: str, message: str, code: int) -> None:
        problem = CheckProblem(where, message, code)
        if problem not in self.report.problems:
            self.report.problems.append(problem)

    def _add_faults(self, faults: Iterable[Fault]) -> None:
        for fault in faults:
            if fault.place is not None:
                self._add(f"{fault.file.path}:{fault.place}", fault.message, fault.code)
            else:
                key = ".".join(map(str, fault.file.key))
                self._add(self.places(*fault.file.key), f"{key}: {fault.message}", fault.code)

    def _attempt(self, call: Any, *key: str | int) -> Any:
        """The result of a call; its typed error becomes a problem at the key's line, and the result None."""
        try:
            return call()
        except XltError as error:
            self._add(self.places(*key), f"{'.'.join(map(str, key))}: {error}", error.exit_code)
            return None

    def _row(self, file: DataFile) -> FileRow:
        examples = self.texts.get(file)
        counts: dict[str, int] = {}
        for example in examples or () if file.labelled else ():
            for tag in (example.labels,) if isinstance(example.labels, str) else example.labels or ():
                if tag[:2] != "I-" and tag != OUTSIDE:
                    name = tag.removeprefix("B-") if self.config.task == "ner" else tag
                    counts[name] = counts.get(name, 0) + 1
        number = None if examples is None else len(examples)
        path = str(file.path).removeprefix(f"{self.folder}{os.sep}")
        return FileRow(file.role, file.language, path, number, dict(sorted(counts.items())))

    def _scored(self) -> None:
        silent = [t.language for t in self.config.targets if t.test is None]
        if silent:
            self.report.notes.append(f"no test file for {', '.join(silent)}: the run gives a model, but no score there")
        zero_shot = self.config.arms.baseline or not self.config.btf.on
        if not zero_shot and any(t.translated_test is not None for t in self.config.targets):
            self.report.notes.append("no translate-test: it is a score of the baseline, and arms.baseline = false")

    def _settings(self) -> None:
        config = self.config
        if config.task == "ner" and config.labels and OUTSIDE not in config.labels:
            self._add(self.places("labels"), "labels: has no O, the tag of words outside entities; add it", 2)
        if config.model.new is not None:
            self._missing("general", "pre-training reads general text of every language")
        if config.arms.control:
            self._missing("control", "arms.control = true reads general text of every language")
        self._attempt(lambda: choose_device(config.device), "device")
        if config.selftrain.on:
            warning = single_voter(config.selftrain.voters)
            self.report.warnings += [warning] if warning else []
            self._teachers()

    def _teachers(self) -> None:
        """Folders that teach: each must hold a model of this task and these labels."""
        config, path = self.config, self.config.model.path
        labels = known_labels(config, self.texts)
        for i, folder in enumerate(config.selftrain.soft.teacher_folders if labels else ()):
            key = ("selftrain", "soft", "teacher_folders", i)
            own = None if path is None else self._attempt(lambda: Tokenizer.from_folder(path), "model", "path")
            self._attempt(lambda folder=folder, own=own: check_teacher(config, labels, folder, own) and None, *key)

    def _missing(self, role: str, why: str) -> None:
        """Languages without a text that the recipe needs."""
        entries: list[tuple[Key, Any]] = [(("source",), self.config.source)]
        entries += [(("sources", i), source) for i, source in enumerate(self.config.sources)]
        entries += [(("targets", i), target) for i, target in enumerate(self.config.targets)]
        for key, entry in entries:
            if not (entry.general or (role == "control" and entry.control)):
                name = ".".join(map(str, (*key, role)))
                self._add(self.places(*key, role), f"{name}: is missing for {entry.language}: {why}", 2)

    def _model(self) -> Tokenizer | None:
        """Checks the model folder, or the shape of a new encoder; the folder's tokenizer."""
        config, path = self.config, self.config.model.path
        tokenizer: Tokenizer | None = None
        if path is not None:
            shape = self._attempt(lambda: load_encoder_config(path), "model", "path")
            tokenizer = self._attempt(lambda: Tokenizer.from_folder(path), "model", "path")
            if shape is not None:
                own_head = config.btf.on or config.selftrain.mlm_weight or config.finetune.head == "cloze"
                load = load_masked_lm if own_head else load_encoder
                self._attempt(lambda: load(path) and None, "model", "path")
                if config.pooling == "pooler":
                    self._attempt(lambda: load_pooler(path) and None, "pooling")
            misfit = tokenizer.misfit(shape.vocab_size) if shape is not None and tokenizer is not None else ""
            if misfit:
                self._add(self.places("model", "path"), f"model.path: {misfit}", ModelError.exit_code)
        elif config.model.new is not None:
            new = config.model.new
            shape = self._attempt(
                lambda: EncoderConfig(
                    new.vocab_size,
                    new.hidden_size,
                    new.num_layers,
                    new.num_heads,
                    new.intermediate_size,
                    new.max_positions,
                ),
                "model",
                "new",
            )
        else:
            return None
        if shape is not None:
            self._lengths(shape)
        return tokenizer

    def _lengths(self, shape: EncoderConfig) -> None:
        """What a recipe asks of an encoder that this one does not have."""
        config = self.config
        if config.max_length > shape.max_length:
            message = f"max_length: is {config.max_length}, but the encoder has {shape.max_length} positions; lower it"
            self._add(self.places("max_length"), message, 2)
        for table, entry in stage_tables(config).items():
            name = f"{table}.freeze_layers"
            if entry.freeze_layers > shape.num_layers:
                message = f"{name}: is {entry.freeze_layers}, but the encoder has {shape.num_layers} layers; lower it"
                self._add(self.places(*table.split("."), "freeze_layers"), message, 2)
            elif entry.freeze_layers == shape.num_layers and entry.freeze_embeddings:
                message = f"{name} = {entry.freeze_layers} freezes the whole encoder: only the head trains; lower it"
                self.report.warnings.append(RunWarning("encoder-frozen", message, {"stage": table}))

    def _train_tokenizer(self) -> Tokenizer:
        assert self.config.model.new is not None
        lines = (
            " ".join(e.words) if e.words is not None else str(e.text)
            for file, examples in self.texts.items()
            if file.role in ("train", "unlabelled", "general")
            for e in examples
        )
        return train_wordpiece(lines, self.config.model.new.vocab_size)

    def _context(self) -> Context | None:
        """The run's own view of the data, in the temporary folder."""
        result: Context | None = self._attempt(
            lambda: make_context(self.config, RunDir(self.folder), Progress()), "model"
        )
        return result

    def _cost(self, context: Context, rate: float | None, targets: Sequence[str]) -> None:
        config = self.config
        plan = self._attempt(lambda: chosen_stages(config, targets=targets), "targets")
        if plan is None:
            return
        self.report.estimate = self._attempt(lambda: estimate_plan(context, plan, rate=rate), "task")
        if self.report.estimate is None:
            return
        spread = config.model.new.initializer_range if config.model.new is not None else 0.02
        seen: set[str] = set()
        for stage, cost in zip(plan, self.report.estimate.stages, strict=True):
            # Fitting goes on from trained weights, so that little movement is no sign of trouble there.
            if stage.kind == "btf" or stage.kind in seen:
                continue
            peak = stage.optimiser.lr if stage.kind == "pretrain" else stage.optimiser.head_lr or stage.optimiser.lr
            warning = slow_learning_rate(peak, cost.steps, init_std=spread)
            if warning is not None:
                seen.add(stage.kind)
                message = f"{stage.id}: {warning.message}"
                self.report.warnings.append(RunWarning(warning.name, message, {"stage": stage.id, **warning.values}))
        memory = _memory()
        if memory and self.report.estimate.memory > memory:
            message = (
                f"the run is estimated at {size_text(self.report.estimate.memory)}, this machine has "
                f"{size_text(memory)}: set micro_batch in the tables of the stages; the result is the same"
            )
            self.report.warnings.append(
                RunWarning("memory", message, {"estimate": self.report.estimate.memory, "machine": memory})
            )


def _memory() -> int:
    """Bytes of memory of this machine; 0 where it does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return 0
