"""What a corpus is made of: files, rules and sizes, and what is worth remembering of them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from ... import ConfigError
from ...data.corpus.title_links import UNSPACED_LANGUAGES, Boundaries, LinkRules
from ...data.corpus.wiki_source import SourceFiles
from ...data.readers.lines import open_file
from ..preflight.languages import language_of
from ..storage.files import plain

__all__ = ["CorpusConfig", "LinkRules", "SourceFiles"]

FORMAT = 2
"""Raised when an equal command would give other bytes."""
_DUMP = re.compile(r"([a-z][a-z_-]*?)wiki[-.]")
_LENGTHS = {False: (20, 500), True: (8, 200)}


@dataclass(frozen=True)
class CorpusConfig:
    """All that decides what a corpus holds, and where it goes; folders of text stand for all files below them.

    Attributes:
        entities: labelled training files of the source language.
        out: one sentence a line.
        text: target text, a sentence or paragraph a line.
        target_dump: target text as pages-articles XML or WikiExtractor's JSON lines.
        titles: table of source and target titles, in place of the source wiki's files.
        language: of the text; "": by the file names. That of the entities is else English.
        target_aliases: redirects of the target dump count as further names.
        exclude: evaluation files, none of whose sentences may be in the corpus.
        encoding: of `entities` and `exclude`, which may be older than the text, which is UTF-8.
        min_chars, max_chars: of a sentence; 0: 20 and 500, or 8 and 200 where words are not spaced.
        control: also write a random sample of as many sentences.
    """

    entities: tuple[Path, ...]
    out: Path
    text: tuple[Path, ...] = ()
    target_dump: tuple[Path, ...] = ()
    titles: Path | None = None
    source_wiki: SourceFiles = field(default_factory=SourceFiles)
    language: str = ""
    source_language: str = ""
    rules: LinkRules = field(default_factory=LinkRules)
    target_aliases: bool = False
    boundaries: Boundaries = "auto"
    exclude: tuple[Path, ...] = ()
    encoding: str = "utf-8"
    cap: int = 60_000
    min_chars: int = 0
    max_chars: int = 0
    split: bool = True
    language_check: bool = True
    control: bool = True
    seed: int = 0

    def resolved(self) -> CorpusConfig:
        """With languages and lengths filled in, and the files of folders in their place.

        Raises:
            ConfigError: options that contradict each other or do not suffice.
        """
        problems = list(_problems(self))
        text, dump = _files(self.text, problems), _files(self.target_dump, problems)
        language = self.language or _language_of((*self.text, *self.target_dump, self.out), dump)
        if not language:
            problems.append("no file name says the language of the text; give --language")
        wiki = self.source_wiki
        tables = [p for p in (wiki.dump, wiki.page, wiki.langlinks, wiki.redirect) if p is not None]
        shortest, longest = _LENGTHS[language.split("-")[0] in UNSPACED_LANGUAGES]
        out = dataclasses.replace(
            self,
            text=text,
            target_dump=dump,
            language=language,
            source_language=self.source_language or _language_of(self.entities, tables) or "en",
            min_chars=self.min_chars or shortest,
            max_chars=self.max_chars or longest,
        )
        if out.min_chars > out.max_chars:
            problems.append(f"--min-chars {out.min_chars} is more than --max-chars {out.max_chars}")
        if problems:
            raise ConfigError("\n".join(problems))
        return out

    @property
    def inputs(self) -> list[Path]:
        """All files that are read, each once."""
        wiki = dataclasses.asdict(self.source_wiki).values()
        several = (*self.entities, *self.text, *self.target_dump, *self.exclude)
        return list(dict.fromkeys([*several, *(p for p in (self.titles, *wiki) if p is not None)]))

    def beside(self, ending: str) -> Path:
        """A file beside the output: `out.control.txt` for `out.txt` and `.control.txt`."""
        suffix = self.out.suffix
        return self.out.with_name(self.out.name.removesuffix(suffix) + ending)

    @property
    def control_path(self) -> Path:
        """Where the control goes."""
        return self.beside(".control" + (self.out.suffix or ".txt"))

    @property
    def work(self) -> Path:
        """Folder of what is done so far."""
        return self.out.with_name(f".{self.out.name}.work")

    def fingerprint(self, piece: int) -> str:
        """Hash of everything that the result depends on; of the files size and time."""
        values = {**plain(self), "out": None, "inputs": [_stamp(path) for path in self.inputs]}
        text = json.dumps({"format": FORMAT, "piece": piece, **values}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def _problems(config: CorpusConfig) -> Iterator[str]:
    by_wiki = any(value is not None for value in dataclasses.asdict(config.source_wiki).values())
    inputs = {path.resolve() for path in config.inputs}
    if not config.text and not config.target_dump:
        yield "no text to select from: give --text or --target-dump"
    if config.titles is not None and by_wiki:
        yield "--titles replaces the source wiki's files: give one or the other"
    if config.titles is None and not by_wiki:
        yield "no way from entities to titles: give --titles, or --source-dump with --langlinks or --wikidata"
    if config.target_aliases and not config.target_dump:
        yield "--target-redirects reads the redirects of --target-dump, which is not given"
    if not config.entities:
        yield "no entities: give --entities, the labelled training file of the source language"
    if config.cap < 1:
        yield f"--cap {config.cap}: give at least 1"
    for path in (config.out, config.control_path):
        if path.resolve() in inputs:
            yield f"{path} is an input; give another --out"


def _files(paths: Sequence[Path], problems: list[str]) -> tuple[Path, ...]:
    """Each folder replaced by the files below it, in the order of their names; hidden ones are left out."""
    out: list[Path] = []
    for path in paths:
        names = [path]
        if path.is_dir():
            below = [p for p in sorted(path.rglob("*")) if p.is_file()]
            names = [p for p in below if not any(part.startswith(".") for part in p.relative_to(path).parts)]
            if not names:
                problems.append(f"{path}: no file in this folder; give a folder with text")
        out += names
    return tuple(out)


def _language_of(paths: Sequence[Path], dumps: Sequence[Path] = ()) -> str:
    """The language by the names of dumps (`de` for `dewiki-latest-pages-articles.xml.bz2`), then of other files."""
    wikis = (match[1].replace("_", "-") for path in dumps if (match := _DUMP.match(path.name)))
    return next(chain(wikis, filter(None, map(language_of, paths))), "")


def _stamp(path: Path) -> list[Any]:
    with open_file(path):
        facts = path.stat()
    return [os.fspath(path.resolve()), facts.st_size, facts.st_mtime_ns]
