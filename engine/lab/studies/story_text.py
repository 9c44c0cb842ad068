"""A story of one example as lines for a terminal."""

from __future__ import annotations

from ....data import OUTSIDE
from ....tasks import per_word, task_of
from ...report.text_table import text_table
from .example_story import ACCEPTED, Fate, Opinion, Round, Story

_WIDEST = 24


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
