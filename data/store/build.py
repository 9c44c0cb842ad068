"""Building a token store: encode in chunks, write array files, publish by one rename."""

from __future__ import annotations

import errno
import json
import os
import shutil
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby, islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ... import ConfigError, DataError, StorageError
from ..readers.example import Example
from ..readers.problems import Problems
from ..tokenizer.prompt import Prompt
from ..tokenizer.wrapper import EncodedText, EncodedWords, Tokenizer
from .format import FORMAT_VERSION, IDS, IGNORE, MANIFEST, TASKS, content_hash, file_hash
from .store import TokenStore

CHUNK = 2048


_TYPECODES = {"uint16": "H", "uint32": "I", "int16": "h", "int32": "i", "int64": "q"}


def build_store(
    examples: Iterable[Example],
    tokenizer: Tokenizer,
    *,
    folder: str | Path,
    task: str,
    labels: Sequence[str] = (),
    max_length: int,
    prompt: str = "",
    whole: bool = False,
) -> TokenStore:
    """Tokenise `examples` into `folder` and open it.

    The store is written beside `folder` and renamed into place; a killed build leaves `.tmp-*` there and
    never a half store.

    Args:
        examples: read once, in order; a generator will do. Unlabelled ones have the label -100.
        tokenizer: the checkpoint's.
        folder: replaced where it exists.
        task: "ner" (examples with words), "classification" (texts or pairs), "text" (either; no items, no labels).
        labels: the ordered label names.
        max_length: in tokens, special tokens included.
        prompt: classification: template that texts are put into; their item is then its mask instead of [CLS].
        whole: ner: keep sentences that are longer than `max_length` as they are; nothing can train on them then.

    Raises:
        ConfigError: `task`, `labels`, `max_length` or `prompt` is not possible.
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
    writer = _Writer(tokenizer, task, labels, max_length, prompt, whole and task == "ner")
    iterator = iter(examples)
    while chunk := list(islice(iterator, CHUNK)):
        writer.add(chunk)
    writer.problems.raise_if_any()
    if not writer.examples:
        raise DataError(f"{folder}: there are no examples to store; check the input files and their filters")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        writer.write(temporary)
        _publish(temporary, folder)
    except OSError as error:
        raise _storage_error(folder, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return TokenStore.open(folder)


def _storage_error(folder: Path, error: OSError) -> StorageError:
    """The typed error for a failed write."""
    advice = (
        "free some space"
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        else "check the disk and its permissions"
    )
    return StorageError(f"{folder}: cannot write the token store: {error.strerror or error}; {advice} and run again")


class _Writer:
    """A store under construction."""

    def __init__(
        self, tokenizer: Tokenizer, task: str, labels: Sequence[str], max_length: int, prompt: str, whole: bool
    ) -> None:
        self.tokenizer, self.task = tokenizer, task
        self.prompt = Prompt(prompt) if prompt else None
        self.labels, self.max_length, self.whole = tuple(labels), max_length, whole
        self.index = {name: i for i, name in enumerate(labels)}
        self.examples = self.pairs = 0
        self.languages: dict[str, int] = {}
        self.cut = {"sequences": 0, "tokens": 0, "words": 0, "empty_words": 0}
        self.problems = Problems()
        dtypes = {
            "token_ids": "uint16" if tokenizer.vocab_size <= 2**16 else "uint32",
            "offsets": "int64",
            "second": "int32",
            "item_offsets": "int64",
            "item_positions": "int32",
            "item_words": "int32",
            "num_words": "int32",
            "language": "int16",
        }
        if task == "ner":
            dtypes |= {"labels": "int16", "word_labels": "int16"}
        elif task == "classification":
            dtypes["labels"] = "int32"
        self.dtypes = dtypes
        self.arrays = {name: array(_TYPECODES[dtype]) for name, dtype in dtypes.items()}
        self.arrays["offsets"].append(0)
        self.arrays["item_offsets"].append(0)
        self.ids: list[str] = []

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
        self.arrays["language"].extend(self.languages.setdefault(e.language, len(self.languages)) for e in chunk)
        self.ids += [e.id for e in chunk]

    def _encode(self, members: Sequence[Example], golds: Sequence[Sequence[int]], tagged: bool) -> None:
        tokenizer, limit = self.tokenizer, self.max_length
        if tagged:
            words = tokenizer.encode_words([e.words or () for e in members], max_length=None if self.whole else limit)
            for gold, encoded in zip(golds, words, strict=True):
                self._add_words(gold, encoded)
            return
        if self.prompt is not None:
            plain, pairs = [e.text or "" for e in members], [e.pair for e in members]
            for gold, prompt in zip(golds, self.prompt.encode(tokenizer, plain, pairs, max_length=limit), strict=True):
                self._add_text(gold, EncodedText(prompt.ids, None, None, prompt.cut_tokens), prompt.mask)
            return
        texts = tokenizer.encode_texts([e.text or "" for e in members], [e.pair for e in members], max_length=limit)
        for gold, text in zip(golds, texts, strict=True):
            self._add_text(gold, text)

    def write(self, folder: Path) -> None:
        """All files, the manifest last, each on the disk when the call returns."""
        several = len(self.languages) > 1
        absent = {*(() if self.pairs else ("second",)), *(() if several else ("language",))}
        arrays = {
            name: np.frombuffer(values, self.dtypes[name]) for name, values in self.arrays.items() if name not in absent
        }
        for name, values in arrays.items():
            with _durable(folder / f"{name}.npy") as file:
                np.save(file, values)
        with _durable(folder / IDS) as file:
            file.write("".join(json.dumps(id) + "\n" for id in self.ids).encode("utf-8"))
        names = [f"{name}.npy" for name in arrays] + [IDS]
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
            "arrays": {name: {"dtype": values.dtype.name, "length": len(values)} for name, values in arrays.items()},
            "files": {
                name: {"bytes": (folder / name).stat().st_size, "sha256": file_hash(folder / name)} for name in names
            },
        }
        manifest["sha256"] = content_hash(manifest)
        with _durable(folder / MANIFEST) as file:
            file.write(json.dumps(manifest, indent=1, sort_keys=True).encode())

    def _check(self, example: Example) -> list[int]:
        """The label index per word, or of the example; notes what does not fit the task."""
        fault = _misfit(example, self.task)
        if fault is None and self.prompt is not None and (example.pair is not None) != self.prompt.has_pair:
            fault = (
                "a text alone" if self.prompt.has_pair else "a pair of texts",
                "the template of prompts has the other",
            )
        if fault:
            self.problems.add(f"{example.file}:{example.line}", *fault)
            return []
        if self.task == "text":
            return []
        if self.task == "ner":
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
        self.arrays["token_ids"].extend(ids)
        self.arrays["offsets"].append(len(self.arrays["token_ids"]))
        self.arrays["second"].append(len(ids) if second is None else second)
        self.pairs += second is not None
        self.cut["sequences"] += cut_tokens > 0
        self.cut["tokens"] += cut_tokens
        self.examples += 1

    def _add_items(self, positions: Sequence[int], words: Sequence[int], num_words: int) -> None:
        self.arrays["item_positions"].extend(positions)
        self.arrays["item_words"].extend(words)
        self.arrays["item_offsets"].append(len(self.arrays["item_words"]))
        self.arrays["num_words"].append(num_words)

    def _add_words(self, gold: Sequence[int], encoded: EncodedWords) -> None:
        self._add_sequence(encoded.ids, None, encoded.cut_tokens)
        self.cut["words"] += encoded.cut
        self.cut["empty_words"] += encoded.empty
        if self.task == "ner":
            self._add_items(encoded.positions, encoded.words, encoded.num_words)
            self.arrays["labels"].extend(gold[word] for word in encoded.words)
            self.arrays["word_labels"].extend(gold)
        else:
            self._add_items([], [], 0)

    def _add_text(self, gold: Sequence[int], encoded: EncodedText, item: int = 0) -> None:
        self._add_sequence(encoded.ids, encoded.second, encoded.cut_tokens)
        if self.task == "classification":
            self._add_items([item], [0], 1)
            self.arrays["labels"].extend(gold)
        else:
            self._add_items([], [], 0)


def _misfit(example: Example, task: str) -> tuple[str, str] | None:
    """What is wrong with an example for a task, and what to do."""
    if task == "ner":
        if not example.words:
            return "no words, but task ner tags words", "give token columns or lists of words"
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


@contextmanager
def _durable(path: Path) -> Iterator[BinaryIO]:
    """A new file, on the disk when the block ends."""
    with open(path, "wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def _publish(temporary: Path, folder: Path) -> None:
    """Move the finished folder to its name; a store that is already there gives way."""
    _sync_folder(temporary)
    if folder.exists():
        old = folder.parent / f".trash-{folder.name}-{os.getpid()}"
        shutil.rmtree(old, ignore_errors=True)
        folder.rename(old)
        temporary.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
    else:
        temporary.rename(folder)
    _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
