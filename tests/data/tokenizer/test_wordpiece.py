"""The vocabulary trainer against a direct reading of its definition."""

import json
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import tokenizers
from tokenizers import models, normalizers, pre_tokenizers

import xlt_engine
from xlt_engine import ConfigError, ModelError
from xlt_engine.data import Tokenizer, train_wordpiece
from xlt_engine.data.tokenizer.resize import extend_wordpiece, split_piece

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def made_text(seed: int, lines: int, letters: str = "abcdeé") -> list[str]:
    draw = random.Random(seed)
    words = ["".join(draw.choices(letters, k=draw.randint(1, 9))) for _ in range(60)]
    words += ["aaaa", "aaaaa", "Straße", "l'eau", "U.S.", "東京", "x\u200by", "e\u0301a"]
    weights = [1 / (i + 1) for i in range(len(words))]
    return [
        " ".join(draw.choices(words, weights, k=draw.randint(1, 12))) + draw.choice(["", ".", " !"])
        for _ in range(lines)
    ]


def vocabulary(tokenizer: Tokenizer) -> list[str | None]:
    return [tokenizer.token(i) for i in range(tokenizer.vocab_size)]


def reference(lines: list[str], vocab_size: int, min_frequency: int) -> list[str]:
    """Count all pairs anew before each merge."""
    words: Counter[str] = Counter()
    for line in lines:
        text = normalizers.BertNormalizer(lowercase=False).normalize_str(line)
        words.update(w for w, _ in pre_tokenizers.BertPreTokenizer().pre_tokenize_str(text))
    spelled = {w: [c if i == 0 else "##" + c for i, c in enumerate(w)] for w in words}
    chars = {c for w in words for c in w}
    vocab = SPECIALS + sorted(chars) + sorted("##" + c for c in {c for w in words for c in w[1:]})
    while len(vocab) < vocab_size:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, pieces in spelled.items():
            for pair in zip(pieces, pieces[1:], strict=False):
                pairs[pair] += words[word]
        best = min(pairs, key=lambda p: (-pairs[p], p), default=None)
        if best is None or pairs[best] < min_frequency:
            break
        merged = best[0] + best[1].removeprefix("##")
        if merged not in vocab:
            vocab.append(merged)
        for word, pieces in spelled.items():
            out, i = list[str](), 0
            while i < len(pieces):
                together = tuple(pieces[i : i + 2]) == best
                out.append(merged if together else pieces[i])
                i += 1 + together
            spelled[word] = out
    return vocab


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("min_frequency", [1, 2, 7])
def test_equals_the_direct_algorithm(seed: int, min_frequency: int) -> None:
    lines = made_text(seed, 80, letters="ab" if seed % 2 else "abcdeé")
    for vocab_size in (60, 150, 10_000):
        trained = train_wordpiece(lines, vocab_size, min_frequency=min_frequency)
        assert vocabulary(trained) == reference(lines, vocab_size, min_frequency)


def test_is_a_function_of_the_words() -> None:
    lines = made_text(1, 300)
    first = train_wordpiece(lines, 200)
    shuffled = list(lines)
    random.Random(3).shuffle(shuffled)
    assert train_wordpiece(iter(shuffled), 200).fingerprint == first.fingerprint
    assert train_wordpiece([*lines, "zzz zzz zzz"], 200).fingerprint != first.fingerprint


def test_same_in_another_process() -> None:
    lines = made_text(2, 200)
    root = Path(xlt_engine.__file__).parent.parent
    code = (
        "import sys, json; from xlt_engine.data import train_wordpiece;"
        "print(train_wordpiece(json.load(sys.stdin), 180).fingerprint)"
    )
    for hash_seed in ("1", "77"):
        done = subprocess.run(
            [sys.executable, "-c", code],
            input=__import__("json").dumps(lines),
            env={"PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == train_wordpiece(lines, 180).fingerprint


def test_encodes_and_decodes_its_text() -> None:
    lines = ["the cat sat on the mat", "the dogs sat on the cats"] * 3
    tokenizer = train_wordpiece(lines, 80)
    assert [tokenizer.token(i) for i in range(5)] == SPECIALS
    assert [getattr(tokenizer, f"{role}_id") for role in ("pad", "unk", "cls", "sep", "mask")] == [0, 1, 2, 3, 4]
    for line in lines:
        assert tokenizer.decode(tokenizer.encode_texts([line])[0].ids) == line
    assert len(tokenizer.encode_texts(["the"])[0].ids) == 3


def test_lowercase_and_alphabet() -> None:
    lower = train_wordpiece(["Été Straße"] * 3, 100, lowercase=True)
    assert lower.decode(lower.encode_texts(["ÉTÉ"])[0].ids) == "ete"
    few = train_wordpiece(["aaa aab aba"] * 5 + ["aaz"], 100, limit_alphabet=2)
    assert "z" not in vocabulary(few)
    assert few.encode_texts(["aaz"])[0].ids == [few.cls_id, few.unk_id, few.sep_id]


def test_errors() -> None:
    pytest.raises(ConfigError, train_wordpiece, ["", "  "], 100).match("no words")
    pytest.raises(ConfigError, train_wordpiece, ["abcdef ghij"], 8).match("vocab_size 8 does not hold")


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
    assert (few.pieces[:3], len(few.pieces) - few.closing) == (all_of_them.pieces[:3], 3)
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
