"""The truth world: the bijection is one, every knob does to the text what it says, and what is planted is recorded."""

from __future__ import annotations

import hashlib
import json
import math
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from xlt_engine import ConfigError, DataError
from xlt_engine.data import Example, TruthFiles, TruthKnobs, make_truth_world, open_truth_world
from xlt_engine.data.synthetic.demo_names import Draws
from xlt_engine.data.synthetic.truth_language import FakeLanguage, inversions
from xlt_engine.data.synthetic.truth_text import quotas, shifted

SMALL = TruthKnobs(
    seed=3,
    general_sentences=60,
    control_sentences=30,
    train_sentences=150,
    unlabelled_sentences=250,
    test_sentences=40,
)
# SHA-256 over the hashes of SMALL's files with every knob in use. Who changes them changes this and raises VERSION.
BUSY = replace(
    SMALL,
    letter_overlap=0.2,
    word_order=0.5,
    affixes=0.3,
    label_shift=0.5,
    label_noise=0.2,
    domain_shift=0.2,
)
BUSY_DIGEST = "604316048bef69b2d727a85ca1ae8c65fca1a7a3ef99cb1fcde1c74ea8c11aab"

Sentence = list[tuple[str, str]]


def conll(path: Path) -> list[Sentence]:
    """CoNLL without the package's reader."""
    blocks = path.read_text(encoding="utf-8").split("\n\n")
    return [[(line.split("\t")[0], line.split("\t")[1]) for line in b.splitlines()] for b in blocks if b]


def lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def words_of(item: Sentence) -> list[str]:
    return [word for word, _ in item]


def lexicon(files: TruthFiles, target: str = "fake") -> dict[str, str]:
    pairs = (line.split("\t") for line in lines(files.folder / f"lexicon.{target}.tsv"))
    return {source: word for source, word in pairs}


def within(hits: float, draws: int, share: float) -> bool:
    return abs(hits - draws * share) <= 4 * math.sqrt(draws * share * (1 - share)) + 1e-9


def made(tmp_path: Path, **knobs: Any) -> TruthFiles:
    return make_truth_world(replace(SMALL, **knobs), tmp_path / str(len(list(tmp_path.iterdir()))))


# -- the language ------------------------------------------------------------------------------------------------


def test_a_hand_checked_bijection() -> None:
    """Three letters: what stands for each is read off once, and every word is spelled with it by hand."""
    language = FakeLanguage(["abc", "Cab", "b2!"], seed=5)
    a, b, c = language.letters["a"], language.letters["b"], language.letters["c"]
    assert len({a, b, c}) == 3
    assert not {a, b, c} & set("abc")
    by_hand = {
        "abc": a + b + c,
        "Cab": c.upper() + a + b,
        "b2!": b + "2!",
        "ABC": (a + b + c).upper(),
        "(cb),": f"({c}{b}),",
    }
    for word, expected in by_hand.items():
        assert language.word(word) == expected
    assert language.word("1990") == "1990"
    assert language.word("-") == "-"


def test_the_same_letters_in_every_version() -> None:
    assert FakeLanguage(["abc"], seed=5).letters == {"a": "г", "b": "ւ", "c": "ա"}


def test_different_words_stay_different(tmp_path: Path) -> None:
    """Over everything that a world says, with all that could make two words one: anchors, kept letters, endings."""
    files = make_truth_world(BUSY, tmp_path / "world")
    table = lexicon(files)
    assert len(table) > 300
    assert len(set(table.values())) == len(table)
    language = FakeLanguage(table, seed=1, anchors=0.3, letter_overlap=0.4, affixes=0.5)
    written = {}
    for word in table:
        forms = {
            language.word(word),
            *language.sentence([word], None, Draws(0))[0],
            *language.sentence([word], None, Draws(3))[0],
        }
        for form in forms:
            assert written.setdefault(form, word) == word
    assert len(written) > len(table)


