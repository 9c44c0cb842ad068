"""Task text from raw text: the sentences that contain an entity of the source training set (arXiv 2310.04726, 3.1).

Every piece of the text is worked on alone and its result published in a folder beside the output; what was killed goes
on with the pieces that are missing. Selection then reads all results in the order of the text.
"""

from __future__ import annotations

import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ... import DataError, Interrupted, RunInUseError
from ...data.corpus.language_id import language_model
from ...data.corpus.piece import PIECE, PieceReader, Source, Task, open_source, tasks, texts_of
from ...data.corpus.select import excluded_keys
from ...data.corpus.sentence_split import sentences
from ...data.corpus.title_links import Links, TitleMatcher, add_aliases, entity_surfaces, link_table, link_wiki
from ...data.corpus.wiki_source import FileWiki, read_titles, target_redirects
from ...data.readers.example import Example
from ...data.readers.formats import guess_format, read_examples
from ..runs.workers import Answer, Tell, Workers
from ..storage.faults import fault
from ..storage.files import atomic_write_bytes, atomic_write_json, read_json, storage_errors
from ..storage.run_folder import RunDir, cores
from ..training.progress import Progress
from .config import CorpusConfig
from .merge import Merged, choose, piece_bytes, piece_path
from .report import CorpusReport, finished, make_report, write_outputs

_MANIFEST = "manifest.json"
_LINKS = "links.json"
# Paragraphs looked at for the control: enough for this many times the cap, at this many bytes of input a sentence.
_CONTROL_TIMES, _CONTROL_BYTES = 8, 240


@dataclass(frozen=True)
class Plan:
    """What is looked for: titles (`patterns`), for each the number of the entity that it counts for (`groups`), their
    names; keys of evaluation sentences; the training set's entities."""

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
        workers: processes; None: one for each processor. The result does not depend on it.
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
        if config.work.exists():
            _delete_pieces(config.work)
        return report
    if config.language_check:
        language_model()  # a library that is missing is missed now, not after hours of reading
    begun, processors = time.monotonic(), os.times()
    workers = workers or cores()
    with RunDir(config.work) as folder:
        _prepare(folder.path, fingerprint)
        plan = _plan(config, folder.path, progress, should_stop)
        sources = [open_source(p, "text") for p in config.text] + [open_source(p) for p in config.target_dump]
        # The reader, with the automaton of the titles, is not kept: selection needs the memory.
        pieces = _read(
            partial(_work, _reader(config, plan, sources), config.language, folder.path),
            sources,
            tasks(sources, piece=piece),
            workers if sum(source.size for source in sources) > piece else 1,
            folder.path,
            progress,
            should_stop,
        )
        merged = Merged.of(folder.path, pieces, config, len(plan.names))
        chosen = choose(merged, config)
        report = make_report(config, plan.mentions, plan.links, plan.names, plan.excluded, merged, chosen)
        used = sum(os.times()[:4]) - sum(processors[:4])
        seconds = {"seconds": round(time.monotonic() - begun, 2), "cpu_seconds": round(used, 2)}
        write_outputs(config, report, chosen, fingerprint, {"workers": workers, **seconds})
    _delete_pieces(config.work)
    progress.end("corpus", f"{len(chosen.texts)} sentences in {config.out}")
    return report


def _delete_pieces(folder: Path) -> None:
    """In their place, so that a run which is killed here leaves nothing that the next does not know."""
    try:
        with RunDir(folder):
            pass
    except RunInUseError:
        return  # by an equal run, which deletes them at its end
    with storage_errors(folder, "delete"):  # without the lock: an open file would stay on NFS
        shutil.rmtree(folder)


def _prepare(folder: Path, fingerprint: str) -> None:
    """Keep what an equal run has left in the folder, and nothing else."""
    manifest = folder / _MANIFEST
    if read_json(manifest, None).get("fingerprint") == fingerprint:
        return
    with storage_errors(folder):
        for path in [manifest, folder / _LINKS, *folder.glob("piece-*.bin")]:
            path.unlink(missing_ok=True)
    atomic_write_json(manifest, {"fingerprint": fingerprint})


