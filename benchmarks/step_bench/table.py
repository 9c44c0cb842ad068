"""The tables and lines of `step.py`."""

from __future__ import annotations

from typing import Any

from xlt_engine.engine.bench.harness import cells, number

from .sides import OURS

Entry = dict[str, Any]

_HEADS = ("ms p20 / p50 / p80", "x ours", "tokens/s", "seq/s", "MFU %", "peak MiB", "launches")
_WIDTHS = (27, 7, 10, 8, 6, 9, 9)


def render(result: Entry) -> str:
    """One table for each task."""
    blocks = ["\n".join(_header(result))]
    for task, entry in result["tasks"].items():
        lines = [f"{task}: {entry['text']}"]
        if "difference_fp32" in entry:
            lines.append(f"  losses and gradients agree within {entry['difference_fp32']:.1e} (fp32, dropout off)")
        for key, rows in entry["rows"].items():
            lines += _rows(key, rows, entry.get("launches") or {})
        lines += [f"  {name}: not measured: {why}" for name, why in entry["failed"].items()]
        lines += [f"  not measured: {entry['reason']}"] if "reason" in entry else []
        lines += [f"  {kind}: {_idle(idle)}" for kind, idle in entry.get("idle", {}).items()]
        lines += [f"  {kind}: {whole['headline']}" for kind, whole in entry.get("pass", {}).items()]
        lines += [line for kind, found in entry.get("trace", {}).items() for line in _trace(kind, found)]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def headline(task: str, key: str, rows: Entry) -> str:
    """A set of lengths in one line: tokens a second and MFU of each side, and its time as a multiple of ours."""
    shown = []
    for name, row in rows.items():
        memory = "" if row["memory_mib"] is None else f", {row['memory_mib']['peak']:.0f} MiB"
        ratio = "" if name == OURS else f" ({row['times_ours']['p50']:.2f}x our time)"
        rate = f"{row['tokens_per_second']:,.0f} tok/s, MFU {100 * row['mfu']:.0f} %"
        shown.append(f"{name} {rate}{memory}{ratio}")
    return f"{task}, {key}: " + "; ".join(shown)


def _header(result: Entry) -> list[str]:
    versions = result["environment"]["versions"]
    top = result["ceilings"]
    lines = [
        f"{result['device']}, {result['shape']} shape, {result['precision']}, {result['batch_size']} sequences a step, "
        f"commit {result['commit'] or 'unknown'}",
        ", ".join(f"{name} {version}" for name, version in versions.items() if version),
        *result["notes"],
        f"MFU: of {top['matmul_tflops']:.4g} TFLOP/s, measured here (product {top['matmul']}, {top['dtype']})",
    ]
    return lines if result["complete"] else [*lines, "INCOMPLETE"]


def _rows(key: str, rows: Entry, launches: Entry) -> list[str]:
    lines = [f"  {key}", cells("", 52, _HEADS, _WIDTHS)]
    for name, row in rows.items():
        memory, found = row["memory_mib"], launches.get(name)
        shown = (
            " / ".join(number(row["ms"][q]) for q in ("p20", "p50", "p80")),
            f"{row['times_ours']['p50']:.2f}",
            f"{row['tokens_per_second']:,.0f}",
            number(row["sequences_per_second"]),
            f"{100 * row['mfu']:.0f}",
            "" if memory is None else f"{memory['peak']:.0f}",
            "" if found is None else str(found["launches"]),
        )
        lines.append(cells(name, 52, shown, _WIDTHS))
    return lines


def _idle(idle: Entry) -> str:
    text = f"waits for batches {100 * idle['share']:.1f} % of the time over {idle['steps']} steps"
    if idle["buckets"]:
        text += (
            f"; {idle['buckets']} buckets, {100 * idle['padding']:.1f} % padding, {idle['graph_steps']} graph replays"
        )
    return text


def _trace(kind: str, found: Entry) -> list[str]:
    shares = sorted(found["shares"].items(), key=lambda pair: -pair[1])
    lines = [f"  {kind}: {found['steps']} steps, {found['seconds']:.3g} s ({found['clock']}), {found['file']}"]
    return lines + [f"    {100 * share:5.1f} %  {part}" for part, share in shares]
