"""Bad input through the command line: the exit code, a message with place and advice, and nothing lost.

Every case copies a finished run, spoils one thing, runs again, and compares the run folder's results byte for byte;
with the fault mended there is nothing left to do.
"""

import json
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from xlt_engine import DivergedError
from xlt_engine.cli import main
from xlt_engine.engine import run as run_recipe

FAST = "checkpoint.seconds=60"
CONFIG, DATA, MODEL, DIVERGED = 2, 3, 4, 7
WEIGHTS = "model.safetensors"
WORDS = "bert.embeddings.word_embeddings.weight"
QUERY = "bert.encoder.layer.0.attention.self.query.weight"
EXTRA, ZEROS = "bert.encoder.layer.7.output.dense.bias", np.zeros((16, 8), np.float32)


@dataclass(frozen=True)
class Answer:
    """What a command returned."""

    code: int
    out: str
    err: str


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[..., Answer]]:
    """`xlt-engine` in this process."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def call(*arguments: str | Path) -> Answer:
        capsys.readouterr()
        caught = pytest.raises(SystemExit, main, [str(a) for a in arguments])
        out, err = capsys.readouterr()
        assert isinstance(caught.value.code, int)
        return Answer(caught.value.code, out, err)

    yield call
    for number, handler in handlers.items():
        signal.signal(number, handler)


class Made:
    """A folder with recipe, data and a finished run, of its own for each test."""

    def __init__(self, origin: Path, folder: Path, cli: Callable[..., Answer], recipe: str = "tiny.toml") -> None:
        shutil.copytree(origin, folder)
        self.folder, self.recipe, self.home, self._cli = folder, folder / recipe, folder / "run", cli

    def run(self, *overrides: str) -> Answer:
        options = [x for override in (FAST, *overrides) for x in ("--set", override)]
        return self._cli("run", self.recipe, "--run-dir", self.home, "--quiet", *options)

    def results(self) -> dict[str, bytes]:
        """The content of every file that a stage left, and the rows and warnings of the summary."""
        found = {str(p.relative_to(self.home)): p.read_bytes() for p in self.home.glob("seed-*/**/*") if p.is_file()}
        summary = json.loads((self.home / "summary.json").read_bytes())
        return found | {"rows": json.dumps([summary["rows"], summary["warnings"]]).encode()}

    def status(self) -> dict[str, Any]:
        value: dict[str, Any] = json.loads((self.home / "status.json").read_bytes())
        return value

    def refuses(self, code: int, *parts: str, overrides: Sequence[str] = ()) -> None:
        """The run ends with the code and a message that has all parts, says so in its status, and changes nothing."""
        before = self.results()
        answer = self.run(*overrides)
        assert answer.code == code, answer.err
        assert answer.err.startswith("error: ")
        assert not [p for p in parts if p not in answer.err], answer.err
        assert self.results() == before
        if code != CONFIG:
            status = self.status()
            assert (status["state"], status["exit_code"], status["resumable"]) == ("failed", code, True)
            assert f"error: {status['reason']}\n" == answer.err

    def goes_on(self, *overrides: str) -> None:
        """With the fault mended nothing has to be made again."""
        before = self.results()
        answer = self.run(*overrides)
        assert (answer.code, answer.err) == (0, "")
        assert "stages are up to date" in answer.out
        assert self.results() == before

    def warnings(self, stage: str) -> dict[str, dict[str, Any]]:
        record = json.loads((self.home / "seed-0" / stage / "stage.json").read_bytes())
        return {w["name"]: w for w in record["warnings"]}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {}


@pytest.fixture
def made(
    tiny: Any,
    finished: dict[str, Path],
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    cli: Callable[..., Answer],
) -> Callable[[str], Made]:
    """A finished run of a task; "checkpoint" starts from a model folder."""

    def copy(task: str = "ner") -> Made:
        if task not in finished:
            origin = tmp_path_factory.mktemp("bad-input") / task
            if task == "checkpoint":
                shutil.copytree(copy("ner").folder, origin)
                (origin / "run" / "seed-0" / "pretrain").rename(origin / "model")
                shutil.rmtree(origin / "run")
                (origin / "model" / "stage.json").unlink()  # which would refuse every change before it is looked at
                recipe = origin / "tiny.toml"
                head, tail = recipe.read_text("utf-8").split("[model.new]")
                tail = tail.split("[source]", 1)[1]
                recipe.write_text(f'{head}[model]\npath = "model"\n[source]{tail}', "utf-8")
                run_recipe(recipe, run_dir=origin / "run", overrides=[FAST, "selftrain.on=false"])
            else:
                run = tiny(task)
                run.run(FAST)
                shutil.copytree(run.folder, origin)
                shutil.rmtree(run.folder)
            finished[task] = origin
        return Made(finished[task], tmp_path / f"copy-{task}", cli)

    return copy


def put(number: int, line: str | bytes) -> Callable[[Path], None]:
    """An edit that replaces a line, counted from 1."""
    new = line.encode() if isinstance(line, str) else line

    def edit(path: Path) -> None:
        lines = path.read_bytes().split(b"\n")
        lines[number - 1] = new
        path.write_bytes(b"\n".join(lines))

    return edit


def into_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def blank(path: Path) -> None:
    path.write_text("\n \n\n", "utf-8")


NER, CLS, WRONG = "ner", "classification", "cannot be read"
OF_NER = "the labels are O, B-LOC, I-LOC, B-PER, I-PER; correct the file"
OF_CLS = "the labels are negative, positive; correct the file or the list"
MUNICH, TO_LATIN = b"die Stadt M\xfcnchen ist alt .", 'set targets.0.reader.unlabelled_encoding = "latin-1"'
# task, file, edit, what the message says: the place with what is wrong, and what to do
FILES: dict[str, tuple[str, str, Callable[[Path], None], str, str]] = {
    "missing-train": (NER, "train.conll", Path.unlink, f": {WRONG}: No such file", "check the path"),
    "missing-test": (NER, "test-de.conll", Path.unlink, f": {WRONG}: No such file", "check the path"),
    "unreadable-test": (NER, "test-de.conll", into_folder, f": {WRONG}", "permissions"),
    "columns-tsv": (CLS, "train.tsv", put(5, "a\tb\tc"), ":5: 3 columns, but the header has 2", "give every row the"),
    "labels-ner": (NER, "test-de.conll", put(1, "Anna\tB-CITY"), ":1: unknown label 'B-CITY'", OF_NER),
    "labels-cls": (CLS, "test-de.tsv", put(4, "das Buch .\tneutral"), ":4: unknown label 'neutral'", OF_CLS),
    "empty-language": (NER, "de.txt", blank, ": no examples (skipped: 3 blank)", "check the file"),
    "empty-word": (NER, "train.conll", put(2, "\tO"), ":2: empty word", "give a word, or leave the whole line blank"),
    "not-utf-8": (NER, "de.txt", put(3, MUNICH), ":3:12: byte 0xfc is not utf-8", TO_LATIN),
}


@pytest.mark.parametrize(("task", "file", "edit", "place", "advice"), FILES.values(), ids=FILES)
@pytest.mark.fault(32, 34)
def test_files(made: Callable[[str], Made], task: str, file: str, edit: Any, place: str, advice: str) -> None:
    run = made(task)
    path = run.folder / file
    content = path.read_bytes()
    edit(path)
    run.refuses(DATA, f"{path}{place}", advice)
    if path.is_dir():
        path.rmdir()
    path.write_bytes(content)
    run.goes_on()


@pytest.mark.parametrize(
    ("name", "said"),
    [("empty", '"empty" given, a folder without files'), ("a" * 300 + "*[", "given, "), ("none-*.txt", "no such file")],
)
def test_folders_and_patterns_of_text(tiny: Any, cli: Callable[..., Answer], name: str, said: str) -> None:
    """Unlabelled text may be a folder or a pattern, which then has to have files."""
    run = tiny("ner")
    (run.folder / "empty").mkdir()
    answer = cli("check", run.recipe, "--set", f'targets.0.unlabelled=["{run.folder}/{name}"]')
    assert (answer.code, said in answer.err + answer.out) == (2, True), answer


def test_a_bad_file_is_found_before_anything_is_trained(tiny: Any, cli: Callable[..., Answer]) -> None:
    run = tiny("ner")
    put(1, "Anna\tB-CITY")(run.folder / "test-de.conll")
    answer = cli("run", run.recipe, "--run-dir", run.folder / "run", "--quiet")
    assert answer.code == DATA
    assert "test-de.conll:1: unknown label 'B-CITY'" in answer.err
    assert not list((run.folder / "run").glob("seed-*/**/*"))


@pytest.mark.fault(35)
def test_words_without_a_token_are_reported(made: Callable[[str], Made]) -> None:
    """Characters that the tokenizer drops make words, and whole sentences, that the encoder does not see."""
    run = made("ner")
    train, unlabelled = run.folder / "train.conll", run.folder / "de.txt"
    train.write_text(train.read_text("utf-8") + "\n\u200b\tO\n\n\u200b\tO\nParis\tB-LOC\n", "utf-8")
    unlabelled.write_text(unlabelled.read_text("utf-8") + "\u200b\n", "utf-8")
    answer = run.run()
    assert answer.code == 0, answer.err
    found = run.warnings("de/finetune")["words-without-token"]
    assert found["values"]["words"] == 2
    assert "en" in found["message"]
    assert run.warnings("de/soft1")["words-without-token"]["values"]["words"] == 1


def test_long_sentences_are_counted_by_name(made: Callable[[str], Made]) -> None:
    """max_length 16 leaves room for 14 tokens: 20 one-token words lose 6."""
    run, long, name = made("ner"), ["in"] * 20, "cut-by-maximum-length"
    for file, more in (
        ("train.conll", "\n" + "in\tO\n" * 20),
        ("test-de.conll", "\n" + "in\tO\n" * 20),
        ("de.txt", f"{' '.join(long)}\n{' '.join(long)} in\n"),
    ):
        with (run.folder / file).open("a", encoding="utf-8") as text:
            text.write(more)
    answer = run.run()
    assert answer.code == 0, answer.err
    record = json.loads((run.home / "seed-0" / "de" / "finetune" / "stage.json").read_bytes())
    cuts = {w["values"]["role"]: w for w in record["warnings"] if w["name"] == name}
    words = sum(len(line) > 0 for line in (run.folder / "train.conll").read_text("utf-8").split("\n"))
    train = {"cut": 6, "total": words, "max_length": 16, "role": "source", "language": "en", "unit": "words"}
    assert cuts["source"]["values"] == train
    assert "test" not in cuts  # read in windows
    assert "raise max_length or split the texts" in cuts["source"]["message"]
    pool, text = (run.warnings(stage)[name]["values"] for stage in ("de/soft1", "de/btf"))
    assert (pool["cut"], pool["role"], pool["language"]) == (6 + 7, "target", "de")
    assert (text["unit"], text["max_length"]) == ("tokens", 16)
    assert name in {w["name"] for w in json.loads((run.home / "summary.json").read_bytes())["warnings"]}


@pytest.mark.parametrize(
    ("old", "new", "message", "option"),
    [
        ("[btf]\nepochs", "[btf]\nepoks", "btf.epoks: unknown key in [btf]; did you mean epochs?", "btf.epoks=1"),
        (
            "[btf]\n",
            "[btf]\nfrozen_eval = true\n",
            "btf.frozen_eval: removed in 0.2.0; see CHANGELOG.md: leave it out",
            "selftrain.source_filter=agreed",
        ),
        ("\nmax_length = 16", '\nmax_length = "sixteen"', 'max_length: "sixteen" given, expected a whole number', ""),
    ],
    ids=["unknown", "removed", "wrong type"],
)
def test_a_wrong_key_is_named_with_its_line(made: Any, old: str, new: str, message: str, option: str) -> None:
    """And with the option of the command line, where it stands there."""
    run = made("ner")
    text = run.recipe.read_text("utf-8")
    run.recipe.write_text(text.replace(old, new), "utf-8")
    run.refuses(CONFIG, f"{run.recipe}:{text[: text.index(old)].count(chr(10)) + 2}: {message}")
    run.recipe.write_text(text, "utf-8")
    if option:
        what = message.split(": ")[1].split(";")[0].split(" in [")[0]
        run.refuses(CONFIG, f"--set {option}: {option.split('=')[0]}: {what}", overrides=[option])
    run.goes_on()


@pytest.mark.parametrize(
    ("task", "override", "parts"),
    [
        ("ner", "training.freeze_layers=2", ["training.freeze_layers: is 2, but the encoder has 1 layers; lower it"]),
        ("ner", "btf.freeze_layers=2", ["btf.freeze_layers: is 2, but the encoder has 1 layers; lower it"]),
        ("ner", "source.general=[]", ["no general text for en; give source.general"]),
        ("classification", 'pooling="pooler"', ['pooling = "pooler" needs a checkpoint', 'use "cls"']),
    ],
)
def test_settings_that_do_not_fit_the_encoder(made: Any, task: str, override: str, parts: list[str]) -> None:
    run = made(task)
    run.refuses(CONFIG, *parts, overrides=[override])
    assert run.status()["exit_code"] == CONFIG
    run.goes_on()


def retensor(edit: Callable[[dict[str, np.ndarray]], Any]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        tensors = dict(load_file(folder / WEIGHTS))
        edit(tensors)
        save_file(tensors, folder / WEIGHTS)

    return spoil


def truncate(folder: Path) -> None:
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(data[: len(data) * 2 // 3])


def larger_vocabulary(folder: Path) -> None:
    path = folder / "tokenizer.json"
    value = json.loads(path.read_bytes())
    vocabulary = value["model"]["vocab"]
    vocabulary["zzz"] = max(vocabulary.values()) + 1
    path.write_text(json.dumps(value), "utf-8")


UNFIT = "the tensors do not fit config.json"
CHECKPOINTS: dict[str, tuple[Callable[[Path], None], tuple[str, ...]]] = {
    "missing": (retensor(lambda tensors: tensors.pop(QUERY)), (UNFIT, "missing: ", "query.weight [16, 16]")),
    "extra": (retensor(lambda tensors: tensors.update({EXTRA: ZEROS[0]})), (UNFIT, "unexpected: ", EXTRA)),
    "mis-shaped": (
        retensor(lambda tensors: tensors.update({QUERY: ZEROS})),
        (UNFIT, "shape: ", "query.weight", "[16, 8]", "expected [16, 16]"),
    ),
    "truncated": (truncate, (f"{WEIGHTS}: cannot be read", "copy or download the file again")),
    "tokenizer-larger-than-embedding": (
        larger_vocabulary,
        ("the tokenizer has ids up to", "the word embedding", "rows; they belong to different checkpoints"),
    ),
}


@pytest.mark.parametrize(("spoil", "parts"), CHECKPOINTS.values(), ids=CHECKPOINTS)
def test_checkpoints(made: Callable[[str], Made], spoil: Callable[[Path], None], parts: tuple[str, ...]) -> None:
    run = made("checkpoint")
    shutil.copytree(run.folder / "model", run.folder / "sound")
    spoil(run.folder / "model")
    run.refuses(MODEL, str(run.folder / "model"), *parts, overrides=["selftrain.on=false"])
    shutil.rmtree(run.folder / "model")
    (run.folder / "sound").rename(run.folder / "model")
    run.goes_on("selftrain.on=false")


@pytest.mark.fault(42)
def test_no_accepted_pseudo_label(made: Callable[[str], Made]) -> None:
    """The run stops with the histogram; what came before stays, and a lower threshold goes on from there."""
    run = made("ner")
    before = run.results()
    strict = 'selftrain.alpha.rule="fixed:0.999999"'
    answer = run.run(strict)
    assert answer.code == DATA
    assert "seed-0/de/hard1: none of " in answer.err
    assert 'selftrain.alpha.rule = "fixed:0.' in answer.err
    items = int(answer.err.split("none of ")[1].split()[0])
    bins = [line.split() for line in answer.err.split("voters:\n")[1].splitlines()]
    assert [row[0] for row in bins] == [f"{i / 10:.2f}-{(i + 1) / 10:.2f}" for i in range(10)]
    assert sum(int(row[1]) for row in bins) == items
    status = run.status()
    assert (status["state"], status["exit_code"], status["stage"]) == ("failed", DATA, "seed-0/de/hard1")
    after = run.results()
    kept = {k: v for k, v in before.items() if "hard1" not in k and k != "rows"}
    assert {k: v for k, v in after.items() if k in kept} == kept
    assert run.run().code == 0
    hashes = [json.loads(r["seed-0/de/hard1/stage.json"])["hashes"][WEIGHTS] for r in (before, run.results())]
    assert hashes[0] == hashes[1]


@pytest.mark.parametrize("task", ["ner", "classification"])
def test_one_class_that_swallows_all(made: Callable[[str], Made], task: str) -> None:
    run = made(task)
    found = run.warnings("de/hard1")["class-share-collapse"]
    decision = json.loads((run.home / "seed-0" / "de" / "hard1" / "decision.json").read_bytes())
    accepted = {name: entry["accepted"] for name, entry in decision["classes"].items()}
    label = max(accepted, key=accepted.__getitem__)
    share = accepted[label] / sum(accepted.values())
    assert found["values"]["label"] == label
    assert label == "O" or task == "classification"
    assert found["values"]["share"] == pytest.approx(share, rel=1e-12)
    assert f"{share:.1%} of the accepted pseudo-labels are {label!r}" in found["message"]
    assert "lower alpha, or stop after fewer rounds" in found["message"]
    summary = json.loads((run.home / "summary.json").read_bytes())
    assert "class-share-collapse" in {w["name"] for w in summary["warnings"]}


@pytest.mark.parametrize(("stage", "passage"), [("pretrain", 4), ("de/btf", 16)])
@pytest.mark.fault(40)
def test_not_a_number(tiny: Any, made: Any, cli: Any, monkeypatch: Any, stage: str, passage: int) -> None:
    """6 steps each of pretrain, baseline and BTF: the update is not made, and the next start ends in the same bits."""
    expected = made("ner").results()
    run, step = tiny("ner"), (passage - 1) % 6
    home = run.folder / "run"
    command = ("run", run.recipe, "--run-dir", home, "--quiet", "--set", "checkpoint.seconds=0")
    monkeypatch.setenv("XLT_FAULT", f"loop.loss:{passage}:nan")
    answer = cli(*command)
    monkeypatch.delenv("XLT_FAULT")
    assert answer.code == DIVERGED == DivergedError.exit_code
    assert answer.err.startswith(f"error: seed-0/{stage}: step {step}: loss nan, gradient norm nan; first bad gradient")
    assert "The weights were not updated; lower the learning rate or look at these examples" in answer.err
    named = answer.err.split("examples ")[1].split(". The")[0].split(", ")
    lines = {f"{p.stem}:{n}" for p in run.folder.glob("*.*") for n in range(1, 200) if p.suffix in (".txt", ".conll")}
    assert len(named) == 8
    assert set(named) <= lines
    status = json.loads((home / "status.json").read_bytes())
    assert (status["state"], status["exit_code"], status["stage"]) == ("failed", DIVERGED, f"seed-0/{stage}")
    [*_, last] = sorted((home / "seed-0" / stage / "checkpoint").iterdir())
    assert last.name.endswith(f"{step:08d}")
    tensors = load_file(last / WEIGHTS) if (last / WEIGHTS).exists() else load_file(next(last.glob("*.safetensors")))
    assert all(np.isfinite(value).all() for value in tensors.values())
    assert cli(*command).code == 0
    for name, data in expected.items():
        if name.endswith(WEIGHTS):
            assert (home / name).read_bytes() == data, name


def test_weights_that_are_not_numbers(made: Callable[[str], Made]) -> None:
    run = made("checkpoint")
    spoil = retensor(lambda tensors: tensors[WORDS].fill(np.nan))
    spoil(run.folder / "model")
    answer = run.run("selftrain.on=false")
    assert answer.code == DIVERGED
    assert "step 0: loss nan" in answer.err
    assert run.status()["resumable"]


def test_a_plain_text_is_cut_as_the_recipe_says(tiny: Any, cli: Callable[..., Answer]) -> None:
    """With reader.split = "whitespace" the model has seen tokenised text, and `predict` reads its input so."""
    run = tiny("ner")
    text = run.folder / "new.txt"
    text.write_text("Anna wohnt in Wien.\n", "utf-8")
    words = {}
    for split in ("whitespace", "punctuation"):
        home = run.folder / split
        run.run(FAST, f'reader.split="{split}"', "selftrain.on=false", "arms.baseline=false", where=split)
        answer = cli("predict", home / "seed-0" / "de" / "finetune", text)
        assert answer.code == 0
        assert answer.err.startswith("warning: raw-text: ") if split == "whitespace" else not answer.err
        words[split] = [line.split("\t")[0] for line in answer.out.splitlines() if line]
    assert words["whitespace"] == ["Anna", "wohnt", "in", "Wien."]
    assert words["punctuation"] == ["Anna", "wohnt", "in", "Wien", "."]
