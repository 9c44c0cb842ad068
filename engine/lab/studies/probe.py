"""`probe`: how well two languages are aligned in the states of an encoder, layer by layer, on a user's pairs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from .... import ConfigError, DataError, ModelError
from ....data import EncodedText, Tokenizer, pack, read_dictionary, rng_for
from ....model import Encoder, load_encoder
from ...report import svg
from ...report.text_table import text_table
from ...training.device import choose_device
from .alignment import Alignment, BothWays, align, chance, folds_of, partners_of

States = dict[int, NDArray[np.float32]]
TOKENS = 4096
MARK = "uses parallel data, as an analysis: nothing is trained by it"


@dataclass(frozen=True)
class ProbeReport:
    """What the states of an encoder say about pairs.

    Attributes:
        pairs, left, right: pairs, and distinct texts of each side.
        in_file: pairs before the cap.
        cut: texts that the encoder's positions cut.
        chance: of a random order.
        layers: 0 is the embeddings.
        hidden: size of the states.
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
        found = asdict(self)
        found["layers"] = [{"layer": number, **asdict(layer)} for number, layer in self.layers.items()]
        return {"schema_version": 1, "uses_parallel_data": True, "pooling": "mean of text tokens"} | found

    def render(self) -> str:
        """A table for a person."""
        head = ("layer", "a@1 >", "a@1 <", "MRR", "CSLS >", "CSLS <", "mapped >", "mapped <", "+CSLS >", "+CSLS <")
        rows: list[tuple[str, ...]] = [(*head, "residual", "after")]
        for number, layer in self.layers.items():
            both = (layer.cosine, layer.csls, layer.mapped_cosine, layer.mapped_csls)
            shares = [_points(way.accuracy) for kind in both for way in (kind.forward, kind.backward)]
            mrr = _points((layer.cosine.forward.mrr + layer.cosine.backward.mrr) / 2)
            errors = (f"{layer.residual:.3f}", f"{layer.mapped_residual:.3f}")
            rows.append((str(number), *shares[:2], mrr, *shares[2:], *errors))
        luck = self.chance
        lines = [
            f"{self.model}: {self.pairs} pairs of {self.file} ({self.left} texts left, {self.right} right)",
            *text_table(rows),
            "",
            "per cent; > left to right, < right to left; a@1: a partner is nearest by cosine; MRR: mean of both ways",
            f"chance: a@1 {_points(luck.forward.accuracy)} and {_points(luck.backward.accuracy)}, MRR "
            f"{_points((luck.forward.mrr + luck.backward.mrr) / 2)}",
            f"mapped, after: by a rotation fitted on the other {self.folds - 1} folds, {self.trained_on} pairs or more",
            *self._notes(),
            MARK,
        ]
        return "\n".join(lines)

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

    def figure(self) -> str:
        """The curves over layers, as an SVG file."""
        numbers = list(self.layers)
        span = (min(numbers) - 0.3, max(numbers) + 0.3)
        ticks = [(float(n), str(n)) for n in numbers]
        shares = [(t / 100, f"{t} %") for t in range(0, 101, 25)]
        found = svg.Panel("retrieval, accuracy@1", span, (0, 1.03), "layer", "", ticks, shares, 420, 260)
        kinds: list[tuple[str, Callable[[Alignment], BothWays]]] = [
            ("cosine", lambda layer: layer.cosine),
            ("CSLS", lambda layer: layer.csls),
            ("mapped", lambda layer: layer.mapped_cosine),
            ("mapped, CSLS", lambda layer: layer.mapped_csls),
        ]
        text = []
        for series, (name, read) in enumerate(kinds):
            points = [(float(n), _mean(read(layer))) for n, layer in self.layers.items()]
            _curve(found, points, series, name)
            text.append(f"{name}: " + ", ".join(_points(y) for _, y in points))
        luck = (self.chance.forward.accuracy + self.chance.backward.accuracy) / 2
        found.rule((span[0], luck), (span[1], luck))
        errors = [(n, layer.residual, layer.mapped_residual) for n, layer in self.layers.items()]
        top = svg.padded_range([e for _, *both in errors for e in both], zero=True)
        left = svg.Panel("residual", span, top, "layer", "", ticks, None, 420, 260)
        _curve(left, [(float(n), a) for n, a, _ in errors], 0, "as it is")
        _curve(left, [(float(n), b) for n, _, b in errors], 2, "mapped")
        keys = [svg.Key(name, i) for i, (name, _) in enumerate(kinds)]
        picture = svg.figure(
            [found, left],
            title="Alignment by layer",
            description=f"mean of both directions, per cent; {'; '.join(text)}; dotted: chance",
            columns=2,
            keys=keys,
        )
        return svg.standalone(picture)


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
    poll: Callable[[], None] = lambda: None,
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
    found = [(left, right) for left, rights in read_dictionary([pairs], encoding=encoding).items() for right in rights]
    chosen = found
    if cap and len(found) > cap:
        chosen = [found[i] for i in np.sort(rng_for(seed, "pairs").permutation(len(found))[:cap])]
    sides = [list(dict.fromkeys(texts)) for texts in zip(*chosen, strict=True)]
    places = [{text: i for i, text in enumerate(side)} for side in sides]
    index = np.array([[places[0][a], places[1][b]] for a, b in chosen], dtype=np.int64)
    fold = folds_of(index, folds, seed)
    encoder, tokenizer = _opened(model, device)
    wanted = _wanted(layers, encoder.config.num_layers)
    states, cut = zip(*(text_states(encoder, tokenizer, side, wanted, str(pairs), poll) for side in sides), strict=True)
    forward, backward = partners_of(index, (len(sides[0]), len(sides[1])))
    return ProbeReport(
        model=str(model),
        file=str(pairs),
        pairs=len(chosen),
        in_file=len(found),
        left=len(sides[0]),
        right=len(sides[1]),
        cut=sum(cut),
        seed=seed,
        folds=folds,
        neighbours=neighbours,
        hidden=encoder.config.hidden_size,
        trained_on=int(len(fold) - np.bincount(fold).max()),
        chance=BothWays(chance(forward, len(sides[1])), chance(backward, len(sides[0]))),
        layers={n: align(states[0][n], states[1][n], index, fold, neighbours=neighbours) for n in wanted},
    )


