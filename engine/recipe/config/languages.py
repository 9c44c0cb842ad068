"""The [source], [[sources]] and [[targets]] tables: the languages of a recipe, and their files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ...config_fields import option, required
from .reader import LanguageReaderConfig

if TYPE_CHECKING:
    from .run import RunConfig

Problems = Iterator[tuple[str, str]]


@dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """A language that has labels."""

    language: str = option("en", "language code, for tables")
    train: Path | None = option(None, "labelled training file")
    cap: int = option(0, "largest number of labelled examples, a fixed random choice; 0 means all", min=0)
    per_class: int = option(0, "labelled examples per class (NER: sentences per entity type); 0 means all", min=0)
    draw: int = option(0, "seed of the choices of cap and per_class", min=0)
    weight: float = option(
        1.0, "share of an epoch, relative to the others', where finetune.source_mix says so", above=0
    )
    dev: Path | None = option(None, 'labelled file for `selftrain.alpha.data = "dev"`')
    test: Path | None = option(None, "labelled file to score on")
    unlabelled: tuple[Path, ...] = option((), "more task text for BTF")
    general: tuple[Path, ...] = option((), "general text, for pre-training")
    control: tuple[Path, ...] = option((), "general text for the control arm; `general` when absent")
    reader: LanguageReaderConfig | None = option(
        None, "how the files of this language are read, where [reader] differs"
    )


@dataclass(frozen=True, kw_only=True)
class TargetConfig:
    """A language without labels, or with a few. Its test file is used for scoring only."""

    language: str = required("language code")
    unlabelled: tuple[Path, ...] = option((), "task text")
    test: Path | None = option(None, "labelled file to score on; never trained on")
    labelled: Path | None = option(None, "few-shot: labelled file for fine-tuning; marks the results")
    per_class: int = option(0, "examples of `labelled` per class (NER: sentences per entity type); 0 means all", min=0)
    draw: int = option(0, "seed of the choice of per_class", min=0)
    translated_train: Path | None = option(None, "translate-train: labelled source examples in this language; marks")
    translated_test: Path | None = option(
        None, "translate-test: the test file, line by line in the language of [source], with its labels; marks"
    )
    pairs: tuple[Path, ...] = option(
        (), "TLM: files with a source sentence, a tab and its translation a line, for BTF; marks the results"
    )
    general: tuple[Path, ...] = option((), "general text, for pre-training")
    control: tuple[Path, ...] = option((), "general text for the control arm; `general` when absent")
    reader: LanguageReaderConfig | None = option(
        None, "how the files of this language are read, where [reader] differs"
    )


def language_problems(config: RunConfig) -> Problems:
    """What does not fit among the tables of the languages, and between them and the rest of a recipe."""
    sources = {f"sources.{i}": source.language for i, source in enumerate(config.sources)}
    seen = [config.source.language]
    for place, language in {**sources, **{f"targets.{i}": t.language for i, t in enumerate(config.targets)}}.items():
        if language in seen:
            yield f"{place}.language", f"{language!r} is named twice"
        seen.append(language)
    for i, table in enumerate(config.tables):
        if config.world is not None and table.reader is not None:
            name = "source.reader" if not i else f"targets.{i - 1}.reader"
            yield name, "is given, but the files of a made world are read in one way; leave it out"
    for name, source in zip(("source", *sources), config.all_sources, strict=True):
        if source.cap and source.per_class:
            yield f"{name}.per_class", f"is given, and so is {name}.cap; give one of them"
        if name != "source" and source.train is None:
            yield f"{name}.train", "is missing: the labelled training file"
        if source.weight != 1 and config.finetune.source_mix != "weights":
            yield f"{name}.weight", 'is given, but nothing reads it; set finetune.source_mix = "weights"'
    yield from _mix_problems(config)
    yield from _target_problems(config)


def _mix_problems(config: RunConfig) -> Problems:
    table = config.finetune
    if config.sources and config.world is not None:
        yield "sources", "a made world has one source; give files instead of [world], or leave [[sources]] out"
    if table.source_mix != "natural" and not config.sources:
        yield "finetune.source_mix", f"is {table.source_mix}, but there is one source; add a [[sources]] table"
    if table.source_mix != "natural" and table.target_mix != "natural":
        yield "finetune.source_mix", f"is {table.source_mix}, and target_mix is {table.target_mix}; give one of them"
    if table.source_temperature != 1 and table.source_mix != "temperature":
        yield "finetune.source_temperature", 'is given, but nothing reads it; set finetune.source_mix = "temperature"'


def _target_problems(config: RunConfig) -> Problems:
    translated = [target for target in config.targets if target.translated_train is not None]
    if config.finetune.translated == "only" and not translated:
        yield "finetune.translated", "is only, but there are no translations; give targets.N.translated_train"
    if config.finetune.translated_all and not translated:
        yield "finetune.translated_all", "is on, but there are no translations; give targets.N.translated_train"
    for i, target in enumerate(config.targets):
        if target.per_class and target.labelled is None:
            yield f"targets.{i}.per_class", f"is given, but targets.{i}.labelled is missing"
        for name in ("translated_train", "translated_test", "pairs"):
            if config.world is not None and getattr(target, name):
                yield f"targets.{i}.{name}", "is given, but a made world has no translations; leave it out"
