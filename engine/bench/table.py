"""The tables and lines of `xlt-engine bench kernels`."""

from __future__ import annotations

from typing import Any

from .bounds import beyond

Entry = dict[str, Any]

_HEADS = (
    *("ms p20 / p50 / p80", "x ours", "% floor", "host ms"),
    *("peak MiB", "work MiB", "launches", "error", "worst row"),
)
_WIDTHS = (27, 7, 7, 8, 9, 9, 8, 8, 9)


def render(result: Entry) -> str:
    """One table for each operation; a row that could not be measured says why."""
    operations = list(dict.fromkeys(case["op"] for case in result["cases"]))
    blocks = ["\n".join(_header(result))]
    for operation in operations:
        cases = [case for case in result["cases"] if case["op"] == operation]
        blocks.append("\n".join([operation, *(line for case in cases for line in _case(case))]))
    return "\n\n".join(blocks)


def headline(case: Entry) -> str:
    """A case in one line: our time, and the nearest rival."""
    timed = [row for row in case["rows"] if row.get("ms")]
    own = min((row for row in timed if row["own"]), key=_p50, default=None)
    rival = min((row for row in timed if row["rival"]), key=_p50, default=None)
    parts = [] if own is None else [f"{number(_p50(own))} ms, {own['percent_of_floor']:.0f} % of the floor"]
    parts += [] if own is None or rival is None else [f"{rival['variant']} {rival['times_ours']:.2f}x"]
    parts += _worst([row for row in case["rows"] if row["own"]])
    return f"{case['op']}, {case['name']}: " + ("; ".join(parts) or "no time of this package")


def _worst(rows: list[Entry]) -> list[str]:
    """The largest error of several rows against fp64, and what is above its bound."""
    largest = [e["frobenius"] for row in rows for e in (row.get("error") or {}).values()]
    said = [said for row in rows for said in beyond(row)]
    return [*([f"error {max(largest):.0e}"] if largest else []), *(f"TOO LARGE: {text}" for text in said)]


def _header(result: Entry) -> list[str]:
    versions = result["environment"]["versions"]
    named = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
    absent = ", ".join(name for name, version in versions.items() if not version)
    top = result.get("ceilings")
    measured = (
        []
        if top is None
        else [
            f"ceilings measured here: {top['matmul_tflops']:.4g} TFLOP/s (product {top['matmul']}), "
            f"{top['copy_gb_per_s']:.4g} GB/s (copy, read and write)"
        ]
    )
    return [
        f"{result['device']}, {result['dtype']}, {result['sizes']} shapes, commit {result['commit'] or 'unknown'}",
        named + (f"; not installed: {absent}" if absent else ""),
        *result["notes"],
        *measured,
    ]


def _case(case: Entry) -> list[str]:
    floor = "" if case["floor_ms"] is None else f" (floor {number(case['floor_ms'])} ms)"
    lines = [f"  {case['name']}{floor}"]
    if case.get("reason"):
        return [*lines, f"    not built: {case['reason']}"]
    lines.append(f"    {'':24}" + "".join(f"{head:>{w + 2}}" for head, w in zip(_HEADS, _WIDTHS, strict=True)))
    lines += [_row(row) for row in case["rows"]]
    return lines


def _row(row: Entry) -> str:
    if row["reason"]:
        return f"    {row['variant']:24}  - {row['reason']}"
    ms, error = row.get("ms"), row["error"]
    worst = {} if error is None else {k: [e[k] for e in error.values() if e[k] is not None] for k in _ERRORS}
    times = [""] * 4
    if ms:
        times = [
            " / ".join(number(ms[q]) for q in ("p20", "p50", "p80")),
            "" if row["times_ours"] is None else f"{row['times_ours']:.2f}",
            f"{row['percent_of_floor']:.0f}",
            number(row["host_ms"]),
        ]
    cells = (
        *times,
        *("" if row.get(k) is None else f"{row[k]:.0f}" for k in ("peak_mib", "workspace_mib", "launches")),
        *(f"{max(worst[k]):.0e}" if worst.get(k) else "" for k in _ERRORS),
    )
    line = f"    {row['variant']:24}" + "".join(f"{cell:>{w + 2}}" for cell, w in zip(cells, _WIDTHS, strict=True))
    return "\n".join([line, *(f"    {'':24}  TOO LARGE: {said}" for said in beyond(row))])


_ERRORS = ("frobenius", "worst_row")


def _p50(row: Entry) -> float:
    return float(row["ms"]["p50"])


def number(value: float) -> str:
    """Four digits, without an exponent."""
    return f"{value:.4g}" if value < 1000 else f"{value:.0f}"