def text_states(
    encoder: Encoder,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    layers: Sequence[int],
    file: str,
    poll: Callable[[], None] = lambda: None,
) -> tuple[States, int]:
    """The mean state of each text in some layers, [texts, H], and how many texts were cut.

    Raises:
        DataError: a text gives no token; `file` is named.
    """
    encoded = tokenizer.encode_texts(texts, max_length=encoder.config.max_length)
    for text, tokens in zip(texts, encoded, strict=True):
        if len(tokens.ids) < 3:
            raise DataError(f"{file}: {text!r} gives no token; remove the line")
    size = encoder.config.hidden_size
    found: States = {n: np.empty((len(texts), size), dtype=np.float32) for n in layers}
    device = encoder.word_embedding.device
    with torch.inference_mode():
        for members in _batches(encoded):
            poll()
            batch = pack([encoded[i].ids for i in members]).to(device)
            lengths = torch.tensor([len(encoded[i].ids) for i in members])
            owner = torch.repeat_interleave(torch.arange(len(members)), lengths)
            starts = batch.cu_seqlens.cpu()[:-1].long()
            inner = torch.ones(len(owner), dtype=torch.bool)
            inner[starts] = inner[starts + lengths - 1] = False
            for number, states in enumerate(encoder.layer_states(batch)):
                if number in found:
                    total = torch.zeros(len(members), size, dtype=torch.float64)
                    total.index_add_(0, owner[inner], states.cpu()[inner].double())
                    found[number][members] = (total / (lengths - 2).unsqueeze(1)).numpy()
    return found, sum(tokens.cut_tokens > 0 for tokens in encoded)


def _batches(encoded: Sequence[EncodedText]) -> list[NDArray[np.int64]]:
    """Texts of similar length together, about `TOKENS` tokens in a batch."""
    lengths = np.array([len(tokens.ids) for tokens in encoded])
    order = np.argsort(lengths, kind="stable")
    group = (np.cumsum(lengths[order]) - 1) // TOKENS
    return list(np.split(order, np.flatnonzero(np.diff(group)) + 1))


def _opened(model: str | Path, device: str) -> tuple[Encoder, Tokenizer]:
    encoder, tokenizer = load_encoder(model).to(choose_device(device)), Tokenizer.from_folder(model)
    if misfit := tokenizer.misfit(encoder.config.vocab_size):
        raise ModelError(f"{model}: {misfit}")
    return encoder, tokenizer


def _wanted(layers: Sequence[int], count: int) -> list[int]:
    wrong = [n for n in layers if not 0 <= n <= count]
    if wrong:
        raise ConfigError(
            f"layers {', '.join(map(str, wrong))}: the encoder has layers 1 to {count}, and 0, the embeddings"
        )
    return sorted(set(layers)) or list(range(count + 1))


def _curve(panel: svg.Panel, points: list[tuple[float, float]], series: int, name: str) -> None:
    panel.line(points, series)
    for x, y in points:
        panel.point(x, y, series, shape=series, tip=f"layer {x:.0f}, {name}: {y:.3f}")


def _mean(ways: BothWays) -> float:
    return (ways.forward.accuracy + ways.backward.accuracy) / 2


def _points(share: float) -> str:
    return f"{100 * share:.1f}"
