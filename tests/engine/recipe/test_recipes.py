"""The packaged recipes: all of them parse, and those of the paper hold the paper's numbers."""

import tomllib
from pathlib import Path
from typing import Any

import pytest

from xlt_engine import ConfigError
from xlt_engine.engine.lab.ablation.rows import ROWS
from xlt_engine.engine.lab.paper.printed import domain_of
from xlt_engine.engine.reading.read_file import read_file
from xlt_engine.engine.recipe.config import RunConfig, StageConfig
from xlt_engine.engine.recipe.config.files import recipe_files
from xlt_engine.engine.recipe.load import load_recipe, packaged_recipes
from xlt_engine.engine.runs.graph import make_plan

COTRAIN = ("marc-1.2pct", "xnli-1.2pct")
REAL = ("marc", "uner", "wikiann", "wikineural", "xed", "xed-methods", "xsid-intents", "xsid-slots")
NAMES = (*COTRAIN, "cls-paper", "conll-paper", "demo", *REAL)


@pytest.fixture(autouse=True)
def _data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XLT_DATA", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)


def recipe(name: str) -> RunConfig:
    return load_recipe(name).config


def rates(config: RunConfig, table: StageConfig) -> tuple[float, float, int, float, bool, int]:
    c = config.training_of(table)
    return c.lr, c.epochs, c.batch_size, c.warmup, c.freeze_embeddings, c.freeze_layers


def test_these_recipes_are_packaged() -> None:
    assert set(packaged_recipes()) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_recipe_parses_and_plans(name: str) -> None:
    config = load_recipe(name).config
    assert config.name == name
    plan = make_plan(config)
    assert {s.seed for s in plan} == set(config.seeds)
    trained = config.targets if config.selftrain.on else ()
    assert {s.pair for s in plan if s.kind == "soft"} == {t.language for t in trained}


def test_two_encoders_that_teach_each_other_also_teach_themselves() -> None:
    """Without both curves nobody can say what each has learned from the other (Figure 3 of Yu and Joty)."""
    pairs = [name for name in NAMES if recipe(name).cotrain.on and recipe(name).cotrain.model is not None]
    assert pairs == [*COTRAIN, "xed-methods"]
    for name in pairs:
        assert recipe(name).cotrain.modes == ("co", "self-a", "self-b")


@pytest.mark.parametrize("name", NAMES)
def test_recipe_names_no_absolute_path(name: str) -> None:
    def strings(value: object) -> list[str]:
        if isinstance(value, dict):
            return [s for v in value.values() for s in strings(v)]
        if isinstance(value, list):
            return [s for v in value for s in strings(v)]
        return [value] if isinstance(value, str) else []

    assert not [s for s in strings(tomllib.loads(packaged_recipes()[name])) if s.startswith(("/", "~"))]


