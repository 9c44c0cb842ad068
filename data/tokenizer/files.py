"""The files of a tokenizer: settings, special tokens by name, BERT's `vocab.txt`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors

from ... import ModelError, XltError
from ...untrusted import clip, inside, quoted
from ..readers.plain import unspaced

SPECIAL_TOKENS = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
MAX_ID = (1 << 22) - 1
"""Largest id of a token."""
MAX_WORD = 100
"""Characters of the longest word that is cut into pieces."""

_CLOSING, _OPENING = frozenset(".,;:!?)]}%…"), frozenset("([{¿¡")
_ELSEWHERE = {"cls": "bos", "sep": "eos"}
"""What encoders with a decoder's tokenizer (EuroBERT) call these."""

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


def needs_spaces(state: dict[str, Any]) -> bool:
    """Whether a word gets its mark of a word's start from a space before it, and none without.

    ModernBERT's and Gemma's tokenizers are so, and XLM-R's is not.
    """
    parts = [*_parts(state.get("pre_tokenizer")), *_parts(state.get("normalizer"))]
    if any(part.get("type") == "Prepend" for part in parts):
        return False
    return any(
        (part.get("type") == "Metaspace" and part.get("prepend_scheme") == "never")
        or (part.get("type") == "ByteLevel" and not part.get("add_prefix_space"))
        or (part.get("type") == "Replace" and part.get("pattern") == {"String": " "} and part.get("content"))
        for part in parts
    )


def _parts(node: Any) -> Iterator[dict[str, Any]]:
    """A normalizer or pre-tokenizer and those in it."""
    if isinstance(node, dict):
        yield node
        for inner in node.get("pretokenizers") or node.get("normalizers") or ():
            yield from _parts(inner)


def with_spaces(words: Sequence[str]) -> list[str]:
    """The words of a sentence as they stand in running text: a space before each but the first.

    None is put before closing punctuation, after opening brackets, before what an apostrophe joins ("'s"), nor beside
    a character of a script that is written without spaces.
    """
    spaced, before = [], ""
    for word in words:
        joined = not before or not word or word[0] in _CLOSING or before[-1] in _OPENING
        joined = joined or (word[0] in "'’" and len(word) > 1)
        joined = joined or any(unspaced().match(c) for c in (word[0], before[-1]))
        spaced.append(word if joined else f" {word}")
        before = word or before
    return spaced


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
        value = config.get(f"{role}_token", config.get(f"{_ELSEWHERE.get(role)}_token"))
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
