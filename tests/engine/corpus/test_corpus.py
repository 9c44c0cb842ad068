import bz2
import dataclasses
import gzip
import importlib.util
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
import tracemalloc
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from xlt_engine import ConfigError, DataError, Interrupted, OutOfMemoryError, StorageError
from xlt_engine.data.corpus import wiki_dump, wiki_source
from xlt_engine.data.corpus.language_id import language_model
from xlt_engine.data.corpus.piece import PieceReader
from xlt_engine.data.corpus.select import comparison_key
from xlt_engine.data.corpus.sentence_split import sentences
from xlt_engine.data.corpus.title_links import LinkRules, TitleMatcher
from xlt_engine.data.corpus.wiki_source import SourceFiles
from xlt_engine.engine import ConsoleProgress, CorpusConfig, CorpusReport, Progress, build_corpus
from xlt_engine.engine.corpus.merge import StoredPiece, piece_bytes, piece_path
from xlt_engine.engine.runs.workers import Answer, Workers
from xlt_engine.engine.storage.run_folder import RunDir

PIECE = 1 << 13
OPEN: dict[str, Any] = {"language_check": False, "min_chars": 1, "max_chars": 10_000, "cap": 100_000}


@pytest.fixture(scope="module", params=["de", "ja"])
def plan(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return make_planted(tmp_path_factory.mktemp("wiki"), request.param)


@pytest.fixture(scope="module")
def german(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return make_planted(tmp_path_factory.mktemp("wiki"), "de")


def make_planted(folder: Path, language: str) -> Any:
    return made_wiki().make_planted(folder, language=language)


@cache
def made_wiki() -> ModuleType:
    path = Path(__file__).parents[2] / "data" / "corpus" / "planted_wiki.py"
    spec = importlib.util.spec_from_file_location("planted_wiki", path)
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def config(plan: Any, out: Path, text: str, **changed: Any) -> CorpusConfig:
    """The planted wiki with one of its forms as text to select from."""
    files = plan.files
    where = {"text": (files[text],)} if text == "text" else {"target_dump": (files[text],)}
    given: dict[str, Any] = {"entities": (files["train"],), "out": out, "language": plan.language, **where}
    if not {"titles", "source_wiki"} & set(changed):
        given["titles"] = files["titles"]
    return CorpusConfig(**{**given, **changed})


def build(plan: Any, out: Path, text: str, *, workers: int = 1, **changed: Any) -> CorpusReport:
    return build_corpus(config(plan, out, text, **changed), workers=workers, piece=PIECE)


def lines(path: Path) -> list[str]:
    return path.read_text("utf-8").splitlines()


@pytest.mark.parametrize("text", ["text", "articles", "target_xml", "target_bz2", "target_gz"])
def test_exactly_the_planted_sentences(plan: Any, tmp_path: Path, text: str) -> None:
    report = build(plan, tmp_path / "out.txt", text, **OPEN)
    got = lines(tmp_path / "out.txt")
    assert len(got) == len(set(got)), "no sentence twice"
    assert set(got) == set(plan.expected)
    assert report.values["selected"]["sentences"] == len(plan.expected)
    assert report.values["matched"]["duplicates"] >= 1


def test_redirects_of_the_target_as_names(plan: Any, tmp_path: Path) -> None:
    build(plan, tmp_path / "out.txt", "target_xml", target_aliases=True, **OPEN)
    assert set(lines(tmp_path / "out.txt")) == {*plan.expected, *plan.expected_with_aliases}


def test_sentences_of_each_entity(german: Any, tmp_path: Path) -> None:
    report = build(german, tmp_path / "out.txt", "target_xml", **OPEN)
    expected = Counter(title for titles in german.expected.values() for title in set(titles))
    most = report.values["selected"]["most"]
    assert most == {name: expected[name] for name in most}
    assert sum(most.values()) == sum(count for _, count in expected.most_common(20))
    assert report.values["selected"]["entities"] == len(expected)


@pytest.mark.parametrize("text", ["target_bz2", "text"])
def test_the_same_bytes_for_any_number_of_workers(german: Any, tmp_path: Path, text: str) -> None:
    made = []
    for workers in (1, 2, 3):
        out = tmp_path / f"{workers}.txt"
        report = build(german, out, text, workers=workers, cap=50)
        made.append((out.read_bytes(), out.with_name(f"{workers}.control.txt").read_bytes()))
        assert report.values["run"]["workers"] == workers
    assert made[0] == made[1] == made[2]
    assert made[0][0].count(b"\n") == made[0][1].count(b"\n") == 50


def test_a_folder_stands_for_its_files(german: Any, tmp_path: Path) -> None:
    """As WikiExtractor leaves them: folders of small files."""
    whole = german.files["articles"].read_text("utf-8").splitlines(keepends=True)
    for number in range(0, len(whole), 10):
        path = tmp_path / "text" / f"A{number // 100}" / f"wiki_{number:03}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(whole[number : number + 10]), encoding="utf-8")
    (tmp_path / "text" / ".hidden").write_text("no JSON", encoding="utf-8")
    given = dataclasses.replace(
        config(german, tmp_path / "out.txt", "articles", **OPEN), target_dump=(tmp_path / "text",)
    )
    for workers in (1, 2):
        build_corpus(dataclasses.replace(given, out=tmp_path / f"{workers}.txt"), workers=workers)
    assert set(lines(tmp_path / "1.txt")) == set(german.expected)
    assert (tmp_path / "1.txt").read_bytes() == (tmp_path / "2.txt").read_bytes()
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="empty: no file in this folder"):
        build_corpus(dataclasses.replace(given, target_dump=(tmp_path / "empty",)))


@pytest.mark.parametrize("form", ["xml", "xml.gz", "xml.bz2"])
def test_memory_does_not_grow_with_the_dump(tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole command on a dump six times as large, with the same titles and cap, packed as one stream or not."""
    # What is read at once is smaller than the smaller dump; the model of languages is loaded once, by whoever is first.
    monkeypatch.setattr(wiki_dump, "BLOCK", 1 << 16)
    peaks = []
    for size in (400_000, 2_400_000):
        folder = tmp_path / str(size)
        folder.mkdir()
        plan = made_wiki().make_planted(folder, target_bytes=size, packed=False)
        data = plan.files["target_xml"].read_bytes()
        dump = folder / f"dump.{form}"
        dump.write_bytes({"xml": bytes, "xml.gz": gzip.compress, "xml.bz2": bz2.compress}[form](data))
        base = config(plan, folder / "out.txt", "target_xml", cap=50, language_check=False)
        given = dataclasses.replace(base, target_dump=(dump,))
        tracemalloc.start()
        report = build_corpus(given, workers=1, piece=1 << 16)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert report.values["text"]["characters"] > size / 4
    assert peaks[1] < 1.3 * peaks[0] + 300_000, peaks


def test_seed_and_cap(german: Any, tmp_path: Path) -> None:
    made = {}
    for seed in (0, 1):
        build(german, tmp_path / f"{seed}.txt", "target_xml", cap=60, seed=seed)
        made[seed] = (set(lines(tmp_path / f"{seed}.txt")), set(lines(tmp_path / f"{seed}.control.txt")))
    assert made[0][0] != made[1][0]
    assert made[0][1] != made[1][1]
    for chosen, _ in made.values():
        titles = Counter(title for sentence in chosen for title in set(german.expected[sentence]))
        assert len(titles) >= 58, "the cap is about the number of entities: almost all of them have a sentence"
        assert max(titles.values()) <= 3


def test_control_is_a_sample_of_all_sentences(german: Any, tmp_path: Path) -> None:
    report = build(german, tmp_path / "out.txt", "target_xml", cap=150)
    control = lines(tmp_path / "out.control.txt")
    values = report.values["control"]
    assert len(control) == len(set(control)) == values["sentences"] == 150
    with_entity = sum(sentence in german.expected for sentence in control)
    assert values["with_entity"] == with_entity
    everything = 1100  # of which about 200 have an entity
    assert 5 <= with_entity <= 150 * 200 / everything + 30
    assert values["also_in_corpus"] == len(set(control) & set(lines(tmp_path / "out.txt")))
    assert not (tmp_path / "plain.control.txt").exists()
    build(german, tmp_path / "plain.txt", "target_xml", control=False)
    assert not (tmp_path / "plain.control.txt").exists()


PROGRAM = """
import sys
sys.path[:0] = {path!r}
from pathlib import Path
from xlt_engine.engine import CorpusConfig, build_corpus
config = CorpusConfig((Path({train!r}),), Path({out!r}), target_dump=(Path({dump!r}),), titles=Path({titles!r}),
                      language="de", cap=50)
build_corpus(config, workers={workers}, piece={piece})
"""


def run_killed(plan: Any, out: Path, fault: str, workers: int) -> int:
    files = {k: str(plan.files[v]) for k, v in (("train", "train"), ("dump", "target_xml"), ("titles", "titles"))}
    program = PROGRAM.format(path=sys.path, out=str(out), workers=workers, piece=PIECE, **files)
    environment = os.environ | {"XLT_FAULT": fault, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, timeout=600, check=False
    )
    return done.returncode


class Recorder(Progress):
    def __init__(self) -> None:
        self.reads: list[tuple[int, int, int]] = []
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def read(self, done: int, total: int, new: int) -> None:
        self.reads.append((done, total, new))


@pytest.mark.parametrize(
    ("fault", "workers", "kept"),
    [("corpus.piece:9:kill", 2, 9), ("file.written:12:kill", 1, 9), ("file.begin:2:kill", 1, 0)],
)
def test_killed_and_resumed(german: Any, tmp_path: Path, fault: str, workers: int, kept: int) -> None:
    """Nothing lost, nothing twice, and what was done is not done again."""
    whole, out = tmp_path / "whole.txt", tmp_path / "out.txt"
    first = Recorder()
    build_corpus(config(german, whole, "target_xml", cap=50), workers=1, piece=PIECE, progress=first)
    assert run_killed(german, out, fault, workers) == -signal.SIGKILL
    assert not out.exists()
    done = len(list((tmp_path / ".out.txt.work").glob("piece-*.bin")))
    assert kept <= done <= kept + 3 * workers
    again = Recorder()
    build_corpus(config(german, out, "target_xml", cap=50), workers=1, piece=PIECE, progress=again)
    assert out.read_bytes() == whole.read_bytes()
    assert (tmp_path / "out.control.txt").read_bytes() == (tmp_path / "whole.control.txt").read_bytes()
    assert len(again.reads) == len(first.reads) - done
    assert again.reads[-1][:2] == first.reads[-1][:2]
    assert first.reads[-1][2] == first.reads[-1][0]
    assert (again.reads[-1][2] < again.reads[-1][0]) == (done > 0)
    assert not (tmp_path / ".out.txt.work").exists()


def test_stopped_and_resumed(german: Any, tmp_path: Path) -> None:
    whole, out = tmp_path / "whole.txt", tmp_path / "out.txt"
    build(german, whole, "target_gz", cap=50)
    for workers in (1, 2):
        stop = partial(next, iter([0] * 6 + [signal.SIGTERM] * 100))
        with pytest.raises(Interrupted) as caught:
            build_corpus(config(german, out, "target_gz", cap=50), workers=workers, piece=PIECE, should_stop=stop)
        assert caught.value.exit_code == 143
        assert (tmp_path / ".out.txt.work").exists()
    build(german, out, "target_gz", cap=50)
    assert out.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("table", ["page_sql", "langlinks_sql", "sites_sql"])
def test_stopped_within_a_table(german: Any, tmp_path: Path, table: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also between rows that are of no use: the table of a large wiki takes minutes."""
    monkeypatch.setattr(wiki_source, "_OFTEN", 10)
    files, asked = german.files, [0]
    given = {"page_sql": "page", "langlinks_sql": "langlinks", "sites_sql": "items"}
    wiki = SourceFiles(**{field: files[name] for name, field in given.items() if name in (table, "page_sql")})
    wiki = wiki if wiki.langlinks or wiki.items else dataclasses.replace(wiki, langlinks=files["langlinks_sql"])

    def stop() -> int:
        asked[0] += 1
        return signal.SIGTERM if asked[0] > (3 if table == "page_sql" else 30) else 0

    with pytest.raises(Interrupted):
        build_corpus(
            # A language with no link at all: every row is passed over.
            config(german, tmp_path / "out.txt", "target_xml", source_wiki=wiki, language="xx", language_check=False),
            workers=1,
            should_stop=stop,
        )
    assert asked[0] < 60


def test_what_another_command_left_is_not_used(german: Any, tmp_path: Path) -> None:
    out = tmp_path / "out.txt"
    assert run_killed(german, out, "corpus.piece:7:kill", 1) == -signal.SIGKILL
    recorder = Recorder()
    other = config(german, out, "target_xml", cap=50, seed=5)
    build_corpus(other, workers=1, piece=PIECE, progress=recorder)
    build(german, tmp_path / "fresh.txt", "target_xml", cap=50, seed=5)
    assert out.read_bytes() == (tmp_path / "fresh.txt").read_bytes()
    assert recorder.reads[0][0] <= 2 * PIECE, "from the start"


def test_up_to_date(german: Any, tmp_path: Path) -> None:
    out, text = tmp_path / "out.txt", tmp_path / "text.txt"
    text.write_bytes(german.files["text"].read_bytes())
    given = dataclasses.replace(config(german, out, "text", cap=30), text=(text,))
    first = build_corpus(given, workers=1, piece=PIECE)
    second = build_corpus(given, workers=2, piece=PIECE)
    assert (first.made, second.made) == (True, False)
    assert second.values == json.loads(first.path.read_text("utf-8"))
    assert build_corpus(dataclasses.replace(given, seed=1), workers=1, piece=PIECE).made
    build_corpus(given, workers=1, piece=PIECE)
    out.write_text("changed\n", encoding="utf-8")
    assert build_corpus(given, workers=1, piece=PIECE).made, "an output that was edited is made anew"
    text.write_text(text.read_text("utf-8") + "\n", encoding="utf-8")
    assert build_corpus(given, workers=1, piece=PIECE).made
    first.path.write_text("{}", encoding="utf-8")
    assert build_corpus(given, workers=1, piece=PIECE).made


def test_work_left_by_a_run_that_was_killed_at_its_end(german: Any, tmp_path: Path) -> None:
    """Killed while it deleted its pieces: the same command deletes the rest, and leaves them to whoever holds them."""
    out = tmp_path / "out.txt"
    settings = config(german, out, "target_xml", cap=30)
    build_corpus(settings, workers=1, piece=PIECE)
    names = sorted(path.name for path in tmp_path.iterdir())
    settings.work.mkdir()
    (settings.work / "piece-00000.bin").write_bytes(b"half")
    with RunDir(settings.work):
        assert not build_corpus(settings, workers=1, piece=PIECE).made
        assert settings.work.exists()
    assert not build_corpus(settings, workers=1, piece=PIECE).made
    assert sorted(path.name for path in tmp_path.iterdir()) == names


def test_evaluation_sentences_are_left_out(german: Any, tmp_path: Path) -> None:
    """Tokenised and tagged, as test sets are."""
    held = sorted(german.expected)[::5]
    blocks = ["\n".join(f"{word}\tO" for part in s.split() for word in _tokens(part)) for s in held]
    test = tmp_path / "test.conll"
    test.write_text("\n\n".join(blocks) + "\n", encoding="utf-8")
    plain = tmp_path / "dev.txt"
    plain.write_text("\n".join(sorted(german.expected)[1::9]), encoding="utf-8")
    report = build(german, tmp_path / "out.txt", "target_xml", exclude=(test, plain), **OPEN)
    left = {*held, *sorted(german.expected)[1::9]}
    assert set(lines(tmp_path / "out.txt")) == set(german.expected) - left
    assert not {comparison_key(s) for s in lines(tmp_path / "out.control.txt")} & {comparison_key(s) for s in left}
    assert report.values["exclude"]["overlap"] == {"corpus": 0, "control": 0}
    assert report.values["exclude"]["sentences"] == len(left)
    assert report.values["matched"]["excluded"] >= len(left)


def test_labelled_files_in_another_encoding(german: Any, tmp_path: Path) -> None:
    """CoNLL's files are in latin-1, the dump in UTF-8: entities and sentences are compared as text, not as bytes."""
    train = german.files["train"].read_text("utf-8")
    blocks = [block for block in train.split("\n\n") if max(block) <= "\xff"]
    entities, test = tmp_path / "train.conll", tmp_path / "test.conll"
    entities.write_bytes("\n\n".join([*blocks, f"Münster{train[train.index('B-') - 1]}B-LOC"]).encode("latin-1"))
    with pytest.raises(DataError, match=r"train.conll:\d+:\d+: byte 0x.. is not utf-8; it looks like latin-1: "):
        build(german, tmp_path / "out.txt", "target_xml", entities=(entities,), **OPEN)
    given = {"entities": (entities,), "encoding": "latin-1", **OPEN}
    build(german, tmp_path / "all.txt", "target_xml", **given)
    held = [s for s in lines(tmp_path / "all.txt") if not s.isascii() and max(s) <= "\xff"]
    blocks = ["\n".join(f"{word} O" for part in s.split() for word in _tokens(part)) for s in held]
    test.write_bytes(("\n\n".join(blocks) + "\n").encode("latin-1"))
    build(german, tmp_path / "out.txt", "target_xml", exclude=(test,), **given)
    assert len(held) > 3
    assert set(lines(tmp_path / "out.txt")) == set(lines(tmp_path / "all.txt")) - set(held)


def comparable(text: str) -> str:
    return unicodedata.normalize("NFC", text).casefold()


def _tokens(word: str) -> Iterator[str]:
    if len(word) > 1 and word[-1] in ",.!?":
        yield from (word[:-1], word[-1])
    else:
        yield word


def test_other_languages_are_dropped(german: Any, tmp_path: Path) -> None:
    title = next(iter(german.links.values()))
    english = [f"The minister of {title} spoke to the people of the town about the year {i}." for i in range(30)]
    text = tmp_path / "text.txt"
    text.write_text("\n".join([*german.expected, *english]) + "\n", encoding="utf-8")
    given = dataclasses.replace(config(german, tmp_path / "out.txt", "text"), text=(text,))
    report = build_corpus(given, workers=1, piece=PIECE)
    got = set(lines(tmp_path / "out.txt"))
    assert not got & set(english)
    assert len(got) >= 0.98 * len(german.expected)
    assert report.values["language"]["refused"]["en"] == 30
    assert not set(lines(tmp_path / "out.control.txt")) & set(english)
    assert len(lines(tmp_path / "out.control.txt")) == len(got), "the control is refilled up to the same size"
    open_to_all = dataclasses.replace(given, language_check=False, out=tmp_path / "all.txt")
    assert build_corpus(open_to_all, workers=1, piece=PIECE).values["language"]["why"] == "not asked for"
    assert set(english) <= set(lines(tmp_path / "all.txt"))
    unknown = dataclasses.replace(given, language="gsw", out=tmp_path / "gsw.txt")
    assert "does not know 'gsw'" in build_corpus(unknown, workers=1, piece=PIECE).values["language"]["why"]


def test_a_missing_library_is_missed_at_once(german: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "py3langid.langid", None)
    language_model.cache_clear()
    with pytest.raises(ConfigError, match=r"xlt-engine\[corpus\]"):
        build(german, tmp_path / "out.txt", "target_xml")
    assert list(tmp_path.iterdir()) == []
    build(german, tmp_path / "out.txt", "target_xml", language_check=False)


def test_rules_are_flags(german: Any, tmp_path: Path) -> None:
    files = german.files
    wiki = SourceFiles(dump=files["source_xml"], langlinks=files["langlinks_sql"])
    loose = LinkRules(redirects=False, disambiguation=False)
    report = build(german, tmp_path / "out.txt", "target_xml", source_wiki=wiki, rules=loose, **OPEN)
    assert report.values["entities"]["disambiguation"] == report.values["entities"]["loop"] == 0
    kinds = Counter(e.kind for e in german.entities)
    pages_listed = sum(e.kind == "disambiguation" and not e.chain for e in german.entities)
    linked = len(german.links) - kinds["redirect"] - kinds["chain"] + pages_listed
    assert report.values["entities"]["linked"] == linked
    assert set(lines(tmp_path / "out.txt")) < set(german.expected)


def test_reports(german: Any, tmp_path: Path) -> None:
    report = build(german, tmp_path / "de.txt", "target_xml", cap=20)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["de.control.txt", "de.report.json", "de.report.md", "de.txt"]
    values = json.loads((tmp_path / "de.report.json").read_text("utf-8"))
    assert values == report.values
    text = (tmp_path / "de.report.md").read_text("utf-8")
    assert text == report.render()
    for part in ("# Corpus audit", "20 sentences in `de.txt` (de)", "| linked | 62 |", "## Language", "| files | - |"):
        assert part in text
    assert values["text"]["pages"] > 100
    assert values["settings"]["cap"] == 20
    assert values["run"]["cpu_seconds"] > 0
    assert values["matched"]["sentences"] >= len(german.expected)
    assert values["selected"]["lengths"]["max"] == max(map(len, lines(tmp_path / "de.txt")))


def test_progress_in_lines() -> None:
    stream = io.StringIO()
    progress = ConsoleProgress(stream, interval=0.0)
    progress.begin_reading("corpus", 200_000_000)
    time.sleep(0.05)
    progress.read(150_000_000, 200_000_000, 50_000_000)
    progress.end("corpus", "12 sentences in de.txt")
    first, second, third = stream.getvalue().splitlines()
    assert (first, third) == ("corpus: 200 MB", "corpus: 12 sentences in de.txt")
    found = re.fullmatch(r"corpus: 150 of 200 MB, ([\d.]+) MB/s, 0:(\d\d) left", second)
    assert found
    assert 1 < float(found[1]) <= 1000, "the speed of this run, without what was read before"


def test_languages_by_the_names_of_the_files(german: Any, tmp_path: Path) -> None:
    given = dataclasses.replace(config(german, tmp_path / "out.txt", "target_xml"), language="").resolved()
    assert (given.language, given.source_language) == ("de", "en")
    assert dataclasses.replace(config(german, tmp_path / "out.txt", "text"), language="").resolved().language == "de"
    cantonese = tmp_path / "zh_yuewiki-latest-pages-articles.xml.bz2"
    assert dataclasses.replace(given, language="", target_dump=(cantonese,)).resolved().language == "zh-yue"
    text = tmp_path / "text"
    text.write_text("x")
    unnamed = dataclasses.replace(config(german, tmp_path / "out.txt", "text"), language="", text=(text,))
    with pytest.raises(ConfigError, match="give --language"):
        unnamed.resolved()
    assert (given.min_chars, given.max_chars) == (20, 500)
    assert dataclasses.replace(given, language="ja", min_chars=0, max_chars=0).resolved().min_chars == 8


@pytest.mark.parametrize(
    ("changed", "part"),
    [
        ({"text": ()}, "give --text or --target-dump"),
        ({"titles": None}, "no way from entities to titles"),
        ({"source_wiki": SourceFiles(items=Path("x"))}, "--titles replaces"),
        ({"target_aliases": True}, "--target-redirects reads"),
        ({"entities": ()}, "no entities: give --entities"),
        ({"min_chars": 9, "max_chars": 8}, "--min-chars 9 is more than --max-chars 8"),
        ({"cap": 0}, "--cap 0"),
    ],
)
def test_options_that_do_not_suffice(german: Any, tmp_path: Path, changed: dict[str, Any], part: str) -> None:
    given = dataclasses.replace(config(german, tmp_path / "out.txt", "text"), **changed)
    with pytest.raises(ConfigError) as caught:
        build_corpus(given)
    assert part in str(caught.value)
    assert list(tmp_path.iterdir()) == [], "nothing is written before the options are sound"


def test_output_is_no_input(german: Any) -> None:
    with pytest.raises(ConfigError, match="is an input"):
        build_corpus(config(german, german.files["text"], "text"))


def bad_input(german: Any, folder: Path) -> Iterator[tuple[CorpusConfig, str]]:
    def write(name: str, data: bytes) -> Path:
        (folder / name).write_bytes(data)
        return folder / name

    base = config(german, folder / "out.txt", "text")
    dump = config(german, folder / "out.txt", "target_xml")
    yield dataclasses.replace(base, text=(folder / "none.txt",)), "none.txt: no such file"
    yield dataclasses.replace(base, entities=(write("o.conll", b"Rom\tO\n"),)), "o.conll:1: no entities in the tags"
    yield dataclasses.replace(base, titles=write("t.tsv", b"a\tb\tc\n")), "t.tsv:1: 3 columns"
    yield dataclasses.replace(base, titles=write("u.tsv", b"a\tb\n")), "has a title in the target"
    yield dataclasses.replace(base, text=(write("n.txt", b"Ein Satz ohne alles.\n"),)), "no sentence was selected"
    whole = german.files["text"].read_bytes()
    yield dataclasses.replace(base, text=(write("l.txt", whole + b"\xff\n"),)), "byte 0xff"
    cut = german.files["target_bz2"].read_bytes()[:-700]
    yield (
        dataclasses.replace(dump, target_dump=(write("c.xml.bz2", cut),)),
        "c.xml.bz2: damaged compressed file after byte",
    )
    xml = german.files["target_xml"].read_bytes()
    yield dataclasses.replace(dump, target_dump=(write("c.xml", xml[:-900]),)), "c.xml: byte"


@pytest.mark.parametrize("workers", [1, 2])
def test_bad_input(german: Any, tmp_path: Path, workers: int) -> None:
    for given, part in bad_input(german, tmp_path):
        with pytest.raises(DataError) as caught:
            build_corpus(given, workers=workers, piece=PIECE)
        assert part in str(caught.value)
        assert not (tmp_path / "out.txt").exists()


def test_a_stored_piece_is_the_same(tmp_path: Path) -> None:
    matcher = TitleMatcher(["Oslo", "Rom", "Ulm"], "de")
    reader = PieceReader(matcher, (0, 1, 2), partial(sentences, language="de"), 0, 1, 99, 1.0)
    result = reader.read(0, ["Rom ist alt. Köln 東京 Ulm.", "Oslo \U0001f600 x."])
    path = piece_path(tmp_path, 7)
    path.write_bytes(piece_bytes(result))
    stored = StoredPiece(tmp_path, 7)
    assert [stored.text(i) for i in range(len(result.texts))] == result.texts
    for name in ("hashes", "flags", "pair_row", "pair_entity"):
        assert getattr(stored, name).tolist() == getattr(result, name).tolist(), name
    assert stored.counts == result.counts
    path.write_bytes(piece_bytes(reader.read(0, [])))
    empty = StoredPiece(tmp_path, 7)
    assert (len(empty.hashes), len(empty.pair_row)) == (0, 0)
    for wrong in (b"", b"xlt-piece-1", b"something else\n{}"):
        path.write_bytes(wrong)
        with pytest.raises(DataError, match="not a piece"):
            StoredPiece(tmp_path, 7)


def test_a_full_disk(german: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XLT_FAULT", "file.written:6:enospc")
    with pytest.raises(StorageError, match="free disk space"):
        build(german, tmp_path / "out.txt", "target_xml")
    monkeypatch.delenv("XLT_FAULT")
    build(german, tmp_path / "out.txt", "target_xml")
    build(german, tmp_path / "whole.txt", "target_xml")
    assert (tmp_path / "out.txt").read_bytes() == (tmp_path / "whole.txt").read_bytes()


def with_workers(work: Callable[[int], None], tasks: int, workers: int) -> list[int]:
    done, ahead = list[int](), iter(range(tasks))

    def take(task: int, answer: Answer) -> None:
        if answer.error:
            raise answer.error
        done.append(task)

    pool = Workers[int](workers, lambda polled, tell: work, fork=True, option="--workers")
    pool.run(lambda busy: next(ahead, None), take)
    return sorted(done)


def at_five(action: Callable[[], None]) -> Callable[[int], None]:
    return lambda task: action() if task == 5 else None


@pytest.mark.parametrize("workers", [2, 4])
def test_workers_give_all_tasks_once(workers: int) -> None:
    assert with_workers(at_five(lambda: None), 50, workers) == list(range(50))


def test_a_killed_worker() -> None:
    with pytest.raises(OutOfMemoryError, match=r"^5: .* was killed by signal 9, .* with fewer --workers"):
        with_workers(at_five(lambda: os.kill(os.getpid(), signal.SIGKILL)), 9, 2)


def test_workers_end_with_their_parent(tmp_path: Path) -> None:
    """A parent that is killed leaves no process behind."""
    seen = tmp_path / "seen"

    def work(task: int) -> None:
        with seen.open("a") as file:
            file.write(f"{os.getpid()}\n")

    parent = os.fork()
    if parent == 0:
        with_workers(lambda task: work(task) if task < 50 else os.kill(os.getppid(), signal.SIGKILL), 100, 3)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(parent, 0)[1]) == -signal.SIGKILL
    workers = set(map(int, seen.read_text().split()))
    assert workers
    for _ in range(100):
        alive = [pid for pid in workers if _running(pid)]
        if not alive:
            return
        signal.sigtimedwait([], 0.1)
    raise AssertionError(f"still alive: {alive}")


def _running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False
