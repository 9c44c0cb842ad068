"""`init`: a commented recipe for a stranger's files, that runs as it is."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ... import ConfigError, ModelError
from ...data import Tokenizer, train_wordpiece
from ...model import load_encoder_config, load_masked_lm, load_pooler
from ...model.info import head_of_layout
from ...tasks import task_of
from ...untrusted import listed, quoted
from ..recipe.hub import hub_name, model_folder
from ..recipe.schema import text_files
from ..recipe.toml_dump import toml_value
from .check_data import encode
from .init_files import FileFacts, Inputs, Language, find_files, read_files, sniff
from .init_settings import Settings, Values, for_folder, for_new_encoder

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
    top: Values = {
        "name": ("run", "the run goes to runs/<name>"),
        "task": (inputs.task, f"{task.labelling}, as found in {source.files[0].path.name}"),
        "labels": (list(inputs.labels), f"found in the training file{only}{'; O comes first' if task.spans else ''}"),
        "seeds": ([0], "one complete run per seed; three show how far results scatter: [0, 1, 2]"),
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
