"""What a run is: frozen dataclasses, one per table of a recipe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from ...training.config import PerformanceConfig
from ...training.config import option as _option
from ...training.config import required as _required
from ..toml_parse import Key
from . import stages
from .languages import ReaderConfig, SourceConfig, TargetConfig


@dataclass(frozen=True, kw_only=True)
class NewEncoderConfig:
    """An encoder made from scratch, with `max_length` positions: vocabulary and weights."""

    vocab_size: int = _option(3000, "WordPiece vocabulary asked for", min=16, max=1 << 22)
    hidden_size: int = _option(96, "", min=8, max=1 << 16)
    num_layers: int = _option(2, "", min=1, max=1024)
    num_heads: int = _option(4, "", min=1, max=1 << 16)
    intermediate_size: int = _option(384, "", min=8, max=1 << 18)
    dropout: float = _option(0.1, "", min=0, max=1)
    initializer_range: float = _option(0.04, "", min=0)


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The encoder that everything starts from: a Hugging Face folder, a name of its hub, or a new one."""

    path: Path | None = _option(None, "folder with config.json, model.safetensors and tokenizer.json or vocab.txt")
    name: str | None = _option(None, "ORG/NAME or ORG/NAME@REVISION in the Hugging Face cache; path goes before it")
    new: NewEncoderConfig | None = _option(None, "make an encoder instead of loading one")

    def problems(self) -> list[tuple[str, str]]:
        if (self.path is None and self.name is None) == (self.new is None):
            return [("path", "give either path (a model folder), or name (on the hub), or a [model.new] table")]
        return []


@dataclass(frozen=True, kw_only=True)
class WorldTable:
    """Make the demo's world instead of reading files (docs/demo.md)."""

    seed: int = _option(1, "which sentences are drawn")
    label_noise: float = _option(
        0.0, "share of source training sentences in which one label is made wrong", min=0, max=1
    )


@dataclass(frozen=True, kw_only=True)
class ArmsConfig:
    """What else to run beside the method, for comparison."""

    baseline: bool = _option(True, "fine-tuning without BTF (the paper's MBERT row)")
    control: bool = _option(False, "BTF on as much general text (the paper's MBERT-wiki row); needs general text")


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """How often a running stage is saved; has no influence on the result."""

    seconds: float = _option(60.0, "between checkpoints; 0 means after every step", min=0)


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything that decides a run."""

    name: str = _option("run", "name of the run, and of its folder below runs/")
    task: Literal["ner", "tag", "classification"] = _required("ner (BIO tags), tag (plain tags) or classification")
    labels: tuple[str, ...] = _option((), "label set in order; found in the source training file when absent")
    seeds: tuple[int, ...] = _option((0,), "one complete run per seed", min=0)
    max_length: int = _option(128, "tokens, special ones included", min=8)
    long_texts: Literal["cut", "windows"] = _option(
        "cut", "training on what is longer: its beginning, or all of it, in windows (texts of classification are cut)"
    )
    pooling: Literal["cls", "pooler", "mean"] = _option("cls", "classification: what the head reads")
    device: Literal["auto", "cpu", "cuda"] = _option("auto", "")
    threads: int = _option(
        0, "CPU threads; 0 leaves the choice to torch. Results repeat only with the same number", min=0
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = _option(
        "auto",
        "what the model computes in: auto is fp32 on a CPU, bf16 on a GPU of compute capability 8.0 on, else fp16; "
        "weights, statistics, losses and the optimiser are fp32 always",
    )
    deterministic: bool = _option(
        False, "refuse on a GPU what is not the same to the bit in every run; on a CPU nothing is"
    )
    inference_tokens: int = _option(
        0,
        "tokens in one forward pass of a teacher or a test; 0 means 4096, on a GPU 32768, halved where memory runs out",
        min=0,
    )
    peer_timeout: float = _option(
        300.0, "several processes: seconds after which a silent one counts as lost; no influence on the result", above=0
    )
    preset: Literal["paper", "best"] = _option(
        "paper",
        "what keys have that the recipe leaves open: the method as printed, or what did best so far (docs/method.md)",
    )
    prediction: Literal["mean", "valid"] = _option(
        "mean",
        "what voters say in a test: the class of their mean probability; valid: of a sentence's tags by it the most "
        "probable that are valid BIO",
    )
    model: ModelConfig = field(default_factory=ModelConfig)
    sources: tuple[SourceConfig, ...] = _option(
        (SourceConfig(),), "languages that have labels: [source], or several [[source]]", key="source"
    )
    targets: tuple[TargetConfig, ...] = _option((), "languages without labels")
    targets_together: bool = _option(False, "one student that learns the text of all targets, instead of one for each")
    reader: ReaderConfig = field(default_factory=ReaderConfig)
    world: WorldTable | None = _option(None, "make the demo's world; the file keys are then filled in")
    training: stages.TrainingConfig = field(default_factory=stages.TrainingConfig)
    pretrain: stages.PretrainConfig = field(default_factory=stages.PretrainConfig)
    btf: stages.BtfConfig = field(default_factory=stages.BtfConfig)
    finetune: stages.FinetuneConfig = field(default_factory=stages.FinetuneConfig)
    augment: stages.AugmentConfig = field(default_factory=stages.AugmentConfig)
    selftrain: stages.SelfTrainConfig = field(default_factory=stages.SelfTrainConfig)
    arms: ArmsConfig = field(default_factory=ArmsConfig)
    cotrain: stages.CotrainConfig = field(default_factory=stages.CotrainConfig)
    contrastive: stages.ContrastiveConfig = field(default_factory=stages.ContrastiveConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    performance: PerformanceConfig = field(default_factory=PerformanceConfig)

    @property
    def pretrains(self) -> bool:
        """Whether there is a stage of pre-training, which all others start from."""
        return self.model.new is not None or self.pretrain.further

    @property
    def tables(self) -> tuple[SourceConfig | TargetConfig, ...]:
        """The sources, then the targets."""
        return (*self.sources, *self.targets)

    @property
    def language_tables(self) -> dict[Key, SourceConfig | TargetConfig]:
        """The same by their keys."""
        several = len(self.sources) > 1
        sources: list[Key] = [("source", i) if several else ("source",) for i in range(len(self.sources))]
        targets: list[Key] = [("targets", i) for i in range(len(self.targets))]
        return dict(zip([*sources, *targets], self.tables, strict=True))

    @property
    def source(self) -> SourceConfig:
        """The first source, which gaps, translations and made worlds are about."""
        return self.sources[0]

    def training_of(self, table: stages.StageConfig) -> stages.StageTraining:
        """How the stages of a table train: by what the table has itself, else by [training]."""
        names = [key.name for key in fields(stages.StageTraining)]
        itself = {name: getattr(table, name) for name in names if getattr(table, name, None) is not None}
        shared: dict[str, Any] = vars(self.training)
        return stages.StageTraining(**shared | itself)

    def target(self, language: str | None) -> TargetConfig:
        """The table of the target of this language, which the recipe must have."""
        return next(target for target in self.targets if target.language == language)

    def targets_of(self, languages: Sequence[str]) -> tuple[TargetConfig, ...]:
        """The tables of the targets of these languages."""
        return tuple(target for target in self.targets if target.language in languages)

    @property
    def pairs(self) -> list[tuple[str, ...]]:
        """The targets of each student of the method: one by one, or all together."""
        languages = tuple(target.language for target in self.targets)
        return [languages] if self.targets_together and languages else [(language,) for language in languages]

    @property
    def has_dev(self) -> bool:
        """Whether there is labelled source text that nothing trains on. A made world has none."""
        return self.source.dev is not None and self.world is None
