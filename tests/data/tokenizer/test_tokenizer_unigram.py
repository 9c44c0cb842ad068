"""Unigram tokenizers as XLM-R's: the ids of transformers, words by their first piece, pairs with two separators."""

import json
import random
import re
from pathlib import Path

import pytest
import tokenizers
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast, XLMRobertaTokenizerFast

from xlt_engine import DataError, ModelError
from xlt_engine.data import Example, Tokenizer, build_store, train_wordpiece

SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
TEXT = [
    "Anna Müller wohnt in Köln-Ehrenfeld , sagt sie .",
    "Paul lives in New York (near the river) and doesn't move .",
    "Анна Каренина живёт в Москве , но любит Санкт-Петербург .",
    "東京都に住んでいます。京都へ行きます。",
    "يعيش أحمد في القاهرة ويعمل في الإسكندرية",
    "राम दिल्ली में रहता है और काम करता है",
    "ฉันไปโรงเรียนทุกวัน",
    "Η Αθήνα είναι η πρωτεύουσα της Ελλάδας",
    "Les élèves de l'école visitent Lyon !",
] * 4
ODD = ["", " ", "  a  b ", "\t\n", "\u200b", "e\u0301", "\u2028", "👩\u200d👩\u200d👧 ok", "xqz" * 40, "A\u00a0B"]
ODD += ["½ ﬁ", "<mask> x </s>"]


def unigram(*, pair: str = "<s> $A </s> </s> $B </s>", scheme: str = "always", normal: bool = True) -> Tokenizer:
    """A small tokenizer with the parts of XLM-R's `tokenizer.json`."""
    inner = tokenizers.Tokenizer(models.Unigram())
    if normal:
        inner.normalizer = normalizers.Sequence(
            [normalizers.Nmt(), normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")]
        )
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme=scheme)]
    )
    trainer = trainers.UnigramTrainer(
        vocab_size=300, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False, shrinking_factor=0.6
    )
    inner.train_from_iterator(TEXT, trainer)
    inner.decoder = decoders.Metaspace()
    inner.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair=pair, special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return Tokenizer(inner)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("unigram")
    unigram().save(path, segments=False)
    return path


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Tokenizer:
    return Tokenizer.from_folder(folder)


def strings(seed: int, count: int) -> list[str]:
    draw = random.Random(seed)
    words = [w for line in TEXT for w in line.split()] + ODD
    return [*TEXT[:9], *ODD, *(" ".join(draw.choices(words, k=draw.randint(1, 15))) for _ in range(count))]


def test_roles(tokenizer: Tokenizer) -> None:
    roles = [getattr(tokenizer, f"{role}_id") for role in ("cls", "pad", "sep", "unk", "mask")]
    assert (roles, tokenizer.special_ids) == ([0, 1, 2, 3, 4], (0, 1, 2, 3, 4))
    assert (tokenizer.kind, tokenizer.separators, tokenizer.segments) == ("Unigram", 2, False)
    assert (tokenizer.num_special(False), tokenizer.num_special(True)) == (2, 4)


def test_ids_are_those_of_transformers(tokenizer: Tokenizer, folder: Path) -> None:
    theirs = PreTrainedTokenizerFast.from_pretrained(folder)
    texts, others = strings(1, 200), strings(2, 200)
    ours = tokenizer.encode_texts(texts)
    assert [t.ids for t in ours] == theirs(texts)["input_ids"]
    pairs = tokenizer.encode_texts(texts, others)
    assert [t.ids for t in pairs] == theirs(texts, others)["input_ids"]
    assert theirs.model_input_names == ["input_ids", "attention_mask"]
    assert max(map(len, (t.ids for t in ours))) > 20


def test_ids_are_those_of_the_class_for_xlm_r(tmp_path: Path) -> None:
    """transformers 5 makes this class's normalizer anew, and without one where the file has none precompiled."""
    plain = unigram(normal=False)
    plain.save(tmp_path, segments=False)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "xlm-roberta", "vocab_size": plain.vocab_size}))
    texts, others = strings(3, 100), strings(4, 100)
    for library in (XLMRobertaTokenizerFast, AutoTokenizer):
        theirs = library.from_pretrained(tmp_path)
        assert [t.ids for t in plain.encode_texts(texts)] == theirs(texts)["input_ids"]
        assert [t.ids for t in plain.encode_texts(texts, others)] == theirs(texts, others)["input_ids"]
        assert (theirs.cls_token_id, theirs.sep_token_id, theirs.mask_token_id, theirs.pad_token_id) == (0, 2, 4, 1)


def test_loading_with_the_special_tokens_named_or_not(tokenizer: Tokenizer, folder: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    again.mkdir()
    tokenizer.save(again, segments=False)
    assert {p.name: p.read_bytes() for p in again.iterdir()} == {p.name: p.read_bytes() for p in folder.iterdir()}
    (tmp_path / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes())
    assert Tokenizer.from_folder(tmp_path).fingerprint == tokenizer.fingerprint
    # As the checkpoints on the hub have it: the mask swallows the space before it.
    mask = {"content": "<mask>", "lstrip": True, "single_word": False}
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"mask_token": mask, "cls_token": "<s>"}))
    assert Tokenizer.from_folder(tmp_path).mask_id == 4


