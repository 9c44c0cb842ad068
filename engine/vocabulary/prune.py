"""`export --prune-vocab`: a task model with the rows of its vocabulary that a text needs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ... import ConfigError, ModelError
from ...data import Example, Prompt, Tokenizer
from ...data.tokenizer.prune import prune_vocabulary
from ...model import ClozeHead, Encoder, TaskModel, read_info, save_model
from ...model.names import views
from ..prediction.model_folder import read_record
from ..prediction.predictor import Predictor
from ..storage.files import (
    atomic_write_bytes,
    atomic_write_json,
    delete,
    publish_folder,
    sha256_file,
    storage_errors,
    temporary_folder,
)
from .run_text import run_texts
from .texts import read_texts

COMPARED = 1000
"""So many texts, evenly spaced, are predicted before and after; the ids of all are compared."""
_CHUNK = 2000
_WEIGHTS, _TOKENIZER = "model.safetensors", "tokenizer.json"
_KEPT = ("fingerprint.json", "decision.json")
"""What `predict` and `evaluate` read of a stage beside the model."""


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
    model: str
    files: tuple[str, ...]
    texts: int
    pieces: int
    rows_before: int
    rows: int
    parameters_before: int
    parameters: int
    bytes_before: int
    bytes: int
    compared: int

    def as_dict(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)

    def render(self) -> str:
        """What a person wants to know."""
        rest = self.rows - self.pieces
        return "\n".join(
            (
                f"{self.folder}: {self.rows:,} of {self.rows_before:,} rows: {self.pieces:,} pieces of {self.texts:,} "
                f"texts in {len(self.files)} files, and {rest:,} special tokens, characters and the like",
                f"parameters: {self.parameters_before:,} -> {self.parameters:,}",
                f"weights and tokenizer: {self.bytes_before / 1e6:.1f} MB -> {self.bytes / 1e6:.1f} MB "
                f"({100 * self.bytes / self.bytes_before:.0f} %)",
                f"the same tokens for all {self.texts:,} texts, and the same predictions, to the bit, for "
                f"{self.compared:,} of them",
            )
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

    Tokens of all texts, weights, and the predictions for some of the texts are compared before the folder appears.

    Args:
        model: folder of a tagger or classifier, with a WordPiece or Unigram vocabulary.
        out: folder to be made.
        texts: files; all text of the run that the stage belongs to where there are none (`run_texts`).
        text: table or JSON lines: column of the text.

    Raises:
        ConfigError: `out` is there, or no texts are named and the folder lies in no run.
        DataError: a text is missing or wrong.
        ModelError: the folder is damaged, holds no task model, or another kind of tokenizer; or tokens or predictions
            came out otherwise.
        StorageError: the folder cannot be written.
    """
    source, final = Path(model), Path(out)
    if final.exists():
        raise ConfigError(f"{final}: is there already; give the name of a new folder")
    before = Predictor(source, device="cpu")
    examples = list(read_texts(texts, encoding, text) if texts else run_texts(source))
    if not examples:
        raise ConfigError("there is no text; give some with --text")
    fewer = _Fewer(before, examples)
    with storage_errors(final, "create"):
        final.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_folder(final.parent, final.name)
    try:
        _write(source, temporary, before, fewer)
        compared = _compare(before, Predictor(temporary, device="cpu"), fewer)
    except BaseException:
        delete(temporary)
        raise
    publish_folder(temporary, final)
    parameters = [sum(p.numel() for p in m.parameters()) for m in (before.model, fewer.model)]
    return PruneReport(
        folder=str(final),
        model=str(source),
        files=tuple(dict.fromkeys(e.file for e in examples)),
        texts=len(examples),
        pieces=fewer.used,
        rows_before=before.model.config.vocab_size,
        rows=len(fewer.rows),
        parameters_before=parameters[0],
        parameters=parameters[1],
        bytes_before=_bytes(source),
        bytes=_bytes(final),
        compared=compared,
    )


