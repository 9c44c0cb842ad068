"""Task text from raw text: the sentences that contain an entity of the source training set (arXiv 2310.04726, 3.1).

Every piece of the text is worked on alone and its result published in a folder beside the output; what was killed goes
on with the pieces that are missing. Selection then reads all results in the order of the text.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ... import DataError, Interrupted
from ...data.corpus.closeness import OverlapScorer, TfidfScorer
from ...data.corpus.input import PIECE, Source, Task, open_source, tasks, texts_of
from ...data.corpus.language_id import LanguageIdentifier
from ...data.corpus.matcher import TitleMatcher
from ...data.corpus.piece import PieceReader, PieceRules, Scorer, batches, no_split, paragraphs
from ...data.corpus.select import excluded_keys
from ...data.corpus.title_links import Links, add_aliases, entity_surfaces, link_table, link_wiki
from ...data.corpus.wiki_source import FileWiki, target_redirects
from ...data.corpus.wiki_tables import read_titles
from ...data.corpus.wiki_text import sentences
from ...data.readers.example import Example
from ...data.readers.formats import guess_format, read_examples
from ..storage.files import atomic_write_bytes, atomic_write_json, delete, storage_errors
from ..storage.run_folder import RunDir
from ..training.progress import Progress
from .config import CorpusConfig
from .merge import Merged, choose, piece_name
from .pool import cores, run_tasks
from .report import CorpusReport, finished, make_report, write_outputs

_MANIFEST = "manifest.json"
_LINKS = "links.json"
# Lines looked at for the control: enough for this many times the cap, at this many bytes of input a sentence.
_CONTROL_TIMES, _CONTROL_BYTES = 8, 240
_SPARE = 2  # of the sentences kept for their score or for the control, as the language check may refuse some
_IDF_TASKS, _IDF_LINES = 4, 5000


@dataclass(frozen=True)
class Plan:
    """What is looked for.

    Attributes:
        links: entities and titles; empty where sentences are scored.
        patterns: titles to look for.
        groups: for each the entity that it counts for.
        names: of these entities.
        excluded: keys of evaluation sentences.
        mentions: entity surfaces of the training set, with their counts.
    """

    links: Links
    patterns: list[str]
    groups: tuple[int, ...]
    names: list[str]
    excluded: frozenset[str]
    mentions: Counter[str]


def build_corpus(
    config: CorpusConfig,
    *,
    workers: int | None = None,
    progress: Progress | None = None,
    should_stop: Callable[[], int] = lambda: 0,
    piece: int = PIECE,
) -> CorpusReport:
    """Write the corpus that a configuration describes, its control and its report.

    Nothing is done where the files are there and were made by the same configuration from the same inputs.

    Args:
        config: what to make.
        workers: processes; None: one for each processor. The result does not depend on it.
        progress: told what happens.
        should_stop: number of a signal that asks for a clean stop, or 0.
        piece: bytes of input worked on at once.

    Raises:
        ConfigError: options that contradict each other, or a library is missing.
        DataError: an input is missing or damaged, or nothing was found.
        StorageError: the output cannot be written.
        RunInUseError: another process makes the same corpus.
        Interrupted: stopped; the same call goes on from there.
    """
    progress = progress or Progress()
    config = config.resolved()
    fingerprint = config.fingerprint(piece)
    if (report := finished(config, fingerprint)) is not None:
        return report
    if config.language_check:
        assert config.language is not None
        LanguageIdentifier(config.language)  # a library that is missing is missed now, not after hours of reading
    clock = _Clock()
    with RunDir(config.work) as folder:
        _prepare(folder.path, fingerprint)
        plan = _plan(config, folder.path, progress, should_stop)
        clock.lap("titles")
        sources = [open_source(p, "text") for p in config.text] + [open_source(p) for p in config.target_dump]
        # The reader, with the automaton of the titles, is not kept: selection needs the memory.
        read = _read(
            config,
            sources,
            _reader(config, plan, sources, piece),
            workers or cores(),
            folder.path,
            progress,
            should_stop,
            piece,
        )
        clock.lap("reading")
        merged = Merged.of(folder.path, read.tasks, config, len(plan.names))
        chosen = choose(merged, config, len(plan.names))
        clock.lap("selection")
        report = make_report(config, plan.mentions, plan.links, plan.names, plan.excluded, merged, chosen)
        run = {"workers": workers or cores(), "bytes": read.bytes, "bytes_now": read.bytes_now}
        write_outputs(config, report, chosen, fingerprint, run | {"seconds": clock.wall, "cpu_seconds": clock.cpu})
    delete(config.work)
    progress.end("corpus", f"{len(chosen.texts)} sentences in {config.out}")
    return report


class _Clock:
    """Seconds of wall time, and of processors by this process and the workers that have ended, for each part."""

    def __init__(self) -> None:
        self.wall: dict[str, float] = {}
        self.cpu: dict[str, float] = {}
        self._last = self._now()

    @staticmethod
    def _now() -> tuple[float, float]:
        times = os.times()
        return time.monotonic(), times.user + times.system + times.children_user + times.children_system

    def lap(self, name: str) -> None:
        """What has passed since the last lap belongs to this part."""
        now = self._now()
        self.wall[name], self.cpu[name] = (round(b - a, 2) for a, b in zip(self._last, now, strict=True))
        self._last = now


def _prepare(folder: Path, fingerprint: str) -> None:
    """Keep what an equal run has left in the folder, and nothing else."""
    manifest = folder / _MANIFEST
    with storage_errors(folder):
        same = manifest.exists() and json.loads(manifest.read_text("utf-8")).get("fingerprint") == fingerprint
        if same:
            return
        for path in [manifest, folder / _LINKS, *sorted(folder.glob("piece-*.bin"))]:
            path.unlink(missing_ok=True)
    atomic_write_json(manifest, {"fingerprint": fingerprint})


def _plan(config: CorpusConfig, folder: Path, progress: Progress, should_stop: Callable[[], int]) -> Plan:
    mentions = entity_surfaces(example for path in config.entities for example in _labelled(path, config.encoding))
    if not mentions and config.select != "tfidf":
        raise DataError(f"{config.entities[0]}:1: no entities in the tags; give a labelled file of the source language")
    sentences = (text for path in config.exclude for text in texts_of_file(path, config.encoding))
    excluded = frozenset(excluded_keys(sentences))
    if config.select != "entities":
        return Plan(Links(), [], (), ["all"], excluded, mentions)
    links = _links(config, mentions, folder, progress, should_stop)
    patterns = links.patterns
    if not patterns:
        fates = ", ".join(f"{count} {name}" for name, count in sorted(links.counts.items()) if count)
        raise DataError(f"none of {len(mentions)} entities has a title in the target ({fates}); check the title files")
    names = sorted({titles[0] for titles in links.titles.values()})
    number = {name: i for i, name in enumerate(names)}
    group: dict[str, int] = dict(number)
    for titles in links.titles.values():
        for title in titles:
            group.setdefault(title, number[titles[0]])
    progress.note(
        f"corpus: {len(mentions)} entities, {links.counts['linked']} with a title, {len(patterns)} to look for"
    )
    return Plan(links, patterns, tuple(group[p] for p in patterns), names, excluded, mentions)


def _labelled(path: Path, encoding: str) -> list[Example]:
    kind = "jsonl" if guess_format(path, task="ner", encoding=encoding) == "jsonl" else "conll"
    return read_examples(path, task="ner", format=kind, encoding=encoding)


def texts_of_file(path: Path, encoding: str = "utf-8") -> Iterator[str]:
    """The sentences of a labelled or plain file in any of the known formats; words joined by spaces."""
    task = "text" if guess_format(path, task="ner", encoding=encoding) == "text" else "ner"
    for example in read_examples(path, task=task, encoding=encoding):
        for text in (" ".join(example.words) if example.words else example.text, example.pair):
            if text:
                yield text


def _links(
    config: CorpusConfig, mentions: Counter[str], folder: Path, progress: Progress, should_stop: Callable[[], int]
) -> Links:
    """Titles of the entities, kept in the folder, since tables of many gigabytes may have been read for them."""
    kept = folder / _LINKS
    if kept.exists():
        data = json.loads(kept.read_text("utf-8"))
        return Links({k: tuple(v) for k, v in data["titles"].items()}, data["fates"], Counter(data["counts"]))
    if config.titles is not None:
        links = link_table(mentions, read_titles(config.titles), config.rules)
    else:
        assert config.source_language is not None
        assert config.language is not None
        say, poll = _saying(progress), _polling(should_stop)
        wiki = FileWiki(config.source_wiki, config.source_language, config.language, say=say, poll=poll)
        links = link_wiki(mentions, wiki, config.rules)
    if config.target_aliases:
        dumps = [p for p in config.target_dump if open_source(p).kind == "xml"]
        poll = _polling(should_stop)
        add_aliases(links, (pair for dump in dumps for pair in target_redirects(dump, poll)))
    atomic_write_json(kept, {"titles": links.titles, "fates": links.fates, "counts": links.counts}, indent=None)
    return links


def _saying(progress: Progress) -> Callable[[Path], None]:
    return lambda path: progress.note(f"corpus: reading {path.name}")


def _polling(should_stop: Callable[[], int]) -> Callable[[], None]:
    def poll() -> None:
        if number := should_stop():
            raise Interrupted(number)

    return poll


def _rules(config: CorpusConfig, plan: Plan, sources: list[Source]) -> PieceRules:
    total = sum(source.unpacked for source in sources)
    share = min(1.0, config.cap * _CONTROL_TIMES * _CONTROL_BYTES / max(1, total)) if config.control else 0.0
    assert config.min_chars is not None
    assert config.max_chars is not None
    keep = _SPARE * config.cap
    return PieceRules(config.seed, config.min_chars, config.max_chars, keep, share, plan.groups)


def _reader(config: CorpusConfig, plan: Plan, sources: list[Source], piece: int) -> PieceReader:
    find = _finder(config, plan, sources, piece)
    return PieceReader(_rules(config, plan, sources), find, _splitter(config), plan.excluded)


def _finder(config: CorpusConfig, plan: Plan, sources: list[Source], piece: int) -> TitleMatcher | Scorer:
    assert config.language is not None
    if config.select == "entities":
        return TitleMatcher(plan.patterns, config.language, boundaries=config.boundaries, inflection=config.inflection)
    if config.select == "overlap":
        return OverlapScorer(plan.mentions, config.language).score
    task = [text for path in config.task_text for text in texts_of_file(path)]
    return TfidfScorer(task, _sample(config.language, sources, piece), config.language).score


def _sample(language: str, sources: list[Source], piece: int) -> Iterator[str]:
    """Lines of a few places of each file, for the frequencies of words."""
    for source in sources:
        planned = tasks([source], piece=piece)
        some = [next(planned)] if source.feed else list(planned)
        for task in some[:: max(1, len(some) // _IDF_TASKS)][:_IDF_TASKS]:
            lines = [line for text in texts_of(task, language, Counter()) for line in paragraphs(text)]
            yield from lines[:: max(1, len(lines) // _IDF_LINES)]


def _splitter(config: CorpusConfig) -> Callable[[str], list[str]]:
    assert config.language is not None
    return partial(sentences, language=config.language) if config.split else no_split


@dataclass
class _Read:
    tasks: int
    bytes: int
    bytes_now: int


def _read(
    config: CorpusConfig,
    sources: list[Source],
    reader: PieceReader,
    workers: int,
    folder: Path,
    progress: Progress,
    should_stop: Callable[[], int],
    piece: int,
) -> _Read:
    """Work through all pieces that have no result yet."""
    assert config.language is not None
    counted = _Read(0, 0, 0)
    done = {path.name for path in folder.glob("piece-*.bin")}
    # Of a file that has to be unpacked from the start the size is not known before.
    total = sum(source.unpacked if source.feed else source.size for source in sources)

    def missing() -> Iterator[Task]:
        for task in tasks(sources, piece=piece):
            counted.tasks += 1
            if piece_name(task.index) in done:
                counted.bytes += task.size
            else:
                yield task

    many = len(sources) > 1 or sum(source.unpacked for source in sources) > piece
    run = partial(_work, reader=reader, language=config.language, folder=os.fspath(folder))
    progress.begin_reading("corpus", total)
    for task in run_tasks(missing(), run, workers if many else 1, should_stop):
        counted.bytes += task.size
        counted.bytes_now += task.size
        progress.read(counted.bytes, max(total, counted.bytes), counted.bytes_now)
    return counted


def _work(task: Task, *, reader: PieceReader, language: str, folder: str) -> None:
    """One piece, from file to file."""
    counts: Counter[str] = Counter()
    result = reader.read(task.index, batches(texts_of(task, language, counts), counts), counts)
    atomic_write_bytes(Path(folder, piece_name(task.index)), result.to_bytes())
