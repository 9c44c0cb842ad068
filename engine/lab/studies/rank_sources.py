"""`rank-sources`: which language to transfer from, judged without a label of the target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .... import ConfigError, DataError, ModelError
from ....data import OUTSIDE, Example, Tokenizer, rng_for
from ...prediction.predictor import Predictor
from ...storage.text import points, text_table
from ...vocabulary.texts import Overlap, count_words, overlap, read_texts, words_in

ORDERED_BY = ("word_tokens", "piece_tokens", "agreement", "confidence")
"""Parts whose places are averaged into the order; where not every candidate has a model, the first two."""
STATEMENT = (
    "The order is a guess: no label of the target was read. What it was compared with so far is made text alone "
    '(docs/laboratory.md, "Which source"); on real languages it is not validated.'
)


@dataclass(frozen=True)
class Candidate:
    """What speaks for a source language; shares from 0 to 1.

    Attributes:
        overlap: of its text with the target's, at equal size.
        agreement: mean share of the target's items on which its model says what another candidate's says; None without
            models. Items are texts, or words that one of the two takes for a part of an entity.
        confidence: mean confidence of its model on the target's items, or on the words that it takes for a part of an
            entity.
        place: mean place among the candidates, 1 the best.
    """

    name: str
    overlap: Overlap
    agreement: float | None
    confidence: float | None
    place: float = 0.0


@dataclass(frozen=True)
class Ranking:
    """All candidates, the first choice first.

    Attributes:
        words: of each text that were compared.
        items: texts of the target that the models labelled; 0 without models.
        ordered_by: the parts whose places were averaged.
    """

    target: tuple[str, ...]
    candidates: tuple[Candidate, ...]
    words: int
    items: int
    ordered_by: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {"schema_version": 1, "validated_on_real_languages": False, "statement": STATEMENT} | asdict(self)

    def render(self) -> str:
        """A table for a person."""
        head = ["source", "place", "words", "types", "pieces", "types"]
        rows = [[*head, "agree", "confident"]]
        for c in self.candidates:
            shares = (c.overlap.word_tokens, c.overlap.word_types, c.overlap.piece_tokens, c.overlap.piece_types)
            rows.append([c.name, f"{c.place:.2f}", *map(points, (*shares, c.agreement, c.confidence))])
        columns = None if self.items else len(head)
        by = ", ".join(name.replace("_", " ") for name in self.ordered_by)
        models = f"agree, confident: models fine-tuned on the sources, on {self.items} texts of the target"
        lines = [
            *text_table([row[:columns] for row in rows]),
            "",
            "words, pieces: per cent of the target's that the source's text has, of all and of the different ones, in "
            f"{self.words} words each",
            *([models] if self.items else []),
            f"place: mean of the places by {by}",
            STATEMENT,
        ]
        return "\n".join(lines)


def rank_sources(
    target: Sequence[str | Path],
    sources: Mapping[str, Sequence[str | Path]],
    tokenizer: str | Path | Tokenizer,
    *,
    models: Mapping[str, str | Path] | None = None,
    words: int = 100_000,
    sample: int = 1000,
    seed: int = 0,
    encoding: str = "utf-8",
    text: str = "text",
    device: Any = "auto",
) -> Ranking:
    """Orders candidate source languages for a target without labels.

    Args:
        target: unlabelled text of the target; labels are dropped.
        sources: name of a candidate -> its text, labelled or not.
        tokenizer: of the encoder that is to be used, or its folder.
        models: name of a candidate -> folder of a model that was fine-tuned on it; all for one set of labels.
        words: compared of each text at most; as many of each as the smallest has.
        sample: texts of the target that the models label, at most.
        seed: of the choices of words and texts.
        text: table or JSON lines: column of the text.

    Raises:
        ConfigError: fewer than two candidates, or a model of no candidate.
        DataError: a file cannot be read, or has no word.
        ModelError: a folder is damaged, or the models have different labels.
    """
    models = dict(models or {})
    if len(sources) < 2:
        raise ConfigError(f"{len(sources)} sources; an order needs at least two")
    if strangers := sorted(set(models) - set(sources)):
        raise ConfigError(f"models of {', '.join(strangers)}, which are no sources; they are {', '.join(sources)}")
    if not isinstance(tokenizer, Tokenizer):
        tokenizer = Tokenizer.from_folder(tokenizer)
    read = {name: read_texts(files, encoding, text) for name, files in sources.items()}
    unlabelled = read_texts(target, encoding, text)
    sizes = {**{name: words_in(examples) for name, examples in read.items()}, "the target": words_in(unlabelled)}
    if empty := [name for name, size in sizes.items() if not size]:
        raise DataError(f"the text of {', '.join(empty)} has no words; give another file")
    most = min(words, *sizes.values())
    counted = count_words(unlabelled, tokenizer, most, seed, "target")
    opinions = _opinions(models, unlabelled, sample, seed, device)
    ordered_by = ORDERED_BY if len(models) == len(sources) else ORDERED_BY[:2]
    candidates = []
    for name, examples in read.items():
        theirs = count_words(examples, tokenizer, most, seed, name)
        candidates.append(Candidate(name, overlap(counted, theirs), *opinions.get(name, (None, None))))
    return Ranking(
        target=tuple(map(str, target)),
        candidates=_placed(candidates, ordered_by),
        words=most,
        items=min(sample, len(unlabelled)) if models else 0,
        ordered_by=ordered_by,
    )


def _placed(candidates: Sequence[Candidate], ordered_by: Sequence[str]) -> tuple[Candidate, ...]:
    """The candidates in order; equal ones in the order in which they were given."""
    # A model that finds no entity at all has no opinion, and the last place.
    parts = [vars(c) | vars(c.overlap) for c in candidates]
    columns = [[1.0 if part[name] is None else -part[name] for part in parts] for name in ordered_by]
    places = np.mean([average_ranks(column) for column in columns], axis=0)
    placed = [replace(c, place=float(p)) for c, p in zip(candidates, places, strict=True)]
    return tuple(sorted(placed, key=lambda c: c.place))


def average_ranks(values: ArrayLike) -> NDArray[np.float64]:
    """The rank of each value, 1 for the smallest; equal ones share the mean of their ranks."""
    array = np.asarray(values, dtype=np.float64)
    below = (array[None] < array[:, None]).sum(axis=1)
    equal = (array[None] == array[:, None]).sum(axis=1)
    return np.asarray(below + (equal + 1) / 2)


def _opinions(
    models: Mapping[str, str | Path], target: Sequence[Example], sample: int, seed: int, device: Any
) -> dict[str, tuple[float | None, float | None]]:
    """Agreement and confidence of each candidate's model on the target."""
    if not models:
        return {}
    if len(models) == 1:
        raise ConfigError("one model has nobody to agree with; give those of at least two sources")
    chosen = [target[i] for i in np.sort(rng_for(seed, "opinions").permutation(len(target))[:sample])]
    said: dict[str, tuple[NDArray[np.str_], NDArray[np.float64]]] = {}
    known: set[str] = set()
    for name, folder in models.items():
        predictor = Predictor(folder, raw=True, device=device)
        names = set(predictor.model.labels)
        if known and names != known:
            raise ModelError(
                f"{folder}: its labels are {', '.join(sorted(names))}, those of the models before it "
                f"{', '.join(sorted(known))}; compare models of one task"
            )
        known = names
        said[name] = _said(predictor, chosen)
    tagging = OUTSIDE in known
    opinions = {}
    for name, (labels, confidence) in said.items():
        shares = []
        for theirs in (said[other][0] for other in said if other != name):
            looked_at = (labels != OUTSIDE) | (theirs != OUTSIDE) | (not tagging)
            shares += [float((labels == theirs)[looked_at].mean())] if looked_at.any() else []
        sure = confidence[(labels != OUTSIDE) | (not tagging)]
        opinions[name] = (float(np.mean(shares)) if shares else None, float(sure.mean()) if sure.size else None)
    return opinions


def _said(predictor: Predictor, examples: Sequence[Example]) -> tuple[NDArray[np.str_], NDArray[np.float64]]:
    """Label and confidence of every item."""
    if predictor.task == "classification":
        texts = [e.text if e.text is not None else " ".join(e.words or ()) for e in examples]
        classes = predictor.classify(texts, [e.pair for e in examples])
        return np.array([str(p.label) for p in classes]), np.array([p.confidence for p in classes])
    tagged = predictor.tag([e.words if e.words is not None else predictor.words(e.text or "") for e in examples])
    return np.array([tag for p in tagged for tag in p.labels]), np.array([c for p in tagged for c in p.confidences])
