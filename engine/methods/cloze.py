"""Classification on the masked-LM head: the words of the classes, and the model made of an input's own weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ... import ConfigError
from ...data import Tokenizer, TokenStore
from ...data.readers.lines import read_lines
from ...data.readers.problems import Problems
from ...model import ClozeHead, ClozeModel, cloze_model, load_masked_lm
from ..plan import Stage
from ..recipe.config import RunConfig
from ..stages.context import Context
from ..stages.kind import (
    HeadKind,
    StageKind,
    StageRun,
    Training,
    register_head,
    register_kind,
    register_planner,
)

Pieces = tuple[tuple[int, ...], ...]


def read_verbaliser(paths: Sequence[str | Path], *, encoding: str = "utf-8") -> dict[str, dict[str, str]]:
    """The words of each class, in the order of the files, with the place that each comes from.

    Raises:
        DataError: all faults, by line.
    """
    verbaliser: dict[str, dict[str, str]] = {}
    problems = Problems()
    for path in paths:
        for number, line in read_lines(path, encoding, problems):
            name, tab, listed = line.partition("\t")
            words = [word.strip() for word in listed.split(",")]
            if not line.strip():
                continue
            if not (name.strip() and tab and all(words)):
                problems.add(f"{path}:{number}", "is not a class, a tab and words with commas", "correct the line")
                continue
            places = verbaliser.setdefault(name.strip(), {})
            for word in words:
                places.setdefault(word, f"{path}:{number}")
    problems.raise_if_any()
    return verbaliser


def verbaliser_pieces(config: RunConfig, labels: Sequence[str], tokenizer: Tokenizer) -> Pieces:
    """The ids of the words of each label, in the order of the labels.

    Raises:
        ConfigError: a label without words, words of no label, a word that is not one piece of the vocabulary, or that
            stands for two labels; all of them are listed.
        DataError: a line of a file is wrong.
    """
    verbaliser = read_verbaliser(config.cloze.verbaliser, encoding=config.reader.encoding)
    faults = [f"no words for {label!r}; add a line" for label in labels if label not in verbaliser]
    known = ", ".join(labels)
    for name in (name for name in verbaliser if name not in labels):
        faults.append(f"{next(iter(verbaliser[name].values()))}: {name!r} is no label; they are {known}")
    pieces: dict[str, dict[int, str]] = {}
    for name, words in verbaliser.items():
        for word, place in words.items():
            ids = tokenizer.encode_texts([word])[0].ids[1:-1]
            if len(ids) != 1 or ids == [tokenizer.unk_id]:
                cut = " ".join(str(tokenizer.token(i)) for i in ids) or "nothing"
                faults.append(f"{place}: {word!r} is not one piece of the vocabulary but {cut}; take another word")
                continue
            other = next((label for label, ids_of in pieces.items() if ids[0] in ids_of and label != name), None)
            if other is not None:
                faults.append(f"{place}: {word!r} stands for {other!r}, too; give it to one class")
            pieces.setdefault(name, {})[ids[0]] = word
    if faults:
        raise ConfigError("cloze.verbaliser: " + "\n".join(faults))
    return tuple(tuple(pieces[label]) for label in labels)


def verbaliser_digest(context: Context) -> str:
    """What the words come to, for the fingerprint of a stage."""
    pieces = verbaliser_pieces(context.config, context.data.labels, context.tokenizer)
    return hashlib.sha256(json.dumps(pieces).encode()).hexdigest()[:16]


def new_cloze_model(context: Context, stage: Stage, role: str = "base") -> ClozeModel:
    """The masked language model of an input as a classifier; nothing in it is fresh.

    Raises:
        ModelError: the input has no masked-LM head.
    """
    pieces = verbaliser_pieces(context.config, context.data.labels, context.tokenizer)
    base = load_masked_lm(context.input_folder(stage, role))
    return cloze_model(base, pieces, context.data.labels, prompt=context.config.prompt).to(context.device)


class Cloze(StageKind):
    """Nothing is trained: the masked-LM head of the input is asked for the classes' words."""

    name = "cloze"
    trains = False

    def head(self, config: RunConfig) -> str:
        return self.name

    def inputs(self, context: Context, stage: Stage) -> dict[str, TokenStore]:
        return {}

    def build(self, run: StageRun) -> Training:
        model = new_cloze_model(run.context, run.stage)
        return Training(model, None, None, {"examples": 0}, lambda trace: "no training")

    def batches(self, run: StageRun) -> None:
        return None


def cloze_plan(config: RunConfig, seed: int, stages: tuple[Stage, ...]) -> list[Stage]:
    """Stages that score the masked-LM heads that fine-tuning starts from, where it trains such heads."""
    if config.finetune.head != "cloze":
        return []
    bases = {"zero-shot": ("cloze", 9, "cloze, no training"), "btf": ("cloze-btf", 33, "cloze after BTF, no training")}
    plan = []
    for stage in stages:
        if stage.name in bases:
            name, order, label = bases[stage.name]
            names = {"order": order, "label": label}
            where = f"{stage.id.rpartition('/')[0]}/{name}"
            rest: dict[str, Any] = {"inputs": stage.inputs} | names
            plan.append(Stage(where, "cloze", name, "cloze", seed, stage.training, stage.targets, **rest))
    return plan


register_kind(Cloze())
register_planner(cloze_plan)
register_head(
    "cloze",
    HeadKind(
        model=new_cloze_model,
        head=lambda encoder, classes, seed: ClozeHead(encoder.config, [[0]] * classes, seed=seed),
        digests=lambda context, stage: {"verbaliser": verbaliser_digest(context)},
    ),
)
