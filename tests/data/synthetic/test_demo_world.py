"""The demo's made world: what is written, and that the gold labels and the domains are what they are said to be."""

import hashlib
import json
import math
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from itertools import combinations, islice
from pathlib import Path

import pytest

from xlt_engine import ConfigError, DataError, StorageError
from xlt_engine.data.synthetic import demo_world
from xlt_engine.data.synthetic.demo_events import listed
from xlt_engine.data.synthetic.demo_names import Draws, Names, lexicon
from xlt_engine.data.synthetic.demo_world import Sentence, WorldConfig, WorldFiles, make_world, stream

LANGUAGES = ("en", "de", "es")
SIZES = {"general": 40, "control": 30, "train": 50, "unlabelled": 80, "test": 20}
SMALL = WorldConfig(seed=3, **{f"{name}_sentences": count for name, count in SIZES.items()})
# SHA-256 over the hashes of SMALL's files. Who changes a sentence changes this and raises demo_world.VERSION.
SMALL_DIGEST = "69481d07461ba7cb67e3091bbd667c84909a2c916d08946b878d982366a8714e"
# SHA-256 over the files' hashes of the default world with seeds 0 and 1.
DIGESTS = (
    "14969bfce74f942f5f5861f409bc1e2ac66d1b6dbb645feb3432a2a515a0e89b",
    "fbb2d98354263636bada23f7e7a65863665b600fd8394bf7c21b6e5eba5b2586",
)


def read(path: Path) -> list[list[tuple[str, str]]]:
    """CoNLL without the package's reader."""
    blocks = path.read_text(encoding="utf-8").split("\n\n")
    return [[(line.split("\t")[0], line.split("\t")[1]) for line in block.splitlines()] for block in blocks if block]


def spans(tags: list[str] | tuple[str, ...]) -> list[tuple[str, int, int]]:
    """Type, start, end of each entity; a tag that does not continue what stands before it is an error."""
    found: list[tuple[str, int, int]] = []
    for position, tag in enumerate(tags):
        if tag == "O":
            continue
        prefix, kind = tag.split("-")
        if prefix == "B":
            found.append((kind, position, position + 1))
        else:
            assert (prefix, kind, position) == ("I", found[-1][0], found[-1][2])
            found[-1] = (kind, found[-1][1], position + 1)
    return found


def draw(language: str, domain: str, count: int, config: WorldConfig | None = None) -> list[Sentence]:
    return list(islice(stream(language, domain, Draws(11), config or WorldConfig()), count))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> WorldFiles:
    return make_world(WorldConfig(), tmp_path_factory.mktemp("world") / "full")


@pytest.fixture(scope="module", params=LANGUAGES)
def news(request: pytest.FixtureRequest) -> tuple[str, list[Sentence]]:
    return request.param, draw(request.param, "news", 1500)


@pytest.fixture(scope="module", params=LANGUAGES)
def general(request: pytest.FixtureRequest) -> tuple[str, list[Sentence]]:
    return request.param, draw(request.param, "general", 1500)


def lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def texts(path: Path) -> list[str]:
    return [" ".join(word for word, _ in item) for item in read(path)]


def test_same_bytes_whatever_the_hash_seed(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from xlt_engine.data import WorldConfig, make_world;"
        f"make_world({SMALL!r}, Path(sys.argv[1]))"
    )
    for hash_seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        subprocess.run([sys.executable, "-c", code, str(tmp_path / hash_seed)], check=True, env=environment)
    hashes = [json.loads((tmp_path / seed / "world.json").read_text("utf-8"))["files"] for seed in ("1", "2")]
    assert hashes[0] == hashes[1]
    for name, expected in hashes[0].items():
        assert hashlib.sha256((tmp_path / "1" / name).read_bytes()).hexdigest() == expected
    assert hashlib.sha256("".join(hashes[0].values()).encode()).hexdigest() == SMALL_DIGEST


def test_the_default_worlds_are_the_same_to_the_byte(world: WorldFiles, tmp_path: Path) -> None:
    for files, digest in zip((world, make_world(WorldConfig(seed=1), tmp_path / "1")), DIGESTS, strict=True):
        hashes = json.loads((files.folder / "world.json").read_text("utf-8"))["files"]
        assert hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest() == digest


def test_sizes_and_no_sentence_twice(world: WorldFiles) -> None:
    sizes = WorldConfig()
    for language in LANGUAGES:
        groups = [lines(world.general[language]), lines(world.control[language])]
        labelled = texts(world.train) if language == "en" else []
        groups += [labelled + lines(world.unlabelled[language]), texts(world.test[language])]
        names = ("general", "control", "unlabelled", "test")
        assert [len(group) for group in groups] == [getattr(sizes, f"{name}_sentences") for name in names]
        everything = [text for group in groups for text in group]
        assert len(set(everything)) == len(everything)
    assert len(read(world.train)) == sizes.train_sentences


