"""`init`: a commented recipe for a stranger's files, that runs as it is."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ... import ConfigError, ModelError
from ...data import Tokenizer, train_wordpiece
from ...model import EncoderConfig, load_encoder_config, load_masked_lm, load_pooler
from ...model.info import head_of_layout
from ...tasks import task_of
from ...untrusted import listed, quoted
from ..pseudolabels.diagnostics import slow_learning_rate
from ..recipe.config.presets import choices
from ..recipe.hub import hub_name, model_folder
from ..recipe.schema import text_files
from ..recipe.toml_dump import toml_value
from .check_data import encode
from .init_files import FileFacts, Inputs, Language, find_files, read_files, sniff

Values = dict[str, tuple[Any, str]]
"""Keys of a table, each with its value and the reason for it."""
POOL = 10_000
"""Unlabelled examples of a target that self-training uses at most with a new encoder."""
_SIZES = (
    # words up to, vocabulary, hidden size, layers
    (20_000, 1500, 64, 2),
    (300_000, 3000, 96, 2),
    (1_500_000, 8000, 128, 3),
    (float("inf"), 16_000, 192, 4),
)


@dataclass
class Settings:
    """The table `model.new`, the tables of stages by name, the maximum length with its reason, more keys of the top."""

    model: Values = field(default_factory=dict)
    tables: dict[str, Values] = field(default_factory=dict)
    length: tuple[int, str] = (0, "")
    top: Values = field(default_factory=dict)


def for_new_encoder(train: int, targets: Sequence[int], words: int) -> Settings:
    """Settings for an encoder made from scratch: labelled examples, unlabelled ones of each target, words in all."""
    _, vocabulary, hidden, layers = next(row for row in _SIZES if words <= row[0])
    amount = f"for {words:,} words of text"
    settings = Settings(
        {
            "vocab_size": (vocabulary, f"pieces at most, {amount}"),
            "hidden_size": (hidden, f"width, {amount}"),
            "num_layers": (layers, "deeper encoders need more text"),
            "num_heads": (4, "divides the width"),
            "intermediate_size": (4 * hidden, "four times the width, as in BERT"),
            "initializer_range": (0.04, "wider than BERT's 0.02: a narrow encoder leaves its start sooner"),
        }
    )
    rate, most = learning_rate(hidden), max(train, *targets)
    settings.tables["training"] = {"freeze_layers": (0, "a small encoder needs all its layers")}
    settings.tables["pretrain"] = _mlm((1 + len(targets)) * most, 1000, 2 * rate, (3, 60))
    settings.tables["btf"] = _mlm(2 * most, 600, 1.5 * rate, (3, 40)) | {
        "freeze_embeddings": (False, "the words of the task are still to be learned")
    }
    settings.tables |= _task_tables(train, max(targets), rate, POOL)
    return settings


def for_folder(shape: EncoderConfig, train: int, targets: Sequence[int]) -> Settings:
    """Settings for an encoder of a model folder; arguments as above."""
    rate, most = learning_rate(shape.hidden_size), max(train, *targets)
    frozen = shape.num_layers // 4
    kept = "lowest layers kept as they are" if frozen else "a small encoder needs all its layers"
    training: Values = {"freeze_layers": (frozen, kept)}
    big = shape.vocab_size >= 50_000
    btf = _mlm(2 * most, 500, 1.5 * rate, (3, 20)) | {
        "freeze_embeddings": (big, "a large embedding is most of the memory" if big else "small enough to train"),
        "freeze_layers": (frozen if big else 0, "lowest layers kept as they are (the paper: 3 of 12)"),
    }
    tables = {"training": training, "btf": btf, **_task_tables(train, max(targets), rate, max(targets))}
    return Settings(tables=tables)


def learning_rate(hidden_size: int) -> float:
    """Peak rate of a task stage, between 3e-5 for a width of 768 and 1e-3 for 96, with one digit."""
    rate = 3e-5 * (768 / hidden_size) ** 1.7
    return float(f"{min(1e-3, rate):.0e}")


def _task_tables(train: int, target: int, rate: float, cap: int) -> dict[str, Values]:
    pool = min(target, cap)
    loop: Values = {
        "rounds": (2, "soft and hard stage, twice; 0.5 is one soft stage"),
        "voters": (3, "heads that must agree before a label is accepted"),
    }
    if target > cap:
        loop["cap"] = (cap, f"of {target:,} examples, to keep the run short; 0 takes all")
    hard = _task(train + pool, 250, float(f"{rate / 5:.0e}"), (2, 10))
    # The published 1e-6 would need ten thousand steps to change anything.
    why = "peak learning rate; a fifth of the soft stage's, since the student is trained already"
    hard["lr"] = (hard["lr"][0], why)
    return {
        "finetune": _task(train, 300, rate, (3, 20)),
        "selftrain": loop,
        "selftrain.soft": _task(pool, 300, rate, (3, 20)),
        "selftrain.hard": hard,
        "arms": {"baseline": (True, "also fine-tune without bilingual task fitting, to see what it brings")},
    }


def _mlm(examples: int, steps: int, rate: float, limits: tuple[int, int]) -> Values:
    batch = 64 if examples >= 8000 else 32 if examples >= 2000 else 16
    return _training(examples, batch, steps, float(f"{rate:.1e}"), limits)[0]


def _task(examples: int, steps: int, rate: float, limits: tuple[int, int]) -> Values:
    values, taken = _training(examples, 32 if examples >= 1500 else 16, steps, rate, limits)
    if slow_learning_rate(rate, taken, init_std=0.04):
        # Four times the movement below which a head is held to be stuck.
        head = float(f"{min(1e-3, 0.08 / taken):.0e}")
        values["head_lr"] = (max(rate, head), f"the head is new: {taken:,} steps of {rate:g} would hardly move it")
    return values


def _training(examples: int, batch: int, steps: int, rate: float, limits: tuple[int, int]) -> tuple[Values, int]:
    """Rate, epochs that come to about so many steps within limits, and batch size; and the steps."""
    an_epoch = -(-max(1, examples) // batch)
    epochs = max(limits[0], min(limits[1], round(steps / an_epoch)))
    values: Values = {
        "lr": (rate, "peak learning rate, by the width of the encoder"),
        "epochs": (epochs, f"about {an_epoch * epochs:,} steps over {examples:,} examples"),
        "batch_size": (batch, "sequences in a step"),
    }
    return values, an_epoch * epochs


VOCABULARY_LINES = 20_000
COVERED = 99.5
"""Percentage of each language's examples that the maximum length shall hold whole, if the encoder has the positions;
what the chosen length does hold is measured and written beside it."""
LONGEST = 256
"""Largest maximum length that is suggested for a new encoder."""

_READER = {
    "token_column": "the words are in this column, counted from 0",
    "label_column": "the tags are in this column, counted from 0",
    "repair": "some entities of the files start with I-; read them as B-, as conlleval does",
    "words": "field of the words",
    "tags": "field of the tags",
    "text": "column or field of the text",
    "pair": "column or field of the second text",
    "label": "column or field of the label",
    "delimiter": "what stands between the columns of CSV",
    "header": "no row names the columns; their names are their numbers from 0",
    "split": "the unlabelled text has spaces around its punctuation already",
    "encoding": "as these files are",
    "unlabelled_encoding": "as these files are",
    "format": "the names of the files do not tell it",
    "unlabelled_format": "the names of the files do not tell it",
}
"""Reasons for the keys of `reader` tables."""
_STAGES = {
    "pretrain": "# Masked language modelling on the general text of all languages, from scratch.",
    "btf": "# Bilingual task fitting: masked language modelling on task text of source and target.",
    "finetune": "# Training on the labelled source; the result is the first teacher.",
    "selftrain": "# Rounds of soft labels and of accepted hard labels on the target.",
}


@dataclass(frozen=True)
class InitResult:
    """A recipe's text, and what the user should know about how it was made."""

    text: str
    notes: tuple[str, ...]


