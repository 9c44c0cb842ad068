"""What does not fit between the tables of a recipe; what a table alone has wrong, its dataclass says."""

from __future__ import annotations

from collections.abc import Iterator

from ...data.tokenizer.prompt import template_problem
from .config import RunConfig, SourceConfig, TargetConfig
from .config.each import each_problems, several_problems
from .config.files import all_readers
from .schema import dotted

Problems = Iterator[tuple[str, str]]
"""Keys of a recipe ("targets.0.language"), each with what is wrong there."""
_OPTIONAL = ("btf", "cotrain", "contrastive")
"""Tables of stages that train where the table is on."""


def run_problems(config: RunConfig) -> Problems:
    """All that is wrong between the tables of a recipe, in the order in which errors of one line are shown."""
    yield from each_problems(config.each)
    yield from several_problems(config.each)
    if not config.seeds:
        yield "seeds", "is empty; give at least one seed"
    yield from _language_problems(config)
    yield from _missing_files(config)
    yield from _alpha_problems(config)
    yield from _training_problems(config)
    yield from _cotrain_problems(config)
    yield from _contrastive_problems(config)
    yield from _teacher_problems(config)
    yield from _cloze_problems(config)


def _language_problems(config: RunConfig) -> Problems:
    sources = {dotted(key): source for key, source in zip(config.source_keys, config.sources, strict=True)}
    tables: dict[str, SourceConfig | TargetConfig] = {
        **sources,
        **{f"targets.{i}": target for i, target in enumerate(config.targets)},
    }
    seen: list[str] = []
    for place, table in tables.items():
        if table.language in seen:
            yield f"{place}.language", f"{table.language!r} is named twice"
        seen.append(table.language)
        if config.world is not None and table.reader is not None:
            yield f"{place}.reader", "is given, but the files of a made world are read in one way; leave it out"
    for place, source in sources.items():
        if source.cap and source.per_class:
            yield f"{place}.per_class", f"is given, and so is {place}.cap; give one of them"
        if source.train is None and config.world is None:
            yield f"{place}.train", "is missing: the labelled training file"
        if source.weight != 1 and config.finetune.source_mix != "weights":
            yield f"{place}.weight", 'is given, but nothing reads it; set finetune.source_mix = "weights"'
    yield from _mix_problems(config)
    yield from _target_problems(config)


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


def _missing_files(config: RunConfig) -> Problems:
    if config.world is not None:
        return
    if not config.targets:
        yield "targets", "is missing: add a [[targets]] table with language and unlabelled"
    for i, target in enumerate(config.targets):
        if config.selftrain.on and not target.unlabelled:
            yield f"targets.{i}.unlabelled", "is missing: self-training needs unlabelled text"


def _alpha_problems(config: RunConfig) -> Problems:
    alpha = config.selftrain.alpha
    if alpha.items == "entities" and config.task != "ner":
        yield "selftrain.alpha.items", "is entities, which is for tagging; leave it out"
    if alpha.data == "dev" and not config.has_dev:
        yield "selftrain.alpha.data", "is dev, but source.dev is missing"


def _training_problems(config: RunConfig) -> Problems:
    if config.training.keep == "best" and not config.has_dev:
        yield "training.keep", "is best, but source.dev is missing"
    rounds = config.selftrain
    rates = {"finetune.lr": config.finetune.lr}
    rates |= {"selftrain.soft.lr": rounds.soft.lr, "selftrain.hard.lr": rounds.hard.lr} if rounds.on else {}
    rates |= {f"{name}.lr": getattr(config, name).lr for name in _OPTIONAL if getattr(config, name).on}
    name, lr = max(rates.items(), key=lambda item: item[1])
    if config.training.l2_to_base * lr > 1:
        yield "training.l2_to_base", f"times {name} is above 1: every step would overshoot; at most {1 / lr:g}"


def _cotrain_problems(config: RunConfig) -> Problems:
    if not config.cotrain.on:
        return
    if config.task != "classification":
        yield "cotrain.on", "co-training is for classification; set cotrain.on = false"
    if config.world is None:
        for i, target in enumerate(config.targets):
            if not target.unlabelled:
                yield f"targets.{i}.unlabelled", "is missing: co-training needs unlabelled text"
    if config.cotrain.start == "adapted" and not config.contrastive.on:
        yield "cotrain.start", "is adapted, but contrastive.on is false: set it to true, or leave start out"


def _contrastive_problems(config: RunConfig) -> Problems:
    table = config.contrastive
    if not table.on:
        return
    if config.task != "classification":
        yield "contrastive.on", "contrastive adaptation is for classification; set contrastive.on = false"
    languages = {target.language for target in config.targets}
    for language in table.translations:
        if config.world is None and language not in languages:
            yield (
                f"contrastive.translations.{language}",
                f"is no target; the targets are {', '.join(sorted(languages))}",
            )


def _teacher_problems(config: RunConfig) -> Problems:
    table = config.selftrain
    soft = table.soft
    several = soft.teachers != "one" or soft.teacher_folders
    if several and table.on and "soft" not in table.sequence:
        key = "teachers" if soft.teachers != "one" else "teacher_folders"
        yield f"selftrain.soft.{key}", "is given, but there is no soft stage to use it; see selftrain.stages"


def _cloze_problems(config: RunConfig) -> Problems:
    table = config.cloze
    if config.finetune.head != "cloze":
        if table.verbaliser:
            yield "cloze.verbaliser", 'is given, but nothing reads it; set finetune.head = "cloze"'
        return
    if config.task != "classification":
        yield "finetune.head", "is cloze, which is for classification; use linear"
    if config.pooling != "cls":
        yield "pooling", f'is {config.pooling}, but with finetune.head = "cloze" heads read the mask; leave it out'
    if not table.verbaliser:
        yield "cloze.verbaliser", "is missing: a file with a class, a tab and words for it"
    if (problem := template_problem(table.template)) is not None:
        yield "cloze.template", problem
    elif any(
        ("{pair}" in table.template) != bool(reader.pair) and reader.format not in ("auto", "xnli")
        for reader in (all_readers(config) or [config.reader])
    ):
        yield "cloze.template", "has {pair} where the texts have none, or the other way round; see reader.pair"
