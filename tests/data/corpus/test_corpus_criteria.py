import math
import sys

import pytest

from xlt_engine import ConfigError, DataError
from xlt_engine.data.corpus.language_id import accepted_codes, language_model
from xlt_engine.data.corpus.select import OverlapScorer, TfidfScorer, features


def test_features() -> None:
    assert features("Das ALTE Haus, 3 Türen.", "de") == ["das", "alte", "haus", "3", "türen"]
    assert features("東京都 a", "ja") == ["東京", "京都", "a"]


def test_overlap_by_hand() -> None:
    scorer = OverlapScorer(["New York", "New Delhi", "Rom"], "en")
    scale = math.log(4 + 1)  # new, york, delhi, rom
    assert scorer.score("Rom ist alt") == pytest.approx(1 / (3 + 5))
    assert scorer.score("new Rom new") == pytest.approx((1 + 1 - math.log(2) / scale) / (3 + 5))
    assert scorer.score("nichts davon") == 0
    assert scorer.score("Rom Rom Rom") == scorer.score("Rom ist alt"), "an entity word counts once"


def cosine(task: list[str], sample: list[str], sentence: str) -> float:
    """The formula of the docstring with dictionaries."""
    bags = [t.lower().split() for t in [*task, *sample]]
    idf = {w: math.log((1 + len(bags)) / (1 + sum(w in b for b in bags))) for b in [*bags, sentence.split()] for w in b}

    def vector(words: list[str]) -> dict[str, float]:
        raw = {w: (1 + math.log(words.count(w))) * idf[w] for w in words}
        norm = math.sqrt(sum(v * v for v in raw.values())) or 1.0
        return {w: v / norm for w, v in raw.items()}

    centre: dict[str, float] = {}
    for bag in bags[: len(task)]:
        for w, v in vector(bag).items():
            centre[w] = centre.get(w, 0.0) + v
    norm = math.sqrt(sum(v * v for v in centre.values()))
    return sum(v * centre.get(w, 0.0) / norm for w, v in vector(sentence.lower().split()).items())


def test_tfidf_against_the_formula() -> None:
    task = ["der film war gut gut", "ein guter film", "die handlung war lahm"]
    sample = ["der hund lief", "die katze schlief in der sonne", "ein haus am see"]
    scorer = TfidfScorer(task, sample, "de")
    for sentence in ("der film war lahm", "die katze lief", "ein see", "film film film haus"):
        assert scorer.score(sentence) == pytest.approx(cosine(task, sample, sentence), abs=1e-9)
    assert scorer.score("der film war lahm") > scorer.score("die katze lief") > 0
    assert scorer.score("...") == 0


def test_words_are_needed() -> None:
    with pytest.raises(DataError, match="no entity has a word"):
        OverlapScorer(["a", "b c"], "de")
    with pytest.raises(DataError, match="task text"):
        TfidfScorer(["..."], ["ein haus"], "de")


def test_language() -> None:
    assert accepted_codes("de-AT") == {"de"}
    sentences = {
        "de": "Der Minister sprach am Abend mit den Bürgern der Stadt.",
        "en": "The minister spoke to the people of the town.",
        "ja": "大臣は夏に町を訪れて市民と話をした。",
    }
    for language, sentence in sentences.items():
        assert language_model().classify(sentence)[0] in accepted_codes(language)
    assert not accepted_codes("gsw")
    assert "sr" in accepted_codes("hr"), "they cannot be told apart"


def test_language_without_its_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "py3langid.langid", None)
    language_model.cache_clear()
    with pytest.raises(ConfigError, match="--no-language-check"):
        accepted_codes("de")
