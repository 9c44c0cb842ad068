"""What does not fit between the tables of a recipe; what a table alone has wrong, its dataclass says."""

from __future__ import annotations

from collections.abc import Iterator

from ...tasks import has_spans
from ..storage.names import JOIN
from .config import RunConfig, TargetConfig, merged
from .schema import dotted

Problems = Iterator[tuple[str, str]]
"""Keys of a recipe ("targets.0.language"), each with what is wrong there."""


def run_problems(config: RunConfig) -> Problems:
    """All that is wrong between the tables of a recipe, in the order in which errors of one line are shown."""
    if not config.seeds:
        yield "seeds", "is empty; give at least one seed"
    for i, label in enumerate(config.labels):
        if not label.strip() or label in config.labels[:i]:
            yield f"labels.{i}", f"{label!r} is named twice" if label.strip() else "is empty; name the class"
    yield from _language_problems(config)
    yield from _mix_problems(config)
    yield from _target_problems(config)
    yield from _selftrain_problems(config)
    yield from _training_problems(config)
    yield from _transfer_problems(config)


def _language_problems(config: RunConfig) -> Problems:
    seen: list[str] = []
    for key, table in config.language_tables.items():
        place = dotted(key)
        if table.language in seen:
            yield f"{place}.language", f"{table.language!r} is named twice"
        seen.append(table.language)
        if not table.language.isprintable() or table.language[:1] in ("", ".") or set(table.language) & set("/\\:"):
            yield f"{place}.language", f"{table.language!r} cannot name a folder; use a code or a word, such as 'de'"
        if config.world is not None and table.reader is not None:
            yield f"{place}.reader", "is given, but the files of a made world are read in one way; leave it out"
        if isinstance(table, TargetConfig):
            if JOIN in table.language:
                yield f"{place}.language", f"has a {JOIN}, which joins the names of targets; use another name"
            continue
        if table.cap and table.per_class:
            yield f"{place}.per_class", f"is given, and so is {place}.cap; give one of them"
        if table.train is None and config.world is None:
            yield f"{place}.train", "is missing: the labelled training file"
        if table.weight != 1 and config.finetune.source_mix != "weights":
            yield f"{place}.weight", 'is given, but nothing reads it; set finetune.source_mix = "weights"'


def _mix_problems(config: RunConfig) -> Problems:
    table = config.finetune
    several = len(config.sources) > 1
    if several and config.world is not None:
        yield "source", "a made world has one source; give files instead of [world], or one table [source]"
    if table.source_mix != "natural" and not several:
        yield "finetune.source_mix", f"is {table.source_mix}, but there is one source; write several [[source]] tables"
    if table.source_mix != "natural" and table.target_mix != "natural":
        yield "finetune.source_mix", f"is {table.source_mix}, and target_mix is {table.target_mix}; give one of them"
    if table.source_temperature != 1 and table.source_mix != "temperature":
        yield "finetune.source_temperature", 'is given, but nothing reads it; set finetune.source_mix = "temperature"'


def _target_problems(config: RunConfig) -> Problems:
    if config.world is None and not config.targets:
        yield "targets", "is missing: add a [[targets]] table with language and unlabelled"
    if config.targets_together and config.augment.code_switch.induce:
        yield "targets_together", "is on, but augment.code_switch.induce makes a dictionary of one; leave one out"
    for i, target in enumerate(config.targets):
        if target.per_class and target.labelled is None:
            yield f"targets.{i}.per_class", f"is given, but targets.{i}.labelled is missing"
        if config.world is None and not target.unlabelled and (config.selftrain.on or config.cotrain.on):
            method = "self-training" if config.selftrain.on else "co-training"
            yield f"targets.{i}.unlabelled", f"is missing: {method} needs unlabelled text"


def _selftrain_problems(config: RunConfig) -> Problems:
    alpha = config.selftrain.alpha
    if alpha.items == "entities" and not has_spans(config.task):
        yield "selftrain.alpha.items", "is entities, which is for tagging; leave it out"
    if config.task == "tag":
        if config.selftrain.target_filter == "entity":
            yield "selftrain.target_filter", "is entity, but plain tags mark none; use token or sentence"
        if any(merged(config.reader, table.reader).scheme != "auto" for table in config.tables):
            yield "reader.scheme", "is of tags that mark entities; leave it out"
    if alpha.data == "dev" and not config.has_dev:
        yield "selftrain.alpha.data", "is dev, but source.dev is missing"


def _training_problems(config: RunConfig) -> Problems:
    if config.pretrain.further and config.model.new is not None:
        yield "pretrain.further", "is on, but [model.new] makes an encoder from scratch; keep one of them"
    if config.training.keep == "best" and not config.has_dev:
        yield "training.keep", "is best, but source.dev is missing"


def _transfer_problems(config: RunConfig) -> Problems:
    for name, method in (("cotrain", "co-training"), ("contrastive", "contrastive adaptation")):
        if getattr(config, name).on and config.task != "classification":
            yield f"{name}.on", f"{method} is for classification; set {name}.on = false"
    if config.cotrain.on and config.cotrain.start == "adapted" and not config.contrastive.on:
        yield "cotrain.start", "is adapted, but contrastive.on is false: set it to true, or leave start out"
