"""Tokenizers that mark a word's start by the space before it: words get the pieces of running text."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import tokenizers
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers

from xlt_engine.data import Tokenizer

SENTENCES = [
    ("Anna wohnt in Berlin.", ["Anna", "wohnt", "in", "Berlin", "."]),
    ("Is Paul's house (the old one) big?", ["Is", "Paul", "'s", "house", "(", "the", "old", "one", ")", "big", "?"]),
    ("東Annaに", ["東", "Anna", "に"]),
]
PIECES = [piece for text, _ in SENTENCES for piece in re.findall(r" ?[A-Za-z]+|\S", text)]


def byte_level(special: tuple[str, ...], unknown: str | None, pair: str) -> tokenizers.Tokenizer:
    """As ModernBERT's: bytes, and no space before the first word; as EuroBERT's where nothing is unknown."""
    inner = tokenizers.Tokenizer(models.BPE(unk_token=unknown))
    split = pre_tokenizers.Split(Regex(r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}+| ?[^\s\p{L}\p{N}]+|\s+"), "isolated")
    inner.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
    return trained(inner, special, pair)


def gemma(special: tuple[str, ...], pair: str) -> tokenizers.Tokenizer:
    """As Gemma's and so mmBERT's: spaces are letters, by a normalizer."""
    inner = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    inner.normalizer = normalizers.Replace(" ", "▁")
    inner.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    inner.decoder = decoders.Replace("▁", " ")
    return trained(inner, special, pair)


def trained(inner: tokenizers.Tokenizer, special: tuple[str, ...], pair: str) -> tokenizers.Tokenizer:
    trainer = trainers.BpeTrainer(vocab_size=420, special_tokens=list(special), show_progress=False)
    inner.train_from_iterator(PIECES * 3, trainer)
    ids = [(name, inner.token_to_id(name)) for name in special]
    first, last = pair.split()[0], pair.split()[-1]
    inner.post_processor = processors.TemplateProcessing(single=f"{first} $A {last}", pair=pair, special_tokens=ids)
    return inner


BERT = ("[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]")
LLAMA = ("<|begin_of_text|>", "<|end_of_text|>", "<pad>", "<|mask|>")
MM = ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>")
MADE = {
    "modernbert": lambda: byte_level(BERT, "[UNK]", "[CLS] $A [SEP] $B [SEP]"),
    "eurobert": lambda: byte_level(LLAMA, None, "<|begin_of_text|> $A <|begin_of_text|> $B <|end_of_text|>"),
    "mmbert": lambda: gemma(MM, "<bos> $A <eos> $B <eos>"),
}


@pytest.mark.parametrize("kind", list(MADE))
def test_words_get_the_pieces_of_running_text(kind: str) -> None:
    inner = MADE[kind]()
    tokenizer = Tokenizer(inner)
    for text, words in SENTENCES:
        (encoded,) = tokenizer.encode_words([words])
        assert encoded.ids == inner.encode(text).ids, text
        assert (encoded.words, encoded.cut, encoded.empty) == (list(range(len(words))), 0, 0)
        assert encoded.ids == tokenizer.encode_texts([text])[0].ids


@pytest.mark.parametrize("kind", list(MADE))
def test_a_word_without_letters_gives_no_piece(kind: str) -> None:
    (encoded,) = Tokenizer(MADE[kind]()).encode_words([["Anna", "", "in"]])
    assert (encoded.words, encoded.empty) == ([0, 2], 1)


def test_what_nothing_is_unknown_to(tmp_path: Path) -> None:
    """EuroBERT has no unknown token, and its first and last are a decoder's."""
    inner = MADE["eurobert"]()
    inner.save(str(tmp_path / "tokenizer.json"))
    names = {"bos_token": LLAMA[0], "eos_token": LLAMA[1], "mask_token": LLAMA[3], "pad_token": LLAMA[2]}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(names))
    tokenizer = Tokenizer.from_folder(tmp_path)
    assert (tokenizer.cls_id, tokenizer.sep_id, tokenizer.mask_id) == tuple(
        map(inner.token_to_id, (*LLAMA[:2], LLAMA[3]))
    )
    assert tokenizer.unk_id == tokenizer.pad_id
    tokenizer.save(tmp_path)
    assert Tokenizer.from_folder(tmp_path).fingerprint == tokenizer.fingerprint
