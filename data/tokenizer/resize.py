"""A vocabulary with more or fewer pieces, by which a text of the pieces that stay is cut as it was."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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


@dataclass(frozen=True, slots=True)
class Pruned:
    """A tokenizer with the pieces that were kept.

    Attributes:
        tokenizer: the piece whose id was `rows[i]` has the id i.
        rows: the old ids, ascending.
        used: how many of them occur in the text; the others are special tokens, characters, and what cutting needs.
    """

    tokenizer: Tokenizer
    rows: tuple[int, ...]
    used: int


def prune_vocabulary(
    tokenizer: Tokenizer, used: Iterable[int], lines: Iterable[str], *, first: int = 0, more: Iterable[int] = ()
) -> Pruned:
    """Keeps the pieces of a text.

    WordPiece takes the longest piece that fits, Unigram the most probable sequence of pieces. What was the longest, or
    the best, of all pieces is it among fewer, as long as it is kept: a text without a dropped piece, this one or any
    other, keeps its sequence. Three kinds of pieces are kept for that although they need not occur: in WordPiece those
    at the beginning of a word that is unknown because of its rest, in Unigram the least probable piece, which says what
    an unknown character costs; and added tokens. Beyond that each character of the text stays, at the beginning of a
    word and inside it, where it was a piece: other words of these characters are cut into smaller parts, not unknown.

    Args:
        used: ids of the text, by `tokenizer`.
        first: so many of the lowest ids stay whatever they are.

    Raises:
        ModelError: another kind of tokenizer, or one whose ids the tokenizers library would move.
    """
    state = tokenizer.state
    model = state["model"]
    if tokenizer.kind not in _PRUNERS or model.get("continuing_subword_prefix", PREFIX) != PREFIX:
        raise ModelError(
            f"the tokenizer is {tokenizer.kind}, and only Unigram and WordPiece with {PREFIX} can be pruned: by merges "
            "(BPE), or another prefix, fewer pieces can cut a word otherwise; export the model with its vocabulary"
        )
    in_text = set(used)
    kept = in_text | set(more) | set(range(first)) | set(tokenizer.special_ids)
    kept |= {token["id"] for token in state["added_tokens"]}
    inner = guarded(lambda: tokenizers.Tokenizer.from_str(json.dumps(state)), "tokenizer")
    kept |= set(_PRUNERS[tokenizer.kind](model, {word for line in lines for word in normal_words(inner, line)}))
    rows = tuple(sorted(kept))
    new = {old: i for i, old in enumerate(rows)}
    _renumber(state, new)
    source = json.dumps(state, ensure_ascii=False).encode("utf-8")
    fewer = guarded(lambda: tokenizers.Tokenizer.from_str(source.decode("utf-8")), "tokenizer")
    check_ids(fewer, {name: new[i] for name, i in inner.get_vocab(with_added_tokens=True).items() if i in new})
    return Pruned(Tokenizer(fewer, tokenizer.special_names, source=source), rows, len(in_text))


def _wordpiece(model: Mapping[str, Any], words: set[str]) -> Iterator[int]:
    """The characters of the words, and what a word begins with that ends unknown."""
    vocab: dict[str, int] = model["vocab"]
    for char in set().union(*words):
        yield from (vocab[piece] for piece in (char, PREFIX + char) if piece in vocab)
    for word in words:
        yield from longest_pieces(word, vocab)[0]


def _unigram(model: Mapping[str, Any], words: set[str]) -> Iterator[int]:
    """The characters of the words, the unknown piece and the least probable one, and bytes where they stand in."""
    vocab: list[tuple[str, float]] = model["vocab"]
    chars = set().union(*words)
    yield min(range(len(vocab)), key=lambda i: vocab[i][1])
    if model.get("unk_id") is not None:
        yield model["unk_id"]
    spelt = {f"<0x{byte:02X}>" for byte in range(256)} if model.get("byte_fallback") else set()
    yield from (i for i, (piece, _) in enumerate(vocab) if piece in chars or piece in spelt)


_PRUNERS: dict[str, Callable[[Mapping[str, Any], set[str]], Iterator[int]]] = {
    "WordPiece": _wordpiece,
    "Unigram": _unigram,
}


def _renumber(state: dict[str, Any], new: Mapping[int, int]) -> None:
    """Leaves of a parsed `tokenizer.json` the pieces that have a new id, wherever it names them."""
    model = state["model"]
    if isinstance(model["vocab"], dict):
        model["vocab"] = {piece: new[i] for piece, i in model["vocab"].items() if i in new}
    else:
        model["vocab"] = [entry for i, entry in enumerate(model["vocab"]) if i in new]
    if model.get("unk_id") is not None:
        model["unk_id"] = new[model["unk_id"]]
    for token in state["added_tokens"]:
        token["id"] = new[token["id"]]
    _renumber_processor(state.get("post_processor"), new)


def _renumber_processor(node: Any, new: Mapping[int, int]) -> None:
    if not isinstance(node, dict):
        return
    for inner in node.get("processors") or ():
        _renumber_processor(inner, new)
    for role in ("cls", "sep"):  # of BertProcessing and RobertaProcessing: a name and its id
        if isinstance(node.get(role), list):
            node[role][1] = new[node[role][1]]
    if node.get("type") == "TemplateProcessing":
        known = {name: token for name, token in node["special_tokens"].items() if new.keys() >= set(token["ids"])}
        node["special_tokens"] = {name: t | {"ids": [new[i] for i in t["ids"]]} for name, t in known.items()}
