"""Packed attention by class of length, an estimate from waves of programs: is a launch for each class worth its start?

    python benchmarks/attention_classes.py

One H100, bf16, 12 heads of 64, dropout; lengths are lognormal, times microseconds of a layer. A program waits, then
works on its share of its multiprocessor, beside as many others as registers leave room for (compiled-budgets-*.json);
programs start in order, and one without work costs its start. Backward: `one way` has all sequences in tiles of the
longest up to 128 tokens, and all in blocks beyond; `a launch each` one for up to 64, up to 128 and more; `ours` is what
`kernels/fused/attention.py` launches. Forward: `ours` is one launch, `apart` one for up to 64 tokens and one for more.
Nothing is measured here, and what is assumed stands below: good to choose between launches, not to promise a time.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterable

import numpy as np

MULTIPROCESSORS, CLOCK = 132, 1.7e3  # cycles a microsecond
FORWARD, BACKWARD, PRODUCT = 0.20, 0.22, 0.05
"""Cycles of a multiprocessor for an element of the scores (mask, exponential, sums), and for each of its products."""
START, WAIT, LAUNCH, DELTA = 0.5, 1.3, 1.5, 3.0
"""Microseconds: of a program without work, of loads and stores, between two launches, of rowsum(dO * O) as a launch."""
SPEED, MOST = {4: 0.6, 8: 1.0}, 1.8
"""The share of a multiprocessor that so many warps can use, and that all can; products of one hide sums of another."""
HEADS, BYTES = 12, 4.3e6
"""Bytes a microsecond."""

Program = tuple[float, float, float]
IDLE: Program = (START, 0.0, 1.0)
"""Microseconds of waiting, then of work at full speed, and the speed."""


def launch(programs: Iterable[Program], together: int) -> float:
    """Microseconds of a launch, `together` programs on a multiprocessor at a time."""
    waiting, running = list(programs)[::-1], [[] for _ in range(MULTIPROCESSORS)]  # type: ignore[var-annotated]
    for _ in range(together):
        for several in running:
            if waiting:
                several.append(list(waiting.pop()))
    since = [0.0] * MULTIPROCESSORS
    events = [(0.0, index) for index, several in enumerate(running) if several]
    now = 0.0
    while events:
        now, index = heapq.heappop(events)
        several, passed, since[index] = running[index], now - since[index], now
        share = min(1.0, MOST / max(sum(p[2] for p in several if p[0] <= 0), 1e-9))
        for program in several:
            if program[0] > 0:
                program[0] = max(0.0, program[0] - passed)
            else:
                program[1] -= passed * program[2] * share
        several[:] = [p for p in several if p[0] > 0 or p[1] > 1e-9]
        while waiting and len(several) < together:
            several.append(list(waiting.pop()))
        if several:
            share = min(1.0, MOST / max(sum(p[2] for p in several if p[0] <= 0), 1e-9))
            step = min(p[0] if p[0] > 0 else p[1] / (p[2] * share) for p in several)
            heapq.heappush(events, (now + max(step, 1e-6), index))
    return LAUNCH + now


def work(elements: float, warps: int, sums: float, products: int) -> Program:
    return WAIT, elements * (sums + products * PRODUCT) / CLOCK, SPEED[warps]


def whole(lengths: list[int], above: int, tile: int) -> float:
    """Backward of sequences that a program holds."""
    half = tile // 2 if tile // 2 > above else 0
    warps, together = (4, 4) if tile == 64 else (8, 1)
    programs = (
        work((half if n <= half else tile) ** 2, warps, BACKWARD, 5) if above < n <= tile else IDLE for n in lengths
    )
    return launch((p for p in programs for _ in range(HEADS)), together)


def blocks(lengths: list[int], above: int, short: int) -> float:
    """Backward in blocks of sequences of more than `above` tokens; one program has all of those of up to `short`."""

    def program(n: int, block: int, products: int) -> Program:
        if n <= above or n <= 64 * block or (n <= short and products == 3):
            return IDLE
        if n <= short:
            return work((32 if n <= 32 else 64) ** 2, 4, BACKWARD, 5)
        return work(64 * math.ceil(n / 32) * 32, 4, BACKWARD, products)

    several = range(math.ceil(max(lengths) / 64))
    programs = (program(n, b, k) for k in (4, 3) for n in lengths for _ in range(HEADS) for b in several)
    return DELTA + sum(lengths) * HEADS * 64 * 4 / BYTES + launch(programs, 3)


def forward(lengths: list[int], above: int = 0, most: int = 1 << 20) -> float:
    """Sequences of more than `above` and at most `most` tokens in blocks of 64 queries."""

    def program(n: int, block: int) -> Program:
        if n <= max(above, 64 * block) or n > most:
            return IDLE
        return work(32 * 32 if n <= 32 else 64 * math.ceil(n / 64) * 64, 4, FORWARD, 2)

    several = range(math.ceil(min(most, max(lengths)) / 64))
    return launch((program(n, b) for n in lengths for _ in range(HEADS) for b in several), 4)


def one_way(lengths: list[int]) -> float:
    longest = max(lengths)
    return blocks(lengths, 0, 0) if longest > 128 else whole(lengths, 0, 128 if longest > 64 else 64)


def launch_each(lengths: list[int]) -> float:
    longest, time = max(lengths), whole(lengths, 0, 64)
    time += whole(lengths, 64, 128) if longest > 64 else 0.0
    return time + (blocks(lengths, 128, 0) if longest > 128 else 0.0)


def ours(lengths: list[int]) -> float:
    if max(lengths) > 128:
        return blocks(lengths, 0, 64)
    apart = len(lengths) * HEADS > 528 and sum(lengths) <= 64 * len(lengths)
    return (launch_each if apart else one_way)(lengths)


def forward_apart(lengths: list[int]) -> float:
    return forward(lengths, 0, 64) + (forward(lengths, 64) if max(lengths) > 64 else 0.0)


COLUMNS: dict[str, Callable[[list[int]], float]] = {
    "one way": one_way,
    "a launch each": launch_each,
    "ours": ours,
    "forward: ours": forward,
    "apart": forward_apart,
}


def main() -> None:
    print("|median, at most|sequences|tokens|longest|", *(f"{name}|" for name in COLUMNS), sep="")
    print("|---|---|---|---|", "---|" * len(COLUMNS), sep="")
    for median, most in ((22, 128), (45, 128), (90, 128), (45, 256), (90, 256), (185, 256)):
        for count in (32, 64, 256):
            drawn = np.random.default_rng(7).lognormal(0.0, 0.6, count) * median
            lengths = [int(min(max(round(x), 5), most)) for x in drawn]
            times = "|".join(f"{call(lengths):.1f}" for call in COLUMNS.values())
            print(f"|{median}, {most}|{count}|{sum(lengths):,}|{max(lengths)}|{times}|")


if __name__ == "__main__":
    main()
