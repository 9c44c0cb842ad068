"""Building a token store: encode in chunks, append to array files, publish by one rename."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Iterable, Sequence
from itertools import groupby, islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from ... import ConfigError, DataError
from ...engine.storage.files import storage_errors, sync_folder, write_file
from ...tasks import per_word
from ..readers.example import Example
from ..readers.problems import Problems
from ..tokenizer.wrapper import EncodedText, EncodedWords, Tokenizer
from .store import FORMAT_VERSION, IDS, IGNORE, MANIFEST, TASKS, TokenStore, content_hash, file_hash

CHUNK = 2048


class ArrayFile:
    """A one-dimensional .npy file that grows; its header is written again when the length is known."""

    def __init__(self, path: Path, dtype: npt.DTypeLike) -> None:
        self.dtype = np.dtype(dtype)
        self.length = 0
        self._file: BinaryIO = open(path, "wb")  # noqa: SIM115
        self._header()
        self._start = self._file.tell()

    def _header(self) -> None:
        # numpy reserves room in the header for the first dimension to grow.
        header = {"descr": np.lib.format.dtype_to_descr(self.dtype), "fortran_order": False, "shape": (self.length,)}
        np.lib.format.write_array_header_1_0(self._file, header)

    def append(self, values: Sequence[int]) -> None:
        """Append integers; they must fit the dtype."""
        self._file.write(np.array(values, dtype=self.dtype).tobytes())
        self.length += len(values)

    def close(self) -> None:
        """Complete the header and wait until the disk has it all."""
        self._file.seek(0)
        self._header()
        assert self._file.tell() == self._start
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    def abandon(self) -> None:
        """Close without completing."""
        self._file.close()


def build_store(
    examples: Iterable[Example],
    tokenizer: Tokenizer,
    *,
    folder: str | Path,
    task: str,
    labels: Sequence[str] = (),
    max_length: int,
    whole: bool = False,
) -> TokenStore:
    """Tokenise `examples` into `folder` and open it.

    The store is written beside `folder` and renamed into place; a killed build leaves `.tmp-*` there and
    never a half store. Examples are encoded in chunks, so that memory does not grow with their number.

    Args:
        examples: read once, in order; a generator will do. Unlabelled ones have the label -100.
        tokenizer: the checkpoint's.
        folder: replaced where it exists.
        task: "ner" or "tag" (examples with words), "classification" (texts or pairs), "text" (either; no items, no
            labels).
        labels: the ordered label names.
        max_length: in tokens, special tokens included.
        whole: keep what is longer than `max_length` as it is, to be read in windows; classification is cut as ever.

    Raises:
        ConfigError: `task`, `labels` or `max_length` is not possible.
        DataError: no examples, an example does not fit the task, or it has an unknown label; the first 20 are
            listed with file and line.
        StorageError: the disk is full, read-only or failing.
    """
    if task not in TASKS:
        raise ConfigError(f"unknown task {task!r}; choose from {', '.join(TASKS)}")
    if len(set(labels)) != len(labels) or (task != "text" and not labels):
        raise ConfigError(f"labels {list(labels)!r} for task {task}; give at least one label and none twice")
    if not 3 < max_length < 2**31:
        raise ConfigError(f"max_length {max_length}; it must hold the special tokens and at least one more")
    folder = Path(folder)
    temporary = folder.parent / f".tmp-{folder.name}-{os.getpid()}"
    try:
        with storage_errors(folder):
            folder.parent.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir()
            whole = whole and task != "classification"
            _write(examples, _Writer(temporary, tokenizer, task, labels, max_length, whole), folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return TokenStore.open(folder, verify=False)


def _write(examples: Iterable[Example], writer: _Writer, folder: Path) -> None:
    """Everything into the writer's folder, then one rename."""
    try:
        stream = iter(examples)
        while chunk := list(islice(stream, CHUNK)):
            writer.add(chunk)
        writer.problems.raise_if_any()
        if not writer.examples:
            raise DataError(f"{folder}: there are no examples to store; check the input files and their filters")
        writer.finish()
        _publish(writer.folder, folder)
    finally:
        writer.abandon()


