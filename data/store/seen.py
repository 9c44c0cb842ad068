"""Texts that were there before, left out of a stream of any length in bounded memory."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from hashlib import blake2b
from itertools import islice

import numpy as np

from ..readers.example import Example

BATCH = 1 << 14
"""Texts that are looked up at a time."""
SPILL, LARGEST = 1 << 20, 1 << 24
"""Hashes in a run, from which it lies on the disk, and beyond which it is not merged with another."""


def text_key(example: Example) -> tuple[str, str, str]:
    """What two examples have in common that are the same text of one language: white space does not count."""
    return example.language, "".join(example.plain.split()), "".join((example.pair or "").split())


class SeenTexts:
    """The hashes of texts, 8 bytes each: sorted runs, small ones merged, large ones in temporary files.

    Among 10^8 texts two different ones are taken for the same with a probability of 0.0003.
    """

    def __init__(self) -> None:
        self._runs: list[np.ndarray] = []

    def add(self, hashes: np.ndarray) -> np.ndarray:
        """Takes uint64 [n] up; bool [n], those that were not there, the first of each among them."""
        values, first = np.unique(hashes, return_index=True)
        fresh = np.ones(len(values), dtype=bool)
        for run in self._runs:
            place = np.minimum(np.searchsorted(run, values), len(run) - 1)
            fresh &= run[place] != values
        self._take(values[fresh])
        new = np.zeros(len(hashes), dtype=bool)
        new[first[fresh]] = True
        return new

    def _take(self, run: np.ndarray) -> None:
        while self._runs and len(self._runs[-1]) <= 2 * len(run) and len(self._runs[-1]) + len(run) <= LARGEST:
            run = np.concatenate([self._runs.pop(), run])
            run.sort()
        if len(run) >= SPILL:
            with tempfile.TemporaryFile() as file:  # its blocks stay until the array goes that is mapped onto it
                run.tofile(file)
                file.flush()
                run = np.memmap(file, dtype=run.dtype, mode="r")
        if len(run):
            self._runs.append(run)


def hash_of(key: tuple[str, str, str]) -> int:
    """64 bits, the same in every process."""
    return int.from_bytes(blake2b("\0".join(key).encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


class Tally:
    """Says how many texts a stream had, every million of them."""

    EVERY = 1_000_000

    def __init__(self, note: Callable[[str], None], name: str) -> None:
        self._note, self._name, self._started = note, name, time.monotonic()
        self._read = self._new = 0

    def __call__(self, read: int, new: int) -> None:
        before = self._read // self.EVERY
        self._read, self._new = self._read + read, self._new + new
        if self._read // self.EVERY > before:
            rate = self._read / max(time.monotonic() - self._started, 1e-9)
            repeated = 100 * (1 - self._new / self._read)
            self._note(f"{self._name}: {self._read:,} texts, {repeated:.1f} % of them repeats, {rate:,.0f} a second")


def unrepeated(
    examples: Iterable[Example], count: Callable[[int, int], None] = lambda read, new: None
) -> Iterator[Example]:
    """The first example of each text, in order; `count` hears how many were read, and kept, after each batch."""
    seen, stream = SeenTexts(), iter(examples)
    while batch := list(islice(stream, BATCH)):
        new = seen.add(np.array([hash_of(text_key(example)) for example in batch], dtype=np.uint64))
        yield from (example for example, is_new in zip(batch, new, strict=True) if is_new)
        count(len(batch), int(new.sum()))