def test_anchors_are_nested_and_as_many_as_asked(tmp_path: Path) -> None:
    words = [f"{a}{b}{c}" for a in "abcdefgh" for b in "aeiou" for c in "lmnrst"]
    few, many = (FakeLanguage(words, seed=2, anchors=share) for share in (0.2, 0.5))
    small, large = ({w for w in words if language.is_anchor(w)} for language in (few, many))
    assert small < large
    assert within(len(small), len(words), 0.2)
    assert within(len(large), len(words), 0.5)
    assert all(many.word(w) == w for w in large)
    assert not any(many.word(w) == w for w in words if w not in large)
    assert many.is_anchor("bal") == many.is_anchor("Bal,")


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_anchors_in_the_text(tmp_path: Path, share: float) -> None:
    files = made(tmp_path, anchors=share)
    table = {k: v for k, v in lexicon(files).items() if any(map(str.isalpha, k))}
    types = {k.lower() for k in table}
    same = {k.lower() for k, v in table.items() if k == v}
    assert within(len(same), len(types), share)
    assert files.measured["fake"]["anchor_types"] == pytest.approx(len(same) / len(types))
    text = lines(files.unlabelled["fake"]) + lines(files.general["fake"])
    foreign = {c for line in text for c in line if ord(c) > 0x36F}
    assert bool(foreign) == (share < 1)


@pytest.mark.parametrize(("share", "kept"), [(0.0, 0), (0.5, 3), (1.0, 6)])
def test_letters_kept(share: float, kept: int) -> None:
    language = FakeLanguage(["fedcba", "Abc"], seed=4, letter_overlap=share)
    word = language.word("abcdef")
    assert sum(x == y for x, y in zip(word, "abcdef", strict=True)) == kept
    assert sum(ord(x) > 0x36F for x in word) == 6 - kept


def test_more_letters_kept_keeps_those_kept_before() -> None:
    alphabet = "abcdefghijklmnopqrstuvwxyz"
    kept = [
        {c for c in alphabet if c not in FakeLanguage([alphabet], seed=4, letter_overlap=s).letters}
        for s in (0.0, 0.25, 0.5, 0.75)
    ]
    assert all(one < other for one, other in zip(kept, kept[1:], strict=False))


def test_endings(tmp_path: Path) -> None:
    plain, ended = made(tmp_path, anchors=0.2), made(tmp_path, anchors=0.2, affixes=0.4)
    forms: dict[str, set[str]] = {}
    for one, other in zip(lines(plain.general["fake"]), lines(ended.general["fake"]), strict=True):
        for word, with_ending in zip(one.split(), other.split(), strict=True):
            assert with_ending.startswith(word)
            forms.setdefault(word.lower(), set()).add(with_ending[len(word) :])
    changeable = [f for f in forms if any(ord(c) > 0x36F for c in f)]
    taking = [f for f in changeable if forms[f] != {""}]
    assert all("" not in forms[f] for f in taking)
    assert within(len(taking), len(changeable), 0.4)
    endings = set().union(*(forms[f] for f in taking))
    assert len(endings) == 3
    assert {len(e) for e in endings} == {1, 2}
    assert not any(forms[f] != {""} for f in forms if f not in changeable)


# -- word order --------------------------------------------------------------------------------------------------


def test_order_by_hand() -> None:
    """Four chunks; at weight 1 they stand by rank alone, an entity as one, the full stop at the end."""
    words, tags = ["Anna", "Lee", "saw", "old", "Rome", "."], ["B-PER", "I-PER", "O", "O", "B-LOC", "O"]
    language = FakeLanguage(words, seed=1, anchors=1.0, word_order=1.0)
    rank = {w: language._unit("order", w) for w in ("anna", "saw", "old", "rome")}
    chunks = {"anna": [0, 1], "saw": [2], "old": [3], "rome": [4]}
    expected = [i for w in sorted(rank, key=rank.__getitem__) for i in chunks[w]] + [5]
    assert language.order(words, tags) == expected
    assert sorted(expected) == list(range(6))
    said, kept = language.sentence(words, tags, Draws(0))
    assert [w.lower() for w in said] == [words[i].lower() for i in expected]
    assert kept == tuple(tags[i] for i in expected)
    assert FakeLanguage(words, seed=1, anchors=1.0).order(words, tags) == list(range(6))


def test_inversions() -> None:
    assert inversions([0, 1, 2]) == 0
    assert inversions([2, 1, 0]) == 1
    assert inversions([1, 0, 2]) == pytest.approx(1 / 3)
    assert inversions([0]) == 0


