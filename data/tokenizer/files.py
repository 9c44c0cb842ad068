"""The files of a tokenizer: settings, special tokens by name, BERT's `vocab.txt`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors

from ... import ModelError, XltError
from ...untrusted import clip, inside, quoted

SPECIAL_TOKENS = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
MAX_ID = (1 << 22) - 1
"""Largest id of a token."""
MAX_WORD = 100
"""Characters of the longest word that is cut into pieces."""

_T = TypeVar("_T")


def guarded(call: Callable[[], _T], where: str) -> _T:
    """Run one call into the Rust library; its errors are bare `Exception`, its panics a bare `BaseException`."""
    try:
        return call()
    except (KeyboardInterrupt, SystemExit, GeneratorExit, MemoryError, XltError):
        raise
    except BaseException as error:
        what = f"the tokenizers library cannot use this file: {clip(str(error))}"
        raise ModelError(f"{where}: {what}; save it again") from error


def check_ids_are_small(state: dict[str, Any], where: str) -> None:
    """Refuses a `tokenizer.json` of such ids that the library takes all memory for them, and ends the process.

    Raises:
        ModelError: an id is beyond `MAX_ID`.
    """
    model, added = state.get("model"), state.get("added_tokens")
    vocab = model.get("vocab") if isinstance(model, dict) else None
    ids = list(vocab.values()) if isinstance(vocab, dict) else []
    ids += [token.get("id") for token in added if isinstance(token, dict)] if isinstance(added, list) else []
    if (largest := max((i for i in ids if isinstance(i, int)), default=0)) > MAX_ID:
        raise ModelError(f"{where}: id {quoted(largest)} is beyond {MAX_ID}; the vocabulary file is damaged")


def unmarked_words(node: Any) -> Iterator[str]:
    """What in a pre-tokenizer leaves the first word of a text without the mark of a word's start."""
    if not isinstance(node, dict):
        return
    if node.get("type") == "Metaspace" and node.get("prepend_scheme") == "never":
        yield "its Metaspace has prepend_scheme 'never'; set 'always' in tokenizer.json"
    if node.get("type") == "ByteLevel" and not node.get("add_prefix_space"):
        yield "its ByteLevel has no add_prefix_space; set true in tokenizer.json"
    for inner in node.get("pretokenizers") or ():
        yield from unmarked_words(inner)


def missing(folder: Path) -> str:
    """What to do about a folder without a tokenizer that can be read."""
    found = sorted(path.name for path in folder.glob("*.model"))
    if not found:
        return "copy one of them from the checkpoint"
    return (
        f"{found[0]} alone is not read: make tokenizer.json of it with transformers, "
        "AutoTokenizer.from_pretrained(folder).save_pretrained(folder)"
    )


def special_names(config: dict[str, Any]) -> dict[str, str]:
    """Role -> name of the special tokens that `tokenizer_config.json` or `special_tokens_map.json` names."""
    names = {}
    for role in SPECIAL_TOKENS:
        value = config.get(f"{role}_token")
        if isinstance(value, dict):
            value = value.get("content")
        if isinstance(value, str):
            names[role] = value
    return names


def from_vocab(folder: Path, config: dict[str, Any], names: dict[str, str]) -> tokenizers.Tokenizer:
    """The tokenizer that BERT's `vocab.txt` stands for."""
    path = inside(folder, "vocab.txt")
    try:
        lines = path.read_bytes().decode("utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"{path}: cannot be read: {error}; copy vocab.txt again") from error
    if lines[-1] == "":
        lines.pop()
    if len(lines) > MAX_ID:
        raise ModelError(f"{path}: {len(lines):,} lines, and ids go up to {MAX_ID}; the vocabulary file is damaged")
    vocab: dict[str, int] = {}
    for i, piece in enumerate(line.removesuffix("\r") for line in lines):
        if piece in vocab:
            raise ModelError(
                f"{path}:{i + 1}: {quoted(piece)} is already on line {vocab[piece] + 1}; copy vocab.txt again"
            )
        vocab[piece] = i
    for role in ("unk", "cls", "sep"):
        if names[role] not in vocab:
            raise ModelError(
                f"{path}: no {role} token {names[role]!r}; name it as {role}_token in tokenizer_config.json"
            )
    normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=bool(config.get("tokenize_chinese_chars", True)),
        strip_accents=config.get("strip_accents"),
        lowercase=bool(config.get("do_lower_case", True)),
    )
    return guarded(lambda: bert_tokenizer(vocab, names, normalizer), str(path))


def bert_tokenizer(
    vocab: dict[str, int], names: Mapping[str, str], normalizer: normalizers.BertNormalizer
) -> tokenizers.Tokenizer:
    """The library's tokenizer around a WordPiece vocabulary, set up as for BERT; `names` are the special tokens'."""
    cls, sep = names["cls"], names["sep"]
    wordpiece = models.WordPiece(vocab, unk_token=names["unk"], max_input_chars_per_word=MAX_WORD)
    inner = tokenizers.Tokenizer(wordpiece)
    inner.normalizer = normalizer
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.decoder = decoders.WordPiece(prefix="##")
    inner.post_processor = processors.TemplateProcessing(
        single=f"{cls} $A {sep}",
        pair=f"{cls} $A {sep} $B:1 {sep}:1",
        special_tokens=[(cls, vocab[cls]), (sep, vocab[sep])],
    )
    inner.add_special_tokens([AddedToken(name, special=True) for name in names.values() if name in vocab])
    return inner
