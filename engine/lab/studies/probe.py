"""`probe`: how well two languages are aligned in the states of an encoder, layer by layer, on a user's pairs.

Retrieval in both directions, before and after the best rotation of one language onto the other, in float64. Rows of `x`
and `y` are distinct texts of two languages; a pair is a row of each, and a row may be in several pairs (a word with two
translations).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .... import ConfigError, DataError, ModelError
from ....data import Tokenizer, pack, read_dictionary, rng_for
from ....data.augment.code_switch import BLOCK, hubness, unit
from ....model import Encoder, load_encoder
from ...storage.text import points, text_table
from ...training.device import choose_device

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
States = dict[int, NDArray[np.float32]]
CHUNK = 64
"""Texts in one forward pass."""
MARK = "uses parallel data, as an analysis: nothing is trained by it"


@dataclass(frozen=True)
class Retrieval:
    """Share of queries whose nearest candidate is a partner."""

    accuracy: float


@dataclass(frozen=True)
class BothWays:
    """Retrieval from the left texts to the right ones, and back."""

    forward: Retrieval
    backward: Retrieval


@dataclass(frozen=True)
class Alignment:
    """What `align` finds: by the states as they are, and after the rotation that was fitted on the other folds."""

    cosine: BothWays
    csls: BothWays
    mapped_cosine: BothWays
    mapped_csls: BothWays


def procrustes(x: Floats, y: Floats) -> Floats:
    """The orthogonal W that minimises |x W - y|: U V^T of the singular value decomposition of x^T y (Schönemann, 1966).

    Row by row partners, [n, H]. With fewer rows than H other maps are as good on these rows.
    """
    u, _, vt = np.linalg.svd(x.T @ y)
    return np.asarray(u @ vt)


def found(queries: Floats, candidates: Floats, partners: Sequence[Ints], penalty: Floats | float = 0.0) -> Bools:
    """Whether each query's nearest candidate is a partner; one of the others that is as near counts as nearer.

    Args:
        queries, candidates: unit rows; `partners` are rows of `candidates`, for each query.
        penalty: `hubness` of the candidates, for 2 cos - r(candidate); the query's own term changes no order.
    """
    nearest = np.empty(len(queries), dtype=bool)
    for a in range(0, len(queries), BLOCK):
        for row, values in enumerate(2 * (queries[a : a + BLOCK] @ candidates.T) - penalty):
            right = values[partners[a + row]]
            nearest[a + row] = (values >= right.max()).sum() == (right >= right.max()).sum()
    return nearest


def folds_of(pairs: Ints, folds: int, seed: int) -> Ints:
    """The fold of each pair `[pairs, 2]`: seeded, and pairs that share a text are in one fold.

    Raises:
        ConfigError: there are fewer groups of pairs than folds.
    """
    group = _groups(pairs)
    names, sizes = np.unique(group, return_counts=True)
    if len(names) < folds:
        raise ConfigError(
            f"{len(pairs)} pairs are {len(names)} groups without a common text, fewer than {folds} folds; give more "
            "pairs, or lower the number of folds"
        )
    load, fold = np.zeros(folds, dtype=np.int64), np.empty(len(pairs), dtype=np.int64)
    for i in rng_for(seed, "folds").permutation(len(names)):
        smallest = int(load.argmin())
        fold[group == names[i]] = smallest
        load[smallest] += sizes[i]
    return fold


def _groups(pairs: Ints) -> Ints:
    """A number for each pair, the same for those that hang together by common texts."""
    group = np.arange(len(pairs))
    while True:
        before = group
        for side in pairs.T:
            lowest = np.full(int(side.max()) + 1, len(pairs))
            np.minimum.at(lowest, side, group)
            group = lowest[side]
        if (group == before).all():
            return group


def partners_of(pairs: Ints, sizes: tuple[int, int]) -> tuple[list[Ints], list[Ints]]:
    """Rows of y for each row of x, and of x for each row of y."""
    left, right = pairs.T
    return [right[left == i] for i in range(sizes[0])], [left[right == j] for j in range(sizes[1])]


def align(x: NDArray[np.floating], y: NDArray[np.floating], pairs: Ints, fold: Ints, *, neighbours: int) -> Alignment:
    """Retrieval and rotation between two sets of states.

    Every text is a query once, against all texts of the other side. The rotation that a text is mapped with was fitted
    on the pairs of the other folds, which have no text in common with it; right texts are mapped back by its inverse.

    Args:
        x, y: [n, H] and [m, H]; every row is in a pair.
        pairs: [pairs, 2], rows of x and y; each pair once.
        fold: of each pair, from 0, as `folds_of` gives it.
        neighbours: of CSLS; 10 in the paper.
    """
    x, y = unit(x), unit(y)
    forward, backward = partners_of(pairs, (len(x), len(y)))

    def both(to_y: Floats, to_x: Floats, left: Ints, right: Ints) -> list[tuple[Bools, Bools]]:
        """By cosine and by CSLS, for rows of x as they are beside y, and rows of y as they are beside x."""
        queries = (to_y[left], y, [forward[i] for i in left]), (to_x[right], x, [backward[j] for j in right])
        near = hubness(y, to_y, neighbours), hubness(x, to_x, neighbours)
        return [(found(*queries[0], a), found(*queries[1], b)) for a, b in ((0.0, 0.0), near)]

    mapped = [tuple(np.empty(n, dtype=bool) for n in (len(x), len(y))) for _ in range(2)]
    for number in range(int(fold.max()) + 1):
        test, rest = pairs[fold == number], pairs[fold != number]
        rotation = procrustes(x[rest[:, 0]], y[rest[:, 1]])
        left, right = np.unique(test[:, 0]), np.unique(test[:, 1])
        for ways, made in zip(mapped, both(x @ rotation, y @ rotation.T, left, right), strict=True):
            ways[0][left], ways[1][right] = made
    plain = both(x, y, np.arange(len(x)), np.arange(len(y)))
    return Alignment(*(BothWays(*(Retrieval(float(right.mean())) for right in ways)) for ways in (*plain, *mapped)))


@dataclass(frozen=True)
class ProbeReport:
    """What the states of an encoder say about pairs; layer 0 is the embeddings.

    Attributes:
        left, right: distinct texts of each side; `in_file`: pairs before the cap.
        cut: texts that the encoder's positions cut.
        trained_on: pairs that the smallest of the rotations was fitted on.
    """

    model: str
    file: str
    pairs: int
    in_file: int
    left: int
    right: int
    cut: int
    seed: int
    folds: int
    neighbours: int
    hidden: int
    trained_on: int
    chance: BothWays
    layers: dict[int, Alignment]

    def as_dict(self) -> dict[str, Any]:
        """JSON values."""
        layers = [{"layer": number, **asdict(layer)} for number, layer in self.layers.items()]
        head = {"schema_version": 1, "uses_parallel_data": True, "pooling": "mean of text tokens"}
        return head | asdict(self) | {"layers": layers}

    def render(self) -> str:
        """A table for a person."""
        head = ["layer", "a@1 >", "a@1 <", "CSLS >", "CSLS <", "mapped >", "mapped <", "+CSLS >", "+CSLS <"]
        rows = [head]
        for number, layer in self.layers.items():
            ways = [way for both in vars(layer).values() for way in (both.forward, both.backward)]
            rows.append([str(number), *(points(way.accuracy) for way in ways)])
        lines = [
            f"{self.model}: {self.pairs} pairs of {self.file} ({self.left} texts left, {self.right} right)",
            *text_table(rows),
            "",
            "per cent; > left to right, < right to left; a@1: a partner is nearest by cosine",
            f"chance: {points(self.chance.forward.accuracy)} and {points(self.chance.backward.accuracy)}",
            f"mapped: by a rotation fitted on the other {self.folds - 1} folds, {self.trained_on} pairs or more",
        ]
        return "\n".join([*lines, *self._notes(), MARK])

    def _notes(self) -> list[str]:
        notes = []
        if self.trained_on < self.hidden:
            notes.append(
                f"a rotation of {self.hidden} dimensions is fitted on {self.trained_on} pairs: it is not determined by "
                "them; give more pairs"
            )
        if self.pairs < self.in_file:
            notes.append(f"{self.pairs} of {self.in_file} pairs, a choice by seed {self.seed}")
        if self.cut:
            notes.append(f"{self.cut} texts are longer than the encoder's positions, and were cut")
        return notes


def probe(
    model: str | Path,
    pairs: str | Path,
    *,
    layers: Sequence[int] = (),
    cap: int = 2000,
    folds: int = 5,
    neighbours: int = 10,
    seed: int = 0,
    encoding: str = "utf-8",
    device: str = "auto",
) -> ProbeReport:
    """Looks for the partners of texts by the states of an encoder.

    A text's state is the mean over its tokens, special ones left out.

    Args:
        model: a model folder.
        pairs: a file with a text, a tab and its translation on each line, without a header.
        layers: 0 is the embeddings; all when empty.
        cap: largest number of pairs, a seeded choice; 0 means all.
        folds: the rotation is fitted on all but one of so many parts, and tested on that one.
        neighbours: of CSLS.
        seed: of the choice and of the folds.

    Raises:
        ConfigError: no such layer or device, or too few pairs for the folds.
        DataError: a line is wrong, or a text gives no token.
        ModelError: the folder is damaged, or encoder and tokenizer do not fit.
    """
    read = [(left, right) for left, rights in read_dictionary([pairs], encoding=encoding).items() for right in rights]
    chosen = read
    if cap and len(read) > cap:
        chosen = [read[i] for i in np.sort(rng_for(seed, "pairs").permutation(len(read))[:cap])]
    sides = [list(dict.fromkeys(texts)) for texts in zip(*chosen, strict=True)]
    rows = [{text: i for i, text in enumerate(side)} for side in sides]
    index = np.array([[rows[0][a], rows[1][b]] for a, b in chosen], dtype=np.int64)
    fold = folds_of(index, folds, seed)
    encoder, tokenizer = load_encoder(model).to(choose_device(device)), Tokenizer.from_folder(model)
    if misfit := tokenizer.misfit(encoder.config.vocab_size):
        raise ModelError(f"{model}: {misfit}")
    count = encoder.config.num_layers
    if wrong := [n for n in layers if not 0 <= n <= count]:
        raise ConfigError(
            f"layers {', '.join(map(str, wrong))}: the encoder has layers 1 to {count}, and 0, the embeddings"
        )
    numbers = sorted(set(layers)) or list(range(count + 1))
    states, cut = zip(*(text_states(encoder, tokenizer, side, numbers, str(pairs)) for side in sides), strict=True)
    luck = Retrieval(len(index) / (len(sides[0]) * len(sides[1])))  # a random order of the candidates, in the mean
    return ProbeReport(
        model=str(model),
        file=str(pairs),
        pairs=len(chosen),
        in_file=len(read),
        left=len(sides[0]),
        right=len(sides[1]),
        cut=sum(cut),
        seed=seed,
        folds=folds,
        neighbours=neighbours,
        hidden=encoder.config.hidden_size,
        trained_on=int(len(fold) - np.bincount(fold).max()),
        chance=BothWays(luck, luck),
        layers={n: align(states[0][n], states[1][n], index, fold, neighbours=neighbours) for n in numbers},
    )


def text_states(
    encoder: Encoder, tokenizer: Tokenizer, texts: Sequence[str], layers: Sequence[int], file: str
) -> tuple[States, int]:
    """The mean state of each text in some layers, [texts, H], and how many texts were cut.

    Raises:
        DataError: a text gives no token; `file` is named.
    """
    encoded = tokenizer.encode_texts(texts, max_length=encoder.config.max_length)
    for text, tokens in zip(texts, encoded, strict=True):
        if len(tokens.ids) < 3:
            raise DataError(f"{file}: {text!r} gives no token; remove the line")
    means: dict[int, list[Tensor]] = {n: [] for n in layers}
    with torch.inference_mode():
        for start in range(0, len(encoded), CHUNK):
            ids = [tokens.ids for tokens in encoded[start : start + CHUNK]]
            batch = pack(ids).to(encoder.word_embedding.device)
            for number, states in enumerate(encoder.layer_states(batch)):
                if number in means:
                    parts = torch.split(states.double(), list(map(len, ids)))
                    means[number] += [part[1:-1].mean(dim=0) for part in parts]
    cut = sum(tokens.cut_tokens > 0 for tokens in encoded)
    return {n: torch.stack(rows).float().cpu().numpy() for n, rows in means.items()}, cut