def test_order_in_the_text(tmp_path: Path) -> None:
    found, still = [], made(tmp_path, anchors=1.0)
    for share in (0.0, 0.3, 0.6, 1.0):
        files = made(tmp_path, anchors=1.0, word_order=share)
        found.append(files.measured["fake"]["inversions"])
        for one, other in zip(conll(still.hidden["fake"]), conll(files.hidden["fake"]), strict=True):
            assert Counter(w.lower() for w, _ in one) == Counter(w.lower() for w, _ in other)
            assert entities(one) == entities(other)
            assert one[-1][0] != "." or other[-1][0] == "."
            assert other[0][0][0] == other[0][0][0].upper()
    assert found[0] == 0
    assert 0.02 < found[1] < found[2] < found[3]
    assert 0.3 < found[3] < 0.5


def entities(item: Sentence) -> Counter[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for word, tag in item:
        if tag.startswith("B-"):
            found.append((tag[2:], word))
        elif tag.startswith("I-"):
            kind, text = found[-1]
            assert kind == tag[2:]
            found[-1] = (kind, f"{text} {word}")
    return Counter(found)


# -- labels and domains ------------------------------------------------------------------------------------------


def test_shares_by_hand() -> None:
    shares = {"": 0.2, "A": 0.1, "B": 0.3, "C": 0.4}
    assert shifted(shares, 0.0) == pytest.approx(shares)
    # A, the rarest, gets 4/7 of the 0.8 that have an entity, B 2/7, C 1/7.
    assert shifted(shares, 1.0) == pytest.approx({"": 0.2, "A": 3.2 / 7, "B": 1.6 / 7, "C": 0.8 / 7})
    half = shifted(shares, 0.5)
    assert half == pytest.approx({"": 0.2, "A": 0.05 + 1.6 / 7, "B": 0.15 + 0.8 / 7, "C": 0.2 + 0.4 / 7})
    assert quotas(10, {"A": 0.55, "B": 0.26, "C": 0.19}) == {"A": 5, "B": 3, "C": 2}
    assert sum(quotas(7, half).values()) == 7


def kinds(path: Path) -> Counter[str]:
    """The most frequent type of each sentence, the first of equals."""
    found: Counter[str] = Counter()
    for item in conll(path):
        types = [tag[2:] for _, tag in item if tag.startswith("B-")]
        found[max(dict.fromkeys(types), key=types.count) if types else ""] += 1
    return found


def test_label_shift_in_the_text(tmp_path: Path) -> None:
    prior = kinds(made(tmp_path).train)
    distances = []
    for strength in (0.0, 0.5, 1.0):
        files = made(tmp_path, label_shift=strength)
        distances.append(files.measured["fake"]["prior_distance"])
        if strength:
            expected = shifted({k: n / prior.total() for k, n in prior.items()}, strength)
            for path, count in ((files.hidden["fake"], 250), (files.test["fake"], 40)):
                got = kinds(path)
                assert {k: got[k] for k in expected} == quotas(count, expected)
        assert kinds(files.train) == prior
    assert distances[0] < 0.1 < distances[1] < distances[2]
    # Entities, not sentences: by a count of our own, from the files of the last world.
    one, other = (
        Counter(t[2:] for i in conll(p) for _, t in i if t[0] == "B") for p in (files.train, files.hidden["fake"])
    )
    total = sum(abs(one[k] / one.total() - other[k] / other.total()) for k in one | other) / 2
    assert distances[2] == pytest.approx(total)


def test_noise_is_what_is_recorded(tmp_path: Path) -> None:
    clean, noisy, more = (made(tmp_path, label_noise=share) for share in (0.0, 0.2, 0.5))
    assert clean.noise == ()
    changes = []
    for number, (right, wrong) in enumerate(zip(conll(clean.train), conll(noisy.train), strict=True)):
        assert words_of(right) == words_of(wrong)
        changed = [i for i, (a, b) in enumerate(zip(right, wrong, strict=True)) if a != b]
        if changed:
            first = changed[0]
            assert right[first][1].startswith("B-")
            assert changed == list(range(first, first + len(changed)))
            assert all(tag.startswith("I-") for _, tag in right[first + 1 : changed[-1] + 1])
            changes.append((number, first, right[first][1][2:], wrong[first][1][2:]))
    assert changes == [(w.sentence, w.word, w.right, w.wrong) for w in noisy.noise]
    assert within(len(changes), 150, 0.2)
    assert {w.sentence for w in noisy.noise} < {w.sentence for w in more.noise}
    assert noisy.measured["label_noise"] == pytest.approx(len(changes) / 150)
    for path in clean.folder.iterdir():
        if path.name not in ("world.json", clean.train.name):
            assert path.read_bytes() == (noisy.folder / path.name).read_bytes()


def test_domain_shift_in_the_text(tmp_path: Path) -> None:
    for share, most, least in ((0.0, 5, 0), (0.4, 105, 100)):
        files = made(tmp_path, anchors=1.0, domain_shift=share, control_sentences=2000)
        everyday = {w.lower() for p in (files.general["en"], files.control["en"]) for x in lines(p) for w in x.split()}
        foreign = sum({w.lower() for w in x.split()} <= everyday for x in lines(files.unlabelled["fake"]))
        assert least <= foreign <= most
        assert files.measured["fake"]["domain_shift"] == pytest.approx(share)
        assert files.unknown == {"fake": ()}


def test_hidden_labels_belong_to_the_unlabelled_text(tmp_path: Path) -> None:
    files = make_truth_world(BUSY, tmp_path / "world", targets=("xa", "xb"))
    back = {}
    for target in ("xa", "xb"):
        hidden = conll(files.hidden[target])
        assert [" ".join(words_of(item)) for item in hidden] == lines(files.unlabelled[target])
        assert {t for item in hidden for _, t in item} > {"O", "B-PER", "I-PER", "B-LOC", "B-ORG", "B-MISC"}
        back[target] = lexicon(files, target)
        assert not any("\t" in line for line in lines(files.unlabelled[target]))
    assert back["xa"] != back["xb"]


def test_no_sentence_is_a_translation(tmp_path: Path) -> None:
    files = made(tmp_path, anchors=1.0)
    source = [" ".join(words_of(i)) for p in (files.train, files.test["en"]) for i in conll(p)]
    source += [x for p in (files.unlabelled["en"], files.general["en"], files.control["en"]) for x in lines(p)]
    target = [" ".join(words_of(i)) for i in conll(files.test["fake"])]
    target += [x for p in (files.unlabelled["fake"], files.general["fake"], files.control["fake"]) for x in lines(p)]
    assert len(source) == len(target) == len(set(source)) == len(set(target)) == 250 + 40 + 90
    assert not set(source) & set(target)


# -- files -------------------------------------------------------------------------------------------------------


def test_same_bytes_whatever_the_hash_seed(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from xlt_engine.data import TruthKnobs, make_truth_world;"
        f"make_truth_world({BUSY!r}, Path(sys.argv[1]))"
    )
    for hash_seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        subprocess.run([sys.executable, "-c", code, str(tmp_path / hash_seed)], check=True, env=environment)
    one, other = (json.loads((tmp_path / seed / "world.json").read_text("utf-8"))["files"] for seed in ("1", "2"))
    assert one == other
    assert hashlib.sha256("".join(one.values()).encode()).hexdigest() == BUSY_DIGEST


def test_second_call_opens_the_first_world(tmp_path: Path) -> None:
    first = make_truth_world(BUSY, tmp_path / "world")
    assert make_truth_world(BUSY, tmp_path / "world") == open_truth_world(tmp_path / "world") == first
    with pytest.raises(DataError, match="another configuration"):
        make_truth_world(SMALL, tmp_path / "world")
    with first.hidden["fake"].open("a", encoding="utf-8") as stream:
        stream.write("x\tO\n\n")
    with pytest.raises(DataError, match=r"hidden\.fake\.conll:1: missing, or changed"):
        open_truth_world(tmp_path / "world")


def reviews(count: int) -> list[Example]:
    parts = (("good", "fine"), ("bad", "poor"), ("old", "grey"))
    return [
        Example(
            f"x:{n}", "en", None, f"Number {n} is {parts[n % 3][n % 2]}, says {n * 7} .", None, "pno"[n % 3], "x", n + 1
        )
        for n in range(count)
    ]


FILE = TruthKnobs(
    general_sentences=5, control_sentences=5, train_sentences=30, unlabelled_sentences=40, test_sentences=10
)


def test_a_world_of_a_classification_file(tmp_path: Path) -> None:
    knobs = replace(FILE, text=Path("given.tsv"), label_noise=0.3, label_shift=0.5, anchors=0.2)
    files = make_truth_world(knobs, tmp_path / "w", task="classification", text=reviews(300))
    rows = [line.split("\t") for line in lines(files.hidden["fake"])]
    assert rows[0] == ["text", "label"]
    assert [text for text, _ in rows[1:]] == lines(files.unlabelled["fake"])
    labels = Counter(label for _, label in rows[1:])
    clean = make_truth_world(replace(knobs, label_noise=0.0), tmp_path / "c", task="classification", text=reviews(300))
    trained = [line.split("\t")[1] for line in lines(clean.train)[1:]]
    prior = {k: trained.count(k) / len(trained) for k in "nop"}
    assert dict(labels) == quotas(40, shifted(prior, 0.5))
    noisy = [line.split("\t")[1] for line in lines(files.train)[1:]]
    changed = [(i, None, a, b) for i, (a, b) in enumerate(zip(trained, noisy, strict=True)) if a != b]
    assert changed == [(w.sentence, w.word, w.right, w.wrong) for w in files.noise]
    assert changed


def test_labels_of_foreign_text_are_unknown(tmp_path: Path) -> None:
    general = [replace(e, text=f"Rain fell on day {n} .", labels=None) for n, e in enumerate(reviews(60))]
    knobs = replace(FILE, text=Path("a"), general=Path("b"), domain_shift=0.25)
    files = make_truth_world(knobs, tmp_path / "w", task="classification", text=reviews(300), general=general)
    back = {v: k for k, v in lexicon(files).items()}
    rain = [i for i, x in enumerate(lines(files.unlabelled["fake"])) if back[x.split()[0]] == "Rain"]
    assert files.unknown["fake"] == tuple(rain)
    assert len(rain) == 10


# -- what is refused ---------------------------------------------------------------------------------------------


def test_all_problems_of_knobs_at_once(tmp_path: Path) -> None:
    wrong = replace(SMALL, anchors=1.5, label_noise=-0.1, test_sentences=0, unlabelled_sentences=100, general=Path("x"))
    with pytest.raises(ConfigError) as caught:
        make_truth_world(wrong, tmp_path / "w")
    for part in (
        "anchors = 1.5",
        "label_noise = -0.1",
        "test_sentences = 0",
        "unlabelled_sentences is 100",
        "general goes",
    ):
        assert part in str(caught.value)
    assert not (tmp_path / "w").exists()


def test_text_that_does_not_do(tmp_path: Path) -> None:
    def make(text: list[Example], **knobs: Any) -> None:
        kind = knobs.pop("task", "classification")
        make_truth_world(replace(FILE, text=Path("t"), **knobs), tmp_path / "w", task=kind, text=text)

    with pytest.raises(ConfigError, match=r"lacks \d+ of \d+ distinct sentences; ask for fewer"):
        make(reviews(90))
    with pytest.raises(ConfigError, match="of kind .*less label_shift"):
        make(reviews(110), label_shift=1.0)
    with pytest.raises(ConfigError, match="pairs of texts"):
        make([replace(e, pair="x") for e in reviews(200)])
    with pytest.raises(ConfigError, match="without labels"):
        make([replace(e, labels=None) for e in reviews(200)])
    with pytest.raises(ConfigError, match="two classes"):
        make([replace(e, labels="p") for e in reviews(200)], label_noise=0.1)
    with pytest.raises(ConfigError, match="needs general"):
        make(reviews(200), domain_shift=0.1)
    rare = [replace(e, labels=f"c{n}") for n, e in enumerate(reviews(200))]
    with pytest.raises(ConfigError, match="no training sentence has c"):
        make(rare)
    with pytest.raises(ConfigError, match="use text in an alphabet"):
        make([replace(e, text=f"{chr(0x4E00 + n)} is {n}") for n, e in enumerate(reviews(200))])
    with pytest.raises(ConfigError, match='task = "ner"'):
        make_truth_world(SMALL, tmp_path / "w", task="classification")
    assert not (tmp_path / "w").exists()