@pytest.mark.parametrize("max_length", [None, 3, 8, 20])
def test_words_and_their_first_pieces(tokenizer: Tokenizer, folder: Path, max_length: int | None) -> None:
    theirs = PreTrainedTokenizerFast.from_pretrained(folder)
    draw = random.Random(5)
    words = [w for line in TEXT for w in line.split()] + ODD[:-1]
    sentences = [draw.choices(words, k=draw.randint(1, 12)) for _ in range(150)]
    found = tokenizer.encode_words(sentences, max_length=max_length)
    cut = 0
    for sentence, ours in zip(sentences, found, strict=True):
        expected = theirs(sentence, is_split_into_words=True, truncation=max_length is not None, max_length=max_length)
        assert ours.ids == expected["input_ids"]
        owners = expected.word_ids()
        first = {w: i for i, w in reversed(list(enumerate(owners))) if w is not None}
        assert dict(zip(ours.words, ours.positions, strict=True)) == dict(sorted(first.items()))
        assert len(sentence) == len(ours.words) + ours.cut + ours.empty
        cut += ours.cut
        for position, word in zip(ours.positions, ours.words, strict=True):
            piece = tokenizer.token(ours.ids[position])
            assert piece == "<unk>" or str(piece).startswith("▁"), (sentence[word], piece)
    assert (cut > 0) == (max_length is not None)


@pytest.mark.parametrize("max_length", [5, 6, 9, 13, 64])
def test_pairs_are_cut_as_the_library_cuts(tokenizer: Tokenizer, folder: Path, max_length: int) -> None:
    theirs = PreTrainedTokenizerFast.from_pretrained(folder)
    texts, others = strings(6, 60), strings(7, 60)
    ours = tokenizer.encode_texts(texts, others, max_length=max_length, offsets=True)
    expected = theirs(texts, others, truncation="longest_first", max_length=max_length, return_offsets_mapping=True)
    for i, mine in enumerate(ours):
        assert mine.ids == expected["input_ids"][i]
        assert mine.offsets == [tuple(pair) for pair in expected["offset_mapping"][i]]
        assert mine.second is None
    with pytest.raises(DataError, match="max_length 4 leaves no room beside 4 special tokens"):
        tokenizer.encode_texts(["a"], ["b"], max_length=4)


def test_a_store_of_pairs_and_of_words(tokenizer: Tokenizer, tmp_path: Path) -> None:
    pair = Example("1", "en", None, "Anna lives", "in Lyon", "yes", "x", 1)
    store = build_store(
        [pair], tokenizer, folder=tmp_path / "pairs", task="classification", labels=["yes"], max_length=64
    )
    assert list(store.ids(0)).count(2) == 3
    words = Example("1", "en", ("Anna", "wohnt"), None, None, ("B-PER", "O"), "x", 1)
    store = build_store([words], tokenizer, folder=tmp_path / "words", task="ner", labels=["O", "B-PER"], max_length=64)
    positions, owners = store.items(0)
    assert list(owners) == [0, 1]
    assert all(str(tokenizer.token(int(store.ids(0)[p]))).startswith("▁") for p in positions)


def test_one_separator_where_the_template_has_one() -> None:
    """LaBSE and BERT: [CLS] a [SEP] b [SEP]; a tokenizer without a template is taken as such."""
    assert train_wordpiece(["a b"] * 2, 40).separators == 1
    assert unigram(pair="<s> $A </s> $B </s>").separators == 1
    assert train_wordpiece(["a b"] * 2, 40).segments
    bare = tokenizers.Tokenizer(models.WordPiece({"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "[MASK]": 4}))
    assert (Tokenizer(bare).separators, Tokenizer(bare).kind) == (1, "WordPiece")


def test_segments_where_the_template_has_them() -> None:
    tokenizer = unigram(pair="<s> $A </s> </s> $B:1 </s>:1")
    (both,) = tokenizer.encode_texts(["Anna"], ["Paul"])
    (first,) = tokenizer.encode_texts(["Anna"])
    assert (tokenizer.segments, both.second) == (True, len(first.ids) + 1)


@pytest.mark.parametrize("pair", ["$A </s> $B </s>", "<s> $B </s> </s> $A </s> </s>", "<s> $A <s> $B </s>"])
def test_another_template_is_refused(pair: str) -> None:
    """For pairs; a text alone has one form."""
    tokenizer = unigram(pair=pair)
    assert (tokenizer.separators, tokenizer.encode_texts(["Anna"])[0].ids[0]) == (0, 0)
    with pytest.raises(ModelError, match=r"its post_processor does not give \[CLS\] text \[SEP\] pair \[SEP\]"):
        tokenizer.encode_texts(["Anna"], ["Paul"])


def test_another_form_of_a_text_is_refused() -> None:
    inner = tokenizers.Tokenizer(models.WordLevel({t: i for i, t in enumerate([*SPECIAL, "a"])}, unk_token="<unk>"))
    inner.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A $B </s>", special_tokens=[("</s>", 2)]
    )
    pytest.raises(ModelError, Tokenizer, inner).match(r"its post_processor does not give \[CLS\] text \[SEP\];")


def test_sentencepiece_alone(tmp_path: Path) -> None:
    (tmp_path / "sentencepiece.bpe.model").write_bytes(b"")
    with pytest.raises(ModelError, match=r"sentencepiece\.bpe\.model alone is not read: make tokenizer\.json of it"):
        Tokenizer.from_folder(tmp_path)


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
