"""The whole story of one example of a run: what every voter said, and what became of it in each round, with the reason.

What a decision did is read from its files. What single voters said is not stored: the models that the stages left are
asked again, about this example alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np

from .... import DataError
from ....data import Example, Tokenizer
from ....data.readers.lines import file_stem
from ....tasks import per_word
from ...pseudolabels.filters import REASONS, Reason
from ...reading.read_file import read_file
from ...storage.files import read_json
from .example_name import Item, find_item
from .example_text import decoded, is_example, words_of
from .finished_run import FinishedRun, Json, TaskStage

ACCEPTED, NOT_IN_POOL = "accepted", "not-in-pool"
_SOURCE = {
    Reason.KEPT: "kept",
    Reason.KEPT_FOR_CLASS: "kept-for-its-class",
    Reason.CONTRADICTED: "contradicted",
    Reason.LOW_CONFIDENCE: "below-threshold",
    Reason.NOT_A_NUMBER: "not-a-number",
    Reason.REMOVED_BEFORE: "removed-before",
}


@dataclass(frozen=True)
class Voter:
    """What one voter said about one word or text."""

    label: str
    confidence: float


@dataclass(frozen=True)
class Opinion:
    """What a stage's model says about one word or text: the class of highest mean probability, and each voter."""

    label: str
    confidence: float
    voters: tuple[Voter, ...]


@dataclass(frozen=True)
class Fate:
    """What a decision made of one word or text.

    Attributes:
        outcome: "accepted", or why not (the reasons of docs/summary-schema.md, or "not-in-pool").
        label: the pseudo-label.
        confidence: the lowest among the voters; `agree` whether they agree.
    """

    outcome: str
    label: str | None
    confidence: float | None
    agree: bool | None


@dataclass(frozen=True)
class Round:
    """One decision. `labeller` is the stage whose model made it; `source` says what became of a source example."""

    stage: str
    number: int
    labeller: str
    alpha: float | None
    unit: str
    items: tuple[Fate, ...]
    source: str | None


@dataclass(frozen=True)
class Story:
    """All that a run knows about an example.

    Attributes:
        name: short name; `example` the reader's id, `file` and `line` its place where the file is still there.
        words: the words (tagging), or the one text.
        seen: positions of the words that have a token within the maximum length; what `items` and `opinions` count.
        gold: one label per word or the text's class, None where unknown. Of a target it is for looking at only.
        opinions: by stage, in the order of the trail; `labels` are what tables call these stages.
    """

    name: str
    example: str
    file: str | None
    line: int | None
    role: str
    language: str
    seed: int
    task: str
    words: tuple[str, ...]
    seen: tuple[int, ...]
    gold: tuple[str, ...] | None
    opinions: dict[str, tuple[Opinion, ...]]
    labels: dict[str, str]
    rounds: tuple[Round, ...]


def example_story(folder: str | Path, name: str, *, seed: int | None = None, target: str | None = None) -> Story:
    """The story of the example that `name` names (see `example_name.find_item`).

    Args:
        seed: whose stages tell it; the run's first where absent.
        target: for source examples: the target whose models tell it; the first with decisions where absent.

    Raises:
        DataError: no such example, or the run has no such seed.
    """
    run = FinishedRun.open(folder)
    seeds = sorted({s.seed for s in run.stages})
    if seed is not None and seed not in seeds:
        raise DataError(f"{run.folder}: has no seed {seed}; it has {', '.join(map(str, seeds))}")
    stores = [("source", run.source, run.source_train())]
    stores += [("target", language, run.pool(language)) for language in run.targets]
    item = find_item(name, stores)
    chosen = seeds[0] if seed is None else seed
    pairs = [s.pair for s in run.stages if s.pair is not None]
    pair = item.language if item.role == "target" else target or next(iter(pairs), None)
    if item.role == "source" and target is not None and target not in pairs:
        raise DataError(f"{run.folder}: has no target {target}; it has {', '.join(dict.fromkeys(pairs))}")
    stages = [s for s in run.stages if s.seed == chosen and s.pair in (None, pair) and s.arm != "control"]
    tokenizer = Tokenizer.from_folder(run.stages[0].folder)
    example = _original(run, item, tokenizer)
    labels = run.model(stages[0]).labels if stages else ()
    decided = {stage: (record, arrays) for stage, record, arrays in run.decisions() if stage in stages}
    return Story(
        name=item.name,
        example=item.example,
        file=None if example is None else example.file,
        line=None if example is None else example.line,
        role=item.role,
        language=_language(item),
        seed=chosen,
        task=item.store.task,
        words=decoded(item.store, item.number, tokenizer) if example is None else words_of(example),
        seen=tuple(int(w) for w in item.store.items(item.number)[1]) if per_word(item.store.task) else (0,),
        gold=_gold(item, example, labels),
        opinions={s.stage: _opinions(run, s, item) for s in sorted(stages, key=lambda s: s.order)},
        labels={s.stage: s.label for s in stages},
        rounds=tuple(_round(run, s, item, labels, *files) for s, files in decided.items()),
    )


