"""A recipe's files as token stores, each built once and named by its content."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ... import ConfigError, DataError
from ...data import (
    Example,
    Tokenizer,
    TokenStore,
    build_store,
    code_switched,
    few_per_class,
    read_dictionary,
    rng_for,
    store_key,
)
from ...data.store.seen import Tally, unrepeated
from ...data.store.store import MANIFEST
from ..reading.read_file import label_set, read_file, stream_file
from ..recipe.config import RunConfig, SourceConfig, TargetConfig, reader_of
from ..storage.files import take_over


@dataclass(frozen=True)
class _Few:
    """A choice of `per_class` examples, all with 0; its seed, the key of its draw, the recipe's table for messages."""

    per_class: int
    draw: int
    key: str
    table: str


class Datasets:
    """Stores by role, built on first use below `root`.

    Args:
        config: the recipe; a made world has been written out before.
        tokenizer: the encoder's.
        root: folder for the stores.
        note: told about each store that is built.
        reuse: run folders whose stores serve where they have the wanted content.

    Attributes:
        mend: told what is wrong with a store, which is then built again; without it that is an error.
    """

    def __init__(
        self,
        config: RunConfig,
        tokenizer: Tokenizer,
        root: Path,
        note: Callable[[str], None] | None = None,
        reuse: Sequence[Path] = (),
    ) -> None:
        self.config, self.tokenizer, self._root, self._reuse = config, tokenizer, root, reuse
        self._note = note or (lambda text: None)
        self.mend: Callable[[str], None] | None = None
        self._labels: tuple[str, ...] | None = config.labels or None
        self._open: dict[str, TokenStore] = {}

    @property
    def labels(self) -> tuple[str, ...]:
        """The label set: the recipe's, else that of the source training file, `O` first for NER."""
        if self._labels is None:
            source = self.config.source
            examples = self._read(_need(source.train, "source.train"), source.language)
            self._labels = label_set(list(examples), self.config.task)
        return self._labels

    def scored(self, path: Path, language: str) -> TokenStore:
        """The store of a labelled file that models are scored on: sentences of any length, to be read in windows.

        A label outside the label set is a DataError.
        """
        return self._store([(path, language)], self.config.task, labelled=True, whole=True)

    def text(self, paths: Sequence[Path], language: str) -> TokenStore:
        """The store of plain text for masked language modelling."""
        return self._store([(path, language) for path in paths], "text")

    @property
    def source_train(self) -> TokenStore:
        """The labelled training examples of all source languages, one language after the other."""
        files = [(_need(s.train, "source.train"), s.language) for s in self.config.sources]
        return self._store(files, self.config.task, labelled=True)

    @property
    def source_dev(self) -> TokenStore:
        """The labelled dev examples of the source languages that have any, as of `scored`."""
        files = [(s.dev, s.language) for s in self.config.sources if s.dev is not None]
        return self._store(files, self.config.task, labelled=True, whole=True)

    def source_mixed(self, dictionaries: Sequence[Path]) -> TokenStore:
        """The texts of `source.train` in which words were replaced by those of dictionaries, with their labels.

        Other dictionaries than those of `augment.code_switch` are in UTF-8.
        """
        source = self.config.source
        files = [(_need(source.train, "source.train"), source.language)]
        return self._store(files, self.config.task, labelled=True, switch=tuple(dictionaries))

    def sentences(self, paths: Sequence[Path], language: str) -> Iterator[Example]:
        """The examples of task text as they are written, without labels; of `source.train` those that are chosen."""
        for path in paths:
            yield from self._read(path, language, unlabelled=True, task=self.config.task)

    def target_labelled(self, target: TargetConfig) -> TokenStore:
        """The labelled target examples that fine-tuning learns from, chosen by `targets.N.per_class`."""
        path, where = _need(target.labelled, "targets.N.labelled"), f"targets.{self.config.targets.index(target)}"
        few = _Few(target.per_class, target.draw, target.language, where)
        return self._store([(path, target.language)], self.config.task, labelled=True, few=few)

    def target_pool(self, *targets: TargetConfig) -> TokenStore:
        """Unlabelled examples of targets for self-training, one language after the other, as `task_text` has them.

        Labels, if any, were dropped, and each text of a language is there once; the items are the task's.
        """
        return self._store([(path, t.language) for t in targets for path in t.unlabelled], self.config.task)

    def task_text(self, *targets: TargetConfig) -> list[TokenStore]:
        """What BTF reads, by language: each source's training text without its labels and more text; target text."""
        return [
            *(self.text([_need(s.train, "source.train"), *s.unlabelled], s.language) for s in self.config.sources),
            *(self.text(target.unlabelled, target.language) for target in targets),
        ]

    def general_text(self) -> list[TokenStore]:
        """General text of all languages, for pre-training."""
        texts = {t.language: t.general for t in self.config.tables}
        return self._general(texts, "give source.general and targets.N.general")

    def control_text(self, *targets: TargetConfig) -> list[TokenStore]:
        """General text of the sources and of targets, for the control arm."""
        tables: list[SourceConfig | TargetConfig] = [*self.config.sources, *targets]
        texts = {t.language: t.control or t.general for t in tables}
        return self._general(texts, "give control or general, or set arms.control = false")

    def _general(self, texts: Mapping[str, Sequence[Path]], remedy: str) -> list[TokenStore]:
        if missing := [language for language, paths in texts.items() if not paths]:
            raise ConfigError(f"no general text for {', '.join(missing)}; {remedy}")
        return [self.text(paths, language) for language, paths in texts.items()]

    def _read(
        self, path: Path, language: str, *, unlabelled: bool = False, task: str | None = None
    ) -> Iterable[Example]:
        sources = self.config.sources
        numbers = [i for i, s in enumerate(sources) if s.train == path]
        if unlabelled and not numbers:
            return stream_file(self.config, path, task=task, language=language, note=self._note)
        examples = read_file(self.config, path, unlabelled=unlabelled, task=task, language=language)
        if not numbers:
            return examples
        # One file of XNLI may hold several of the languages.
        number = next((i for i in numbers if sources[i].language == language), numbers[0])
        source = sources[number]
        key, table = source.language if number else "source", list(self.config.language_tables)[number]
        if source.per_class:
            labelled = read_file(self.config, path, language=language) if unlabelled else examples
            few = _Few(source.per_class, source.draw, key, ".".join(map(str, table)))
            return [examples[i] for i in self._choose(labelled, few)]
        return [examples[i] for i in capped(len(examples), source.cap, source.draw, key)]

    def _choose(self, examples: Sequence[Example], few: _Few) -> np.ndarray:
        """The chosen ones of labelled examples; all of them with 0 per class."""
        if not few.per_class:
            return np.arange(len(examples))
        chosen, short = few_per_class(examples, few.per_class, few.draw, few.key)
        if short:
            self._note(f"{few.table}.per_class = {few.per_class}, but there are fewer of {', '.join(short)}: all taken")
        return chosen

    def _store(
        self,
        files: Sequence[tuple[Path, str]],
        task: str,
        *,
        labelled: bool = False,
        few: _Few | None = None,
        switch: tuple[Path, ...] = (),
        whole: bool = False,
    ) -> TokenStore:
        paths, languages = [path for path, _ in files], [language for _, language in files]
        labels = () if task == "text" else self.labels
        readers = [reader_of(self.config, path, language, unlabelled=not labelled) for path, language in files]
        settings = {
            "task": task,
            "labels": list(labels),
            "labelled": labelled,
            "repeats": labelled,
            "max_length": self.config.max_length,
            "reader": [f"{reader.settings}, {reader.unlabelled}" for reader in readers],
            "language": languages if len(set(languages)) > 1 else "".join(languages[:1]),
            "cap": self.config.source.cap if self.config.source.train in paths else 0,
        }
        settings |= self._few_settings(files, few)
        whole = task != "classification" and (whole or self.config.long_texts == "windows")
        settings |= {"whole": True} if whole else {}
        table = self.config.augment.code_switch
        settings |= {"code_switch": table.rate} if switch else {}
        key = store_key([*paths, *switch], self.tokenizer, settings)
        if key not in self._open:
            folder = self._root / key
            take_over(folder, [other / "store" / key for other in self._reuse], MANIFEST)
            if (store := TokenStore.open_cached(folder, self.mend)) is not None:
                self._open[key] = store
            else:
                self._note(f"reading {', '.join(p.name for p in paths)}")
                examples: Iterable[Example] = (
                    replace(e, language=language)
                    for p, language in files
                    for e in self._read(p, language, unlabelled=not labelled, task=task)
                )
                if few is not None:
                    chosen = list(examples)
                    examples = [chosen[i] for i in self._choose(chosen, few)]
                if switch:
                    examples = self._switched(examples, switch)
                if not labelled:
                    examples = unrepeated(examples, Tally(self._note, paths[0].name))
                self._open[key] = build_store(
                    examples,
                    self.tokenizer,
                    folder=folder,
                    task=task,
                    labels=labels,
                    max_length=self.config.max_length,
                    whole=whole,
                )
            if not len(self._open[key]):
                raise DataError(f"{paths[0]}: has no examples")
        return self._open[key]

    def _switched(self, examples: Iterable[Example], dictionaries: tuple[Path, ...]) -> list[Example]:
        table = self.config.augment.code_switch
        configured = dictionaries == table.dictionaries
        dictionary = read_dictionary(dictionaries, encoding=self.config.reader.encoding if configured else "utf-8")
        changed = [new for e in examples if (new := code_switched(e, dictionary, table.rate, 0)) is not None]
        if not changed:
            raise DataError(f"{dictionaries[0]}: no word of the source training text is in the dictionaries")
        return changed

    def _few_settings(self, files: Sequence[tuple[Path, str]], few: _Few | None) -> dict[str, Any]:
        """What the choice of a few examples adds to a store's name; nothing where there is none."""
        source, settings = self.config.source, {} if few is None else {"few": [few.per_class, few.draw, few.key]}
        if source.train in [path for path, _ in files] and (source.per_class or source.draw):
            settings["source_few"] = [source.per_class, source.draw]
        more = [s for s in self.config.sources[1:] if (s.train, s.language) in files and (s.cap or s.per_class)]
        if more:
            settings["more_few"] = [[s.language, s.cap, s.per_class, s.draw] for s in more]
        return settings


def capped(count: int, cap: int, seed: int, language: str) -> np.ndarray:
    """Seeded choice of `cap` examples out of `count`, in order; all where there are no more, or with cap 0.

    The same seed and cap give the same choice in BTF and in self-training, which have the same text, each once.
    """
    if cap == 0 or count <= cap:
        return np.arange(count)
    return np.sort(rng_for(seed, "cap", language).permutation(count)[:cap])


def _need(path: Path | None, key: str) -> Path:
    if path is None:
        raise ConfigError(f"{key} is missing in the recipe; give a labelled file")
    return path
