"""`init`: a commented recipe for a stranger's files, that runs as it is."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ... import ConfigError, ModelError
from ...data import Example, Tokenizer, train_wordpiece
from ...model import EncoderConfig, load_encoder_config, load_masked_lm
from ..recipe.toml_dump import toml_value
from .init_files import Found, find_files, read_files
from .init_settings import Settings, for_folder, for_new_encoder
from .sniff import FileFacts

VOCABULARY_LINES = 20_000
COVERED = 99.5
"""Percentage of each language's examples that the maximum length shall hold whole, if the encoder has the positions;
what the chosen length does hold is measured and written beside it."""
LONGEST = 256
"""Largest maximum length that is suggested for a new encoder."""


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
    name: str = "run",
) -> InitResult:
    """Looks at the files and writes a recipe for them.

    Args:
        source: labelled training file.
        unlabelled: text of the target languages; several files of one language are put together.
        test: labelled target files to score on, matched by language; one in the source's language scores the source.
        source_test: labelled source file to score on.
        model: Hugging Face folder of a BERT; without one an encoder is made from the given text.
        language: of the source; by the file's name when absent, else "src".
        target_languages: one per unlabelled file, or one for all; by their names when absent, else "tgt".
        folder: where the recipe will lie; its paths are relative to it. The current folder when absent.
        name: of the run.

    Raises:
        DataError: a file cannot be read, or has rows that cannot.
        ConfigError: files do not fit together.
        ModelError: the model folder cannot be used.
    """
    if not unlabelled:
        raise ConfigError("no unlabelled text: give at least one file of target text with --unlabelled")
    base = Path(folder) if folder is not None else Path.cwd()
    found = find_files(Path(source), unlabelled, test, source_test, language, target_languages, base.resolve())
    read_files(found)
    root = Path(model).resolve() if model is not None else None
    if root is None:
        settings, length = _new_encoder(found)
    else:
        settings, length = _from_folder(found, root)
    return InitResult(_write(found, settings, length, root, name), tuple(found.notes))


def _texts(found: Found) -> list[list[Example]]:
    return [found.train, *(t.texts for t in found.targets)]


Length = tuple[int, str]
"""A maximum length in tokens, and the reason for it."""


def _suggest_length(found: Found, tokenizer: Tokenizer, positions: int) -> Length:
    """Tokens that hold nearly every example whole, a multiple of 8, and what share of the examples they do hold."""
    lengths: dict[str, np.ndarray] = {}
    wanted = 0
    for language, examples in zip([found.language, *(t.code for t in found.targets)], _texts(found), strict=True):
        sample = examples[:: max(1, len(examples) // 5000)]
        if found.task == "ner":
            sizes = [len(x.ids) for x in tokenizer.encode_words([e.words or str(e.text).split() for e in sample])]
        else:
            encoded = tokenizer.encode_texts([str(e.text) for e in sample], [e.pair for e in sample])
            sizes = [len(x.ids) for x in encoded]
        lengths[language] = np.array(sizes)
        # Language by language: the target's texts may be few, and longer in pieces.
        wanted = max(wanted, int(-(-np.percentile(sizes, COVERED) // 8) * 8))
    chosen = max(16, min(wanted, positions))
    cut = {language: float((sizes > chosen).mean()) for language, sizes in lengths.items()}
    said = ", ".join(f"{_share(1 - share)} of the {language} texts" for language, share in cut.items())
    if wanted > positions:
        most = ", ".join(f"{_share(share)} of the {language} texts" for language, share in cut.items())
        found.notes.append(f"longer than {chosen} tokens, where they are cut, are {most}")
    return chosen, f"tokens; whole are {said} (longer ones are cut, and counted)"


def _share(value: float) -> str:
    """A percentage that says 100 or 0 only where it is exact."""
    exact = value in (0.0, 1.0)
    return f"{value:.0%}" if exact else f"{min(99.9, max(0.1, 100 * value)):.1f}%"


def _new_encoder(found: Found) -> tuple[Settings, Length]:
    words = sum(len(e.words) if e.words is not None else len(str(e.text).split()) for x in _texts(found) for e in x)
    settings = for_new_encoder(len(found.train), [len(t.texts) for t in found.targets], words)
    lines = [
        " ".join(e.words) if e.words is not None else str(e.text) for x in _texts(found) for e in x[:VOCABULARY_LINES]
    ]
    size = settings.model["vocab_size"][0]
    while True:
        try:
            tokenizer = train_wordpiece(lines, size)
            break
        except ConfigError:
            # A script with many characters needs more pieces than the amount of text suggests.
            if size > 50_000:
                raise
            size *= 2
    settings.model["vocab_size"] = (size, settings.model["vocab_size"][1])
    length = _suggest_length(found, tokenizer, LONGEST)
    settings.model["max_positions"] = (max(64, length[0]), "at least max_length")
    found.notes.append(
        f"no --model: an encoder is made from your own text ({words:,} words). It shows whether all works; a "
        "multilingual checkpoint such as mBERT gives far better results (--model FOLDER)"
    )
    return settings, length


def _from_folder(found: Found, model: Path) -> tuple[Settings, Length]:
    shape: EncoderConfig = load_encoder_config(model)
    tokenizer = Tokenizer.from_folder(model)
    if misfit := tokenizer.misfit(shape.vocab_size):
        raise ModelError(f"{model}: {misfit}")
    settings = for_folder(shape, len(found.train), [len(t.texts) for t in found.targets])
    try:
        load_masked_lm(model)
    except ModelError as error:
        settings.tables["btf"] = {"on": (False, "the model folder has no masked-language-model head to go on with")}
        found.notes.append(f"bilingual task fitting is off, since it needs a masked-language-model head: {error}")
    return settings, _suggest_length(found, tokenizer, shape.max_length)


def _write(found: Found, settings: Settings, length: Length, model: Path | None, name: str) -> str:
    """The recipe as TOML, a reason behind every value."""

    def path(facts: FileFacts) -> str:
        return _relative(facts.path, found.folder)

    task = "one tag per word (BIO)" if found.task == "ner" else "one label per text"
    top: dict[str, tuple[Any, str]] = {
        "name": (name, "the run goes to runs/<name>"),
        "task": (found.task, f"{task}, as found in {found.source.path.name}"),
        "labels": (
            list(found.labels),
            "found in the training file" + ("; O comes first" if found.task == "ner" else ""),
        ),
        "seeds": ([0], "one complete run per seed; three show how far results scatter: [0, 1, 2]"),
        "max_length": length,
    }
    if found.task == "classification" and model is None:
        top["pooling"] = ("mean", "a new encoder has no trained [CLS]; the mean over the tokens learns faster")
    lines = ["# Written by xlt-engine init. Every value may be changed; xlt-engine check says what does not fit.", ""]
    lines += _pairs(top)
    reader = dict(found.reader)
    if found.encoding != "utf-8":
        reader = {"encoding": (found.encoding, "the files are not UTF-8"), **reader}
    if reader:
        lines += _table("reader", reader)
    if model is None:
        lines += _table("model.new", settings.model, "# No model folder was given: this encoder starts from nothing.")
    else:
        lines += _table(
            "model", {"path": (_relative(model, found.folder), "Hugging Face folder that everything starts from")}
        )
    own = [path(found.source)]
    source: dict[str, tuple[Any, str]] = {
        "language": (found.language, "for tables and figures"),
        "train": (own[0], f"{len(found.train):,} labelled examples"),
    }
    if found.source_test is not None:
        source["test"] = (path(found.source_test), "for scoring only")
    if model is None:
        source["general"] = (own, "what pre-training reads; any other text of the language makes it better")
    lines += _table("source", source) + _own_reader(found, "source", found.language)
    for target in found.targets:
        files = [path(f) for f in target.unlabelled]
        values: dict[str, tuple[Any, str]] = {
            "language": (target.code, "for tables and figures"),
            "unlabelled": (files, f"{len(target.texts):,} examples without labels, for task fitting and self-training"),
        }
        if target.test is not None:
            values["test"] = (path(target.test), "labels for scoring only; nothing is trained or chosen on them")
        if model is None:
            values["general"] = (files, "what pre-training reads; any other text of the language makes it better")
        lines += _table("[targets]", values) + _own_reader(found, "targets", target.code)
    for table, entries in settings.tables.items():
        lines += _table(table, entries, f"# {_STAGES[table]}" if table in _STAGES else "")
    return "\n".join(lines) + "\n"


def _own_reader(found: Found, table: str, language: str) -> list[str]:
    own = found.encodings.get(language)
    return _table(f"{table}.reader", {key: (name, "as these files are") for key, name in own.items()}) if own else []


_STAGES = {
    "pretrain": "Masked language modelling on the general text of all languages, from scratch.",
    "btf": "Bilingual task fitting: masked language modelling on task text of source and target.",
    "finetune": "Training on the labelled source; the result is the first teacher.",
    "selftrain": "Rounds of soft labels and of accepted hard labels on the target.",
}


def _table(name: str, values: dict[str, tuple[Any, str]], comment: str = "") -> list[str]:
    return ["", *([comment] if comment else []), f"[{name}]", *_pairs(values)]


def _pairs(values: dict[str, tuple[Any, str]]) -> list[str]:
    return [f"{key} = {toml_value(value)}  # {why}" for key, (value, why) in values.items()]


def _relative(path: Path, folder: Path) -> str:
    """Beside or below the recipe a relative path, elsewhere an absolute one."""
    absolute = Path(os.path.abspath(path))
    try:
        return absolute.relative_to(folder).as_posix()
    except ValueError:
        return absolute.as_posix()
