"""A WordPiece vocabulary with more pieces, in which nothing that was there changes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tokenizers

from ... import ConfigError, ModelError
from .files import SPECIAL_TOKENS, guarded
from .wordpiece import PREFIX, train_wordpiece
from .wrapper import Tokenizer

_CHARACTERS = 2000
"""Room for the character pieces of a text in the first attempt at a vocabulary of it."""


@dataclass(frozen=True, slots=True)
class Extension:
    """A tokenizer with new pieces.

    Attributes:
        tokenizer: old ids are what they were.
        pieces: the new ones; the first has the id `first`, the others follow.
        parts: for each new piece the old ids that it used to be split into; the unknown token's where it had none.
        closing: how many of the pieces, the last ones, are single characters that keep old words known.
    """

    tokenizer: Tokenizer
    pieces: tuple[str, ...]
    first: int
    parts: tuple[tuple[int, ...], ...]
    closing: int


def extend_wordpiece(tokenizer: Tokenizer, lines: Iterable[str], add: int) -> Extension:
    """Adds pieces that `train_wordpiece` finds in a text, after all old ids.

    Pieces are taken in the order in which training finds them: characters, then the most frequent pairs. Text whose
    tokens hold none of the new pieces has the tokens that it had. For that every character that stands inside an old
    or new piece must be a piece itself (`##c`); those that were not are added beyond `add`: without them a longer new
    piece at a word's beginning could leave a rest that is unknown.

    Args:
        lines: text of the new language; it is normalised and cut into words as the tokenizer does it.
        add: pieces wanted; fewer come where the text has no more pairs that occur twice.

    Raises:
        ConfigError: `add` is not positive, or the text has no words or nothing that the vocabulary lacks.
        ModelError: not a WordPiece tokenizer, or one whose ids the tokenizers library would move.
    """
    state = tokenizer.state
    model = state["model"]
    if tokenizer.kind != "WordPiece" or model.get("continuing_subword_prefix") != PREFIX:
        raise ModelError(
            f"the tokenizer is {tokenizer.kind}, and only WordPiece with {PREFIX} can be extended: the pieces of a "
            "Unigram vocabulary (XLM-R) have probabilities that new pieces would take a share of, so that old text "
            "would be cut otherwise; use a BERT-like encoder"
        )
    if add < 1:
        raise ConfigError(f"{add} pieces to add; give at least 1")
    old: dict[str, int] = dict(model["vocab"])
    # A token that was added to the vocabulary keeps its id only where the vocabulary has no hole for it.
    old |= {token["content"]: token["id"] for token in state["added_tokens"] if token["content"] not in old}
    inner = guarded(lambda: tokenizers.Tokenizer.from_str(json.dumps(state)), "tokenizer")
    found = _lacking(list(_cut(inner, lines)), old, add)
    if not found:
        raise ConfigError("the text has no pieces that the vocabulary lacks; there is nothing to add")
    closing = _closing(inner, [*old, *found], set(old) | set(found) | set(tokenizer.special_names.values()))
    pieces = (*found, *closing)
    first = tokenizer.vocab_size
    model["vocab"] = old | {piece: first + i for i, piece in enumerate(pieces)}
    longer = guarded(lambda: tokenizers.Tokenizer.from_str(json.dumps(state)), "tokenizer")
    check_ids(longer, model["vocab"])
    parts = tuple(split_piece(piece, old, tokenizer.unk_id) for piece in pieces)
    return Extension(Tokenizer(longer, tokenizer.special_names), pieces, first, parts, len(closing))


def split_piece(piece: str, vocab: Mapping[str, int], unknown: int) -> tuple[int, ...]:
    """The ids that a vocabulary splits a piece into; the unknown one's alone where a rest fits none."""
    ids, rest = longest_pieces(piece, vocab)
    return (unknown,) if rest else ids


def longest_pieces(piece: str, vocab: Mapping[str, int]) -> tuple[tuple[int, ...], str]:
    """The ids of the longest match first, as WordPiece has it, and the rest for which there is none."""
    rest, prefix = piece.removeprefix(PREFIX), PREFIX if piece.startswith(PREFIX) else ""
    ids = []
    while rest and (size := next((n for n in range(len(rest), 0, -1) if prefix + rest[:n] in vocab), 0)):
        ids.append(vocab[prefix + rest[:size]])
        rest, prefix = rest[size:], PREFIX
    return tuple(ids), rest


def normal_words(inner: Any, line: str) -> list[str]:
    """The words of a line as the normaliser and the pre-tokenizer of a library's tokenizer leave them."""
    normalizer = inner.normalizer
    return guarded(lambda: _words(inner, normalizer.normalize_str(line) if normalizer else line), "tokenizer")


def _cut(inner: Any, lines: Iterable[str]) -> Iterator[str]:
    """Lines of such words, with blanks between them."""
    for line in lines:
        yield " ".join(normal_words(inner, line))


def _words(inner: Any, text: str) -> list[str]:
    if inner.pre_tokenizer is None:
        return text.split()
    return [word for word, _ in inner.pre_tokenizer.pre_tokenize_str(text)]


def _lacking(lines: Sequence[str], old: Mapping[str, int], add: int) -> list[str]:
    """The first `add` pieces of the text's own vocabulary that the old one lacks."""
    size = _CHARACTERS + len(SPECIAL_TOKENS) + add
    while True:
        trained = train_wordpiece(lines, size)
        pieces = (str(trained.token(i)) for i in range(len(SPECIAL_TOKENS), trained.vocab_size))
        found = [piece for piece in pieces if piece not in old]
        if len(found) >= add or trained.vocab_size < size:
            return found[:add]
        size *= 2


def _closing(inner: Any, pieces: Sequence[str], known: set[str]) -> list[str]:
    """The characters that stand inside a word's piece and are no continuing piece themselves."""
    inside: set[str] = set()
    for piece in pieces:
        text = piece.removeprefix(PREFIX)
        if len(_words(inner, text)) == 1:  # a piece that would be cut before WordPiece sees it is never used
            inside.update(text if piece.startswith(PREFIX) else text[1:])
    return sorted(PREFIX + char for char in inside if PREFIX + char not in known)


def check_ids(inner: Any, wanted: Mapping[str, int]) -> None:
    """Whether a library's tokenizer gives these tokens these ids.

    Raises:
        ModelError: it does not.
    """
    made = inner.get_vocab(with_added_tokens=True)
    moved = [name for name, i in wanted.items() if made.get(name) != i]
    if moved:
        raise ModelError(
            f"the tokenizers library gives {len(moved)} tokens other ids, the first {moved[0]!r}; save the tokenizer "
            "with transformers, and try again"
        )
