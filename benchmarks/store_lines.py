"""Throughput and peak memory of the token store's builder over generated lines of text, as BTF reads them.

`python benchmarks/store_lines.py --lines 10000000 --out benchmarks/results/store-lines.json`; one process, one
thread. The lines are a function of their number, every tenth is a repeat, and they are written to a file first.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
from common import made, reset_peak, resident
from common import peak as peak_memory

from xlt_engine.data import Tokenizer, build_store
from xlt_engine.data.readers.plain import TextReader
from xlt_engine.data.readers.reader import ReaderOptions
from xlt_engine.data.store.seen import Tally, unrepeated

ROOT = Path(__file__).resolve().parents[1]
WORDS, LENGTH, BLOCK = 5000, (6, 18), 10_000
REPEATS = 10
"""One line in so many is one of those before it."""


def write_lines(path: Path, count: int) -> None:
    """Words of the mini-encoder's vocabulary with frequencies by Zipf's law."""
    tokenizer = Tokenizer.from_folder(ROOT / "assets" / "mini-encoder")
    pieces = [p for p in map(tokenizer.token, range(tokenizer.vocab_size)) if p and p.isalpha()]
    names = np.array(pieces[:WORDS])
    shares = 1 / np.arange(1, len(names) + 1)
    shares /= shares.sum()
    with open(path, "w", encoding="utf-8") as file:
        for start in range(0, count, BLOCK):
            rng = np.random.default_rng(start)
            sizes = rng.integers(*LENGTH, min(BLOCK, count - start))
            words = rng.choice(names, sizes.sum(), p=shares).tolist()
            lines = [" ".join(words[end - size : end]) for end, size in zip(np.cumsum(sizes), sizes, strict=True)]
            for i in range(REPEATS, len(lines), REPEATS):
                lines[i] = lines[i // 2]
            file.write("".join(f"{line}\n" for line in lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lines", type=int, default=10_000_000)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "lines.txt"
        write_lines(path, args.lines)
        reset_peak()
        begin = resident()
        before = resource.getrusage(resource.RUSAGE_SELF)
        started, size = time.monotonic(), path.stat().st_size
        tokenizer = Tokenizer.from_folder(ROOT / "assets" / "mini-encoder")
        examples = unrepeated(TextReader(path, ReaderOptions()).stream(), Tally(print, path.name))
        store = build_store(examples, tokenizer, folder=Path(folder) / "store", task="text", max_length=128)
        after, wall = resource.getrusage(resource.RUSAGE_SELF), time.monotonic() - started
        seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        command = f"python benchmarks/store_lines.py --lines {args.lines}"
        result = {
            "made": made(command, [], trained=False),
            "lines": args.lines,
            "bytes": size,
            "kept": len(store),
            "tokens": int(store.offsets[-1]),
            "cpu_seconds": round(seconds, 1),
            "wall_seconds": round(wall, 1),
            "lines_per_cpu_second": round(args.lines / seconds),
            "mib_before": round(begin),
            "peak_mib": round(peak_memory()),
        }
    text = json.dumps(result, indent=1)
    print(text)
    if args.out:
        args.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
