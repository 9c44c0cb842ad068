"""docs/step-time.svg: where a step's time goes, from the traces of `step.py --trace`.

    python benchmarks/step.py --shape small --peer tuned --repeats 2 --trace TRACES \\
        --json benchmarks/results/step-time-small.json
    python benchmarks/step.py --shape mbert --quick --peer tuned --repeats 1 --trace TRACES \\
        --json benchmarks/results/step-time-mbert.json
    python benchmarks/tables.py
"""

from __future__ import annotations

from typing import Any

from xlt_engine.engine.report.svg import GREY, Key, Panel, figure, standalone

# label -> its parts in the result, colour, and whether it is the paler of a pair
GROUPS: dict[str, tuple[tuple[str, ...], int, bool]] = {
    "matrix products": (("matrix products",), 0, False),
    "loss": (("linear_cross_entropy", "soft_label_loss, voter_cross_entropy"), 1, False),
    "attention": (("attention",), 2, False),
    "layer norm, dropout": (("layer norm, dropout, residual", "dropout of the head"), 3, False),
    "gelu": (("gelu",), 4, False),
    "embedding": (("embedding",), 5, False),
    "voters, elementwise": (("voters, beyond products",), 1, True),
    "optimiser": (("optimiser",), 0, True),
    "collation": (("collation",), 2, True),
    "other": (("other",), GREY, False),
}
LENGTHS = {"conll": "CoNLL", "review": "review"}


def drawing(*results: dict[str, Any]) -> str:
    """The figure, a panel for each results file."""
    keys = [Key(label, series, "soft" if soft else "bar") for label, (_, series, soft) in GROUPS.items()]
    described = "Stacked bars: for each kind of step and length mix the share of its time by operation, in per cent."
    title = "Where the time of a step goes"
    return standalone(figure([panel(r) for r in results], title=title, description=described, columns=1, keys=keys))


def panel(result: dict[str, Any]) -> Panel:
    """One bar for each task and length mix; a share from 6 % on is written into its bar."""
    bars = [
        (f"{task}, {LENGTHS[kind]}", trace)
        for task, entry in result["tasks"].items()
        for kind, trace in entry.get("trace", {}).items()
    ]
    count = len(bars)
    found = Panel(
        f"{result['shape']} shape on {result['environment']['cpu']}, {result['environment']['threads']} thread(s), "
        f"{result['precision']}, {result['batch_size']} sequences",
        (0, 100),
        (0, count),
        x_label="per cent of the time",
        y_ticks=[(count - i - 0.5, name) for i, (name, _) in enumerate(bars)],
        width=720,
        height=60 + 24 * count,
        left=110,
        grid="x",
    )
    for i, (_, trace) in enumerate(bars):
        shares, x, y = trace["shares"], 0.0, count - i
        assert set(shares) <= {part for parts, _, _ in GROUPS.values() for part in parts}
        for label, (parts, series, soft) in GROUPS.items():
            share = 100 * sum(shares.get(part, 0.0) for part in parts)
            found.bar((x, y - 0.85), (x + share, y - 0.15), series, soft=soft, tip=f"{label}: {share:.1f} %")
            if share >= 6:
                found.label(x + share / 2, y - 0.5, f"{share:.0f}", dy=4, css="small")
            x += share
    return found
