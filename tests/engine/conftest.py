"""A run small enough to be repeated many times: hand-made sentences, one layer of width 16, a few steps a stage."""

import json
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from xlt_engine.data import Tokenizer, TokenStore
from xlt_engine.engine import Progress, RunResult, load_recipe, run
from xlt_engine.engine.plan import Stage, digest, fingerprint
from xlt_engine.engine.recipe.load import Resolved
from xlt_engine.engine.runs.graph import make_plan

PEOPLE = ["Anna", "Berta", "Carl", "Dora", "Emil", "Frida", "Gustav", "Hanna"]
PLACES = ["Paris", "London", "Berlin", "Madrid", "Roma", "Wien", "Oslo", "Praha"]
EN = [["{p}", "lives", "in", "{l}"], ["today", "{p}", "saw", "{l}"], ["the", "city", "of", "{l}", "is", "old"]]
DE = [["{p}", "wohnt", "in", "{l}"], ["heute", "sah", "{p}", "{l}"], ["die", "Stadt", "{l}", "ist", "alt", "."]]
GOOD, BAD = ["good", "fine", "superb", "lovely"], ["bad", "poor", "awful", "dull"]
GUT, SCHLECHT = ["gut", "fein", "prima", "nett"], ["schlecht", "mies", "lahm", "öde"]

COMMON = """
name = "tiny"
task = "{task}"
device = "cpu"
max_length = 16
[model.new]
vocab_size = 120
hidden_size = 16
num_layers = 1
num_heads = 2
intermediate_size = 32
[source]
language = "en"
train = "train.{ending}"
dev = "dev.{ending}"
test = "test-en.{ending}"
general = ["general-en.txt"]
[[targets]]
language = "de"
unlabelled = ["de.txt"]
test = "test-de.{ending}"
general = ["general-de.txt"]
[pretrain]
epochs = 1
batch_size = 8
[btf]
epochs = 1
batch_size = 8
lr = 1e-3
[finetune]
epochs = 2
batch_size = 8
lr = 2e-2
[training]
freeze_embeddings = false
freeze_layers = 0
[selftrain]
rounds = 2
[selftrain.soft]
epochs = 1
batch_size = 8
lr = 3e-2
[selftrain.hard]
epochs = 1
batch_size = 8
lr = 2e-3
[selftrain.alpha]
rule = "fixed:0.2"
[checkpoint]
seconds = 600
"""


