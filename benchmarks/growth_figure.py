"""Figures of the encoder: docs/encoder-curve.svg, its training by log.tsv, and docs/encoder-growth.svg with a table,
what each stage gains as it grows (encoder_growth.py)."""

from __future__ import annotations

import csv
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common import markdown

from xlt_engine.engine.report.svg import GREY, Key, Panel, figure, padded_range, standalone, ticks
from xlt_engine.engine.summary.seeds import Step, paired_step, stat

STAGES = {"zero-shot": "fine-tuning alone", "btf": "BTF, fine-tuning", "soft1": "soft 1", "hard1": "hard 1"}
GAINS = {"BTF": ("zero-shot", "btf"), "soft labels": ("btf", "soft1"), "hard labels": ("soft1", "hard1")}
SOURCE = "en"
FIRST = 3
"""Million tokens before which the loss is not drawn: it falls from 10."""


def curve(log: Path) -> str:
    """Loss and accuracy on held-out words by tokens seen; where a part of the training begins, there is a rule."""
    with log.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    seen = [float(row["million tokens"]) for row in rows]
    said = [(x, row["held-out accuracy"].split()) for x, row in zip(seen, rows, strict=True)]
    lines: dict[str, list[tuple[float, float]]] = {}
    for x, words in said:
        for name, value in zip(words[::2], words[1::2], strict=True):
            lines.setdefault(name, []).append((x, 100 * float(value)))
    losses = [(x, float(row["loss"])) for x, row in zip(seen, rows, strict=True) if x > FIRST]
    shape: dict[str, Any] = {"x_label": "million tokens", "x_ticks": ticks(0, seen[-1], 4), "width": 380}
    across = padded_range([0.0, *seen], zero=True)
    loss = Panel("Loss, mean of 100 steps", across, padded_range([y for _, y in losses]), y_label="nats", **shape)
    accuracy = Panel("Masked words found, held-out sentences", across, (0, 50), y_label="per cent", **shape)
    for x in (x for x, a, b in zip(seen, rows, rows[1:], strict=False) if a["part"] != b["part"]):
        for panel in (loss, accuracy):
            panel.rule((x, panel.y[0]), (x, panel.y[1]))
    loss.line(losses, GREY, thin=True)
    for series, points in enumerate(lines.values()):
        accuracy.line(points, series, thin=True)
    keys = [Key(name, series) for series, name in enumerate(lines)]
    described = "Lines by million tokens of pre-training: loss, and accuracy on masked words by language."
    panels = [loss, accuracy]
    return standalone(figure(panels, title="Training of the encoder", description=described, columns=2, keys=keys))


def table(result: dict[str, Any]) -> str:
    """A line for each point: held-out accuracy, retrieval by the last layer, scores of the targets and their steps."""
    points = result["points"]
    languages = list(points[-1]["accuracy"])
    header = ["million tokens", *(f"masked tokens, {name}" for name in languages), "translations found, de, nl"]
    header += ["English F1", *(f"targets, {name}" for name in STAGES.values()), "hard 1 minus fine-tuning alone", "up"]
    lines = []
    for point in points:
        found = [f"{100 * point['accuracy'][name]:.1f}" for name in languages]
        retrieval = ", ".join(f"{100 * layers[-1]:.1f}" for layers in point["retrieval"].values())
        means = [str(stat(_means(point, stage))) for stage in STAGES]
        whole = _step(point, "zero-shot", "hard1")
        source = str(stat(point["scores"][SOURCE]["zero-shot"]))
        line = [f"{point['million_tokens']:.0f}", *found, retrieval, source, *means]
        lines.append([*line, str(whole), f"{whole.up}/{whole.stat.n}"])
    return markdown(header, lines)


def drawing(result: dict[str, Any]) -> str:
    """Scores of each stage by tokens seen, and what each adds to the one before."""
    points = result["points"]
    seen = [point["million_tokens"] for point in points]
    scores = {name: [statistics.fmean(_means(point, stage)) for point in points] for stage, name in STAGES.items()}
    gains = {name: [_step(point, *stages).stat.mean for point in points] for name, stages in GAINS.items()}
    shown = _panel("Entity F1 of German and French", seen, scores, 0)
    added = _panel("What each adds to the one before", seen, gains, 1)
    added.rule((added.x[0], 0), (added.x[1], 0))
    keys = [Key(name, series) for series, name in enumerate(STAGES.values())]
    described = "Lines by million tokens of pre-training: the score after each stage, and the gain of BTF, soft, hard."
    title = "What each stage gains as the encoder grows (WikiNEuRal)"
    return standalone(figure([shown, added], title=title, description=described, columns=2, keys=keys))


def _panel(title: str, seen: Sequence[float], lines: dict[str, list[float]], first: int) -> Panel:
    low, high = padded_range([value for values in lines.values() for value in values], zero=bool(first))
    panel = Panel(
        title,
        padded_range([0.0, *seen], zero=True),
        (low, high),
        x_label="million tokens seen in pre-training",
        y_label="points",
        x_ticks=ticks(0, max(seen), 4),
        width=380,
    )
    for series, (name, values) in enumerate(lines.items(), first):
        panel.line(list(zip(seen, values, strict=True)), series)
        for x, y in zip(seen, values, strict=True):
            panel.point(x, y, series, tip=f"{name}, {x:.0f} million tokens: {y:.1f}")
    return panel


def _cells(point: dict[str, Any], stage: str) -> dict[str, list[float]]:
    return {name: own[stage] for name, own in point["scores"].items() if name != SOURCE}


def _means(point: dict[str, Any], stage: str) -> list[float]:
    """Means over the targets, a seed each."""
    return [statistics.fmean(values) for values in zip(*_cells(point, stage).values(), strict=True)]


def _step(point: dict[str, Any], before: str, after: str) -> Step:
    """Paired over targets and seeds."""
    then, now = ([value for values in _cells(point, stage).values() for value in values] for stage in (before, after))
    found = paired_step([b - a for a, b in zip(then, now, strict=True)], STAGES[before])
    assert found is not None
    return found