def init_recipe(
    source: str | Path,
    unlabelled: Sequence[str | Path],
    test: Sequence[str | Path] = (),
    *,
    source_test: str | Path | None = None,
    model: str | Path | None = None,
    language: str | None = None,
    target_languages: Sequence[str] = (),
    folder: str | Path | None = None,
    header: bool = True,
    label_column: str = "",
    encoding: str = "",
) -> InitResult:
    """Looks at the files and writes a recipe for them.

    Args:
        source: labelled training file.
        unlabelled: text of the target languages, files or folders of them; those of one language are put together.
        test: labelled target files to score on, matched by language; one in the source's language scores the source.
        source_test: labelled source file to score on.
        model: Hugging Face folder of a BERT, or its name in the cache; without one an encoder is made from the text.
        language: of the source; by the file's name when absent, else "src".
        target_languages: one per unlabelled file, or one for all; by their names when absent, else "tgt".
        header: whether tables begin with the names of their columns.
        label_column: the column or field of the labels, whatever it looks like, in every file that has it.
        encoding: of files that are not UTF-8; found where empty.
        folder: where the recipe will lie; its paths are relative to it. The current folder when absent.

    Raises:
        DataError: a file cannot be read, or has rows that cannot.
        ConfigError: files do not fit together.
        ModelError: the model folder cannot be used.
    """
    if not unlabelled:
        raise ConfigError("no unlabelled text: give at least one file of target text with --unlabelled")
    files, tests = [file for p in unlabelled for file in text_files(Path(p))], [Path(p) for p in test]
    scored = None if source_test is None else Path(source_test)
    look = partial(sniff, header=header, label=label_column, encoding=encoding)
    inputs = find_files(Path(source), files, tests, scored, language, target_languages, look)
    _has_labels(inputs.source.files[0], label_column)
    read_files(inputs)
    root = model_folder(model).resolve() if model is not None else None
    settings = _new_encoder(inputs) if root is None else _from_folder(inputs, root)
    base = Path(folder if folder is not None else Path.cwd()).resolve()
    return InitResult(_write(inputs, settings, root, base), tuple(inputs.notes))


