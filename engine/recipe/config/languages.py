"""The [source], [[sources]] and [[targets]] tables: the languages of a recipe, and their files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ...training.config import option, required
from .reader import LanguageReaderConfig


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
