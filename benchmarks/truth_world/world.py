"""The truth world's text, its hidden labels and its planted errors, as the files of a folder with a recipe for them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from xlt_engine import ConfigError
from xlt_engine.data import derive_seed
from xlt_engine.data.synthetic.demo_names import Draws
from xlt_engine.data.synthetic.demo_world import RECORD, conll_of, create_world, lines_of, read_world

from .language import FakeLanguage, inversions
from .text import Item, Wrong, entity_types, plant_noise, pools, shares_of, shifted

VERSION = 2
"""Rises with every change to the files that the knobs give."""
SOURCE, TARGET = "en", "fake"
RECIPE = "recipe.toml"
_WHAT = "truth world"


@dataclass(frozen=True, kw_only=True)
class Knobs:
    """What decides a world. Shares lie in [0, 1]; counts are sentences, for each language.

    Attributes:
        anchors: share of the word types that the target writes as the source does.
        letter_overlap: share of the letters that the target keeps; the rest is of another script.
        word_order: strength of the target's rule of word order; 0 is the source's order.
        affixes: share of the other word types that take one of three endings wherever they occur.
        label_shift: how far the shares of the classes in target text move to a reversed order.
        label_noise: share of the labelled sentences in which one entity has a wrong type.
        domain_shift: share of the unlabelled target text that is general text.
        unlabelled_sentences: task text; in the source the labelled sentences are part of it.
    """

    seed: int = 0
    anchors: float = 0.3
    letter_overlap: float = 0.0
    word_order: float = 0.3
    affixes: float = 0.2
    label_shift: float = 0.0
    label_noise: float = 0.1
    domain_shift: float = 0.0
    general_sentences: int = 2500
    control_sentences: int = 3000
    train_sentences: int = 1500
    unlabelled_sentences: int = 3000
    test_sentences: int = 800

    def __post_init__(self) -> None:
        shares = [f.name for f in fields(self) if f.type == "float" and not 0 <= getattr(self, f.name) <= 1]
        counts = [f.name for f in fields(self) if f.name.endswith("_sentences") and getattr(self, f.name) < 1]
        wrong = [f"{name} must lie in [0, 1]" for name in shares] + [f"{name} must be at least 1" for name in counts]
        if self.unlabelled_sentences <= self.train_sentences:
            wrong.append("unlabelled_sentences must be above train_sentences, which are part of them")
        if wrong:
            raise ConfigError("truth world: " + "; ".join(wrong))


@dataclass(frozen=True)
class World:
    """A world that lies in a folder.

    Attributes:
        recipe: names the files that a run may see.
        hidden: the target's unlabelled text with its gold labels, sentence by sentence.
        noise: the errors planted in the source's labels.
        measured: what the knobs came to in the text that was made.
    """

    folder: Path
    knobs: Knobs
    recipe: Path
    hidden: Path
    noise: tuple[Wrong, ...]
    measured: dict[str, float]


def make_world(knobs: Knobs, folder: Path) -> World:
    """The world of some knobs, written into `folder` unless it lies there already.

    Raises:
        ConfigError: the grammar does not suffice for them.
        DataError: the folder holds something else: other files, another world, or files that were changed.
        StorageError: writing failed.
    """
    if not (folder / RECORD).exists():
        contents, record = _Maker(knobs).make()
        contents[RECIPE] = Path(__file__).with_name(RECIPE).read_text("utf-8")
        create_world(folder, contents, {"version": VERSION, "config": asdict(knobs)} | record, _WHAT)
    return open_world(folder, knobs)


def open_world(folder: Path, knobs: Knobs | None = None) -> World:
    """The world in a folder.

    Raises:
        DataError: there is none, it is not that of `knobs`, or a file was changed.
    """
    record = read_world(folder, VERSION, None if knobs is None else asdict(knobs), _WHAT)
    noise = tuple(Wrong(**entry) for entry in record["noise"])
    made = Knobs(**record["config"])
    return World(folder, made, folder / RECIPE, folder / f"hidden.{TARGET}.conll", noise, record["measured"])


class _Maker:
    """Draws the sentences of a world, all different and none the translation of another."""

    def __init__(self, knobs: Knobs) -> None:
        self.knobs = knobs
        self.text, self.general = pools(knobs.seed)
        self.files: dict[str, str] = {}

    def make(self) -> tuple[dict[str, str], dict[str, Any]]:
        """The files by name, and what the record says besides the configuration."""
        knobs = self.knobs
        task, test = self.text.take(knobs.unlabelled_sentences), self.text.take(knobs.test_sentences)
        clean, rest = task[: knobs.train_sentences], task[knobs.train_sentences :]
        train, wrong = plant_noise(clean, knobs.label_noise, knobs.seed)
        self._write(SOURCE, {"unlabelled": rest, "test": test, "train": train} | self._take_general())
        drawn = self._draw(shares_of(item.kind for item in clean))
        everything = [*task, *test, *(item for part in drawn.values() for item in part)]
        _check_labels(train, everything)
        language = FakeLanguage(
            (word for item in everything for word in item.words),
            seed=derive_seed(knobs.seed, "truth world", "language", TARGET),
            anchors=knobs.anchors,
            letter_overlap=knobs.letter_overlap,
            affixes=knobs.affixes,
            word_order=knobs.word_order,
        )
        self._target(language, drawn)
        measured = {"label_noise": len(wrong) / len(clean)} | _measured(language, clean, drawn)
        return self.files, {"noise": [asdict(w) for w in wrong], "measured": measured}

    def _draw(self, shares: Mapping[str, float]) -> dict[str, list[Item]]:
        """The target's sentences, in the words of the source."""
        knobs = self.knobs
        asked = shifted(shares, knobs.label_shift) if knobs.label_shift > 0 else None
        foreign = round(knobs.domain_shift * knobs.unlabelled_sentences)
        return {
            "task": self.text.take(knobs.unlabelled_sentences - foreign, asked),
            "foreign": self.general.take(foreign),
            "test": self.text.take(knobs.test_sentences, asked),
        } | self._take_general()

    def _take_general(self) -> dict[str, list[Item]]:
        knobs = self.knobs
        return {
            "general": self.general.take(knobs.general_sentences),
            "control": self.general.take(knobs.control_sentences),
        }

    def _target(self, language: FakeLanguage, drawn: Mapping[str, list[Item]]) -> None:
        draws = Draws(derive_seed(self.knobs.seed, "truth world", "endings", TARGET))
        said = {
            name: [Item(*language.sentence(item.words, item.tags, draws)) for item in items]
            for name, items in drawn.items()
        }
        both = said.pop("task") + said.pop("foreign")
        mixed = sorted(range(len(both)), key=lambda i: derive_seed(self.knobs.seed, "truth world", "mix", TARGET, i))
        pool = [both[i] for i in mixed]
        self._write(TARGET, said | {"unlabelled": pool})
        self.files[f"hidden.{TARGET}.conll"] = conll_of((item.words, item.tags) for item in pool)

    def _write(self, language: str, parts: Mapping[str, Sequence[Item]]) -> None:
        for name, items in parts.items():
            if name in ("train", "test"):
                self.files[f"task.{language}.{name}.conll"] = conll_of((item.words, item.tags) for item in items)
            else:
                stem = "task.{}.unlabelled" if name == "unlabelled" else f"{name}.{{}}"
                self.files[f"{stem.format(language)}.txt"] = lines_of(item.words for item in items)


