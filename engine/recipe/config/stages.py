"""The tables of stages: how they train, the main method, and the methods of Yu and Joty (EMNLP 2021).

Numbers in the defaults are those of arXiv 2310.04726 section 4.2, or of section 4.2 of Yu and Joty, where they give
any; the comments of the recipes `cls-paper` and `conll-paper` name the rest. Yu and Joty do not give the threshold, the
number of iterations, temperature, or weight of the contrast: those are ours. Their weight decay, and that they name
neither a warm-up nor freezing, is the affair of [training]. Their second phase, on translations, is not here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from ...training.config import OptimizerConfig, ScheduleConfig, option


@dataclass(frozen=True, kw_only=True)
class TrainingConfig(ScheduleConfig):
    """The [training] table: what is set once, for every stage that trains."""

    freeze_embeddings: bool = option(True, "keep the embeddings as they are (arXiv 2310.04726 section 4.2)")
    freeze_layers: int = option(3, "keep the lowest layers as they are", min=0)
    micro_batch: int | Literal["auto"] = option(
        0,
        "sequences in one forward pass; 0 means the whole batch, auto halves it where memory does not suffice",
        min=0,
        decides=False,  # by more than rounding
    )
    recompute: bool = option(
        False,
        "compute the layers again in the backward pass instead of keeping their activations; the same result",
        decides=False,
    )
    keep: Literal["last", "best", "mean", "seeds"] = option(
        "last",
        "weights that a task stage leaves: of its last step, of the epoch that scores best on source.dev, or the mean "
        "of those after 60, 70, 80, 90 and 100 % of its steps, or of three seeds from one start (arXiv 2310.10532)",
    )

    @property
    def fixed_micro_batch(self) -> int:
        """What batches are cut to beforehand; with "auto" the loop cuts them."""
        return 0 if self.micro_batch == "auto" else self.micro_batch

    @property
    def passes(self) -> int:
        """How often a stage is trained, each time from the same weights."""
        return 3 if self.keep == "seeds" else 1


@dataclass(frozen=True, kw_only=True)
class StageConfig:
    """What every table of a stage has. A further key or constant that has a name of [training] stands above that."""

    lr: float = option(2e-5, "peak learning rate", above=0)
    epochs: float = option(3.0, "passes over the data", above=0)
    batch_size: int = option(32, "sequences in one optimiser step", min=1)


@dataclass(frozen=True, kw_only=True)
class StageTraining(TrainingConfig, OptimizerConfig):
    """How one stage trains: its own table where that says something, else [training]."""

    epochs: float
    batch_size: int


Problems = list[tuple[str, str]]


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
    stages: tuple[Literal["soft", "hard"], ...] = option((), "explicit list of soft and hard, instead of rounds")
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
        0.0, "how far the teacher's shares of classes, of tags that of O, follow the labelled source's", min=0, max=1
    )
    word_pooling: float = option(
        0.0, "weight of what the teacher says of the same word elsewhere, or of texts with the same words", min=0, max=1
    )
    soft: SoftConfig = field(default_factory=SoftConfig)
    hard: HardConfig = field(default_factory=HardConfig)
    alpha: AlphaConfig = field(default_factory=AlphaConfig)

    @property
    def sequence(self) -> tuple[str, ...]:
        """The stages in order, "soft" or "hard"."""
        return self.stages or tuple(("soft", "hard")[i % 2] for i in range(round(self.rounds * 2)))

    def problems(self) -> Problems:
        problems = []
        if self.rounds * 2 != round(self.rounds * 2):
            problems.append(("rounds", f"{self.rounds} is not a whole number of half rounds"))
        if self.widths and len(self.widths) != self.voters:
            problems.append(("widths", f"{len(self.widths)} widths for {self.voters} voters"))
        if (self.word_pooling or self.source_prior) and self.soft.positions == "all":
            problems.append(("soft.positions", 'is "all", and word_pooling and source_prior need "first"'))
        return problems


@dataclass(frozen=True, kw_only=True)
class TransferConfig(StageConfig):
    """The rates of section 4.2; 2 epochs for MARC, 5 for XNLI."""

    lr: float = option(5e-5, "peak learning rate", above=0)
    epochs: float = option(2.0, "passes over the data", above=0)
    batch_size: int = option(16, "sequences in one optimiser step", min=1)


@dataclass(frozen=True, kw_only=True)
class CotrainConfig(TransferConfig):
    """Co-training of two classifiers, and self-training of one (Algorithm 1)."""

    on: bool = option(False, "run it beside what else the recipe has")
    modes: tuple[Literal["co", "self-a", "self-b"], ...] = option(
        ("co",), "co: each model learns from the other's picks; self-a, self-b: from its own (Dong and de Melo, 2019)"
    )
    iterations: int = option(5, "fine-tunings of each model, the first on the labelled source alone", min=1)
    threshold: float = option(0.9, "a pick's confidence must be larger", min=0, max=1)
    parts: int = option(3, "an iteration picks at most labelled examples / parts; 0 means all candidates", min=0)
    start: Literal["pretrained", "adapted"] = option(
        "pretrained", "the first encoder: as it is, or after [contrastive] has adapted it"
    )
    restart: Literal["pretrained", "previous"] = option(
        "pretrained", "weights that each iteration starts from: those of start, or the last ones with their head"
    )
    pool: Literal["each", "all"] = option("each", "a pair of models for each target, or one for the text of all")
    cap: int = option(0, "largest number of unlabelled examples of each target; 0 means all", min=0)
    model: Path | None = option(
        None, "second encoder, a folder or a name as model.name; the first one with other seeds when absent", hub=True
    )

    def problems(self) -> Problems:
        if not self.modes or len(set(self.modes)) != len(self.modes):
            return [("modes", "give each mode once, of co, self-a, self-b")]
        return []


@dataclass(frozen=True, kw_only=True)
class ContrastiveConfig(TransferConfig):
    """Contrastive adaptation on the source: label alignment (Eq. 2 and 3)."""

    on: bool = option(False, "run it beside what else the recipe has")
    temperature: float = option(0.1, "divides the cosines", above=0)
    weight: float = option(0.5, "factor of the label alignment loss; 0 is fine-tuning alone", min=0)
