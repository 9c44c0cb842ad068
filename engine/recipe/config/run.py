"""What a run is: frozen dataclasses, one per table of a recipe.

Numbers in the defaults are those of arXiv 2310.04726 section 4.2 where it gives any; the comments of the
recipes `cls-paper` and `conll-paper` name the rest.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from ...training.config import PerformanceConfig
from ...training.config import option as _option
from ...training.config import required as _required
from .augment import AugmentConfig
from .base import ModelConfig, StageConfig, TaskConfig
from .cloze import ClozeConfig
from .languages import SourceConfig, TargetConfig
from .reader import ReaderConfig
from .selftrain import TeachersConfig
from .transfer import ContrastiveConfig, CotrainConfig
from .world import WorldTable

STEP_NAMES = ("soft", "hard")


@dataclass(frozen=True, kw_only=True)
class PretrainConfig(StageConfig):
    """Masked language modelling on general text of all languages; only for an encoder made from scratch."""

    lr: float = _option(2e-3, "peak learning rate", above=0)
    epochs: float = _option(7, "passes over the data", above=0)
    batch_size: int = _option(64, "sequences in one optimiser step", min=1)
    freeze_embeddings: bool = _option(False, "")
    freeze_layers: int = _option(0, "", min=0)
    mask_rate: float = _option(0.15, "share of tokens to predict", above=0, max=1)
    max_length: int = _option(0, "tokens; 0 means the task's", min=0)
    balance: Literal["up", "down", "temperature", "none"] = _option("up", "how languages are resampled")
    temperature: float = _option(1.0, "exponent for balance = temperature", min=0, max=1)


@dataclass(frozen=True, kw_only=True)
class BtfConfig(PretrainConfig):
    """Bilingual task fitting: masked language modelling on task text of source and target (section 3.1)."""

    on: bool = _option(True, "off is the -BTF ablation")
    lr: float = _option(2e-5, "peak learning rate", above=0)
    epochs: float = _option(3, "passes over the data", above=0)
    batch_size: int = _option(32, "sequences in one optimiser step", min=1)
    freeze_embeddings: bool = _option(True, "keep the embeddings as they are")
    freeze_layers: int = _option(3, "keep the lowest layers as they are", min=0)
    cap: int = _option(0, "largest number of unlabelled target sentences; 0 means all", min=0)
    sides: Literal["both", "target"] = _option("both", "text of source and target, or of the target alone (MALAPT)")
    pairs_share: float = _option(
        0.5, "targets.N.pairs: share of the sequences of an epoch (TLM)", above=0, below=1, decides=False
    )
    pair_positions: Literal["reset", "continued"] = _option(
        "reset", "TLM: positions of the second sentence", decides=False
    )


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig(TaskConfig):
    """Training on the labelled source; its result is the first teacher."""

    head: Literal["linear", "mlp", "voters", "cloze"] = _option("linear", "head of the first teacher")
    target_mix: Literal["natural", "balanced"] = _option(
        "natural", "few-shot: source and target examples together as they are, or in equal parts"
    )
    source_mix: Literal["natural", "weights", "temperature"] = _option(
        "natural",
        "several sources: all examples once an epoch, shares by sources.N.weight, or by size and temperature",
        decides=False,
    )
    source_temperature: float = _option(1.0, "exponent for source_mix = temperature", min=0, max=1, decides=False)
    translated: Literal["both", "only"] = _option(
        "both",
        "translate-train: source and translations, or these alone; see targets.N.translated_train",
        decides=False,
    )
    translated_all: bool = _option(
        False, "translate-train: also one model for all targets, on all translations", decides=False
    )


@dataclass(frozen=True, kw_only=True)
class SoftConfig(TeachersConfig):
    """The soft stage: the student learns the teacher's probabilities (Eq. 1)."""

    lr: float = _option(3e-5, "peak learning rate", above=0)
    epochs: float = _option(10, "passes over the data", above=0)
    loss: Literal["mse", "logits", "kl", "ce"] = _option("mse", "mse compares probabilities")
    temperature: float = _option(1.0, "for kl and ce", above=0)
    combine: Literal["per-voter", "mean"] = _option("per-voter", "a loss per voter, or one on their mean probability")
    target: Literal["mean", "vote-share"] = _option("mean", "what a teacher with voters hands on")
    stored: Literal["fp32", "fp16"] = _option("fp32", "how the teacher's labels lie on the disk")
    sides: Literal["target", "both"] = _option(
        "target", "text that the teacher labels for the student: of the target alone, or of the source beside it"
    )
    positions: Literal["first", "all"] = _option("first", "tagging: first sub-token of each word, or all sub-tokens")


