"""Source text: sentences of the demo's English grammar, in asked shares of classes, and planted errors."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from xlt_engine import ConfigError
from xlt_engine.data import derive_seed
from xlt_engine.data.synthetic.demo_names import Draws
from xlt_engine.data.synthetic.demo_world import WorldConfig, stream, with_wrong_type

PATIENCE = 100
"""The grammar may give so many sentences for each one that is wanted."""


@dataclass(frozen=True, slots=True)
class Item:
    """A sentence: its words, and a BIO tag for each."""

    words: tuple[str, ...]
    tags: tuple[str, ...]

    @property
    def kind(self) -> str:
        """What label shift goes by: the most frequent type of the entities (the first of equals), "" without one."""
        counts = Counter(entity_types(self.tags))
        return max(counts, key=counts.__getitem__, default="")


@dataclass(frozen=True, slots=True)
class Wrong:
    """One planted error: the sentence and its word, from 0, the right type and the wrong one."""

    sentence: int
    word: int
    right: str
    wrong: str


def entity_types(tags: Sequence[str]) -> list[str]:
    """The type of each entity."""
    return [tag[2:] for tag in tags if tag.startswith("B-")]


class Pool:
    """Distinct sentences in a fixed order; each is given out once.

    Args:
        candidates: sentences, perhaps with repeats.
        seen: texts that are out already; grows.
    """

    def __init__(self, candidates: Iterable[Item], seen: set[str]) -> None:
        self._candidates, self._seen = iter(candidates), seen
        self._spare = deque[Item]()

    def take(self, count: int, shares: Mapping[str, float] | None = None) -> list[Item]:
        """`count` sentences, as they come or with these shares of each kind.

        Raises:
            ConfigError: there are not enough; the message says how many of which.
        """
        wanted = None if shares is None else Counter(quotas(count, shares))
        chosen, passed = list[Item](), list[Item]()
        for item in self._next(count) if count else ():
            if wanted is not None and not wanted[item.kind]:
                passed.append(item)
                continue
            chosen.append(item)
            if wanted is not None:
                wanted[item.kind] -= 1
            if len(chosen) == count:
                break
        self._spare.extendleft(reversed(passed))
        if len(chosen) < count:
            missing = "" if wanted is None else f" ({', '.join(f'{n} of kind {k!r}' for k, n in (+wanted).items())})"
            raise ConfigError(
                f"truth world: the grammar lacks {count - len(chosen)} of {count} distinct sentences{missing}; "
                "ask for fewer sentences" + (" or less label_shift" if wanted is not None else "")
            )
        return chosen

    def _next(self, count: int) -> Iterator[Item]:
        while self._spare:
            yield self._spare.popleft()
        for number, item in enumerate(self._candidates):
            text = " ".join(item.words)
            if text not in self._seen:
                self._seen.add(text)
                yield item
            if number >= PATIENCE * (count + 10):
                return


def pools(seed: int) -> tuple[Pool, Pool]:
    """Task text and general text."""
    seen: set[str] = set()

    def items(domain: str) -> Iterator[Item]:
        draws = Draws(derive_seed(seed, "truth world", domain))
        return (Item(sentence.words, sentence.tags) for sentence in stream("en", domain, draws, WorldConfig()))

    return Pool(items("news"), seen), Pool(items("general"), seen)


def shares_of(kinds: Iterable[str]) -> dict[str, float]:
    """The share of each kind, in alphabetical order."""
    counts = Counter(kinds)
    return {kind: counts[kind] / counts.total() for kind in sorted(counts)}


def shifted(shares: Mapping[str, float], strength: float) -> dict[str, float]:
    """Shares on the way from `shares` (strength 0) to a reversed order (1).

    There the rarest kind has half of all, the next a quarter, and so on, scaled to sum to what they had; sentences
    without an entity (kind "") keep their share.
    """
    kinds = sorted((kind for kind in shares if kind), key=lambda kind: (shares[kind], kind))
    rest = sum(shares[kind] for kind in kinds)
    weights = {kind: 0.5**n for n, kind in enumerate(kinds)}
    scale = rest / sum(weights.values()) if weights else 0.0
    return {
        kind: share if not kind else (1 - strength) * share + strength * scale * weights[kind]
        for kind, share in shares.items()
    }


def quotas(count: int, shares: Mapping[str, float]) -> dict[str, int]:
    """Whole numbers that sum to `count`, by the largest remainder."""
    exact = {kind: count * share / sum(shares.values()) for kind, share in shares.items()}
    whole = {kind: int(value) for kind, value in exact.items()}
    by_remainder = sorted(exact, key=lambda kind: (whole[kind] - exact[kind], kind))
    for kind in by_remainder[: count - sum(whole.values())]:
        whole[kind] += 1
    return whole


def plant_noise(items: Sequence[Item], share: float, seed: int) -> tuple[list[Item], list[Wrong]]:
    """Sentences of which about `share` have an entity of a wrong type, and what was done to them.

    Sentences without an entity are left alone. Which sentences are chosen at one share are chosen at every higher one.
    """
    names = sorted({name for item in items for name in entity_types(item.tags)})
    noisy, wrong = list(items), list[Wrong]()
    for number, item in enumerate(items):
        draws = Draws(derive_seed(seed, "truth world", "label noise", number))
        if draws.chance(share) and item.kind:
            tags, start, right, label = with_wrong_type(item.tags, draws, names)
            noisy[number] = replace(item, tags=tags)
            wrong.append(Wrong(number, start, right, label))
    return noisy, wrong
