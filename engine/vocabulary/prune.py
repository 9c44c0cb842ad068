"""`export --prune-vocab`: a task model with the rows of its vocabulary that a text needs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ... import ConfigError, ModelError
from ...data import Example
from ...data.tokenizer.resize import Pruned, prune_vocabulary
from ...model import Encoder, TaskModel, read_info, save_model
from ...tasks import per_word
from ..prediction.predictor import Predictor
from ..prediction.stage_record import keep_record
from ..storage.files import new_folder
from ..storage.text import size_text
from .texts import read_texts, run_texts

COMPARED = 1000
"""So many texts, evenly spaced, are predicted before and after; the ids of all are compared."""
_CHUNK = 2000


@dataclass(frozen=True)
class PruneReport:
    """What was left out.

    Attributes:
        files: that the text came from; `texts` is how many.
        pieces: of the text; the other rows are special tokens, characters, and what the cutting of words needs.
        compared: texts whose predictions were compared, and are equal to the bit.
        bytes_before, bytes: of weights and tokenizer.
    """

    folder: str
    files: tuple[str, ...]
    texts: int
    pieces: int
    rows_before: int
    rows: int
    bytes_before: int
    bytes: int
    compared: int

    def render(self) -> str:
        """What a person wants to know."""
        rest = self.rows - self.pieces
        return (
            f"{self.folder}: {self.rows:,} of {self.rows_before:,} rows: {self.pieces:,} pieces of {self.texts:,} "
            f"texts in {len(self.files)} files, and {rest:,} special tokens, characters and the like\n"
            f"weights and tokenizer: {size_text(self.bytes_before)} -> {size_text(self.bytes)} "
            f"({100 * self.bytes / self.bytes_before:.0f} %)\n"
            f"the same tokens for all {self.texts:,} texts, and the same predictions, to the bit, for "
            f"{self.compared:,} of them"
        )


def prune_model(
    model: str | Path,
    out: str | Path,
    texts: Sequence[str | Path] = (),
    *,
    encoding: str = "utf-8",
    text: str = "text",
) -> PruneReport:
    """Writes a task model's folder anew, with the vocabulary that a text needs; predictions on it stay equal.

    Tokens of all texts, and the predictions for some of the texts, are compared before the folder appears.

    Args:
        model: folder of a tagger or classifier, with a WordPiece or Unigram vocabulary.
        texts: files; all text of the run that the stage belongs to where there are none (`run_texts`).
        text: table or JSON lines: column of the text.

    Raises:
        ConfigError: `out` exists, or no texts are named and the folder lies in no run.
        DataError: a text is missing or wrong.
        ModelError: the folder is damaged, holds no task model, or another kind of tokenizer; or tokens or predictions
            came out otherwise.
        StorageError: the folder cannot be written.
    """
    source = Path(model)
    with new_folder(out) as folder:
        before = Predictor(source, device="cpu")
        examples = list(read_texts(texts, encoding, text) if texts else run_texts(source))
        if not examples:
            raise ConfigError("there is no text; give some with --text")
        pruned = prune_for(before, examples)
        _write(source, folder, before, pruned)
        compared = _compare(before, Predictor(folder, device="cpu"), examples, pruned.rows)
    return PruneReport(
        folder=str(out),
        files=tuple(dict.fromkeys(e.file for e in examples)),
        texts=len(examples),
        pieces=pruned.used,
        rows_before=before.model.config.vocab_size,
        rows=len(pruned.rows),
        bytes_before=_bytes(source),
        bytes=_bytes(Path(out)),
        compared=compared,
    )


def prune_for(predictor: Predictor, examples: Sequence[Example]) -> Pruned:
    """The tokenizer and the rows that some texts need, and the model's head."""
    config = predictor.model.config
    padding = [] if config.pad_token_id is None else [config.pad_token_id]
    items = (_item(predictor, example) for example in examples)
    return prune_vocabulary(
        predictor.tokenizer,
        {i for ids in _ids(predictor, examples) for i in ids},
        (" ".join(item) if per_word(predictor.task) else f"{item[0]} {item[1] or ''}" for item in items),
        # Positions of XLM-R are counted from the padding's id, which then must not move.
        first=sum(padding) + 1 if config.layout.positions_after_pad else 0,
        more=padding,
    )


def _item(predictor: Predictor, example: Example) -> Any:
    """Words for a tagger, a text and its pair for a classifier."""
    if per_word(predictor.task):
        return list(example.words if example.words is not None else predictor.words(str(example.text)))
    return example.plain, example.pair


def _ids(predictor: Predictor, examples: Sequence[Example]) -> Iterator[list[int]]:
    """The ids of every text, uncut."""
    tokenizer = predictor.tokenizer
    for start in range(0, len(examples), _CHUNK):
        chunk = [_item(predictor, example) for example in examples[start : start + _CHUNK]]
        if per_word(predictor.task):
            yield from (e.ids for e in tokenizer.encode_words(chunk))
            continue
        texts, pairs = [text for text, _ in chunk], [pair for _, pair in chunk]
        yield from (e.ids for e in tokenizer.encode_texts(texts, pairs))


def fewer_rows(model: TaskModel, rows: Sequence[int]) -> TaskModel:
    """The same model with these rows of the word embedding, and of the decoder's bias where it has one.

    All other weights are shared or copied.
    """
    chosen = torch.tensor(rows)
    padding = model.config.pad_token_id
    moved = None if padding is None else rows.index(padding)
    encoder = Encoder(replace(model.config, vocab_size=len(rows), pad_token_id=moved), seed=None)
    old = dict(model.encoder.named_parameters())
    with torch.no_grad():
        for name, value in encoder.named_parameters():
            value.copy_(old[name][chosen] if old[name] is model.encoder.word_embedding else old[name])
    return TaskModel(encoder, model.head, model.task, model.labels, pooling=model.pooling, pooler=model.pooler)


def _write(source: Path, folder: Path, before: Predictor, pruned: Pruned) -> None:
    """The model, and what the stage says of itself."""
    model = fewer_rows(before.model, pruned.rows)
    origin = {"pruned_from": before.tokenizer.fingerprint}
    save_model(model, folder, extra=dict(read_info(source).extra or {}) | origin)
    pruned.tokenizer.save(folder, segments=model.config.num_segments > 1, max_length=model.config.max_length)
    keep_record(source, folder)


def _compare(before: Predictor, after: Predictor, examples: Sequence[Example], rows: Sequence[int]) -> int:
    """How many texts were predicted by both.

    Raises:
        ModelError: something differs.
    """
    ids = zip(_ids(before, examples), _ids(after, examples), strict=True)
    for number, (old, new) in enumerate(ids, start=1):
        if old != [rows[i] for i in new]:
            raise ModelError(f"text number {number} is cut otherwise by the smaller vocabulary; nothing was written")
    sample = [_item(before, example) for example in examples[:: max(1, -(-len(examples) // COMPARED))]]
    predictions: list[Any] = [
        model.tag(sample) if per_word(model.task) else model.classify(*map(list, zip(*sample, strict=True)))
        for model in (before, after)
    ]
    if predictions[0] != predictions[1]:
        raise ModelError("the smaller model predicts otherwise; nothing was written, please report this")
    return len(sample)


def _bytes(folder: Path) -> int:
    files = [*folder.glob("*.safetensors"), folder / "tokenizer.json", folder / "vocab.txt"]
    return sum(path.stat().st_size for path in files if path.exists())
