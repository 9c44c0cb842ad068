"""`extend-vocabulary`: an encoder that knows the words of another language, and is otherwise what it was."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ... import ConfigError, ModelError
from ...data import Tokenizer, derive_seed
from ...data.tokenizer.resize import Extension, extend_wordpiece
from ...model import Encoder, MaskedLM, load_encoder, load_masked_lm, read_info, save_model
from ..storage.files import new_folder
from .texts import read_texts, word_pieces

_WORDS = 100_000
_SHOWN = 12
_WORD, _BIAS = "embeddings.word", "decoder_bias"


@dataclass(frozen=True)
class ExtensionReport:
    """What was added, and what it does to the text.

    Attributes:
        asked, added: pieces; `closing` of the added ones keep old words known, beyond those asked for.
        rows, rows_before: of the word embedding.
        pieces: the first new ones.
        fertility, unknown: pieces for each word of the text, and the share of its words with an unknown piece.
    """

    folder: str
    kind: str
    asked: int
    added: int
    closing: int
    first_id: int
    rows_before: int
    rows: int
    pieces: tuple[str, ...]
    fertility_before: float
    fertility: float
    unknown_before: float
    unknown: float

    def render(self) -> str:
        """What a person wants to know."""
        lines = [
            f"{self.folder}: {self.added} pieces from id {self.first_id} on, the embedding has {self.rows} rows "
            f"({self.rows_before} before)",
            f"the first: {' '.join(self.pieces)}",
            f"pieces for each word of the text: {self.fertility_before:.2f} -> {self.fertility:.2f}; "
            f"words with an unknown piece: {100 * self.unknown_before:.1f} % -> {100 * self.unknown:.1f} %",
        ]
        if self.closing:
            lines.append(f"{self.closing} of them are single characters, so that no known word becomes unknown")
        if self.added - self.closing < self.asked:
            lines.append(f"{self.asked} were asked for; the text has no more that occur twice")
        if self.kind == "masked-lm":
            lines.append(
                "next: a recipe with model.path = this folder, and btf.freeze_embeddings = false to train them"
            )
        return "\n".join(lines)


def extend_vocabulary(
    model: str | Path,
    texts: Sequence[str | Path],
    out: str | Path,
    *,
    add: int,
    noise: float = 0.0,
    seed: int = 0,
    encoding: str = "utf-8",
    text: str = "text",
) -> ExtensionReport:
    """Writes a model folder whose vocabulary also has pieces of a text, after the old ones.

    A new piece's embedding, and its bias in the masked-LM head, is the mean of those of the old pieces that it used to
    be split into. Old ids, rows and biases stay what they were to the bit.

    Args:
        model: folder of an encoder or a masked language model with a WordPiece vocabulary.
        texts: files in the new language; labels are not read.
        noise: standard deviation of what is added to the means, seeded by `seed`; tells pieces of equal parts apart.

    Raises:
        ConfigError: `out` exists, or there is nothing to add.
        DataError: a text is missing or wrong.
        ModelError: the folder is damaged, has a task's head, or another kind of tokenizer.
        StorageError: the folder cannot be written.
    """
    if noise < 0:
        raise ConfigError(f"noise is {noise}; give a standard deviation of 0 or more")
    with new_folder(out) as folder:
        info = read_info(model)
        if info.kind == "task":
            raise ModelError(f"{model}: holds a model for {info.task}; extend the encoder that it was fine-tuned from")
        tokenizer, examples = Tokenizer.from_folder(model), read_texts(texts, encoding, text)
        lines = (f"{e.plain} {e.pair or ''}" for e in examples)
        extension = extend_wordpiece(tokenizer, lines, add)
        before: Encoder | MaskedLM = load_masked_lm(model) if info.kind == "masked-lm" else load_encoder(model)
        if misfit := tokenizer.misfit(before.config.vocab_size):
            raise ModelError(f"{model}: {misfit}")
        after = longer_model(before, extension, noise=noise, seed=seed)
        origin = {"extended_from": tokenizer.fingerprint, "added": len(extension.pieces), "first_id": extension.first}
        save_model(after, folder, extra=dict(info.extra or {}) | origin)
        extension.tokenizer.save(folder, segments=after.config.num_segments > 1, max_length=after.config.max_length)
    old, new = (word_pieces(examples, t, _WORDS, seed) for t in (tokenizer, extension.tokenizer))
    return ExtensionReport(
        folder=str(out),
        kind=info.kind,
        asked=add,
        added=len(extension.pieces),
        closing=extension.closing,
        first_id=extension.first,
        rows_before=before.config.vocab_size,
        rows=after.config.vocab_size,
        pieces=extension.pieces[:_SHOWN],
        fertility_before=old[0],
        fertility=new[0],
        unknown_before=old[1],
        unknown=new[1],
    )


def longer_model(model: Encoder | MaskedLM, extension: Extension, *, noise: float, seed: int) -> Encoder | MaskedLM:
    """The same model with rows for the new pieces; all its other weights are copies."""
    rows = max(model.config.vocab_size, extension.first + len(extension.pieces))
    encoder = Encoder(replace(model.config, vocab_size=rows), seed=None)
    longer = MaskedLM(encoder, seed=None) if isinstance(model, MaskedLM) else encoder
    generator = torch.Generator().manual_seed(derive_seed(seed, "vocabulary"))
    target = dict(longer.named_parameters())
    with torch.no_grad():
        for name, old in model.named_parameters():
            new = target[name]
            new[: len(old)].copy_(old)
            if name.endswith((_WORD, _BIAS)):
                for i, parts in enumerate(extension.parts):
                    new[extension.first + i] = old[list(parts)].mean(dim=0)
            if noise and name.endswith(_WORD):
                fresh = new[extension.first : extension.first + len(extension.pieces)]
                fresh += noise * torch.randn(fresh.shape, generator=generator)
    return longer