@dataclass(frozen=True, kw_only=True)
class HardConfig(TaskConfig):
    """The hard stage: cross entropy on kept source and accepted target items (Eq. 2)."""

    lr: float = _option(1e-6, "peak learning rate", above=0)
    epochs: float = _option(10, "passes over the data", above=0)
    start: Literal["student", "base"] = _option("student", "weights it starts from")
    mix: Literal["natural", "balanced"] = _option(
        "natural", "source and target together as they are, or in equal parts"
    )
    source_weight: float = _option(1.0, "factor of the losses of source items", min=0)
    target_weight: float = _option(1.0, "factor of the losses of target items", min=0)

    def problems(self) -> list[tuple[str, str]]:
        found = super().problems()
        if self.source_weight == self.target_weight == 0:
            found.append(("target_weight", "is 0, and so is source_weight: nothing is left to learn"))
        return found


@dataclass(frozen=True, kw_only=True)
class AlphaConfig:
    """The confidence threshold (Eq. 3)."""

    rule: str = _option(
        "second-difference", "second-difference, slope, abs2, kappa, kneedle, precision:<p> or fixed:<t>"
    )
    data: Literal["all", "kept", "dev"] = _option(
        "all", "labelled source text that gives the curve: of source.train all, or what is still in; or source.dev"
    )
    step: float = _option(0.01, "distance of the thresholds", above=0, max=0.5)
    upper: float = _option(0.99, "highest threshold", above=0, max=1)
    min_kept: int = _option(20, "thresholds that keep fewer items are not considered", min=1)
    items: Literal["all", "entities"] = _option(
        "all", "tagging: the items that give the curve: all words, or those that the voters tag as part of an entity"
    )
    min_share: float = _option(
        0.0, "thresholds that keep a smaller share of the items are not considered", min=0, max=1
    )


@dataclass(frozen=True, kw_only=True)
class SelfTrainConfig:
    """Rounds of soft and hard stages (section 3.2)."""

    on: bool = _option(True, "off is the -ST ablation")
    rounds: float = _option(2, "half rounds are legal: 1.5 is soft, hard, soft", min=0)
    stages: tuple[str, ...] = _option((), "explicit list of soft and hard, instead of rounds")
    voters: int = _option(3, "voters of a student; 1 is the -VM ablation", min=1)
    widths: tuple[int, ...] = _option(
        (), "inner width of each voter; about 3/4 to 11/12 of the hidden size when absent"
    )
    restore: Literal["base", "finetuned"] = _option("base", "encoder that each round's student starts from")
    target_filter: Literal["token", "entity", "sentence", "none"] = _option("token", "unit of acceptance")
    source_filter: Literal["correct", "correct+alpha", "none"] = _option("correct", "which source samples stay")
    accept: Literal["threshold", "class-balanced", "source-distribution"] = _option(
        "threshold", "all that pass alpha, at most the same share of each class, or the classes as the source has them"
    )
    mlm_weight: float = _option(0.0, "times the masked-LM loss on the text of BTF, added in every step; 0: off", min=0)
    abandoned: Literal["round", "drop"] = _option("round", "rejected target items sit out a round, or leave for good")
    cap: int = _option(0, "largest number of unlabelled target examples; 0 means all", min=0)
    soft: SoftConfig = field(default_factory=SoftConfig)
    hard: HardConfig = field(default_factory=HardConfig)
    alpha: AlphaConfig = field(default_factory=AlphaConfig)

    @property
    def sequence(self) -> tuple[str, ...]:
        """The stages in order, "soft" or "hard"."""
        if self.stages:
            return self.stages
        return tuple(STEP_NAMES[i % 2] for i in range(round(self.rounds * 2)))

    def problems(self) -> list[tuple[str, str]]:
        found = [
            (f"stages.{i}", f"{s!r} is not a stage; use soft or hard")
            for i, s in enumerate(self.stages)
            if s not in STEP_NAMES
        ]
        if self.rounds * 2 != round(self.rounds * 2):
            found.append(("rounds", f"{self.rounds} is not a whole number of half rounds"))
        if self.widths and len(self.widths) != self.voters:
            found.append(("widths", f"{len(self.widths)} widths for {self.voters} voters"))
        if self.accept != "threshold" and self.target_filter not in ("token", "entity"):
            found.append(("accept", f'needs target_filter = "token" or "entity", not "{self.target_filter}"'))
        return found