def _check_labels(train: Sequence[Item], everything: Sequence[Item]) -> None:
    known, all_types = ({n for item in part for n in entity_types(item.tags)} for part in (train, everything))
    if unseen := sorted(all_types - known):
        raise ConfigError(f"truth world: no training sentence has {', '.join(unseen)}; ask for more train_sentences")


def _measured(language: FakeLanguage, clean: Sequence[Item], drawn: Mapping[str, Sequence[Item]]) -> dict[str, float]:
    """What the knobs came to, counted in the target's own text (fractions; words without a letter left out)."""
    items = [item for name in ("task", "foreign", "test", "general", "control") for item in drawn[name]]
    tokens = [w for item in items for w in item.words if any(map(str.isalpha, w))]
    types = sorted({w.lower() for w in tokens})
    first, second = (
        shares_of(name for item in part for name in entity_types(item.tags)) for part in (clean, drawn["task"])
    )
    return {
        "anchor_types": _mean(language.word(w) == w for w in types),
        "anchor_tokens": _mean(language.word(w) == w for w in tokens),
        "ending_types": _mean(language.takes_ending(w) for w in types),
        "ending_tokens": _mean(map(language.takes_ending, tokens)),
        "inversions": _mean(inversions(language.order(item.words, item.tags)) for item in items),
        "prior_distance": sum(abs(first.get(n, 0.0) - second.get(n, 0.0)) for n in sorted(first | second)) / 2,
        "domain_shift": len(drawn["foreign"]) / (len(drawn["foreign"]) + len(drawn["task"])),
    }


def _mean(values: Iterable[float]) -> float:
    listed = [float(v) for v in values]
    return sum(listed) / len(listed) if listed else 0.0
