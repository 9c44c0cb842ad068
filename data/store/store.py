"""Tokenised examples on disk: memory-mapped arrays, built once, named by the content they were made from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ... import DataError
from ...tasks import TASKS as _LABELLED
from ..tokenizer.wrapper import Tokenizer

IntArray = npt.NDArray[np.integer[Any]]
FORMAT_VERSION = 1
TASKS = (*_LABELLED, "text")
MANIFEST = "store.json"
IDS = "ids.jsonl"
IGNORE = -100
"""The label of an item that has no target, of an unlabelled example, and of what is not accepted or picked."""


class TokenStore:
    """The examples of one data set as token ids, items and labels, memory-mapped.

    `N` examples, `T` tokens, `K` items (kept words for `ner`, one per example for `classification`, none for `text`).

    Attributes:
        task: "ner", "tag", "classification" or "text".
        label_names: the ordered labels that the label indices count in.
        max_length: the maximum length in tokens that the store was built with.
        whole: examples are kept beyond it: a model reads them in windows of it (`Rows`; plain text: `Corpus`).
        long: bool [N], examples that are longer: those kept whole.
        token_ids: [T] uint16 or uint32.
        offsets: [N + 1] int64; example `i` has the tokens `offsets[i]:offsets[i + 1]`.
        second: [N] int32, where the second segment starts in the example (its length where there is none); None
            when no example has a pair.
        item_offsets: [N + 1] int64; example `i` has the items `item_offsets[i]:item_offsets[i + 1]`.
        item_positions: [K] int32, token within its example.
        item_words: [K] int32, word within its example.
        item_labels: [K], int16 for `ner`, int32 for `classification`; -100 where unknown. None for `text`.
        num_words: [N] int32, words of the example before any cut; 1 for `classification`, 0 for `text`.
        word_labels: int16, the labels of all words of all examples, cut ones included; `ner` only, else None.
        languages: of the examples, where there are several; else empty.
        language: [N] int16, index into `languages`; None where there is one language.
        cut: counts of `sequences` and `tokens` that the maximum length shortened, of `words` whose first sub-token it
            cut, and of `empty_words` that give no token.
        tokenizer_fingerprint: of the tokenizer that made the ids.
        content_hash: sha256 over the hashes of all files.
    """

    def __init__(self, folder: Path, manifest: dict[str, Any], arrays: dict[str, IntArray]) -> None:
        """Used by `open`; takes a manifest and arrays that belong together."""
        self.folder = folder
        self.task: str = manifest["task"]
        self.label_names: tuple[str, ...] = tuple(manifest["labels"])
        self.max_length: int = manifest["max_length"]
        self.whole: bool = manifest.get("whole", False)
        self.cut: dict[str, int] = dict(manifest["cut"])
        self.tokenizer_fingerprint: str = manifest["tokenizer"]
        self.content_hash: str = content_hash(manifest)
        self.token_ids = arrays["token_ids"]
        self.offsets = arrays["offsets"]
        self.second = arrays.get("second")
        self.item_offsets = arrays["item_offsets"]
        self.item_positions = arrays["item_positions"]
        self.item_words = arrays["item_words"]
        self.item_labels = arrays.get("labels")
        self.num_words = arrays["num_words"]
        self.word_labels = arrays.get("word_labels")
        self.languages: tuple[str, ...] = tuple(manifest.get("languages", ()))
        self.language = arrays.get("language")
        self.lengths: npt.NDArray[np.int64] = np.diff(self.offsets)
        self.long: npt.NDArray[np.bool_] = self.lengths > self.max_length
        self._word_offsets = np.concatenate(([0], np.cumsum(self.num_words, dtype=np.int64)))
        self._example_ids: list[str] | None = None

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def example_ids(self) -> list[str]:
        """The id of each example; read on first use."""
        if self._example_ids is None:
            lines = (self.folder / IDS).read_bytes().decode("utf-8").split("\n")
            self._example_ids = [json.loads(line) for line in lines if line]
        return self._example_ids

    def ids(self, i: int) -> IntArray:
        """Token ids of example `i`, [CLS] and [SEP] included."""
        return self.token_ids[self.offsets[i] : self.offsets[i + 1]]

    def segments(self, i: int) -> npt.NDArray[np.int64]:
        """Segment, 0 or 1, of each token of example `i`."""
        if self.second is None:
            return np.zeros(self.lengths[i], dtype=np.int64)
        segments: npt.NDArray[np.int64] = (np.arange(self.lengths[i]) >= self.second[i]).astype(np.int64)
        return segments

    def items(self, i: int) -> tuple[IntArray, IntArray]:
        """Position of each item of example `i` among its tokens, and the index of its word."""
        part = slice(self.item_offsets[i], self.item_offsets[i + 1])
        return self.item_positions[part], self.item_words[part]

    def labels(self, i: int) -> IntArray:
        """Label index of each item of example `i`; -100 where unknown, empty for `text`."""
        if self.item_labels is None:
            return np.empty(0, dtype=np.int32)
        return self.item_labels[self.item_offsets[i] : self.item_offsets[i + 1]]

    def gold(self, i: int) -> IntArray:
        """Label index of each of the `num_words[i]` words of example `i`, cut ones included (classification: one)."""
        if self.word_labels is None:
            return self.labels(i)
        return self.word_labels[self._word_offsets[i] : self._word_offsets[i + 1]]

    def __iter__(self) -> Iterator[IntArray]:
        return (self.ids(i) for i in range(len(self)))

    @classmethod
    def open(cls, folder: str | Path, *, verify: bool = True) -> TokenStore:
        """Open a store; the arrays stay on disk until they are read.

        Args:
            folder: as given to `build_store`.
            verify: compare the sha256 of every file, which reads them whole; done before anything is taken from them.

        Raises:
            DataError: no store there, unfinished, of another format version, or damaged.
        """
        folder = Path(folder)
        manifest = _read_manifest(folder)
        for name, entry in manifest["files"].items():
            if not (folder / name).is_file() or (folder / name).stat().st_size != entry["bytes"]:
                raise DataError(f"{folder / name}: missing or cut short; delete the folder and build it again")
            if verify and file_hash(folder / name) != entry["sha256"]:
                raise DataError(
                    f"{folder / name}: content differs from {MANIFEST}; delete the folder and build it again"
                )
        arrays = {name: _open_array(folder, name, manifest) for name in manifest["arrays"]}
        return cls(folder, manifest, arrays)

    @classmethod
    def open_cached(cls, folder: str | Path, damaged: Callable[[str], None] | None) -> TokenStore | None:
        """The store in a folder, every byte compared; None where there is none.

        Args:
            damaged: told what is wrong with a damaged store, which then is none; with None that is an error of `open`.
        """
        if not Path(folder).exists():
            return None
        try:
            return cls.open(folder)
        except DataError as error:
            if damaged is None:
                raise
            damaged(str(error).partition("; ")[0])
            return None


def file_hash(path: str | Path) -> str:
    """sha256 of a file's bytes, in hexadecimal; of a folder (`save_to_disk`), of those of its files in order."""
    if Path(path).is_dir():
        inside = [file_hash(file) for file in sorted(Path(path).iterdir()) if file.is_file()]
        return hashlib.sha256("".join(inside).encode()).hexdigest()
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}; check the path and its permissions") from error


