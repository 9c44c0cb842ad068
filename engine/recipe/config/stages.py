"""The tables of the main method: BTF, fine-tuning, and rounds of soft and hard stages.

Numbers in the defaults are those of arXiv 2310.04726 section 4.2 where it gives any; the comments of the
recipes `cls-paper` and `conll-paper` name the rest.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from ...training.config import option
from .training import StageConfig

Problems = list[tuple[str, str]]
STEP_NAMES = ("soft", "hard")


@dataclass(frozen=True, kw_only=True)
class MaskedLmConfig(StageConfig):
    """Masked language modelling, which is never scored: its last weights are its result."""

    keep: ClassVar[Literal["last"]] = "last"
    mask_rate: float = option(0.15, "share of tokens to predict", above=0, max=1)
    balance: Literal["up", "down", "temperature", "none"] = option("up", "how languages are resampled")
    temperature: float = option(1.0, "exponent for balance = temperature", min=0, max=1)


@dataclass(frozen=True, kw_only=True)
class PretrainConfig(MaskedLmConfig):
    """Pre-training on general text, of an encoder made from scratch or of the recipe's: nothing is frozen."""

    further: bool = option(False, "go on training the encoder of model.path or model.name before all else")
    held_out: int = option(
        0, "sentences of each language that are kept out, and measured twenty times on the way", min=0
    )
    freeze_embeddings: ClassVar[bool] = False
    freeze_layers: ClassVar[int] = 0
    dropout: float | None = option(None, "while it pre-trains; the encoder's own when absent", min=0, below=1)
    lr: float = option(2e-3, "peak learning rate", above=0)
    epochs: float = option(7.0, "passes over the data", above=0)
    batch_size: int = option(64, "sequences in one optimiser step", min=1)


@dataclass(frozen=True, kw_only=True)
class BtfConfig(MaskedLmConfig):
    """Bilingual task fitting: masked language modelling on task text of source and target (section 3.1)."""

    on: bool = option(True, "off is the -BTF ablation")
    freeze_embeddings: bool | None = option(None, "keep the embeddings as they are; as in [training] when absent")
    freeze_layers: int | None = option(None, "keep the lowest layers as they are; as in [training] when absent", min=0)
    cap: int = option(
        0, "largest number of unlabelled target sentences, 0 means all; fewer steps only with balance = down", min=0
    )
    sides: Literal["both", "target"] = option("both", "text of source and target, or of the target alone (MALAPT)")


@dataclass(frozen=True, kw_only=True)
class TaskConfig(StageConfig):
    """Training of a task model."""

    head_lr: float | None = option(None, "peak learning rate of the head; `lr` when absent", above=0)


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig(TaskConfig):
    """Training on the labelled source; its result is the first teacher."""

    head: Literal["linear", "mlp", "prediction", "voters"] = option(
        "linear", 'head of the first teacher; "prediction" is that of ModernBERT in transformers'
    )
    target_mix: Literal["natural", "balanced"] = option(
        "natural", "few-shot: source and target examples together as they are, or in equal parts"
    )
    source_mix: Literal["natural", "weights", "temperature"] = option(
        "natural",
        "several sources: all examples once an epoch, shares by source.N.weight, or by size and temperature",
        decides=False,
    )
    source_temperature: float = option(1.0, "exponent for source_mix = temperature", min=0, max=1, decides=False)


@dataclass(frozen=True, kw_only=True)
class CodeSwitchConfig:
    """Code switching: fine-tuning also learns the source texts with words in other languages."""

    dictionaries: tuple[Path, ...] = option((), "files with a word, a tab and a translation a line; marks the results")
    rate: float = option(0.5, "probability that a word that is in the dictionaries is replaced", above=0, max=1)
    induce: bool = option(
        False, "without dictionaries: the fitted model says which words of source and target text stand for each other"
    )

    @property
    def on(self) -> bool:
        return bool(self.dictionaries)

    def problems(self) -> Problems:
        if self.induce and self.dictionaries:
            return [("induce", "is on, and dictionaries are given; keep one of them")]
        return []


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """What fine-tuning on the source learns besides the source as it is."""

    code_switch: CodeSwitchConfig = field(default_factory=CodeSwitchConfig)


@dataclass(frozen=True, kw_only=True)
class SoftConfig(TaskConfig):
    """The soft stage: the student learns the teacher's probabilities (Eq. 1), or the mean over several teachers'."""

    lr: float = option(3e-5, "peak learning rate", above=0)
    epochs: float = option(10.0, "passes over the data", above=0)
    teachers: Literal["one", "seeds"] = option(
        "one", "the teacher of the same seed, or those of all seeds of the run, averaged"
    )
    positions: Literal["first", "all"] = option("first", "tagging: first sub-token of each word, or all sub-tokens")


