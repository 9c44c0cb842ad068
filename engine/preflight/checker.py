"""`check`: everything that is wrong with a recipe, its data and its model, in one pass and before any training."""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from ... import ConfigError, ModelError, XltError
from ...data import OUTSIDE, Tokenizer, train_wordpiece
from ...model import EncoderConfig, load_encoder, load_encoder_config, load_masked_lm, load_pooler
from ...tasks import has_spans
from ..pseudolabels.diagnostics import single_voter, slow_learning_rate
from ..recipe.config import RunConfig
from ..recipe.config.files import DataFile, recipe_files
from ..recipe.load import RecipeError, key_places, load_recipe
from ..recipe.schema import dotted, parse_key
from ..recipe.toml_parse import Key
from ..runs.graph import chosen_stages
from ..runs.prepare import encoder_problems, freezing, make_context, setting_problems
from ..runs.synthetic_data import settled
from ..stages.context import Context
from ..storage.run_folder import RunDir
from ..storage.run_warning import RunWarning
from ..storage.text import size_text, text_table
from ..training.device import choose_device
from ..training.progress import Progress
from .check_data import (
    Coverage,
    Fault,
    Texts,
    coverage,
    label_faults,
    label_warnings,
    leak_warnings,
    read_all,
    repeat_warnings,
)
from .cost import Estimate, estimate_plan


@dataclass(frozen=True)
class CheckProblem:
    """One error: where ("de.conll:12", "xlt.toml:7"), what, and the exit code of its kind."""

    where: str
    message: str
    code: int

    def __str__(self) -> str:
        return f"{self.where}: {self.message}".removesuffix(": ")


@dataclass(frozen=True)
class FileRow:
    """One file of the recipe: its examples, None where it cannot be read, and its labels (tags other than `O`)."""

    role: str
    language: str
    path: str
    examples: int | None
    labels: dict[str, int]


@dataclass
class CheckReport:
    """Errors, warnings, files, the tokenizer per language, and what the run will cost, None while there are errors."""

    problems: list[CheckProblem] = field(default_factory=list)
    warnings: list[RunWarning] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    files: list[FileRow] = field(default_factory=list)
    coverage: list[Coverage] = field(default_factory=list)
    estimate: Estimate | None = None

    @property
    def ok(self) -> bool:
        """Whether the run can start."""
        return not self.problems

    @property
    def exit_code(self) -> int:
        """0, or the smallest code among the errors: the recipe's before the data's before the model's."""
        return min((p.code for p in self.problems), default=0)

    def as_dict(self) -> dict[str, Any]:
        """JSON values."""
        estimate = None if self.estimate is None else self.estimate.as_dict()
        return {"ok": self.ok, "exit_code": self.exit_code} | asdict(self) | {"estimate": estimate}

    def render(self) -> str:
        """Everything as text, errors last, where a terminal shows them; paths below the current folder without it."""
        here = f"{Path.cwd()}{os.sep}"
        files = [("file", "language", "path", "examples", "labels")]
        for f in self.files:
            number = "-" if f.examples is None else f"{f.examples:,}"
            files.append((f.role, f.language, f.path.removeprefix(here), number, _counts(f.labels)))
        coverage = [
            (c.language, f"{c.words:,}", f"{c.unknown:.2%}", f"{c.fertility:.2f}", f"{c.cut:.2%}", str(c.longest))
            for c in self.coverage
        ]
        numbers = ("tokenizer", "words tried", "unknown", "tokens/word", "cut", "longest")
        parts = [
            text_table(files, right=(3,)) if self.files else [],
            text_table([numbers, *coverage]) if coverage else [],
            [] if self.estimate is None else [self.estimate.render()],
            [f"note: {note}" for note in self.notes],
            [f"warning: {w.name}: {w.message}" for w in self.warnings],
        ]
        if self.problems:
            count = f"{len(self.problems)} error{'s' * (len(self.problems) > 1)}:"
            parts.append([count, *(f"  {problem}" for problem in self.problems)])
        else:
            parts.append([f"no errors, {len(self.warnings)} warning{'s' * (len(self.warnings) != 1)}"])
        return "\n\n".join("\n".join(part) for part in parts if part).replace(here, "")


def _counts(counts: Mapping[str, int]) -> str:
    if len(counts) > 8:
        return f"{len(counts)} labels, {sum(counts.values()):,}"
    return ", ".join(f"{name} {count:,}" for name, count in counts.items())


_T = TypeVar("_T")