def store_key(files: Sequence[str | Path], tokenizer: Tokenizer, settings: Mapping[str, Any]) -> str:
    """The name of the folder for a store: a hash of everything that decides its content.

    Args:
        files: the input files; their bytes count, their names and times do not.
        tokenizer: counts by its fingerprint.
        settings: whatever else decides the content (task, labels, maximum length, reader options, a cap and its seed);
            JSON values.

    Returns:
        32 hexadecimal digits.

    Raises:
        DataError: a file cannot be read.
    """
    parts = [FORMAT_VERSION, [file_hash(path) for path in files], tokenizer.fingerprint, dict(settings)]
    encoded = json.dumps(parts, sort_keys=True, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(encoded.encode()).hexdigest()[:32]


def content_hash(manifest: Mapping[str, Any]) -> str:
    """sha256 over a manifest without its own hash: the settings, and the names, sizes and hashes of the files."""
    parts = {name: value for name, value in manifest.items() if name != "sha256"}
    encoded = json.dumps(parts, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(encoded.encode()).hexdigest()


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    if not path.is_file():
        raise DataError(f"{folder}: no {MANIFEST}, so no finished token store; build it again")
    try:
        manifest = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read: {error}; delete the folder and build it again") from error
    version = manifest.get("format") if isinstance(manifest, dict) else None
    if version != FORMAT_VERSION:
        raise DataError(f"{path}: format {version!r}, not {FORMAT_VERSION}; delete the folder and build it again")
    if manifest.get("sha256") != content_hash(manifest):
        raise DataError(f"{path}: changed since it was written; delete the folder and build it again")
    result: dict[str, Any] = manifest
    return result


def _open_array(folder: Path, name: str, manifest: Mapping[str, Any]) -> IntArray:
    # An empty array cannot be mapped; and slicing the memory map's own class is slow.
    mode: Literal["r"] | None = "r" if manifest["arrays"][name]["length"] else None
    array = np.load(folder / f"{name}.npy", mmap_mode=mode, allow_pickle=False)
    plain: IntArray = array.view(np.ndarray)
    return plain


_COUNTED = 2_000_000
"""Tokens of a store that its entropy is taken from."""


class Corpus:
    """The text of one language: a token store, or the examples of it that `subset` picks.

    An example that is longer than the store's maximum length is several of the corpus, in as few pieces of about one
    length as it takes: here every token is learned, so that none needs to be in two.
    """

    def __init__(self, store: TokenStore, subset: np.ndarray | None = None) -> None:
        self._store = store
        subset = np.arange(len(store)) if subset is None else subset
        body = np.asarray(store.lengths)[subset] - 2
        counts = np.maximum(1, -(-body // (store.max_length - 2)))
        self._subset, body, of = (np.repeat(values, counts) for values in (subset, body, counts))
        piece = np.arange(len(of)) - np.repeat(np.cumsum(counts) - counts, counts)
        self._begins, self._ends = piece * body // of, (piece + 1) * body // of
        self.lengths = self._ends - self._begins + 2

    def __len__(self) -> int:
        return len(self._subset)

    def _piece(self, index: int, values: np.ndarray) -> np.ndarray:
        """Of the values of an example's tokens those of its piece, the special tokens at both ends included."""
        if len(values) == self.lengths[index]:
            return values
        return np.concatenate([values[:1], values[1:-1][self._begins[index] : self._ends[index]], values[-1:]])

    def ids(self, index: int) -> np.ndarray:
        return self._piece(index, self._store.ids(self._subset[index]))

    def segments(self, index: int) -> np.ndarray:
        return self._piece(index, self._store.segments(self._subset[index]))

    def name(self, index: int) -> str:
        """The id of an example: `<file stem>:<line>` unless its file has ids."""
        return self._store.example_ids[int(self._subset[index])]


def unigram_entropy(store: TokenStore, special: np.ndarray) -> float:
    """What the next token of a store costs who knows nothing but how frequent each is, in nats; 0 without tokens.

    Args:
        special: bool [V], tokens that do not count.
    """
    counts = np.bincount(store.token_ids[:_COUNTED], minlength=len(special)).astype(float)
    counts[special] = 0
    share = counts[counts > 0] / max(1.0, counts.sum())
    return float(-(share * np.log(share)).sum())