class _Fewer:
    """A model and a tokenizer with fewer rows, and the texts that they are for."""

    def __init__(self, before: Predictor, examples: Sequence[Example]) -> None:
        self.task, self.prompt = before.task, before.model.prompt
        self.items = [_item(before, example) for example in examples]
        used = {i for ids in self.ids(before.tokenizer) for i in ids}
        head = before.model.head
        needed = [i for pieces in head.pieces for i in pieces] if isinstance(head, ClozeHead) else []
        padding = [] if before.model.config.pad_token_id is None else [before.model.config.pad_token_id]
        pruned = prune_vocabulary(
            before.tokenizer,
            used,
            (" ".join(item) if self.task == "ner" else f"{item[0]} {item[1] or ''}" for item in self.items),
            # Positions of XLM-R are counted from the padding's id, which then must not move.
            first=sum(padding) + 1 if before.model.config.layout.positions_after_pad else 0,
            more=[*needed, *padding],
        )
        self.tokenizer, self.rows, self.used = pruned.tokenizer, pruned.rows, pruned.used
        self.model = fewer_rows(before.model, self.rows)

    def ids(self, tokenizer: Tokenizer) -> Iterator[list[int]]:
        """The ids of every text, uncut."""
        for start in range(0, len(self.items), _CHUNK):
            chunk = self.items[start : start + _CHUNK]
            if self.task == "ner":
                yield from (e.ids for e in tokenizer.encode_words(chunk))
                continue
            texts, pairs = [text for text, _ in chunk], [pair for _, pair in chunk]
            if self.prompt:
                yield from (e.ids for e in Prompt(self.prompt).encode(tokenizer, texts, pairs))
            else:
                yield from (e.ids for e in tokenizer.encode_texts(texts, pairs))

    def predictions(self, predictor: Predictor, items: Iterable[Any]) -> list[Any]:
        """What a model says about some texts."""
        if self.task == "ner":
            return list(predictor.tag(list(items)))
        texts, pairs = zip(*items, strict=True)
        return list(predictor.classify(texts, pairs))


def _item(predictor: Predictor, example: Example) -> Any:
    """Words for a tagger, a text and its pair for a classifier."""
    if predictor.task == "ner":
        return list(example.words if example.words is not None else predictor.words(str(example.text)))
    return " ".join(example.words) if example.words is not None else example.text, example.pair


def fewer_rows(model: TaskModel, rows: Sequence[int]) -> TaskModel:
    """The same model with these rows of the word embedding, and of the decoder's bias where it has one.

    All other weights are shared or copied.
    """
    chosen = torch.tensor(rows)
    padding = model.config.pad_token_id
    moved = None if padding is None else rows.index(padding)
    encoder = Encoder(replace(model.config, vocab_size=len(rows), pad_token_id=moved), seed=None)
    old, head = dict(model.encoder.named_parameters()), model.head
    with torch.no_grad():
        for name, value in encoder.named_parameters():
            value.copy_(old[name][chosen] if old[name] is model.encoder.word_embedding else old[name])
        if isinstance(head, ClozeHead):
            new = {row: i for i, row in enumerate(rows)}
            head = ClozeHead(encoder.config, [[new[i] for i in pieces] for pieces in head.pieces], seed=None)
            for name, value in model.head.named_parameters():
                dict(head.named_parameters())[name].copy_(value[chosen] if name == "decoder_bias" else value)
    kind, pooling = type(model), model.pooling
    return kind(encoder, head, model.task, model.labels, pooling=pooling, pooler=model.pooler, prompt=model.prompt)


def _write(source: Path, folder: Path, before: Predictor, fewer: _Fewer) -> None:
    """The model, and what the stage says of itself, with hashes of what is there now."""
    made_from = {"pruned_from": before.tokenizer.fingerprint}
    save_model(fewer.model, folder, extra=dict(read_info(source).extra or {}) | made_from)
    fewer.tokenizer.save(folder, segments=fewer.model.config.num_segments > 1)
    for name in _KEPT:
        if (source / name).exists():
            atomic_write_bytes(folder / name, (source / name).read_bytes())
    if record := read_record(source / "stage.json"):
        files = [path for path in sorted(folder.iterdir()) if path.name != "fingerprint.json"]
        record["hashes"] = {path.name: sha256_file(path) for path in files}
        atomic_write_json(folder / "stage.json", record)


def _compare(before: Predictor, after: Predictor, fewer: _Fewer) -> int:
    """How many texts were predicted by both.

    Raises:
        ModelError: something differs.
    """
    for number, (old, new) in enumerate(
        zip(fewer.ids(before.tokenizer), fewer.ids(after.tokenizer), strict=True), start=1
    ):
        if old != [fewer.rows[i] for i in new]:
            raise ModelError(f"text number {number} is cut otherwise by the smaller vocabulary; nothing was written")
    old_weights = views(before.model)
    for name, weight in views(after.model).items():
        theirs = old_weights[name]
        if not torch.equal(weight, theirs if theirs.shape == weight.shape else theirs[list(fewer.rows)]):
            raise ModelError(f"{name} came back otherwise from the disk; nothing was written, check the disk")
    sample = fewer.items[:: max(1, -(-len(fewer.items) // COMPARED))]
    if fewer.predictions(before, sample) != fewer.predictions(after, sample):
        raise ModelError("the smaller model predicts otherwise; nothing was written, please report this")
    return len(sample)


def _bytes(folder: Path) -> int:
    files = [*folder.glob("*.safetensors"), folder / _TOKENIZER, folder / "vocab.txt"]
    return sum(path.stat().st_size for path in files if path.exists())
