import copy
import random
import unicodedata
from collections.abc import Sequence

import pytest

from xlt_engine import ConfigError
from xlt_engine.data.corpus.title_links import TitleMatcher, is_unspaced, is_word


def found(matcher: TitleMatcher, text: str) -> list[str]:
    return [text[m.start : m.end] for m in matcher.find(text)]


def word(char: str) -> bool:
    """Independent of the module: letters, digits, marks and the underscore."""
    return unicodedata.category(char)[0] in "LMN" or char == "_"


def by_hand(names: Sequence[str], text: str) -> list[tuple[int, int]]:
    """Leftmost, then longest, at word boundaries, by trying every title at every place."""
    out, place = [], 0
    while place < len(text):
        ends = [
            place + len(name)
            for name in names
            if text.startswith(name, place)
            and not (place and word(text[place - 1]) and word(text[place]))
            and not (
                place + len(name) < len(text) and word(text[place + len(name) - 1]) and word(text[place + len(name)])
            )
        ]
        if ends:
            out.append((place, max(ends)))
        place = max(ends) if ends else place + 1
    return out


def test_longest_and_leftmost() -> None:
    matcher = TitleMatcher(["New York", "New York City", "York", "City of London", "London"], "en")
    assert found(matcher, "New York City and New York, York") == ["New York City", "New York", "York"]
    assert found(matcher, "the New York City of London") == ["New York City", "London"]


def test_boundaries_of_words() -> None:
    matcher = TitleMatcher(["Rom", "Bad", "Bad Hom", "(500) Tage", "C++", "Élan"], "de")
    assert found(matcher, "Roman, Rom, Rome, xRom Rom2 _Rom Rom.") == ["Rom", "Rom"]
    assert found(matcher, "Bad Homburg") == ["Bad"], "what a boundary cuts hides no shorter title"
    assert found(matcher, "x(500) Tage, C++! C+++ und Élans Élan") == ["(500) Tage", "C++", "C++", "Élan"]


def test_marks_are_part_of_a_word() -> None:
    matcher = TitleMatcher(["हिन्द", "हिन्दी"], "hi")
    assert found(matcher, "हिन्दी हिन्द हिन्दू") == ["हिन्दी", "हिन्द"]
    assert found(TitleMatcher(["Cafe"], "fr"), "Cafe\u0301 Cafe") == ["Cafe"]


@pytest.mark.parametrize(
    ("language", "name", "text", "expected"),
    [
        ("ja", "東京", "東京都は東京です", 2),
        ("ja", "IBM", "IBM社のIBMはIBMS", 2),
        ("zh", "北京", "在北京市", 1),
        ("th", "กรุงเทพ", "ที่กรุงเทพมหานคร", 1),
        ("ko", "서울", "서울에서 서울은", 2),
        ("de", "Au", "Auto Au Bau", 1),
    ],
)
def test_scripts_without_spaces(language: str, name: str, text: str, expected: int) -> None:
    assert len(TitleMatcher([name], language).find(text)) == expected


def test_boundaries_by_hand() -> None:
    assert found(TitleMatcher(["Au"], "de", boundaries="none"), "Auto Au") == ["Au", "Au"]
    assert found(TitleMatcher(["東"], "de", boundaries="words"), "東京 東") == ["東"]
    assert found(TitleMatcher(["東"], "de", boundaries="scripts"), "東京 東") == ["東", "東"]


@pytest.mark.parametrize("seed", range(20))
def test_agrees_with_trying_everything(seed: int) -> None:
    rng = random.Random(seed)
    alphabet = "aabbc .-é\u0301"
    names = sorted({"".join(rng.choices(alphabet, k=rng.randrange(1, 5))) for _ in range(30)})
    matcher = TitleMatcher(names, "de")
    hits = 0
    for _ in range(60):
        text = "".join(rng.choices(alphabet, k=rng.randrange(0, 25)))
        got = [(m.start, m.end) for m in matcher.find(text)]
        assert got == by_hand(names, text), (names, text)
        assert all(names[m.title] == text[m.start : m.end] for m in matcher.find(text))
        hits += len(got)
    assert hits > 50


def test_a_copy_such_as_worker_processes_get() -> None:
    """Both are made by `__reduce__`."""
    matcher = copy.copy(TitleMatcher(["Rom", "東"], "de", boundaries="none"))
    assert found(matcher, "Roms 東京 Ulm") == ["Rom", "東"]


@pytest.mark.parametrize("wrong", [[], [""], ["a", "a"]])
def test_titles_are_needed(wrong: list[str]) -> None:
    with pytest.raises(ConfigError, match="titles"):
        TitleMatcher(wrong, "de")


def test_missing_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ahocorasick_rs", None)
    with pytest.raises(ConfigError, match=r"xlt-engine\[corpus\]"):
        TitleMatcher(["Rom"], "de")


def test_kinds_of_characters() -> None:
    assert [is_word(c) for c in "aé1_ -.\u0301ी東"] == [True] * 4 + [False] * 3 + [True] * 3
    assert [is_unspaced(c) for c in "aя東한ไ\U00020000"] == [False, False, True, True, True, True]