def sentence(templates: Sequence[Sequence[str]], number: int) -> list[tuple[str, str]]:
    """The words and tags of one sentence; different numbers below 192 give different sentences."""
    person, place = PEOPLE[number % 8], PLACES[(number // 3) % 8]
    named = {"{p}": (person, "B-PER"), "{l}": (place, "B-LOC")}
    return [named.get(word, (word, "O")) for word in templates[number % len(templates)]]


def write_conll(path: Path, templates: Sequence[Sequence[str]], numbers: Sequence[int]) -> None:
    blocks = ["".join(f"{word}\t{tag}\n" for word, tag in sentence(templates, n)) for n in numbers]
    path.write_text("\n".join(blocks), encoding="utf-8")


def write_text(path: Path, templates: Sequence[Sequence[str]], numbers: Sequence[int]) -> None:
    lines = [" ".join(word for word, _ in sentence(templates, n)) for n in numbers]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def opinion(words: Sequence[Sequence[str]], subject: str, number: int) -> tuple[str, str]:
    kind = number % 2
    first, second = words[kind][(number // 2) % 4], words[kind][(number // 8) % 4]
    return f"{subject} {PLACES[number % 8]} {first} {second} .", ("positive", "negative")[kind]


def write_table(path: Path, words: Sequence[Sequence[str]], subject: str, numbers: Sequence[int]) -> None:
    rows = ["text\tlabel", *("\t".join(opinion(words, subject, n)) for n in numbers)]
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")


def write_tiny(folder: Path, task: str = "ner") -> Path:
    """Data files and the recipe `tiny.toml` in `folder`; returns the recipe."""
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "general-en.txt", EN, range(60, 84))
    write_text(folder / "general-de.txt", DE, range(60, 84))
    if task == "ner":
        for name, templates, numbers in (
            ("train", EN, range(24)),
            ("dev", EN, range(24, 40)),
            ("test-en", EN, range(40, 52)),
            ("test-de", DE, range(40, 52)),
        ):
            write_conll(folder / f"{name}.conll", templates, numbers)
        write_text(folder / "de.txt", DE, range(24))
        ending = "conll"
    else:
        for name, words, subject, numbers in (
            ("train", (GOOD, BAD), "the book about", range(24)),
            ("dev", (GOOD, BAD), "the book about", range(24, 40)),
            ("test-en", (GOOD, BAD), "the book about", range(40, 52)),
            ("test-de", (GUT, SCHLECHT), "das Buch über", range(40, 52)),
        ):
            write_table(folder / f"{name}.tsv", words, subject, numbers)
        lines = [opinion((GUT, SCHLECHT), "das Buch über", n)[0] for n in range(24)]
        (folder / "de.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
        ending = "tsv"
    recipe = folder / "tiny.toml"
    recipe.write_text(COMMON.replace("{task}", task).replace("{ending}", ending), encoding="utf-8")
    return recipe


def score_in(folder: Path, language: str, metric: str) -> float:
    """A score of a stage, by its folder."""
    scores = json.loads((folder / "scores.json").read_bytes())["scores"]
    (value,) = (s["value"] for s in scores if (s["language"], s["metric"]) == (language, metric))
    return float(value)


class Watch(Progress):
    """What a run tells: the stage of each step, how many the stage still has, warnings and notes."""

    def __init__(self) -> None:
        self.steps, self.left, self.warnings, self.lines = list[str](), -1, list[Any](), list[str]()

    def begin(self, stage: str, total: int, done: int) -> None:
        self.stage = stage

    def step(self, done: int, total: int, loss: float, tokens: int, lr: float) -> None:
        self.steps.append(self.stage)
        self.left = total - done

    def warning(self, warning: Any) -> None:
        self.warnings.append(warning)

    def note(self, text: str) -> None:
        self.lines.append(text)


class Tiny:
    """A tiny recipe with its data, and its runs."""

    def __init__(self, folder: Path, task: str) -> None:
        self.folder, self.task = folder, task
        self.recipe = write_tiny(folder, task)

    def resolved(self, *overrides: str) -> Resolved:
        return load_recipe(self.recipe, overrides)

    def run(self, *overrides: str, where: str = "run", **more: Any) -> RunResult:
        return run(self.recipe, run_dir=self.folder / where, overrides=overrides, **more)

    def rewrite(self, *changes: tuple[str, str]) -> None:
        """Replaces text of the recipe, each at its first place."""
        text = self.text
        for old, new in changes:
            assert old in text, old
            text = text.replace(old, new, 1)
        self.recipe.write_text(text, "utf-8")

    def table(self, first: str, after: str) -> str:
        """The recipe from one line up to another."""
        return self.text[self.text.index(first) : self.text.index(after)]

    def take_model(self, path: str | Path) -> None:
        """The encoder of a folder in place of a new one."""
        start = self.text.index("[model.new]")
        end = self.text.index("[", start + 1)
        self.recipe.write_text(f'{self.text[:start]}[model]\npath = "{path}"\n{self.text[end:]}', "utf-8")

    @property
    def text(self) -> str:
        return self.recipe.read_text("utf-8")

    def plan(self, *overrides: str) -> dict[str, Stage]:
        """The stages by their names, without the seed where it is the first."""
        stages = make_plan(self.resolved(*overrides).config)
        assert len({s.id for s in stages}) == len(stages)
        return {s.id.removeprefix("seed-0/"): s for s in stages}

    def digests(self, *overrides: str) -> dict[str, str]:
        """The fingerprint of each stage, with those of its inputs."""
        found: dict[str, str] = {}
        for name, stage in self.plan(*overrides).items():
            inputs = {role: found[other.removeprefix("seed-0/")] for role, other in stage.inputs.items()}
            found[name] = digest(fingerprint(stage, inputs, {}))
        return found

    def remade(self, *overrides: str, before: Sequence[str] = ()) -> set[str]:
        """The stages that overrides make anew, or add, by the fingerprints alone."""
        old, new = self.digests(*before), self.digests(*before, *overrides)
        return {name for name, value in new.items() if old.get(name) != value}

    def store(self, count: int = 24, where: str = "run", *, labelled: bool = False) -> TokenStore:
        """The task store of so many examples that has labels, or that has none."""
        for folder in sorted((self.folder / where / "store").iterdir()):
            store = TokenStore.open(folder)
            if store.task != "text" and len(store) == count and (store.item_labels.max() >= 0) == labelled:
                return store
        raise AssertionError("no such store")

    def tokenizer(self) -> Tokenizer:
        """One of letters, which takes no training."""
        vocabulary, letters = self.folder / "v", "abcdefghijklmnopqrstuvwxyz0123456789."
        vocabulary.mkdir(exist_ok=True)
        words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{x}" for x in letters)]
        (vocabulary / "vocab.txt").write_text("\n".join(words) + "\n")
        return Tokenizer.from_folder(vocabulary)

    def weights(self, name: str, where: str = "run", seed: int = 0) -> str:
        """The hash of what a stage has learned."""
        return str(self.stage(name, where, seed)["hashes"]["model.safetensors"])

    def second_encoder(self) -> Path:
        """The folder of another pre-trained encoder, of another shape and vocabulary."""
        shape = ("model.new.vocab_size=100", "model.new.hidden_size=24")
        self.run(*shape, stage="pretrain", where="second")
        return self.folder / "second" / "seed-0" / "pretrain"

    def stage(self, name: str, where: str = "run", seed: int = 0) -> dict[str, Any]:
        """`stage.json` of "de/soft1" and the like."""
        return self.json(f"{name}/stage.json", where, seed)

    def json(self, name: str, where: str = "run", seed: int = 0) -> dict[str, Any]:
        value: dict[str, Any] = json.loads((self.folder / where / f"seed-{seed}" / name).read_bytes())
        return value


@pytest.fixture
def tiny(tmp_path: Path) -> Callable[[str], Tiny]:
    """A function from a task to its tiny recipe, written below the test's folder."""
    return lambda task="ner": Tiny(tmp_path / task, task)


@pytest.fixture(scope="module")
def tiny_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Tiny]:
    """The same, written once for all tests of a file, for a run that several of them look at."""
    folder = tmp_path_factory.mktemp("once")
    return cache(lambda task: Tiny(folder / task, task))


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Any:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
