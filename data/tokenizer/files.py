"""The files of a tokenizer: settings, special tokens by name, BERT's `vocab.txt`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors

from ... import ModelError

SPECIAL_TOKENS = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
MAX_WORD = 100
"""Characters of the longest word that is cut into pieces."""

_T = TypeVar("_T")


def guarded(call: Callable[[], _T], where: str) -> _T:
    """Run one call into the Rust library; its errors are bare `Exception`, its panics a bare `BaseException`."""
    try:
        return call()
    except (KeyboardInterrupt, SystemExit, GeneratorExit, MemoryError):
        raise
    except BaseException as error:
        raise ModelError(f"{where}: the tokenizers library cannot use this file: {error}; save it again") from error


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file; anything else is a ModelError."""
    try:
        value = json.loads(path.read_bytes().decode("utf-8-sig"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ModelError(f"{path}: cannot be read as JSON: {error}; copy the tokenizer's folder again") from error
    if not isinstance(value, dict):
        raise ModelError(
            f"{path}: holds a JSON {type(value).__name__}, not an object; copy the tokenizer's folder again"
        )
    return value


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


def from_vocab(path: Path, config: dict[str, Any], names: dict[str, str]) -> tokenizers.Tokenizer:
    """The tokenizer that BERT's `vocab.txt` stands for."""
    try:
        lines = path.read_bytes().decode("utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"{path}: cannot be read: {error}; copy vocab.txt again") from error
    if lines[-1] == "":
        lines.pop()
    vocab: dict[str, int] = {}
    for i, piece in enumerate(line.removesuffix("\r") for line in lines):
        if piece in vocab:
            raise ModelError(f"{path}:{i + 1}: {piece!r} is already on line {vocab[piece] + 1}; copy vocab.txt again")
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
