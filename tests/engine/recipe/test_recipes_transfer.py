"""The recipes of Yu and Joty (2021): their numbers, and a dry run on small files in the published layouts."""

import json
from pathlib import Path

import numpy as np
import pytest

from xlt_engine.data import pack
from xlt_engine.engine import estimate, load_recipe
from xlt_engine.engine.recipe.load import Resolved, packaged_recipes
from xlt_engine.engine.runs.graph import make_plan
from xlt_engine.engine.runs.prepare import make_context
from xlt_engine.engine.storage.run_folder import RunDir
from xlt_engine.engine.training.progress import Progress

MARC, XNLI = "marc-1.2pct", "xnli-1.2pct"
LANGUAGES = {MARC: "de fr ja zh", XNLI: "ar bg de el es fr hi ru sw th tr ur vi zh"}


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XLT_DATA", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "data"


@pytest.mark.parametrize(("name", "epochs", "labelled", "total"), [(MARC, 2, 2000, 120_000), (XNLI, 5, 5000, 420_000)])
def test_numbers_of_section_4_2(name: str, epochs: int, labelled: int, total: int) -> None:
    config = load_recipe(name).config
    assert (config.max_length, config.seeds, config.source.cap) == (128, (0, 1, 2), labelled)
    for table in map(config.training_of, (config.finetune, config.cotrain, config.contrastive)):
        assert (table.lr, table.weight_decay, table.batch_size, table.epochs) == (5e-5, 0.01, 16, epochs)
        assert (table.warmup, table.freeze_embeddings, table.freeze_layers) == (0, False, 0)
    assert " ".join(t.language for t in config.targets) == LANGUAGES[name]
    assert config.cotrain.cap * len(config.targets) == total
    assert (config.cotrain.parts, config.cotrain.pool, config.cotrain.modes) == (3, "all", ("co", "self-a", "self-b"))
    assert config.cotrain.model is not None
    assert (config.btf.on, config.selftrain.on, config.contrastive.on) == (False, False, False)


@pytest.mark.parametrize("name", [MARC, XNLI])
def test_stages(name: str) -> None:
    plan = make_plan(load_recipe(name).config)
    assert {s.kind for s in plan} == {"finetune", "cotrain"}
    first = [s.id for s in plan if s.seed == 0]
    assert first == ["seed-0/baseline", "seed-0/co1a", "seed-0/co1b"] + [
        f"seed-0/{mode}{n}{x}"
        for mode, letters in (("co", "ab"), ("self", "a"), ("self", "b"))
        for n in range(2, 6)
        for x in letters
    ]


def test_full_and_adapted_settings_parse() -> None:
    full = load_recipe(XNLI, ["source.cap=0", "cotrain.cap=100000"]).config
    assert full.cotrain.cap * len(full.targets) == 1_400_000
    both = {s.id: s for s in make_plan(load_recipe(MARC, ["contrastive.on=true", "cotrain.start=adapted"]).config)}
    assert [both[f"seed-0/co1{x}"].inputs for x in "ab"] == [{"base": "seed-0/la"}, {}]


def write_marc(data: Path) -> None:
    (data / "marc").mkdir(parents=True)
    for language in ("en", *LANGUAGES[MARC].split()):
        for part in ("train", "test"):
            rows = [
                {"review_id": f"{language}_{i}", "stars": str(i % 5 + 1), "review_body": f"{language} {part} wort {i}"}
                for i in range(20)
            ]
            text = "".join(json.dumps(row | {"review_title": "x", "language": language}) + "\n" for row in rows)
            (data / "marc" / f"dataset_{language}_{part}.json").write_text(text, "utf-8")


def write_xnli(data: Path) -> None:
    languages = ("en", *LANGUAGES[XNLI].split())
    training, tests = data / "xnli/XNLI-MT-1.0/multinli", data / "xnli/XNLI-1.0"
    training.mkdir(parents=True)
    tests.mkdir(parents=True)
    classes = ("neutral", "entailment", "contradictory")
    rows = ["language\tgold_label\tsentence1_binary_parse\tsentence1\tsentence2\tpairID"]
    for x in languages:
        lines = [f"{x} eins {i}\t{x} zwei {i}\t{classes[i % 3]}" for i in range(12)]
        (training / f"multinli.train.{x}.tsv").write_text("\n".join(["premise\thypo\tlabel", *lines]) + "\n", "utf-8")
        gold = [classes[i % 3].replace("contradictory", "contradiction") for i in range(6)]
        rows += [f'{x}\t{gold[i]}\t( )\t{x} "drei {i}\t{x} vier {i}\t{i}' for i in range(6)]
    (tests / "xnli.test.tsv").write_text("\n".join(rows) + "\n", "utf-8")


def small(name: str) -> Resolved:
    """The recipe with a new encoder for its own, which are not here; it needs general text."""
    shape = "{ vocab_size = 80, hidden_size = 16, num_layers = 1, num_heads = 2, intermediate_size = 32 }"
    lines = packaged_recipes()[name].splitlines()
    lines = [f"new = {shape}" if line.startswith('path = "') else line for line in lines]
    text = "\n".join(line for line in lines if not line.startswith('model = "')) + "\n"
    Path("small.toml").write_text(text, "utf-8")
    tables = [t for t in load_recipe(name).config.tables]
    files = [tables[0].train, *(t.unlabelled[0] for t in tables[1:])]  # type: ignore[union-attr]
    keys = ["source", *(f"targets.{i}" for i in range(len(files) - 1))]
    general = [f'{key}.general=["{file}"]' for key, file in zip(keys, files, strict=True)]
    return load_recipe("small.toml", general)


@pytest.mark.parametrize("name", [MARC, XNLI])
def test_dry_run(name: str, data: Path) -> None:
    (write_marc if name == MARC else write_xnli)(data)
    found = {s.id: s for s in estimate(small(name), seeds=(0,), rate=1e9).stages}
    # Of 20 reviews 16 have other than three stars; 12 pairs: in batches of 16 one step an epoch.
    assert found["seed-0/co1a"].steps == (2 if name == MARC else 5)
    assert found["seed-0/co5b"].inputs["teacher"] == "seed-0/co4a"
    assert found["seed-0/self5b"].inputs["teacher"] == "seed-0/self4b"
    assert found["seed-0/self2b"].inputs["teacher"] == "seed-0/co1b"


def test_pairs_reach_the_encoder_as_two_segments(data: Path, tmp_path: Path) -> None:
    write_xnli(data)
    config = small(XNLI).config
    (tmp_path / "run").mkdir()
    context = make_context(config, RunDir(tmp_path / "run"), Progress())
    german = next(t for t in config.targets if t.language == "de")
    store = context.data.target_pool(german)
    assert len(store) == 12
    assert (np.asarray(store.item_labels) < 0).all()
    batch = pack([store.ids(0)], [store.segments(0)], items=[np.array([0])])  # type: ignore[list-item]
    ids, segments = batch.token_ids.tolist(), batch.segments.tolist()
    separator = ids[-1]
    first = ids.index(separator) + 1
    assert 2 < first < len(ids) - 1
    assert segments == [0] * first + [1] * (len(ids) - first)
    test = context.data.scored(german.test, "de")
    assert np.bincount(np.asarray(test.item_labels)).tolist() == [2, 2, 2]
