"""The tokenizer of a checkpoint: words or texts in, ids with their places out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import tokenizers
from tokenizers import AddedToken, models, normalizers, pre_tokenizers, processors
from tokenizers import decoders as _decoders

from .. import DataError, ModelError

SPECIAL_TOKENS = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
_ALTERNATIVES = {"pad": "<pad>", "unk": "<unk>", "cls": "<s>", "sep": "</s>", "mask": "<mask>"}
_MAX_ID = 2**31 - 1

_T = TypeVar("_T")


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
        ids: token ids: [CLS] text [SEP], then pair [SEP] where there is one.
        second: index into `ids` at which the pair starts; None without a pair.
        offsets: per token its (start, end) in characters of its own text, (0, 0) for the special tokens; None
            unless asked for.
        cut_tokens: number of tokens that the maximum length cut.
    """

    ids: list[int]
    second: int | None
    offsets: list[tuple[int, int]] | None
    cut_tokens: int


def _guarded(call: Callable[[], _T], where: str) -> _T:
    """Run one call into the Rust library; its errors are bare `Exception`, its panics a bare `BaseException`."""
    try:
        return call()
    except (KeyboardInterrupt, SystemExit, GeneratorExit, MemoryError):
        raise
    except BaseException as error:
        raise ModelError(f"{where}: the tokenizers library cannot use this file: {error}; save it again") from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes().decode("utf-8-sig"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ModelError(f"{path}: cannot be read as JSON: {error}; copy the tokenizer's folder again") from error
    if not isinstance(value, dict):
        raise ModelError(
            f"{path}: holds a JSON {type(value).__name__}, not an object; copy the tokenizer's folder again"
        )
    return value


class Tokenizer:
    """A `tokenizers.Tokenizer` with the five special tokens known by role."""

    def __init__(self, inner: tokenizers.Tokenizer, special_tokens: dict[str, str] | None = None) -> None:
        """Wrap `inner`.

        Args:
            inner: the library's tokenizer; its own truncation and padding are switched off.
            special_tokens: names for the roles pad, unk, cls, sep, mask where they are not the usual ones.

        Raises:
            ModelError: a special token is missing, or an id does not fit.
        """
        inner.no_truncation()
        inner.no_padding()
        self._inner = inner
        vocab = inner.get_vocab(with_added_tokens=True)
        self._names = {role: self._find(role, vocab, special_tokens or {}) for role in SPECIAL_TOKENS}
        ids = {role: vocab[name] for role, name in self._names.items()}
        self.pad_id, self.unk_id, self.cls_id, self.sep_id, self.mask_id = (ids[role] for role in SPECIAL_TOKENS)
        # The largest id decides which embedding fits; ids may have gaps, so the number of entries does not.
        self.vocab_size = max(vocab.values()) + 1
        if self.vocab_size - 1 > _MAX_ID:
            raise ModelError(f"tokenizer: id {self.vocab_size - 1} is beyond {_MAX_ID}; the vocabulary file is damaged")
        added = {i for i, token in inner.get_added_tokens_decoder().items() if token.special}
        self.special_ids = tuple(sorted(added | set(ids.values())))
        self.fingerprint = hashlib.sha256(self._canonical()).hexdigest()

    @staticmethod
    def _find(role: str, vocab: dict[str, int], named: dict[str, str]) -> str:
        candidates = [named[role]] if role in named else [SPECIAL_TOKENS[role], _ALTERNATIVES[role]]
        for name in candidates:
            if name in vocab:
                return name
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
        config = _read_json(folder / "tokenizer_config.json") if (folder / "tokenizer_config.json").is_file() else {}
        named = dict(config)
        if (folder / "special_tokens_map.json").is_file():
            named = {**_read_json(folder / "special_tokens_map.json"), **config}
        names = _special_names(named)
        path = folder / "tokenizer.json"
        if path.is_file():
            inner = _guarded(lambda: tokenizers.Tokenizer.from_file(str(path)), str(path))
        elif (path := folder / "vocab.txt").is_file():
            inner = _from_vocab(path, config, {**SPECIAL_TOKENS, **names})
        else:
            raise ModelError(f"{folder}: neither tokenizer.json nor vocab.txt; copy one of them from the checkpoint")
        try:
            return cls(inner, names)
        except ModelError as error:
            raise ModelError(f"{path}: {error}") from error

    def save(self, folder: str | Path) -> None:
        """Write `tokenizer.json` and a `tokenizer_config.json` with which `AutoTokenizer` opens the folder."""
        folder = Path(folder)
        config: dict[str, Any] = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_input_names": ["input_ids", "token_type_ids", "attention_mask"],
            "clean_up_tokenization_spaces": False,
        }
        config.update({f"{role}_token": name for role, name in self._names.items()})
        (folder / "tokenizer.json").write_bytes(self._inner.to_str(pretty=True).encode("utf-8"))
        (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")

    def token(self, token_id: int) -> str | None:
        """The piece with this id, or None where the id is not used."""
        return self._inner.id_to_token(token_id)

    def decode(self, ids: Sequence[int], *, skip_special: bool = True) -> str:
        """The text of `ids`."""
        return self._inner.decode(list(ids), skip_special_tokens=skip_special)

    def encode_words(self, sentences: Sequence[Sequence[str]], *, max_length: int | None = None) -> list[EncodedWords]:
        """Tokenise lists of words, `max_length` tokens each at most, the special tokens included.

        A word whose first sub-token fits is kept, even where its later ones are cut. A word that gives no token keeps
        its index and has no position.
        """
        room = self._room(max_length, 2)
        out = []
        for words, encoding in zip(sentences, self._encode([list(s) for s in sentences], True), strict=True):
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
        first = self._encode(list(texts), False, fast=not offsets)
        others = iter(self._encode([pair for pair in second if pair is not None], False, fast=not offsets))
        out = []
        for encoding, pair in zip(first, second, strict=True):
            other = next(others) if pair is not None else None
            out.append(self._join(encoding, other, max_length, offsets))
        return out

    def _join(self, first: Any, second: Any, max_length: int | None, offsets: bool) -> EncodedText:
        n, m = len(first.ids), 0 if second is None else len(second.ids)
        keep_n, keep_m = _longest_first(n, m, self._room(max_length, 2 if second is None else 3))
        ids = [self.cls_id, *first.ids[:keep_n], self.sep_id]
        places = [(0, 0), *first.offsets[:keep_n], (0, 0)] if offsets else None
        start = None
        if second is not None:
            start = len(ids)
            ids += [*second.ids[:keep_m], self.sep_id]
            if places is not None:
                places += [*second.offsets[:keep_m], (0, 0)]
        return EncodedText(ids, start, places, n + m - keep_n - keep_m)

    def _encode(self, batch: list[Any], words: bool, fast: bool = False) -> list[Any]:
        if not batch:
            return []
        call = self._inner.encode_batch_fast if fast else self._inner.encode_batch
        try:
            return call(batch, is_pretokenized=words, add_special_tokens=False)
        except TypeError as error:
            for i, item in enumerate(batch):
                _check_text(i, item if words else [item])
            raise DataError(f"the tokenizer does not take this input: {error}; give strings") from error

    @staticmethod
    def _room(max_length: int | None, specials: int) -> int:
        if max_length is None:
            return 2**62
        if max_length <= specials:
            raise DataError(f"max_length {max_length} leaves no room beside {specials} special tokens; raise it")
        return max_length - specials

    def _canonical(self) -> bytes:
        """The serialised tokenizer with sorted keys and the roles of the special tokens."""
        state = json.loads(self._inner.to_str())
        return json.dumps([state, self._names], sort_keys=True, ensure_ascii=True, separators=(",", ":")).encode()


def _check_text(index: int, words: Sequence[object]) -> None:
    for word in words:
        if not isinstance(word, str):
            raise DataError(f"item {index} holds a {type(word).__name__}, not a string; give strings")
        if any("\ud800" <= c <= "\udfff" for c in word):
            raise DataError(f"item {index} holds a lone surrogate in {word[:40]!r}; repair or drop this text")


def _longest_first(n: int, m: int, room: int) -> tuple[int, int]:
    """How many tokens of two texts stay, the longer one cut first, as the library's `longest_first` has it."""
    if n + m <= room:
        return n, m
    short, long = min(n, m), max(n, m)
    long = max(short, room - short) if short <= room else short
    if short + long > room:
        short = room // 2
        long = short + room % 2
    return (long, short) if n > m else (short, long)


def _special_names(config: dict[str, Any]) -> dict[str, str]:
    names = {}
    for role in SPECIAL_TOKENS:
        value = config.get(f"{role}_token")
        if isinstance(value, dict):
            value = value.get("content")
        if isinstance(value, str):
            names[role] = value
    return names


def _from_vocab(path: Path, config: dict[str, Any], names: dict[str, str]) -> tokenizers.Tokenizer:
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
    wordpiece = models.WordPiece(vocab, unk_token=names["unk"], max_input_chars_per_word=100)
    inner = _guarded(lambda: tokenizers.Tokenizer(wordpiece), str(path))
    inner.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=bool(config.get("tokenize_chinese_chars", True)),
        strip_accents=config.get("strip_accents"),
        lowercase=bool(config.get("do_lower_case", True)),
    )
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.decoder = _decoders.WordPiece(prefix="##")
    cls, sep = names["cls"], names["sep"]
    inner.post_processor = processors.TemplateProcessing(
        single=f"{cls} $A {sep}",
        pair=f"{cls} $A {sep} $B:1 {sep}:1",
        special_tokens=[(cls, vocab[cls]), (sep, vocab[sep])],
    )
    inner.add_special_tokens([AddedToken(name, special=True) for name in names.values() if name in vocab])
    return inner