def test_texts_are_not_translations_of_each_other(world: WorldFiles) -> None:
    kinds = {lang: [[k for k, *_ in spans([t for _, t in s])] for s in read(world.test[lang])] for lang in LANGUAGES}
    for target in ("de", "es"):
        aligned = sum(a == b for a, b in zip(kinds["en"], kinds[target], strict=True))
        shifted = sum(a == b for a, b in zip(kinds["en"][1:], kinds[target][:-1], strict=True))
        assert abs(aligned - shifted) < 5 * math.sqrt(shifted)


def test_the_same_things_happen_in_every_language() -> None:
    counts = [Counter(kind for item in draw(lang, "news", 1500) for kind, _ in item.entities) for lang in LANGUAGES]
    # Streams of one seed tell the same events in every language.
    assert counts[0] == counts[1] == counts[2]
    assert all(counts[0][kind] > 300 for kind in demo_world.TYPES)


def test_gold_spans_are_the_planted_names(news: tuple[str, list[Sentence]]) -> None:
    language, sentences = news
    stems = {key: entry.split() for key, entry in lexicon(language).nationalities.items()}
    for item in sentences:
        found = Counter((kind, " ".join(item.words[start:end])) for kind, start, end in spans(item.tags))
        for kind, name in item.entities:
            forms = [name] if name not in stems else [f for f in found_words(found) if inflects(f, stems[name])]
            hit = next((form for form in forms if found[kind, form]), None)
            assert hit is not None, (name, item.text)
            found[kind, hit] -= 1
        assert not +found, item.text


def found_words(found: Counter[tuple[str, str]]) -> list[str]:
    return [text for kind, text in found if kind == "MISC"]


def inflects(word: str, forms: list[str]) -> bool:
    return word in forms or (word.startswith(forms[0]) and word[len(forms[0]) :] in ("e", "en", "er", "es"))


def test_every_name_in_the_text_is_tagged(news: tuple[str, list[Sentence]]) -> None:
    language, sentences = news
    names = all_names(language)
    longest = max(len(name.split()) for name in names)
    for item in sentences:
        found, position = [], 0
        while position < len(item.words):
            for length in range(min(longest, len(item.words) - position), 0, -1):
                kind = names.get(" ".join(item.words[position : position + length]))
                if kind:
                    found.append((kind, position, position + length))
                    position += length
                    break
            else:
                position += 1
        assert found == spans(item.tags), item.text


def all_names(language: str) -> dict[str, str]:
    words = lexicon(language)

    def listed(*kinds: str) -> list[str]:
        return [name for kind in kinds for _, name in (*words.names[kind], *words.names.get(f"shared {kind}", ()))]

    cities, given, surnames = listed("city"), listed("given f", "given m"), listed("surname")
    names = dict.fromkeys((*listed("country"), *cities), "LOC")
    names |= dict.fromkeys([*given, *surnames, *(f"{g} {s}" for g in given for s in surnames)], "PER")
    organisations = listed("club", "firm")
    for place in (*cities, *listed("country")):
        frames = listed("club frame", "firm frame")
        organisations += [frame.format(place, city=place, country=place) for frame in frames]
    names |= dict.fromkeys(organisations, "ORG")
    names |= dict.fromkeys(listed("event"), "MISC")
    for entry in words.nationalities.values():
        endings = ("e", "en", "er", "es") if language == "de" else ("",)
        names |= {form + ending: "MISC" for form in entry.split() for ending in endings}
    return names


def test_general_text_knows_no_news(general: tuple[str, list[Sentence]]) -> None:
    language, sentences = general
    words = lexicon(language)
    nouns = {n for kind in ("politicians", "athletes", "groups", "papers", "buildings") for n in listed(kind)}
    verbs = [v for kind in ("paper", "person", "firm", "sport") for v in listed(f"{kind} verbs")]
    verbs += (*listed("saying"), "visit", "leave", "protest", "vote", "march", "celebrate")
    assert {*nouns, *listed("people"), *listed("things")} == set(words.nouns)
    news_words = {word for noun in nouns for word in words.nouns[noun].split() if len(word) > 1}
    news_words |= {word for verb in verbs for word in words.verbs[verb].split()}
    news_words |= {name for kind in ("surname", "shared surname") for _, name in words.names[kind]}
    used = {word for item in sentences for word in item.words}
    assert not used & news_words
    assert {tag for item in sentences for tag in item.tags} == {"O", "B-PER", "B-LOC", "I-LOC"}
    places = sum(any(kind == "LOC" for kind, _ in item.entities) for item in sentences)
    assert within(places, len(sentences), 0.25)


def within(hits: int, draws: int, share: float) -> bool:
    return abs(hits - draws * share) < 4 * math.sqrt(draws * share * (1 - share))