@dataclass(frozen=True, kw_only=True)
class HardConfig(TaskConfig):
    """The hard stage: cross entropy on kept source and accepted target items (Eq. 2)."""

    lr: float = option(1e-6, "peak learning rate", above=0)
    epochs: float = option(10.0, "passes over the data", above=0)
    start: Literal["student", "base"] = option("student", "weights it starts from")
    mix: Literal["natural", "balanced"] = option("natural", "source and target together as they are, or in equal parts")
    source_weight: float = option(1.0, "factor of the losses of source items", min=0)
    target_weight: float = option(1.0, "factor of the losses of target items", min=0)

    def problems(self) -> Problems:
        if self.source_weight == self.target_weight == 0:
            return [("target_weight", "is 0, and so is source_weight: nothing is left to learn")]
        return []


@dataclass(frozen=True, kw_only=True)
class AlphaConfig:
    """The confidence threshold (Eq. 3)."""

    rule: str = option(
        "second-difference", "second-difference, slope, abs2, kappa, kneedle, precision:<p> or fixed:<t>"
    )
    data: Literal["all", "kept", "dev"] = option(
        "all", "labelled source text that gives the curve: of source.train all, or what is still in; or source.dev"
    )
    step: float = option(0.01, "distance of the thresholds", above=0, max=0.5)
    upper: float = option(0.99, "highest threshold", above=0, max=1)
    min_kept: int = option(20, "thresholds that keep fewer items are not considered", min=1)
    items: Literal["all", "entities"] = option(
        "all", "tagging: the items that give the curve: all words, or those that the voters tag as part of an entity"
    )
    min_share: float = option(0.0, "thresholds that keep a smaller share of the items are not considered", min=0, max=1)

    @property
    def threshold(self) -> dict[str, Any]:
        """Arguments of `choose_threshold`."""
        return {name: getattr(self, name) for name in ("rule", "step", "upper", "min_kept", "min_share")}


@dataclass(frozen=True, kw_only=True)
class SelfTrainConfig:
    """Rounds of soft and hard stages (section 3.2)."""

    on: bool = option(True, "off is the -ST ablation")
    rounds: float = option(2.0, "half rounds are legal: 1.5 is soft, hard, soft", min=0, max=100)
    stages: tuple[str, ...] = option((), "explicit list of soft and hard, instead of rounds")
    voters: int = option(3, "voters of a student; 1 is the -VM ablation", min=1, max=64)
    widths: tuple[int, ...] = option(
        (), "inner width of each voter; about 3/4 to 11/12 of the hidden size when absent", max=1 << 18
    )
    restore: Literal["base", "finetuned"] = option("base", "encoder that each round's student starts from")
    target_filter: Literal["token", "entity", "sentence", "none"] = option("token", "unit of acceptance")
    source_filter: Literal["correct", "correct+alpha", "none"] = option("correct", "which source samples stay")
    abandoned: Literal["round", "drop"] = option("round", "rejected target items sit out a round, or leave for good")
    cap: int = option(0, "largest number of unlabelled target examples; 0 means all", min=0)
    source_prior: float = option(
        0.0,
        "how far the teacher's shares of classes, of tags that of O, follow the labelled source's",
        min=0,
        max=1,
    )
    word_pooling: float = option(
        0.0,
        "weight of what the teacher says of the same word elsewhere, or of texts with the same words",
        min=0,
        max=1,
    )
    soft: SoftConfig = field(default_factory=SoftConfig)
    hard: HardConfig = field(default_factory=HardConfig)
    alpha: AlphaConfig = field(default_factory=AlphaConfig)

    @property
    def sequence(self) -> tuple[str, ...]:
        """The stages in order, "soft" or "hard"."""
        return self.stages or tuple(STEP_NAMES[i % 2] for i in range(round(self.rounds * 2)))

    def problems(self) -> Problems:
        problems = [
            (f"stages.{i}", f"{name!r} is not a stage; use soft or hard")
            for i, name in enumerate(self.stages)
            if name not in STEP_NAMES
        ]
        if self.rounds * 2 != round(self.rounds * 2):
            problems.append(("rounds", f"{self.rounds} is not a whole number of half rounds"))
        if self.widths and len(self.widths) != self.voters:
            problems.append(("widths", f"{len(self.widths)} widths for {self.voters} voters"))
        if (self.word_pooling or self.source_prior) and self.soft.positions == "all":
            problems.append(("soft.positions", 'is "all", and word_pooling and source_prior need "first"'))
        return problems