class _Writer:
    """The open array files of a store under construction."""

    def __init__(
        self,
        folder: Path,
        tokenizer: Tokenizer,
        task: str,
        labels: Sequence[str],
        max_length: int,
        whole: bool,
    ) -> None:
        self.folder, self.tokenizer, self.task = folder, tokenizer, task
        self.labels, self.max_length, self.whole = tuple(labels), max_length, whole
        self.index = {name: i for i, name in enumerate(labels)}
        self.examples = self.pairs = 0
        self.languages: dict[str, int] = {}
        self.cut = {"sequences": 0, "tokens": 0, "words": 0, "empty_words": 0}
        self.problems = Problems()
        dtypes: dict[str, npt.DTypeLike] = {
            "token_ids": np.uint16 if tokenizer.vocab_size <= 2**16 else np.uint32,
            "offsets": np.int64,
            "second": np.int32,
            "item_offsets": np.int64,
            "item_positions": np.int32,
            "item_words": np.int32,
            "num_words": np.int32,
            "language": np.int16,
        }
        if per_word(task):
            dtypes |= {"labels": np.int16, "word_labels": np.int16}
        elif task == "classification":
            dtypes["labels"] = np.int32
        self.arrays = {name: ArrayFile(folder / f"{name}.npy", dtype) for name, dtype in dtypes.items()}
        self.arrays["offsets"].append([0])
        self.arrays["item_offsets"].append([0])
        self._ids: BinaryIO = open(folder / IDS, "wb")  # noqa: SIM115

    def add(self, chunk: Sequence[Example]) -> None:
        """Encode and append some examples; once one is faulty the rest is only checked."""
        golds = [self._check(example) for example in chunk]
        if self.problems.count:
            return
        start = 0
        for tagged, run in groupby(chunk, key=lambda example: example.words is not None):
            members = list(run)
            stop = start + len(members)
            self._encode(members, golds[start:stop], tagged)
            start = stop
        self.arrays["language"].append([self.languages.setdefault(e.language, len(self.languages)) for e in chunk])
        self._ids.write("".join(json.dumps(e.id) + "\n" for e in chunk).encode("utf-8"))

    def _encode(self, members: Sequence[Example], golds: Sequence[Sequence[int]], tagged: bool) -> None:
        tokenizer, limit = self.tokenizer, None if self.whole else self.max_length
        if tagged:
            words = tokenizer.encode_words([e.words or () for e in members], max_length=limit)
            for gold, encoded in zip(golds, words, strict=True):
                self._add_words(gold, encoded)
            return
        texts = tokenizer.encode_texts([e.text or "" for e in members], [e.pair for e in members], max_length=limit)
        for gold, text in zip(golds, texts, strict=True):
            self._add_text(gold, text)

    def finish(self) -> None:
        """Complete the files and write the manifest, last."""
        several = len(self.languages) > 1
        for name in [*([] if self.pairs else ["second"]), *([] if several else ["language"])]:
            self.arrays.pop(name).abandon()
            (self.folder / f"{name}.npy").unlink()
        for array in self.arrays.values():
            array.close()
        self._ids.flush()
        os.fsync(self._ids.fileno())
        self._ids.close()
        names = [f"{name}.npy" for name in self.arrays] + [IDS]
        manifest: dict[str, Any] = {
            "format": FORMAT_VERSION,
            "task": self.task,
            "labels": list(self.labels),
            "max_length": self.max_length,
            **({"whole": True} if self.whole else {}),
            "tokenizer": self.tokenizer.fingerprint,
            "examples": self.examples,
            **({"languages": list(self.languages)} if several else {}),
            "cut": self.cut,
            "arrays": {
                name: {"dtype": array.dtype.name, "length": array.length} for name, array in self.arrays.items()
            },
            "files": {
                name: {"bytes": (self.folder / name).stat().st_size, "sha256": file_hash(self.folder / name)}
                for name in names
            },
        }
        manifest["sha256"] = content_hash(manifest)
        write_file(self.folder / MANIFEST, [json.dumps(manifest, indent=1, sort_keys=True).encode()])

    def abandon(self) -> None:
        """Close every file; harmless after `finish`."""
        for array in self.arrays.values():
            array.abandon()
        self._ids.close()

    def _check(self, example: Example) -> list[int]:
        """The label index per word, or of the example; notes what does not fit the task."""
        fault = _misfit(example, self.task)
        if fault:
            self.problems.add(f"{example.file}:{example.line}", *fault)
            return []
        if self.task == "text":
            return []
        if per_word(self.task):
            assert example.words is not None
            names: list[str | None] = [*example.labels] if example.labels is not None else [None] * len(example.words)
        else:
            names = [example.labels if isinstance(example.labels, str) else None]
        unknown = sorted({name for name in names if name is not None and name not in self.index})
        if unknown:
            known = ", ".join(self.labels)
            what = f"unknown label {', '.join(map(repr, unknown))}"
            place, fix = f"{example.file}:{example.line}", f"the labels are {known}; correct the file or the list"
            self.problems.add(place, what, fix)
            return []
        return [IGNORE if name is None else self.index[name] for name in names]

    def _add_sequence(self, ids: Sequence[int], second: int | None, cut_tokens: int) -> None:
        arrays = self.arrays
        arrays["token_ids"].append(ids)
        arrays["offsets"].append([arrays["token_ids"].length])
        arrays["second"].append([len(ids) if second is None else second])
        self.pairs += second is not None
        self.cut["sequences"] += cut_tokens > 0
        self.cut["tokens"] += cut_tokens
        self.examples += 1

    def _add_items(self, positions: Sequence[int], words: Sequence[int], num_words: int) -> None:
        arrays = self.arrays
        arrays["item_positions"].append(positions)
        arrays["item_words"].append(words)
        arrays["item_offsets"].append([arrays["item_words"].length])
        arrays["num_words"].append([num_words])

    def _add_words(self, gold: Sequence[int], encoded: EncodedWords) -> None:
        self._add_sequence(encoded.ids, None, encoded.cut_tokens)
        self.cut["words"] += encoded.cut
        self.cut["empty_words"] += encoded.empty
        if per_word(self.task):
            self._add_items(encoded.positions, encoded.words, encoded.num_words)
            self.arrays["labels"].append([gold[word] for word in encoded.words])
            self.arrays["word_labels"].append(gold)
        else:
            self._add_items([], [], 0)

    def _add_text(self, gold: Sequence[int], encoded: EncodedText, item: int = 0) -> None:
        self._add_sequence(encoded.ids, encoded.second, encoded.cut_tokens)
        if self.task == "classification":
            self._add_items([item], [0], 1)
            self.arrays["labels"].append(gold)
        else:
            self._add_items([], [], 0)


