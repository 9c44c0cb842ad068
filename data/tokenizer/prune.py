"""A vocabulary with fewer pieces, by which a text of kept pieces is cut as it was by all of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import tokenizers

from ... import ModelError
from .extend import check_ids, longest_pieces, normal_words
from .files import guarded
from .wordpiece import PREFIX
from .wrapper import Tokenizer


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
        lines: the text.
        first: so many of the lowest ids stay whatever they are.
        more: ids that stay, too.

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
