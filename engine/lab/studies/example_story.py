"""The whole story of one example of a run: what every voter said, and what became of it in each round, with the reason.

What a decision did is read from its files. What single voters said is not stored: the models that the stages left are
asked again, about this example alone. An example is named `de:12` by position, `train.txt:345` or an id of the file's
own by place.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .... import DataError
from ....data import OUTSIDE, Example, TokenStore
from ....data.readers.lines import file_stem
from ....tasks import per_word, task_of
from ...pseudolabels.filters import REASONS, Reason
from ...storage.text import text_table
from .finished_run import FinishedRun, Json, TaskStage, words_of

ACCEPTED, NOT_IN_POOL = "accepted", "not-in-pool"
_SOURCE = REASONS | {
    Reason.KEPT: "kept",
    Reason.KEPT_FOR_CLASS: "kept-for-its-class",
    Reason.CONTRADICTED: "contradicted",
    Reason.REMOVED_BEFORE: "removed-before",
}
_NEAR = 3
"""How many other examples a message names."""
_WIDEST = 24


@dataclass(frozen=True)
class Item:
    """One example of a run: `number`, from 0, in a store of labelled "source" or unlabelled "target" text."""

    role: str
    language: str
    number: int
    store: TokenStore

    @property
    def name(self) -> str:
        return f"{self.language}:{self.number}"

    @property
    def example(self) -> str:
        return self.store.example_ids[self.number]


def find_item(text: str, stores: list[tuple[str, str, TokenStore]]) -> Item:
    """The example that `text` names.

    Args:
        text: `LANGUAGE:NUMBER`, the position from 0; or `FILE:LINE`, or an id as the file has it, either with
            `LANGUAGE/` before it where several languages have the same.
        stores: role, language and store of everything that may be meant.

    Raises:
        DataError: nothing or more than one has this name; the message has the nearest ones.
    """
    by_language = {language: (role, store) for role, language, store in stores}
    left, _, right = text.rpartition(":")
    if left in by_language and right.isdigit():
        role, store = by_language[left]
        if int(right) < len(store):
            return Item(role, left, int(right), store)
        raise DataError(f"{text}: {left} has {len(store)} examples here; give {left}:0 to {left}:{len(store) - 1}")
    language, slash, rest = text.partition("/")
    chosen, name = ([language], rest) if slash and language in by_language else (list(by_language), text)
    items = [Item(role, lang, n, store) for role, lang, store in stores if lang in chosen for n in range(len(store))]
    file, _, line = name.rpartition(":")
    id_of_line = f"{file_stem(file)}:{line}" if file else name
    named = [item for item in items if item.example in (name, id_of_line)]
    if len(named) == 1:
        return named[0]
    if named:
        raise DataError(f"{text}: several examples have this name; give {_listed(named)}")
    hint = f"give LANGUAGE:NUMBER, with a language of {', '.join(by_language)}"
    if near := _nearest(id_of_line, items):
        hint = f"the nearest are {_listed(near)}"
    raise DataError(f"{text}: no such example in this run; {hint}")


def _nearest(name: str, items: list[Item]) -> list[Item]:
    """Examples of the same file on the nearest lines."""
    stem, _, line = name.rpartition(":")
    places = [(item, *item.example.rpartition(":")[::2]) for item in items]
    same = [(abs(int(at) - int(line)), item) for item, file, at in places if file == stem and (at + line).isdigit()]
    return [item for _, item in sorted(same, key=lambda entry: entry[0])] if stem else []


def _listed(items: list[Item]) -> str:
    return ", ".join(f"{item.name} ({item.example})" for item in items[:_NEAR])


@dataclass(frozen=True)
class Voter:
    """What one voter said about one word or text."""

    label: str
    confidence: float


@dataclass(frozen=True)
class Opinion(Voter):
    """What a stage's model says about one word or text: the class of highest mean probability, and each voter."""

    voters: tuple[Voter, ...]


@dataclass(frozen=True)
class Fate:
    """What a decision made of one word or text: "accepted", or why not; confidence is the least sure voter's."""

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
    """All that a run knows about an example; its words, or the one text.

    Attributes:
        example: the reader's id; `file` and `line` its place where the file is still there.
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
    """The story of the example that `name` names (see `find_item`).

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
    pools = [("target", language, run.pool(language)) for language in run.targets]
    item = find_item(name, [("source", run.source, run.source_train()), *pools])
    chosen = seeds[0] if seed is None else seed
    pairs = [s.pair for s in run.stages if s.pair is not None]
    pair = item.language if item.role == "target" else target or next(iter(pairs), None)
    if item.role == "source" and target is not None and target not in pairs:
        raise DataError(f"{run.folder}: has no target {target}; it has {', '.join(dict.fromkeys(pairs))}")
    stages = [s for s in run.stages if s.seed == chosen and s.pair in (None, pair) and s.arm != "control"]
    language, store = item.language, item.store
    if store.language is not None:  # the texts of several sources lie in one store, called by the first of them
        language = store.languages[int(store.language[item.number])]
    example = run.originals(store, [item.number], language, labelled_first=True).get(item.number)
    decided = {stage: (record, arrays) for stage, record, arrays in run.decisions() if stage in stages}
    return Story(
        name=item.name,
        example=item.example,
        file=None if example is None else example.file,
        line=None if example is None else example.line,
        role=item.role,
        language=language,
        seed=chosen,
        task=store.task,
        words=words_of(store, item.number, example, run.tokenizer),
        seen=tuple(int(w) for w in store.items(item.number)[1]) if per_word(store.task) else (0,),
        gold=_gold(item, example),
        opinions={s.stage: _opinions(run, s, item) for s in sorted(stages, key=lambda s: s.order)},
        labels={s.stage: s.label for s in stages},
        rounds=tuple(_round(run, s, item, *files) for s, files in decided.items()),
    )


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


