"""The tokenizer of a checkpoint: words or texts in, ids with their places out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers

from ... import DataError, ModelError
from ...untrusted import read_object
from .files import (
    MAX_ID,
    SPECIAL_TOKENS,
    check_ids_are_small,
    from_vocab,
    guarded,
    missing,
    needs_spaces,
    special_names,
    with_spaces,
)

_ALTERNATIVES = {
    "pad": ("<pad>",),
    "unk": ("<unk>",),
    "cls": ("<s>", "<bos>", "<|begin_of_text|>"),
    "sep": ("</s>", "<eos>", "<|end_of_text|>"),
    "mask": ("<mask>", "<|mask|>"),
}


@dataclass(frozen=True, slots=True)
class EncodedWords:
    """One tokenised list of words.

    `num_words == len(words) + cut + empty`: each word is kept, cut by the maximum length, or gives no token.

    Attributes:
        ids: token ids, with [CLS] first and [SEP] last.
        positions: index into `ids` of the first sub-token of each kept word.
        words: index of each kept word in the input.
        num_words: number of words in the input.
        cut: number of words whose first sub-token lies beyond the maximum length.
        empty: number of words that give no token (empty, or only characters that the tokenizer removes).
        cut_tokens: number of tokens that the maximum length cut.
    """

    ids: list[int]
    positions: list[int]
    words: list[int]
    num_words: int
    cut: int
    empty: int
    cut_tokens: int


@dataclass(frozen=True, slots=True)
class EncodedText:
    """One tokenised text or pair of texts.

    Attributes:
        ids: token ids: [CLS] text [SEP], then pair [SEP] where there is one; with two [SEP] between them where the
            tokenizer has it so (XLM-R).
        second: index into `ids` at which the pair, and with it segment 1, starts; None without a pair, and where the
            tokenizer has both texts in one segment (XLM-R).
        offsets: per token its (start, end) in characters of its own text, (0, 0) for the special tokens; None
            unless asked for.
        cut_tokens: number of tokens that the maximum length cut.
    """

    ids: list[int]
    second: int | None
    offsets: list[tuple[int, int]] | None
    cut_tokens: int


class Tokenizer:
    """A `tokenizers.Tokenizer` with the five special tokens known by role.

    [CLS] and the others are roles, not names: XLM-R writes `<s>`, `</s>`, `<pad>`, `<unk>` and `<mask>`.

    Attributes:
        vocab_size: the largest id, and one.
        kind: of the model, as `tokenizer.json` has it: "WordPiece", "Unigram" or another.
        separators: number of [SEP] between the texts of a pair; 0 where its post-processor has another form.
        segments: whether the second text of a pair is in a segment of its own.
        fingerprint: sha256 of everything that decides the ids.
    """

    def __init__(
        self,
        inner: tokenizers.Tokenizer,
        special_tokens: dict[str, str] | None = None,
        *,
        source: bytes | None = None,
    ) -> None:
        """Wrap `inner`.

        Args:
            inner: the library's tokenizer; its own truncation and padding are switched off.
            special_tokens: names for the roles pad, unk, cls, sep, mask where they are not the usual ones.
            source: the `tokenizer.json` that `inner` was read from, for `save`.

        Raises:
            ModelError: a special token is missing, an id does not fit, or the special tokens stand elsewhere than in
                BERT or XLM-R.
        """
        # The library may read a score that it wrote as the number beside it, so that a file is kept as it came.
        self._source = source if inner.truncation is None and inner.padding is None else None
        inner.no_truncation()
        inner.no_padding()
        self._inner = inner
        vocab = inner.get_vocab(with_added_tokens=True)
        # The largest id decides which embedding fits; ids may have gaps, so the number of entries does not.
        self.vocab_size = max(vocab.values(), default=0) + 1
        if self.vocab_size - 1 > MAX_ID:
            raise ModelError(f"tokenizer: id {self.vocab_size - 1} is beyond {MAX_ID}; the vocabulary file is damaged")
        state = json.loads(inner.to_str())
        self.kind: str = state["model"]["type"]
        # Pieces of bytes write any text: nothing is unknown, and a token that never occurs stands for it.
        bytewise = self.kind == "BPE" and not state["model"].get("unk_token")
        self._names = {role: self._find(role, vocab, special_tokens or {}, bytewise) for role in SPECIAL_TOKENS}
        ids = {role: vocab[name] for role, name in self._names.items()}
        self.pad_id, self.unk_id, self.cls_id, self.sep_id, self.mask_id = (ids[role] for role in SPECIAL_TOKENS)
        added = {i for i, token in inner.get_added_tokens_decoder().items() if token.special}
        self.special_ids = tuple(sorted(added | set(ids.values())))
        self.separators, self.segments = self._pair_template()
        self._spaces = needs_spaces(state)
        self.fingerprint = hashlib.sha256(self._canonical(state)).hexdigest()

    def num_special(self, pair: bool) -> int:
        """How many special tokens are added to a text or to a pair."""
        return 2 + pair * self.separators

    def _pair_template(self) -> tuple[int, bool]:
        """Separators and segments, from what the library makes of a pair; BERT's where it adds nothing.

        Raises:
            ModelError: it makes something else of a text than [CLS] text [SEP].
        """
        if self._inner.post_processor is None or not self._inner.num_special_tokens_to_add(is_pair=True):
            return 1, True
        plain = guarded(lambda: self._inner.encode("a", add_special_tokens=False), "tokenizer")
        found = self._inner.post_process(plain, plain, True)
        for count in (1, 2):
            if found.ids == [self.cls_id, *plain.ids, *[self.sep_id] * count, *plain.ids, self.sep_id]:
                return count, any(found.type_ids)
        if self._inner.post_process(plain, None, True).ids == [self.cls_id, *plain.ids, self.sep_id]:
            return 0, False
        raise ModelError(
            "tokenizer: its post_processor does not give [CLS] text [SEP]; use a tokenizer of the BERT family"
        )

    @staticmethod
    def _find(role: str, vocab: dict[str, int], named: dict[str, str], bytewise: bool) -> str:
        candidates = [named[role]] if role in named else [SPECIAL_TOKENS[role], *_ALTERNATIVES[role]]
        for name in candidates:
            if name in vocab:
                return name
        if role == "unk" and bytewise:
            return Tokenizer._find("pad", vocab, named, bytewise)
        raise ModelError(
            f"tokenizer: no {role} token ({' or '.join(candidates)}) in the vocabulary; "
            f"name it as {role}_token in tokenizer_config.json"
        )

    @classmethod
    def from_folder(cls, folder: str | Path) -> Tokenizer:
        """Load `tokenizer.json`, else the WordPiece `vocab.txt` with the settings of `tokenizer_config.json`.

        Raises:
            ModelError: neither file is there, a file is damaged, or a special token is missing.
        """
        folder = Path(folder)
        settings, more = (
            read_object(folder, name) if (folder / name).is_file() else {}
            for name in ("tokenizer_config.json", "special_tokens_map.json")
        )
        names = special_names({**more, **settings})
        path, source = folder / "tokenizer.json", None
        if path.is_file():
            check_ids_are_small(read_object(folder, path.name), str(path))
            inner = guarded(lambda: tokenizers.Tokenizer.from_file(str(path)), str(path))
            source = path.read_bytes()
        elif (path := folder / "vocab.txt").is_file():
            inner = from_vocab(folder, settings, {**SPECIAL_TOKENS, **names})
        else:
            raise ModelError(f"{folder}: neither tokenizer.json nor vocab.txt; {missing(folder)}")
        try:
            return guarded(lambda: cls(inner, names, source=source), "tokenizer")
        except ModelError as error:
            raise ModelError(f"{path}: {error}") from error

    def save(self, folder: str | Path, *, segments: bool = True, max_length: int | None = None) -> None:
        """Write `tokenizer.json` and a `tokenizer_config.json` with which `AutoTokenizer` opens the folder.

        Args:
            segments: whether the model has a second segment, and so wants token_type_ids.
            max_length: the most tokens that the model reads, to which transformers then can cut; None without a model.
        """
        folder = Path(folder)
        config: dict[str, Any] = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_input_names": [
                "input_ids",
                *(["token_type_ids"] if segments and self.segments else []),
                "attention_mask",
            ],
            "clean_up_tokenization_spaces": False,
        }
        if max_length is not None:
            config["model_max_length"] = max_length
        config.update({f"{role}_token": name for role, name in self._names.items()})
        (folder / "tokenizer.json").write_bytes(self._source or self._inner.to_str(pretty=True).encode("utf-8"))
        (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")

    @property
    def state(self) -> dict[str, Any]:
        """What `tokenizer.json` says, parsed; a copy."""
        found: dict[str, Any] = json.loads(self._inner.to_str())
        return found

    @property
    def special_names(self) -> dict[str, str]:
        """Role -> name of the five special tokens."""
        return dict(self._names)

    def misfit(self, rows: int) -> str:
        """Why a model with so many rows in its word embedding cannot be fed by this tokenizer; empty where it can."""
        if self.vocab_size <= rows:
            return ""
        return (
            f"the tokenizer has ids up to {self.vocab_size - 1}, the word embedding {rows} rows; they belong to "
            "different checkpoints"
        )

    def token(self, token_id: int) -> str | None:
        """The piece with this id, or None where the id is not used."""
        return self._inner.id_to_token(token_id)

    def decode(self, ids: Sequence[int], *, skip_special: bool = True) -> str:
        """The text of `ids`."""
        return self._inner.decode(list(ids), skip_special_tokens=skip_special)

    def encode_words(self, sentences: Sequence[Sequence[str]], *, max_length: int | None = None) -> list[EncodedWords]:
        """Tokenise lists of words, `max_length` tokens each at most, the special tokens included.

        A word whose first sub-token fits is kept, even where its later ones are cut. A word that gives no token keeps
        its index and has no position. A tokenizer that marks a word's start by the space before it gets words as they
        stand in running text, see `with_spaces`.
        """
        room = self._room(max_length, self.num_special(False))
        texts = [with_spaces(s) if self._spaces else list(s) for s in sentences]
        out = []
        for words, encoding in zip(sentences, self._encode(texts, True), strict=True):
            owners = encoding.word_ids
            starts = [i for i, word in enumerate(owners) if i == 0 or word != owners[i - 1]]
            kept = [i for i in starts if i < room]
            out.append(
                EncodedWords(
                    ids=[self.cls_id, *encoding.ids[:room], self.sep_id],
                    positions=[i + 1 for i in kept],
                    words=[owners[i] for i in kept],
                    num_words=len(words),
                    cut=len(starts) - len(kept),
                    empty=len(words) - len(starts),
                    cut_tokens=max(0, len(owners) - room),
                )
            )
        return out

    def encode_texts(
        self,
        texts: Sequence[str],
        pairs: Sequence[str | None] | None = None,
        *,
        max_length: int | None = None,
        offsets: bool = False,
    ) -> list[EncodedText]:
        """Tokenise texts or pairs of texts, `max_length` tokens each at most, the special tokens included.

        Of a pair that is too long the longer text is cut first, as transformers does with `longest_first`.
        """
        second: list[str | None] = [None] * len(texts) if pairs is None else list(pairs)
        if len(second) != len(texts):
            raise DataError(f"{len(texts)} texts but {len(second)} pairs; give one pair, or None, for each text")
        if not self.separators and any(pair is not None for pair in second):
            raise ModelError(
                "tokenizer: its post_processor does not give [CLS] text [SEP] pair [SEP], or the same with two [SEP] "
                "between the texts; use a tokenizer of the BERT family"
            )
        first = self._encode(list(texts), False, fast=not offsets)
        others = iter(self._encode([pair for pair in second if pair is not None], False, fast=not offsets))
        out = []
        for encoding, pair in zip(first, second, strict=True):
            other = next(others) if pair is not None else None
            out.append(self._join(encoding, other, max_length, offsets))
        return out

    def _join(self, first: Any, second: Any, max_length: int | None, offsets: bool) -> EncodedText:
        n, m = len(first.ids), 0 if second is None else len(second.ids)
        keep_n, keep_m = longest_first(n, m, self._room(max_length, self.num_special(second is not None)))
        ids = [self.cls_id, *first.ids[:keep_n], self.sep_id]
        places = [(0, 0), *first.offsets[:keep_n], (0, 0)] if offsets else None
        start = None
        if second is not None:
            ids += [self.sep_id] * (self.separators - 1)
            start = len(ids) if self.segments else None
            ids += [*second.ids[:keep_m], self.sep_id]
            if places is not None:
                places += [*[(0, 0)] * (self.separators - 1), *second.offsets[:keep_m], (0, 0)]
        return EncodedText(ids, start, places, n + m - keep_n - keep_m)

    def _encode(self, batch: list[Any], words: bool, fast: bool = False) -> list[Any]:
        if not batch:
            return []
        call = self._inner.encode_batch_fast if fast else self._inner.encode_batch
        try:
            return guarded(lambda: call(batch, is_pretokenized=words, add_special_tokens=False), "tokenizer")
        except ModelError:
            for i, item in enumerate(batch):
                _check_text(i, item if words else [item])
            raise

    @staticmethod
    def _room(max_length: int | None, specials: int) -> int:
        if max_length is None:
            return 2**62
        if max_length <= specials:
            raise DataError(f"max_length {max_length} leaves no room beside {specials} special tokens; raise it")
        return max_length - specials

    def _canonical(self, state: dict[str, Any]) -> bytes:
        """The serialised tokenizer with sorted keys and the roles of the special tokens."""
        return json.dumps([state, self._names], sort_keys=True, ensure_ascii=True, separators=(",", ":")).encode()


def _check_text(index: int, words: Sequence[object]) -> None:
    for word in words:
        if not isinstance(word, str):
            raise DataError(f"item {index} holds a {type(word).__name__}, not a string; give strings")
        if any("\ud800" <= c <= "\udfff" for c in word):
            raise DataError(f"item {index} holds a lone surrogate in {word[:40]!r}; repair or drop this text")


def longest_first(n: int, m: int, room: int) -> tuple[int, int]:
    """How many tokens of two texts stay, the longer one cut first, as the library's `longest_first` has it."""
    if n + m <= room:
        return n, m
    short, long = min(n, m), max(n, m)
    long = max(short, room - short) if short <= room else short
    if short + long > room:
        short = room // 2
        long = short + room % 2
    return (long, short) if n > m else (short, long)