def _language(item: Item) -> str:
    """Of the example: the labelled texts of several source languages lie in one store, called by the first of them."""
    store = item.store
    return item.language if store.language is None else store.languages[int(store.language[item.number])]


def _opinions(run: FinishedRun, stage: TaskStage, item: Item) -> tuple[Opinion, ...]:
    import torch

    from ....data import ItemView
    from ...evaluation.inference import predict_logits

    model = run.model(stage)
    view = ItemView(item.store)
    part = slice(int(view.offsets[item.number]), int(view.offsets[item.number + 1]))
    probabilities = torch.softmax(predict_logits(model, view, np.array([item.number]))[:, part], dim=-1)
    opinions = []
    for mean, each in zip(probabilities.mean(dim=0), probabilities.transpose(0, 1), strict=True):
        voters = tuple(Voter(model.labels[int(p.argmax())], float(p.max())) for p in each)
        opinions.append(Opinion(model.labels[int(mean.argmax())], float(mean.max()), voters))
    return tuple(opinions)


def _round(
    run: FinishedRun, stage: TaskStage, item: Item, labels: Sequence[str], record: Json, arrays: dict[str, np.ndarray]
) -> Round:
    labeller = run.labeller(stage)
    fates: list[Fate] = []
    if item.role == "target":
        for i in range(int(item.store.item_offsets[item.number]), int(item.store.item_offsets[item.number + 1])):
            reason, label, confidence, agree = (
                arrays[f"target.{name}"][i].item() for name in ("reason", "label", "confidence", "agree")
            )
            outcome = ACCEPTED if reason == Reason.KEPT else REASONS.get(reason, NOT_IN_POOL)
            known = (labels[label], confidence, bool(agree)) if reason >= 0 else (None, None, None)
            fates.append(Fate(outcome, *known))
    return Round(
        stage=stage.stage,
        number=int(record["round"]),
        labeller="" if labeller is None else labeller.stage,
        alpha=record["alpha"],
        unit=str(record["unit"]),
        items=tuple(fates),
        source=_SOURCE[Reason(int(arrays["source.reason"][item.number]))] if item.role == "source" else None,
    )


def _original(run: FinishedRun, item: Item, tokenizer: Tokenizer) -> Example | None:
    """The example as its file has it, with its labels if it has them; None where the file is gone or has changed."""
    stem = file_stem(item.example.rpartition(":")[0])
    paths = [run.place_of(Path(p)) for p in read_json(run.folder / "run.json").get("hashes") or {}]
    paths = sorted((p for p in paths if p.is_file()), key=lambda p: file_stem(p) != stem)
    for path, unlabelled in product(paths, (False, True)):
        try:
            examples = read_file(run.config, path, unlabelled=unlabelled)
        except DataError:
            continue  # a file of another kind, or one without labels
        for example in examples:
            if is_example(example, item.store, item.number, tokenizer):
                return example
    return None


def _gold(item: Item, example: Example | None, labels: Sequence[str]) -> tuple[str, ...] | None:
    stored = item.store.gold(item.number)
    if len(stored) and int(stored.min()) >= 0:
        return tuple(labels[int(i)] for i in stored)
    if example is None or example.labels is None:
        return None
    return (example.labels,) if isinstance(example.labels, str) else tuple(example.labels)