def _misfit(example: Example, task: str) -> tuple[str, str] | None:
    """What is wrong with an example for a task, and what to do."""
    if per_word(task):
        if not example.words:
            return f"no words, but task {task} tags words", "give token columns or lists of words"
        if isinstance(example.labels, str) or (
            example.labels is not None and len(example.labels) != len(example.words)
        ):
            return f"{len(example.words)} words but not as many tags", "give one tag per word"
    elif task == "classification":
        if example.text is None:
            return "no text, but task classification labels texts", "give a text column"
        if example.labels is not None and not isinstance(example.labels, str):
            return "a list of labels, but task classification takes one", "give one label per example"
    elif example.text is None and not example.words:
        return "neither text nor words", "drop the example"
    return None


def _publish(temporary: Path, folder: Path) -> None:
    """Move the finished folder to its name; a store that is there gives way, unless it is this one and undamaged.

    So two processes may build the same store: the second one leaves that of the first, which may be open.
    """
    sync_folder(temporary)
    old = folder.parent / f".trash-{folder.name}-{os.getpid()}"
    while True:
        try:
            temporary.rename(folder)
            break
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        if _equal(temporary, folder):
            break
        shutil.rmtree(old, ignore_errors=True)
        with contextlib.suppress(FileNotFoundError):
            folder.rename(old)
    shutil.rmtree(old, ignore_errors=True)
    sync_folder(folder.parent)


def _equal(new: Path, folder: Path) -> bool:
    try:
        return TokenStore.open(folder).content_hash == TokenStore.open(new, verify=False).content_hash
    except DataError:
        return False