def check(
    recipe: str | Path | None = None,
    overrides: Sequence[str] = (),
    *,
    targets: Sequence[str] = (),
    rate: float | None = None,
) -> CheckReport:
    """Looks at a recipe, all its files and its model. Trains nothing and writes in a temporary folder only.

    Args:
        recipe: as `load_recipe` takes it.
        overrides: `key=value` strings, as `--set` takes them.
        targets: as `run` takes them, for the cost; all files are looked at.
        rate: as for `estimate`.
    """
    report = CheckReport()
    config: RunConfig | None = None
    try:
        config = load_recipe(recipe, overrides).config
    except RecipeError as error:
        for problem in error.problems:
            message = f"{problem.key}: {problem.message}" if problem.key else problem.message
            report.problems.append(CheckProblem(problem.where, message, error.exit_code))
        config = error.partial
    except ConfigError as error:
        where, _, message = str(error).partition(": ")
        report.problems.append(CheckProblem(where, message, error.exit_code))
    if config is None:
        report.notes.append("the data was not looked at, since the recipe does not say enough; correct it first")
        return report
    with tempfile.TemporaryDirectory(prefix="xlt-") as folder:
        _Checker(report, config, key_places(recipe, overrides), Path(folder)).run(rate, targets)
    return report


class _Checker:
    """One pass over a recipe; fills a report. `where` tells the place of a key."""

    def __init__(self, report: CheckReport, config: RunConfig, where: Callable[[Key], str], folder: Path) -> None:
        self.report, self.where, self.folder = report, where, folder
        self.config = settled(config, folder)
        self.texts: Texts = {}

    def run(self, rate: float | None, targets: Sequence[str]) -> None:
        """Files, labels, model, settings; then, if all is well, the cost."""
        files = recipe_files(self.config)
        self.texts, faults = read_all(self.config, files)
        self._add_faults([*faults, *label_faults(self.config, self.texts)])
        self.report.files += [self._row(file) for file in files]
        self.report.warnings += leak_warnings(self.texts)
        self.report.warnings += repeat_warnings(self.texts)
        self.report.warnings += label_warnings(self.config, self.texts)
        self._settings()
        tokenizer = self._model()
        if self.report.ok:
            context = self._attempt("model", lambda: make_context(self.config, RunDir(self.folder), Progress()))
            if context is not None:
                tokenizer = context.tokenizer
                self._cost(context, rate, targets)
        elif self.config.model.new is not None and self.texts:
            tokenizer = self._attempt("model.new.vocab_size", self._train_tokenizer)
        if tokenizer is not None:
            rows, coverage_warnings = coverage(self.config, self.texts, tokenizer)
            self.report.coverage += rows
            self.report.warnings += coverage_warnings
        if self.report.estimate is None:
            self.report.notes.append("steps, memory and time are estimated once the errors are corrected")

    def _add(self, where: str, message: str, code: int) -> None:
        problem = CheckProblem(where, message, code)
        if problem not in self.report.problems:
            self.report.problems.append(problem)

    def _add_key(self, key: str, message: str, code: int = ConfigError.exit_code) -> None:
        self._add(self.where(parse_key(key)), f"{key}: {message}", code)

    def _add_faults(self, faults: Iterable[Fault]) -> None:
        for fault in faults:
            if fault.place is not None:
                self._add(f"{fault.file.path}:{fault.place}", fault.message, fault.code)
            else:
                self._add_key(dotted(fault.file.key), fault.message, fault.code)

    def _attempt(self, key: str, call: Callable[[], _T]) -> _T | None:
        """The result of a call; its typed error becomes a problem at the key's line, and the result None."""
        try:
            return call()
        except XltError as error:
            self._add_key(key, str(error), error.exit_code)
            return None

    def _row(self, file: DataFile) -> FileRow:
        examples = self.texts.get(file)
        counts: dict[str, int] = Counter(t for e in examples or () if file.labelled for t in e.tags)
        if has_spans(self.config.task):
            begun = (tag for tag in counts if tag != OUTSIDE and tag[:2] != "I-")
            counts = {tag.removeprefix("B-"): counts[tag] for tag in begun}
        number = None if examples is None else len(examples)
        path = str(file.path).removeprefix(f"{self.folder}{os.sep}")
        return FileRow(file.role, file.language, path, number, dict(sorted(counts.items())))

    def _settings(self) -> None:
        config, notes = self.config, self.report.notes
        silent = [t.language for t in config.targets if t.test is None]
        if silent:
            notes.append(f"no test file for {', '.join(silent)}: the run gives a model, but no score there")
        if has_spans(config.task) and config.labels and OUTSIDE not in config.labels:
            self._add_key("labels", "has no O, the tag of words outside entities; add it")
        if config.pretrains:
            self._general_text("general", "pre-training reads general text of every language")
        if config.arms.control:
            self._general_text("control", "arms.control = true reads general text of every language")
        for key, message in setting_problems(config):
            self._add_key(key, message)
        self._attempt("device", lambda: choose_device(config.device))
        if config.selftrain.on:
            warning = single_voter(config.selftrain.voters)
            self.report.warnings += [warning] if warning else []

    def _general_text(self, role: str, why: str) -> None:
        """Languages without a text that the recipe needs."""
        for key, table in self.config.language_tables.items():
            name = dotted((*key, role))
            wrong = any(problem.message.startswith(f"{name}: ") for problem in self.report.problems)
            if not (wrong or table.general or (role == "control" and table.control)):
                self._add_key(name, f"is missing for {table.language}: {why}")

    def _model(self) -> Tokenizer | None:
        """Checks the model folder, or the shape of a new encoder; the folder's tokenizer."""
        config, path, new = self.config, self.config.model.path, self.config.model.new
        tokenizer: Tokenizer | None = None
        shape: EncoderConfig | None = None
        if path is not None:
            shape = self._attempt("model.path", lambda: load_encoder_config(path))
            tokenizer = self._attempt("model.path", lambda: Tokenizer.from_folder(path)) if path.is_dir() else None
            if shape is not None:
                load: Callable[[Path], Any] = load_masked_lm if config.btf.on else load_encoder
                self._attempt("model.path", lambda: load(path))
                if config.pooling == "pooler":
                    self._attempt("pooling", lambda: load_pooler(path))
                if tokenizer is not None and (misfit := tokenizer.misfit(shape.vocab_size)):
                    self._add_key("model.path", misfit, ModelError.exit_code)
        elif new is not None and not any(key == "model.new" for key, _ in setting_problems(config)):
            sizes = (new.hidden_size, new.num_layers, new.num_heads, new.intermediate_size, config.max_length)
            shape = EncoderConfig(new.vocab_size, *sizes)
        if shape is not None:
            self._lengths(shape)
        return tokenizer

    def _lengths(self, shape: EncoderConfig) -> None:
        """What a recipe asks of an encoder that this one does not have, or leaves none of it to train."""
        for key, message in encoder_problems(self.config, shape):
            self._add_key(key, message)
        for name, table in freezing(self.config).items():
            if table.freeze_layers == shape.num_layers and table.freeze_embeddings:
                what = f"{name}.freeze_layers = {table.freeze_layers} freezes the whole encoder"
                message = f"{what}: only the head trains; lower it"
                self.report.warnings.append(RunWarning("encoder-frozen", message, {"table": name}))

    def _train_tokenizer(self) -> Tokenizer:
        assert self.config.model.new is not None
        texts = [examples for file, examples in self.texts.items() if file.role in ("train", "unlabelled", "general")]
        return train_wordpiece((e.plain for examples in texts for e in examples), self.config.model.new.vocab_size)

    def _cost(self, context: Context, rate: float | None, targets: Sequence[str]) -> None:
        new = self.config.model.new
        plan = self._attempt("targets", lambda: chosen_stages(self.config, targets=targets)) or []
        estimate = self._attempt("task", lambda: estimate_plan(context, plan, rate=rate)) if plan else None
        if estimate is None:
            return
        self.report.estimate = estimate
        seen = {"btf"}  # Fitting goes on from trained weights, so that little movement is no sign of trouble there.
        for stage, cost in zip(plan, estimate.stages, strict=True):
            peak = stage.training.lr if stage.kind == "pretrain" else stage.training.head_lr or stage.training.lr
            spread = 0.02 if new is None else new.initializer_range
            warning = slow_learning_rate(peak, cost.steps, init_std=spread)
            if warning is not None and stage.kind not in seen:
                seen.add(stage.kind)
                message = f"{stage.id}: {warning.message}"
                self.report.warnings.append(RunWarning(warning.name, message, {"stage": stage.id, **warning.values}))
        machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        if estimate.memory > machine:
            needs, has = (size_text(size, memory=True) for size in (estimate.memory, machine))
            message = f"the run is estimated at {needs}, this machine has {has}"
            fix, values = "set training.micro_batch; the result is the same", {"estimate": estimate.memory}
            self.report.warnings.append(RunWarning("memory", f"{message}: {fix}", values | {"machine": machine}))
