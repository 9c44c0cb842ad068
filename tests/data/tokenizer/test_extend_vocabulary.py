"""New WordPiece pieces: what comes in, and that nothing that was there changes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tokenizers
from tokenizers import models, pre_tokenizers

from xlt_engine import ConfigError, ModelError
from xlt_engine.data import Tokenizer, train_wordpiece
from xlt_engine.data.tokenizer.extend import extend_wordpiece, split_piece

OLD = ["the house stands in the city", "the old tree is green", "houses and cities, trees (green)"] * 4
NEW = ["nyumba ya zamani iko mjini", "mti wa zamani ni kijani", "nyumba na miji, miti"] * 4
UNSEEN = ["there is the tree", "hounds, cats & trees", "nyota za mji", "Ω never", "the green [MASK] is hers"]


@pytest.fixture(scope="module")
def old() -> Tokenizer:
    return train_wordpiece(OLD, 120)


def pieces(tokenizer: Tokenizer, text: str) -> list[str | None]:
    return [tokenizer.token(i) for i in tokenizer.encode_texts([text])[0].ids]


def test_new_words_are_whole_and_old_ids_stay(old: Tokenizer, tmp_path: Path) -> None:
    found = extend_wordpiece(old, NEW, 60)
    new = found.tokenizer
    assert new.vocab_size == old.vocab_size + len(found.pieces)
    assert [new.token(i) for i in range(old.vocab_size)] == [old.token(i) for i in range(old.vocab_size)]
    assert [new.token(found.first + i) for i in range(len(found.pieces))] == list(found.pieces)
    assert pieces(new, "nyumba ya zamani") == ["[CLS]", "nyumba", "ya", "zamani", "[SEP]"]
    assert len(pieces(old, "nyumba ya zamani")) > 5
    assert (new.pad_id, new.mask_id, new.special_ids) == (old.pad_id, old.mask_id, old.special_ids)
    changed = 0
    for text in [*OLD, *NEW, *UNSEEN]:
        before, after = (t.encode_texts([text])[0].ids for t in (old, new))
        if max(after) < found.first:
            assert after == before, text
        changed += after != before
    assert changed > len(NEW)  # the comparison is not of nothing
    new.save(tmp_path)
    again = Tokenizer.from_folder(tmp_path)
    assert again.fingerprint == new.fingerprint
    assert [e.ids for e in again.encode_texts([*NEW, *UNSEEN])] == [e.ids for e in new.encode_texts([*NEW, *UNSEEN])]


def test_parts_are_what_the_old_tokenizer_makes(old: Tokenizer) -> None:
    found = extend_wordpiece(old, NEW, 60)
    for piece, parts in zip(found.pieces, found.parts, strict=True):
        if not piece.startswith("##"):
            assert list(parts) == old.encode_texts([piece])[0].ids[1:-1], piece
    vocab = {"a": 0, "ab": 1, "##c": 2, "##cd": 3, "##d": 4, "##b": 5}
    assert split_piece("abcd", vocab, 9) == (1, 3)
    assert split_piece("##bcd", vocab, 9) == (5, 3)
    assert split_piece("abx", vocab, 9) == (9,)


def test_order_and_number(old: Tokenizer) -> None:
    all_of_them, few = extend_wordpiece(old, NEW, 500), extend_wordpiece(old, NEW, 3)
    assert few.pieces[:3] == all_of_them.pieces[:3]
    assert len(few.pieces) - few.closing == 3
    assert len(all_of_them.pieces) < 500
    assert extend_wordpiece(old, reversed(NEW), 60).pieces == extend_wordpiece(old, NEW, 60).pieces


def test_no_known_word_becomes_unknown() -> None:
    """`abcd` was `a ##bcd`; with `abc` as a new piece and no `##d` the rest would be unknown."""
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "##bcd", "##b", "##c", "x", "[unused7]"]
    inner = tokenizers.Tokenizer(models.WordPiece({p: i for i, p in enumerate(vocab)}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.add_special_tokens(vocab[:5])
    old = Tokenizer(inner)
    assert pieces(old, "abcd") == ["[CLS]", "a", "##bcd", "[SEP]"]
    found = extend_wordpiece(old, ["abc abc abc"], 2)
    assert (found.pieces, found.closing) == (("b", "c", "##d"), 1)
    more = extend_wordpiece(old, ["abc abc abc"], 10)
    assert "abc" in more.pieces
    assert pieces(more.tokenizer, "abcd") == ["[CLS]", "abc", "##d", "[SEP]"]
    assert not any(char in "".join(more.pieces) for char in "[]7")  # of a piece that no word can have


def test_a_token_beside_the_vocabulary_keeps_its_id(old: Tokenizer) -> None:
    inner = tokenizers.Tokenizer.from_str(json.dumps(old.state))
    inner.add_tokens(["<url>"])
    with_url = Tokenizer(inner)
    found = extend_wordpiece(with_url, NEW, 20)
    assert found.first == old.vocab_size + 1
    for tokenizer in (with_url, found.tokenizer):
        assert tokenizer.encode_texts(["the <url> is"])[0].ids[2] == old.vocab_size


def test_bad_input(old: Tokenizer) -> None:
    pytest.raises(ConfigError, extend_wordpiece, old, NEW, 0).match("0 pieces to add")
    pytest.raises(ConfigError, extend_wordpiece, old, ["", "  "], 5).match("no words")
    pytest.raises(ConfigError, extend_wordpiece, old, ["the the"], 5).match("no pieces that the vocabulary lacks")
    unigram = tokenizers.Tokenizer(
        models.Unigram([(p, 0.0) for p in ("<s>", "</s>", "<pad>", "<unk>", "<mask>", "a")], 3)
    )
    with pytest.raises(ModelError, match="the tokenizer is Unigram, and only WordPiece with ## can be extended"):
        extend_wordpiece(Tokenizer(unigram), NEW, 5)