def _round(run: FinishedRun, stage: TaskStage, item: Item, record: Json, arrays: dict[str, np.ndarray]) -> Round:
    labels, labeller = item.store.label_names, run.labeller(stage)
    fates: list[Fate] = []
    if item.role == "target":
        part = slice(*item.store.item_offsets[item.number : item.number + 2].tolist())
        columns = (arrays[f"target.{name}"][part].tolist() for name in ("reason", "label", "confidence", "agree"))
        for reason, label, confidence, agree in zip(*columns, strict=True):
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


def _gold(item: Item, example: Example | None) -> tuple[str, ...] | None:
    stored = item.store.gold(item.number)
    if len(stored) and int(stored.min()) >= 0:
        return tuple(item.store.label_names[int(i)] for i in stored)
    if example is None or example.labels is None:
        return None
    return (example.labels,) if isinstance(example.labels, str) else tuple(example.labels)


def render_story(story: Story) -> str:
    """The story, most of it as one table: words (or the one text) down, stages and decisions across."""
    place = f"{story.file}, line {story.line}" if story.file else "its file is gone or has changed"
    kind = "labelled" if story.role == "source" else "unlabelled"
    lines = [f"{story.name}  ({story.example})  {kind} {story.language}, seed {story.seed}", place, ""]
    lines += ["  " + " ".join(story.words), "", *_table_lines(story)]
    if story.role == "source":
        lines += ["", *(_source_line(story, r) for r in story.rounds)]
    elif story.gold is not None:
        lines += ["", "gold: for looking at only, nothing has read it"]
    return "\n".join(lines)


def _table_lines(story: Story) -> list[str]:
    """One line a word or text; words that all call `O` and accept are counted only."""
    decided = [r for r in story.rounds if r.items]
    stages = [story.labels[stage] for stage in story.opinions]
    kind = task_of(story.task).unit
    rows = [[kind, *(["gold"] if story.gold else []), *stages, *(f"round {r.number}" for r in decided)]]
    notes, dull = [], 0
    for k, number in enumerate(story.seen):
        opinions = [opinions[k] for opinions in story.opinions.values()]
        outcomes = [r.items[k].outcome for r in decided]
        tag, word = story.gold[number] if story.gold else OUTSIDE, _short(story.words[number])
        if {tag, *(o.label for o in opinions)} == {OUTSIDE} and {ACCEPTED}.issuperset(outcomes):
            dull += 1
            continue
        fates = [_fate(r.items[k], r.alpha) for r in decided]
        cells = [f"{o.label} {min(v.confidence for v in o.voters):.2f}" for o in opinions]
        rows.append([word, *([tag] if story.gold else []), *cells, *fates])
        said = [f"{s} {_voters(o)}" for s, o in zip(stages, opinions, strict=True) if len(o.voters) > 1]
        notes += [f"{word}: {'; '.join(said)}"] if said else []
    lines = text_table(rows, right=()) if len(rows) > 1 else []
    if dull:
        lines.append(f"{dull} {'other ' if len(rows) > 1 else ''}words: O at every stage{', accepted' * bool(decided)}")
    if lost := len(story.words) - len(story.seen):
        lines.append(f"{lost} words have no token within the maximum length, and count as O")
    lines += ["", "confidences are those of the least sure voter, which is compared with alpha"]
    lines += [f"round {r.number}: {_alpha(r)}, {_by(story, r)}" for r in decided]
    return [*lines, *(["", "voters:"] * bool(notes)), *notes]


def _voters(opinion: Opinion) -> str:
    """What each voter says, with its confidence; a label stands before all confidences of those that say it."""
    labels = dict.fromkeys(v.label for v in opinion.voters)
    return ", ".join(
        " ".join([label, *(f"{v.confidence:.2f}" for v in opinion.voters if v.label == label)]) for label in labels
    )


def _fate(fate: Fate, alpha: float | None) -> str:
    """What became of an item, and the confidence that alpha was compared with, in digits that tell the two apart."""
    if fate.confidence is None:
        return fate.outcome
    texts = ((f"{fate.confidence:.{digits}f}", f"{alpha or 0:.{digits}f}") for digits in range(3, 7))
    return f"{fate.outcome} {next((own for own, other in texts if own != other), f'{fate.confidence:.3f}')}"


def _source_line(story: Story, decision: Round) -> str:
    """What a decision did with a source example, and the words that were its reason."""
    start = f"round {decision.number} ({_by(story, decision)}, {_alpha(decision)}): "
    if decision.source != "contradicted" or story.gold is None:
        return start + {"removed-before": "had been removed before"}.get(str(decision.source), str(decision.source))
    wrong = [
        f"{_short(story.words[word]) + ' ' if per_word(story.task) else ''}{opinion.label}, not {story.gold[word]}"
        for word, opinion in zip(story.seen, story.opinions.get(decision.labeller, ()), strict=True)
        if opinion.label != story.gold[word]
    ]
    return f"{start}removed for good, since it was called {'; '.join(wrong)}"


def _by(story: Story, decision: Round) -> str:
    return f"by {story.labels.get(decision.labeller, decision.labeller)}"


def _alpha(decision: Round) -> str:
    short, alpha = f"{decision.alpha or 0:.3f}", decision.alpha
    return "no filter" if alpha is None else f"alpha {short if float(short) == alpha else f'{alpha:.6f}'}"


def _short(text: str) -> str:
    return text if len(text) <= _WIDEST else text[: _WIDEST - 1] + "…"
