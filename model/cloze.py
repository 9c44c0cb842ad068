"""A classifier that fills in a blank: class logits are those of words at the mask (Schick and Schütze, EACL 2021)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .. import ModelError
from ..kernels.products import linear
from .config import EncoderConfig
from .heads import Head
from .layers import Initialiser, PackedInput, Seed
from .tasks import MaskedLM, TaskModel, Transform


class ClozeHead(Head, Transform):
    """The masked-LM head of a checkpoint, read at some words only.

    The decoder is the encoder's word embedding, so that logits are made by `ClozeModel`. There is no dropout, as there
    is none in the masked-LM head.

    Args:
        config: of the encoder.
        pieces: for each class the ids of its words, one piece each.
        seed: of the initialisation; None leaves the head to be filled.

    Raises:
        ModelError: a class without a piece, an id outside the vocabulary, or a decoder that is not the word embedding.
    """

    kind = "cloze"

    def __init__(self, config: EncoderConfig, pieces: Sequence[Sequence[int]], *, seed: int | None = 0) -> None:
        super().__init__(config.hidden_size, len(pieces), 0.0)
        if config.pre_norm is not None and not config.pre_norm.tied:
            raise ModelError(
                "cloze head: this encoder's masked-LM decoder is not its word embedding; take another head"
            )
        self.config = config
        self.pieces = tuple(tuple(own) for own in pieces)
        wrong = [i for own in self.pieces for i in own or (-1,) if not 0 <= i < config.vocab_size]
        if wrong:
            raise ModelError(f"cloze head: {list(map(list, self.pieces))} are not ids of words for every class")
        self.add_transform(config, Initialiser(seed, config.initializer_range))
        ids = sorted({i for own in self.pieces for i in own})
        shares = [[own.count(i) / len(own) for i in ids] for own in self.pieces]
        self.ids: Tensor
        self.shares: Tensor
        self.register_buffer("ids", torch.tensor(ids), persistent=False)
        self.register_buffer("shares", torch.tensor(shares), persistent=False)

    def forward(self, x: Tensor, seed: Seed = None) -> Tensor:
        raise ModelError("a cloze head needs the encoder's word embedding; call the model, not its head")

    def read(self, x: Tensor, word: Tensor) -> Tensor:
        """Logits [1, K, C] of states at masks [K, H]: for each class the mean of its words' masked-LM logits.

        Args:
            word: the encoder's word embedding, [V, H].
        """
        inner = self.transformed(x)
        # The mean of products is the product with the mean: as many columns as classes.
        shares = self.shares.to(word.dtype)
        rows, bias = shares @ word.index_select(0, self.ids), None
        if self.decoder_bias is not None:
            bias = shares @ self.decoder_bias.index_select(0, self.ids)
        return linear(inner, rows, bias).unsqueeze(0)


class ClozeModel(TaskModel):
    """A `TaskModel` for classification with a `ClozeHead`; its items are masks, as its `prompt` has them."""

    head: ClozeHead

    def forward(self, batch: PackedInput, seed: Seed = None) -> Tensor:
        return self.head.read(self.features(batch, seed), self.encoder.word_embedding)


def cloze_model(base: MaskedLM, pieces: Sequence[Sequence[int]], labels: Sequence[str], *, prompt: str) -> ClozeModel:
    """A classifier of a masked language model's own weights; nothing in it is fresh.

    Args:
        pieces: for each label the ids of its words.
        prompt: template of its texts, see `data.Prompt`.
    """
    head = ClozeHead(base.config, pieces, seed=None)
    for name, value in head.named_parameters():
        value.data = getattr(base, name).data
    return ClozeModel(base.encoder, head, "classification", labels, prompt=prompt)
