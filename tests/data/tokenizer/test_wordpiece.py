"""The vocabulary trainer against a direct reading of its definition."""

from __future__ import annotations

import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from tokenizers import normalizers, pre_tokenizers

import xlt_engine
from xlt_engine import ConfigError
from xlt_engine.data import Tokenizer, train_wordpiece

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
