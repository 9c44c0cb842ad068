"""Which examples make up which batch: pure functions of (seed, epoch)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from ... import DataError
from ..readers.example import OUTSIDE, Example


def _encode(part: str | int) -> bytes:
    """Type, length and value, so that no two different sequences of parts share an encoding."""
    tag, value = (b"i", str(int(part)).encode()) if isinstance(part, int) else (b"s", part.encode("utf-8"))
    return tag + len(value).to_bytes(8, "little") + value


def derive_seed(seed: int, *purpose: str | int) -> int:
    """The seed of one purpose, in [0, 2**63).

    The same arguments give the same value on every machine and in every version of Python; arguments that differ
    in value, type (`1` and `"1"`), order or grouping (`"ab"` and `"a", "b"`) give independent values.

    Args:
        seed: the seed of the run; any integer, negative ones included.
        purpose: what the draw is for, for example `"mask", "de", step`.
    """
    digest = hashlib.blake2b(b"".join(_encode(part) for part in (seed, *purpose)), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def rng_for(seed: int, *purpose: str | int) -> np.random.Generator:
    """A generator that depends on nothing but its key."""
    return np.random.Generator(np.random.Philox(derive_seed(seed, *purpose)))


def epoch_batches(count: int, batch_size: int, *, seed: int, epoch: int) -> list[np.ndarray]:
    """One epoch's batches, as arrays of example indices.

    Examples are shuffled and cut into batches of exactly `batch_size` sequences; the last one may be smaller, and comes
    at any place.
    """
    order = rng_for(seed, "order", epoch).permutation(count)
    batches = [order[i : i + batch_size] for i in range(0, count, batch_size)]
    return [batches[i] for i in rng_for(seed, "batches", epoch).permutation(len(batches))]


def num_batches(count: int, batch_size: int) -> int:
    return -(-count // batch_size)


def epoch_counts(
    sizes: Sequence[int], *, mode: str = "up", temperature: float = 1.0, weights: Sequence[float] = ()
) -> list[int]:
    """How many examples of each corpus make up one epoch.

    Args:
        sizes: examples in each corpus.
        mode: "up" repeats the smaller corpora to the size of the largest (arXiv 2310.04726 section 3.1: the numbers
            of samples of the two languages are equal), "down" draws the larger ones down to the smallest,
            "temperature" keeps the total and draws corpus i in proportion to its share to the power of `temperature`
            (1 is proportional, 0 uniform), "weights" keeps the total and draws corpus i in proportion to `weights[i]`,
            whatever its size, "none" takes everything once.

    Raises:
        DataError: a corpus is empty.
    """
    if min(sizes) == 0:
        raise DataError(f"a corpus to be balanced is empty (sizes {list(sizes)}); give it text or leave it out")
    if mode == "up":
        return [max(sizes)] * len(sizes)
    if mode == "down":
        return [min(sizes)] * len(sizes)
    if mode not in ("temperature", "weights"):
        return list(sizes)
    share = (np.array(sizes) / sum(sizes)) ** temperature if mode == "temperature" else np.array(weights, dtype=float)
    return [max(1, round(float(x))) for x in share / share.sum() * sum(sizes)]


def resample(
    sizes: Sequence[int],
    *,
    mode: str = "up",
    temperature: float = 1.0,
    seed: int,
    epoch: int,
    counts: Sequence[int] | None = None,
) -> list[np.ndarray]:
    """How often each example of each corpus is seen in one epoch, so that languages are balanced.

    Args:
        sizes: examples in each corpus.
        mode, temperature: see `epoch_counts`.
        counts: how many of each corpus, instead of those of `mode`.

    Returns:
        For each corpus the example indices of this epoch; an index appears at most once more than any other.

    Raises:
        DataError: a corpus is empty.
    """
    wanted = epoch_counts(sizes, mode=mode, temperature=temperature) if counts is None else counts
    return [
        _repeat(size, count, rng_for(seed, "resample", epoch, i))
        for i, (size, count) in enumerate(zip(sizes, wanted, strict=True))
    ]


def _repeat(size: int, count: int, rng: np.random.Generator) -> np.ndarray:
    whole, rest = divmod(count, size)
    return np.concatenate([np.tile(np.arange(size), whole), rng.permutation(size)[:rest]])


def few_per_class(examples: Sequence[Example], count: int, seed: int, language: str) -> tuple[np.ndarray, list[str]]:
    """A seeded, stratified choice of labelled examples.

    Classification: `count` examples of each class, drawn at random. Tagging: the sentences are put into a random order;
    then, from the entity type that the fewest sentences have to the one that the most have (ties by name), the next
    sentences with that type are taken until `count` of those chosen have it. Sentences taken for a rarer type count, so
    that a frequent type may end up in more than `count`. Sentences without entities are not chosen.

    The order depends on seed and language alone: a smaller `count` gives a part of what a larger one gives in
    classification; in tagging mostly so.

    Args:
        examples: labelled ones; those without a label are never chosen.
        count: per class, at least 1.
        seed: with `language` the key of the draw.

    Returns:
        int64 [n], the chosen examples in the order of the file; and the classes that have fewer than `count`.
    """
    kinds = [_kinds(example) for example in examples]
    of_kind: dict[str, int] = {}
    for found in kinds:
        for kind in found:
            of_kind[kind] = of_kind.get(kind, 0) + 1
    order = rng_for(seed, "per_class", language).permutation(len(examples))
    chosen: set[int] = set()
    for kind in sorted(of_kind, key=lambda k: (of_kind[k], k)):
        missing = count - sum(kind in kinds[i] for i in chosen)
        fresh = [int(i) for i in order if kind in kinds[i] and int(i) not in chosen]
        chosen.update(fresh[: max(0, missing)])
    return np.array(sorted(chosen), dtype=np.int64), sorted(k for k, n in of_kind.items() if n < count)


def _kinds(example: Example) -> frozenset[str]:
    """The class of a text, or the entity types (plain tags) of a sentence."""
    if isinstance(example.labels, str):
        return frozenset([example.labels])
    tags = (tag for tag in example.labels or () if tag != OUTSIDE)
    return frozenset(tag[2:] if tag[:2] in ("B-", "I-") else tag for tag in tags)