@pytest.mark.parametrize("name", REAL)
def test_public_data_comes_from_xlt_data(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = recipe(name)
    files = [config.source.train, config.source.test]
    for target in config.targets:
        files += [*target.unlabelled, target.test]
    assert all(file is not None and file.is_relative_to(tmp_path / "data") for file in files)
    assert config.model.path == tmp_path / "assets" / "encoder"
    for target in config.targets:
        assert target.test not in target.unlabelled
    monkeypatch.delenv("XLT_DATA")
    with pytest.raises(ConfigError, match="XLT_DATA is not set"):
        load_recipe(name)


@pytest.mark.parametrize("name", REAL)
def test_rates_of_the_small_encoder_can_move_a_new_head(name: str) -> None:
    """The paper's 1e-6 belongs to thousands of steps of a large encoder (see docs/method.md)."""
    config = recipe(name)
    for table in [stage.training for stage in make_plan(config)]:
        assert table.lr >= 5e-5
        assert table.freeze_layers == 0
    assert config.max_length <= 128


@pytest.mark.parametrize(
    ("name", "task", "length", "stages", "soft", "hard", "cap", "targets"),
    [
        ("cls-paper", "classification", 256, "soft hard soft hard", (1e-6, 40, 30), (1e-6, 40, 30), 10_000, "de fr ja"),
        ("conll-paper", "ner", 128, "soft hard soft", (3e-5, 10, 32), (1e-6, 10, 32), 60_000, "de es nl"),
    ],
)
def test_paper_recipes_are_section_4_2(
    name: str, task: str, length: int, stages: str, soft: Any, hard: Any, cap: int, targets: str
) -> None:
    config = recipe(name)
    lr, _, *rest = rates(config, config.btf)
    assert (config.task, config.max_length, lr, *rest) == (task, length, 2e-5, 32, 0.1, True, 3)
    assert config.selftrain.sequence == tuple(stages.split())
    assert rates(config, config.selftrain.soft) == (*soft, 0.1, True, 3)
    assert rates(config, config.selftrain.hard) == (*hard, 0.1, True, 3)
    assert config.btf.cap == config.selftrain.cap == cap
    assert (config.source.language, [t.language for t in config.targets]) == ("en", targets.split())
    if task == "ner":
        assert config.selftrain.soft.positions == "first"
    else:
        stars = {s: config.reader.label_map[s] for s in "12345"}
        assert stars == {"1": "negative", "2": "negative", "3": "", "4": "positive", "5": "positive"}


def test_cls_paper_is_nine_cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three domains of Table 1, three targets each; nothing but paths tells the runs apart."""
    runs = {"books": recipe("cls-paper")}
    for domain in ("dvd", "music"):
        monkeypatch.setenv("DOMAIN", domain)
        runs[domain] = recipe("cls-paper")
    assert [domain_of(config) for config in runs.values()] == list(runs)
    names = [{t.language: t.test for t in config.targets} for config in runs.values()]
    assert len({path for tests in names for path in tests.values()}) == 9
    for name, config in runs.items():
        files = [config.source.train, config.source.test, *(t.unlabelled[0] for t in config.targets)]
        assert all(name in str(file.relative_to(tmp_path)) for file in files if file)
        assert [s.settings for s in make_plan(config)] == [s.settings for s in make_plan(runs["books"])]


REVIEWS = (
    '<?xml version="1.0" encoding="UTF-8"?>\n<items>\n<item><rating>1.0</rating><text>schlecht für alle</text></item>\n'
    "<item><rating>3.0</rating><text>nun ja</text></item>\n<item><text>良い</text><rating>5.0</rating></item>\n"
    "</items>\n"
)


def test_cls_paper_reads_the_published_layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for language in ("de", "en", "fr", "jp"):
        for domain in ("books", "dvd", "music"):
            folder = tmp_path / "cls" / language / domain
            folder.mkdir(parents=True)
            for name in ("train", "test", "unlabeled"):
                (folder / f"{name}.review").write_text(REVIEWS, "utf-8")
    for language in ("de", "fr", "ja"):
        (tmp_path / "cls" / f"wiki.{language}.control.txt").write_text("Ein Satz für sich.\nNoch einer.\n", "utf-8")
    for domain in ("books", "dvd", "music"):
        monkeypatch.setenv("DOMAIN", domain)
        config = load_recipe("cls-paper", ["arms.control=true"]).config
        for file in recipe_files(config):
            found = read_file(config, file.path, unlabelled=not file.labelled, language=file.language)
            if file.labelled:
                assert [(e.text, e.labels) for e in found] == [("schlecht für alle", "negative"), ("良い", "positive")]
            elif file.role == "control" and file.language != "en":
                assert [e.text for e in found] == ["Ein Satz für sich.", "Noch einer."]
            else:
                assert [e.labels for e in found] == [None] * (2 if file.language == "en" else 3)


def test_conll_paper_reads_the_published_encodings(tmp_path: Path) -> None:
    (tmp_path / "conll").mkdir()
    config = load_recipe("conll-paper", ["arms.control=true"]).config
    for file in recipe_files(config):
        tagged = file.path.suffix != ".txt"
        text = "Malmö NNP I-NP I-LOC\n" if tagged else "Malmö liegt am Öresund.\n"
        file.path.write_bytes(text.encode("latin-1" if tagged else "utf-8"))
    for file in recipe_files(config):
        (example,) = read_file(config, file.path, unlabelled=not file.labelled, language=file.language)
        assert example.words[0] == "Malmö", file


@pytest.mark.parametrize("name", ["cls-paper", "conll-paper"])
def test_mbert_wiki_changes_the_text_of_the_target_alone(name: str) -> None:
    config = recipe(name)
    assert config.source.control == (config.source.train,)
    for target in config.targets:
        assert target.control
        assert not set(target.control) & set(target.unlabelled)
    assert ROWS["mbert-wiki"].obstacle(config) == ""
    assert not [file for file in recipe_files(config) if file.role == "control"], (
        "a run of the recipe needs none of them"
    )
    roles = [file.role for file in recipe_files(load_recipe(name, ["arms.control=true"]).config)]
    assert roles.count("control") == 4


@pytest.mark.parametrize("name", ["cls-paper", "conll-paper"])
def test_paper_recipes_read_the_paper_as_documented(name: str) -> None:
    config = recipe(name)
    table = config.selftrain
    assert (table.hard.start, table.hard.mix) == ("student", "natural")
    assert (table.alpha.rule, table.alpha.data) == ("second-difference", "all")
    assert (table.voters, table.restore, table.source_filter, table.abandoned) == (3, "base", "correct", "round")
    assert (config.btf.mask_rate, config.btf.balance, config.training.clip) == (0.15, "up", 1.0)
    assert config.finetune.head == "linear"
    assert config.arms.baseline
    assert len(config.seeds) >= 3


def test_stars_of_target_reviews_decide_nothing(tmp_path: Path) -> None:
    """Three-star reviews leave the labelled source, but not the unlabelled text of the target."""
    config = recipe("marc")
    rows = "label\ttext\n1\tbad\n3\tso so\n5\tgood\n"
    target = config.targets[0].unlabelled[0]
    for file in (config.source.train, target):
        file.parent.mkdir(parents=True)
        file.write_text(rows, "utf-8")
    assert [e.labels for e in read_file(config, config.source.train)] == ["negative", "positive"]
    assert [e.text for e in read_file(config, config.source.train, unlabelled=True)] == ["bad", "good"]
    unlabelled = read_file(config, target, unlabelled=True)
    assert [(e.text, e.labels) for e in unlabelled] == [("bad", None), ("so so", None), ("good", None)]
