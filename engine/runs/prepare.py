"""What a run needs before its first stage: the made processes, tokenizer, device and stores, and sound settings."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from ... import ConfigError, ModelError, XltError
from ...data import Tokenizer, file_hash, train_wordpiece
from ...data.readers.lines import check_encoding
from ...model import EncoderConfig, load_encoder_config, load_pooler
from ..plan import Stage
from ..pseudolabels.thresholds import parse_rule, uniform_grid
from ..reading.read_file import read_file
from ..recipe.config import ModelConfig, RunConfig, StageTraining, reader_of
from ..recipe.schema import dotted
from ..stages.context import Context
from ..stages.datasets import Datasets
from ..stages.kind import inputs_of
from ..stages.models import new_encoder_config
from ..storage.files import new_folder, read_json, sha256_file, take_over, write_sealed_json
from ..storage.names import STAMP
from ..storage.run_folder import RunDir
from ..storage.run_warning import RunWarning
from ..storage.stage_files import damage, listed, refuse_changed, sealed_damage
from ..training.device import choose_device
from ..training.distributed import ProcessGroup
from ..training.progress import Progress
from .kinds import load_plugins

VOCABULARY = "tokenizer"
"""Folder of the vocabulary of an encoder that the recipe makes."""


def make_context(
    config: RunConfig,
    home: RunDir,
    progress: Progress,
    should_stop: Callable[[], int] = lambda: 0,
    processes: ProcessGroup | None = None,
    reuse: Sequence[Path] = (),
) -> Context:
    """Tokenizer, device and stores of a run, and those of co-training's second encoder; `reuse` as `run` takes it.

    Raises:
        ModelError: tokenizer and encoder do not belong together.
        DataError: a file of the vocabulary's text is missing or wrong.
        ConfigError: the device, its kernels, or what a setting asks of the encoder, is not to be had.
    """
    for key, message in setting_problems(config):
        raise ConfigError(f"{key}: {message}")
    rest = (home, progress, should_stop, processes or ProcessGroup(), reuse)
    first = _one_context(config, *rest)
    if config.cotrain.on and config.cotrain.model is not None:
        alone = replace(
            config, model=ModelConfig(path=config.cotrain.model), cotrain=replace(config.cotrain, model=None)
        )
        second = _one_context(alone, *rest)
        first.models = second.models = {"a": first, "b": second}
        first.warnings += second.warnings
        second.digests, second.warnings = first.digests, first.warnings
    return first


def _one_context(
    config: RunConfig,
    home: RunDir,
    progress: Progress,
    should_stop: Callable[[], int],
    processes: ProcessGroup,
    reuse: Sequence[Path],
) -> Context:
    """The run as one encoder sees it."""
    device, warnings, path = choose_device(config.device), list[RunWarning](), config.model.path
    if path is not None:  # before its tokenizer is opened: what is absent or damaged is named as a whole
        refuse_changed(path)
        encoder = load_encoder_config(path)
    tokenizer = _tokenizer(config, home.path / VOCABULARY, progress, [other / VOCABULARY for other in reuse], warnings)
    if path is None:
        encoder = new_encoder_config(config, tokenizer)
    elif misfit := tokenizer.misfit(encoder.vocab_size):
        raise ModelError(f"{path}: {misfit}")
    for key, message in encoder_problems(config, encoder):
        raise ConfigError(f"{key}: {message}")
    if config.task == "classification" and config.pooling == "pooler":
        if path is None:
            raise ConfigError('pooling = "pooler" needs a checkpoint that has one; use "cls"')
        load_pooler(path)
    data = Datasets(config, tokenizer, home.path / "store", progress.note, reuse)
    context = Context(
        config, home, data, tokenizer, device, progress, should_stop, processes, reuse=tuple(reuse), warnings=warnings
    )
    data.mend = context.mend if context.processes.is_rank_zero else None  # the others find it built again
    return context


def setting_problems(config: RunConfig) -> Iterator[tuple[str, str]]:
    """The keys whose values only the stages understand, with what is wrong: rules, of plug-ins too, grids, shapes.

    What `recipe/` knows of a value it has said on loading. `check`, `run` and estimates ask this before anything else.
    """
    load_plugins()
    alpha, new = config.selftrain.alpha, config.model.new
    tries: list[tuple[str, Callable[[], object]]] = [
        ("selftrain.alpha.rule", lambda: parse_rule(alpha.rule)),
        ("selftrain.alpha.upper", lambda: uniform_grid(step=alpha.step, upper=alpha.upper)),
    ]
    if new is not None:
        sizes = (new.hidden_size, new.num_layers, new.num_heads, new.intermediate_size, config.max_length)
        tries.append(("model.new", lambda: EncoderConfig(new.vocab_size, *sizes)))
    named: list[tuple[str, object]] = [("reader", config.reader)]
    named += [(dotted((*key, "reader")), t.reader) for key, t in config.language_tables.items() if t.reader is not None]
    for name, reader in named:
        for key in ("encoding", "unlabelled_encoding"):
            if encoding := getattr(reader, key):
                tries.append((place := f"{name}.{key}", partial(check_encoding, place, encoding)))
    for key, made in tries:
        try:
            made()
        except XltError as error:
            yield key, str(error).removeprefix(f"{key}: ")


def encoder_problems(config: RunConfig, encoder: EncoderConfig) -> Iterator[tuple[str, str]]:
    """The keys that ask of an encoder what it does not have, each with what is wrong."""
    positions, layers, parts = encoder.max_length, encoder.num_layers, encoder.pre_norm
    if config.finetune.head == "prediction" and (parts is None or not parts.transform):
        yield "finetune.head", f'is "prediction", which {encoder.layout.title} does not have; use "linear" or "mlp"'
    if config.max_length > positions:
        yield "max_length", f"is {config.max_length}, but the encoder has {positions} positions; lower it"
    for name, training in freezing(config).items():
        if training.freeze_layers > layers:
            number = training.freeze_layers
            yield f"{name}.freeze_layers", f"is {number}, but the encoder has {layers} layers; lower it"


def freezing(config: RunConfig) -> dict[str, StageTraining]:
    """How stages train, by the name of the table that says what of the encoder stays as it is."""
    tables = {"training": config.training_of(config.finetune)}
    if config.btf.on and config.btf.freeze_layers is not None:
        tables["btf"] = config.training_of(config.btf)
    return tables


def read_ahead(context: Context, plan: Sequence[Stage]) -> None:
    """Reads every file that a stage will need, so that a faulty one is found before hours of training.

    Raises:
        DataError: a file is missing or wrong.
        ConfigError: the recipe lacks a text that a stage needs.
    """
    by_data = {
        (s.kind, s.arm, s.targets, s.options.get("text"), s.options.get("model"), "few_shot" in s.options): s
        for s in plan
    }
    for stage in by_data.values():
        context.poll()
        seen_by = context.of_stage(stage)
        inputs_of(seen_by, stage)
        seen_by.test_stores(stage)


def _tokenizer(
    config: RunConfig, folder: Path, progress: Progress, reuse: Sequence[Path], warnings: list[RunWarning]
) -> Tokenizer:
    """The checkpoint's tokenizer, or a vocabulary trained on all text of the recipe, once per `folder`."""
    if config.model.path is not None:
        return Tokenizer.from_folder(config.model.path)
    assert config.model.new is not None
    paths = [p for t in config.tables for p in (*t.general, *t.unlabelled)]
    paths += [s.train for s in config.sources if s.train is not None]
    readers = [str(reader_of(config, p, unlabelled=True)) for p in paths]
    stamp = {"vocab_size": config.model.new.vocab_size, "files": [file_hash(p) for p in paths], "readers": readers}
    if problems := vocabulary_damage(folder):
        text = f"{listed(folder, problems)}; the vocabulary is trained anew"
        warnings.append(damage(text, problems))
        progress.warning(warnings[-1])
    take_over(folder, [other for other in reuse if _stamped(other, stamp)], STAMP)
    if not _stamped(folder, stamp):
        progress.note(f"training a vocabulary of {config.model.new.vocab_size} pieces")
        tokenizer = train_wordpiece(_lines(config, paths), config.model.new.vocab_size)
        with new_folder(folder, replace=True) as temporary:
            tokenizer.save(temporary)
            hashes = {path.name: sha256_file(path) for path in sorted(temporary.iterdir())}
            write_sealed_json(temporary / STAMP, stamp | {"hashes": hashes})
    return Tokenizer.from_folder(folder)


def _stamped(folder: Path, stamp: dict[str, Any]) -> bool:
    record = read_json(folder / STAMP, None)
    return {key: record.get(key) for key in stamp} == stamp and not vocabulary_damage(folder)


def vocabulary_damage(folder: Path) -> dict[str, str]:
    """As `sealed_damage`, of the folder of a run's vocabulary; empty where there is none, or it was never hashed."""
    record = read_json(folder / STAMP, None)
    return sealed_damage(folder, STAMP) if folder.exists() and (not record or "hashes" in record) else {}


def _lines(config: RunConfig, paths: Iterable[Path]) -> Iterable[str]:
    for path in paths:
        for example in read_file(config, path, unlabelled=True, task="text"):
            yield example.plain