def _plan(config: CorpusConfig, folder: Path, progress: Progress, should_stop: Callable[[], int]) -> Plan:
    mentions = entity_surfaces(example for path in config.entities for example in _labelled(path, config.encoding))
    if not mentions:
        raise DataError(f"{config.entities[0]}:1: no entities in the tags; give a labelled file of the source language")
    excluded = excluded_keys(text for path in config.exclude for text in texts_of_file(path, config.encoding))
    links = _links(config, mentions, folder, progress, should_stop)
    patterns = links.patterns
    if not patterns:
        fates = ", ".join(f"{count} {name}" for name, count in sorted(links.counts.items()) if count)
        raise DataError(f"none of {len(mentions)} entities has a title in the target ({fates}); check the title files")
    names = sorted({titles[0] for titles in links.titles.values()})
    number = {name: i for i, name in enumerate(names)}
    group = dict(number)
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
    try:
        if data := read_json(kept, None):
            return Links({k: tuple(v) for k, v in data["titles"].items()}, data["fates"], Counter(data["counts"]))
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{kept}: not the links of a corpus; delete it and run the command again") from error
    poll = partial(_stop_if_asked, should_stop)
    if config.titles is not None:
        links = link_table(mentions, read_titles(config.titles), config.rules)
    else:
        wiki = FileWiki(
            config.source_wiki,
            config.source_language,
            config.language,
            say=lambda path: progress.note(f"corpus: reading {path.name}"),
            poll=poll,
        )
        links = link_wiki(mentions, wiki, config.rules)
    if config.target_aliases:
        dumps = [p for p in config.target_dump if open_source(p).kind == "xml"]
        add_aliases(links, (pair for dump in dumps for pair in target_redirects(dump, poll)))
    atomic_write_json(kept, {"titles": links.titles, "fates": links.fates, "counts": links.counts}, indent=None)
    return links


def _reader(config: CorpusConfig, plan: Plan, sources: list[Source]) -> PieceReader:
    total = max(1, sum(source.size for source in sources))
    share = min(1.0, config.cap * _CONTROL_TIMES * _CONTROL_BYTES / total) if config.control else 0.0
    split = partial(sentences, language=config.language) if config.split else partial(str.split, sep="\n")
    matcher = TitleMatcher(plan.patterns, config.language, config.boundaries)
    lengths = config.min_chars, config.max_chars
    return PieceReader(matcher, plan.groups, split, config.seed, *lengths, share, plan.excluded)


def _read(
    work: Callable[[Task], None],
    sources: list[Source],
    planned: Iterator[Task],
    workers: int,
    folder: Path,
    progress: Progress,
    should_stop: Callable[[], int],
) -> int:
    """Work through all pieces that have no result yet; how many pieces there are."""
    pieces = read = new = 0
    total = sum(source.size for source in sources)

    def next_missing(_: object = None) -> Task | None:
        nonlocal pieces, read
        for task in planned:
            pieces += 1
            if not piece_path(folder, task.index).exists():
                return task
            read += task.size
        return None

    def take(task: Task, answer: Answer) -> None:
        nonlocal read, new
        if answer.error is not None:
            raise answer.error
        fault("corpus.piece")
        read, new = read + task.size, new + task.size
        progress.read(read, max(total, read), new)

    progress.begin_reading("corpus", total)
    if workers > 1:
        # A fork shares the automaton of the titles.
        pool = Workers[Task](workers, partial(_begin, work), fork=True, option="--workers")
        pool.run(next_missing, take, should_stop)
        return pieces
    while (task := next_missing()) is not None:
        _stop_if_asked(should_stop)
        work(task)
        take(task, Answer())
    return pieces


def _begin(work: Callable[[Task], None], polled: Callable[[], int], tell: Tell) -> Callable[[Task], None]:
    """A worker has what it needs."""
    return work


def _stop_if_asked(should_stop: Callable[[], int]) -> None:
    if number := should_stop():
        raise Interrupted(number)


def _work(reader: PieceReader, language: str, folder: Path, task: Task) -> None:
    """One piece, to its file."""
    counts: Counter[str] = Counter()
    result = reader.read(task.index, texts_of(task, language, counts), counts)
    atomic_write_bytes(piece_path(folder, task.index), piece_bytes(result))
