"""Source text for the truth world: the demo's English grammar, or the labelled file that somebody gives."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from ... import ConfigError
from ..batches.seeding import derive_seed
from ..readers.example import Example
from .demo_names import Draws
from .demo_world import WorldConfig, stream, with_wrong_type

PATIENCE = 100
"""The grammar may give so many sentences for each one that is wanted."""


@dataclass(frozen=True, slots=True)
class Item:
    """A sentence: its words, and a tag for each, a class, or None where nobody knows."""

    words: tuple[str, ...]
    labels: tuple[str, ...] | str | None

    @property
    def text(self) -> str:
        return " ".join(self.words)

    @property
    def kind(self) -> str:
        """What label shift goes by: the class, or the most frequent type of the entities (the first of equals)."""
        if self.labels is None or isinstance(self.labels, str):
            return self.labels or ""
        counts = Counter(entity_types(self.labels))
        return max(counts, key=counts.__getitem__, default="")


@dataclass(frozen=True, slots=True)
class Wrong:
    """One planted error: the sentence, from 0, its word (None for a class), the right label and the wrong one."""

    sentence: int
    word: int | None
    right: str
    wrong: str


def entity_types(tags: Sequence[str]) -> list[str]:
    """The type of each entity."""
    return [tag[2:] for tag in tags if tag.startswith("B-")]


class Pool:
    """Distinct sentences in a fixed order; each is given out once.

    Args:
        candidates: sentences, perhaps with repeats.
        what: for messages.
        seen: texts that are out already; grows.
        patience: how many candidates are looked at for one wanted sentence; 0 for all there are.
    """

    def __init__(self, candidates: Iterable[Item], what: str, seen: set[str], patience: int = 0) -> None:
        self._candidates, self._what, self._seen = iter(candidates), what, seen
        self._patience, self._spare = patience, deque[Item]()

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
                f"truth world: {self._what} lacks {count - len(chosen)} of {count} distinct sentences{missing}; "
                "ask for fewer sentences" + (" or less label_shift" if wanted is not None else "")
            )
        return chosen

    def _next(self, count: int) -> Iterator[Item]:
        while self._spare:
            yield self._spare.popleft()
        for number, item in enumerate(self._candidates):
            if item.text not in self._seen:
                self._seen.add(item.text)
                yield item
            if self._patience and number >= self._patience * (count + 10):
                return


def grammar_pools(seed: int, task: str) -> tuple[Pool, Pool]:
    """Task text and general text of the demo's English.

    Raises:
        ConfigError: the grammar's sentences have entities, and no classes.
    """
    if task != "ner":
        raise ConfigError(f'truth world: the grammar makes text for task = "ner"; give world.text for {task}')
    seen: set[str] = set()

    def items(domain: str) -> Iterator[Item]:
        draws = Draws(derive_seed(seed, "truth world", domain))
        return (Item(sentence.words, sentence.tags) for sentence in stream("en", domain, draws, WorldConfig()))

    return (Pool(items("news"), "the grammar", seen, PATIENCE), Pool(items("general"), "the grammar", seen, PATIENCE))


def file_pools(
    seed: int, text: Sequence[Example], general: Sequence[Example] | None, name: str = "the file"
) -> tuple[Pool, Pool]:
    """Task text and general text of files, in a seeded order; without a general file both come from the one.

    Raises:
        ConfigError: examples are pairs, or have no labels.
    """
    if any(e.pair is not None for e in text):
        raise ConfigError(f"truth world: {name} has pairs of texts; give single texts, or words with tags")
    if any(e.labels is None for e in text):
        raise ConfigError(f"truth world: {name} has examples without labels; give a labelled file")
    seen: set[str] = set()
    task = Pool(_shuffled(seed, [_item(e, e.labels) for e in text]), name, seen)
    if general is None:
        return task, task
    return task, Pool(_shuffled(seed, [_item(e, None) for e in general]), "the general text", seen)


def _item(example: Example, labels: tuple[str, ...] | str | None) -> Item:
    # Words are separated by spaces in the world's files, so that none may hold one.
    words = example.words if example.words is not None else str(example.text).split()
    return Item(tuple("_".join(word.split()) or "_" for word in words), labels)


def _shuffled(seed: int, items: Sequence[Item]) -> list[Item]:
    kept = [item for item in items if item.words]
    order = sorted(range(len(kept)), key=lambda i: derive_seed(seed, "truth world", "order of the file", i))
    return [kept[i] for i in order]


def shares_of(items: Iterable[Item]) -> dict[str, float]:
    """The share of each kind, in alphabetical order."""
    counts = Counter(item.kind for item in items)
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
    """Sentences of which about `share` have one wrong label, and what was done to them.

    In tagging one entity gets the type of another (sentences without an entity are left alone), else the sentence
    gets another class. Which sentences are chosen at one share are chosen at every higher one.

    Raises:
        ConfigError: there is only one type or class to choose from.
    """
    names = sorted(
        {n for i in items for n in ([i.labels] if isinstance(i.labels, str) else entity_types(i.labels or ()))}
    )
    if share and len(names) < 2:
        raise ConfigError(f"truth world: label_noise needs two classes or entity types, the text has {names}")
    noisy, wrong = list(items), list[Wrong]()
    for number, item in enumerate(items):
        draws = Draws(derive_seed(seed, "truth world", "label noise", number))
        if not draws.chance(share) or not item.kind:
            continue
        if isinstance(item.labels, str):
            label = draws.pick([name for name in names if name != item.labels])
            noisy[number] = replace(item, labels=label)
            wrong.append(Wrong(number, None, item.labels, label))
        elif item.labels is not None:
            tags, start, right, label = with_wrong_type(item.labels, draws, names)
            noisy[number] = replace(item, labels=tags)
            wrong.append(Wrong(number, start, right, label))
    return noisy, wrong