@pytest.mark.parametrize("language", LANGUAGES)
def test_shares_of_shared_and_composed_names(language: str) -> None:
    listed = {kind: {name for _, name in pairs} for kind, pairs in lexicon(language).names.items()}
    names = Names(Draws(5), lexicon(language), 0.35, 0.45)
    count = 3000
    shared_given = listed["shared given f"] | listed["shared given m"]
    assert within(sum(names.given().text in shared_given for _ in range(count)), count, 0.35)
    for draw_one, kind in ((names.surname, "surname"), (names.place, "city"), (names.event, "event")):
        assert within(sum(draw_one().text in listed[f"shared {kind}"] for _ in range(count)), count, 0.35)
    for draw_one, kind in ((names.club, "club"), (names.firm, "firm")):
        drawn = Counter(draw_one().text for _ in range(count))
        shared = listed[f"shared {kind}"]
        assert within(sum(drawn[name] for name in listed[kind] | shared), count, 0.55)
        assert within(sum(drawn[name] for name in shared), count, 0.55 * 0.35)


def test_own_names_are_own() -> None:
    kinds = ("given f", "given m", "surname", "city", "country", "club", "firm", "event")

    def every(language: str, prefix: str = "") -> set[str]:
        names = lexicon(language).names
        return {name for kind in kinds for _, name in names.get(prefix + kind, ())}

    english, german, spanish = map(every, LANGUAGES)
    shared = every("de", "shared ")
    assert len(shared) == 50
    for one, other in combinations((english, german, spanish, shared), 2):
        assert not one & other


def test_lexicons_agree_on_their_concepts() -> None:
    english = lexicon("en")
    for language in ("de", "es"):
        other = lexicon(language)
        for part in ("nouns", "adjectives", "nationalities", "verbs", "places", "times"):
            assert list(getattr(other, part)) == list(getattr(english, part))


def test_label_noise(tmp_path: Path) -> None:
    clean = make_world(replace(SMALL, train_sentences=79), tmp_path / "clean")
    noisy = make_world(replace(SMALL, train_sentences=79, label_noise=0.3), tmp_path / "noisy")
    assert clean.noisy == ()
    assert within(len(noisy.noisy), 79, 0.3)
    for number, (right, wrong) in enumerate(zip(read(clean.train), read(noisy.train), strict=True)):
        assert [word for word, _ in right] == [word for word, _ in wrong]
        before, after = spans([tag for _, tag in right]), spans([tag for _, tag in wrong])
        assert [place for _, *place in before] == [place for _, *place in after]
        assert sum(a != b for a, b in zip(before, after, strict=True)) == (number in noisy.noisy)
    for path in clean.folder.iterdir():
        if path.name not in ("world.json", clean.train.name):
            assert path.read_bytes() == (noisy.folder / path.name).read_bytes()


def test_second_call_reads_and_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = make_world(SMALL, tmp_path / "new" / "world")
    monkeypatch.setattr(demo_world, "_contents", lambda config: pytest.fail("made again"))
    assert make_world(SMALL, tmp_path / "new" / "world") == first
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["world"]


def test_changed_file_is_named(tmp_path: Path) -> None:
    files = make_world(SMALL, tmp_path / "world")
    with files.train.open("a", encoding="utf-8") as stream:
        stream.write("x\tO\n\n")
    with pytest.raises(DataError, match=r"task\.en\.train\.conll:1: missing, or changed"):
        make_world(SMALL, tmp_path / "world")


def test_folder_of_something_else(tmp_path: Path) -> None:
    make_world(SMALL, tmp_path / "world")
    pytest.raises(DataError, make_world, replace(SMALL, seed=9), tmp_path / "world").match("another configuration")
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "general.en.txt").write_text("keep\n", encoding="utf-8")
    pytest.raises(DataError, make_world, SMALL, mine).match(r"no world\.json")
    assert (mine / "general.en.txt").read_text("utf-8") == "keep\n"
    (mine / "world.json").write_text("[]", encoding="utf-8")
    pytest.raises(DataError, make_world, SMALL, mine).match("not the record of a demo world")


def test_interrupted_writing_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(folder: Path, contents: dict[str, str], record: dict[str, object]) -> None:
        (folder / "general.en.txt").write_text("half", encoding="utf-8")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(demo_world, "write_world", interrupted)
    pytest.raises(StorageError, make_world, SMALL, tmp_path / "world").match("No space left")
    assert list(tmp_path.iterdir()) == []


def test_problems_of_a_configuration_come_together() -> None:
    with pytest.raises(ConfigError, match=r"place_share = 1\.5.*test_sentences = 0.*train_sentences = 5000"):
        WorldConfig(place_share=1.5, test_sentences=0, train_sentences=5000)


def test_too_many_sentences(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    only = draw("en", "news", 1)[0]
    monkeypatch.setattr(demo_world, "stream", lambda *arguments: iter([only] * 10**5))
    pytest.raises(ConfigError, make_world, SMALL, tmp_path / "world").match("40 more distinct general sentences")