def _has_labels(facts: FileFacts, label_column: str) -> None:
    """Refuses `--label-column` where the training file has no such column or field of labels."""
    if label_column and label_column not in (facts.options.get(role, role) for role in ("label", "tags")):
        what = f"no column or field {label_column!r} that may hold labels"
        raise ConfigError(f"{facts.path}: {what}; name it as the file does (it holds text or whole numbers)")


def _suggest_length(inputs: Inputs, tokenizer: Tokenizer, positions: int) -> tuple[int, str]:
    """Tokens that hold nearly every example whole, a multiple of 8; and what share of the examples they do hold."""
    lengths: dict[str, np.ndarray] = {}
    for language in inputs.languages:
        sample = language.texts[:: max(1, len(language.texts) // 5000)]
        lengths[language.code] = np.array([len(ids) for ids in encode(tokenizer, sample)])
    # Language by language: the target's texts may be few, and longer in pieces.
    enough = max(int(-(-np.percentile(sizes, COVERED) // 8) * 8) for sizes in lengths.values())
    chosen = max(16, min(enough, positions))
    cut = {code: float((sizes > chosen).mean()) for code, sizes in lengths.items()}
    if enough > positions:
        most = ", ".join(f"{_share(share)} of the {code} texts" for code, share in cut.items())
        inputs.notes.append(f"longer than {chosen} tokens, where they are cut, are {most}")
    whole = ", ".join(f"{_share(1 - share)} of the {code} texts" for code, share in cut.items())
    return chosen, f"tokens; whole are {whole} (longer ones are cut, and counted)"


def _share(value: float) -> str:
    """A percentage that says 100 or 0 only where it is exact."""
    exact = value in (0.0, 1.0)
    return f"{value:.0%}" if exact else f"{min(99.9, max(0.1, 100 * value)):.1f}%"


def _new_encoder(inputs: Inputs) -> Settings:
    plain = [[example.plain for example in language.texts] for language in inputs.languages]
    words = sum(len(line.split()) for lines in plain for line in lines)
    settings = for_new_encoder(len(inputs.source.texts), [len(t.texts) for t in inputs.targets], words)
    size, why = settings.model["vocab_size"]
    while True:
        try:
            tokenizer = train_wordpiece([line for lines in plain for line in lines[:VOCABULARY_LINES]], size)
            break
        except ConfigError:
            # A script with many characters needs more pieces than the amount of text suggests.
            if size > 50_000:
                raise
            size *= 2
    settings.model["vocab_size"] = (size, why)
    settings.length = _suggest_length(inputs, tokenizer, LONGEST)
    if inputs.task == "classification":
        settings.top["pooling"] = ("mean", "a new encoder has no trained [CLS]; the mean over the tokens learns faster")
    inputs.notes.append(
        f"no --model: an encoder is made from your own text ({words:,} words). It shows whether all works; a "
        "multilingual checkpoint such as mBERT gives far better results (--model FOLDER or NAME)"
    )
    return settings


def _from_folder(inputs: Inputs, model: Path) -> Settings:
    shape, tokenizer = load_encoder_config(model), Tokenizer.from_folder(model)
    if misfit := tokenizer.misfit(shape.vocab_size):
        raise ModelError(f"{model}: {misfit}")
    settings = for_folder(shape, len(inputs.source.texts), [len(t.texts) for t in inputs.targets])
    try:
        load_masked_lm(model)
    except ModelError as error:
        settings.tables["btf"] = {"on": (False, "the model folder has no masked-language-model head to go on with")}
        inputs.notes.append(f"bilingual task fitting is off, since it needs a masked-language-model head: {error}")
    settings.length = _suggest_length(inputs, tokenizer, shape.max_length)
    _head_of_layout(settings, head_of_layout(shape, inputs.task), model)
    return settings


def _head_of_layout(settings: Settings, of_layout: tuple[str, str], model: Path) -> None:
    """The head and pooling of transformers' class, so that it opens what fine-tuning makes, if the folder can."""
    head, pooling = of_layout
    if head not in ("", "linear"):
        settings.tables["finetune"]["head"] = (head, "as in transformers' class of this layout, which then opens")
    if pooling == "pooler":
        try:
            load_pooler(model)
        except ModelError:
            return
        settings.top["pooling"] = (pooling, "as in transformers' class of this layout, which then opens")


def _write(inputs: Inputs, settings: Settings, model: Path | None, folder: Path) -> str:
    """The recipe as TOML, a reason behind every value."""
    task, source = task_of(inputs.task), inputs.source
    only = f", but {listed(inputs.untaught, quoted)} in test files alone" if inputs.untaught else ""
    chosen = [choice.why for choice in choices("best", inputs.task)]
    top: Values = {
        "name": ("run", "the run goes to runs/<name>"),
        "task": (inputs.task, f"{task.labelling}, as found in {source.files[0].path.name}"),
        **({"preset": ("best", f'"paper" is the method as printed; best: {", ".join(chosen)}')} if chosen else {}),
        "labels": (list(inputs.labels), f"found in the training file{only}{'; O comes first' if task.spans else ''}"),
        "seeds": ([0], "a complete run per seed; three teach each other, and show how far results scatter: [0, 1, 2]"),
        "max_length": settings.length,
        **settings.top,
    }
    lines = ["# Written by xlt-engine init. Every value may be changed; xlt-engine check says what does not fit."]
    lines += ["", *_pairs(top), *_table("reader", _reasoned(inputs.reader))]
    if model is None:
        lines += _table("model.new", settings.model, "# No model folder was given: this encoder starts from nothing.")
    elif name := hub_name(model):
        lines += _table("model", {"name": (name, "in the Hugging Face cache; everything starts from it")})
    else:
        where = _relative(model, folder)
        lines += _table("model", {"path": (where, "Hugging Face folder that everything starts from")})
    for language in inputs.languages:
        lines += _language(language, language is source, model is None, folder)
    for name, entries in settings.tables.items():
        lines += _table(name, entries, _STAGES.get(name, ""))
    return "\n".join(lines) + "\n"


def _language(language: Language, is_source: bool, general: bool, folder: Path) -> list[str]:
    files = [_relative(facts.path, folder) for facts in language.files]
    number = f"{len(language.texts):,}"
    values: Values = {"language": (language.code, "for tables and figures")}
    if is_source:
        values["train"] = (files[0], f"{number} labelled examples")
    else:
        values["unlabelled"] = (files, f"{number} examples without labels, for task fitting and self-training")
    if language.test is not None:
        why = "labels for scoring only; nothing is trained or chosen on them"
        values["test"] = (_relative(language.test.path, folder), why)
    if general:
        values["general"] = (files, "what pre-training reads; any other text of the language makes it better")
    name = "source" if is_source else "targets"
    table = _table(name if is_source else f"[{name}]", values)
    return [*table, *_table(f"{name}.reader", _reasoned(language.reader))]


def _reasoned(reader: dict[str, Any]) -> Values:
    return {key: (value, _READER[key]) for key, value in reader.items()}


def _table(name: str, values: Values, comment: str = "") -> list[str]:
    return ["", *([comment] if comment else []), f"[{name}]", *_pairs(values)] if values else []


def _pairs(values: Values) -> list[str]:
    return [f"{key} = {toml_value(value)}  # {why}" for key, (value, why) in values.items()]


def _relative(path: Path, folder: Path) -> str:
    """Beside or below the recipe a relative path, elsewhere an absolute one."""
    absolute = Path(os.path.abspath(path))
    return (absolute.relative_to(folder) if absolute.is_relative_to(folder) else absolute).as_posix()