@dataclass(frozen=True, kw_only=True)
class ArmsConfig:
    """What else to run beside the method, for comparison."""

    baseline: bool = _option(True, "fine-tuning without BTF (the paper's MBERT row)")
    control: bool = _option(False, "BTF on as much general text (the paper's MBERT-wiki row); needs general text")


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """How often a running stage is saved; has no influence on the result."""

    seconds: float = _option(60.0, "between checkpoints; 0 means after every step", min=0)
    keep: int = _option(2, "checkpoints of a running stage", min=1)


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything that decides a run."""

    name: str = _option("run", "name of the run, and of its folder below runs/")
    each: dict[str, tuple[str, ...]] = field(
        default_factory=dict,
        metadata={"help": "placeholder -> values: {placeholder} in a path stands for each of them, one run for each"},
    )
    task: Literal["ner", "classification"] = _required("ner (BIO tags) or classification")
    labels: tuple[str, ...] = _option((), "label set in order; found in the source training file when absent")
    seeds: tuple[int, ...] = _option((0,), "one complete run per seed")
    max_length: int = _option(128, "tokens, special ones included", min=8)
    pooling: Literal["cls", "pooler", "mean"] = _option("cls", "classification: what the head reads")
    device: Literal["auto", "cpu", "cuda"] = _option("auto", "")
    threads: int = _option(
        0, "CPU threads; 0 leaves the choice to torch. Results repeat only with the same number", min=0
    )
    precision: Literal["fp32", "bf16", "fp16"] = _option(
        "fp32", "what the model computes in; weights, statistics, losses and the optimiser are fp32 always"
    )
    deterministic: bool = _option(
        False, "refuse on a GPU what is not the same to the bit in every run; on a CPU nothing is"
    )
    inference_tokens: int = _option(
        0, "tokens in one forward pass of a teacher or a test; 0 means 4096, on a GPU 32768", min=0
    )
    peer_timeout: float = _option(
        300.0, "several processes: seconds after which a silent one counts as lost; no influence on the result", above=0
    )
    prediction: Literal["mean", "vote", "first"] = _option(
        "mean", "what several voters say in a test: the class of their mean probability, of most of them, of the first"
    )
    uses_parallel_data: bool = _option(False, "mark the results as made with translations")
    model: ModelConfig = field(default_factory=ModelConfig)
    source: SourceConfig = field(default_factory=SourceConfig)
    sources: tuple[SourceConfig, ...] = _option((), "more languages that have labels")
    targets: tuple[TargetConfig, ...] = _option((), "languages without labels")
    reader: ReaderConfig = field(default_factory=ReaderConfig)
    world: WorldTable | None = _option(
        None, "make the demo's world or the truth world; the file keys are then filled in"
    )
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)
    btf: BtfConfig = field(default_factory=BtfConfig)
    finetune: FinetuneConfig = field(default_factory=FinetuneConfig)
    cloze: ClozeConfig = field(default_factory=ClozeConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    selftrain: SelfTrainConfig = field(default_factory=SelfTrainConfig)
    arms: ArmsConfig = field(default_factory=ArmsConfig)
    cotrain: CotrainConfig = field(default_factory=CotrainConfig)
    contrastive: ContrastiveConfig = field(default_factory=ContrastiveConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    performance: PerformanceConfig = field(default_factory=PerformanceConfig)

    @property
    def chosen(self) -> tuple[str, ...]:
        """The value of each placeholder, in the order of [each]: folders below the run's name."""
        return tuple(values[0] for values in self.each.values())

    @property
    def title(self) -> str:
        """What people call the run: its name and the values of its placeholders."""
        return " ".join((self.name, *self.chosen))

    @property
    def tables(self) -> tuple[SourceConfig | TargetConfig, ...]:
        """The sources, then the targets."""
        return (*self.all_sources, *self.targets)

    @property
    def all_sources(self) -> tuple[SourceConfig, ...]:
        """[source], then [[sources]]."""
        return (self.source, *self.sources)

    def target(self, language: str | None) -> TargetConfig:
        """The table of the target of this language, which the recipe must have."""
        return next(target for target in self.targets if target.language == language)

    @property
    def has_dev(self) -> bool:
        """Whether there is labelled source text that nothing trains on. A made world has none."""
        return self.source.dev is not None and self.world is None
