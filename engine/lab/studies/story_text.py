"""A story of one example as lines for a terminal."""

from __future__ import annotations

from ....data import OUTSIDE
from ...report.text_table import text_table
from .item_story import ACCEPTED, Opinion, Round, Story

_WIDEST = 24


def render_story(story: Story) -> str:
    """The story, most of it as one table: words (or the one text) down, stages and decisions across."""
    place = f"{story.file}, line {story.line}" if story.file else "its file is gone or has changed"
    kind = "labelled" if story.role == "source" else "unlabelled"
    lines = [f"{story.name}  ({story.example})  {kind} {story.language}, seed {story.seed}", place, ""]
    lines += ["  " + " ".join(story.words), ""]
    lines += _text_lines(story) if story.task != "ner" else _word_lines(story)
    if story.role == "source":
        lines += ["", *(_source_line(story, r) for r in story.rounds)]
    if story.gold is not None and story.role == "target":
        note = " ".join(story.gold) if story.task != "ner" else "in the column gold"
        lines += ["", f"gold: {note} (for looking at only, nothing has read it)"]
    return "\n".join(lines)


def _text_lines(story: Story) -> list[str]:
    """One line a stage, and one a decision after the stage that it was made by."""
    rows = [["stage", "label", "confidence", "voters"]]
    for stage, (opinion,) in story.opinions.items():
        rows.append([story.labels[stage], opinion.label, f"{opinion.confidence:.2f}", _voters(opinion)])
        for found in story.rounds:
            if found.labeller == stage and found.items:
                fate = found.items[0]
                reason = f"lowest confidence {fate.confidence:.3f}, {_alpha(found)}" if fate.label else ""
                rows.append([f"  round {found.number}", fate.outcome, "", reason])
    wrong = story.gold if story.role == "source" else None
    lines = text_table(rows, right=())
    return lines + (["", f"gold: {wrong[0]}"] if wrong else [])


def _word_lines(story: Story) -> list[str]:
    """One line a word; words that all call `O` and accept are counted only."""
    gold = story.gold is not None
    decided = [r for r in story.rounds if r.items]
    stages = [story.labels[stage] for stage in story.opinions]
    rows = [["word", *(["gold"] if gold else []), *stages, *(f"round {r.number}" for r in decided)]]
    notes, dull = [], 0
    for k, word in enumerate(story.seen):
        opinions = {stage: found[k] for stage, found in story.opinions.items()}
        fates = [r.items[k] for r in decided]
        tag = story.gold[word] if story.gold else OUTSIDE
        if (
            tag == OUTSIDE
            and all(o.label == OUTSIDE for o in opinions.values())
            and all(f.outcome == ACCEPTED for f in fates)
        ):
            dull += 1
            continue
        cells = [f"{o.label} {o.confidence:.2f}" for o in opinions.values()]
        rows.append([_short(story.words[word]), *([tag] if gold else []), *cells, *(f.outcome for f in fates)])
        for stage, opinion in opinions.items():
            if len({v.label for v in opinion.voters}) > 1:
                notes.append(f"{_short(story.words[word])}: voters of {story.labels[stage]} {_voters(opinion)}")
    lines = text_table(rows, right=()) if len(rows) > 1 else []
    if dull:
        lines.append(f"{dull} {'other ' if len(rows) > 1 else ''}words: O at every stage{', accepted' * bool(decided)}")
    if lost := len(story.words) - len(story.seen):
        lines.append(f"{lost} words have no token within the maximum length, and count as O")
    lines += ["", *(f"round {r.number}: {_alpha(r)}, {_by(story, r)}" for r in decided)] * bool(decided)
    return [*lines, *([""] * bool(notes)), *notes]


def _source_line(story: Story, found: Round) -> str:
    """What a decision did with a source example, and the words that were its reason."""
    start = f"round {found.number} ({_by(story, found)}, {_alpha(found)}): "
    if found.source != "contradicted" or story.gold is None:
        return start + {"removed-before": "had been removed before"}.get(str(found.source), str(found.source))
    opinions = story.opinions.get(found.labeller, ())
    wrong = [
        f"{_short(story.words[word]) + ' ' if story.task == 'ner' else ''}{opinion.label}, not {story.gold[word]}"
        for word, opinion in zip(story.seen, opinions, strict=True)
        if opinion.label != story.gold[word]
    ]
    return f"{start}removed for good, since it was called {'; '.join(wrong)}"


def _by(story: Story, decision: Round) -> str:
    return f"by {story.labels.get(decision.labeller, decision.labeller)}"


def _alpha(found: Round) -> str:
    return "no filter" if found.alpha is None else f"alpha {found.alpha:.3f}"


def _voters(opinion: Opinion) -> str:
    """The voters, where there are several: labels only where they differ."""
    if len(opinion.voters) < 2:
        return ""
    same = len({v.label for v in opinion.voters}) == 1
    return ", ".join(f"{v.confidence:.2f}" if same else f"{v.label} {v.confidence:.2f}" for v in opinion.voters)


def _short(text: str) -> str:
    return text if len(text) <= _WIDEST else text[: _WIDEST - 1] + "…"
